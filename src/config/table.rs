//! The one list of all settings: what they are called, what they take, what they do.

use super::setters::*;
use super::setting::Place::{U32, U64, Usize};
use super::setting::{
    MIB, Setting, file, number, route, secret, secret_file, size, size_or_off, text,
};
use super::value::TRUTH;

/// The most clients, topics or frames a setting may name: far above what one thread serves.
const MANY: u64 = 1 << 24;

/// More would not fit the memory of any Redis.
const ENTRIES: u64 = 1 << 30;

/// A slot counts commands in two bytes, and must see one more.
const COMMANDS: u64 = u16::MAX as u64 - 1;

// Two lines a row, so that the table reads as a table.
#[rustfmt::skip]
static TABLE: &[(&str, &[Setting])] = &[
    ("Addresses", &[
        text("listen", "where clients connect",
            "127.0.0.1:8099", "IP:PORT; not loopback: only with a key", |c, v| put(&mut c.listen, v.address())),
        text("proxies", "proxies in front whose X-Forwarded-For is believed",
            "none", "list of at most 256 IP addresses or networks", |c, v| put(&mut c.proxies, proxies(v))),
        text("proxy_protocol", "whether those proxies send a PROXY header; nobody else may connect then",
            "off", "off or v2; only with proxies", |c, v| put(&mut c.proxy_protocol, proxy_protocol(v))),
        text("redis", "Redis or Valkey to subscribe at",
            "none", "redis://, valkey:// or unix:// URL", |c, v| put(&mut c.redis, redis_url(v).map(Some))),
        text("publishers", "where publishers connect when there is no Redis",
            "127.0.0.1:6380 without redis, else off", "IP:PORT or off; not loopback: only with a password",
            |c, v| put(&mut c.publishers, v.address_or_off())),
        secret("publishers_password", "what publishers must AUTH with", "any text", set_publishers_password),
        secret_file("publishers_password_file", "file with what publishers must AUTH with", set_publishers_password),
        text("prefix", "cut from a channel's name to get its topic",
            "pub.", "text without spaces and * ? [ ] \\; may be empty", |c, v| put(&mut c.prefix, prefix(v))),
        text("patterns", "what to PSUBSCRIBE to",
            "the prefix and *", "list, not empty", |c, v| put(&mut c.patterns, patterns(v))),
        text("ctl", "channel of orders from back ends: kick, join, leave, count",
            "off", "a channel's name, or off", |c, v| put(&mut c.control, channel_or_off(v))),
        text("receipts", "channel where it is told what became of each message of a channel",
            "off", "a channel's name, or off", |c, v| put(&mut c.receipts, channel_or_off(v))),
        text("streams", "keys of Redis streams whose entries are messages",
            "none", "list of at most 8, only with redis", |c, v| put(&mut c.streams, streams(v))),
        secret_file("cursor_key_file", "file with the secret that cursors are signed with, in place of jwt.secret", set_cursor_key),
        secret_file("previous_cursor_key_file", "file with the cursors' secret before, still accepted", set_previous_cursor_key),
        text("admin", "where /metrics, /clients, /healthz and /readyz are served",
            "off", "IP:PORT or off", |c, v| put(&mut c.admin, v.address_or_off())),
        text("client_script", "whether the client for browsers and mini programs is served, at /oneloop.js",
            "true", TRUTH, |c, v| put(&mut c.client_script, v.truth())),
        text("page", "whether / is a page to try it with; with a key it asks for a token",
            "true without a key, false with one", TRUTH, |c, v| put(&mut c.page, v.truth().map(Some))),
        text("events", "where Redis is told that users come online and go offline",
            "none", "stream:NAME or channel:NAME; only with redis", |c, v| put(&mut c.events, sink(v).map(Some))),
        text("log", "what reaches the log",
            "info", "off, error, warn, info or debug", |c, v| put(&mut c.log, level(v))),
        text("log_format", "how a line of the log is written",
            "plain", "plain or json", |c, v| put(&mut c.log_format, log_format(v))),
    ]),
    ("Tokens", &[
        secret("jwt.secret", "the secret that signs tokens", SECRET, set_secret),
        secret_file("jwt.secret_file", "file with the secret that signs tokens", set_secret),
        secret("jwt.previous_secret", "the secret before, still accepted", SECRET, set_previous_secret),
        secret_file("jwt.previous_secret_file", "file with the secret before, still accepted", set_previous_secret),
        file("jwt.key_file", "public key that tokens are checked with", PUBLIC, |c, b| some(&mut c.jwt.key, b)),
        file("jwt.previous_key_file", "public key before, still accepted", PUBLIC, |c, b| some(&mut c.jwt.previous_key, b)),
        file("jwt.jwks_file", "set of public keys", "a JWKS file", |c, b| some(&mut c.jwt.jwks, b)),
        text("jwt.user_claim", "the claim that names the user",
            "sub", "a claim's name; none of exp, nbf, iat, aud, iss, topics, may, admin", |c, v| put(&mut c.jwt.user_claim, user_claim(v))),
        text("jwt.audience", "what aud must contain, one of these",
            "not checked", "text or list of texts", |c, v| put(&mut c.jwt.audience, parties(v))),
        text("jwt.issuer", "what iss must be, one of these",
            "not checked", "text or list of texts", |c, v| put(&mut c.jwt.issuer, parties(v))),
        text("jwt.cookie", "cookie of the handshake that a token may stand in, from checked origins",
            "off", "a cookie's name, or off; not beside origins = *", |c, v| put(&mut c.jwt.cookie, cookie(v))),
        text("jwt.algorithms", "algorithms accepted, all of the key's family",
            "HS256, or the public key's", "list of HS256, HS384, HS512, RS.., PS.., ES256, ES384, EdDSA",
            |c, v| put(&mut c.jwt.algorithms, algorithms(v))),
        number("jwt.leeway_seconds", "how far exp and nbf may be off", 0, 300, "", U64(|c| &mut c.jwt.leeway_seconds)),
    ]),
    ("The default route (each key stands in [[route]] as well)", &[
        route("path", "path that clients connect to",
            "/ws", "/... in ASCII without ? and #", |r, v| put(&mut r.path, path(v))),
        route("origins", "whose pages may connect; the page at / always may",
            "same host", "list of scheme://host[:port], scheme://*.domain[:port], null and file://; or *", |r, v| put(&mut r.origins, v.origins())),
        route("format", "json: the envelope of oneloop.v1; raw: the payload alone",
            "json", "json or raw", |r, v| put(&mut r.format, format(v))),
        route("topics", "grants that every client with a token hears",
            "none; news on the default route when there is no key", "list of grants", |r, v| put(&mut r.topics, v.words())),
        route("may", "grants that every client with a token may subscribe to",
            "none", "list of grants", |r, v| put(&mut r.may, v.words())),
        route("anonymous", "what clients without a token hear; none: they are refused",
            "none", "list of grants", |r, v| put(&mut r.anonymous, v.words())),
        route("single_session", "a user's newer connection to the route closes the older one",
            "false", TRUTH, |r, v| put(&mut r.single_session, v.truth())),
        route("slow", "a client that reads too slowly is closed with 4000, or loses messages and stays",
            "close", "close, drop-oldest or keep-newest", |r, v| put(&mut r.slow, slow(v))),
        route("upstream", "where in Redis it goes what clients send; off: they may not",
            "off", "stream:KEY, channel:NAME or off", |r, v| put(&mut r.upstream, sink_or_off(v))),
    ]),
    ("Bounds on clients", &[
        number("clients_max", "clients at one time; then 503",
            0, MANY, "what the descriptor limit allows", Usize(|c| &mut c.bounds.clients_max)),
        number("clients_per_address_max", "clients of one IP address; then 429",
            0, MANY, "off", Usize(|c| &mut c.bounds.clients_per_address_max)),
        number("clients_per_user_max", "connections of one user on all routes; then 4003",
            0, MANY, "off", Usize(|c| &mut c.bounds.clients_per_user_max)),
        number("handshakes_max", "handshakes under way; then the oldest silent one makes room",
            1, MANY, "", Usize(|c| &mut c.bounds.handshakes_max)),
        number("handshakes_per_second_max", "handshakes begun in a second; others wait to be accepted",
            0, 1_000_000, "off", U32(|c| &mut c.bounds.handshakes_per_second_max)),
        size("head_bytes_max", "a request's head; then 431",
            512, MIB, Usize(|c| &mut c.bounds.head_bytes_max)),
        number("head_seconds", "from accept to the end of the head; then 408",
            1, 300, "", U32(|c| &mut c.bounds.head_seconds)),
        number("auth_seconds", "from the upgrade to a valid token; then 4501",
            1, 300, "", U32(|c| &mut c.bounds.auth_seconds)),
        size("message_bytes_max", "one inbound message; then 1009",
            1, 64 * MIB, Usize(|c| &mut c.bounds.message_bytes_max)),
        number("fragments_max", "fragments of one inbound message; then 1008",
            1, MANY, "", Usize(|c| &mut c.bounds.fragments_max)),
        number("commands_per_second_max", "commands of one client; then 4003; all its topics_per_client_max fit in beside them, then busy",
            0, COMMANDS, "off", U32(|c| &mut c.bounds.commands_per_second_max)),
        number("topics_per_client_max", "topics one client listens to; then too_many_topics",
            1, MANY, "", Usize(|c| &mut c.bounds.topics_per_client_max)),
        number("backlog_frames_max", "frames that wait for one client; then 4000",
            1, MANY, "", Usize(|c| &mut c.bounds.backlog_frames_max)),
        size("backlog_bytes_max", "bytes that wait for one client; then 4000",
            1, 1024 * MIB, Usize(|c| &mut c.bounds.backlog_bytes_max)),
        size("send_buffer_bytes", "bytes that the kernel takes for one connection; Linux reserves twice as much",
            4096, 64 * MIB, Usize(|c| &mut c.bounds.send_buffer_bytes)),
        number("stalled_seconds", "how long a client's full socket may take nothing; then 4000",
            0, 86_400, "for ever", U32(|c| &mut c.bounds.stalled_seconds)),
        size("unfinished_bytes_max", "bytes that all clients together leave unfinished; then the oldest large ones get 4003",
            MIB, 1024 * 1024 * MIB, Usize(|c| &mut c.bounds.unfinished_bytes_max)),
        size("backlogs_bytes_max", "bytes that wait for all clients together, a shared message once; then the deepest get 4000",
            MIB, 1024 * 1024 * MIB, Usize(|c| &mut c.bounds.backlogs_bytes_max)),
        size("memberships_bytes_max", "bytes of what all clients listen to; then connections of the user with most get 4003",
            MIB, 1024 * 1024 * MIB, Usize(|c| &mut c.bounds.memberships_bytes_max)),
        number("ping_seconds", "silence before a client is pinged, at most",
            0, 3600, "no pings", U32(|c| &mut c.bounds.ping_seconds)),
        number("silence_seconds", "silence before a client is closed with 4001; above ping_seconds",
            0, 86_400, "never", U32(|c| &mut c.bounds.silence_seconds)),
    ]),
    ("Bounds on publishers and Redis", &[
        number("history_messages_max", "messages held for clients that come back; the oldest leaves",
            1, MANY, "", Usize(|c| &mut c.bounds.history_messages_max)),
        size_or_off("history_bytes_max", "bytes of them, all clients together",
            1024 * MIB, Usize(|c| &mut c.bounds.history_bytes_max)),
        size("replay_bytes_per_second_max", "read of streams in a second for clients that came back; more waits",
            MIB, 1024 * MIB, Usize(|c| &mut c.bounds.replay_bytes_per_second_max)),
        size("payload_bytes_max", "one published payload; a larger one is dropped",
            1, 64 * MIB, Usize(|c| &mut c.bounds.payload_bytes_max)),
        number("publishers_max", "publishers at one time; then -ERR",
            1, 65_536, "", Usize(|c| &mut c.bounds.publishers_max)),
        number("transaction_commands_max", "commands of a publisher between MULTI and EXEC; then EXECABORT",
            1, MANY, "", Usize(|c| &mut c.bounds.transaction_commands_max)),
        size("transaction_bytes_max", "bytes of them, and of their answers",
            1, 1024 * MIB, Usize(|c| &mut c.bounds.transaction_bytes_max)),
        number("publisher_subscriptions_max", "subscriptions of one connection on the publishers' port; then -ERR",
            1, MANY, "", Usize(|c| &mut c.bounds.publisher_subscriptions_max)),
        size("publisher_backlog_bytes_max", "bytes that wait for one of these subscribers; then it is cut off",
            1, 1024 * MIB, Usize(|c| &mut c.bounds.publisher_backlog_bytes_max)),
        number("redis_silence_seconds", "silence before Redis is pinged",
            1, 3600, "", U32(|c| &mut c.bounds.redis_silence_seconds)),
        number("redis_timeout_seconds", "how long Redis may take to connect or answer",
            1, 300, "", U32(|c| &mut c.bounds.redis_timeout_seconds)),
        number("redis_backoff_ms_max", "longest wait between two attempts to reach Redis",
            100, 600_000, "", U32(|c| &mut c.bounds.redis_backoff_ms_max)),
        number("upstream_entries_max", "entries of an upstream stream, about; the oldest go",
            1, ENTRIES, "", Usize(|c| &mut c.bounds.upstream_entries_max)),
        size("upstream_bytes_max", "bytes of an upstream stream, about; the oldest entries go",
            MIB, 1024 * 1024 * MIB, Usize(|c| &mut c.bounds.upstream_bytes_max)),
        size_or_off("upstream_bytes_per_second_max", "bytes a second that one user may send on; then busy",
            1024 * MIB, Usize(|c| &mut c.bounds.upstream_bytes_per_second_max)),
        number("receipt_seconds", "how long a receipt waits for clients that are slow to read",
            1, 60, "", U32(|c| &mut c.bounds.receipt_seconds)),
        number("events_entries_max", "entries that the stream of events keeps, about",
            1, 1_000_000_000, "", Usize(|c| &mut c.bounds.events_entries_max)),
        number("offline_seconds", "how long a user without a connection is waited for before offline",
            0, 3600, "not at all", U32(|c| &mut c.bounds.offline_seconds)),
    ]),
    ("Bounds on the loop", &[
        size("read_bytes_per_turn", "read from one client in one turn",
            1, MIB / 16, Usize(|c| &mut c.bounds.read_bytes_per_turn)),
        size("source_read_bytes_per_turn", "read from Redis or one publisher in one turn",
            1, 64 * MIB, Usize(|c| &mut c.bounds.source_read_bytes_per_turn)),
        number("flush_clients_per_turn", "clients written to in one turn",
            1, MANY, "", Usize(|c| &mut c.bounds.flush_clients_per_turn)),
        number("accepts_per_turn", "connections accepted in one turn",
            1, 65_536, "", Usize(|c| &mut c.bounds.accepts_per_turn)),
        number("drain_seconds", "how long a drain may take; the rest is cut",
            0, 3600, "at once", U32(|c| &mut c.bounds.drain_seconds)),
        number("drain_per_second", "clients a second that a drain asks to come back",
            1, 1_000_000, "", U32(|c| &mut c.bounds.drain_per_second)),
        size_or_off("memory_max", "resident memory; then the users who hold most are closed and new clients get 503",
            1024 * 1024 * MIB, Usize(|c| &mut c.bounds.memory_max)),
    ]),
];

const PUBLIC: &str = "a PEM file";
const SECRET: &str = "at least 32 bytes";

/// The groups of rows in the order in which they are shown, each under its title.
pub(super) fn groups() -> &'static [(&'static str, &'static [Setting])] {
    TABLE
}

pub(super) fn all() -> impl Iterator<Item = &'static Setting> {
    TABLE.iter().flat_map(|(_, rows)| rows.iter())
}

pub(super) fn by_key(key: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.key == key)
}

/// `flag` without its dashes.
pub(super) fn by_flag(flag: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.flag()[2..] == *flag)
}

pub(super) fn by_variable(variable: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.variable() == variable)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::draft::{Draft, Source};
    use super::super::setting::Apply;
    use super::super::value::Value;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_settings_share_a_name() {
        let names = |of: fn(&Setting) -> String| all().map(of).collect::<BTreeSet<_>>().len();
        let count = all().count();
        assert_eq!(names(|s| s.key.to_owned()), count);
        assert_eq!((names(Setting::flag), names(Setting::variable)), (count, count));
        let setting = by_key("jwt.secret_file").expect("a row");
        assert_eq!(setting.flag(), "--jwt-secret-file");
        assert_eq!(setting.variable(), "ONELOOP_JWT_SECRET_FILE");
        assert!(by_flag("jwt-secret-file").is_some_and(|s| s.key == setting.key));
        assert!(by_variable(&setting.variable()).is_some_and(|s| s.key == setting.key));
    }

    #[test]
    fn each_default_that_can_be_written_sets_what_is_already_there() {
        let in_words = [
            "redis",
            "events",
            "page",
            "proxies",
            "publishers",
            "patterns",
            "streams",
            "jwt.audience",
            "jwt.issuer",
        ];
        let also = ["jwt.algorithms", "origins", "topics", "may", "anonymous"];
        for setting in all() {
            let unwritable = matches!(setting.apply, Apply::File { .. } | Apply::Variable { .. });
            if unwritable || in_words.contains(&setting.key) || also.contains(&setting.key) {
                continue;
            }
            let mut draft = Draft::default();
            draft.take(setting, Value::Text(setting.default_text()), Source::Flag);
            assert_eq!(draft.problems, Vec::<String>::new());
            let [set, default] = [draft.config, Config::default()].map(|c| format!("{c:?}"));
            assert_eq!(set, default, "{}", setting.key);
        }
    }

    #[test]
    fn each_number_takes_its_ends_and_nothing_beyond() {
        for setting in all() {
            let Apply::Number { minimum, maximum, place, zero, .. } = &setting.apply else {
                continue;
            };
            assert_eq!(zero.is_empty(), *minimum > 0 || setting.key == "jwt.leeway_seconds");
            let fits = *maximum <= u64::from(u32::MAX) || matches!(place, Usize(_));
            assert!(fits, "{}: set() relies on it", setting.key);
            let (least, most) = (i128::from(*minimum), i128::from(*maximum));
            for (number, fits) in [(least, 1), (most, 1), (least - 1, 0), (most + 1, 0)] {
                let mut draft = Draft::default();
                draft.take(setting, Value::Number(number), Source::Flag);
                assert_eq!(draft.problems.len(), 1 - fits, "{}: {number}", setting.key);
                if fits == 1 {
                    assert_eq!(i128::from(place.value(&mut draft.config)), number);
                }
            }
        }
    }

    #[test]
    fn the_bounds_are_those_of_the_design() {
        let design = [
            ("clients_max", "0"),
            ("clients_per_address_max", "0"),
            ("clients_per_user_max", "0"),
            ("handshakes_max", "4096"),
            ("handshakes_per_second_max", "0"),
            ("head_bytes_max", "8KiB"),
            ("head_seconds", "10"),
            ("auth_seconds", "10"),
            ("message_bytes_max", "64KiB"),
            ("fragments_max", "1024"),
            ("commands_per_second_max", "50"),
            ("topics_per_client_max", "128"),
            ("backlog_frames_max", "1024"),
            ("backlog_bytes_max", "4MiB"),
            ("send_buffer_bytes", "128KiB"),
            ("stalled_seconds", "20"),
            ("unfinished_bytes_max", "48MiB"),
            ("backlogs_bytes_max", "96MiB"),
            ("memberships_bytes_max", "32MiB"),
            ("history_messages_max", "65536"),
            ("history_bytes_max", "8MiB"),
            ("replay_bytes_per_second_max", "128MiB"),
            ("payload_bytes_max", "1MiB"),
            ("read_bytes_per_turn", "64KiB"),
            ("source_read_bytes_per_turn", "1MiB"),
            ("flush_clients_per_turn", "512"),
            ("accepts_per_turn", "64"),
            ("publishers_max", "64"),
            ("transaction_commands_max", "65536"),
            ("transaction_bytes_max", "8MiB"),
            ("publisher_subscriptions_max", "1024"),
            ("publisher_backlog_bytes_max", "32MiB"),
            ("ping_seconds", "25"),
            ("silence_seconds", "60"),
            ("redis_silence_seconds", "10"),
            ("redis_timeout_seconds", "5"),
            ("redis_backoff_ms_max", "2000"),
            ("upstream_entries_max", "100000"),
            ("upstream_bytes_max", "256MiB"),
            ("upstream_bytes_per_second_max", "128KiB"),
            ("receipt_seconds", "5"),
            ("events_entries_max", "100000"),
            ("offline_seconds", "10"),
            ("drain_seconds", "10"),
            ("drain_per_second", "1000"),
            ("memory_max", "0"),
        ];
        for (key, default) in design {
            let setting = by_key(key).unwrap_or_else(|| panic!("no row for {key}"));
            assert_eq!(setting.default_text(), default, "{key}");
        }
        let rows = groups().iter().filter(|(title, _)| title.starts_with("Bounds"));
        assert_eq!(rows.map(|(_, rows)| rows.len()).sum::<usize>(), design.len());
    }
}
