//! The rule of which client may receive a message stands in one file.

use crate::tree::sources;

/// The prefix of users' topics, and the NUL of a pattern's key, as code would write them.
const PIECES: [&str; 3] = ["\"user.", "'\\0'", "\\0\""];

#[test]
fn only_one_file_takes_topics_and_keys_apart() {
    let mut homes: Vec<String> = Vec::new();
    for source in sources() {
        // Bytes of the PROXY header end so as well.
        let mut lines = source.code.lines().filter(|line| !line.contains("b\""));
        if lines.any(|line| PIECES.iter().any(|piece| line.contains(piece))) {
            homes.push(source.path);
        }
    }
    assert_eq!(homes, ["engine/pubsub/topic.rs"]);
}
