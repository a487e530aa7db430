//! The protocol of one PUSH socket that is connected to us, without I/O: ZMTP 3.0 and 3.1 (RFC 23, RFC 37) with the mechanisms NULL
//! and PLAIN (RFC 24). Bytes in, messages and answers out.

use std::borrow::Cow;
use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::admission::password::is_same_password;
use crate::features::zeromq::frames::{
    FrameHeader, FrameReader, ZmtpFrame, command, write_command,
};
use crate::features::zeromq::settings::ZeromqTerms;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter};

/// Parts of one message.
pub const PARTS_MAX: usize = 64;
/// Bytes of the first part of several, the channel.
const CHANNEL_BYTES_MAX: usize = 1024;
/// Bytes of a command; a larger one is passed over.
const COMMAND_BYTES_MAX: usize = 4096;
/// Above this many bytes of answers that the peer has not read, a PING gets none.
const OUTPUT_BYTES_MAX: usize = 1024;
const GREETING_BYTES: usize = 64;
/// The place of the major version, and of the 20 bytes of the mechanism behind both versions.
const VERSION_AT: usize = 10;
const MECHANISM_AT: usize = 12;
/// The time to live of a PING counts tenths of seconds. A context of at most 16 bytes follows.
const TTL_MILLIS: Millis = 100;
const CONTEXT_BYTES_MAX: usize = 16;
/// The one user of PLAIN, as of the publishers' port.
const USER: &[u8] = b"default";

/// The connection's progress.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    /// HELLO, with user and password, comes next.
    Hello,
    /// INITIATE, behind a good password, comes next.
    Initiate,
    /// READY comes next: there is no password.
    Ready,
    /// Messages come.
    Open,
    /// The connection ends once the output is written.
    Over,
}

/// Something that came from the peer.
#[derive(Debug, PartialEq, Eq)]
pub enum PeerEvent<'input> {
    /// The handshake is complete.
    Ready,
    /// A message of two parts or more: the first and the last.
    Message { channel: Cow<'input, [u8]>, payload: Cow<'input, [u8]> },
    /// A message of one part.
    Object(Cow<'input, [u8]>),
    /// A message whose payload is above the limit was passed over.
    Oversized,
    /// A message was passed over for this reason.
    Malformed(&'static str),
    /// The connection ends.
    Failed(Fault),
}

/// The reason why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first bytes are no greeting.
    NotZmtp,
    /// ZMTP 2.0 or older.
    Outdated,
    /// Another mechanism than NULL without a password, or PLAIN with one.
    Mechanism,
    Password,
    /// Another socket than PUSH.
    SocketType,
    /// Frames or commands that RFC 23 does not allow here.
    Protocol,
    /// The peer sent ERROR.
    Refused,
    /// The peer left in the handshake.
    Left,
}

/// The state of one connection. The caller owns the socket. Between two messages it holds no buffer.
pub struct PushPeer {
    terms: Rc<ZeromqTerms>,
    stage: Stage,
    /// The beginning of the peer's greeting.
    greeting: Vec<u8>,
    frames: FrameReader,
    /// Parts so far of the message under way.
    parts: usize,
    /// Its first part, unless that is too long.
    channel: Option<Vec<u8>>,
    /// The bytes for the socket.
    pub output: Vec<u8>,
    /// Silence of so many milliseconds ends the connection, as the peer wants it.
    pub silence: Option<Millis>,
}

impl PushPeer {
    pub fn new(terms: Rc<ZeromqTerms>) -> PushPeer {
        PushPeer {
            // The mechanism follows that of the peer: libzmq leaves without a word if it sees another one first.
            output: greeting(&terms)[..MECHANISM_AT].to_vec(),
            terms,
            stage: Stage::Greeting,
            greeting: Vec::new(),
            frames: FrameReader::default(),
            parts: 0,
            channel: None,
            silence: None,
        }
    }

    /// Writes a peer whose messages come. Returns `false` if it is in another stage.
    pub fn save(&self, writer: &mut StateWriter<'_>) -> bool {
        self.frames.save(writer);
        writer.len(self.parts.min(PARTS_MAX));
        if let Some(channel) = writer.option(self.channel.as_ref()) {
            writer.bytes(channel);
        }
        writer.bytes(&self.output);
        if let Some(silence) = writer.option(self.silence) {
            writer.u64(silence);
        }
        self.stage == Stage::Open
    }

    /// The peer that was written.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(
        terms: Rc<ZeromqTerms>,
        reader: &mut StateReader<'_>,
    ) -> Result<PushPeer, StateError> {
        Ok(PushPeer {
            terms,
            stage: Stage::Open,
            greeting: Vec::new(),
            frames: FrameReader::restored(reader)?,
            parts: reader.len(PARTS_MAX)?,
            channel: reader.option(|reader| reader.bytes(CHANNEL_BYTES_MAX))?,
            output: reader.bytes(BYTES_MAX)?,
            silence: reader.option(StateReader::u64)?,
        })
    }

    /// Returns whether the handshake has yet to be completed.
    pub fn is_stranger(&self) -> bool {
        !matches!(self.stage, Stage::Open | Stage::Over)
    }

    /// Returns whether the connection ends once the output is written.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Takes what comes next; `None`: all of the input was taken.
    pub fn next<'input>(&mut self, input: &mut &'input [u8]) -> Option<PeerEvent<'input>> {
        let mut channel = self.channel.take().map(Cow::Owned);
        let event = loop {
            let result = match self.stage {
                Stage::Over => {
                    *input = &[];
                    break None;
                }
                Stage::Greeting if input.is_empty() => break None,
                Stage::Greeting => self.greet(input).map(|()| None),
                _ => match self.next_frame(input) {
                    Ok(None) => break None,
                    Ok(Some(frame)) => self.on_frame(frame, &mut channel),
                    Err(fault) => Err(fault),
                },
            };
            match result {
                Ok(None) => {}
                Ok(event) => break event,
                Err(fault) => break Some(self.fail(fault)),
            }
        };
        self.channel = channel.map(Cow::into_owned);
        event
    }

    /// Takes note of the end of the input; `None`: that is no fault. A peer that has said nothing only looked whether the port is open.
    pub fn on_end<'input>(&mut self) -> Option<PeerEvent<'input>> {
        let is_silent = self.stage == Stage::Greeting && self.greeting.is_empty();
        (self.is_stranger() && !is_silent).then(|| self.fail(Fault::Left))
    }

    /// Takes a part of the greeting.
    fn greet(&mut self, input: &mut &[u8]) -> Result<(), Fault> {
        let missing = GREETING_BYTES - self.greeting.len();
        let (taken, rest) = input.split_at(missing.min(input.len()));
        *input = rest;
        self.greeting.extend_from_slice(taken);
        let is =
            |at: usize, test: fn(u8) -> bool| self.greeting.get(at).is_none_or(|one| test(*one));
        // A signature: 0xFF, eight bytes, 0x7F.
        if !is(0, |byte| byte == 0xFF) || !is(VERSION_AT - 1, |byte| byte == 0x7F) {
            return Err(Fault::NotZmtp);
        }
        if !is(VERSION_AT, |major| major >= 3) {
            return Err(Fault::Outdated);
        }
        if self.greeting.len() < GREETING_BYTES {
            return Ok(());
        }
        self.output.extend_from_slice(&greeting(&self.terms)[MECHANISM_AT..]);
        let greeting = std::mem::take(&mut self.greeting);
        if greeting[MECHANISM_AT..][..20] != mechanism(&self.terms) {
            return Err(Fault::Mechanism);
        }
        self.stage = if self.terms.password.is_some() { Stage::Hello } else { Stage::Ready };
        Ok(())
    }

    fn next_frame<'input>(
        &mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<ZmtpFrame<'input>>, Fault> {
        let (parts, payload_bytes_max) = (self.parts, self.terms.payload_bytes_max);
        let is_kept = |header: FrameHeader| {
            let bytes_max = match (header.is_command, header.has_more) {
                (true, _) => COMMAND_BYTES_MAX,
                (false, true) if parts == 0 => CHANNEL_BYTES_MAX,
                (false, false) if parts < PARTS_MAX => payload_bytes_max,
                _ => return false,
            };
            header.length <= bytes_max as u64
        };
        self.frames.next(input, is_kept).map_err(|_| Fault::Protocol)
    }

    fn on_frame<'input>(
        &mut self,
        frame: ZmtpFrame<'input>,
        channel: &mut Option<Cow<'input, [u8]>>,
    ) -> Result<Option<PeerEvent<'input>>, Fault> {
        match frame.body {
            body if self.stage == Stage::Open && !frame.header.is_command => {
                Ok(self.on_part(frame.header.has_more, body, channel))
            }
            Some(body) if frame.header.is_command => self.on_command(&body),
            // RFC 23 has no such command: it may belong to a later version.
            None if self.stage == Stage::Open => Ok(None),
            _ => Err(Fault::Protocol),
        }
    }

    /// Takes a part of a message. Of several, those between the first and the last are passed over.
    fn on_part<'input>(
        &mut self,
        has_more: bool,
        body: Option<Cow<'input, [u8]>>,
        channel: &mut Option<Cow<'input, [u8]>>,
    ) -> Option<PeerEvent<'input>> {
        let before = self.parts;
        if has_more {
            self.parts = before.saturating_add(1);
            if before == 0 {
                *channel = body;
            }
            return (self.parts == PARTS_MAX).then_some(PeerEvent::Malformed("too many parts"));
        }
        self.parts = 0;
        match (body, channel.take()) {
            // That was told when they became too many.
            _ if before >= PARTS_MAX => None,
            (None, _) => Some(PeerEvent::Oversized),
            (Some(object), _) if before == 0 => Some(PeerEvent::Object(object)),
            (Some(payload), Some(channel)) => Some(PeerEvent::Message { channel, payload }),
            (Some(_), None) => Some(PeerEvent::Malformed("the first of its parts is no channel")),
        }
    }

    fn on_command<'input>(&mut self, body: &[u8]) -> Result<Option<PeerEvent<'input>>, Fault> {
        let (name, data) = command(body).ok_or(Fault::Protocol)?;
        match (self.stage, name) {
            (_, b"ERROR") => Err(Fault::Refused),
            (Stage::Open, b"PING") => self.pong(data).map(|()| None),
            (Stage::Open, _) => Ok(None),
            (Stage::Hello, b"HELLO") => {
                self.check_password(data)?;
                write_command(&mut self.output, "WELCOME", &[]);
                self.stage = Stage::Initiate;
                Ok(None)
            }
            (Stage::Initiate, b"INITIATE") | (Stage::Ready, b"READY") => {
                let kind = property(data, b"Socket-Type")?;
                if kind != Some(b"PUSH") {
                    return Err(Fault::SocketType);
                }
                write_command(&mut self.output, "READY", b"\x0bSocket-Type\0\0\0\x04PULL");
                self.stage = Stage::Open;
                Ok(Some(PeerEvent::Ready))
            }
            _ => Err(Fault::Protocol),
        }
    }

    /// Checks the user and the password, each behind its length.
    fn check_password(&self, data: &[u8]) -> Result<(), Fault> {
        let (user, rest) = text(data).ok_or(Fault::Protocol)?;
        let (password, rest) = text(rest).ok_or(Fault::Protocol)?;
        let expected = self.terms.password.as_deref().ok_or(Fault::Protocol)?;
        let is_right = is_same_password(password, expected) && user == USER && rest.is_empty();
        if is_right { Ok(()) } else { Err(Fault::Password) }
    }

    /// Answers a PING with its context.
    fn pong(&mut self, data: &[u8]) -> Result<(), Fault> {
        let Some(([high, low], context)) = data.split_first_chunk() else {
            return Err(Fault::Protocol);
        };
        if context.len() > CONTEXT_BYTES_MAX {
            return Err(Fault::Protocol);
        }
        let tenths = Millis::from(u16::from_be_bytes([*high, *low]));
        self.silence = (tenths > 0).then_some(tenths * TTL_MILLIS);
        if self.output.len() < OUTPUT_BYTES_MAX {
            write_command(&mut self.output, "PONG", context);
        }
        Ok(())
    }

    fn fail<'input>(&mut self, fault: Fault) -> PeerEvent<'input> {
        self.stage = Stage::Over;
        if let Some(reason) = fault.answer(self.terms.password.is_some()) {
            let data = [&[reason.len() as u8], reason.as_bytes()].concat();
            write_command(&mut self.output, "ERROR", &data);
        }
        PeerEvent::Failed(fault)
    }
}

impl Fault {
    /// Returns the reason in the ERROR command; `None`: the peer would not read one.
    fn answer(self, has_password: bool) -> Option<&'static str> {
        match self {
            Fault::NotZmtp | Fault::Outdated | Fault::Refused | Fault::Left => None,
            Fault::Mechanism if has_password => Some("only PLAIN is spoken here"),
            Fault::Mechanism => Some("only NULL is spoken here"),
            // libzmq 4.3 means to read ERROR here, but by a slip compares it with `^RROR`: it reports an unexpected command.
            Fault::Password => Some("wrong user or password"),
            Fault::SocketType => Some("only PUSH sockets connect here"),
            Fault::Protocol => Some("protocol error"),
        }
    }

    /// Returns the operator's line.
    pub fn advice(self, has_password: bool) -> &'static str {
        match self {
            Fault::NotZmtp => "a peer does not speak ZMTP, the protocol of ZeroMQ",
            Fault::Outdated => {
                "a peer speaks ZMTP 2 or older: libzmq from version 4.0 on is needed"
            }
            Fault::Mechanism if has_password => {
                "a peer does not log in: with publishers_password it must use PLAIN, with the user default"
            }
            Fault::Mechanism => {
                "a peer wants to log in: without publishers_password it must use no mechanism (NULL)"
            }
            Fault::Password => "a wrong user or password: they are default and publishers_password",
            Fault::SocketType => "a peer is no PUSH socket: others cannot connect here",
            Fault::Protocol => "a peer broke the rules of ZMTP",
            Fault::Refused => "a peer refused this socket",
            Fault::Left if has_password => {
                "a peer left in the handshake: with publishers_password it must use PLAIN, with the user default"
            }
            Fault::Left => {
                "a peer left in the handshake: without publishers_password it must use no mechanism (NULL)"
            }
        }
    }
}

/// The greeting of a peer with these terms; with a password it is the server of PLAIN.
fn greeting(terms: &ZeromqTerms) -> Vec<u8> {
    let mut greeting = vec![0; GREETING_BYTES];
    (greeting[0], greeting[VERSION_AT - 1]) = (0xFF, 0x7F);
    greeting[VERSION_AT..MECHANISM_AT].copy_from_slice(&[3, 1]);
    greeting[MECHANISM_AT..][..20].copy_from_slice(&mechanism(terms));
    greeting[MECHANISM_AT + 20] = u8::from(terms.password.is_some());
    greeting
}

fn mechanism(terms: &ZeromqTerms) -> [u8; 20] {
    let name: &[u8] = if terms.password.is_some() { b"PLAIN" } else { b"NULL" };
    let mut padded = [0; 20];
    padded[..name.len()].copy_from_slice(name);
    padded
}

/// Returns a text behind the byte of its length, and the rest.
fn text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Returns the value of a property: names, in any case, behind one byte of length, values behind four.
fn property<'a>(mut metadata: &'a [u8], wanted: &[u8]) -> Result<Option<&'a [u8]>, Fault> {
    let mut found = None;
    while !metadata.is_empty() {
        let (name, rest) = text(metadata).ok_or(Fault::Protocol)?;
        let (length, rest) = rest.split_first_chunk().ok_or(Fault::Protocol)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (value, rest) = rest.split_at_checked(length).ok_or(Fault::Protocol)?;
        if name.eq_ignore_ascii_case(wanted) {
            found = Some(value);
        }
        metadata = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
