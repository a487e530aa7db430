//! The keys of session tickets: random, rotated by themselves, kept over a reload, and handed over in an upgrade.

use std::fmt;
use std::mem::replace;
use std::sync::{Arc, Mutex, MutexGuard};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::engine::feature::Feature;
use crate::engine::server::Server;
use crate::upgrade::{StateError, StateReader, StateWriter};

/// The time for which a key makes tickets. It opens them for as long again.
const KEY_SECONDS: u64 = 6 * 3600;

const NAME_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
/// A ticket has some 250 bytes.
const TICKET_BYTES_MAX: usize = 4096;

/// The keys of a process and its successors, with which returning clients resume without a signature. Clones share them.
///
/// rustls has such keys as well, but they can neither be written nor read. The lock is for its sake, and always free: the loop alone
/// does handshakes.
#[derive(Clone)]
pub struct TicketKeys(Arc<Mutex<RotatingKeys>>);

struct RotatingKeys {
    current: TicketKey,
    previous: Option<TicketKey>,
    /// The end of the current key's time, as unix seconds.
    until: u64,
}

/// A key, and the name with which its tickets begin.
#[derive(Zeroize, ZeroizeOnDrop)]
struct TicketKey {
    name: [u8; NAME_BYTES],
    key: [u8; KEY_BYTES],
}

impl TicketKeys {
    /// Makes new keys.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn new() -> Result<TicketKeys, String> {
        let keys = RotatingKeys::new(UnixTime::now().as_secs());
        let keys = keys.map_err(|_| "no keys for session tickets: no random bytes".to_owned())?;
        Ok(TicketKeys(Arc::new(Mutex::new(keys))))
    }

    fn locked(&self) -> MutexGuard<'_, RotatingKeys> {
        self.0.lock().expect("nobody panics while it is locked")
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        2 * KEY_SECONDS as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.locked().seal(plain, UnixTime::now().as_secs())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.locked().open(ticket, UnixTime::now().as_secs())
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

/// As a feature they are part of the state that an upgrade hands over.
impl Feature for TicketKeys {
    fn name(&self) -> &'static str {
        "tickets"
    }

    fn save(&self, writer: &mut StateWriter<'_>) {
        self.locked().save(writer);
    }

    fn restore(&mut self, _: &mut Server, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        *self.locked() = RotatingKeys::restored(reader)?;
        Ok(())
    }
}

impl RotatingKeys {
    fn new(now: u64) -> Result<RotatingKeys, Unspecified> {
        Ok(RotatingKeys { current: TicketKey::new()?, previous: None, until: now + KEY_SECONDS })
    }

    /// Makes a new key when it is time, or when a clock that was set back would keep the current one for longer.
    fn rotate(&mut self, now: u64) {
        if now < self.until && self.until - now <= KEY_SECONDS {
            return;
        }
        let Ok(next) = TicketKey::new() else { return };
        let old = replace(&mut self.current, next);
        self.previous = (now < self.until.saturating_add(KEY_SECONDS)).then_some(old);
        self.until = now + KEY_SECONDS;
    }

    fn seal(&mut self, plain: &[u8], now: u64) -> Option<Vec<u8>> {
        self.rotate(now);
        self.current.seal(plain)
    }

    fn open(&mut self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        self.rotate(now);
        let (name, sealed) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let mut keys = [&self.current].into_iter().chain(&self.previous);
        keys.find(|key| key.name == *name)?.open(sealed)
    }

    fn save(&self, writer: &mut StateWriter<'_>) {
        writer.u64(self.until);
        self.current.save(writer);
        if let Some(previous) = writer.option(self.previous.as_ref()) {
            previous.save(writer);
        }
    }

    fn restored(reader: &mut StateReader<'_>) -> Result<RotatingKeys, StateError> {
        let (until, current) = (reader.u64()?, TicketKey::restored(reader)?);
        let previous = reader.option(TicketKey::restored)?;
        Ok(RotatingKeys { current, previous, until })
    }
}

impl TicketKey {
    fn new() -> Result<TicketKey, Unspecified> {
        let mut key = TicketKey { name: [0; NAME_BYTES], key: [0; KEY_BYTES] };
        SystemRandom::new().fill(&mut key.name)?;
        SystemRandom::new().fill(&mut key.key)?;
        Ok(key)
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.key);
        LessSafeKey::new(key.expect("the key has its length"))
    }

    /// Makes a ticket: the name, a random nonce (numbers would count the clients for anyone), ciphertext and tag.
    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let (bytes, name) = (nonce, Aad::from(self.name));
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.cipher().seal_in_place_append_tag(nonce, name, &mut sealed).ok()?;
        Some([&self.name[..], &bytes, &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = Some(sealed).filter(|sealed| sealed.len() <= TICKET_BYTES_MAX)?.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.cipher().open_in_place(nonce, Aad::from(self.name), &mut plain);
        let length = length.ok()?.len();
        plain.truncate(length);
        Some(plain)
    }

    fn save(&self, writer: &mut StateWriter<'_>) {
        writer.bytes(&self.name);
        writer.bytes(&self.key);
    }

    fn restored(reader: &mut StateReader<'_>) -> Result<TicketKey, StateError> {
        const MALFORMED: StateError = StateError::Malformed("a key of session tickets");
        let name = reader.bytes(NAME_BYTES)?.try_into().map_err(|_| MALFORMED)?;
        let mut key = reader.bytes(KEY_BYTES)?;
        let copied = key.as_slice().try_into().map_err(|_| MALFORMED);
        key.zeroize();
        Ok(TicketKey { name, key: copied? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_ticket_is_good_for_one_to_two_times_of_its_key() {
        for (made, opened, is_good) in [
            (0, 1, true),
            (0, KEY_SECONDS, true),
            (KEY_SECONDS - 1, 2 * KEY_SECONDS - 1, true),
            (KEY_SECONDS - 1, 2 * KEY_SECONDS, false),
            (0, 100 * KEY_SECONDS, false),
        ] {
            let mut keys = RotatingKeys::new(NOW).unwrap();
            let ticket = keys.seal(b"session", NOW + made).unwrap();
            let found = keys.open(&ticket, NOW + opened);
            assert_eq!(found.as_deref(), is_good.then_some(&b"session"[..]), "{made} {opened}");
        }
        // A clock that is set back ends the key's time for new tickets, and the second time for all.
        let mut keys = RotatingKeys::new(NOW).unwrap();
        let ticket = keys.seal(b"session", NOW).unwrap();
        for (passed, is_good) in [(0, true), (1, true), (KEY_SECONDS, false)] {
            let found = keys.open(&ticket, NOW / 2 + passed);
            assert_eq!(found.is_some(), is_good, "{passed}");
        }
    }

    #[test]
    fn a_successor_opens_the_tickets_and_nobody_else_does() {
        let mut keys = RotatingKeys::new(NOW).unwrap();
        let older = keys.seal(b"older", NOW).unwrap();
        let newer = keys.seal(b"newer", NOW + KEY_SECONDS).unwrap();
        let mut bytes = Vec::new();
        let mut writer = StateWriter::new(&mut bytes);
        keys.save(&mut writer);
        writer.finish().unwrap();
        let restored =
            |bytes: &[u8]| RotatingKeys::restored(&mut StateReader::new(bytes.to_vec(), &mut ()));
        let mut successor = restored(&bytes).unwrap();
        for now in [NOW + KEY_SECONDS, NOW + 2 * KEY_SECONDS - 1] {
            assert_eq!(successor.open(&older, now).as_deref(), Some(&b"older"[..]));
            assert_eq!(successor.open(&newer, now).as_deref(), Some(&b"newer"[..]));
        }
        assert_eq!(successor.open(&older, NOW + 2 * KEY_SECONDS), None);
        assert_eq!(RotatingKeys::new(NOW).unwrap().open(&newer, NOW), None);
        for length in 0..bytes.len() {
            assert!(restored(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_ticket_that_was_changed_opens_nothing() {
        let mut keys = RotatingKeys::new(NOW).unwrap();
        let ticket = keys.seal(&[7; 200], NOW).unwrap();
        for length in 0..ticket.len() {
            assert_eq!(keys.open(&ticket[..length], NOW), None, "{length}");
            let mut changed = ticket.clone();
            changed[length] ^= 1 << (length % 8);
            assert_eq!(keys.open(&changed, NOW), None, "{length}");
        }
        let long = keys.seal(&[7; TICKET_BYTES_MAX + 1], NOW).unwrap();
        assert_eq!(keys.open(&long, NOW), None);
        for seed in 0..1000 {
            let mut random = Random::new(seed);
            let mut garbage = ticket[..NAME_BYTES].to_vec();
            garbage.extend((0..random.below(300)).map(|_| random.next() as u8));
            assert_eq!(keys.open(&garbage, NOW), None, "seed {seed}");
        }
    }
}
