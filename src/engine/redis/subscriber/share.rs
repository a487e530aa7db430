//! A subscription that follows what clients want: one connection, with its share of the topics.

use redis::{PushKind, Value};

use super::CHANNEL;
use super::RedisSubscriber;
use crate::clock::Millis;

/// A subscription on demand that began or ended.
#[derive(Debug, PartialEq, Eq)]
pub struct ShareChange {
    /// `None`: all channels.
    pub channel: Option<Vec<u8>>,
    pub is_added: bool,
}

/// A part of the topics, as the connection that carries it sees it.
pub(super) struct ShareLink {
    pub number: usize,
    /// The pattern for all topics.
    pub everything: String,
    /// When the oldest command must be acknowledged.
    pub acknowledged_by: Option<Millis>,
    /// Another command could be written.
    pub has_commands: bool,
}

impl ShareLink {
    /// The reason for a refusal, with the rights that are needed.
    pub fn rights(&self) -> String {
        format!(
            "NOPERM: grant '&{}' +subscribe +unsubscribe +psubscribe +punsubscribe",
            self.everything
        )
    }
}

/// Gives a connection up: Redis ended a subscription that is needed.
pub fn unsubscribed(subscriber: &mut RedisSubscriber, change: &ShareChange) -> String {
    let channel = change.channel.as_deref().map(String::from_utf8_lossy);
    let failure = subscriber.lost(&format!("unsubscribe of {}", channel.unwrap_or("*".into())));
    subscriber.session.fail(failure)
}

/// Reads a change of a subscription on demand. The channel of the probe is not one.
pub(super) fn share_change(subscriber: &RedisSubscriber, value: &Value) -> Option<ShareChange> {
    let share = subscriber.share.as_ref().filter(|_| subscriber.session.is_ready())?;
    let (is_pattern, is_added, name) = change_of(value)?;
    match is_pattern {
        true if name == share.everything.as_bytes() => {
            Some(ShareChange { channel: None, is_added })
        }
        false if !name.starts_with(CHANNEL.as_bytes()) => {
            Some(ShareChange { channel: Some(name.to_vec()), is_added })
        }
        _ => None,
    }
}

/// Reads a change of a subscription, an array in RESP2 or a push in RESP3: whether it is to a pattern, whether it was added, and the
/// pattern or channel.
pub(super) fn change_of(value: &Value) -> Option<(bool, bool, &[u8])> {
    use PushKind::{PSubscribe, PUnsubscribe, Subscribe, Unsubscribe};
    let (is_pattern, is_added, name) = match value {
        Value::Push { kind: PSubscribe, data } => (true, true, data.first()?),
        Value::Push { kind: PUnsubscribe, data } => (true, false, data.first()?),
        Value::Push { kind: Subscribe, data } => (false, true, data.first()?),
        Value::Push { kind: Unsubscribe, data } => (false, false, data.first()?),
        Value::Array(items) => match items.as_slice() {
            [Value::BulkString(kind), name, _] => match kind.as_slice() {
                b"psubscribe" => (true, true, name),
                b"punsubscribe" => (true, false, name),
                b"subscribe" => (false, true, name),
                b"unsubscribe" => (false, false, name),
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    };
    match name {
        Value::BulkString(name) => Some((is_pattern, is_added, name)),
        _ => None,
    }
}
