//! The operator's report on clients with a backlog, as JSON.

use std::cmp::Reverse;

use serde::Serialize;
use serde_json::Value;

/// Clients that a report tells of.
pub const CLIENTS_MAX: usize = 10;

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

/// Joins the reports of several processes into one. A report that lacks some is marked as `incomplete`.
pub fn joined(reports: &[String], is_complete: bool) -> String {
    let mut clients = Vec::new();
    for report in reports {
        let mut report: Value = serde_json::from_str(report).unwrap_or_default();
        if let Some(of_it) = report.get_mut("clients").and_then(Value::as_array_mut) {
            clients.append(of_it);
        }
    }
    clients.sort_unstable_by_key(|client| Reverse(client["bytes"].as_u64()));
    clients.truncate(CLIENTS_MAX);
    let mark = if is_complete { "" } else { r#","incomplete":true"# };
    format!(r#"{{"clients":{}{mark}}}"#, Value::from(clients))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_reports_tell_of_the_deepest_backlogs_of_all() {
        let report = |bytes: &[u64]| {
            let clients = bytes.iter().map(|bytes| format!(r#"{{"bytes":{bytes}}}"#));
            format!(r#"{{"clients":[{}]}}"#, clients.collect::<Vec<_>>().join(","))
        };
        let joined_bytes = |reports: &[String]| -> Vec<u64> {
            let joined: Value = serde_json::from_str(&joined(reports, true)).unwrap();
            assert_eq!(joined.as_object().unwrap().len(), 1);
            let clients = joined["clients"].as_array().unwrap().iter();
            clients.map(|client| client["bytes"].as_u64().unwrap()).collect()
        };
        assert_eq!(joined_bytes(&[report(&[9, 2]), report(&[10, 1])]), [10, 9, 2, 1]);
        let many = [report(&[7; 8]), report(&[8; 8]), String::new(), "7".to_owned()];
        assert_eq!(joined_bytes(&many), [8, 8, 8, 8, 8, 8, 8, 8, 7, 7]);
        assert_eq!(joined(&[], false), r#"{"clients":[],"incomplete":true}"#);
    }
}
