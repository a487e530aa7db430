//! The clients with the most pending bytes, from a server's `/clients`.

use std::fmt::Write as _;

use serde_json::Value;

use super::dial::fetch;
use super::numbers::{bytes, count};

/// Clients shown, and the width of a line.
const SHOWN_MAX: usize = 5;
const COLUMNS: usize = 80;

/// Lists the slowest clients of the server whose admin listener is at `HOST:PORT`, a line each; empty if none has pending bytes, or
/// the server does not answer.
pub(super) fn slowest(address: &str) -> String {
    rows(&fetch(address, "/clients").unwrap_or_default())
}

fn rows(answer: &str) -> String {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let answer: Value = serde_json::from_slice(body.as_bytes()).unwrap_or_default();
    let clients = answer["clients"].as_array().into_iter().flatten();
    let mut text = String::new();
    for (place, client) in clients.take(SHOWN_MAX).enumerate() {
        let number = |name: &str| client[name].as_f64().unwrap_or_default();
        let name = if place == 0 { "slowest" } else { "" };
        let socket = if client["full"] == true { "full" } else { "open" };
        let word = |name: &str| client[name].as_str();
        // The name of a user must not move the cursor.
        let user = word("sub").or(word("conn")).unwrap_or_default().escape_debug();
        let route = word("route").unwrap_or_default().escape_debug();
        let row = format!(
            "  {name:<9} {}   {} frames   {socket}   {} topics   {route}   {user}",
            bytes(number("bytes")),
            count(number("frames")),
            count(number("topics")),
        );
        let _ = writeln!(text, "{}", row.chars().take(COLUMNS).collect::<String>());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_are_shown_in_lines_that_fit() {
        let one = |sub: &str| {
            format!(
                r#"{{"conn":"n-1-2","route":"/ws","sub":{sub},"bytes":1048576,"frames":1024,"full":true,"topics":3}}"#
            )
        };
        let long = format!("\"{}\"", "u".repeat(255));
        let all = [&one(r#""4\u001b2""#), &one("null"), &one(&long), "7", "{}", "{}"].join(",");
        let text = rows(&format!("HTTP/1.1 200 OK\r\n\r\n{{\"clients\":[{all}]}}"));
        let lines: Vec<&str> = text.lines().collect();
        let first = "  slowest   1.0 MB   1,024 frames   full   3 topics   /ws   ";
        assert_eq!(lines[0], format!("{first}4\\u{{1b}}2"));
        assert!(lines[1].ends_with("   /ws   n-1-2"), "{text}");
        assert_eq!(lines.len(), SHOWN_MAX);
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS), "{text}");
    }

    #[test]
    fn a_server_that_does_not_tell_is_passed_over() {
        for answer in
            ["", "HTTP/1.1 404 Not Found\r\n\r\nhere is nothing", "\r\n\r\n{\"clients\":1}"]
        {
            assert_eq!(rows(answer), "", "{answer}");
        }
    }
}
