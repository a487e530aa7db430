//! SUBSCRIBE, PUBSUB and their kin, answered in the words of Redis.

use crate::engine::redis::resp;
use crate::features::publisher::catalog::KnownCommand;
use crate::features::publisher::exchange::{
    Exchange, NAME_BYTES_MAX, SubscribeError, SubscriptionKind,
};
use crate::features::publisher::session::PublisherSession;

/// Returns whether a command may come while a connection subscribes in RESP2.
pub fn is_for_subscribers(command: &KnownCommand) -> bool {
    let allowed =
        ["PING", "PSUBSCRIBE", "PUNSUBSCRIBE", "QUIT", "RESET", "SUBSCRIBE", "UNSUBSCRIBE"];
    allowed.contains(&command.name)
}

/// The refusal of every other one.
pub fn not_now(command: &KnownCommand) -> String {
    let name = command.name.to_ascii_lowercase().replace(' ', "|");
    format!(
        "Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are \
         allowed in this context"
    )
}

/// Executes and answers one of these commands; `false`: it is another one. A subscriber in RESP2 gets nothing but arrays, as the
/// answer to PING, too.
pub fn answer(
    command: &KnownCommand,
    words: &[&[u8]],
    session: &PublisherSession,
    is_array_wanted: bool,
    exchange: &mut Exchange,
    output: &mut Vec<u8>,
) -> bool {
    let (seat, is_resp3) = (session.peer.seat, session.is_resp3());
    let (names, rest) = (&words[1..], words.get(2..).unwrap_or_default());
    match command.name {
        "SUBSCRIBE" => SubscriptionAnswers { seat, is_resp3, exchange, output }
            .subscribe(SubscriptionKind::Channel, names),
        "PSUBSCRIBE" => SubscriptionAnswers { seat, is_resp3, exchange, output }
            .subscribe(SubscriptionKind::Pattern, names),
        "UNSUBSCRIBE" => SubscriptionAnswers { seat, is_resp3, exchange, output }
            .unsubscribe(SubscriptionKind::Channel, names),
        "PUNSUBSCRIBE" => SubscriptionAnswers { seat, is_resp3, exchange, output }
            .unsubscribe(SubscriptionKind::Pattern, names),
        "PUBSUB CHANNELS" => {
            let channels: Vec<&[u8]> = exchange.channels(rest.first().copied()).collect();
            resp::write_array(output, channels.len());
            channels.iter().for_each(|channel| resp::write_bulk(output, channel));
        }
        "PUBSUB NUMSUB" => write_counts(output, rest, |channel| exchange.subscribers_of(channel)),
        "PUBSUB NUMPAT" => resp::write_integer(output, exchange.patterns_len()),
        // There are no sharded channels.
        "PUBSUB SHARDCHANNELS" => resp::write_array(output, 0),
        "PUBSUB SHARDNUMSUB" => write_counts(output, rest, |_| 0),
        "PING" if is_array_wanted && names.len() <= 1 => {
            resp::write_array(output, 2);
            resp::write_bulk(output, b"pong");
            resp::write_bulk(output, names.first().copied().unwrap_or_default());
        }
        _ => return false,
    }
    true
}

/// SubscriptionAnswers of one connection's subscriptions, each with an answer.
struct SubscriptionAnswers<'a> {
    seat: usize,
    is_resp3: bool,
    exchange: &'a mut Exchange,
    output: &'a mut Vec<u8>,
}

impl SubscriptionAnswers<'_> {
    fn subscribe(&mut self, kind: SubscriptionKind, names: &[&[u8]]) {
        let change = if kind == SubscriptionKind::Channel { "subscribe" } else { "psubscribe" };
        for name in names {
            match self.exchange.subscribe(self.seat, kind, name) {
                Ok(count) => self.write(change, Some(name), count),
                Err(SubscribeError::TooMany) => {
                    let text = "ERR this connection has publisher_subscriptions_max subscriptions";
                    resp::write_error(self.output, text);
                }
                Err(SubscribeError::TooLong) => {
                    let text =
                        format!("ERR a channel or pattern has at most {NAME_BYTES_MAX} bytes");
                    resp::write_error(self.output, &text);
                }
            }
        }
    }

    /// Without names: from all.
    fn unsubscribe(&mut self, kind: SubscriptionKind, names: &[&[u8]]) {
        let change = if kind == SubscriptionKind::Channel { "unsubscribe" } else { "punsubscribe" };
        if !names.is_empty() {
            for name in names {
                let count = self.exchange.unsubscribe(self.seat, kind, name);
                self.write(change, Some(name), count);
            }
            return;
        }
        let all = self.exchange.names(self.seat, kind);
        if all.is_empty() {
            let count = self.exchange.count(self.seat);
            self.write(change, None, count);
        }
        for name in all {
            let count = self.exchange.unsubscribe(self.seat, kind, &name);
            self.write(change, Some(&name), count);
        }
    }

    fn write(&mut self, change: &str, name: Option<&[u8]>, count: usize) {
        resp::write_push(self.output, 3, self.is_resp3);
        resp::write_bulk(self.output, change.as_bytes());
        match name {
            Some(name) => resp::write_bulk(self.output, name),
            None => resp::write_null(self.output, self.is_resp3),
        }
        resp::write_integer(self.output, count);
    }
}

fn write_counts(output: &mut Vec<u8>, names: &[&[u8]], count: impl Fn(&[u8]) -> usize) {
    resp::write_array(output, 2 * names.len());
    for name in names {
        resp::write_bulk(output, name);
        resp::write_integer(output, count(name));
    }
}
