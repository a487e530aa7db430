//! The answers to clients whose token is missing or refused.

use super::token::TokenRefusal;
use super::token::place::MissingToken;
use super::wire;
use crate::engine::client::frame::Close;
use crate::engine::client::http::Response;

/// The close frame for a client without a token.
pub(super) fn no_token(missing: MissingToken) -> Close {
    Close::NO_TOKEN.because(wire::refusal("no_token", &missing.advice(), None))
}

/// The close frame for a bad token.
pub(super) fn bad_token(refusal: &TokenRefusal) -> Close {
    let close = if refusal.retry_seconds().is_some() { Close::EARLY } else { Close::BAD_TOKEN };
    close.because(reason_of(refusal))
}

/// The answer to a bad token in a header (RFC 6750 section 3.1).
pub(super) fn unauthorized(refusal: &TokenRefusal) -> Response {
    let response = Response::json(401, reason_of(refusal))
        .with("WWW-Authenticate", "Bearer error=\"invalid_token\"");
    match refusal.retry_seconds() {
        Some(seconds) => response.with("Retry-After", seconds.to_string()),
        None => response,
    }
}

fn reason_of(refusal: &TokenRefusal) -> String {
    wire::refusal(refusal.name(), &refusal.detail(), refusal.retry_seconds())
}
