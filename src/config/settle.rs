//! The judgement on the settings as a whole: files are read, defaults that depend on others are filled in, and contradictions
//! become problems.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Config;
use super::cluster::{NEEDS_KEYS, with_keys};
use super::draft::Draft;
use super::file::read_file;
use super::setting::Apply;
use super::value::Value;
use super::{settle_demand, table};
use crate::engine::origin::Origins;
use crate::engine::reactor::Listen;
use crate::engine::redis::place::{asks_for_tls, is_cluster};
use crate::engine::redis::sink::Sink;

/// The largest file with a key, a key set or a secret.
const KEY_BYTES_MAX: u64 = 1 << 20;

const SECRETS: [&str; 2] = ["jwt.secret", "jwt.secret_file"];
const PUBLIC_KEYS: [&str; 2] = ["jwt.key_file", "jwt.jwks_file"];
const HOW_TO_SET_A_KEY: &str =
    "set ONELOOP_JWT_SECRET, jwt.secret_file, jwt.key_file or jwt.jwks_file";

const NEEDS_REDIS: &str = "needs a Redis: set redis, or leave it out";

/// The purpose of reading the settings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Serve,
    Publish,
    Sign,
    /// To check a token.
    Check,
}

impl Draft {
    /// Returns the finished settings and every problem. Checks that matter to a server alone are left out for other tasks: a token
    /// can be made on a machine that lacks the rest.
    pub(super) fn settle(mut self, task: Task) -> (Config, Vec<String>) {
        self.check_collisions();
        self.read_files(task);
        self.check_keys();
        self.check_algorithms();
        self.choose_routes();
        self.fill_defaults();
        self.check_bounds();
        self.check_cookie();
        self.check_identity();
        if task == Task::Serve {
            self.check_addresses();
            self.check_tls();
            self.check_proxies();
            self.check_redis();
            self.check_receipts();
        }
        if task == Task::Sign && self.first(&SECRETS).is_none() {
            self.problems.push(
                "token signs with the server's secret: set ONELOOP_JWT_SECRET or jwt.secret_file; \
                 without a key the server prints a token when it starts"
                    .to_owned(),
            );
        }
        (self.config, self.problems)
    }

    /// Refuses two settings for one thing: a winner would be a guess.
    fn check_collisions(&mut self) {
        for setting in table::all() {
            if let [Some(former), Some(own)] =
                [setting.former, setting.key].map(|key| self.sources.get(key))
            {
                self.problems.push(format!(
                    "{} ({former}) and {} ({own}) are two names of one setting: keep {}",
                    setting.former, setting.key, setting.key
                ));
            }
        }
        for (one, other) in [
            ("jwt.secret", "jwt.secret_file"),
            ("jwt.previous_secret", "jwt.previous_secret_file"),
            ("publishers_password", "publishers_password_file"),
            ("jwt.key_file", "jwt.jwks_file"),
        ] {
            if self.has(one) && self.has(other) {
                let (one, other) = (self.label(one), self.label(other));
                self.problems.push(format!("{one} and {other} are both given: keep one of them"));
            }
        }
        if let (Some(secret), Some(public)) = (self.first(&SECRETS), self.first(&PUBLIC_KEYS)) {
            self.problems.push(format!(
                "{secret} and {public} are keys of two families: keep one of them, since with both \
                 a token could choose how it is checked"
            ));
        }
    }

    fn read_files(&mut self, task: Task) {
        for (key, name) in std::mem::take(&mut self.files) {
            let is_needed = match task {
                Task::Serve => true,
                Task::Publish => key.starts_with("publishers_") || key.starts_with("redis_"),
                Task::Sign | Task::Check => key.starts_with("jwt."),
            };
            if !is_needed {
                continue;
            }
            let Some(Apply::File { hidden, field, .. }) =
                table::by_key(key).map(|named| &named.setting.apply)
            else {
                unreachable!("only rows that name a file put one here");
            };
            if key == "jwt.jwks_file" {
                self.config.jwt.jwks_file = Some(name.clone());
            }
            let set_bytes = |mut bytes: Vec<u8>| {
                if *hidden {
                    cut_newline(&mut bytes);
                }
                field.set(&mut self.config, &Value::Bytes(bytes))
            };
            if let Err(reason) = read_key_file(&name).and_then(set_bytes) {
                let label = self.label(key);
                let name = if *hidden { String::new() } else { format!(" {name:?}") };
                self.problems.push(format!("{label}{name}: {reason}"));
            }
        }
    }

    /// Refuses a previous key without a current one: it is for the days after a change.
    fn check_keys(&mut self) {
        for (previous, current) in [
            (&["jwt.previous_secret", "jwt.previous_secret_file"][..], &SECRETS[..]),
            (&["jwt.previous_key_file"][..], &["jwt.key_file"][..]),
            (&["previous_cursor_key_file"][..], &["cursor_key_file"][..]),
        ] {
            if let (Some(label), None) = (self.first(previous), self.first(current)) {
                let wanted = current[current.len() - 1];
                self.problems.push(format!("{label} needs a current one beside it: set {wanted}"));
            }
        }
    }

    fn check_algorithms(&mut self) {
        let is_public = self.first(&PUBLIC_KEYS).is_some();
        if is_public && self.first(&SECRETS).is_some() {
            return; // Two families: said already.
        }
        let algorithms = self.config.jwt.algorithms.iter();
        let strangers: Vec<&str> = algorithms
            .map(String::as_str)
            .filter(|name| name.starts_with("HS") == is_public)
            .collect();
        if strangers.is_empty() {
            return;
        }
        let (strangers, label) = (strangers.join(", "), self.label("jwt.algorithms"));
        self.problems.push(match is_public {
            true => format!(
                "{label}: {strangers} needs a secret, but a public key is set; \
                 allowed with it: RS.., PS.., ES256, ES384, EdDSA"
            ),
            false => format!(
                "{label}: {strangers} needs jwt.key_file or jwt.jwks_file; \
                 allowed with a secret: HS256, HS384, HS512"
            ),
        });
    }

    fn choose_routes(&mut self) {
        let Some((_, table)) = self.routes.first() else {
            return self.fill_default_route();
        };
        let keys = table::all().filter(|row| row.is_of_route() && self.has(row.key));
        let mixed: Vec<String> = keys
            .map(|row| {
                let label = self.label(row.key);
                format!(
                    "{label} sets the one default route, but there is [[route]] ({table}): keep one"
                )
            })
            .collect();
        self.problems.extend(mixed);
        let mut paths = BTreeSet::new();
        for (route, source) in &self.routes {
            if !paths.insert(&route.path) {
                let path = &route.path;
                self.problems.push(format!("[[route]] ({source}): path {path:?} is there already"));
            }
        }
        self.config.routes = self.routes.drain(..).map(|(route, _)| route).collect();
    }

    /// Without a key every client gets `news`, so that the first try shows something; with one the
    /// tokens decide.
    fn fill_default_route(&mut self) {
        if self.has_key() && !self.has("topics") {
            self.config.routes[0].topics.clear();
        }
    }

    fn fill_defaults(&mut self) {
        if !self.has("publishers") && self.has("redis") {
            self.config.publishers = None;
        }
        if !self.has("patterns") {
            self.config.patterns = vec![format!("{}*", self.config.prefix)];
        }
    }

    fn check_bounds(&mut self) {
        let (ping, silence) = (self.config.bounds.ping_seconds, self.config.bounds.silence_seconds);
        if ping != 0 && silence != 0 && silence <= ping {
            let (ping_label, label) = (self.label("ping_seconds"), self.label("silence_seconds"));
            self.problems.push(format!(
                "{label} is {silence} and {ping_label} is {ping}: a silent client must be pinged \
                 before it is closed, so silence_seconds must be the larger"
            ));
        }
    }

    /// Refuses a cookie beside a route for every origin: a cookie comes with the handshake of any page, so any site would listen as
    /// its visitors.
    fn check_cookie(&mut self) {
        if self.config.jwt.cookie.is_none() {
            return;
        }
        for route in self.config.routes.iter().filter(|route| route.origins == Origins::Any) {
            let origins = self.label_of_route("origins", &route.path);
            let cookie = self.label("jwt.cookie");
            self.problems.push(format!(
                "{cookie} and {origins} = *: browsers send a cookie along with the handshake of any page, so every site could \
                 listen as its visitors; name the origins, or leave one of the two out"
            ));
        }
    }

    /// Refuses a header of proxies without proxies, since anyone could write it, and beside a route for every origin: the proxy knows
    /// a browser by its cookies.
    fn check_identity(&mut self) {
        for route in self.config.routes.iter().filter(|route| route.identity.is_some()) {
            let [identity, origins] =
                ["identity", "origins"].map(|key| self.label_of_route(key, &route.path));
            if self.config.proxies.is_empty() {
                self.problems.push(format!(
                    "{identity} is believed from proxies alone, and there are none: set proxies"
                ));
            }
            if route.origins == Origins::Any {
                self.problems.push(format!(
                    "{identity} and {origins} = *: a proxy adds the header to the handshake of any page, so every site could \
                     listen as its visitors; name the origins, or leave one of the two out"
                ));
            }
        }
    }

    /// The label of a route's key.
    fn label_of_route(&self, key: &str, path: &str) -> String {
        match self.has(key) {
            true => self.label(key),
            false => format!("{key} of [[route]] {path:?}"),
        }
    }

    fn check_addresses(&mut self) {
        let is_open = |one: &&Listen| one.socket_addr().is_some_and(|one| !is_loopback(one));
        if let Some(address) = self.config.listen.iter().find(is_open)
            && !self.has_key()
        {
            let problem = format!(
                "is {address}, which others can reach, but there is no key to check tokens with: {HOW_TO_SET_A_KEY}"
            );
            self.refuse("listen", &problem);
        }
        let has_password = self.has("publishers_password") || self.has("publishers_password_file");
        if let Some(address) = self.config.publishers
            && !is_loopback(address)
            && !has_password
        {
            self.refuse(
                "publishers",
                &format!(
                    "is {address}, which others can reach, but there is no password: \
                 set ONELOOP_PUBLISHERS_PASSWORD or publishers_password_file"
                ),
            );
        }
        if let Some(address) = self.config.zeromq.address
            && !is_loopback(address)
            && !has_password
        {
            let problem = format!(
                "is tcp://{address}, which others can reach, but there is no password: \
                 set ONELOOP_PUBLISHERS_PASSWORD or publishers_password_file"
            );
            self.refuse("zeromq", &problem);
        }
        if !self.config.streams.is_empty() && !self.has("redis") {
            self.refuse("streams", "is set, but redis is not: streams are in a Redis");
        }
        settle_demand::check(self);
        if self.has("events") && !self.has("redis") {
            self.refuse("events", "needs a Redis, which holds who is here and tells it: set redis");
        }
        if let Some(Sink::Stream(name)) = &self.config.events
            && self.config.streams.contains(name)
        {
            let (label, streams) = (self.label("events"), self.label("streams"));
            self.problems.push(format!(
                "{label} writes into {name:?}, which {streams} reads: events are no messages"
            ));
        }
        if self.config.publishers.is_none() && !self.has("redis") {
            self.refuse("publishers", "is off and redis is not set: nobody could publish");
        }
    }

    /// Refuses certificates without keys or without a listener that shows them, and such a listener without certificates.
    fn check_tls(&mut self) {
        let tls = &self.config.tls;
        let (certificates, keys) = (tls.certificate_files.len(), tls.key_files.len());
        let listener = self.config.listen.iter().find(|one| one.has_tls()).map(ToString::to_string);
        if certificates != keys {
            let (label, keys_label) = (self.label("tls.cert_file"), self.label("tls.key_file"));
            self.problems.push(format!(
                "{label} names {certificates} and {keys_label} {keys}: each certificate needs its key, in the same order"
            ));
        } else if let (Some(listener), 0) = (&listener, certificates) {
            let reason = format!(
                "names {listener}, but there is no certificate: set tls.cert_file and tls.key_file"
            );
            self.refuse("listen", &reason);
        } else if let (None, 1..) = (&listener, certificates) {
            let reason = "is for addresses that begin with tls://, and listen names none: write \
                          tls://IP:PORT there, or leave the certificates out";
            self.refuse("tls.cert_file", reason);
        }
    }

    /// Refuses a PROXY header without proxies, since they alone may send one.
    fn check_proxies(&mut self) {
        if self.config.proxy_protocol && self.config.proxies.is_empty() {
            self.refuse("proxy_protocol", "lets in proxies alone, and there are none: set proxies");
        }
    }

    /// Refuses settings that need a Redis, or a Redis with TLS.
    fn check_redis(&mut self) {
        self.check_redis_tls();
        if self.config.redis.as_deref().is_some_and(is_cluster) {
            for (key, path) in with_keys(&self.config) {
                let path = path.as_deref();
                let label = path.map_or_else(|| self.label(key), |it| self.label_of_route(key, it));
                self.problems.push(format!("{label} {NEEDS_KEYS}"));
            }
        }
        if self.has("redis") {
            return;
        }
        if self.config.receipts.is_some() {
            self.refuse("receipts", NEEDS_REDIS);
        }
        for route in self.config.routes.iter().filter(|route| route.upstream.is_some()) {
            let label = self.label_of_route("upstream", &route.path);
            self.problems.push(format!("{label} {NEEDS_REDIS}"));
        }
    }

    /// Refuses files for TLS to Redis that would mean nothing: whoever sets one relies on it.
    fn check_redis_tls(&mut self) {
        let has_tls = self.config.redis.as_deref().is_some_and(asks_for_tls);
        for key in ["redis_ca_file", "redis_cert_file", "redis_key_file"] {
            if self.has(key) && !has_tls {
                self.refuse(
                    key,
                    "is for TLS, which the setting redis does not ask for: write rediss:// there",
                );
            }
        }
        for (one, other) in
            [("redis_cert_file", "redis_key_file"), ("redis_key_file", "redis_cert_file")]
        {
            if self.has(one) && !self.has(other) {
                self.refuse(one, &format!("needs {other} beside it"));
            }
        }
    }

    /// Refuses a channel of receipts on which clients or the control feature would take them for their own.
    fn check_receipts(&mut self) {
        let Some(receipts) = &self.config.receipts else { return };
        let prefix = &self.config.prefix;
        let problem = if self.config.control.as_ref() == Some(receipts) {
            "is the channel of orders as well: name another one".to_owned()
        } else if !prefix.is_empty() && receipts.starts_with(prefix) {
            format!("begins with the prefix {prefix:?}: clients would hear receipts as messages")
        } else {
            return;
        };
        self.refuse("receipts", &problem);
    }

    /// Returns whether a key was given, even one that turned out to be wrong: that has its own message.
    pub(crate) fn has_key(&self) -> bool {
        SECRETS.iter().chain(&PUBLIC_KEYS).any(|key| self.has(key))
    }

    pub(super) fn refuse(&mut self, key: &str, reason: &str) {
        let label = self.label(key);
        self.problems.push(format!("{label} {reason}"));
    }

    /// The label of the first of these keys that was given.
    fn first(&self, keys: &[&str]) -> Option<String> {
        keys.iter().find(|key| self.has(key)).map(|key| self.label(key))
    }
}

/// Reads a file with a key, a key set or a secret.
///
/// # Errors
/// A sentence that does not name the file.
pub(crate) fn read_key_file(name: &str) -> Result<Vec<u8>, String> {
    read_file(name, KEY_BYTES_MAX)
}

/// `::ffff:127.0.0.1` is loopback as well.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Editors and `echo` end a file with a newline that belongs to no secret.
fn cut_newline(bytes: &mut Vec<u8>) {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft::SettingSource;
    use super::super::file::take_toml;
    use super::*;

    /// Returns the problems of a file with this text beside these secrets, given as variables.
    fn problems(toml: &str, secrets: &[&str]) -> Vec<String> {
        let mut draft = Draft::default();
        assert!(take_toml(&mut draft, "t.toml", toml));
        for key in secrets {
            let setting = table::by_key(key).expect("a row").setting;
            draft.take(setting, Value::Text("x".repeat(32)), SettingSource::Variable);
        }
        draft.settle(Task::Serve).1
    }

    #[test]
    fn settings_that_contradict_each_other_are_named_with_their_sources() {
        // Any file will do as a key here: what it holds is judged elsewhere.
        const KEY: &str = "jwt.key_file = 'Cargo.toml'";
        const OPEN: &str = "which others can reach, but there is no";
        let (secret, previous) = (&["jwt.secret"][..], &["jwt.previous_secret"][..]);
        #[rustfmt::skip]
        let table: &[(&str, &[&str], &str)] = &[
            ("jwt.secret_file = 'Cargo.toml'", secret, "jwt.secret (ONELOOP_JWT_SECRET) and jwt.secret_file (t.toml:1) are both given"),
            ("publishers_password_file = 'Cargo.toml'", &["publishers_password"], "publishers_password (ONELOOP_PUBLISHERS_PASSWORD) and publishers_password_file (t.toml:1) are both"),
            ("[jwt]\nkey_file = 'Cargo.toml'\njwks_file = 'Cargo.toml'", &[], "jwt.key_file (t.toml:2) and jwt.jwks_file (t.toml:3) are both given"),
            (KEY, secret, "jwt.secret (ONELOOP_JWT_SECRET) and jwt.key_file (t.toml:1) are keys of two families"),
            ("jwt.jwks_file = 'Cargo.toml'", secret, "jwt.jwks_file (t.toml:1) are keys of two families"),
            ("", previous, "jwt.previous_secret (ONELOOP_JWT_PREVIOUS_SECRET) needs a current one beside it: set jwt.secret_file"),
            ("jwt.previous_key_file = 'Cargo.toml'", &[], "jwt.previous_key_file (t.toml:1) needs a current one beside it: set jwt.key_file"),
            ("previous_cursor_key_file = 'Cargo.toml'", secret, "previous_cursor_key_file (t.toml:1) needs a current one beside it: set cursor_key_file"),
            ("jwt.algorithms = ['HS256', 'RS256']", secret, "jwt.algorithms (t.toml:1): RS256 needs jwt.key_file or jwt.jwks_file"),
            ("jwt = { key_file = 'Cargo.toml', algorithms = ['HS256', 'EdDSA'] }", &[], "HS256 needs a secret"),
            ("ping_seconds = 60", &[], "silence_seconds is 60 and ping_seconds (t.toml:1) is 60"),
            ("silence_seconds = 24", &[], "silence_seconds (t.toml:1) is 24 and ping_seconds is 25"),
            ("listen = '0.0.0.0:1'", &[], OPEN),
            ("listen = '[::]:1'", &[], "set ONELOOP_JWT_SECRET, jwt.secret_file, jwt.key_file or jwt.jwks_file"),
            ("publishers = '0.0.0.0:1'", &[], OPEN),
            ("zeromq = 'tcp://0.0.0.0:1'", &[], OPEN),
            ("tls.cert_file = 'a,b'\ntls.key_file = 'c'", &[], "tls.cert_file (t.toml:1) names 2 and tls.key_file (t.toml:2) 1: each certificate needs its key"),
            ("tls.cert_file = 'a'\ntls.key_file = 'b'", &[], "tls.cert_file (t.toml:1) is for addresses that begin with tls://"),
            ("listen = 'tls://127.0.0.1:1'", &[], "listen (t.toml:1) names tls://127.0.0.1:1, but there is no certificate: set tls.cert_file"),
            ("tls.key_file = 'c'", &[], "tls.cert_file names 0 and tls.key_file (t.toml:1) 1: each"),
            ("proxy_protocol = 'v2'", &[], "proxy_protocol (t.toml:1) lets in proxies alone, and there are none: set proxies"),
            ("publishers = 'off'", &[], "publishers (t.toml:1) is off and redis is not set"),
            ("receipts = 'r'", &[], "receipts (t.toml:1) needs a Redis: set redis"),
            ("redis = 'redis://h'\nreceipts = 'pub.r'", &[], "receipts (t.toml:2) begins with the prefix \"pub.\""),
            ("redis = 'redis://h'\nreceipts = 'r'\ncontrol = 'r'", &[], "receipts (t.toml:2) is the channel of orders as well"),
            ("redis = 'redis://h'\nredis_ca_file = 'Cargo.toml'", &[], "redis_ca_file (t.toml:2) is for TLS, which the setting redis does not ask for"),
            ("redis = 'rediss://h'\nredis_cert_file = 'Cargo.toml'", &[], "redis_cert_file (t.toml:2) needs redis_key_file beside it"),
            ("redis = 'rediss://h'\nredis_key_file = 'Cargo.toml'", &[], "redis_key_file (t.toml:2) needs redis_cert_file beside it"),
            ("origins = ['*']\njwt.cookie = 'jwt'", &[], "jwt.cookie (t.toml:2) and origins (t.toml:1) = *: browsers send a cookie along"),
            ("jwt.cookie = 'jwt'\n[[route]]\n[[route]]\npath = '/a'\norigins = ['*']", &[], "jwt.cookie (t.toml:1) and origins of [[route]] \"/a\" = *: "),
            ("identity = 'header:X-User'", &[], "identity (t.toml:1) is believed from proxies alone"),
            ("proxies = '::1'\n[[route]]\norigins = '*'\nidentity = 'header:X-User'", &[], "identity of [[route]] \"/ws\" and origins of [[route]] \"/ws\" = *: a proxy adds"),
            ("upstream = 'stream:up'", &[], "upstream (t.toml:1) needs a Redis: set redis"),
            ("[[route]]\npath = '/a'\nupstream = 'channel:up'", &[], "upstream of [[route]] \"/a\" needs a Redis"),
            ("redis = 'redis+cluster://h'\nstreams = ['pub']", &[], "streams (t.toml:2) needs keys"),
            ("redis = 'redis+cluster://h'\nevents = 'channel:evt'", &[], "events (t.toml:2) needs keys"),
            ("redis = 'redis+cluster://h'\ncontrol = 'ctl'", &[], "control (t.toml:2) needs keys"),
            ("redis = 'redis+cluster://h'\nupstream = 'stream:up'", &[], "upstream (t.toml:2) needs keys"),
            ("redis = 'redis+cluster://h'\n[[route]]\npath = '/a'\nmembers = ['room.*']", &[], "members of [[route]] \"/a\" needs keys"),
            ("streams = ['pub']", &[], "streams (t.toml:1) is set, but redis is not"),
            ("subscribe = 'demand'", &[], "subscribe (t.toml:1) is demand, but redis is not set"),
            ("subscribe = 'demand'\nredis = 'redis://h'\nloops = 2", &[], "demand, but loops (t.toml:3) is more than 1"),
            ("subscribe = 'demand'\nredis = 'redis://h'\npatterns = ['pub.*']", &[], "leave out patterns (t.toml:3)"),
            ("events = 'stream:a'\nredis = 'redis://h'\nstreams = ['a']", &[], "events (t.toml:1) writes into \"a\", which streams (t.toml:3) reads"),
            ("events = 'stream:evt'", &[], "events (t.toml:1) needs a Redis"),
            ("path = '/a'\n[[route]]\npath = '/b'", &[], "path (t.toml:1) sets the one default route, but there is [[route]] (t.toml:2)"),
            ("[[route]]\n[[route]]\npath = '/ws'", &[], "[[route]] (t.toml:2): path \"/ws\" is there already"),
        ];
        for (toml, secrets, wanted) in table {
            let found = problems(toml, secrets);
            assert_eq!(found.len(), 1, "{toml}: {found:?}");
            assert!(found[0].contains(wanted), "{toml}: {}", found[0]);
        }
    }

    #[test]
    fn settings_that_agree_pass() {
        let open_key =
            "listen = '0.0.0.0:1'\njwt.key_file = 'Cargo.toml'\njwt.algorithms = ['ES256']";
        let table: &[(&str, &[&str])] = &[
            ("listen = '0.0.0.0:1'", &["jwt.secret", "jwt.previous_secret"]),
            (open_key, &[]),
            ("listen = '[::1]:1'\njwt.algorithms = ['HS384']", &[]),
            ("publishers = '0.0.0.0:1'", &["publishers_password"]),
            ("zeromq = 'tcp://0.0.0.0:1'", &["publishers_password"]),
            ("zeromq = 'tcp://[::1]:1'", &[]),
            ("listen = 'tls://127.0.0.1:1'\ntls.cert_file = 'a'\ntls.key_file = 'b'", &[]),
            ("publishers = 'off'\nredis = 'redis://h'", &[]),
            ("receipts = 'r'\nredis = 'redis://h'\nprefix = ''", &[]),
            ("redis = 'VALKEYS://h'\nredis_ca_file = 'Cargo.toml'", &[]),
            ("upstream = 'stream:up'\nredis = 'redis://h'", &[]),
            ("upstream = 'channel:up'\nreceipts = 'r'\nredis = 'redis+cluster://h'", &[]),
            ("streams = ['pub', 'more']\nredis = 'redis://h'", &[]),
            ("events = 'stream:evt'\nredis = 'redis://h'", &[]),
            ("jwt.cookie = 'jwt'\norigins = ['https://a.b']", &[]),
            ("jwt.cookie = 'off'\norigins = ['*']", &[]),
            ("proxies = '::1'\nidentity = 'header:X-User'", &[]),
            ("[[route]]\nidentity = 'off'\norigins = ['*']", &[]),
            ("ping_seconds = 0\nsilence_seconds = 1", &[]),
            ("ping_seconds = 90\nsilence_seconds = 0", &[]),
            ("[[route]]\npath = '/a'\n[[route]]\npath = '/'", &[]),
        ];
        for (toml, secrets) in table {
            assert_eq!(problems(toml, secrets), Vec::<String>::new(), "{toml}");
        }
    }

    #[test]
    fn one_newline_is_cut_and_no_more() {
        let table = [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), ("", "")];
        for (whole, cut) in table {
            let mut bytes = whole.as_bytes().to_vec();
            cut_newline(&mut bytes);
            assert_eq!(bytes, cut.as_bytes(), "{whole:?}");
        }
    }
}
