//! The protocol of one publisher's connection: commands of RESP or requests of HTTP in, replies and messages out.

use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::redis::resp::{self, ENVELOPE_BYTES_MAX, Whole};
use crate::engine::router::sources::Receivers;
use crate::features::publisher::catalog::{self, LookupError};
use crate::features::publisher::exchange::Exchange;
use crate::features::publisher::http::{CONTINUE, HttpEvent, HttpReader, write_answer};
use crate::features::publisher::http_head::HttpRefusal;
use crate::features::publisher::input::{CommandReader, InputError};
use crate::features::publisher::output::Output;
use crate::features::publisher::reply::PortReply::{Integer, Simple};
use crate::features::publisher::reply::{self, CommandResult, OK, PortReply};
use crate::features::publisher::script::ScriptRun;
use crate::features::publisher::session::{Peer, PublisherSession, ReplyMode, lower, printable};
use crate::features::publisher::settings::Terms;
use crate::features::publisher::transaction::Transaction;
use crate::features::publisher::uncounted::CountForm;
use crate::features::publisher::world::World;

/// Bytes of a command before AUTH: strangers hold no memory.
const UNAUTHENTICATED_BYTES_MAX: usize = 16 * 1024;
/// Above this many bytes of replies that the peer has not read, no further command is executed.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// A command by which libraries ask, each time they connect, whether a server has more than Redis 7: no news to an operator.
const PROBE: &str = "CLIENT MAINT_NOTIFICATIONS";
const ADVICE: &str = "this port takes PUBLISH; use a Redis for the rest";
const NO_AUTH: &str = "NOAUTH Authentication required.";
/// Commands that may come before AUTH.
const OPEN: [&str; 4] = ["AUTH", "HELLO", "QUIT", "RESET"];
/// Commands that are executed even between MULTI and EXEC.
const IMMEDIATE: [&str; 6] = ["DISCARD", "EXEC", "MULTI", "QUIT", "RESET", "WATCH"];
/// Commands that a connection may send while it subscribes in RESP2.
const FOR_SUBSCRIBERS: [&str; 7] =
    ["PING", "PSUBSCRIBE", "PUNSUBSCRIBE", "QUIT", "RESET", "SUBSCRIBE", "UNSUBSCRIBE"];

/// The state of one connection. The caller owns the socket. Between two commands it holds no buffer.
pub struct Publisher {
    session: PublisherSession,
    input: CommandReader,
    /// Takes the input in place of `input` if the peer speaks HTTP.
    http: Option<Box<HttpReader>>,
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
    /// A command was executed, with the password if one is required.
    pub has_commanded: bool,
    /// Messages refused for their size; the caller takes the number.
    pub oversized: u32,
    /// The latest command or request that was refused, in a sentence, and the number of them; the caller takes both.
    pub refused: Option<(String, u32)>,
    /// The connection ends once the output is written: after QUIT, after input that is neither RESP nor HTTP, for a browser.
    pub is_ending: bool,
}

impl Publisher {
    pub fn new(terms: Rc<Terms>, peer: Peer) -> Publisher {
        Publisher {
            session: PublisherSession::new(peer, terms),
            input: CommandReader::new(),
            http: None,
            output: Output::default(),
            waiting: Vec::new(),
            queue: None,
            transaction: None,
            script: None,
            is_muted: false,
            has_commanded: false,
            oversized: 0,
            refused: None,
            is_ending: false,
        }
    }

    /// Returns when the peer must have given the password, if it has not.
    pub fn auth_deadline(&self) -> Option<Millis> {
        let deadline = self.session.peer.since + self.session.terms.auth_millis;
        (!self.session.is_authenticated).then_some(deadline)
    }

    /// Executes the commands in `input` until a client has too much pending, or 64 KiB of replies are unread. The rest is kept: call
    /// again with more, or with nothing.
    pub fn take(&mut self, input: &[u8], world: &mut dyn World) {
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

    /// Returns whether the peer leaves so many replies unread that no further command is executed. A transaction is executed whole.
    pub fn is_full(&self) -> bool {
        self.output.replies() > OUTPUT_BYTES_MAX || self.output.awaits_most_counts()
    }

    /// Takes over the messages that wait for it in the exchange.
    pub fn collect(&mut self, exchange: &mut Exchange) {
        let first = if self.session.is_resp3 { b'>' } else { b'*' };
        for body in exchange.take(self.session.peer.seat) {
            self.output.push(first, &body);
        }
    }

    /// Executes commands as far as that goes. Returns the input that is left.
    fn execute_all<'a>(&mut self, mut input: &'a [u8], world: &mut dyn World) -> &'a [u8] {
        while !world.is_pressed() {
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
            if let Some(http) = &mut self.http {
                if let Some(event) = http.next(&mut input, &self.session.terms) {
                    self.answer_request(event, world);
                }
                continue;
            }
            let bytes_max = match self.session.is_authenticated {
                true => self.session.terms.payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX),
                false => UNAUTHENTICATED_BYTES_MAX,
            };
            match self.input.next(&mut input, bytes_max) {
                Ok(Some(Whole::Value(command))) => self.execute(&command, world),
                Ok(Some(Whole::Oversized { bytes })) => {
                    let result = self.refuse_oversized("command", bytes);
                    self.write(&result);
                }
                Ok(None) => {}
                Err(InputError::Request(line)) => {
                    self.http = Some(Box::new(HttpReader::new(line)));
                }
                Err(InputError::Http) => self.is_ending = true,
                Err(InputError::Protocol(text)) => {
                    self.is_ending = true;
                    self.write(&Err(text.into()));
                }
            }
        }
        input
    }

    /// Publishes what a request of HTTP has, and answers it. The password in it is that of the request alone; the connection no longer
    /// counts as a stranger's.
    fn answer_request(&mut self, event: HttpEvent<'_>, world: &mut dyn World) {
        let output = self.output.reply();
        match event {
            HttpEvent::Expected => output.extend_from_slice(CONTINUE),
            HttpEvent::Page => {
                self.is_ending = true;
                self.note_refused(
                    "a page in a browser asked for something: it got no answer".into(),
                );
            }
            HttpEvent::Publish { channel, payload, is_last } => {
                (self.session.is_authenticated, self.has_commanded) = (true, true);
                self.is_ending = is_last;
                match world.publish(channel.as_bytes(), &payload) {
                    Ok(Receivers { here, elsewhere: Some(number) }) => {
                        let form = CountForm::Http { is_last };
                        self.output.uncounted().push(number, here, form);
                    }
                    Ok(receivers) => {
                        write_answer(output, 200, &receivers.here.to_string(), is_last);
                    }
                    // The reason begins with the code of an error in RESP.
                    Err(why) => write_answer(output, 404, why.trim_start_matches("ERR "), is_last),
                }
            }
            HttpEvent::Refused { refusal: HttpRefusal { status, text }, is_last } => {
                self.is_ending = is_last;
                write_answer(output, status, &text, is_last);
                match status {
                    413 => self.oversized = self.oversized.saturating_add(1),
                    _ => self.note_refused(format!("a request was answered with {status}: {text}")),
                }
            }
        }
    }

    /// Executes the next part of a script or of a transaction, or replies to it if that was the last one.
    fn execute_next(&mut self, world: &mut dyn World) {
        if let Some(mut script) = self.script.take() {
            if let Some((channel, payload)) = script.next() {
                if let Err(why) = world.publish(channel, payload) {
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
            self.output.uncounted().append(transaction.replies);
            self.output.settle();
        }
    }

    /// Executes a command that stands in no transaction, and replies unless CLIENT REPLY says otherwise.
    fn execute(&mut self, command: &[u8], world: &mut dyn World) {
        self.collect(world.exchange());
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
        let transaction = self.transaction.as_mut().map(|one| &mut one.replies);
        if let Ok(PortReply::Receivers(here, number)) = result {
            let replies = transaction.unwrap_or_else(|| self.output.uncounted());
            return replies.push(*number, *here, CountForm::Resp);
        }
        let output = transaction.map_or_else(|| self.output.reply(), |one| &mut one.bytes);
        reply::write(output, result, self.session.is_resp3);
    }

    /// Executes a command, or queues it since MULTI. Returns its reply; `None`: it has none, or is still executed.
    fn call(&mut self, command: &[u8], world: &mut dyn World) -> Option<CommandResult> {
        let bulks = resp::bulks(command)?;
        // A hundred thousand PUBLISH a second need no allocation.
        let (mut few, mut many) = ([&command[..0]; 3], Vec::new());
        let words = match bulks.left() {
            count @ 0..=3 => {
                few.iter_mut().zip(bulks).for_each(|(place, word)| *place = &command[word]);
                &few[..count]
            }
            _ => {
                many.extend(bulks.map(|word| &command[word]));
                &many[..]
            }
        };
        let first = *words.first()?;
        let is_open = |name: &&str| first.eq_ignore_ascii_case(name.as_bytes());
        if !self.session.is_authenticated && !OPEN.iter().any(is_open) {
            return Some(Err(NO_AUTH.into()));
        }
        self.has_commanded |= self.session.is_authenticated;
        let name = match catalog::find(words) {
            Ok(known) => known.name,
            Err(LookupError::Arity(name)) => {
                return Some(self.reject(name, &super::session::wrong_arity(name)));
            }
            Err(LookupError::UnknownSubcommand) => {
                let [family, name] = [first, words[1]].map(printable);
                self.note_unknown(format!("{family} {name}"));
                let text = "it is not known here";
                return Some(
                    self.refuse(format!("unknown subcommand '{name}' of {family}: {text}")),
                );
            }
            Err(LookupError::Unknown) => {
                let name = printable(first);
                let text = format!("unknown command '{name}': {ADVICE}");
                self.note_unknown(name);
                return Some(self.refuse(text));
            }
        };
        let is_muzzled = !self.session.is_resp3 && self.session.is_subscriber(world.exchange());
        if is_muzzled && !FOR_SUBSCRIBERS.contains(&name) {
            let why = format!(
                "Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are \
                 allowed in this context",
                lower(name)
            );
            Some(self.reject(name, &why))
        } else if name == "PUBLISH" && words[2].len() > self.session.terms.payload_bytes_max {
            Some(self.refuse_oversized("payload", words[2].len() as u64))
        } else if let Some(queue) = &mut self.queue
            && !IMMEDIATE.contains(&name)
        {
            Some(queue.push(command, &self.session.terms.bounds))
        } else if name == "PUBLISH" {
            let receivers = world.publish(words[1], words[2]);
            let reply = receivers.map(|Receivers { here, elsewhere }| match elsewhere {
                Some(number) => PortReply::Receivers(here, number),
                None => Integer(here as i64),
            });
            Some(reply.map_err(Into::into))
        } else {
            self.answer(name, command, words, world)
        }
    }

    /// Executes any command but PUBLISH.
    fn answer(
        &mut self,
        name: &'static str,
        command: &[u8],
        words: &[&[u8]],
        world: &mut dyn World,
    ) -> Option<CommandResult> {
        let bytes_max = self.session.terms.bounds.transaction_bytes_max;
        Some(match name {
            "MULTI" if self.queue.is_some() => Err("ERR MULTI calls can not be nested".into()),
            "MULTI" => {
                self.queue = Some(Box::default());
                OK
            }
            "EXEC" | "DISCARD" if self.queue.is_none() => {
                Err(format!("ERR {name} without MULTI").into())
            }
            "EXEC" => {
                self.transaction = self.queue.take().filter(|queue| !queue.is_aborted);
                match &mut self.transaction {
                    Some(transaction) => {
                        transaction.begin();
                        return None;
                    }
                    None => {
                        Err("EXECABORT Transaction discarded because of previous errors.".into())
                    }
                }
            }
            "DISCARD" => {
                self.queue = None;
                OK
            }
            "WATCH" if self.queue.is_some() => Err("ERR WATCH inside MULTI is not allowed".into()),
            "EVAL" => match ScriptRun::parse(command) {
                Some(script) if script.payload.len() > self.session.terms.payload_bytes_max => {
                    self.refuse_oversized("payload", script.payload.len() as u64)
                }
                Some(script) => {
                    self.script = Some(Box::new(script));
                    return None;
                }
                None => {
                    self.note_unknown("EVAL".to_owned());
                    Err("ERR the only script that this port carries out is that of Laravel's \
                         broadcaster; use a Redis for others"
                        .into())
                }
            },
            "RESET" => {
                world.exchange().leave(self.session.peer.seat);
                self.queue = None;
                // The password is wanted once more, within as long a time.
                let peer = Peer { since: world.moment().now.millis, ..self.session.peer };
                self.session = PublisherSession::new(peer, Rc::clone(&self.session.terms));
                Ok(Simple("RESET"))
            }
            "QUIT" => {
                self.is_ending = true;
                OK
            }
            _ if self
                .transaction
                .as_ref()
                .is_some_and(|one| one.replies.bytes.len() > bytes_max) =>
            {
                Err("ERR the answers are above transaction_bytes_max".into())
            }
            _ => {
                let moment = world.moment();
                let result = self.session.answer(name, words, world.exchange(), moment);
                self.has_commanded |= self.session.is_authenticated;
                result
            }
        })
    }

    /// Refuses a command. EXEC will execute none then.
    fn refuse(&mut self, why: String) -> CommandResult {
        if let Some(queue) = &mut self.queue {
            queue.abort();
        }
        Err(format!("ERR {why}").into())
    }

    /// Refuses a known command. A transaction that EXEC was to end is over, as in Redis.
    fn reject(&mut self, name: &str, why: &str) -> CommandResult {
        if name == "EXEC" {
            self.queue = None;
            return Err(format!("EXECABORT Transaction discarded because of: {why}").into());
        }
        self.refuse(why.to_owned())
    }

    fn refuse_oversized(&mut self, what: &str, bytes: u64) -> CommandResult {
        if !self.session.is_authenticated {
            return Err(NO_AUTH.into());
        }
        self.oversized = self.oversized.saturating_add(1);
        let bytes_max = self.session.terms.payload_bytes_max;
        self.refuse(format!("{what} is {bytes} bytes, payload_bytes_max is {bytes_max}"))
    }

    fn note_unknown(&mut self, name: String) {
        let name = name.to_ascii_uppercase();
        if name != PROBE {
            self.note_refused(format!("{name} was answered with -ERR: {ADVICE}"));
        }
    }

    fn note_refused(&mut self, sentence: String) {
        let count = self.refused.take().map_or(0, |(_, count)| count);
        self.refused = Some((sentence, count.saturating_add(1)));
    }
}

#[cfg(test)]
mod answers_tests;
#[cfg(test)]
mod http_tests;
mod saved;
#[cfg(test)]
mod tests;
