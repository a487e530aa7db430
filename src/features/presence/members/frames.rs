//! The JSON frames about members.

use super::watches::{MemberList, MemberUpdate};
use crate::json::encode;

/// A list, in answer to a command, or in place of many changes.
pub(super) fn list(topic: &str, list: &MemberList) -> String {
    let users = encode(&list.users);
    frame("members", topic, &format!(r#","users":{users},"count":{}"#, list.count), None)
}

/// The list in answer to the command with this `ref`, which is JSON.
pub(super) fn referring(list: &str, reference: &str) -> String {
    let open = list.strip_suffix('}').expect("a list is an object");
    [open, r#","ref":"#, reference, "}"].concat()
}

/// The changes of a list.
pub(super) fn update(topic: &str, update: &MemberUpdate) -> String {
    let [joined, left] = [&update.joined, &update.left].map(encode);
    let more = format!(r#","joined":{joined},"left":{left},"count":{}"#, update.count);
    frame("members", topic, &more, None)
}

/// The answer to a command that comes while too many others wait.
pub(super) fn busy(topic: &str, reference: Option<&str>) -> String {
    frame("error", topic, r#","code":"busy""#, reference)
}

/// `reference` is JSON.
fn frame(op: &str, topic: &str, more: &str, reference: Option<&str>) -> String {
    let reference = reference.map_or(String::new(), |text| [r#","ref":"#, text].concat());
    format!(r#"{{"op":"{op}","topic":{}{more}{reference}}}"#, encode(&topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_documented() {
        let users = ["4\"2", "x"].map(Box::from);
        let members = MemberList { users: users.clone().into(), count: 7 };
        let of_seven = r#"{"op":"members","topic":"room.7","users":["4\"2","x"],"count":7"#;
        let text = list("room.7", &members);
        assert_eq!(text, format!("{of_seven}}}"));
        assert_eq!(referring(&text, "1.0"), format!("{of_seven},\"ref\":1.0}}"));
        let changes = MemberUpdate { joined: users.into(), left: vec![], count: 8 };
        assert_eq!(
            super::update("room.7", &changes),
            r#"{"op":"members","topic":"room.7","joined":["4\"2","x"],"left":[],"count":8}"#
        );
        assert_eq!(busy("a", None), r#"{"op":"error","topic":"a","code":"busy"}"#);
    }
}
