//! What stands between this machine and the load that the settings name.
//!
//! Reading order: this file, then what is looked at in its order; `finding` prints. Nothing here serves anybody, so it may wait.

mod forwarded;
mod listeners;
mod machine;
mod public;
mod redis_delivery;
mod redis_rights;
pub(super) mod redis_server;
mod report;

use std::io::Write;
use std::time::Duration;

use crate::app;
use crate::cli::scrape::scrape;
use crate::cli::url::Url;
use crate::config::{Config, ProbeOptions, reachable};
use report::Report;

/// What the process brings to it.
pub struct DoctorEnvironment<'a> {
    /// Where findings go.
    pub out: &'a mut dyn Write,
    /// Only moves forward.
    pub clock: &'a dyn Fn() -> Duration,
    /// The time of day, in milliseconds of Unix time.
    pub unix_millis: fn() -> u64,
    /// Signs a token that is valid for so many seconds, if there is a secret.
    pub sign: &'a dyn Fn(u64) -> Option<String>,
}

/// Looks at all of it, and says what was found. Returns whether there was a problem.
///
/// # Errors
/// What was asked for is malformed.
pub fn doctor(
    config: &Config,
    visit: &ProbeOptions,
    means: DoctorEnvironment,
) -> Result<bool, String> {
    let url = visit.url.as_deref().map(Url::parse).transpose()?;
    let link = app::link(config)?;
    let mut report = Report::new(means.out);
    let admin = config.admin.map(|admin| reachable(admin).to_string());
    let running = admin.and_then(|admin| scrape(&admin).ok()?.one("process_max_fds"));
    machine::check(&mut report, config, running.map(|most| most as u64));
    listeners::check(&mut report, config);
    if let Some(link) = link {
        redis_server::check(&mut report, config, link, means.unix_millis);
    }
    if let Some(url) = url {
        let mut tour = public::PublicCheck { report, config, url, visit, clock: means.clock };
        tour.check((means.unix_millis)() / 1000, means.sign);
        report = tour.report;
    }
    Ok(report.end())
}
