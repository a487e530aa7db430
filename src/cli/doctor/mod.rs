//! `oneloop doctor`: checks the machine, Redis and the public address against the settings.
//!
//! Reading order: this file, then the checks in their order; `report` prints. Nothing here serves a client, so it may block.

mod certificates;
mod forwarded;
mod listeners;
mod machine;
mod public;
mod redis_delivery;
mod redis_rights;
pub(super) mod redis_server;
mod report;
mod sentinels;

use std::io::Write;
use std::time::Duration;

use crate::app;
use crate::cli::command::ProbeOptions;
use crate::cli::scrape::{Scrape, scrape};
use crate::cli::url::Url;
use crate::config::{Config, reachable};
use report::Report;

/// The process around the doctor.
pub struct DoctorEnvironment<'a> {
    /// Receives the findings.
    pub out: &'a mut dyn Write,
    /// A monotonic clock.
    pub clock: &'a dyn Fn() -> Duration,
    /// The wall clock, in milliseconds since 1970.
    pub unix_millis: fn() -> u64,
    /// Signs a token that is valid for the given seconds, if there is a secret.
    pub sign: &'a dyn Fn(u64) -> Option<String>,
}

/// Runs all checks and prints the findings. Returns whether there is a problem.
///
/// # Errors
/// A sentence if the URL is malformed.
pub fn doctor(
    config: &Config,
    probe: &ProbeOptions,
    environment: DoctorEnvironment,
) -> Result<bool, String> {
    let url = probe.url.as_deref().map(Url::parse).transpose()?;
    let link = app::link(config)?;
    let mut report = Report::new(environment.out);
    let admin = config.admin.map(|admin| reachable(admin).to_string());
    let running = admin.and_then(|admin| descriptors_of_each(&scrape(&admin).ok()?));
    machine::check(&mut report, config, running);
    certificates::check(&mut report, config, (environment.unix_millis)() / 1000);
    listeners::check(&mut report, config);
    if let Some(link) = link {
        redis_server::check(&mut report, config, link, environment.unix_millis);
    }
    if let Some(url) = url {
        let mut check =
            public::PublicCheck { report, config, url, probe, clock: environment.clock };
        check.run((environment.unix_millis)() / 1000, environment.sign);
        report = check.report;
    }
    Ok(report.end())
}

/// The descriptor limit of each process of a running server; its metrics have the sum.
fn descriptors_of_each(scrape: &Scrape) -> Option<u64> {
    let processes = scrape.labels("oneloop_loop_resident_memory_bytes", "loop").count();
    Some(scrape.one("process_max_fds")? as u64 / processes.max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_that_of_each_process() {
        let of_each = |text| descriptors_of_each(&Scrape::parse(text));
        assert_eq!(of_each("oneloop_clients 1\n"), None);
        assert_eq!(of_each("process_max_fds 1024\n"), Some(1024));
        let several = "process_max_fds 3072\noneloop_loop_resident_memory_bytes{loop=\"parent\"} 1\n\
             oneloop_loop_resident_memory_bytes{loop=\"0\"} 1\n\
             oneloop_loop_resident_memory_bytes{loop=\"1\"} 1\n";
        assert_eq!(of_each(several), Some(1024));
    }
}
