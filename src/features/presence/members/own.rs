//! The members of this process in each topic: their number, and those in a list that has not all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::watches::MemberList;
use crate::features::presence::Presence;

/// The topics with members of this process, who are themselves users of its [`Presence`]: `room.7 42`.
#[derive(Default)]
pub(super) struct OwnMembers {
    topics: BTreeMap<Rc<str>, TopicMembers>,
}

#[derive(Default)]
struct TopicMembers {
    count: usize,
    /// The members in the list, if it has not all. They stay there, so that nobody leaves it who is still a member, and so that it is
    /// the same list for all who read it. `None`: the list has all, or Redis has it.
    listed: Option<BTreeSet<Rc<str>>>,
}

impl OwnMembers {
    /// Counts a member that came. Returns the number of members of its topic.
    pub(super) fn came(&mut self, topic: &str) -> usize {
        let of = match self.topics.get_mut(topic) {
            Some(of) => of,
            None => self.topics.entry(topic.into()).or_default(),
        };
        of.count += 1;
        of.count
    }

    /// Begins to cut a list, which had all members but this one, who just came.
    pub(super) fn cut(&mut self, topic: &str, latest: &str, presence: &Presence) {
        let start = format!("{topic} ");
        let all = presence.connected_from(&start);
        let all = all.take_while(|member| member.starts_with(&start));
        if let Some(of) = self.topics.get_mut(topic) {
            of.listed = Some(all.filter(|member| &***member != latest).cloned().collect());
        }
    }

    /// Counts a member that left. `most`: the users in a list.
    pub(super) fn left(&mut self, topic: &str, member: &str, most: usize) {
        let of = self.topics.get_mut(topic).expect("the topic has a member");
        of.count -= 1;
        if let Some(listed) = &mut of.listed {
            listed.remove(member);
        }
        if of.count <= most {
            of.listed = None;
        }
        if of.count == 0 {
            self.topics.remove(topic);
        }
    }

    /// The list of a topic, of so many users at most. `before`: the list that clients have, whose users stay in it.
    pub(super) fn list(
        &mut self,
        topic: &str,
        most: usize,
        presence: &Presence,
        before: Option<&MemberList>,
    ) -> MemberList {
        let Some(of) = self.topics.get_mut(topic) else { return MemberList::default() };
        let start = format!("{topic} ");
        let known = |user: &str| {
            let member = [&start, user].concat();
            presence.connected_from(&member).next().filter(|found| ***found == *member).cloned()
        };
        let mut members: BTreeSet<Rc<str>> = match of.listed.take() {
            Some(listed) => listed.into_iter().take(most).collect(),
            None => {
                let before = before.into_iter().flat_map(|list| &list.users);
                before.filter_map(|user| known(user)).take(most).collect()
            }
        };
        let all = presence.connected_from(&start);
        for member in all.take_while(|member| member.starts_with(&start)) {
            if members.len() >= most {
                break;
            }
            members.insert(Rc::clone(member));
        }
        let users = members.iter().map(|member| member[start.len()..].into()).collect();
        let count = of.count;
        of.listed = (count > most).then_some(members);
        MemberList { users, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::presence::{ReportUse, Settings};

    const MOST: usize = 2;

    fn presence() -> Presence {
        let report = ReportUse::Members("members".into());
        Presence::new("n", Settings { report, wait: 0, waiting_max: 9, batch_max: 9 })
    }

    fn came(own: &mut OwnMembers, presence: &mut Presence, topic: &str, user: &str) {
        let member = format!("{topic} {user}");
        presence.came(&member);
        if own.came(topic) == MOST + 1 {
            own.cut(topic, &member, presence);
        }
    }

    fn left(own: &mut OwnMembers, presence: &mut Presence, topic: &str, user: &str) {
        let member = format!("{topic} {user}");
        presence.left(&member, 0);
        own.left(topic, &member, MOST);
    }

    fn users(own: &mut OwnMembers, presence: &Presence, topic: &str) -> (String, usize) {
        let MemberList { users, count } = own.list(topic, MOST, presence, None);
        (users.into_iter().collect::<Vec<_>>().join(" "), count)
    }

    #[test]
    fn nobody_leaves_a_list_that_is_cut_who_is_still_a_member() {
        let (mut own, mut presence) = (OwnMembers::default(), presence());
        for user in ["x", "y", "a", "b"] {
            came(&mut own, &mut presence, "room", user);
            came(&mut own, &mut presence, "room.8", "0");
        }
        assert_eq!(users(&mut own, &presence, "room"), ("x y".into(), 4));
        left(&mut own, &mut presence, "room", "x");
        assert_eq!(
            users(&mut own, &presence, "room"),
            ("a y".into(), 3),
            "another takes its place"
        );
        came(&mut own, &mut presence, "room", "x");
        assert_eq!(users(&mut own, &presence, "room"), ("a y".into(), 4));
        ["a", "y"].iter().for_each(|user| left(&mut own, &mut presence, "room", user));
        assert_eq!(users(&mut own, &presence, "room"), ("b x".into(), 2));
        ["b", "x"].iter().for_each(|user| left(&mut own, &mut presence, "room", user));
        assert_eq!(users(&mut own, &presence, "room"), (String::new(), 0));
        assert_eq!(users(&mut own, &presence, "room.8").0, "0");
        assert_eq!(own.topics.len(), 1);
    }

    #[test]
    fn a_list_that_redis_gave_keeps_its_users_as_far_as_they_are_here() {
        let (mut own, mut presence) = (OwnMembers::default(), presence());
        for user in ["a", "b", "c"] {
            let member = format!("room {user}");
            presence.came(&member);
            own.came("room");
        }
        let before = MemberList { users: ["c", "elsewhere"].map(Box::from).into(), count: 9 };
        let list = own.list("room", MOST, &presence, Some(&before));
        assert_eq!(list, MemberList { users: ["a", "c"].map(Box::from).into(), count: 3 });
        assert_eq!(own.list("room", MOST, &presence, None), list, "whoever reads it");
    }
}
