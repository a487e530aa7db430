//! The URL of a Redis Cluster.

use crate::engine::redis::url::{NOT_UNDERSTOOD, RedisUrl, check_parameters};

/// The schemes of clusters, each with that of one server.
const SCHEMES: [(&str, &str); 4] = [
    ("redis+cluster", "redis"),
    ("valkey+cluster", "redis"),
    ("rediss+cluster", "rediss"),
    ("valkeys+cluster", "rediss"),
];

const EXPECTED: &str = "the URL of a cluster is not understood: expected \
    `redis+cluster://[[user]:password@]host[:6379],host[:6379]`, the same with `rediss+cluster://` for TLS; a cluster has no \
    databases, and an IPv6 address stands in [ ]";

/// The scheme of one server that goes with the scheme of a URL of a cluster; `None` for other URLs.
pub fn scheme_of(url: &str) -> Option<&'static str> {
    let (scheme, _) = url.split_once("://")?;
    let known = SCHEMES.iter().find(|(known, _)| scheme.eq_ignore_ascii_case(known));
    known.map(|(_, plain)| *plain)
}

/// Reads a URL of a cluster, as one URL of a server for each node that it names.
///
/// # Errors
/// A text for the operator. It shows nothing of the URL, which may hold a password.
pub fn nodes(url: &str) -> Result<Vec<RedisUrl>, String> {
    let not_understood = || EXPECTED.to_owned();
    check_parameters(url, &["protocol"])?;
    let scheme = scheme_of(url).ok_or_else(not_understood)?;
    let (_, rest) = url.split_once("://").ok_or_else(not_understood)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let behind = behind.strip_prefix('/').unwrap_or(behind);
    if !(behind.is_empty() || behind.starts_with(['?', '#'])) {
        return Err(not_understood());
    }
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let login = if login.is_empty() { String::new() } else { format!("{login}@") };
    let node = |host: &str| {
        let is_host = !host.is_empty() && !host.contains(char::is_whitespace);
        let url = RedisUrl::parse(&format!("{scheme}://{login}{host}/{behind}"));
        let url = url.map_err(|why| if why == NOT_UNDERSTOOD { not_understood() } else { why })?;
        is_host.then_some(url).ok_or_else(not_understood)
    };
    hosts.split(',').map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_nodes_with_one_login() {
        for (url, shown) in [
            ("redis+cluster://h1", "redis://h1:6379"),
            (
                "valkeys+CLUSTER://bob:p%40ss@h1:1,[::1]/#insecure",
                "rediss://h1:1 rediss://[::1]:6379",
            ),
            ("redis+cluster://:p@h1,h2:7?protocol=resp2", "redis://h1:6379 redis://h2:7"),
        ] {
            let found = nodes(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            let addresses: Vec<String> = found.iter().map(RedisUrl::to_string).collect();
            assert_eq!(addresses.join(" "), shown, "{url}");
            assert!(found.iter().all(|node| node.password.is_some() == url.contains('@')));
            assert!(found.iter().all(|node| node.resp2_only == url.contains("resp2")));
        }
        for (url, expected) in [
            ("redis+cluster://:hunter2@h1/1", "a cluster has no databases"),
            ("redis+cluster://:hunter2@h1,,h2", "the URL of a cluster is not understood"),
            ("redis+cluster://", "the URL of a cluster is not understood"),
            ("redis+cluster://h:port", "the URL of a cluster is not understood"),
            ("redis+cluster://h?db=1", "is not known"),
            ("rediss+cluster://h#hunter2", "after # expected insecure"),
        ] {
            let Err(error) = nodes(url) else { panic!("{url}") };
            assert!(error.contains(expected) && !error.contains("hunter2"), "{url}: {error}");
        }
    }
}
