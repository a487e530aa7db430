//! Clients of a simulated world: in-memory sockets, and the messages that each may receive by the server's own frames.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;

use rustls::client::ClientConnection;
use serde_json::Value;

use crate::engine::client::in_memory::FarEnds;
use crate::engine::slots::ConnId;

/// A cursor, and the last message received of each topic by then.
pub type Memory = (String, BTreeMap<String, u64>);

/// A client's end of its connection.
#[derive(Debug, Default)]
pub struct SimulatedClient {
    pub sub: String,
    /// Bytes on the way to the server.
    outgoing: VecDeque<u8>,
    /// Its end of TLS, if it connected by a listener that speaks it.
    pub tls: Option<Box<ClientConnection>>,
    /// It has sent records that no key has sealed.
    pub is_forger: bool,
    /// Bytes that the socket accepts until it is full.
    pub room: usize,
    /// The server knows that the socket is full.
    pub is_full: bool,
    /// The client has shut down its side, or its socket failed.
    pub ended: bool,
    pub reset: bool,
    incoming: Vec<u8>,
    /// The handshake is complete.
    open: bool,
    pub close_code: Option<u16>,
    pub closed: bool,
    /// The subscriptions according to the server's frames.
    pub topics: BTreeSet<String>,
    /// Topics unsubscribed since it connected. If it subscribes again during its replay, it misses messages in between and may
    /// receive earlier ones.
    given_up: BTreeSet<String>,
    /// The last message received of each topic since the last gap reported for it.
    last: BTreeMap<String, u64>,
    pub received: usize,
    last_id: String,
    /// It resumed with the cursor of an earlier connection of the user, which had received these messages by then.
    pub since: Option<Memory>,
    pub gaps: usize,
    pub welcomed: bool,
    pub resumed: usize,
    /// It answers pings.
    pub answers: bool,
    pub pings: usize,
    /// It asked for an event stream.
    pub is_stream: bool,
    /// The body of that, as far as its events are incomplete.
    body: String,
    /// Commands waiting for an answer.
    pub asked: usize,
    pub answered: usize,
}

/// All clients, and those with news for the server.
#[derive(Default)]
pub struct SimulatedClients {
    pub all: BTreeMap<ConnId, SimulatedClient>,
    pub readable: BTreeSet<ConnId>,
    pub writable: BTreeSet<ConnId>,
    pub seed: u64,
    pub messages: usize,
    pub gaps: usize,
    pub resumed: usize,
}

#[derive(Clone)]
pub struct Shared(pub Rc<RefCell<SimulatedClients>>);

impl SimulatedClient {
    /// Sends a masked text frame.
    pub fn say(&mut self, text: &str) {
        self.frame(0x81, text.as_bytes());
    }

    pub fn frame(&mut self, first: u8, payload: &[u8]) {
        let length = payload.len();
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(0x80 | length as u8),
            _ => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.raw(&frame);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes).expect("the buffer has no bound"),
            None => self.outgoing.extend(bytes),
        }
    }

    /// Sends bytes below TLS.
    pub fn forge(&mut self, bytes: &[u8]) {
        self.seal();
        self.outgoing.extend(bytes);
        self.is_forger = true;
    }

    /// Ends its side, usually with the end of TLS before that of TCP.
    pub fn end(&mut self, is_announced: bool) {
        if let Some(tls) = self.tls.as_mut().filter(|_| is_announced) {
            tls.send_close_notify();
        }
        self.seal();
        self.ended = true;
    }

    /// Hands the records that TLS has made to the socket.
    fn seal(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        while !self.is_forger && tls.wants_write() {
            tls.write_tls(&mut self.outgoing).expect("memory takes all");
        }
    }

    /// Takes bytes of the server off the wire. Returns whether TLS has something to answer.
    fn arrive(&mut self, mut bytes: &[u8], seed: u64) -> bool {
        let Some(tls) = &mut self.tls else {
            self.incoming.extend_from_slice(bytes);
            return false;
        };
        while !bytes.is_empty() && !self.is_forger {
            let read = tls.read_tls(&mut bytes).expect("a slice is read");
            assert!(read > 0 || self.closed, "seed {seed}: bytes behind the end of TLS");
            if read == 0 {
                break;
            }
            if let Err(error) = tls.process_new_packets() {
                // A client that leaves in the middle of the handshake may be told that this was no message of it.
                assert!(self.ended && !self.open, "seed {seed}: {error}");
                return false;
            }
            // Without an end it says that there is nothing now.
            let _ = tls.reader().read_to_end(&mut self.incoming);
        }
        tls.wants_write()
    }

    /// Reads complete frames. Returns whether it has something to answer.
    fn take_in(&mut self, seed: u64) -> bool {
        let mut bytes = std::mem::take(&mut self.incoming);
        let mut rest = &bytes[..];
        let mut answers = false;
        if !self.open {
            let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else {
                self.incoming = bytes;
                return false;
            };
            let accepted: &[u8] = if self.is_stream { b"HTTP/1.1 200 " } else { b"HTTP/1.1 101 " };
            if !rest.starts_with(accepted) {
                // Refused: the rest is for people.
                return false;
            }
            self.open = true;
            rest = &rest[end + 4..];
        }
        while self.is_stream
            && let Some((chunk, length)) = whole_chunk(rest)
        {
            self.body.push_str(std::str::from_utf8(chunk).expect("an event is UTF-8"));
            rest = &rest[length..];
            while let Some(end) = self.body.find("\n\n") {
                let left = self.body.split_off(end + 2);
                let event = std::mem::replace(&mut self.body, left);
                self.take_event(&event, seed);
            }
        }
        while !self.is_stream
            && let Some((first, payload, length)) = whole_frame(rest)
        {
            assert!(self.close_code.is_none(), "seed {seed}: a frame behind the close");
            match first {
                0x81 => self.receive(std::str::from_utf8(payload).expect("text is UTF-8"), seed),
                0x89 => {
                    self.pings += 1;
                    if self.answers {
                        self.frame(0x8a, b"");
                        answers = true;
                    }
                }
                0x8a => {}
                0x88 => {
                    let code = payload.get(..2).map(|two| u16::from_be_bytes([two[0], two[1]]));
                    self.close_code = Some(code.unwrap_or(1005));
                }
                other => panic!("seed {seed}: a frame of kind {other:#x}"),
            }
            rest = &rest[length..];
        }
        let left = rest.len();
        bytes.drain(..bytes.len() - left);
        self.incoming = bytes;
        answers
    }

    fn take_event(&mut self, event: &str, seed: u64) {
        assert!(self.close_code.is_none(), "seed {seed}: an event behind the close");
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        match (field("event: "), field("data: ")) {
            (None, Some(data)) => {
                self.receive(data, seed);
                let id = field("id: ").unwrap_or(&self.last_id);
                assert_eq!(id, self.last_id, "seed {seed}: the id of the message");
            }
            (Some("close"), Some(data)) => {
                let data: Value = serde_json::from_str(data).expect("a close is JSON");
                self.close_code = data["code"].as_u64().map(|code| code as u16);
            }
            (None, None) => {
                self.pings += usize::from(event.contains(":\n\n"));
                if let Some(id) = field("id: ") {
                    assert!(*id >= *self.last_id, "seed {seed}: a heartbeat of before");
                    id.clone_into(&mut self.last_id);
                }
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }

    fn receive(&mut self, text: &str, seed: u64) {
        if text == "pong" {
            self.answered += 1;
            return;
        }
        let frame: Value = serde_json::from_str(text).expect("frames are JSON");
        if let Some(id) = frame["id"].as_str() {
            let rises = *id > *self.last_id || frame["op"] == "welcome";
            assert!(rises, "seed {seed}, {}: {id} does not rise over {}", self.sub, self.last_id);
            id.clone_into(&mut self.last_id);
        }
        let strings = |value: &Value| -> BTreeSet<String> {
            let all = value.as_array().expect("a list").iter();
            all.map(|one| one.as_str().expect("a text").to_owned()).collect()
        };
        self.answered += usize::from(frame.get("ref").is_some());
        match frame["op"].as_str() {
            None => self.check_message(&frame, seed),
            Some("welcome") => {
                assert!(!self.welcomed, "seed {seed}: welcomed twice");
                self.welcomed = true;
                self.topics = strings(&frame["topics"]);
                let resumed = frame["resumed"].as_bool().expect("a truth");
                assert!(!resumed || self.since.is_some(), "seed {seed}: it did not resume");
                if resumed && let Some((since, last)) = self.since.take() {
                    assert_eq!(self.last_id, since, "seed {seed}: it goes on where it was");
                    self.last = last;
                    self.forget_others();
                    self.resumed += 1;
                }
            }
            Some("authed") => {
                let before = std::mem::replace(&mut self.topics, strings(&frame["topics"]));
                self.given_up.extend(before.difference(&self.topics).cloned());
                self.forget_others();
            }
            Some("subscribed") => {
                self.topics.insert(frame["topic"].as_str().expect("a text").to_owned());
            }
            Some("unsubscribed") => {
                let topic = frame["topic"].as_str().expect("a text");
                self.topics.remove(topic);
                self.given_up.insert(topic.to_owned());
                self.forget_others();
            }
            Some("error" | "pong") => {}
            Some("gap") => {
                self.gaps += 1;
                self.last.clear();
            }
            Some(other) => panic!("seed {seed}: {other}"),
        }
    }

    /// Forgets topics that it no longer subscribes to: they may have gaps.
    fn forget_others(&mut self) {
        let mut last = std::mem::take(&mut self.last);
        last.retain(|topic, _| self.subscribes_to(topic));
        self.last = last;
    }

    /// Checks that a message is for this client and is the next one of its topic.
    fn check_message(&mut self, frame: &Value, seed: u64) {
        let topic = frame["topic"].as_str().expect("a text");
        let number = frame["data"].as_u64().expect("a number");
        let sub = &self.sub;
        assert!(self.subscribes_to(topic), "seed {seed}: {sub} received {topic} {number}");
        if let Some(last) = self.last.insert(topic.to_owned(), number) {
            let is_next = number == last + 1;
            let is_later = number > last && covers(&self.given_up, topic);
            assert!(is_next || is_later, "seed {seed}: {sub}, {topic}: {number} behind {last}");
        }
        self.received += 1;
    }

    /// Returns whether one of its subscriptions covers the topic.
    pub fn subscribes_to(&self, topic: &str) -> bool {
        covers(&self.topics, topic)
    }

    /// The cursor with which it would resume.
    pub fn memory(&self) -> Option<Memory> {
        (!self.last_id.is_empty()).then(|| (self.last_id.clone(), self.last.clone()))
    }

    /// The last message received of a topic since its last gap.
    pub fn last_of(&self, topic: &str) -> Option<u64> {
        self.last.get(topic).copied()
    }
}

/// Returns whether one of these grants covers the topic.
fn covers(grants: &BTreeSet<String>, topic: &str) -> bool {
    grants.iter().any(|grant| match grant.strip_suffix('*') {
        Some(prefix) if !topic.starts_with("user.") => topic.starts_with(prefix),
        _ => grant == topic,
    })
}

/// The content of a chunk (RFC 9112 section 7.1), and its length.
fn whole_chunk(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let start = bytes.windows(2).position(|two| two == b"\r\n")? + 2;
    let size = std::str::from_utf8(&bytes[..start - 2]).expect("a size is text");
    let size = usize::from_str_radix(size, 16).expect("a size is hexadecimal");
    let length = start + size + 2;
    (bytes.len() >= length).then(|| (&bytes[start..start + size], length))
}

/// The first byte of a frame, its payload, and its length.
fn whole_frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (first, short) = (*bytes.first()?, *bytes.get(1)?);
    let (header, length) = match short {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    Some((first, bytes.get(header..header + length)?, header + length))
}

impl FarEnds for Shared {
    /// Returns all pending bytes, as a socket does: a short read means that nothing is left.
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        let mut clients = self.0.borrow_mut();
        let client = clients.all.get_mut(&id).expect("it was attached");
        if client.reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        client.seal();
        if client.outgoing.is_empty() {
            return if client.ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let length = buffer.len().min(client.outgoing.len());
        for (place, byte) in buffer.iter_mut().zip(client.outgoing.drain(..length)) {
            *place = byte;
        }
        Ok(length)
    }

    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        let mut clients = self.0.borrow_mut();
        let seed = clients.seed;
        let client = clients.all.get_mut(&id).expect("it was attached");
        if client.reset {
            return Err(ErrorKind::BrokenPipe.into());
        }
        assert!(!client.is_full, "seed {seed}: written to before there was room again");
        let taken = bytes.len().min(client.room);
        client.is_full = taken < bytes.len();
        client.room -= taken;
        let has_replies = client.arrive(&bytes[..taken], seed);
        let (received, gaps, resumed) = (client.received, client.gaps, client.resumed);
        let answers = client.take_in(seed) || has_replies;
        let (received, gaps, resumed) =
            (client.received - received, client.gaps - gaps, client.resumed - resumed);
        if answers {
            clients.readable.insert(id);
        }
        clients.messages += received;
        clients.gaps += gaps;
        clients.resumed += resumed;
        if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn shutdown_write(&mut self, id: ConnId) {
        self.0.borrow_mut().all.get_mut(&id).expect("it was attached").closed = true;
    }

    fn close(&mut self, id: ConnId) {
        let mut clients = self.0.borrow_mut();
        clients.all.get_mut(&id).expect("it was attached").closed = true;
        clients.readable.remove(&id);
        clients.writable.remove(&id);
    }
}
