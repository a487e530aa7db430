//! The rule by which a token hears a topic: the answer of `oneloop explain`.

use std::fmt;

use super::token::Identity;
use crate::engine::pubsub::topic::{Grant, is_user_topic, user_topic};

/// The rule that decides whether the messages of a topic reach the holder of a token. Displays as a sentence.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Yes: the topic is that of the token's own user.
    Own,
    /// Yes: a grant in `topics` covers it.
    Hears(GrantSource, &'a Grant),
    /// After subscribing: a grant in `may` covers it.
    OnRequest(GrantSource, &'a Grant),
    /// No: the topic is another user's, and the token is not an admin's.
    OfAnotherUser,
    /// No: no grant covers it.
    Uncovered,
}

/// The place of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantSource {
    Token,
    Settings,
}

/// Returns the first rule by which `identity` hears the messages on `topic` (well-formed, see
/// [`published`](crate::engine::pubsub::topic::published)) on a route with these settings, or the reason why it does not.
pub fn explain<'a>(
    identity: &'a Identity,
    route_topics: &'a [Grant],
    route_may: &'a [Grant],
    topic: &str,
) -> Verdict<'a> {
    if user_topic(&identity.sub).as_deref() == Some(topic) {
        return Verdict::Own;
    }
    let rules = [
        (&identity.topics[..], GrantSource::Token, Verdict::Hears as fn(_, _) -> _),
        (route_topics, GrantSource::Settings, Verdict::Hears),
        (&identity.may[..], GrantSource::Token, Verdict::OnRequest),
        (route_may, GrantSource::Settings, Verdict::OnRequest),
    ];
    for (grants, source, verdict) in rules {
        if let Some(grant) = grants.iter().find(|grant| grant.covers(identity.admin, topic)) {
            return verdict(source, grant);
        }
    }
    match is_user_topic(topic) && !identity.admin {
        true => Verdict::OfAnotherUser,
        false => Verdict::Uncovered,
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Own => out.write_str("yes: it is the user's own topic"),
            Verdict::Hears(source, grant) => write!(out, "yes: `topics` {source} has `{grant}`"),
            Verdict::OnRequest(source, grant) => {
                write!(out, "on request: `may` {source} has `{grant}`: it hears it once subscribed")
            }
            Verdict::OfAnotherUser => out.write_str(
                "no: the topic of another user, which takes a token with `\"admin\": true`",
            ),
            Verdict::Uncovered => out.write_str(
                "no: neither `topics` nor `may`, in the token or in the settings, covers it",
            ),
        }
    }
}

impl fmt::Display for GrantSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            GrantSource::Token => "in the token",
            GrantSource::Settings => "in the settings",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(texts: &[&str]) -> Vec<Grant> {
        texts.iter().map(|text| Grant::parse(text).expect("a grant")).collect()
    }

    #[test]
    fn each_rule_is_named() {
        let route_topics = grants(&["news"]);
        let route_may = grants(&["*"]);
        for (topic, admin, expected) in [
            ("user.42", false, "yes: it is the user's own topic"),
            ("room.7", false, "yes: `topics` in the token has `room.*`"),
            ("news", false, "yes: `topics` in the settings has `news`"),
            (
                "chat.1",
                false,
                "on request: `may` in the token has `chat.1`: it hears it once subscribed",
            ),
            (
                "chat.2",
                false,
                "on request: `may` in the settings has `*`: it hears it once subscribed",
            ),
            (
                "user.7",
                false,
                "no: the topic of another user, which takes a token with `\"admin\": true`",
            ),
            ("user.7", true, "yes: `topics` in the token has `user.7`"),
            (
                "user.8",
                true,
                "on request: `may` in the settings has `*`: it hears it once subscribed",
            ),
        ] {
            let identity = Identity {
                sub: "42".to_owned(),
                expires: 0,
                topics: grants(&["room.*", "user.7"]),
                may: grants(&["chat.1"]),
                admin,
            };
            assert_eq!(explain(&identity, &route_topics, &route_may, topic).to_string(), expected);
        }
    }

    #[test]
    fn without_a_grant_it_says_so() {
        let identity =
            Identity { sub: "*".to_owned(), expires: 0, topics: vec![], may: vec![], admin: true };
        assert_eq!(explain(&identity, &[], &[], "room.7"), Verdict::Uncovered);
        assert_eq!(explain(&identity, &[], &[], "user.7"), Verdict::Uncovered);
        assert_eq!(explain(&identity, &[], &[], "user.*"), Verdict::Own);
        let sentence = Verdict::Uncovered.to_string();
        assert_eq!(
            sentence,
            "no: neither `topics` nor `may`, in the token or in the settings, covers it"
        );
    }
}
