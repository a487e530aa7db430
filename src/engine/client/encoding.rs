//! The encodings in which clients receive messages.

use crate::engine::client::event_stream::events;
use crate::engine::client::frame::{Frame, TWINS};

/// The form in which a client receives each frame. Its bytes are made once, and shared by all clients with the same encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The frame as it is.
    WebSocket,
    /// Server-sent events, each frame in a chunk of its own (RFC 9112 section 7.1).
    EventStream,
    /// The same without chunks, up to the end of the connection: HTTP/1.0 knows none.
    UnchunkedEventStream,
    /// Messages compressed (RFC 7692), if they are worth it.
    Deflated,
}

impl Encoding {
    /// All encodings, in the order of their declaration.
    pub const ALL: [Encoding; TWINS + 1] = [
        Encoding::WebSocket,
        Encoding::EventStream,
        Encoding::UnchunkedEventStream,
        Encoding::Deflated,
    ];

    /// The frame in this encoding.
    pub fn of(self, frame: &Frame) -> &Frame {
        match self {
            Encoding::WebSocket => frame,
            Encoding::EventStream => frame.twin(0, |frame| events::encode(frame, true)),
            Encoding::UnchunkedEventStream => frame.twin(1, |frame| events::encode(frame, false)),
            Encoding::Deflated => match frame.deflater() {
                Some(deflater) => frame.twin(2, |frame| deflater.deflate(frame.as_bytes())),
                None => frame,
            },
        }
    }

    /// Returns whether the client receives only: it answers neither pings nor the close, and sends no message.
    pub fn is_one_way(self) -> bool {
        matches!(self, Encoding::EventStream | Encoding::UnchunkedEventStream)
    }
}
