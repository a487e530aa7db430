//! The log: lines to stderr that never hold the loop up.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A pipe that is ready takes so much at once without blocking (PIPE_BUF, pipe(7)).
const LINE_BYTES_MAX: usize = 4096;

struct Logger {
    /// Lines that nobody could take.
    lost: AtomicU64,
}

static LOGGER: Logger = Logger { lost: AtomicU64::new(0) };

/// Sends the log to stderr.
pub fn start(level: LevelFilter) {
    // A second start only changes the level.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What other crates tell of frames and heads would carry tokens and payloads.
        metadata.target().starts_with("oneloop")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let note = if lost > 0 {
            format!(" ({lost} lines before this one were lost)")
        } else {
            String::new()
        };
        let mut line = format!("oneloop: {level}: {}{note}", record.args()).replace('\n', " ");
        while line.len() >= LINE_BYTES_MAX {
            line.pop();
        }
        line.push('\n');
        if !takes_a_line() || std::io::stderr().write_all(line.as_bytes()).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

/// Whether stderr would take a line now. A full pipe, or a terminal that is stopped, loses the line instead of stopping
/// everyone's messages.
fn takes_a_line() -> bool {
    let stderr = std::io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(1)) && fds[0].revents().contains(PollFlags::OUT)
}
