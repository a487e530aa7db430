//! A message of our own to ourselves, which proves that what is published comes.
//!
//! An acknowledged subscription says only that Redis knows of it. If the user may (`+subscribe +publish` on the channel),
//! a message is published at the start and after each silence, and must come back.

use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter};

/// The prefix of every probe's channel: no message on one is counted or published.
pub const CHANNEL: &str = "oneloop:probe:";

/// The probe of one connection after the other.
pub struct Probe {
    channel: String,
    /// The number of the latest message.
    number: u64,
    /// Answers to its commands that are still to come.
    answers: u8,
    /// Redis does not permit it.
    is_refused: bool,
    /// The latest message came back.
    is_back: bool,
}

impl Probe {
    /// A probe on a channel of this node's own; nothing of one connection may reach the next.
    pub fn new(node: &str) -> Probe {
        let channel = [CHANNEL, node].concat();
        Probe { channel, number: 0, answers: 0, is_refused: true, is_back: false }
    }

    pub fn save(&self, writer: &mut StateWriter<'_>) {
        writer.text(&self.channel);
        writer.u64(self.number);
        writer.bool(self.is_refused);
    }

    /// The probe that was written. Its latest message came back.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(reader: &mut StateReader<'_>) -> Result<Probe, StateError> {
        let (channel, number) = (reader.text(BYTES_MAX)?, reader.u64()?);
        Ok(Probe { channel, number, answers: 0, is_refused: reader.bool()?, is_back: true })
    }

    /// The commands that subscribe, and publish the first message.
    pub fn begin(&mut self) -> Vec<u8> {
        let mut commands = redis::cmd("SUBSCRIBE").arg(&self.channel).get_packed_command();
        self.is_refused = false;
        commands.extend(self.publish());
        self.answers = 2;
        commands
    }

    /// The command for another message, unless Redis refused the first one.
    pub fn again(&mut self) -> Option<Vec<u8>> {
        if self.is_refused {
            return None;
        }
        self.answers = 1;
        Some(self.publish())
    }

    /// Nothing more is awaited: the connection is gone.
    pub fn end(&mut self) {
        (self.answers, self.is_refused, self.is_back) = (0, true, false);
    }

    /// Returns whether the latest message is back, or was refused.
    pub fn is_settled(&self) -> bool {
        self.answers == 0 && (self.is_refused || self.is_back)
    }

    /// An answer came that is no push.
    pub fn answered(&mut self, is_error: bool) {
        self.answers = self.answers.saturating_sub(1);
        self.is_refused |= is_error;
    }

    /// A subscription was acknowledged; returns whether it is the probe's.
    pub fn subscribed(&mut self, channel: &[u8]) -> bool {
        let is_ours = channel == self.channel.as_bytes();
        if is_ours {
            self.answers = self.answers.saturating_sub(1);
        }
        is_ours
    }

    /// A message came on a channel that was subscribed to by name.
    pub fn came(&mut self, channel: &[u8], payload: &[u8]) {
        let number = self.number.to_string();
        self.is_back |= channel == self.channel.as_bytes() && payload == number.as_bytes();
    }

    /// A message of somebody's came: it proves as much.
    pub fn prove(&mut self) {
        self.is_back = true;
    }

    fn publish(&mut self) -> Vec<u8> {
        self.number += 1;
        self.is_back = false;
        let (channel, number) = (&self.channel, self.number.to_string());
        redis::cmd("PUBLISH").arg(channel).arg(number).get_packed_command()
    }
}
