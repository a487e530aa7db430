//! The value that a source gives for one setting, and the types it can be read as.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};

use crate::engine::origin::{ListedOrigin, Origins};

/// The values of a switch, for a sentence.
pub(crate) const TRUTH: &str = "true or false";

/// The words for yes and no, as people write them.
const YES: [&str; 3] = ["true", "on", "yes"];
const NO: [&str; 3] = ["false", "off", "no"];

/// Returns whether a word means yes or no.
pub(crate) fn is_truth(word: &str) -> bool {
    YES.contains(&word) || NO.contains(&word)
}

/// A value as its source wrote it. No `Debug`: it may be a secret.
pub(crate) enum Value {
    /// From a variable, a flag or a TOML string. Every type can be written as text.
    Text(String),
    /// A TOML integer.
    Number(i128),
    /// A TOML boolean.
    Truth(bool),
    /// A TOML array of strings.
    List(Vec<String>),
    /// The contents of a file, or a variable or a flag that is not UTF-8, which only a secret may be.
    Bytes(Vec<u8>),
    /// A kind of TOML value that no setting takes, in words.
    Unfit(&'static str),
}

impl From<OsString> for Value {
    fn from(text: OsString) -> Value {
        match text.into_string() {
            Ok(text) => Value::Text(text),
            Err(text) => Value::Bytes(text.into_encoded_bytes()),
        }
    }
}

impl Value {
    pub(crate) fn text(&self) -> Result<&str, String> {
        match self {
            Value::Text(text) => Ok(text),
            _ => Err(self.is_not("text")),
        }
    }

    /// Text that is not empty and has no control characters.
    pub(crate) fn word(&self) -> Result<String, String> {
        match self.text()? {
            "" => Err("it is empty; leave it out instead".to_owned()),
            text if text.chars().any(char::is_control) => {
                Err(self.is_not("free of control characters"))
            }
            text => Ok(text.to_owned()),
        }
    }

    pub(crate) fn bytes(&self) -> Result<Vec<u8>, String> {
        match self {
            Value::Text(text) => Ok(text.clone().into_bytes()),
            Value::Bytes(bytes) => Ok(bytes.clone()),
            _ => Err(self.is_not("text")),
        }
    }

    pub(crate) fn truth(&self) -> Result<bool, String> {
        match self {
            Value::Truth(truth) => Ok(*truth),
            Value::Text(text) if YES.contains(&text.as_str()) => Ok(true),
            Value::Text(text) if NO.contains(&text.as_str()) => Ok(false),
            _ => Err(self.is_not(TRUTH)),
        }
    }

    /// A whole number; `sized` lets it carry a binary unit. Beyond `i128` it stays at its end.
    pub(crate) fn number(&self, sized: bool) -> Result<i128, String> {
        match self {
            Value::Number(number) => Ok(*number),
            Value::Text(text) => match parse_number(text) {
                Some((number, 1)) => Ok(number),
                Some((number, factor)) if sized => Ok(number.saturating_mul(factor)),
                _ if sized => Err(self.is_not("a number of bytes (units: KiB, MiB, GiB)")),
                _ => Err(self.is_not("a whole number")),
            },
            _ => Err(self.is_not("a whole number")),
        }
    }

    /// A TOML array, or text with commas. Empty text is the empty list, an empty entry is an error.
    pub(crate) fn words(&self) -> Result<Vec<String>, String> {
        let words: Vec<String> = match self {
            Value::List(list) => list.clone(),
            Value::Text(text) if text.trim().is_empty() => Vec::new(),
            Value::Text(text) => text.split(',').map(|word| word.trim().to_owned()).collect(),
            _ => return Err(self.is_not("a list of texts")),
        };
        match words.iter().any(String::is_empty) {
            true => Err(format!("{} has an empty entry", self.seen())),
            false => Ok(words),
        }
    }

    pub(crate) fn address(&self) -> Result<SocketAddr, String> {
        let text = match self {
            Value::Text(text) => text.clone(),
            // `listen = 8099` in TOML.
            Value::Number(number) if (1..=65_535).contains(number) => number.to_string(),
            _ => return Err(self.is_not("text")),
        };
        text.parse().map_err(|_| {
            let meant = meant_address(&text).map_or(String::new(), |meant| format!(": {meant}"));
            self.is_not("an IP address with a port") + &meant
        })
    }

    pub(crate) fn address_or_off(&self) -> Result<Option<SocketAddr>, String> {
        match self {
            Value::Text(text) if text == "off" => Ok(None),
            _ => self.address().map(Some),
        }
    }

    pub(crate) fn origins(&self) -> Result<Origins, String> {
        let words = self.words()?;
        if words.is_empty() {
            return Ok(Origins::SameHost);
        }
        if words == ["*"] {
            return Ok(Origins::Any);
        }
        let parse = |word: &String| {
            ListedOrigin::parse(word).ok_or_else(|| match word.as_str() {
                "*" => "* allows any origin: name it alone, or leave it out".to_owned(),
                _ => format!(
                    "{} is not like https://example.com:8443, https://*.example.com, null or file://",
                    quote(word)
                ),
            })
        };
        words.iter().map(parse).collect::<Result<_, _>>().map(Origins::Listed)
    }

    /// The value as a message shows it.
    pub(crate) fn seen(&self) -> String {
        match self {
            Value::Text(text) => quote(text),
            Value::Number(number) => number.to_string(),
            Value::Truth(truth) => truth.to_string(),
            Value::List(list) => quote(&list.join(",")),
            Value::Bytes(_) => "text that is not UTF-8".to_owned(),
            Value::Unfit(what) => (*what).to_owned(),
        }
    }

    /// The reason of a refusal: the value as seen, and the kind that was expected.
    pub(crate) fn is_not(&self, what: &str) -> String {
        format!("{} is not {what}", self.seen())
    }
}

/// Returns advice on an address in a form of other programs: `8099`, `:8099`, `localhost:8099`, `127.0.0.1`.
fn meant_address(text: &str) -> Option<String> {
    let port = text.strip_prefix("localhost").unwrap_or(text);
    let port = port.strip_prefix("*").unwrap_or(port);
    let port = port.strip_prefix(':').unwrap_or(port);
    if let Ok(port @ 1..) = port.parse::<u16>() {
        return Some(match text.starts_with("localhost") {
            true => format!("write 127.0.0.1:{port}"),
            false => {
                format!("write 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for all")
            }
        });
    }
    let address: IpAddr = text.trim_matches(['[', ']']).parse().ok()?;
    Some(format!("the port is missing, as in {}", SocketAddr::new(address, 8099)))
}

/// Quotes and escapes a text for a message, cut to 80 characters.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Reads digits with an optional binary unit. Returns the number and the unit's factor.
fn parse_number(text: &str) -> Option<(i128, i128)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(digits);
    let factor = match unit.trim_start_matches(' ') {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    match digits {
        "" => None,
        _ => Some((digits.parse().unwrap_or(i128::MAX), factor)),
    }
}

/// Reads seconds from `90`, `90s`, `15m`, `1h` or `30d`; `None` if it is anything else.
pub(crate) fn parse_duration(text: &str) -> Option<u64> {
    let (digits, factor) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(digits) if text.ends_with('m') => (digits, 60),
        Some(digits) if text.ends_with('h') => (digits, 3600),
        Some(digits) if text.ends_with('d') => (digits, 86_400),
        Some(digits) => (digits, 1),
        None => (text, 1),
    };
    match digits.bytes().all(|b| b.is_ascii_digit()) {
        true => digits.parse::<u64>().ok()?.checked_mul(factor),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn sizes_take_binary_units_only() {
        let table = [("65536", 65536), ("64KiB", 65536), ("64 KiB", 65536), ("1MiB", 1 << 20)];
        for (written, meant) in table {
            assert_eq!(text(written).number(true), Ok(meant), "{written}");
        }
        assert_eq!(text("2GiB").number(true), Ok(2 << 30));
        for wrong in
            ["", "KiB", "64KB", "64kib", "64k", "-1", "+1", "1.5MiB", " 1", "1_000", "0x10"]
        {
            assert!(text(wrong).number(true).is_err(), "{wrong}");
        }
        assert!(text("64KiB").number(false).is_err());
        assert_eq!(text(&"9".repeat(60)).number(true), Ok(i128::MAX));
        assert_eq!(text(&format!("{}GiB", i128::MAX)).number(true), Ok(i128::MAX));
    }

    #[test]
    fn lists_are_arrays_or_have_commas() {
        let both = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(text("a, b").words(), Ok(both.clone()));
        assert_eq!(Value::List(both.clone()).words(), Ok(both));
        assert_eq!(text(" ").words(), Ok(Vec::new()));
        assert!(text("a,,b").words().is_err() && text("a,").words().is_err());
        assert!(Value::Number(5).words().is_err());
    }

    #[test]
    fn origins_are_any_the_same_host_or_listed() {
        assert_eq!(text("*").origins(), Ok(Origins::Any));
        assert_eq!(text("").origins(), Ok(Origins::SameHost));
        let one = |origin: &str| ListedOrigin::One(origin.to_owned());
        let listed = ["https://a.b", "http://c:81", "null", "file://"].map(one).to_vec();
        let written = text("HTTPS://A.b:443,http://c:81,null,file://");
        assert_eq!(written.origins(), Ok(Origins::Listed(listed)));
        let below = ListedOrigin::Below { start: "https://".into(), end: ".a.b:8443".into() };
        assert_eq!(text("https://*.A.b:8443").origins(), Ok(Origins::Listed(vec![below])));
        assert!(text("https://*.b").origins().unwrap_err().contains("https://*.example.com"));
        let shown = text("https://a.b/").origins().unwrap_err();
        assert!(shown.contains("https://example.com:8443"), "{shown}");
        assert!(text("*,https://a.b").origins().unwrap_err().contains("alone"));
    }

    #[test]
    fn durations_have_one_unit() {
        let table = [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("30d", 2_592_000)];
        for (written, meant) in table {
            assert_eq!(parse_duration(written), Some(meant), "{written}");
        }
        for wrong in ["", "s", "1w", "1h30m", "-1s", "+1", "1.5h", "ms", "999999999999999999d"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_short_and_escaped() {
        assert_eq!(text("a\n\u{1b}").seen(), "\"a\\n\\u{1b}\"");
        assert!(text(&"ü".repeat(1000)).seen().len() < 200);
    }
}
