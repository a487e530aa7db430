//! The upgrade of a running server: the new binary is tried, put into the place of the old one, and announced by a signal.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::command::UpgradeOptions;
use super::server_process::ServerProcess;
use crate::engine::reactor::GOES_ON;
use crate::loops::process::VARIABLE;

/// The time that the new binary may take to say its version, or to read the settings.
const TRIAL: Duration = Duration::from_secs(10);

/// The time in which the server must have begun, and that in which it must be over: more than it takes itself to give up.
const BEGIN: Duration = Duration::from_secs(5);
const END: Duration = Duration::from_secs(60);

/// The time for which the new process must live on alone.
const PROOF: Duration = Duration::from_millis(300);

/// The time in which the old process writes down why it goes on.
const LAST_WORDS: Duration = Duration::from_secs(2);

const WRITABLE_BY_ALL: u32 = 0o002;
/// In such a folder, each may remove files of their own alone.
const STICKY: u32 = 0o1000;

const PAUSE: Duration = Duration::from_millis(1);

/// The end of the old server's log that is read.
const LOG_BYTES_MAX: u64 = 64 * 1024;

/// The reason why the old process goes on.
#[derive(Debug)]
pub enum UpgradeFailure {
    /// Nothing was tried: the server, or the new program, is not as it must be.
    Refused(String),
    /// It was tried.
    Failed(String),
}
use UpgradeFailure::{Failed, Refused};

/// Upgrades a server. Returns a sentence once the new process serves. `clock`: the time since any moment.
///
/// # Errors
/// The old process goes on, with its old file.
pub fn upgrade(
    options: &UpgradeOptions,
    clock: &dyn Fn() -> Duration,
) -> Result<String, UpgradeFailure> {
    let found = options.pid.map_or_else(ServerProcess::find, ServerProcess::read);
    let server = found.map_err(Refused)?;
    let place = server.program().and_then(|place| trusted(&place)).map_err(Refused)?;
    let _turn = lock(&place).map_err(Refused)?;
    let Some(binary) = options.binary.as_deref().filter(|binary| !is_same(binary, &place)) else {
        let version = trial(&server, &place, clock)?;
        return exchange(&server, clock).map(|pid| told(&server, pid, &version));
    };
    let replacement = Replacement::copy(binary, &place).map_err(Refused)?;
    let version = trial(&server, &replacement.new, clock)?;
    replacement.put().map_err(Refused)?;
    let exchanged = exchange(&server, clock);
    match &exchanged {
        Ok(_) => replacement.keep(),
        Err(_) => replacement.undo().map_err(Failed)?,
    }
    exchanged.map(|pid| told(&server, pid, &version))
}

/// Returns the path without links to folders, if nobody but root and this user can put anything there: any user may run a process that
/// names a file of its own, and what lies there is started by this one.
fn trusted(place: &Path) -> Result<PathBuf, String> {
    let explain = |error: io::Error| format!("{}: {error}", place.display());
    let name = place.file_name().ok_or_else(|| format!("{}: no file", place.display()))?;
    let folder = place.parent().unwrap_or(Path::new("/")).canonicalize().map_err(explain)?;
    let file = folder.join(name);
    for path in [&*file].into_iter().chain(folder.ancestors()) {
        let found = path.metadata().map_err(explain)?;
        if ![0, geteuid().as_raw()].contains(&found.uid()) {
            return Err(format!(
                "{} belongs to user {}: be that user, or give it to root",
                path.display(),
                found.uid()
            ));
        }
        if found.mode() & WRITABLE_BY_ALL != 0 && found.mode() & STICKY == 0 {
            return Err(format!("anybody may write to {}: chmod o-w", path.display()));
        }
    }
    Ok(file)
}

/// Locks the folder of the program until the returned file is closed: two upgrades at once would take each other's files, and each the
/// other's process for its own. The program itself is another file after a rename.
fn lock(place: &Path) -> Result<File, String> {
    let path = place.parent().unwrap_or(Path::new("/"));
    let folder = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(folder),
        Err(Errno::WOULDBLOCK) => Err(format!(
            "another upgrade of a program in {} is under way: try again when it has ended",
            path.display()
        )),
        Err(error) => Err(format!("{} cannot be locked: {error}", path.display())),
    }
}

fn told(server: &ServerProcess, pid: u32, version: &str) -> String {
    format!("process {pid} has taken over from {}: {version}", server.pid)
}

fn is_same(binary: &Path, place: &Path) -> bool {
    matches!((fs::canonicalize(binary), fs::canonicalize(place)), (Ok(a), Ok(b)) if a == b)
}

/// Runs a program as it would serve, without serving. Returns its version.
fn trial(
    server: &ServerProcess,
    program: &Path,
    clock: &dyn Fn() -> Duration,
) -> Result<String, UpgradeFailure> {
    let run = |arguments: &mut dyn FnMut(&mut Command)| {
        let mut command = Command::new(program);
        // Another user's variables could have this one load a library.
        let settings = server.variables.iter().filter(|(name, _)| is_setting(name)).cloned();
        command.env_clear().envs(settings).current_dir(&server.folder);
        arguments(&mut command);
        let output = finished(command, clock);
        output.map_err(|why| Refused(format!("{}: {why}", program.display())))
    };
    let output = run(&mut |command| _ = command.arg("--version"))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !version.starts_with("oneloop ") || version.lines().count() > 1 {
        return Err(Refused(format!("{} is no oneloop", program.display())));
    }
    let output = run(&mut |command| _ = command.args(&server.arguments).arg("--check"))?;
    match output.status.success() {
        true => Ok(version),
        false => Err(Refused(format!(
            "{version} refuses the settings of process {}:\n{}",
            server.pid,
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// Returns whether a variable may say something about settings.
fn is_setting(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"ONELOOP_") || name.starts_with(b"SSL_CERT_")
}

/// Runs a command to its end, which comes soon.
fn finished(mut command: Command, clock: &dyn Fn() -> Duration) -> Result<Output, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let start = clock();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if clock() - start > TRIAL {
            let _ = child.kill();
            let _ = child.wait();
            return Err("it does not end".to_owned());
        }
        sleep(PAUSE);
    }
    child.wait_with_output().map_err(|error| error.to_string())
}

/// The new file beside the old one. Dropped before it is put there, it goes.
struct Replacement {
    place: PathBuf,
    new: PathBuf,
    old: PathBuf,
}

impl Replacement {
    /// Copies the new program beside the old one, on the same file system.
    fn copy(binary: &Path, place: &Path) -> Result<Replacement, String> {
        let beside = |suffix: &str| {
            let mut name = place.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let it = Replacement { place: place.into(), new: beside(".new"), old: beside(".old") };
        let copied = fs::copy(binary, &it.new);
        copied.map_err(|error| {
            format!("{} cannot be copied to {}: {error}", binary.display(), it.new.display())
        })?;
        let as_old = fs::metadata(place)
            .and_then(|old| fs::set_permissions(&it.new, old.permissions()))
            .and_then(|()| File::open(&it.new)?.sync_all());
        as_old.map_err(|error| format!("{}: {error}", it.new.display()))?;
        Ok(it)
    }

    /// Puts it into the place of the old one, which stays under another name.
    fn put(&self) -> Result<(), String> {
        let _ = fs::remove_file(&self.old);
        let put =
            fs::hard_link(&self.place, &self.old).and_then(|()| fs::rename(&self.new, &self.place));
        put.map_err(|error| {
            self.keep();
            format!("{} cannot be replaced: {error}", self.place.display())
        })
    }

    /// Puts the old one back.
    fn undo(&self) -> Result<(), String> {
        fs::rename(&self.old, &self.place).map_err(|error| {
            format!("{} stays, as {}: {error}", self.place.display(), self.old.display())
        })
    }

    fn keep(&self) {
        let _ = fs::remove_file(&self.old);
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.new);
    }
}

/// Sends the signal, and waits. Returns the process that has taken over.
fn exchange(server: &ServerProcess, clock: &dyn Fn() -> Duration) -> Result<u32, UpgradeFailure> {
    let log = LogEnd::find(server);
    let before = children(server.pid);
    let pid = i32::try_from(server.pid).ok().and_then(Pid::from_raw);
    let pid = pid.expect("it was read as a process");
    kill_process(pid, Signal::USR2)
        .map_err(|error| Refused(format!("process {}: {error}", server.pid)))?;
    let (start, mut new) = (clock(), None);
    let goes_on = |why: &str| {
        Err(Failed(format!(
            "process {} goes on: {why}{}",
            server.pid,
            log.explanation(server, clock)
        )))
    };
    loop {
        let passed = clock() - start;
        if is_gone(server.pid) {
            break;
        }
        let now = children(server.pid);
        // One for a loop looks like its parent for a moment.
        new = new.filter(|pid| !is_for_loop(*pid));
        let is_new = |pid: &&u32| !before.contains(pid) && !is_for_loop(**pid);
        new = new.or(now.iter().find(is_new).copied());
        match new {
            None if passed > BEGIN => return goes_on("it has started no other one"),
            Some(pid) if is_gone(pid) && !is_gone(server.pid) => {
                return goes_on("the new process has ended");
            }
            _ if passed > END => return goes_on("the new process does not take over"),
            _ => sleep(PAUSE),
        }
    }
    let both = format!("process {} has ended, and no other one serves", server.pid);
    let Some(new) = new else { return Err(Failed(both)) };
    sleep(PROOF);
    if is_gone(new) { Err(Failed(both)) } else { Ok(new) }
}

/// The processes that a process has started; none if it has ended.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Returns whether a process serves a loop of its parent.
fn is_for_loop(pid: u32) -> bool {
    let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut names = variables.split(|byte| *byte == 0);
    let is_it = |pair: &[u8]| {
        pair.strip_prefix(VARIABLE.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
    };
    names.any(is_it)
}

/// Returns whether a process has ended, even if nobody has asked for its status yet.
fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything.
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    matches!(state, None | Some("Z" | "X"))
}

/// The log of a server, from now on, if it is a file.
struct LogEnd(Option<(File, u64)>);

impl LogEnd {
    fn find(server: &ServerProcess) -> LogEnd {
        let path = format!("/proc/{}/fd/2", server.pid);
        let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file);
        LogEnd(metadata.and_then(|metadata| Some((File::open(&path).ok()?, metadata.len()))))
    }

    /// Says why there was no upgrade, or where that stands.
    fn explanation(&self, server: &ServerProcess, clock: &dyn Fn() -> Duration) -> String {
        let Some((mut file, from)) = self.0.as_ref().map(|(file, from)| (file, *from)) else {
            let pid = server.pid;
            return match server.variables.iter().any(|(name, _)| name == "JOURNAL_STREAM") {
                true => format!("; its log says why: journalctl _PID={pid} -n 20"),
                false => "; its log says why".to_owned(),
            };
        };
        let mut read = || {
            let mut bytes = Vec::new();
            let _ = file
                .seek(SeekFrom::Start(from))
                .and_then(|_| file.take(LOG_BYTES_MAX).read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).trim().to_owned()
        };
        let start = clock();
        let mut text = read();
        while !text.contains(GOES_ON) && clock() - start < LAST_WORDS {
            sleep(PAUSE);
            text = read();
        }
        // Other users' words do not command this terminal.
        format!("; its log:\n{}", text.replace(|char: char| char.is_control() && char != '\n', "?"))
    }
}
