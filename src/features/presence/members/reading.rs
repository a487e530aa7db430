//! The reading of a list: who it is for, and the answer of Redis or of another process.

use std::rc::Rc;

use super::watches::MemberList;
use crate::engine::redis::request::Answer;
use crate::engine::server::members::ListRequest;

/// The reader of a list.
pub(super) enum ListReader {
    /// Clients of this process watch this topic.
    Here(Rc<str>),
    /// Another process asks for it.
    There(ListRequest),
}

impl ListReader {
    pub(super) fn topic(&self) -> &str {
        match self {
            ListReader::Here(topic) => topic,
            ListReader::There(request) => &request.topic,
        }
    }
}

/// Reads the answer to a request for a list.
pub(super) fn list(answer: &Answer) -> Option<MemberList> {
    let Answer::List(parts) = answer else { return None };
    let [Answer::Integer(count), Answer::List(users)] = &parts[..] else { return None };
    let user = |user: &Answer| match user {
        Answer::Text(bytes) => std::str::from_utf8(bytes).ok().map(Box::from),
        _ => None,
    };
    let users = users.iter().map(user).collect::<Option<_>>()?;
    Some(MemberList { users, count: usize::try_from(*count).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_list_counts_as_none() {
        let text = |text: &str| Answer::Text(text.as_bytes().to_vec());
        let of = |count, users: Vec<Answer>| {
            Answer::List(vec![Answer::Integer(count), Answer::List(users)])
        };
        let expected = MemberList { users: ["b", "a"].map(Box::from).into(), count: 3 };
        assert_eq!(list(&of(3, vec![text("b"), text("a")])), Some(expected));
        assert_eq!(list(&of(0, vec![])), Some(MemberList::default()));
        for answer in [
            of(-1, vec![]),
            of(1, vec![Answer::Nothing]),
            of(1, vec![Answer::Text(vec![0xff])]),
            Answer::List(vec![Answer::Integer(1)]),
            Answer::Integer(1),
            Answer::Refused("NOPERM".into()),
            Answer::Unavailable,
        ] {
            assert_eq!(list(&answer), None, "{answer:?}");
        }
    }
}
