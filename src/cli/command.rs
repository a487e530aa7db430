//! The commands of the program: the types of what is parsed, and the one list of names, flags and sentences.

use std::path::PathBuf;

use crate::manual::Chapter;

pub enum Command {
    /// Serve until a drain; with `check`, read the settings and exit.
    Serve {
        check: bool,
    },
    /// Print a token with these claims, valid for `ttl_seconds`. Topics and grants are not checked yet.
    Token {
        sub: String,
        topics: Vec<String>,
        may: Vec<String>,
        ttl_seconds: u64,
        admin: bool,
    },
    /// Say whether a token receives a topic, and by which rule.
    Explain {
        token: String,
        topic: String,
    },
    Publish(PublishOptions),
    /// Subscribe as a client does, and print each message.
    Subscribe(SubscribeOptions),
    Forward(ForwardOptions),
    /// Show the state of the server with this admin address; `None`: the one of the settings.
    Top {
        admin: Option<String>,
        once: bool,
    },
    /// Put another program into the place of a running server.
    Upgrade(UpgradeOptions),
    /// Report problems of this machine with the settings.
    Doctor(ProbeOptions),
    /// Print a text that is made to be kept in a file.
    Print(Artifact),
    Help,
    Version,
}

/// Options of `publish`.
pub struct PublishOptions {
    pub channel: String,
    /// `None`: read stdin.
    pub data: Option<Vec<u8>>,
    /// The process to take the settings from.
    pub pid: Option<u32>,
}

/// Options of `subscribe`; the settings give the missing ones.
#[derive(Default)]
pub struct SubscribeOptions {
    pub url: Option<String>,
    pub sub: Option<String>,
    /// `-`: read stdin.
    pub token: Option<String>,
    pub since: Option<String>,
    pub count: Option<u64>,
    pub json: bool,
    pub topics: Vec<String>,
    /// The process to take the settings from.
    pub pid: Option<u32>,
}

/// Options of `forward`; those that are missing have defaults.
pub struct ForwardOptions {
    /// The stream to be read.
    pub stream: String,
    /// The URL to which its entries are posted.
    pub url: String,
    pub group: Option<String>,
    /// Refusals of one entry before it is set aside.
    pub attempts: Option<u64>,
    pub token_file: Option<String>,
}

/// Options of `upgrade`.
pub struct UpgradeOptions {
    /// The new program; `None`: the one that lies there already.
    pub binary: Option<PathBuf>,
    /// The server; `None`: the only one.
    pub pid: Option<u32>,
}

/// Options of `doctor` for the public address; the settings give the missing ones.
#[derive(Default)]
pub struct ProbeOptions {
    pub url: Option<String>,
    pub token: Option<String>,
    pub origin: Option<String>,
    pub wait_seconds: Option<u64>,
}

/// A text to be kept in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// For Grafana.
    Dashboard,
    /// The systemd unit that runs the server with these settings.
    Service {
        config: Option<String>,
    },
    /// The unit of the listeners that these settings name.
    Socket {
        config: Option<String>,
    },
    Completions(Shell),
    Man,
    Chapter(&'static Chapter),
}

/// A shell that completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub(super) const ALL: [(&str, Shell); 3] =
        [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Serve,
    Token,
    Explain,
    Publish,
    Subscribe,
    Forward,
    Top,
    Upgrade,
    Doctor,
    Dashboard,
    Unit,
    Completions,
    Man,
    Help,
}

pub(super) struct CommandRow {
    pub(super) verb: Verb,
    pub(super) name: &'static str,
    /// Arguments after the program's name, for people.
    pub(super) usage: &'static str,
    pub(super) about: &'static str,
    pub(super) flags: &'static [Flag],
    /// Every setting is a flag of the command, too.
    pub(super) takes_settings: bool,
}

/// A flag of a command.
pub(super) struct Flag {
    /// Without its dashes.
    pub(super) name: &'static str,
    /// Name of the value; empty for a switch.
    pub(super) value: &'static str,
    pub(super) about: &'static str,
}

const fn flag(name: &'static str, value: &'static str, about: &'static str) -> Flag {
    Flag { name, value, about }
}

const fn row(
    verb: Verb,
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    takes_settings: bool,
    flags: &'static [Flag],
) -> CommandRow {
    CommandRow { verb, name, usage, about, flags, takes_settings }
}

const PID: Flag =
    flag("pid", "PID", "a running server, whose settings are taken in place of one's own");

// Two lines a row and one a flag, so that the table reads as a table.
#[rustfmt::skip]
/// All commands; the first is the default.
pub(super) static COMMANDS: &[CommandRow] = &[
    row(Verb::Serve, "serve", "[serve] [flags]",
        "serve; --check reads the settings and exits", true, &[
            flag("check", "", "read the settings, say what is wrong, and exit"),
        ]),
    row(Verb::Token, "token", "token --sub 42 [--topics a,b] [--may c] [--ttl 1h] [--admin] [flags]",
        "print a token", true, &[
            flag("sub", "USER", "whose token it is"),
            flag("topics", "LIST", "grants that it hears from the start"),
            flag("may", "LIST", "grants that it may subscribe to"),
            flag("ttl", "TIME", "how long it is valid: 90s, 15m, 1h or 30d"),
            flag("admin", "", "its grants reach users' topics"),
        ]),
    row(Verb::Explain, "explain", "explain TOKEN TOPIC [flags]",
        "say whether that token hears that topic, and why", true, &[]),
    row(Verb::Publish, "publish", "publish [--pid PID] CHANNEL DATA [flags]",
        "publish one message, as redis-cli does", true, &[PID]),
    row(Verb::Subscribe, "subscribe", "subscribe [--url URL] [--sub 42 | --token T] [--count N] [--json] [TOPIC ...] [flags]",
        "listen like a client, and print what comes", true, &[
            flag("url", "URL", "where: ws://, wss:// or unix:/PATH:/ROUTE; else the first route of the settings"),
            flag("sub", "USER", "whose token is signed with the secret, for these topics"),
            flag("token", "TOKEN", "the token to show; -: it comes by stdin"),
            flag("since", "CURSOR", "hear first what came after it"),
            flag("count", "N", "end after so many messages"),
            flag("json", "", "print each frame as it came"),
            PID,
        ]),
    row(Verb::Forward, "forward", "forward [--group NAME] [--attempts N] [--token-file FILE] STREAM URL [flags]",
        "post each entry of a stream to a back end that has only HTTP", true, &[
            flag("group", "NAME", "consumer group that reads the stream; else oneloop-forward"),
            flag("attempts", "N", "refusals of one entry before it is set aside; else 10"),
            flag("token-file", "FILE", "a token that each request shows as Authorization: Bearer"),
        ]),
    row(Verb::Top, "top", "top [--admin URL] [--once] [flags]",
        "show the live state of a running server", true, &[
            flag("admin", "URL", "the server's admin address; else the one of the settings"),
            flag("once", "", "show one second and exit"),
        ]),
    row(Verb::Upgrade, "upgrade", "upgrade [--pid PID] [BINARY]",
        "put another binary into the place of a running server; nobody is disconnected", false, &[
            flag("pid", "PID", "the server; else the only one that runs"),
        ]),
    row(Verb::Doctor, "doctor", "doctor [--url URL] [--token T] [--origin ORIGIN] [--wait TIME] [flags]",
        "say what stands between this machine and these settings", true, &[
            flag("url", "URL", "public address to try: ws:// or wss://"),
            flag("token", "TOKEN", "what to show there; else one is signed with the secret"),
            flag("origin", "ORIGIN", "page to come from; else one that the settings let in"),
            flag("wait", "TIME", "how long to be silent there; else until the first ping"),
        ]),
    row(Verb::Dashboard, "dashboard", "dashboard",
        "print a dashboard for Grafana, as JSON", false, &[]),
    row(Verb::Unit, "unit", "unit [--config FILE] [--socket]",
        "print a unit for systemd", false, &[
            flag("socket", "", "the unit of the listeners, which outlive the service"),
        ]),
    row(Verb::Completions, "completions", "completions bash|zsh|fish",
        "print what a shell completes", false, &[]),
    row(Verb::Man, "man", "man",
        "print the manual page", false, &[]),
    row(Verb::Help, "help", "help [TOPIC]",
        "print this, or a chapter of the manual", false, &[]),
];

impl CommandRow {
    /// Returns whether the command takes `--config`.
    pub(super) fn takes_config(&self) -> bool {
        self.takes_settings || self.verb == Verb::Unit
    }
}

/// Returns these names for a sentence: `serve, token or explain`.
pub(super) fn listed(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<&str> = names.collect();
    let (last, others) = names.split_last().expect("no list is empty");
    format!("{} or {last}", others.join(", "))
}
