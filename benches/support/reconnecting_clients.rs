//! Clients by the thousand that are cut off again and again and come back, in a process of their own.
//!
//! Each checks its messages. A bystander beyond the number asked for comes and goes like the others, and must receive nothing but
//! messages for everybody. (Without those it would keep the cursor of its first welcome, and ask for more with it than any
//! history holds.)

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::mpsc::{TryRecvError, channel};
use std::time::{Duration, Instant, UNIX_EPOCH};

use mio::{Events, Poll};

use super::connections_max;
use super::delivery_check::{DeliveryCheck, DeliveryCounts};
use super::numbered_publisher::{heard_by, topics};
use super::process::{Helper, orders};
use super::random::Random;
use super::reconnecting_client::{Cut, ReconnectingClient};
use super::server::{SHARED_TOPIC, Tokens, own_topic};

/// The name of this part.
pub const ROLE: &str = "reconnect";

/// The average stay of a client, and its longest absence. Every fourth comes back at once.
const STAY_SECONDS: f64 = 4.0;
const AWAY_MS_MAX: usize = 600;

/// The longest wait after a server ended or refused a connection.
const RETRY_MS_MAX: usize = 100;

/// Clients cut off in a row: so there is time to read in between.
const CUTS_AT_ONCE: usize = 20;

/// The deadline for any goal that the clients are told.
const PATIENCE: Duration = Duration::from_secs(50);

/// Faults that are told of one by one.
const FAULTS_TOLD: usize = 10;

/// The process, as the bench sees it.
pub struct ReconnectingClients(Helper);

impl ReconnectingClients {
    /// Starts `clients` clients, all of them away. Each connection goes to the next of these servers.
    pub fn start(servers: &[SocketAddr], clients: usize) -> ReconnectingClients {
        let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
        ReconnectingClients(Helper::start(ROLE, &[&clients.to_string(), &servers.join(",")]))
    }

    /// From now on they are cut off at random.
    pub fn cut_at_random(&mut self) {
        self.0.tell("cut");
    }

    /// All are cut off at once, and stay away.
    pub fn send_away(&mut self) {
        self.0.tell("away");
        self.expect_answer();
    }

    /// All come back at once who are away, and nobody is cut off any more. Returns when everyone is welcomed.
    pub fn call_home(&mut self) {
        self.0.tell("home");
        self.expect_answer();
    }

    /// From now on they come to this server.
    pub fn go_to(&mut self, server: SocketAddr) {
        self.0.tell(&format!("go {server}"));
    }

    /// Waits until everyone was asked to come back, and was welcomed again. Returns for each how long it was asked to wait,
    /// and when it was told and was welcomed, from the first client's being told on.
    pub fn returns(&mut self) -> Vec<[Duration; 3]> {
        self.0.tell("back");
        self.expect_answer();
        self.0.tell("returns");
        let line = self.0.hear();
        let micros: Vec<u64> =
            line.split(' ').map(|number| number.parse().expect("a number")).collect();
        let times = |chunk: &[u64]| [chunk[0], chunk[1], chunk[2]].map(Duration::from_micros);
        micros.chunks(3).map(times).collect()
    }

    /// Waits until these numbers were the last that each client received, by the topics' places.
    pub fn wait_for(&mut self, numbers: &[u64]) {
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        self.0.tell(&format!("numbers {}", numbers.join(" ")));
        self.expect_answer();
    }

    /// Waits until nobody is at this process any more, and all are welcomed.
    pub fn wait_for_end_of(&mut self, process: &str) {
        self.0.tell(&format!("gone {process}"));
        self.expect_answer();
    }

    /// Everything known of the processes that the clients were at.
    pub fn processes(&mut self) -> BTreeMap<String, KnownProcess> {
        self.0.tell("processes");
        let line = self.0.hear();
        line.split_whitespace().map(KnownProcess::from_word).collect()
    }

    /// Their counts so far.
    pub fn seen(&mut self) -> DeliveryCounts {
        self.0.tell("seen");
        let line = self.0.hear();
        DeliveryCounts::from_line(&line).unwrap_or_else(|| panic!("unexpected: {line}"))
    }

    fn expect_answer(&mut self) {
        let line = self.0.hear();
        assert_eq!(line, "done", "the clients do not come to where they should be");
    }
}

/// A process of the server, as its clients saw it. Times are microseconds since 1970.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownProcess {
    /// The time of its first welcome.
    pub first_welcome: u64,
    /// Connections that it ended, or that ended with it.
    pub ended: usize,
    /// The time at which the last client of these was welcomed again.
    pub last_return: u64,
}

impl KnownProcess {
    fn from_word(word: &str) -> (String, KnownProcess) {
        let (name, numbers) = word.split_once(':').expect("a name stands first");
        let numbers: Vec<u64> =
            numbers.split(',').map(|number| number.parse().expect("a number")).collect();
        let [first_welcome, ended, last_return] = numbers[..] else { panic!("three numbers") };
        (name.to_owned(), KnownProcess { first_welcome, ended: ended as usize, last_return })
    }
}

/// Microseconds since 1970.
pub fn unix_micros() -> u64 {
    UNIX_EPOCH.elapsed().expect("it is after 1970").as_micros() as u64
}

/// The state that all clients are to reach.
enum Goal {
    Home,
    Gone(String),
    Back,
    Numbers(Vec<u64>),
}

struct ReconnectLoop {
    poll: Poll,
    servers: Vec<SocketAddr>,
    all: Vec<ReconnectingClient>,
    random: Random,
    /// The times at which absent clients come back.
    returns: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Since when they are cut off at random, and how many were.
    cuts: Option<(Instant, usize)>,
    goal: Option<(Instant, Goal)>,
    seen: DeliveryCounts,
    processes: BTreeMap<String, KnownProcess>,
    /// Clients that have yet to come back from these processes, by their numbers.
    from: BTreeMap<usize, String>,
    faults: usize,
    buffer: Vec<u8>,
}

/// Plays this part.
pub fn run(arguments: &[String]) {
    let [clients, servers] = arguments else { panic!("the clients are told how many, and where") };
    let mut clients = ReconnectLoop::new(
        clients.parse().expect("a number"),
        servers.split(',').map(|server| server.parse().expect("an address")).collect(),
    );
    connections_max();
    let (sender, receiver) = channel();
    std::thread::spawn(move || orders().for_each(|order| sender.send(order).unwrap_or_default()));
    let mut events = Events::with_capacity(1024);
    loop {
        clients.poll_events(&mut events, Duration::from_millis(5));
        clients.return_those_due();
        clients.cut_at_random();
        clients.answer_goal();
        match receiver.try_recv() {
            Ok(order) => clients.obey(&order),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
    }
}

impl ReconnectLoop {
    fn new(clients: usize, servers: Vec<SocketAddr>) -> ReconnectLoop {
        let (tokens, names) = (Tokens::new(), topics(clients));
        let with = |number: usize, topics_heard: &[String]| {
            // Its own topic comes by itself, and first.
            let token = tokens.token_for(number, topics_heard.get(1..).unwrap_or_default());
            ReconnectingClient::new(number, token, DeliveryCheck::new(topics_heard.iter().cloned()))
        };
        let everyone = (0..clients).map(|number| {
            let topics_heard = heard_by(number, clients).map(|place| names[place].clone());
            with(number, &topics_heard)
        });
        let bystander = with(clients, &[own_topic(clients), SHARED_TOPIC.to_owned()]);
        ReconnectLoop {
            poll: Poll::new().expect("an epoll descriptor can be had"),
            servers,
            all: everyone.chain([bystander]).collect(),
            random: Random::new(0xba9d),
            returns: BinaryHeap::new(),
            cuts: None,
            goal: None,
            seen: DeliveryCounts::default(),
            processes: BTreeMap::new(),
            from: BTreeMap::new(),
            faults: 0,
            buffer: vec![0; 64 * 1024],
        }
    }

    fn obey(&mut self, order: &str) {
        let now = Instant::now();
        match order.split_once(' ') {
            None if order == "cut" => self.cuts = Some((now, 0)),
            None if order == "away" => {
                self.cuts = None;
                self.returns.clear();
                self.all.iter_mut().for_each(|one| one.leave(Cut::Reset));
                println!("done");
            }
            None if order == "home" => {
                self.cuts = None;
                let away = self.all.iter().enumerate().filter(|(_, one)| one.is_away());
                self.returns = away.map(|(number, _)| Reverse((now, number))).collect();
                self.goal = Some((now, Goal::Home));
            }
            None if order == "back" => self.goal = Some((now, Goal::Back)),
            None if order == "returns" => println!("{}", self.returns_to_line()),
            None if order == "processes" => {
                let words = self.processes.iter().map(|(name, known)| {
                    let KnownProcess { first_welcome, ended, last_return } = known;
                    format!("{name}:{first_welcome},{ended},{last_return}")
                });
                println!("{}", words.collect::<Vec<_>>().join(" "));
            }
            None if order == "seen" => println!("{}", self.seen.to_line()),
            Some(("gone", process)) => self.goal = Some((now, Goal::Gone(process.to_owned()))),
            Some(("go", server)) => self.servers = vec![server.parse().expect("an address")],
            Some(("numbers", numbers)) => {
                let numbers = numbers.split(' ').map(|number| number.parse().expect("a number"));
                self.goal = Some((now, Goal::Numbers(numbers.collect())));
            }
            _ => panic!("no such order: {order}"),
        }
    }

    fn poll_events(&mut self, events: &mut Events, longest: Duration) {
        match self.poll.poll(events, Some(longest)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            result => result.expect("epoll_wait works"),
        }
        for event in events.iter() {
            let number = event.token().0;
            let faults = &mut self.faults;
            let tell = |fault: String| {
                *faults += 1;
                if *faults <= FAULTS_TOLD {
                    eprintln!("client {number}: {fault}");
                }
            };
            let was_welcomed = self.all[number].is_welcomed();
            let ready = self.all[number].on_ready(&mut self.buffer, &mut self.seen, tell);
            let client = &self.all[number];
            if !was_welcomed && client.is_welcomed() {
                let now = unix_micros();
                let known = self.processes.entry(client.process.clone()).or_default();
                known.first_welcome =
                    if known.first_welcome == 0 { now } else { known.first_welcome };
                if let Some(before) = self.from.remove(&number) {
                    self.processes.entry(before).or_default().last_return = now;
                }
            }
            if ready.is_err() {
                self.seen.ended += 1;
                if was_welcomed {
                    self.processes.entry(client.process.clone()).or_default().ended += 1;
                    self.from.insert(number, client.process.clone());
                }
                match self.all[number].asked {
                    Some((at, retry)) => self.returns.push(Reverse((at + retry, number))),
                    None => self.return_within(number, RETRY_MS_MAX),
                }
            }
        }
    }

    /// In microseconds.
    fn returns_to_line(&self) -> String {
        let asked = || self.all.iter().filter_map(|one| Some((one.asked?, one.welcomed()?)));
        let Some(start) = asked().map(|((at, _), _)| at).min() else { return String::new() };
        let all = asked().flat_map(|((at, retry), welcomed)| [retry, at - start, welcomed - start]);
        let all: Vec<String> = all.map(|time| time.as_micros().to_string()).collect();
        all.join(" ")
    }

    fn return_within(&mut self, number: usize, millis_max: usize) {
        let pause = Duration::from_millis(self.random.below(millis_max) as u64);
        self.returns.push(Reverse((Instant::now() + pause, number)));
    }

    fn return_those_due(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((due, number))) = self.returns.peek().copied()
            && due <= now
        {
            self.returns.pop();
            self.seen.connections += 1;
            if self.all[number].come(&self.servers, self.poll.registry()).is_err() {
                self.seen.ended += 1;
                self.return_within(number, RETRY_MS_MAX);
            }
        }
    }

    fn cut_at_random(&mut self) {
        let Some((since, done)) = self.cuts else { return };
        let due = since.elapsed().as_secs_f64() * self.all.len() as f64 / STAY_SECONDS;
        let more = (due as usize).saturating_sub(done).min(CUTS_AT_ONCE);
        self.cuts = Some((since, done + more));
        for _ in 0..more {
            // A client in a handshake or a replay is cut off too.
            let number = self.random.below(self.all.len());
            if self.all[number].is_away() {
                continue;
            }
            let cut = [Cut::Close, Cut::Reset, Cut::Drop][self.random.below(3)];
            self.all[number].leave(cut);
            let millis_max = if self.random.below(4) == 0 { 1 } else { AWAY_MS_MAX };
            self.return_within(number, millis_max);
        }
    }

    /// Says when they have come to where they should be, or that they do not.
    fn answer_goal(&mut self) {
        let Some((since, goal)) = &self.goal else { return };
        let clients = self.all.len() - 1;
        let is_there = |(number, one): &(usize, &ReconnectingClient)| match goal {
            Goal::Home => one.is_welcomed(),
            Goal::Gone(process) => one.is_welcomed() && one.process != *process,
            Goal::Back => one.asked.is_some() && one.is_welcomed(),
            Goal::Numbers(numbers) if *number == clients => {
                one.delivery.is_at([0, numbers[numbers.len() - 1]].into_iter())
            }
            Goal::Numbers(numbers) => {
                let places = heard_by(*number, clients);
                one.delivery.is_at(places.into_iter().map(|place| numbers[place]))
            }
        };
        let missing = self.all.iter().enumerate().find(|one| !is_there(one));
        match missing {
            None => println!("done"),
            Some((number, one)) if since.elapsed() > PATIENCE => {
                let missing = self.all.iter().enumerate().filter(|one| !is_there(one)).count();
                println!(
                    "{missing} are not there, client {number} {}: {}; {:?}",
                    if one.is_welcomed() { "with a welcome" } else { "without one" },
                    one.delivery.describe(),
                    self.seen
                );
            }
            Some(_) => return,
        }
        self.goal = None;
    }
}
