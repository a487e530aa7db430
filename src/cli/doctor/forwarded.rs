//! The check that the proxy in front forwards client addresses, by the counters of the server behind it.

use super::report::{Problem, Report};
use crate::cli::scrape::{Scrape, scrape};
use crate::cli::url::Url;
use crate::config::{Config, reachable};
use crate::engine::reactor::Listen;

const NAME: &str = "url-address";

/// The counters before a connection through the proxy.
pub(super) struct Before {
    admin: String,
    counters: Scrape,
}

impl Before {
    /// Scrapes the counters; `None` if the check does not apply.
    pub(super) fn scrape(report: &mut Report, config: &Config, url: &Url) -> Option<Before> {
        if config.proxies.is_empty() || config.proxy_protocol {
            return None;
        }
        let text = |one: &Listen| match one.socket_addr() {
            Some(address) => reachable(address).to_string(),
            None => one.to_string(),
        };
        if config.listen.iter().any(|one| url.address == text(one)) {
            report.unseen(NAME, "this address is the server's own, without a proxy in between", "");
            return None;
        }
        let Some(admin) = config.admin else {
            report.unseen(
                NAME,
                "the settings have no admin, where the server tells it",
                "admin = \"127.0.0.1:9090\", in the settings",
            );
            return None;
        };
        let admin = reachable(admin).to_string();
        match scrape(&admin) {
            Ok(counters) => Some(Before { admin, counters }),
            Err(why) => {
                report.unseen(NAME, &why, "");
                None
            }
        }
    }

    /// Judges by the difference that the connection made.
    pub(super) fn judge(self, report: &mut Report) {
        let now = match scrape(&self.admin) {
            Ok(now) => now,
            Err(why) => return report.unseen(NAME, &why, ""),
        };
        let added = |name: &str| now.sum(name) - self.counters.sum(name);
        if added("oneloop_handshakes_total") <= 0.0 {
            report.unseen(NAME, "another server than the one at admin answered", "");
        } else if added("oneloop_forwarded_missing_total") > 0.0 {
            report.say(
                Problem,
                NAME,
                "the proxy does not say where its clients come from",
                "all of them share its address, and the bound of one address",
                "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
            );
        } else {
            report.ok(NAME, "the proxy says where its clients come from");
        }
    }
}
