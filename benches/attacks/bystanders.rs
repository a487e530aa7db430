//! Everybody else: clients that behave while an attack goes on. One asks for answers without pause, and a thousand are sent a
//! broadcast again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::ask_until;
use crate::support::publisher::Publisher;
use crate::support::receivers::Receivers;
use crate::support::report::{quantile, rounded};
use crate::support::server::{SHARED_TOPIC, Server};

/// Subscribers of the broadcast. Attackers have other numbers than these: see [`ATTACKER`].
const SUBSCRIBERS: usize = 1_000;

/// The first number of a client that attacks: users and addresses that nobody else has.
pub const ATTACKER: usize = 2_000_000;

/// The number of the client that asks.
const ASKER: usize = 1_900_000;

/// Time between two questions, below `commands_per_second_max`, and between two broadcasts.
const QUESTION_EVERY: Duration = Duration::from_millis(25);
const BROADCAST_EVERY: Duration = Duration::from_millis(20);

/// Clients that behave, and the publisher that speaks to them.
pub struct Bystanders {
    server: SocketAddr,
    publisher: Publisher,
    receivers: Receivers,
}

/// The waits of the others, in milliseconds.
pub struct Waits {
    asked: Vec<f64>,
    broadcast: Vec<f64>,
}

impl Bystanders {
    /// Opens the subscribers. A server with a Redis is published to through that: see [`Bystanders::with`].
    pub fn open(server: &Server) -> Bystanders {
        Bystanders::with(server, Publisher::connect(server))
    }

    /// Opens the subscribers, to which this publisher sends.
    pub fn with(server: &Server, publisher: Publisher) -> Bystanders {
        let receivers = Receivers::start(server.clients, SUBSCRIBERS, false);
        Bystanders { server: server.clients, publisher, receivers }
    }

    /// Measures for so long at least: the time to an answer, and the time until a broadcast is with all.
    pub fn wait(&mut self, length: Duration) -> Waits {
        let stopped = Arc::new(AtomicBool::new(false));
        let (server, until) = (self.server, Arc::clone(&stopped));
        let asker = thread::spawn(move || ask_until(server, ASKER, QUESTION_EVERY, &until));
        let (start, mut broadcast) = (Instant::now(), Vec::new());
        while broadcast.is_empty() || start.elapsed() < length {
            self.receivers.expect(1);
            let sent = Instant::now();
            self.publisher.publish(SHARED_TOPIC, "1", 1);
            self.receivers.wait();
            broadcast.push(sent.elapsed().as_secs_f64() * 1e3);
            thread::sleep(BROADCAST_EVERY);
        }
        stopped.store(true, Ordering::Relaxed);
        Waits { asked: asker.join().expect("the client that asks is answered"), broadcast }
    }
}

impl Waits {
    /// The figures, with those of a quiet time before the attack beside them.
    pub fn beside(&self, quiet: &Waits) -> Value {
        let [median, quiet_median] = [self, quiet].map(|waits| quantile(&waits.broadcast, 0.5));
        json!({
            "ping_ms_p50": rounded(quantile(&self.asked, 0.5)),
            "ping_ms_p99": rounded(quantile(&self.asked, 0.99)),
            "ping_ms_max": rounded(quantile(&self.asked, 1.0)),
            "broadcast_ms_p50": rounded(median),
            "broadcast_ms_p99": rounded(quantile(&self.broadcast, 0.99)),
            "quiet_broadcast_ms_p50": rounded(quiet_median),
            "broadcast_times_quiet": rounded(median / quiet_median),
        })
    }
}
