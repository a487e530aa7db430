//! The commands that a client library sends before and beside PUBLISH, answered as Redis answers them.

use std::rc::Rc;

use super::resp;

/// Of a command that the peer named, in our answer.
const QUOTE_BYTES_MAX: usize = 64;
/// Clients look at it to choose their commands.
const REDIS_VERSION: &str = "7.0.0";

const NO_AUTH: &str = "NOAUTH Authentication required.";
const NO_AUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, \
    otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client \
    and select the RESP protocol version at the same time";
const WRONG_PASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the \
    default user. Are you sure your configuration is correct?";
const SYNTAX: &str = "ERR syntax error";
const NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";

/// What commands leave behind on a connection.
pub struct Session {
    password: Option<Rc<[u8]>>,
    is_authenticated: bool,
    is_resp3: bool,
}

impl Session {
    /// Without a password everyone is the default user.
    pub fn new(password: Option<Rc<[u8]>>) -> Session {
        Session { is_authenticated: password.is_none(), password, is_resp3: false }
    }

    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    /// Refuses what may not come before AUTH.
    pub fn write_unauthenticated(&self, output: &mut Vec<u8>) {
        resp::write_error(output, NO_AUTH);
    }

    /// Answers any command but PUBLISH; true: it was QUIT. `words` are its name and arguments, perhaps without the last ones,
    /// of which none of these commands has so many.
    pub fn answer(&mut self, words: &[&[u8]], output: &mut Vec<u8>) -> bool {
        let Some((name, arguments)) = words.split_first() else {
            return false;
        };
        let name = name.to_ascii_uppercase();
        let is_open = matches!(name.as_slice(), b"AUTH" | b"HELLO" | b"QUIT" | b"RESET");
        if !self.is_authenticated && !is_open {
            self.write_unauthenticated(output);
            return false;
        }
        match (name.as_slice(), arguments) {
            (b"PING", []) => resp::write_simple(output, "PONG"),
            (b"PING", [message]) => resp::write_bulk(output, message),
            (b"SELECT", [number]) => write_result(output, select(number)),
            (b"AUTH", [password]) => write_result(output, self.auth(None, password)),
            (b"AUTH", [user, password]) => write_result(output, self.auth(Some(user), password)),
            (b"AUTH", [_, _, _, ..]) => resp::write_error(output, SYNTAX),
            (b"HELLO", _) => self.hello(arguments, output),
            (b"CLIENT", [subcommand, rest @ ..]) => self.client(subcommand, rest, output),
            (b"COMMAND", _) => self.command(arguments, output),
            (b"INFO", _) => write_info(output),
            (b"RESET", []) => {
                *self = Session::new(self.password.take());
                resp::write_simple(output, "RESET");
            }
            (b"QUIT", _) => {
                resp::write_simple(output, "OK");
                return true;
            }
            (b"PING" | b"SELECT" | b"AUTH" | b"CLIENT" | b"RESET", _) => write_arity(output, &name),
            _ => {
                let name = printable(words[0]);
                let why = "this port takes PUBLISH; use a Redis for the rest";
                resp::write_error(output, &format!("ERR unknown command '{name}': {why}"));
            }
        }
        false
    }

    /// There is one user, `default`. Without a password it takes any, as in Redis.
    fn auth(&mut self, user: Option<&[u8]>, password: &[u8]) -> Result<(), &'static str> {
        let is_right = match &self.password {
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

    /// `HELLO [2|3 [AUTH user password] [SETNAME name]]`.
    fn hello(&mut self, arguments: &[&[u8]], output: &mut Vec<u8>) {
        match self.agree(arguments) {
            Ok(is_resp3) => self.is_resp3 = is_resp3,
            Err(error) => return resp::write_error(output, &error),
        }
        resp::write_map(output, 7, self.is_resp3);
        for (key, value) in [
            ("server", "redis"),
            ("version", REDIS_VERSION),
            ("mode", "standalone"),
            ("role", "master"),
        ] {
            resp::write_bulk(output, key.as_bytes());
            resp::write_bulk(output, value.as_bytes());
        }
        for (key, value) in [("proto", if self.is_resp3 { 3 } else { 2 }), ("id", 1)] {
            resp::write_bulk(output, key.as_bytes());
            resp::write_integer(output, value);
        }
        resp::write_bulk(output, b"modules");
        resp::write_array(output, 0);
    }

    /// Whether it is RESP3 from now on.
    fn agree(&mut self, arguments: &[&[u8]]) -> Result<bool, String> {
        let (version, mut options) = match arguments.split_first() {
            None => (None, arguments),
            Some((version, options)) => (Some(version), options),
        };
        let is_resp3 = match version.map(|version| number(version)) {
            None => self.is_resp3,
            Some(Some(2)) => false,
            Some(Some(3)) => true,
            Some(Some(_)) => return Err("NOPROTO unsupported protocol version".to_owned()),
            Some(None) => {
                return Err("ERR Protocol version is not an integer or out of range".to_owned());
            }
        };
        while let [option, rest @ ..] = options {
            options = match (option.to_ascii_uppercase().as_slice(), rest) {
                (b"AUTH", [user, password, rest @ ..]) => {
                    self.auth(Some(user), password)?;
                    rest
                }
                (b"SETNAME", [name, rest @ ..]) => {
                    check_name(name)?;
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

    /// What libraries send to introduce themselves is accepted, and forgotten: an idle connection holds nothing.
    fn client(&self, subcommand: &[u8], arguments: &[&[u8]], output: &mut Vec<u8>) {
        let subcommand = subcommand.to_ascii_uppercase();
        match (subcommand.as_slice(), arguments) {
            (b"SETNAME", [name]) => write_result(output, check_name(name)),
            (b"SETINFO", [_, _]) | (b"NO-EVICT" | b"NO-TOUCH", [_]) => {
                resp::write_simple(output, "OK");
            }
            (b"REPLY", [mode]) if mode.eq_ignore_ascii_case(b"ON") => {
                resp::write_simple(output, "OK");
            }
            (b"GETNAME", []) => resp::write_null(output, self.is_resp3),
            (b"ID", []) => resp::write_integer(output, 1),
            _ => {
                let subcommand = printable(&subcommand);
                resp::write_error(output, &format!("ERR CLIENT {subcommand} is not known here"));
            }
        }
    }

    /// `COMMAND` and its subcommands: an empty table. redis-cli asks for it as it starts.
    fn command(&self, arguments: &[&[u8]], output: &mut Vec<u8>) {
        match arguments.first().map(|word| word.to_ascii_uppercase()).as_deref() {
            Some(b"COUNT") => resp::write_integer(output, 0),
            Some(b"DOCS") => resp::write_map(output, 0, self.is_resp3),
            _ => resp::write_array(output, 0),
        }
    }
}

/// `-ERR wrong number of arguments`, in Redis' words.
pub fn write_arity(output: &mut Vec<u8>, name: &[u8]) {
    let name = printable(&name.to_ascii_lowercase());
    resp::write_error(output, &format!("ERR wrong number of arguments for '{name}' command"));
}

fn write_result(output: &mut Vec<u8>, result: Result<(), &'static str>) {
    match result {
        Ok(()) => resp::write_simple(output, "OK"),
        Err(error) => resp::write_error(output, error),
    }
}

fn write_info(output: &mut Vec<u8>) {
    let version = env!("CARGO_PKG_VERSION");
    let info = format!(
        "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\n\
         oneloop_version:{version}\r\n"
    );
    resp::write_bulk(output, info.as_bytes());
}

/// A database means nothing to pub/sub: all are one.
fn select(index: &[u8]) -> Result<(), &'static str> {
    match number(index) {
        Some(0..) => Ok(()),
        Some(_) => Err("ERR DB index is out of range"),
        None => Err(NOT_A_NUMBER),
    }
}

fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        true => Ok(()),
        false => Err("ERR Client names cannot contain spaces, newlines or special characters."),
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Takes as long for a wrong first byte as for a wrong last one, and shows the length of the right one in no way.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = usize::from(given.len() != expected.len());
    for (index, byte) in given.iter().enumerate() {
        let other = expected.get(index % expected.len().max(1)).unwrap_or(&0);
        difference |= std::hint::black_box(usize::from(byte ^ other));
    }
    difference == 0
}

fn printable(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(QUOTE_BYTES_MAX)];
    let clean = |&byte: &u8| {
        if (b' '..=b'~').contains(&byte) { byte as char } else { '?' }
    };
    bytes.iter().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(session: &mut Session, line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut output = Vec::new();
        assert_eq!(session.answer(&words, &mut output), words[0] == b"QUIT");
        String::from_utf8(output).expect("it is text")
    }

    #[test]
    fn answers_are_those_of_redis() {
        let mut session = Session::new(None);
        for (line, expected) in [
            ("PING", "+PONG\r\n"),
            ("ping hello", "$5\r\nhello\r\n"),
            ("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n"),
            ("SELECT 15", "+OK\r\n"),
            ("SELECT -1", "-ERR DB index is out of range\r\n"),
            ("SELECT x", "-ERR value is not an integer or out of range\r\n"),
            (
                "AUTH x",
                "-ERR AUTH <password> called without any password configured for the \
                default user. Are you sure your configuration is correct?\r\n",
            ),
            ("AUTH default x", "+OK\r\n"),
            ("AUTH bob x", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
            ("AUTH a b c", "-ERR syntax error\r\n"),
            ("CLIENT", "-ERR wrong number of arguments for 'client' command\r\n"),
            ("CLIENT SETNAME me", "+OK\r\n"),
            ("client setinfo lib-name redis-py", "+OK\r\n"),
            ("CLIENT GETNAME", "$-1\r\n"),
            ("CLIENT ID", ":1\r\n"),
            ("CLIENT REPLY ON", "+OK\r\n"),
            ("CLIENT REPLY OFF", "-ERR CLIENT REPLY is not known here\r\n"),
            ("COMMAND", "*0\r\n"),
            ("COMMAND DOCS", "*0\r\n"),
            ("COMMAND COUNT", ":0\r\n"),
            ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
            ("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n"),
            ("HELLO 3 AUTH a", "-ERR Syntax error in HELLO option 'AUTH'\r\n"),
            (
                "HELLO 3 SETNAME a\nb",
                "-ERR Client names cannot contain spaces, newlines or special characters.\r\n",
            ),
            ("RESET", "+RESET\r\n"),
            ("QUIT", "+OK\r\n"),
        ] {
            assert_eq!(ask(&mut session, line), expected, "{line}");
        }
        assert!(ask(&mut session, "INFO server").contains("# Server\r\nredis_version:7.0.0\r\n"));
    }

    #[test]
    fn an_unknown_command_is_told_where_it_belongs() {
        let text = ask(&mut Session::new(None), "S\r\né");
        assert_eq!(
            text,
            "-ERR unknown command 'S????': this port takes PUBLISH; use a Redis for the rest\r\n"
        );
        assert!(ask(&mut Session::new(None), &"x".repeat(5000)).len() < 160);
    }

    #[test]
    fn hello_is_a_map_in_resp3_and_an_array_in_resp2() {
        let mut session = Session::new(None);
        assert!(ask(&mut session, "HELLO").starts_with("*14\r\n$6\r\nserver\r\n"));
        let hello = ask(&mut session, "HELLO 3 SETNAME me");
        assert!(hello.starts_with("%7\r\n") && hello.contains("$5\r\nproto\r\n:3\r\n"));
        redis::parse_redis_value(hello.as_bytes()).expect("it is RESP3");
        assert_eq!(ask(&mut session, "CLIENT GETNAME"), "_\r\n");
        assert!(ask(&mut session, "HELLO").starts_with("%7\r\n"));
        ask(&mut session, "RESET");
        assert!(ask(&mut session, "HELLO").starts_with("*14\r\n"));
    }

    #[test]
    fn nothing_goes_before_the_password() {
        let password: Rc<[u8]> = Rc::from(b"secret".as_slice());
        let fresh = || Session::new(Some(password.clone()));
        for line in
            ["PING", "SELECT 0", "CLIENT ID", "COMMAND", "INFO", "SET a b", "HELLO", "HELLO 3"]
        {
            assert!(ask(&mut fresh(), line).starts_with("-NOAUTH "), "{line}");
        }
        for line in
            ["AUTH wrong", "AUTH", "AUTH secre", "AUTH secretsecret", "AUTH bob secret", "AUTH "]
        {
            let mut session = fresh();
            assert!(ask(&mut session, line).starts_with('-'), "{line}");
            assert!(!session.is_authenticated(), "{line}");
        }
        for line in ["AUTH secret", "auth default secret", "HELLO 3 AUTH default secret"] {
            let mut session = fresh();
            ask(&mut session, line);
            assert_eq!(ask(&mut session, "PING"), "+PONG\r\n", "{line}");
            // A wrong one later takes nothing away, as in Redis; RESET does.
            ask(&mut session, "AUTH wrong");
            assert!(session.is_authenticated());
            ask(&mut session, "RESET");
            assert!(!session.is_authenticated());
        }
        assert_eq!(ask(&mut fresh(), "QUIT"), "+OK\r\n");
    }

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
