//! The user that a trusted proxy names in a header of the handshake: WeChat Cloud's `X-WX-OPENID`, oauth2-proxy, nginx'
//! `auth_request`.
//!
//! Such a proxy knows a browser by its cookies, which come with the handshake of any site's page. The header therefore counts from
//! checked origins alone, like a cookie with a token.

use super::token::place::is_checked;
use super::wire;
use crate::engine::client::http::{Request, Response};
use crate::engine::handler::{Reject, foreign};
use crate::engine::origin::Origins;
use crate::engine::pubsub::topic::is_user_id;

/// Finds the user in the header with this name; `None`: it is missing or empty.
///
/// # Errors
/// The handshake is refused: the header does not come from a proxy, so that anyone may have written it; it stands there twice, so that
/// a client may have written one of the two; it cannot be a user; or the page may not connect.
pub fn find<'a>(
    request: &'a Request,
    header: &str,
    origins: &Origins,
) -> Result<Option<&'a str>, Reject> {
    let mut lines = request.lines(header);
    let Some(line) = lines.next().filter(|line| !line.is_empty() || request.count(header) > 1)
    else {
        return Ok(None);
    };
    if !request.is_from_proxy() {
        return Err(refused(403, header, "counts from proxies alone: see the setting proxies"));
    }
    if lines.next().is_some() {
        return Err(refused(400, header, "came twice: the proxy must replace the client's"));
    }
    let user = std::str::from_utf8(line).ok().filter(|user| is_user_id(user));
    let user = user.ok_or_else(|| refused(400, header, "is no user: 1 to 255 bytes of UTF-8"))?;
    match is_checked(request, origins) {
        true => Ok(Some(user)),
        false => Err(Reject::Close(foreign(request))),
    }
}

/// The answer for the proxy, which can read one.
fn refused(status: u16, header: &str, why: &str) -> Reject {
    Reject::Http(Response::json(
        status,
        wire::refusal("identity", &format!("{header} {why}"), None),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::http;
    use crate::engine::origin::ListedOrigin;
    use crate::engine::random::Random;

    /// The user, or the status or close code of the refusal.
    fn found(
        lines: &[&[u8]],
        is_from_proxy: bool,
        origins: &Origins,
    ) -> Result<Option<String>, u16> {
        let mut head = b"GET /ws HTTP/1.1\r\nHost: push.example\r\n".to_vec();
        lines.iter().for_each(|line| head.extend([*line, &b"\r\n"[..]].concat()));
        head.extend(b"\r\n");
        let (request, _) = http::parse(&head, 8192).unwrap().unwrap();
        let request = request.from_proxy(is_from_proxy);
        let found = find(&request, "X-User", origins);
        found.map(|user| user.map(str::to_owned)).map_err(|reject| match reject {
            Reject::Http(response) => response.status,
            Reject::Close(close) => close.code,
        })
    }

    #[test]
    fn a_proxys_header_names_the_user_and_no_other_does() {
        let long = ["X-User: ", &"x".repeat(256)].concat();
        let longest = ["X-User: ", &"x".repeat(255)].concat();
        for (lines, expected) in [
            (&["X-User: 42"][..], Ok(Some("42"))),
            (&["x-user:  a b \t"], Ok(Some("a b"))),
            (&["X-USER: j\u{f6}rg,7"], Ok(Some("j\u{f6}rg,7"))),
            (&[longest.as_str()], Ok(Some(&longest[8..]))),
            (&[long.as_str()], Err(400)),
            (&["X-User: a", "X-User: a"], Err(400)),
            (&["X-User: a", "X-User:"], Err(400)),
            (&["X-User:", "X-User: a"], Err(400)),
            (&["X-User: a\tb"], Err(400)),
            (&["X-User:"], Ok(None)),
            (&["X_User: 42", "X-User-Id: 42"], Ok(None)),
            (&[], Ok(None)),
        ] {
            let bytes: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            let expected = expected.map(|user| user.map(str::to_owned));
            assert_eq!(found(&bytes, true, &Origins::SameHost), expected, "{lines:?}");
            let from_elsewhere = if expected == Ok(None) { Ok(None) } else { Err(403) };
            assert_eq!(found(&bytes, false, &Origins::SameHost), from_elsewhere, "{lines:?}");
        }
        assert_eq!(found(&[&b"X-User: \xff"[..]], true, &Origins::SameHost), Err(400));
    }

    #[test]
    fn it_counts_from_a_checked_origin_or_from_no_page() {
        let listed = |origin: &str| Origins::Listed(vec![ListedOrigin::parse(origin).unwrap()]);
        let bearer = "Authorization: Bearer x";
        for (origins, lines, counts) in [
            (Origins::SameHost, &["Origin: https://push.example"][..], true),
            (Origins::SameHost, &["Origin: https://push.example", bearer], true),
            (Origins::SameHost, &["Origin: https://evil.example"], false),
            // The proxy may have written that as well.
            (Origins::SameHost, &["Origin: https://evil.example", bearer], false),
            (listed("https://shop.example"), &["Origin: https://shop.example"], true),
            (listed("null"), &["Origin: null"], false),
            (listed("file://"), &["Origin: file://"], false),
            (Origins::Any, &["Origin: https://push.example"], false),
        ] {
            let lines = [lines, &["X-User: 42"]].concat();
            let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            let expected = if counts { Ok(Some("42".to_owned())) } else { Err(4505) };
            assert_eq!(found(&lines, true, &origins), expected, "{lines:?}");
        }
    }

    /// A naive model reads the same lines.
    #[test]
    fn no_lines_name_a_user_without_a_proxy_or_one_that_could_not_be_a_topics() {
        let pieces: [&[u8]; 8] =
            [b"X-User: ", b"x-user:", b"\r\n", b"42", b"\xff", b"\t", b"\xc3\xbc", b"X-User-: "];
        let mut users = 0;
        for seed in 1..20_000 {
            let mut random = Random::new(seed);
            let text = random.bytes(&pieces);
            let lines: Vec<&[u8]> = text
                .split(|byte| *byte == b'\n')
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
                .filter(|line| line.starts_with(b"X-") || line.starts_with(b"x-"))
                .filter(|line| line.iter().filter(|byte| **byte == b':').count() == 1)
                .collect();
            let values: Vec<&[u8]> = lines
                .iter()
                .filter(|line| line[..7].eq_ignore_ascii_case(b"x-user:"))
                .map(|line| line[7..].trim_ascii())
                .collect();
            let model = match values[..] {
                [] | [b""] => Ok(None),
                [one] if std::str::from_utf8(one).is_ok_and(|one| !one.contains('\t')) => {
                    Ok(Some(String::from_utf8_lossy(one).into_owned()))
                }
                _ => Err(400),
            };
            users += usize::from(matches!(model, Ok(Some(_))));
            assert_eq!(found(&lines, true, &Origins::SameHost), model, "seed {seed}: {lines:?}");
            let unproven = if model == Ok(None) { Ok(None) } else { Err(403) };
            assert_eq!(found(&lines, false, &Origins::SameHost), unproven, "seed {seed}");
        }
        assert!(users > 100, "the generator names users at times: {users}");
    }
}
