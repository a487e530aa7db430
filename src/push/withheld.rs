//! Answers that wait until Redis has acknowledged the topics that they name: with `subscribe = "demand"` alone.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::engine::slots::ConnId;

/// The longest cursor that is kept while its client waits; no cursor of ours is longer.
const CURSOR_BYTES_MAX: usize = 512;

/// An answer to one client.
pub(super) enum Withheld {
    /// The first frame, and what follows it.
    Welcome {
        sub: Option<String>,
        since: Option<String>,
        errors: Vec<String>,
        authed: Option<Authed>,
    },
    /// The answer to a token.
    Authed(Authed),
    /// The answer to `subscribe`.
    Subscribed { topic: String, start: WithheldStart, reference: Option<String> },
}

/// A command that changes the topics of a client.
pub(super) enum Change<'a> {
    Subscribe,
    Unsubscribe(&'a [Cow<'a, str>]),
    Token,
}

/// The answer to `auth`.
pub(super) struct Authed {
    pub sub: String,
    pub reference: Option<String>,
    pub errors: Vec<String>,
}

/// The start of a subscription, in memory of its own.
pub(super) enum WithheldStart {
    Live,
    Since(String),
    Newest,
}

/// Withheld answers of each client, in the order of their numbers.
#[derive(Default)]
pub(super) struct WithheldAnswers(HashMap<ConnId, Vec<(u64, Withheld)>>);

impl WithheldAnswers {
    pub fn push(&mut self, id: ConnId, number: u64, answer: Withheld) {
        self.0.entry(id).or_default().push((number, answer));
    }

    /// Takes the answer with this number.
    pub fn take(&mut self, id: ConnId, number: u64) -> Option<Withheld> {
        self.take_first(id, |of, _| of == number).map(|(_, answer)| answer)
    }

    /// Takes the first answer that must come before that of another command: answers to tokens before all, those about topics before
    /// what changes these.
    pub fn take_before(&mut self, id: ConnId, change: &Change<'_>) -> Option<(u64, Withheld)> {
        self.take_first(id, |_, answer| match (answer, change) {
            (Withheld::Subscribed { topic, .. }, Change::Unsubscribe(topics)) => {
                topics.contains(&Cow::Borrowed(&**topic))
            }
            (Withheld::Subscribed { .. }, Change::Subscribe) => false,
            (Withheld::Subscribed { .. }, Change::Token)
            | (Withheld::Authed(_) | Withheld::Welcome { .. }, _) => true,
        })
    }

    fn take_first(
        &mut self,
        id: ConnId,
        mut is_wanted: impl FnMut(u64, &Withheld) -> bool,
    ) -> Option<(u64, Withheld)> {
        let answers = self.0.get_mut(&id)?;
        let at = answers.iter().position(|(number, answer)| is_wanted(*number, answer))?;
        let answer = answers.remove(at);
        if answers.is_empty() {
            self.0.remove(&id);
        }
        if self.0.is_empty() {
            self.0 = HashMap::new();
        }
        Some(answer)
    }

    /// Forgets a client that is gone.
    pub fn forget(&mut self, id: ConnId) {
        self.0.remove(&id);
    }
}

/// A cursor to be kept. One that is too long to be ours is as good as none that is held.
pub(super) fn kept(since: &str) -> String {
    since.get(..CURSOR_BYTES_MAX.min(since.len())).unwrap_or_default().to_owned()
}
