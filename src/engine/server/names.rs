//! Names of this process and its connections.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::engine::resume::cursor::Node;
use crate::engine::server::Server;
use crate::engine::slots::ConnId;

/// A name for this process. Among a thousand nodes that share a Redis and start in the same second, the chance of a collision is
/// one in five hundred.
pub(super) fn node(unix: u64) -> Node {
    // The standard library's hasher has random keys.
    Node::new(unix, RandomState::new().hash_one(unix))
}

/// Takes over the name of a process whose messages are recorded here under its numbers, and which may have sent clients up to
/// `ahead_max` more. `own` keeps this process and its connections apart from others that follow it.
pub fn follow(server: &mut Server, node: Node, own: &str, ahead_max: u64) {
    server.resume.follow(node, ahead_max);
    server.names = Names(format!("{node}-{own}"));
}

/// The name of this process as text, and those of its connections.
pub(super) struct Names(pub String);

impl Names {
    /// The name of a connection, unique over all nodes.
    pub fn of(&self, id: ConnId) -> String {
        format!("{}-{id}", self.0)
    }

    /// The id in a connection's name, if it is of this process.
    pub fn id(&self, name: &str) -> Option<ConnId> {
        let (index, generation) = name.strip_prefix(&self.0)?.strip_prefix('-')?.split_once('-')?;
        let number = |text| u32::from_str_radix(text, 16).ok();
        Some(ConnId { index: number(index)?, generation: number(generation)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_names_of_their_own() {
        let names = [node(0), node(0), node(1)];
        assert!(names[0] != names[1] && names[1] != names[2], "{names:?}");
        assert!(names.iter().all(|name| !name.to_string().contains('-')), "{names:?}");
    }
}
