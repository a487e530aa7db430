//! The commands that ask about streams, as they go out.

use redis::{Cmd, cmd};

use super::request::PAGE_ENTRIES;
use crate::clock::Millis;
use crate::cursor::EntryId;

/// What the stream holds; see `extent`.
pub fn info(name: &str) -> Vec<u8> {
    cmd("XINFO").arg("STREAM").arg(name).get_packed_command()
}

/// A page of the entries after one, up to and with another, and what the stream holds then: two commands, of which
/// `page` reads the answers.
pub fn page_after(name: &str, after: EntryId, up_to: EntryId, count: usize) -> Vec<u8> {
    let entries = page("XRANGE", name, format!("({after}"), up_to.to_string(), count);
    [entries, info(name)].concat()
}

/// A page of the entries up to and with one, the latest first.
pub fn page_up_to(name: &str, up_to: EntryId) -> Vec<u8> {
    page("XREVRANGE", name, up_to.to_string(), "-".to_owned(), PAGE_ENTRIES)
}

/// A page of the entries before one, the latest first.
pub fn page_before(name: &str, before: EntryId) -> Vec<u8> {
    page("XREVRANGE", name, format!("({before}"), "-".to_owned(), PAGE_ENTRIES)
}

fn page(command: &str, name: &str, from: String, to: String, count: usize) -> Vec<u8> {
    let mut page: Cmd = cmd(command);
    page.arg(name).arg(from).arg(to).arg("COUNT").arg(count);
    page.get_packed_command()
}

/// What comes after these entries, one of each stream: at most so many of each. Redis answers when there is one, or with null
/// when none came for so long.
pub fn read_on(names: &[String], after: &[EntryId], count: usize, block: Millis) -> Vec<u8> {
    let mut read: Cmd = cmd("XREAD");
    read.arg("COUNT").arg(count).arg("BLOCK").arg(block).arg("STREAMS").arg(names);
    after.iter().for_each(|id| {
        read.arg(id.to_string());
    });
    read.get_packed_command()
}
