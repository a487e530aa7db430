//! The checks of the server's own addresses: free, taken by a oneloop, or by another program.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use super::report::{Report, Warning};
use crate::cli::dial;
use crate::cli::websocket::WebSocket;
use crate::config::{Config, reachable};
use crate::engine::client::proxy_protocol::LOCAL;
use crate::engine::reactor::Listen;

/// The state of an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PortState {
    Free,
    Taken,
    /// Not available, which was reported.
    Refused,
}

pub(super) fn check(report: &mut Report, config: &Config) {
    let mut runs = false;
    for listen in &config.listen {
        let state = match listen {
            Listen::Tcp(address) | Listen::Tls(address) => bind(report, "listen", *address),
            Listen::Unix(path) => find(report, path),
        };
        runs |= state == PortState::Taken && is_ours(report, config, listen);
    }
    if let Some(admin) = config.admin {
        match bind(report, "admin", admin) {
            PortState::Taken => health(report, &reachable(admin).to_string()),
            PortState::Free if runs => report.say(
                Warning,
                "admin",
                &format!("nobody is at {admin}"),
                "the server that runs has other settings than these",
                "systemctl restart oneloop",
            ),
            _ => {}
        }
    }
    for (name, address) in [("publishers", config.publishers), ("zeromq", config.zeromq.address)] {
        let Some(address) = address else { continue };
        if bind(report, name, address) == PortState::Taken {
            match runs {
                true => report.ok(name, &format!("{address} is served")),
                false => taken(report, name, &address.into()),
            }
        }
    }
}

/// Tries to bind an address, and reports the result unless it is taken.
fn bind(report: &mut Report, name: &str, address: SocketAddr) -> PortState {
    let Err(error) = TcpListener::bind(address) else {
        report.ok(name, &format!("{address} is free: nobody is served there"));
        return PortState::Free;
    };
    let port = address.port();
    let mend = match error.kind() {
        ErrorKind::AddrInUse => return PortState::Taken,
        ErrorKind::PermissionDenied => format!(
            "AmbientCapabilities=CAP_NET_BIND_SERVICE, which oneloop unit --config FILE writes, or: \
             sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
        ),
        _ => "ip -brief address (it must be one of these)".to_owned(),
    };
    report.problem(name, &format!("{address} cannot be had: {error}"), &mend);
    PortState::Refused
}

/// Looks for a server at a Unix socket, and reports the result unless there is one.
fn find(report: &mut Report, path: &Path) -> PortState {
    let shown = path.display();
    let refused = match dial::connect(&format!("unix:{shown}")) {
        Ok(_) => return PortState::Taken,
        Err(error) => error,
    };
    match refused.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            report.ok("listen", &format!("unix:{shown} is free: nobody is served there"));
            PortState::Free
        }
        _ => {
            let seen = format!("unix:{shown} cannot be reached: {refused}");
            report.problem("listen", &seen, "unix.mode and unix.group, or: ls -l (it tells both)");
            PortState::Refused
        }
    }
}

/// Returns whether the program that listens is a oneloop.
fn is_ours(report: &mut Report, config: &Config, listen: &Listen) -> bool {
    let (address, peer) = match listen {
        Listen::Tcp(address) => (reachable(*address).to_string(), reachable(*address).ip()),
        Listen::Unix(_) => (listen.to_string(), Ipv4Addr::LOCALHOST.into()),
        Listen::Tls(_) => {
            let why = format!("{listen} is taken; its certificate needs a name to be checked");
            report.unseen("listen", &why, "oneloop doctor --url wss://NAME/ws");
            return true;
        }
    };
    if config.proxy_protocol && !config.proxies.has(peer) {
        let why = format!("{listen} is taken; only proxies are told by whom");
        report.unseen("listen", &why, "");
        return true;
    }
    let host = if matches!(listen, Listen::Unix(_)) { "localhost" } else { &address };
    let path = config.routes.first().map_or("/", |route| route.path.as_str());
    let origin = ["http://", host].concat();
    let socket =
        dial::connect(&address).map_err(|error| error.to_string()).and_then(|mut connection| {
            if config.proxy_protocol {
                let _ = connection.write(LOCAL);
            }
            WebSocket::begin(connection, host, path, &origin, crate::push::PROTOCOL)
        });
    let status = match &socket {
        Ok(socket) if socket.is_ours => socket.status,
        _ => {
            taken(report, "listen", listen);
            return false;
        }
    };
    report.ok("listen", &format!("{listen} is served by a oneloop (it answered {status})"));
    true
}

fn taken(report: &mut Report, name: &str, listen: &Listen) {
    let mend = match listen.socket_addr() {
        Some(address) => format!("ss -ltnp 'sport = :{}' (it names who has it)", address.port()),
        None => "ss -lxp (it names who has it)".to_owned(),
    };
    report.problem(name, &format!("{listen} is taken by something that is no oneloop"), &mend);
}

fn health(report: &mut Report, address: &str) {
    for path in ["/healthz", "/readyz"] {
        let answer = dial::fetch(address, path);
        let text = answer.unwrap_or_else(|error| error.to_string());
        let said = text.lines().last().unwrap_or_default().trim();
        let seen = ["http://", address, path, ": ", said].concat();
        match text.starts_with("HTTP/1.1 200 ") {
            true => report.ok("admin", &seen),
            false => report.problem("admin", &seen, "journalctl -u oneloop (it says why)"),
        }
    }
}
