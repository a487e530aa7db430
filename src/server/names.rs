//! The names under which others know this process and its connections.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::client::State;
use crate::server::Server;
use crate::slots::ConnId;

/// Letters of a node's name, of five bits each.
const NODE_LETTERS: u32 = 8;

/// A name for this process. Of a thousand nodes that share a Redis, two have the same once in two million times.
pub(super) fn node(unix: u64) -> String {
    // The standard library's hasher is keyed by the system's chance.
    let random = RandomState::new().hash_one(unix);
    let letter = |place| char::from_digit((random >> (5 * place)) as u32 & 31, 32);
    (0..NODE_LETTERS).filter_map(letter).collect()
}

impl Server {
    /// The name of this process among all that share a Redis.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The name of a connection, which no other one has on any node.
    pub fn name_of(&self, id: ConnId) -> String {
        format!("{}-{id}", self.node)
    }

    /// The open client of this route that has this name.
    pub fn connection(&self, name: &str) -> Option<ConnId> {
        let (index, generation) =
            name.strip_prefix(&self.node)?.strip_prefix('-')?.split_once('-')?;
        let number = |text| u32::from_str_radix(text, 16).ok();
        let id = ConnId { index: number(index)?, generation: number(generation)? };
        let client = self.clients.get(id.index)?;
        let is_it = client.generation == id.generation && client.route == self.route;
        (is_it && client.state() == State::Open).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_names_of_their_own() {
        let names = [node(0), node(0), node(1)];
        assert!(names[0] != names[1] && names[1] != names[2], "{names:?}");
        assert!(names.iter().all(|name| name.len() == 8 && !name.contains('-')), "{names:?}");
    }
}
