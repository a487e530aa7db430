//! Event streams at a route: which requests get one, for which pages (CORS, Fetch standard section 3.2), and the refusals.

use crate::engine::client::encoding::Encoding;
use crate::engine::client::event_stream::events::close_data;
use crate::engine::client::event_stream::{is_wanted, opening};
use crate::engine::client::frame::Close;
use crate::engine::client::http::{Method, Request, Response};
use crate::engine::handler::{Route, admits_origin};
use crate::engine::origin::Origins;
use crate::engine::server::RouteOptions;
use crate::engine::slots::ConnId;
use crate::json;

/// The type of the body of a refusal.
const JSON: &str = "application/json";

/// Request headers that a page may set.
const ALLOWED_HEADERS: &str = "Authorization, Last-Event-ID";

/// The time for which a browser may keep the answer to a preflight, in seconds.
const PREFLIGHT_SECONDS: &str = "7200";

/// Returns whether a request asks for an event stream, and the route has them.
pub(super) fn is_for(options: &RouteOptions, request: &Request) -> bool {
    options.has_event_streams && is_wanted(request)
}

/// The answer that begins an event stream, or the one that refuses it.
pub(super) fn accept(
    id: ConnId,
    route: &Route,
    request: &Request,
) -> Result<(Encoding, Vec<u8>), Response> {
    if request.has_content() {
        return Err(Response::text(400, "a request without content is expected"));
    }
    let is_chunked = !request.is_old();
    let headers = headers(&route.origins, request);
    let encoding = if is_chunked { Encoding::EventStream } else { Encoding::UnchunkedEventStream };
    Ok((encoding, opening(id.index, is_chunked, &headers)))
}

/// Returns whether a request comes from a page that may read the stream, or from no page. A page can ask for one that it may not
/// read (`no-cors`), with the user's cookies and without `Origin`: the stream would take the place of the user's own connection.
pub(super) fn admits(origins: &Origins, request: &Request) -> bool {
    request.header("sec-fetch-mode") != Some("no-cors") && admits_origin(origins, request)
}

/// The same response, which pages of the route's origins can read. If it asks for patience, its body says so as a close would.
pub(super) fn shared(route: &Route, request: &Request, mut response: Response) -> Response {
    response.headers.extend(headers(&route.origins, request));
    let is_busy = matches!(response.status, 429 | 503);
    let retry = response.headers.iter().find(|(name, _)| is_busy && *name == "Retry-After");
    if let Some(seconds) = retry.and_then(|(_, seconds)| seconds.parse::<u64>().ok()) {
        let text = String::from_utf8_lossy(&response.body);
        let detail = json::encode(&text.trim_end());
        let retry = seconds * 1000;
        let reason = format!(r#"{{"retry":{retry},"reason":"busy","detail":{detail}}}"#);
        response.body = close_data(Close::BUSY.code, &reason).into_bytes();
        response.content_type = JSON;
    }
    response
}

/// The response in place of a close frame, since nothing was sent yet.
pub(super) fn refusal(route: &Route, request: &Request, close: &Close) -> Response {
    let status = match close.code {
        1001 | 4003 => 503,
        4002 | 4004 | 4500 | 4501 => 401,
        _ => 403,
    };
    let body = close_data(close.code, &close.reason).into_bytes();
    let mut response = Response::new(status, JSON, body);
    if status == 401 {
        // RFC 6750 section 3.
        response = response.with("WWW-Authenticate", "Bearer");
    }
    response.headers.extend(headers(&route.origins, request));
    match close.retry_millis().map(|millis| millis.div_ceil(1000).max(1)) {
        Some(seconds) => response.with("Retry-After", seconds.to_string()),
        None => response,
    }
}

/// The answer to OPTIONS: at a route with event streams, pages of its origins learn that they may send the headers of a request.
pub(super) fn preflight(
    route: Option<(&Route, &RouteOptions)>,
    request: &Request,
    response: Response,
) -> Response {
    let is_asked = request.method() == Method::Options
        && request.header("access-control-request-method").is_some();
    match route.filter(|(_, options)| options.has_event_streams && is_asked) {
        Some((route, _)) if admits_origin(&route.origins, request) => {
            shared(route, request, response)
                .with("Access-Control-Allow-Methods", "GET")
                .with("Access-Control-Allow-Headers", ALLOWED_HEADERS)
                .with("Access-Control-Max-Age", PREFLIGHT_SECONDS)
        }
        _ => response,
    }
}

/// The headers for a response to a page. Where every page may connect, cookies do not count and must not be sent along.
fn headers(origins: &Origins, request: &Request) -> Vec<(&'static str, String)> {
    let mut headers = vec![("Vary", "Origin".to_owned())];
    let origin = request.header("origin").filter(|_| admits_origin(origins, request));
    let Some(origin) = origin else { return headers };
    headers.push(("Access-Control-Expose-Headers", "Retry-After".to_owned()));
    if *origins == Origins::Any {
        headers.push(("Access-Control-Allow-Origin", "*".to_owned()));
    } else {
        headers.push(("Access-Control-Allow-Origin", origin.to_owned()));
        headers.push(("Access-Control-Allow-Credentials", "true".to_owned()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::http;
    use crate::engine::origin::ListedOrigin;
    use crate::{Handler, Message, Scope};

    struct Nothing;

    impl Handler for Nothing {
        fn on_message(&mut self, _: &mut Scope<'_>, _: ConnId, _: Message<'_>) {}
    }

    fn route(origins: Origins) -> Route {
        Route { path: "/ws".to_owned(), origins, handler: Box::new(Nothing) }
    }

    fn request(method: &str, lines: &str) -> Request {
        let head = format!("{method} /ws HTTP/1.1\r\nHost: push.example\r\n{lines}\r\n");
        http::parse(head.as_bytes(), 8192).unwrap().unwrap().0
    }

    fn listed() -> Origins {
        Origins::Listed(vec![ListedOrigin::parse("https://shop.example").unwrap()])
    }

    fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        let mut found = response.headers.iter().filter(|(one, _)| *one == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice");
        value
    }

    #[test]
    fn a_page_of_a_listed_origin_may_read_and_no_other() {
        let (shop, evil) = ("Origin: https://shop.example\r\n", "Origin: https://evil.example\r\n");
        let bearer = "Authorization: Bearer x\r\n";
        for (origins, lines, is_admitted, origin, credentials) in [
            (listed(), shop.to_owned(), true, Some("https://shop.example"), true),
            (listed(), evil.to_owned(), false, None, false),
            // By fetch, a page sets this header.
            (listed(), [evil, bearer].concat(), false, None, false),
            (listed(), String::new(), true, None, false),
            (Origins::Any, evil.to_owned(), true, Some("*"), false),
            (Origins::SameHost, evil.to_owned(), false, None, false),
            (listed(), "Sec-Fetch-Mode: no-cors\r\n".to_owned(), false, None, false),
            (Origins::Any, "Sec-Fetch-Mode: no-cors\r\n".to_owned(), false, None, false),
            (listed(), "Sec-Fetch-Mode: cors\r\n".to_owned(), true, None, false),
        ] {
            let request = request("GET", &lines);
            assert_eq!(admits(&origins, &request), is_admitted, "{origins:?} {lines}");
            let response = shared(&route(origins), &request, Response::text(503, ""));
            assert_eq!(header(&response, "Access-Control-Allow-Origin"), origin, "{lines}");
            let found = header(&response, "Access-Control-Allow-Credentials");
            assert_eq!(found, credentials.then_some("true"), "{lines}");
            assert_eq!(header(&response, "Vary"), Some("Origin"));
        }
    }

    #[test]
    fn a_preflight_is_answered_at_a_route_with_streams_for_its_origins() {
        let has = RouteOptions { has_event_streams: true, ..RouteOptions::default() };
        let lacks = RouteOptions::default();
        let asked = "Origin: https://shop.example\r\nAccess-Control-Request-Method: GET\r\n";
        let route = route(listed());
        for (of, lines, is_allowed) in [
            (Some((&route, &has)), asked.to_owned(), true),
            (Some((&route, &has)), asked.replace("shop", "evil"), false),
            (Some((&route, &has)), "Origin: https://shop.example\r\n".to_owned(), false),
            (Some((&route, &lacks)), asked.to_owned(), false),
            (None, asked.to_owned(), false),
        ] {
            let request = request("OPTIONS", &lines);
            let response = preflight(of, &request, Response::options());
            assert_eq!((response.status, response.body.len()), (204, 0));
            let allowed = header(&response, "Access-Control-Allow-Headers");
            assert_eq!(allowed, is_allowed.then_some(ALLOWED_HEADERS), "{lines}");
            let origin = header(&response, "Access-Control-Allow-Origin");
            assert_eq!(origin.is_some(), is_allowed, "{lines}");
        }
    }

    #[test]
    fn each_close_has_its_status() {
        for (close, status, retry) in [
            (Close::BAD_TOKEN, 401, None),
            (Close::NO_TOKEN, 401, None),
            (Close::EARLY.because(r#"{"retry":6000,"reason":"early"}"#), 401, Some("6")),
            (Close::ORIGIN, 403, None),
            (Close::KICKED, 403, None),
            (Close::busy(1001, "why"), 503, Some("2")),
            (Close::GOING_AWAY.retry_after(0), 503, Some("1")),
        ] {
            let response = refusal(&route(listed()), &request("GET", ""), &close);
            assert_eq!((response.status, header(&response, "Retry-After")), (status, retry));
            assert_eq!(response.body, close_data(close.code, &close.reason).as_bytes());
        }
        let busy = Response::text(503, "this \"server\" is full").with("Retry-After", "5");
        let response = shared(&route(listed()), &request("GET", ""), busy);
        let reason = r#"{"retry":5000,"reason":"busy","detail":"this \"server\" is full"}"#;
        assert_eq!(response.body, close_data(4003, reason).as_bytes());
    }
}
