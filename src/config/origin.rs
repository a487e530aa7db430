//! The one way an origin is written, so that two of them can be compared byte by byte.

use std::net::Ipv6Addr;

/// Writes `scheme://host[:port]` (RFC 6454 section 6.2) in lower case without the scheme's own port
/// (http 80, https 443). `None` for anything else: a path or a final `/`, a user, `*`, `null`, a name
/// that is not ASCII (browsers send its `xn--` form).
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
        return None; // `parse` would take a sign.
    }
    port.parse().ok().filter(|&port| port != 0).map(|port| (host, Some(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
