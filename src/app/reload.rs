//! The settings that are read again, and taken over without dropping a client.

use std::sync::{Arc, Mutex};

use super::loops::{LoopPart, need_users, share};
use super::{ReadSettings, key_set, publishers_max, redis_place};
use crate::config::{Config, RouteSettings, changes};
use crate::engine::reactor::{Reactor, Reread, TakeOver};
use crate::observe::descriptors;
use crate::tls::redis::redis_tls;
use crate::tls::{self, Certificates, TicketKeys};

/// The settings in force, for the steps that change them. The loop alone locks them.
pub(super) type InForce = Arc<Mutex<Config>>;

/// Reads the settings again, and takes over the changes to those in force. `tickets`: the server speaks TLS, and its certificates are
/// read again as well. `part`: that of this process; of several loops the parent tells all.
pub(super) fn reload(
    in_force: InForce,
    read: ReadSettings,
    tickets: Option<TicketKeys>,
    part: LoopPart,
) -> Reread {
    let tells = if part == LoopPart::Worker { log::Level::Debug } else { log::Level::Info };
    Arc::new(move || {
        let (newer, in_force) = (read()?, Arc::clone(&in_force));
        // Files are parsed here, off the loop.
        let tls = match redis_place(&newer) {
            Ok(Some(place)) => redis_tls(&newer, &place).map_err(|why| vec![why])?,
            _ => None,
        };
        let certificates = if tickets.is_some() { Certificates::of(&newer.tls)? } else { None };
        let certificates = certificates.zip(tickets.clone());
        let step: TakeOver = Box::new(move |reactor| {
            let mut current = in_force.lock().expect("the loop alone locks it");
            let changes = changes(&current, &newer);
            take_over(reactor, &changes.config, part);
            // A new URL waits for a restart, and its files with it.
            if let Some(tls) = tls.filter(|_| changes.config.redis == newer.redis) {
                reactor.set_redis_tls(&tls);
            }
            let nothing = changes.live.is_empty() && changes.pending.is_empty();
            let nothing = if nothing { ": nothing changed" } else { "" };
            log::log!(tells, "the settings were read again{nothing}");
            changes.live.iter().for_each(|change| log::log!(tells, "changed: {change}"));
            let warns = if tells == log::Level::Info { log::Level::Warn } else { tells };
            changes.pending.iter().for_each(|change| log::log!(warns, "needs a restart: {change}"));
            *current = changes.config;
            key_set::watch(reactor, &in_force, &current.jwt);
            if let Some((certificates, tickets)) = certificates {
                tls::take_over(reactor, certificates, tickets);
            }
        });
        Ok(step)
    })
}

fn take_over(reactor: &mut Reactor, config: &Config, part: LoopPart) {
    let mut bounds = config.bounds.clone();
    match part {
        LoopPart::Alone => {
            match descriptors::clients_max(bounds.clients_max, publishers_max(config)) {
                Ok(clients_max) => bounds.clients_max = clients_max,
                Err(error) => {
                    log::warn!("clients_max stays as it was: {error}");
                    bounds.clients_max = reactor.router.server.bounds.clients_max;
                }
            }
        }
        LoopPart::Parent => {}
        LoopPart::Worker => {
            share(&mut bounds, config.loops());
            // The parent lends it.
            bounds.clients_max = reactor.router.server.bounds.clients_max;
        }
    }
    log::set_max_level(config.log);
    reactor.set_bounds(bounds);
    let router = &mut reactor.router;
    router.addresses.proxies = Box::new(config.proxies.clone());
    router.challenges.webroot = config.acme_webroot.clone();
    router.server.revocations.keep_for(config.jwt.ended_seconds());
    if let Some(signer) = config.signer() {
        router.server.resume.signer = signer;
    }
    reload_routes(reactor, config);
    need_users(reactor, config);
}

/// Gives every route its settings.
pub(super) fn reload_routes(reactor: &mut Reactor, config: &Config) {
    for route in &config.routes {
        let settings = RouteSettings { jwt: config.jwt.clone(), route: route.clone() };
        reactor.router.reload_route(&route.path, route.origins.clone(), &settings);
    }
}
