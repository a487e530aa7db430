//! The lists of members that clients watch: when each is read again, and how it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::server::MembersRequest;

/// The pause between two readings of a list.
const PAUSE: Millis = 1000;

/// A list is read again after this long even if nothing is known to have changed: a change may have been missed, and the watch of
/// a list that nobody watches any more ends then.
const READ_EVERY: Millis = 30_000;

/// Clients that wait for the first reading of a list, which takes as long as Redis takes to answer; and clients that wait until the
/// list is sent to them.
pub(super) const WAITING_MAX: usize = 4096;

/// Bytes of a watch, and of a user in its list, besides the names.
const WATCH_BYTES: usize = 192;
const USER_BYTES: usize = 40;

/// The members of a topic, as far as a list goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MemberList {
    pub(super) users: BTreeSet<Box<str>>,
    /// The number of all members.
    pub(super) count: usize,
}

impl MemberList {
    fn bytes(&self) -> usize {
        self.users.iter().map(|user| user_bytes(user)).sum()
    }
}

fn user_bytes(user: &str) -> usize {
    USER_BYTES + user.len()
}

/// The difference between two readings of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MemberUpdate {
    pub(super) joined: Vec<Box<str>>,
    pub(super) left: Vec<Box<str>>,
    pub(super) count: usize,
}

/// The lists that are watched.
#[derive(Default)]
pub(super) struct Watches {
    watches: BTreeMap<Rc<str>, Watch>,
    /// When each of them is read again.
    due: BTreeSet<(Millis, Rc<str>)>,
    /// The number of clients that wait.
    waiting: usize,
    /// Bytes of all lists and watches.
    bytes: usize,
}

struct Watch {
    /// The list that its watchers have; `None`: it was not read yet.
    list: Option<MemberList>,
    /// Clients that wait for that.
    waiting: Vec<MembersRequest>,
    /// Its watchers have a list of another process.
    is_resumed: bool,
    /// When it was last read.
    read_at: Millis,
    /// When it is read again.
    due_at: Millis,
}

impl Watches {
    /// The list of a topic, if it was read.
    pub(super) fn list(&self, topic: &str) -> Option<&MemberList> {
        self.watches.get(topic)?.list.as_ref()
    }

    /// Has a client wait for the first reading of a list, which is due at once.
    ///
    /// # Errors
    /// Too many clients wait, or it would be a new watch and all take half of `bytes_max` already, whose rest is for the lists that
    /// are watched: the request is given back.
    pub(super) fn wait(
        &mut self,
        request: MembersRequest,
        bytes_max: usize,
        now: Millis,
    ) -> Result<(), MembersRequest> {
        let has_room = self.bytes < bytes_max / 2 || self.watches.contains_key(&*request.topic);
        if self.waiting >= WAITING_MAX || !has_room {
            return Err(request);
        }
        self.waiting += 1;
        self.begin(&request.topic, now).waiting.push(request);
        Ok(())
    }

    /// Has a list be sent to all who watch it, once it was read for the first time: another process has sent them the one before.
    pub(super) fn resume(&mut self, topic: &str, now: Millis) {
        self.begin(topic, now).is_resumed = true;
    }

    fn begin(&mut self, topic: &str, now: Millis) -> &mut Watch {
        self.watches.entry(Rc::from(topic)).or_insert_with_key(|topic| {
            self.bytes += WATCH_BYTES + topic.len();
            self.due.insert((now, Rc::clone(topic)));
            Watch { list: None, waiting: Vec::new(), is_resumed: false, read_at: 0, due_at: now }
        })
    }

    /// Has a list be read soon, if it is watched: its members may have changed. Without a name: all lists.
    pub(super) fn touch(&mut self, topic: &str, now: Millis) {
        if topic.is_empty() {
            return self.touch_all(now);
        }
        if let Some((topic, watch)) = self.watches.get_key_value(topic) {
            let at = now.max(watch.read_at + PAUSE).min(watch.due_at);
            self.set_due(&Rc::clone(topic), at);
        }
    }

    /// Has all lists be read soon.
    pub(super) fn touch_all(&mut self, now: Millis) {
        let topics: Vec<Rc<str>> = self.watches.keys().cloned().collect();
        topics.iter().for_each(|topic| self.touch(topic, now));
    }

    /// Takes a topic whose list is to be read now. It is read again later.
    pub(super) fn next_due(&mut self, now: Millis) -> Option<Rc<str>> {
        let topic =
            self.due.first().filter(|(at, _)| *at <= now).map(|(_, topic)| topic.clone())?;
        self.watches.get_mut(&topic)?.read_at = now;
        self.set_due(&topic, now + READ_EVERY);
        Some(topic)
    }

    /// Returns when the next list is to be read.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Ends the watch over a topic.
    pub(super) fn end(&mut self, topic: &str) {
        if let Some((topic, watch)) = self.watches.remove_entry(topic) {
            self.waiting -= watch.waiting.len();
            self.bytes -= WATCH_BYTES + topic.len() + watch.list.map_or(0, |list| list.bytes());
            self.due.remove(&(watch.due_at, topic));
        }
    }

    /// Takes over a list as it was read, which is cut if all lists would take more than `bytes_max`. Returns the clients that waited
    /// for it, or how it differs from the one before.
    pub(super) fn take(
        &mut self,
        topic: &str,
        mut list: MemberList,
        bytes_max: usize,
    ) -> ListReading {
        let Some(watch) = self.watches.get_mut(topic) else { return ListReading::Same };
        self.bytes -= watch.list.as_ref().map_or(0, MemberList::bytes);
        let mut bytes = list.bytes();
        while self.bytes + bytes > bytes_max
            && let Some(user) = list.users.pop_last()
        {
            bytes -= user_bytes(&user);
        }
        self.bytes += bytes;
        let count = list.count;
        let Some(before) = watch.list.replace(list) else {
            self.waiting -= watch.waiting.len();
            return ListReading::First {
                waiting: std::mem::take(&mut watch.waiting),
                is_resumed: watch.is_resumed,
            };
        };
        let users = &watch.list.as_ref().expect("it was just put there").users;
        let joined: Vec<_> = users.difference(&before.users).cloned().collect();
        let left: Vec<_> = before.users.difference(users).cloned().collect();
        match joined.is_empty() && left.is_empty() && count == before.count {
            true => ListReading::Same,
            false => ListReading::Changed(MemberUpdate { joined, left, count }),
        }
    }

    fn set_due(&mut self, topic: &Rc<str>, at: Millis) {
        let watch = self.watches.get_mut(topic).expect("the topic is watched");
        self.due.remove(&(watch.due_at, Rc::clone(topic)));
        watch.due_at = at;
        self.due.insert((at, Rc::clone(topic)));
    }
}

/// The meaning of a reading for the watchers of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ListReading {
    /// The first one, for which these clients wait. `is_resumed`: and all who watch it.
    First {
        waiting: Vec<MembersRequest>,
        is_resumed: bool,
    },
    Changed(MemberUpdate),
    Same,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use crate::engine::slots::ConnId;

    const MOST: usize = 1 << 20;

    fn request(topic: &str, client: u64) -> MembersRequest {
        MembersRequest { id: ConnId::of_number(client), topic: topic.into(), reference: None }
    }

    fn list(users: &[&str]) -> MemberList {
        let users: BTreeSet<_> = users.iter().map(|user| Box::from(*user)).collect();
        MemberList { count: users.len(), users }
    }

    #[test]
    fn who_asks_first_waits_and_then_there_are_changes() {
        let mut watches = Watches::default();
        assert_eq!(watches.wait(request("a", 1), MOST, 5), Ok(()));
        assert_eq!(watches.wait(request("a", 2), MOST, 6), Ok(()));
        assert_eq!((watches.deadline(), watches.list("a")), (Some(5), None));
        assert_eq!(watches.next_due(6).as_deref(), Some("a"));
        assert_eq!(watches.next_due(6), None);
        let waited = vec![request("a", 1), request("a", 2)];
        let first = ListReading::First { waiting: waited, is_resumed: false };
        assert_eq!(watches.take("a", list(&["x", "y"]), MOST), first);
        assert_eq!(watches.list("a"), Some(&list(&["x", "y"])));
        assert_eq!(watches.take("a", list(&["y", "x"]), MOST), ListReading::Same);
        let update =
            MemberUpdate { joined: vec!["z".into()], left: vec!["x".into(), "y".into()], count: 1 };
        assert_eq!(watches.take("a", list(&["z"]), MOST), ListReading::Changed(update));
        let more = MemberList { count: 9, ..list(&["z"]) };
        let update = MemberUpdate { joined: vec![], left: vec![], count: 9 };
        assert_eq!(watches.take("a", more, MOST), ListReading::Changed(update));
        watches.end("a");
        assert_eq!((watches.deadline(), watches.bytes, watches.waiting), (None, 0, 0));
        assert_eq!(watches.take("a", list(&["z"]), MOST), ListReading::Same, "nobody watches it");
    }

    #[test]
    fn a_list_is_read_once_a_second_and_from_time_to_time() {
        let mut watches = Watches::default();
        watches.wait(request("a", 1), MOST, 0).unwrap();
        watches.touch("b", 0);
        let mut read = Vec::new();
        for now in (0..40_000).step_by(100) {
            if now < 3000 {
                watches.touch("a", now);
            }
            read.extend(watches.next_due(now).map(|topic| (now, topic.to_string())));
        }
        let at: Vec<Millis> = read.iter().map(|(at, _)| *at).collect();
        assert_eq!(at, [0, 1000, 2000, 3000, 3000 + READ_EVERY]);
        assert!(read.iter().all(|(_, topic)| topic == "a"), "b is not watched");
        watches.touch_all(60_000);
        assert_eq!(watches.deadline(), Some(60_000));
    }

    #[test]
    fn without_room_lists_are_cut_and_others_refused() {
        let mut watches = Watches::default();
        watches.wait(request("a", 1), MOST, 0).unwrap();
        let room = watches.bytes + 2 * user_bytes("x");
        assert!(matches!(
            watches.take("a", list(&["x", "y", "z"]), room),
            ListReading::First { .. }
        ));
        assert_eq!(watches.list("a"), Some(&MemberList { count: 3, ..list(&["x", "y"]) }));
        assert_eq!(watches.wait(request("b", 1), room, 0), Err(request("b", 1)));
        let half = watches.bytes;
        assert!(watches.wait(request("b", 1), 2 * half, 0).is_err(), "the rest is for that list");
        assert!(watches.wait(request("b", 1), 2 * half + 2, 0).is_ok());
        assert!(watches.wait(request("b", 2), room, 0).is_ok(), "it is watched already");
        watches.end("b");
        let update = MemberUpdate { joined: vec!["w".into()], left: vec!["x".into()], count: 2 };
        assert_eq!(watches.take("a", list(&["w", "y"]), room), ListReading::Changed(update));
        for client in 0..WAITING_MAX as u64 {
            assert!(watches.wait(request("b", client), MOST, 0).is_ok());
        }
        assert!(watches.wait(request("c", 1), MOST, 0).is_err());
        watches.end("b");
        assert!(watches.wait(request("c", 1), MOST, 0).is_ok());
    }

    /// A client that applies what it is told has the list that was read last, whatever was read before.
    #[test]
    fn a_mirror_agrees_with_the_list_from_a_seed() {
        for seed in 1..300 {
            let mut random = Random::new(seed);
            let (mut watches, most) = (Watches::default(), 200 + random.below(800));
            let mut mirrors: BTreeMap<&str, BTreeSet<Box<str>>> = BTreeMap::new();
            for _ in 0..200 {
                let topic = random.choose(&["a", "b", "c"]);
                let users: Vec<String> =
                    (0..random.below(6)).map(|_| random.below(9).to_string()).collect();
                let users: Vec<&str> = users.iter().map(String::as_str).collect();
                match random.below(12) {
                    0 => {
                        watches.end(topic);
                        mirrors.remove(topic);
                    }
                    1 | 2 if watches.list(topic).is_none() => {
                        let _ = watches.wait(request(topic, 1), most, 0);
                    }
                    _ => match watches.take(topic, list(&users), most) {
                        ListReading::First { waiting, is_resumed } => {
                            assert!(!waiting.is_empty() && !is_resumed, "seed {seed}");
                            mirrors.insert(topic, watches.list(topic).unwrap().users.clone());
                        }
                        ListReading::Changed(MemberUpdate { joined, left, count }) => {
                            assert_eq!(count, list(&users).count, "seed {seed}");
                            let mirror = mirrors.get_mut(topic).expect("a first list came");
                            assert!(left.iter().all(|user| mirror.remove(user)), "seed {seed}");
                            assert!(
                                joined.into_iter().all(|user| mirror.insert(user)),
                                "seed {seed}"
                            );
                        }
                        ListReading::Same => {}
                    },
                }
                for (topic, mirror) in &mirrors {
                    assert_eq!(&watches.list(topic).unwrap().users, mirror, "seed {seed}");
                }
                assert!(watches.bytes <= most + 3 * (WATCH_BYTES + 1), "seed {seed}");
            }
            ["a", "b", "c"].iter().for_each(|topic| watches.end(topic));
            assert_eq!(
                (watches.bytes, watches.waiting, watches.due.len()),
                (0, 0, 0),
                "seed {seed}"
            );
        }
    }
}
