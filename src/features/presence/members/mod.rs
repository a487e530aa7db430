//! Members: the users who subscribe to a topic, listed for clients that subscribe to it as well.
//!
//! A node counts the connections of each member, and reports members to Redis as presence reports users: `room.7 42` for user 42 in
//! `room.7`. There a set for each topic has the members of all nodes, and a channel tells of each topic whose set changes. A node
//! whose clients watch that topic then reads its set, once a second at most, and sends them how the list differs from the one that
//! they have. So a list is right again after whatever was missed, and a topic that nobody watches costs nothing but its set.
//! Without a Redis, or while it is away for long, the list has this node's own members.

mod answers;
mod frames;
mod own;
mod reading;
mod source;
mod watches;

use std::collections::{BTreeMap, VecDeque};

use super::feature::{log_refusal, reply};
use super::{BATCH_MAX, Presence, Reply, ReportUse, Settings};
use crate::clock::Millis;
use crate::engine::client::frame::Frame;
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::redis::request::{Answer, Ticket, command};
use crate::engine::server::members::{GivenList, ListRequest, has_watchers};
use crate::engine::server::{MemberChange, MembersRequest, Server};
use crate::upgrade::{StateError, StateReader, StateWriter};
use own::OwnMembers;
use reading::{ListReader, list};
use source::ListSource;
use watches::{ListReading, MemberList, WAITING_MAX, Watches};

/// Lists read in a turn.
const READS_MAX: usize = 64;

/// Lists that are asked for and not read yet: others wait for the same connection to Redis.
const READS_UNDER_WAY_MAX: usize = 256;

/// Reads the number of members, and as many as a list has: those who came first. 0: this node is unknown there, or taken for dead, so
/// its members are missing, and perhaps others.
const READ: &[u8] = b"if (redis.call('ZSCORE',KEYS[2],ARGV[2]) or '0')=='0' then return 0 end \
    return {redis.call('ZCARD',KEYS[1]),redis.call('ZRANGE',KEYS[1],0,ARGV[1])}";

/// The words that a Redis begins with which does what it is asked a little later.
const PASSING: [&str; 3] = ["LOADING", "BUSY", "MASTERDOWN"];

/// The tickets of lists have this bit, those of reports have not.
const OF_LIST: u64 = 1 << 63;

/// The name of the channel that tells of changed topics, and of the keys before a colon.
pub fn channel(prefix: &str) -> String {
    format!("oneloop:{{{}}}", name(prefix))
}

/// Nodes with the same prefix have the same topics.
fn name(prefix: &str) -> String {
    format!("{prefix}members")
}

/// The feature: this node's members, and the lists that its clients watch.
pub struct MembersFeature {
    presence: Presence,
    own: OwnMembers,
    watches: Watches,
    /// Clients whose list is there, and yet to be sent to them.
    answered: VecDeque<MembersRequest>,
    /// The channel of changed topics, if there is a Redis.
    channel: Option<String>,
    source: ListSource,
    /// Topics whose lists Redis was asked for, by number.
    reads: BTreeMap<u64, ListReader>,
    reads_count: u64,
    /// Lists that other processes ask for, and that are yet to be read.
    asked: VecDeque<ListRequest>,
    /// The members of this process are kept in another one, which is asked for lists instead of Redis.
    is_elsewhere: bool,
    /// When a refusal was last logged.
    logged: Option<Millis>,
    /// Clients that are sent away come back to other nodes: that is no change, and so the node just falls silent.
    is_silent: bool,
}

impl MembersFeature {
    /// Begins to list members. No client may be connected yet. `prefix`: that of channels.
    pub fn new(server: &mut Server, prefix: &str, has_redis: bool) -> MembersFeature {
        assert!(server.clients.is_empty(), "a client came before members were noted");
        server.members.begin(&server.options);
        let is_elsewhere = server.resume.is_follower();
        let settings = Settings {
            report: ReportUse::Members(name(prefix)),
            wait: 0,
            waiting_max: usize::MAX,
            batch_max: BATCH_MAX,
        };
        MembersFeature {
            presence: Presence::new(server.node(), settings),
            own: OwnMembers::default(),
            watches: Watches::default(),
            answered: VecDeque::new(),
            channel: (has_redis || is_elsewhere).then(|| channel(prefix)),
            source: match is_elsewhere {
                true => ListSource::Redis,
                false => ListSource::new(has_redis, server.now().millis),
            },
            reads: BTreeMap::new(),
            reads_count: 0,
            asked: VecDeque::new(),
            is_elsewhere,
            logged: None,
            is_silent: false,
        }
    }

    fn on_tick(&mut self, server: &mut Server) {
        let now = server.now().millis;
        if self.is_elsewhere {
            for topic in server.members.take_changed() {
                self.watches.touch(&topic, now);
            }
        } else {
            self.keep_members(server, now);
        }
        for topic in server.members.take_resumed() {
            self.watches.resume(&topic, now);
        }
        for request in server.members.take_requests() {
            self.on_request(server, request, now);
        }
        self.answer_some(server);
        if self.source.tick(now) {
            self.touch_all(server);
        }
        self.read_lists(server, now);
    }

    /// Takes over changes, and reports them to Redis.
    fn keep_members(&mut self, server: &mut Server, now: Millis) {
        for change in server.members.take_changes(usize::MAX) {
            self.change(server, &change, now);
        }
        self.asked.extend(server.members.take_asked());
        if self.channel.is_none() {
            self.presence.tick_alone(now);
        } else if let Some(attempt) = self.presence.tick(now) {
            let words: Vec<&[u8]> = attempt.words.iter().map(Vec::as_slice).collect();
            server.ask(command(&words), Ticket::of_feature("members", attempt.number));
        }
    }

    /// Reads lists that are due, and those that other processes ask for.
    fn read_lists(&mut self, server: &mut Server, now: Millis) {
        for _ in 0..READS_MAX {
            if !self.may_read() {
                return;
            }
            if let Some(request) = self.asked.pop_front() {
                self.read(server, ListReader::There(request));
                continue;
            }
            let Some(topic) = self.watches.next_due(now) else { return };
            match has_watchers(server, &topic) {
                true => self.read(server, ListReader::Here(topic)),
                false => self.watches.end(&topic),
            }
        }
    }

    fn change(&mut self, server: &mut Server, change: &MemberChange, now: Millis) {
        let MemberChange { topic, user, has_come } = change;
        let member = format!("{topic} {user}");
        let was_here = self.presence.is_connected(&member);
        match has_come {
            true => self.presence.came(&member),
            false => drop(self.presence.left(&member, now)),
        }
        if self.presence.is_connected(&member) == was_here {
            return;
        }
        let (most, is_own) = (server.bounds().members_max, self.source == ListSource::Own);
        if was_here {
            self.own.left(topic, &member, most);
        } else if self.own.came(topic) == most + 1 && is_own {
            self.own.cut(topic, &member, &self.presence);
        }
        // Redis tells of it once its set has changed.
        if is_own {
            self.watches.touch(topic, now);
            server.members.note_changed(topic);
        }
    }

    /// Has all lists be read soon, here and in other processes.
    fn touch_all(&mut self, server: &mut Server) {
        self.watches.touch_all(server.now().millis);
        server.members.note_changed("");
    }

    /// Has a client that asks for a list answered, or wait for its first reading.
    fn on_request(&mut self, server: &mut Server, request: MembersRequest, now: Millis) {
        let most = server.bounds().members_total_bytes_max;
        let result = match self.watches.list(&request.topic) {
            Some(_) if self.answered.len() < WAITING_MAX => {
                self.answered.push_back(request);
                Ok(())
            }
            Some(_) => Err(request),
            None => self.watches.wait(request, most, now),
        };
        if let Err(MembersRequest { id, topic, reference }) = result {
            server.send(id, &Frame::text(&frames::busy(&topic, reference.as_deref())));
        }
    }

    /// Returns whether another list may be read.
    fn may_read(&self) -> bool {
        self.source.is_known() && self.reads.len() < READS_UNDER_WAY_MAX
    }

    /// Reads a list, from Redis if it has all members.
    fn read(&mut self, server: &mut Server, reader: ListReader) {
        let number = OF_LIST | (self.reads_count + 1);
        if let ListReader::Here(topic) = &reader
            && self.is_elsewhere
        {
            let topic = Box::from(&**topic);
            server.members.ask(ListRequest { process: 0, number, topic });
            self.reads_count += 1;
            self.reads.insert(self.reads_count, reader);
            return;
        }
        let Some(channel) = self.channel.as_ref().filter(|_| self.source == ListSource::Redis)
        else {
            let (topic, most) = (reader.topic(), server.bounds().members_max);
            let list = self.own.list(topic, most, &self.presence, self.watches.list(topic));
            return self.bring(server, reader, list);
        };
        let topic = reader.topic();
        let [key, nodes] = [format!("{channel}:in:{topic}"), format!("{channel}:nodes")];
        let last = (server.bounds().members_max - 1).to_string();
        let node = self.presence.node();
        let keys_and_arguments = [&key, &nodes, &last, &node].map(|word| word.as_bytes());
        let words = [&[b"EVAL", READ, b"2"][..], &keys_and_arguments].concat();
        self.reads_count += 1;
        server.ask(command(&words), Ticket::of_feature("members", number));
        self.reads.insert(self.reads_count, reader);
    }

    /// Brings a list that was read to its reader.
    fn bring(&mut self, server: &mut Server, reader: ListReader, list: MemberList) {
        match reader {
            ListReader::Here(topic) => self.take(server, &topic, list),
            ListReader::There(ListRequest { process, number, .. }) => {
                let (count, users) = (list.count, list.users.into_iter().collect());
                server.members.give(GivenList { process, number, count, users });
            }
        }
    }

    fn on_read(&mut self, server: &mut Server, number: u64, answer: &Answer) {
        let Some(reader) = self.reads.remove(&number) else { return };
        match list(answer) {
            // It was asked for before Redis was in doubt, and is read again.
            _ if self.source != ListSource::Redis => {}
            Some(list) => return self.bring(server, reader, list),
            None if *answer == Answer::Integer(0) => self.on_doubt(server.now().millis),
            None => self.on_failure(server, answer),
        }
        if let ListReader::There(request) = reader {
            self.asked.push_back(request);
        }
    }

    /// Sends a list that was read to the clients that wait for it, or its changes to those that watch it.
    fn take(&mut self, server: &mut Server, topic: &str, list: MemberList) {
        self.answer_all(server, topic);
        match self.watches.take(topic, list, server.bounds().members_total_bytes_max) {
            ListReading::Same => {}
            ListReading::First { waiting, is_resumed } => {
                let list = self.watches.list(topic).expect("it was just taken");
                if is_resumed {
                    send_to_watchers(server, topic, &frames::list(topic, list));
                }
                self.answered.extend(waiting);
            }
            ListReading::Changed(update) => {
                let list = self.watches.list(topic).expect("it was just taken");
                let is_long = update.joined.len() + update.left.len() > list.users.len();
                let text = match is_long {
                    true => frames::list(topic, list),
                    false => frames::update(topic, &update),
                };
                server.metrics().member_updates += 1;
                send_to_watchers(server, topic, &text);
            }
        }
    }

    fn on_report(&mut self, server: &mut Server, number: u64, answer: &Answer) {
        let (reply, now) = (reply(answer), server.now().millis);
        if !self.presence.on_reply(number, reply, now) {
            return;
        }
        match reply {
            // Redis may still lack some of this node's members: they did not leave.
            Reply::Done { .. } if self.presence.users.has_changes() => {}
            Reply::Done { .. } => {
                if self.source.on_reported(now) {
                    self.touch_all(server);
                }
            }
            Reply::Unknown => self.source.lost(now),
            Reply::Failed => {
                server.metrics().member_retries += 1;
                self.on_failure(server, answer);
            }
        }
    }

    /// Redis may lack members: the next report tells.
    fn on_doubt(&mut self, now: Millis) {
        self.source.doubt(now);
        self.presence.alive_at = 0;
    }

    /// Redis did not do what it was asked: lists have this node's own members until a report to it succeeds, at once if it refuses
    /// for good.
    fn on_failure(&mut self, server: &mut Server, answer: &Answer) {
        let now = server.now().millis;
        let is_passing = match answer {
            Answer::Refused(why) => PASSING.iter().any(|word| why.starts_with(word)),
            answer => *answer == Answer::Unavailable,
        };
        if is_passing {
            self.source.doubt(now);
        } else if self.source.refused() {
            self.touch_all(server);
        }
        let channel = self.channel.as_deref().unwrap_or_default();
        let rights = format!("&{channel} ~{channel}:* +publish +zcard +zrange");
        log_refusal(answer, &mut self.logged, now, &rights);
    }
}

impl Feature for MembersFeature {
    fn name(&self) -> &'static str {
        "members"
    }

    fn channel(&self) -> Option<&str> {
        self.channel.as_deref()
    }

    /// Takes the name of a topic whose members changed on some node.
    fn on_payload(&mut self, server: &mut Server, payload: &[u8], _: Option<u64>) -> usize {
        if let Ok(topic) = std::str::from_utf8(payload) {
            self.watches.touch(topic, server.now().millis);
        }
        0
    }

    fn on_event(&mut self, server: &mut Server, event: FeatureEvent<'_>) {
        match event {
            FeatureEvent::Tick if !self.is_silent => self.on_tick(server),
            FeatureEvent::Answer { number, answer } if number & OF_LIST > 0 => {
                self.on_read(server, number & !OF_LIST, answer);
            }
            FeatureEvent::Answer { number, answer } => self.on_report(server, number, answer),
            // It may have lost its data.
            FeatureEvent::SourceUp if self.channel.is_some() && !self.is_elsewhere => {
                self.on_doubt(server.now().millis);
            }
            FeatureEvent::Drain => {
                self.is_silent = true;
                server.members.ignore();
            }
            _ => {}
        }
    }

    fn save(&self, writer: &mut StateWriter<'_>) {
        self.presence.save(writer);
    }

    fn restore(&mut self, _: &mut Server, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        self.presence.restore(reader)
    }

    fn deadline(&self, server: &Server) -> Option<Millis> {
        if self.is_silent {
            return None;
        }
        let is_asked = !self.asked.is_empty() && self.may_read();
        let has_work = server.members.has_news() || !self.answered.is_empty() || is_asked;
        let work = has_work.then(|| server.now().millis);
        let report = match self.channel {
            Some(_) if self.is_elsewhere => None,
            Some(_) => Some(self.presence.deadline()),
            None => self.presence.deadline_alone(),
        };
        // Until then the next answer wakes the loop.
        let lists = self.watches.deadline().filter(|_| self.may_read());
        [work, report, lists, self.source.deadline()].into_iter().flatten().min()
    }
}

/// Sends a text to all clients that watch the members of a topic.
fn send_to_watchers(server: &mut Server, topic: &str, text: &str) {
    for route in 0..server.hubs.len() as u8 {
        server.scope(route).send_to_watchers(topic, Frame::text(text));
    }
}
