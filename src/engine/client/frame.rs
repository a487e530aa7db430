//! Bytes on their way to clients: encoded once, shared by everyone they go to.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::ops::Range;
use std::rc::Rc;

use crate::engine::client::deflate::deflater::Deflater;
use crate::engine::client::delivery_count::DeliveryCount;
use crate::engine::pubsub::topic::Subject;
use crate::engine::resume::history::hash_of;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The longest reason a close frame may carry, in bytes (RFC 6455 section 5.5: 125 less the code).
pub const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Why a connection is ended by the server (RFC 6455 section 7.4; 4000-4999 are oneloop's own).
///
/// A client comes back after 4000 to 4499 and stays away after 4500 to 4999.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The status code.
    pub code: u16,
    /// JSON of at most [`CLOSE_REASON_BYTES_MAX`] bytes, or nothing; what is longer is not sent.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// The server is draining.
    pub const GOING_AWAY: Close = Close::plain(1001);
    /// The client broke the WebSocket protocol.
    pub const PROTOCOL: Close = Close::told(
        1002,
        r#"{"reason":"protocol","detail":"no frames of RFC 6455: mask them, use no extension, no unknown opcode"}"#,
    );
    /// A binary message, where only text is spoken.
    pub const UNSUPPORTED: Close = Close::told(
        1003,
        r#"{"reason":"binary","detail":"send text frames: commands are JSON in text, binary frames are not read"}"#,
    );
    /// Text that is not UTF-8.
    pub const INVALID: Close =
        Close::told(1007, r#"{"reason":"utf8","detail":"a text frame that is not UTF-8"}"#);
    /// A compressed message that is not DEFLATE.
    pub const NOT_INFLATED: Close = Close::told(
        1007,
        r#"{"reason":"deflate","detail":"a compressed message that cannot be inflated, or in too many blocks"}"#,
    );
    /// Too many fragments in one message.
    pub const POLICY: Close = Close::told(
        1008,
        r#"{"reason":"fragments","detail":"a message of more fragments than fragments_max: send it in one frame"}"#,
    );
    /// A message above `message_bytes_max`.
    pub const TOO_BIG: Close =
        Close::told(1009, r#"{"reason":"too_big","detail":"a message above message_bytes_max"}"#);
    /// The client reads too slowly: its backlog hit its bound, `stalled_seconds` are over, or it is among the deepest backlogs
    /// above `backlog_total_bytes_max`.
    pub const SLOW: Close = Close::told(
        4000,
        r#"{"reason":"slow","detail":"read faster, or listen to less; come back with since"}"#,
    );
    /// Nothing was heard for `silence_seconds`.
    pub const SILENT: Close = Close::told(
        4001,
        r#"{"reason":"silent","detail":"nothing was heard for silence_seconds: answer pings, or send the text ping"}"#,
    );
    /// The token's `exp` has passed.
    pub const EXPIRED: Close = Close::told(
        4002,
        r#"{"reason":"expired","detail":"exp has passed: come back with a fresh token"}"#,
    );
    /// A limit of the server was hit.
    pub const BUSY: Close = Close::plain(4003);
    /// The token is not valid yet: a clock is ahead of ours.
    pub const EARLY: Close = Close::plain(4004);
    /// The token is refused.
    pub const BAD_TOKEN: Close = Close::plain(4500);
    /// A back end has revoked the token of an open connection.
    pub const REVOKED: Close = Close::told(
        4500,
        r#"{"reason":"revoked","detail":"a back end has revoked the token: sign in again"}"#,
    );
    /// No token came in time.
    pub const NO_TOKEN: Close = Close::plain(4501);
    /// Not JSON, no known `op`, wrong types.
    pub const BAD_COMMAND: Close = Close::plain(4502);
    /// A newer connection of the same user took over.
    pub const REPLACED: Close = Close::told(
        4503,
        r#"{"reason":"replaced","detail":"a newer connection of the same user took over (single_session)"}"#,
    );
    /// A back end wants it closed. Its words are the reason, if it gave any.
    pub const KICKED: Close = Close::plain(4504);
    /// A page of this origin may not connect.
    pub const ORIGIN: Close = Close::plain(4505);

    /// A code alone.
    pub const fn plain(code: u16) -> Close {
        Close::told(code, "")
    }

    /// A code with its usual reason.
    const fn told(code: u16, reason: &'static str) -> Close {
        assert!(reason.len() <= CLOSE_REASON_BYTES_MAX);
        Close { code, reason: Cow::Borrowed(reason) }
    }

    /// The same code with the reason `{"retry":ms}`: when the client is to come back.
    pub fn retry_after(self, millis: u64) -> Close {
        self.because(format!("{{\"retry\":{millis}}}"))
    }

    /// A bound of the server was hit; `detail` names it. The client is to come back after `retry_millis`.
    pub fn busy(retry_millis: u64, detail: &'static str) -> Close {
        let reason = format!(r#"{{"retry":{retry_millis},"reason":"busy","detail":"{detail}"}}"#);
        Close::BUSY.because(reason)
    }

    /// The pause that the reason asks for, in milliseconds.
    pub fn retry_millis(&self) -> Option<u64> {
        let rest = self.reason.strip_prefix("{\"retry\":")?;
        let end = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    }

    /// The same code with a reason.
    pub fn because(self, reason: impl Into<Cow<'static, str>>) -> Close {
        Close { code: self.code, reason: reason.into() }
    }
}

/// Returns what `write` makes of as much of the words as a close frame has room for.
pub fn fit_reason(words: &str, write: impl Fn(&str) -> String) -> String {
    // Each character takes at least its own bytes, so what begins beyond the limit cannot stay.
    let ends = words.char_indices().map(|(at, _)| at).take_while(|at| *at < CLOSE_REASON_BYTES_MAX);
    let ends: Vec<usize> =
        ends.chain((words.len() <= CLOSE_REASON_BYTES_MAX).then_some(words.len())).collect();
    ends.iter()
        .rev()
        .map(|end| write(&words[..*end]))
        .find(|text| text.len() <= CLOSE_REASON_BYTES_MAX)
        .expect("what stands around the words fits alone")
}

/// The number of encodings besides that of WebSockets: see [`Frame::twin`].
pub const TWINS: usize = 3;

/// Bytes ready to be written to a socket: a WebSocket frame, or several, or an HTTP response. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Frame(Rc<Encoded>);

#[derive(Debug)]
struct Encoded {
    bytes: Vec<u8>,
    /// The start of the frame: its header is written last, into room left for the longest one.
    start: usize,
    /// Which message it is, where one may take another's place.
    message: Option<MessageTag>,
    /// Counts the deliveries, if a feature wants to know.
    delivery_count: Option<Rc<DeliveryCount>>,
    /// The place of the message's cursor among the bytes; empty: it has none.
    cursor: Range<u32>,
    /// Makes the compressed twin, if the message is worth it.
    deflater: Option<Rc<Deflater>>,
    /// The same message in other encodings.
    twins: [OnceCell<Frame>; TWINS],
}

thread_local! {
    /// See [`frames_bytes`].
    static FRAMES_BYTES: Cell<usize> = const { Cell::new(0) };
    /// See [`frames_len`].
    static FRAMES: Cell<usize> = const { Cell::new(0) };
}

/// The overhead of a frame besides its bytes: itself, its two counts, and what the allocator puts before its two blocks.
const FRAME_BYTES: usize = size_of::<Encoded>() + 2 * size_of::<usize>() + 2 * 16;

/// Bytes of all frames on this thread, each counted once. They are counted where a frame is made and dropped:
/// nobody who holds one can forget to.
pub fn frames_bytes() -> usize {
    FRAMES_BYTES.get()
}

/// Returns the number of these frames.
pub fn frames_len() -> usize {
    FRAMES.get()
}

impl Encoded {
    fn new(bytes: Vec<u8>, start: usize) -> Encoded {
        FRAMES.set(FRAMES.get() + 1);
        FRAMES_BYTES.set(FRAMES_BYTES.get() + bytes.capacity() + FRAME_BYTES);
        let twins = [const { OnceCell::new() }; TWINS];
        Encoded {
            bytes,
            start,
            message: None,
            delivery_count: None,
            cursor: 0..0,
            deflater: None,
            twins,
        }
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        FRAMES.set(FRAMES.get() - 1);
        FRAMES_BYTES.set(FRAMES_BYTES.get() - self.bytes.capacity() - FRAME_BYTES);
    }
}

/// The part of a frame that a backlog which drops messages looks at: see [`crate::engine::client::outbox::Slow`].
#[derive(Clone, Debug)]
pub struct MessageTag {
    /// Its topic.
    pub topic: Box<str>,
    /// Its key, if it has one.
    pub key: Option<Box<str>>,
    /// A hash of the topic and the key.
    pub hash: u32,
    /// The cursor of the message before it.
    pub before: Box<str>,
}

/// The longest header that a server writes: two bytes, and eight for the length (RFC 6455 section 5.2).
const HEADER_BYTES_MAX: usize = 10;

impl Frame {
    /// A text message.
    pub fn text(text: &str) -> Frame {
        Frame::encode(OpCode::Data(Data::Text), text.as_bytes())
    }

    /// A text message of JSON, which is UTF-8 by what makes it: `write` appends it, about `length` bytes.
    pub fn json(length: usize, write: impl FnOnce(&mut Vec<u8>)) -> Frame {
        Frame::build(OpCode::Data(Data::Text), length, write)
    }

    /// A binary message.
    pub fn binary(bytes: &[u8]) -> Frame {
        Frame::encode(OpCode::Data(Data::Binary), bytes)
    }

    /// Encodes UTF-8 as a text message, anything else as a binary one: a text frame that is not UTF-8 would end
    /// the connection of every client that checks (RFC 6455 section 8.1).
    pub fn message(bytes: &[u8]) -> Frame {
        match std::str::from_utf8(bytes) {
            Ok(text) => Frame::text(text),
            Err(_) => Frame::binary(bytes),
        }
    }

    /// A ping without a payload (RFC 6455 section 5.5.2).
    pub fn ping() -> Frame {
        Frame::encode(OpCode::Control(Control::Ping), b"")
    }

    /// The ping of a client that receives only: it tells the cursor of everything that the client was sent.
    pub fn heartbeat(cursor: &str) -> Frame {
        let ping = Frame::encode(OpCode::Control(Control::Ping), cursor.as_bytes());
        ping.with_cursor_at(0..cursor.len())
    }

    /// A close frame (RFC 6455 section 5.5.1).
    pub fn close(close: &Close) -> Frame {
        let mut payload = close.code.to_be_bytes().to_vec();
        if close.reason.len() <= CLOSE_REASON_BYTES_MAX {
            payload.extend_from_slice(close.reason.as_bytes());
        }
        Frame::encode(OpCode::Control(Control::Close), &payload)
    }

    /// Bytes that are framed already.
    pub fn ready(bytes: Vec<u8>) -> Frame {
        Frame(Rc::new(Encoded::new(bytes, 0)))
    }

    fn encode(opcode: OpCode, payload: &[u8]) -> Frame {
        Frame::build(opcode, payload.len(), |bytes| bytes.extend_from_slice(payload))
    }

    /// The payload is written where it stays: a large one is held once.
    fn build(opcode: OpCode, length: usize, write: impl FnOnce(&mut Vec<u8>)) -> Frame {
        let mut bytes = Vec::with_capacity(HEADER_BYTES_MAX + length);
        bytes.resize(HEADER_BYTES_MAX, 0);
        write(&mut bytes);
        if bytes.capacity() > bytes.len() + bytes.len() / 8 + HEADER_BYTES_MAX {
            // A payload that had to be escaped was longer than expected, and the buffer doubled.
            bytes.shrink_to_fit();
        }
        let length = (bytes.len() - HEADER_BYTES_MAX) as u64;
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        let start = HEADER_BYTES_MAX - header.len(length);
        let place = &mut &mut bytes[start..HEADER_BYTES_MAX];
        header.format(length, place).expect("there is room for every header");
        debug_assert!(
            opcode != OpCode::Data(Data::Text)
                || std::str::from_utf8(&bytes[HEADER_BYTES_MAX..]).is_ok(),
            "text is UTF-8"
        );
        Frame(Rc::new(Encoded::new(bytes, start)))
    }

    /// The same frame with the topic and key of its message, and the cursor of the one before. It may not be shared yet.
    pub fn about<'s>(mut self, subject: impl Into<Subject<'s>>, before: &str) -> Frame {
        if let Some(encoded) = Rc::get_mut(&mut self.0) {
            let Subject { topic, key } = subject.into();
            let hash = hash_of(topic) ^ key.map_or(0, |key| hash_of(key).rotate_left(1));
            let (topic, key, before) = (topic.into(), key.map(Box::from), before.into());
            encoded.message = Some(MessageTag { topic, key, hash, before });
        }
        self
    }

    /// The same frame, which tells the place of its message's cursor in its payload. It may not be shared yet.
    pub fn with_cursor_at(mut self, place: Range<usize>) -> Frame {
        if let Some(encoded) = Rc::get_mut(&mut self.0) {
            let [start, end] = [place.start, place.end].map(|at| (HEADER_BYTES_MAX + at) as u32);
            debug_assert!(
                end as usize <= encoded.bytes.len(),
                "the cursor is a part of the payload"
            );
            encoded.cursor = start..end;
        }
        self
    }

    /// The message's cursor, if it has one.
    pub fn cursor(&self) -> Option<&[u8]> {
        let Range { start, end } = self.0.cursor;
        (start < end).then(|| &self.0.bytes[start as usize..end as usize])
    }

    /// The same message in another encoding, which `encode` makes when the first client needs it: all others share it.
    pub fn twin(&self, number: usize, encode: impl FnOnce(&Frame) -> Vec<u8>) -> &Frame {
        self.0.twins[number].get_or_init(|| {
            let mut twin = Encoded::new(encode(self), 0);
            twin.message.clone_from(&self.0.message);
            twin.delivery_count.clone_from(&self.0.delivery_count);
            Frame(Rc::new(twin))
        })
    }

    /// The same frame, to be compressed for clients that negotiated it. It may not be shared yet.
    pub fn deflated_by(mut self, deflater: &Rc<Deflater>) -> Frame {
        if let Some(encoded) = Rc::get_mut(&mut self.0) {
            encoded.deflater = Some(Rc::clone(deflater));
        }
        self
    }

    /// Compresses the frame, if it is to be.
    pub fn deflater(&self) -> Option<&Deflater> {
        self.0.deflater.as_deref()
    }

    /// The same frame with a counter for its deliveries. A shared one is copied.
    pub fn counted_by(self, count: Rc<DeliveryCount>) -> Frame {
        let mut frame = self;
        if Rc::get_mut(&mut frame.0).is_none() {
            let mut copy = Encoded::new(frame.0.bytes.clone(), frame.0.start);
            copy.cursor = frame.0.cursor.clone();
            frame = Frame(Rc::new(copy));
        }
        if let Some(encoded) = Rc::get_mut(&mut frame.0) {
            encoded.delivery_count = Some(count);
        }
        frame
    }

    /// The counter of its deliveries, if they are counted.
    pub fn delivery_count(&self) -> Option<&Rc<DeliveryCount>> {
        self.0.delivery_count.as_ref()
    }

    /// Which message it is, if it says so.
    pub fn about_message(&self) -> Option<&MessageTag> {
        self.0.message.as_ref()
    }

    /// The place in memory, which tells frames apart.
    pub fn address(&self) -> usize {
        Rc::as_ptr(&self.0) as usize
    }

    /// Returns whether both are the same frame, not merely equal.
    pub fn is(&self, other: &Frame) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// The bytes that go on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.bytes[self.0.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_rfc_6455_shows() {
        assert_eq!(Frame::text("Hello").as_bytes(), [0x81, 5, b'H', b'e', b'l', b'l', b'o']);
        assert_eq!(Frame::ping().as_bytes(), [0x89, 0]);
        assert_eq!(Frame::close(&Close::plain(4000)).as_bytes(), [0x88, 2, 0x0f, 0xa0]);
        assert_eq!(Frame::binary(&[0; 126]).as_bytes()[..4], [0x82, 126, 0, 126]);
        assert_eq!(
            Frame::binary(&[0; 65536]).as_bytes()[..10],
            [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }

    #[test]
    fn the_bytes_of_a_frame_are_counted_once_until_nobody_holds_it() {
        let before = frames_bytes();
        let frame = Frame::text(&"x".repeat(1000));
        let counted = frames_bytes() - before;
        assert!(counted >= 1004);
        let shared = frame.clone();
        assert_eq!(frames_bytes() - before, counted);
        drop(frame);
        assert_eq!(frames_bytes() - before, counted);
        drop(shared);
        assert_eq!(frames_bytes(), before);
    }

    #[test]
    fn a_twin_is_made_once_and_is_about_the_same_message() {
        let count = Rc::<DeliveryCount>::default();
        let frame = Frame::text("one").about("news", "b").counted_by(Rc::clone(&count));
        let made = Cell::new(0);
        let twin = |frame: &Frame| {
            let encode = |_: &Frame| {
                made.set(made.get() + 1);
                b"1".to_vec()
            };
            frame.twin(0, encode).clone()
        };
        let before = frames_len();
        let (first, second) = (twin(&frame), twin(&frame.clone()));
        assert!(first.is(&second) && !first.is(&frame));
        assert_eq!((made.get(), frames_len() - before, first.as_bytes()), (1, 1, &b"1"[..]));
        assert_eq!(first.about_message().map(|message| &*message.topic), Some("news"));
        assert!(first.delivery_count().is_some_and(|counter| Rc::ptr_eq(counter, &count)));
        assert_eq!(frame.twin(1, |_| b"2".to_vec()).as_bytes(), b"2");
        drop((first, second, frame));
        assert_eq!(frames_len(), before - 1, "a twin lives as long as its frame");
    }

    #[test]
    fn a_frame_tells_its_cursor_and_so_does_a_copy_that_is_counted() {
        let frame = Frame::text(r#"{"id":"abc"}"#).with_cursor_at(7..10);
        assert_eq!(frame.cursor(), Some(&b"abc"[..]));
        let copy = frame.clone().counted_by(Rc::default());
        assert!(!copy.is(&frame) && copy.as_bytes() == frame.as_bytes());
        assert_eq!(copy.cursor(), Some(&b"abc"[..]));
        assert_eq!(Frame::text("x").cursor(), None);
    }

    #[test]
    fn bytes_that_are_not_text_are_never_a_text_frame() {
        assert_eq!(Frame::message(b"\xff\xfe").as_bytes()[0], 0x82);
        assert_eq!(Frame::message("é".as_bytes()).as_bytes()[0], 0x81);
    }

    #[test]
    fn a_retry_is_json() {
        assert_eq!(Close::BUSY.retry_after(1500).reason, r#"{"retry":1500}"#);
        assert_eq!(Close::busy(1500, "why").retry_millis(), Some(1500));
        for reason in ["", "words", "{\"retry\":}", "{\"retry\":99999999999999999999}"] {
            assert_eq!(Close::BUSY.because(reason).retry_millis(), None, "{reason}");
        }
    }

    #[test]
    fn a_reason_that_is_too_long_is_left_out() {
        let close = Close::BUSY.because("x".repeat(CLOSE_REASON_BYTES_MAX + 1));
        assert_eq!(Frame::close(&close).as_bytes().len(), 4);
    }
}
