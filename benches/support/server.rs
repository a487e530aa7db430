//! The server under test: the real binary as a child.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oneloop::push::token::Keys;
use rustix::process::Signal;

use super::admin::Metrics;
use super::process::{self, Lines, wait_until};
use super::tls::{Certificate, Security};
use super::usage::{CpuTime, Memory, children, cpu_time, is_gone, memory};

/// The binary that is measured, if no other one is named.
pub const BINARY: &str = env!("CARGO_BIN_EXE_oneloop");

/// Names another binary to be measured, an older one for example.
const ANOTHER: &str = "ONELOOP_BENCH_BINARY";

/// Returns whether another binary is measured than the one that was built with the bench.
pub fn is_another() -> bool {
    std::env::var_os(ANOTHER).is_some()
}

/// The topic that every client is subscribed to, beside its own.
pub const SHARED_TOPIC: &str = "news";

/// The secret that signs tokens.
pub const SECRET: &str = "a secret for benches alone, long enough";

/// No port is fixed.
const FREE_PORT: &str = "127.0.0.1:0";
const FREE_PORTS: [&str; 4] = ["--publishers", FREE_PORT, "--log", "warn"];

/// Nothing happens but what the bench does: no pings, no end of patience.
const QUIET: [&str; 6] = ["--publishers-max", "4", "--ping-seconds", "0", "--silence-seconds", "0"];

/// Names a library that the server is to be started with, for the comparison of allocators: `libjemalloc.so.2` and the like.
const PRELOAD: &str = "ONELOOP_BENCH_PRELOAD";

/// A running server; it ends with the value.
pub struct Server {
    child: Child,
    /// The process that has taken the child's place, if there was an upgrade.
    successor: Option<u32>,
    flags: Vec<String>,
    /// The time at which the process was asked for.
    pub started: Instant,
    /// The first address for clients.
    pub clients: SocketAddr,
    /// The first address for clients over TLS.
    pub tls_clients: Option<SocketAddr>,
    /// The address for publishers.
    pub publishers: SocketAddr,
    /// The address for ZeroMQ, if `--zeromq` was among the flags.
    pub zeromq: Option<SocketAddr>,
    /// The admin listener, if `--admin` was among the flags.
    pub admin: Option<SocketAddr>,
    /// Read on, so that the server never meets a closed pipe.
    _lines: Lines,
}

impl Server {
    /// Starts the binary and reads its addresses. It does nothing by itself.
    pub fn start(flags: &[&str]) -> Server {
        Server::start_as_it_comes(&[&QUIET[..], flags].concat())
    }

    /// The same for clients that come plainly or over TLS.
    pub fn start_for(security: Security, flags: &[&str]) -> Server {
        match security {
            Security::Plain => Server::start(flags),
            Security::Tls12 | Security::Tls13 => Server::start_tls(Certificate::P256, flags),
        }
    }

    /// The same with a listener for TLS alone, which shows this certificate.
    pub fn start_tls(certificate: Certificate, flags: &[&str]) -> Server {
        let (chain, key) = (certificate.chain_file(), certificate.key_file());
        let tls = ["--tls-cert-file", &chain, "--tls-key-file", &key];
        Server::start_at("tls://127.0.0.1:0", &[&QUIET[..], &tls[..], flags].concat())
    }

    /// The same with its pings and its patience.
    pub fn start_as_it_comes(flags: &[&str]) -> Server {
        Server::start_at(FREE_PORT, flags)
    }

    /// Starts it where clients are to find it again after [`Server::restart_after`].
    pub fn start_at(listen: &str, flags: &[&str]) -> Server {
        let program = std::env::var_os(ANOTHER).unwrap_or_else(|| BINARY.into());
        Server::start_program(Path::new(&program), Stdio::inherit(), listen, flags)
    }

    /// Starts the binary at this path, which writes its log there.
    pub fn start_program(program: &Path, log: Stdio, listen: &str, flags: &[&str]) -> Server {
        let mut command = Command::new(program);
        // Settings of the caller's own would change what is measured.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ONELOOP_") {
                command.env_remove(name);
            }
        }
        if let Some(library) = std::env::var_os(PRELOAD) {
            command.env("LD_PRELOAD", library);
        }
        // The server takes keys of one family; a variable counts for more than a file.
        if !["--jwt-key-file", "--jwt-jwks-file", "--config"]
            .iter()
            .any(|flag| flags.contains(flag))
        {
            command.env("ONELOOP_JWT_SECRET", SECRET);
        }
        let started = Instant::now();
        let mut child = command
            .args(["--listen", listen])
            .args(FREE_PORTS)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let lines = Lines::of(child.stdout.take().expect("stdout is a pipe"));
        let (mut clients, mut publishers, mut zeromq, mut admin) = (None, None, None, None);
        let mut tls_clients = None;
        let is_missing = |flag, found: Option<SocketAddr>| flags.contains(&flag) && found.is_none();
        while clients.is_none()
            || publishers.is_none()
            || is_missing("--zeromq", zeromq)
            || is_missing("--admin", admin)
        {
            match lines.next().split_whitespace().collect::<Vec<_>>()[..] {
                ["clients", url] => {
                    clients = clients.or(Some(host(url)));
                    tls_clients = tls_clients.or(url.starts_with("wss:").then(|| host(url)));
                }
                ["publishers", address] => publishers = Some(parse(address)),
                ["zeromq", url] => zeromq = url.strip_prefix("tcp://").map(parse),
                ["admin", url] => admin = url.strip_prefix("http://").map(parse),
                _ => {}
            }
        }
        Server {
            child,
            successor: None,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            started,
            clients: clients.expect("it was found"),
            tls_clients,
            publishers: publishers.expect("it was found"),
            zeromq,
            admin,
            _lines: lines,
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.successor.unwrap_or(self.child.id())
    }

    /// Has another process take its place. Returns once the old one has ended; `meanwhile` is called with it until then. It has started
    /// the other one, beside its loops.
    ///
    /// # Panics
    /// If it goes on.
    pub fn upgrade(&mut self, mut meanwhile: impl FnMut(u32)) {
        let old = self.pid();
        let loops = children(old);
        self.signal(Signal::USR2);
        let mut new = None;
        let ended = wait_until(|| {
            new = new.or(children(old).into_iter().find(|pid| !loops.contains(pid)));
            meanwhile(old);
            self.has_ended()
        });
        assert!(ended && new.is_some(), "the server does not hand over");
        self.successor = new;
    }

    /// Has it try to, and waits until it has given up, as its log says.
    ///
    /// # Panics
    /// If it ends.
    pub fn upgrade_in_vain(&mut self, log: &Path) {
        let refusals = || {
            let text = fs::read_to_string(log).expect("the log is there");
            text.matches("everybody stays connected").count()
        };
        let before = refusals();
        self.signal(Signal::USR2);
        assert!(wait_until(|| refusals() > before || self.has_ended()), "nothing happens");
        assert!(!self.has_ended(), "the old process serves on");
    }

    fn has_ended(&mut self) -> bool {
        match self.successor {
            Some(pid) => is_gone(pid),
            None => !matches!(self.child.try_wait(), Ok(None)),
        }
    }

    /// Its memory now.
    pub fn memory(&self) -> Memory {
        memory(self.pid())
    }

    /// Its metrics. It must have been started with `--admin`.
    pub fn metrics(&self) -> Metrics {
        Metrics::read(self.admin.expect("it has an admin listener"))
    }

    /// Its CPU time so far.
    pub fn cpu_time(&self) -> CpuTime {
        cpu_time(self.pid())
    }

    /// The value of a counter. The question itself is one connection and, after the answer, one write.
    pub fn counter(&self, name: &str) -> u64 {
        self.metrics().get(name)
    }

    /// Waits until messages of Redis can come. A client that connects before is told of a gap.
    pub fn wait_for_redis(&self) {
        assert!(wait_until(|| self.counter("source_up") == 1), "Redis is not subscribed to");
    }

    /// Waits until each of several loops serves: an upgrade is refused before.
    pub fn wait_for_loops(&self, loops: usize) {
        let serves = |number| self.counter(&format!("loop_up{{loop=\"{number}\"}}")) == 1;
        assert!(wait_until(|| (0..loops).all(serves)), "a loop does not serve");
    }

    /// Turns of the loop so far, by how long they took at most.
    pub fn turns(&self) -> Vec<(String, u64)> {
        self.metrics().buckets("turn_seconds")
    }

    /// Turns since then, each in the first bucket that holds it, without the empty buckets.
    pub fn turns_since(&self, before: &[(String, u64)]) -> Vec<(String, u64)> {
        let now = self.turns();
        let added = now.iter().zip(before).map(|(now, before)| (&now.0, now.1 - before.1));
        let mut below = 0;
        let own = added.map(|(most, count)| {
            let own = count - below;
            below = count;
            (most.clone(), own)
        });
        own.filter(|(_, count)| *count > 0).collect()
    }

    /// Stops the process where it stands: what clients do meanwhile waits for it in the kernel.
    pub fn freeze(&self) {
        process::freeze(self.pid());
    }

    /// Lets it run on.
    pub fn thaw(&self) {
        process::thaw(self.pid());
    }

    /// Has it read its settings again.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// Kills it without a word and starts another one for the same clients, with so much time in between.
    pub fn restart_after(&mut self, away: Duration) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::thread::sleep(away);
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        *self = Server::start_at(&self.clients.to_string(), &flags);
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Panics
    /// If it ends in any way but a drain.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(wait_until(|| self.has_ended()), "the server does not end");
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "the server ended with {status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal(Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the clients' tokens.
pub struct Tokens(Keys, u64);

impl Tokens {
    /// With the server's own secret.
    pub fn new() -> Tokens {
        Tokens::signed_with(SECRET)
    }

    /// With another one.
    pub fn signed_with(secret: &str) -> Tokens {
        let unix = std::time::UNIX_EPOCH.elapsed();
        Tokens(
            Keys::from_secret(secret.as_bytes()).expect("the secret is good"),
            unix.expect("it is after 1970").as_secs(),
        )
    }

    /// For a client with a `sub` of 8 characters, its own topic and the shared one.
    pub fn token(&self, number: usize) -> String {
        self.token_for(number, &[SHARED_TOPIC.to_owned()])
    }

    /// The same with other topics. It is good for a day.
    pub fn token_for(&self, number: usize, topics: &[String]) -> String {
        self.0.issue(&sub(number), topics, &[], false, self.1, 86_400).expect("the claims are good")
    }
}

/// The user of the client with this number: 8 characters.
fn sub(number: usize) -> String {
    format!("u{number:07}")
}

/// The topic of that user alone.
pub fn own_topic(number: usize) -> String {
    format!("user.{}", sub(number))
}

/// The address in `ws://127.0.0.1:8099/ws`.
fn host(url: &str) -> SocketAddr {
    let (_, rest) = url.split_once("://").expect("a URL");
    parse(rest.split('/').next().unwrap_or_default())
}

fn parse(address: &str) -> SocketAddr {
    address.parse().expect("an address and a port")
}
