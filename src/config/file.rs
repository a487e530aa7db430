//! The TOML file, taken apart into the values of the table's settings.

use std::fs::File;
use std::io::{self, Read};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::RouteConfig;
use super::draft::{Draft, SettingSource};
use super::setting::Setting;
use super::table;
use super::value::Value;
use crate::suggestion::suggestion;

/// The largest settings file: a name like `/dev/zero` must not fill the memory.
const BYTES_MAX: u64 = 1 << 20;

/// Reads a whole file of at most `bytes_max` bytes.
pub(super) fn read_file(name: &str, bytes_max: u64) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(name)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Err(error) => Err(format!("cannot read the file: {error}")),
        Ok(bytes) if bytes.len() as u64 > bytes_max => {
            Err(format!("the file is larger than {bytes_max} bytes"))
        }
        Ok(bytes) => Ok(bytes),
    }
}

/// Takes the file's settings into the draft; false if it could not be read as TOML at all.
pub(super) fn take_file(draft: &mut Draft, name: &str, source: &str) -> bool {
    let read = read_file(name, BYTES_MAX)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "the file is not UTF-8".to_owned()));
    match read {
        Ok(text) => take_toml(draft, &name.escape_debug().to_string(), &text),
        Err(reason) => {
            let name = name.escape_debug();
            draft.problems.push(format!("{name} ({source}): {reason}"));
            false
        }
    }
}

/// Takes the settings of a TOML text into the draft; `name` is for the messages.
pub(super) fn take_toml(draft: &mut Draft, name: &str, text: &str) -> bool {
    let (table, errors) = DeTable::parse_recoverable(text);
    let reader = TomlReader { name, text };
    for error in &errors {
        let line = reader.line(error.span().map_or(0, |span| span.start));
        // Not the error's `Display`: it quotes the line, which may hold a password.
        let start = error.span().map_or(0, |span| span.start);
        let advice = if reader.lacks_quotes(start) { "; text needs quotes" } else { "" };
        draft.problems.push(format!("{name}:{line}: not TOML: {}{advice}", error.message()));
    }
    if errors.is_empty() {
        reader.take_table(draft, "", table.get_ref());
    }
    errors.is_empty()
}

struct TomlReader<'a> {
    name: &'a str,
    text: &'a str,
}

impl TomlReader<'_> {
    /// `prefix` is empty, or the table's name and a dot.
    fn take_table(&self, draft: &mut Draft, prefix: &str, table: &DeTable) {
        for (key, value) in in_order(table) {
            let line = self.line(key.span().start);
            let key = format!("{prefix}{}", key.get_ref());
            let inner = format!("{key}.");
            if key == "route" {
                self.take_routes(draft, line, value.get_ref());
            } else if let Some(named) = table::by_key(&key) {
                draft.take(named, convert(value.get_ref()), self.at(line));
            } else if table::all().any(|setting| setting.key.starts_with(&inner)) {
                match value.get_ref() {
                    DeValue::Table(table) => self.take_table(draft, &inner, table),
                    other => {
                        let seen = convert(other).seen();
                        draft.problems.push(format!(
                            "{key} ({}:{line}): {seen} is not a table; write [{key}]",
                            self.name
                        ));
                    }
                }
            } else {
                self.refuse_key(draft, line, &key, table::all());
            }
        }
    }

    fn take_routes(&self, draft: &mut Draft, line: usize, value: &DeValue) {
        let tables = match value {
            DeValue::Array(entries) => entries
                .iter()
                .map(|entry| Some((entry.span(), entry.get_ref().as_table()?)))
                .collect(),
            _ => None,
        };
        let tables: Vec<_> = match tables {
            Some(tables) => tables,
            None => {
                return draft.problems.push(format!(
                    "route ({}:{line}): {} is not an array of tables; write [[route]]",
                    self.name,
                    convert(value).seen()
                ));
            }
        };
        for (span, table) in tables {
            let mut route = RouteConfig::default();
            for (key, value) in in_order(table) {
                let line = self.line(key.span().start);
                let settings = || table::all().filter(|setting| setting.is_of_route());
                match settings().find(|setting| setting.key == key.get_ref()) {
                    Some(setting) => {
                        let value = convert(value.get_ref());
                        draft.take_into(&mut route, setting, value, self.at(line));
                    }
                    None => self.refuse_key(draft, line, key.get_ref(), settings()),
                }
            }
            let line = self.line(span.start);
            draft.routes.push((route, format!("{}:{line}", self.name)));
        }
    }

    fn refuse_key(
        &self,
        draft: &mut Draft,
        line: usize,
        key: &str,
        known: impl Iterator<Item = &'static Setting>,
    ) {
        let meant = match key {
            "routes" => "; did you mean [[route]]?".to_owned(),
            _ => suggestion("", key, known.map(|setting| setting.key.to_owned())),
        };
        let key = super::value::quote(key);
        draft.problems.push(format!("{}:{line}: unknown key {key}{meant}", self.name));
    }

    /// Returns whether the line of this byte is a key and a bare text, as in `log = info`.
    fn lacks_quotes(&self, byte: usize) -> bool {
        let start =
            self.text.get(..byte).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let line = self.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let Some((_, value)) = line.split_once('=') else { return false };
        let value = value.trim();
        !value.is_empty() && !value.starts_with(['"', '\'', '[', '{'])
    }

    fn at(&self, line: usize) -> SettingSource<'_> {
        SettingSource::File { name: self.name, line }
    }

    /// The line, from 1, that holds the byte.
    fn line(&self, byte: usize) -> usize {
        let before = self.text.as_bytes().iter().take(byte);
        1 + before.filter(|&&b| b == b'\n').count()
    }
}

type Entry<'a, 'i> = (&'a Spanned<toml::de::DeString<'i>>, &'a Spanned<DeValue<'i>>);

/// The table's entries as they stand in the file: `DeTable` sorts them by key.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Entry<'a, 'i>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| key.span().start);
    entries
}

fn convert(value: &DeValue) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(truth) => Value::Truth(*truth),
        // Beyond `i128` it is beyond every bound as well.
        DeValue::Integer(number) => Value::Number(
            i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX),
        ),
        DeValue::Array(entries) => {
            let texts = entries.iter().map(|entry| entry.get_ref().as_str().map(str::to_owned));
            match texts.collect() {
                Some(list) => Value::List(list),
                None => Value::Unfit("an array of other things than texts"),
            }
        }
        DeValue::Float(_) => Value::Unfit("a number with a fraction"),
        DeValue::Datetime(_) => Value::Unfit("a date"),
        DeValue::Table(_) => Value::Unfit("a table"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    fn problems(toml: &str) -> Vec<String> {
        let mut draft = Draft::default();
        take_toml(&mut draft, "t.toml", toml);
        draft.problems
    }

    #[test]
    fn each_wrong_line_is_named_with_what_it_may_hold() {
        #[rustfmt::skip]
        let table = [
            ("\n\nlisten = true", "listen (t.toml:3): true is not text; allowed: list of"),
            ("lisen = 5", r#"t.toml:1: unknown key "lisen"; did you mean listen?"#),
            ("secret_file = 'x'", "did you mean jwt.secret_file?"),
            ("[jwt]\nlisten = 'x'", r#"t.toml:2: unknown key "jwt.listen"; did you mean listen?"#),
            ("[jwt]\nsecret = 'hunter2'", "jwt.secret (t.toml:2): a secret is not given here"),
            ("jwt = 5", "jwt (t.toml:1): 5 is not a table; write [jwt]"),
            ("[route]\npath = '/a'", "route (t.toml:1): a table is not an array of tables; write [[route]]"),
            ("route = [5]", "write [[route]]"),
            ("[[route]]\ntopic = []", r#"t.toml:2: unknown key "topic"; did you mean topics?"#),
            ("[[route]]\nlisten = 'x'", r#"t.toml:2: unknown key "listen""#),
            ("[[route]]\nsingle_session = 1", "route.single_session (t.toml:2): 1 is not true or false"),
            ("topics = ['a', 5]", "topics (t.toml:1): an array of other things than texts is not a list of texts"),
            ("head_seconds = -1", "head_seconds (t.toml:1): -1 is out of bounds; allowed: 1 to 300"),
            ("head_seconds = 0xffffffffffffffffffffffffffffffffffffffff", "is out of bounds"),
            ("head_seconds = 1.5", "a number with a fraction is not a whole number"),
            ("head_bytes_max = '1kB'", "units: KiB, MiB, GiB"),
            ("log = 'x'\nlog = 'y'", "t.toml:2: not TOML: duplicate key"),
            ("redis = hunter2", "; text needs quotes"),
            ("listen = 127.0.0.1:8099", "; text needs quotes"),
            ("redis = redis://h", "; text needs quotes"),
            ("[[routes]]\npath = '/a'", r#"unknown key "routes"; did you mean [[route]]?"#),
            ("listen = 8099", "listen (t.toml:1): 8099 is not an IP address with a port: write 127.0.0.1:8099"),
            ("redis = 'hunter2'", "redis (t.toml:1): it is no URL"),
        ];
        for (toml, wanted) in table {
            let found = problems(toml);
            assert_eq!(found.len(), 1, "{toml}: {found:?}");
            assert!(found[0].contains(wanted), "{toml}: {}", found[0]);
            assert!(!found[0].contains("hunter2"), "{}", found[0]);
        }
    }

    #[test]
    fn a_file_that_never_ends_is_given_up() {
        let refused = read_file("/dev/zero", 100).expect_err("it has more than 100 bytes");
        assert!(refused.contains("larger than 100 bytes"), "{refused}");
    }

    #[test]
    fn no_text_panics() {
        let pieces = [
            "listen",
            "jwt",
            "route",
            "topics",
            ".",
            "=",
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            "'",
            "\"",
            "\n",
            ",",
            "5",
            "-",
            "true",
            "1.5",
            "1979-05-27",
            "\"a\"",
            "'*'",
            "#",
            " ",
            "ü",
            "\0",
            "jwt.secret",
            "[jwt]\n",
            "[[route]]\n",
            "path = '/a'\n",
            "0x",
            "'''",
            "\\u",
        ];
        for seed in 1..5000_u64 {
            let mut random = Random::new(seed);
            let length = random.below(24);
            let toml: String = (0..length).map(|_| pieces[random.below(pieces.len())]).collect();
            println!("seed {seed}: {toml:?}"); // Shown when the test fails.
            let mut draft = Draft::default();
            if take_toml(&mut draft, "t.toml", &toml) {
                draft.settle(super::super::settle::Task::Serve);
            } else {
                assert!(!draft.problems.is_empty());
            }
        }
        take_toml(&mut Draft::default(), "t.toml", &"[".repeat(100_000));
    }
}
