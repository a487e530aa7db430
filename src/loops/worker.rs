//! A worker's side: takes the input of the parent's sources as if it were its own, and the parent's orders.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::reactor::{HandoverStep, LoopOrder, OtherPorts, Port, PortRegistry, Reactor};
use crate::engine::redis::request::{Answer, Ticket};
use crate::engine::router::Router;
use crate::engine::router::admin::AdminPage;
use crate::engine::server::requests::Publication;
use crate::engine::server::{Server, follow};
use crate::loops::deliveries::DeliveryNotes;
use crate::loops::desk::{PAGES, report};
use crate::loops::hello::Hello;
use crate::loops::inputs::read_input;
use crate::loops::kinds::*;
use crate::loops::limits::notes;
use crate::loops::link::{
    Fields, LinkFrame, LinkInput, MalformedLink, VERSION, write_bytes, write_frame, write_number,
};
use crate::loops::roster::RosterNotes;
use crate::loops::socket::LinkSocket;
use crate::loops::state::take_state;
use crate::loops::{descriptors, members};
use crate::upgrade::{Predecessor, StateLink, Successor, end_with_parent};

/// The pause between two signs of life.
const PULSE_PAUSE: Millis = 1_000;

/// The longest wait for the parent's words at the start.
const PARENT_SECONDS: u64 = 30;

/// The most messages by which a client's cursor of a sibling may be ahead: as many as the parent's queue to a worker holds, and more.
const AHEAD_MAX: u64 = 1 << 24;

const BUFFER_BYTES: usize = 64 * 1024;

/// A worker that has heard the parent's first words.
pub struct WorkerStart {
    pub hello: Hello,
    pub listeners: Vec<OwnedFd>,
    stream: UnixStream,
    input: LinkInput,
    words: StateLink,
    /// The way to the worker whose place this one takes.
    predecessor: Option<OwnedFd>,
}

impl WorkerStart {
    /// Reads the parent's first words from standard input.
    ///
    /// # Errors
    /// Standard input is no link, or the parent is of another version.
    pub fn from_parent() -> io::Result<WorkerStart> {
        WorkerStart::read(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// Reads the parent's first words.
    ///
    /// # Errors
    /// The parent is gone, or of another version.
    pub(super) fn read(stream: UnixStream) -> io::Result<WorkerStart> {
        stream.set_read_timeout(Some(Duration::from_secs(PARENT_SECONDS)))?;
        let (mut input, mut listeners) = (LinkInput::default(), Vec::new());
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = descriptors::receive(&stream, &mut buffer, &mut listeners)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            input.push(&buffer[..length]);
            let hello = input.next_frame().and_then(|frame| frame.map(Hello::read).transpose());
            if let Some(hello) = hello.map_err(malformed)? {
                let predecessor = hello.takes_over.then(|| listeners.pop()).flatten();
                let words = listeners.pop().ok_or_else(|| malformed(MalformedLink))?;
                let words = StateLink::new(words.into())?;
                end_with_parent(predecessor.is_some())?;
                return Ok(WorkerStart { hello, listeners, stream, input, words, predecessor });
            }
        }
    }

    /// The worker whose place this one takes, if there is one.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn predecessor(&mut self) -> io::Result<Option<Predecessor>> {
        let Some(socket) = self.predecessor.take() else { return Ok(None) };
        Predecessor::of_worker(socket, self.words.duplicate()?).map(Some)
    }

    /// Takes over the name of the parent: before the parts that ask for it.
    pub fn name(&self, server: &mut Server) {
        let Hello { node, number, predecessors, .. } = self.hello;
        let own = match predecessors {
            0 => number.to_string(),
            _ => format!("{number}x{predecessors}"),
        };
        follow(server, node, &own, AHEAD_MAX);
    }

    /// Takes over the parent's state, and goes on from there. A worker that has taken another one's place lacks the last part of it
    /// alone, which tells it to begin.
    ///
    /// # Errors
    /// The parent is gone, or its state is none.
    pub fn attach(mut self, reactor: &mut Reactor) -> io::Result<()> {
        if !self.hello.takes_over {
            self.ask()?;
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        while !self.take_state(&mut reactor.router)? {
            self.read_on(&mut buffer)?;
        }
        self.begin(reactor)
    }

    /// Asks for the parent's state.
    pub(super) fn ask(&mut self) -> io::Result<()> {
        let mut words = Vec::new();
        write_frame(&mut words, ATTACH, |out| write_number(out, VERSION.into()));
        self.stream.write_all(&words)
    }

    pub(super) fn read_on(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let length = self.stream.read(buffer)?;
        self.input.push(&buffer[..length]);
        if length > 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Takes over the frames of the state that have come. Returns whether they are all of it.
    pub(super) fn take_state(&mut self, router: &mut Router) -> io::Result<bool> {
        while let Some(frame) = self.input.next_frame().map_err(malformed)? {
            if take_state(router, frame).map_err(malformed)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes on from the state with the input that follows it.
    pub(super) fn begin(self, reactor: &mut Reactor) -> io::Result<()> {
        let WorkerStart { hello, stream, input, words, .. } = self;
        end_with_parent(false)?;
        stream.set_nonblocking(true)?;
        let mut link = LinkSocket::new(TcpStream::from(OwnedFd::from(stream)));
        link.input = input;
        match hello.takes_over {
            true => members::write_all(&mut reactor.router.server, &mut link.tail),
            false => write_frame(&mut link.tail, SERVING, |_| {}),
        }
        // The parent's words behind the state come before clients.
        link.read_on();
        notes::watch_addresses(&mut reactor.router, &hello);
        reactor.add_port(Box::new(ParentLink {
            link,
            words,
            has_told_rest: false,
            orders: VecDeque::new(),
            counts: Vec::new(),
            tickets: HashMap::new(),
            latest: 0,
            has_frames: true,
            pulse_at: 0,
        }));
        Ok(())
    }
}

fn malformed(_: MalformedLink) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the parent's words cannot be read")
}

/// The link to the parent, as a port without a listener.
struct ParentLink {
    link: LinkSocket,
    /// For the words of an upgrade, and its sockets.
    words: StateLink,
    /// The parent knows that this worker is at rest.
    has_told_rest: bool,
    orders: VecDeque<LoopOrder>,
    /// Numbers of counted messages, and their receivers here.
    counts: Vec<(u64, usize)>,
    /// The owners of messages that the parent publishes, by the numbers that they were given.
    tickets: HashMap<u64, Ticket>,
    latest: u64,
    /// Frames may wait: a client had too much pending.
    has_frames: bool,
    pulse_at: Millis,
}

impl ParentLink {
    /// The worker of another parent that is to take this one's place.
    fn successor(&mut self) -> Option<Box<Successor>> {
        let socket = self.words.receive_socket();
        let found = socket.and_then(|one| Successor::of_worker(one, self.words.duplicate()?));
        let warn = |error: &io::Error| log::warn!("upgrade: no socket came to the loop: {error}");
        found.inspect_err(warn).ok().map(Box::new)
    }

    /// Takes frames, until a client has too much pending.
    fn take_frames(&mut self, router: &mut Router) -> Result<(), MalformedLink> {
        let streams = router.server.resume.streams.len();
        while !router.server.is_pressed() {
            let Some(frame) = self.link.input.next_frame()? else {
                self.has_frames = false;
                return Ok(());
            };
            if let Some((input, number)) = read_input(frame, streams)? {
                let receivers = router.handle(input);
                if number > 0 {
                    self.counts.push((number, receivers));
                }
                continue;
            }
            let mut fields = Fields::of(frame.body);
            match frame.kind {
                NEXT if fields.number()? == router.server.resume.history.next() => {}
                ANSWER => {
                    let (ticket, answer) = read_answer(frame)?;
                    let ticket = self.tickets.remove(&ticket).ok_or(MalformedLink)?;
                    router.on_answer(ticket, answer);
                }
                QUESTION => {
                    let page = AdminPage::ALL[fields.number_below(PAGES)?];
                    let report = report(router, page);
                    write_frame(&mut self.link.tail, REPORT, |out| {
                        write_number(out, page as u64);
                        write_bytes(out, &report);
                    });
                }
                RELOAD => self.orders.push_back(LoopOrder::Reload),
                DRAIN => {
                    let (place, of) = (fields.number()?, fields.number()?);
                    self.orders.push_back(LoopOrder::Drain { place, of });
                }
                PREPARE => {
                    let successor = self.successor();
                    self.orders.extend(successor.map(LoopOrder::Prepare));
                }
                REST => self.orders.push_back(LoopOrder::Rest),
                HAND_OVER => self.orders.push_back(LoopOrder::HandOver),
                GO_ON => self.orders.push_back(LoopOrder::GoOn),
                _ if members::take_frame(frame, router)? => {}
                _ => notes::take_order(router, frame)?,
            }
        }
        self.has_frames = self.link.input.has_frame()?;
        Ok(())
    }
}

fn read_answer(frame: LinkFrame<'_>) -> Result<(u64, Answer), MalformedLink> {
    let mut fields = Fields::of(frame.body);
    let ticket = fields.number()?;
    let answer = match fields.truth()? {
        true => Answer::Integer(fields.number()? as i64),
        false => Answer::Refused(fields.text()?.to_owned()),
    };
    fields.end().map(|()| (ticket, answer))
}

impl Port for ParentLink {
    fn name(&self) -> &'static str {
        "loops"
    }

    fn connections(&self) -> usize {
        // The link is as old as the process, and no reason to wait at its end.
        0
    }

    fn on_ready(&mut self, _: usize, event: &Event) {
        self.link.note(event);
    }

    fn read(
        &mut self,
        router: &mut Router,
        _: OtherPorts<'_>,
        buffer: &mut [u8],
        bytes_max: usize,
    ) -> bool {
        let was_pressed = router.server.is_pressed();
        let mut taken = self.take_frames(router);
        let mut total = 0;
        while taken.is_ok() && !self.has_frames && self.link.has_more() && total < bytes_max {
            let room = (bytes_max - total).min(buffer.len());
            total += self.link.read(&mut buffer[..room], room);
            self.has_frames = true;
            taken = self.take_frames(router);
        }
        if taken.is_err() {
            log::error!("the parent's words cannot be read: this loop ends");
        }
        if taken.is_err() || self.link.is_over() {
            self.orders.push_back(LoopOrder::End);
        }
        was_pressed && self.has_frames
    }

    fn deliver(&mut self, _: &mut Server, _: &[u8], _: &[u8]) -> usize {
        0
    }

    fn take_publications(&mut self, publications: &mut Vec<Publication>) {
        for Publication { channel, payload, ticket } in publications.drain(..) {
            self.latest += 1;
            let latest = self.latest;
            self.tickets.insert(latest, ticket);
            write_frame(&mut self.link.tail, PUBLISH, |out| {
                write_number(out, latest);
                write_bytes(out, channel.as_bytes());
                write_bytes(out, payload.as_bytes());
            });
        }
    }

    fn tick(&mut self, router: &mut Router, _: OtherPorts<'_>, registry: PortRegistry<'_>) {
        // If that fails, it is tried again in the next turn.
        let _ = self.link.register(&registry, 0);
        notes::write(router, &mut self.link.tail);
        RosterNotes::write_changes(router, &mut self.link.tail);
        members::write_changes(&mut router.server, &mut self.link.tail);
        DeliveryNotes::write_reports(router, &mut self.link.tail);
        let now = router.server.now().millis;
        if now >= self.pulse_at {
            self.pulse_at = now + PULSE_PAUSE;
            let clients = router.server.clients_len() as u64;
            write_frame(&mut self.link.tail, PULSE, |out| write_number(out, clients));
        }
    }

    fn take_order(&mut self) -> Option<LoopOrder> {
        self.orders.pop_front()
    }

    fn is_at_rest(&self, router: &Router) -> Option<bool> {
        let is_read = !self.has_frames && self.tickets.is_empty();
        let is_told = self.counts.is_empty()
            && notes::are_told(router)
            && RosterNotes::are_told(router)
            && DeliveryNotes::are_told(router)
            && self.link.unwritten() == 0;
        Some(is_read && is_told)
    }

    fn on_handover(&mut self, step: HandoverStep, _: Millis) -> Result<(), String> {
        match step {
            HandoverStep::Rest => {
                self.has_told_rest = false;
                // The log will say how many clients passed.
                self.pulse_at = 0;
            }
            HandoverStep::AtRest if !self.has_told_rest => {
                self.has_told_rest = true;
                write_frame(&mut self.link.tail, AT_REST, |_| {});
            }
            _ => {}
        }
        Ok(())
    }

    fn flush(&mut self, server: &mut Server) {
        if !self.counts.is_empty() {
            let counts = std::mem::take(&mut self.counts);
            write_frame(&mut self.link.tail, COUNTS, |out| {
                for (number, receivers) in counts {
                    write_number(out, number);
                    write_number(out, receivers as u64);
                }
            });
        }
        members::write_requests(server, &mut self.link.tail);
        self.link.write(server.now().millis);
    }

    fn reap(&mut self) -> bool {
        false
    }

    fn deadline(&self, now: Millis) -> Option<Millis> {
        let has_work = self.has_frames || !self.orders.is_empty() || self.link.has_work();
        Some(if has_work { now } else { self.pulse_at })
    }

    fn close(&mut self, _: Millis) {}
}
