//! What back ends are told.

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

fn text<T: Serialize>(report: &T) -> String {
    serde_json::to_string(report).expect("strings and numbers always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_written_as_documented() {
        assert_eq!(counted("a\"", 3, "n"), r#"{"topic":"a\"","listeners":3,"node":"n"}"#);
    }
}
