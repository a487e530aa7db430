//! Commands in the bytes of a publisher: arrays of RESP, or inline commands, lines of words as a person types them into telnet.

use std::borrow::Cow;

use crate::engine::redis::request;
use crate::engine::redis::resp::{Framer, Whole};
use crate::engine::redis::scanner::Grammar;

/// The first byte of a TLS ClientHello (RFC 8446 section 5.1), which has no end of a line to wait for.
const TLS_HANDSHAKE: u8 = 0x16;
/// Redis' bound on an inline command.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// The reason why input is not a command.
#[derive(Debug, PartialEq, Eq)]
pub enum InputError {
    /// The peer speaks HTTP: this is the first line of its first request.
    Request(Vec<u8>),
    /// The peer is a browser, made by some web page to talk to us: close without a reply. The following lines are that page's.
    Http,
    /// Close after this error.
    Protocol(String),
}

/// The part of a command that has come. Between two commands it holds no buffer.
pub struct CommandReader {
    framer: Framer,
    /// An inline command whose end has not come yet.
    line: Vec<u8>,
    /// Nothing whole has come yet.
    is_first: bool,
}

impl CommandReader {
    pub fn new() -> CommandReader {
        CommandReader { framer: Framer::new(Grammar::Commands), line: Vec::new(), is_first: true }
    }

    /// The beginning of a command that has not come whole, if it is held, and whether something whole has come.
    pub fn held(&self) -> (Option<&[u8]>, bool) {
        let held = if self.line.is_empty() { self.framer.held() } else { Some(&self.line[..]) };
        (held, !self.is_first)
    }

    /// Takes note that something whole has come.
    pub fn begin(&mut self) {
        self.is_first = false;
    }

    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.framer.is_idle() && self.line.capacity() == 0
    }

    /// Takes one command, of at most `bytes_max`, from an input that is not empty; `None`: it is not complete.
    ///
    /// # Errors
    /// The input is not RESP.
    pub fn next<'input>(
        &mut self,
        input: &mut &'input [u8],
        bytes_max: usize,
    ) -> Result<Option<Whole<'input>>, InputError> {
        let is_inline = self.framer.is_idle() && input.first() != Some(&b'*');
        if is_inline && self.line.is_empty() && input.first() == Some(&TLS_HANDSHAKE) {
            return Err(error("TLS is not spoken here"));
        }
        if !is_inline && self.line.is_empty() {
            self.is_first = false;
            let next = self.framer.next(input, bytes_max);
            return next.map_err(|garbage| error(&garbage.to_string()));
        }
        let line_end = input.iter().position(|&byte| byte == b'\n');
        let (taken, rest) = input.split_at(line_end.map_or(input.len(), |end| end + 1));
        *input = rest;
        if self.line.len() + taken.len() > bytes_max.min(LINE_BYTES_MAX) {
            return Err(error("too big inline request"));
        }
        if line_end.is_none() || !self.line.is_empty() {
            self.line.extend_from_slice(taken);
        }
        if line_end.is_none() {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.line);
        let line = if line.is_empty() { taken } else { &line };
        // Behind a command it is a page's: no publisher changes from RESP to HTTP.
        if std::mem::take(&mut self.is_first) && is_request(line) {
            return Err(InputError::Request(line.to_vec()));
        }
        let command = to_array(line)?;
        Ok(Some(Whole::Value(Cow::Owned(command))))
    }
}

fn error(why: &str) -> InputError {
    InputError::Protocol(format!("ERR Protocol error: {why}"))
}

/// A quote is not closed, or something other than a space follows the closing one.
fn unbalanced() -> InputError {
    error("unbalanced quotes in request")
}

/// A control character, or a first word that is not made of letters: the peer speaks another protocol, and the following lines may
/// be a third party's.
fn no_command() -> InputError {
    error("this line is no command")
}

/// Returns the array of strings that a line stands for, with its end or without. An empty line is an empty array. The quoting rules
/// are those of Redis (`sdssplitargs` in its `sds.c`).
fn to_array(line: &[u8]) -> Result<Vec<u8>, InputError> {
    let mut rest = line.trim_ascii();
    if rest.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(no_command());
    }
    if is_http(rest) {
        return Err(InputError::Http);
    }
    let mut words = Vec::new();
    while !rest.is_empty() {
        words.push(take_word(&mut rest)?);
        rest = rest.trim_ascii_start();
        if !words[0].iter().all(u8::is_ascii_alphabetic) {
            return Err(no_command());
        }
    }
    if words.is_empty() {
        return Ok(b"*0\r\n".to_vec());
    }
    Ok(request::command(&words.iter().map(Vec::as_slice).collect::<Vec<&[u8]>>()))
}

/// Returns whether a line begins like a request of HTTP or like its second line, or ends like a request: the method may be any
/// word, and a page can choose `PUBLISH`. GET is a command of Redis, but not one that we know.
fn is_http(line: &[u8]) -> bool {
    let words: [&[u8]; 5] = [b"POST", b"GET", b"HEAD", b"OPTIONS", b"Host:"];
    let mut parts = line.split(u8::is_ascii_whitespace);
    let first = parts.next().unwrap_or_default();
    let last = parts.next_back().unwrap_or_default();
    let is_version = |word: &[u8]| {
        word.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/"))
            && word[5..].iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
    };
    words.iter().any(|http| http.eq_ignore_ascii_case(first)) || is_version(last)
}

/// Returns whether a line is the first one of a request of HTTP/1.0 or HTTP/1.1, with any method.
pub fn is_request(line: &[u8]) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, _, b"HTTP/1.0\r\n" | b"HTTP/1.1\r\n"] = words[..] else { return false };
    !method.is_empty() && method.iter().all(u8::is_ascii_uppercase)
}

fn take_word(rest: &mut &[u8]) -> Result<Vec<u8>, InputError> {
    let mut word = Vec::new();
    while let [byte, behind @ ..] = *rest
        && !byte.is_ascii_whitespace()
    {
        *rest = behind;
        if !matches!(byte, b'"' | b'\'') {
            word.push(*byte);
            continue;
        }
        take_quoted(rest, *byte, &mut word)?;
        // Redis wants a space here; so `"a"b` is an error, while `a"b"` is `ab`.
        if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
            return Err(unbalanced());
        }
        break;
    }
    Ok(word)
}

/// Takes the rest of a quoted word and the closing quote. Single quotes know one escape, `\'`.
fn take_quoted(rest: &mut &[u8], quote: u8, word: &mut Vec<u8>) -> Result<(), InputError> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    loop {
        let (byte, length) = match **rest {
            [] => return Err(unbalanced()),
            [byte, ..] if byte == quote => {
                *rest = &rest[1..];
                return Ok(());
            }
            [b'\\', b'\'', ..] if quote == b'\'' => (b'\'', 2),
            [b'\\', b'x', high, low, ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (digit(high) << 4 | digit(low), 4)
            }
            [b'\\', b'n', ..] if quote == b'"' => (b'\n', 2),
            [b'\\', b'r', ..] if quote == b'"' => (b'\r', 2),
            [b'\\', b't', ..] if quote == b'"' => (b'\t', 2),
            [b'\\', b'b', ..] if quote == b'"' => (0x08, 2),
            [b'\\', b'a', ..] if quote == b'"' => (0x07, 2),
            [b'\\', byte, ..] if quote == b'"' => (byte, 2),
            [byte, ..] => (byte, 1),
        };
        word.push(byte);
        *rest = &rest[length..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use crate::engine::redis::resp;

    /// The words behind the name of a command.
    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, InputError> {
        let array = to_array(&[b"DO ", line].concat())?;
        let bulks = resp::bulks(&array).expect("it is an array").skip(1);
        Ok(bulks.map(|range| array[range].to_vec()).collect())
    }

    #[test]
    fn quotes_mean_what_they_mean_to_redis() {
        let cases: [(&[u8], &[&[u8]]); 10] = [
            (b"", &[]),
            (b"  \t ", &[]),
            (b"PING", &[b"PING"]),
            (b" PUBLISH  news\thi ", &[b"PUBLISH", b"news", b"hi"]),
            (b"a \"b c\" 'd e'", &[b"a", b"b c", b"d e"]),
            (br#""\n\r\t\b\a\\\"\q""#, &[b"\n\r\t\x08\x07\\\"q"]),
            (br#""\x00\xfF\xg0""#, &[b"\0\xffxg0"]),
            (br"'\n\''", &[br"\n'"]),
            (b"a\"b c\" d", &[b"ab c", b"d"]),
            (b"\"\" ''", &[b"", b""]),
        ];
        for (line, expected) in cases {
            assert_eq!(words(line), Ok(expected.iter().map(|word| word.to_vec()).collect()));
        }
        for line in ["\"a", "'a", "\"a\"b", "'a'b", "\"a\\", "a\"", "\"a\"\"b\""] {
            assert_eq!(words(line.as_bytes()), Err(unbalanced()), "{line}");
        }
    }

    #[test]
    fn a_request_of_a_browser_is_known_by_its_first_word_or_its_last() {
        for line in [
            "POST / HTTP/1.1",
            "get /",
            "HEAD /",
            "OPTIONS *",
            "Host: 127.0.0.1:6380",
            "PUBLISH /x HTTP/1.1\r\n",
            "publish /x http/1.0",
            "PRI * HTTP/2.0",
            "PUBLISH \"/x HTTP/1.1",
        ] {
            assert_eq!(to_array(line.as_bytes()), Err(InputError::Http), "{line}");
        }
        assert!(to_array(b"PUBLISH POST GET").is_ok());
        assert!(to_array(b"PUBLISH news HTTP/x").is_ok());
    }

    #[test]
    fn only_the_first_line_of_a_connection_begins_http() {
        let line: &[u8] = b"POST /publish/pub.news HTTP/1.1\r\n";
        for cut in 0..line.len() {
            let mut reader = CommandReader::new();
            let (mut first, mut second) = line.split_at(cut);
            assert_eq!(reader.next(&mut first, 1000).unwrap_or(None), None);
            let request = Err(InputError::Request(line.to_vec()));
            assert_eq!(reader.next(&mut second, 1000), request, "cut at {cut}");
        }
        for before in [&b"\r\n"[..], b"PING\r\n", b"*1\r\n$4\r\nPING\r\n"] {
            let (mut reader, mut input) = (CommandReader::new(), before);
            assert!(matches!(reader.next(&mut input, 1000), Ok(Some(_))));
            assert_eq!(reader.next(&mut { line }, 1000), Err(InputError::Http));
        }
        for other in ["POST /publish/pub.news HTTP/1.1\n", "post / HTTP/1.1\r\n", " / HTTP/1.1\r\n"]
        {
            let mut reader = CommandReader::new();
            assert_eq!(reader.next(&mut other.as_bytes(), 1000), Err(InputError::Http), "{other}");
        }
    }

    #[test]
    fn a_line_that_nobody_typed_is_no_command() {
        for line in [
            &b"\x16\x03\x01"[..],
            b"PUBLISH a\0b c",
            b"PUBLISH a \x1b[2J",
            b"PUBLISH a b\x7f",
            b"PING\rPING",
            b"\xff\xfe\x80",
            b"\xc3\xa9 a",
            b"User-Agent: curl",
            b"SSH-2.0-OpenSSH",
        ] {
            assert_eq!(to_array(line), Err(no_command()), "{line:?}");
        }
        assert!(to_array("PUBLISH a é\r\n".as_bytes()).is_ok());
    }

    #[test]
    fn a_quoted_word_comes_back_whatever_it_holds() {
        for seed in 1..5000 {
            let mut random = Random::new(seed);
            let mut expected = Vec::new();
            let mut line = Vec::new();
            for _ in 0..random.below(5) {
                let length = random.below(6);
                let word: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                line.push(b'"');
                line.extend(word.iter().flat_map(|byte| format!("\\x{byte:02x}").into_bytes()));
                line.extend_from_slice(b"\" ");
                expected.push(word);
            }
            assert_eq!(words(&line), Ok(expected), "seed {seed}");
            // And no line at all panics.
            let noise: Vec<u8> = (0..20).map(|_| random.choose(b"a \"'\\x0n")).collect();
            let _ = words(&noise);
        }
    }
}
