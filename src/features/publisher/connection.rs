//! The protocol of one publisher's connection: RESP commands in, answers and messages out, PUBLISH to an [`Receivers`].

mod intake;
mod output;
mod pubsub;
mod refusals;
mod script;
mod transaction;

use std::ops::Range;
use std::rc::Rc;

use crate::engine::redis::resp::{self, ENVELOPE_BYTES_MAX, Whole};
use crate::features::publisher::catalog::{self, CommandMatch, KnownCommand};
use crate::features::publisher::exchange::Exchange;
pub use crate::features::publisher::session::Peer;
use crate::features::publisher::session::{Context, PublisherSession, Replies, wrong_arity};
pub use crate::features::publisher::terms::{Moment, Terms};
use intake::{End, Intake};
use output::Output;
use refusals::UnknownCommands;
use script::ScriptRun;
use transaction::{Queue, TransactionRun};

/// Bytes of a command before AUTH: strangers hold no memory.
const UNAUTHENTICATED_BYTES_MAX: usize = 16 * 1024;
/// Above this many bytes of answers that the peer has not read, no further command is executed.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// The receivers of messages.
pub trait Receivers {
    /// Delivers a message to clients and to subscribers at the port. Returns the number of receivers.
    ///
    /// # Errors
    /// The answer to the publisher if nobody can hear that channel.
    fn publish(
        &mut self,
        exchange: &mut Exchange,
        channel: &[u8],
        payload: &[u8],
    ) -> Result<usize, String>;

    /// Returns whether a client is owed so much that nothing more may be published in this turn.
    fn is_pressed(&self) -> bool;
}

/// Everything that commands touch outside their connection.
pub struct World<'a> {
    pub receivers: &'a mut dyn Receivers,
    pub exchange: &'a mut Exchange,
    pub moment: Moment,
}

/// The state of one connection. The caller owns the socket. Between two commands it holds no buffer.
pub struct Publisher {
    terms: Rc<Terms>,
    session: PublisherSession,
    intake: Intake,
    output: Output,
    /// Input that is not executed yet: the peer does not read its answers, or a client is owed enough.
    waiting: Vec<u8>,
    /// Commands since MULTI.
    queue: Option<Box<Queue>>,
    /// The transaction since EXEC, until all of it is executed.
    transaction: Option<Box<TransactionRun>>,
    /// The EVAL that is executed.
    script: Option<Box<ScriptRun>>,
    /// The command under way is not answered: CLIENT REPLY.
    is_muted: bool,
    is_subscriber: bool,
    has_commanded: bool,
    oversized: u32,
    unknown: UnknownCommands,
    is_ending: bool,
}

impl Publisher {
    pub fn new(terms: Rc<Terms>, peer: Peer) -> Publisher {
        Publisher {
            session: PublisherSession::new(peer, &terms),
            terms,
            intake: Intake::new(),
            output: Output::default(),
            waiting: Vec::new(),
            queue: None,
            transaction: None,
            script: None,
            is_muted: false,
            is_subscriber: false,
            has_commanded: false,
            oversized: 0,
            unknown: UnknownCommands::default(),
            is_ending: false,
        }
    }

    /// Returns whether the password was given, if one is required.
    pub fn is_authenticated(&self) -> bool {
        self.session.is_authenticated()
    }

    /// Returns whether a command was executed, with the password if one is required.
    pub fn has_commanded(&self) -> bool {
        self.has_commanded
    }

    /// Executes the commands in `input` until a client is owed enough, or 64 KiB of answers are unread. The rest is kept: call
    /// again with more, or with nothing.
    pub fn take(&mut self, input: &[u8], world: &mut World<'_>) {
        let mut waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            self.waiting = self.execute_all(input, world).to_vec();
            return;
        }
        waiting.extend_from_slice(input);
        let left = self.execute_all(&waiting, world).len();
        if left > 0 {
            waiting.drain(..waiting.len() - left);
            self.waiting = waiting;
        }
    }

    /// Returns whether commands wait although the peer reads its answers: call [`Publisher::take`] again.
    pub fn has_left(&self) -> bool {
        self.is_executing() || (!self.waiting.is_empty() && !self.is_full())
    }

    /// Returns whether a transaction or a script has begun and not ended: it continues before any other connection's commands.
    pub fn is_executing(&self) -> bool {
        self.transaction.is_some() || self.script.is_some()
    }

    /// Takes over the messages that wait for it in the exchange.
    pub fn collect(&mut self, exchange: &mut Exchange) {
        let first = if self.session.is_resp3() { b'>' } else { b'*' };
        for body in exchange.take(self.session.peer.seat) {
            self.output.push(first, &body);
        }
    }

    /// The bytes for the socket.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Removes the first `count` bytes of the output, which the socket has taken.
    pub fn wrote(&mut self, count: usize) {
        self.output.wrote(count);
    }

    /// Returns whether to close once the output is written: after QUIT, after input that is not RESP, for a browser.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Returns whether the peer leaves so many answers unread that no further command is executed. A transaction is executed whole.
    pub fn is_full(&self) -> bool {
        self.output.answers() > OUTPUT_BYTES_MAX
    }

    /// Returns the number of messages refused for their size since the last call.
    pub fn take_oversized(&mut self) -> u32 {
        std::mem::take(&mut self.oversized)
    }

    /// Returns the latest unknown command and the number of them since the last call.
    pub fn take_unknown(&mut self) -> Option<(String, u32)> {
        self.unknown.take()
    }

    /// The place for answers: those of a transaction are sent together.
    fn answers(&mut self) -> &mut Vec<u8> {
        match &mut self.transaction {
            Some(run) => &mut run.answers,
            None => self.output.tail(),
        }
    }

    /// Executes commands as far as that goes. Returns the input that is left.
    fn execute_all<'input>(
        &mut self,
        mut input: &'input [u8],
        world: &mut World<'_>,
    ) -> &'input [u8] {
        while !world.receivers.is_pressed() {
            if self.is_executing() {
                self.execute_next(world);
                continue;
            }
            if self.is_ending {
                return &[];
            }
            if input.is_empty() || self.is_full() {
                break;
            }
            match self.take_command(&mut input) {
                Some(Whole::Value(command)) => self.execute(&command, world),
                Some(Whole::Oversized { bytes }) => self.refuse_oversized("command", bytes),
                None => {}
            }
        }
        input
    }

    /// Executes the next part of a script or of a transaction, or answers it if that was the last one.
    fn execute_next(&mut self, world: &mut World<'_>) {
        if let Some(script) = &mut self.script {
            if let Some((channel, payload)) = script.next() {
                if let Err(why) = world.receivers.publish(world.exchange, channel, payload) {
                    script.refuse(&why);
                }
            } else if let Some(script) = self.script.take()
                && !self.is_muted
            {
                let is_resp3 = self.session.is_resp3();
                script.write_end(self.answers(), is_resp3);
            }
        } else if let Some(run) = &mut self.transaction {
            if let Some(command) = run.next() {
                self.carry_out(&command, world);
            } else if let Some(run) = self.transaction.take()
                && !self.is_muted
            {
                self.output.tail().extend_from_slice(&run.answers);
            }
        }
    }

    fn take_command<'input>(&mut self, input: &mut &'input [u8]) -> Option<Whole<'input>> {
        let bytes_max = match self.is_authenticated() {
            true => self.terms.payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX),
            false => UNAUTHENTICATED_BYTES_MAX,
        };
        self.intake.next(input, bytes_max).unwrap_or_else(|end| {
            if let End::Answered(text) = end {
                resp::write_error(self.output.tail(), &text);
            }
            self.is_ending = true;
            None
        })
    }

    /// Executes a command that stands in no transaction, and answers it unless CLIENT REPLY says otherwise.
    fn execute(&mut self, command: &[u8], world: &mut World<'_>) {
        if self.is_subscriber {
            self.collect(world.exchange);
        }
        let replies = self.session.replies;
        self.is_muted = replies != Replies::On;
        let answered = self.output.tail().len();
        self.carry_out(command, world);
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
    }

    fn carry_out(&mut self, command: &[u8], world: &mut World<'_>) {
        let Some(mut bulks) = resp::bulks(command) else { return };
        let count = bulks.left();
        let Some(first) = bulks.next() else { return };
        let (second, third) = (bulks.next(), bulks.next());
        let name = &command[first];
        if !self.is_authenticated() && !catalog::is_open(name) {
            return self.session.write_unauthenticated(self.output.tail());
        }
        let second_word = second.clone().map(|range| &command[range]);
        let is_publish = count == 3 && name.eq_ignore_ascii_case(b"PUBLISH");
        // Not looked up: there are a hundred thousand of them a second.
        let found = match is_publish {
            true => CommandMatch::Known(&catalog::PUBLISH),
            false => catalog::find(name, second_word, count),
        };
        match found {
            CommandMatch::Known(known) => {
                let is_muzzled = self.is_subscriber && !self.session.is_resp3();
                if is_muzzled && !pubsub::is_for_subscribers(known) {
                    self.reject(known.name, &pubsub::not_now(known));
                } else if let ("PUBLISH", Some(channel), Some(payload)) =
                    (known.name, second, third)
                {
                    self.publish(command, channel, payload, world);
                } else if known.is_immediate() || !self.enqueue(command) {
                    self.answer(known, command, world);
                }
            }
            CommandMatch::Arity(name) => self.reject(name, &wrong_arity(name)),
            CommandMatch::UnknownSubcommand => self.refuse(name, second_word),
            CommandMatch::Unknown => self.refuse(name, None),
        }
        self.has_commanded |= self.is_authenticated();
    }

    fn publish(
        &mut self,
        command: &[u8],
        channel: Range<usize>,
        payload: Range<usize>,
        world: &mut World<'_>,
    ) {
        if payload.len() > self.terms.payload_bytes_max {
            return self.refuse_oversized("payload", payload.len() as u64);
        }
        if self.enqueue(command) {
            return;
        }
        let (channel, payload) = (&command[channel], &command[payload]);
        match world.receivers.publish(world.exchange, channel, payload) {
            Ok(receivers) => resp::write_integer(self.answers(), receivers),
            Err(why) => resp::write_error(self.answers(), &why),
        }
    }

    /// Executes and answers any command but PUBLISH.
    fn answer(&mut self, known: &KnownCommand, command: &[u8], world: &mut World<'_>) {
        match known.name {
            "MULTI" | "EXEC" | "DISCARD" => {
                let run = transaction::transact(known.name, &mut self.queue, self.output.tail());
                self.transaction = run.map(Box::new);
                return;
            }
            "WATCH" if self.queue.is_some() => {
                return resp::write_error(self.answers(), "ERR WATCH inside MULTI is not allowed");
            }
            "EVAL" => return self.evaluate(command),
            "RESET" => {
                self.reset(world.exchange);
                return resp::write_simple(self.answers(), "RESET");
            }
            "QUIT" => {
                self.is_ending = true;
                return resp::write_simple(self.answers(), "OK");
            }
            _ => {}
        }
        let Publisher { session, terms, queue, transaction, output, .. } = self;
        let output = match transaction {
            // Answers of a transaction are sent together, and so are bounded together.
            Some(run) if run.answers.len() > terms.bounds.transaction_bytes_max => {
                let text = "ERR the answers are above transaction_bytes_max";
                return resp::write_error(&mut run.answers, text);
            }
            Some(run) => &mut run.answers,
            None => output.tail(),
        };
        let words: Vec<&[u8]> =
            resp::bulks(command).into_iter().flatten().map(|word| &command[word]).collect();
        let is_array_wanted = self.is_subscriber && !session.is_resp3();
        if pubsub::answer(known, &words, session, is_array_wanted, world.exchange, output) {
            self.is_subscriber = world.exchange.count(session.peer.seat) > 0;
            return;
        }
        let queued = queue.as_ref().map(|queue| queue.len());
        let context = Context { terms, exchange: world.exchange, moment: &world.moment, queued };
        session.answer(known, &words, &context, output);
    }

    /// Between MULTI and EXEC a command waits; `false`: it is to be executed at once.
    fn enqueue(&mut self, command: &[u8]) -> bool {
        let Some(queue) = &mut self.queue else { return false };
        let bounds = &self.terms.bounds;
        let (bytes_max, count_max) =
            (bounds.transaction_bytes_max, bounds.transaction_commands_max);
        let output = self.output.tail();
        if queue.push(command, bytes_max, count_max) {
            resp::write_simple(output, "QUEUED");
        } else {
            resp::write_error(output, &refusals::too_much_queued(count_max, bytes_max));
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

    /// Begins the one script that is known here.
    fn evaluate(&mut self, command: &[u8]) {
        match ScriptRun::parse(command) {
            None => {
                self.unknown.note("EVAL");
                resp::write_error(self.answers(), refusals::OTHER_SCRIPT);
            }
            Some(script) if script.payload_bytes() > self.terms.payload_bytes_max => {
                self.refuse_oversized("payload", script.payload_bytes() as u64);
            }
            Some(script) => self.script = Some(Box::new(script)),
        }
    }

    /// Makes the connection as good as new.
    fn reset(&mut self, exchange: &mut Exchange) {
        exchange.leave(self.session.peer.seat);
        self.is_subscriber = false;
        self.queue = None;
        self.session = PublisherSession::new(self.session.peer, &self.terms);
    }

    /// Refuses a command that is not known here; the caller will log it.
    fn refuse(&mut self, name: &[u8], subcommand: Option<&[u8]>) {
        self.abort();
        let text = self.unknown.add(name, subcommand);
        resp::write_error(self.answers(), &text);
    }

    fn refuse_oversized(&mut self, what: &str, bytes: u64) {
        if !self.is_authenticated() {
            return self.session.write_unauthenticated(self.output.tail());
        }
        self.abort();
        self.oversized = self.oversized.saturating_add(1);
        let text = refusals::too_large(what, bytes, self.terms.payload_bytes_max);
        resp::write_error(self.answers(), &text);
    }
}

#[cfg(test)]
mod answers_tests;
#[cfg(test)]
mod tests;
