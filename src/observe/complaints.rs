//! Log lines for the operator about refusals, with the setting that would change them.
//!
//! Counters count refusals; a person needs one line that says what to do. The first refusal of a kind is logged at once, those of
//! the following minute in one line at its end. At `debug` each is logged, up to a rate.

use std::fmt::{self, Write};
use std::net::IpAddr;

use crate::clock::Millis;

/// The time for which the refusals of one kind are gathered.
const PAUSE: Millis = 60_000;

/// Lines per second at `debug`; further ones are only counted.
const LINES_PER_SECOND_MAX: u32 = 50;

/// Kinds kept at once. The program has fewer; the bound would matter if a kind were ever made of a peer's words.
const KINDS_MAX: usize = 64;

/// Characters shown of a text that a peer chose.
const SHOWN_MAX: usize = 80;

/// The path and address of a refused request, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'a> {
    /// Without the query.
    pub path: Option<&'a str>,
    pub address: Option<IpAddr>,
}

/// The importance of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// A person can do something about it: logged at `warn`.
    Curable,
    /// Routine: logged at `debug` only.
    Usual,
}

/// The recent refusals, by kind.
#[derive(Debug, Default)]
pub struct Complaints {
    kinds: Vec<Complaint>,
    /// The second that `lines` counts.
    second: u64,
    lines: u32,
    /// Refusals not shown at `debug`.
    hidden: u64,
}

/// The refusals of one kind since the last line about it.
#[derive(Debug)]
struct Complaint {
    name: &'static str,
    /// The time from which the next line may be written.
    until: Millis,
    count: u64,
    /// The text of the first refusal.
    text: String,
}

impl Complaints {
    /// Logs a refusal, now or within a minute. `kind`: its status or close code, or two words. `text` gives the reason and the
    /// setting that would change it; it is called only if it is shown, and must show no token, query or payload.
    pub fn note(
        &mut self,
        now: Millis,
        kind: &'static str,
        weight: Weight,
        origin: Origin<'_>,
        text: impl Fn() -> String,
    ) {
        if log::log_enabled!(log::Level::Debug) {
            self.show(now, kind, origin, &text);
        }
        if weight == Weight::Curable && log::log_enabled!(log::Level::Warn) {
            self.gather(now, kind, text);
        }
    }

    /// The time by which [`tick`](Complaints::tick) must be called.
    pub fn deadline(&self) -> Option<Millis> {
        self.kinds.iter().filter(|kind| kind.count > 0).map(|kind| kind.until).min()
    }

    /// Writes the lines that are due.
    pub fn tick(&mut self, now: Millis) {
        for line in self.due(now) {
            log::warn!("{line}");
        }
    }

    /// Writes a line for one refusal, unless this second has had enough.
    fn show(&mut self, now: Millis, kind: &str, origin: Origin<'_>, text: &impl Fn() -> String) {
        if self.second != now / 1000 {
            (self.second, self.lines) = (now / 1000, 0);
            let hidden = std::mem::take(&mut self.hidden);
            if hidden > 0 {
                log::debug!("{hidden} refusals more were not shown");
            }
        }
        if self.lines == LINES_PER_SECOND_MAX {
            self.hidden += 1;
            return;
        }
        self.lines += 1;
        log::debug!("refused {kind}{origin}: {}", text());
    }

    fn gather(&mut self, now: Millis, name: &'static str, text: impl Fn() -> String) {
        let at = self.kinds.iter().position(|kind| kind.name == name);
        let at = at.unwrap_or(self.kinds.len());
        if at == KINDS_MAX {
            return;
        }
        if at == self.kinds.len() {
            self.kinds.push(Complaint { name, until: 0, count: 0, text: String::new() });
        }
        let kind = &mut self.kinds[at];
        if kind.count > 0 {
            kind.count += 1;
        } else if now < kind.until {
            (kind.count, kind.text) = (1, text());
        } else {
            log::warn!("{name}: {}", text());
            kind.until = now + PAUSE;
        }
    }

    /// Takes the lines that are due.
    fn due(&mut self, now: Millis) -> Vec<String> {
        let is_due = |kind: &&mut Complaint| kind.count > 0 && kind.until <= now;
        let lines = self.kinds.iter_mut().filter(is_due).map(|kind| {
            kind.until = now + PAUSE;
            let (count, text) = (std::mem::take(&mut kind.count), std::mem::take(&mut kind.text));
            match count {
                1 => format!("{}: {text}", kind.name),
                _ => format!("{} x{count} within a minute, one of them: {text}", kind.name),
            }
        });
        lines.collect()
    }
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path {
            write!(f, " at {}", shown(path))?;
        }
        match self.address {
            Some(address) => write!(f, " from {address}"),
            None => Ok(()),
        }
    }
}

/// Formats a text that a peer chose for a line: cut, with everything escaped that a terminal could obey.
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars().take(SHOWN_MAX) {
        match letter {
            ' '..='~' => out.push(letter),
            _ => drop(write!(out, "{}", letter.escape_unicode())),
        }
    }
    if text.chars().nth(SHOWN_MAX).is_some() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(complaints: &mut Complaints, now: Millis, kind: &'static str, text: &str) {
        complaints.gather(now, kind, || text.to_owned());
    }

    #[test]
    fn the_refusals_of_a_minute_are_one_line() {
        let mut complaints = Complaints::default();
        assert_eq!(complaints.deadline(), None);
        gathered(&mut complaints, 10, "403", "shown at once");
        assert_eq!(complaints.deadline(), None, "nothing is left to be shown");
        gathered(&mut complaints, 20, "403", "a");
        gathered(&mut complaints, 30, "403", "b");
        gathered(&mut complaints, 40, "404", "shown at once, too");
        gathered(&mut complaints, 50, "404", "c");
        assert_eq!(complaints.deadline(), Some(10 + PAUSE));
        assert_eq!(complaints.due(9 + PAUSE), Vec::<String>::new());
        assert_eq!(complaints.due(10 + PAUSE), ["403 x2 within a minute, one of them: a"]);
        assert_eq!(complaints.due(40 + PAUSE), ["404: c"]);
        assert_eq!((complaints.deadline(), complaints.due(u64::MAX)), (None, Vec::new()));
    }

    #[test]
    fn kinds_and_texts_are_bounded() {
        let mut complaints = Complaints::default();
        let names: Vec<&'static str> =
            (0..2 * KINDS_MAX).map(|number| &*number.to_string().leak()).collect();
        for name in &names {
            gathered(&mut complaints, 0, name, "");
        }
        assert_eq!(complaints.kinds.len(), KINDS_MAX);
        assert_eq!(shown("/a\u{1b}[2J\n"), "/a\\u{1b}[2J\\u{a}");
        assert_eq!(shown(&"x".repeat(81)), format!("{}...", "x".repeat(80)));
    }

    #[test]
    fn a_second_shows_so_many_and_counts_the_rest() {
        let mut complaints = Complaints::default();
        for _ in 0..LINES_PER_SECOND_MAX + 7 {
            complaints.show(999, "404", Origin::default(), &String::new);
        }
        assert_eq!((complaints.lines, complaints.hidden), (LINES_PER_SECOND_MAX, 7));
        complaints.show(1000, "404", Origin::default(), &String::new);
        assert_eq!((complaints.lines, complaints.hidden), (1, 0));
    }

    #[test]
    fn an_origin_is_shown_as_far_as_it_is_known() {
        let address = Some(IpAddr::from([10, 0, 0, 1]));
        let shown = |path, address| Origin { path, address }.to_string();
        assert_eq!(shown(Some("/ws"), address), " at /ws from 10.0.0.1");
        assert_eq!(shown(None, None), "");
    }
}
