//! The one list of the program's commands: what they are called, what they take, what they do.

/// Which command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Serve,
    Token,
    Explain,
    Publish,
    Subscribe,
    Top,
    Doctor,
    Dashboard,
    Unit,
    Completions,
    Man,
}

/// One command.
pub(super) struct Row {
    pub(super) verb: Verb,
    pub(super) name: &'static str,
    /// What follows the program's name, for people.
    pub(super) usage: &'static str,
    /// What it does, in a line.
    pub(super) about: &'static str,
    /// The flags that are its own.
    pub(super) flags: &'static [Flag],
    /// Whether every setting is a flag of it too.
    pub(super) takes_settings: bool,
}

/// A flag of one command.
pub(super) struct Flag {
    /// Without its dashes.
    pub(super) name: &'static str,
    /// What its value is called; empty: it has none.
    pub(super) value: &'static str,
    pub(super) about: &'static str,
}

const fn flag(name: &'static str, value: &'static str, about: &'static str) -> Flag {
    Flag { name, value, about }
}

const PID: Flag =
    flag("pid", "PID", "a running server, whose settings are taken in place of one's own");

/// The first one is the one that is left out.
pub(super) static COMMANDS: &[Row] = &[
    Row {
        verb: Verb::Serve,
        name: "serve",
        usage: "[serve] [flags]",
        about: "serve; --check reads the settings and exits",
        flags: &[flag("check", "", "read the settings, say what is wrong, and exit")],
        takes_settings: true,
    },
    Row {
        verb: Verb::Token,
        name: "token",
        usage: "token --sub 42 [--topics a,b] [--may c] [--ttl 1h] [--admin] [flags]",
        about: "print a token",
        flags: &[
            flag("sub", "USER", "whose token it is"),
            flag("topics", "LIST", "grants that it hears from the start"),
            flag("may", "LIST", "grants that it may subscribe to"),
            flag("ttl", "TIME", "how long it is valid: 90s, 15m, 1h or 30d"),
            flag("admin", "", "its grants reach users' topics"),
        ],
        takes_settings: true,
    },
    Row {
        verb: Verb::Explain,
        name: "explain",
        usage: "explain TOKEN TOPIC [flags]",
        about: "say whether that token hears that topic, and why",
        flags: &[],
        takes_settings: true,
    },
    Row {
        verb: Verb::Publish,
        name: "publish",
        usage: "publish [--pid PID] CHANNEL DATA [flags]",
        about: "publish one message, as redis-cli does",
        flags: &[PID],
        takes_settings: true,
    },
    Row {
        verb: Verb::Subscribe,
        name: "subscribe",
        usage: "subscribe [--url URL] [--sub 42 | --token T] [--count N] [--json] [TOPIC ...] [flags]",
        about: "listen like a client, and print what comes",
        flags: &[
            flag("url", "URL", "where: ws:// or wss://; else the first route of the settings"),
            flag("sub", "USER", "whose token is signed with the secret, for these topics"),
            flag("token", "TOKEN", "the token to show; -: it comes by stdin"),
            flag("since", "CURSOR", "hear first what came after it"),
            flag("count", "N", "end after so many messages"),
            flag("json", "", "print each frame as it came"),
            PID,
        ],
        takes_settings: true,
    },
    Row {
        verb: Verb::Top,
        name: "top",
        usage: "top [--admin URL] [--once] [flags]",
        about: "show the live state of a running server",
        flags: &[
            flag("admin", "URL", "the server's admin address; else the one of the settings"),
            flag("once", "", "show one second and exit"),
        ],
        takes_settings: true,
    },
    Row {
        verb: Verb::Doctor,
        name: "doctor",
        usage: "doctor [--url URL] [--token T] [--origin ORIGIN] [--wait TIME] [flags]",
        about: "say what stands between this machine and these settings",
        flags: &[
            flag("url", "URL", "public address to try: ws:// or wss://"),
            flag("token", "TOKEN", "what to show there; else one is signed with the secret"),
            flag("origin", "ORIGIN", "page to come from; else one that the settings let in"),
            flag("wait", "TIME", "how long to be silent there; else until the first ping"),
        ],
        takes_settings: true,
    },
    Row {
        verb: Verb::Dashboard,
        name: "dashboard",
        usage: "dashboard",
        about: "print a dashboard for Grafana, as JSON",
        flags: &[],
        takes_settings: false,
    },
    Row {
        verb: Verb::Unit,
        name: "unit",
        usage: "unit [--config FILE] [--socket]",
        about: "print a unit for systemd",
        flags: &[flag("socket", "", "the unit of the listener, which outlives the service")],
        takes_settings: false,
    },
    Row {
        verb: Verb::Completions,
        name: "completions",
        usage: "completions bash|zsh|fish",
        about: "print what a shell completes",
        flags: &[],
        takes_settings: false,
    },
    Row {
        verb: Verb::Man,
        name: "man",
        usage: "man",
        about: "print the manual page",
        flags: &[],
        takes_settings: false,
    },
];

impl Row {
    /// Whether `--config` has a meaning.
    pub(super) fn takes_config(&self) -> bool {
        self.takes_settings || self.verb == Verb::Unit
    }
}

/// The row of a command.
pub(super) fn row(verb: Verb) -> &'static Row {
    COMMANDS.iter().find(|row| row.verb == verb).expect("every command has its row")
}

/// Their names, for a sentence: `serve, token or explain`.
pub(super) fn names() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|row| row.name).collect();
    let (last, others) = names.split_last().expect("there are commands");
    format!("{} or {last}", others.join(", "))
}
