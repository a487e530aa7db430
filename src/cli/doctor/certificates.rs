//! The checks of the certificates that the settings name: key, names, chain and dates.

use super::report::{Problem, Report, Warning};
use crate::config::Config;
use crate::tls::{Certificate, CertificateFiles, DAYS_LEFT_MIN};

const NAME: &str = "certificate";

/// Runs the checks. `unix`: the wall clock in seconds.
pub(super) fn check(report: &mut Report, config: &Config, unix: u64) {
    for files in CertificateFiles::pairs(&config.tls) {
        let certificate = match Certificate::read(&files) {
            Ok(certificate) => certificate,
            Err(problem) => {
                let why = "the server does not start with it; if it runs, it keeps the certificate that it has";
                report.say(Problem, NAME, &problem, why, "");
                continue;
            }
        };
        let file = &files.certificate;
        for flaw in &certificate.flaws {
            report.warning(NAME, &format!("{file:?}: {flaw}"), "");
        }
        let summary = certificate.summary();
        let days = certificate.not_after.saturating_sub(unix) / 86_400;
        if let Some(problem) = certificate.date_problem(unix) {
            report.problem(NAME, &format!("{summary}: {problem}"), RENEW);
        } else if days < DAYS_LEFT_MIN {
            let seen = format!("{summary}: {days} days are left");
            let why = "its renewal is late";
            report.say(Warning, NAME, &seen, why, RENEW);
        } else {
            report.ok(NAME, &format!("{summary}: {days} days are left"));
        }
    }
}

const RENEW: &str = "certbot renew (or lego renew); the server takes the new files by itself";
