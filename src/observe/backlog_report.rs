//! The operator's report on clients with a backlog, as JSON.

use std::fmt::Write;

/// A client that frames wait for.
pub struct BacklogReport<'a> {
    pub conn: String,
    /// The path of its route.
    pub route: &'a str,
    /// `None` for anonymous ones, and for those that are closing.
    pub sub: Option<&'a str>,
    pub bytes: usize,
    pub frames: usize,
    /// Whether its socket takes nothing at present.
    pub full: bool,
    /// The number of its subscriptions.
    pub topics: usize,
}

impl BacklogReport<'_> {
    /// Appends the report.
    pub fn write(&self, out: &mut String) {
        let BacklogReport { conn, route, sub, bytes, frames, full, topics } = self;
        let [route, sub] =
            [Some(*route), *sub].map(|it| serde_json::to_string(&it).unwrap_or_default());
        let _ = write!(
            out,
            "{{\"conn\":\"{conn}\",\"route\":{route},\"sub\":{sub},\"bytes\":{bytes},\"frames\":{frames},\
             \"full\":{full},\"topics\":{topics}}}"
        );
    }
}
