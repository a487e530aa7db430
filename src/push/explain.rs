//! The rule by which a client receives a topic: the answer of `oneloop explain`.

use super::rights::grants;
use super::token::Identity;
use crate::config::RouteConfig;
use crate::engine::pubsub::topic::{Grant, is_user_topic, user_topic};

/// Returns whether the holder of a token receives the messages on `topic` (well-formed, see
/// [`published`](crate::engine::pubsub::topic::published)) without subscribing, and a sentence with the first rule that decides.
///
/// # Errors
/// A sentence that names the malformed grant of the settings.
pub fn explain(
    user: &Identity,
    route: &RouteConfig,
    topic: &str,
) -> Result<(bool, String), String> {
    if user_topic(&user.sub).as_deref() == Some(topic) {
        return Ok((true, "yes: it is the user's own topic".to_owned()));
    }
    let (topics, may) = (grants("topics", &route.topics)?, grants("may", &route.may)?);
    let covering = |grants: &'_ [Grant]| {
        grants.iter().find(|grant| grant.covers(user.admin, topic)).map(Grant::to_string)
    };
    for (place, grants) in [("token", &user.topics), ("settings", &topics)] {
        if let Some(grant) = covering(grants) {
            return Ok((true, format!("yes: `topics` in the {place} has `{grant}`")));
        }
    }
    for (place, grants) in [("token", &user.may), ("settings", &may)] {
        if let Some(grant) = covering(grants) {
            let rule = format!("on request: `may` in the {place} has `{grant}`");
            return Ok((false, rule + ": it hears it once subscribed"));
        }
    }
    let rule = match is_user_topic(topic) && !user.admin {
        true => "no: the topic of another user, which takes a token with `\"admin\": true`",
        false => "no: neither `topics` nor `may`, in the token or in the settings, covers it",
    };
    Ok((false, rule.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(texts: &[&str]) -> Vec<Grant> {
        texts.iter().map(|text| Grant::parse(text).expect("a grant")).collect()
    }

    #[test]
    fn each_rule_is_named() {
        let route = RouteConfig {
            topics: vec!["news".to_owned()],
            may: vec!["*".to_owned()],
            ..RouteConfig::default()
        };
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
                issued: None,
                topics: parsed(&["room.*", "user.7"]),
                may: parsed(&["chat.1"]),
                admin,
            };
            let is_received = expected.starts_with("yes");
            assert_eq!(explain(&identity, &route, topic), Ok((is_received, expected.to_owned())));
        }
    }

    #[test]
    fn without_a_grant_it_says_so() {
        let identity = Identity { admin: true, ..Identity::named_by_proxy("*", 0) };
        let route = RouteConfig::default();
        let rule = |topic| explain(&identity, &route, topic).unwrap();
        let uncovered =
            "no: neither `topics` nor `may`, in the token or in the settings, covers it";
        assert_eq!(rule("room.7"), (false, uncovered.to_owned()));
        assert_eq!(rule("user.7"), (false, uncovered.to_owned()));
        assert_eq!(rule("user.*"), (true, "yes: it is the user's own topic".to_owned()));
    }
}
