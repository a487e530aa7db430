//! Topics and grants, parsed once into types that cannot be wrong.
//!
//! A topic is what a message is about: `room.7`, or `user.42` for one user alone. A grant is what
//! somebody listens to: a topic, `room.*` (every topic below `room`), `user.*` (every user) or `*`.
//! The hub finds listeners by *key*: an exact topic is its own key, a pattern's key is its prefix
//! and a NUL (`room.*` is `room.\0`, `*` is `\0`). No topic holds a control character, so the user
//! whose id is literally `*` (own topic and key `user.*`) is never taken for the pattern `user.*`
//! (key `user.\0`).

use std::borrow::Cow;
use std::fmt;

/// The longest topic, in bytes: the longest id of a user and the five bytes of `user.` before it.
pub const TOPIC_BYTES_MAX: usize = 260;

/// The longest id of a user (the claim `sub`), in bytes: what an OpenID provider may use (OpenID Connect Core section 2).
pub const USER_ID_BYTES_MAX: usize = 255;

/// What the topics of single users begin with.
const USER: &str = "user.";

/// The keys of the grants `user.*` and `*`.
const EVERY_USER: &str = "user.\0";
const EVERY_TOPIC: &str = "\0";

/// The text of a published message's topic, or `None` if it is malformed.
///
/// An ordinary topic is 1 to 260 bytes of `A-Z a-z 0-9 _ - . : @ /` in dot-separated levels, none
/// of them empty. What follows `user.` is a user's id, never split into levels: see [`is_user_id`].
pub fn published(topic: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(topic).ok()?;
    is_topic(text).then_some(text)
}

/// Whether `id` can be the id of a user: 1 to 255 bytes of UTF-8 without control characters.
pub fn is_user_id(id: &str) -> bool {
    (1..=USER_ID_BYTES_MAX).contains(&id.len()) && !id.contains(char::is_control)
}

/// The own topic of the user `sub`, or `None` if that cannot be the id of a user.
pub fn user_topic(sub: &str) -> Option<String> {
    is_user_id(sub).then(|| [USER, sub].concat())
}

/// The user whose own topic that is.
pub fn user_of(topic: &str) -> Option<&str> {
    topic.strip_prefix(USER).filter(|id| is_user_id(id))
}

/// Whether the topic or key concerns single users: `user.<id>` or the key of `user.*`.
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

/// What somebody listens to, or may listen to. Shown as it was written: `room.*`.
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
                fits.then(|| [prefix, "\0"].concat().into())?
            }
            _ => is_topic(text).then(|| text.into())?,
        };
        Some(Grant { key })
    }

    /// Under which the hub files those who listen to this: the topic itself, or a pattern's prefix
    /// and a NUL.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether it concerns single users: `user.<id>` or `user.*`. (`*` does not, except in an
    /// admin's hands.)
    pub fn is_user(&self) -> bool {
        is_user_topic(&self.key)
    }

    /// The keys that somebody who listens to this joins: one as a rule, none if it concerns users
    /// and the token is not an admin's, two for an admin's `*`, which is every ordinary topic and
    /// every user.
    pub fn keys(&self, admin: bool) -> impl Iterator<Item = &str> {
        let own = (admin || !self.is_user()).then_some(self.key());
        let users = (admin && self.key() == EVERY_TOPIC).then_some(EVERY_USER);
        own.into_iter().chain(users)
    }

    /// Whether one who may listen to this may listen to `wanted`, which asks for no more than this
    /// holds.
    ///
    /// `room.*` covers `room.7`, `room.7.*` and `room.*`, not `room`; `*` covers all that is not
    /// `user.`. Only an admin's grants cover anything of `user.`. A user's own topic needs no
    /// grant: that is the caller's part.
    pub fn covers(&self, admin: bool, wanted: &Grant) -> bool {
        self.covers_key(admin, wanted.key())
    }

    /// Whether one who listens to this hears the messages on `topic`, which is well-formed (see
    /// [`published`]).
    pub fn hears(&self, admin: bool, topic: &str) -> bool {
        self.covers_key(admin, topic)
    }

    fn covers_key(&self, admin: bool, wanted: &str) -> bool {
        if is_user_topic(wanted) {
            return admin && [EVERY_TOPIC, EVERY_USER, wanted].contains(&self.key());
        }
        match self.key.strip_suffix('\0') {
            Some(prefix) => wanted.starts_with(prefix),
            None => wanted == self.key(),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&text_of_key(&self.key))
    }
}

/// What a person calls the key: `room.\0` is `room.*`, an exact topic is itself.
pub fn text_of_key(key: &str) -> Cow<'_, str> {
    match key.strip_suffix('\0') {
        Some(prefix) => Cow::Owned([prefix, "*"].concat()),
        None => Cow::Borrowed(key),
    }
}

/// The keys under which the listeners of a message are found, one look-up each; see [`keys_of`].
pub struct KeysOf<'a> {
    topic: &'a str,
    scratch: &'a mut String,
    state: State,
}

enum State {
    Exact,
    /// The next pattern is a prefix of this many bytes of the topic, at most.
    Patterns(usize),
    Done,
}

/// The keys to look up for a message on `topic`, which is well-formed: the topic itself, then its
/// patterns from the longest to `\0`; for a user's topic `user.\0` alone. `scratch` is overwritten:
/// give the same one each time.
pub fn keys_of<'a>(topic: &'a str, scratch: &'a mut String) -> KeysOf<'a> {
    scratch.clear();
    scratch.push_str(topic);
    KeysOf { topic, scratch, state: State::Exact }
}

impl KeysOf<'_> {
    /// The next key, `None` after the last one.
    pub fn next_key(&mut self) -> Option<&str> {
        let end = match self.state {
            State::Exact => {
                self.state = State::Patterns(self.topic.len());
                return Some(self.topic);
            }
            State::Patterns(_) if is_user_topic(self.topic) => USER.len(),
            State::Patterns(length) => self.topic[..length].rfind('.').map_or(0, |dot| dot + 1),
            State::Done => return None,
        };
        let is_last = end == 0 || is_user_topic(self.topic);
        self.state = if is_last { State::Done } else { State::Patterns(end - 1) };
        self.scratch.truncate(end);
        self.scratch.push('\0');
        Some(self.scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    /// A seeded source of numbers (xorshift64).
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
        let mut scratch = String::from("left over");
        let mut keys = keys_of(topic, &mut scratch);
        std::iter::from_fn(|| keys.next_key().map(str::to_owned)).collect()
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
    fn a_grant_covers_what_asks_for_no_more_than_it_holds() {
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
                grant(held).covers(admin, &grant(wanted)),
                expected,
                "{held} {admin} {wanted}"
            );
        }
    }

    /// Level by level, as one would say it aloud.
    fn model_hears(grant: &str, admin: bool, topic: &str) -> bool {
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
    fn look_ups_find_whom_the_model_finds() {
        let seed = 0x746f_7069_6373;
        let mut random = Random::new(seed);
        let mut heard = 0;
        for round in 0..50_000 {
            let (text, wanted, topic) = (text(&mut random), text(&mut random), text(&mut random));
            let (Some(held), Some(topic)) = (Grant::parse(&text), published(topic.as_bytes()))
            else {
                continue;
            };
            for admin in [false, true] {
                let case =
                    format!("seed {seed} round {round}: {text:?} {admin} {wanted:?} {topic:?}");
                let expected = model_hears(&text, admin, topic);
                heard += usize::from(expected);
                let mut lookups = keys(topic);
                assert_eq!(
                    held.keys(admin).any(|key| lookups.iter().any(|each| each == key)),
                    expected,
                    "{case}"
                );
                assert_eq!(held.hears(admin, topic), expected, "{case}");
                let Some(wanted) = Grant::parse(&wanted) else {
                    continue;
                };
                if held.covers(admin, &wanted) && wanted.hears(admin, topic) {
                    assert!(expected, "{case}: covered, yet it would hear more");
                }
                lookups.dedup();
                assert_eq!(lookups, keys(topic), "{case}: a key twice");
            }
        }
        assert!(heard > 1000, "the generator makes topics and grants that meet");
    }
}
