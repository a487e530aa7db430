//! The commands of clients, through a whole loop: each client receives what it may and nothing else, and a bystander
//! nothing at all.
#![no_main]

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use mio::Events;
use oneloop::config::{Proxies, RouteConfig};
use oneloop::engine::bounds::Bounds;
use oneloop::engine::client::in_memory::{FarEnds, install};
use oneloop::engine::handler::Route;
use oneloop::engine::handler::RouteEvent;
use oneloop::engine::origin::Origins;
use oneloop::engine::pubsub::topic::{Grant, is_user_topic, text_of_key};
use oneloop::engine::reactor::{Plan, Reactor, Readiness, UnixAccess};
use oneloop::engine::redis::sink::Sink;
use oneloop::engine::resume::cursor::Signer;
use oneloop::push::Push;
use oneloop::push::token::Keys;
use oneloop::{ConnId, Handler, Message, Reject, Request, RouteOptions, Scope, Subject};
use serde_json::value::RawValue;

/// `topics_per_client_max`. A command that names more topics has one answer for the rest.
const TOPICS_MAX: usize = 6;

const SECRET: &[u8] = b"a secret for tests alone, long enough";

/// A word of an input, and the token that it stands for.
struct Token {
    word: &'static str,
    sub: &'static str,
    topics: &'static [&'static str],
    may: &'static [&'static str],
    admin: bool,
}

const TOKENS: [Token; 4] = [
    Token {
        word: "TOKEN-USER",
        sub: "42",
        topics: &["news"],
        may: &["room.*", "user.*"],
        admin: false,
    },
    Token { word: "TOKEN-NARROW", sub: "42", topics: &["*"], may: &["user.7"], admin: false },
    Token {
        word: "TOKEN-OTHER",
        sub: "7",
        topics: &["user.42", "shop"],
        may: &["*"],
        admin: false,
    },
    Token { word: "TOKEN-ADMIN", sub: "42", topics: &["*"], may: &["*"], admin: true },
];

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new());
}

fuzz_target!(|input: &[u8]| {
    // The first byte says who connects, each line behind it is a message.
    let Some((who, lines)) = input.split_first() else { return };
    WORLD.with_borrow_mut(|world| world.live(*who, lines));
});

/// The product, and a look at what each command left behind.
struct Watched {
    push: Push,
    may: Rc<RefCell<May>>,
}

/// The grants that the client of this input can have.
#[derive(Default)]
struct May {
    topics: Vec<Grant>,
    /// The users as whom it can have shown itself.
    users: Vec<&'static str>,
    admin: bool,
}

impl Watched {
    fn check(&self, server: &mut Scope<'_>, id: ConnId) {
        let may = self.may.borrow();
        let topics = server.topics(id);
        assert!(topics.len() <= server.bounds().topics_per_client_max + 1);
        for (key, _) in topics {
            let own = key.strip_prefix("user.");
            let is_own = own.is_some_and(|user| may.users.contains(&user));
            let heard = Grant::parse(&text_of_key(&key)).expect("only grants are joined");
            let is_granted = may.topics.iter().any(|grant| grant.permits(false, &heard));
            assert!(is_own || may.admin || (is_granted && !is_user_topic(&key)), "{key:?}");
        }
    }
}

impl Handler for Watched {
    fn on_open(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        request: &Request,
    ) -> Result<(), Reject> {
        let result = self.push.on_open(server, id, request);
        self.check(server, id);
        result
    }

    fn on_message(&mut self, server: &mut Scope<'_>, id: ConnId, message: Message<'_>) {
        self.push.on_message(server, id, message);
        self.check(server, id);
    }

    fn on_publish(
        &mut self,
        server: &mut Scope<'_>,
        subject: Subject<'_>,
        payload: &[u8],
    ) -> usize {
        self.push.on_publish(server, subject, payload)
    }

    fn on_close(&mut self, server: &mut Scope<'_>, id: ConnId) {
        self.push.on_close(server, id);
    }

    fn options(&self) -> RouteOptions {
        self.push.options()
    }

    fn on_event(&mut self, server: &mut Scope<'_>, event: RouteEvent) {
        self.push.on_event(server, event);
    }
}

/// The far ends: the one client that speaks, and all others, who are silent.
#[derive(Default)]
struct Peers {
    speaker: Option<ConnId>,
    messages: VecDeque<Vec<u8>>,
    has_ended: bool,
    heard: Vec<u8>,
    overheard: usize,
    is_closed: bool,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Peers>>);

impl FarEnds for Shared {
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        let mut peers = self.0.borrow_mut();
        if peers.speaker != Some(id) {
            return Err(ErrorKind::WouldBlock.into());
        }
        match peers.messages.pop_front() {
            Some(mut message) => {
                let length = message.len().min(buffer.len());
                buffer[..length].copy_from_slice(&message[..length]);
                message.drain(..length);
                if !message.is_empty() {
                    peers.messages.push_front(message);
                }
                Ok(length)
            }
            None if peers.has_ended => Ok(0),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        let mut peers = self.0.borrow_mut();
        if peers.speaker == Some(id) {
            peers.heard.extend_from_slice(bytes);
        } else {
            peers.overheard += bytes.len();
        }
        Ok(bytes.len())
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, id: ConnId) {
        let mut peers = self.0.borrow_mut();
        assert_eq!(peers.speaker, Some(id), "nobody else is closed");
        peers.is_closed = true;
    }
}

struct World {
    reactor: Reactor,
    events: Events,
    peers: Shared,
    may: Rc<RefCell<May>>,
    tokens: Vec<(&'static str, String)>,
}

impl World {
    fn new() -> World {
        let keys = Rc::new(Keys::from_secret(SECRET).expect("the secret is good"));
        let unix = UNIX_EPOCH.elapsed().expect("it is after 1970").as_secs();
        let owned = |texts: &[&str]| -> Vec<String> {
            texts.iter().map(|text| (*text).to_owned()).collect()
        };
        let tokens = TOKENS.map(|Token { word, sub, topics, may, admin }| {
            let token = keys.issue(sub, &owned(topics), &owned(may), admin, unix, 1_000_000_000);
            (word, token.expect("the claims are good"))
        });
        let may = Rc::new(RefCell::new(May::default()));
        let peers = Shared::default();
        install(Some(Box::new(peers.clone())));
        let route = |path: &str, anonymous: &[&str]| Route {
            path: path.to_owned(),
            origins: Origins::Any,
            handler: Box::new(Watched { push: push(&keys, anonymous), may: may.clone() }),
        };
        let plan = Plan {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
            listeners: Vec::new(),
            unix: UnixAccess::default(),
            proxies: Box::new(Proxies::default()),
            proxy_protocol: false,
            ports: Vec::new(),
            admin: None,
            subscriber: None,
            commands: None,
            streams: None,
            expects_channels: true,
            demand: None,
            routes: vec![route("/ws", &[]), route("/open", &["lobby.*"])],
            features: Vec::new(),
            prefix: String::new(),
            signer: Signer::with_key(&[7; 16]),
            bounds: Bounds {
                clients_max: 100,
                commands_per_second_max: 0,
                topics_per_client_max: TOPICS_MAX,
                ping_seconds: 0,
                silence_seconds: 0,
                ..Bounds::default()
            },
            handover: Default::default(),
            trim: None,
        };
        let mut world = World {
            reactor: Reactor::new(plan).expect("a port is free"),
            events: Events::with_capacity(16),
            peers,
            may,
            tokens: tokens.to_vec(),
        };
        world.begin("/ws", Some("TOKEN-OTHER"), vec![]);
        world.turn();
        world
    }

    /// Runs a connection from its handshake to its end.
    fn live(&mut self, who: u8, lines: &[u8]) {
        let (path, token) = match who % 8 {
            0 => ("/ws", None),
            1 => ("/open", None),
            2 => ("/open", Some("TOKEN-USER")),
            3 => ("/ws", Some("TOKEN-NARROW")),
            4 => ("/ws", Some("TOKEN-OTHER")),
            5 => ("/ws", Some("TOKEN-ADMIN")),
            _ => ("/ws", Some("TOKEN-USER")),
        };
        let messages: Vec<Vec<u8>> = lines
            .split(|byte| *byte == b'\n')
            .take(64)
            .map(|line| {
                let text = std::str::from_utf8(line).unwrap_or("\u{fffd}");
                let words = self.tokens.iter();
                words.fold(text.to_owned(), |text, (word, token)| text.replace(word, token)).into()
            })
            .collect();
        let count = messages.len();
        self.begin(path, token, messages);
        while !self.peers.0.borrow().messages.is_empty() {
            self.turn();
        }
        self.turn();
        self.end();
        let mut peers = self.peers.0.borrow_mut();
        assert_eq!(peers.overheard, 0, "a bystander was told something");
        check_answers(&std::mem::take(&mut peers.heard), count);
    }

    fn begin(&mut self, path: &str, token: Option<&str>, messages: Vec<Vec<u8>>) {
        *self.may.borrow_mut() = self.may_hear(path, token, &messages);
        let bearer = self.tokens.iter().find(|(word, _)| Some(*word) == token);
        let bearer = bearer.map(|(_, token)| format!("Authorization: Bearer {token}\r\n"));
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n",
            bearer.unwrap_or_default()
        );
        let mut peers = self.peers.0.borrow_mut();
        *peers = Peers { speaker: Some(self.reactor.attach()), ..Peers::default() };
        peers.messages = messages.iter().map(|text| masked(text)).collect();
        peers.messages.push_front(head.into_bytes());
    }

    /// Granted are the sum of what its tokens say: a newer one takes back, but the model does not follow that.
    fn may_hear(&self, path: &str, token: Option<&str>, messages: &[Vec<u8>]) -> May {
        let mut may = May::default();
        let grant = |text: &str| Grant::parse(text).expect("it is a grant");
        if path == "/open" {
            may.topics.push(grant("lobby.*"));
        }
        for (claims, (word, text)) in TOKENS.iter().zip(&self.tokens) {
            let shows = |message: &Vec<u8>| {
                std::str::from_utf8(message).expect("lines are text").contains(text.as_str())
            };
            if token == Some(word) || messages.iter().any(shows) {
                may.topics.extend(claims.topics.iter().chain(claims.may).map(|text| grant(text)));
                may.users.push(claims.sub);
                may.admin |= claims.admin;
            }
        }
        may
    }

    fn turn(&mut self) {
        let speaker = self.peers.0.borrow().speaker.expect("somebody speaks");
        let ending = self.peers.0.borrow().has_ended;
        self.reactor.on_ready(speaker, Readiness { readable: true, ending, writable: false });
        let ended = self.reactor.turn(&mut self.events, Some(Duration::ZERO)).expect("it polls");
        assert_eq!(ended, None);
    }

    fn end(&mut self) {
        self.peers.0.borrow_mut().has_ended = true;
        for _ in 0..10 {
            if self.peers.0.borrow().is_closed {
                return;
            }
            self.turn();
        }
        panic!("a connection whose end has come stays");
    }
}

fn push(keys: &Rc<Keys>, anonymous: &[&str]) -> Push {
    let anonymous = anonymous.iter().map(|text| (*text).to_owned()).collect();
    // There is no Redis: whatever is sent is answered as unavailable.
    let upstream = Some(Sink::Channel("up".to_owned()));
    let route = RouteConfig { anonymous, upstream, ..RouteConfig::default() };
    Push::new(keys.clone(), &route).expect("the grants are good")
}

/// A text frame of a client, whose mask of zeros leaves the text as it is (RFC 6455 section 5.3).
fn masked(text: &[u8]) -> Vec<u8> {
    let length = (text.len() as u64).to_be_bytes();
    let head = match text.len() {
        0..126 => vec![0x81, 0x80 | length[7]],
        126..0x1_0000 => [&[0x81, 0xfe], &length[6..]].concat(),
        _ => [&[0x81, 0xff], &length[..]].concat(),
    };
    [&head, &[0; 4][..], text].concat()
}

/// The answer to the handshake, then JSON of which each text has an `op`, then perhaps a close frame.
fn check_answers(heard: &[u8], messages: usize) {
    let end = heard.windows(4).position(|four| four == b"\r\n\r\n").expect("it is answered") + 4;
    assert!(heard.starts_with(b"HTTP/1.1 101 "));
    let (mut rest, mut answers) = (&heard[end..], 0);
    while let [first, length, behind @ ..] = rest {
        let (length, behind) = match length {
            126 => (usize::from(u16::from_be_bytes([behind[0], behind[1]])), &behind[2..]),
            127 => panic!("no answer is so long"),
            _ => (usize::from(*length), behind),
        };
        let payload = &behind[..length];
        rest = &behind[length..];
        match first {
            0x81 => {
                answers += 1;
                check_text(std::str::from_utf8(payload).expect("it is text"));
            }
            0x88 => {
                assert!(rest.is_empty() && (2..=125).contains(&length));
                let reason = std::str::from_utf8(&payload[2..]).expect("it is text");
                assert!(reason.is_empty() || serde_json::from_str::<&RawValue>(reason).is_ok());
            }
            other => panic!("unexpected: {other:x}"),
        }
    }
    // A welcome and, for each message, an answer, one for each topic that it names, and what a token granted above the bound.
    let answers_max = 1 + (TOPICS_MAX + 3) * messages;
    assert!(answers <= answers_max, "{answers} answers to {messages} messages");
}

fn check_text(text: &str) {
    if text == "pong" {
        return;
    }
    let members: HashMap<String, &RawValue> = serde_json::from_str(text).expect("it is an object");
    let op = members["op"].get();
    let known = ["welcome", "subscribed", "unsubscribed", "topics", "pong", "authed", "error"];
    assert!(known.iter().any(|known| op == format!("\"{known}\"")), "{op}");
}
