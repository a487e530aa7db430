//! The invocation of the program, from command line, environment and file, or all problems.

use std::ffi::OsString;

use super::args;
use super::command::{Artifact, Command};
use crate::config::{self, Config, Problems, Task};

/// A command, and the settings for it.
pub struct Invocation {
    pub command: Command,
    /// Not checked, or the default, for [`Command::Help`], [`Command::Version`], [`Command::Print`] and [`Command::Upgrade`].
    pub config: Config,
    /// A line for each setting that was given by its former name.
    pub warnings: Vec<String>,
}

/// Reads the command and all settings: the file that `--config` or `ONELOOP_CONFIG` names, then the `ONELOOP_*` variables,
/// then the flags; the last one wins. `args` come without the program's name, `vars` is the environment.
pub fn read(
    args: impl IntoIterator<Item = OsString>,
    vars: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, Problems> {
    read_line(args::parse(args), vars)
}

/// Reads a command that takes the settings of a running server: `server` is its command line without the program's name,
/// and `vars` its environment. The command's own flags stand above both.
///
/// # Errors
/// The errors of [`read`], or the other command line does not serve.
pub fn read_beside(
    args: impl IntoIterator<Item = OsString>,
    server: impl IntoIterator<Item = OsString>,
    vars: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, Problems> {
    let (mut line, mut server) = (args::parse(args), args::parse(server));
    server.given.values.append(&mut line.given.values);
    line.given.values = server.given.values;
    line.given.file = line.given.file.or(server.given.file);
    read_line(line, vars)
}

fn read_line(
    args::Line { command, given, .. }: args::Line,
    vars: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, Problems> {
    let task = match &command {
        Some(Command::Help | Command::Version | Command::Print(_) | Command::Upgrade(_)) => {
            if !given.problems.is_empty() {
                return Err(Problems(given.problems));
            }
            None
        }
        Some(Command::Serve { .. } | Command::Doctor(_)) => Some(Task::Serve),
        Some(Command::Publish(_) | Command::Forward(_)) => Some(Task::Publish),
        Some(Command::Token { .. }) => Some(Task::Sign),
        _ => Some(Task::Check),
    };
    let (config, warnings) = match (task, &command) {
        (Some(task), _) => config::read(given, vars, task)?,
        (
            None,
            Some(Command::Print(Artifact::Service { config } | Artifact::Socket { config })),
        ) => (config::read_without_checks(config.as_deref(), vars), Vec::new()),
        (None, _) => Default::default(),
    };
    let command = command.expect("a command line without a command is a problem");
    Ok(Invocation { command, config, warnings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, table};
    use crate::engine::bounds::Bounds;
    use crate::engine::origin::{ListedOrigin, Origins};
    use crate::engine::random::Random;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    /// A file that goes away with the test.
    struct TempFile(std::path::PathBuf);

    impl TempFile {
        fn new(name: &str, contents: impl AsRef<[u8]>) -> TempFile {
            let name = format!("oneloop-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, contents).expect("the temporary directory is writable");
            TempFile(path)
        }

        fn name(&self) -> &str {
            self.0.to_str().expect("a temporary name is UTF-8")
        }
    }

    impl Drop for TempFile {
        fn drop(&mut self) {
            // A file that is left behind harms nobody.
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn read_all(args: &[&str], vars: &[(&str, &str)]) -> Result<Invocation, Problems> {
        let vars = vars.iter().map(|(name, value)| (name.into(), value.into()));
        read(args.iter().map(OsString::from), vars)
    }

    fn config(args: &[&str], vars: &[(&str, &str)]) -> Config {
        read_all(args, vars)
            .unwrap_or_else(|problems| panic!("{args:?} {vars:?}: {problems}"))
            .config
    }

    fn problems(args: &[&str], vars: &[(&str, &str)]) -> Vec<String> {
        read_all(args, vars).err().map_or(Vec::new(), |problems| problems.0)
    }

    #[test]
    fn a_flag_beats_a_variable_beats_the_file() {
        let file =
            TempFile::new("order.toml", "head_seconds = 1\nauth_seconds = 1\nfragments_max = 1");
        let vars = [("ONELOOP_CONFIG", file.name()), ("ONELOOP_AUTH_SECONDS", "2"), ("PATH", "x")];
        let mut all = vars.to_vec();
        all.push(("ONELOOP_FRAGMENTS_MAX", "2"));
        let bounds = config(&["--fragments-max=3"], &all).bounds;
        let wanted =
            Bounds { head_seconds: 1, auth_seconds: 2, fragments_max: 3, ..Bounds::default() };
        assert_eq!(bounds, wanted);
        // The last of two flags wins, lists included; the file that a flag names beats the variable's.
        let topics = &config(&["--topics", "a,b", "--topics", "c"], &[]).routes[0].topics;
        assert_eq!(topics, &["c"]);
        let other = TempFile::new("other.toml", "head_seconds = 9");
        let bounds = config(&["serve", "--config", other.name()], &vars).bounds;
        assert_eq!((bounds.head_seconds, bounds.auth_seconds, bounds.fragments_max), (9, 2, 1024));
    }

    #[test]
    fn a_whole_file_is_read() {
        let secret = TempFile::new("secret", format!("{SECRET}\r\n"));
        let file = TempFile::new(
            "whole.toml",
            format!(
                "listen = '0.0.0.0:80'\nredis = 'unix:///run/redis.sock'\nprefix = ''\n\
                 message_bytes_max = '1MiB'\njwt.secret_file = {:?}\njwt.algorithms = ['HS512']\n\
                 [[route]]\npath = '/'\norigins = ['*']\nsingle_session = true\n\
                 [[route]]\npath = '/raw'\nformat = 'raw'\norigins = ['HTTPS://A.b:443']\n",
                secret.name()
            ),
        );
        let config = config(&["--config", file.name()], &[]);
        assert_eq!(config.listen[0].to_string(), "0.0.0.0:80");
        assert_eq!(config.redis.as_deref(), Some("unix:///run/redis.sock"));
        assert_eq!((config.publishers, config.patterns), (None, vec!["*".to_owned()]));
        assert_eq!(config.bounds.message_bytes_max, 1 << 20);
        let key = config.jwt.secret.expect("the file's");
        assert_eq!(key.as_bytes(), SECRET.as_bytes());
        let [root, raw] = &config.routes[..] else { panic!("two routes") };
        assert_eq!((root.path.as_str(), &root.origins), ("/", &Origins::Any));
        assert!(root.single_session && root.topics.is_empty());
        assert_eq!((raw.path.as_str(), raw.format), ("/raw", Format::Raw));
        assert_eq!(raw.origins, Origins::Listed(vec![ListedOrigin::One("https://a.b".to_owned())]));
    }

    #[test]
    fn defaults_follow_what_else_is_set() {
        let secret = [("ONELOOP_JWT_SECRET", SECRET)];
        assert_eq!(config(&[], &[]).routes[0].topics, ["news"]);
        assert!(config(&[], &secret).routes[0].topics.is_empty());
        assert_eq!(config(&["--topics", "a"], &secret).routes[0].topics, ["a"]);
        assert!(config(&["--topics="], &[]).routes[0].topics.is_empty());
        assert_eq!(config(&["--prefix", "p:"], &[]).patterns, ["p:*"]);
        assert_eq!(config(&["--prefix", "p:", "--patterns", "q,r"], &[]).patterns, ["q", "r"]);
        assert!(config(&["--redis", "redis://localhost"], &[]).publishers.is_none());
        let both = ["--redis", "redis://localhost", "--publishers", "127.0.0.1:7000"];
        assert!(config(&both, &[]).publishers.is_some_and(|address| address.port() == 7000));
        let listen = config(&["--listen", "[::ffff:127.0.0.1]:1"], &[]).listen;
        assert!(listen[0].socket_addr().is_some_and(|address| address.is_ipv6()));
        let orchestrator = [("ONELOOP_SERVICE_HOST", "10.0.0.1"), ("ONELOOP_PORT", "tcp://x:1")];
        let nothing = format!("{:?}", config(&[], &orchestrator));
        assert_eq!(nothing, format!("{:?}", Config::default()));
    }

    #[test]
    fn each_wrong_flag_or_variable_gets_one_message_that_helps() {
        let short = TempFile::new("short", "hunter2-hunter2\n");
        let short = short.name();
        type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
        #[rustfmt::skip]
        let table: &[Case] = &[
            (&[], &[("ONELOOP_LISEN", "x")], "unknown variable ONELOOP_LISEN; did you mean ONELOOP_LISTEN?"),
            (&["--listen", "localhost:1"], &[], r#"listen (--listen): "localhost:1" is not an IP address with a port: write 127.0.0.1:1; allowed: list of at most 64 of IP:PORT, tls://IP:PORT and unix:/PATH; not loopback: only with a key"#),
            (&[], &[("ONELOOP_HEAD_SECONDS", "0")], r#"head_seconds (ONELOOP_HEAD_SECONDS): "0" is out of bounds; allowed: 1 to 300"#),
            (&[], &[("ONELOOP_JWT_SECRET", "hunter2")], "has 7 bytes and needs at least 32; make one with: openssl rand -base64 48"),
            (&["--jwt-secret-file", short], &[], "jwt.secret_file (--jwt-secret-file): the secret has 15 bytes"),
            (&["--jwt-secret-file", "/hunter2"], &[], "jwt.secret_file (--jwt-secret-file): cannot read the file: "),
            (&["--jwt-key-file", "/nowhere"], &[], r#"jwt.key_file (--jwt-key-file) "/nowhere": cannot read the file: "#),
            (&["--jwt-secret", "hunter2"], &[], "jwt.secret (--jwt-secret): a secret is not given here, where others can read it; put it into the variable ONELOOP_JWT_SECRET, or name its file with jwt.secret_file"),
            (&["--config", "/nowhere.toml"], &[], "/nowhere.toml (--config): cannot read the file: "),
            (&[], &[("ONELOOP_CONFIG", "/nowhere.toml")], "/nowhere.toml (ONELOOP_CONFIG): cannot"),
        ];
        for (args, vars, wanted) in table {
            let found = problems(args, vars);
            assert_eq!(found.len(), 1, "{args:?} {vars:?}: {found:?}");
            assert!(found[0].contains(wanted), "{args:?}: {}", found[0]);
            assert!(!found[0].contains("hunter2"), "a secret in: {}", found[0]);
        }
    }

    #[test]
    fn help_and_version_come_before_any_problem() {
        let help = read_all(&["--lisen", "x", "-h"], &[("ONELOOP_X", "")]).map(|i| i.command);
        assert!(matches!(help, Ok(Command::Help)));
        let version = read_all(&["token", "-V"], &[]).map(|i| i.command);
        assert!(matches!(version, Ok(Command::Version)));
    }

    #[test]
    fn a_token_can_be_made_where_the_server_could_not_run() {
        let args = ["token", "--sub", "42", "--topics", "a", "--listen", "0.0.0.0:1"];
        let vars = [("ONELOOP_JWT_SECRET", SECRET), ("ONELOOP_PUBLISHERS", "0.0.0.0:2")];
        let more = ["--publishers-password-file", "/nowhere"];
        let config = config(&[&args[..], &more].concat(), &vars);
        assert!(config.routes[0].topics.is_empty(), "--topics are the token's");
        assert_eq!(problems(&more, &vars).len(), 1);
        let without = problems(&["token", "--sub", "42"], &[]);
        assert!(without[0].contains("token signs with the server's secret"), "{without:?}");
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let file = TempFile::new("bad.toml", "head_seconds = 0\nlisten = '0.0.0.0:1'\nhed = 1\n");
        let args = ["--config", file.name(), "--lisen", "x", "--accepts-per-turn", "0"];
        let found = problems(&args, &[("ONELOOP_ADMIN", "x"), ("ONELOOP_X", "y")]);
        let wanted = ["bad.toml:1", "bad.toml:3", "(ONELOOP_ADMIN)", "unknown variable ONELOOP_X"];
        let also = ["unknown flag --lisen", "(--accepts-per-turn)", "no key to check tokens with"];
        assert_eq!(found.len(), wanted.len() + also.len(), "{found:?}");
        for (message, part) in found.iter().zip(wanted.iter().chain(&also)) {
            assert!(message.contains(part), "{part}: {message}");
        }
        let shown = Problems(found).to_string();
        assert_eq!(shown.lines().count(), 7, "one line each: {shown}");
        // A file that is no TOML hides what it says: no message may accuse its absence.
        let file = TempFile::new("broken.toml", "jwt.secret_file = \nhead_seconds = 0");
        let args = ["--config", file.name(), "--listen", "0.0.0.0:1", "--log", "x"];
        let found = problems(&args, &[]);
        assert!(found.len() == 2 && found[0].contains("broken.toml:1: not TOML"), "{found:?}");
    }

    #[test]
    fn a_secret_may_be_any_bytes_but_nothing_else_may() {
        use std::os::unix::ffi::OsStringExt;
        let bytes = OsString::from_vec(vec![0xff; 40]);
        let with = |name: &str| read([], [(name.into(), bytes.clone())]).map(|i| i.config);
        let config = with("ONELOOP_JWT_SECRET").expect("40 bytes are enough");
        assert_eq!(config.jwt.secret.expect("set").as_bytes(), [0xff; 40]);
        let refused = with("ONELOOP_LISTEN").expect_err("an address is text");
        assert!(refused.0[0].contains("text that is not UTF-8 is not text"), "{refused}");
    }

    #[test]
    fn no_command_line_or_environment_panics() {
        let flags: Vec<String> = table::all().map(|setting| setting.flag()).collect();
        let words = ["token", "--sub", "--ttl", "-", "--", "-h=x", "=", "", "off", "1", "a,b", "ü"];
        for seed in 1..1000_u64 {
            let mut random = Random::new(seed);
            let mut word = || match random.below(4) {
                0 => words[random.below(words.len())].to_owned(),
                1 => format!(
                    "{}={}",
                    flags[random.below(flags.len())],
                    words[random.below(words.len())]
                ),
                2 => flags[random.below(flags.len())].replace("-file", ""),
                _ => (0..random.below(6)).map(|_| char::from(random.below(128) as u8)).collect(),
            };
            let args: Vec<OsString> = (0..seed % 6).map(|_| word().into()).collect();
            let name = format!("ONELOOP_{}", word().replace('-', "_").to_uppercase());
            let vars = [(name.into(), word().into())];
            println!("seed {seed}: {args:?} {vars:?}"); // Shown when the test fails.
            if let Err(problems) = read(args, vars) {
                assert!(!problems.0.is_empty());
                assert!(!problems.to_string().contains('\u{1b}'), "{problems}");
                assert_eq!(problems.to_string().lines().count(), problems.0.len());
            }
        }
    }
}
