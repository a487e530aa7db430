//! What every connection of ours to Redis has: its deadlines, what is to be written, and the wait before the next attempt.
//!
//! ```text
//!            connecting()             connected()              ready()
//! Waiting ───────────────► Connecting ───────────► Greeting ─────────────► Ready
//!    ▲                         │                       │                      │
//!    └──────── down() ─────────┴── fail(), or closed ──┴──────────────────────┘
//! ```

use crate::clock::Millis;
use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;

const BACKOFF_FIRST: Millis = 50;
/// No attempt follows the last one sooner, whatever the settings say.
const BACKOFF_MIN: Millis = 10;
/// What was written is cut off the front when it is so much, and half of what is held: each byte is moved once at most.
const WRITTEN_BYTES_MAX: usize = 64 * 1024;

/// One connection after the other to the same Redis. Whoever speaks over it says when the greeting is over.
pub struct Session {
    config: RedisConfig,
    state: State,
    /// Since when it is ready; stays until `down`.
    ready_since: Option<Millis>,
    /// Attempts since it last stayed ready.
    attempts: u32,
    output: Vec<u8>,
    /// So much of it is written.
    written: usize,
}

enum State {
    Waiting {
        until: Millis,
    },
    Connecting {
        deadline: Millis,
    },
    Greeting {
        deadline: Millis,
    },
    Ready {
        heard: Millis,
        /// When something must have been heard, because it was asked for.
        answer_by: Option<Millis>,
    },
    /// Failed, and not yet `down`.
    Broken,
}

/// What has come due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing was heard for `silence`, and nothing was asked.
    Silence,
    /// What should have come by now did not.
    Overdue,
}

impl Session {
    /// The first attempt is due at once.
    pub fn new(config: RedisConfig, now: Millis) -> Session {
        Session {
            config,
            state: State::Waiting { until: now },
            ready_since: None,
            attempts: 0,
            output: Vec::new(),
            written: 0,
        }
    }

    pub fn config(&self) -> &RedisConfig {
        &self.config
    }

    /// Whether the wait for the next attempt is over.
    pub fn wants_connect(&self, now: Millis) -> bool {
        matches!(self.state, State::Waiting { until } if now >= until)
    }

    /// Whether the first attempt is still to end.
    pub fn is_first(&self) -> bool {
        self.attempts == 0 && self.ready_since.is_none()
    }

    /// Whether it is connected, and the greeting has not ended.
    pub fn is_greeting(&self) -> bool {
        matches!(self.state, State::Greeting { .. })
    }

    /// Whether the greeting is over and the connection is not known to be broken.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// The caller begins to resolve or to connect. One deadline covers everything up to `ready`.
    pub fn connecting(&mut self, now: Millis) {
        self.state = State::Connecting { deadline: now.saturating_add(self.config.timeout) };
    }

    /// The socket is connected.
    pub fn connected(&mut self, now: Millis) {
        let deadline = match self.state {
            State::Connecting { deadline } => deadline,
            _ => now.saturating_add(self.config.timeout),
        };
        self.state = State::Greeting { deadline };
    }

    /// The greeting is over.
    pub fn ready(&mut self, now: Millis) {
        self.state = State::Ready { heard: now, answer_by: None };
        self.ready_since = Some(now);
    }

    /// Bytes came: nothing is awaited any more, unless `expect` says so again.
    pub fn heard(&mut self, now: Millis) {
        if let State::Ready { heard, answer_by } = &mut self.state {
            (*heard, *answer_by) = (now, None);
        }
    }

    /// A byte must come by then; what is awaited already stays so.
    pub fn expect(&mut self, by: Millis) {
        if let State::Ready { answer_by, .. } = &mut self.state {
            answer_by.get_or_insert(by);
        }
    }

    /// Queues bytes for the socket.
    pub fn speak<T>(&mut self, say: impl FnOnce(&RedisConfig, &mut Vec<u8>) -> T) -> T {
        say(&self.config, &mut self.output)
    }

    /// Bytes for the socket.
    pub fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// The socket took the first `count` bytes of `output`.
    pub fn wrote(&mut self, count: usize) {
        self.written = self.written.saturating_add(count).min(self.output.len());
        if self.written == self.output.len() {
            self.forget_output();
        } else if self.written >= WRITTEN_BYTES_MAX && 2 * self.written >= self.output.len() {
            self.output.drain(..self.written);
            self.written = 0;
        }
    }

    /// When to look again: connect (`wants_connect`) while waiting, else `due`.
    pub fn deadline(&self) -> Option<Millis> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Connecting { deadline } | State::Greeting { deadline } => Some(deadline),
            State::Ready { answer_by: Some(by), .. } => Some(by),
            State::Ready { heard, .. } => Some(heard.saturating_add(self.config.silence)),
            State::Broken => None,
        }
    }

    /// What the time asks for. Input that is there must have been read before.
    pub fn due(&self, now: Millis) -> Option<Due> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        match self.state {
            State::Waiting { .. } | State::Broken => None,
            State::Ready { answer_by: None, .. } => Some(Due::Silence),
            _ => Some(Due::Overdue),
        }
    }

    /// What is overdue, for the operator: the answer to this command, once it is connected.
    pub fn overdue(&self, command: &str) -> String {
        match self.state {
            State::Connecting { .. } => advice::unreachable(&self.config),
            State::Greeting { .. } => advice::unanswered(&self.config, command),
            _ => advice::silent(&self.config, command),
        }
    }

    /// Nothing more is said or heard on this connection.
    pub fn fail(&mut self) {
        self.state = State::Broken;
        self.forget_output();
    }

    /// The connection is gone, or could not be made: waits before the next attempt, longer each time until one stays ready.
    /// `random` is any 64 bits; they keep many servers from coming back in step. Says whether it was ready.
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        let ready_since = self.ready_since.take();
        // To be ready is not yet to stay: a Redis that cuts us off each time would otherwise be back 30 times a second,
        // and each time every client is told to fetch its state.
        if ready_since.is_some_and(|since| now.saturating_sub(since) >= self.config.backoff_max) {
            self.attempts = 0;
        }
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.attempts.min(32));
        let longest = doubled.min(self.config.backoff_max).max(BACKOFF_MIN);
        let shortest = (longest / 4).max(BACKOFF_MIN);
        let wait = shortest + random % (longest - shortest + 1);
        self.attempts = self.attempts.saturating_add(1);
        self.state = State::Waiting { until: now.saturating_add(wait) };
        self.forget_output();
        ready_since.is_some()
    }

    fn forget_output(&mut self) {
        self.output = Vec::new();
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    fn session() -> Session {
        Session::new(RedisConfig::from_url("redis://h").expect("the URL is right"), 0)
    }

    #[test]
    fn what_is_written_in_pieces_comes_out_once_and_in_order() {
        for seed in 1..40 {
            let mut random = Random::new(seed);
            let mut session = session();
            let (mut queued, mut written) = (Vec::new(), Vec::new());
            while queued.len() < 4 * WRITTEN_BYTES_MAX {
                let length = random.below(WRITTEN_BYTES_MAX);
                let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                queued.extend_from_slice(&bytes);
                session.speak(|_, output| output.extend_from_slice(&bytes));
                let count = random.below(session.output().len() + 1);
                written.extend_from_slice(&session.output()[..count]);
                session.wrote(count);
                assert!(session.output.len() <= 2 * session.output().len() + WRITTEN_BYTES_MAX);
            }
            written.extend_from_slice(session.output());
            session.wrote(session.output().len());
            assert!(written == queued, "seed {seed}");
            assert_eq!((session.output().len(), session.output.capacity()), (0, 0), "seed {seed}");
        }
    }

    #[test]
    fn what_is_awaited_first_is_due_first() {
        let mut session = session();
        session.connecting(0);
        session.connected(0);
        session.expect(1);
        assert_eq!(session.deadline(), Some(5000), "the greeting has its own deadline");
        session.ready(10);
        assert_eq!((session.due(10_009), session.due(10_010)), (None, Some(Due::Silence)));
        session.expect(300);
        session.expect(200);
        assert_eq!((session.due(299), session.due(300)), (None, Some(Due::Overdue)));
        session.heard(250);
        assert_eq!(session.deadline(), Some(10_250));
        session.fail();
        assert_eq!((session.deadline(), session.due(u64::MAX)), (None, None));
    }
}
