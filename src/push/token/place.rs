//! The place of a token in a handshake.

use std::borrow::Cow;

use crate::engine::client::http::Request;
use crate::engine::handler::admits_origin;
use crate::engine::origin::Origins;
use crate::push::PROTOCOL;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter};

/// The prefix of a token among the subprotocols that a client offers.
const BEARER_PROTOCOL: &str = "bearer.";

/// The place of a token in a handshake, which decides the form of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// The header `Authorization`: a client that sets headers can read a response.
    Header,
    /// The subprotocols, the query or a cookie, as browsers do, which cannot.
    Address,
}

/// A handshake without a token, by what it has instead: the advice depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingToken {
    Nothing,
    /// A header or parameter of this name, which other servers read.
    Elsewhere(&'static str),
    /// `Authorization` with another scheme.
    Scheme,
    /// `?token=` without a value.
    Empty,
    Cookie,
    /// Cookies, but not the configured one, or not from a page whose cookies are accepted.
    OtherCookie,
    /// No header of a proxy that names the user either, where one is read.
    Identity,
    /// A command on the open connection.
    Command,
}

/// Parameters and headers where other servers look for a token.
const PARAMETERS: [&str; 7] =
    ["access_token", "jwt", "auth", "auth_token", "id_token", "bearer", "authorization"];
const HEADERS: [&str; 4] = ["x-access-token", "x-auth-token", "x-jwt", "x-authorization"];

impl MissingToken {
    /// Looks at a handshake that carries no token. `reads_cookie`: cookies are read on this route.
    pub fn of(request: &Request, reads_cookie: bool) -> MissingToken {
        let named = |name: &&str| request.query(name).is_some();
        if request.parameter_is_empty("token") {
            MissingToken::Empty
        } else if let Some(name) = PARAMETERS.iter().find(|name| named(name)) {
            MissingToken::Elsewhere(name)
        } else if request.count("authorization") > 0 {
            MissingToken::Scheme
        } else if let Some(name) = HEADERS.iter().find(|name| request.count(name) > 0) {
            MissingToken::Elsewhere(name)
        } else if request.count("cookie") > 0 {
            if reads_cookie { MissingToken::OtherCookie } else { MissingToken::Cookie }
        } else {
            MissingToken::Nothing
        }
    }

    pub fn save(self, writer: &mut StateWriter<'_>) {
        let name = match self {
            MissingToken::Elsewhere(name) => name,
            MissingToken::Nothing | MissingToken::Command => "",
            MissingToken::Scheme => "S",
            MissingToken::Empty => "E",
            MissingToken::Cookie => "C",
            MissingToken::OtherCookie => "O",
            MissingToken::Identity => "I",
        };
        writer.text(name);
    }

    /// The same, as it was written.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(reader: &mut StateReader<'_>) -> Result<MissingToken, StateError> {
        let text = reader.text(BYTES_MAX)?;
        let mut names = PARAMETERS.iter().chain(&HEADERS);
        Ok(match text.as_str() {
            "S" => MissingToken::Scheme,
            "E" => MissingToken::Empty,
            "C" => MissingToken::Cookie,
            "O" => MissingToken::OtherCookie,
            "I" => MissingToken::Identity,
            name => names
                .find(|known| **known == name)
                .map_or(MissingToken::Nothing, |name| MissingToken::Elsewhere(name)),
        })
    }

    /// A sentence that says what was seen, and where a token is read. It shows nothing that the client chose.
    pub fn advice(self) -> String {
        let seen = match self {
            MissingToken::Nothing => "none came in time",
            MissingToken::Elsewhere(name) => &format!("{name} is not read"),
            MissingToken::Scheme => "Authorization without Bearer",
            MissingToken::Empty => "?token= is empty",
            MissingToken::Cookie => "cookies are not read",
            MissingToken::OtherCookie => "no cookie counts here",
            MissingToken::Identity => "no proxy named a user",
            MissingToken::Command => "a command came before",
        };
        format!("{seen}; token places: ?token=, Authorization: Bearer, bearer.T, auth")
    }
}

/// Finds the token of a handshake. The first place that has one wins; the cookie is the last.
pub fn find<'a>(
    request: &'a Request,
    cookie: Option<&str>,
    origins: &Origins,
) -> Option<(Cow<'a, str>, TokenPlace)> {
    if let Some(token) = request.bearer() {
        return Some((token.into(), TokenPlace::Header));
    }
    let mut offered = request.list("sec-websocket-protocol");
    let protocol = offered.find_map(|entry| entry.strip_prefix(BEARER_PROTOCOL));
    // No token has a plus: a query that has one was encoded as forms are.
    let query = || {
        let token = request.query_all("token").find(|token| !token.is_empty())?;
        Some(if token.contains('+') { token.replace('+', " ").into() } else { token })
    };
    let cookie = || cookie.and_then(|name| in_cookie(request, name, origins)).map(Cow::Borrowed);
    let token = protocol.map(Cow::Borrowed).or_else(query).or_else(cookie)?;
    Some((token, TokenPlace::Address))
}

/// The subprotocols that an answer may name: ours, or else the entry that carries the token, back on the connection that it came
/// on. A browser fails a connection on which none of its offers is chosen, without a reason for the page.
pub fn protocols() -> Vec<String> {
    vec![PROTOCOL.to_owned(), format!("{BEARER_PROTOCOL}*")]
}

/// Returns the value of the cookie `name` (RFC 6265 section 4.2) if the handshake comes from a page whose origin is checked, or
/// from no page. The first of several that is not empty counts: browsers send the one with the longest path first.
///
/// A browser sends a site's cookies with the handshake of any page. A cookie thus proves who the user is, but not that the site's
/// own page asks: only `Origin` proves that.
fn in_cookie<'a>(request: &'a Request, name: &str, origins: &Origins) -> Option<&'a str> {
    // A token in `Authorization` lets in foreign origins.
    if request.bearer().is_some() || !is_checked(request, origins) {
        return None;
    }
    let pairs = request.lines("cookie").flat_map(|line| line.split(|byte| *byte == b';'));
    let mut values = pairs.filter_map(|pair| {
        let (found, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        // No other blanks: browsers hold `__Host-` to its rules by the name as it stands.
        let [found, value] = [found, value].map(|text| text.trim_matches([' ', '\t']));
        let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        (found == name).then_some(quoted.unwrap_or(value))
    });
    values.find(|value| !value.is_empty())
}

/// Returns whether the handshake comes from no page, or from one whose origin is among those of the route. An opaque origin
/// (`null`, `file://`) is shared by pages of many authors.
pub(in crate::push) fn is_checked(request: &Request, origins: &Origins) -> bool {
    let is_opaque = || {
        let origin = request.header("origin").unwrap_or("null");
        origin.eq_ignore_ascii_case("null") || origin.to_ascii_lowercase().starts_with("file:")
    };
    let is_from_page = request.count("origin") > 0;
    *origins != Origins::Any && admits_origin(origins, request) && !(is_from_page && is_opaque())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::http;
    use crate::engine::origin::ListedOrigin;
    use crate::engine::server::RouteOptions;
    use crate::push::wire;

    #[test]
    fn each_misplaced_token_has_its_advice() {
        for (path, line, expected) in [
            ("/", "", MissingToken::Nothing),
            ("/?access_token=T", "", MissingToken::Elsewhere("access_token")),
            ("/?token=", "", MissingToken::Empty),
            ("/?token", "", MissingToken::Empty),
            ("/", "Authorization: Token T\r\n", MissingToken::Scheme),
            ("/", "Authorization: T\r\n", MissingToken::Scheme),
            ("/", "X-Access-Token: T\r\n", MissingToken::Elsewhere("x-access-token")),
            ("/", "Cookie: token=T\r\n", MissingToken::Cookie),
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{line}\r\n");
            let request = http::parse(head.as_bytes(), 8192).unwrap().unwrap().0;
            assert_eq!(find(&request, None, &Origins::SameHost), None, "{head}");
            assert_eq!(MissingToken::of(&request, false), expected, "{head}");
            let expected =
                if expected == MissingToken::Cookie { MissingToken::OtherCookie } else { expected };
            assert_eq!(MissingToken::of(&request, true), expected, "{head}");
        }
        let all = PARAMETERS.iter().chain(&HEADERS).map(|name| MissingToken::Elsewhere(name));
        let others = [
            MissingToken::Cookie,
            MissingToken::OtherCookie,
            MissingToken::Identity,
            MissingToken::Command,
        ];
        for seen in all
            .chain([MissingToken::Nothing, MissingToken::Scheme, MissingToken::Empty])
            .chain(others)
        {
            let reason = wire::refusal("no_token", &seen.advice(), None);
            assert!(reason.contains("bearer.T, auth\"}"), "nothing is cut: {reason}");
        }
    }

    #[test]
    fn our_subprotocol_is_chosen_and_without_it_the_token() {
        let options = RouteOptions { protocols: protocols(), ..RouteOptions::default() };
        for (offered, chosen) in [
            ("bearer.T, oneloop.v1", Some("oneloop.v1")),
            ("json, bearer.T", Some("bearer.T")),
            ("json", None),
        ] {
            let head =
                format!("GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Protocol: {offered}\r\n\r\n");
            let request = http::parse(head.as_bytes(), 8192).unwrap().unwrap().0;
            assert_eq!(options.protocol(&request), chosen, "{offered}");
        }
    }

    #[test]
    fn the_first_place_with_a_token_wins() {
        let header = "Authorization: bearer H\r\n";
        let protocols = "Sec-WebSocket-Protocol: oneloop.v1, bearer.P\r\n";
        for (path, lines, expected) in [
            ("/?token=Q", [header, protocols].concat(), Some(("H", TokenPlace::Header))),
            ("/?token=Q", protocols.to_owned(), Some(("P", TokenPlace::Address))),
            (
                "/?a=b&token=Q",
                "Authorization: Basic eA==\r\n".to_owned(),
                Some(("Q", TokenPlace::Address)),
            ),
            ("/?token=", String::new(), Some(("C", TokenPlace::Address))),
            (
                "/",
                "Sec-WebSocket-Protocol: oneloop.v1\r\n".to_owned(),
                Some(("C", TokenPlace::Address)),
            ),
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{lines}Cookie: jwt=C\r\n\r\n");
            let request = http::parse(head.as_bytes(), 8192).unwrap().unwrap().0;
            let found = find(&request, Some("jwt"), &Origins::SameHost);
            let found = found.as_ref().map(|(token, place)| (&**token, *place));
            assert_eq!(found, expected, "{head}");
        }
    }

    fn request(lines: &[&str]) -> Request {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("GET /ws HTTP/1.1\r\nHost: push.example\r\n{lines}\r\n");
        http::parse(head.as_bytes(), 8192).unwrap().unwrap().0
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        for (lines, expected) in [
            (&["Cookie: jwt=T"][..], Some("T")),
            (&["Cookie: a=1; jwt=T; b=2"], Some("T")),
            (&["Cookie: a=1;jwt=T;b=2"], Some("T")),
            (&["Cookie: jwt=\"T\""], Some("T")),
            (&["Cookie: jwt = T "], Some("T")),
            (&["Cookie: a=1", "cookie: jwt=T"], Some("T")),
            (&["Cookie: jwt=T; jwt=U"], Some("T")),
            (&["Cookie: jwt=; jwt=U"], Some("U")),
            (&["Cookie: name=jörg; jwt=T"], Some("T")),
            (&["Cookie: jwt=T=="], Some("T==")),
            (&["Cookie: jwt"], None),
            (&["Cookie: jwt="], None),
            (&["Cookie: jwt=\"\""], None),
            (&["Cookie: JWT=T"], None),
            (&["Cookie: \u{2000}jwt=T; \u{a0}jwt=U; jwt=V"], Some("V")),
            (&["Cookie: xjwt=T; jwtx=T; a=jwt=T"], None),
            (&["Cookie: a=\"b; c=jwt\""], None),
            (&["Set-Cookie: jwt=T"], None),
            (&[], None),
        ] {
            let request = request(lines);
            assert_eq!(in_cookie(&request, "jwt", &Origins::SameHost), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_cookie_counts_from_a_checked_origin_or_from_no_page() {
        let listed = |origin: &str| Origins::Listed(vec![ListedOrigin::parse(origin).unwrap()]);
        let (shop, bearer) = (listed("https://shop.example"), "Authorization: Bearer x");
        for (origins, lines, counts) in [
            (&Origins::SameHost, &[][..], true),
            (&Origins::SameHost, &["Origin: https://push.example"], true),
            (&Origins::SameHost, &["Origin: https://evil.example"], false),
            (&Origins::SameHost, &["Origin: null"], false),
            (&shop, &["Origin: https://shop.example"], true),
            (&shop, &["Origin: https://push.example"], false),
            (&shop, &["Origin: https://shop.example", "Origin: https://evil.example"], false),
            (&shop, &[], true),
            (&Origins::Any, &["Origin: https://push.example"], false),
            (&Origins::Any, &[], false),
            (&Origins::SameHost, &["Origin: https://evil.example", bearer], false),
            (&Origins::SameHost, &["Origin: https://push.example", bearer], false),
            (&listed("null"), &["Origin: null"], false),
            (&listed("file://"), &["Origin: file://"], false),
        ] {
            let lines = [lines, &["Cookie: jwt=T"]].concat();
            let request = request(&lines);
            assert_eq!(
                in_cookie(&request, "jwt", origins),
                counts.then_some("T"),
                "{origins:?} {lines:?}"
            );
        }
    }
}
