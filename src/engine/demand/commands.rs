//! The commands of each connection, in batches and within its bound of unacknowledged channels.

use super::Demand;
use super::share::{BATCH, TopicLink};
use crate::clock::Millis;

/// Commands of each kind that one connection sends in a turn.
const COMMANDS_PER_TURN: usize = 8;
/// Places of the table that are looked at in a turn after a connection came up.
const SCANNED_PER_TURN: u32 = 8192;
impl Demand {
    /// Writes the next commands of a connection, as many as it may have under way.
    pub fn write_commands(&mut self, number: usize, output: &mut Vec<u8>, now: Millis) {
        if !self.shares[number].is_up {
            return;
        }
        self.begin_everything(number, output, now);
        let mut steps = SCANNED_PER_TURN;
        for _ in 0..COMMANDS_PER_TURN {
            if !self.shares[number].has_room() {
                return;
            }
            let topics = self.next_wanted(number, &mut steps);
            if topics.is_empty() {
                break;
            }
            self.counts.subscribed += topics.len() as u64;
            self.write(number, "SUBSCRIBE", &topics, TopicLink::Sent, output, now);
        }
        self.end_everything(number, output, now);
        if self.is_everything_late(number) {
            return;
        }
        for _ in 0..COMMANDS_PER_TURN {
            if !self.shares[number].has_room() {
                return;
            }
            let topics = self.next_over(number);
            if topics.is_empty() {
                break;
            }
            self.counts.unsubscribed += topics.len() as u64;
            self.write(number, "UNSUBSCRIBE", &topics, TopicLink::Leaving, output, now);
        }
    }

    /// Returns whether another command could be written for a connection now.
    pub fn has_commands(&self, number: usize) -> bool {
        let share = &self.shares[number];
        let has_over = !share.over.is_empty() && !self.is_everything_late(number);
        let has_topics = share.scan.is_some() || !share.queued.is_empty() || has_over;
        has_topics && share.has_room()
    }

    /// Subscribes to the pattern for all topics once a client wants one: before the end of any topic, which the client may have had by
    /// name.
    fn begin_everything(&mut self, number: usize, output: &mut Vec<u8>, now: Millis) {
        if self.patterns > 0 && self.shares[number].everything.link == TopicLink::Absent {
            self.write_everything(number, ("PSUBSCRIBE", TopicLink::Sent), output, now);
        }
    }

    /// Ends the pattern some time after the last client that wanted one: behind the start of all topics that are wanted, which a client
    /// may have had by the pattern.
    fn end_everything(&mut self, number: usize, output: &mut Vec<u8>, now: Millis) {
        let is_over = now >= self.patterns_left.saturating_add(self.settings.linger);
        let share = &self.shares[number];
        let is_behind = share.queued.is_empty() && share.scan.is_none() && share.returning == 0;
        if self.patterns == 0 && is_over && is_behind && share.everything.link == TopicLink::Held {
            self.write_everything(number, ("PUNSUBSCRIBE", TopicLink::Leaving), output, now);
        }
    }

    /// Returns whether the pattern is wanted again, and cannot be sent before Redis has acknowledged its end.
    fn is_everything_late(&self, number: usize) -> bool {
        self.patterns > 0 && self.shares[number].everything.link == TopicLink::Leaving
    }

    fn write_everything(
        &mut self,
        number: usize,
        (verb, link): (&str, TopicLink),
        output: &mut Vec<u8>,
        now: Millis,
    ) {
        let share = &mut self.shares[number];
        share.everything.link = link;
        share.send(1, now);
        self.counts.commands += 1;
        write_head(output, verb, 1);
        write_bulk(output, &[&self.settings.prefix, "*"]);
    }

    /// Takes topics to subscribe to: those that were queued, then those that are wanted since before the connection came up.
    fn next_wanted(&mut self, number: usize, steps: &mut u32) -> Vec<u32> {
        let mut found = Vec::new();
        while found.len() < BATCH
            && let Some(at) = self.shares[number].queued.pop_front()
        {
            let is_queued = self.topics.get(at).is_some_and(|of| of.share as usize == number)
                && self.link(at) == TopicLink::Queued;
            match is_queued {
                true if self.topics[at].hubs > 0 => found.push(at),
                true => self.remove(at),
                false => {}
            }
        }
        while found.len() < BATCH
            && *steps > 0
            && let Some(at) = self.shares[number].scan
        {
            if at >= self.topics.end() {
                break;
            }
            *steps -= 1;
            self.shares[number].scan = Some(at + 1);
            let is_mine = self.topics.get(at).is_some_and(|of| of.share as usize == number);
            match is_mine && self.link(at) == TopicLink::Absent {
                true if self.topics[at].hubs > 0 => found.push(at),
                true => self.remove(at),
                false => {}
            }
        }
        if self.shares[number].scan.is_some_and(|at| at >= self.topics.end()) {
            self.shares[number].end_scan(found.len());
        }
        found
    }

    /// Takes topics to unsubscribe from.
    fn next_over(&mut self, number: usize) -> Vec<u32> {
        let mut found = Vec::new();
        while found.len() < BATCH
            && let Some(at) = self.shares[number].over.pop_front()
        {
            let is_over = self
                .topics
                .get(at)
                .is_some_and(|of| of.share as usize == number && of.hubs == 0 && !of.is_lingering);
            if is_over && self.link(at) == TopicLink::Held {
                self.set_link(at, TopicLink::Leaving);
                found.push(at);
            }
        }
        found
    }

    fn write(
        &mut self,
        number: usize,
        verb: &str,
        topics: &[u32],
        link: TopicLink,
        output: &mut Vec<u8>,
        now: Millis,
    ) {
        write_head(output, verb, topics.len());
        for at in topics {
            self.set_link(*at, link);
            write_bulk(output, &[&self.settings.prefix, &self.topics[*at].name]);
        }
        self.counts.commands += 1;
        self.shares[number].send(topics.len(), now);
    }
}

fn write_head(output: &mut Vec<u8>, verb: &str, channels: usize) {
    output.extend_from_slice(format!("*{}\r\n", channels + 1).as_bytes());
    write_bulk(output, &[verb]);
}

fn write_bulk(output: &mut Vec<u8>, parts: &[&str]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    output.extend_from_slice(format!("${length}\r\n").as_bytes());
    parts.iter().for_each(|part| output.extend_from_slice(part.as_bytes()));
    output.extend_from_slice(b"\r\n");
}
