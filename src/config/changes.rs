//! The difference between the settings in force and those that were read again.

use super::setting::{Apply, Effect, Place, Setting};
use super::{Config, table};

/// The settings in force from now on, and the lines for the log. No line shows a value that may be a secret.
pub struct Changes {
    pub config: Config,
    /// A line for each change that was taken over.
    pub live: Vec<String>,
    /// A line for each change that needs a restart.
    pub pending: Vec<String>,
}

/// Takes over the changes that need no restart.
pub fn changes(current: &Config, newer: &Config) -> Changes {
    let has_key = current.jwt.has_key() && newer.jwt.has_key();
    let (config, live, pending) = (current.clone(), Vec::new(), Vec::new());
    let mut changes = Changes { config, live, pending };
    let mut newer = newer.clone();
    for setting in table::all() {
        let is_live = match setting.effect {
            Effect::Live => true,
            Effect::LiveWithKey => has_key,
            Effect::Restart => false,
        };
        if let Some(change) = take_over(setting, is_live, &mut changes.config, &mut newer) {
            changes.list(is_live).push(change);
        }
    }
    if has_key {
        // Its contents were compared.
        changes.config.jwt.jwks_file = newer.jwt.jwks_file.take();
    }
    changes.take_routes(&mut newer);
    changes
}

/// Compares the value of a setting that stands outside routes, and copies the newer one if `is_live`. Returns a line for the log;
/// it shows no text, which may be a secret.
fn take_over(
    setting: &Setting,
    is_live: bool,
    config: &mut Config,
    newer: &mut Config,
) -> Option<String> {
    match &setting.apply {
        Apply::Number { place, .. } => {
            let [before, now] = [place.value(config), place.value(newer)];
            if is_live {
                Place::set(place, config, now);
            }
            (before != now).then(|| format!("{}: {before}, now {now}", setting.key))
        }
        // The variable that holds the same secret has a row of its own.
        Apply::File { hidden: true, .. } if has_variable(setting.key) => None,
        Apply::Text { field, .. } | Apply::File { field, .. } | Apply::Variable { field, .. } => {
            let differs = field.differs(config, newer);
            if differs && is_live {
                field.copy(config, newer);
            }
            differs.then(|| setting.key.to_owned())
        }
        Apply::Route { .. } => None,
    }
}

fn has_variable(key: &str) -> bool {
    key.strip_suffix("_file").is_some_and(|key| table::by_key(key).is_some())
}

impl Changes {
    fn list(&mut self, is_live: bool) -> &mut Vec<String> {
        if is_live { &mut self.live } else { &mut self.pending }
    }

    fn take_routes(&mut self, newer: &mut Config) {
        let mut routes = std::mem::take(&mut self.config.routes);
        for route in &mut routes {
            let path = route.path.clone();
            let Some(newer) = newer.routes.iter_mut().find(|newer| newer.path == path) else {
                self.pending.push(format!("the route {path} is gone"));
                continue;
            };
            for setting in table::all() {
                let Apply::Route { field, .. } = &setting.apply else { continue };
                let is_live = setting.effect == Effect::Live;
                if field.differs(route, newer) {
                    if is_live {
                        field.copy(route, newer);
                    }
                    self.list(is_live).push(format!("{} of {path}", setting.key));
                }
            }
        }
        let known = |path: &str| routes.iter().any(|route| route.path == path);
        let added = newer.routes.iter().filter(|route| !known(&route.path));
        self.pending.extend(added.map(|route| format!("the route {} is new", route.path)));
        self.config.routes = routes;
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft::{Draft, SettingSource};
    use super::super::value::Value;
    use super::*;
    use crate::config::RouteConfig;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    /// A value of each setting that is not its default.
    fn other(key: &str) -> &'static str {
        match key {
            "listen" | "admin" | "publishers" => "127.0.0.1:7",
            "zeromq" => "tcp://127.0.0.1:7",
            "unix.mode" => "0600",
            "loops" => "2",
            "proxies" => "::1",
            "proxy_protocol" => "v2",
            "redis" => "redis://h",
            "patterns" => "a,b",
            "subscribe" => "demand",
            "events" | "upstream" => "stream:x",
            "log" => "debug",
            "log_format" => "json",
            "jwt.algorithms" => "HS512",
            "path" => "/other",
            "origins" => "https://a.b",
            "identity" => "header:X-User",
            "format" => "raw",
            "slow" => "keep-newest",
            "deflate" => "all",
            "single_session" | "page" => "true",
            "client_script" => "false",
            "acme_webroot" => "/var/lib/acme",
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
                    draft.take(setting, Value::Number(i128::from(other)), SettingSource::Flag);
                }
                Apply::File { field, .. } | Apply::Variable { field, .. } => {
                    field.set(&mut draft.config, &Value::Text(SECRET.to_owned())).unwrap();
                }
                Apply::Text { .. } | Apply::Route { .. } => {
                    let value = Value::Text(other(setting.key).to_owned());
                    draft.take(setting, value, SettingSource::Flag);
                }
            }
            assert_eq!(draft.problems, Vec::<String>::new());
            let changes = changes(&with_a_key(), &draft.config);
            let told = [changes.live, changes.pending].concat();
            let name = match setting.key {
                "path" => "the route /other",
                key if has_variable(key) => key.trim_end_matches("_file"),
                key => key,
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
        newer.publisher_bounds.connections_max = 7;
        newer.redis = Some("redis://:hush@h".to_owned());
        newer.jwt.leeway_seconds = 9;
        newer.routes[0].topics = vec!["a".to_owned()];
        newer.routes[0].format = super::super::Format::Raw;
        newer.routes.push(RouteConfig { path: "/second".to_owned(), ..RouteConfig::default() });
        let found = changes(&current, &newer);
        assert_eq!(
            found.live,
            ["jwt.leeway_seconds: 5, now 9", "head_seconds: 10, now 77", "topics of /ws"]
        );
        let pending =
            ["redis", "publishers_max: 64, now 7", "format of /ws", "the route /second is new"];
        assert_eq!(found.pending, pending);
        let mut expected = current.clone();
        expected.bounds.head_seconds = 77;
        expected.jwt.leeway_seconds = 9;
        expected.routes[0].topics = vec!["a".to_owned()];
        assert_eq!(format!("{:?}", found.config), format!("{expected:?}"));
        // A setting that needs a restart is named each time, one that was taken over once.
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
}
