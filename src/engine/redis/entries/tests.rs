//! Replies that bring entries, cut anywhere.

use super::*;

const NAMES: [&str; 2] = ["pub", "more"];
const PAYLOAD_BYTES_MAX: usize = 8;

/// The entries found, as text.
fn read(mut entries: Entries, pieces: &[&[u8]]) -> Result<Vec<String>, Garbage> {
    let names = NAMES.map(str::to_owned);
    let (mut replies, mut found) = (ReplyParser::new(), Vec::new());
    for piece in pieces {
        let mut input = *piece;
        while let Some(piece) = entries.next(&mut replies, &mut input, &names)? {
            let is_entry = matches!(piece, Piece::Entry { .. });
            found.push(match piece {
                Piece::Entry { stream, id, content, .. } => {
                    format!("{stream} {id} {}", describe(content))
                }
                Piece::End => "end".to_owned(),
                Piece::Refused(error) => error.code().to_owned(),
            });
            if !is_entry {
                assert!(input.is_empty(), "{found:?}");
                return Ok(found);
            }
        }
        assert!(input.is_empty());
    }
    Ok(found)
}

fn describe(content: EntryContent<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match content {
        EntryContent::Message(message) => {
            let receipt = message.receipt().map(text).unwrap_or_default();
            [text(message.topic()), text(message.data()), receipt].join(",")
        }
        other => format!("{other:?}"),
    }
}

fn bulks(words: &[&str]) -> String {
    let bulks = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*{}\r\n{}", words.len(), bulks.collect::<String>())
}

fn entry(id: &str, fields: &[&str]) -> String {
    format!("*2\r\n${}\r\n{id}\r\n{}", id.len(), bulks(fields))
}

/// Whatever is found must be the same whole, cut in two anywhere, and byte by byte.
fn check(make: impl Fn() -> Entries, reply: &str, expected: &[&str]) {
    let reply = reply.as_bytes();
    assert_eq!(read(make(), &[reply]).as_deref(), Ok(&expected.map_strings()[..]), "whole");
    let bytes: Vec<&[u8]> = reply.chunks(1).collect();
    assert_eq!(read(make(), &bytes).as_deref(), Ok(&expected.map_strings()[..]), "byte by byte");
    for cut in 1..reply.len() {
        let (one, other) = reply.split_at(cut);
        let found = read(make(), &[one, other]);
        assert_eq!(found.as_deref(), Ok(&expected.map_strings()[..]), "cut at {cut}");
    }
}

trait Strings {
    fn map_strings(&self) -> Vec<String>;
}

impl Strings for [&str] {
    fn map_strings(&self) -> Vec<String> {
        self.iter().map(|text| (*text).to_owned()).collect()
    }
}

#[test]
fn a_range_brings_its_entries_one_by_one() {
    let reply = [
        "*6\r\n",
        &entry("1-0", &["topic", "a", "data", "1"]),
        &entry("1-1", &["data", "2", "other", "x", "topic", "b", "receipt", "r"]),
        &entry("2-0", &["topic", "a"]),
        &entry("3-0", &["topic", "a", "data", "123456789"]),
        &entry("4-0", &["topic", "a", "topic", "b", "data", "1", "data", "2"]),
        &entry("5-0", &[]),
    ]
    .concat();
    let expected = [
        "1 1-0 a,1,",
        "1 1-1 b,2,r",
        "1 2-0 Malformed",
        "1 3-0 Oversized",
        "1 4-0 a,1,",
        "1 5-0 Malformed",
        "end",
    ];
    check(|| Entries::of_range(1, PAYLOAD_BYTES_MAX), &reply, &expected);
    check(|| Entries::of_range(0, 1), "*0\r\n", &["end"]);
    check(|| Entries::of_range(0, 1), "-NOPERM no\r\n", &["NOPERM"]);
}

#[test]
fn a_read_brings_entries_of_several_streams() {
    let reply = [
        "*2\r\n*2\r\n$4\r\nmore\r\n*1\r\n",
        &entry("7-0", &["topic", "a", "data", "1"]),
        "*2\r\n$3\r\npub\r\n*2\r\n",
        &entry("1-0", &["topic", "b", "data", "2"]),
        &entry("2-0", &["topic", "c", "data", ""]),
    ]
    .concat();
    let expected = ["1 7-0 a,1,", "0 1-0 b,2,", "0 2-0 c,,", "end"];
    check(|| Entries::of_read(PAYLOAD_BYTES_MAX), &reply, &expected);
    for null in ["*-1\r\n", "$-1\r\n", "*0\r\n"] {
        check(|| Entries::of_read(1), null, &["end"]);
    }
    check(|| Entries::of_read(1), "-WRONGTYPE no\r\n", &["WRONGTYPE"]);
}

#[test]
fn an_entry_that_is_too_large_is_not_held_and_its_id_is_known() {
    let large = "x".repeat(ENVELOPE_BYTES_MAX + PAYLOAD_BYTES_MAX);
    let reply = [
        "*2\r\n",
        &entry("1-0", &["topic", "a", "data", "1", "other", &large]),
        &entry("2-0", &["topic", "b", "data", "2"]),
    ]
    .concat();
    for size in [1, 1000, reply.len()] {
        let pieces: Vec<&[u8]> = reply.as_bytes().chunks(size).collect();
        let found = read(Entries::of_range(0, PAYLOAD_BYTES_MAX), &pieces).expect("it is RESP");
        assert_eq!(found, ["0 1-0 Oversized", "0 2-0 b,2,", "end"]);
    }
}

#[test]
fn what_is_no_such_reply_is_refused() {
    let id = ["*1\r\n*2\r\n", "$1\r\nx\r\n*0\r\n"].concat();
    for reply in ["+OK\r\n", ":1\r\n", "*1\r\n*3\r\n", "*1\r\n*-1\r\n", "*1\r\n$1\r\n", &id] {
        assert!(read(Entries::of_range(0, 1), &[reply.as_bytes()]).is_err(), "{reply:?}");
    }
    let stranger = "*1\r\n*2\r\n$1\r\nz\r\n*0\r\n";
    let nothing = "*1\r\n*2\r\n$3\r\npub\r\n*-1\r\n";
    for reply in ["+OK\r\n", "*1\r\n*1\r\n", stranger, nothing] {
        assert!(read(Entries::of_read(1), &[reply.as_bytes()]).is_err(), "{reply:?}");
    }
}
