//! Commands that read streams, in RESP.

use redis::{Cmd, cmd};

use crate::clock::Millis;
use crate::engine::resume::cursor::EntryId;

/// The extent of a stream.
pub fn info(name: &str) -> Vec<u8> {
    cmd("XINFO").arg("STREAM").arg(name).get_packed_command()
}

/// A page of the entries from `from` to `up_to`, both included.
pub fn page(name: &str, from: EntryId, up_to: EntryId, count: usize) -> Vec<u8> {
    range("XRANGE", name, from.to_string(), up_to.to_string(), count)
}

/// A page of the entries up to `up_to`, which is included, the latest first.
pub fn page_up_to(name: &str, up_to: EntryId, count: usize) -> Vec<u8> {
    range("XREVRANGE", name, up_to.to_string(), "-".to_owned(), count)
}

/// A page of the entries before `before`, the latest first.
pub fn page_before(name: &str, before: EntryId, count: usize) -> Vec<u8> {
    range("XREVRANGE", name, format!("({before}"), "-".to_owned(), count)
}

fn range(command: &str, name: &str, from: String, to: String, count: usize) -> Vec<u8> {
    let mut range: Cmd = cmd(command);
    range.arg(name).arg(from).arg(to).arg("COUNT").arg(count);
    range.get_packed_command()
}

/// The entries after these ids, one id for each stream, at most `count` of each stream. Redis answers as soon as there is an entry, or
/// with null after `block` milliseconds.
pub fn read_on(names: &[String], after: &[EntryId], count: usize, block: Millis) -> Vec<u8> {
    let mut read: Cmd = cmd("XREAD");
    read.arg("COUNT").arg(count).arg("BLOCK").arg(block).arg("STREAMS").arg(names);
    after.iter().for_each(|id| {
        read.arg(id.to_string());
    });
    read.get_packed_command()
}
