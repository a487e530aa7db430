//! Where a handshake carries its token.

use super::PROTOCOL;
use crate::client::http::Request;

/// What precedes a token among the subprotocols that a client offers.
const BEARER_PROTOCOL: &str = "bearer.";

/// Where a handshake carried its token: that decides how a refusal is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the header `Authorization`: whoever sets headers can read a response.
    Header,
    /// In the subprotocols or the query, as a browser does, which cannot.
    Address,
}

/// The token of a handshake; the first place where there is one wins.
pub(super) fn presented(request: &Request) -> Option<(&str, Place)> {
    let protocol = || {
        let mut offered = request.list("sec-websocket-protocol");
        offered.find_map(|entry| entry.strip_prefix(BEARER_PROTOCOL))
    };
    let in_address = || protocol().or_else(|| request.query("token"));
    request
        .bearer()
        .map(|token| (token, Place::Header))
        .or_else(|| in_address().map(|token| (token, Place::Address)))
}

/// The subprotocol that the answer names: ours, or in its absence the entry that carries the token, back on the connection that it
/// came on. A browser fails a connection on which none of its offers is chosen, and tells the page no reason.
pub(super) fn protocol(request: &Request) -> Option<&str> {
    let offered = |is_good: fn(&str) -> bool| {
        request.list("sec-websocket-protocol").find(|entry| is_good(entry))
    };
    offered(|entry| entry == PROTOCOL)
        .or_else(|| offered(|entry| entry.starts_with(BEARER_PROTOCOL)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::http;

    #[test]
    fn our_subprotocol_is_chosen_and_without_it_the_token() {
        for (offered, chosen) in [
            ("bearer.T, oneloop.v1", Some("oneloop.v1")),
            ("json, bearer.T", Some("bearer.T")),
            ("json", None),
        ] {
            let head =
                format!("GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Protocol: {offered}\r\n\r\n");
            let request = http::parse(head.as_bytes(), 8192).unwrap().unwrap().0;
            assert_eq!(protocol(&request), chosen, "{offered}");
        }
    }

    #[test]
    fn the_first_place_with_a_token_wins() {
        let header = "Authorization: bearer H\r\n";
        let protocols = "Sec-WebSocket-Protocol: oneloop.v1, bearer.P\r\n";
        for (path, lines, expected) in [
            ("/?token=Q", [header, protocols].concat(), Some(("H", Place::Header))),
            ("/?token=Q", protocols.to_owned(), Some(("P", Place::Address))),
            (
                "/?a=b&token=Q",
                "Authorization: Basic eA==\r\n".to_owned(),
                Some(("Q", Place::Address)),
            ),
            ("/?token=", String::new(), None),
            ("/", "Sec-WebSocket-Protocol: oneloop.v1\r\n".to_owned(), None),
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            let request = http::parse(head.as_bytes(), 8192).unwrap().unwrap().0;
            assert_eq!(presented(&request), expected, "{head}");
        }
    }
}
