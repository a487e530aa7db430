//! SUBSCRIBE and its kin: answers in the words of Redis.

use crate::engine::redis::resp;
use crate::features::publisher::catalog::Command;
use crate::features::publisher::exchange::{Exchange, Kind, NAME_BYTES_MAX, Refused};

/// One of these commands, read.
pub enum Request<'a> {
    Subscribe(Kind, &'a [&'a [u8]]),
    /// Without names: from all.
    Unsubscribe(Kind, &'a [&'a [u8]]),
    Channels(Option<&'a [u8]>),
    CountSubscribers(&'a [&'a [u8]]),
    CountPatterns,
    /// There are no sharded channels.
    ShardedChannels,
    CountSharded(&'a [&'a [u8]]),
    /// PING of one that subscribes in RESP2, which knows nothing but arrays then.
    Ping(&'a [u8]),
}

/// Whether it may come while a connection subscribes in RESP2.
pub fn is_for_subscribers(command: &Command) -> bool {
    let allowed =
        ["PING", "PSUBSCRIBE", "PUNSUBSCRIBE", "QUIT", "RESET", "SUBSCRIBE", "UNSUBSCRIBE"];
    allowed.contains(&command.name)
}

/// Why every other one is refused.
pub fn not_now(command: &Command) -> String {
    let name = command.name.to_ascii_lowercase().replace(' ', "|");
    format!(
        "Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are \
         allowed in this context"
    )
}

impl<'a> Request<'a> {
    /// Reads the words of a command; `None`: it is another one.
    pub fn of(command: &Command, words: &'a [&'a [u8]], is_array_wanted: bool) -> Option<Self> {
        let names = &words[1..];
        let rest = words.get(2..).unwrap_or_default();
        Some(match command.name {
            "SUBSCRIBE" => Request::Subscribe(Kind::Channel, names),
            "PSUBSCRIBE" => Request::Subscribe(Kind::Pattern, names),
            "UNSUBSCRIBE" => Request::Unsubscribe(Kind::Channel, names),
            "PUNSUBSCRIBE" => Request::Unsubscribe(Kind::Pattern, names),
            "PUBSUB CHANNELS" => Request::Channels(rest.first().copied()),
            "PUBSUB NUMSUB" => Request::CountSubscribers(rest),
            "PUBSUB NUMPAT" => Request::CountPatterns,
            "PUBSUB SHARDCHANNELS" => Request::ShardedChannels,
            "PUBSUB SHARDNUMSUB" => Request::CountSharded(rest),
            "PING" if is_array_wanted && names.len() <= 1 => {
                Request::Ping(names.first().copied().unwrap_or_default())
            }
            _ => return None,
        })
    }

    /// Does what is asked for the connection of that seat.
    pub fn answer(
        self,
        seat: usize,
        is_resp3: bool,
        exchange: &mut Exchange,
        output: &mut Vec<u8>,
    ) {
        match self {
            Request::Subscribe(kind, names) => {
                for name in names {
                    match exchange.subscribe(seat, kind, name) {
                        Ok(count) => {
                            write_change(output, SUBSCRIBED, kind, Some(name), count, is_resp3);
                        }
                        Err(refused) => write_refused(output, refused),
                    }
                }
            }
            Request::Unsubscribe(kind, []) => {
                let names = exchange.names(seat, kind);
                if names.is_empty() {
                    let count = exchange.count(seat);
                    write_change(output, UNSUBSCRIBED, kind, None, count, is_resp3);
                }
                for name in names {
                    let count = exchange.unsubscribe(seat, kind, &name);
                    write_change(output, UNSUBSCRIBED, kind, Some(&name), count, is_resp3);
                }
            }
            Request::Unsubscribe(kind, names) => {
                for name in names {
                    let count = exchange.unsubscribe(seat, kind, name);
                    write_change(output, UNSUBSCRIBED, kind, Some(name), count, is_resp3);
                }
            }
            Request::Channels(pattern) => {
                let channels: Vec<&[u8]> = exchange.channels(pattern).collect();
                resp::write_array(output, channels.len());
                channels.iter().for_each(|channel| resp::write_bulk(output, channel));
            }
            Request::CountSubscribers(channels) => {
                write_counts(output, channels, |channel| exchange.subscribers_of(channel));
            }
            Request::CountPatterns => resp::write_integer(output, exchange.patterns_len()),
            Request::ShardedChannels => resp::write_array(output, 0),
            Request::CountSharded(channels) => write_counts(output, channels, |_| 0),
            Request::Ping(message) => {
                resp::write_array(output, 2);
                resp::write_bulk(output, b"pong");
                resp::write_bulk(output, message);
            }
        }
    }
}

const SUBSCRIBED: [&[u8]; 2] = [b"subscribe", b"psubscribe"];
const UNSUBSCRIBED: [&[u8]; 2] = [b"unsubscribe", b"punsubscribe"];

fn write_change(
    output: &mut Vec<u8>,
    [of_channel, of_pattern]: [&[u8]; 2],
    kind: Kind,
    name: Option<&[u8]>,
    count: usize,
    is_resp3: bool,
) {
    resp::write_push(output, 3, is_resp3);
    let change = if kind == Kind::Channel { of_channel } else { of_pattern };
    resp::write_bulk(output, change);
    match name {
        Some(name) => resp::write_bulk(output, name),
        None => resp::write_null(output, is_resp3),
    }
    resp::write_integer(output, count);
}

fn write_refused(output: &mut Vec<u8>, refused: Refused) {
    let text = match refused {
        Refused::TooMany => {
            "ERR this connection has publisher_subscriptions_max subscriptions".to_owned()
        }
        Refused::TooLong => {
            format!("ERR a channel or pattern has at most {NAME_BYTES_MAX} bytes")
        }
    };
    resp::write_error(output, &text);
}

fn write_counts(output: &mut Vec<u8>, names: &[&[u8]], count: impl Fn(&[u8]) -> usize) {
    resp::write_array(output, 2 * names.len());
    for name in names {
        resp::write_bulk(output, name);
        resp::write_integer(output, count(name));
    }
}
