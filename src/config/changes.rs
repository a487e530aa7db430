//! What differs between the settings in force and those that were read again, and what of it a running server can take over.

use super::setting::{Apply, Place};
use super::{Config, Jwt, RouteConfig, table};

/// Numbers that a running server takes over. What is not here sized something when the server started, or is part of a
/// connection that would have to be made anew.
const LIVE: &[&str] = &[
    "clients_max",
    "clients_per_user_max",
    "handshakes_max",
    "handshakes_per_second_max",
    "head_bytes_max",
    "head_seconds",
    "auth_seconds",
    "message_bytes_max",
    "fragments_max",
    "commands_per_second_max",
    "topics_per_client_max",
    "backlog_frames_max",
    "backlog_bytes_max",
    "unfinished_bytes_max",
    "backlogs_bytes_max",
    "memberships_bytes_max",
    "stalled_seconds",
    "ping_seconds",
    "silence_seconds",
    "replay_bytes_per_second_max",
    "upstream_entries_max",
    "upstream_bytes_max",
    "upstream_bytes_per_second_max",
    "receipt_seconds",
    "source_read_bytes_per_turn",
    "flush_clients_per_turn",
    "accepts_per_turn",
    "drain_seconds",
    "drain_per_second",
    "memory_max",
];

type Differs<T> = fn(&T, &T) -> bool;

/// Two texts compared: the key, whether they differ, and how the newer one is taken over; without that it needs a restart.
type Text<T> = (&'static str, Differs<T>, Option<fn(&mut T, &T)>);

const TEXTS: [Text<Config>; 19] = [
    ("listen", |a, b| a.listen != b.listen, None),
    ("proxies", |a, b| a.proxies != b.proxies, Some(|a, b| a.proxies = b.proxies.clone())),
    ("proxy_protocol", |a, b| a.proxy_protocol != b.proxy_protocol, None),
    ("redis", |a, b| a.redis != b.redis, None),
    ("publishers", |a, b| a.publishers != b.publishers, None),
    ("publishers_password", |a, b| a.publishers_password != b.publishers_password, None),
    ("prefix", |a, b| a.prefix != b.prefix, None),
    ("patterns", |a, b| a.patterns != b.patterns, None),
    ("ctl", |a, b| a.control != b.control, None),
    ("receipts", |a, b| a.receipts != b.receipts, None),
    ("streams", |a, b| a.streams != b.streams, None),
    ("admin", |a, b| a.admin != b.admin, None),
    ("events", |a, b| a.events != b.events, None),
    ("client_script", |a, b| a.client_script != b.client_script, None),
    ("page", |a, b| a.page != b.page, None),
    (
        "cursor_key_file",
        |a, b| a.cursor_key != b.cursor_key,
        Some(|a, b| a.cursor_key.clone_from(&b.cursor_key)),
    ),
    (
        "previous_cursor_key_file",
        |a, b| a.previous_cursor_key != b.previous_cursor_key,
        Some(|a, b| a.previous_cursor_key.clone_from(&b.previous_cursor_key)),
    ),
    ("log", |a, b| a.log != b.log, Some(|a, b| a.log = b.log)),
    ("log_format", |a, b| a.log_format != b.log_format, None),
];

const TOKENS: [(&str, Differs<Jwt>); 11] = [
    ("jwt.secret", |a, b| a.secret != b.secret),
    ("jwt.previous_secret", |a, b| a.previous_secret != b.previous_secret),
    ("jwt.key", |a, b| a.key != b.key),
    ("jwt.previous_key", |a, b| a.previous_key != b.previous_key),
    ("jwt.jwks", |a, b| a.jwks != b.jwks),
    ("jwt.user_claim", |a, b| a.user_claim != b.user_claim),
    ("jwt.audience", |a, b| a.audience != b.audience),
    ("jwt.issuer", |a, b| a.issuer != b.issuer),
    ("jwt.cookie", |a, b| a.cookie != b.cookie),
    ("jwt.algorithms", |a, b| a.algorithms != b.algorithms),
    ("jwt.leeway_seconds", |a, b| a.leeway_seconds != b.leeway_seconds),
];

const ROUTE: [Text<RouteConfig>; 8] = [
    ("origins", |a, b| a.origins != b.origins, Some(|a, b| a.origins = b.origins.clone())),
    ("topics", |a, b| a.topics != b.topics, Some(|a, b| a.topics = b.topics.clone())),
    ("may", |a, b| a.may != b.may, Some(|a, b| a.may = b.may.clone())),
    (
        "anonymous",
        |a, b| a.anonymous != b.anonymous,
        Some(|a, b| a.anonymous = b.anonymous.clone()),
    ),
    (
        "single_session",
        |a, b| a.single_session != b.single_session,
        Some(|a, b| a.single_session = b.single_session),
    ),
    ("format", |a, b| a.format != b.format, None),
    ("slow", |a, b| a.slow != b.slow, None),
    ("upstream", |a, b| a.upstream != b.upstream, None),
];

/// The settings that are in force from now on, and what there is to say about that. No text shows a value that may be a secret.
pub struct Changes {
    pub config: Config,
    /// What was taken over.
    pub live: Vec<String>,
    /// What needs a restart.
    pub pending: Vec<String>,
}

/// Takes over what a running server can.
pub fn changes(current: &Config, newer: &Config) -> Changes {
    let config = current.clone();
    let mut changes = Changes { config, live: Vec::new(), pending: Vec::new() };
    changes.take_numbers(newer);
    take_texts(&TEXTS, &mut changes.config, newer, |key, is_live| {
        let list = if is_live { &mut changes.live } else { &mut changes.pending };
        list.push(key.to_owned());
    });
    changes.take_tokens(newer);
    changes.take_routes(newer);
    changes
}

fn take_texts<T>(
    texts: &[Text<T>],
    current: &mut T,
    newer: &T,
    mut tell: impl FnMut(&'static str, bool),
) {
    for (key, differs, take) in texts {
        if differs(current, newer) {
            if let Some(take) = take {
                take(current, newer);
            }
            tell(key, take.is_some());
        }
    }
}

impl Changes {
    fn take_numbers(&mut self, newer: &Config) {
        let mut newer = newer.clone();
        for setting in table::all().filter(|setting| !setting.key.starts_with("jwt.")) {
            let Apply::Number { place, .. } = &setting.apply else { continue };
            let [before, now] = [place.value(&mut self.config), place.value(&mut newer)];
            if before == now {
                continue;
            }
            let text = format!("{}: {before}, now {now}", setting.key);
            if LIVE.contains(&setting.key) {
                Place::set(place, &mut self.config, now);
                self.live.push(text);
            } else {
                self.pending.push(text);
            }
        }
    }

    /// A server that made itself a secret has told it to nobody but its own page: from there on it takes a restart.
    fn take_tokens(&mut self, newer: &Config) {
        let differing = TOKENS.iter().filter(|(_, differs)| differs(&self.config.jwt, &newer.jwt));
        let keys: Vec<String> = differing.map(|(key, _)| (*key).to_owned()).collect();
        if self.config.jwt.has_key() && newer.jwt.has_key() {
            self.config.jwt = newer.jwt.clone();
            self.live.extend(keys);
        } else {
            self.pending.extend(keys);
        }
    }

    fn take_routes(&mut self, newer: &Config) {
        let Changes { config, live, pending } = self;
        for route in &mut config.routes {
            let path = route.path.clone();
            let Some(newer) = newer.routes.iter().find(|newer| newer.path == path) else {
                pending.push(format!("the route {path} is gone"));
                continue;
            };
            take_texts(&ROUTE, route, newer, |key, is_live| {
                let list = if is_live { &mut *live } else { &mut *pending };
                list.push(format!("{key} of {path}"));
            });
        }
        let known = |path: &str| config.routes.iter().any(|route| route.path == path);
        let added = newer.routes.iter().filter(|route| !known(&route.path));
        pending.extend(added.map(|route| format!("the route {} is new", route.path)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft::{Draft, Source};
    use super::super::value::Value;
    use super::*;
    use std::collections::BTreeSet;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    /// A value of each setting that is not its default.
    fn other(key: &str) -> &'static str {
        match key {
            "listen" | "admin" | "publishers" => "127.0.0.1:7",
            "proxies" => "::1",
            "proxy_protocol" => "v2",
            "redis" => "redis://h",
            "patterns" => "a,b",
            "events" | "upstream" => "stream:x",
            "log" => "debug",
            "log_format" => "json",
            "jwt.algorithms" => "HS512",
            "path" => "/other",
            "origins" => "https://a.b",
            "format" => "raw",
            "slow" => "keep-newest",
            "single_session" | "page" => "true",
            "client_script" => "false",
            "jwt.secret" | "jwt.previous_secret" | "publishers_password" => SECRET,
            _ => "x",
        }
    }

    fn with_a_key() -> Config {
        let mut config = Config::default();
        config.jwt.secret = Some(super::super::Secret::new(vec![1; 32]));
        config
    }

    #[test]
    fn no_setting_changes_without_a_word() {
        for setting in table::all() {
            let mut draft = Draft { config: with_a_key(), ..Draft::default() };
            match &setting.apply {
                Apply::Number { minimum, maximum, place, .. } => {
                    let is_most = place.value(&mut draft.config) == *maximum;
                    let other = if is_most { *minimum } else { *maximum };
                    draft.take(setting, Value::Number(i128::from(other)), Source::Flag);
                }
                Apply::File { set, .. } | Apply::Variable { set, .. } => {
                    set(&mut draft.config, SECRET.as_bytes().to_vec()).unwrap();
                }
                Apply::Text { .. } | Apply::Route { .. } => {
                    let value = Value::Text(other(setting.key).to_owned());
                    draft.take(setting, value, Source::Flag);
                }
            }
            assert_eq!(draft.problems, Vec::<String>::new());
            let changes = changes(&with_a_key(), &draft.config);
            let told = [changes.live, changes.pending].concat();
            let name = match setting.key {
                "path" => "the route /other",
                key => key.trim_end_matches("_file"),
            };
            assert!(told.iter().any(|text| text.starts_with(name)), "{}: {told:?}", setting.key);
            assert!(told.iter().all(|text| !text.contains(SECRET)), "{told:?}");
        }
    }

    #[test]
    fn what_is_in_force_is_what_was_taken_over_and_nothing_else() {
        let current = with_a_key();
        let mut newer = with_a_key();
        newer.bounds.head_seconds = 77;
        newer.bounds.publishers_max = 7;
        newer.redis = Some("redis://:hush@h".to_owned());
        newer.jwt.leeway_seconds = 9;
        newer.routes[0].topics = vec!["a".to_owned()];
        newer.routes[0].format = super::super::Format::Raw;
        newer.routes.push(RouteConfig { path: "/second".to_owned(), ..RouteConfig::default() });
        let found = changes(&current, &newer);
        assert_eq!(found.live, ["head_seconds: 10, now 77", "jwt.leeway_seconds", "topics of /ws"]);
        let pending =
            ["publishers_max: 64, now 7", "redis", "format of /ws", "the route /second is new"];
        assert_eq!(found.pending, pending);
        let mut expected = current.clone();
        expected.bounds.head_seconds = 77;
        expected.jwt.leeway_seconds = 9;
        expected.routes[0].topics = vec!["a".to_owned()];
        assert_eq!(format!("{:?}", found.config), format!("{expected:?}"));
        // What needs a restart is said each time, what was taken over once.
        let again = changes(&found.config, &newer);
        assert_eq!((again.live, again.pending.len()), (Vec::<String>::new(), pending.len()));
        let nothing = changes(&current, &current);
        assert!(nothing.live.is_empty() && nothing.pending.is_empty());
    }

    #[test]
    fn the_first_key_and_the_last_one_need_a_restart() {
        for (current, newer) in
            [(Config::default(), with_a_key()), (with_a_key(), Config::default())]
        {
            let found = changes(&current, &newer);
            assert_eq!(found.pending, ["jwt.secret"]);
            assert_eq!(found.config.jwt.has_key(), current.jwt.has_key());
        }
    }

    #[test]
    fn the_numbers_that_are_taken_over_are_settings() {
        let live: BTreeSet<&str> = LIVE.iter().copied().collect();
        assert_eq!(live.len(), LIVE.len());
        assert!(live.iter().all(|key| table::by_key(key).is_some()));
    }
}
