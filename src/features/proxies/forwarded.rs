//! The client's address in `X-Forwarded-For`, as far as the list can be believed.

use std::net::{IpAddr, SocketAddr};

use super::Proxies;
use crate::engine::client::http::Request;

/// Returns the address of the client whose request came from `peer`. Each proxy appends its peer's address to the list (several
/// lines are one list, RFC 9110 section 5.3), so the list is read from its end while the sender is trusted: what a client writes
/// itself stands before its own address and is not looked at. `None`: a trusted entry is no address.
pub fn client_address(request: &Request, peer: IpAddr, proxies: &Proxies) -> Option<IpAddr> {
    let mut address = peer;
    for entry in request.list_from_end("x-forwarded-for") {
        if !proxies.has(address) {
            break;
        }
        address = parse(entry)?;
    }
    Some(address)
}

/// Reads `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, or `[2001:db8::1]:80`.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().or_else(|_| with_port()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::http;

    fn client(source: &str, lines: &[&[u8]]) -> Option<String> {
        let proxies = ["10.0.0.0/8", "2001:db8::1"].map(str::to_owned);
        let proxies = Proxies::new(&proxies).expect("two networks");
        let mut head = b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec();
        for line in lines {
            head.extend([b"X-Forwarded-For: ", *line, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        let request = http::parse(&head, 8192).unwrap().unwrap().0;
        let address = client_address(&request, source.parse().unwrap(), &proxies)?;
        Some(request.from_address(Some(address)).address().to_string())
    }

    #[test]
    fn the_last_address_that_is_not_a_proxys_is_the_clients() {
        for (source, lines, found) in [
            ("10.0.0.1", &[][..], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.7"], "192.0.2.7"),
            ("::ffff:10.0.0.1", &["192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["1.1.1.1, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["1.1.1.1", "192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["1.1.1.1,192.0.2.7\t,10.0.0.2", "10.0.0.3,, "], "192.0.2.7"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["192.0.2.7:4711"], "192.0.2.7"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
            ("10.0.0.1", &["2001:db8::7, 2001:db8::1"], "2001:db8::7"),
            ("10.0.0.1", &["::ffff:192.0.2.7"], "192.0.2.7"),
            ("2001:db8::1", &["192.0.2.7"], "192.0.2.7"),
            // Anything before the client's own address is the client's word.
            ("10.0.0.1", &["unknown, \u{e9}, 192.0.2.7"], "192.0.2.7"),
            // Nobody else can choose an address.
            ("192.0.2.9", &["192.0.2.7"], "192.0.2.9"),
            ("192.0.2.9", &["unknown"], "192.0.2.9"),
            ("2001:db8::2", &["10.0.0.1"], "2001:db8::2"),
        ] {
            let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(client(source, &lines).as_deref(), Some(found), "{source} {lines:?}");
        }
    }

    #[test]
    fn a_word_of_a_proxy_that_is_no_address_is_noticed() {
        for lines in [
            &[&b"unknown"[..]][..],
            &[b"192.0.2.7, 192.0.2"],
            &[b"192.0.2.7", b"_hidden"],
            &[b"192.0.2.7, \xff, 10.0.0.2"],
            &[b"192.0.2.7:80:80"],
            &[b"[2001:db8::7"],
            &[b"2001:db8::7]"],
            &[b"192.0.2.7 192.0.2.8"],
            &[b"for=192.0.2.7"],
        ] {
            assert_eq!(client("10.0.0.1", lines), None, "{lines:?}");
        }
    }
}
