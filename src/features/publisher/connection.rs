//! The protocol of one publisher's connection: RESP commands in, replies and messages out, PUBLISH to [`Receivers`].

use std::ops::Range;
use std::rc::Rc;

use crate::engine::redis::resp::{self, ENVELOPE_BYTES_MAX, Whole};
use crate::features::publisher::catalog::{self, CommandMatch, KnownCommand};
use crate::features::publisher::exchange::Exchange;
use crate::features::publisher::input::{CommandReader, InputError};
use crate::features::publisher::output::Output;
use crate::features::publisher::reply::PortReply::{Integer, Simple};
use crate::features::publisher::reply::{self, CommandResult, OK};
use crate::features::publisher::script::ScriptRun;
use crate::features::publisher::session::{
    Context, NO_AUTH, Peer, PublisherSession, ReplyMode, printable, wrong_arity,
};
use crate::features::publisher::settings::{Moment, Terms};
use crate::features::publisher::transaction::Transaction;

/// Bytes of a command before AUTH: strangers hold no memory.
const UNAUTHENTICATED_BYTES_MAX: usize = 16 * 1024;
/// Above this many bytes of replies that the peer has not read, no further command is executed.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// A command by which libraries ask, each time they connect, whether a server has more than Redis 7: no news to an operator.
const PROBE: &str = "CLIENT MAINT_NOTIFICATIONS";
/// Commands that a connection may send while it subscribes in RESP2.
const FOR_SUBSCRIBERS: [&str; 7] =
    ["PING", "PSUBSCRIBE", "PUNSUBSCRIBE", "QUIT", "RESET", "SUBSCRIBE", "UNSUBSCRIBE"];

/// The receivers of messages.
pub trait Receivers {
    /// Delivers a message to clients and to subscribers at the port. Returns the number of receivers.
    ///
    /// # Errors
    /// The reply to the publisher if nobody can receive from that channel.
    fn publish(
        &mut self,
        exchange: &mut Exchange,
        channel: &[u8],
        payload: &[u8],
    ) -> Result<usize, String>;

    /// Returns whether a client has so much pending that nothing more may be published in this turn.
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
    input: CommandReader,
    /// The bytes for the socket.
    pub output: Output,
    /// Input that is not executed yet: the peer does not read its replies, or a client has too much pending.
    waiting: Vec<u8>,
    /// Commands since MULTI.
    queue: Option<Box<Transaction>>,
    /// The transaction since EXEC, until all of it is executed.
    transaction: Option<Box<Transaction>>,
    /// The EVAL that is executed.
    script: Option<Box<ScriptRun>>,
    /// The command under way gets no reply: CLIENT REPLY.
    is_muted: bool,
    has_commanded: bool,
    oversized: u32,
    /// The latest unknown command since they were last taken, and the number of them.
    unknown: Option<(String, u32)>,
    is_ending: bool,
}

impl Publisher {
    pub fn new(terms: Rc<Terms>, peer: Peer) -> Publisher {
        Publisher {
            session: PublisherSession::new(peer, &terms),
            terms,
            input: CommandReader::new(),
            output: Output::default(),
            waiting: Vec::new(),
            queue: None,
            transaction: None,
            script: None,
            is_muted: false,
            has_commanded: false,
            oversized: 0,
            unknown: None,
            is_ending: false,
        }
    }

    /// Returns whether the password was given, if one is required.
    pub fn is_authenticated(&self) -> bool {
        self.session.is_authenticated
    }

    /// Returns whether a command was executed, with the password if one is required.
    pub fn has_commanded(&self) -> bool {
        self.has_commanded
    }

    /// Executes the commands in `input` until a client has too much pending, or 64 KiB of replies are unread. The rest is kept: call
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

    /// Returns whether commands wait although the peer reads its replies: call [`Publisher::take`] again.
    pub fn has_left(&self) -> bool {
        self.is_executing() || (!self.waiting.is_empty() && !self.is_full())
    }

    /// Returns whether a transaction or a script has begun and not ended: it continues before any other connection's commands.
    pub fn is_executing(&self) -> bool {
        self.transaction.is_some() || self.script.is_some()
    }

    /// Takes over the messages that wait for it in the exchange.
    pub fn collect(&mut self, exchange: &mut Exchange) {
        let first = if self.session.is_resp3 { b'>' } else { b'*' };
        for body in exchange.take(self.session.peer.seat) {
            self.output.push(first, &body);
        }
    }

    /// Returns whether to close once the output is written: after QUIT, after input that is not RESP, for a browser.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Returns whether the peer leaves so many replies unread that no further command is executed. A transaction is executed whole.
    pub fn is_full(&self) -> bool {
        self.output.replies() > OUTPUT_BYTES_MAX
    }

    /// Returns the number of messages refused for their size since the last call.
    pub fn take_oversized(&mut self) -> u32 {
        std::mem::take(&mut self.oversized)
    }

    /// Returns the latest unknown command and the number of them since the last call.
    pub fn take_unknown(&mut self) -> Option<(String, u32)> {
        self.unknown.take()
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
            let bytes_max = match self.is_authenticated() {
                true => self.terms.payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX),
                false => UNAUTHENTICATED_BYTES_MAX,
            };
            match self.input.next(&mut input, bytes_max) {
                Ok(Some(Whole::Value(command))) => self.execute(&command, world),
                Ok(Some(Whole::Oversized { bytes })) => {
                    let result = self.refuse_oversized("command", bytes);
                    self.write(&result);
                }
                Ok(None) => {}
                Err(error) => {
                    self.is_ending = true;
                    if let InputError::Protocol(text) = error {
                        self.write(&Err(text.into()));
                    }
                }
            }
        }
        input
    }

    /// Executes the next part of a script or of a transaction, or replies to it if that was the last one.
    fn execute_next(&mut self, world: &mut World<'_>) {
        if let Some(mut script) = self.script.take() {
            if let Some((channel, payload)) = script.next() {
                if let Err(why) = world.receivers.publish(world.exchange, channel, payload) {
                    script.refuse(why);
                }
                self.script = Some(script);
            } else if !self.is_muted {
                self.write(&script.into_result());
            }
        } else if let Some(command) = self.transaction.as_mut().and_then(|one| one.next()) {
            if let Some(result) = self.call(&command, world) {
                self.write(&result);
            }
        } else if let Some(transaction) = self.transaction.take()
            && !self.is_muted
        {
            self.output.tail().extend_from_slice(&transaction.replies);
        }
    }

    /// Executes a command that stands in no transaction, and replies unless CLIENT REPLY says otherwise.
    fn execute(&mut self, command: &[u8], world: &mut World<'_>) {
        self.collect(world.exchange);
        let mode = self.session.replies;
        let result = self.call(command, world);
        self.is_muted = match mode {
            ReplyMode::On => false,
            // Only CLIENT REPLY ON gets a reply.
            ReplyMode::Off => self.session.replies != ReplyMode::On,
            ReplyMode::Skip => {
                self.session.replies = ReplyMode::On;
                true
            }
        };
        if let Some(result) = result.filter(|_| !self.is_muted) {
            self.write(&result);
        }
    }

    /// Writes a reply, behind those of the transaction if one is executed: they are sent together.
    fn write(&mut self, result: &CommandResult) {
        let output = match &mut self.transaction {
            Some(transaction) => &mut transaction.replies,
            None => self.output.tail(),
        };
        reply::write(output, result, self.session.is_resp3);
    }

    /// Executes a command, or queues it since MULTI. Returns its reply; `None`: it has none, or is still executed.
    fn call(&mut self, command: &[u8], world: &mut World<'_>) -> Option<CommandResult> {
        let mut bulks = resp::bulks(command)?;
        let count = bulks.left();
        let name = &command[bulks.next()?];
        let (second, third) = (bulks.next(), bulks.next());
        if !self.is_authenticated() && !catalog::is_open(name) {
            return Some(Err(NO_AUTH.into()));
        }
        let subcommand = second.clone().map(|range| &command[range]);
        // Not looked up: there are a hundred thousand of them a second.
        let found = match count == 3 && name.eq_ignore_ascii_case(b"PUBLISH") {
            true => CommandMatch::Known(&catalog::PUBLISH),
            false => catalog::find(name, subcommand, count),
        };
        let is_muzzled = !self.session.is_resp3 && self.session.is_subscriber(world.exchange);
        let result = match (found, second, third) {
            (CommandMatch::Known(known), ..)
                if is_muzzled && !FOR_SUBSCRIBERS.contains(&known.name) =>
            {
                let name = known.name.to_ascii_lowercase().replace(' ', "|");
                let why = format!(
                    "Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are \
                     allowed in this context"
                );
                Some(self.reject(known.name, &why))
            }
            (CommandMatch::Known(known), Some(channel), Some(payload))
                if known.name == "PUBLISH" =>
            {
                Some(self.publish(command, channel, payload, world))
            }
            (CommandMatch::Known(known), ..) if known.is_immediate() || self.queue.is_none() => {
                self.answer(known, command, world)
            }
            (CommandMatch::Known(_), ..) => self.enqueue(command),
            (CommandMatch::Arity(name), ..) => Some(self.reject(name, &wrong_arity(name))),
            (CommandMatch::UnknownSubcommand, ..) => Some(self.refuse(name, subcommand)),
            (CommandMatch::Unknown, ..) => Some(self.refuse(name, None)),
        };
        self.has_commanded |= self.is_authenticated();
        result
    }

    fn publish(
        &mut self,
        command: &[u8],
        channel: Range<usize>,
        payload: Range<usize>,
        world: &mut World<'_>,
    ) -> CommandResult {
        if payload.len() > self.terms.payload_bytes_max {
            return self.refuse_oversized("payload", payload.len() as u64);
        }
        self.enqueue(command).unwrap_or_else(|| {
            let (channel, payload) = (&command[channel], &command[payload]);
            let receivers = world.receivers.publish(world.exchange, channel, payload)?;
            Ok(Integer(receivers as i64))
        })
    }

    /// Executes any command but PUBLISH.
    fn answer(
        &mut self,
        known: &KnownCommand,
        command: &[u8],
        world: &mut World<'_>,
    ) -> Option<CommandResult> {
        match known.name {
            "MULTI" if self.queue.is_some() => {
                return Some(Err("ERR MULTI calls can not be nested".into()));
            }
            "MULTI" => {
                self.queue = Some(Box::default());
                return Some(OK);
            }
            name @ ("EXEC" | "DISCARD") => {
                let Some(mut queue) = self.queue.take() else {
                    return Some(Err(format!("ERR {name} without MULTI").into()));
                };
                if name == "DISCARD" {
                    return Some(OK);
                }
                if !queue.begin() {
                    let text = "EXECABORT Transaction discarded because of previous errors.";
                    return Some(Err(text.into()));
                }
                self.transaction = Some(queue);
                return None;
            }
            "WATCH" if self.queue.is_some() => {
                return Some(Err("ERR WATCH inside MULTI is not allowed".into()));
            }
            "EVAL" => return self.evaluate(command),
            "RESET" => {
                world.exchange.leave(self.session.peer.seat);
                self.queue = None;
                self.session = PublisherSession::new(self.session.peer, &self.terms);
                return Some(Ok(Simple("RESET")));
            }
            "QUIT" => {
                self.is_ending = true;
                return Some(OK);
            }
            _ => {}
        }
        let bytes_max = self.terms.bounds.transaction_bytes_max;
        if self.transaction.as_ref().is_some_and(|one| one.replies.len() > bytes_max) {
            return Some(Err("ERR the answers are above transaction_bytes_max".into()));
        }
        let words = resp::bulks(command)?.map(|word| &command[word]).collect::<Vec<&[u8]>>();
        let mut context = Context {
            terms: &self.terms,
            exchange: world.exchange,
            moment: &world.moment,
            queued: self.queue.as_ref().map(|queue| queue.len()),
        };
        Some(self.session.answer(known, &words, &mut context))
    }

    /// Queues a command; `None`: there was no MULTI.
    fn enqueue(&mut self, command: &[u8]) -> Option<CommandResult> {
        let queue = self.queue.as_mut()?;
        let bounds = &self.terms.bounds;
        let (bytes_max, count_max) =
            (bounds.transaction_bytes_max, bounds.transaction_commands_max);
        if queue.push(command, bytes_max, count_max) {
            return Some(Ok(Simple("QUEUED")));
        }
        let text = format!(
            "ERR a transaction has at most {count_max} commands (transaction_commands_max) and \
             {bytes_max} bytes (transaction_bytes_max)"
        );
        Some(Err(text.into()))
    }

    /// Begins the one script that is known here.
    fn evaluate(&mut self, command: &[u8]) -> Option<CommandResult> {
        let Some(script) = ScriptRun::parse(command) else {
            self.note_unknown("EVAL".to_owned());
            let text = "ERR the only script that this port carries out is that of Laravel's \
                broadcaster; use a Redis for others";
            return Some(Err(text.into()));
        };
        if script.payload_bytes() > self.terms.payload_bytes_max {
            return Some(self.refuse_oversized("payload", script.payload_bytes() as u64));
        }
        self.script = Some(Box::new(script));
        None
    }

    /// Makes EXEC execute nothing, since a command was refused.
    fn abort(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.abort();
        }
    }

    /// Refuses a known command. A transaction that EXEC was to end is over, as in Redis.
    fn reject(&mut self, name: &str, why: &str) -> CommandResult {
        self.abort();
        if name == "EXEC" {
            self.queue = None;
            return Err(format!("EXECABORT Transaction discarded because of: {why}").into());
        }
        Err(format!("ERR {why}").into())
    }

    /// Refuses a command that is not known here; the caller will log it.
    fn refuse(&mut self, name: &[u8], subcommand: Option<&[u8]>) -> CommandResult {
        self.abort();
        let name = printable(name);
        let Some(subcommand) = subcommand.map(printable) else {
            let text = format!(
                "ERR unknown command '{name}': this port takes PUBLISH; use a Redis for the rest"
            );
            self.note_unknown(name);
            return Err(text.into());
        };
        self.note_unknown(format!("{name} {subcommand}"));
        Err(format!("ERR unknown subcommand '{subcommand}' of {name}: it is not known here").into())
    }

    fn note_unknown(&mut self, name: String) {
        let name = name.to_ascii_uppercase();
        if name != PROBE {
            let count = self.unknown.take().map_or(0, |(_, count)| count);
            self.unknown = Some((name, count.saturating_add(1)));
        }
    }

    fn refuse_oversized(&mut self, what: &str, bytes: u64) -> CommandResult {
        if !self.is_authenticated() {
            return Err(NO_AUTH.into());
        }
        self.abort();
        self.oversized = self.oversized.saturating_add(1);
        let bytes_max = self.terms.payload_bytes_max;
        Err(format!("ERR {what} is {bytes} bytes, payload_bytes_max is {bytes_max}").into())
    }
}

#[cfg(test)]
mod answers_tests;
#[cfg(test)]
mod tests;
