//! A certificate renewed under open clients: nobody is dropped, newcomers are shown the new one, and a bad file changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::Part;
use super::support::client::Client;
use super::support::process::wait_until;
use super::support::publisher::Publisher;
use super::support::report::{grouped, rounded};
use super::support::server::{SHARED_TOPIC, Server};
use super::support::tls::{Certificate, Security};
use super::support::{Options, connections};

const CLIENTS: usize = 10_000;
const QUICK_CLIENTS: usize = 300;

/// The files that a server is started with, and that are renewed.
struct Files {
    folder: PathBuf,
    chain: String,
    key: String,
}

impl Files {
    fn new() -> Files {
        let folder = std::env::temp_dir().join(format!("oneloop-renewal-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder can be made");
        let name = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let files = Files { chain: name("fullchain.pem"), key: name("privkey.pem"), folder };
        files.renew(Certificate::P256);
        files
    }

    /// Replaces both, each at once, as certbot does.
    fn renew(&self, certificate: Certificate) {
        self.replace(&self.chain, &fs::read(certificate.chain_file()).expect("it is there"));
        self.replace(&self.key, &fs::read(certificate.key_file()).expect("it is there"));
    }

    fn replace(&self, file: &str, content: &[u8]) {
        let new = Path::new(file).with_extension("new");
        fs::write(&new, content).and_then(|()| fs::rename(&new, file)).expect("it is replaced");
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Returns the kind of certificate that a newcomer is shown.
fn shown(server: &Server) -> Certificate {
    let newcomer = Client::open_by(Security::Tls13, server.clients, 0..1).remove(0);
    let (_, tls) = newcomer.into_parts();
    let tls = tls.expect("a client over TLS");
    let leaf = tls.peer_certificates().and_then(|chain| chain.first()).expect("a certificate");
    let known = |certificate: &Certificate| certificate.leaf() == *leaf;
    Certificate::ALL.into_iter().find(known).expect("one of the tests")
}

pub fn run(options: &Options) -> Part {
    let clients = connections(options.pick(CLIENTS, QUICK_CLIENTS));
    let files = Files::new();
    let tls = ["--tls-cert-file", &files.chain, "--tls-key-file", &files.key];
    let flags = [&tls[..], &["--admin", "127.0.0.1:0", "--ping-seconds", "0"]].concat();
    let server = Server::start_at("tls://127.0.0.1:0", &flags);
    let mut publisher = Publisher::connect(&server);
    let mut open = Client::open_by(Security::Tls13, server.clients, 0..clients);
    assert_eq!(shown(&server), Certificate::P256);

    let renewed = Instant::now();
    files.renew(Certificate::Rsa2048);
    assert!(wait_until(|| server.counter("reloads_total") == 1), "the new one is read");
    let seconds = renewed.elapsed().as_secs_f64();
    assert_eq!(shown(&server), Certificate::Rsa2048);
    files.replace(&files.chain, b"not a certificate");
    assert!(wait_until(|| server.counter("reloads_refused_total") == 1), "the bad one is told");
    assert_eq!(shown(&server), Certificate::Rsa2048, "the old one is kept");

    assert!(wait_until(|| server.counter("clients") == clients as u64), "newcomers have left");
    assert_eq!(publisher.publish(SHARED_TOPIC, "1", 1), [clients], "nobody was dropped");
    for client in &mut open {
        assert!(client.read().contains(SHARED_TOPIC));
    }
    drop(open);
    server.stop();
    println!(
        "A certificate renewed under {} open clients: taken over after {seconds:.1} s, all heard the next message, and a bad file \
         was told and left out\n",
        grouped(clients as i64)
    );
    let figures: Value = json!({"clients": clients, "seconds_to_the_new_one": rounded(seconds)});
    Part { figures, missed: Vec::new() }
}
