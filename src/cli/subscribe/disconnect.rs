//! The end of a connection in words, and whether to reconnect.

use std::time::Duration;

use serde_json::Value;

/// The end of a connection.
pub(super) struct Disconnect {
    /// A sentence for people.
    pub(super) text: String,
    /// Reconnecting is useless.
    pub(super) is_final: bool,
    /// The wait that the server asked for.
    pub(super) retry: Option<Duration>,
}

impl Disconnect {
    /// An end that another attempt may fix.
    pub(super) fn again() -> Disconnect {
        Disconnect { text: String::new(), is_final: false, retry: None }
    }
}

/// Describes a close. `is_signed`: the next attempt presents a new token.
pub(super) fn closed(code: u16, reason: &str, is_signed: bool) -> Disconnect {
    let value: Value = serde_json::from_str(reason).unwrap_or_default();
    let words = match code {
        1000 => "closed in good order",
        1001 => "the server is shutting down",
        1002 => "the server takes this for a breach of the WebSocket protocol",
        1003 => "the server takes no such messages",
        1008 => "refused by the server",
        1009 => "a message was too large for the server",
        4000 => "too slow: too many messages were waiting to be read",
        4001 => "the server heard nothing of this client for too long",
        4002 => "the token has expired",
        4003 => "a limit of the server was hit",
        4004 => "the token is not valid yet",
        4500 => "the token is refused",
        4501 => "no token was shown: give --token, or --sub beside the server's secret",
        4502 => "the server does not understand what was sent",
        4503 => "a newer connection of the same user took over",
        4504 => "closed by a back end",
        4505 => "the server does not admit pages of this origin",
        _ => "closed",
    };
    let mut text = format!("{words} ({code})");
    for part in ["reason", "detail"].map(|name| value[name].as_str().unwrap_or_default()) {
        if !part.is_empty() {
            text.push_str(": ");
            text.push_str(part);
        }
    }
    if value.is_null() && !reason.is_empty() {
        text.push_str(": ");
        text.push_str(reason);
    }
    let is_expired = code == 4002 && !is_signed;
    let retry = value["retry"].as_u64().map(Duration::from_millis);
    Disconnect { text, is_final: (4500..=4999).contains(&code) || is_expired, retry }
}

/// Describes an HTTP answer other than an upgrade.
pub(super) fn refused(status: u16, body: &str) -> Disconnect {
    let words = match status {
        401 => "the token is refused",
        403 => "refused: this may not connect here",
        404 => "nothing is served at that path",
        429 => "too many connections from this address",
        503 => "the server is full or shutting down",
        _ => "this is no WebSocket",
    };
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let detail = value["detail"].as_str().or(value["reason"].as_str());
    let detail =
        detail.or((body.len() < 300 && value.is_null()).then_some(body)).unwrap_or_default();
    let gap = if detail.is_empty() { "" } else { ": " };
    let is_final = !matches!(status, 429 | 500..=599);
    Disconnect {
        text: format!("{words} (HTTP {status}){gap}{}", detail.trim()),
        is_final,
        retry: None,
    }
}

/// Describes the refusal of a topic.
pub(super) fn error(code: &str) -> String {
    let words = match code {
        "forbidden" => "the token does not permit it (its claim may, or the setting may)",
        "bad_topic" => "this is no topic",
        "too_many_topics" => "too many topics for one client (topics_per_client_max)",
        "busy" => "asked for too much at once (commands_per_second_max)",
        _ => return code.to_owned(),
    };
    format!("{code}: {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waiting_mends_is_tried_again() {
        for (code, reason, is_signed, is_final, text) in [
            (1001, r#"{"retry":250}"#, false, false, "the server is shutting down (1001)"),
            (4002, "", false, true, "the token has expired (4002)"),
            (4002, "", true, false, "the token has expired (4002)"),
            (
                4500,
                r#"{"reason":"claims","detail":"no sub"}"#,
                false,
                true,
                "the token is refused (4500): claims: no sub",
            ),
            (4999, "bye", false, true, "closed (4999): bye"),
        ] {
            let ending = closed(code, reason, is_signed);
            assert_eq!((ending.is_final, ending.text.as_str()), (is_final, text), "{code}");
        }
        assert_eq!(closed(4003, r#"{"retry":250}"#, false).retry, Some(Duration::from_millis(250)));
        assert!(refused(401, r#"{"reason":"expired"}"#).is_final);
        assert!(!refused(503, "").is_final && !refused(429, "").is_final);
        assert_eq!(
            refused(404, "nothing").text,
            "nothing is served at that path (HTTP 404): nothing"
        );
    }
}
