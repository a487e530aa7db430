//! The command line: which command, and which settings it gives.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use super::command::{
    Artifact, COMMANDS, Command, CommandRow, ForwardOptions, ProbeOptions, PublishOptions, Shell,
    SubscribeOptions, UpgradeOptions, Verb, listed,
};
use crate::config::value::{Value, is_truth, parse_duration, quote};
use crate::config::{FlagValues, table};
use crate::manual::CHAPTERS;
use crate::suggestion::suggestion;

/// The longest life of a token, ten years: a longer one is a slip of the unit.
const TTL_SECONDS_MAX: u64 = 3650 * 86_400;
const SUB_BYTES_MAX: usize = 255;

/// The command line, read but not yet applied to anything.
#[derive(Default)]
pub(super) struct Line {
    /// `None` if it is unknown; then there is a problem.
    pub(super) command: Option<Command>,
    pub(super) given: FlagValues,
    /// Flags of the command's own row; of several the last one counts.
    flags: Vec<(&'static str, Value)>,
    words: Vec<OsString>,
}

/// Reads a text that goes into a request, where a line break would begin another line of it.
fn request_line(value: &Value) -> Result<String, String> {
    match value.text()? {
        text if text.contains(char::is_control) => Err("a control character is in it".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// Reads a number from 1 to `max`.
fn whole_number(value: &Value, max: u64) -> Result<u64, String> {
    match u64::try_from(value.number(false)?) {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => Err(value.is_not("a whole number of at least 1")),
    }
}

fn pid(value: &Value) -> Result<u32, String> {
    whole_number(value, i32::MAX as u64).map(|number| number as u32)
}

fn seconds(value: &Value) -> Result<u64, String> {
    match value.text().ok().and_then(parse_duration) {
        Some(seconds) if (1..=TTL_SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(value.is_not("a time like 90s, 15m, 1h or 30d, of at most 3650d")),
    }
}

/// Reads the user of `--sub`.
fn user(value: &Value) -> Result<String, String> {
    let text = value.text()?;
    match (1..=SUB_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err(value.is_not("1 to 255 bytes without control characters")),
    }
}

/// Reads the arguments without the program's name. The command is the first of them or left out.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Line {
    let mut line = Line::default();
    let mut args = args.into_iter().peekable();
    let named = args.peek().and_then(|first| first.to_str());
    if named == Some("version") {
        return line.only(Command::Version);
    }
    let found = named.and_then(|name| COMMANDS.iter().find(|row| row.name == name));
    if found.is_some() {
        args.next();
    }
    let row = found.unwrap_or(&COMMANDS[0]);
    let mut parser = Parser::from_args(args);
    loop {
        match parser.next() {
            Ok(None) => break,
            Ok(Some(Arg::Short('h') | Arg::Long("help"))) => return line.only(Command::Help),
            Ok(Some(Arg::Short('V') | Arg::Long("version"))) => return line.only(Command::Version),
            Ok(Some(Arg::Value(word))) => line.words.push(word),
            Ok(Some(Arg::Long(flag))) => {
                let flag = flag.to_owned();
                line.take_flag(row, &flag, &mut parser);
            }
            Ok(Some(Arg::Short(letter))) => {
                line.given.problems.push(format!("unknown flag -{}", letter.escape_debug()));
                skip_value(&mut parser);
            }
            Err(error) => line.given.problems.push(error.to_string()),
        }
    }
    let takes_no_word =
        matches!(row.verb, Verb::Top | Verb::Doctor | Verb::Dashboard | Verb::Unit | Verb::Man);
    if let Some(word) = line.words.first().filter(|_| takes_no_word) {
        let word = quote(&word.to_string_lossy());
        line.given.problems.push(format!("{word} has no meaning here: oneloop {}", row.usage));
    }
    line.command = match row.verb {
        Verb::Serve => line.serve(),
        Verb::Token => line.token(),
        Verb::Explain => line.explain(),
        Verb::Publish => line.publish(),
        Verb::Subscribe => line.subscribe(),
        Verb::Forward => line.forward(),
        Verb::Top => line.top(),
        Verb::Upgrade => line.upgrade(row),
        Verb::Doctor => line.doctor(),
        Verb::Unit => line.unit(),
        Verb::Completions => line.completions(row),
        Verb::Man => Some(Command::Print(Artifact::Man)),
        Verb::Dashboard => Some(Command::Print(Artifact::Dashboard)),
        Verb::Help => line.help(),
    };
    line
}

/// Skips the word after an unknown flag, which is most likely its value: one slip, one message.
fn skip_value(parser: &mut Parser) {
    if parser.optional_value().is_none()
        && let Some(mut rest) = parser.try_raw_args()
    {
        rest.next_if(|word| !word.as_encoded_bytes().starts_with(b"-"));
    }
}

/// Reads the value of a switch, which may stand alone: `--page` is `--page true`.
fn switch(parser: &mut Parser) -> OsString {
    parser
        .optional_value()
        .or_else(|| parser.try_raw_args()?.next_if(|word| word.to_str().is_some_and(is_truth)))
        .unwrap_or_else(|| "true".into())
}

impl Line {
    fn only(self, command: Command) -> Line {
        Line { command: Some(command), ..Line::default() }
    }

    fn take_flag(&mut self, row: &CommandRow, flag: &str, parser: &mut Parser) {
        let own = row.flags.iter().find(|own| own.name == flag);
        let setting = table::by_flag(flag).filter(|_| row.takes_settings);
        let value = match (own, setting) {
            (Some(own), _) if own.value.is_empty() => {
                return self.flags.push((own.name, Value::Truth(true)));
            }
            (None, None) if flag != "config" || !row.takes_config() => {
                self.given.problems.push(misplaced(row, flag));
                return skip_value(parser);
            }
            (None, Some(named)) if named.setting.is_switch() => Ok(switch(parser)),
            _ => parser.value(),
        };
        let Ok(value) = value else {
            return self.given.problems.push(format!("--{flag} needs a value after it"));
        };
        match (own, setting) {
            (Some(own), _) => self.flags.push((own.name, value.into())),
            (None, Some(setting)) => self.given.values.push((setting, value.into())),
            (None, None) => self.given.file = Some(value),
        }
    }

    fn serve(&mut self) -> Option<Command> {
        for word in std::mem::take(&mut self.words) {
            let word = word.to_string_lossy();
            let meant = suggestion("", &word, COMMANDS.iter().map(|row| row.name.to_owned()));
            let (word, names) = (quote(&word), listed(COMMANDS.iter().map(|row| row.name)));
            self.given
                .problems
                .push(format!("{word} is no command{meant}; the command stands first: {names}"));
        }
        Some(Command::Serve { check: self.has("check") })
    }

    fn token(&mut self) -> Option<Command> {
        if !self.words.is_empty() {
            self.given
                .problems
                .push("token takes flags only: --sub, --topics, --may, --ttl".to_owned());
        }
        let sub = self.flag("sub", user);
        if let Some(None) = sub {
            let missing = "--sub: it is missing; name the user, as in --sub 42";
            self.given.problems.push(missing.to_owned());
        }
        let topics = self.flag("topics", Value::words);
        let may = self.flag("may", Value::words);
        let ttl = self.flag("ttl", seconds);
        Some(Command::Token {
            sub: sub??,
            topics: topics?.unwrap_or_default(),
            may: may?.unwrap_or_default(),
            ttl_seconds: ttl?.unwrap_or(3600),
            admin: self.has("admin"),
        })
    }

    /// Quotes no word in messages: one of them is a token.
    fn explain(&mut self) -> Option<Command> {
        let words = std::mem::take(&mut self.words).into_iter();
        let words = words.map(|word| word.into_string().ok());
        match words.collect::<Option<Vec<_>>>().map(<[String; 2]>::try_from) {
            Some(Ok([token, topic])) => return Some(Command::Explain { token, topic }),
            Some(Err(words)) => self.given.problems.push(format!(
                "explain takes two words, TOKEN and TOPIC; {} were given",
                words.len()
            )),
            None => self.given.problems.push("explain: TOKEN and TOPIC must be UTF-8".to_owned()),
        }
        None
    }

    /// Shows the data in no message: it is private.
    fn publish(&mut self) -> Option<Command> {
        let pid = self.flag("pid", pid);
        let mut words = std::mem::take(&mut self.words).into_iter();
        let channel = words.next().map(OsString::into_string);
        let data = words.next().filter(|data| data != "-").map(OsString::into_encoded_bytes);
        match (channel, words.next()) {
            (Some(Ok(channel)), None) => {
                return Some(Command::Publish(PublishOptions { channel, data, pid: pid? }));
            }
            (Some(Err(_)), None) => self.given.problems.push("CHANNEL must be UTF-8".to_owned()),
            _ => self.given.problems.push(
                "publish takes a channel and what is published, which comes by stdin if it is - or \
                 missing: oneloop publish pub.user.42 '{\"paid\":true}'"
                    .to_owned(),
            ),
        }
        None
    }

    fn subscribe(&mut self) -> Option<Command> {
        let words = std::mem::take(&mut self.words).into_iter().map(OsString::into_string);
        let topics = words.collect::<Result<Vec<_>, _>>();
        let topics = topics.map_err(|_| "a topic must be UTF-8".to_owned());
        let sub = self.flag("sub", user);
        let url = self.flag("url", request_line);
        let token = self.flag("token", request_line);
        if matches!((&sub, &token), (Some(Some(_)), Some(Some(_)))) {
            self.given
                .problems
                .push("--sub and --token are both given: keep one of them".to_owned());
        }
        Some(Command::Subscribe(SubscribeOptions {
            url: url?,
            token: token?,
            since: self.flag("since", request_line)?,
            count: self.flag("count", |value| whole_number(value, u64::MAX))?,
            pid: self.flag("pid", pid)?,
            topics: self.checked("TOPIC", topics)?,
            sub: sub?,
            json: self.has("json"),
        }))
    }

    /// Shows the URL in no message: it may hold a secret.
    fn forward(&mut self) -> Option<Command> {
        let group = self.flag("group", request_line)?;
        let attempts = self.flag("attempts", |value| whole_number(value, u64::MAX))?;
        let token_file = self.flag("token-file", |value| value.text().map(str::to_owned))?;
        let words = std::mem::take(&mut self.words).into_iter().map(OsString::into_string);
        let words: Vec<String> = words.filter_map(Result::ok).collect();
        let is_stream = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        match <[String; 2]>::try_from(words) {
            Ok([stream, url]) if is_stream(&stream) => {
                let options = ForwardOptions { stream, url, group, attempts, token_file };
                return Some(Command::Forward(options));
            }
            _ => self.given.problems.push(
                "forward takes a stream, whose name is visible ASCII, and a URL: oneloop forward up \
                 http://127.0.0.1:8000/hook"
                    .to_owned(),
            ),
        }
        None
    }

    fn top(&mut self) -> Option<Command> {
        let admin = self.flag("admin", |value| value.text().map(str::to_owned))?;
        Some(Command::Top { admin, once: self.has("once") })
    }

    fn upgrade(&mut self, row: &CommandRow) -> Option<Command> {
        let pid = self.flag("pid", pid)?;
        let mut words = std::mem::take(&mut self.words).into_iter();
        let binary = words.next().map(PathBuf::from);
        if words.next().is_some() {
            self.given.problems.push(format!("one file is named at most: oneloop {}", row.usage));
        }
        Some(Command::Upgrade(UpgradeOptions { binary, pid }))
    }

    fn doctor(&mut self) -> Option<Command> {
        Some(Command::Doctor(ProbeOptions {
            url: self.flag("url", request_line)?,
            token: self.flag("token", request_line)?,
            origin: self.flag("origin", request_line)?,
            wait_seconds: self.flag("wait", seconds)?,
        }))
    }

    fn unit(&mut self) -> Option<Command> {
        let config = self.given.file.take().map(OsString::into_string).transpose();
        let config =
            self.checked("--config", config.map_err(|_| "the file's name is not UTF-8".to_owned()));
        let artifact = match self.has("socket") {
            true => Artifact::Socket { config: config? },
            false => Artifact::Service { config: config? },
        };
        Some(Command::Print(artifact))
    }

    fn completions(&mut self, row: &CommandRow) -> Option<Command> {
        let shell = match &self.words[..] {
            [word] => Shell::ALL.iter().find(|(name, _)| word == name).map(|(_, shell)| *shell),
            _ => None,
        };
        if shell.is_none() {
            self.given.problems.push(format!("one shell is named: oneloop {}", row.usage));
        }
        shell.map(|shell| Command::Print(Artifact::Completions(shell)))
    }

    /// Finds the chapter of a topic. A command's name is none: its usage is in the general help.
    fn help(&mut self) -> Option<Command> {
        let words: Vec<_> = self.words.iter().map(|word| word.to_string_lossy()).collect();
        let topic = words.join(" ");
        if words.is_empty() || COMMANDS.iter().any(|row| row.name == topic) {
            return Some(Command::Help);
        }
        let chapter = CHAPTERS.iter().find(|chapter| chapter.name == topic);
        if chapter.is_none() {
            let names = CHAPTERS.iter().map(|chapter| chapter.name);
            let meant = suggestion("", &topic, names.clone().map(str::to_owned));
            let (topic, names) = (quote(&topic), listed(names));
            self.given.problems.push(format!("{topic} is no topic{meant}; name one of {names}"));
        }
        chapter.map(|chapter| Command::Print(Artifact::Chapter(chapter)))
    }

    /// Reads a flag of the command; `None` if its value is refused, which is a problem.
    fn flag<T>(
        &mut self,
        name: &str,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<Option<T>> {
        let given = self.flags.iter().rfind(|(flag, _)| *flag == name);
        let value = given.map(|(_, value)| read(value)).transpose();
        self.checked(&format!("--{name}"), value)
    }

    fn has(&self, switch: &str) -> bool {
        self.flags.iter().any(|(flag, _)| *flag == switch)
    }

    fn checked<T>(&mut self, flag: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|reason| self.given.problems.push(format!("{flag}: {reason}"))).ok()
    }
}

/// Says why a command does not take this flag.
fn misplaced(row: &CommandRow, flag: &str) -> String {
    let owner = COMMANDS.iter().find(|row| row.flags.iter().any(|own| own.name == flag));
    if let Some(owner) = owner {
        return format!("--{flag} belongs to `oneloop {}`", owner.name);
    }
    if flag == "config" || table::by_flag(flag).is_some() {
        return format!("--{flag} is a setting: {} has no use for it", row.name);
    }
    let own = ["config", "check", "help", "version"].map(str::to_owned);
    let settings = table::all().filter(|setting| !setting.is_variable_only());
    let known = settings.map(|setting| setting.flag()[2..].to_owned()).chain(own);
    let meant = suggestion("--", flag, known);
    format!("unknown flag --{}{meant}", flag.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> Line {
        parse(args.iter().map(OsString::from))
    }

    #[test]
    fn each_command_takes_its_own_flags() {
        let args =
            ["token", "--sub", "42", "--topics", "a,b", "--may=c", "--ttl", "15m", "--admin"];
        let token = line(&args);
        assert!(token.given.problems.is_empty() && token.given.values.is_empty());
        let Some(Command::Token { sub, topics, may, ttl_seconds, admin }) = token.command else {
            panic!("a token was asked for");
        };
        assert_eq!((sub.as_str(), ttl_seconds, admin), ("42", 900, true));
        assert_eq!((topics, may), (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]));

        let explain = line(&["explain", "--log", "off", "t", "room.7"]);
        assert_eq!(explain.given.values.len(), 1);
        let Some(Command::Explain { token, topic }) = explain.command else {
            panic!("an explanation was asked for");
        };
        assert_eq!((token.as_str(), topic.as_str()), ("t", "room.7"));

        let serve = line(&["serve", "--admin", "127.0.0.1:1", "--topics", "a", "--config", "f"]);
        assert!(matches!(serve.command, Some(Command::Serve { check: false })));
        assert_eq!((serve.given.values.len(), serve.given.file), (2, Some("f".into())));
        assert!(matches!(line(&["--check"]).command, Some(Command::Serve { check: true })));
        let top = line(&["top", "--admin", "http://h:1", "--once", "--log", "off"]);
        assert!(top.given.problems.is_empty() && top.given.values.len() == 1);
        let Some(Command::Top { admin: Some(admin), once: true }) = top.command else {
            panic!("a look was asked for");
        };
        assert_eq!(admin, "http://h:1");
        let doctor = line(&["doctor", "--url", "wss://h/ws", "--wait", "90", "--admin", "h:1"]);
        let Some(Command::Doctor(visit)) = doctor.command else { panic!("a look was asked for") };
        assert_eq!((doctor.given.values.len(), visit.wait_seconds), (1, Some(90)));
        assert_eq!((visit.url.as_deref(), visit.token), (Some("wss://h/ws"), None));
        let printed = line(&["dashboard"]).command;
        assert!(matches!(printed, Some(Command::Print(Artifact::Dashboard))));
        for help in [&["token", "--help"][..], &["help"], &["help", "token"]] {
            assert!(matches!(line(help).command, Some(Command::Help)));
        }
        let chapter = line(&["help", "streams"]).command;
        let Some(Command::Print(Artifact::Chapter(streams))) = chapter else { panic!("a chapter") };
        assert_eq!(streams.name, "streams");
        assert!(matches!(line(&["-V"]).command, Some(Command::Version)));
    }

    #[test]
    fn a_switch_may_stand_alone() {
        for (args, value) in [
            (&["--page"][..], "true"),
            (&["--page", "--log", "off"], "true"),
            (&["--page", "false"], "false"),
            (&["--page=false"], "false"),
            (&["--page=2"], "2"),
        ] {
            let line = line(args);
            assert!(line.given.problems.is_empty(), "{args:?}: {:?}", line.given.problems);
            let (setting, given) = &line.given.values[0];
            assert_eq!((setting.key, given.text().unwrap()), ("page", value), "{args:?}");
        }
    }

    #[test]
    fn each_flag_of_a_command_is_taken_by_it() {
        for row in COMMANDS {
            for flag in row.flags {
                let name = format!("--{}", flag.name);
                let mut args = vec![row.name, &name];
                let given = if ["N", "PID"].contains(&flag.value) { "1" } else { "1h" };
                args.extend((!flag.value.is_empty()).then_some(given));
                let found = line(&args).given.problems;
                let about_it = found.iter().find(|problem| problem.contains(&name));
                assert_eq!(about_it, None, "{args:?}");
            }
        }
    }

    #[test]
    fn each_slip_gets_one_message() {
        let table: &[(&[&str], &str)] = &[
            (&["--lisen", "x"], "unknown flag --lisen; did you mean --listen?"),
            (&["--chek"], "unknown flag --chek; did you mean --check?"),
            (&["--zzzzzzzz=x"], "unknown flag --zzzzzzzz"),
            (&["-x", "hunter2"], "unknown flag -x"),
            (&["-xhunter2"], "unknown flag -x"),
            (&["--jwt-sekret", "hunter2"], "unknown flag --jwt-sekret"),
            (&["--listen"], "--listen needs a value"),
            (&["--check=x"], "unexpected argument for option '--check'"),
            (&["tokn"], "\"tokn\" is no command; did you mean token?"),
            (&["--check", "token"], "the command stands first"),
            (&["--sub", "4"], "--sub belongs to `oneloop token`"),
            (&["token", "--check", "--sub", "4"], "--check belongs to `oneloop serve`"),
            (&["token", "--sub", "4", "hunter2"], "token takes flags only"),
            (&["publish"], "publish takes a channel"),
            (&["publish", "a", "hunter2", "c"], "publish takes a channel"),
            (&["publish", "--pid", "0", "a"], "--pid: \"0\" is not a whole number of at least 1"),
            (&["forward", "up"], "forward takes a stream"),
            (&["forward", "a b", "http://hunter2/"], "forward takes a stream"),
            (&["forward", "--attempts", "0", "up", "http://h/"], "--attempts: \"0\" is not"),
            (&["subscribe", "--count", "x"], "--count: \"x\" is not a whole number"),
            (&["subscribe", "--sub", "4", "--token", "hunter2"], "keep one of them"),
            (&["token", "--ttl", "1h"], "--sub: it is missing; name the user, as in --sub 42"),
            (&["token", "--sub", ""], "--sub: \"\" is not 1 to 255 bytes"),
            (&["token", "--sub", "a\nb"], "without control characters"),
            (&["token", "--sub", "4", "--ttl", "0"], "--ttl: \"0\" is not a time like 90s, 15m"),
            (&["token", "--sub", "4", "--ttl", "3651d"], "of at most 3650d"),
            (&["token", "--sub", "4", "--may", "a,,b"], "--may: \"a,,b\" has an empty entry"),
            (&["serve", "--once"], "--once belongs to `oneloop top`"),
            (&["top", "now"], "\"now\" has no meaning here: oneloop top [--admin URL]"),
            (&["doctor", "--wait", "x"], "--wait: \"x\" is not a time like 90s"),
            (&["doctor", "--token", "hunter2\r\n"], "--token: a control character is in it"),
            (&["doctor", "now"], "has no meaning here: oneloop doctor [--url URL]"),
            (&["dashboard", "--listen", "x"], "--listen is a setting: dashboard has no use for it"),
            (&["man", "--config", "x"], "--config is a setting: man has no use for it"),
            (&["completions"], "one shell is named: oneloop completions bash|zsh|fish"),
            (&["completions", "csh"], "one shell is named"),
            (&["help", "stream"], "\"stream\" is no topic; did you mean streams?; name one of"),
            (
                &["help", "protocol", "tokens"],
                "\"protocol tokens\" is no topic; did you mean tokens?",
            ),
            (&["help", "--once"], "--once belongs to `oneloop top`"),
            (&["explain", "hunter2"], "explain takes two words, TOKEN and TOPIC; 1 were given"),
            (&["explain", "hunter2", "a", "b"], "3 were given"),
        ];
        for (args, wanted) in table {
            let found = line(args).given.problems;
            assert_eq!(found.len(), 1, "{args:?}: {found:?}");
            assert!(found[0].contains(wanted), "{args:?}: {}", found[0]);
            assert!(!found[0].contains("hunter2"), "a secret in: {}", found[0]);
        }
    }
}
