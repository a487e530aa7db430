//! The printed findings: a line that scripts can read, then the consequence and the remedy.

use std::io::Write;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Fine,
    /// It could not be checked, which is never good.
    Unseen,
    Warning,
    Problem,
}
pub(super) use Level::{Fine, Problem, Unseen, Warning};

/// A report in progress.
pub(super) struct Report<'a> {
    out: &'a mut dyn Write,
    /// Findings by level.
    counts: [usize; 4],
}

impl Report<'_> {
    pub(super) fn new(out: &mut dyn Write) -> Report<'_> {
        Report { out, counts: [0; 4] }
    }

    /// Prints one finding, without its empty texts. Control characters are replaced: a text may come from a server, and a terminal
    /// would obey it, or a script believe it. Write errors are ignored.
    pub(super) fn say(&mut self, level: Level, name: &str, seen: &str, why: &str, mend: &str) {
        self.counts[level as usize] += 1;
        let word = match level {
            Fine => "ok",
            Unseen => "unseen",
            Warning => "warning",
            Problem => "problem",
        };
        let mut text = format!("{word:<8} {name:<13} ");
        for (mark, line) in [("", seen), ("         ", why), ("         mend: ", mend)] {
            if mark.is_empty() || !line.is_empty() {
                text += mark;
                text.extend(line.chars().map(|char| if char.is_control() { '?' } else { char }));
                text += "\n";
            }
        }
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }

    /// Prints a problem and the remedy.
    pub(super) fn problem(&mut self, name: &str, seen: &str, mend: &str) {
        self.say(Problem, name, seen, "", mend);
    }

    /// Prints a warning and the remedy.
    pub(super) fn warning(&mut self, name: &str, seen: &str, mend: &str) {
        self.say(Warning, name, seen, "", mend);
    }

    /// Prints a check that found nothing wrong.
    pub(super) fn ok(&mut self, name: &str, seen: &str) {
        self.say(Fine, name, seen, "", "");
    }

    /// Prints a check that was not possible, the reason, and the remedy.
    pub(super) fn unseen(&mut self, name: &str, why: &str, mend: &str) {
        self.say(Unseen, name, &["not looked at: ", why].concat(), "", mend);
    }

    /// Prints the last line. Returns whether there was a problem.
    pub(super) fn end(self) -> bool {
        let [_, _, warnings, problems] = self.counts;
        let _ = writeln!(self.out, "problems: {problems}, warnings: {warnings}");
        problems > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_what_belongs_to_it() {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out);
        report.ok("memory", "enough");
        report.unseen("clock", "it may not be told", "+time");
        report.say(Problem, "descriptors", "1024", "too few", "ulimit -n 4096");
        assert!(report.end());
        let expected = "ok       memory        enough\n\
            unseen   clock         not looked at: it may not be told\n         mend: +time\n\
            problem  descriptors   1024\n         too few\n         mend: ulimit -n 4096\n\
            problems: 1, warnings: 0\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        Report::new(&mut out).say(Problem, "url-upgrade", "302 \r\x1b[2Kok\nok\u{9b}", "", "");
        assert_eq!(String::from_utf8(out).unwrap(), "problem  url-upgrade   302 ??[2Kok?ok?\n");
    }
}
