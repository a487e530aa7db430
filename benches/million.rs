//! A million clients in one process: what the server holds for them, and how long its turns are meanwhile.
//!
//! No process has a million descriptors, so the clients have no sockets: the same loop, handler and clients as in the binary
//! are driven over far ends in memory, which make the handshakes, answer the pings and check each frame. They run inside the
//! loop's turns, so the times below are a little longer than the server's own. A publisher comes over a real socket.

mod support;

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::Events;
use oneloop::app::publisher_port;
use oneloop::config::{Config, Proxies};
use oneloop::engine::client::in_memory::install;
use oneloop::engine::handler::Route;
use oneloop::engine::origin::Origins;
use oneloop::engine::reactor::{Plan, Reactor, Readiness, UnixAccess};
use oneloop::engine::resume::cursor::Signer;
use oneloop::engine::slots::ConnId;
use oneloop::features::overload::Overload;
use oneloop::observe::metrics::Histogram;
use oneloop::push::Push;
use oneloop::push::token::Keys;
use serde_json::{Value, json};
use support::chart::{Axis, Chart};
use support::memory_peers::{MemoryPeers, PeerState, SharedPeers};
use support::report::{self, grouped, rounded};
use support::server::{SECRET, SHARED_TOPIC};
use support::usage::memory;
use support::{DEADLINE, Options};

/// At most so many bytes for each client, and for all that the process holds.
const BYTES_PER_CLIENT_MAX: f64 = 160.0;
const RESIDENT_MAX: i64 = 160_000_000;

/// New connections in one turn: as many as the server accepts.
const ATTACHED_PER_TURN: usize = 64;

/// The durations of the turns of one phase.
struct Phase {
    name: &'static str,
    seconds: f64,
    turns: Histogram,
}

struct Bench {
    reactor: Reactor,
    events: Events,
    peers: SharedPeers,
    ids: Vec<ConnId>,
    publisher: TcpStream,
    phases: Vec<Phase>,
    /// Anonymous memory before the first client, with what the far ends occupy.
    empty: i64,
}

fn main() {
    let options = Options::read();
    let clients = options.pick(1_000_000, 20_000);
    let mut bench = Bench::start(clients, options.pick(25, 1) as u32);
    let steps = bench.connect(clients);
    let resident = memory(std::process::id()).resident;
    bench.keep_alive(clients);
    let after_pings = bench.bytes_per_client(clients);
    bench.publish_to_one(clients / 2 + 1);
    let (wait, peak) = bench.publish_to_all(clients);
    let after_messages = bench.bytes_per_client(clients);
    let left = bench.leave(clients);
    draw(&options, &steps);

    println!("resident with {} clients: {} bytes\n", grouped(clients as i64), grouped(resident));
    println!("{:<44}{:>16}", "", "bytes per client");
    for (count, bytes) in &steps {
        println!("{:>10} {:<33}{bytes:>16.1}", grouped(*count as i64), "connected");
    }
    println!("{:<44}{after_pings:>16.1}", "after each was pinged and answered");
    println!("{:<44}{after_messages:>16.1}", "after each was sent a broadcast");
    println!(
        "\na broadcast in {:.2} s, in the middle of it a message to one in {:.2} ms",
        wait[0],
        wait[1] * 1e3
    );
    println!("most memory during the broadcast: {} bytes more", grouped(peak));
    println!("left above the start when all have gone: {} bytes\n", grouped(left));
    bench.print_phases();
    let phases: Vec<Value> = bench.phases.iter().map(Phase::json).collect();
    let steps_json: Vec<Value> = steps
        .iter()
        .map(|(count, bytes)| json!({"clients": count, "bytes_per_client": rounded(*bytes)}))
        .collect();
    report::print(
        "million",
        &options,
        json!({
            "clients": clients,
            "resident_bytes": resident,
            "steps": steps_json,
            "after_pings_bytes_per_client": rounded(after_pings),
            "after_broadcast_bytes_per_client": rounded(after_messages),
            "broadcast_seconds": rounded(wait[0]),
            "one_during_broadcast_ms": rounded(wait[1] * 1e3),
            "broadcast_peak_bytes": peak,
            "left_bytes": left,
            "phases": phases,
        }),
    );
    // Below ten thousand what the loop needs once, 100 KB of buffers and first pages, is not spread wide enough.
    let steps = steps.iter().filter(|step| step.0 >= 10_000).map(|step| step.1);
    for bytes in steps.chain([after_pings, after_messages]) {
        assert!(bytes <= BYTES_PER_CLIENT_MAX, "{bytes} bytes per client");
    }
    assert!(resident <= RESIDENT_MAX, "{resident} bytes resident");
    assert!(left <= 2_000_000, "{left} bytes left");
}

fn draw(options: &Options, steps: &[(usize, f64)]) {
    let x = Axis::log("idle connections, over transports in memory");
    let y = Axis::linear("bytes per connection, user space");
    let points = steps.iter().map(|(clients, bytes)| (*clients as f64, *bytes)).collect();
    Chart::new("Memory of an idle, authenticated connection with two topics", x, y)
        .with("oneloop", points)
        .write("million", options);
}

impl Bench {
    fn start(clients: usize, ping_seconds: u32) -> Bench {
        let peers = SharedPeers(Rc::new(RefCell::new(MemoryPeers::new(clients))));
        install(Some(Box::new(peers.clone())));
        let reactor = Reactor::new(plan(clients, ping_seconds)).expect("ports are free");
        let address =
            reactor.addresses().port("publishers").expect("there is a port for publishers");
        let publisher = TcpStream::connect(address).expect("the port is open");
        publisher.set_nonblocking(true).expect("a socket takes its options");
        let mut bench = Bench {
            reactor,
            events: Events::with_capacity(1024),
            peers,
            ids: Vec::with_capacity(clients),
            publisher,
            phases: Vec::new(),
            empty: 0,
        };
        // The first one, in every place: so that the whole list is touched before memory is first measured.
        bench.ids.resize(clients, bench.reactor.attach());
        bench.empty = memory(std::process::id()).anonymous;
        bench.ids.truncate(1);
        bench
    }

    /// Runs a turn, with the input of the peers in it.
    fn turn(&mut self) {
        let ready = std::mem::take(&mut self.peers.0.borrow_mut().ready);
        for id in &ready {
            self.reactor.on_ready(*id, Readiness { readable: true, ..Readiness::default() });
        }
        let longest = if ready.is_empty() { Duration::from_millis(50) } else { Duration::ZERO };
        // The list is lent back, so that no turn is charged for a new one.
        let mut peers = self.peers.0.borrow_mut();
        peers.ready = ready;
        peers.ready.clear();
        drop(peers);
        let ended = self.reactor.turn(&mut self.events, Some(longest)).expect("epoll_wait works");
        assert_eq!(ended, None);
    }

    fn turn_until(&mut self, what: &str, mut holds: impl FnMut(&MemoryPeers) -> bool) {
        let start = Instant::now();
        while !holds(&self.peers.0.borrow()) {
            self.turn();
            assert!(start.elapsed() < 2 * DEADLINE, "in vain: {what}");
        }
    }

    /// Does something, and notes how long its turns took.
    fn phase<T>(&mut self, name: &'static str, work: impl FnOnce(&mut Bench) -> T) -> T {
        let (start, before) = (Instant::now(), self.reactor.metrics().turn_micros.clone());
        let result = work(self);
        let turns = self.reactor.metrics().turn_micros.since(&before);
        self.phases.push(Phase { name, seconds: start.elapsed().as_secs_f64(), turns });
        result
    }

    fn bytes_per_client(&self, clients: usize) -> f64 {
        (memory(std::process::id()).anonymous - self.empty) as f64 / clients as f64
    }

    /// All connect; returns the bytes of each at some counts, just above powers of two among them.
    fn connect(&mut self, clients: usize) -> Vec<(usize, f64)> {
        let counts = [0.02, 0.05, 0.1315, 0.2, 0.2625, 0.4, 0.525, 0.7, 0.85, 1.0];
        let counts = counts.map(|share| (share * clients as f64) as usize);
        self.phase("connect", |bench| {
            bench.say_hello(0);
            counts
                .into_iter()
                .map(|count| {
                    while bench.ids.len() < count {
                        for _ in 0..ATTACHED_PER_TURN.min(count - bench.ids.len()) {
                            let id = bench.reactor.attach();
                            bench.ids.push(id);
                            bench.say_hello(bench.ids.len() - 1);
                        }
                        bench.turn();
                    }
                    bench.turn_until("welcome", |peers| peers.opened == count);
                    (count, bench.bytes_per_client(count))
                })
                .collect()
        })
    }

    fn say_hello(&mut self, number: usize) {
        let id = self.ids[number];
        assert_eq!(id.index(), number, "slots are taken in their order");
        self.peers.0.borrow_mut().ready.push(id);
    }

    /// As long as it takes until everybody was pinged.
    fn keep_alive(&mut self, clients: usize) {
        self.phase("pings", |bench| {
            bench.peers.0.borrow_mut().pings = 0;
            bench.turn_until("pings", |peers| peers.pings >= clients);
        });
    }

    /// A message to one: nobody else gets it.
    fn publish_to_one(&mut self, number: usize) {
        self.peers.0.borrow_mut().expect_next();
        self.phase("message to one", |bench| {
            assert_eq!(bench.publish(&format!("user.u{number:07}")), 1);
            bench.turn_until("a message", |peers| peers.received > 0);
            for _ in 0..20 {
                bench.turn();
            }
        });
        let peers = self.peers.0.borrow();
        assert!(peers.received == 1 && peers.has_got(number), "to the one and to nobody else");
    }

    /// A broadcast, and in the middle of it a message to one: the seconds of both, and the most memory that was used.
    fn publish_to_all(&mut self, clients: usize) -> ([f64; 2], i64) {
        self.peers.0.borrow_mut().expect_next();
        let before = memory(std::process::id()).anonymous;
        let mut peak = 0;
        let wait = self.phase("broadcast", |bench| {
            let start = Instant::now();
            assert_eq!(bench.publish(SHARED_TOPIC), clients);
            bench.turn_until("a quarter", |peers| peers.received >= clients / 4);
            peak = memory(std::process::id()).anonymous - before;
            let one = bench.publish_within_a_broadcast(clients);
            bench.turn_until("the whole", |peers| peers.received >= clients);
            [start.elapsed().as_secs_f64(), one]
        });
        for _ in 0..20 {
            self.turn();
        }
        assert_eq!(self.peers.0.borrow().received, clients, "once each");
        (wait, peak)
    }

    /// To one who has got the broadcast already, so that it is told apart. Returns the seconds from publisher to client.
    fn publish_within_a_broadcast(&mut self, clients: usize) -> f64 {
        let number = (0..clients).rev().find(|number| self.peers.0.borrow().has_got(*number));
        let number = number.expect("a quarter has got it");
        // Counted as if it had not: the second message sets its bit again.
        let mut peers = self.peers.0.borrow_mut();
        peers.got[number / 64] &= !(1 << (number % 64));
        peers.received -= 1;
        drop(peers);
        let start = Instant::now();
        assert_eq!(self.publish(&format!("user.u{number:07}")), 1);
        self.turn_until("a message in between", |peers| peers.has_got(number));
        start.elapsed().as_secs_f64()
    }

    /// The number of clients that the server says it goes to.
    fn publish(&mut self, topic: &str) -> usize {
        let channel = format!("pub.{topic}");
        let length = channel.len();
        let command = format!("*3\r\n$7\r\nPUBLISH\r\n${length}\r\n{channel}\r\n$3\r\n\"x\"\r\n");
        self.publisher.write_all(command.as_bytes()).expect("the port takes a command");
        let mut line = Vec::new();
        let start = Instant::now();
        while !line.ends_with(b"\n") {
            self.turn();
            let mut byte = [0];
            match self.publisher.read(&mut byte) {
                Ok(length) => line.extend_from_slice(&byte[..length]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            while let Ok(1) = self.publisher.read(&mut byte) {
                line.push(byte[0]);
            }
            assert!(start.elapsed() < DEADLINE, "a publisher waits in vain");
        }
        let text = String::from_utf8(line).expect("RESP is ASCII here");
        text.trim().strip_prefix(':').and_then(|number| number.parse().ok()).expect("an integer")
    }

    /// All leave; returns what is left above the start, in bytes.
    fn leave(&mut self, clients: usize) -> i64 {
        self.phase("leave", |bench| {
            for part in 0..clients.div_ceil(4096) {
                let ids = &bench.ids[part * 4096..clients.min((part + 1) * 4096)];
                for id in ids {
                    bench.peers.0.borrow_mut().all[id.index()] = PeerState::Leaving;
                    let ending = Readiness { ending: true, ..Readiness::default() };
                    bench.reactor.on_ready(*id, ending);
                }
                bench.turn();
            }
            bench.turn_until("the end of all", |peers| peers.gone == clients);
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(1500) {
                bench.turn();
            }
        });
        memory(std::process::id()).anonymous - self.empty
    }

    fn print_phases(&self) {
        println!(
            "{:<18}{:>10}{:>10}{:>14}{:>14}{:>14}",
            "turns of", "seconds", "turns", "half within", "99 % within", "all within"
        );
        for phase in &self.phases {
            let [half, most, all] = [0.5, 0.99, 1.0].map(|share| milliseconds(&phase.turns, share));
            println!(
                "{:<18}{:>10.2}{:>10}{half:>11.3} ms{most:>11.3} ms{all:>11.3} ms",
                phase.name,
                phase.seconds,
                phase.turns.count()
            );
        }
        println!();
    }
}

impl Phase {
    fn json(&self) -> Value {
        let buckets: Vec<Value> = self
            .turns
            .buckets()
            .filter(|(_, count)| *count > 0)
            .map(|(micros, count)| json!([micros, count]))
            .collect();
        json!({"name": self.name, "seconds": rounded(self.seconds), "turns_by_micros": buckets})
    }
}

/// The bound of the bucket within which this share of all turns ended.
fn milliseconds(turns: &Histogram, share: f64) -> f64 {
    let enough = (turns.count() as f64 * share).ceil() as u64;
    let mut below = 0;
    let found = turns.buckets().find(|(_, count)| {
        below += count;
        below >= enough
    });
    found.map_or(0.0, |(micros, _)| micros / 1e3)
}

fn plan(clients: usize, ping_seconds: u32) -> Plan {
    let config = Config::default();
    let mut bounds = config.bounds.clone();
    bounds.clients_max = clients;
    bounds.ping_seconds = ping_seconds;
    let keys = Keys::from_secret(SECRET.as_bytes()).expect("the secret is good");
    let push = Push::new(Rc::new(keys), &config.routes[0]).expect("the route is good");
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    Plan {
        listen: vec![free.into()],
        listeners: Vec::new(),
        unix: UnixAccess::default(),
        proxies: Box::new(Proxies::default()),
        proxy_protocol: false,
        ports: vec![(free, publisher_port(&config))],
        admin: None,
        subscriber: None,
        commands: None,
        streams: None,
        expects_channels: true,
        demand: None,
        routes: vec![Route { path: "/ws".into(), origins: Origins::Any, handler: Box::new(push) }],
        features: vec![Box::new(Overload::new(Some(trim)))],
        prefix: config.prefix.clone(),
        signer: Signer::derived(SECRET.as_bytes(), None),
        bounds,
        handover: Default::default(),
        trim: Some(trim),
    }
}

/// As the binary does it.
fn trim() {
    unsafe extern "C" {
        safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    malloc_trim(0);
}
