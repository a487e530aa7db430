//! The record layer of an open TLS connection: seals and opens records in buffers of the caller.
//!
//! [`TlsSession::open`] decrypts every whole record in place and closes the gaps between their plaintexts, so that the WebSocket
//! layer reads it as if there were no TLS. Everything else that a record may hold is handled here: alerts, KeyUpdates, and
//! attempts to renegotiate. A record that cannot be opened ends the session with an alert, and so do too many in a row without
//! data.
//!
//! Limits on keys: 2²⁴ records under one key of AES-GCM keep an attacker's chance to tell plaintexts apart below 2⁻⁵⁷ (RFC 8446,
//! section 5.5). TLS 1.3 gets a new key by KeyUpdate at half of that. TLS 1.2 has no such message, so that the caller has to
//! close the connection: see [`TlsSession::is_worn`].

use std::fmt;
use std::mem::size_of;

use rustls::AlertDescription;
use zeroize::Zeroize;

use super::failure::{RecordsEnd, TlsFailure};
use super::keys::{KeyBox, RecordState, SendingState, TlsSuite, TlsVersion, TrafficKeys};
use super::record::{HEADER_BYTES, RECORD_PLAIN_MAX, content};
use crate::upgrade::{StateError, StateReader, StateWriter};

/// Records in a row that carry no data: empty ones and KeyUpdates. Each of the latter costs four runs of HKDF.
const USELESS_RECORDS_MAX: u8 = 32;
/// Warnings and attempts to renegotiate that a session tolerates.
const TOLERATED_MAX: u8 = 4;
/// Records sent under one key in TLS 1.3.
const RECORDS_PER_KEY: u32 = 1 << 23;
/// Records after which a TLS 1.2 key is worn out. The rest, up to 2²⁴, is left for closing the connection.
const WORN_AFTER: u32 = (1 << 24) - (1 << 20);

/// A KeyUpdate that asks for none in return, and the type of a ClientHello.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const CLIENT_HELLO: u8 = 1;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Keys and sequence numbers of an open connection: 16 bytes, and 136 or 200 behind them.
///
/// `Debug` prints the suite alone.
pub struct TlsSession {
    keys: KeyBox,
}

const _: () = assert!(size_of::<TlsSession>() == 16);

/// The result of [`TlsSession::open`]: plaintext in `input[..plain]`, and an unfinished record in `input[consumed..]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    pub plain: usize,
    pub consumed: usize,
    /// KeyUpdates of the client: each costs as much as 800 bytes to read.
    pub key_updates: u32,
    /// Set by the last record of the client: all bytes behind it count as consumed.
    pub end: Option<RecordsEnd>,
}

impl TlsSession {
    /// Returns `None` if the keys do not suit the suite.
    pub fn new(
        suite: TlsSuite,
        receiving: &TrafficKeys<'_>,
        sending: &TrafficKeys<'_>,
    ) -> Option<TlsSession> {
        Some(TlsSession { keys: KeyBox::new(suite, receiving, sending)? })
    }

    pub fn suite(&self) -> TlsSuite {
        self.keys.state().suite
    }

    /// Returns the memory on the heap.
    pub fn held_bytes(&self) -> usize {
        self.keys.heap_bytes()
    }

    /// Returns whether a TLS 1.2 key is near its limit: the caller should close the connection. TLS 1.3 renews its keys itself.
    pub fn is_worn(&self) -> bool {
        let worn_after = if self.suite().is_gcm() { WORN_AFTER } else { u32::MAX - (1 << 20) };
        self.suite().version() == TlsVersion::V1_2 && self.keys.sent_records() >= worn_after
    }

    /// Returns whether the client has sent a close_notify.
    pub fn is_closed_by_peer(&self) -> bool {
        self.keys.state().end == Some(RecordsEnd::Closed)
    }

    /// Appends a record with `plain`, which is at most [`RECORD_PLAIN_MAX`] long, to `out`. A KeyUpdate that is due goes before it.
    /// Nothing is appended for an empty `plain`, and nothing after [`TlsSession::close_notify`] or a failure.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        assert!(plain.len() <= RECORD_PLAIN_MAX, "cut into records by the caller");
        if !plain.is_empty() {
            self.send(content::APPLICATION_DATA, plain, out);
        }
    }

    /// Appends a close_notify, without which the client cannot tell an end from a truncation.
    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        self.send(content::ALERT, &[WARNING, u8::from(AlertDescription::CloseNotify)], out);
        self.keys.state_mut().sending = SendingState::Closed;
    }

    fn send(&mut self, content: u8, plain: &[u8], out: &mut Vec<u8>) {
        let state = self.keys.state_mut();
        if state.sending == SendingState::Closed {
            return;
        }
        let is_requested = state.sending == SendingState::KeyUpdateRequested;
        state.sending = SendingState::Open;
        let mut keys = self.keys.sending();
        let is_tls13 = keys.suite.version() == TlsVersion::V1_3;
        if is_requested || is_tls13 && *keys.sequence >= records_per_key() {
            keys.seal(content::HANDSHAKE, &KEY_UPDATE, out);
            keys.update();
        }
        keys.seal(content, plain, out);
    }

    /// Opens every whole record in `input`. Answers to the client are appended to `replies`.
    ///
    /// After an end, no record is opened any more: the same end is returned.
    pub fn open(&mut self, input: &mut [u8], replies: &mut Vec<u8>) -> Opened {
        let mut opened =
            Opened { plain: 0, consumed: 0, key_updates: 0, end: self.keys.state().end };
        while opened.end.is_none() {
            match self.open_next(input, &mut opened, replies) {
                Ok(true) => {}
                Ok(false) => break,
                Err(end) => {
                    if let RecordsEnd::Failed(failure) = end {
                        self.fail(failure, replies);
                    }
                    self.keys.state_mut().end = Some(end);
                    opened.end = Some(end);
                }
            }
        }
        if opened.end.is_some() {
            opened.consumed = input.len();
        }
        opened
    }

    fn fail(&mut self, failure: TlsFailure, replies: &mut Vec<u8>) {
        if let Some(alert) = failure.alert() {
            self.send(content::ALERT, &[FATAL, u8::from(alert)], replies);
        }
        self.keys.state_mut().sending = SendingState::Closed;
    }

    /// Opens one record, and returns whether there was a whole one.
    fn open_next(
        &mut self,
        input: &mut [u8],
        opened: &mut Opened,
        replies: &mut Vec<u8>,
    ) -> Result<bool, RecordsEnd> {
        let Some(header) = input[opened.consumed..].first_chunk::<HEADER_BYTES>() else {
            return Ok(false);
        };
        let header = *header;
        let mut keys = self.keys.receiving();
        let bytes = keys.checked_length(header)?;
        let end = opened.consumed + HEADER_BYTES + bytes;
        // From where its plaintext belongs to where it ends: it is moved there as it is decrypted.
        let Some(place) = input.get_mut(opened.plain..end) else {
            return Ok(false);
        };
        let (content, plain) = keys.open(header, place, bytes)?;
        opened.consumed = end;
        let plain = &place[..plain];
        let state = self.keys.state_mut();
        if content != content::HANDSHAKE && state.handshake_seen > 0 {
            // RFC 8446, section 5.1: nothing stands between the pieces of a handshake message.
            return Err(TlsFailure::UnexpectedMessage.into());
        }
        match content {
            content::APPLICATION_DATA if plain.is_empty() => state.count_useless()?,
            content::APPLICATION_DATA => {
                state.useless = 0;
                opened.plain += plain.len();
            }
            content::ALERT => state.receive_alert(plain)?,
            content::HANDSHAKE if state.suite.version() == TlsVersion::V1_3 => {
                if self.receive_key_update(plain)? {
                    opened.key_updates += 1;
                }
                if opened.key_updates > u32::from(USELESS_RECORDS_MAX) {
                    return Err(TlsFailure::TooManyUselessRecords.into());
                }
            }
            content::HANDSHAKE => self.refuse_renegotiation(plain, replies)?,
            _ => return Err(TlsFailure::UnexpectedMessage.into()),
        }
        Ok(true)
    }

    /// Handles a handshake message of TLS 1.3. Without client certificates, only KeyUpdate is allowed (RFC 8446, section 4.6.3).
    /// Returns whether one was completed.
    fn receive_key_update(&mut self, plain: &[u8]) -> Result<bool, TlsFailure> {
        if plain.is_empty() {
            return Err(TlsFailure::UnexpectedMessage);
        }
        let state = self.keys.state_mut();
        for (at, byte) in plain.iter().enumerate() {
            match (state.handshake_seen, *byte) {
                (seen @ 0..4, byte) if byte == KEY_UPDATE[usize::from(seen)] => {
                    state.handshake_seen += 1
                }
                (0, _) => return Err(TlsFailure::UnexpectedMessage),
                (1..4, _) => return Err(TlsFailure::Decode),
                (_, request @ 0..=1) => {
                    // The next record has another key: a message behind this one would belong to neither.
                    if at + 1 < plain.len() {
                        return Err(TlsFailure::UnexpectedMessage);
                    }
                    state.handshake_seen = 0;
                    state.count_useless()?;
                    if request == 1 && state.sending == SendingState::Open {
                        state.sending = SendingState::KeyUpdateRequested;
                    }
                    self.keys.receiving().update();
                    return Ok(true);
                }
                _ => return Err(TlsFailure::IllegalParameter),
            }
        }
        Ok(false)
    }

    /// Refuses another handshake in TLS 1.2: the ClientHello is skipped, and answered by a warning (RFC 5246, section 7.2.2).
    fn refuse_renegotiation(
        &mut self,
        plain: &[u8],
        replies: &mut Vec<u8>,
    ) -> Result<(), TlsFailure> {
        if plain.is_empty() {
            return Err(TlsFailure::UnexpectedMessage);
        }
        let mut rest = plain;
        loop {
            let state = self.keys.state_mut();
            if state.handshake_seen == 4 {
                let skipped = rest.len().min(usize::from(state.handshake_left));
                rest = &rest[skipped..];
                state.handshake_left -= skipped as u16;
                if state.handshake_left > 0 {
                    return Ok(());
                }
                state.handshake_seen = 0;
                state.tolerate()?;
                let warning = [WARNING, u8::from(AlertDescription::NoRenegotiation)];
                self.send(content::ALERT, &warning, replies);
            }
            let Some((byte, behind)) = rest.split_first() else { return Ok(()) };
            rest = behind;
            let state = self.keys.state_mut();
            match (state.handshake_seen, *byte) {
                (0, CLIENT_HELLO) | (1, 0) => {}
                (0, _) => return Err(TlsFailure::UnexpectedMessage),
                (1, _) => return Err(TlsFailure::HandshakeTooLarge),
                (_, byte) => state.handshake_left = state.handshake_left << 8 | u16::from(byte),
            }
            state.handshake_seen += 1;
        }
    }
}

/// The suites, by their numbers in a state that is handed over.
const SUITES: [TlsSuite; 6] = [
    TlsSuite::Tls13Aes128,
    TlsSuite::Tls13Aes256,
    TlsSuite::Tls13ChaCha20,
    TlsSuite::Tls12Aes128,
    TlsSuite::Tls12Aes256,
    TlsSuite::Tls12ChaCha20,
];
/// The longest key, IV or secret.
const KEY_BYTES_MAX: usize = 48;

impl TlsSession {
    /// Writes keys, sequence numbers and the progress in a message of the handshake.
    pub fn save(&self, writer: &mut StateWriter<'_>) {
        let state = self.keys.state();
        let suite = SUITES.iter().position(|suite| *suite == state.suite);
        writer.u8(suite.expect("all suites have numbers") as u8);
        for TrafficKeys { key, iv, secret, sequence } in self.keys.traffic() {
            [key, iv, secret].iter().for_each(|part| writer.bytes(part));
            writer.u64(sequence);
        }
        writer.u8(match state.sending {
            SendingState::Open => 0,
            SendingState::KeyUpdateRequested => 1,
            SendingState::Closed => 2,
        });
        writer.bool(state.end.is_some());
        writer.u8(state.handshake_seen);
        writer.u32(u32::from(state.handshake_left));
        writer.u8(state.useless);
        writer.u8(state.tolerated);
    }

    /// The session that was written.
    ///
    /// # Errors
    /// No session, or keys that do not suit it.
    pub fn restored(reader: &mut StateReader<'_>) -> Result<TlsSession, StateError> {
        const MALFORMED: StateError = StateError::Malformed("a TLS session");
        let suite = *SUITES.get(usize::from(reader.u8()?)).ok_or(MALFORMED)?;
        let mut parts: [Vec<u8>; 6] = Default::default();
        let mut sequences = [0; 2];
        for (parts, sequence) in parts.chunks_mut(3).zip(&mut sequences) {
            for part in parts {
                *part = reader.bytes(KEY_BYTES_MAX)?;
            }
            *sequence = reader.u64()?;
        }
        let keys = |from: usize| TrafficKeys {
            key: &parts[from],
            iv: &parts[from + 1],
            secret: &parts[from + 2],
            sequence: sequences[from / 3],
        };
        let session = TlsSession::new(suite, &keys(0), &keys(3));
        parts.iter_mut().for_each(Zeroize::zeroize);
        let mut session = session.ok_or(MALFORMED)?;
        let state = session.keys.state_mut();
        state.sending = match reader.u8()? {
            0 => SendingState::Open,
            1 => SendingState::KeyUpdateRequested,
            2 => SendingState::Closed,
            _ => return Err(MALFORMED),
        };
        state.end = reader.bool()?.then_some(RecordsEnd::Closed);
        state.handshake_seen = reader.u8()?.min(4);
        state.handshake_left = reader.u32()? as u16;
        state.useless = reader.u8()?.min(USELESS_RECORDS_MAX);
        state.tolerated = reader.u8()?.min(TOLERATED_MAX);
        Ok(session)
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("TlsSession").field(&self.keys).finish()
    }
}

impl RecordState {
    fn count_useless(&mut self) -> Result<(), TlsFailure> {
        self.useless += 1;
        let is_too_much = self.useless > USELESS_RECORDS_MAX;
        if is_too_much { Err(TlsFailure::TooManyUselessRecords) } else { Ok(()) }
    }

    fn tolerate(&mut self) -> Result<(), TlsFailure> {
        self.tolerated += 1;
        let is_too_much = self.tolerated > TOLERATED_MAX;
        if is_too_much { Err(TlsFailure::TooManyUselessRecords) } else { Ok(()) }
    }

    /// Handles an alert. In TLS 1.3 every alert but user_canceled ends the session, whatever its level (RFC 8446, section 6); in
    /// TLS 1.2, warnings do not.
    fn receive_alert(&mut self, plain: &[u8]) -> Result<(), RecordsEnd> {
        let [level, description] = plain else { return Err(TlsFailure::Decode.into()) };
        let is_warning = match self.suite.version() {
            TlsVersion::V1_3 => *description == u8::from(AlertDescription::UserCanceled),
            TlsVersion::V1_2 => *level == WARNING,
        };
        if *description == u8::from(AlertDescription::CloseNotify) {
            Err(RecordsEnd::Closed)
        } else if is_warning {
            Ok(self.tolerate()?)
        } else {
            Err(TlsFailure::by_alert(AlertDescription::from(*description)).into())
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Lowered by tests: no test sends eight million records.
    pub(super) static RECORDS_PER_KEY_IN_TEST: std::cell::Cell<u32> = const { std::cell::Cell::new(RECORDS_PER_KEY) };
}

fn records_per_key() -> u32 {
    #[cfg(test)]
    {
        RECORDS_PER_KEY_IN_TEST.get()
    }
    #[cfg(not(test))]
    {
        RECORDS_PER_KEY
    }
}
