//! A server in a URL, as the redis crate understands it.

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion};

use crate::suggestion::suggestion;

/// The address of a Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A name or an IP address (IPv6 without brackets).
    Tcp { host: String, port: u16 },
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => {
                write!(formatter, "[{host}]:{port}")
            }
            Address::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Address::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// The protection of a connection, by its URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// None: `redis://`, or a Unix socket.
    Plain,
    /// TLS with a server whose certificate is verified: `rediss://`.
    Tls,
    /// TLS with any server: `rediss://…#insecure`.
    UnverifiedTls,
}

/// The parts of a URL of Redis. Not `Debug`: they hold a password.
#[derive(Clone)]
pub struct RedisUrl {
    pub address: Address,
    /// None with a password: the user `default`.
    pub username: Option<String>,
    pub password: Option<String>,
    /// For commands; it means nothing to pub/sub.
    pub database: i64,
    /// Never try `HELLO 3` (`?protocol=resp2`).
    pub resp2_only: bool,
    pub security: Security,
}

/// Shows the scheme and the address, and no credentials.
impl fmt::Display for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let scheme = match (&self.address, self.security) {
            (Address::Unix(_), _) => "",
            (_, Security::Plain) => "redis://",
            (_, Security::Tls | Security::UnverifiedTls) => "rediss://",
        };
        write!(formatter, "{scheme}{}", self.address)
    }
}

impl RedisUrl {
    /// Reads `redis://`, `valkey://`, `rediss://`, `valkeys://`, `redis+unix://` and `unix:` URLs, and takes a bare `host:port` or
    /// absolute path for what it looks like.
    ///
    /// # Errors
    /// A text for the operator. It shows nothing of the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<RedisUrl, String> {
        let url = url.trim();
        if url.starts_with('/') {
            return Ok(RedisUrl::of(Address::Unix(PathBuf::from(url))));
        }
        let (url, security) = split_security(url)?;
        let is_unix = is_unix(&url);
        check_parameters(&url, if is_unix { &PARAMETERS_OF_UNIX } else { &PARAMETERS })?;
        let info = url.as_str().into_connection_info().map_err(|_| NOT_UNDERSTOOD.to_owned())?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp { host: host.clone(), port: *port },
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            _ => return Err(NOT_UNDERSTOOD.to_owned()),
        };
        let settings = info.redis_settings();
        Ok(RedisUrl {
            username: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            database: settings.db(),
            // The crate's own default is RESP2: only what was written counts.
            resp2_only: settings.protocol() == ProtocolVersion::RESP2 && names_protocol(&url),
            security,
            ..RedisUrl::of(address)
        })
    }

    fn of(address: Address) -> RedisUrl {
        let security = Security::Plain;
        RedisUrl {
            address,
            username: None,
            password: None,
            database: 0,
            resp2_only: false,
            security,
        }
    }
}

/// Takes the security out of a URL: the redis crate knows the schemes with TLS only beside a TLS of its own.
fn split_security(url: &str) -> Result<(String, Security), String> {
    let plain = |url: String| Ok((url, Security::Plain));
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['@', ':', '/']) => (scheme, rest),
        _ if url.starts_with("unix:") => return plain(url.to_owned()),
        _ => return plain(format!("redis://{url}")),
    };
    if !["rediss", "valkeys"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return plain(url.to_owned());
    }
    match rest.split_once('#') {
        None => Ok((format!("redis://{rest}"), Security::Tls)),
        Some((rest, "insecure")) => Ok((format!("redis://{rest}"), Security::UnverifiedTls)),
        Some(_) => Err(UNKNOWN_FRAGMENT.to_owned()),
    }
}

const UNKNOWN_FRAGMENT: &str = "the end of the URL of Redis is not understood: after # expected insecure, which turns off \
    the check of the certificate; in a user or password, # must be written as %23";

const TLS_IS_A_SCHEME: &str = "TLS is the scheme: rediss://host:6379";

pub const NOT_UNDERSTOOD: &str = "the URL of Redis is not understood: expected \
    `redis://[[user]:password@]host[:port][?protocol=resp2]`, the same with `rediss://` for TLS, `unix:/path/to/redis.sock` \
    or `host:port`; in a user or password, `% : / ? # @ [ ]` must be written as `%25 %3A %2F %3F %23 %40 %5B %5D`";

/// The parameters behind `?`, and those for a socket in the file system, whose path names no user and no database.
const PARAMETERS: [&str; 1] = ["protocol"];
const PARAMETERS_OF_UNIX: [&str; 4] = ["protocol", "db", "user", "pass"];

fn is_unix(url: &str) -> bool {
    let head = url.split('?').next().unwrap_or_default();
    head.starts_with("unix:") || head.contains("+unix:")
}

/// A parameter that is passed over is one that somebody believes in.
///
/// # Errors
/// The first one that means nothing, without its value.
pub fn check_parameters(url: &str, known: &[&str]) -> Result<(), String> {
    let (_, query) = url.split_once('?').unwrap_or((url, ""));
    let query = query.split('#').next().unwrap_or_default();
    let names = query.split('&').filter(|pair| !pair.is_empty());
    let mut names = names.map(|pair| pair.split('=').next().unwrap_or_default());
    let Some(name) = names.find(|name| !known.contains(name)) else { return Ok(()) };
    let advice = match name {
        "db" | "database" => "; the database is the path: redis://host:6379/1".to_owned(),
        "user" | "username" | "pass" | "password" => {
            "; user and password stand before the host: redis://user:password@host".to_owned()
        }
        "tls" | "ssl" => format!("; {TLS_IS_A_SCHEME}"),
        name => suggestion("", name, known.iter().map(|&name| name.to_owned())),
    };
    let name = name.chars().take(40).collect::<String>();
    Err(format!("the parameter {name:?} of the URL is not known{advice}"))
}

/// Returns whether the query has a `protocol`: a `?` cannot stand earlier, a password would have it as `%3F`.
fn names_protocol(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split(['&', '#']).any(|pair| pair.starts_with("protocol="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn urls_name_an_address() {
        let unix = Address::Unix(PathBuf::from("/run/redis.sock"));
        for (url, expected) in [
            ("redis://127.0.0.1:6380", tcp("127.0.0.1", 6380)),
            ("redis://cache.example", tcp("cache.example", 6379)),
            ("valkey://cache.example/3", tcp("cache.example", 6379)),
            ("redis://[::1]:7000/", tcp("::1", 7000)),
            ("127.0.0.1:6379", tcp("127.0.0.1", 6379)),
            (" localhost:6379 ", tcp("localhost", 6379)),
            ("redis:6379", tcp("redis", 6379)),
            ("cache.example", tcp("cache.example", 6379)),
            ("[::1]:6379", tcp("::1", 6379)),
            ("unix:/run/redis.sock", unix.clone()),
            ("unix:///run/redis.sock?db=1", unix.clone()),
            ("redis+unix:///run/redis.sock", unix.clone()),
            ("/run/redis.sock", unix.clone()),
        ] {
            match RedisUrl::parse(url) {
                Ok(found) => assert_eq!(found.address, expected, "{url}"),
                Err(error) => panic!("{url}: {error}"),
            }
        }
        assert_eq!(tcp("::1", 7000).to_string(), "[::1]:7000");
        assert_eq!(unix.to_string(), "unix:/run/redis.sock");
    }

    #[test]
    fn the_scheme_says_whether_tls_is_spoken() {
        for (url, security, shown) in [
            ("redis://h", Security::Plain, "redis://h:6379"),
            ("rediss://bob:p%23@h:7000/1?protocol=resp2", Security::Tls, "rediss://h:7000"),
            ("valkeys://[::1]", Security::Tls, "rediss://[::1]:6379"),
            ("REDISS://h", Security::Tls, "rediss://h:6379"),
            ("rediss://h/1#insecure", Security::UnverifiedTls, "rediss://h:6379"),
            ("rediss:6379", Security::Plain, "redis://rediss:6379"),
            ("unix:/s", Security::Plain, "unix:/s"),
        ] {
            let found = RedisUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((found.security, found.to_string().as_str()), (security, shown), "{url}");
        }
    }

    #[test]
    fn urls_carry_credentials_and_a_protocol() {
        for (url, username, password, resp2_only) in [
            ("redis://h", None, None, false),
            ("redis://:p%40ss@h", None, Some("p@ss"), false),
            ("redis://bob:secret@h/?protocol=resp2", Some("bob"), Some("secret"), true),
            ("bob:secret@h:6379", Some("bob"), Some("secret"), false),
            ("redis://h/?protocol=2", None, None, true),
            ("redis://h/?protocol=resp3", None, None, false),
            ("unix:/s?user=bob&pass=secret&protocol=resp2", Some("bob"), Some("secret"), true),
        ] {
            let found = RedisUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(found.username.as_deref(), username, "{url}");
            assert_eq!(found.password.as_deref(), password, "{url}");
            assert_eq!(found.resp2_only, resp2_only, "{url}");
        }
    }

    #[test]
    fn a_parameter_that_means_nothing_is_an_error_with_the_nearest_name() {
        for (url, expected) in [
            ("redis://h:6379?db=1", "\"db\" of the URL is not known; the database is the path"),
            (
                "redis://h/?protocl=resp2&tls=true",
                "\"protocl\" of the URL is not known; did you mean protocol?",
            ),
            (
                "redis://h?protocol=resp3&tls=true",
                "\"tls\" of the URL is not known; TLS is the scheme",
            ),
            ("redis://h?password=hunter2", "user and password stand before the host"),
            ("h:6379?timeout=5", "\"timeout\" of the URL is not known"),
            ("unix:/s?database=3", "\"database\" of the URL is not known"),
            ("unix:/s?dbb=3", "did you mean db?"),
            ("redis://h?Protocol=resp2", "did you mean protocol?"),
        ] {
            let Err(error) = RedisUrl::parse(url) else { panic!("{url}") };
            assert!(error.contains(expected) && !error.contains("hunter2"), "{url}: {error}");
        }
        for url in ["redis://h?", "redis://h?protocol=resp2&", "unix:/s?db=1&user=u&pass=p%3Dq"] {
            assert!(RedisUrl::parse(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn urls_name_a_database() {
        for (url, database) in [
            ("redis://h", 0),
            ("redis://h/7", 7),
            ("redis://h:1/0?protocol=resp2", 0),
            ("unix:/s?db=3", 3),
            ("/run/redis.sock", 0),
        ] {
            let found = RedisUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(found.database, database, "{url}");
        }
    }

    #[test]
    fn a_url_that_is_refused_shows_no_password() {
        for url in [
            "",
            "redis://",
            "redis://bob:hunter2@",
            "redis://bob:hunter2@h:port",
            "redis://bob:hunter2@h/nodb",
            "redis://bob:hunter2@h?protocol=4",
            "redis://bob:hunter2/x@h:1:2",
            "redis://bob:hunter2@0.0.0.0",
            "rediss://bob:hunter2@h#secure",
            "rediss://bob:hunter2@h:port",
            "rediss://bob:hunt#er2@h",
            "http://bob:hunter2@h",
            "unix:hunter2",
            "unix:",
        ] {
            match RedisUrl::parse(url) {
                Ok(found) => panic!("{url}: taken for {}", found.address),
                Err(error) => assert!(!error.contains("hunter2"), "{url}: {error}"),
            }
        }
    }
}
