//! The address of a server, as given to clients and to commands.

/// The parts of a `ws://`, `wss://`, `http://` or `https://` URL, or of a Unix socket and a path as the server prints them: `unix:/run/oneloop:/ws`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) has_tls: bool,
    /// The value of `Host`: with a port if the URL has one.
    pub(super) host: String,
    /// The name or address alone, without brackets.
    pub(super) name: String,
    /// The address to connect to, with its port.
    pub(super) address: String,
    /// The path with the query.
    pub(super) path: String,
}

impl Url {
    /// # Errors
    /// A sentence that does not show the text, which may contain a token.
    pub(super) fn parse(text: &str) -> Result<Url, String> {
        Url::read(text, ["ws", "wss"]).ok_or_else(|| {
            "--url: expected ws://host[:port]/path or wss://host[:port]/path".to_owned()
        })
    }

    /// The same for the URL of a back end.
    ///
    /// # Errors
    /// A sentence that does not show the text.
    pub(super) fn parse_http(text: &str) -> Result<Url, String> {
        Url::read(text, ["http", "https"]).ok_or_else(|| {
            "URL: expected http://host[:port]/path or https://host[:port]/path, without a password"
                .to_owned()
        })
    }

    /// Reads a URL with one of two schemes, the second with TLS.
    fn read(text: &str, [plain, secure]: [&str; 2]) -> Option<Url> {
        if text.starts_with("unix:/") {
            return Url::read_unix(text);
        }
        let (scheme, rest) = text.split_once("://")?;
        if ![plain, secure].contains(&scheme) {
            return None;
        }
        let has_tls = scheme == secure;
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let slash = if path.starts_with('/') { "" } else { "/" };
        // `[::1]:80`: only a colon after the bracket precedes a port.
        let colon = host.rfind(':').filter(|colon| host.rfind(']').is_none_or(|end| end < *colon));
        let (name, port) = match colon {
            Some(colon) => (&host[..colon], host[colon + 1..].parse::<u16>().ok()?),
            None => (host, if has_tls { 443 } else { 80 }),
        };
        let is_host = |letter: char| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter);
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        // No host has a name that begins with a dash, and the commands that are printed would take it for a flag.
        let is_good = !name.is_empty() && !name.starts_with('-') && name.chars().all(is_host);
        (is_good && is_plain).then(|| Url {
            has_tls,
            host: host.to_owned(),
            name: name.trim_matches(['[', ']']).to_owned(),
            address: format!("{name}:{port}"),
            path: [slash, path].concat(),
        })
    }

    fn read_unix(text: &str) -> Option<Url> {
        let (address, route) = text.rsplit_once(":/")?;
        let is_plain = route.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        (address.starts_with("unix:/") && is_plain).then(|| Url {
            has_tls: false,
            host: "localhost".to_owned(),
            name: "localhost".to_owned(),
            address: address.to_owned(),
            path: ["/", route].concat(),
        })
    }

    /// The path without the query, as in the settings of a route.
    pub(super) fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// The origin of pages on the same host.
    pub(super) fn origin(&self) -> String {
        [if self.has_tls { "https://" } else { "http://" }, &self.host].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let url = Url::parse("wss://push.example.com/ws?a=b").unwrap();
        assert_eq!(
            (url.name.as_str(), url.address.as_str()),
            ("push.example.com", "push.example.com:443")
        );
        assert_eq!((url.path.as_str(), url.route(), url.has_tls), ("/ws?a=b", "/ws", true));
        assert_eq!(url.origin(), "https://push.example.com");
        let url = Url::parse("ws://[::1]:8099").unwrap();
        assert_eq!(
            (url.name.as_str(), url.address.as_str(), url.path.as_str()),
            ("::1", "[::1]:8099", "/")
        );
        assert_eq!(url.origin(), "http://[::1]:8099");
    }

    #[test]
    fn back_ends_have_addresses_of_http() {
        let url = Url::parse_http("https://api.example.com:8443/hook?a=b").unwrap();
        assert_eq!((url.address.as_str(), url.has_tls), ("api.example.com:8443", true));
        let url = Url::parse_http("http://api.example.com").unwrap();
        assert_eq!((url.address.as_str(), url.path.as_str()), ("api.example.com:80", "/"));
        for text in ["ws://h/", "http://user:hunter2@h/", "http://h/a b", "h/hook"] {
            let refusal = Url::parse_http(text).expect_err(text);
            assert!(refusal.contains("expected http://") && !refusal.contains("hunter2"));
        }
    }

    #[test]
    fn a_unix_socket_is_an_address() {
        let url = Url::parse("unix:/run/one loop/socket:/ws?a=b").unwrap();
        assert_eq!(
            (url.address.as_str(), url.path.as_str()),
            ("unix:/run/one loop/socket", "/ws?a=b")
        );
        assert_eq!((url.route(), url.origin().as_str()), ("/ws", "http://localhost"));
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_shown() {
        for text in [
            "",
            "push.example.com",
            "http://h/",
            "unix:/run/a",
            "unix:run/a:/ws",
            "unix:/run/a:/w s",
            "ws://",
            "ws:///ws",
            "ws://h:x/",
            "ws://h:99999/",
            "wss://user:hunter2@h/",
            "wss://-proxy/",
            "ws://h/a b",
            "ws://h/#a",
            "ws://h\r\n/",
        ] {
            let refusal = Url::parse(text).expect_err(text);
            assert!(refusal.starts_with("--url: expected ws://") && !refusal.contains("hunter2"));
        }
    }
}
