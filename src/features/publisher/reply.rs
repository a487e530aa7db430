//! The replies of the port, in either version of RESP.

use std::borrow::Cow;

use crate::engine::redis::resp;
use PortReply::{Array, Bulk, Encoded, Integer, Map, Null, NullArray, Push, Simple};

/// A reply to a command.
pub enum PortReply {
    Simple(&'static str),
    Integer(i64),
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
        let elements = match self {
            Simple(text) => return resp::write_simple(output, text),
            Integer(number) => return resp::write_integer(output, *number),
            Bulk(bytes) => return resp::write_bulk(output, bytes),
            Null => return resp::write_null(output, is_resp3),
            NullArray => return resp::write_null_array(output, is_resp3),
            Encoded(bytes) => return output.extend_from_slice(bytes),
            Map(pairs) => {
                resp::write_map(output, pairs.len(), is_resp3);
                for (key, value) in pairs {
                    resp::write_bulk(output, key.as_bytes());
                    value.write(output, is_resp3);
                }
                return;
            }
            Array(elements) => {
                resp::write_array(output, elements.len());
                elements
            }
            Push(elements) => {
                resp::write_push(output, elements.len(), is_resp3);
                elements
            }
        };
        elements.iter().for_each(|element| element.write(output, is_resp3));
    }
}
