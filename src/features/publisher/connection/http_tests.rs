//! A publisher's connection that speaks HTTP, driven by bytes.

use super::tests::{feed, publisher, take_output};
use crate::engine::random::Random;

fn post(channel: &str, lines: &str, payload: &str) -> String {
    let length = payload.len();
    format!(
        "POST /publish/{channel} HTTP/1.1\r\nHost: h\r\n{lines}Content-Length: {length}\r\n\r\n{payload}"
    )
}

/// The statuses of answers, each with its last line.
fn answers(output: &str) -> Vec<(u16, String)> {
    let (mut rest, mut found) = (output, Vec::new());
    while let Some((head, behind)) = rest.split_once("\r\n\r\n") {
        let status = head.strip_prefix("HTTP/1.1 ").expect("it is an answer")[..3].parse().unwrap();
        let mut lines = head.lines().filter_map(|line| line.strip_prefix("Content-Length: "));
        let length = lines.next().map_or(0, |length| length.parse().unwrap());
        found.push((status, behind[..length].trim_end().to_owned()));
        rest = &behind[length..];
    }
    assert_eq!(rest, "");
    found
}

#[test]
fn requests_are_answered_in_order_wherever_they_are_cut() {
    let parts = [
        post("news", "", "hi"),
        post("news", "Content-Type: application/json\r\n", ""),
        "\r\n".to_owned() + &post("a%2Fb", "", "POST / HTTP/1.1\r\n\r\n"),
        post("news", "Content-Type: text/plain\r\n", "a form"),
        post("news", "", &"x".repeat(1000)),
        post("news", "", &"x".repeat(1001)),
        post("news", "Expect: 100-continue\r\n", "after leave"),
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        post("news", "Connection: Close\r\n", "last"),
        post("news", "", "behind the end"),
    ];
    let stream = parts.concat();
    let mut whole = publisher(None);
    let published = feed(&mut whole, &stream);
    let long = format!("news {}", "x".repeat(1000));
    let expected =
        ["news hi", "news ", "a/b POST / HTTP/1.1\r\n\r\n", &long, "news after leave", "news last"];
    assert_eq!(published, expected);
    assert!(whole.is_ending && std::mem::take(&mut whole.oversized) == 1);
    assert_eq!(whole.refused.take().map(|(_, count)| count), Some(2));
    let output = take_output(&mut whole);
    let statuses: Vec<u16> = answers(&output).iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 415, 200, 413, 100, 200, 404, 200]);
    assert_eq!(answers(&output)[0].1, "7");
    for seed in 1..400 {
        let mut random = Random::new(seed);
        let size_max = 1 + random.below(40) * usize::from(seed > 1);
        let (mut pieces, mut published) = (publisher(None), vec![]);
        for piece in random.pieces(stream.as_bytes(), size_max) {
            published.extend(feed(&mut pieces, piece));
        }
        assert_eq!(published, expected, "seed {seed}");
        assert_eq!(take_output(&mut pieces), output, "seed {seed}");
    }
}

#[test]
fn each_request_needs_the_password() {
    let mut publisher = publisher(Some("secret"));
    let bearer = "Authorization: Bearer secret\r\n";
    assert_eq!(feed(&mut publisher, post("news", "", "evil")), [""; 0]);
    assert!(publisher.auth_deadline().is_some() && !publisher.has_commanded);
    assert_eq!(feed(&mut publisher, post("news", bearer, "good")), ["news good"]);
    assert!(publisher.auth_deadline().is_none() && publisher.has_commanded);
    let wrong = bearer.replace("secret", "wrong");
    assert_eq!(feed(&mut publisher, post("news", &wrong, "evil")), [""; 0]);
    let statuses: Vec<u16> =
        answers(&take_output(&mut publisher)).iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [401, 200, 401]);
}

#[test]
fn a_page_is_cut_off_and_nothing_of_it_is_published() {
    for line in ["Origin: null\r\n", "origin: http://h\r\n", "Sec-Fetch-Site: same-origin\r\n"] {
        for request in
            [post("news", line, "evil"), format!("GET / HTTP/1.1\r\nHost: h\r\n{line}\r\n")]
        {
            let mut publisher = publisher(None);
            assert_eq!(feed(&mut publisher, request + &post("news", "", "evil")), [""; 0]);
            assert!(publisher.is_ending && publisher.output.is_empty(), "{line}");
            assert!(publisher.refused.is_some());
        }
    }
}

#[test]
fn no_line_behind_a_request_is_a_command_of_resp() {
    for behind in ["PUBLISH news evil\r\n", "*3\r\n$7\r\nPUBLISH\r\n", "PING\n"] {
        let mut publisher = publisher(None);
        assert_eq!(feed(&mut publisher, post("news", "", "good") + behind), ["news good"]);
        assert!(publisher.is_ending);
        assert_eq!(answers(&take_output(&mut publisher))[1].0, 400, "{behind}");
    }
}

#[test]
fn a_request_that_cannot_be_read_ends_the_connection() {
    let long = format!("X: {}\r\n", "x".repeat(9000));
    for (request, status) in [
        (post("news", &long, ""), 431),
        (post("news", "Content-Length: 3\r\n", "hi"), 400),
        (post("news", "", "hi").replace("Content-Length: 2", "Transfer-Encoding: chunked"), 411),
        // Nothing is sent without leave, and this much is not read to be dropped.
        (post("news", "Expect: 100-continue\r\n", &"x".repeat(1001)), 413),
        (
            "POST /publish/news HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n".into(),
            413,
        ),
    ] {
        let mut publisher = publisher(None);
        assert_eq!(feed(&mut publisher, request), [""; 0]);
        assert!(publisher.is_ending, "{status}");
        let output = take_output(&mut publisher);
        assert_eq!(answers(&output).len(), 1);
        assert!(answers(&output)[0].0 == status && output.contains("\r\nConnection: close\r\n"));
    }
}

#[test]
fn between_requests_nothing_is_held() {
    let mut publisher = publisher(None);
    let request = post("news", "", "hi");
    for piece in [&request[..20], &request[20..request.len() - 1], "i"] {
        feed(&mut publisher, piece);
    }
    assert_eq!(answers(&take_output(&mut publisher)), [(200, "7".to_owned())]);
    assert!(publisher.http.as_ref().is_some_and(|http| http.is_idle()));
    assert!(publisher.waiting.capacity() == 0 && publisher.output.tail.capacity() == 0);
}
