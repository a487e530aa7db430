//! Clients by the thousand that stay, in a process of their own: the even ones plain, the odd ones over TLS. Each checks its messages.
//!
//! A bystander beyond the number asked for must receive nothing but messages for everybody.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::mpsc::{TryRecvError, channel};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::ClientConnection;

use super::client::{Client, whole_frame};
use super::connections_max;
use super::delivery_check::{DeliveryCheck, DeliveryCounts};
use super::numbered_publisher::{heard_by, topics};
use super::process::{Helper, orders};
use super::server::{SHARED_TOPIC, Tokens, own_topic};
use super::tls::Security;

/// The name of this part.
pub const ROLE: &str = "stay";

/// The deadline for the last messages.
const PATIENCE: Duration = Duration::from_secs(50);

/// Faults that are told of one by one.
const FAULTS_TOLD: usize = 10;

/// The first byte of a text message in one frame.
const TEXT: u8 = 0x81;

/// The process, as the bench sees it.
pub struct SteadyClients(Helper);

impl SteadyClients {
    /// Opens `clients` clients, half of them at the address for TLS.
    pub fn start(plain: SocketAddr, tls: SocketAddr, clients: usize) -> SteadyClients {
        let arguments = [clients.to_string(), plain.to_string(), tls.to_string()];
        let helper = Helper::start(ROLE, &arguments.each_ref().map(String::as_str));
        assert_eq!(helper.hear(), "open");
        SteadyClients(helper)
    }

    /// Waits until these numbers were the last that each client received, by the topics' places.
    pub fn wait_for(&mut self, numbers: &[u64]) {
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        self.0.tell(&format!("numbers {}", numbers.join(" ")));
        assert_eq!(self.0.hear(), "done", "a message does not come");
    }

    /// Their counts so far, and the longest time in which nothing came to any of them since the last question.
    pub fn seen(&mut self) -> (DeliveryCounts, Duration) {
        self.0.tell("seen");
        let line = self.0.hear();
        let parse = || {
            let (counts, micros) = line.rsplit_once(' ')?;
            let silence = Duration::from_micros(micros.parse().ok()?);
            Some((DeliveryCounts::from_line(counts)?, silence))
        };
        parse().unwrap_or_else(|| panic!("unexpected: {line}"))
    }
}

struct SteadyClient {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// A part of a frame.
    incoming: Vec<u8>,
    delivery: DeliveryCheck,
    has_ended: bool,
}

struct SteadyLoop {
    poll: Poll,
    all: Vec<SteadyClient>,
    goal: Option<(Instant, Vec<u64>)>,
    seen: DeliveryCounts,
    faults: usize,
    last: Instant,
    silence: Duration,
    buffer: Vec<u8>,
    plain: Vec<u8>,
}

/// Plays this part.
pub fn run(arguments: &[String]) {
    let [clients, plain, tls] = arguments else {
        panic!("the clients are told how many, and where")
    };
    connections_max();
    let [plain, tls] = [plain, tls].map(|address| address.parse().expect("an address"));
    let mut clients = SteadyLoop::open(clients.parse().expect("a number"), plain, tls);
    let (sender, receiver) = channel();
    std::thread::spawn(move || orders().for_each(|order| sender.send(order).unwrap_or_default()));
    println!("open");
    let mut events = Events::with_capacity(1024);
    clients.last = Instant::now();
    loop {
        clients.poll_events(&mut events, Duration::from_millis(5));
        clients.answer_goal();
        match receiver.try_recv() {
            Ok(order) => clients.obey(&order),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
    }
}

impl SteadyLoop {
    fn open(clients: usize, plain: SocketAddr, tls: SocketAddr) -> SteadyLoop {
        let (tokens, names) = (Tokens::new(), topics(clients));
        let poll = Poll::new().expect("an epoll descriptor can be had");
        let config = Security::Tls13.clients().expect("one for TLS");
        let mut all = Vec::with_capacity(clients + 1);
        for number in 0..=clients {
            let heard: Vec<String> = match number < clients {
                true => heard_by(number, clients).map(|place| names[place].clone()).into(),
                false => vec![own_topic(number), SHARED_TOPIC.to_owned()],
            };
            let (server, config) = match number % 2 {
                0 => (plain, None),
                _ => (tls, Some(&config)),
            };
            // Its own topic comes by itself, and first.
            let token = tokens.token_for(number, &heard[1..]);
            let client = Client::open_with(config, server, number, &token);
            let (stream, tls) = client.into_parts();
            stream.set_nonblocking(true).expect("a socket takes its options");
            let mut stream = TcpStream::from_std(stream);
            let registered =
                poll.registry().register(&mut stream, Token(number), Interest::READABLE);
            registered.expect("a socket can be registered");
            let delivery = DeliveryCheck::new(heard.into_iter());
            let tls = tls.map(Box::new);
            all.push(SteadyClient {
                stream,
                tls,
                incoming: Vec::new(),
                delivery,
                has_ended: false,
            });
        }
        SteadyLoop {
            poll,
            all,
            goal: None,
            seen: DeliveryCounts::default(),
            faults: 0,
            last: Instant::now(),
            silence: Duration::ZERO,
            buffer: vec![0; 64 * 1024],
            plain: Vec::new(),
        }
    }

    fn obey(&mut self, order: &str) {
        match order.split_once(' ') {
            None if order == "seen" => {
                let silence = std::mem::take(&mut self.silence);
                println!("{} {}", self.seen.to_line(), silence.as_micros());
            }
            Some(("numbers", numbers)) => {
                let numbers = numbers.split(' ').map(|number| number.parse().expect("a number"));
                self.goal = Some((Instant::now(), numbers.collect()));
            }
            _ => panic!("no such order: {order}"),
        }
    }

    fn poll_events(&mut self, events: &mut Events, longest: Duration) {
        match self.poll.poll(events, Some(longest)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            result => result.expect("epoll_wait works"),
        }
        let now = Instant::now();
        if !events.is_empty() {
            self.silence = self.silence.max(now - self.last);
            self.last = now;
        }
        for event in events.iter() {
            self.read(event.token().0);
        }
    }

    /// Reads one connection until nothing is left: events come for edges alone.
    fn read(&mut self, number: usize) {
        let client = &mut self.all[number];
        while !client.has_ended {
            match client.stream.read(&mut self.buffer) {
                Ok(0) => client.has_ended = true,
                Ok(length) => client.take(&self.buffer[..length], &mut self.plain),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    eprintln!("client {number}: {error}");
                    client.has_ended = true;
                }
            }
            self.seen.ended += usize::from(client.has_ended);
        }
        client.check(&mut self.seen, |fault| {
            self.faults += 1;
            if self.faults <= FAULTS_TOLD {
                eprintln!("client {number}: {fault}");
            }
        });
    }

    /// Says when all have the last messages, or that they have not.
    fn answer_goal(&mut self) {
        let Some((since, numbers)) = &self.goal else { return };
        let clients = self.all.len() - 1;
        let is_there = |(number, one): &(usize, &SteadyClient)| match *number == clients {
            true => one.delivery.is_at([0, numbers[numbers.len() - 1]].into_iter()),
            false => {
                let places = heard_by(*number, clients);
                one.delivery.is_at(places.into_iter().map(|place| numbers[place]))
            }
        };
        match self.all.iter().enumerate().find(|one| !is_there(one)) {
            None => println!("done"),
            Some((number, one)) if since.elapsed() > PATIENCE => {
                println!("client {number}: {}; {:?}", one.delivery.describe(), self.seen);
            }
            Some(_) => return,
        }
        self.goal = None;
    }
}

impl SteadyClient {
    /// Takes bytes that have come; `plain` is room to open records.
    fn take(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) {
        let Some(tls) = &mut self.tls else {
            return self.incoming.extend_from_slice(bytes);
        };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).expect("there is room for a record");
            let state = tls.process_new_packets().expect("records are the server's");
            plain.resize(state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(plain).expect("it was announced");
            self.incoming.extend_from_slice(plain);
        }
    }

    /// Checks each whole message, and keeps no room for the next one.
    fn check(&mut self, seen: &mut DeliveryCounts, mut tell: impl FnMut(String)) {
        let mut read = 0;
        while let Some((first, payload, length)) = whole_frame(&self.incoming[read..]) {
            let text = String::from_utf8_lossy(payload);
            let fault = match first == TEXT {
                true => self.delivery.on_text(&text, seen),
                false => Some(format!("a frame {first:#x}: {text:?}")),
            };
            read += length;
            fault.into_iter().for_each(&mut tell);
        }
        self.incoming.drain(..read);
        self.incoming.shrink_to_fit();
    }
}
