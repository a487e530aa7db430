//! The log: lines to stderr that never block the loop.

use std::fmt::Write as _;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::utc;

/// Bytes that a ready pipe takes at once without blocking (PIPE_BUF, pipe(7)).
const LINE_BYTES_MAX: usize = 4096;

/// The format of a line, and its clock.
#[derive(Clone, Copy)]
pub struct LogStyle {
    /// Writes one JSON object a line, in place of text for people.
    pub is_json: bool,
    /// Begins each line with its level (sd-daemon(3)), which the journal strips.
    pub is_journal: bool,
    /// Returns milliseconds since 1970.
    pub unix_millis: fn() -> u64,
}

struct Logger {
    style: OnceLock<LogStyle>,
    /// Lines lost since the last one that was written.
    lost: AtomicU64,
}

static LOGGER: Logger = Logger { style: OnceLock::new(), lost: AtomicU64::new(0) };

/// Sends the log to stderr.
pub fn start(level: LevelFilter, style: LogStyle) {
    // A second call only changes the level.
    let _ = LOGGER.style.set(style);
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// Returns whether stderr is the stream that `JOURNAL_STREAM` names: another program may have redirected it since
/// (systemd.exec(5)).
pub fn is_journal(stream: Option<&str>) -> bool {
    let stderr = std::fs::metadata("/dev/stderr").ok();
    let stderr = stderr.map(|file| format!("{}:{}", file.dev(), file.ino()));
    stream.is_some() && stream == stderr.as_deref()
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Lines of other crates about frames and heads would contain tokens and payloads.
        metadata.target().starts_with("oneloop")
    }

    fn log(&self, record: &Record<'_>) {
        let Some(style) = self.style.get().filter(|_| self.enabled(record.metadata())) else {
            return;
        };
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let line = style.line(record.level(), record.args().to_string(), lost);
        if !takes_a_line() || std::io::stderr().write_all(line.as_bytes()).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

impl LogStyle {
    /// Formats a line, cut to what a pipe takes at once. `lost`: the lines lost before it.
    fn line(&self, level: Level, mut message: String, lost: u64) -> String {
        cut(&mut message, LINE_BYTES_MAX);
        loop {
            let line = match self.is_json {
                true => self.json(level, &message, lost),
                false => self.plain(level, &message, lost),
            };
            let excess = line.len().saturating_sub(LINE_BYTES_MAX);
            if excess == 0 {
                return line;
            }
            // An escaped byte takes up to six, so this cut is never too large; the loop repeats it if it is too small.
            let length = message.len().saturating_sub(excess.div_ceil(6));
            cut(&mut message, length);
        }
    }

    fn plain(&self, level: Level, message: &str, lost: u64) -> String {
        let mut line = match self.is_journal {
            true => self.priority(level),
            false => {
                format!("{} oneloop: {}: ", rfc3339((self.unix_millis)()), name(level))
            }
        };
        line.extend(message.chars().map(|letter| if letter == '\n' { ' ' } else { letter }));
        if lost > 0 {
            let _ = write!(line, " ({lost} lines before this one were lost)");
        }
        line.push('\n');
        line
    }

    fn json(&self, level: Level, message: &str, lost: u64) -> String {
        let mut line = self.priority(level);
        let (time, level) = (rfc3339((self.unix_millis)()), name(level));
        // Not by `Value`, whose `Display` adds 12 KB for all other kinds of values.
        let message = serde_json::to_string(message).unwrap_or_default();
        let _ = write!(line, "{{\"time\":\"{time}\",\"level\":\"{level}\",\"message\":{message}");
        if lost > 0 {
            let _ = write!(line, ",\"lost\":{lost}");
        }
        line.push_str("}\n");
        line
    }

    /// `<4>`: syslog's number of a level (sd-daemon(3)).
    fn priority(&self, level: Level) -> String {
        let number = match level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        if self.is_journal { format!("<{number}>") } else { String::new() }
    }
}

/// Truncates to at most `bytes_max` bytes of whole characters.
fn cut(text: &mut String, bytes_max: usize) {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// `2026-11-26T21:48:46.123Z` (RFC 3339), in UTC.
fn rfc3339(unix_millis: u64) -> String {
    format!("{}.{:03}Z", utc(unix_millis / 1000), unix_millis % 1000)
}

/// Returns whether stderr would take a line now. If a pipe is full or a terminal stopped, the line is lost instead of blocking all
/// messages.
fn takes_a_line() -> bool {
    let stderr = std::io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(1)) && fds[0].revents().contains(PollFlags::OUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: LogStyle = LogStyle { is_json: false, is_journal: false, unix_millis: || 0 };

    fn line(style: LogStyle, message: &str, lost: u64) -> String {
        style.line(Level::Warn, message.to_owned(), lost)
    }

    #[test]
    fn each_style_has_its_line() {
        let json = LogStyle { is_json: true, ..PLAIN };
        let [journal, both] = [PLAIN, json].map(|style| LogStyle { is_journal: true, ..style });
        let time = "1970-01-01T00:00:00.000Z";
        let object = format!(r#"{{"time":"{time}","level":"warning","message":"a\n\"b\"""#);
        for (style, lost, expected) in [
            (PLAIN, 0, format!("{time} oneloop: warning: a \"b\"\n")),
            (
                PLAIN,
                2,
                format!("{time} oneloop: warning: a \"b\" (2 lines before this one were lost)\n"),
            ),
            (journal, 0, "<4>a \"b\"\n".into()),
            (json, 0, format!("{object}}}\n")),
            (json, 2, format!("{object},\"lost\":2}}\n")),
            (both, 0, format!("<4>{object}}}\n")),
        ] {
            assert_eq!(line(style, "a\n\"b\"", lost), expected);
        }
    }

    #[test]
    fn a_line_is_cut_to_what_a_pipe_takes_and_stays_whole() {
        for style in [PLAIN, LogStyle { is_json: true, ..PLAIN }] {
            for letter in ["x", "ü", "\u{1}", "\"", "\u{1f600}"] {
                let line = line(style, &letter.repeat(9000), 1);
                assert!((LINE_BYTES_MAX - 6..=LINE_BYTES_MAX).contains(&line.len()), "{letter:?}");
                assert_eq!(line.find('\n'), Some(line.len() - 1));
                if style.is_json {
                    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                    assert_eq!(value["lost"], 1);
                }
            }
        }
    }
}
