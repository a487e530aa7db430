//! The operator's line about a connection that the server closed.

use crate::engine::bounds::Bounds;
use crate::engine::client::frame::Close;
use crate::engine::tls::TlsFailure;
use crate::observe::complaints::{Weight, shown};

/// The name of a close code, and whether its cause can be fixed.
pub(super) fn kind(code: u16) -> (&'static str, Weight) {
    match code {
        1001 => ("1001", Weight::Usual),
        1002 => ("1002", Weight::Curable),
        1003 => ("1003", Weight::Curable),
        1007 => ("1007", Weight::Curable),
        1008 => ("1008", Weight::Curable),
        1009 => ("1009", Weight::Curable),
        4000 => ("4000", Weight::Curable),
        4001 => ("4001", Weight::Usual),
        4002 => ("4002", Weight::Usual),
        4003 => ("4003", Weight::Curable),
        4004 => ("4004", Weight::Curable),
        4500 => ("4500", Weight::Curable),
        4501 => ("4501", Weight::Curable),
        4502 => ("4502", Weight::Curable),
        4503 => ("4503", Weight::Usual),
        4504 => ("4504", Weight::Usual),
        _ => ("closed", Weight::Usual),
    }
}

/// The cause and the remedy. A back end's own reason is not shown.
pub(super) fn advice(close: &Close, bounds: &Bounds) -> String {
    let reason = shown(&close.reason);
    match close.code {
        1001 => "this server is leaving".into(),
        1002 => "a client broke the WebSocket protocol (RFC 6455)".into(),
        1003 => "a client sent a binary message: commands are JSON in text frames".into(),
        1007 => "a client sent text that is not UTF-8, or a compressed message that is none".into(),
        1008 => {
            format!("a message of more fragments than fragments_max ({})", bounds.fragments_max)
        }
        1009 => {
            format!("a message above message_bytes_max ({} bytes)", bounds.message_bytes_max)
        }
        4000 => format!(
            "a client read too slowly: backlog_frames_max is {}, backlog_bytes_max {}, stalled_seconds {}; \
             slow = \"drop-oldest\" would keep one that reads at all",
            bounds.backlog_frames_max, bounds.backlog_bytes_max, bounds.stalled_seconds
        ),
        4001 => format!("nothing was heard for silence_seconds ({})", bounds.silence_seconds),
        4002 => "its token has expired".into(),
        4003 => format!(
            "a bound was hit: commands_per_second_max ({}), clients_per_user_max ({}), memory_max, \
             subscriptions_bytes_max or unfinished_total_bytes_max; the counters of /metrics say which",
            bounds.commands_per_second_max, bounds.clients_per_user_max
        ),
        4004 => {
            format!("a token is not valid yet: {reason}; set the clocks, or jwt.leeway_seconds")
        }
        4500 => format!("a token was refused: {reason}; oneloop explain TOKEN TOPIC says more"),
        4501 => format!(
            "no token within auth_seconds ({}): one is expected as ?token=, as Authorization: Bearer or in the \
             command auth; {reason}",
            bounds.auth_seconds
        ),
        4502 => format!("a command was not understood: {reason}"),
        4503 => "a newer connection of the same user took over".into(),
        4504 => "a back end wanted it closed".into(),
        code => format!("closed with {code}"),
    }
}

/// The cause and the remedy of a failure of TLS. Scanners cause most kinds all day: those are routine.
pub(super) fn tls_advice(failure: TlsFailure) -> (Weight, &'static str) {
    match failure {
        TlsFailure::PlainHttp => (
            Weight::Curable,
            "a client spoke plain HTTP to a TLS listener: it needs wss:// or https://",
        ),
        TlsFailure::CertificateRefused => (
            Weight::Curable,
            "a client does not trust the certificate: does tls.cert_file hold the whole chain, for the name that clients use? \
             oneloop doctor checks it",
        ),
        TlsFailure::NoSharedVersion => {
            (Weight::Curable, "a client speaks no TLS from 1.2 on: it must be renewed")
        }
        TlsFailure::NoSharedProtocol => (
            Weight::Curable,
            "a client insists on another protocol than http/1.1 (ALPN): a proxy in front must speak HTTP/1.1 to this listener",
        ),
        _ => (Weight::Usual, "a client broke off the TLS handshake, or broke TLS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_close_says_what_would_change_it() {
        for (close, expected) in [
            (Close::TOO_BIG, "message_bytes_max"),
            (Close::SLOW, "backlog_bytes_max"),
            (Close::busy(1000, ""), "commands_per_second_max"),
            (Close::NO_TOKEN, "auth_seconds"),
            (Close::BAD_TOKEN.because("{\"reason\":\"expired\"}"), "{\"reason\":\"expired\"}"),
        ] {
            let text = advice(&close, &Bounds::default());
            assert!(text.contains(expected), "{text}");
            assert_eq!(kind(close.code), (&*close.code.to_string().leak(), Weight::Curable));
        }
        let kicked = Close::KICKED.because("what the back end says");
        assert!(!advice(&kicked, &Bounds::default()).contains("says"));
    }
}
