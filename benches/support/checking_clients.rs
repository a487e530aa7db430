//! Clients that come and go and check their messages, in a process of their own.
//!
//! Messages carry numbers that rise by one in each topic. A client receives its own topic, its room's and the one that all share:
//! anything else is misdelivered, a number out of its turn is lost or doubled, unless a `gap` came before.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::client::{connect, head, whole_frame};
use super::connections_max;
use super::process::{Helper, orders};
use super::server::{SHARED_TOPIC, Tokens, own_topic};

/// The name of this part.
pub const ROLE: &str = "check";

/// Users, each of whom has several connections one after the other.
pub const USERS: usize = 20_000;

/// Rooms that users subscribe to, by their numbers.
pub const ROOMS: usize = 50;

/// The counts of all clients together.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckedCounts {
    pub connections: usize,
    pub messages: usize,
    pub gaps: usize,
    pub closed: usize,
    pub misdelivered: usize,
    pub lost: usize,
}

/// The process, as the bench sees it.
pub struct CheckingClients(Helper);

impl CheckingClients {
    /// Starts `clients` clients, of which `churn` leave in a second, others in their place.
    pub fn start(server: SocketAddr, clients: usize, churn: usize) -> CheckingClients {
        let helper =
            Helper::start(ROLE, &[&server.to_string(), &clients.to_string(), &churn.to_string()]);
        assert_eq!(helper.hear(), "open");
        CheckingClients(helper)
    }

    /// Their counts so far.
    pub fn seen(&mut self) -> CheckedCounts {
        self.0.tell("seen");
        let line = self.0.hear();
        let numbers: Vec<usize> =
            line.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [connections, messages, gaps, closed, misdelivered, lost] = numbers[..] else {
            panic!("unexpected: {line}")
        };
        CheckedCounts { connections, messages, gaps, closed, misdelivered, lost }
    }
}

struct Client {
    stream: TcpStream,
    user: usize,
    incoming: Vec<u8>,
    is_open: bool,
    /// The last numbers received, of its own topic, its room's and the shared one.
    last: [Option<u64>; 3],
}

struct Clients {
    poll: Poll,
    server: SocketAddr,
    tokens: Tokens,
    all: HashMap<usize, Client>,
    /// In the order in which they came.
    order: VecDeque<usize>,
    next: usize,
    seen: CheckedCounts,
    buffer: Vec<u8>,
}

/// Plays this part.
pub fn run(arguments: &[String]) {
    let [server, clients, churn] = arguments else {
        panic!("the checking clients are told three things")
    };
    let clients: usize = clients.parse().expect("a number");
    let churn: usize = churn.parse().expect("a number");
    connections_max();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || orders().for_each(|order| sender.send(order).unwrap_or_default()));
    let mut checking = Clients {
        poll: Poll::new().expect("an epoll descriptor can be had"),
        server: server.parse().expect("an address"),
        tokens: Tokens::new(),
        all: HashMap::new(),
        order: VecDeque::new(),
        next: 0,
        seen: CheckedCounts::default(),
        buffer: vec![0; 64 * 1024],
    };
    while checking.all.len() < clients {
        checking.open_one();
        if checking.next.is_multiple_of(100) {
            checking.poll_events(Duration::from_millis(1));
        }
    }
    println!("open");
    let (start, mut left) = (Instant::now(), 0);
    loop {
        checking.poll_events(Duration::from_millis(10));
        let due = (start.elapsed().as_secs_f64() * churn as f64) as usize;
        // No more in a row than what leaves time to read in between.
        for _ in 0..(due - left).min(20) {
            checking.close_oldest();
            left += 1;
        }
        left = left.max(due.saturating_sub(1000));
        while checking.all.len() < clients {
            checking.open_one();
        }
        match receiver.try_recv() {
            Ok(_) => {
                let CheckedCounts { connections, messages, gaps, closed, misdelivered, lost } =
                    checking.seen;
                println!("{connections} {messages} {gaps} {closed} {misdelivered} {lost}");
            }
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
        }
    }
}

impl Clients {
    fn open_one(&mut self) {
        let number = self.next;
        self.next += 1;
        let user = number % USERS;
        let topics = [SHARED_TOPIC.to_owned(), room(user)];
        let token = self.tokens.token_for(user, &topics);
        let mut stream = connect(self.server, number);
        stream.write_all(head(self.server, &token).as_bytes()).expect("the server takes a head");
        stream.set_nonblocking(true).expect("a socket takes its options");
        let mut stream = TcpStream::from_std(stream);
        let registered =
            self.poll.registry().register(&mut stream, Token(number), Interest::READABLE);
        registered.expect("a socket can be registered");
        let client = Client { stream, user, incoming: Vec::new(), is_open: false, last: [None; 3] };
        self.all.insert(number, client);
        self.order.push_back(number);
        self.seen.connections += 1;
    }

    /// The one that came first goes: by a close frame, or just so.
    fn close_oldest(&mut self) {
        let Some(number) = self.order.pop_front() else { return };
        if let Some(mut client) = self.all.remove(&number)
            && number.is_multiple_of(2)
        {
            let _ = client.stream.write(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
        }
    }

    fn poll_events(&mut self, longest: Duration) {
        let mut events = Events::with_capacity(1024);
        match self.poll.poll(&mut events, Some(longest)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            result => result.expect("epoll_wait works"),
        }
        for event in &events {
            self.read(event.token().0);
        }
    }

    fn read(&mut self, number: usize) {
        let Some(client) = self.all.get_mut(&number) else { return };
        loop {
            match client.stream.read(&mut self.buffer) {
                Ok(length) if length > 0 => {
                    client.incoming.extend_from_slice(&self.buffer[..length]);
                    client.take_in(&mut self.seen);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => {
                    self.seen.closed += 1;
                    self.all.remove(&number);
                    return;
                }
            }
        }
    }
}

impl Client {
    fn take_in(&mut self, seen: &mut CheckedCounts) {
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..];
        if !self.is_open {
            let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else {
                self.incoming = incoming;
                return;
            };
            // A refused client is told so, and the connection ends.
            self.is_open = rest.starts_with(b"HTTP/1.1 101 ");
            rest = if self.is_open { &rest[end + 4..] } else { &[] };
        }
        while let Some((first, payload, length)) = whole_frame(rest) {
            match first {
                0x81 => self.on_text(&String::from_utf8_lossy(payload), seen),
                0x89 => {
                    let _ = self.stream.write(&[0x8a, 0x80, 0, 0, 0, 0]);
                }
                _ => {}
            }
            rest = &rest[length..];
        }
        self.incoming = rest.to_vec();
    }

    fn on_text(&mut self, text: &str, seen: &mut CheckedCounts) {
        if let Some(op) = member(text, "op") {
            if op == "gap" {
                seen.gaps += 1;
                self.last = [None; 3];
            }
            return;
        }
        seen.messages += 1;
        let topic = member(text, "topic").unwrap_or_default();
        let own = own_topic(self.user);
        let place =
            [own.as_str(), &room(self.user), SHARED_TOPIC].iter().position(|it| *it == topic);
        let number = text.rsplit("\"data\":").next().and_then(|rest| {
            let digits = rest.trim_end_matches('}').split(',').next()?;
            digits.trim_start_matches("{\"number\":").parse::<u64>().ok()
        });
        let (Some(place), Some(number)) = (place, number) else {
            seen.misdelivered += 1;
            return;
        };
        let last = self.last[place].replace(number);
        seen.lost += usize::from(last.is_some_and(|last| number != last + 1));
    }
}

/// The topic of a user's room.
pub fn room(user: usize) -> String {
    format!("room.{}", user % ROOMS)
}

/// The text of a member of a JSON object, as the server writes it.
fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text.strip_prefix("{\"")?.strip_prefix(name)?.strip_prefix("\":\"")?;
    rest.split('"').next()
}
