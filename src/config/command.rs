//! What the program is asked to do.

use super::completions::Shell;

/// What to do.
pub enum Command {
    /// Serve until a drain; with `check`, read the settings and exit.
    Serve { check: bool },
    /// Print a token with these claims, valid for `ttl_seconds`. Topics and grants are not checked yet.
    Token { sub: String, topics: Vec<String>, may: Vec<String>, ttl_seconds: u64, admin: bool },
    /// Say whether a token hears a topic, and by which rule.
    Explain { token: String, topic: String },
    /// Publish one message.
    Publish(PublishOptions),
    /// Listen as a client does, and print what comes.
    Subscribe(SubscribeOptions),
    /// Show the live state of the server whose admin listener is there; `None`: where the settings say.
    Top { admin: Option<String>, once: bool },
    /// Say what stands between this machine and the settings.
    Doctor(ProbeOptions),
    /// Print something that is made to be kept in a file.
    Print(Artifact),
    /// Print [`super::help`].
    Help,
    /// Print the version.
    Version,
}

/// One message to publish.
pub struct PublishOptions {
    pub channel: String,
    /// `None`: it comes by stdin.
    pub data: Option<Vec<u8>>,
    /// The process whose settings are taken.
    pub pid: Option<u32>,
}

/// How to listen in a terminal; what is left out follows from the settings.
#[derive(Default)]
pub struct SubscribeOptions {
    pub url: Option<String>,
    pub sub: Option<String>,
    /// `-`: it comes by stdin.
    pub token: Option<String>,
    pub since: Option<String>,
    pub count: Option<u64>,
    pub json: bool,
    pub topics: Vec<String>,
    /// The process whose settings are taken.
    pub pid: Option<u32>,
}

/// Which public address is tried, and how; what is left out follows from the settings.
#[derive(Default)]
pub struct ProbeOptions {
    pub url: Option<String>,
    pub token: Option<String>,
    pub origin: Option<String>,
    pub wait_seconds: Option<u64>,
}

/// What can be printed for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// A dashboard for Grafana.
    Dashboard,
    /// The unit of systemd that runs the server with these settings.
    Service { config: Option<String>, drain_seconds: u32 },
    /// The unit of its listener.
    Socket,
    /// What a shell completes.
    Completions(Shell),
    /// The manual page.
    Man,
}
