//! Members: the users who subscribe to a topic, listed for clients that subscribe to it as well.
//!
//! A node counts the connections of each member, and reports members to Redis as presence reports users: `room.7 42` for user 42 in
//! `room.7`. There a set for each topic has the members of all nodes, and a channel tells of each topic whose set changes. A node
//! whose clients watch that topic then reads its set, once a second at most, and sends them how the list differs from the one that
//! they have. So a list is right again after whatever was missed, and a topic that nobody watches costs nothing but its set.
//! Without a Redis, or while it is away for long, the list has this node's own members.

mod frames;
mod source;
mod watches;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::feature::{log_refusal, reply};
use super::{BATCH_MAX, Presence, Reply, ReportUse, Settings};
use crate::clock::Millis;
use crate::engine::client::frame::Frame;
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::redis::request::{Answer, Ticket, command};
use crate::engine::server::members::{has_watchers, is_watching};
use crate::engine::server::{MemberChange, MembersRequest, Server};
use crate::upgrade::{StateError, StateReader, StateWriter};
use source::ListSource;
use watches::{ListReading, MemberList, WAITING_MAX, Watches};

/// Lists read in a turn.
const READS_MAX: usize = 64;

/// Lists that are asked for and not read yet: others wait for the same connection to Redis.
const READS_UNDER_WAY_MAX: usize = 256;

/// Bytes of lists that clients who asked for them are sent in a turn.
const ANSWER_BYTES_MAX: usize = 256 << 10;

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
    /// The number of this node's members, by topic.
    counts: BTreeMap<Rc<str>, usize>,
    watches: Watches,
    /// Clients whose list is there, and yet to be sent to them.
    answered: VecDeque<MembersRequest>,
    /// The channel of changed topics, if there is a Redis.
    channel: Option<String>,
    source: ListSource,
    /// Topics whose lists Redis was asked for, by number.
    reads: BTreeMap<u64, Rc<str>>,
    reads_count: u64,
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
        let settings = Settings {
            report: ReportUse::Members(name(prefix)),
            wait: 0,
            waiting_max: usize::MAX,
            batch_max: BATCH_MAX,
        };
        MembersFeature {
            presence: Presence::new(server.node(), settings),
            counts: BTreeMap::new(),
            watches: Watches::default(),
            answered: VecDeque::new(),
            channel: has_redis.then(|| channel(prefix)),
            source: ListSource::new(has_redis, server.now().millis),
            reads: BTreeMap::new(),
            reads_count: 0,
            logged: None,
            is_silent: false,
        }
    }

    fn on_tick(&mut self, server: &mut Server) {
        let now = server.now().millis;
        for change in server.members.take_changes() {
            self.change(&change, now);
        }
        if self.channel.is_none() {
            self.presence.tick_alone(now);
        } else if let Some(attempt) = self.presence.tick(now) {
            let words: Vec<&[u8]> = attempt.words.iter().map(Vec::as_slice).collect();
            server.ask(command(&words), Ticket::of_feature("members", attempt.number));
        }
        for topic in server.members.take_resumed() {
            self.watches.resume(&topic, now);
        }
        for request in server.members.take_requests() {
            self.on_request(server, request, now);
        }
        self.answer_some(server);
        if self.source.tick(now) {
            self.watches.touch_all(now);
        }
        for _ in 0..READS_MAX {
            if !self.may_read() {
                return;
            }
            let Some(topic) = self.watches.next_due(now) else { return };
            match has_watchers(server, &topic) {
                true => self.read(server, topic),
                false => self.watches.end(&topic),
            }
        }
    }

    fn change(&mut self, change: &MemberChange, now: Millis) {
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
        if was_here {
            let count = self.counts.get_mut(&**topic).expect("the topic has a member");
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&**topic);
            }
        } else {
            *self.counts.entry(Rc::from(&**topic)).or_default() += 1;
        }
        // Redis tells of it once its set has changed.
        if self.source == ListSource::Own {
            self.watches.touch(topic, now);
        }
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

    /// Sends lists to clients that asked for them, as many as a turn has.
    fn answer_some(&mut self, server: &mut Server) {
        let (mut bytes, mut encoded) = (0, None);
        while bytes < ANSWER_BYTES_MAX
            && let Some(request) = self.answered.pop_front()
        {
            bytes += self.answer(server, request, &mut encoded);
        }
    }

    /// Sends a list to all clients that asked for it. Changes of that list come behind it.
    fn answer_all(&mut self, server: &mut Server, topic: &str) {
        if self.answered.iter().any(|request| &*request.topic == topic) {
            let all = std::mem::take(&mut self.answered).into_iter();
            let (asked, others): (VecDeque<_>, _) = all.partition(|one| &*one.topic == topic);
            self.answered = others;
            let mut encoded = None;
            for request in asked {
                self.answer(server, request, &mut encoded);
            }
        }
    }

    /// Answers a request, unless the client watches that topic no more. `encoded`: the last list that was, which is encoded once for
    /// all that ask for it in a row. Returns the bytes of the answer.
    fn answer(
        &mut self,
        server: &mut Server,
        request: MembersRequest,
        encoded: &mut Option<EncodedList>,
    ) -> usize {
        if !is_watching(server, request.id, &request.topic) {
            return 0;
        }
        let MembersRequest { id, topic, reference } = request;
        if encoded.as_ref().is_none_or(|last| last.topic != topic) {
            // A watch ends if nobody watches the topic; then this client asked twice, and the later request waits.
            let Some(list) = self.watches.list(&topic) else { return 0 };
            let text = frames::list(&topic, list);
            *encoded = Some(EncodedList { topic, frame: Frame::text(&text), text });
        }
        let EncodedList { text, frame, .. } = encoded.as_ref().expect("it was just put there");
        match reference {
            None => server.send(id, frame),
            Some(reference) => server.send(id, &Frame::text(&frames::referring(text, &reference))),
        }
        text.len()
    }

    /// Returns whether another list may be read.
    fn may_read(&self) -> bool {
        self.source.is_known() && self.reads.len() < READS_UNDER_WAY_MAX
    }

    /// Reads a list, from Redis if it has all members.
    fn read(&mut self, server: &mut Server, topic: Rc<str>) {
        let Some(channel) = self.channel.as_ref().filter(|_| self.source == ListSource::Redis)
        else {
            let list = self.own_members(server, &topic);
            return self.take(server, &topic, list);
        };
        let [key, nodes] = [format!("{channel}:in:{topic}"), format!("{channel}:nodes")];
        let last = (server.bounds().members_max - 1).to_string();
        let node = self.presence.node();
        let keys_and_arguments = [&key, &nodes, &last, &node].map(|word| word.as_bytes());
        let words = [&[b"EVAL", READ, b"2"][..], &keys_and_arguments].concat();
        self.reads_count += 1;
        self.reads.insert(self.reads_count, topic);
        server.ask(command(&words), Ticket::of_feature("members", OF_LIST | self.reads_count));
    }

    fn on_read(&mut self, server: &mut Server, number: u64, answer: &Answer) {
        let Some(topic) = self.reads.remove(&number) else { return };
        match list(answer) {
            // It was asked for before Redis was in doubt, and is read again.
            _ if self.source != ListSource::Redis => {}
            Some(list) => self.take(server, &topic, list),
            None if *answer == Answer::Integer(0) => self.on_doubt(server.now().millis),
            None => self.on_failure(server, answer),
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

    /// The members on this node. Those that the list has already stay there, so that nobody leaves it who is still a member.
    fn own_members(&self, server: &Server, topic: &str) -> MemberList {
        let count = self.counts.get(topic).copied().unwrap_or(0);
        let most = count.min(server.bounds().members_max);
        let start = format!("{topic} ");
        let before = self.watches.list(topic).into_iter().flat_map(|list| &list.users);
        let here = before.filter(|user| self.presence.is_connected(&[&start, &***user].concat()));
        let mut users: BTreeSet<Box<str>> = here.take(most).cloned().collect();
        for member in self.presence.connected_from(&start) {
            let Some(user) = member.strip_prefix(&start).filter(|_| users.len() < most) else {
                break;
            };
            users.insert(user.into());
        }
        MemberList { users, count }
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
                    self.watches.touch_all(now);
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
    fn on_failure(&mut self, server: &Server, answer: &Answer) {
        let now = server.now().millis;
        let is_passing = match answer {
            Answer::Refused(why) => PASSING.iter().any(|word| why.starts_with(word)),
            answer => *answer == Answer::Unavailable,
        };
        if is_passing {
            self.source.doubt(now);
        } else if self.source.refused() {
            self.watches.touch_all(now);
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
            FeatureEvent::SourceUp if self.channel.is_some() => {
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
        let has_work = server.members.has_news() || !self.answered.is_empty();
        let work = has_work.then(|| server.now().millis);
        let report = match self.channel {
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

/// A list as it is sent.
struct EncodedList {
    topic: Box<str>,
    text: String,
    /// The text as a frame, for all who gave no `ref`.
    frame: Frame,
}

/// Reads the answer to [`READ`].
fn list(answer: &Answer) -> Option<MemberList> {
    let Answer::List(parts) = answer else { return None };
    let [Answer::Integer(count), Answer::List(users)] = &parts[..] else { return None };
    let user = |user: &Answer| match user {
        Answer::Text(bytes) => std::str::from_utf8(bytes).ok().map(Box::from),
        _ => None,
    };
    let users = users.iter().map(user).collect::<Option<_>>()?;
    Some(MemberList { users, count: usize::try_from(*count).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_list_counts_as_none() {
        let text = |text: &str| Answer::Text(text.as_bytes().to_vec());
        let of = |count, users: Vec<Answer>| {
            Answer::List(vec![Answer::Integer(count), Answer::List(users)])
        };
        let expected = MemberList { users: ["b", "a"].map(Box::from).into(), count: 3 };
        assert_eq!(list(&of(3, vec![text("b"), text("a")])), Some(expected));
        assert_eq!(list(&of(0, vec![])), Some(MemberList::default()));
        for answer in [
            of(-1, vec![]),
            of(1, vec![Answer::Nothing]),
            of(1, vec![Answer::Text(vec![0xff])]),
            Answer::List(vec![Answer::Integer(1)]),
            Answer::Integer(1),
            Answer::Refused("NOPERM".into()),
            Answer::Unavailable,
        ] {
            assert_eq!(list(&answer), None, "{answer:?}");
        }
    }
}
