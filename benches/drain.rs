//! A reload and a drain under ten thousand clients: they are connected to one server, another one has the same Redis, and
//! a back end adds to a stream all the time. Nobody is dropped when the first one reads its settings again; when it is told to
//! end, everybody comes back at the other one, when they were asked to, and misses nothing.
//!
//! `cargo bench --bench drain`, and with `--quick` some hundred clients.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::client::{ask_until, connect, head, head_for};
use support::delivery_check::DeliveryCounts;
use support::numbered_publisher::{NumberedPublisher, PublishPath};
use support::process::wait_until;
use support::reconnecting_clients::{self, ReconnectingClients};
use support::redis::Redis;
use support::report::{self, grouped, quantile, rounded};
use support::server::{SECRET, Server, Tokens};
use support::stream_publisher::{STREAM, StreamPublisher};
use support::{Options, connections};

/// Messages a second, to all topics together.
const MESSAGES: usize = 2_000;

/// The secret that comes at a reload.
const NEXT_SECRET: &str = "the next secret for benches alone, long enough";

/// The origin whose pages may connect after a reload.
const ORIGIN: &str = "https://example.com";

/// The busiest second has at most so many times the clients that it should have.
const RATE_EXCEEDED_MAX: f64 = 1.5;

/// Between an answer and the next question: without a pause those who ask and answer would take the machine from all others.
const QUESTION_EVERY: Duration = Duration::from_millis(1);

/// Lets a client ask more questions than it may by default.
const COMMON: [&str; 6] =
    ["--admin", "127.0.0.1:0", "--commands-per-second-max", "0", "--streams", STREAM];

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == reconnecting_clients::ROLE => {
            reconnecting_clients::run(rest)
        }
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let clients = connections(options.pick(10_000, 300));
    let rate = options.pick(2_000, 100);
    let redis = Redis::start();
    let settings = Settings::new(rate);
    let (url, path) = (redis.url(), settings.path());
    let flags = [&COMMON[..], &["--redis", &url]].concat();
    let leaving = Server::start_as_it_comes(&[&flags[..], &["--config", &path]].concat());
    // It accepts what the other one signs after its keys have changed, as each node does before any begins to use the new key.
    let next = settings.folder.join("next").display().to_string();
    let staying =
        Server::start_as_it_comes(&[&flags[..], &["--jwt-previous-secret-file", &next]].concat());
    let reads = |server: &&Server| server.counter("stream_ups_total") == 1;
    assert!(wait_until(|| [&leaving, &staying].iter().all(reads)), "the stream is not read");

    let mut publisher =
        NumberedPublisher::new(PublishPath::Stream(StreamPublisher::new(&redis)), clients);
    let mut reconnecting = ReconnectingClients::start(&[leaving.clients], clients);
    reconnecting.call_home();
    publisher.publish_to_each(1);
    reconnecting.wait_for(&publisher.numbers);
    reconnecting.go_to(staying.clients);

    let stopped = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stopped);
    let publishing = thread::spawn(move || {
        publisher.run(MESSAGES, &until);
        publisher
    });
    let reload_waits = while_asking(leaving.clients, clients + 1, || reload(&leaving, &settings)).1;
    let after_reloads = reconnecting.seen();
    let (drained, drain_waits) =
        while_asking(staying.clients, clients + 2, || drain(leaving, &mut reconnecting));
    stopped.store(true, Ordering::Relaxed);
    let mut publisher = publishing.join().expect("the publisher ends well");
    // Behind the first one all that was under way has come, behind the second the first has come just once.
    for _ in 0..2 {
        publisher.publish_to_each(1);
        reconnecting.wait_for(&publisher.numbers);
    }
    let found = Found {
        clients,
        rate,
        published: publisher.published,
        after_reloads,
        seen: reconnecting.seen(),
        drained,
        waits: [reload_waits, drain_waits],
        refused: staying.counter("resumes_refused_total"),
    };
    found.print();
    found.report(options);
    found.check(options);
    drop(reconnecting);
    staying.stop();
}

const FILE: &str = "oneloop.toml";

/// A settings file with the secrets beside it; they end with the value.
struct Settings {
    folder: PathBuf,
    rate: usize,
}

/// The stage that the settings have reached; each change stays.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Step {
    Start,
    Origins,
    Keys,
    Bounds,
    Wrong,
}

impl Settings {
    fn new(rate: usize) -> Settings {
        let name = format!("oneloop-bench-drain-{}", std::process::id());
        let settings = Settings { folder: std::env::temp_dir().join(name), rate };
        fs::create_dir_all(&settings.folder).expect("a temporary folder can be made");
        settings.put("first", SECRET);
        settings.put("next", NEXT_SECRET);
        settings.write(Step::Start);
        settings
    }

    fn write(&self, step: Step) {
        let path = |name: &str| json!(self.folder.join(name).to_str());
        let mut text = match step >= Step::Keys {
            false => format!("jwt.secret_file = {}\n", path("first")),
            true => format!(
                "jwt.secret_file = {}\njwt.previous_secret_file = {}\n",
                path("next"),
                path("first")
            ),
        };
        if step >= Step::Origins {
            text += &format!("origins = [\"{ORIGIN}\"]\n");
        }
        if step >= Step::Bounds {
            text += &format!("drain_per_second = {}\nbacklog_frames_max = 2048\n", self.rate);
        }
        if step == Step::Wrong {
            text += "topics_per_client_max = \"many\"\n";
        }
        self.put(FILE, &text);
    }

    /// As an editor does it: never half of a file.
    fn put(&self, name: &str, text: &str) {
        let (new, old) = (self.folder.join(format!("{name}.new")), self.folder.join(name));
        fs::write(&new, text).and_then(|()| fs::rename(new, old)).expect("a file can be written");
    }

    /// For `--config`.
    fn path(&self) -> String {
        self.folder.join(FILE).display().to_string()
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Has settings read that change one after the other, and at last some that are wrong.
fn reload(server: &Server, settings: &Settings) {
    let [token, next] = [SECRET, NEXT_SECRET].map(|secret| Tokens::signed_with(secret).token(0));
    let lets_in = |token: &str, origin: Option<&str>| lets_in(server.clients, token, origin);
    assert!(lets_in(&token, None) && !lets_in(&token, Some(ORIGIN)) && !lets_in(&next, None));
    for step in [Step::Origins, Step::Keys, Step::Bounds, Step::Wrong] {
        settings.write(step);
        let name = if step == Step::Wrong { "reloads_refused_total" } else { "reloads_total" };
        let before = server.counter(name);
        server.reload();
        assert!(wait_until(|| server.counter(name) == before + 1), "{step:?} is not read");
        assert!(lets_in(&token, Some(ORIGIN)), "{step:?}");
        assert_eq!(lets_in(&next, Some(ORIGIN)), step >= Step::Keys, "{step:?}");
        assert!(!lets_in(&token, Some("https://example.org")), "{step:?}");
    }
    assert_eq!(server.counter("reloads_total"), 3);
    assert_eq!(server.counter("reloads_refused_total"), 1);
}

/// Returns whether another client is let in, with a page of this origin: a page cannot send its token in `Authorization`.
fn lets_in(server: SocketAddr, token: &str, origin: Option<&str>) -> bool {
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let head = match origin {
        None => head(server, token),
        Some(origin) => head_for(&format!("/ws?token={token}"), server, token).replacen(
            &bearer,
            &format!("Origin: {origin}\r\n"),
            1,
        ),
    };
    let mut stream = connect(server, 0);
    stream.write_all(head.as_bytes()).expect("the server takes a head");
    let mut answer = String::new();
    // Either it is welcomed, or it is told the reason.
    while !answer.contains("\"reason\"") {
        let mut buffer = [0; 1024];
        let length = stream.read(&mut buffer).expect("a handshake is answered");
        answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
        if answer.contains("\"welcome\"") {
            return true;
        }
        assert!(length > 0, "neither a welcome nor a reason: {answer}");
    }
    false
}

/// Does something while one more client asks and asks. Returns how long each answer took, in milliseconds, beside.
fn while_asking<T>(server: SocketAddr, number: usize, work: impl FnOnce() -> T) -> (T, Vec<f64>) {
    let stopped = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stopped);
    let asking = thread::spawn(move || ask_until(server, number, QUESTION_EVERY, &until));
    let done = work();
    stopped.store(true, Ordering::Relaxed);
    (done, asking.join().expect("the server answers"))
}

/// The result of a drain.
struct Drained {
    /// From the signal to the end of the process.
    took: Duration,
    /// For each client the wait that it was asked for, when the request came, and when it was welcomed again.
    returns: Vec<[Duration; 3]>,
}

fn drain(server: Server, reconnecting: &mut ReconnectingClients) -> Drained {
    let start = Instant::now();
    server.stop();
    let took = start.elapsed();
    Drained { took, returns: reconnecting.returns() }
}

impl Drained {
    /// The number of clients that were asked to come in the busiest second, and of those that came.
    fn busiest(&self) -> [usize; 2] {
        [0, 2].map(|which| {
            let mut times: Vec<Duration> = self.returns.iter().map(|times| times[which]).collect();
            times.sort_unstable();
            let mut first = 0;
            let within = times.iter().enumerate().map(|(place, time)| {
                while *time - times[first] >= Duration::from_secs(1) {
                    first += 1;
                }
                place + 1 - first
            });
            within.max().unwrap_or(0)
        })
    }

    /// Seconds until the last client was welcomed.
    fn all_back(&self) -> f64 {
        let last = self.returns.iter().map(|times| times[2]).max();
        last.unwrap_or_default().as_secs_f64()
    }

    /// Seconds until the last client was told.
    fn all_asked(&self) -> f64 {
        let last = self.returns.iter().map(|times| times[1]).max();
        last.unwrap_or_default().as_secs_f64()
    }

    /// The delay of each welcome behind the time that was asked for, in milliseconds.
    fn lateness(&self) -> Vec<f64> {
        let late = self.returns.iter().map(|[retry, heard, came]| *came - *heard - *retry);
        late.map(|late| late.as_secs_f64() * 1e3).collect()
    }
}

/// The figures of the report.
struct Found {
    clients: usize,
    rate: usize,
    published: usize,
    after_reloads: DeliveryCounts,
    seen: DeliveryCounts,
    drained: Drained,
    /// A client's waits for its answers meanwhile, in milliseconds: where the settings were read, where the others
    /// came back.
    waits: [Vec<f64>; 2],
    /// Cursors that the second server did not know.
    refused: u64,
}

impl Found {
    fn print(&self) {
        let Found { seen, drained, .. } = self;
        let [reload, drain] = self.waits.each_ref().map(|waits| quantile(waits, 1.0));
        println!(
            "{} clients, {} messages; settings read three times, and refused once: {} dropped, an answer after {reload:.1} ms at most",
            grouped(self.clients as i64),
            grouped(self.published as i64),
            self.after_reloads.ended,
        );
        println!(
            "the first server ended after {:.2} s; {} back at the second one after {:.2} s, {} in the busiest second of {} asked, \
             an answer after {drain:.1} ms at most",
            drained.took.as_secs_f64(),
            grouped(seen.resumed as i64),
            drained.all_back(),
            drained.busiest()[1],
            self.rate,
        );
        println!("{:?}\n", seen.faults());
    }

    fn report(&self, options: &Options) {
        let Found { seen, drained, .. } = self;
        let waits = |waits: &[f64]| [0.5, 0.99, 1.0].map(|share| rounded(quantile(waits, share)));
        let [asked, came] = drained.busiest();
        let mut found = json!({
            "clients": self.clients,
            "messages_per_second": MESSAGES,
            "published": self.published,
            "heard": seen.messages,
            "reloads": 3,
            "reloads_refused": 1,
            "dropped_by_reloads": self.after_reloads.ended,
            "drain_per_second": self.rate,
            "asked_in_the_busiest_second": asked,
            "came_in_the_busiest_second": came,
            "came_per_second": rounded(self.drained.returns.len() as f64 / drained.all_back()),
            "all_back_after_seconds": rounded(drained.all_back()),
            "resumed": seen.resumed,
            "drain_took_seconds": rounded(drained.took.as_secs_f64()),
            "all_were_asked_within_seconds": rounded(drained.all_asked()),
            "ms_later_than_asked_p50_p99_most": waits(&drained.lateness()),
            "ms_to_an_answer_while_reloading_p50_p99_most": waits(&self.waits[0]),
            "ms_to_an_answer_while_they_come_p50_p99_most": waits(&self.waits[1]),
        });
        for (name, count) in seen.faults() {
            found[name] = json!(count);
        }
        report::print("drain", options, found);
    }

    /// # Panics
    /// If anything was lost, or somebody did not come back as asked.
    fn check(&self, options: &Options) {
        // The bystander, to whom nothing is said, is one of them.
        let all = self.clients + 1;
        assert_eq!(self.after_reloads.ended, 0, "a reload drops nobody");
        for (fault, count) in self.seen.faults() {
            assert_eq!(count, 0, "{fault}");
        }
        let DeliveryCounts { ended, resumed, connections, .. } = self.seen;
        assert_eq!((ended, resumed, connections), (all, all, 2 * all), "everyone comes back once");
        assert_eq!((self.drained.returns.len(), self.refused), (all, 0));
        let [asked, came] = self.drained.busiest();
        assert!(asked <= self.rate + 1, "{asked} are asked to come in one second");
        // A machine that stands still for a moment is no fault of the server.
        let most = (self.rate as f64 * RATE_EXCEEDED_MAX) as usize;
        assert!(options.quick || came <= most, "{came} came in one second");
    }
}
