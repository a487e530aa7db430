//! The replies of the port, in either version of RESP.

use std::borrow::Cow;

use crate::engine::redis::resp;
use PortReply::{Array, Bulk, Encoded, Integer, Map, Null, NullArray, Push, Receivers, Simple};

/// A reply to a command.
pub enum PortReply {
    Simple(&'static str),
    Integer(i64),
    /// The number of receivers of a message: those here, and those that are counted elsewhere under the second number.
    Receivers(usize, u64),
    Bulk(Vec<u8>),
    Null,
    /// Null in place of an array.
    NullArray,
    Array(Vec<PortReply>),
    /// In RESP2 an array of twice as many elements.
    Map(Vec<(&'static str, PortReply)>),
    /// In RESP2 an array.
    Push(Vec<PortReply>),
    /// Replies as they go to the peer, or none at all.
    Encoded(Vec<u8>),
}

/// An error. It begins with its code, as in `ERR syntax error`.
pub type ErrorText = Cow<'static, str>;

pub type CommandResult = Result<PortReply, ErrorText>;

pub const OK: CommandResult = Ok(Simple("OK"));

/// Returns a reply of text.
pub fn text(text: impl Into<String>) -> PortReply {
    Bulk(text.into().into_bytes())
}

/// Encodes a result behind `output`.
pub fn write(output: &mut Vec<u8>, result: &CommandResult, is_resp3: bool) {
    match result {
        Ok(reply) => reply.write(output, is_resp3),
        Err(text) => resp::write_error(output, text),
    }
}

impl PortReply {
    /// Encodes the reply behind `output`.
    pub fn write(&self, output: &mut Vec<u8>, is_resp3: bool) {
        match self {
            Simple(text) => resp::write_simple(output, text),
            Integer(number) => resp::write_integer(output, *number),
            Receivers(here, _) => resp::write_integer(output, *here as i64),
            Bulk(bytes) => resp::write_bulk(output, bytes),
            Encoded(bytes) => output.extend_from_slice(bytes),
            Null | NullArray if is_resp3 => output.extend_from_slice(b"_\r\n"),
            Null => output.extend_from_slice(b"$-1\r\n"),
            NullArray => output.extend_from_slice(b"*-1\r\n"),
            Map(pairs) => {
                let (kind, count) = if is_resp3 { ('%', 1) } else { ('*', 2) };
                resp::write_line(output, kind, count * pairs.len());
                for (key, value) in pairs {
                    resp::write_bulk(output, key.as_bytes());
                    value.write(output, is_resp3);
                }
            }
            Array(elements) | Push(elements) => {
                let is_push = is_resp3 && matches!(self, Push(_));
                resp::write_line(output, if is_push { '>' } else { '*' }, elements.len());
                elements.iter().for_each(|element| element.write(output, is_resp3));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_what_the_redis_crate_reads() {
        let mut out = Vec::new();
        let list = || Array(vec![Simple("fine"), Integer(7), NullArray]);
        Map(vec![("key", list())]).write(&mut out, true);
        let value = redis::parse_redis_value(&out).expect("it is RESP");
        let expected = vec![
            redis::Value::SimpleString("fine".into()),
            redis::Value::Int(7),
            redis::Value::Nil,
        ];
        let key = redis::Value::BulkString(b"key".to_vec());
        assert_eq!(value, redis::Value::Map(vec![(key, redis::Value::Array(expected))]));
        out.clear();
        write(&mut out, &Err("ERR no".into()), false);
        for reply in [Null, NullArray, Push(vec![Null]), Map(vec![("key", Null)])] {
            reply.write(&mut out, false);
            reply.write(&mut out, true);
        }
        let expected: &[u8] = b"-ERR no\r\n$-1\r\n_\r\n*-1\r\n_\r\n*1\r\n$-1\r\n>1\r\n_\r\n\
            *2\r\n$3\r\nkey\r\n$-1\r\n%1\r\n$3\r\nkey\r\n_\r\n";
        assert_eq!(out, expected);
    }
}
