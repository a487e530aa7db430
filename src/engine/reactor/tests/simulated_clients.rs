//! Clients of a simulated world: in-memory sockets, and the messages that each may receive by the server's own frames.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::AddAssign;
use std::rc::Rc;

use rustls::client::ClientConnection;
use serde_json::{Value, json};

use crate::engine::client::deflate::tests::naive;
use crate::engine::client::in_memory::FarEnds;
use crate::engine::reactor::tests::simulated_messages::{Messages, Place};
use crate::engine::slots::ConnId;

/// The bound on a message's length, inflated.
const INFLATED_BYTES_MAX: usize = 1 << 20;

/// A cursor, and the last message received of each topic by then.
pub type Memory = (String, BTreeMap<String, u64>);

/// Events of one client, or of many.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub messages: u64,
    pub gaps: u64,
    pub resumed: u64,
    /// Topics subscribed to from a cursor on.
    pub caught_up: u64,
    /// Newest messages that came right behind their subscriptions.
    pub newest: u64,
    /// Messages that a newer one with the same key has replaced.
    pub superseded: u64,
    pub deflated: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.messages += other.messages;
        self.gaps += other.gaps;
        self.resumed += other.resumed;
        self.caught_up += other.caught_up;
        self.newest += other.newest;
        self.superseded += other.superseded;
        self.deflated += other.deflated;
    }
}

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
    /// Its server subscribes at Redis on demand.
    pub on_demand: bool,
    /// The topics that it has asked for, where that counts.
    asking: BTreeSet<String>,
    /// Topics that back ends have joined it to, perhaps, of which it was told nothing.
    joined: BTreeSet<String>,
    /// Topics unsubscribed since it connected. If it subscribes again during its replay, it misses messages in between and may
    /// receive earlier ones.
    given_up: BTreeSet<String>,
    /// The last message received of each topic since the last gap reported for it.
    last: BTreeMap<String, u64>,
    pub tally: Tally,
    last_id: String,
    /// The greatest id received: its place.
    place: String,
    /// The places asked for by `since`, by the commands' references.
    starts: BTreeMap<u64, Place>,
    /// Topics that it catches up on: complete once an id as great as this one has come.
    behind: BTreeMap<String, String>,
    /// The next id may be lower than the last one, since an earlier cursor was asked for.
    may_fall: bool,
    /// The topic whose newest message comes next, and whether it was subscribed to before.
    awaits_newest: Option<(String, bool)>,
    /// Topics of which nothing came but the newest message: its id does not tell its place.
    newest_only: BTreeSet<String>,
    /// Messages may be replaced by newer ones with the same key: its route says so, or it was given earlier ones.
    pub conflates: bool,
    /// It offers compression.
    pub offers: bool,
    deflates: bool,
    /// It resumed with the cursor of an earlier connection of the user, which had received these messages by then.
    pub since: Option<Memory>,
    pub welcomed: bool,
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
    /// The messages of the world, which may have several loops.
    pub messages: Rc<RefCell<Messages>>,
}

#[derive(Clone)]
pub struct Shared(pub Rc<RefCell<SimulatedClients>>);

impl SimulatedClient {
    /// Sends a masked text frame: every other one compressed, if that was agreed on.
    pub fn say(&mut self, text: &str) {
        if !self.deflates || self.asked.is_multiple_of(2) {
            return self.frame(0x81, text.as_bytes());
        }
        let length = text.len() as u16;
        // A block that is stored (RFC 1951 section 3.2.4), and an empty one without its tail (RFC 7692 section 7.2.1).
        let mut block = vec![0];
        block.extend(length.to_le_bytes());
        block.extend((!length).to_le_bytes());
        block.extend(text.as_bytes());
        block.push(0);
        self.frame(0xc1, &block);
    }

    /// Subscribes to topics from a cursor on.
    pub fn subscribe_since(&mut self, topics: &[&str], (cursor, place): &(String, Place)) {
        topics.iter().for_each(|topic| self.ask_for(topic));
        let reference = 100 + self.starts.len() as u64;
        self.starts.insert(reference, *place);
        let command =
            json!({"op": "subscribe", "topics": topics, "since": cursor, "ref": reference});
        self.say(&command.to_string());
        self.asked += topics.len();
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
    fn take_in(&mut self, messages: &mut Messages, seed: u64) -> bool {
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
            self.deflates = String::from_utf8_lossy(&rest[..end]).contains("permessage-deflate");
            assert!(self.offers || !self.deflates, "seed {seed}: it did not ask for compression");
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
                self.take_event(&event, messages, seed);
            }
        }
        while !self.is_stream
            && let Some((first, payload, length)) = whole_frame(rest)
        {
            assert!(self.close_code.is_none(), "seed {seed}: a frame behind the close");
            match first {
                0x81 => self.receive(text(payload), messages, seed),
                0xc1 => {
                    assert!(self.deflates, "seed {seed}: compressed without being asked");
                    let inflated = naive::inflate(payload, INFLATED_BYTES_MAX);
                    self.receive(text(&inflated.expect("it is DEFLATE")), messages, seed);
                    self.tally.deflated += 1;
                }
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

    fn take_event(&mut self, event: &str, messages: &mut Messages, seed: u64) {
        assert!(self.close_code.is_none(), "seed {seed}: an event behind the close");
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        match (field("event: "), field("data: ")) {
            (None, Some(data)) => {
                self.receive(data, messages, seed);
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
                    id.clone_into(&mut self.place);
                }
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }

    fn receive(&mut self, text: &str, messages: &mut Messages, seed: u64) {
        if text == "pong" {
            self.answered += 1;
            return;
        }
        let frame: Value = serde_json::from_str(text).expect("frames are JSON");
        let op = frame["op"].as_str();
        let newest = self.awaits_newest.take();
        assert!(newest.is_none() || op.is_none(), "seed {seed}: the newest message, not {text}");
        if let Some(id) = frame["id"].as_str().filter(|_| op != Some("subscribed")) {
            let may_stay = newest.is_some() || op == Some("pong");
            self.take_id(id, op == Some("welcome"), may_stay, seed);
        }
        let strings = |value: &Value| -> BTreeSet<String> {
            let all = value.as_array().expect("a list").iter();
            all.map(|one| one.as_str().expect("a text").to_owned()).collect()
        };
        self.answered += usize::from(frame.get("ref").is_some());
        match op {
            None => self.check_message(&frame, newest, messages, seed),
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
                    self.conflates = true;
                    self.tally.resumed += 1;
                }
            }
            Some("authed") => {
                let before = std::mem::replace(&mut self.topics, strings(&frame["topics"]));
                self.given_up.extend(before.difference(&self.topics).cloned());
                self.forget_others();
            }
            Some("subscribed") => self.subscribed(&frame, messages),
            Some("unsubscribed") => {
                let topic = frame["topic"].as_str().expect("a text");
                self.topics.remove(topic);
                self.given_up.insert(topic.to_owned());
                self.forget_others();
            }
            Some("error" | "pong") => {}
            Some("gap") => {
                self.tally.gaps += 1;
                self.last.clear();
            }
            Some(other) => panic!("seed {seed}: {other}"),
        }
    }

    /// Takes the id of a frame, which rises: perhaps by nothing if it is not a message's own, and not once behind a subscription
    /// from a cursor on.
    fn take_id(&mut self, id: &str, is_welcome: bool, may_stay: bool, seed: u64) {
        let rises = id > &*self.last_id || (may_stay && id == self.last_id);
        assert!(
            rises || is_welcome || std::mem::take(&mut self.may_fall),
            "seed {seed}, {}: {id} does not rise over {}",
            self.sub,
            self.last_id
        );
        id.clone_into(&mut self.last_id);
        if is_welcome || *id > *self.place {
            id.clone_into(&mut self.place);
        }
        self.behind.retain(|_, up_to| *id < **up_to);
        self.may_fall &= !self.behind.is_empty();
    }

    /// Takes note of a subscription, and of the message that comes next of each topic if it began with a cursor.
    fn subscribed(&mut self, frame: &Value, messages: &Messages) {
        let topic = frame["topic"].as_str().expect("a text").to_owned();
        if frame["last"] == true {
            self.awaits_newest = Some((topic.clone(), self.subscribes_to(&topic)));
        }
        if frame["resumed"] == true {
            let reference = frame["ref"].as_u64().expect("the reference of its command");
            let asked = BTreeSet::from([topic.clone()]);
            for (of, count) in messages.counts(self.starts[&reference]) {
                if !covers(&asked, of) {
                    continue;
                }
                let last = self.last.get(of).copied();
                self.last.remove(of);
                let is_heard = self.subscribes_to(of);
                // Of a topic given up before, earlier messages may be on their way. One that it hears by another subscription
                // goes on behind the last message, or back to the cursor.
                let next = match last {
                    _ if covers(&self.given_up, of) => None,
                    Some(last) if is_heard => Some(last.min(count)),
                    _ => (!is_heard).then_some(count),
                };
                next.and_then(|next| self.last.insert(of.to_owned(), next));
            }
            let up_to = frame["id"].as_str().expect("a cursor").to_owned();
            self.behind.insert(topic.clone(), up_to);
            self.may_fall = true;
            self.conflates = true;
            self.tally.caught_up += 1;
        }
        self.topics.insert(topic);
    }

    /// Forgets topics that it no longer subscribes to: they may have gaps.
    fn forget_others(&mut self) {
        let mut last = std::mem::take(&mut self.last);
        last.retain(|topic, _| self.subscribes_to(topic));
        self.last = last;
    }

    /// Checks that a message is for this client, is the one that was published, and is the next one of its topic or the newest.
    fn check_message(
        &mut self,
        frame: &Value,
        newest: Option<(String, bool)>,
        messages: &mut Messages,
        seed: u64,
    ) {
        let topic = frame["topic"].as_str().expect("a text");
        let data = &frame["data"];
        let number = data.as_u64().or_else(|| data[0].as_u64()).expect("a number");
        let sub = &self.sub;
        let is_asked_for = self.joined.contains(topic) || covers(&self.asking, topic);
        let is_for_it = self.subscribes_to(topic) || is_asked_for;
        assert!(is_for_it, "seed {seed}: {sub} received {topic} {number}");
        assert_eq!(frame["key"].as_str(), messages.key(topic, number), "seed {seed}: {frame}");
        if let Some((of, was_heard)) = newest {
            assert_eq!(topic, of, "seed {seed}: {sub} received another message than the newest");
            if !was_heard && !covers(&self.given_up, topic) {
                self.last.insert(of.clone(), number);
                self.newest_only.insert(of);
            }
            self.tally.newest += 1;
            return;
        }
        self.newest_only.remove(topic);
        messages.note_cursor(&self.last_id, topic, number);
        self.tally.messages += 1;
        if is_asked_for && !self.subscribes_to(topic) && !self.joined.contains(topic) {
            // Nothing is promised before the answer.
            return;
        }
        let Some(last) = self.last.insert(topic.to_owned(), number) else { return };
        assert!(number > last, "seed {seed}: {sub}, {topic}: {number} behind {last}");
        if covers(&self.given_up, topic) {
            return;
        }
        for missing in last + 1..number {
            let is_superseded = self.conflates && messages.is_superseded(topic, missing);
            assert!(is_superseded, "seed {seed}: {sub}, {topic}: {number} behind {last}");
            self.tally.superseded += 1;
        }
    }

    /// It asks for a topic. On demand, a message of it may come right before the answer.
    pub fn ask_for(&mut self, topic: &str) {
        if self.on_demand {
            self.asking.insert(topic.to_owned());
        }
    }

    /// A back end joins it to a topic, unless it is gone by then, or has too many.
    pub fn join(&mut self, topic: &str) {
        self.joined.insert(topic.to_owned());
        self.given_up.insert(topic.to_owned());
    }

    /// Returns whether one of its subscriptions covers the topic.
    pub fn subscribes_to(&self, topic: &str) -> bool {
        covers(&self.topics, topic)
    }

    /// The cursor with which it would resume.
    pub fn memory(&self) -> Option<Memory> {
        let behind: BTreeSet<String> =
            self.behind.keys().chain(&self.newest_only).cloned().collect();
        let last = self.last.iter().filter(|(topic, _)| !covers(&behind, topic));
        let last = last.map(|(topic, last)| (topic.clone(), *last)).collect();
        (!self.place.is_empty()).then(|| (self.place.clone(), last))
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

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text is UTF-8")
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
        let clients = &mut *self.0.borrow_mut();
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
        let answers = client.take_in(&mut clients.messages.borrow_mut(), seed) || has_replies;
        if answers {
            clients.readable.insert(id);
        }
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
