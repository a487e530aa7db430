//! Frames from clients, decoded by one tungstenite context that all clients share.
//!
//! After a complete frame a context is clean again, so every connection can use this one, and an idle connection owns none.
//! tungstenite's header parser finds the end of a frame; a partial frame waits in the connection's flight, and a fragmented
//! message has its own context until its last fragment. A compressed message is given to a context as a binary one, and inflated
//! when it is whole.

use std::io::{self, Cursor, ErrorKind, Read, Write};

use tungstenite::Bytes;
use tungstenite::error::Error;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{FrameHeader, Utf8Bytes};
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use crate::engine::client::deflate::inflater::{InflateFault, Inflater};
use crate::engine::client::frame::Close;

/// The longest payload of a control frame, in bytes (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// The bit of a frame's first byte that ends a message, and the opcode of a binary one (RFC 6455 section 5.2).
const FINAL: u8 = 0x80;
const BINARY: u8 = 0x02;

/// A shared context above this size is replaced, so that one large message does not stay in memory.
const CONTEXT_BYTES_MAX: usize = 64 * 1024;

/// The content of a decoded frame.
#[derive(Debug)]
pub enum Inbound {
    /// A complete text message.
    Text(Utf8Bytes),
    /// A complete binary message.
    Binary(Bytes),
    /// A close frame; the answer is among the replies.
    Close,
    /// The peer broke the protocol or exceeded a bound: the connection ends with this close frame.
    Violation(Close),
    /// The same by its own close frame, behind which it sends no other.
    BrokenClose(Close),
}

/// Bounds on the messages of a client.
#[derive(Clone, Copy, Debug)]
pub struct InboundBounds {
    pub message_bytes_max: usize,

    pub fragments_max: u32,
}

/// A fragmented message that is still incomplete.
#[derive(Debug)]
pub struct Fragments {
    context: WebSocketContext,
    count: u32,
    bytes: u64,
    /// The kind of the message, if it is compressed.
    deflated: Option<Data>,
}

impl Fragments {
    /// Bytes of memory that the fragments use: their buffer grows by doubling.
    pub fn held_bytes(&self) -> usize {
        size_of::<Fragments>() + (self.bytes as usize).next_power_of_two()
    }
}

/// Returns whether a client's bytes end with a masked close frame (RFC 6455 section 5.5.1), the last frame that a client sends.
/// This finds the answer to our close frame without keeping any state: after a protocol error or a dropped partial frame, the
/// start of the next frame is unknown. A client whose data happens to look like a close frame ends its own connection a moment
/// early.
pub fn ends_with_close(bytes: &[u8]) -> bool {
    let lengths = std::iter::once(0).chain(2..=CONTROL_BYTES_MAX as usize);
    lengths
        .map_while(|length| bytes.len().checked_sub(length + 6).map(|at| (at, length)))
        .any(|(at, length)| bytes[at] == 0x88 && usize::from(bytes[at + 1]) == 0x80 | length)
}

/// The loop's decoder.
pub struct Codec {
    bounds: InboundBounds,
    context: WebSocketContext,
    replies: Vec<u8>,
    inflater: Inflater,
}

/// A frame for a context to read, and a buffer for its answer.
struct Feed<'a> {
    /// Read in place of the frame's first byte.
    first: Option<u8>,
    frame: &'a [u8],
    replies: &'a mut Vec<u8>,
}

impl Read for Feed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.frame.read(buffer)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            length => {
                self.first.take().into_iter().for_each(|first| buffer[0] = first);
                Ok(length)
            }
        }
    }
}

impl Write for Feed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.replies.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Codec {
    /// A decoder with these bounds.
    pub fn new(bounds: InboundBounds) -> Codec {
        let (context, replies) = (context(&bounds, 4096), Vec::new());
        Codec { bounds, context, replies, inflater: Inflater::default() }
    }

    /// Takes the pongs and close frames that answer a client's input, once its batch is done.
    pub fn take_replies(&mut self) -> Option<Vec<u8>> {
        (!self.replies.is_empty()).then(|| std::mem::take(&mut self.replies))
    }

    /// Takes the price of the messages that were inflated since the last call, in bytes read.
    pub fn take_costs(&mut self) -> usize {
        self.inflater.take_costs()
    }

    /// Decodes frames from `input` until one yields an [`Inbound`]; `None` if the rest is not a complete frame. `takes_deflated`: the
    /// client negotiated permessage-deflate.
    pub fn next(
        &mut self,
        input: &mut &[u8],
        fragments: &mut Option<Box<Fragments>>,
        takes_deflated: bool,
    ) -> Option<Inbound> {
        loop {
            let mut cursor = Cursor::new(*input);
            let (header, length) = match FrameHeader::parse(&mut cursor) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => return None,
                Err(_) => return Some(Inbound::Violation(Close::PROTOCOL)),
            };
            let violation = match header.opcode {
                OpCode::Control(Control::Close) => Inbound::BrokenClose,
                _ => Inbound::Violation,
            };
            // RFC 7692 section 6: the bit stands on the first frame of a message.
            let deflated = deflated(&header);
            if header.rsv1 && (deflated.is_none() || !takes_deflated) {
                return Some(violation(Close::PROTOCOL));
            }
            if let Err(close) = self.admit(&header, length, fragments.as_deref_mut()) {
                return Some(violation(close));
            }
            let length = usize::try_from(length).expect("a frame within the bound fits");
            let end = cursor.position() as usize + length;
            if input.len() < end {
                return None;
            }
            let (frame, rest) = input.split_at(end);
            *input = rest;
            match self.decode(frame, &header, length, fragments) {
                Some(Inbound::Violation(close)) => return Some(violation(close)),
                Some(inbound) => return Some(inbound),
                None => {}
            }
        }
    }

    /// Checks a frame by its header, before any of its payload is kept.
    fn admit(
        &self,
        header: &FrameHeader,
        length: u64,
        fragments: Option<&mut Fragments>,
    ) -> Result<(), Close> {
        if header.rsv2 || header.rsv3 || header.mask.is_none() {
            return Err(Close::PROTOCOL);
        }
        let OpCode::Data(data) = header.opcode else {
            let legal = header.is_final && length <= CONTROL_BYTES_MAX;
            return if legal { Ok(()) } else { Err(Close::PROTOCOL) };
        };
        let before = match (data, &fragments) {
            (Data::Continue, Some(fragments)) => fragments.bytes,
            (Data::Text | Data::Binary, None) => 0,
            _ => return Err(Close::PROTOCOL),
        };
        if before.saturating_add(length) > self.bounds.message_bytes_max as u64 {
            return Err(Close::TOO_BIG);
        }
        if fragments.is_some_and(|fragments| fragments.count >= self.bounds.fragments_max) {
            return Err(Close::POLICY);
        }
        Ok(())
    }

    fn decode(
        &mut self,
        frame: &[u8],
        header: &FrameHeader,
        length: usize,
        fragments: &mut Option<Box<Fragments>>,
    ) -> Option<Inbound> {
        let is_data = matches!(header.opcode, OpCode::Data(_));
        let is_fragment = is_data && (fragments.is_some() || !header.is_final);
        let deflated = deflated(header);
        let first = deflated.map(|_| frame[0] & FINAL | BINARY);
        let mut feed = Feed { first, frame, replies: &mut self.replies };
        if !is_fragment {
            let message = self.context.read(&mut feed);
            let inbound = settle(&mut self.context, feed, message);
            let inbound = self.inflate(inbound, deflated);
            if !self.context.can_write() || length > CONTEXT_BYTES_MAX || is_violation(&inbound) {
                self.context = context(&self.bounds, 4096);
            }
            return inbound;
        }
        let own = fragments.get_or_insert_with(|| {
            let context = context(&self.bounds, 0);
            Box::new(Fragments { context, count: 0, bytes: 0, deflated })
        });
        own.count += 1;
        own.bytes += length as u64;
        let message = own.context.read(&mut feed);
        let inbound = settle(&mut own.context, feed, message);
        let deflated = own.deflated;
        if header.is_final {
            *fragments = None;
        }
        self.inflate(inbound, deflated)
    }

    /// Inflates a whole message of this kind, if it is compressed.
    fn inflate(&mut self, inbound: Option<Inbound>, deflated: Option<Data>) -> Option<Inbound> {
        let (Some(kind), Some(Inbound::Binary(bytes))) = (deflated, &inbound) else {
            return inbound;
        };
        Some(match self.inflater.inflate(bytes, self.bounds.message_bytes_max) {
            Ok(message) if kind == Data::Binary => Inbound::Binary(message.into()),
            Ok(message) => match Utf8Bytes::try_from(message) {
                Ok(text) => Inbound::Text(text),
                Err(_) => Inbound::Violation(Close::INVALID),
            },
            Err(InflateFault::TooLarge) => Inbound::Violation(Close::TOO_BIG),
            Err(InflateFault::Malformed) => Inbound::Violation(Close::NOT_INFLATED),
        })
    }
}

/// The kind of the message that begins with a frame, if it is compressed.
fn deflated(header: &FrameHeader) -> Option<Data> {
    match header.opcode {
        OpCode::Data(kind @ (Data::Text | Data::Binary)) if header.rsv1 => Some(kind),
        _ => None,
    }
}

/// A tungstenite context with the smallest possible buffers.
fn context(bounds: &InboundBounds, read_buffer_size: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(read_buffer_size)
        .write_buffer_size(0)
        .max_message_size(Some(bounds.message_bytes_max))
        .max_frame_size(Some(bounds.message_bytes_max));
    WebSocketContext::new(Role::Server, Some(config))
}

fn is_violation(inbound: &Option<Inbound>) -> bool {
    matches!(inbound, Some(Inbound::Violation(_)))
}

/// Converts the result of reading one frame. Answers are written to the replies.
fn settle(
    context: &mut WebSocketContext,
    mut feed: Feed<'_>,
    message: Result<Message, Error>,
) -> Option<Inbound> {
    match message {
        Ok(Message::Text(text)) => Some(Inbound::Text(text)),
        Ok(Message::Binary(bytes)) => Some(Inbound::Binary(bytes)),
        Ok(Message::Ping(_)) => {
            context.flush(&mut feed).expect("the replies take every pong");
            None
        }
        // tungstenite puts this in the place of a code that must not be sent (RFC 6455 section 7.4.1).
        Ok(Message::Close(Some(close)))
            if close.code == CloseCode::Protocol
                && close.reason.as_str() == "Protocol violation" =>
        {
            Some(Inbound::Violation(Close::PROTOCOL))
        }
        Ok(Message::Close(_)) => {
            // Writing the answer ends the context, which tungstenite reports as an error. The end is intended.
            let _ = context.flush(&mut feed);
            Some(Inbound::Close)
        }
        Ok(Message::Pong(_) | Message::Frame(_)) => None,
        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => None,
        Err(Error::Capacity(_)) => Some(Inbound::Violation(Close::TOO_BIG)),
        Err(Error::Utf8(_)) => Some(Inbound::Violation(Close::INVALID)),
        Err(_) => Some(Inbound::Violation(Close::PROTOCOL)),
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
