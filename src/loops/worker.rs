//! A worker's side: takes the input of the parent's sources as if it were its own, and the parent's orders.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::reactor::{LoopOrder, OtherPorts, Port, PortRegistry, Reactor};
use crate::engine::redis::request::{Answer, Ticket};
use crate::engine::router::Router;
use crate::engine::router::admin::AdminPage;
use crate::engine::server::requests::Publication;
use crate::engine::server::{Server, follow};
use crate::loops::deliveries::DeliveryNotes;
use crate::loops::descriptors;
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
                return Ok(WorkerStart { hello, listeners, stream, input });
            }
        }
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

    /// Takes over the parent's state, and goes on from there.
    ///
    /// # Errors
    /// The parent is gone, or its state is none.
    pub fn attach(mut self, reactor: &mut Reactor) -> io::Result<()> {
        self.ask()?;
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
        let WorkerStart { hello, stream, input, .. } = self;
        stream.set_nonblocking(true)?;
        let mut link = LinkSocket::new(TcpStream::from(OwnedFd::from(stream)));
        link.input = input;
        write_frame(&mut link.tail, SERVING, |_| {});
        // The parent's words behind the state come before clients.
        link.read_on();
        notes::begin(&mut reactor.router, &hello)?;
        reactor.add_port(Box::new(ParentLink {
            is_registered: false,
            link,
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
    /// The link is known to the poll.
    is_registered: bool,
    link: LinkSocket,
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
        if !self.is_registered {
            self.is_registered = self.link.register(&registry, 0).is_ok();
        }
        notes::write(router, &mut self.link.tail);
        RosterNotes::write_changes(router, &mut self.link.tail);
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
        self.link.write(server.now().millis);
    }

    fn reap(&mut self) -> bool {
        false
    }

    fn deadline(&self, now: Millis) -> Option<Millis> {
        let has_work = self.has_frames || self.link.has_more() || !self.is_registered;
        let is_ordered = !self.orders.is_empty() || self.link.is_over();
        Some(if has_work || is_ordered { now } else { self.pulse_at })
    }

    fn close(&mut self, _: Millis) {}
}
