//! A client's ping over its open TLS connection, while full handshakes come as fast as one core does its part of them;
//! the server has another core.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::Options;
use super::support::client::Client;
use super::support::handshake_storm::HandshakeStorm;
use super::support::process::pin;
use super::support::report::{quantile, rounded, rounded_to};
use super::support::server::Server;
use super::support::tls::{Certificate, Security};
use super::support::usage::{cpu_time, kept_waiting};
use super::{Part, hold};

/// The pause from an answer to the next ping, and a bound on a client's commands that allows it.
const PAUSE: Duration = Duration::from_millis(2);
const BOUND: [&str; 2] = ["--commands-per-second-max", "1000"];

/// At most so many milliseconds for 99 of 100 pings, unless others keep the server from a core for a greater share of the time
/// than this: then the delay is theirs.
const P99_MAX_MS: f64 = 20.0;
const KEPT_WAITING_MAX: f64 = 0.3;

/// The number of the client that asks.
const ASKER: usize = 900_000;

pub fn run(options: &Options) -> Part {
    let time = Duration::from_secs(if options.quick { 1 } else { 15 });
    println!("A client's ping during full handshakes, milliseconds\n");
    println!(
        "{:<24}{:>14}{:>8}{:>8}{:>8}{:>8}{:>12}{:>14}",
        "", "handshakes/s", "pings", "p50", "p99", "most", "server CPU", "server waits"
    );
    let mut missed = Vec::new();
    let mut figures = vec![measure(None, time, options, &mut missed)];
    for certificate in Certificate::ALL {
        figures.push(measure(Some(certificate), time, options, &mut missed));
    }
    println!();
    Part { figures: Value::Array(figures), missed }
}

/// Measures pings during handshakes with this certificate, or without any.
fn measure(
    certificate: Option<Certificate>,
    time: Duration,
    options: &Options,
    missed: &mut Vec<String>,
) -> Value {
    let server = Server::start_tls(certificate.unwrap_or(Certificate::P256), &BOUND);
    let mut asker = Client::open_by(Security::Tls13, server.clients, ASKER..ASKER + 1).remove(0);
    let storm = certificate.map(|_| HandshakeStorm::start(server.clients, Security::Tls13));
    if let Some(storm) = &storm {
        pin(server.pid(), 0);
        pin(storm.pid(), 1);
    }
    let (start, waited, used) = (Instant::now(), kept_waiting(server.pid()), server.cpu_time());
    let stopped = AtomicBool::new(false);
    let waits = std::thread::scope(|scope| {
        let waits = scope.spawn(|| asker.ask_on(PAUSE, &stopped));
        std::thread::sleep(time);
        stopped.store(true, Ordering::Relaxed);
        waits.join().expect("the asker ends or panics")
    });
    let seconds = start.elapsed().as_secs_f64();
    // Others have the server's core: what the machine kept from it is in every wait.
    let waited = (kept_waiting(server.pid()) - waited) as f64 / 1e9 / seconds;
    let used = cpu_time(server.pid()).since(used).total as f64 / 1e9 / seconds;
    let (count, rate) = storm.map_or((0, 0.0), HandshakeStorm::stop);
    server.stop();
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| quantile(&waits, share));
    let name = certificate.map_or("no handshakes", Certificate::name);
    println!(
        "{name:<24}{rate:>14.0}{:>8}{p50:>8.2}{p99:>8.2}{most:>8.2}{:>10.0} %{:>12.0} %",
        waits.len(),
        used * 100.0,
        waited * 100.0
    );
    if waited > KEPT_WAITING_MAX {
        println!("{:<24}the server had too little of the machine for this to say much", "");
    } else if !options.quick {
        hold(missed, &format!("{name}, p99 of a ping in ms"), p99, P99_MAX_MS);
    }
    let distribution = [p50, p99, most].map(|wait| rounded_to(wait, 3));
    json!({
        "certificate": name,
        "handshakes": count,
        "handshakes_per_second": rounded(rate),
        "pings": waits.len(),
        "p50_p99_max_ms": distribution,
        "server_cpu": rounded(used),
        "server_kept_waiting": rounded(waited),
    })
}
