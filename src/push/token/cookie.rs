//! The token in a cookie of the handshake (RFC 6265 section 4.2).
//!
//! A browser sends a site's cookies with the handshake of any page. A cookie thus proves who the user is, but not that the site's
//! own page asks: only `Origin` proves that.

use crate::engine::client::http::Request;
use crate::engine::handler::admits;
use crate::engine::origin::Origins;

/// Returns the value of the cookie `name` if the handshake comes from a page whose origin is checked, or from no page. The first
/// of several that is not empty counts: browsers send the one with the longest path first.
pub(in crate::push) fn find<'a>(
    request: &'a Request,
    name: &str,
    origins: &Origins,
) -> Option<&'a str> {
    is_checked(request, origins).then(|| value(request, name))?
}

/// Returns whether the handshake comes from no page, or from one whose origin is among those of the route. A token in
/// `Authorization` lets in foreign origins, and an opaque origin (`null`, `file://`) is shared by pages of many authors.
fn is_checked(request: &Request, origins: &Origins) -> bool {
    let is_opaque = || {
        let origin = request.header("origin").unwrap_or("null");
        origin.eq_ignore_ascii_case("null") || origin.to_ascii_lowercase().starts_with("file:")
    };
    let is_from_page = request.count("origin") > 0;
    *origins != Origins::Any
        && request.bearer().is_none()
        && admits(origins, request)
        && !(is_from_page && is_opaque())
}

fn value<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let pairs = request.lines("cookie").flat_map(|line| line.split(|byte| *byte == b';'));
    let mut values = pairs.filter_map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        let (found, value) = pair.split_once('=')?;
        // No other blanks: browsers hold `__Host-` to its rules by the name as it stands.
        let trimmed = |text: &'a str| text.trim_matches([' ', '\t']);
        (trimmed(found) == name).then(|| unquoted(trimmed(value)))
    });
    values.find(|value| !value.is_empty())
}

/// Strips the quotes around a value.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::http;
    use crate::engine::origin::ListedOrigin;

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
            assert_eq!(find(&request, "jwt", &Origins::SameHost), expected, "{lines:?}");
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
                find(&request, "jwt", origins),
                counts.then_some("T"),
                "{origins:?} {lines:?}"
            );
        }
    }
}
