//! The normal form of an origin, so that two can be compared byte by byte, and the values of the setting `origins`.

use std::net::Ipv6Addr;

/// The `Origin` headers of pages without an origin of their own (RFC 6454 section 7).
const WORDS: [(&str, &str); 2] = [
    ("null", " (any page from disk or sandboxed frame)"),
    // Chromium, and with it Electron and Cordova, sends this for a WebSocket of a page from disk.
    ("file://", " (any page from disk)"),
];

/// The `Origin` headers that a route accepts (RFC 6454 section 7). A request without one always passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// The host and port of the request's own `Host`.
    SameHost,
    /// All origins.
    Any,
    /// Exactly these; never empty.
    Listed(Vec<ListedOrigin>),
}

/// A value of the setting `origins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedOrigin {
    /// An origin in the form of [`normalize_origin`], `null` or `file://`.
    One(String),
    /// `scheme://*.domain[:port]`: the `*` stands for one or more whole labels.
    Below {
        /// `scheme://`
        start: String,
        /// `.domain[:port]`
        end: String,
    },
}

impl ListedOrigin {
    /// Parses a value. The `*` stands for whole first labels only, before a domain of at least two labels: `*.com` has no owner.
    pub fn parse(word: &str) -> Option<ListedOrigin> {
        let Some((scheme, rest)) = word.split_once("://*.") else {
            return listing(word).map(|(origin, _)| ListedOrigin::One(origin));
        };
        let origin = normalize_origin(&[scheme, "://", rest].concat())?;
        let (scheme, authority) = origin.split_once("://")?;
        let labels: Vec<&str> = authority.split(':').next()?.split('.').collect();
        let is_address = labels.last()?.bytes().all(|byte| byte.is_ascii_digit());
        let is_domain = labels.len() > 1 && labels.iter().all(|label| is_label(label));
        (is_domain && !is_address).then(|| ListedOrigin::Below {
            start: [scheme, "://"].concat(),
            end: [".", authority].concat(),
        })
    }

    /// Returns whether it includes `origin`, in lower case and without the scheme's default port.
    pub fn has(&self, origin: &str) -> bool {
        match self {
            ListedOrigin::One(one) => one == origin,
            ListedOrigin::Below { start, end } => {
                let rest = origin.strip_prefix(start.as_str());
                let labels = rest.and_then(|rest| rest.strip_suffix(end.as_str()));
                labels.is_some_and(|labels| labels.split('.').all(is_label))
            }
        }
    }

    /// An example of an origin it includes; `label` replaces the `*`.
    pub fn example(&self, label: &str) -> String {
        match self {
            ListedOrigin::One(one) => one.clone(),
            ListedOrigin::Below { start, end } => [start, label, end].concat(),
        }
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// The form of an origin in the setting, and the pages that it admits as well; `None` if it is not allowed there.
pub fn listing(origin: &str) -> Option<(String, &'static str)> {
    let word = WORDS.into_iter().find(|(word, _)| *word == origin);
    let word = word.map(|(word, who)| (word.to_owned(), who));
    word.or_else(|| normalize_origin(origin).map(|origin| (origin, "")))
}

/// Normalizes `scheme://host[:port]` (RFC 6454 section 6.2) to lower case without the scheme's default port (http 80, https 443).
/// `None` for anything else: a path or a final `/`, a user, `*`, `null`, a name that is not ASCII (browsers send its `xn--`
/// form).
pub fn normalize_origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (scheme, authority) = text.split_once("://")?;
    let scheme_is_good = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !scheme_is_good {
        return None;
    }
    let (host, port) = split_port(authority)?;
    let default_port = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    Some(match port {
        Some(port) if Some(port) != default_port => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    })
}

fn split_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
            (format!("[{address}]"), port)
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            if host.is_empty() || !host.bytes().all(is_name) {
                return None;
            }
            (host.to_owned(), port)
        }
    };
    let Some(port) = port else {
        return Some((host, None));
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return None; // `parse` would accept a sign.
    }
    port.parse().ok().filter(|&port| port != 0).map(|port| (host, Some(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_whole_labels_in_front() {
        for (word, good, bad) in [
            (
                "https://*.Example.com",
                &["https://a.example.com", "https://a.b.example.com", "https://x-1._.example.com"]
                    [..],
                &[
                    "https://example.com",
                    "https://.example.com",
                    "https://..example.com",
                    "https://a..example.com",
                    "https://.a.example.com",
                    "https://evilexample.com",
                    "https://a.evilexample.com",
                    "https://example.com.evil.net",
                    "https://a.example.com.evil.net",
                    "https://a.example.com.",
                    "https://a.example.com:8443",
                    "https://evil.net:1.example.com",
                    "https://evil.net/.example.com",
                    "https://evil.net#.example.com",
                    "https://evil.net?.example.com",
                    "https://evil@a.example.com",
                    "https://evil.net\\.example.com",
                    "https://[::1].example.com",
                    "https://*.example.com",
                    "https://a b.example.com",
                    "https://bücher.example.com",
                    "http://a.example.com",
                    "https:/a.example.com",
                    "a.example.com",
                    "null",
                    "file://",
                    "",
                ][..],
            ),
            (
                "http://*.a.test:8080",
                &["http://b.a.test:8080"],
                &[
                    "http://b.a.test",
                    "http://b.a.test:80",
                    "http://b.a.test:18080",
                    "http://a.test:8080",
                ],
            ),
            ("https://*.a.test:443", &["https://b.a.test"], &["https://b.a.test:444"]),
            ("null", &["null"], &["", "file://", "null://", "nulls", "https://null"]),
            ("file://", &["file://"], &["file:///", "file://a", "null", "file:", "http://"]),
            ("https://a.test", &["https://a.test"], &["https://b.a.test", "https://a.tes"]),
        ] {
            let listed = ListedOrigin::parse(word).unwrap();
            for origin in good {
                assert!(listed.has(origin), "{word} {origin}");
            }
            for origin in bad {
                assert!(!listed.has(origin), "{word} {origin}");
            }
            assert!(listed.has(&listed.example("a-label")), "{word}");
        }
    }

    #[test]
    fn no_other_star_is_listed() {
        for word in [
            "*",
            "https://*",
            "https://*.",
            "https://*.com",
            "https://*.localhost:8080",
            "https://*example.com",
            "https://a.*.example.com",
            "https://*.*.example.com",
            "https://*.example.*",
            "https://*.example..com",
            "https://*.example.com.",
            "https://*.example.com/",
            "https://*.example.com:*",
            "https://*.example.com:",
            "https://*.0.0.1",
            "https://*.[::1]",
            "*://*.example.com",
            "://*.example.com",
            "*.example.com",
            "https://a@*.example.com",
            "file://*",
            "file:///",
            "NULL",
            "nul",
        ] {
            assert_eq!(ListedOrigin::parse(word), None, "{word}");
        }
    }

    #[test]
    fn an_origin_has_one_spelling() {
        let table = [
            ("https://Example.COM", "https://example.com"),
            ("HTTPS://example.com:443", "https://example.com"),
            ("http://example.com:80", "http://example.com"),
            ("http://example.com:443", "http://example.com:443"),
            ("http://127.0.0.1:08099", "http://127.0.0.1:8099"),
            ("http://[0:0::1]:80", "http://[::1]"),
            ("https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("chrome-extension://abc:443", "chrome-extension://abc:443"),
        ];
        for (written, meant) in table {
            assert_eq!(normalize_origin(written).as_deref(), Some(meant), "{written}");
            assert_eq!(normalize_origin(meant).as_deref(), Some(meant), "{meant}");
        }
    }

    #[test]
    fn anything_else_is_not_an_origin() {
        let table = [
            "",
            "null",
            "*",
            "example.com",
            "//example.com",
            "://example.com",
            "https://",
            "https:///",
            "https://example.com/",
            "https://example.com/app",
            "https://a b",
            "https://user@example.com",
            "https://*.example.com",
            "https://example.com:",
            "https://example.com:0",
            "https://example.com:65536",
            "https://example.com:+80",
            "https://example.com?x",
            "https://::1",
            "https://[::1",
            "https://[::1]x",
            "https://[zz]",
            "https://bücher.example",
            "1http://example.com",
            "https://a:b:c",
        ];
        for text in table {
            assert_eq!(normalize_origin(text), None, "{text}");
        }
    }
}
