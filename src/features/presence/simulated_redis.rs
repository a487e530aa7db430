//! A stand-in for Redis that does the work of `script.lua`: it takes the words of a call and keeps the same keys.

use std::collections::{BTreeMap, BTreeSet};

use super::script::Reply;
use crate::clock::Millis;

/// One event, as the back end gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub at: Millis,
    pub is_online: bool,
    pub sub: String,
    pub users: usize,
}

#[derive(Clone, Default)]
pub(super) struct SimulatedRedis {
    pub here: BTreeMap<String, i64>,
    pub nodes: BTreeMap<String, Millis>,
    pub calls: BTreeMap<String, u64>,
    pub sets: BTreeMap<String, BTreeSet<String>>,
    pub events: Vec<Event>,
}

impl SimulatedRedis {
    pub(super) fn execute(&mut self, words: &[Vec<u8>], now: Millis) -> Reply {
        let text = |at: usize| std::str::from_utf8(&words[at]).expect("the tests write text");
        let keys: usize = text(2).parse().expect("the number of keys");
        assert_eq!((text(0), keys, text(3)), ("EVAL", 5, "oneloop:{evt}:here"));
        let own = text(6).strip_prefix("oneloop:{evt}:here:").expect("the set of its users");
        let argument = |at: usize| text(3 + keys + at);
        let number = |at: usize| argument(at).parse::<u64>().expect("a number");
        assert_eq!((own, argument(5), argument(6)), (argument(1), "stream", "evt"));
        let before = self.events.len();
        let (call, last) = (number(2), self.calls.get(own).copied().unwrap_or(0));
        let alive = self.nodes.get(own).copied();
        if alive == Some(0) || call > last + 1 {
            return Reply::Unknown;
        }
        if self.nodes.values().max().is_some_and(|latest| latest.abs_diff(now) > 7000) {
            self.nodes.values_mut().filter(|at| **at > 0).for_each(|at| *at = now);
        }
        self.nodes.insert(own.to_owned(), now);
        if call > last {
            for change in &words[3 + keys + 8..] {
                let change = std::str::from_utf8(change).expect("the tests write text");
                match change.split_at(1) {
                    ("+", sub) => self.come(own, sub, now),
                    ("-", sub) => self.leave(own, sub, now),
                    _ => panic!("{change}"),
                }
            }
            self.calls.insert(own.to_owned(), call);
        }
        let more = self.clear_up(now.saturating_sub(number(3)), number(4) as usize, now);
        let online = self.events[before..].iter().filter(|event| event.is_online).count();
        let offline = self.events.len() - before - online;
        Reply::Done { online: online as u64, offline: offline as u64, more }
    }

    fn come(&mut self, own: &str, sub: &str, now: Millis) {
        if !self.sets.entry(own.to_owned()).or_default().insert(sub.to_owned()) {
            return;
        }
        *self.here.entry(sub.to_owned()).or_default() += 1;
        if self.here[sub] == 1 {
            self.emit(true, sub, now);
        }
    }

    fn leave(&mut self, set: &str, sub: &str, now: Millis) {
        if !self.sets.get_mut(set).is_some_and(|set| set.remove(sub)) {
            return;
        }
        let count = self.here.get_mut(sub).expect("who is in a set is counted");
        *count -= 1;
        if *count == 0 {
            self.here.remove(sub);
            self.emit(false, sub, now);
        }
    }

    fn clear_up(&mut self, dead: Millis, most: usize, now: Millis) -> bool {
        let found = self.nodes.iter().filter(|(_, at)| **at <= dead).min_by_key(|(_, at)| **at);
        let Some(name) = found.map(|(name, _)| name.clone()) else { return false };
        self.nodes.insert(name.clone(), 0);
        let users: Vec<String> =
            self.sets.get(&name).into_iter().flatten().take(most).cloned().collect();
        users.iter().for_each(|sub| self.leave(&name, sub, now));
        if self.sets.get(&name).is_none_or(BTreeSet::is_empty) {
            self.nodes.remove(&name);
            self.calls.remove(&name);
            self.sets.remove(&name);
        }
        true
    }

    fn emit(&mut self, is_online: bool, sub: &str, at: Millis) {
        self.events.push(Event { at, is_online, sub: sub.to_owned(), users: self.here.len() });
    }
}
