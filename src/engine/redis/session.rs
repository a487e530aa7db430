//! The common part of every connection to Redis: handshake, deadlines, buffers, and the wait before the next attempt.
//!
//! ```text
//!            connecting()             securing()            connected()            ready()
//! Waiting ───────────────► Connecting ──────────► Securing ────────────► Greeting ───────────► Ready
//!    ▲                         │                     │                      │                    │
//!    └──────── down() ─────────┴── fail(), or closed ┴──────────────────────┴────────────────────┘
//! ```

use crate::clock::Millis;
use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::failure::RedisFailure;
use crate::engine::redis::handshake::Handshake;
use crate::engine::redis::reply_parser::ReplyParser;

const BACKOFF_FIRST: Millis = 50;
/// The shortest pause between two attempts, whatever the settings say.
const BACKOFF_MIN: Millis = 10;
/// Written bytes are cut off the front when there are this many, and they are half of the buffer: each byte is moved once at most.
const WRITTEN_BYTES_MAX: usize = 64 * 1024;
/// The longest reply to a command that is held.
pub const REPLY_BYTES_MAX: usize = 64 * 1024;

/// One connection after the other to the same Redis. The caller owns the socket and the clock.
pub struct Session {
    /// The connection's name in the log.
    pub name: &'static str,
    pub config: RedisConfig,
    /// The replies of the current connection.
    pub replies: ReplyParser,
    handshake: Handshake,
    state: SessionState,
    /// The time at which it became ready; stays until `down`.
    ready_since: Option<Millis>,
    /// Attempts since it last stayed ready.
    attempts: u32,
    /// When a wait was last cut short.
    hurried: Option<Millis>,
    /// Why the last connection carried no messages, if that ended it.
    deaf: Option<String>,
    output: Vec<u8>,
    /// The length of the written part of `output`.
    written: usize,
}

enum SessionState {
    Waiting {
        until: Millis,
    },
    Connecting {
        deadline: Millis,
    },
    /// Connected; with TLS, the handshake has yet to end.
    Securing {
        deadline: Millis,
    },
    Greeting {
        deadline: Millis,
    },
    Ready {
        received: Millis,
        /// When a byte must have come, because it was asked for.
        answer_by: Option<Millis>,
    },
    /// Failed, and not yet `down`.
    Broken,
}

/// A deadline that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing came for `silence`, and nothing was asked.
    Silence,
    /// Something was awaited, and did not come in time.
    Overdue,
}

impl Session {
    /// The first attempt is due at once. `name`: for the log.
    pub fn new(
        name: &'static str,
        handshake: Handshake,
        config: RedisConfig,
        now: Millis,
    ) -> Session {
        Session {
            name,
            config,
            replies: ReplyParser::new(),
            handshake,
            state: SessionState::Waiting { until: now },
            ready_since: None,
            attempts: 0,
            hurried: None,
            deaf: None,
            output: Vec::new(),
            written: 0,
        }
    }

    /// Returns whether the wait for the next attempt is over, and there is a server to connect to.
    pub fn wants_connect(&self, now: Millis) -> bool {
        let is_over = matches!(self.state, SessionState::Waiting { until } if now >= until);
        is_over && !self.config.servers.is_empty()
    }

    /// Returns whether it waits for the next attempt.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, SessionState::Waiting { .. })
    }

    /// Returns whether it has been ready for so long that its end is a new trouble.
    pub fn has_stayed(&self, now: Millis) -> bool {
        self.ready_since.is_some_and(|since| now.saturating_sub(since) >= self.config.backoff_max)
    }

    /// Returns whether the first attempt has yet to end.
    pub fn is_first(&self) -> bool {
        self.attempts == 0 && self.ready_since.is_none()
    }

    /// Returns whether it is connected, and the handshake has not ended.
    pub fn is_greeting(&self) -> bool {
        matches!(self.state, SessionState::Greeting { .. })
    }

    /// Returns whether the handshake is over and the connection is not known to be broken.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, SessionState::Ready { .. })
    }

    /// Returns why no messages came, if that ended the last connection.
    pub fn deaf(&self) -> Option<&str> {
        self.deaf.as_deref()
    }

    /// The caller begins to resolve or to connect. One deadline covers everything up to `ready`.
    pub fn connecting(&mut self, now: Millis) {
        self.state = SessionState::Connecting { deadline: now.saturating_add(self.config.timeout) };
    }

    /// The socket is connected, and TLS may begin on it.
    pub fn securing(&mut self) {
        if let SessionState::Connecting { deadline } = self.state {
            self.state = SessionState::Securing { deadline };
        }
    }

    /// The connection can carry commands: queues the handshake.
    pub fn connected(&mut self, now: Millis) {
        let deadline = match self.state {
            SessionState::Connecting { deadline } | SessionState::Securing { deadline } => deadline,
            _ => now.saturating_add(self.config.timeout),
        };
        self.state = SessionState::Greeting { deadline };
        self.handshake.begin(&self.config, &mut self.output);
    }

    /// Begins to take `input` from the socket. `false`: the connection is broken, and the input is dropped.
    pub fn begin_input(&mut self, input: &mut &[u8], now: Millis) -> bool {
        let is_open = self.is_greeting() || self.is_ready();
        match is_open {
            true if !input.is_empty() => self.on_bytes(now),
            true => {}
            false => *input = &[],
        }
        is_open
    }

    /// Takes the replies of a handshake for commands. `false`: the input is used up before its end.
    pub fn read_handshake(&mut self, input: &mut &[u8], now: Millis) -> Result<bool, RedisFailure> {
        while !self.handshake.is_over() {
            let Some(reply) = self.replies.value(input, REPLY_BYTES_MAX)? else { return Ok(false) };
            self.on_handshake_reply(&reply.parse()?)?;
        }
        self.ready(now);
        Ok(true)
    }

    /// Takes a reply of the handshake. Returns whether the far end is one to be looked at closely; see
    /// `Handshake::looks_closely`.
    pub fn on_handshake_reply(&mut self, reply: &redis::Value) -> Result<bool, RedisFailure> {
        self.handshake.on_reply(&self.config, &mut self.output, reply)?;
        Ok(self.handshake.looks_closely())
    }

    /// Returns whether no reply of the handshake is awaited but acknowledgements of patterns.
    pub fn is_answered(&self) -> bool {
        self.handshake.is_answered()
    }

    /// The handshake is over.
    pub fn ready(&mut self, now: Millis) {
        self.state = SessionState::Ready { received: now, answer_by: None };
        self.ready_since = Some(now);
        self.deaf = None;
    }

    /// Bytes came: nothing is awaited any more, unless `expect` says so again.
    pub fn on_bytes(&mut self, now: Millis) {
        if let SessionState::Ready { received, answer_by } = &mut self.state {
            (*received, *answer_by) = (now, None);
        }
    }

    /// A byte must come by then; an earlier expectation stays.
    pub fn expect(&mut self, by: Millis) {
        if let SessionState::Ready { answer_by, .. } = &mut self.state {
            answer_by.get_or_insert(by);
        }
    }

    /// A byte must come within `timeout`; an earlier expectation stays.
    pub fn expect_reply(&mut self, now: Millis) {
        self.expect(now.saturating_add(self.config.timeout));
    }

    /// All replies are there.
    pub fn expect_nothing(&mut self) {
        if let SessionState::Ready { answer_by, .. } = &mut self.state {
            *answer_by = None;
        }
    }

    /// Queues bytes for the socket.
    pub fn send(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Bytes for the socket.
    pub fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// The socket took the first `count` bytes of `output`.
    pub fn wrote(&mut self, count: usize) {
        self.written = self.written.saturating_add(count).min(self.output.len());
        if self.written == self.output.len() {
            self.drop_output();
        } else if self.written >= WRITTEN_BYTES_MAX && 2 * self.written >= self.output.len() {
            self.output.drain(..self.written);
            self.written = 0;
        }
    }

    /// Returns when to look again: connect (`wants_connect`) while waiting, else `due`.
    pub fn deadline(&self) -> Option<Millis> {
        match self.state {
            // Without a server there is nothing to do until a Sentinel names one.
            SessionState::Waiting { .. } if self.config.servers.is_empty() => None,
            SessionState::Waiting { until } => Some(until),
            SessionState::Connecting { deadline }
            | SessionState::Securing { deadline }
            | SessionState::Greeting { deadline } => Some(deadline),
            SessionState::Ready { answer_by: Some(by), .. } => Some(by),
            SessionState::Ready { received, .. } => {
                Some(received.saturating_add(self.config.silence))
            }
            SessionState::Broken => None,
        }
    }

    /// The deadline that has passed. Input that is there must have been read before.
    pub fn due(&self, now: Millis) -> Option<Due> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        match self.state {
            SessionState::Waiting { .. } | SessionState::Broken => None,
            SessionState::Ready { answer_by: None, .. } => Some(Due::Silence),
            _ => Some(Due::Overdue),
        }
    }

    /// Returns whether it is time to ask for a sign of life. Input that is there must have been read before.
    ///
    /// # Errors
    /// Nothing came in time: no connection, no TLS, no reply to the handshake, or none to `command`.
    pub fn is_silent(&mut self, now: Millis, command: &str) -> Result<bool, String> {
        if self.due(now) != Some(Due::Overdue) {
            return Ok(self.due(now).is_some());
        }
        let text = match self.state {
            SessionState::Connecting { .. } => advice::unreachable(&self.config),
            SessionState::Securing { .. } => advice::unsecured(&self.config),
            SessionState::Greeting { .. } => {
                advice::unanswered(&self.config, self.handshake.command())
            }
            _ => advice::silent(&self.config, command),
        };
        Err(self.fail(RedisFailure::Refused(text)))
    }

    /// Gives the connection up: nothing more is sent or read on it. Returns what to do, for the log.
    pub fn fail(&mut self, failure: RedisFailure) -> String {
        self.state = SessionState::Broken;
        self.drop_output();
        let is_deaf = matches!(failure, RedisFailure::Deaf(_));
        let text = failure.text(&self.config);
        self.deaf = is_deaf.then(|| text.clone());
        text
    }

    /// The connection is gone, or could not be made: waits before the next attempt, longer each time until one stays ready.
    /// `random` is any 64 bits; they keep many servers from coming back in step. Returns whether it was ready.
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        // To be ready is not yet to stay: a Redis that cuts us off each time would otherwise be back 30 times a second,
        // and each time every client would fetch its state.
        if self.has_stayed(now) {
            self.attempts = 0;
        }
        let was_ready = self.ready_since.take().is_some();
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.attempts.min(32));
        let longest = doubled.min(self.config.backoff_max).max(BACKOFF_MIN);
        let shortest = (longest / 4).max(BACKOFF_MIN);
        let wait = shortest + random % (longest - shortest + 1);
        self.attempts = self.attempts.saturating_add(1);
        self.state = SessionState::Waiting { until: now.saturating_add(wait) };
        self.replies = ReplyParser::new();
        self.drop_output();
        was_ready
    }

    /// There is another server to connect to: cuts the wait short, but not in step with a Sentinel that names another one each time.
    pub fn hurry(&mut self, now: Millis, random: u64) {
        let may = self.hurried.is_none_or(|at| now >= at.saturating_add(self.config.backoff_max));
        if let SessionState::Waiting { until } = &mut self.state
            && may
        {
            *until = (*until).min(now.saturating_add(random % BACKOFF_FIRST));
            (self.attempts, self.hurried) = (0, Some(now));
        }
    }

    fn drop_output(&mut self) {
        self.output = Vec::new();
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use crate::engine::redis::garbage::Garbage;

    fn session() -> Session {
        let config = RedisConfig::from_url("redis://h").expect("the URL is right");
        Session::new("test", Handshake::of_commands("test"), config, 0)
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
                session.send(&bytes);
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
        session.on_bytes(250);
        assert_eq!(session.deadline(), Some(10_250));
        session.fail(RedisFailure::Garbage(Garbage::Size));
        assert_eq!((session.deadline(), session.due(u64::MAX)), (None, None));
    }
}
