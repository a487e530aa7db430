//! Topics and grants, and the one rule of which client may receive a message.
//!
//! A topic is the subject of a message: `room.7`, or `user.42` for one user alone. A grant names topics that a client subscribes or
//! may subscribe to: a topic, `room.*` (every topic below `room`), `user.*` (every user) or `*`. The hub files subscribers by
//! *key*: an exact topic is its own key, a pattern's key is its prefix and a NUL (`room.*` is `room.\0`, `*` is `\0`). No topic
//! contains a control character, so the user with the id `*` (own topic and key `user.*`) is never taken for the pattern `user.*`
//! (key `user.\0`).
//!
//! The rule is `patterns_of`: it lists the patterns that cover a topic. Live delivery looks up [`keys_of`], which is the topic and
//! these patterns; a replay, a page of old entries, a grant and `oneloop explain` ask [`covers`], which compares with the same list.
//! Of the patterns, `user.*` alone covers the topic of a user; `*` never does.

use std::borrow::Cow;
use std::fmt;

/// The longest topic, in bytes: the longest id of a user and the five bytes of `user.` before it.
pub const TOPIC_BYTES_MAX: usize = 260;

/// The longest id of a user (the claim `sub`), in bytes: what an OpenID provider may use (OpenID Connect Core section 2).
pub const USER_ID_BYTES_MAX: usize = 255;

/// The longest key of a message, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// The prefix of the topics of single users.
const USER: &str = "user.";

/// The last character of a pattern's key, which no topic contains.
const PATTERN_END: char = '\0';

/// The last character of a key under which the hub files clients that watch the members of a topic: no topic and no pattern has it.
const WATCHERS_END: char = '\u{1}';

/// The keys of the grants `user.*` and `*`.
const EVERY_USER: &str = "user.\0";
const EVERY_TOPIC: &str = "\0";

/// Returns the text of a published message's topic, or `None` if it is malformed.
///
/// An ordinary topic is 1 to 260 bytes of `A-Z a-z 0-9 _ - . : @ /` in dot-separated levels, none
/// of them empty. The rest of a topic behind `user.` is a user's id, never split into levels: see [`is_user_id`].
pub fn published(topic: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(topic).ok()?;
    is_topic(text).then_some(text)
}

/// A message's topic and, if the message supersedes earlier ones, its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    pub topic: &'a str,
    /// A message with a key takes the place of those with the same topic and key: 1 to 255 bytes of UTF-8 without control characters.
    pub key: Option<&'a str>,
}

impl<'a> From<&'a str> for Subject<'a> {
    /// A topic without a key.
    fn from(topic: &'a str) -> Subject<'a> {
        Subject { topic, key: None }
    }
}

impl<'a> Subject<'a> {
    /// Parses the name of a channel behind its prefix: `room.7`, or `room.7#K`. In the topic of a user, `#` belongs to the id.
    pub fn of_channel(name: &'a [u8]) -> Option<Subject<'a>> {
        let text = std::str::from_utf8(name).ok()?;
        match text.split_once('#') {
            Some((topic, key)) if !is_user_topic(topic) => {
                let is_one = is_ordinary(topic) && is_key(key);
                is_one.then_some(Subject { topic, key: Some(key) })
            }
            _ => is_topic(text).then(|| text.into()),
        }
    }

    /// Parses the fields of a stream's entry. An empty key is none.
    pub fn of_entry(topic: &'a [u8], key: Option<&'a [u8]>) -> Option<Subject<'a>> {
        let topic = published(topic)?;
        let key = match key {
            None | Some(b"") => None,
            Some(key) => Some(std::str::from_utf8(key).ok().filter(|key| is_key(key))?),
        };
        Some(Subject { topic, key })
    }

    /// The bytes of the key.
    pub fn key_len(&self) -> usize {
        self.key.map_or(0, str::len)
    }
}

fn is_key(text: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control)
}

/// Returns whether `id` can be the id of a user: 1 to 255 bytes of UTF-8 without control characters.
pub fn is_user_id(id: &str) -> bool {
    (1..=USER_ID_BYTES_MAX).contains(&id.len()) && !id.contains(char::is_control)
}

/// Returns the own topic of the user `sub`, or `None` if that cannot be the id of a user.
pub fn user_topic(sub: &str) -> Option<String> {
    is_user_id(sub).then(|| [USER, sub].concat())
}

/// Returns the id of the user whose own topic this is.
pub fn user_of(topic: &str) -> Option<&str> {
    topic.strip_prefix(USER).filter(|id| is_user_id(id))
}

/// Returns whether the topic or key concerns single users: `user.<id>` or the key of `user.*`.
pub fn is_user_topic(topic: &str) -> bool {
    topic.starts_with(USER)
}

fn is_topic(text: &str) -> bool {
    match text.strip_prefix(USER) {
        Some(id) => is_user_id(id),
        None => is_ordinary(text),
    }
}

fn is_ordinary(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:@/".contains(&byte);
    text.len() <= TOPIC_BYTES_MAX
        && text.split('.').all(|level| !level.is_empty() && level.bytes().all(is_allowed))
}

/// Topics that a client subscribes to, or may subscribe to. Displayed as it was written: `room.*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grant {
    key: Box<str>,
}

impl Grant {
    /// Reads a topic, `<levels>.*`, `user.*` or `*`; a `*` anywhere else outside a user's id is
    /// malformed.
    ///
    /// `user.*` is always the pattern here, in a token as in a `subscribe`: the own topic of a user
    /// whose id is `*` comes from [`user_topic`] alone.
    pub fn parse(text: &str) -> Option<Grant> {
        let key = match text.strip_suffix('*') {
            Some("") => EVERY_TOPIC.into(),
            Some(USER) => EVERY_USER.into(),
            Some(prefix) if !is_user_topic(text) => {
                let levels = prefix.strip_suffix('.')?;
                let fits = text.len() <= TOPIC_BYTES_MAX && is_ordinary(levels);
                fits.then(|| format!("{prefix}{PATTERN_END}").into())?
            }
            _ => is_topic(text).then(|| text.into())?,
        };
        Some(Grant { key })
    }

    /// Returns the key of its subscribers in the hub: the topic itself, or a pattern's prefix and a NUL.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns whether this grant concerns single users: `user.<id>` or `user.*`. (`*` does not, except in an admin's token.)
    pub fn is_user(&self) -> bool {
        is_user_topic(&self.key)
    }

    /// Returns the keys that a client with this grant subscribes to: one as a rule, none if it concerns users and the token is not
    /// an admin's, two for an admin's `*`, which is every ordinary topic and every user.
    pub fn keys(&self, admin: bool) -> impl Iterator<Item = &str> {
        let own = (admin || !self.is_user()).then_some(self.key());
        let users = (admin && self.key() == EVERY_TOPIC).then_some(EVERY_USER);
        own.into_iter().chain(users)
    }

    /// Returns whether this grant permits `wanted`: every topic that `wanted` covers is covered by this one too.
    ///
    /// `room.*` permits `room.7`, `room.7.*` and `room.*`, not `room`; `*` permits everything except `user.`, which takes an
    /// admin's grant. A user's own topic needs no grant: the caller takes care of it.
    pub fn permits(&self, admin: bool, wanted: &Grant) -> bool {
        self.covers(admin, wanted.key())
    }

    /// Returns whether a client with this grant receives the messages on `topic`, which is well-formed (see [`published`]), or
    /// may subscribe to the pattern with this key.
    pub fn covers(&self, admin: bool, topic: &str) -> bool {
        self.keys(admin).any(|key| covers(key, topic))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&text_of_key(&self.key))
    }
}

/// Returns a key as people write it: `room.\0` is `room.*`, an exact topic is itself.
pub fn text_of_key(key: &str) -> Cow<'_, str> {
    match key.strip_suffix(PATTERN_END) {
        Some(prefix) => Cow::Owned([prefix, "*"].concat()),
        None => Cow::Borrowed(key),
    }
}

/// Returns whether a key is that of a pattern: `room.*`, `user.*` or `*`.
pub fn is_pattern(key: &str) -> bool {
    key.ends_with(PATTERN_END)
}

/// Returns the key of the clients that watch the members of this topic. Neither a message nor a client can name it.
pub fn watchers_key(topic: &str) -> String {
    format!("{topic}{WATCHERS_END}")
}

/// Returns the topic of which this is the key of watchers.
pub fn watched(key: &str) -> Option<&str> {
    key.strip_suffix(WATCHERS_END)
}

/// Returns whether a subscription to `key` covers `topic`, which is well-formed, or the key of a pattern that is not wider.
pub fn covers(key: &str, topic: &str) -> bool {
    match key.strip_suffix(PATTERN_END) {
        Some(pattern) => patterns_of(topic).any(|prefix| prefix == pattern),
        None => key == topic,
    }
}

/// Returns the patterns that cover `topic`, as their keys without the NUL, from the longest to the empty one, which is `*`. A topic
/// of a user is covered by `user.` alone.
fn patterns_of(topic: &str) -> impl Iterator<Item = &str> {
    let mut left = Some(topic);
    std::iter::from_fn(move || {
        let levels = left.take()?;
        if is_user_topic(topic) {
            return Some(USER);
        }
        let end = levels.rfind('.').map_or(0, |dot| dot + 1);
        left = (end > 0).then(|| &levels[..end - 1]);
        Some(&levels[..end])
    })
}

/// Calls `each` with every key that covers `topic`, which is well-formed: the topic itself, then its patterns from the longest to
/// `\0`; for a topic of a user `user.\0` alone. `scratch` is overwritten: pass the same one each time.
pub fn keys_of<'a>(topic: &'a str, scratch: &'a mut String, mut each: impl FnMut(&str)) {
    each(topic);
    scratch.clear();
    scratch.push_str(topic);
    for pattern in patterns_of(topic) {
        scratch.truncate(pattern.len());
        scratch.push(PATTERN_END);
        each(scratch);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::engine::pubsub::hub::{Hub, Reason, Subscriptions};
    use crate::engine::random::Random;

    /// Topics, grants and near misses, from few enough pieces that they often meet.
    fn text(random: &mut Random) -> String {
        let pieces = ["a", "b", "user", "*", "", "a*", "é", "\n"];
        let common = random.below(4) > 0;
        let levels: Vec<&str> = (0..random.below(4) + 1)
            .map(|_| random.choose(&pieces[..if common { 4 } else { pieces.len() }]))
            .collect();
        levels.join(".")
    }

    fn keys(topic: &str) -> Vec<String> {
        let (mut scratch, mut keys) = (String::from("left over"), Vec::new());
        keys_of(topic, &mut scratch, |key| keys.push(key.to_owned()));
        keys
    }

    fn grant(text: &str) -> Grant {
        Grant::parse(text).unwrap_or_else(|| panic!("{text:?} is a grant"))
    }

    #[test]
    fn a_topic_is_checked_before_anything_is_done_with_it() {
        let longest = "a".repeat(TOPIC_BYTES_MAX);
        let longest_user = user_topic(&("ü".repeat(127) + "x")).unwrap();
        for topic in ["news", "room.7.chat", "A-Z_0:9@x/y", "user", "users.1", &longest] {
            assert_eq!(published(topic.as_bytes()), Some(topic));
        }
        for topic in ["user.42", "user.a..b.", "user.*", "user. ü\u{2028}\"", &longest_user] {
            assert_eq!(published(topic.as_bytes()), Some(topic));
        }
        let too_long = format!("{longest}a");
        let user_too_long = format!("{longest_user}a");
        let malformed =
            ["", ".", "a.", ".a", "a..b", "a b", "é", "*", "room.*", "a\0", "user.", "user.a\n"];
        for topic in
            malformed.into_iter().chain(["user.\u{85}", "user.\0", &too_long, &user_too_long])
        {
            assert_eq!(published(topic.as_bytes()), None, "{topic:?}");
        }
        assert_eq!(published(b"user.\xff"), None);
        assert_eq!(user_topic(""), None);
        assert_eq!(user_topic("4.2").as_deref(), Some("user.4.2"));
    }

    #[test]
    fn a_grant_keeps_its_text_and_has_a_key_of_its_own() {
        for (text, key) in [
            ("news", "news"),
            ("room.*", "room.\0"),
            ("room.7.*", "room.7.\0"),
            ("*", "\0"),
            ("user.*", "user.\0"),
            ("user.42", "user.42"),
            ("user.4.*", "user.4.*"),
            ("user", "user"),
            ("users.*", "users.\0"),
        ] {
            assert_eq!(grant(text).key(), key);
            assert_eq!(grant(text).to_string(), text);
            assert_eq!(text_of_key(key), text);
        }
        let too_long = format!("{}.*", "a".repeat(TOPIC_BYTES_MAX - 1));
        for text in [
            "", "**", ".*", "a*", "*.a", "a.*.b", "a..*", "a.**", "*.*", "user.", "a.\0", "\0",
            &too_long,
        ] {
            assert_eq!(Grant::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_user_called_star_is_not_every_user() {
        let own = user_topic("*").unwrap();
        assert!(!keys("user.42").contains(&own));
        assert_eq!(keys(&own), ["user.*", "user.\0"]);
        assert_ne!(grant(&own).key(), own);
    }

    #[test]
    fn a_message_looks_up_one_key_per_level() {
        assert_eq!(keys("room.7.chat"), ["room.7.chat", "room.7.\0", "room.\0", "\0"]);
        assert_eq!(keys("news"), ["news", "\0"]);
        assert_eq!(keys("user.a.b"), ["user.a.b", "user.\0"]);
        assert_eq!(keys("user"), ["user", "\0"]);
    }

    #[test]
    fn only_an_admin_joins_the_topics_of_users() {
        let joined = |text, admin| grant(text).keys(admin).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(joined("*", false), ["\0"]);
        assert_eq!(joined("*", true), ["\0", "user.\0"]);
        assert_eq!(joined("user.*", false), [""; 0]);
        assert_eq!(joined("user.7", false), [""; 0]);
        assert_eq!(joined("user.*", true), ["user.\0"]);
        assert_eq!(joined("user.7", true), ["user.7"]);
        assert_eq!(joined("room.*", true), ["room.\0"]);
    }

    #[test]
    fn a_grant_permits_what_asks_for_no_more_than_it_holds() {
        for (held, admin, wanted, expected) in [
            ("room.*", false, "room.7", true),
            ("room.*", false, "room.7.x", true),
            ("room.*", false, "room.7.*", true),
            ("room.*", false, "room.*", true),
            ("room.*", false, "room", false),
            ("room.*", false, "rooms.7", false),
            ("room.*", false, "*", false),
            ("room.7", false, "room.*", false),
            ("room.7", false, "room.7", true),
            ("*", false, "room.7", true),
            ("*", false, "*", true),
            ("*", false, "user", true),
            ("*", false, "user.7", false),
            ("*", false, "user.*", false),
            ("user.7", false, "user.7", false),
            ("user.*", false, "user.7", false),
            ("*", true, "user.7", true),
            ("*", true, "user.*", true),
            ("user.*", true, "user.7", true),
            ("user.7", true, "user.7", true),
            ("user.7", true, "user.*", false),
            ("user.*", true, "*", false),
            ("user.*", true, "news", false),
        ] {
            assert_eq!(
                grant(held).permits(admin, &grant(wanted)),
                expected,
                "{held} {admin} {wanted}"
            );
        }
    }

    #[test]
    fn a_key_follows_a_topic_that_is_not_a_users() {
        let longest = format!("a#{}", "k".repeat(KEY_BYTES_MAX));
        let of = |topic, key| Some(Subject { topic, key });
        for (name, expected) in [
            ("room.7", of("room.7", None)),
            ("room.7#K", of("room.7", Some("K"))),
            ("room.7#a#b é", of("room.7", Some("a#b é"))),
            ("user#1", of("user", Some("1"))),
            // The message of one user must never reach another.
            ("user.a#b", of("user.a#b", None)),
            ("user.#", of("user.#", None)),
            (&longest, of("a", Some(&longest[2..]))),
            ("room.7#", None),
            ("#K", None),
            ("room..7#K", None),
            ("room.7#K\n", None),
            (&format!("{longest}k"), None),
        ] {
            assert_eq!(Subject::of_channel(name.as_bytes()), expected, "{name:?}");
        }
        assert_eq!(Subject::of_channel(b"a#\xff"), None);
        assert_eq!(Subject::of_entry(b"user.a#b", Some(b"K")), of("user.a#b", Some("K")));
        assert_eq!(Subject::of_entry(b"room.7", Some(b"")), of("room.7", None));
        assert_eq!(Subject::of_entry(b"room.7#K", None), None);
        for key in [&b"\0"[..], b"\xff", &[b'k'; KEY_BYTES_MAX + 1]] {
            assert_eq!(Subject::of_entry(b"room.7", Some(key)), None);
        }
    }

    /// Level by level, as one would say it aloud.
    fn model_covers(grant: &str, admin: bool, topic: &str) -> bool {
        if topic.starts_with("user.") {
            return admin && (grant == "*" || grant == "user.*" || grant == topic);
        }
        let (grant, topic): (Vec<_>, Vec<_>) =
            (grant.split('.').collect(), topic.split('.').collect());
        match grant.split_last() {
            Some((&"*", above)) => topic.len() > above.len() && topic[..above.len()] == *above,
            _ => grant == topic,
        }
    }

    #[test]
    fn look_ups_and_the_matcher_find_what_the_model_finds() {
        let seed = 0x746f_7069_6373;
        let mut random = Random::new(seed);
        let mut covered = 0;
        for round in 0..50_000 {
            let (text, wanted, topic) = (text(&mut random), text(&mut random), text(&mut random));
            let (Some(held), Some(topic)) = (Grant::parse(&text), published(topic.as_bytes()))
            else {
                continue;
            };
            for admin in [false, true] {
                let case =
                    format!("seed {seed} round {round}: {text:?} {admin} {wanted:?} {topic:?}");
                let expected = model_covers(&text, admin, topic);
                covered += usize::from(expected);
                let mut lookups = keys(topic);
                assert_eq!(
                    held.keys(admin).any(|key| lookups.iter().any(|each| each == key)),
                    expected,
                    "{case}"
                );
                assert_eq!(held.covers(admin, topic), expected, "{case}");
                for key in held.keys(admin) {
                    let is_found = lookups.iter().any(|each| each == key);
                    assert_eq!(covers(key, topic), is_found, "{case}: {key:?}");
                }
                let Some(wanted) = Grant::parse(&wanted) else {
                    continue;
                };
                if held.permits(admin, &wanted) && wanted.covers(admin, topic) {
                    assert!(expected, "{case}: permitted, yet it would receive more");
                }
                lookups.dedup();
                assert_eq!(lookups, keys(topic), "{case}: a key twice");
            }
        }
        assert!(covered > 1000, "the generator makes topics and grants that meet");
    }

    /// Clients of a hub with their grants: those found for a message, and bystanders.
    #[test]
    fn the_hub_finds_exactly_the_clients_that_the_matcher_names() {
        let seed = 0x6875_6273;
        let mut random = Random::new(seed);
        let (mut found_in_all, mut bystanders) = (0, 0);
        for round in 0..2_000 {
            let mut hub = Hub::default();
            let clients: Vec<(Vec<Grant>, bool)> = (0..8)
                .map(|client| {
                    let admin = random.below(3) == 0;
                    let texts = (0..3).map(|_| text(&mut random)).collect::<Vec<_>>();
                    let grants: Vec<Grant> =
                        texts.iter().filter_map(|text| Grant::parse(text)).collect();
                    let mut of = Subscriptions::default();
                    for key in grants.iter().flat_map(|grant| grant.keys(admin)) {
                        hub.subscribe(client, &mut of, key, Reason::Granted);
                    }
                    (grants, admin)
                })
                .collect();
            for topic in (0..8).map(|_| text(&mut random)) {
                let Some(topic) = published(topic.as_bytes()) else { continue };
                let (mut scratch, mut found) = (String::new(), BTreeSet::new());
                keys_of(topic, &mut scratch, |key| {
                    found
                        .extend(hub.find(key).into_iter().flat_map(|topic| hub.subscribers(topic)));
                });
                for (client, (grants, admin)) in (0..).zip(&clients) {
                    let is_covered = grants.iter().any(|grant| grant.covers(*admin, topic));
                    let case = format!("seed {seed} round {round}: {grants:?} {admin} {topic:?}");
                    assert_eq!(found.contains(&client), is_covered, "{case}");
                }
                found_in_all += found.len();
                bystanders += clients.len() - found.len();
            }
        }
        assert!(found_in_all > 1000 && bystanders > 1000, "{found_in_all} {bystanders}");
    }
}
