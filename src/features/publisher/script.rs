//! The one Lua script that is known here: a payload published to several channels, as Laravel's `redis` broadcaster sends it.

use std::ops::Range;

use crate::engine::redis::resp;
use crate::features::publisher::reply::{CommandResult, PortReply};

/// The script of Laravel 8 and later, its spaces and lines joined.
const BROADCAST: &str = "for i = 2, #ARGV do redis.call('publish', ARGV[i], ARGV[1]) end";

/// The execution of the script: channel after channel, then one reply.
pub struct ScriptRun {
    /// `EVAL script 0 payload channel…`, as it came.
    command: Vec<u8>,
    pub payload: Range<usize>,
    /// The channels that are left, the next one last.
    channels: Vec<Range<usize>>,
    /// The error of the first channel that was refused.
    refusal: Option<String>,
}

fn is_broadcast(script: &[u8]) -> bool {
    let words = script.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.eq(BROADCAST.split(' ').map(str::as_bytes))
}

impl ScriptRun {
    /// Reads `EVAL script 0 payload channel…`; `None`: it is another script, or has keys.
    pub fn parse(command: &[u8]) -> Option<ScriptRun> {
        let mut bulks = resp::bulks(command)?.skip(1);
        let (script, keys) = (bulks.next()?, bulks.next()?);
        if !is_broadcast(&command[script]) || &command[keys] != b"0" {
            return None;
        }
        let payload = bulks.next().unwrap_or(0..0);
        let mut channels: Vec<Range<usize>> = bulks.collect();
        channels.reverse();
        Some(ScriptRun { command: command.to_vec(), payload, channels, refusal: None })
    }

    /// Returns the next channel and the payload.
    pub fn next(&mut self) -> Option<(&[u8], &[u8])> {
        let channel = self.channels.pop()?;
        Some((&self.command[channel], &self.command[self.payload.clone()]))
    }

    /// Notes that the latest channel was refused. The others are published all the same.
    pub fn refuse(&mut self, why: String) {
        self.refusal.get_or_insert(why);
    }

    /// Returns the reply: null, as of a script that returns nothing, or the error.
    pub fn into_result(self) -> CommandResult {
        self.refusal.map_or(Ok(PortReply::Null), |why| Err(why.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::redis::request::command;

    const LARAVEL: &[u8] = b"for i = 2, #ARGV do\n  redis.call('publish', ARGV[i], ARGV[1])\nend";

    #[test]
    fn only_the_one_script_is_known() {
        assert!(is_broadcast(LARAVEL));
        let text = String::from_utf8(LARAVEL.to_vec()).expect("it is text");
        assert!(is_broadcast(text.replace('\n', "\r\n").as_bytes()));
        for other in [
            text.replace("publish", "set"),
            text.clone() + " return 1",
            text.replace('2', "1"),
            "return 1".to_owned(),
            String::new(),
        ] {
            assert!(!is_broadcast(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_broadcast_goes_to_each_channel_in_order() {
        let eval = command(&[b"EVAL", LARAVEL, b"0", b"hello", b"a", b"b"]);
        let mut broadcast = ScriptRun::parse(&eval).expect("it is the script");
        let mut said = Vec::new();
        while let Some((channel, payload)) = broadcast.next() {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            said.push(text(channel) + " " + &text(payload));
        }
        assert_eq!(said, ["a hello", "b hello"]);
        broadcast.refuse("ERR first".to_owned());
        broadcast.refuse("ERR second".to_owned());
        assert!(broadcast.into_result().is_err_and(|why| why == "ERR first"));
        let unrefused = ScriptRun::parse(&eval).expect("it is the script");
        assert!(matches!(unrefused.into_result(), Ok(PortReply::Null)));
        assert!(ScriptRun::parse(&command(&[b"EVAL", LARAVEL, b"1", b"key"])).is_none());
        let none = ScriptRun::parse(&command(&[b"EVAL", LARAVEL, b"0"]));
        assert!(none.is_some_and(|mut none| none.next().is_none()));
    }
}
