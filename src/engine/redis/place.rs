//! The setting `redis`: servers in order of preference, nodes of a cluster, or Sentinels that name the primary.
//!
//! ```text
//! redis://h:6379                                            one server
//! redis://h1:6379,redis://h2:6379                           servers in order of preference
//! redis+sentinel://[user:password@]h1:26379,h2:26379/NAME   the primary NAME of these Sentinels
//! redis+cluster://[user:password@]h1:6379,h2:6379          any of these nodes of a cluster
//! ```

use std::fmt;

use crate::engine::redis::cluster_url;
use crate::engine::redis::url::{Address, NOT_UNDERSTOOD, RedisUrl, Security, check_parameters};

/// The most servers of a list, and the most Sentinels.
pub const SERVERS_MAX: usize = 16;

/// The schemes of one server.
const SCHEMES: [&str; 7] =
    ["redis", "valkey", "rediss", "valkeys", "unix", "redis+unix", "valkey+unix"];

/// The schemes of Sentinels, each with that of one server.
const SENTINEL_SCHEMES: [(&str, &str); 4] = [
    ("redis+sentinel", "redis"),
    ("valkey+sentinel", "redis"),
    ("rediss+sentinel", "rediss"),
    ("valkeys+sentinel", "rediss"),
];

const SENTINEL_PORT: u16 = 26379;

/// The most bytes of the name of a primary.
const NAME_BYTES_MAX: usize = 255;

/// The parameters behind `?` of a URL of Sentinels.
const PARAMETERS: [&str; 3] = ["protocol", "sentinel_username", "sentinel_password"];

const EXPECTED: &str = "it is no URL that begins with redis://, rediss://, valkey://, unix://, redis+sentinel:// or \
    redis+cluster://";

const SENTINEL_EXPECTED: &str = "the URL of Sentinels is not understood: expected \
    `redis+sentinel://[[user]:password@]host[:26379],host[:26379]/NAME[/database]`, the same with `rediss+sentinel://` for TLS, \
    perhaps with `?sentinel_username=…&sentinel_password=…` for the Sentinels' own login; an IPv6 address stands in [ ]";

const SENTINEL_SCHEME: &str = "the scheme of Sentinels is redis+sentinel:// (or rediss+sentinel:// for TLS): \
    redis+sentinel://h1:26379,h2:26379/NAME";

const LIST_EXPECTED: &str =
    "; a list has a whole URL behind each comma: redis://h1:6379,redis://h2:6379";

/// The servers that the setting names. Not `Debug`: they hold passwords.
#[derive(Clone)]
pub struct RedisPlace {
    /// At least one: the servers in order of preference, or the Sentinels with their own login.
    pub urls: Vec<RedisUrl>,
    /// With Sentinels: the name of the primary, and the login there.
    pub primary: Option<(String, RedisUrl)>,
    /// The URLs are those of nodes of one cluster.
    pub is_cluster: bool,
}

/// Shows schemes, addresses and the name of the primary, and no credentials.
impl fmt::Display for RedisPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let Some((name, _)) = &self.primary else {
            if self.is_cluster {
                let hosts: Vec<String> =
                    self.urls.iter().map(|url| url.address.to_string()).collect();
                let scheme = if self.security() == Security::Plain { "redis" } else { "rediss" };
                return write!(formatter, "{scheme}+cluster://{}", hosts.join(","));
            }
            let urls: Vec<String> = self.urls.iter().map(RedisUrl::to_string).collect();
            return formatter.write_str(&urls.join(","));
        };
        let scheme = if self.security() == Security::Plain { "redis" } else { "rediss" };
        let hosts: Vec<String> = self.urls.iter().map(|url| url.address.to_string()).collect();
        write!(formatter, "{scheme}+sentinel://{}/{name}", hosts.join(","))
    }
}

impl RedisPlace {
    /// Reads the setting; see [`RedisUrl::parse`] for one server.
    ///
    /// # Errors
    /// A text for the operator. It shows nothing of the URLs, which may hold passwords.
    pub fn parse(text: &str) -> Result<RedisPlace, String> {
        let parts = parts(text);
        let mut of_sentinels = parts.iter().filter(|part| sentinel_scheme(part).is_some());
        match (of_sentinels.next(), parts.len()) {
            (Some(url), 1) => return of_sentinels_url(url),
            (Some(_), _) => {
                return Err("a URL of Sentinels stands alone: name all Sentinels in the one URL, \
                     redis+sentinel://h1:26379,h2:26379/NAME"
                    .to_owned());
            }
            (None, _) if is_cluster(text) => return of_cluster(&parts),
            (None, 0..=SERVERS_MAX) => {}
            (None, count) => {
                return Err(format!("{count} servers are named; allowed: {SERVERS_MAX}"));
            }
        }
        let urls = parts.iter().map(|part| server_url(part)).collect::<Result<_, _>>()?;
        let place = RedisPlace { urls, primary: None, is_cluster: false };
        match place.urls.iter().all(|url| url.security == place.security()) {
            true => Ok(place),
            false => {
                Err("the URLs of the list must agree on TLS: all redis://, or all rediss://, \
                 with #insecure at all of them or at none"
                    .to_owned())
            }
        }
    }

    /// The security of all connections.
    pub fn security(&self) -> Security {
        self.urls[0].security
    }
}

/// Judges the schemes alone.
///
/// # Errors
/// A text for the operator, which quotes nothing.
pub fn check_schemes(text: &str) -> Result<(), String> {
    for part in parts(text) {
        // `unix:/path` is a URL too, without the two slashes.
        let scheme = part.split_once(':').unwrap_or_default().0.to_ascii_lowercase();
        let is_known = is_known(&scheme, part);
        match scheme.as_str() {
            _ if is_known => {}
            "sentinel" | "redis-sentinel" | "rediss-sentinel" => {
                return Err(SENTINEL_SCHEME.to_owned());
            }
            _ => return Err(EXPECTED.to_owned()),
        }
    }
    Ok(())
}

/// Returns whether the setting asks for TLS.
pub fn asks_for_tls(text: &str) -> bool {
    parts(text).iter().any(|part| {
        let scheme = part.split_once("://").unwrap_or_default().0.to_ascii_lowercase();
        let scheme =
            sentinel_scheme(part).or_else(|| cluster_url::scheme_of(part)).unwrap_or(&scheme);
        matches!(scheme, "rediss" | "valkeys")
    })
}

/// Returns whether the setting names a cluster.
pub fn is_cluster(text: &str) -> bool {
    parts(text).iter().any(|part| cluster_url::scheme_of(part).is_some())
}

/// Returns whether the setting may hold a URL with this scheme.
fn is_known(scheme: &str, url: &str) -> bool {
    SCHEMES.contains(&scheme)
        || sentinel_scheme(url).is_some()
        || cluster_url::scheme_of(url).is_some()
}

/// Reads the URL of a cluster.
fn of_cluster(parts: &[&str]) -> Result<RedisPlace, String> {
    let [url] = parts else {
        return Err("a URL of a cluster stands alone: name its nodes in the one URL, \
             redis+cluster://h1:6379,h2:6379"
            .to_owned());
    };
    let urls = cluster_url::nodes(url)?;
    match urls.len() {
        0..=SERVERS_MAX => Ok(RedisPlace { urls, primary: None, is_cluster: true }),
        count => Err(format!("{count} nodes are named; allowed: {SERVERS_MAX}")),
    }
}

/// Splits a list. A comma belongs to a URL (to its password, or its Sentinels) unless a scheme follows.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut rest, mut from) = (Vec::new(), text.trim(), 0);
    while let Some(comma) = rest[from..].find(',') {
        let (at, behind) = (from + comma, rest[from + comma + 1..].trim_start());
        let scheme = behind.split_once(':').unwrap_or_default().0.to_ascii_lowercase();
        let is_url = behind.contains("://") || scheme == "unix";
        if is_url && is_known(&scheme, behind) {
            parts.push(rest[..at].trim_end());
            (rest, from) = (behind, 0);
        } else {
            from = at + 1;
        }
    }
    parts.push(rest);
    parts
}

/// The scheme of one server that goes with the scheme of a URL of Sentinels; `None` for other URLs.
fn sentinel_scheme(url: &str) -> Option<&'static str> {
    let (scheme, _) = url.split_once("://")?;
    let known = SENTINEL_SCHEMES.iter().find(|(known, _)| scheme.eq_ignore_ascii_case(known));
    known.map(|(_, plain)| *plain)
}

/// Reads the URL of one server. The host of a list that is written like one of Sentinels is told as such.
fn server_url(url: &str) -> Result<RedisUrl, String> {
    match RedisUrl::parse(url) {
        Ok(RedisUrl { address: Address::Tcp { host, .. }, .. }) if host.contains(',') => {
            Err([NOT_UNDERSTOOD, LIST_EXPECTED].concat())
        }
        Err(why) if url.contains(',') => Err(why + LIST_EXPECTED),
        found => found,
    }
}

/// Reads a URL of Sentinels, by one URL of a server for each of them, and one for the primary.
fn of_sentinels_url(url: &str) -> Result<RedisPlace, String> {
    let not_understood = || SENTINEL_EXPECTED.to_owned();
    check_parameters(url, &PARAMETERS)?;
    let scheme = sentinel_scheme(url).ok_or_else(not_understood)?;
    let (_, rest) = url.split_once("://").ok_or_else(not_understood)?;
    let fragment_at = rest.find('#').unwrap_or(rest.len());
    let (rest, fragment) = rest.split_at(fragment_at);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').ok_or_else(not_understood)?;
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (name, database) = path.split_once('/').unwrap_or((path, ""));
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%');
    if !is_name {
        return Err("the URL of Sentinels names no primary: behind the hosts stands /NAME, as in \
             `sentinel monitor NAME …`, of visible ASCII without %"
            .to_owned());
    }
    let hosts: Vec<&str> = hosts.split(',').collect();
    if hosts.len() > SERVERS_MAX {
        return Err(format!("{} Sentinels are named; allowed: {SERVERS_MAX}", hosts.len()));
    }
    let parameter = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let protocol = parameter("protocol").map_or(String::new(), |it| format!("?protocol={it}"));
    let of = |login: &str, host: &str, database: &str| {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let port = if has_port { String::new() } else { format!(":{SENTINEL_PORT}") };
        let url = format!("{scheme}://{login}{host}{port}/{database}{protocol}{fragment}");
        let url = RedisUrl::parse(&url).map_err(|why| match why == NOT_UNDERSTOOD {
            true => not_understood(),
            false => why,
        })?;
        let is_host = !host.is_empty() && !host.contains(char::is_whitespace);
        is_host.then_some(url).ok_or_else(not_understood)
    };
    let own = match (parameter("sentinel_username"), parameter("sentinel_password")) {
        (None, None) => String::new(),
        (user, None) => format!("{}@", user.unwrap_or_default()),
        (user, Some(password)) => format!("{}:{password}@", user.unwrap_or_default()),
    };
    let login = if login.is_empty() { String::new() } else { format!("{login}@") };
    let primary = of(&login, hosts[0], database)?;
    let urls = hosts.iter().map(|host| of(&own, host, "")).collect::<Result<_, _>>()?;
    Ok(RedisPlace { urls, primary: Some((name.to_owned(), primary)), is_cluster: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> RedisPlace {
        RedisPlace::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_place_is_one_server_a_list_or_sentinels() {
        for (text, shown) in [
            ("redis://:p,a@h", "redis://h:6379"),
            ("redis://h1, valkey://h2:7000", "redis://h1:6379,redis://h2:7000"),
            ("redis://a:b,c@h1,redis://:d,redis@h2", "redis://h1:6379,redis://h2:6379"),
            ("unix:/run/a,redis://[::1]", "unix:/run/a,redis://[::1]:6379"),
            ("redis://h1:6379,unix:/run/a,b", "redis://h1:6379,unix:/run/a,b"),
            ("rediss://a@h1,valkeys://b@h2", "rediss://h1:6379,rediss://h2:6379"),
            ("redis+cluster://:p@h1,[::1]:7", "redis+cluster://h1:6379,[::1]:7"),
            ("valkeys+cluster://h", "rediss+cluster://h:6379"),
            ("redis+sentinel://h1/main", "redis+sentinel://h1:26379/main"),
            (
                "redis+sentinel://u:p@h1:1,[::1],[fe80::1]:3,h4/main/7",
                "redis+sentinel://h1:1,[::1]:26379,[fe80::1]:3,h4:26379/main",
            ),
            (
                "VALKEYS+sentinel://h1,h2/a.b-c#insecure",
                "rediss+sentinel://h1:26379,h2:26379/a.b-c",
            ),
        ] {
            assert_eq!(place(text).to_string(), shown, "{text}");
            assert!(RedisPlace::parse(shown).is_ok(), "{shown}");
        }
    }

    #[test]
    fn sentinels_have_a_login_of_their_own() {
        let found = place(
            "redis+sentinel://bob:p%40ss@h1,h2/main/3?sentinel_password=s%23a@b&protocol=resp2",
        );
        let (name, primary) = found.primary.expect("it names one");
        assert_eq!((name.as_str(), primary.database), ("main", 3));
        assert_eq!(primary.username.as_deref(), Some("bob"));
        assert_eq!(primary.password.as_deref(), Some("p@ss"));
        for sentinel in &found.urls {
            assert_eq!((sentinel.username.as_deref(), sentinel.database), (None, 0));
            assert_eq!(sentinel.password.as_deref(), Some("s#a@b"));
            assert!(sentinel.resp2_only && primary.resp2_only);
        }
        let found = place("redis+sentinel://:p@h/main?sentinel_username=eve");
        assert_eq!(found.urls[0].username.as_deref(), Some("eve"));
        let found = place("redis+sentinel://:p@h/main");
        assert!(found.urls[0].password.is_none() && found.urls[0].username.is_none());
    }

    #[test]
    fn each_bad_form_says_what_was_expected_and_no_secret() {
        let many = format!("redis://hunter2@h{}", ",redis://h".repeat(SERVERS_MAX));
        let many_sentinels = format!("redis+sentinel://h{}/main", ",h".repeat(SERVERS_MAX));
        for (text, expected) in [
            ("redis+sentinel://:hunter2@h1,h2", "/NAME[/database]"),
            ("redis+sentinel://:hunter2@h1,h2/", "names no primary"),
            ("redis+sentinel://h/a%20b", "names no primary"),
            ("redis+sentinel://:hunter2@h1,,h2/main", "URL of Sentinels is not understood"),
            ("redis+sentinel://:hunter2@/main", "URL of Sentinels is not understood"),
            ("redis+sentinel://h:port/main", "URL of Sentinels is not understood"),
            ("redis+sentinel://::1/main", "URL of Sentinels is not understood"),
            ("redis+sentinel://h/main/db", "URL of Sentinels is not understood"),
            ("redis+sentinel://h/main?sentinel_pasword=hunter2", "did you mean sentinel_password?"),
            ("redis+sentinel://h/main?db=2", "is not known"),
            ("rediss+sentinel://h/main#hunter2", "after # expected insecure"),
            ("redis+sentinel://h1/a,redis://h2", "stands alone"),
            ("redis://h1,redis+sentinel://h2/a", "stands alone"),
            ("redis+cluster://h1,redis+cluster://h2", "stands alone"),
            ("redis://h1,redis+cluster://:hunter2@h2", "stands alone"),
            ("redis://h1:6379,h2:6379", "a whole URL behind each comma"),
            ("redis://h1,", "a whole URL behind each comma"),
            ("redis://h1,rediss://h2", "must agree on TLS"),
            ("rediss://h1#insecure,rediss://h2", "must agree on TLS"),
            (&many, "17 servers are named; allowed: 16"),
            (&many_sentinels, "17 Sentinels are named; allowed: 16"),
        ] {
            let Err(error) = RedisPlace::parse(text) else { panic!("{text}") };
            assert!(error.contains(expected) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn schemes_are_judged_in_each_url_of_a_list() {
        for good in [
            "redis://h",
            "redis://h,unix:/s",
            "REDISS+SENTINEL://h/m",
            "redis+cluster://h",
            "valkey+unix:///s",
        ] {
            assert_eq!(check_schemes(good), Ok(()), "{good}");
        }
        for bad in ["h:6379", "http://h", "", "cluster://h"] {
            assert_eq!(check_schemes(bad), Err(EXPECTED.to_owned()), "{bad}");
        }
        for near in ["sentinel://h/m", "redis-sentinel://h"] {
            assert!(check_schemes(near).is_err_and(|why| why.contains("redis+sentinel://")));
        }
        for (text, expected) in [
            ("rediss://h", true),
            ("Valkeys+sentinel://h/m", true),
            ("Rediss+cluster://h1,h2", true),
            ("redis+cluster://h", false),
            ("VALKEYS://h", true),
            ("redis://h", false),
            ("redis+sentinel://h/m", false),
            ("unix:/s", false),
        ] {
            assert_eq!(asks_for_tls(text), expected, "{text}");
        }
    }
}
