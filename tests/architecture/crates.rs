//! Outside crates, the clock and shared state: each has its one home.

use std::collections::BTreeSet;

use crate::tree::{names_after, sources};

/// The one home of each outside crate: files, or folders with what is in them.
const HOMES: [(&str, &[&str]); 22] = [
    (
        "data_encoding",
        &["push/", "engine/client/http.rs", "engine/client/event_stream/", "cli/forward/"],
    ),
    ("getrandom", &["serve/", "engine/reactor/redis_socket.rs", "app.rs"]),
    ("jsonwebtoken", &["push/"]),
    ("lexopt", &["cli/args.rs"]),
    ("miniz_oxide", &["build.rs", "embedded.rs", "engine/client/deflate/"]),
    // A feature with a listener of its own reads and writes its sockets itself.
    (
        "mio",
        &[
            "engine/reactor/",
            "engine/client/transport.rs",
            "engine/signals.rs",
            "loops/",
            "features/publisher/",
            "features/zeromq/",
        ],
    ),
    ("redis", &["engine/redis/", "features/", "cli/redis_client.rs"]),
    ("ring", &["engine/tls/", "engine/resume/cursor/", "push/", "tls/tickets.rs"]),
    (
        "rustix",
        &[
            "observe/descriptors.rs",
            "observe/logger.rs",
            "features/overload/",
            "observe/metrics/",
            "observe/systemd.rs",
            "engine/reactor/listeners.rs",
            "engine/reactor/shared_listeners.rs",
            "engine/reactor/unix_socket.rs",
            "engine/router/challenges.rs",
            "tls/files.rs",
            "tls/tests.rs",
            "upgrade/",
            "cli/upgrade.rs",
        ],
    ),
    (
        "rustls",
        &[
            "cli/dial.rs",
            "engine/tls/",
            "tls/",
            "engine/redis/tls.rs",
            "engine/reactor/redis_stream.rs",
        ],
    ),
    ("rustls_native_certs", &["tls/"]),
    ("webpki", &["tls/"]),
    (
        "serde",
        &[
            "features/control/",
            "features/receipts/",
            "features/zeromq/",
            "json.rs",
            "observe/backlog_report.rs",
            "push/",
        ],
    ),
    (
        "serde_json",
        &[
            "features/control/",
            "features/receipts/",
            "features/zeromq/",
            "json.rs",
            "observe/backlog_report.rs",
            "observe/logger.rs",
            "cli/slowest.rs",
            "cli/subscribe/",
            "push/",
        ],
    ),
    ("signal_hook", &["engine/signals.rs"]),
    ("siphasher", &["engine/resume/cursor/"]),
    ("slab", &["engine/slots.rs", "engine/reactor/port_connections.rs"]),
    ("smol_str", &["engine/pubsub/hub/"]),
    ("socket2", &["cli/dial.rs", "engine/client/transport.rs", "engine/reactor/"]),
    ("toml", &["config/"]),
    ("tungstenite", &["engine/client/", "cli/websocket_client.rs"]),
    ("zeroize", &["engine/tls/", "tls/", "upgrade/"]),
];

/// A facade, used everywhere.
const EVERYWHERE: [&str; 1] = ["log"];

#[test]
fn each_outside_crate_has_one_home() {
    let manifest = include_str!("../../Cargo.toml");
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let lines = section.lines().filter(|line| !line.starts_with('#') && line.contains('='));
    let named: BTreeSet<String> =
        lines.map(|line| line.split(['=', '.']).next().unwrap().trim().replace('-', "_")).collect();
    let known = HOMES.iter().map(|(name, _)| *name).chain(EVERYWHERE);
    assert_eq!(named, known.map(str::to_owned).collect(), "the crates of Cargo.toml");
    for source in sources() {
        for (name, homes) in HOMES {
            let is_used = names_after(&source.code, &format!("{name}::")).next().is_some();
            let at_home = homes.iter().any(|home| source.path.starts_with(home));
            assert!(!is_used || at_home, "{} uses {name}", source.path);
        }
    }
}

#[test]
fn only_the_loop_polls_and_reads_the_clock() {
    const ALLOWED: [&str; 3] = ["engine/reactor/mod.rs", "engine/reactor/time.rs", "main.rs"];
    for source in sources() {
        let allowed = ALLOWED.contains(&source.path.as_str());
        for forbidden in ["Instant::now", "SystemTime", "Poll::new", ".poll("] {
            assert!(allowed || !source.code.contains(forbidden), "{}: {forbidden}", source.path);
        }
    }
}

#[test]
fn nothing_is_shared_that_could_be_borrowed_twice() {
    for source in sources() {
        for forbidden in ["RefCell", "unsafe ", "todo!", "unimplemented!"] {
            // The allocator is the program's choice, and one call of it has no safe name.
            let excused = source.path == "main.rs" && forbidden == "unsafe ";
            let most = usize::from(excused);
            let count = source.code.matches(forbidden).count();
            assert!(count <= most, "{}: {forbidden}", source.path);
        }
    }
}
