//! Random streams of records, given to our session and to plain rustls: the same data, the same replies, the same end.
//!
//! A stream is one connection: a handshake with rustls' own server, whose keys are then given to a session of ours as well, and
//! records that a forger seals with the client's keys: data, padding, KeyUpdates, alerts, renegotiation, and everything that is
//! wrong. Both receive the same pieces, cut anywhere, and both send now and then. After each piece what they have received and
//! sent must be the same, byte for byte.
//!
//! Where we differ on purpose, [`Verdict::Differs`] stands beside the record with the reason.
//!
//! `ONELOOP_TLS_SECONDS=3600 cargo test --release --lib differential -- --nocapture` runs for this long.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::ClientConnection;
use rustls::server::ServerConnection;
use rustls::{
    ClientConfig, ConnectionTrafficSecrets, Error, PeerMisbehaved, ServerConfig,
    SupportedCipherSuite,
};

use super::forger::Forger;
use super::peers;
use crate::engine::random::Random;
use crate::engine::tls::config::take_traffic_secrets;
use crate::engine::tls::{
    RecordsEnd, TlsFailure, TlsSession, TlsSuite, TlsVersion, TrafficKeys, prepared, provider,
};

/// Agreement on a record.
#[derive(Clone, Copy)]
enum Verdict {
    Same,
    /// Ours, and why: the stream ends with this record.
    Differs(Option<RecordsEnd>, &'static str),
}

const UNEXPECTED: Option<RecordsEnd> = Some(RecordsEnd::Failed(TlsFailure::UnexpectedMessage));

fn failed(failure: TlsFailure, why: &'static str) -> Verdict {
    Verdict::Differs(Some(RecordsEnd::Failed(failure)), why)
}

struct Stream {
    ours: TlsSession,
    reference: ServerConnection,
    forger: Forger,
    suite: TlsSuite,
    hello: Vec<u8>,
    /// Received by ours, and not yet a whole record.
    kept: Vec<u8>,
    /// Records since the last one with data, and warnings and renegotiations in all, as we count them.
    useless: usize,
    warnings: usize,
    renegotiations: usize,
}

struct Configs {
    server: Arc<ServerConfig>,
    clients: Vec<(SupportedCipherSuite, Arc<ClientConfig>)>,
}

impl Configs {
    fn new() -> Configs {
        let suites = provider().cipher_suites.into_iter();
        let suites = suites.filter(|suite| !suite.suite().as_str().unwrap().contains("_RSA_"));
        Configs {
            server: Arc::new(prepared(peers::server_config(true))),
            clients: suites.map(|suite| (suite, peers::client_config(Some(suite)))).collect(),
        }
    }
}

impl Stream {
    fn open(configs: &Configs, seed: u64) -> Stream {
        peers::seed(seed);
        let (suite, config) = &configs.clients[seed as usize % configs.clients.len()];
        let mut client = peers::client(config);
        let mut reference = ServerConnection::new(configs.server.clone()).unwrap();
        let mut secrets = None;
        let mut hello = Vec::new();
        while client.is_handshaking() || reference.is_handshaking() {
            let sent = peers::sent_by(&mut client);
            if hello.is_empty() {
                hello = sent[5..].to_vec();
            }
            reference.read_tls(&mut &sent[..]).unwrap();
            reference.process_new_packets().unwrap();
            secrets = take_traffic_secrets().or(secrets);
            let mut sent = Vec::new();
            while reference.wants_write() {
                reference.write_tls(&mut sent).unwrap();
            }
            peers::give(&mut client, &sent).unwrap();
        }
        let is_tls13 = suite.tls13().is_some();
        let (client_secret, server_secret) =
            secrets.as_ref().map_or((&[][..], &[][..]), |secrets| {
                (&secrets.client[..secrets.bytes], &secrets.server[..secrets.bytes])
            });
        assert_eq!(is_tls13, !client_secret.is_empty());
        Stream::of(client, reference, is_tls13, client_secret, server_secret, hello)
    }

    fn of(
        client: ClientConnection,
        reference: ServerConnection,
        is_tls13: bool,
        client_secret: &[u8],
        server_secret: &[u8],
        hello: Vec<u8>,
    ) -> Stream {
        let extracted = client.dangerous_extract_secrets().unwrap();
        let parts = |secrets: &ConnectionTrafficSecrets| match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
                (0, key.as_ref().to_vec(), iv.as_ref().to_vec())
            }
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
                (1, key.as_ref().to_vec(), iv.as_ref().to_vec())
            }
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (2, key.as_ref().to_vec(), iv.as_ref().to_vec())
            }
            _ => unreachable!(),
        };
        let (cipher, key, iv) = parts(&extracted.tx.1);
        let (_, server_key, server_iv) = parts(&extracted.rx.1);
        let suite = [
            [TlsSuite::Tls12Aes128, TlsSuite::Tls12Aes256, TlsSuite::Tls12ChaCha20],
            [TlsSuite::Tls13Aes128, TlsSuite::Tls13Aes256, TlsSuite::Tls13ChaCha20],
        ][usize::from(is_tls13)][cipher];
        let receiving =
            TrafficKeys { key: &key, iv: &iv, secret: client_secret, sequence: extracted.tx.0 };
        let sending = TrafficKeys {
            key: &server_key,
            iv: &server_iv,
            secret: server_secret,
            sequence: extracted.rx.0,
        };
        let ours = TlsSession::new(suite, &receiving, &sending).unwrap();
        let secret = client_secret.to_vec();
        let forger = Forger { key, iv, secret, sequence: extracted.tx.0, is_chacha: cipher == 2 };
        Stream {
            ours,
            reference,
            forger,
            suite,
            hello,
            kept: Vec::new(),
            useless: 0,
            warnings: 0,
            renegotiations: 0,
        }
    }

    fn is_tls13(&self) -> bool {
        self.suite.version() == TlsVersion::V1_3
    }

    /// Gives a piece to both, and returns whether the stream goes on.
    fn give(&mut self, piece: &[u8]) -> bool {
        let (their_plain, their_end) = self.give_reference(piece);
        let mut their_wire = Vec::new();
        while self.reference.wants_write() {
            self.reference.write_tls(&mut their_wire).unwrap();
        }
        self.kept.extend_from_slice(piece);
        let mut our_wire = Vec::new();
        let opened = self.ours.open(&mut self.kept, &mut our_wire);
        let is_counted = opened.end == Some(RecordsEnd::Failed(TlsFailure::TooManyUselessRecords));
        if is_counted && their_end.is_ok() && self.useless > 32 {
            // Differs: empty records and KeyUpdates count together, and only data ends the row.
            return false;
        }
        assert!(self.kept[..opened.plain] == their_plain, "the same data");
        self.kept.drain(..opened.consumed);
        match (&their_end, opened.end) {
            (Ok(false), None) | (Ok(true), Some(RecordsEnd::Closed)) => {
                assert_eq!(our_wire, their_wire)
            }
            (Err(error), Some(RecordsEnd::Failed(failure))) if is_silent(error) => {
                // Differs: rustls just ends, we say why.
                assert!(their_wire.is_empty() || our_wire.starts_with(&their_wire));
                assert!(our_wire.len() > their_wire.len(), "{error:?} {failure:?}");
            }
            (Err(_), Some(RecordsEnd::Failed(_))) => {
                assert_eq!(our_wire, their_wire, "{their_end:?}")
            }
            _ => panic!("rustls: {their_end:?}, ours: {:?}", opened.end),
        }
        opened.end.is_none()
    }

    /// Returns the data, and whether the client has closed.
    fn give_reference(&mut self, mut piece: &[u8]) -> (Vec<u8>, Result<bool, Error>) {
        let mut plain = Vec::new();
        while !piece.is_empty() {
            let bytes = self.reference.read_tls(&mut piece).unwrap();
            let state = self.reference.process_new_packets();
            let _ = self.reference.reader().read_to_end(&mut plain);
            match state {
                Ok(state) if state.peer_has_closed() => return (plain, Ok(true)),
                Ok(_) => assert!(bytes > 0),
                Err(error) => return (plain, Err(error)),
            }
        }
        (plain, Ok(false))
    }

    /// Both say the same.
    fn say(&mut self, plain: &[u8]) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        self.ours.seal(plain, &mut ours);
        self.reference.writer().write_all(plain).unwrap();
        while self.reference.wants_write() {
            self.reference.write_tls(&mut theirs).unwrap();
        }
        assert_eq!(ours, theirs);
    }

    fn close(&mut self) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        self.ours.close_notify(&mut ours);
        self.reference.send_close_notify();
        while self.reference.wants_write() {
            self.reference.write_tls(&mut theirs).unwrap();
        }
        assert_eq!(ours, theirs);
    }

    fn data(&mut self, random: &mut Random) -> Vec<u8> {
        let bytes = match random.below(60) {
            0 => 16_384,
            1..10 => random.below(2000),
            _ => random.below(40),
        };
        let room = 16_384 - bytes;
        let padding = random.choose(&[0, 0, 0, 1, 30, 300]).min(room);
        self.useless = if bytes > 0 { 0 } else { self.useless + 1 };
        let plain: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
        self.forger.record(23, &plain, padding)
    }

    /// A record or a few, right or wrong.
    fn next(&mut self, random: &mut Random) -> (Vec<u8>, Verdict) {
        match random.below(40) {
            0..18 => (self.data(random), Verdict::Same),
            18..20 => {
                // An empty record, or a row of them.
                let count = random.choose(&[1, 1, 2, 31, 33]);
                self.useless += count;
                let records = (0..count).flat_map(|_| self.forger.record(23, b"", 0));
                (records.collect(), Verdict::Same)
            }
            20..27 if self.is_tls13() => self.key_updates(random),
            20..27 => self.renegotiation(random),
            27..31 => self.alert(random),
            31..35 => self.forged(random),
            35..38 => self.misplaced(random),
            _ => self.garbage(random),
        }
    }

    fn key_updates(&mut self, random: &mut Random) -> (Vec<u8>, Verdict) {
        let request = random.below(2) as u8;
        let whole = [24, 0, 0, 1, request];
        match random.below(12) {
            0..6 => {
                let count = random.choose(&[1, 1, 1, 2, 10, 33]);
                let mut records = Vec::new();
                for _ in 0..count {
                    self.useless += 1;
                    records.extend(self.forger.record(22, &whole, random.below(3)));
                    self.forger.update();
                }
                (records, Verdict::Same)
            }
            6..8 => {
                // In pieces.
                self.useless += 1;
                let pieces: Vec<Vec<u8>> =
                    random.pieces(&whole, 4).iter().map(|piece| piece.to_vec()).collect();
                let records =
                    pieces.iter().flat_map(|piece| self.forger.record(22, piece, 0)).collect();
                self.forger.update();
                (records, Verdict::Same)
            }
            8 => {
                // Something stands behind it: the beginning of another, or another.
                let behind = random.choose(&[1, 2, 5]);
                (self.forger.record(22, &[&whole[..], &whole[..behind]].concat(), 0), Verdict::Same)
            }
            9 => {
                let request = 2 + random.below(254) as u8;
                (self.forger.record(22, &[24, 0, 0, 1, request], 0), Verdict::Same)
            }
            10 => {
                // A piece, and then data.
                let cut = 1 + random.below(4);
                let mut records = self.forger.record(22, &whole[..cut], 0);
                records.extend(self.forger.record(23, b"between", 0));
                (records, Verdict::Same)
            }
            _ => {
                let length = random.choose(&[0, 2, 3]);
                let message = [24, 0, 0, length, 0, 0, 0];
                let message = &message[..4 + usize::from(length)];
                (self.forger.record(22, message, 0), Verdict::Same)
            }
        }
    }

    fn renegotiation(&mut self, random: &mut Random) -> (Vec<u8>, Verdict) {
        let hello = self.hello.clone();
        let mut records = Vec::new();
        for piece in random.pieces(&hello, 400) {
            records.extend(self.forger.record(22, piece, 0));
        }
        if random.below(8) == 0 {
            // Data in the middle of it.
            let mut records = self.forger.record(22, &hello[..1 + random.below(100)], 0);
            records.extend(self.forger.record(23, b"between", 0));
            return (records, Verdict::Same);
        }
        self.renegotiations += 1;
        let verdict = match (self.renegotiations, self.renegotiations + self.warnings) {
            (_, 5..) => failed(
                TlsFailure::TooManyUselessRecords,
                "warnings and renegotiations count together",
            ),
            (2.., _) => Verdict::Differs(None, "up to four renegotiations are refused, not one"),
            _ => Verdict::Same,
        };
        (records, verdict)
    }

    fn alert(&mut self, random: &mut Random) -> (Vec<u8>, Verdict) {
        let level = random.choose(&[1, 1, 1, 2, 2, 0, 77]);
        let description = random.choose(&[0, 10, 20, 42, 48, 80, 90, 90, 90, 100, 112, 255]);
        if random.below(10) == 0 {
            let wrong = [level, description, 0];
            let wrong = &wrong[..random.choose(&[1, 3])];
            return (self.forger.record(21, wrong, 0), Verdict::Same);
        }
        let record = self.forger.record(21, &[level, description], 0);
        let is_tolerable = if self.is_tls13() { description == 90 } else { level == 1 };
        let of_it = if (42..=48).contains(&description) && description != 47 {
            TlsFailure::CertificateRefused
        } else {
            TlsFailure::AlertReceived
        };
        let verdict = match (level, description) {
            (1 | 2, 0) => Verdict::Same,
            (_, 0) => {
                Verdict::Differs(Some(RecordsEnd::Closed), "the level of an alert says nothing")
            }
            _ if is_tolerable => {
                self.warnings += 1;
                let total = self.warnings + self.renegotiations;
                match level {
                    1 if total > 4 && self.renegotiations > 0 => failed(
                        TlsFailure::TooManyUselessRecords,
                        "warnings and renegotiations count together",
                    ),
                    1 => Verdict::Same,
                    _ if total > 4 => {
                        failed(TlsFailure::TooManyUselessRecords, "user_canceled has no level")
                    }
                    _ => Verdict::Differs(None, "user_canceled has no level"),
                }
            }
            (1, _) => {
                failed(of_it, "TLS 1.3: any other alert ends the session, whatever its level")
            }
            (2, _) => Verdict::Same,
            _ => failed(of_it, "an unknown level is as good as fatal"),
        };
        (record, verdict)
    }

    /// Records that were not sealed for this place.
    fn forged(&mut self, random: &mut Random) -> (Vec<u8>, Verdict) {
        let mut record = self.forger.record(23, b"a record as it should be", 0);
        match random.below(6) {
            0 | 1 => {
                let at = 5 + random.below(record.len() - 5);
                record[at] ^= 1 << random.below(8);
                (record, Verdict::Same)
            }
            2 => {
                // Again.
                self.useless = 0;
                let again = [&record[..], &record[..]].concat();
                (again, Verdict::Same)
            }
            3 => {
                let next = self.forger.record(23, b"which comes too early", 0);
                ([next, record].concat(), Verdict::Same)
            }
            4 => {
                record[4] -= 1;
                record.pop();
                (record, Verdict::Same)
            }
            _ => {
                record[2] = random.choose(&[0, 1, 2, 4, 200]);
                let verdict = if self.is_tls13() {
                    failed(
                        TlsFailure::BadRecordMac,
                        "the header is authenticated as it came, with its version",
                    )
                } else {
                    Verdict::Same
                };
                (record, verdict)
            }
        }
    }

    /// Sealed rightly, with content that has no place here.
    fn misplaced(&mut self, random: &mut Random) -> (Vec<u8>, Verdict) {
        let is_tls13 = self.is_tls13();
        match random.below(8) {
            0 => {
                let kind = random.choose(&[0, 2, 4, 5, 8, 11, 20, 99]);
                let kind = if is_tls13 { kind } else { kind.max(2) };
                let record = self.forger.record(22, &[kind, 0, 0, 3, 1, 2, 3], 0);
                (
                    record,
                    failed(
                        TlsFailure::UnexpectedMessage,
                        "a message is refused by its type, unread",
                    ),
                )
            }
            1 if is_tls13 => {
                let kind = random.choose(&[1, 19, 24, 25, 255]);
                let record = self.forger.record(kind, b"x", 0);
                (
                    record,
                    failed(
                        TlsFailure::UnexpectedMessage,
                        "an unknown type is unexpected, not malformed",
                    ),
                )
            }
            1 => (self.forger.record(22, &[0, 0, 0, 0], 0), Verdict::Same),
            2 if is_tls13 => (self.forger.record(20, &[1], 0), Verdict::Same),
            2 | 3 => {
                let record = vec![20, 3, 3, 0, 1, 1];
                (
                    record,
                    Verdict::Differs(UNEXPECTED, "refused by its header, before the rest has come"),
                )
            }
            // Too long by one byte, of content or of padding.
            4 => (self.forger.record(23, &[0; 16_385], 0), Verdict::Same),
            5 => {
                let padding = if is_tls13 { 16_384 } else { 0 };
                let plain = if is_tls13 { &[7][..] } else { &[7; 16_385] };
                (self.forger.record(23, plain, padding), Verdict::Same)
            }
            6 if is_tls13 => {
                // Zeros alone.
                let zeros = random.choose(&[0, 1, 100]);
                (self.forger.record(0, &vec![0; zeros], 0), Verdict::Same)
            }
            6 => {
                let record = self.forger.record(22, &[1, 1, 0, 0, 5], 0);
                (record, Verdict::Same)
            }
            _ if is_tls13 => {
                let outer = random.choose(&[21, 22]);
                let record = self.forger.record_as(outer, 23, b"x", 0);
                (
                    record,
                    failed(TlsFailure::UnexpectedMessage, "a record of TLS 1.3 looks like data"),
                )
            }
            _ => {
                let record = self.forger.record(22, b"", 0);
                (
                    record,
                    Verdict::Differs(
                        UNEXPECTED,
                        "an empty piece of a message is refused (RFC 8446, 5.1)",
                    ),
                )
            }
        }
    }

    fn garbage(&mut self, random: &mut Random) -> (Vec<u8>, Verdict) {
        let bytes = random.below(60);
        let mut record = vec![23, 3, 3, 0, bytes as u8];
        record.extend((0..bytes).map(|_| random.next() as u8));
        match random.below(4) {
            0 | 1 => (record, Verdict::Same),
            2 => {
                record[0] = random.choose(&[0, 1, 19, 24, 25, 71, 255]);
                (
                    record,
                    failed(
                        TlsFailure::UnexpectedMessage,
                        "an unknown type is unexpected, not malformed",
                    ),
                )
            }
            _ => {
                let [high, low] = (16_641 + random.below(40_000) as u16).to_be_bytes();
                [record[3], record[4]] = [high, low];
                (
                    record,
                    failed(
                        TlsFailure::RecordOverflow,
                        "the longest record is that of TLS 1.3, for both",
                    ),
                )
            }
        }
    }
}

/// rustls ends with these without an alert.
fn is_silent(error: &Error) -> bool {
    matches!(
        error,
        Error::PeerMisbehaved(
            PeerMisbehaved::MessageInterleavedWithHandshakeMessage
                | PeerMisbehaved::IllegalTlsInnerPlaintext
                | PeerMisbehaved::TooManyEmptyFragments
                | PeerMisbehaved::TooManyKeyUpdateRequests
                | PeerMisbehaved::TooManyRenegotiationRequests
                | PeerMisbehaved::TooManyWarningAlertsReceived
        ) | Error::InvalidMessage(rustls::InvalidMessage::HandshakePayloadTooLarge)
    )
}

#[derive(Default, Debug)]
struct Totals {
    records: u64,
    ended: u64,
    differed: u64,
}

fn run(configs: &Configs, seed: u64, totals: &mut Totals) {
    let mut stream = Stream::open(configs, seed);
    let mut random = Random::new(seed);
    for _ in 0..1 + random.below(14) {
        let (bytes, verdict) = stream.next(&mut random);
        totals.records += 1;
        if let Verdict::Differs(end, why) = verdict {
            stream.kept.extend_from_slice(&bytes);
            let opened = stream.ours.open(&mut stream.kept, &mut Vec::new());
            assert_eq!(opened.end, end, "{why}");
            totals.differed += 1;
            return;
        }
        let size_max = random.choose(&[1, 7, 100, 5000, 40_000]);
        let size_max = if bytes.len() > 2000 { size_max.max(100) } else { size_max };
        for piece in random.pieces(&bytes, size_max) {
            if !stream.give(piece) {
                totals.ended += 1;
                return;
            }
        }
        if random.below(3) == 0 {
            let said = vec![b's'; 1 + random.below(300)];
            stream.say(&said);
        }
    }
    stream.say(b"the last word");
    stream.close();
}

#[test]
fn streams_of_records_end_as_with_rustls() {
    let seconds = std::env::var("ONELOOP_TLS_SECONDS").ok().and_then(|it| it.parse().ok());
    let first = std::env::var("ONELOOP_TLS_SEED").ok().and_then(|it| it.parse().ok());
    let (configs, start, mut totals) = (Configs::new(), Instant::now(), Totals::default());
    let (first, mut seeds): (u64, u64) = (first.unwrap_or(1), 0);
    while start.elapsed() < Duration::from_secs(seconds.unwrap_or(3)) || seeds < 500 {
        let seed = first + seeds;
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(&configs, seed, &mut totals)
        }));
        if let Err(panic) = ran {
            println!("ONELOOP_TLS_SEED={seed} shows it again");
            std::panic::resume_unwind(panic);
        }
        seeds += 1;
    }
    println!("{seeds} streams from {first} on: {totals:?}");
    assert!(totals.ended > 100 && totals.differed > 50, "little happened: {totals:?}");
}
