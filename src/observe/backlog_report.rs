//! The operator's report on clients with a backlog, as JSON.

use serde::Serialize;

/// The answer to `/clients`.
#[derive(Serialize)]
pub struct BacklogReport<'a> {
    pub clients: Vec<SlowClient<'a>>,
}

/// A client that frames wait for.
#[derive(Serialize)]
pub struct SlowClient<'a> {
    pub conn: String,
    /// The path of its route.
    pub route: &'a str,
    /// `None` for anonymous ones, and for those that are closing.
    pub sub: Option<&'a str>,
    pub bytes: usize,
    pub frames: usize,
    /// The socket takes nothing at present.
    pub full: bool,
    /// The number of its subscriptions.
    pub topics: usize,
}
