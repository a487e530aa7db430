//! The whole cost of a client on the machine: the memory of all processes of the server, and the kernel's for their sockets.
//!
//! Sockets are counted as the growth of the processes' descriptors: one for each client at a server that speaks TLS itself,
//! three with a proxy in front. What the kernel takes for one is measured in the same run. The clients' own sockets are on this
//! machine too, and count for nobody.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Part;
use super::support::bars::Bars;
use super::support::client::Client;
use super::support::kernel_sockets::bytes_per_socket;
use super::support::proxy::Proxy;
use super::support::report::{grouped, rounded};
use super::support::server::Server;
use super::support::tls::{Certificate, Security};
use super::support::usage::{descriptors, memory};
use super::support::{Options, connections, connections_max};

const CLIENTS: usize = 5_000;
const QUICK_CLIENTS: usize = 500;

/// Clients that come, say something and leave before the empty processes are measured.
const WARMING: usize = 200;

/// Memory is at rest when it has not changed by more than this for so long, or when it has been waited for long enough: Go
/// gives memory back little by little.
const STILL_BYTES: i64 = 128 * 1024;
const STILL: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(15);

/// A server, perhaps with a proxy in front.
struct Setup {
    name: &'static str,
    server: Server,
    proxy: Option<Proxy>,
}

/// The cost of one client.
struct Cost {
    name: &'static str,
    process_bytes: f64,
    sockets: f64,
}

pub fn run(options: &Options) -> Part {
    let clients = connections(options.pick(CLIENTS, QUICK_CLIENTS));
    // A proxy has two descriptors for each, as this process has while it measures the kernel's part.
    let clients = clients.min(connections_max() / 2 - 2 * WARMING);
    let per_socket = bytes_per_socket(clients, options.pick(5, 1));
    println!("The whole cost of each of {} idle clients on the machine\n", grouped(clients as i64));
    println!("the kernel takes {} bytes for a socket\n", grouped(per_socket as i64));
    println!("{:<28}{:>16}{:>10}{:>14}", "", "process bytes", "sockets", "bytes in all");
    let mut costs = vec![Setup::direct().measure(clients)];
    if !options.quick {
        costs.push(Setup::nginx().measure(clients));
        costs.push(Setup::caddy().measure(clients));
    }
    for cost in &costs {
        let all = cost.process_bytes + cost.sockets * per_socket;
        println!(
            "{:<28}{:>16}{:>10.2}{:>14}",
            cost.name,
            grouped(cost.process_bytes as i64),
            cost.sockets,
            grouped(all as i64)
        );
    }
    println!();
    draw(options, &costs, per_socket);
    let row = |cost: &Cost| {
        json!({
            "setup": cost.name,
            "process_bytes": rounded(cost.process_bytes),
            "sockets": rounded(cost.sockets),
            "bytes": rounded(cost.process_bytes + cost.sockets * per_socket),
        })
    };
    let figures = json!({
        "clients": clients,
        "kernel_bytes_per_socket": rounded(per_socket),
        "setups": costs.iter().map(row).collect::<Vec<Value>>(),
    });
    Part { figures, missed: Vec::new() }
}

fn draw(options: &Options, costs: &[Cost], per_socket: f64) {
    let title = "Memory on the machine for an idle wss:// client";
    let mut bars = Bars::new(title, "KB for each client", &["processes", "kernel, sockets"]);
    for cost in costs {
        let kilobytes = [cost.process_bytes, cost.sockets * per_socket].map(|bytes| bytes / 1e3);
        bars = bars.with(cost.name, &kilobytes);
    }
    bars.write("tls", options);
}

impl Setup {
    fn direct() -> Setup {
        let server = Server::start_for(Security::Tls13, &[]);
        Setup { name: "oneloop", server, proxy: None }
    }

    fn nginx() -> Setup {
        let server = Server::start(&["--proxies", "127.0.0.1"]);
        let proxy = Some(Proxy::nginx(server.clients, Certificate::P256));
        Setup { name: "oneloop behind nginx", server, proxy }
    }

    fn caddy() -> Setup {
        let server = Server::start(&["--proxies", "127.0.0.1"]);
        let proxy = Some(Proxy::caddy(server.clients, Certificate::P256));
        Setup { name: "oneloop behind Caddy", server, proxy }
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        [Some(self.server.pid()), self.proxy.as_ref().map(Proxy::pid)].into_iter().flatten()
    }

    fn measure(self, clients: usize) -> Cost {
        // The sockets that are there without a client: those of a proxy's check are gone by then.
        let idle = self.descriptors();
        drop(self.open(clients..clients + WARMING));
        let has_emptied = super::support::process::wait_until(|| self.descriptors() <= idle + 2);
        assert!(has_emptied, "{}: connections are kept that have ended", self.name);
        let (empty, sockets) = (self.settled(), self.descriptors());
        let open = self.open(0..clients);
        let sockets = (self.descriptors() - sockets) as f64 / clients as f64;
        let process_bytes = (self.settled() - empty) as f64 / clients as f64;
        drop(open);
        Cost { name: self.name, process_bytes, sockets }
    }

    /// Opens clients, and has each ask something.
    fn open(&self, numbers: std::ops::Range<usize>) -> Vec<Client> {
        let address = self.proxy.as_ref().map_or(self.server.clients, |proxy| proxy.address);
        let mut clients = Client::open_by(Security::Tls13, address, numbers);
        for client in &mut clients {
            client.send(r#"{"op":"ping"}"#);
            assert_eq!(client.read(), r#"{"op":"pong"}"#);
        }
        clients
    }

    fn descriptors(&self) -> usize {
        self.pids().map(descriptors).sum()
    }

    /// The anonymous memory of all processes, once it is at rest.
    fn settled(&self) -> i64 {
        let anonymous = || self.pids().map(|pid| memory(pid).anonymous).sum::<i64>();
        let start = Instant::now();
        let mut last = (anonymous(), Instant::now());
        while last.1.elapsed() < STILL && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(100));
            let now = anonymous();
            if (now - last.0).abs() > STILL_BYTES {
                last = (now, Instant::now());
            }
        }
        anonymous()
    }
}
