//! The state that commands leave on a connection, and the commands of libraries before and beside PUBLISH, answered as Redis does.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::clock::Millis;
use crate::engine::redis::resp;
use crate::features::publisher::catalog::KnownCommand;
use crate::features::publisher::exchange::{Exchange, SubscriptionKind};
use crate::features::publisher::facts;
use crate::features::publisher::terms::{Moment, Terms};

/// Bytes of a peer's word that an answer quotes.
const QUOTE_BYTES_MAX: usize = 64;
/// The longest name of a connection.
const NAME_BYTES_MAX: usize = 256;

const NO_AUTH: &str = "NOAUTH Authentication required.";
const NO_AUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, \
    otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client \
    and select the RESP protocol version at the same time";
const WRONG_PASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the \
    default user. Are you sure your configuration is correct?";
const SYNTAX: &str = "ERR syntax error";
const NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";
const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";

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

/// The answers that the peer wants: `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    On,
    /// All but the next one.
    Skip,
    Off,
}

/// The state that commands leave on a connection.
pub struct PublisherSession {
    pub peer: Peer,
    pub replies: Replies,
    is_authenticated: bool,
    is_resp3: bool,
    name: Option<Box<[u8]>>,
}

/// The facts from which a command is answered, besides the connection itself.
pub struct Context<'a> {
    pub terms: &'a Terms,
    pub exchange: &'a Exchange,
    pub moment: &'a Moment,
    /// The number of commands that wait for EXEC; `None`: there was no MULTI.
    pub queued: Option<usize>,
}

impl PublisherSession {
    /// Without a password everyone is the default user.
    pub fn new(peer: Peer, terms: &Terms) -> PublisherSession {
        PublisherSession {
            peer,
            replies: Replies::On,
            is_authenticated: terms.password.is_none(),
            is_resp3: false,
            name: None,
        }
    }

    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    pub fn is_resp3(&self) -> bool {
        self.is_resp3
    }

    /// Refuses a command that may not come before AUTH.
    pub fn write_unauthenticated(&self, output: &mut Vec<u8>) {
        resp::write_error(output, NO_AUTH);
    }

    /// Answers a command that concerns this connection or the server alone. `words` are its name and arguments.
    pub fn answer(
        &mut self,
        command: &KnownCommand,
        words: &[&[u8]],
        context: &Context<'_>,
        output: &mut Vec<u8>,
    ) {
        let (terms, arguments) = (context.terms, &words[1..]);
        match (command.name, arguments) {
            ("PING", []) => resp::write_simple(output, "PONG"),
            ("PING" | "ECHO", [message]) => resp::write_bulk(output, message),
            ("SELECT", [number]) => write_result(output, select(number)),
            ("AUTH", [password]) => write_result(output, self.auth(None, password, terms)),
            ("AUTH", [user, password]) => {
                write_result(output, self.auth(Some(user), password, terms));
            }
            ("AUTH", _) => resp::write_error(output, SYNTAX),
            ("HELLO", _) => self.hello(arguments, terms, output),
            ("INFO", sections) => {
                facts::write_info(output, sections, context.exchange, context.moment);
            }
            ("CONFIG GET", [_, patterns @ ..]) => {
                facts::write_config(output, patterns, terms, self.is_resp3);
            }
            ("ROLE", _) => facts::write_role(output),
            ("TIME", _) => facts::write_time(output, context.moment),
            ("LASTSAVE", _) => facts::write_last_save(output, context.moment),
            // There are no keys to be watched, and no replicas to wait for.
            ("UNWATCH" | "WATCH", _) => resp::write_simple(output, "OK"),
            ("DBSIZE" | "WAIT", _) => resp::write_integer(output, 0),
            ("MODULE LIST", _) => resp::write_array(output, 0),
            ("ACL WHOAMI", _) => resp::write_bulk(output, b"default"),
            ("READONLY" | "READWRITE", _) => resp::write_error(output, NO_CLUSTER),
            // With it libraries send the script itself.
            ("EVALSHA", _) => {
                resp::write_error(output, "NOSCRIPT No matching script. Please use EVAL.");
            }
            ("SCRIPT EXISTS", [_, hashes @ ..]) => {
                resp::write_array(output, hashes.len());
                hashes.iter().for_each(|_| resp::write_integer(output, 0));
            }
            (name, _) if name.starts_with("CLIENT ") => {
                self.client(&name["CLIENT ".len()..], &arguments[1..], context, output);
            }
            (name, _) if name.starts_with("CLUSTER ") => resp::write_error(output, NO_CLUSTER),
            (name, _) if name.starts_with("COMMAND") => {
                facts::write_commands(output, words, self.is_resp3);
            }
            (name, _) => resp::write_error(output, &format!("ERR {}", wrong_arity(name))),
        }
    }

    /// Authenticates the one user, `default`. Without a password it takes any, as in Redis.
    fn auth(
        &mut self,
        user: Option<&[u8]>,
        password: &[u8],
        terms: &Terms,
    ) -> Result<(), &'static str> {
        let is_right = match &terms.password {
            None if user.is_none() => return Err(NO_PASSWORD),
            None => true,
            Some(expected) => is_same(password, expected),
        };
        if !is_right || user.is_some_and(|user| user != b"default") {
            return Err(WRONG_PASS);
        }
        self.is_authenticated = true;
        Ok(())
    }

    /// Answers `HELLO [2|3 [AUTH user password] [SETNAME name]]`.
    fn hello(&mut self, arguments: &[&[u8]], terms: &Terms, output: &mut Vec<u8>) {
        match self.agree(arguments, terms) {
            Ok(is_resp3) => self.is_resp3 = is_resp3,
            Err(error) => return resp::write_error(output, &error),
        }
        resp::write_map(output, 7, self.is_resp3);
        let (version, role) = (facts::REDIS_VERSION, "master");
        for word in ["server", "redis", "version", version, "mode", "standalone", "role", role] {
            resp::write_bulk(output, word.as_bytes());
        }
        let id = self.peer.id as usize;
        for (key, value) in [("proto", if self.is_resp3 { 3 } else { 2 }), ("id", id)] {
            resp::write_bulk(output, key.as_bytes());
            resp::write_integer(output, value);
        }
        resp::write_bulk(output, b"modules");
        resp::write_array(output, 0);
    }

    /// Executes the words of HELLO. Returns whether the connection speaks RESP3 from now on.
    fn agree(&mut self, arguments: &[&[u8]], terms: &Terms) -> Result<bool, String> {
        let is_resp3 = match arguments.first().map(|version| number(version)) {
            None => self.is_resp3,
            Some(Some(2)) => false,
            Some(Some(3)) => true,
            Some(Some(_)) => return Err("NOPROTO unsupported protocol version".to_owned()),
            Some(None) => {
                return Err("ERR Protocol version is not an integer or out of range".to_owned());
            }
        };
        let mut options = arguments.get(1..).unwrap_or_default();
        while let [option, rest @ ..] = options {
            options = match (option.to_ascii_uppercase().as_slice(), rest) {
                (b"AUTH", [user, password, rest @ ..]) => {
                    self.auth(Some(user), password, terms)?;
                    rest
                }
                (b"SETNAME", [name, rest @ ..]) => {
                    self.set_name(name)?;
                    rest
                }
                _ => {
                    let option = printable(option);
                    return Err(format!("ERR Syntax error in HELLO option '{option}'"));
                }
            };
        }
        if !self.is_authenticated {
            return Err(NO_AUTH_HELLO.to_owned());
        }
        Ok(is_resp3)
    }

    /// Answers CLIENT. The words of libraries about themselves are accepted and forgotten, except the name.
    fn client(
        &mut self,
        subcommand: &str,
        arguments: &[&[u8]],
        context: &Context<'_>,
        output: &mut Vec<u8>,
    ) {
        let upper = arguments.first().map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        match (subcommand, upper.as_slice()) {
            ("SETNAME", _) => {
                let result = self.set_name(arguments[0]);
                write_result(output, result);
            }
            ("GETNAME", _) => match &self.name {
                Some(name) => resp::write_bulk(output, name),
                None => resp::write_null(output, self.is_resp3),
            },
            ("ID", _) => resp::write_integer(output, self.peer.id as usize),
            ("INFO", _) => resp::write_bulk(output, self.line(context).as_bytes()),
            ("LIST", _) => {
                let is_meant = self.is_listed(arguments, context);
                let list = if is_meant { self.line(context) } else { String::new() };
                resp::write_bulk(output, list.as_bytes());
            }
            ("REPLY", b"ON") => {
                self.replies = Replies::On;
                resp::write_simple(output, "OK");
            }
            ("REPLY", b"OFF") => self.replies = Replies::Off,
            ("REPLY", b"SKIP") => self.replies = Replies::Skip,
            // There are no keys whose changes would have to be announced.
            ("TRACKING", b"ON" | b"OFF") | ("CACHING", b"YES" | b"NO") => {
                resp::write_simple(output, "OK");
            }
            ("SETINFO", _) | ("NO-EVICT" | "NO-TOUCH", b"ON" | b"OFF") => {
                resp::write_simple(output, "OK");
            }
            ("GETREDIR", _) => resp::write_signed(output, -1),
            ("TRACKINGINFO", _) => {
                resp::write_map(output, 3, self.is_resp3);
                output.extend_from_slice(
                    b"$5\r\nflags\r\n*1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n",
                );
            }
            _ => resp::write_error(output, SYNTAX),
        }
    }

    /// Returns whether `CLIENT LIST` with these filters shows this connection. It never shows another one.
    fn is_listed(&self, filters: &[&[u8]], context: &Context<'_>) -> bool {
        match filters {
            [filter, ids @ ..] if filter.eq_ignore_ascii_case(b"ID") => {
                ids.iter().any(|id| number(id) == i64::try_from(self.peer.id).ok())
            }
            [filter, kind] if filter.eq_ignore_ascii_case(b"TYPE") => {
                let is_subscriber = context.exchange.count(self.peer.seat) > 0;
                kind.eq_ignore_ascii_case(if is_subscriber { b"PUBSUB" } else { b"NORMAL" })
            }
            _ => true,
        }
    }

    /// Returns this connection's line of `CLIENT INFO`.
    fn line(&self, context: &Context<'_>) -> String {
        let age = context.moment.now.millis.saturating_sub(self.peer.since) / 1000;
        let [channels, patterns] = [SubscriptionKind::Channel, SubscriptionKind::Pattern]
            .map(|kind| context.exchange.names(self.peer.seat, kind).len());
        let name = self.name.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let mut line = format!("id={}", self.peer.id);
        if let Some(address) = self.peer.address {
            let _ = write!(line, " addr={address}");
        }
        let flags = if channels + patterns > 0 { "P" } else { "N" };
        let multi = context.queued.map_or_else(|| "-1".to_owned(), |count| count.to_string());
        let resp = if self.is_resp3 { 3 } else { 2 };
        let _ = writeln!(
            line,
            " name={name} age={age} idle=0 flags={flags} db=0 sub={channels} psub={patterns} \
             multi={multi} user=default redir=-1 resp={resp}"
        );
        line
    }

    fn set_name(&mut self, name: &[u8]) -> Result<(), &'static str> {
        check_name(name)?;
        self.name = (!name.is_empty()).then(|| name.into());
        Ok(())
    }
}

/// The refusal of a command with too many or too few words, as Redis has it.
pub fn wrong_arity(name: &str) -> String {
    let name = name.to_ascii_lowercase().replace(' ', "|");
    format!("wrong number of arguments for '{name}' command")
}

fn write_result(output: &mut Vec<u8>, result: Result<(), &'static str>) {
    match result {
        Ok(()) => resp::write_simple(output, "OK"),
        Err(error) => resp::write_error(output, error),
    }
}

/// Checks the number of a database. It means nothing to pub/sub: all are one.
fn select(index: &[u8]) -> Result<(), &'static str> {
    match number(index) {
        Some(0..) => Ok(()),
        Some(_) => Err("ERR DB index is out of range"),
        None => Err(NOT_A_NUMBER),
    }
}

fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Err("ERR Client names cannot be longer than 256 bytes.");
    }
    match name.iter().all(u8::is_ascii_graphic) {
        true => Ok(()),
        false => Err("ERR Client names cannot contain spaces, newlines or special characters."),
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Compares passwords in a time that tells neither the first wrong byte nor the length of the right one.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = usize::from(given.len() != expected.len());
    for (index, byte) in given.iter().enumerate() {
        let other = expected.get(index % expected.len().max(1)).unwrap_or(&0);
        difference |= std::hint::black_box(usize::from(byte ^ other));
    }
    difference == 0
}

/// Returns at most 64 bytes of a peer's word, fit for a line of ours.
pub fn printable(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(QUOTE_BYTES_MAX)];
    let is_printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    bytes.iter().map(|byte| if is_printable(byte) { *byte as char } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_compared_whole() {
        for (given, expected, is_equal) in [
            ("secret", "secret", true),
            ("secre", "secret", false),
            ("secretsecret", "secret", false),
            ("", "secret", false),
            ("", "", true),
            ("a", "", false),
            ("secreT", "secret", false),
        ] {
            assert_eq!(is_same(given.as_bytes(), expected.as_bytes()), is_equal, "{given}");
        }
    }
}
