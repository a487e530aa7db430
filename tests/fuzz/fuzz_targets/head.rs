//! The head of a request: pieces change nothing, and whatever it says, the answer is one response and nothing else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneloop::engine::client::deflate::offer;
use oneloop::engine::client::http::{Method, parse};
use oneloop::engine::handler::admits;
use oneloop::engine::origin::{ListedOrigin, Origins};
use oneloop::{Request, Response};
use oneloop_fuzz::pieces;

/// Small, so that inputs reach it.
const HEAD_BYTES_MAX: usize = 1024;

fuzz_target!(|input: &[u8]| {
    let whole = parse(input, HEAD_BYTES_MAX);
    let pieces = pieces(input);
    // A head is read again from its start with each piece, so there must not be too many of them.
    let early = pieces.chunks(pieces.len() / 16 + 1).scan(0, |came, pieces| {
        *came += pieces.iter().map(|piece| piece.len()).sum::<usize>();
        Some(parse(&input[..*came], HEAD_BYTES_MAX).transpose())
    });
    let early = early.flatten().next();
    match (&whole, &early) {
        (Ok(None), None) => {}
        (Ok(Some((request, length))), Some(Ok((same, same_length)))) => {
            assert_eq!(length, same_length);
            assert_eq!(format!("{request:?}"), format!("{same:?}"));
            assert!(*length <= HEAD_BYTES_MAX && input[..*length].ends_with(b"\n"));
            answer(request);
        }
        // A head that is too large before its end might have been malformed, too.
        (Err(response), Some(Err(same))) => {
            assert!(response == same || same.status == 431 || response.status == 431);
            is_one_response(&same.encode(), same);
        }
        other => panic!("whole and in pieces: {other:?}"),
    }
});

fn answer(request: &Request) {
    assert!(request.path().is_empty() || request.path().starts_with(['/', '*']));
    for name in ["host", "origin", "authorization", "connection", "sec-websocket-protocol"] {
        let first = request.header(name);
        assert!(first.is_none() || request.count(name) > 0);
        assert!(request.list(name).all(|entry| !entry.is_empty() && !entry.contains(',')));
    }
    for name in ["token", "since", ""] {
        let value = request.query(name);
        assert!(value.is_none_or(|value| !value.is_empty() && !value.contains('&')));
    }
    let listed =
        Origins::Listed(vec![ListedOrigin::parse("https://example.com").expect("an origin")]);
    let is_admitted =
        [&Origins::Any, &Origins::SameHost, &listed].map(|from| admits(from, request));
    assert!(is_admitted[0]);
    // A token in `Authorization` admits any.
    if is_admitted[2] && request.count("origin") > 0 && request.bearer().is_none() {
        let origin = request.header("origin").expect("one that is listed").to_ascii_lowercase();
        assert!(origin == "https://example.com" || origin == "https://example.com:443");
    }
    let extension = offer::accept(request.lines("sec-websocket-extensions"));
    for selected in [[None; 2], [Some("oneloop.v1"), extension]] {
        match request.accept(selected[0], selected[1]) {
            Ok(accepted) => {
                assert!(request.is_upgrade() && request.method() == Method::Get);
                is_one_upgrade(&accepted, selected);
            }
            Err(refused) => is_one_response(&refused.encode(), &refused),
        }
    }
}

fn is_one_upgrade(accepted: &[u8], selected: [Option<&str>; 2]) {
    let text = std::str::from_utf8(accepted).expect("it is text");
    let lines: Vec<&str> = text.strip_suffix("\r\n\r\n").expect("it ends").split("\r\n").collect();
    assert_eq!(lines[0], "HTTP/1.1 101 Switching Protocols");
    assert_eq!(lines.len(), 4 + selected.into_iter().flatten().count());
    assert!(lines.iter().all(|line| !line.is_empty() && !line.contains(['\r', '\n'])));
}

fn is_one_response(encoded: &[u8], response: &Response) {
    let body = if response.is_for_head { &[][..] } else { &response.body[..] };
    let head = encoded.strip_suffix(body).expect("the body stands last");
    let text = std::str::from_utf8(head).expect("it is text");
    let lines: Vec<&str> = text.strip_suffix("\r\n\r\n").expect("it ends").split("\r\n").collect();
    assert!(lines[0].starts_with(&format!("HTTP/1.1 {} ", response.status)));
    assert!(lines.contains(&&*format!("Content-Length: {}", response.body.len())));
    assert!(lines.iter().all(|line| !line.is_empty() && !line.contains(['\r', '\n'])));
}
