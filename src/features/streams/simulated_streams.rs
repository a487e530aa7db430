//! The streams of a Redis, as tests need them: it answers what our connections ask.

use crate::engine::redis::resp::{self, Framer, Whole};
use crate::engine::redis::scanner::Grammar;
use crate::engine::resume::cursor::EntryId;

/// An entry: its id, and its fields in pairs.
pub type Entry = (EntryId, Vec<Vec<u8>>);

/// One key.
#[derive(Clone, Default)]
pub struct Stream {
    pub name: String,
    pub entries: Vec<Entry>,
    pub last: EntryId,
    pub deleted: EntryId,
    pub added: u64,
}

impl Stream {
    pub fn new(name: &str) -> Stream {
        Stream { name: name.to_owned(), ..Stream::default() }
    }

    pub fn add(&mut self, fields: &[&[u8]]) -> EntryId {
        self.last.millis += 1;
        self.added += 1;
        self.entries.push((self.last, fields.iter().map(|field| field.to_vec()).collect()));
        self.last
    }

    pub fn say(&mut self, topic: &str, data: &str) -> EntryId {
        self.add(&[b"topic", topic.as_bytes(), b"data", data.as_bytes()])
    }
}

/// All keys, and one connection to them.
pub struct Streams {
    pub all: Vec<Stream>,
    commands: Framer,
    /// An XREAD that waits: which streams, from where on, and how many entries.
    blocked: Option<(Vec<(usize, EntryId)>, usize)>,
    /// Names of the commands that came, the last one last.
    pub heard: Vec<String>,
}

impl Streams {
    pub fn new(names: &[&str]) -> Streams {
        let all = names.iter().map(|name| Stream::new(name)).collect();
        Streams { all, commands: Framer::new(Grammar::Commands), blocked: None, heard: Vec::new() }
    }

    /// The connection is another one.
    pub fn disconnect(&mut self) {
        self.commands = Framer::new(Grammar::Commands);
        self.blocked = None;
    }

    /// Answers what it can of these commands, and a waiting XREAD once there is something.
    pub fn answer(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while let Some(Whole::Value(command)) =
            self.commands.next(&mut input, usize::MAX).expect("commands are RESP")
        {
            let words: Vec<String> = resp::bulks(&command)
                .expect("an array")
                .map(|word| String::from_utf8_lossy(&command[word]).into_owned())
                .collect();
            self.execute(&words, out);
        }
        if let Some((from, count)) = self.blocked.take()
            && !self.read(&from, count, out)
        {
            self.blocked = Some((from, count));
        }
    }

    /// The time of a waiting XREAD is over.
    pub fn time_out(&mut self, out: &mut Vec<u8>) {
        if self.blocked.take().is_some() {
            out.extend_from_slice(b"*-1\r\n");
        }
    }

    fn execute(&mut self, words: &[String], out: &mut Vec<u8>) {
        self.heard.push(words[0].clone());
        assert!(self.blocked.is_none(), "nothing is asked on a connection that waits");
        match words[0].as_str() {
            "PING" => resp::write_simple(out, "PONG"),
            "XINFO" => self.info(&words[2], out),
            "XRANGE" | "XREVRANGE" => self.range(words, out),
            "XREAD" => {
                let count = words[2].parse().expect("a number");
                let (names, ids) = words[6..].split_at(words[6..].len() / 2);
                let from = names
                    .iter()
                    .zip(ids)
                    .map(|(name, id)| (self.number(name).expect("a stream"), parse(id)));
                self.blocked = Some((from.collect(), count));
            }
            _ => resp::write_simple(out, "OK"),
        }
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|stream| stream.name == name)
    }

    fn info(&self, name: &str, out: &mut Vec<u8>) {
        let stream = self.number(name).map(|number| &self.all[number]);
        let Some(stream) = stream.filter(|stream| stream.last > EntryId::ZERO) else {
            return resp::write_error(out, "ERR no such key");
        };
        let bulk = |out: &mut Vec<u8>, text: &str| resp::write_bulk(out, text.as_bytes());
        resp::write_array(out, 12);
        bulk(out, "length");
        resp::write_integer(out, stream.entries.len() as i64);
        bulk(out, "last-generated-id");
        bulk(out, &stream.last.to_string());
        bulk(out, "max-deleted-entry-id");
        bulk(out, &stream.deleted.to_string());
        bulk(out, "entries-added");
        resp::write_integer(out, stream.added as i64);
        for (name, entry) in
            [("first-entry", stream.entries.first()), ("last-entry", stream.entries.last())]
        {
            bulk(out, name);
            match entry {
                Some(entry) => write_entry(out, entry),
                None => out.extend_from_slice(b"*-1\r\n"),
            }
        }
    }

    fn range(&self, words: &[String], out: &mut Vec<u8>) {
        let entries = self.number(&words[1]).map_or(&[][..], |number| &self.all[number].entries);
        let is_reversed = words[0] == "XREVRANGE";
        let (low, high) = if is_reversed { (&words[3], &words[2]) } else { (&words[2], &words[3]) };
        let is_in = |id: EntryId| {
            let above = match low.strip_prefix('(') {
                Some(low) => id > parse(low),
                None => low == "-" || id >= parse(low),
            };
            let below = match high.strip_prefix('(') {
                Some(high) => id < parse(high),
                None => id <= parse(high),
            };
            above && below
        };
        let mut found: Vec<&Entry> = entries.iter().filter(|(id, _)| is_in(*id)).collect();
        if is_reversed {
            found.reverse();
        }
        found.truncate(words[5].parse().expect("a number"));
        resp::write_array(out, found.len());
        found.iter().for_each(|entry| write_entry(out, entry));
    }

    /// False: there is nothing.
    fn read(&self, from: &[(usize, EntryId)], count: usize, out: &mut Vec<u8>) -> bool {
        let after = |(number, last): &(usize, EntryId)| {
            let entries = self.all[*number].entries.iter().filter(|(id, _)| id > last);
            (*number, entries.take(count).collect::<Vec<&Entry>>())
        };
        let mut found: Vec<(usize, Vec<&Entry>)> = from.iter().map(after).collect();
        found.retain(|(_, entries)| !entries.is_empty());
        if found.is_empty() {
            return false;
        }
        resp::write_array(out, found.len());
        for (number, entries) in found {
            resp::write_array(out, 2);
            resp::write_bulk(out, self.all[number].name.as_bytes());
            resp::write_array(out, entries.len());
            entries.iter().for_each(|entry| write_entry(out, entry));
        }
        true
    }
}

fn parse(id: &str) -> EntryId {
    EntryId::parse(id.as_bytes()).expect("an id")
}

fn write_entry(out: &mut Vec<u8>, (id, fields): &Entry) {
    resp::write_array(out, 2);
    resp::write_bulk(out, id.to_string().as_bytes());
    resp::write_array(out, fields.len());
    fields.iter().for_each(|field| resp::write_bulk(out, field));
}
