//! Clients that connect with a token, are welcomed and leave, as fast as one core allows, from a process of their own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::client::Client;
use super::connections_max;
use super::process::{Helper, orders};

/// The name of this part.
pub const ROLE: &str = "churn";

/// Clients that are there at one time.
const AT_ONCE: usize = 200;

/// Their numbers begin here: users and source addresses of their own, each used once, so that no port is missed that still
/// waits for the last segments of its last connection.
const FIRST_NUMBER: usize = 1_000_000;

/// The process, as the bench sees it.
pub struct ConnectionChurn(Helper);

impl ConnectionChurn {
    /// Starts it, and waits until the first have come and gone.
    pub fn start(server: SocketAddr) -> ConnectionChurn {
        let helper = Helper::start(ROLE, &[&server.to_string()]);
        assert_eq!(helper.hear(), "started");
        ConnectionChurn(helper)
    }

    /// Ends it: how many have come and gone, and how many of them in a second.
    pub fn stop(mut self) -> (usize, f64) {
        self.0.tell("stop");
        let line = self.0.hear();
        let (count, rate) = line.split_once(' ').expect("two numbers");
        (count.parse().expect("a number"), rate.parse().expect("a number"))
    }
}

/// Plays this part.
pub fn run(arguments: &[String]) {
    let [server] = arguments else { panic!("the churn is told a server") };
    let server: SocketAddr = server.parse().expect("an address");
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
            let number = FIRST_NUMBER + count;
            drop(Client::open(server, number..number + AT_ONCE));
            count += AT_ONCE;
            if count == AT_ONCE {
                println!("started");
            }
        }
        println!("{count} {}", count as f64 / start.elapsed().as_secs_f64());
    });
}
