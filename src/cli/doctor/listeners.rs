//! The checks of the server's own addresses: free, taken by a oneloop, or by another program.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use super::report::{Report, Warning};
use crate::cli::dial;
use crate::cli::websocket::WebSocket;
use crate::config::{Config, reachable};
use crate::engine::client::proxy_protocol::LOCAL;

/// The state of an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PortState {
    Free,
    Taken,
    /// Not available, which was reported.
    Refused,
}

pub(super) fn check(report: &mut Report, config: &Config) {
    let runs = match bind(report, "listen", config.listen) {
        PortState::Taken => is_ours(report, config),
        _ => false,
    };
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
    if let Some(publishers) = config.publishers
        && bind(report, "publishers", publishers) == PortState::Taken
    {
        match runs {
            true => report.ok("publishers", &format!("{publishers} is served")),
            false => taken(report, "publishers", publishers),
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
            "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit of systemd, or: \
             sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
        ),
        _ => "ip -brief address (it must be one of these)".to_owned(),
    };
    report.problem(name, &format!("{address} cannot be had: {error}"), &mend);
    PortState::Refused
}

/// Returns whether the program that listens is a oneloop.
fn is_ours(report: &mut Report, config: &Config) -> bool {
    let address = reachable(config.listen);
    if config.proxy_protocol && !config.proxies.has(address.ip()) {
        let why = format!("{} is taken; only proxies are told by whom", config.listen);
        report.unseen("listen", &why, "");
        return true;
    }
    let address = address.to_string();
    let path = config.routes.first().map_or("/", |route| route.path.as_str());
    let origin = ["http://", &address].concat();
    let socket =
        dial::connect(&address).map_err(|error| error.to_string()).and_then(|mut connection| {
            if config.proxy_protocol {
                let _ = connection.write(LOCAL);
            }
            WebSocket::begin(connection, &address, path, &origin, crate::push::PROTOCOL)
        });
    let status = match &socket {
        Ok(socket) if socket.is_ours => socket.status,
        _ => {
            taken(report, "listen", config.listen);
            return false;
        }
    };
    report
        .ok("listen", &format!("{} is served by a oneloop (it answered {status})", config.listen));
    true
}

fn taken(report: &mut Report, name: &str, address: SocketAddr) {
    report.problem(
        name,
        &format!("{address} is taken by something that is no oneloop"),
        &format!("ss -ltnp 'sport = :{}' (it names who has it)", address.port()),
    );
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
