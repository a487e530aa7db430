//! Where a handshake carries its token.

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
    let header = request.header("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let protocol = || {
        let mut offered = request.list("sec-websocket-protocol");
        offered.find_map(|entry| entry.strip_prefix(BEARER_PROTOCOL))
    };
    let in_address = || protocol().or_else(|| request.query("token"));
    header
        .map(|token| (token, Place::Header))
        .or_else(|| in_address().map(|token| (token, Place::Address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::http;

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
