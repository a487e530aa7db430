//! The state that commands leave on a connection, and the commands beside PUBLISH, answered as Redis does.

use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::clock::Millis;
use crate::features::publisher::exchange::Exchange;
use crate::features::publisher::exchange::SubscriptionKind::{Channel, Pattern};
use crate::features::publisher::facts;
use crate::features::publisher::reply::PortReply::{
    Array, Bulk, Encoded, Integer, Map, Null, Push, Simple,
};
use crate::features::publisher::reply::{self, CommandResult, ErrorText, OK, PortReply, text};
use crate::features::publisher::settings::{Moment, Terms};
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

/// Bytes of a peer's word that a reply quotes.
const QUOTE_BYTES_MAX: usize = 64;
/// The longest name of a connection.
const CLIENT_NAME_BYTES_MAX: usize = 256;

const NO_AUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, \
    otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client \
    and select the RESP protocol version at the same time";
const WRONG_PASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the \
    default user. Are you sure your configuration is correct?";
const SYNTAX: CommandResult = Err(ErrorText::Borrowed("ERR syntax error"));
const NO_CLUSTER: CommandResult =
    Err(ErrorText::Borrowed("ERR This instance has cluster support disabled"));

/// The identity of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// The number under which the [`Exchange`] knows it. It is given again when the connection is gone.
    pub seat: usize,
    /// `CLIENT ID`: never given again.
    pub id: u64,
    pub address: Option<SocketAddr>,
    /// The time at which it was admitted.
    pub since: Millis,
}

/// The replies that the peer wants: `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    On,
    /// All but the next one.
    Skip,
    Off,
}

/// The state that commands leave on a connection.
pub struct PublisherSession {
    pub terms: Rc<Terms>,
    pub peer: Peer,
    pub replies: ReplyMode,
    pub is_authenticated: bool,
    pub is_resp3: bool,
    name: Vec<u8>,
}

impl PublisherSession {
    /// Without a password every peer is the default user.
    pub fn new(peer: Peer, terms: Rc<Terms>) -> PublisherSession {
        PublisherSession {
            peer,
            replies: ReplyMode::On,
            is_authenticated: terms.password.is_none(),
            terms,
            is_resp3: false,
            name: Vec::new(),
        }
    }

    /// Writes what commands have left on the connection, and its subscriptions.
    pub fn save(&self, exchange: &Exchange, writer: &mut StateWriter<'_>) {
        writer.u64(self.peer.id);
        writer.u64(self.peer.since);
        writer.u8(match self.replies {
            ReplyMode::On => 0,
            ReplyMode::Skip => 1,
            ReplyMode::Off => 2,
        });
        writer.bool(self.is_resp3);
        writer.bytes(&self.name);
        for kind in [Channel, Pattern] {
            let names = exchange.names(self.peer.seat, kind);
            writer.len(names.len());
            names.iter().for_each(|name| writer.bytes(name));
        }
    }

    /// Goes on with what was written.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restore(
        &mut self,
        exchange: &mut Exchange,
        reader: &mut StateReader<'_>,
    ) -> Result<(), StateError> {
        (self.peer.id, self.peer.since) = (reader.u64()?, reader.u64()?);
        self.replies = match reader.u8()? {
            0 => ReplyMode::On,
            1 => ReplyMode::Skip,
            _ => ReplyMode::Off,
        };
        self.is_resp3 = reader.bool()?;
        self.name = reader.bytes(BYTES_MAX)?;
        self.is_authenticated = true;
        for kind in [Channel, Pattern] {
            for name in reader.list(VALUES_MAX, |reader| reader.bytes(BYTES_MAX))? {
                let _ = exchange.subscribe(self.peer.seat, kind, &name);
            }
        }
        Ok(())
    }

    /// Answers a command that concerns this connection, its subscriptions or the server.
    pub fn answer(
        &mut self,
        name: &'static str,
        words: &[&[u8]],
        exchange: &mut Exchange,
        moment: Moment,
    ) -> CommandResult {
        let arguments = &words[1..];
        match (name, arguments) {
            // A subscriber in RESP2 gets nothing but arrays.
            ("PING", [] | [_]) if !self.is_resp3 && self.is_subscriber(exchange) => {
                let message = arguments.first().copied().unwrap_or_default();
                Ok(Array(vec![text("pong"), Bulk(message.to_vec())]))
            }
            ("PING", []) => Ok(Simple("PONG")),
            ("PING" | "ECHO", [message]) => Ok(Bulk(message.to_vec())),
            // Databases mean nothing to pub/sub: all are one.
            ("SELECT", [index]) => match number(index) {
                Some(0..) => OK,
                Some(_) => Err("ERR DB index is out of range".into()),
                None => Err("ERR value is not an integer or out of range".into()),
            },
            ("AUTH", [password]) => self.auth(None, password).and(OK),
            ("AUTH", [user, password]) => self.auth(Some(user), password).and(OK),
            ("AUTH", _) => SYNTAX,
            ("HELLO", _) => self.hello(arguments),
            ("SUBSCRIBE" | "PSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE", names) => {
                Ok(self.change_subscriptions(name, names, exchange))
            }
            ("PUBSUB CHANNELS", [_, rest @ ..]) => {
                let channels = exchange.channels(rest.first().copied());
                Ok(Array(channels.map(|channel| Bulk(channel.to_vec())).collect()))
            }
            ("PUBSUB NUMSUB", [_, names @ ..]) => {
                Ok(counts(names, |name| exchange.subscribers_of(name)))
            }
            ("PUBSUB NUMPAT", _) => Ok(Integer(exchange.patterns_len() as i64)),
            // There are no sharded channels.
            ("PUBSUB SHARDCHANNELS", _) => Ok(Array(Vec::new())),
            ("PUBSUB SHARDNUMSUB", [_, names @ ..]) => Ok(counts(names, |_| 0)),
            ("INFO", sections) => Ok(facts::info(sections, exchange, &moment)),
            ("CONFIG GET", [_, patterns @ ..]) => Ok(facts::config(patterns, &self.terms)),
            ("ROLE", _) => Ok(Array(vec![text("master"), Integer(0), Array(Vec::new())])),
            ("TIME", _) => {
                let millis = moment.now.unix_millis;
                let [seconds, micros] = [millis / 1000, millis % 1000 * 1000];
                Ok(Array(vec![text(seconds.to_string()), text(micros.to_string())]))
            }
            // The start, as in a Redis that has not saved anything yet.
            ("LASTSAVE", _) => Ok(Integer(moment.started() as i64)),
            // There are no keys to be watched, and no replicas to wait for.
            ("UNWATCH" | "WATCH", _) => OK,
            ("DBSIZE" | "WAIT", _) => Ok(Integer(0)),
            ("MODULE LIST", _) => Ok(Array(Vec::new())),
            ("ACL WHOAMI", _) => Ok(text("default")),
            ("READONLY" | "READWRITE", _) => NO_CLUSTER,
            // With it libraries send the script itself.
            ("EVALSHA", _) => Err("NOSCRIPT No matching script. Please use EVAL.".into()),
            ("SCRIPT EXISTS", [_, hashes @ ..]) => {
                Ok(Array(hashes.iter().map(|_| Integer(0)).collect()))
            }
            (name, _) if name.starts_with("CLIENT ") => {
                self.client(&name["CLIENT ".len()..], &arguments[1..], exchange, moment)
            }
            (name, _) if name.starts_with("CLUSTER ") => NO_CLUSTER,
            (name, _) if name.starts_with("COMMAND") => Ok(facts::commands(words)),
            _ => Err(format!("ERR {}", wrong_arity(name)).into()),
        }
    }

    /// Returns whether the connection has subscriptions.
    pub fn is_subscriber(&self, exchange: &Exchange) -> bool {
        exchange.count(self.peer.seat) > 0
    }

    /// Authenticates the one user, `default`. Without a password it takes any, as in Redis.
    fn auth(&mut self, user: Option<&[u8]>, password: &[u8]) -> Result<(), ErrorText> {
        let is_right = match &self.terms.password {
            None if user.is_none() => return Err(NO_PASSWORD.into()),
            _ => self.terms.accept(password),
        };
        if !is_right || user.is_some_and(|user| user != b"default") {
            return Err(WRONG_PASS.into());
        }
        self.is_authenticated = true;
        Ok(())
    }

    /// Answers `HELLO [2|3 [AUTH user password] [SETNAME name]]`.
    fn hello(&mut self, arguments: &[&[u8]]) -> CommandResult {
        let is_resp3 = match arguments.first().map(|version| number(version)) {
            None => self.is_resp3,
            Some(Some(2)) => false,
            Some(Some(3)) => true,
            Some(Some(_)) => return Err("NOPROTO unsupported protocol version".into()),
            Some(None) => {
                return Err("ERR Protocol version is not an integer or out of range".into());
            }
        };
        let mut options = arguments.get(1..).unwrap_or_default();
        while let [option, rest @ ..] = options {
            options = match (option.to_ascii_uppercase().as_slice(), rest) {
                (b"AUTH", [user, password, rest @ ..]) => {
                    self.auth(Some(user), password)?;
                    rest
                }
                (b"SETNAME", [name, rest @ ..]) => {
                    self.set_name(name)?;
                    rest
                }
                _ => {
                    let option = printable(option);
                    return Err(format!("ERR Syntax error in HELLO option '{option}'").into());
                }
            };
        }
        if !self.is_authenticated {
            return Err(NO_AUTH_HELLO.into());
        }
        self.is_resp3 = is_resp3;
        Ok(Map(vec![
            ("server", text("redis")),
            ("version", text(facts::REDIS_VERSION)),
            ("mode", text("standalone")),
            ("role", text("master")),
            ("proto", Integer(if is_resp3 { 3 } else { 2 })),
            ("id", Integer(self.peer.id as i64)),
            ("modules", Array(Vec::new())),
        ]))
    }

    /// Answers CLIENT. The words of libraries about themselves are accepted and forgotten, except the name.
    fn client(
        &mut self,
        subcommand: &str,
        arguments: &[&[u8]],
        exchange: &Exchange,
        moment: Moment,
    ) -> CommandResult {
        let upper = arguments.first().map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        match (subcommand, upper.as_slice()) {
            ("SETNAME", _) => self.set_name(arguments[0]).and(OK),
            ("GETNAME", _) if self.name.is_empty() => Ok(Null),
            ("GETNAME", _) => Ok(Bulk(self.name.clone())),
            ("ID", _) => Ok(Integer(self.peer.id as i64)),
            ("LIST", _) if !self.is_listed(arguments, exchange) => Ok(text("")),
            ("INFO" | "LIST", _) => Ok(text(self.description(exchange, moment))),
            ("REPLY", b"ON") => {
                self.replies = ReplyMode::On;
                OK
            }
            ("REPLY", mode @ (b"OFF" | b"SKIP")) => {
                self.replies = if mode == b"OFF" { ReplyMode::Off } else { ReplyMode::Skip };
                Ok(Encoded(Vec::new()))
            }
            // There are no keys whose changes would have to be announced.
            ("TRACKING", b"ON" | b"OFF") | ("CACHING", b"YES" | b"NO") => OK,
            ("SETINFO", _) | ("NO-EVICT" | "NO-TOUCH", b"ON" | b"OFF") => OK,
            ("GETREDIR", _) => Ok(Integer(-1)),
            ("TRACKINGINFO", _) => Ok(Map(vec![
                ("flags", Array(vec![text("off")])),
                ("redirect", Integer(-1)),
                ("prefixes", Array(Vec::new())),
            ])),
            _ => SYNTAX,
        }
    }

    /// Returns whether `CLIENT LIST` with these filters shows this connection. It never shows another one.
    fn is_listed(&self, filters: &[&[u8]], exchange: &Exchange) -> bool {
        match filters {
            [filter, ids @ ..] if filter.eq_ignore_ascii_case(b"ID") => {
                ids.iter().any(|id| number(id) == i64::try_from(self.peer.id).ok())
            }
            [filter, kind] if filter.eq_ignore_ascii_case(b"TYPE") => {
                let own: &[u8] = if self.is_subscriber(exchange) { b"PUBSUB" } else { b"NORMAL" };
                kind.eq_ignore_ascii_case(own)
            }
            _ => true,
        }
    }

    /// Returns the line of `CLIENT INFO`.
    fn description(&self, exchange: &Exchange, moment: Moment) -> String {
        let age = moment.now.millis.saturating_sub(self.peer.since) / 1000;
        let [channels, patterns] =
            [Channel, Pattern].map(|kind| exchange.names(self.peer.seat, kind).len());
        let name = String::from_utf8_lossy(&self.name);
        let mut line = format!("id={}", self.peer.id);
        if let Some(address) = self.peer.address {
            let _ = write!(line, " addr={address}");
        }
        let flags = if channels + patterns > 0 { "P" } else { "N" };
        let resp = if self.is_resp3 { 3 } else { 2 };
        let _ = writeln!(
            line,
            " name={name} age={age} idle=0 flags={flags} db=0 sub={channels} psub={patterns} \
             multi=-1 user=default redir=-1 resp={resp}"
        );
        line
    }

    fn set_name(&mut self, name: &[u8]) -> Result<(), ErrorText> {
        if name.len() > CLIENT_NAME_BYTES_MAX {
            return Err("ERR Client names cannot be longer than 256 bytes.".into());
        }
        if !name.iter().all(u8::is_ascii_graphic) {
            let text = "ERR Client names cannot contain spaces, newlines or special characters.";
            return Err(text.into());
        }
        self.name = name.to_vec();
        Ok(())
    }

    /// Subscribes to each name, or unsubscribes: each with a reply. UNSUBSCRIBE without names means all.
    fn change_subscriptions(
        &self,
        command: &str,
        names: &[&[u8]],
        exchange: &mut Exchange,
    ) -> PortReply {
        let (seat, is_resp3) = (self.peer.seat, self.is_resp3);
        let kind = if command.starts_with('P') { Pattern } else { Channel };
        let reply = |name: PortReply, count: usize| {
            Push(vec![text(command.to_ascii_lowercase()), name, Integer(count as i64)])
        };
        let own = exchange.names(seat, kind);
        let own: Vec<&[u8]> = own.iter().map(|name| &**name).collect();
        let names = if names.is_empty() { &own } else { names };
        if names.is_empty() {
            return reply(Null, exchange.count(seat));
        }
        let mut replies = Vec::new();
        for name in names {
            let result = match command {
                "SUBSCRIBE" | "PSUBSCRIBE" => exchange.subscribe(seat, kind, name),
                _ => Ok(exchange.unsubscribe(seat, kind, name)),
            };
            let result = result.map(|count| reply(Bulk(name.to_vec()), count));
            reply::write(&mut replies, &result, is_resp3);
        }
        Encoded(replies)
    }
}

/// Returns each name and a count of it.
fn counts(names: &[&[u8]], count: impl Fn(&[u8]) -> usize) -> PortReply {
    let pair = |name: &&[u8]| [Bulk(name.to_vec()), Integer(count(name) as i64)];
    Array(names.iter().flat_map(pair).collect())
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Returns a command's name as errors of Redis have it: `client|id`.
pub fn lower(name: &str) -> String {
    name.to_ascii_lowercase().replace(' ', "|")
}

/// Returns the refusal of a command with too many or too few words.
pub fn wrong_arity(name: &str) -> String {
    format!("wrong number of arguments for '{}' command", lower(name))
}

/// Returns at most 64 bytes of a peer's word, fit for a line of ours.
pub fn printable(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(QUOTE_BYTES_MAX)];
    let is_printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    bytes.iter().map(|byte| if is_printable(byte) { *byte as char } else { '?' }).collect()
}
