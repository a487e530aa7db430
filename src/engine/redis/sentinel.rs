//! The watch over Sentinels: asks one after the other for the primary, and listens for its change.
//!
//! ```text
//!           handshake            HELLO 3             SUBSCRIBE
//! Greeting ───────────► Hello ───────────► Subscribing ───────► Watching: SENTINEL MASTER, SENTINEL CKQUORUM,
//!                          └── refused ───────┴── refused ────►           again after a push, a failure, a silence
//! ```
//!
//! A message on `+switch-master` only makes it ask: the answer alone has the epoch, by which an old word is told from a new one.
//! A Sentinel whose word does not count is left for the next one, with the wait of every other attempt in vain.

pub mod saved;

use std::collections::VecDeque;

use redis::{PushKind, Value};

use crate::clock::Millis;
use crate::engine::redis::advice::of_sentinel as advice;
use crate::engine::redis::config::{RedisConfig, RedisServer, SentinelConfig, ServerKind};
use crate::engine::redis::failure::RedisFailure;
use crate::engine::redis::garbage::Garbage;
use crate::engine::redis::handshake::Handshake;
use crate::engine::redis::resp::Whole;
use crate::engine::redis::sentinel_reply::{NamedPrimary, has_quorum};
use crate::engine::redis::session::{REPLY_BYTES_MAX, Session};
use crate::engine::redis::url::Address;

/// Its name in `CLIENT LIST`.
const NAME: &str = "oneloop-watcher";

/// The channel on which a Sentinel announces a new primary: `NAME old-host old-port host port`.
const SWITCH: &str = "+switch-master";

/// The shortest pause between two questions to a Sentinel.
const ASK_PAUSE: Millis = 100;

/// The pause between two questions to a Sentinel that announces nothing.
const POLL_PAUSE: Millis = 1000;

/// The longest silence after which a Sentinel is asked: one that was cut off from the others announces nothing.
const SILENCE_MAX: Millis = 10_000;

/// The success of the connections that follow the Sentinels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fare {
    /// One of them is up.
    pub is_up: bool,
    /// Attempts in vain of all of them.
    pub vain: usize,
}

/// A watch over Sentinels. The caller owns the socket and the clock, and drives the session.
pub struct SentinelWatch {
    pub session: Session,
    stage: WatchStage,
    /// Questions whose answers are still to come.
    asked: VecDeque<Question>,
    /// The answers to the questions so far.
    heard: Option<NamedPrimary>,
    /// When to ask again, unless an answer is awaited.
    ask_at: Millis,
    asked_at: Millis,
    /// Something happened since the latest question.
    is_nudged: bool,
    /// The word of this Sentinel counted.
    has_counted: bool,
    /// The primary that is followed.
    followed: Option<NamedPrimary>,
    /// The primary as told by a Sentinel without a quorum. It counts if no Sentinel has one.
    weak: Option<NamedPrimary>,
    /// Sentinels that were left, and as many of them as had been left when a word last counted.
    left: usize,
    counted_at: usize,
    rival: Option<Rival>,
    fare: Fare,
    /// Since then no connection to the primary is up.
    fruitless_since: Option<Millis>,
    /// The primary, if the others have yet to learn of it.
    news: Option<RedisServer>,
}

/// Another primary in the epoch of the one that serves.
struct Rival {
    address: Address,
    /// Sentinels that named it, one after the other.
    count: usize,
    /// Sentinels that had been left before the latest of them.
    left: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchStage {
    Greeting,
    Hello,
    Subscribing,
    /// `hears`: changes are announced.
    Watching {
        hears: bool,
    },
}

#[derive(Clone, Copy)]
enum Question {
    Master,
    Address,
    Quorum,
}

impl SentinelWatch {
    /// A watch for connections with these settings; `None` if no Sentinel names their server. The first attempt is due at once.
    pub fn new(of: &RedisConfig, now: Millis) -> Option<SentinelWatch> {
        let servers = of.sentinels.as_ref()?.servers.clone();
        let silence = of.silence.min(SILENCE_MAX);
        let mut config = RedisConfig { servers, silence, ..of.clone() };
        config.choose(0);
        Some(SentinelWatch {
            session: Session::new("link to a Sentinel", Handshake::of_commands(NAME), config, now),
            stage: WatchStage::Greeting,
            asked: VecDeque::new(),
            heard: None,
            ask_at: now,
            asked_at: now,
            is_nudged: false,
            has_counted: false,
            followed: None,
            weak: None,
            left: 0,
            counted_at: 0,
            rival: None,
            fare: Fare::default(),
            fruitless_since: None,
            news: None,
        })
    }

    /// Takes all of `input`.
    ///
    /// # Errors
    /// The Sentinel is left, and the text says what to do. The caller drops the socket and calls `down`.
    pub fn read(&mut self, input: &mut &[u8], now: Millis) -> Result<(), String> {
        if !self.session.begin_input(input, now) {
            return Ok(());
        }
        self.take(input, now).map_err(|failure| self.session.fail(failure))?;
        match self.is_idle() {
            true => self.session.expect_nothing(),
            false => self.session.expect_reply(now),
        }
        Ok(())
    }

    /// Asks again in its time, and leaves a Sentinel whose word leads nowhere. Input that is there must have been read before.
    ///
    /// # Errors
    /// See [`SentinelWatch::read`].
    pub fn on_time(&mut self, now: Millis) -> Result<(), String> {
        if self.is_watching() && self.fruitless_at().is_some_and(|at| at <= now) {
            self.fruitless_since = Some(now);
            let why = advice::fruitless(&self.session.config, self.followed.as_ref());
            return Err(self.session.fail(RedisFailure::Deaf(why)));
        }
        let is_silent = self.session.is_silent(now, "SENTINEL MASTER")?;
        if self.is_idle() && (is_silent || self.ask_at <= now) {
            self.ask(now);
        }
        Ok(())
    }

    /// Returns when `on_time` has something to do.
    pub fn deadline(&self) -> Option<Millis> {
        let fruitless = self.fruitless_at().filter(|_| self.is_watching());
        let ask = self.is_idle().then_some(self.ask_at);
        [self.session.deadline(), fruitless, ask].into_iter().flatten().min()
    }

    /// The connection is gone, or could not be made. Returns whether the word of this Sentinel had counted.
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        self.stage = WatchStage::Greeting;
        self.asked.clear();
        (self.heard, self.is_nudged) = (None, false);
        self.session.down(now, random);
        self.left += 1;
        // The word of one without a quorum may be old: it waits until all others were asked.
        if self.left - self.counted_at >= self.session.config.servers.len()
            && let Some(weak) = self.weak.take()
        {
            self.counted_at = self.left;
            if self.is_current(&weak) {
                // A name that no certificate can carry is told when a Sentinel says it, not here.
                let _ = self.follow(weak);
            }
        }
        std::mem::take(&mut self.has_counted)
    }

    /// Learns how the others fare, and returns the primary if it is news to them.
    pub fn name_server(&mut self, fare: Fare, now: Millis) -> Option<RedisServer> {
        let news = self.news.take();
        if fare.is_up || news.is_some() {
            self.fruitless_since = None;
        } else if self.followed.is_some() {
            self.fruitless_since.get_or_insert(now);
        }
        if std::mem::replace(&mut self.fare, fare).vain != fare.vain {
            self.nudge();
        }
        news
    }

    /// Returns whether the others have yet to learn of the primary.
    pub fn has_news(&self) -> bool {
        self.news.is_some()
    }

    /// Returns whether a primary is known.
    pub fn knows_primary(&self) -> bool {
        self.followed.is_some()
    }

    fn sentinels(&self) -> &SentinelConfig {
        self.session.config.sentinels.as_ref().expect("it is made from settings with Sentinels")
    }

    fn is_watching(&self) -> bool {
        matches!(self.stage, WatchStage::Watching { .. }) && self.session.is_ready()
    }

    /// Returns whether nothing is awaited.
    fn is_idle(&self) -> bool {
        self.is_watching() && self.asked.is_empty()
    }

    fn fruitless_at(&self) -> Option<Millis> {
        self.fruitless_since.map(|since| since.saturating_add(self.session.config.silence))
    }

    fn take(&mut self, input: &mut &[u8], now: Millis) -> Result<(), RedisFailure> {
        if self.session.is_greeting() {
            if !self.session.read_handshake(input, now)? {
                return Ok(());
            }
            if self.session.config.server.resp2_only {
                self.watch(false, now);
            } else {
                self.stage = WatchStage::Hello;
                self.session.send(&redis::cmd("HELLO").arg(3).get_packed_command());
            }
        }
        while let Some(reply) = self.session.replies.value(input, REPLY_BYTES_MAX)? {
            let Whole::Value(_) = reply else { return Err(Garbage::Size.into()) };
            let mut value = reply.parse()?;
            while let Value::Attribute { data, .. } = value {
                value = *data;
            }
            self.on_value(value, now)?;
        }
        Ok(())
    }

    fn on_value(&mut self, value: Value, now: Millis) -> Result<(), RedisFailure> {
        if let Value::Push { kind, data } = value {
            match (kind, &data[..]) {
                (PushKind::Subscribe, _) if self.stage == WatchStage::Subscribing => {
                    self.watch(true, now);
                }
                (PushKind::Message, [_, Value::BulkString(said)]) if self.is_ours(said) => {
                    self.nudge();
                }
                _ => {}
            }
            return Ok(());
        }
        let is_error = matches!(value, Value::ServerError(_));
        match self.stage {
            WatchStage::Hello if !is_error => {
                self.stage = WatchStage::Subscribing;
                self.session.send(&redis::cmd("SUBSCRIBE").arg(SWITCH).get_packed_command());
            }
            // In RESP2, or without the right to subscribe, it is asked more often.
            WatchStage::Hello | WatchStage::Subscribing => self.watch(false, now),
            WatchStage::Watching { .. } => self.on_answer(&value, now)?,
            WatchStage::Greeting => {}
        }
        Ok(())
    }

    fn on_answer(&mut self, value: &Value, now: Millis) -> Result<(), RedisFailure> {
        let config = &self.session.config;
        match self.asked.pop_front() {
            Some(Question::Master) => {
                let named = match value {
                    Value::ServerError(error) => Err(advice::refused(
                        config,
                        error.code(),
                        error.details().unwrap_or_default(),
                    )),
                    value => NamedPrimary::of_reply(value).map_err(|why| advice::odd(config, why)),
                };
                self.heard = Some(named.map_err(RedisFailure::Deaf)?);
                Ok(())
            }
            Some(Question::Address) => {
                let Some(named) = &mut self.heard else { return Ok(()) };
                let taken = named.take_address(value);
                taken.map_err(|why| RedisFailure::Deaf(advice::odd(config, why)))
            }
            Some(Question::Quorum) => match self.heard.take() {
                Some(named) => self.judge(named, has_quorum(value), now),
                None => Ok(()),
            },
            None => {
                let why = "an answer to nothing that was asked";
                Err(RedisFailure::Deaf(advice::odd(config, why)))
            }
        }
    }

    /// Follows the word of a Sentinel if it counts.
    fn judge(
        &mut self,
        named: NamedPrimary,
        has_quorum: bool,
        now: Millis,
    ) -> Result<(), RedisFailure> {
        self.check(&named).map_err(RedisFailure::Deaf)?;
        if !has_quorum {
            let why = advice::no_quorum(&self.session.config);
            if self.weak.as_ref().is_none_or(|weak| weak.epoch <= named.epoch) {
                self.weak = Some(named);
            }
            return Err(RedisFailure::Deaf(why));
        }
        (self.counted_at, self.weak, self.has_counted) = (self.left, None, true);
        let pause = match self.stage {
            _ if self.is_nudged => ASK_PAUSE,
            WatchStage::Watching { hears: true } => self.session.config.silence.max(ASK_PAUSE),
            _ => POLL_PAUSE,
        };
        self.ask_at = now.saturating_add(pause);
        self.follow(named)
    }

    /// Checks whether a word counts.
    ///
    /// # Errors
    /// The reason why it does not.
    fn check(&mut self, named: &NamedPrimary) -> Result<(), String> {
        let Some(followed) = &self.followed else { return Ok(()) };
        let config = &self.session.config;
        if named.epoch < followed.epoch {
            return Err(advice::outdated(config, named, followed));
        }
        if self.is_current(named) {
            return Ok(());
        }
        // Two primaries in one epoch are two names of one, or a mistake: the one that serves is kept, unless all name the other.
        let count = match self.rival.take() {
            Some(rival) if rival.address == named.address && rival.left + 1 == self.left => {
                rival.count + 1
            }
            _ => 1,
        };
        if count >= config.servers.len() {
            return Ok(());
        }
        self.rival = Some(Rival { address: named.address.clone(), count, left: self.left });
        Err(advice::two_primaries(config, named, followed))
    }

    /// Returns whether this primary is not older than the one that is followed, and no other one in its epoch that serves.
    fn is_current(&self, named: &NamedPrimary) -> bool {
        self.followed.as_ref().is_none_or(|followed| {
            let is_same = named.address == followed.address || !self.fare.is_up;
            named.epoch > followed.epoch || (named.epoch == followed.epoch && is_same)
        })
    }

    fn follow(&mut self, named: NamedPrimary) -> Result<(), RedisFailure> {
        if self.followed.as_ref().is_none_or(|one| one.address != named.address) {
            let SentinelConfig { name, primary, .. } = self.sentinels();
            let server = primary.at(named.address.clone());
            let server = server.map_err(|why| advice::odd(&self.session.config, &why));
            let server = server.map_err(RedisFailure::Deaf)?;
            let (address, epoch) = (&named.address, named.epoch);
            log::info!("the primary of {name} is {address}, by epoch {epoch} of its Sentinels");
            self.news = Some(server);
        }
        self.followed = Some(named);
        Ok(())
    }

    /// Returns whether a message on `+switch-master` is about our primary.
    fn is_ours(&self, said: &[u8]) -> bool {
        let rest = said.strip_prefix(self.sentinels().name.as_bytes());
        rest.is_some_and(|rest| rest.first() == Some(&b' '))
    }

    /// Something happened: asks again as soon as that may be.
    fn nudge(&mut self) {
        self.is_nudged = true;
        self.ask_at = self.ask_at.min(self.asked_at.saturating_add(ASK_PAUSE));
    }

    fn watch(&mut self, hears: bool, now: Millis) {
        self.stage = WatchStage::Watching { hears };
        self.ask(now);
    }

    fn ask(&mut self, now: Millis) {
        let name = &self.sentinels().name;
        let packed =
            |question: &str| redis::cmd("SENTINEL").arg(question).arg(name).get_packed_command();
        // In one piece, so that nothing changes between the answers.
        let words = ["MASTER", "GET-MASTER-ADDR-BY-NAME", "CKQUORUM"];
        let commands = words.map(packed).concat();
        self.session.send(&commands);
        self.asked.extend([Question::Master, Question::Address, Question::Quorum]);
        (self.asked_at, self.is_nudged) = (now, false);
        self.session.expect_reply(now);
    }
}

/// Returns whether the server of these settings is a Sentinel.
pub fn is_sentinel(config: &RedisConfig) -> bool {
    config.server.kind == ServerKind::Sentinel
}

#[cfg(test)]
mod tests;
