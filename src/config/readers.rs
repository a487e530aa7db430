//! Readers of single settings that accept less than their type; the table's rows call them by name.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::value::{Value, quote};
use super::{Config, Format, Jwt, LogFormat, Proxies, Secret, SlowPolicy, Subscribe};
use crate::engine::client::deflate::Deflate;
use crate::engine::reactor::{Listen, UnixGroup};
use crate::engine::redis::place::check_schemes;
use crate::engine::redis::sink::Sink;

/// Reads one of these words; `names` lists them in a sentence.
fn choice<T: Copy>(value: &Value, words: &[(&str, T)], names: &str) -> Result<T, String> {
    let text = value.text()?;
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| value.is_not(names))
}

/// The bytes of a file that is parsed elsewhere.
pub(super) fn contents(value: &Value) -> Result<Option<Vec<u8>>, String> {
    value.bytes().map(Some)
}

/// The bytes of a file with a private key, parsed elsewhere.
pub(super) fn key(value: &Value) -> Result<Option<Secret>, String> {
    value.bytes().map(|bytes| Some(Secret::new(bytes)))
}

pub(super) fn password(value: &Value) -> Result<Option<Secret>, String> {
    let bytes = value.bytes()?;
    match bytes.is_empty() {
        true => Err("the password is empty; leave it out instead".to_owned()),
        false => Ok(Some(Secret::new(bytes))),
    }
}

pub(super) fn signing_secret(value: &Value) -> Result<Option<Secret>, String> {
    let bytes = value.bytes()?;
    let (length, least) = (bytes.len(), Jwt::SECRET_BYTES_MIN);
    if length < least {
        let advice = "make one with: openssl rand -base64 48";
        if bytes.is_empty() {
            return Err(format!("the secret is empty and needs at least {least} bytes; {advice}"));
        }
        return Err(format!("the secret has {length} bytes and needs at least {least}; {advice}"));
    }
    Ok(Some(Secret::new(bytes)))
}

/// Reads the number of loops; 0: one for each core.
pub(super) fn loops(value: &Value) -> Result<usize, String> {
    let number = match value {
        Value::Number(number) => usize::try_from(*number).ok(),
        _ if value.text()? == "auto" => return Ok(0),
        _ => value.text()?.parse().ok(),
    };
    let is_allowed = |number: &usize| (1..=Config::LOOPS_MAX).contains(number);
    number.filter(is_allowed).ok_or_else(|| value.is_not("a number of loops"))
}

/// Reads the addresses for clients, in their order.
pub(super) fn listen(value: &Value) -> Result<Vec<Listen>, String> {
    let words = match value {
        Value::Text(_) | Value::List(_) => value.words()?,
        _ => return value.address().map(|address| vec![Listen::Tcp(address)]),
    };
    if words.is_empty() {
        return Err("an empty list would let nobody connect".to_owned());
    }
    if words.len() > Config::LISTEN_MAX {
        return Err(format!("{} are named; allowed: {}", words.len(), Config::LISTEN_MAX));
    }
    // The system chooses a port of its own for each port 0.
    let is_fixed = |word: &&String| !word.ends_with(":0");
    let mut seen = BTreeSet::new();
    if let Some(word) = words.iter().filter(is_fixed).find(|word| !seen.insert(word.as_str())) {
        return Err(format!("{} is named twice", quote(word)));
    }
    words.iter().map(|word| listen_address(word)).collect()
}

fn listen_address(word: &str) -> Result<Listen, String> {
    let address = |text: &str| Value::Text(text.to_owned()).address();
    if let Some(path) = word.strip_prefix("unix:") {
        return unix_path(path.strip_prefix("//").unwrap_or(path), word).map(Listen::Unix);
    }
    if let Some(text) = word.strip_prefix("tls://") {
        return address(text).map(Listen::Tls);
    }
    let meant = match word.split_once("://") {
        Some(("wss" | "https" | "ssl", _)) => "; for TLS write tls://IP:PORT",
        _ if word.starts_with('/') => "; for a Unix socket write unix:/PATH",
        _ => return address(word).map(Listen::Tcp),
    };
    Err(format!("{} is not an address{meant}", quote(word)))
}

/// Reads the path of a Unix socket. A relative one would depend on the folder in which the server starts.
fn unix_path(path: &str, word: &str) -> Result<PathBuf, String> {
    let (length, most) = (path.len(), Listen::PATH_BYTES_MAX);
    if !path.starts_with('/') || path.ends_with('/') || path.chars().any(char::is_control) {
        return Err(format!("{} is not like unix:/run/oneloop/socket", quote(word)));
    }
    match length > most {
        true => Err(format!(
            "the path of {} has {length} bytes, and the system takes {most}: choose a shorter one",
            quote(word)
        )),
        false => Ok(path.into()),
    }
}

/// Reads a mode as for chmod.
pub(super) fn unix_mode(value: &Value) -> Result<u32, String> {
    let text = match value {
        Value::Text(text) => text.clone(),
        // `unix.mode = 660` in TOML is meant as it is written; `0o660` has another value.
        Value::Number(_) => return Err(value.is_not("in quotes, as \"0660\"")),
        _ => return Err(value.is_not("text")),
    };
    let is_octal =
        (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or_else(|| value.is_not("an octal number from 0000 to 0777"))
}

pub(super) fn unix_group(value: &Value) -> Result<Option<UnixGroup>, String> {
    if let Value::Number(number) = value {
        let number = u32::try_from(*number).ok();
        return number
            .map(|number| Some(UnixGroup::Number(number)))
            .ok_or_else(|| value.is_not("the number of a group"));
    }
    let word = value.word()?;
    Ok(Some(word.parse().map_or(UnixGroup::Name(word), UnixGroup::Number)))
}

pub(super) fn proxies(value: &Value) -> Result<Proxies, String> {
    let words = value.words()?;
    if words.len() > Proxies::MAX {
        return Err(format!("{} are named; allowed: {}", words.len(), Proxies::MAX));
    }
    Proxies::new(&words).map_err(|word| format!("{} is not like 10.0.0.0/8", quote(word)))
}

pub(super) fn proxy_protocol(value: &Value) -> Result<bool, String> {
    choice(value, &[("off", false), ("v2", true)], "off or v2")
}

/// Judges the schemes alone. The URLs may hold passwords, so no reason quotes them. A list becomes a text with commas.
pub(super) fn redis_urls(value: &Value) -> Result<Option<String>, String> {
    let urls = match value {
        Value::Text(url) => url.clone(),
        Value::List(urls) => urls.join(","),
        _ => return Err(value.is_not("text or a list of texts")),
    };
    check_schemes(&urls).map(|()| Some(urls))
}

/// Reads a prefix. Redis would read the default pattern (the prefix and `*`) wrongly if the prefix held a glob's characters.
pub(super) fn prefix(value: &Value) -> Result<String, String> {
    let text = value.text()?;
    let is_bad = |c: char| c.is_control() || c.is_whitespace() || "*?[]\\".contains(c);
    match text.contains(is_bad) {
        true => Err(value.is_not("a prefix")),
        false => Ok(text.to_owned()),
    }
}

pub(super) fn patterns(value: &Value) -> Result<Vec<String>, String> {
    let words = value.words()?;
    match words.is_empty() {
        true => Err("an empty list would hear nothing".to_owned()),
        false => Ok(words),
    }
}

/// A channel of Redis' pub/sub. A space would be a slip.
pub(super) fn channel_or_off(value: &Value) -> Result<Option<String>, String> {
    match value.word()?.as_str() {
        "off" => Ok(None),
        text if text.contains(char::is_whitespace) => Err(value.is_not("the name of a channel")),
        text => Ok(Some(text.to_owned())),
    }
}

pub(super) fn sink_or_off(value: &Value) -> Result<Option<Sink>, String> {
    if value.text()? == "off" { Ok(None) } else { sink(value).map(Some) }
}

/// Reads an address in the spelling of ZeroMQ.
pub(super) fn zeromq_address(value: &Value) -> Result<Option<SocketAddr>, String> {
    match value.word()?.as_str() {
        "off" => Ok(None),
        text => match text.strip_prefix("tcp://") {
            Some(address) => Value::Text(address.to_owned()).address().map(Some),
            None => Err(value.is_not("like tcp://127.0.0.1:5555")),
        },
    }
}

/// Reads the name of a member of a JSON object.
pub(super) fn member(value: &Value) -> Result<String, String> {
    match value.text()? {
        "" => Err("the name is empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// The longest key of a stream: each command that reads it repeats it, and so do lines of the log.
const STREAM_BYTES_MAX: usize = 512;

pub(super) fn streams(value: &Value) -> Result<Vec<String>, String> {
    let words = value.words()?;
    if words.len() > Config::STREAMS_MAX {
        return Err(format!("{} streams are named; allowed: {}", words.len(), Config::STREAMS_MAX));
    }
    let is_bad =
        |word: &&String| word.chars().any(char::is_control) || word.len() > STREAM_BYTES_MAX;
    if let Some(word) = words.iter().find(is_bad) {
        return Err(format!("{} is not a key: control characters, or too long", quote(word)));
    }
    let mut seen = BTreeSet::new();
    match words.iter().find(|word| !seen.insert(word.as_str())) {
        Some(word) => Err(format!("{} is named twice", quote(word))),
        None => Ok(words),
    }
}

/// Reads a sink. Braces would move the keys beside the name away from it in a cluster, and a glob's characters would not stand for
/// themselves in the rules of an ACL.
pub(super) fn sink(value: &Value) -> Result<Sink, String> {
    let is_bad = |c: char| c.is_control() || c.is_whitespace() || "{}*?[]\\".contains(c);
    let named = value.text()?.split_once(':').filter(|(_, name)| {
        (1..=Sink::NAME_BYTES_MAX).contains(&name.len()) && !name.contains(is_bad)
    });
    match named {
        Some(("stream", name)) => Ok(Sink::Stream(name.to_owned())),
        Some(("channel", name)) => Ok(Sink::Channel(name.to_owned())),
        _ => Err(value.is_not("like stream:evt or channel:evt")),
    }
}

pub(super) fn level(value: &Value) -> Result<log::LevelFilter, String> {
    use log::LevelFilter::{Debug, Error, Info, Off, Warn};
    let levels = [("off", Off), ("error", Error), ("warn", Warn), ("info", Info), ("debug", Debug)];
    choice(value, &levels, "a log level")
}

pub(super) fn log_format(value: &Value) -> Result<LogFormat, String> {
    choice(value, &[("plain", LogFormat::Plain), ("json", LogFormat::Json)], "plain or json")
}

pub(super) fn algorithms(value: &Value) -> Result<Vec<String>, String> {
    const KNOWN: [&str; 12] = [
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
        "ES384", "EdDSA",
    ];
    let words = value.words()?;
    match words.iter().find(|word| !KNOWN.contains(&word.as_str())) {
        Some(word) => Err(format!("{} is not one of {}", quote(word), KNOWN.join(", "))),
        None => Ok(words),
    }
}

/// Issuers or audiences: one of them, or several.
pub(super) fn parties(value: &Value) -> Result<Vec<String>, String> {
    let words = value.words()?;
    if words.is_empty() {
        return Err("it is empty; leave it out instead".to_owned());
    }
    match words.iter().any(|word| word.contains(char::is_control)) {
        true => Err(value.is_not("free of control characters")),
        false => Ok(words),
    }
}

/// Returns whether a byte may stand in a token of RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Reads the name of a cookie, a token of RFC 9110 (RFC 6265 section 4.1.1).
pub(super) fn cookie(value: &Value) -> Result<Option<String>, String> {
    match value.word()?.as_str() {
        "off" => Ok(None),
        text if text.bytes().all(is_token_byte) => Ok(Some(text.to_owned())),
        _ => Err(value.is_not("the name of a cookie")),
    }
}

/// Reads the header of the user (RFC 9110 section 5.1). One with a meaning of its own cannot name the user as well, nor one that a page
/// can choose.
pub(super) fn identity(value: &Value) -> Result<Option<String>, String> {
    const TAKEN: [&str; 8] = [
        "authorization",
        "connection",
        "cookie",
        "forwarded",
        "host",
        "origin",
        "upgrade",
        "x-forwarded-for",
    ];
    let is_allowed = |name: &str| {
        let name = name.to_ascii_lowercase();
        !TAKEN.contains(&name.as_str())
            && !name.starts_with("sec-")
            && name.bytes().all(is_token_byte)
    };
    match value.word()?.split_once(':') {
        None if value.text()? == "off" => Ok(None),
        Some(("header", name)) if !name.is_empty() && is_allowed(name) => Ok(Some(name.to_owned())),
        _ => Err(value.is_not("like header:X-User")),
    }
}

/// Reads the claim of the user. A claim with a meaning of its own cannot name the user as well.
pub(super) fn user_claim(value: &Value) -> Result<String, String> {
    const TAKEN: [&str; 8] = ["exp", "nbf", "iat", "aud", "iss", "topics", "may", "admin"];
    let word = value.word()?;
    match TAKEN.contains(&word.as_str()) {
        true => Err(value.is_not("the name of a user's claim")),
        false => Ok(word),
    }
}

pub(super) fn folder_or_off(value: &Value) -> Result<Option<PathBuf>, String> {
    match value.text()? {
        "off" => Ok(None),
        text if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        _ => Err(value.is_not("an absolute path")),
    }
}

/// Reads a path. One that is not printable ASCII can never arrive: clients send it percent-encoded.
pub(super) fn path(value: &Value) -> Result<String, String> {
    let text = value.text()?;
    let is_good = |b: u8| b.is_ascii_graphic() && b != b'?' && b != b'#';
    match text.starts_with('/') && text.bytes().all(is_good) {
        true => Ok(text.to_owned()),
        false => Err(value.is_not("a path")),
    }
}

pub(super) fn format(value: &Value) -> Result<Format, String> {
    choice(value, &[("json", Format::Json), ("raw", Format::Raw)], "json or raw")
}

pub(super) fn subscribe(value: &Value) -> Result<Subscribe, String> {
    choice(value, &[("all", Subscribe::All), ("demand", Subscribe::Demand)], "all or demand")
}

pub(super) fn slow(value: &Value) -> Result<SlowPolicy, String> {
    use SlowPolicy::{Close, DropOldest, KeepNewest, Latest};
    let choices = [
        ("close", Close),
        ("latest", Latest),
        ("drop-oldest", DropOldest),
        ("keep-newest", KeepNewest),
    ];
    choice(value, &choices, "close, latest, drop-oldest or keep-newest")
}

pub(super) fn deflate(value: &Value) -> Result<Deflate, String> {
    use Deflate::{All, Broadcasts, Off};
    let choices = [("off", Off), ("broadcasts", Broadcasts), ("all", All)];
    choice(value, &choices, "off, broadcasts or all")
}

#[cfg(test)]
mod tests {
    use super::super::draft::{Draft, SettingSource};
    use super::super::table;
    use super::*;

    #[test]
    fn each_setting_refuses_what_it_cannot_be() {
        #[rustfmt::skip]
        let table = [
            ("ping_seconds", "1.5", r#""1.5" is not a whole number; allowed: 1 to 3600; 0: no pings"#),
            ("head_bytes_max", "8KB", r#""8KB" is not a number of bytes (units: KiB, MiB, GiB); allowed: 512 to 1MiB"#),
            ("head_bytes_max", "511", r#""511" is out of bounds; allowed: 512 to 1MiB"#),
            ("redis_backoff_ms_max", "99", "allowed: 100 to 600000"),
            ("accepts_per_turn", "0", "allowed: 1 to"),
            ("jwt.leeway_seconds", "301", "allowed: 0 to 300"),
            ("redis", "http://:hunter2@h", "no URL that begins with redis://, rediss://"),
            ("redis", ":hunter2@h:6379", "no URL that begins with redis://"),
            ("redis", "hunter2", "no URL that begins with redis://"),
            ("proxies", "10.0.0.1/8", r#""10.0.0.1/8" is not like 10.0.0.0/8; allowed: list of at most 256"#),
            ("proxy_protocol", "v1", r#""v1" is not off or v2; allowed: off or v2; only with proxies"#),
            ("listen", ":8099", r#"":8099" is not an IP address with a port: write 127.0.0.1:8099 for this machine alone, 0.0.0.0:8099 for all; allowed: list of"#),
            ("listen", "8099", r#"write 127.0.0.1:8099 for this machine alone"#),
            ("listen", "localhost:8099", r#": write 127.0.0.1:8099; allowed: list of"#),
            ("listen", "10.0.0.1", r#": the port is missing, as in 10.0.0.1:8099; allowed"#),
            ("listen", "", "an empty list would let nobody connect"),
            ("listen", "127.0.0.1:1,,127.0.0.1:2", "has an empty entry"),
            ("listen", "127.0.0.1:1,127.0.0.1:1", r#""127.0.0.1:1" is named twice"#),
            ("listen", "127.0.0.1:1,tls://localhost:2", r#""localhost:2" is not an IP address with a port: write 127.0.0.1:2; allowed: list"#),
            ("listen", "tls://8443", r#"write 127.0.0.1:8443 for this machine alone"#),
            ("listen", "wss://127.0.0.1:1", r#""wss://127.0.0.1:1" is not an address; for TLS write tls://IP:PORT"#),
            ("listen", "/run/a", r#""/run/a" is not an address; for a Unix socket write unix:/PATH"#),
            ("listen", "unix:run/a", r#""unix:run/a" is not like unix:/run/oneloop/socket"#),
            ("listen", "unix:/run/a/", "is not like unix:/run/oneloop/socket"),
            ("listen", "unix:@a", "is not like unix:/run/oneloop/socket"),
            ("unix.mode", "660x", r#""660x" is not an octal number from 0000 to 0777"#),
            ("unix.mode", "0888", "is not an octal number"),
            ("unix.mode", "1777", "is not an octal number"),
            ("unix.mode", "+777", "is not an octal number"),
            ("unix.mode", "", "is not an octal number"),
            ("unix.group", "", "it is empty; leave it out instead"),
            ("admin", "[::1]", r#": the port is missing, as in [::1]:8099; allowed"#),
            ("publishers", "on", r#""on" is not an IP address with a port; allowed: IP:PORT or off"#),
            ("prefix", "pub.*", r#""pub.*" is not a prefix"#),
            ("patterns", "", "an empty list would hear nothing"),
            ("control", "", "it is empty; leave it out instead"),
            ("control", "a b", r#""a b" is not the name of a channel"#),
            ("upstream", "up", r#""up" is not like stream:evt or channel:evt"#),
            ("upstream", "stream:", r#""stream:" is not like stream:evt"#),
            ("upstream", "list:up", r#""list:up" is not like stream:evt"#),
            ("upstream", "stream:a b", r#""stream:a b" is not like stream:evt"#),
            ("streams", "a,b,c,d,e,f,g,h,i", "9 streams are named; allowed: 8"),
            ("streams", "a,b,a", r#""a" is named twice"#),
            ("streams", "a\u{7f}", "control characters, or too long"),
            ("events", "evt", r#""evt" is not like stream:evt or channel:evt; allowed: stream:NAME"#),
            ("events", "stream:", "is not like stream:evt"),
            ("events", "list:evt", "is not like stream:evt"),
            ("events", "channel:a{b}", "is not like stream:evt"),
            ("events", "stream:a b", "is not like stream:evt"),
            ("log", "loud", r#""loud" is not a log level; allowed: off, error, warn, info or debug"#),
            ("jwt.algorithms", "HS256,none", r#""none" is not one of HS256, HS384"#),
            ("jwt.user_claim", "exp", r#""exp" is not the name of a user's claim; allowed: a claim's"#),
            ("jwt.user_claim", "", "it is empty; leave it out instead"),
            ("jwt.audience", "", "it is empty; leave it out instead"),
            ("jwt.issuer", "a\nb", "control characters"),
            ("jwt.cookie", "a=b", r#""a=b" is not the name of a cookie; allowed: a cookie's name"#),
            ("jwt.cookie", "a;b", "is not the name of a cookie"),
            ("identity", "X-User", r#""X-User" is not like header:X-User; allowed: header:NAME"#),
            ("identity", "header:", "is not like header:X-User"),
            ("identity", "header:a b", "is not like header:X-User"),
            ("identity", "header:Cookie", "is not like header:X-User"),
            ("identity", "header:Sec-WebSocket-Protocol", "is not like header:X-User"),
            ("identity", "cookie:a", "is not like header:X-User"),
            ("jwt.issuer", "a,,b", r#""a,,b" has an empty entry"#),
            ("jwt.key_file", "", "the file's name is empty"),
            ("origins", "https://a.b/", r#""https://a.b/" is not like https://example.com:8443"#),
            ("path", "ws", r#""ws" is not a path; allowed: /"#),
            ("path", "/a b", "is not a path"),
            ("path", "/a?b", "is not a path"),
            ("path", "/a#b", "is not a path"),
            ("path", "/\u{7f}", "is not a path"),
            ("format", "xml", r#""xml" is not json or raw"#),
            ("single_session", "maybe", r#""maybe" is not true or false"#),
            ("topics", "a,,b", r#""a,,b" has an empty entry"#),
        ];
        for (key, text, wanted) in table {
            let setting = table::by_key(key).expect("a row").setting;
            let mut draft = Draft::default();
            draft.take(setting, Value::Text(text.to_owned()), SettingSource::Flag);
            let found = draft.problems.join("\n");
            assert!(found.starts_with(&format!("{key} ({}): ", setting.flag())), "{found}");
            assert!(found.contains(wanted) && !found.contains("hunter2"), "{found}");
        }
    }

    #[test]
    fn addresses_for_clients_are_told_by_their_beginning() {
        let text = |text: &str| listen(&Value::Text(text.to_owned()));
        let address = "127.0.0.1:0".parse().unwrap();
        let all = text("127.0.0.1:0, tls://127.0.0.1:0,unix:/run/a b,unix:///run/c,127.0.0.1:0");
        let unix = |path: &str| Listen::Unix(path.into());
        let tcp = Listen::Tcp(address);
        let expected =
            [tcp.clone(), Listen::Tls(address), unix("/run/a b"), unix("/run/c"), tcp.clone()];
        assert_eq!(all.as_deref(), Ok(&expected[..]));
        let list = Value::List(vec!["unix:/a,b".to_owned()]);
        assert_eq!(listen(&list), Ok(vec![unix("/a,b")]));
        let path = |length: usize| format!("unix:/{}", "x".repeat(length - 1));
        assert!(text(&path(107)).is_ok());
        assert!(text(&path(108)).unwrap_err().contains("has 108 bytes, and the system takes 107"));
        let many = |count: usize| listen(&Value::List(vec!["127.0.0.1:0".to_owned(); count]));
        assert!(many(64).is_ok());
        assert_eq!(many(65).unwrap_err(), "65 are named; allowed: 64");
    }

    #[test]
    fn modes_are_octal_and_groups_are_names_or_numbers() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (written, mode) in [("0660", 0o660), ("666", 0o666), ("0000", 0)] {
            assert_eq!(unix_mode(&text(written)), Ok(mode));
        }
        let refused = unix_mode(&Value::Number(660)).unwrap_err();
        assert_eq!(refused, "660 is not in quotes, as \"0660\"");
        assert_eq!(unix_group(&text("33")), Ok(Some(UnixGroup::Number(33))));
        assert_eq!(unix_group(&Value::Number(33)), Ok(Some(UnixGroup::Number(33))));
        assert!(unix_group(&Value::Number(-1)).is_err());
        let named = UnixGroup::Name("www-data".to_owned());
        assert_eq!(unix_group(&text("www-data")), Ok(Some(named)));
    }

    #[test]
    fn a_list_of_proxies_has_a_limit() {
        let list = |count| Value::List(vec!["::1".to_owned(); count]);
        assert!(proxies(&list(Proxies::MAX)).is_ok());
        assert_eq!(proxies(&list(Proxies::MAX + 1)).unwrap_err(), "257 are named; allowed: 256");
    }

    #[test]
    fn a_secret_has_at_least_32_bytes() {
        let secret = |bytes: &[u8]| signing_secret(&Value::Bytes(bytes.to_vec()));
        let told = secret(b"hunter2").expect_err("7 bytes are too few");
        let wanted = "has 7 bytes and needs at least 32; make one with: openssl rand -base64 48";
        assert!(told.contains(wanted) && !told.contains("hunter2"), "{told}");
        assert!(secret(&[0; 31]).is_err() && secret(&[0; 32]).is_ok());
        assert!(password(&Value::Bytes(Vec::new())).is_err());
    }
}
