//! The operator's commands.

mod args;
mod command;
mod completions;
mod dashboard;
mod dial;
mod doctor;
mod forward;
mod help;
mod invocation;
mod man;
mod numbers;
mod publish;
pub mod redis_client;
mod redis_servers;
mod scrape;
mod server_process;
mod slowest;
mod subscribe;
mod tls;
mod top;
pub mod unit;
mod upgrade;
mod url;
mod websocket;
pub mod websocket_client;

pub use command::{
    Artifact, Command, ForwardOptions, ProbeOptions, PublishOptions, Shell, SubscribeOptions,
    UpgradeOptions,
};
pub use completions::completions;
pub use dashboard::dashboard;
pub use doctor::{DoctorEnvironment, doctor};
pub use forward::forward;
pub use help::{chapter, help, metrics_markdown, settings_markdown};
pub use invocation::{Invocation, read, read_beside};
pub use man::man;
pub use publish::publish;
pub use server_process::ServerProcess;
pub use subscribe::{Terminal, subscribe};
pub use top::top;
pub use upgrade::{UpgradeFailure, upgrade};

/// The version of the program: `oneloop 0.1.0 (commit 1a2b3c4, x86_64-linux-gnu, release)`. The commit is shown if
/// `ONELOOP_COMMIT` was set during the build.
pub fn version() -> String {
    let commit = option_env!("ONELOOP_COMMIT").map(|commit| format!("commit {commit}, "));
    let (machine, system) = (std::env::consts::ARCH, std::env::consts::OS);
    let library = if cfg!(target_env = "musl") {
        "-musl"
    } else if cfg!(target_env = "gnu") {
        "-gnu"
    } else {
        ""
    };
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (version, commit) = (env!("CARGO_PKG_VERSION"), commit.unwrap_or_default());
    format!("oneloop {version} ({commit}{machine}-{system}{library}, {profile})")
}
