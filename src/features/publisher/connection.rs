//! A publisher's connection to us: RESP commands in, PUBLISH out to the caller, everything else answered here.

mod intake;
mod output;
mod pubsub;
mod refused;
mod script;
mod transaction;

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;

use crate::engine::redis::resp::{self, ENVELOPE_BYTES_MAX, Whole};
use crate::features::publisher::catalog::{self, Command, Found};
pub use crate::features::publisher::commands::Peer;
use crate::features::publisher::commands::{Context, Replies, Session, wrong_arity};
use crate::features::publisher::exchange::Exchange;
pub use crate::features::publisher::terms::{Moment, Terms};
use intake::{End, Intake};
use output::Output;
use refused::Refused;
use script::Broadcast;
use transaction::{Queue, Run};

/// Of one command, before AUTH: strangers hold no memory.
const UNAUTHENTICATED_BYTES_MAX: usize = 16 * 1024;
/// Above this many bytes of answers that the peer has not read, no further command is executed.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// `PUBLISH channel payload`, to be answered with `Publisher::published` or `Publisher::refused`.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub channel: &'a [u8],
    /// At most `payload_bytes_max`.
    pub payload: &'a [u8],
}

/// The state of one connection. The caller owns the socket. Between two commands it holds no buffer.
pub struct Publisher {
    terms: Rc<Terms>,
    session: Session,
    intake: Intake,
    output: Output,
    /// Input that came while the peer did not read its answers: at most what the caller read at once.
    waiting: Vec<u8>,
    waiting_read: usize,
    /// A command that came in pieces, while the caller looks at it.
    lent: Vec<u8>,
    /// Since MULTI.
    queue: Option<Box<Queue>>,
    /// Since EXEC, until all is carried out.
    run: Option<Box<Run>>,
    /// An EVAL that is carried out.
    broadcast: Option<Box<Broadcast>>,
    /// The command under way is not answered: CLIENT REPLY.
    is_muted: bool,
    is_subscriber: bool,
    oversized: u32,
    refused: Refused,
    is_ending: bool,
}

/// Where a PUBLISH stands.
enum Source<'a> {
    Input(Cow<'a, [u8]>),
    Run,
    Broadcast,
}

/// A PUBLISH, and where in it things are.
struct Located<'a> {
    source: Source<'a>,
    channel: Range<usize>,
    payload: Range<usize>,
}

type Places = (Range<usize>, Range<usize>);

impl Publisher {
    pub fn new(terms: Rc<Terms>, peer: Peer) -> Publisher {
        Publisher {
            session: Session::new(peer, &terms),
            terms,
            intake: Intake::new(),
            output: Output::default(),
            waiting: Vec::new(),
            waiting_read: 0,
            lent: Vec::new(),
            queue: None,
            run: None,
            broadcast: None,
            is_muted: false,
            is_subscriber: false,
            oversized: 0,
            refused: Refused::default(),
            is_ending: false,
        }
    }

    /// Whether it has given the password, if one is asked for.
    pub fn is_authenticated(&self) -> bool {
        self.session.is_authenticated()
    }

    /// Takes from `input` up to the next PUBLISH, answering all else; `None`: it is used up. Call until then.
    ///
    /// Once more than 64 KiB of answers are unread, it keeps the rest of the input and says `None`: after `wrote`, call again
    /// with whatever there is (an empty input will do) as long as it finds something.
    pub fn next<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
        exchange: &mut Exchange,
        moment: &Moment,
    ) -> Option<Publish<'a>> {
        self.lent = Vec::new();
        let found = match self.waiting.is_empty() {
            true => self.find(input, exchange, moment),
            false => self.find_waiting(input, exchange, moment),
        };
        let Some(Located { source, channel, payload }) = found else {
            self.waiting.extend_from_slice(input);
            *input = &[];
            return None;
        };
        let bytes: &'a [u8] = match source {
            Source::Input(Cow::Borrowed(command)) => command,
            Source::Input(Cow::Owned(command)) => {
                self.lent = command;
                &self.lent
            }
            Source::Run => self.run.as_ref()?.commands(),
            Source::Broadcast => self.broadcast.as_ref()?.bytes(),
        };
        Some(Publish { channel: &bytes[channel], payload: &bytes[payload] })
    }

    /// Answers the PUBLISH that `next` returned last.
    pub fn published(&mut self, receivers: usize) {
        if self.broadcast.is_none() && !self.is_muted {
            resp::write_integer(self.answers(), receivers);
        }
    }

    /// Answers it with an error: nobody can hear that channel.
    pub fn refused(&mut self, why: &str) {
        match &mut self.broadcast {
            Some(broadcast) => broadcast.refuse(why),
            None if self.is_muted => {}
            None => resp::write_error(self.answers(), why),
        }
    }

    /// Whether a transaction or a broadcast has begun and not ended: call `next` again, before any other connection's.
    pub fn is_executing(&self) -> bool {
        self.run.is_some() || self.broadcast.is_some()
    }

    /// Takes over the messages that wait for it.
    pub fn collect(&mut self, exchange: &mut Exchange) {
        let first = if self.session.is_resp3() { b'>' } else { b'*' };
        for body in exchange.take(self.session.peer.seat) {
            self.output.push(first, &body);
        }
    }

    /// Bytes for the socket, in parts.
    pub fn output(&self) -> impl Iterator<Item = &[u8]> {
        self.output.parts()
    }

    /// Whether there are bytes for the socket.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Of them, messages that it subscribes to; see [`Exchange::settle`].
    pub fn unwritten_messages(&self) -> usize {
        self.output.messages()
    }

    /// The socket took the first `count` bytes of `output`.
    pub fn wrote(&mut self, count: usize) {
        self.output.wrote(count);
    }

    /// Whether this is the end: of a QUIT, of a stream that is not RESP, of a browser. Close when `output` is written.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Whether the socket should be read. Not while the peer leaves its answers unread.
    pub fn wants_input(&self) -> bool {
        !self.is_ending && self.waiting.is_empty() && !self.is_full()
    }

    /// Whether the peer leaves so many answers unread that nothing more is carried out. A transaction is carried out whole.
    fn is_full(&self) -> bool {
        self.output.answers() > OUTPUT_BYTES_MAX
    }

    /// How many PUBLISH were refused for their size since the last call.
    pub fn take_oversized(&mut self) -> u32 {
        std::mem::take(&mut self.oversized)
    }

    /// How many commands were refused since the last call because the port does not know them, and the latest one's name.
    pub fn take_refused(&mut self) -> Option<(String, u32)> {
        self.refused.take()
    }

    /// Where answers go: those of a transaction are sent together.
    fn answers(&mut self) -> &mut Vec<u8> {
        match &mut self.run {
            Some(run) => &mut run.answers,
            None => self.output.tail(),
        }
    }

    fn find_waiting(
        &mut self,
        input: &mut &[u8],
        exchange: &mut Exchange,
        moment: &Moment,
    ) -> Option<Located<'static>> {
        self.waiting.extend_from_slice(input);
        *input = &[];
        let waiting = std::mem::take(&mut self.waiting);
        let mut rest = &waiting[self.waiting_read..];
        let found = self.find(&mut rest, exchange, moment).map(Located::into_owned);
        self.waiting_read = waiting.len() - rest.len();
        match rest.is_empty() {
            true => self.waiting_read = 0,
            false => self.waiting = waiting,
        }
        found
    }

    fn find<'input>(
        &mut self,
        input: &mut &'input [u8],
        exchange: &mut Exchange,
        moment: &Moment,
    ) -> Option<Located<'input>> {
        loop {
            if self.is_executing() {
                match self.go_on(exchange, moment) {
                    Some(found) => return Some(found),
                    None => continue,
                }
            }
            if self.is_ending {
                *input = &[];
            }
            if input.is_empty() || self.is_full() {
                return None;
            }
            match self.take_command(input) {
                Some(Whole::Value(command)) => {
                    if let Some((channel, payload)) = self.execute(&command, exchange, moment) {
                        return Some(Located { source: Source::Input(command), channel, payload });
                    }
                }
                Some(Whole::Oversized { bytes }) => self.refuse_oversized("command", bytes),
                None => {}
            }
        }
    }

    /// The next PUBLISH of what is carried out; `None`: call again, or it was the end.
    fn go_on(&mut self, exchange: &mut Exchange, moment: &Moment) -> Option<Located<'static>> {
        if let Some(broadcast) = &mut self.broadcast {
            if let Some((channel, payload)) = broadcast.next() {
                return Some(Located { source: Source::Broadcast, channel, payload });
            }
            let (ended, is_resp3) = (self.broadcast.take()?, self.session.is_resp3());
            if !self.is_muted {
                ended.write_end(self.answers(), is_resp3);
            }
            return None;
        }
        let range = self.run.as_mut()?.next();
        let Some(range) = range else {
            let run = self.run.take()?;
            if !self.is_muted {
                self.output.tail().extend_from_slice(&run.answers);
            }
            return None;
        };
        let command = self.run.as_ref()?.commands()[range.clone()].to_vec();
        let (channel, payload) = self.execute(&command, exchange, moment)?;
        let place = |part: Range<usize>| range.start + part.start..range.start + part.end;
        Some(Located { source: Source::Run, channel: place(channel), payload: place(payload) })
    }

    fn take_command<'input>(&mut self, input: &mut &'input [u8]) -> Option<Whole<'input>> {
        let bytes_max = match self.session.is_authenticated() {
            true => self.terms.payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX),
            false => UNAUTHENTICATED_BYTES_MAX,
        };
        self.intake.next(input, bytes_max).unwrap_or_else(|end| {
            if let End::Told(text) = end {
                resp::write_error(self.output.tail(), &text);
            }
            self.is_ending = true;
            None
        })
    }

    /// Channel and payload, if it is a PUBLISH that may be carried out; any other command is answered.
    fn execute(
        &mut self,
        command: &[u8],
        exchange: &mut Exchange,
        moment: &Moment,
    ) -> Option<Places> {
        if self.run.is_some() {
            return self.carry_out(command, exchange, moment);
        }
        if self.is_subscriber {
            self.collect(exchange);
        }
        let replies = self.session.replies;
        self.is_muted = replies != Replies::On;
        let answered = self.output.tail().len();
        let found = self.carry_out(command, exchange, moment);
        match replies {
            Replies::On => {}
            // Only CLIENT REPLY ON is answered.
            Replies::Off if self.session.replies == Replies::On => self.is_muted = false,
            Replies::Off => self.output.tail().truncate(answered),
            Replies::Skip => {
                self.session.replies = Replies::On;
                self.output.tail().truncate(answered);
            }
        }
        found
    }

    fn carry_out(
        &mut self,
        command: &[u8],
        exchange: &mut Exchange,
        moment: &Moment,
    ) -> Option<Places> {
        let mut bulks = resp::bulks(command)?;
        let count = bulks.left();
        let (first, second, third) = (bulks.next()?, bulks.next(), bulks.next());
        let name = &command[first.clone()];
        if !self.session.is_authenticated() && !catalog::is_open(name) {
            self.session.write_unauthenticated(self.output.tail());
            return None;
        }
        let second_word = second.clone().map(|range| &command[range]);
        let is_publish = count == 3 && name.eq_ignore_ascii_case(b"PUBLISH");
        // Not looked up: there are a hundred thousand of them a second.
        let found = if is_publish {
            Found::Command(&catalog::PUBLISH)
        } else {
            catalog::find(name, second_word, count)
        };
        let known = match found {
            Found::Command(known) => known,
            Found::Arity(name) => {
                self.reject(name, &wrong_arity(name));
                return None;
            }
            Found::Subcommand => {
                self.refuse(name, second_word);
                return None;
            }
            Found::Unknown => {
                self.refuse(name, None);
                return None;
            }
        };
        if self.is_subscriber && !self.session.is_resp3() && !pubsub::is_for_subscribers(known) {
            self.reject(known.name, &pubsub::not_now(known));
            return None;
        }
        if known.name == "PUBLISH" {
            let (channel, payload) = (second?, third?);
            if payload.len() > self.terms.payload_bytes_max {
                self.refuse_oversized("payload", payload.len() as u64);
            } else if !self.enqueue(command) {
                return Some((channel, payload));
            }
            return None;
        }
        let is_immediate =
            ["DISCARD", "EXEC", "MULTI", "QUIT", "RESET", "WATCH"].contains(&known.name);
        if !is_immediate && self.enqueue(command) {
            return None;
        }
        self.answer(known, command, exchange, moment);
        None
    }

    /// Answers a command that is no PUBLISH.
    fn answer(
        &mut self,
        known: &Command,
        command: &[u8],
        exchange: &mut Exchange,
        moment: &Moment,
    ) {
        match known.name {
            "MULTI" | "EXEC" | "DISCARD" => {
                let run = transaction::transact(known.name, &mut self.queue, self.output.tail());
                self.run = run.map(Box::new);
                return;
            }
            "WATCH" if self.queue.is_some() => {
                return resp::write_error(self.answers(), "ERR WATCH inside MULTI is not allowed");
            }
            "EVAL" => return self.evaluate(command),
            "RESET" => {
                self.reset(exchange);
                return resp::write_simple(self.answers(), "RESET");
            }
            "QUIT" => {
                self.is_ending = true;
                return resp::write_simple(self.answers(), "OK");
            }
            _ => {}
        }
        // Answers of a transaction are sent together, and so are bounded together.
        let bytes_max = self.terms.transaction_bytes_max;
        if self.run.as_ref().is_some_and(|run| run.answers.len() > bytes_max) {
            let text = "ERR the answers are above transaction_bytes_max";
            return resp::write_error(self.answers(), text);
        }
        let words: Vec<&[u8]> =
            resp::bulks(command).into_iter().flatten().map(|word| &command[word]).collect();
        let (seat, is_resp3) = (self.session.peer.seat, self.session.is_resp3());
        if let Some(pubsub) = pubsub::Request::of(known, &words, self.is_subscriber && !is_resp3) {
            pubsub.answer(seat, is_resp3, exchange, self.answers());
            self.is_subscriber = exchange.count(seat) > 0;
            return;
        }
        let Publisher { session, terms, queue, run, output, .. } = self;
        let queued = queue.as_ref().map(|queue| queue.len());
        let context = Context { terms, exchange, moment, queued };
        let output = run.as_mut().map_or_else(|| output.tail(), |run| &mut run.answers);
        session.answer(known, &words, &context, output);
    }

    /// Between MULTI and EXEC a command waits; `false`: it is to be carried out at once.
    fn enqueue(&mut self, command: &[u8]) -> bool {
        let Some(queue) = &mut self.queue else { return false };
        let (bytes_max, count_max) =
            (self.terms.transaction_bytes_max, self.terms.transaction_commands_max);
        let output = self.output.tail();
        if queue.push(command, bytes_max, count_max) {
            resp::write_simple(output, "QUEUED");
        } else {
            resp::write_error(output, &refused::too_much_queued(count_max, bytes_max));
        }
        true
    }

    fn abort(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.abort();
        }
    }

    /// Refuses a known command. A transaction that EXEC was to end is over, as in Redis.
    fn reject(&mut self, name: &str, why: &str) {
        self.abort();
        let text = if name == "EXEC" {
            self.queue = None;
            format!("EXECABORT Transaction discarded because of: {why}")
        } else {
            format!("ERR {why}")
        };
        resp::write_error(self.answers(), &text);
    }

    /// Carries out the one script that is known here.
    fn evaluate(&mut self, command: &[u8]) {
        let Some(broadcast) = Broadcast::parse(command) else {
            self.refused.note("EVAL");
            return resp::write_error(self.answers(), refused::OTHER_SCRIPT);
        };
        match broadcast.payload_bytes() {
            bytes if bytes > self.terms.payload_bytes_max => {
                self.refuse_oversized("payload", bytes as u64);
            }
            _ => self.broadcast = Some(Box::new(broadcast)),
        }
    }

    /// The connection is as new.
    fn reset(&mut self, exchange: &mut Exchange) {
        exchange.leave(self.session.peer.seat);
        self.is_subscriber = false;
        self.queue = None;
        self.session = Session::new(self.session.peer, &self.terms);
    }

    /// Refuses a command that is not known here; the caller will log it.
    fn refuse(&mut self, name: &[u8], subcommand: Option<&[u8]>) {
        self.abort();
        let text = self.refused.add(name, subcommand);
        resp::write_error(self.answers(), &text);
    }

    fn refuse_oversized(&mut self, what: &str, bytes: u64) {
        if !self.session.is_authenticated() {
            return self.session.write_unauthenticated(self.output.tail());
        }
        self.abort();
        self.oversized = self.oversized.saturating_add(1);
        let text = refused::too_large(what, bytes, self.terms.payload_bytes_max);
        resp::write_error(self.answers(), &text);
    }
}

impl Located<'_> {
    fn into_owned(self) -> Located<'static> {
        let source = match self.source {
            Source::Input(command) => Source::Input(Cow::Owned(command.into_owned())),
            Source::Run => Source::Run,
            Source::Broadcast => Source::Broadcast,
        };
        Located { source, channel: self.channel, payload: self.payload }
    }
}

#[cfg(test)]
mod answers_tests;
#[cfg(test)]
mod tests;
