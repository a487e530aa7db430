//! Values by the value of a label.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::total::Total;

/// The value of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    Number(u16),
    Name(Cow<'static, str>),
}

/// Values by label. Only we choose labels, so they are few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labelled(BTreeMap<Label, u64>);

impl Labelled {
    /// Counts one more.
    pub fn count(&mut self, label: impl Into<Label>) {
        *self.0.entry(label.into()).or_default() += 1;
    }

    /// The value of a label; 0 if there is none.
    pub fn of(&self, label: impl Into<Label>) -> u64 {
        self.0.get(&label.into()).copied().unwrap_or_default()
    }

    /// The sum over all labels.
    pub fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Label, u64)> {
        self.0.iter().map(|(label, value)| (label, *value))
    }

    /// Takes in the values of one more process.
    pub(super) fn take_in(&mut self, total: Total, other: &Labelled) {
        for (label, value) in other.iter() {
            match self.0.get_mut(label) {
                Some(sum) => total.take_in(sum, value),
                None => {
                    self.0.insert(label.clone(), value);
                }
            }
        }
    }
}

impl<L: Into<Label>> FromIterator<(L, u64)> for Labelled {
    fn from_iter<T: IntoIterator<Item = (L, u64)>>(values: T) -> Labelled {
        let mut labelled = Labelled::default();
        // To collect would be to sort first: 6 KB of code for each kind of label.
        labelled.0.extend(values.into_iter().map(|(label, value)| (label.into(), value)));
        labelled
    }
}

impl From<u16> for Label {
    fn from(number: u16) -> Label {
        Label::Number(number)
    }
}

impl From<&'static str> for Label {
    fn from(name: &'static str) -> Label {
        Label::Name(name.into())
    }
}

impl From<String> for Label {
    fn from(name: String) -> Label {
        Label::Name(name.into())
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label::Number(number) => number.fmt(f),
            Label::Name(name) => name.escape_debug().fmt(f),
        }
    }
}
