//! Clients that do full TLS handshakes and leave, as fast as one core allows, from a process of their own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::connections_max;
use super::handshakes::HandshakeClient;
use super::process::{Helper, orders};
use super::tls::Security;

/// The name of this part.
pub const ROLE: &str = "storm";

/// Handshakes under way at one time.
const AT_ONCE: usize = 64;

/// The numbers of the clients begin here: source addresses of their own, each port used once.
const FIRST_NUMBER: usize = 1_000_000;

/// The process, as the bench sees it.
pub struct HandshakeStorm(Helper);

impl HandshakeStorm {
    /// Starts it, and waits until the first handshakes are done.
    pub fn start(server: SocketAddr, security: Security) -> HandshakeStorm {
        let helper = Helper::start(ROLE, &[&server.to_string(), security.name()]);
        assert_eq!(helper.hear(), "started");
        HandshakeStorm(helper)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Ends it. Returns the number of handshakes, and how many there were in a second.
    pub fn stop(mut self) -> (usize, f64) {
        self.0.tell("stop");
        let line = self.0.hear();
        let (count, rate) = line.split_once(' ').expect("two numbers");
        (count.parse().expect("a number"), rate.parse().expect("a number"))
    }
}

/// Plays this part.
pub fn run(arguments: &[String]) {
    let [server, security] = arguments else { panic!("the storm is told a server and a version") };
    let server: SocketAddr = server.parse().expect("an address");
    let config = Security::of(security).clients().expect("a version of TLS");
    connections_max();
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // An order, or the end of the bench.
            let _ = orders().next();
            stopped.store(true, Ordering::Relaxed);
        });
        let start = Instant::now();
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            let numbers = FIRST_NUMBER + count..FIRST_NUMBER + count + AT_ONCE;
            let begun = numbers.map(|number| HandshakeClient::begin(server, number, &config));
            for mut client in begun.collect::<Vec<_>>() {
                client.answer();
                client.conclude(false);
            }
            count += AT_ONCE;
            if count == AT_ONCE {
                println!("started");
            }
        }
        println!("{count} {}", count as f64 / start.elapsed().as_secs_f64());
    });
}
