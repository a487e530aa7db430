//! The cost of idle connections: a ping now and then, and nothing at all without pings.
//!
//! A ping costs at least one `send`: the bare loop makes it for the same 2 bytes to as many sockets, in a row, and at the pace
//! of the pings, a lot of them after each sleep, when caches are cold: that one is compared with. A client that answers its pings makes
//! the server read as well; both are shown, and the budget is for the pings alone.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::bare_sender::{self, BareSender};
use support::idle_clients::{self, IdleClients};
use support::process::wait_until;
use support::receivers::{self, Receivers};
use support::report::{self, grouped, median, rounded, rounded_to};
use support::server::Server;
use support::usage::{CpuTime, context_switches};
use support::{Options, connections_max};

/// Whole rounds of pings that are measured, after one that is not.
const ROUNDS: u64 = 2;

/// Rounds of the bare loop.
const BARE_ROUNDS: usize = 10;

/// The most that a ping may cost, in terms of one `send`.
const RATIO_MAX: f64 = 1.0;

/// A loop that has done all it had to is awake no more after so long: what a burst left is given back a second later, and so
/// long after a handshake the loop looks once whether it was in time.
const CALM: Duration = Duration::from_secs(3);

/// The time limit of a handshake, shorter than by default.
const HEAD: [&str; 2] = ["--head-seconds", "1"];

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == receivers::ROLE => receivers::run(rest),
        Some([role, rest @ ..]) if role == idle_clients::ROLE => idle_clients::run(rest),
        Some([role, rest @ ..]) if role == bare_sender::ROLE => bare_sender::run(rest),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let clients = connections_max().min(options.pick(usize::MAX, 500));
    let seconds = options.pick(25, 1);
    let bare = send_bare(clients, seconds);
    let silent = ping(clients, seconds, false);
    let answered = ping(clients, seconds, true);
    let asleep = sleep(clients, Duration::from_secs(options.pick(10, 3) as u64));
    print(clients, seconds, &bare, &silent, &answered, &asleep);
    check(clients, seconds, &silent, &answered, &asleep);
    report::print(
        "idle",
        options,
        json!({
            "clients": clients,
            "frame_bytes": idle_clients::PING.len(),
            "ping_seconds": seconds,
            "rounds": ROUNDS,
            "bare_ns_per_send": {
                "in_a_row": rounded(bare.in_a_row),
                "spread": rounded(bare.spread),
            },
            "pings_unanswered": silent.json(&bare),
            "pings_answered": answered.json(&bare),
            "without_pings": {"seconds": asleep.seconds, "wake_ups": asleep.wake_ups},
            "budget_ratio": RATIO_MAX,
        }),
    );
}

/// Nanoseconds that a loop uses for each `send` of as many bytes.
struct Bare {
    /// In the median of some rounds in which it sends to all in a row.
    in_a_row: f64,
    /// Nanoseconds if it sends to all at the pace of the pings, and sleeps meanwhile.
    spread: f64,
}

fn send_bare(clients: usize, seconds: usize) -> Bare {
    // A frame of the same length as a ping: a text of nothing.
    let mut sender = BareSender::start(clients, "", true);
    let mut receivers = Receivers::start(sender.address, clients, true);
    sender.wait_for_all();
    let mut round = |send: &dyn Fn(&mut BareSender)| {
        let before = sender.cpu_time();
        receivers.expect(1);
        send(&mut sender);
        receivers.wait();
        sender.wait();
        sender.cpu_time().since(before).total as f64 / clients as f64
    };
    // Not counted: the first round finds cold caches.
    round(&|sender| sender.send(1));
    let rounds: Vec<f64> = (0..BARE_ROUNDS).map(|_| round(&|sender| sender.send(1))).collect();
    Bare { in_a_row: median(&rounds), spread: round(&|sender| sender.send_spread(seconds)) }
}

/// The server's usage in the measured rounds.
struct Pinged {
    pings: u64,
    used: CpuTime,
    turns: u64,
    wake_ups: u64,
}

fn ping(clients: usize, seconds: usize, answer: bool) -> Pinged {
    let server = Server::start(&["--admin", "127.0.0.1:0", "--ping-seconds", &seconds.to_string()]);
    let idle_clients = IdleClients::start(server.clients, clients, answer);
    idle_clients.wait_for_round();
    let read = || {
        let metrics = server.metrics();
        let counts = [metrics.get("writes_total"), metrics.get("turns_total")];
        (counts, context_switches(server.pid()), server.cpu_time())
    };
    let (before, wake_ups, used) = read();
    for _ in 0..ROUNDS {
        idle_clients.wait_for_round();
    }
    let after = read();
    drop(idle_clients);
    let pinged = Pinged {
        // A single write is the answer about the first count of them.
        pings: after.0[0] - before[0] - 1,
        turns: after.0[1] - before[1],
        wake_ups: after.1 - wake_ups,
        used: after.2.since(used),
    };
    server.stop();
    pinged
}

/// A server's usage over some seconds without any activity.
struct Asleep {
    seconds: f64,
    wake_ups: u64,
}

fn sleep(clients: usize, time: Duration) -> Asleep {
    let server = Server::start(&HEAD);
    let _idlers = IdleClients::start(server.clients, clients, false);
    let mut calm = (context_switches(server.pid()), Instant::now());
    let is_calm = wait_until(|| {
        let switches = context_switches(server.pid());
        if switches != calm.0 {
            calm = (switches, Instant::now());
        }
        calm.1.elapsed() > CALM
    });
    assert!(is_calm, "the server does not come to rest");
    let (before, start) = (context_switches(server.pid()), Instant::now());
    std::thread::sleep(time);
    let wake_ups = context_switches(server.pid()) - before;
    Asleep { seconds: rounded(start.elapsed().as_secs_f64()), wake_ups }
}

/// The budgets by count. Each ping is a write of its own, they come in few turns, and no pings are no turns.
fn check(clients: usize, seconds: usize, silent: &Pinged, answered: &Pinged, asleep: &Asleep) {
    let rounds = ROUNDS * clients as u64;
    for pinged in [silent, answered] {
        // A round ends with its last ping, when some of the next round may be under way.
        let pings = pinged.pings as f64 / rounds as f64;
        assert!((0.8..=1.2).contains(&pings), "{pings:.2} pings for each client and round");
    }
    let ticks = ROUNDS * seconds as u64 * 10;
    let turns_max = 2 * ticks + rounds / 64 + 20;
    assert!(silent.turns <= turns_max, "{} turns in {ticks} ticks", silent.turns);
    let turns_max = turns_max + 2 * rounds;
    assert!(answered.turns <= turns_max, "{} turns for {rounds} answers", answered.turns);
    assert_eq!(asleep.wake_ups, 0, "a loop without deadlines sleeps");
}

impl Pinged {
    fn nanoseconds(&self) -> f64 {
        self.used.total as f64 / self.pings as f64
    }

    fn json(&self, bare: &Bare) -> Value {
        json!({
            "pings": self.pings,
            "ns_per_ping": rounded(self.nanoseconds()),
            "user_share": rounded(self.used.user_share()),
            "ratio": rounded(self.nanoseconds() / bare.spread),
            "turns_per_ping": rounded_to(self.turns as f64 / self.pings as f64, 4),
            "wake_ups_per_ping": rounded_to(self.wake_ups as f64 / self.pings as f64, 4),
        })
    }
}

fn print(
    clients: usize,
    seconds: usize,
    bare: &Bare,
    silent: &Pinged,
    answered: &Pinged,
    asleep: &Asleep,
) {
    println!("{} clients, a ping every {seconds} s, {ROUNDS} rounds\n", grouped(clients as i64));
    println!(
        "{:<26}{:>12}{:>10}{:>12}{:>12}",
        "", "ns a ping", "ratio", "turns each", "wakes each"
    );
    for (name, each) in [("one send, in a row", bare.in_a_row), ("one send, spread", bare.spread)] {
        println!("{name:<26}{each:>12.0}{:>10.2}", each / bare.spread);
    }
    for (name, pinged) in [("pings", silent), ("pings and their answers", answered)] {
        let each = |count: u64| count as f64 / pinged.pings as f64;
        println!(
            "{name:<26}{:>12.0}{:>10.2}{:>12.3}{:>12.3}",
            pinged.nanoseconds(),
            pinged.nanoseconds() / bare.spread,
            each(pinged.turns),
            each(pinged.wake_ups)
        );
    }
    println!("\nwithout pings: {} wake-ups in {} s\n", asleep.wake_ups, asleep.seconds);
}
