//! The handshake of a TLS connection: rustls in a box that lasts until the keys are known.
//!
//! rustls gets the client's bytes record by record, so that it never opens one that belongs to the open connection: such records
//! are passed on unopened. When the handshake is done, keys and sequence numbers are extracted, and rustls is dropped. Of its
//! interface, only the key log shows the secrets from which a KeyUpdate derives new keys, and does so in the middle of a
//! handshake. They are kept until its end, and used only if the extracted keys derive from them.

use std::fmt;
use std::mem::{size_of, take};
use std::ops::RangeInclusive;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, HandshakeKind, ProtocolVersion};

use super::config::{Acceptor, TrafficSecrets, take_traffic_secrets};
use super::failure::TlsFailure;
use super::keys::{TlsSuite, TlsVersion, TrafficKeys};
use super::record::{HEADER_BYTES, RECORD_BYTES_MAX};
use super::session::TlsSession;

/// Bytes that rustls keeps on the heap between a ClientHello and the end of the handshake, as measured.
const RUSTLS_HEAP_BYTES: usize = 2600;
/// Records of a client in a handshake. It needs four; a ClientHello in pieces needs more. Without a bound, thousands of empty
/// records would each be looked at again for each that follows, for seconds: rustls skips those that may be early data.
const RECORDS_MAX: u32 = 64;

const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain\r\n\
    Content-Length: 46\r\n\
    Connection: close\r\n\
    \r\n\
    this port speaks TLS: use https:// or wss://\r\n";

/// A handshake under way. The caller keeps it in a box.
pub struct TlsHandshake {
    /// `None` when it is over.
    connection: Option<UnbufferedServerConnection>,
    secrets: TrafficSecrets,
    /// Bytes received and not yet consumed.
    input: Vec<u8>,
    /// The length of the records at the start of `input` that rustls has seen: pieces of a message.
    offered: usize,
    /// Records received.
    records: u32,
    has_begun: bool,
    has_answered: bool,
}

/// The state of a handshake after the bytes given to it.
#[derive(Debug)]
pub enum HandshakeProgress {
    /// More bytes of the client are needed.
    More,
    /// The bytes that the client sent after its handshake are for [`TlsSession::open`]; usually there are none.
    Done(TlsSession, HandshakeFacts, Vec<u8>),
    /// The answer to the client is in `output`; the caller sends it and closes the connection.
    Failed(TlsFailure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeFacts {
    pub version: TlsVersion,
    /// The client had a ticket: no certificate and no signature was sent.
    pub is_resumed: bool,
}

impl TlsHandshake {
    pub fn new(acceptor: &Acceptor) -> TlsHandshake {
        let connection = UnbufferedServerConnection::new(acceptor.config.clone());
        TlsHandshake {
            connection: Some(connection.expect("it fails for a fragment size, and none is set")),
            secrets: TrafficSecrets::default(),
            input: Vec::new(),
            offered: 0,
            records: 0,
            has_begun: false,
            has_answered: false,
        }
    }

    /// Returns the memory in use, roughly.
    pub fn held_bytes(&self) -> usize {
        size_of::<TlsHandshake>() + RUSTLS_HEAP_BYTES + self.input.capacity()
    }

    /// Returns whether the costly part is done: the signature, or the key exchange of a resumed session.
    pub fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Takes bytes of the client, and appends bytes for it to `output`. Must not be called after the end.
    pub fn advance(&mut self, input: &[u8], output: &mut Vec<u8>) -> HandshakeProgress {
        if !self.has_begun && is_plain_http(input) {
            output.extend_from_slice(PLAIN_HTTP_ANSWER);
            return HandshakeProgress::Failed(TlsFailure::PlainHttp);
        }
        self.has_begun |= !input.is_empty();
        self.input.extend_from_slice(input);
        match self.proceed(output) {
            Ok(true) => self.finish().unwrap_or_else(HandshakeProgress::Failed),
            Ok(false) => HandshakeProgress::More,
            Err(failure) => HandshakeProgress::Failed(failure),
        }
    }

    /// Gives rustls one more record at a time, and returns whether the handshake is done.
    fn proceed(&mut self, output: &mut Vec<u8>) -> Result<bool, TlsFailure> {
        loop {
            let bytes = match next_record(&self.input[self.offered..]) {
                Ok(Some(bytes)) => bytes,
                Ok(None) if self.input.len() <= RECORD_BYTES_MAX => break,
                Ok(None) => return Err(self.refuse(TlsFailure::HandshakeTooLarge, output)),
                Err(failure) => return Err(self.refuse(failure, output)),
            };
            self.records += 1;
            self.offered += bytes;
            if self.records > RECORDS_MAX {
                return Err(self.refuse(TlsFailure::TooManyUselessRecords, output));
            }
            if self.offered > RECORD_BYTES_MAX {
                return Err(self.refuse(TlsFailure::HandshakeTooLarge, output));
            }
            let is_done = self.process(output);
            if let Some(secrets) = take_traffic_secrets() {
                self.secrets = secrets;
            }
            if is_done? {
                return Ok(true);
            }
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(false)
    }

    /// Lets rustls work until it needs another record.
    fn process(&mut self, output: &mut Vec<u8>) -> Result<bool, TlsFailure> {
        let connection = self.connection.as_mut().expect("the handshake is not over");
        loop {
            let offered = &mut self.input[..self.offered];
            let UnbufferedStatus { discard, state } = connection.process_tls_records(offered);
            let next = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, output);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                    Some(Ok(()))
                }
                Ok(_) => Some(Err(TlsFailure::UnexpectedMessage)),
                Err(error) => Some(Err(TlsFailure::from(error))),
            };
            self.input.drain(..discard);
            self.offered -= discard;
            // After a request for another key share, the kind of the handshake is known, but there is neither key nor signature.
            let kind = connection.handshake_kind();
            self.has_answered |= matches!(kind, Some(HandshakeKind::Full | HandshakeKind::Resumed))
                || connection.negotiated_key_exchange_group().is_some();
            match next {
                None => {}
                // The server may write earlier, but not read.
                Some(Ok(())) => return Ok(!connection.is_handshaking()),
                Some(Err(failure)) => {
                    // rustls must not see its input again: only its alert is left to fetch.
                    while connection.wants_write() {
                        let status = connection.process_tls_records(&mut []);
                        let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else {
                            break;
                        };
                        encode(&mut data, output);
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Appends an alert that is not encrypted, if the client has no keys yet.
    fn refuse(&self, failure: TlsFailure, output: &mut Vec<u8>) -> TlsFailure {
        if let Some(alert) = failure.alert().filter(|_| !self.has_answered) {
            output.extend_from_slice(&[21, 3, 3, 0, 2, 2, u8::from(alert)]);
        }
        failure
    }

    fn finish(&mut self) -> Result<HandshakeProgress, TlsFailure> {
        let connection = self.connection.take().expect("the handshake ends once");
        let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        };
        let (extracted, _) = connection.dangerous_into_kernel_connection()?;
        let session = session(version, &extracted, &take(&mut self.secrets))?;
        let facts = HandshakeFacts { version, is_resumed };
        Ok(HandshakeProgress::Done(session, facts, take(&mut self.input)))
    }
}

impl fmt::Debug for TlsHandshake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TlsHandshake").finish_non_exhaustive()
    }
}

/// Returns the length of the first record in `bytes` if it is complete. Bytes of an unknown type count as one record, which
/// rustls refuses.
fn next_record(bytes: &[u8]) -> Result<Option<usize>, TlsFailure> {
    const TYPES: RangeInclusive<u8> = 20..=24;
    match *bytes {
        [] => Ok(None),
        [content, ..] if !TYPES.contains(&content) => Ok(Some(bytes.len())),
        // rustls waits for the rest of a record of SSL 2 or DTLS, and refuses it then.
        [_, major, _, ..] if major != 3 => Err(TlsFailure::Decode),
        [_, _, _, high, low, ..] => {
            let end = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
            if end > RECORD_BYTES_MAX {
                Err(TlsFailure::RecordOverflow)
            } else if end == HEADER_BYTES {
                // No record of a handshake is empty (RFC 8446 section 5.1).
                Err(TlsFailure::Decode)
            } else {
                Ok((end <= bytes.len()).then_some(end))
            }
        }
        _ => Ok(None),
    }
}

fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, output: &mut Vec<u8>) {
    let start = output.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
        data.encode(&mut [])
    {
        output.resize(start + required_size, 0);
        let written = data.encode(&mut output[start..]);
        assert_eq!(written.ok(), Some(required_size), "there is as much room as it asked for");
    }
}

/// Builds a session from the extracted keys, and checks that the caught secrets belong to them.
fn session(
    version: TlsVersion,
    extracted: &ExtractedSecrets,
    secrets: &TrafficSecrets,
) -> Result<TlsSession, TlsFailure> {
    let (suite, sending_key, sending_iv) = parts(version, &extracted.tx.1)?;
    let (_, receiving_key, receiving_iv) = parts(version, &extracted.rx.1)?;
    let (server, client) = (&secrets.server[..secrets.bytes], &secrets.client[..secrets.bytes]);
    let sending =
        TrafficKeys { key: sending_key, iv: sending_iv, secret: server, sequence: extracted.tx.0 };
    let receiving = TrafficKeys {
        key: receiving_key,
        iv: receiving_iv,
        secret: client,
        sequence: extracted.rx.0,
    };
    let is_confirmed =
        version == TlsVersion::V1_2 || sending.are_of_secret() && receiving.are_of_secret();
    let session = TlsSession::new(suite, &receiving, &sending);
    session.filter(|_| is_confirmed).ok_or(TlsFailure::Internal)
}

fn parts(
    version: TlsVersion,
    secrets: &ConnectionTrafficSecrets,
) -> Result<(TlsSuite, &[u8], &[u8]), TlsFailure> {
    let is_tls13 = version == TlsVersion::V1_3;
    Ok(match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (
            if is_tls13 { TlsSuite::Tls13Aes128 } else { TlsSuite::Tls12Aes128 },
            key.as_ref(),
            iv.as_ref(),
        ),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (
            if is_tls13 { TlsSuite::Tls13Aes256 } else { TlsSuite::Tls12Aes256 },
            key.as_ref(),
            iv.as_ref(),
        ),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (
            if is_tls13 { TlsSuite::Tls13ChaCha20 } else { TlsSuite::Tls12ChaCha20 },
            key.as_ref(),
            iv.as_ref(),
        ),
        _ => return Err(TlsFailure::Internal),
    })
}

/// Returns whether this may become a request in plain HTTP: no record begins with a letter.
fn is_plain_http(input: &[u8]) -> bool {
    const METHODS: [&[u8]; 10] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"CONNECT ",
        b"OPTIONS ",
        b"TRACE ",
        b"PATCH ",
        b"PRI ",
    ];
    METHODS
        .iter()
        .any(|method| input.starts_with(method) || !input.is_empty() && method.starts_with(input))
}
