//! A server that runs on this machine, as its process shows it (proc(5), Linux).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::args;
use super::command::Command;
use crate::loops::process::VARIABLE;

/// The name by which servers are found.
const NAME: &str = "oneloop";

/// A process, and how it was started.
pub struct ServerProcess {
    pub pid: u32,
    /// The first word of its command line.
    name: PathBuf,
    pub arguments: Vec<OsString>,
    pub variables: Vec<(OsString, OsString)>,
    /// Its working directory: file names in its settings are relative to it.
    pub folder: PathBuf,
}

impl ServerProcess {
    /// Reads the process with this number.
    ///
    /// # Errors
    /// There is none, or it is not for this user to see; or it is no oneloop that serves.
    pub fn read(pid: u32) -> Result<ServerProcess, String> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read(&path).map_err(|error| format!("{path}: {error}"))
        };
        let (line, variables) = (words(&read("cmdline")?), words(&read("environ")?));
        let mut line = line.into_iter();
        let name = line.next().unwrap_or_default().into();
        let arguments: Vec<OsString> = line.collect();
        if !serves(&arguments) {
            return Err(format!("process {pid} is no oneloop that serves"));
        }
        let variables = variables.iter().filter_map(|pair| {
            let pair = pair.as_bytes();
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let [name, value] = [&pair[..at], &pair[at + 1..]].map(OsStr::from_bytes);
            Some((name.to_owned(), value.to_owned()))
        });
        let (variables, folder) = (variables.collect(), format!("/proc/{pid}/cwd").into());
        Ok(ServerProcess { pid, name, arguments, variables, folder })
    }

    /// Finds the only server of this machine that this user may see. Processes that a server started for its loops are none.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn find() -> Result<ServerProcess, String> {
        let entries = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let pids = names.filter_map(|name| name.parse().ok());
        let others = pids.filter(|pid| *pid != std::process::id());
        let is_server = |server: &ServerProcess| {
            server.name.file_name() == Some(OsStr::new(NAME))
                && server.variables.iter().all(|(name, _)| name != VARIABLE)
        };
        let servers = others.filter_map(|pid| ServerProcess::read(pid).ok()).filter(is_server);
        let mut servers: Vec<ServerProcess> = servers.collect();
        match &servers[..] {
            [] => Err(format!(
                "no server is found whose process is named {NAME} and is this user's: name it by --pid PID"
            )),
            [_] => Ok(servers.remove(0)),
            _ => {
                let pids: Vec<String> = servers.iter().map(|one| one.pid.to_string()).collect();
                Err(format!("several servers run: name one by --pid: {}", pids.join(", ")))
            }
        }
    }

    /// Returns the file that it starts when it is upgraded.
    ///
    /// # Errors
    /// It is not for this user to see.
    pub fn program(&self) -> Result<PathBuf, String> {
        let resolved = |link: &Path| {
            fs::read_link(link).map_err(|error| format!("{}: {error}", link.display()))
        };
        if self.name.components().count() > 1 {
            return match self.name.is_absolute() {
                true => Ok(self.name.clone()),
                false => Ok(resolved(&self.folder)?.join(&self.name)),
            };
        }
        let file = resolved(Path::new(&format!("/proc/{}/exe", self.pid)))?;
        // Linux says so of a file that was replaced.
        let bytes = file.as_os_str().as_bytes();
        let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
        Ok(OsStr::from_bytes(bytes).into())
    }
}

/// Returns whether a program that is started with these arguments serves.
fn serves(arguments: &[OsString]) -> bool {
    let line = args::parse(arguments.iter().cloned());
    matches!(line.command, Some(Command::Serve { check: false })) && line.given.problems.is_empty()
}

/// Splits words, each of which ends with a zero byte.
fn words(bytes: &[u8]) -> Vec<OsString> {
    let words = bytes.strip_suffix(&[0]).map(|bytes| bytes.split(|byte| *byte == 0));
    words.into_iter().flatten().map(|word| OsStr::from_bytes(word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_that_were_given() {
        assert_eq!(words(b"a\0\0b c\0"), ["a", "", "b c"]);
        assert_eq!(words(b""), [""; 0]);
    }

    #[test]
    fn a_command_is_no_server() {
        let serves = |words: &[&str]| serves(&Vec::from_iter(words.iter().map(OsString::from)));
        assert!(serves(&[]) && serves(&["serve", "--listen", "127.0.0.1:1"]));
        for words in [&["--check"][..], &["upgrade"], &["top", "--once"], &["--nonsense"], &["x"]] {
            assert!(!serves(words), "{words:?}");
        }
    }
}
