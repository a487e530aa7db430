//! What back ends are told.

use std::fmt::Write;

use serde::Serialize;

/// The answer to a `count`.
pub fn counted(topic: &str, listeners: usize, node: &str) -> String {
    #[derive(Serialize)]
    struct Counted<'a> {
        topic: &'a str,
        listeners: usize,
        node: &'a str,
    }
    text(&Counted { topic, listeners, node })
}

/// What became of a message.
#[derive(Serialize)]
pub struct Receipt<'a> {
    pub topic: &'a str,
    /// The message's cursor.
    pub id: &'a str,
    /// Its entry, where it came from a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<&'a str>,
    /// Clients that it was for: the sum of the next three.
    pub queued: usize,
    pub written: usize,
    pub dropped: usize,
    /// Left out if there are none.
    #[serde(skip_serializing_if = "is_none")]
    pub pending: usize,
    pub node: &'a str,
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

/// A client that is owed something.
pub struct Owed<'a> {
    pub conn: String,
    /// The path of its route.
    pub route: &'a str,
    /// `None` for anonymous ones, and for those that are closing.
    pub sub: Option<&'a str>,
    /// What waits for it.
    pub bytes: usize,
    pub frames: usize,
    /// Whether its socket takes nothing at present.
    pub full: bool,
    /// To how many it listens.
    pub topics: usize,
}

impl Owed<'_> {
    /// As JSON.
    pub fn write(&self, out: &mut String) {
        let Owed { conn, route, sub, bytes, frames, full, topics } = self;
        let [route, sub] = [Some(*route), *sub].map(|it| text(&it));
        let _ = write!(
            out,
            "{{\"conn\":\"{conn}\",\"route\":{route},\"sub\":{sub},\"bytes\":{bytes},\"frames\":{frames},\
             \"full\":{full},\"topics\":{topics}}}"
        );
    }
}

/// As JSON.
pub fn receipt(receipt: &Receipt) -> String {
    text(receipt)
}

/// What a client sent, for a channel; `at` is in milliseconds since 1970.
pub fn said(sub: &str, conn: &str, topic: Option<&str>, data: &impl Serialize, at: u64) -> String {
    #[derive(Serialize)]
    struct Said<'a, D> {
        sub: &'a str,
        conn: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        topic: Option<&'a str>,
        data: &'a D,
        at: u64,
    }
    text(&Said { sub, conn, topic, data, at })
}

fn text<T: Serialize>(report: &T) -> String {
    serde_json::to_string(report).expect("strings and numbers always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_written_as_documented() {
        assert_eq!(counted("a\"", 3, "n"), r#"{"topic":"a\"","listeners":3,"node":"n"}"#);
        let told = |stream, pending| {
            receipt(&Receipt {
                topic: "a",
                id: "i",
                stream,
                queued: 3,
                written: 1,
                dropped: 2,
                pending,
                node: "n",
            })
        };
        let settled = r#"{"topic":"a","id":"i","queued":3,"written":1,"dropped":2,"node":"n"}"#;
        assert_eq!(told(None, 0), settled);
        let pending = told(Some("1-0"), 1);
        assert!(pending.contains(r#""id":"i","stream":"1-0","queued":3"#), "{pending}");
        assert!(pending.contains(r#""dropped":2,"pending":1,"node""#), "{pending}");
        let said = |topic| said("4\"2", "n-1-2", topic, &[1], 5);
        assert_eq!(said(None), r#"{"sub":"4\"2","conn":"n-1-2","data":[1],"at":5}"#);
        assert!(said(Some("a")).contains(r#","topic":"a","data""#));
    }
}
