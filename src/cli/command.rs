//! Commands of the program, as parsed.

use super::completions::Shell;
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
    /// Show the state of the server with this admin address; `None`: the one of the settings.
    Top {
        admin: Option<String>,
        once: bool,
    },
    /// Report problems of this machine with the settings.
    Doctor(ProbeOptions),
    /// Print a text that is made to be kept in a file.
    Print(Artifact),
    /// Print [`super::help`].
    Help,
    /// Print the version.
    Version,
}

/// One message to publish.
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
        drain_seconds: u32,
    },
    /// The unit of its listener.
    Socket,
    Completions(Shell),
    Man,
    Chapter(&'static Chapter),
}
