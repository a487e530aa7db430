//! The messages of a simulated world: their order and keys, and the cursors by which clients know places among them.

use std::collections::BTreeMap;

use crate::engine::random::Random;

/// A place among all messages: the number of those up to it.
pub type Place = usize;

/// All messages that were published, lost or not.
#[derive(Default)]
pub struct Messages {
    /// The topic of each, in their order.
    order: Vec<String>,
    /// The key of each message of a topic: the first one has the number 1.
    keys: BTreeMap<String, Vec<Option<&'static str>>>,
    /// Cursors that came with messages.
    cursors: Vec<(String, Place)>,
}

impl Messages {
    /// Adds a message. Returns its number in the topic.
    pub fn add(&mut self, topic: &str, key: Option<&'static str>) -> u64 {
        self.order.push(topic.to_owned());
        let keys = self.keys.entry(topic.to_owned()).or_default();
        keys.push(key);
        keys.len() as u64
    }

    /// The number of messages of each topic.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        self.keys.iter().map(|(topic, keys)| (&**topic, keys.len() as u64))
    }

    /// The number of messages of each topic up to a place.
    pub fn counts(&self, place: Place) -> impl Iterator<Item = (&str, u64)> {
        let count = move |topic: &str| {
            self.order[..place].iter().filter(|of| **of == *topic).count() as u64
        };
        self.keys.keys().map(move |topic| (&**topic, count(topic)))
    }

    pub fn key(&self, topic: &str, number: u64) -> Option<&'static str> {
        self.keys[topic][number as usize - 1]
    }

    /// Returns whether a later message has the same topic and key.
    pub fn is_superseded(&self, topic: &str, number: u64) -> bool {
        let key = self.key(topic, number);
        key.is_some() && self.keys[topic][number as usize..].contains(&key)
    }

    /// Notes the cursor that came with a message.
    pub fn note_cursor(&mut self, cursor: &str, topic: &str, number: u64) {
        let mut places = self.order.iter().enumerate().filter(|(_, of)| **of == *topic);
        let place = places.nth(number as usize - 1).expect("it was published").0 + 1;
        self.cursors.push((cursor.to_owned(), place));
    }

    /// A cursor that a client might have, usually one of the latest.
    pub fn some_cursor(&self, random: &mut Random) -> Option<(String, Place)> {
        let most = self.cursors.len().min(random.choose(&[10, 200, usize::MAX]));
        let back = (most > 0).then(|| random.below(most))?;
        Some(self.cursors[self.cursors.len() - 1 - back].clone())
    }
}
