//! The checks of the machine: descriptors, the queue of the listener, memory, ports.

use std::fs;

use super::report::{Fine, Problem, Report, Warning};
use crate::cli::numbers::{bytes, count};
use crate::config::Config;
use crate::engine::bounds::Bounds;
use crate::engine::reactor::BACKLOG;
use crate::observe::descriptors;

/// The memory of an idle client with its topics, and of its socket in the kernel (`benches/million.rs`).
const CLIENT_BYTES: u64 = 140;
const SOCKET_BYTES: u64 = 4096;

/// The memory of the program without clients.
const START_BYTES: u64 = 4 << 20;

/// If `clients_max` is not set, room for fewer clients gets a warning.
const FEW: u64 = 10_000;

/// Runs the checks. `running`: the descriptor limit of the running server, if known.
pub(super) fn check(report: &mut Report, config: &Config, running: Option<u64>) {
    let bounds = &config.bounds;
    let room = descriptors(report, config, running);
    let clients = if bounds.clients_max == 0 { room } else { bounds.clients_max as u64 };
    let processes = match config.loops() {
        1 => 1,
        loops => loops as u64 + 1,
    };
    queue(report);
    memory(report, bounds, clients, processes);
    ports(report, clients);
}

/// Checks the descriptor limit. Returns the number of clients that it leaves room for.
fn descriptors(report: &mut Report, config: &Config, running: Option<u64>) -> u64 {
    let (allowed, whose) = match running {
        Some(allowed) => (allowed, "running server"),
        None => (descriptors::descriptors().unwrap_or(1 << 20), "this shell"),
    };
    let own = (descriptors::RESERVE + config.publisher_bounds.connections_max) as u64;
    // Each loop has its share of the clients, and a limit of its own.
    let loops = config.loops() as u64;
    let of_each = if loops > 1 { format!(" in {loops} loops") } else { String::new() };
    let (room, wanted) = (allowed.saturating_sub(own) * loops, config.bounds.clients_max as u64);
    let seen = format!("limit {allowed} ({whose}), room for {room} clients{of_each}");
    let needed = (wanted.max(FEW).div_ceil(loops) + own).next_multiple_of(1024);
    let mut mend = format!(
        "LimitNOFILE={needed} in the unit of systemd, or before a start by hand: ulimit -n {needed}"
    );
    if number("/proc/sys/fs/nr_open").is_some_and(|most| most < needed) {
        mend += &format!("; before both: sysctl -w fs.nr_open={needed}");
    }
    if wanted > room {
        let why = format!("clients_max is {wanted}, and {own} more are its own and publishers'");
        report.say(Problem, "descriptors", &seen, &why, &mend);
    } else if wanted == 0 && room < FEW {
        let why = "clients_max is not set, so this is the bound";
        report.say(Warning, "descriptors", &seen, why, &mend);
    } else {
        report.ok("descriptors", &seen);
    }
    room
}

/// Checks the queues of connections to accept. That of TCP handshakes in progress is unbounded if cookies replace it (tcp(7),
/// `tcp_syncookies`).
fn queue(report: &mut Report) {
    const WHY: &str = "in a burst of new clients what does not fit is dropped, and tried again after 1 s, 3 s, 7 s";
    let wanted = BACKLOG as u64;
    for (name, path, is_bound) in [
        ("somaxconn", "/proc/sys/net/core/somaxconn", true),
        (
            "syn-backlog",
            "/proc/sys/net/ipv4/tcp_max_syn_backlog",
            number("/proc/sys/net/ipv4/tcp_syncookies") == Some(0),
        ),
    ] {
        let key = path.trim_start_matches("/proc/sys/").replace('/', ".");
        match number(path) {
            None => report.ok(name, "not told here"),
            Some(most) if most < wanted && is_bound => {
                let seen = format!("{key} is {most}; the listener asks for {wanted}");
                report.say(Warning, name, &seen, WHY, &format!("sysctl -w {key}={wanted}"));
            }
            Some(most) => {
                report.ok(name, &format!("{most}{}", [", and cookies", ""][usize::from(is_bound)]))
            }
        }
    }
}

/// Checks the memory at the worst. Each of so many `processes` has a history; the bounds on clients they share.
fn memory(report: &mut Report, bounds: &Bounds, clients: u64, processes: u64) {
    let machine = text("/proc/meminfo").and_then(|text| total(&text));
    let groups = text("/proc/self/cgroup").unwrap_or_default();
    let limit = group_files(&groups).iter().filter_map(|path| number(path)).min();
    let Some(there) = machine.into_iter().chain(limit).min() else {
        return report.ok("memory", "not told here");
    };
    // The number may come from any program that answers at `admin`.
    let clients = clients.min(u64::from(u32::MAX));
    let shared = bounds.unfinished_total_bytes_max
        + bounds.backlog_total_bytes_max
        + bounds.subscriptions_bytes_max;
    let of_each = START_BYTES + bounds.history_bytes_max as u64;
    let (held, sockets) = (shared as u64 + processes * of_each, clients * SOCKET_BYTES);
    let ceiling = if bounds.memory_max == 0 { u64::MAX } else { bounds.memory_max as u64 };
    let needed = sockets + (clients * CLIENT_BYTES + held).min(ceiling);
    let shown = |number: u64| bytes(number as f64);
    let seen = format!(
        "{} of {} at the worst: {} clients, {} in the kernel for their sockets",
        shown(needed),
        shown(there),
        count(clients as f64),
        shown(sockets)
    );
    let is_set = bounds.clients_max > 0;
    let level = match needed {
        _ if needed > there && is_set => Problem,
        _ if needed > there / 4 * 3 => Warning,
        _ => return report.ok("memory", &seen),
    };
    let each = CLIENT_BYTES + SOCKET_BYTES;
    let fit = (there / 4 * 3).saturating_sub(held.min(ceiling)) / each;
    let why = if is_set { "" } else { "clients_max is not set: descriptors are the bound" };
    let mend = match fit {
        0 => format!("memory_max = {}", there / 2),
        fit => format!("clients_max = {fit}, or a machine with {}", shown(needed / 3 * 4)),
    };
    report.say(level, "memory", &seen, why, &mend);
}

/// Checks the local ports: of a connection's four numbers, only the sender's port varies from one address to one listener.
fn ports(report: &mut Report, clients: u64) {
    let range = text("/proc/sys/net/ipv4/ip_local_port_range");
    let range: Vec<u64> =
        range.iter().flat_map(|text| text.split_whitespace()).flat_map(str::parse).collect();
    let [first, last] = range[..] else { return report.ok("ports", "not told here") };
    let most = (last + 1).saturating_sub(first);
    if clients <= most {
        return report.ok("ports", &format!("{most}: enough for a proxy on this machine"));
    }
    report.say(
        Fine,
        "ports",
        &format!("{most}: clients who come directly share no port"),
        "a proxy on this machine can hold so many connections to one address of a listener",
        "listen at a Unix socket too, or: sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\", and more addresses by proxy_bind",
    );
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn number(path: &str) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

/// Reads the machine's memory in bytes from /proc/meminfo.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Lists the files with the limits of the groups in /proc/self/cgroup, and of the groups around them.
fn group_files(text: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(kind), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match kind {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut group = group.trim_end_matches('/');
        loop {
            files.push([root, group, "/", file].concat());
            match group.rsplit_once('/') {
                Some((around, _)) => group = around,
                None => break,
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_machine_is_read() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       16 kB\n"), Some(16 * 1024));
        for broken in ["", "MemTotal: x kB", "MemTotal: 16", "MemTotal: 18446744073709551615 kB"] {
            assert_eq!(total(broken), None, "{broken}");
        }
    }

    #[test]
    fn every_group_around_the_process_may_bound_it() {
        let second = group_files("0::/a.slice/b.scope\n");
        let expected = ["/a.slice/b.scope", "/a.slice", ""];
        assert_eq!(second, expected.map(|group| format!("/sys/fs/cgroup{group}/memory.max")));
        let first = group_files("3:cpu:/x\n2:memory:/\nbroken\n");
        assert_eq!(first, ["/sys/fs/cgroup/memory/memory.limit_in_bytes"]);
    }

    fn said(check: impl Fn(&mut Report)) -> String {
        let mut out = Vec::new();
        check(&mut Report::new(&mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn descriptors_are_compared_with_what_is_asked_for() {
        let config = |clients_max| Config {
            bounds: Bounds { clients_max, ..Bounds::default() },
            ..Config::default()
        };
        let found = |clients_max, allowed| {
            said(|report| {
                descriptors(report, &config(clients_max), Some(allowed));
            })
        };
        assert!(
            found(0, 1 << 20)
                .starts_with("ok       descriptors   limit 1048576 (running server), room")
        );
        assert!(found(896, 1024).starts_with("ok "), "{}", found(896, 1024));
        let few = found(897, 1024);
        assert!(few.starts_with("problem  ") && few.contains("LimitNOFILE=10240"), "{few}");
        assert!(found(0, 1024).starts_with("warning  "));
        let several = Config { loops: 2, ..config(1792) };
        let found = said(|report| {
            descriptors(report, &several, Some(1024));
        });
        assert!(found.starts_with("ok ") && found.contains("1792 clients in 2 loops"), "{found}");
    }

    #[test]
    fn memory_is_compared_with_the_worst() {
        let found = |bounds: Bounds, clients| said(|report| memory(report, &bounds, clients, 1));
        let many = 1 << 40;
        assert!(found(Bounds::default(), many).starts_with("warning  memory "));
        let set = || Bounds { clients_max: 1, ..Bounds::default() };
        let worst = found(set(), many);
        assert!(
            worst.starts_with("problem  ") && worst.contains("mend: clients_max = "),
            "{worst}"
        );
        assert!(found(set(), 1).starts_with("ok "));
        let held = Bounds { backlog_total_bytes_max: 1 << 50, ..set() };
        assert!(found(held.clone(), 1).contains("mend: memory_max = "));
        assert!(found(Bounds { memory_max: 1 << 20, ..held }, 1).starts_with("ok "));
    }
}
