//! TLS state of one client, for which its slot has no room.

use crate::engine::client::Client;
use crate::engine::tls::{
    Acceptor, HandshakeFacts, HandshakeProgress, RecordsEnd, TlsHandshake, TlsSession,
};

/// The state of a client's TLS.
#[derive(Debug)]
pub enum Tls {
    /// The handshake is under way, or its first byte is awaited. Its box is in the client's flight.
    Handshake,
    /// Records are sealed and opened by these keys.
    Open(TlsSession),
    /// Nothing is sealed or opened any more: an alert was sent or received.
    Ended,
}

/// A compile-time check of the memory beside a slot.
const _: () = assert!(size_of::<Option<Tls>>() == 16);

/// The content of received bytes.
#[derive(Debug, Default)]
pub struct TlsInput {
    /// The length of the plaintext, which lies at the start of the input.
    pub plain: usize,
    /// The server answered the ClientHello: the costly part of a handshake is done.
    pub is_answered: bool,
    /// The handshake was completed.
    pub accepted: Option<HandshakeFacts>,
    /// KeyUpdates of the client.
    pub key_updates: u32,
    /// The end of what the peer sends, after the plaintext. A failure's alert is among the replies.
    pub end: Option<RecordsEnd>,
}

impl Tls {
    /// Opens received bytes in place; those kept from earlier reads lie at the start of `input`. Replies to the client are
    /// appended to `replies`.
    pub fn open(
        &mut self,
        client: &mut Client,
        acceptor: &Acceptor,
        input: &mut [u8],
        replies: &mut Vec<u8>,
    ) -> TlsInput {
        match self {
            Tls::Handshake => self.shake_hands(client, acceptor, input, replies),
            Tls::Open(session) => {
                let opened = session.open(input, replies);
                client.keep_record(input, input.len() - opened.consumed);
                if let Some(RecordsEnd::Failed(_)) = opened.end {
                    *self = Tls::Ended;
                }
                let (plain, key_updates) = (opened.plain, opened.key_updates);
                TlsInput { plain, key_updates, end: opened.end, ..TlsInput::default() }
            }
            Tls::Ended => TlsInput::default(),
        }
    }

    fn shake_hands(
        &mut self,
        client: &mut Client,
        acceptor: &Acceptor,
        input: &mut [u8],
        replies: &mut Vec<u8>,
    ) -> TlsInput {
        let mut handshake =
            client.take_handshake().unwrap_or_else(|| Box::new(TlsHandshake::new(acceptor)));
        let had_answered = handshake.has_answered();
        let progress = handshake.advance(input, replies);
        let is_answered = handshake.has_answered() && !had_answered;
        match progress {
            HandshakeProgress::More => {
                client.keep_handshake(handshake);
                TlsInput { is_answered, ..TlsInput::default() }
            }
            HandshakeProgress::Failed(failure) => {
                *self = Tls::Ended;
                let end = Some(RecordsEnd::Failed(failure));
                TlsInput { is_answered, end, ..TlsInput::default() }
            }
            HandshakeProgress::Done(session, facts, rest) => {
                *self = Tls::Open(session);
                // The request may have come together with the end of the handshake.
                let input = &mut input[..rest.len()];
                input.copy_from_slice(&rest);
                let opened = self.open(client, acceptor, input, replies);
                TlsInput { is_answered, accepted: Some(facts), ..opened }
            }
        }
    }

    /// Seals one record with `plain`, at most 16 KiB. Nothing is sealed without keys: then `record` stays as it is.
    pub fn seal(&mut self, plain: &[u8], record: &mut Vec<u8>) {
        debug_assert!(matches!(self, Tls::Open(_)), "frames are queued for open clients");
        if let Tls::Open(session) = self {
            session.seal(plain, record);
        }
    }

    /// Seals a close_notify, and drops the keys.
    pub fn end(&mut self, alert: &mut Vec<u8>) {
        if let Tls::Open(session) = self {
            session.close_notify(alert);
        }
        *self = Tls::Ended;
    }

    /// Returns whether the keys are near the limit of what they may seal, and cannot be renewed (TLS 1.2).
    pub fn is_worn(&self) -> bool {
        matches!(self, Tls::Open(session) if session.is_worn())
    }

    /// Returns whether the client has sent a close_notify.
    pub fn is_closed_by_peer(&self) -> bool {
        matches!(self, Tls::Open(session) if session.is_closed_by_peer())
    }

    /// Returns whether the handshake is not complete, so that there are no keys yet to seal a response with.
    pub fn is_handshake(&self) -> bool {
        matches!(self, Tls::Handshake)
    }
}
