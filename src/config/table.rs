//! The one list of all settings: their names, values and effects.

use super::readers::*;
use super::setting::Place::{U32, U64, Usize};
use super::setting::{
    MIB, Setting, SettingName, at, at_route, file, flag_of, number, route, secret, secret_file,
    size, size_or_off, text, variable_of,
};
use super::value::{TRUTH, Value};

/// The most clients, topics or frames a setting may name: far above what one thread serves.
const MANY: u64 = 1 << 24;

/// The most entries of a stream: more would not fit the memory of any Redis.
const ENTRIES: u64 = 1 << 30;

/// The most commands a second: a slot counts them in two bytes, and must see one more.
const COMMANDS: u64 = u16::MAX as u64 - 1;

// Two lines a row, so that the table reads as a table.
#[rustfmt::skip]
static TABLE: &[(&str, &[Setting])] = &[
    ("Addresses", &[
        text("listen", "where clients connect",
            "127.0.0.1:8099", "list of at most 64 of IP:PORT, tls://IP:PORT and unix:/PATH; not loopback: only with a key", &at(|c| &mut c.listen, listen)),
        text("unix.mode", "mode of the files of Unix sockets; to connect is to write",
            "0660", "an octal number like 0660", &at(|c| &mut c.unix.mode, unix_mode)),
        text("unix.group", "group of these files",
            "that of the process", "a group in /etc/group, or its number", &at(|c| &mut c.unix.group, unix_group)),
        text("loops", "processes that serve clients, each with a loop of its own; auto: one for each core",
            "1", "a whole number from 1 to 64, or auto", &at(|c| &mut c.loops, loops)),
        text("proxies", "proxies in front whose X-Forwarded-For is believed",
            "none", "list of at most 256 IP addresses or networks", &at(|c| &mut c.proxies, proxies)).live(),
        text("proxy_protocol", "whether those proxies send a PROXY header; nobody else may connect then",
            "off", "off or v2; only with proxies", &at(|c| &mut c.proxy_protocol, proxy_protocol)),
        text("redis", "Redis or Valkey to subscribe at",
            "none", "redis://, rediss:// (TLS), valkey://, valkeys://, unix://, redis+sentinel:// or redis+cluster:// URL, or a list of at most 16 in order of preference", &at(|c| &mut c.redis, redis_urls)).hidden(),
        file("redis_ca_file", "certificates that a Redis with TLS is trusted by, in place of the system's", CERTIFICATES, &at(|c| &mut c.redis_ca, contents)).live(),
        file("redis_cert_file", "certificate shown to a Redis with TLS, and its chain", CERTIFICATES, &at(|c| &mut c.redis_certificate, contents)).live(),
        secret_file("redis_key_file", "file with the key of that certificate, in PEM", &at(|c| &mut c.redis_key, key)).live(),
        text("publishers", "where publishers connect when there is no Redis",
            "127.0.0.1:6380 without redis, else off", "IP:PORT or off; not loopback: only with a password",
            &at(|c| &mut c.publishers, Value::address_or_off)),
        secret("publishers_password", "what publishers must AUTH with", "any text", &at(|c| &mut c.publishers_password, password)),
        secret_file("publishers_password_file", "file with what publishers must AUTH with", &at(|c| &mut c.publishers_password, password)),
        text("zeromq", "where PUSH sockets of ZeroMQ connect",
            "off", "tcp://IP:PORT or off; not loopback: only with publishers_password", &at(|c| &mut c.zeromq.address, zeromq_address)),
        text("zeromq_topic_field", "member of a JSON object that names the topic of a ZeroMQ message of one part",
            "topic", "a member's name", &at(|c| &mut c.zeromq.topic_field, member)),
        text("prefix", "cut from a channel's name to get its topic",
            "pub.", "text without spaces and * ? [ ] \\; may be empty", &at(|c| &mut c.prefix, prefix)),
        text("patterns", "what to PSUBSCRIBE to",
            "the prefix and *", "list, not empty", &at(|c| &mut c.patterns, patterns)),
        text("subscribe", "which topics to subscribe to at Redis: all, or those that clients want",
            "all", "all or demand; demand only with redis, without patterns, and with one loop", &at(|c| &mut c.subscribe, subscribe)),
        number("subscribe_connections", "connections to Redis that share the topics on demand: one for each 100,000; order holds per topic then",
            1, 64, "", Usize(|c| &mut c.subscribe_connections)),
        number("subscribe_linger_seconds", "how long a topic stays subscribed to after its last client, on demand",
            0, 86_400, "no longer", U32(|c| &mut c.subscribe_linger_seconds)),
        text("control", "channel of commands from back ends: kick, revoke, join, leave, count",
            "off", "a channel's name, or off", &at(|c| &mut c.control, channel_or_off)).formerly("ctl"),
        text("receipts", "channel where it is told what became of each message of a channel",
            "off", "a channel's name, or off", &at(|c| &mut c.receipts, channel_or_off)),
        text("streams", "keys of Redis streams whose entries are messages",
            "none", "list of at most 8, only with redis", &at(|c| &mut c.streams, streams)),
        secret_file("cursor_key_file", "file with the secret that cursors are signed with, in place of jwt.secret", &at(|c| &mut c.cursor_key, signing_secret)).live(),
        secret_file("previous_cursor_key_file", "file with the cursors' secret before, still accepted", &at(|c| &mut c.previous_cursor_key, signing_secret)).live(),
        text("admin", "where /metrics, /clients, /healthz and /readyz are served",
            "off", "IP:PORT or off", &at(|c| &mut c.admin, Value::address_or_off)),
        text("client_script", "whether the client for browsers and mini programs is served, at /oneloop.js",
            "true", TRUTH, &at(|c| &mut c.client_script, Value::truth)),
        text("acme_webroot", "directory of an ACME client (certbot, lego), whose challenges are served to clients",
            "off", "an absolute path, or off", &at(|c| &mut c.acme_webroot, folder_or_off)).live(),
        text("page", "whether / is a page to try it with; with a key it asks for a token",
            "true without a key, false with one", TRUTH, &at(|c| &mut c.page, |v| v.truth().map(Some))),
        text("events", "where Redis is told that users come online and go offline",
            "none", "stream:NAME or channel:NAME; only with redis", &at(|c| &mut c.events, |v| sink(v).map(Some))),
        text("log", "what reaches the log",
            "info", "off, error, warn, info or debug", &at(|c| &mut c.log, level)).live(),
        text("log_format", "how a line of the log is written",
            "plain", "plain or json", &at(|c| &mut c.log_format, log_format)),
    ]),
    ("TLS", &[
        text("tls.cert_file", "certificates of tls:// listeners, each with its chain; the name that a client asks for decides, else the first",
            "none", "list of PEM files", &at(|c| &mut c.tls.certificate_files, Value::words)).live(),
        text("tls.key_file", "their private keys, in the same order",
            "none", "list of PEM files without passwords", &at(|c| &mut c.tls.key_files, Value::words)).live(),
    ]),
    ("Tokens", &[
        secret("jwt.secret", "the secret that signs tokens", SECRET, &at(|c| &mut c.jwt.secret, signing_secret)).of_tokens(),
        secret_file("jwt.secret_file", "file with the secret that signs tokens", &at(|c| &mut c.jwt.secret, signing_secret)).of_tokens(),
        secret("jwt.previous_secret", "the secret before, still accepted", SECRET, &at(|c| &mut c.jwt.previous_secret, signing_secret)).of_tokens(),
        secret_file("jwt.previous_secret_file", "file with the secret before, still accepted", &at(|c| &mut c.jwt.previous_secret, signing_secret)).of_tokens(),
        file("jwt.key_file", "public key that tokens are checked with", PUBLIC, &at(|c| &mut c.jwt.key, contents)).of_tokens(),
        file("jwt.previous_key_file", "public key before, still accepted", PUBLIC, &at(|c| &mut c.jwt.previous_key, contents)).of_tokens(),
        file("jwt.jwks_file", "set of public keys", "a JWKS file", &at(|c| &mut c.jwt.jwks, contents)).of_tokens(),
        text("jwt.user_claim", "the claim that names the user",
            "sub", "a claim's name; none of exp, nbf, iat, aud, iss, topics, may, admin", &at(|c| &mut c.jwt.user_claim, user_claim)).of_tokens(),
        text("jwt.audience", "what aud must contain, one of these",
            "not checked", "text or list of texts", &at(|c| &mut c.jwt.audience, parties)).of_tokens(),
        text("jwt.issuer", "what iss must be, one of these",
            "not checked", "text or list of texts", &at(|c| &mut c.jwt.issuer, parties)).of_tokens(),
        text("jwt.cookie", "cookie of the handshake that a token may stand in, from checked origins",
            "off", "a cookie's name, or off; not beside origins = *", &at(|c| &mut c.jwt.cookie, cookie)).of_tokens(),
        text("jwt.algorithms", "algorithms accepted, all of the key's family",
            "HS256, or the public key's", "list of HS256, HS384, HS512, RS.., PS.., ES256, ES384, EdDSA",
            &at(|c| &mut c.jwt.algorithms, algorithms)).of_tokens(),
        number("jwt.lifetime_seconds_max", "seconds from iat to exp; a token that lives longer, or has no iat, is refused",
            0, 315_360_000, "off", U64(|c| &mut c.jwt.lifetime_seconds_max)).of_tokens(),
        number("jwt.leeway_seconds", "how far exp and nbf may be off", 0, 300, "", U64(|c| &mut c.jwt.leeway_seconds)).of_tokens(),
    ]),
    ("The default route (each key stands in [[route]] as well)", &[
        route("path", "path that clients connect to",
            "/ws", "/... in ASCII without ? and #", &at_route(|r| &mut r.path, path)),
        route("origins", "whose pages may connect; the page at / always may",
            "same host", "list of scheme://host[:port], scheme://*.domain[:port], null and file://; or *", &at_route(|r| &mut r.origins, Value::origins)).live(),
        route("identity", "header in which one of proxies names the user; without it a token is read",
            "off", "header:NAME or off; only with proxies, not beside origins = *", &at_route(|r| &mut r.identity, identity)).live(),
        route("format", "json: the envelope of oneloop.v1; raw: the payload alone",
            "json", "json or raw", &at_route(|r| &mut r.format, format)),
        route("topics", "grants that every client with a token hears",
            "none; news on the default route when there is no key", "list of grants", &at_route(|r| &mut r.topics, Value::words)).live(),
        route("may", "grants that every client with a token may subscribe to",
            "none", "list of grants", &at_route(|r| &mut r.may, Value::words)).live(),
        route("anonymous", "what clients without a token hear; none: they are refused",
            "none", "list of grants", &at_route(|r| &mut r.anonymous, Value::words)).live(),
        route("members", "topics whose subscribers may list each other, by user",
            "none", "list of grants", &at_route(|r| &mut r.members, Value::words)),
        route("single_session", "a user's newer connection to the route closes the older one",
            "false", TRUTH, &at_route(|r| &mut r.single_session, Value::truth)).live(),
        route("slow", "a client that reads too slowly is closed with 4000, or loses messages and stays",
            "close", "close, latest, drop-oldest or keep-newest", &at_route(|r| &mut r.slow, slow)),
        route("deflate", "what is compressed for clients that ask for it: messages to more than 64 clients, or all",
            "off", "off, broadcasts or all", &at_route(|r| &mut r.deflate, deflate)),
        route("upstream", "where in Redis it goes what clients send; off: they may not",
            "off", "stream:KEY, channel:NAME or off", &at_route(|r| &mut r.upstream, sink_or_off)),
    ]),
    ("Bounds on clients", &[
        number("clients_max", "clients at one time; then 503",
            0, MANY, "what the descriptor limit allows", Usize(|c| &mut c.bounds.clients_max)).live(),
        number("clients_per_address_max", "clients of one IP address; then 429",
            0, MANY, "off", Usize(|c| &mut c.bounds.clients_per_address_max)),
        number("clients_per_user_max", "connections of one user on all routes; then 4003",
            0, MANY, "off", Usize(|c| &mut c.bounds.clients_per_user_max)).live(),
        number("handshakes_max", "handshakes under way; then the oldest silent one makes room",
            1, MANY, "", Usize(|c| &mut c.bounds.handshakes_max)).live(),
        number("handshakes_per_second_max", "handshakes begun in a second; others wait to be accepted",
            0, 1_000_000, "off", U32(|c| &mut c.bounds.handshakes_per_second_max)).live(),
        size("head_bytes_max", "a request's head; then 431",
            512, MIB, Usize(|c| &mut c.bounds.head_bytes_max)).live(),
        number("head_seconds", "from accept to the end of the head; then 408",
            1, 300, "", U32(|c| &mut c.bounds.head_seconds)).live(),
        number("auth_seconds", "from the upgrade to a valid token; then 4501",
            1, 300, "", U32(|c| &mut c.bounds.auth_seconds)).live(),
        size("message_bytes_max", "one inbound message; then 1009",
            1, 64 * MIB, Usize(|c| &mut c.bounds.message_bytes_max)).live(),
        number("fragments_max", "fragments of one inbound message; then 1008",
            1, MANY, "", Usize(|c| &mut c.bounds.fragments_max)).live(),
        number("commands_per_second_max", "commands of one client; then 4003; all its topics_per_client_max fit in beside them, then busy",
            0, COMMANDS, "off", U32(|c| &mut c.bounds.commands_per_second_max)).live(),
        number("topics_per_client_max", "topics one client listens to; then too_many_topics",
            1, MANY, "", Usize(|c| &mut c.bounds.topics_per_client_max)).live(),
        number("backlog_frames_max", "frames that wait for one client; then 4000",
            1, MANY, "", Usize(|c| &mut c.bounds.backlog_frames_max)).live(),
        size("backlog_bytes_max", "bytes that wait for one client; then 4000",
            1, 1024 * MIB, Usize(|c| &mut c.bounds.backlog_bytes_max)).live(),
        size("deflate_bytes_min", "a message from which on it is compressed, where deflate is on",
            1, 64 * MIB, Usize(|c| &mut c.bounds.deflate_bytes_min)).live(),
        size("send_buffer_bytes", "bytes that the kernel takes for one connection; Linux reserves twice as much",
            4096, 64 * MIB, Usize(|c| &mut c.bounds.send_buffer_bytes)),
        number("stalled_seconds", "how long a client's full socket may take nothing; then 4000",
            0, 86_400, "for ever", U32(|c| &mut c.bounds.stalled_seconds)).live(),
        size("unfinished_total_bytes_max", "bytes that all clients together leave unfinished; then the oldest large ones get 4003",
            MIB, 1024 * 1024 * MIB, Usize(|c| &mut c.bounds.unfinished_total_bytes_max)).live().formerly("unfinished_bytes_max"),
        size("backlog_total_bytes_max", "bytes that wait for all clients together, a shared message once; then the deepest get 4000",
            MIB, 1024 * 1024 * MIB, Usize(|c| &mut c.bounds.backlog_total_bytes_max)).live().formerly("backlogs_bytes_max"),
        size("subscriptions_bytes_max", "bytes of what all clients listen to; then connections of the user with most get 4003",
            MIB, 1024 * 1024 * MIB, Usize(|c| &mut c.bounds.subscriptions_bytes_max)).live().formerly("memberships_bytes_max"),
        number("members_max", "users in a list of the members of a topic; of more there is the number",
            1, 240, "", Usize(|c| &mut c.bounds.members_max)).live(),
        size("members_total_bytes_max", "bytes of all such lists that clients watch; then they are cut, and from half of it on others busy",
            MIB, 1024 * MIB, Usize(|c| &mut c.bounds.members_total_bytes_max)).live(),
        number("ping_seconds", "silence before a client is pinged, at most",
            0, 3600, "no pings", U32(|c| &mut c.bounds.ping_seconds)).live(),
        number("silence_seconds", "silence before a client is closed with 4001; above ping_seconds",
            0, 86_400, "never", U32(|c| &mut c.bounds.silence_seconds)).live(),
    ]),
    ("Bounds on publishers and Redis", &[
        number("history_messages_max", "messages held for clients that come back; the oldest leaves",
            1, MANY, "", Usize(|c| &mut c.bounds.history_messages_max)),
        size_or_off("history_bytes_max", "bytes of them, all clients together",
            1024 * MIB, Usize(|c| &mut c.bounds.history_bytes_max)),
        size("replay_bytes_per_second_max", "read of streams in a second for clients that came back; more waits",
            MIB, 1024 * MIB, Usize(|c| &mut c.bounds.replay_bytes_per_second_max)).live(),
        size("payload_bytes_max", "one published payload; a larger one is dropped",
            1, 64 * MIB, Usize(|c| &mut c.bounds.payload_bytes_max)),
        number("publishers_max", "publishers at one time; then -ERR",
            1, 65_536, "", Usize(|c| &mut c.publisher_bounds.connections_max)),
        number("transaction_commands_max", "commands of a publisher between MULTI and EXEC; then EXECABORT",
            1, MANY, "", Usize(|c| &mut c.publisher_bounds.transaction_commands_max)),
        size("transaction_bytes_max", "bytes of them, and of their answers",
            1, 1024 * MIB, Usize(|c| &mut c.publisher_bounds.transaction_bytes_max)),
        number("publisher_subscriptions_max", "subscriptions of one connection on the publishers' port; then -ERR",
            1, MANY, "", Usize(|c| &mut c.publisher_bounds.subscriptions_max)),
        size("publisher_backlog_bytes_max", "bytes that wait for one of these subscribers; then it is cut off",
            1, 1024 * MIB, Usize(|c| &mut c.publisher_bounds.backlog_bytes_max)),
        number("zeromq_connections_max", "ZeroMQ connections at one time; then they are closed",
            1, 65_536, "", Usize(|c| &mut c.zeromq.connections_max)),
        number("redis_silence_seconds", "silence before Redis is pinged",
            1, 3600, "", U32(|c| &mut c.bounds.redis_silence_seconds)),
        number("redis_timeout_seconds", "how long Redis may take to connect or answer",
            1, 300, "", U32(|c| &mut c.bounds.redis_timeout_seconds)),
        number("redis_backoff_ms_max", "longest wait between two attempts to reach Redis",
            100, 600_000, "", U32(|c| &mut c.bounds.redis_backoff_ms_max)),
        number("upstream_entries_max", "entries of an upstream stream, about; the oldest go",
            1, ENTRIES, "", Usize(|c| &mut c.bounds.upstream_entries_max)).live(),
        size("upstream_bytes_max", "bytes of an upstream stream, about; the oldest entries go",
            MIB, 1024 * 1024 * MIB, Usize(|c| &mut c.bounds.upstream_bytes_max)).live(),
        size_or_off("upstream_bytes_per_second_max", "bytes a second that one user may send on; then busy",
            1024 * MIB, Usize(|c| &mut c.bounds.upstream_bytes_per_second_max)).live(),
        number("receipt_seconds", "how long a receipt waits for clients that are slow to read",
            1, 60, "", U32(|c| &mut c.bounds.receipt_seconds)).live(),
        number("revocations_max", "users with revoked tokens; beyond it the earliest revocation holds for all users",
            1, MANY, "", Usize(|c| &mut c.bounds.revocations_max)).live(),
        number("events_entries_max", "entries that the stream of events keeps, about",
            1, 1_000_000_000, "", Usize(|c| &mut c.bounds.events_entries_max)),
        number("offline_seconds", "how long a user without a connection is waited for before offline",
            0, 3600, "not at all", U32(|c| &mut c.bounds.offline_seconds)),
    ]),
    ("Bounds on the loop", &[
        size("read_bytes_per_turn", "read from one client in one turn",
            1, MIB / 16, Usize(|c| &mut c.bounds.read_bytes_per_turn)),
        size("source_read_bytes_per_turn", "read from Redis or one publisher in one turn",
            1, 64 * MIB, Usize(|c| &mut c.bounds.source_read_bytes_per_turn)).live(),
        number("flush_clients_per_turn", "clients written to in one turn",
            1, MANY, "", Usize(|c| &mut c.bounds.flush_clients_per_turn)).live(),
        number("accepts_per_turn", "connections accepted in one turn",
            1, 65_536, "", Usize(|c| &mut c.bounds.accepts_per_turn)).live(),
        number("drain_seconds", "how long a drain may take; the rest is cut",
            0, 3600, "at once", U32(|c| &mut c.bounds.drain_seconds)).live(),
        number("drain_per_second", "clients a second that a drain asks to come back",
            1, 1_000_000, "", U32(|c| &mut c.bounds.drain_per_second)).live(),
        size_or_off("memory_max", "resident memory; then the users who hold most are closed and new clients get 503",
            1024 * 1024 * MIB, Usize(|c| &mut c.bounds.memory_max)).live(),
    ]),
];

const PUBLIC: &str = "a PEM file";
const CERTIFICATES: &str = "a PEM file of certificates";
const SECRET: &str = "at least 32 bytes";

/// The groups of rows in the order in which they are shown, each under its title.
pub(crate) fn groups() -> &'static [(&'static str, &'static [Setting])] {
    TABLE
}

pub(crate) fn all() -> impl Iterator<Item = &'static Setting> {
    TABLE.iter().flat_map(|(_, rows)| rows.iter())
}

pub(crate) fn by_key(key: &str) -> Option<SettingName> {
    find(|known| known == key)
}

/// `flag` stands without its dashes.
pub(crate) fn by_flag(flag: &str) -> Option<SettingName> {
    find(|known| flag_of(known)[2..] == *flag)
}

pub(crate) fn by_variable(variable: &str) -> Option<SettingName> {
    find(|known| variable_of(known) == variable)
}

fn find(is_it: impl Fn(&str) -> bool) -> Option<SettingName> {
    let is_it = |key: &&'static str| !key.is_empty() && is_it(key);
    all().find_map(|setting| {
        let key = [setting.key, setting.former].into_iter().find(is_it)?;
        Some(SettingName { setting, key })
    })
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::draft::{Draft, SettingSource};
    use super::super::setting::Apply;
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
        assert!(by_flag("jwt-secret-file").is_some_and(|found| found.key == setting.key));
        assert!(by_variable(&setting.variable()).is_some_and(|found| found.key == setting.key));
    }

    #[test]
    fn each_default_that_can_be_written_sets_what_is_already_there() {
        let in_words = [
            "redis",
            "events",
            "page",
            "proxies",
            "publishers",
            "unix.group",
            "patterns",
            "streams",
            "tls.cert_file",
            "tls.key_file",
            "jwt.audience",
            "jwt.issuer",
        ];
        let also = ["jwt.algorithms", "origins", "topics", "may", "anonymous", "members"];
        for setting in all() {
            let unwritable = matches!(setting.apply, Apply::File { .. } | Apply::Variable { .. });
            if unwritable || in_words.contains(&setting.key) || also.contains(&setting.key) {
                continue;
            }
            let mut draft = Draft::default();
            draft.take(setting, Value::Text(setting.default_text()), SettingSource::Flag);
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
                draft.take(setting, Value::Number(number), SettingSource::Flag);
                assert_eq!(draft.problems.len(), 1 - fits, "{}: {number}", setting.key);
                if fits == 1 {
                    assert_eq!(i128::from(place.value(&mut draft.config)), number);
                }
            }
        }
    }
}
