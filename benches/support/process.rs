//! Other processes: their lines, a copy of the bench in another part, and what `/proc` says of their memory and time.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::{DEADLINE, ROLE};

/// Clock ticks in a second, the unit of `/proc/PID/stat`: 100 on every Linux, whatever the kernel's own clock does.
const TICKS_PER_SECOND: u32 = 100;

/// The lines that a child prints, each waited for with a deadline.
pub struct Lines(Receiver<String>);

impl Lines {
    /// Reads on until the child closes its output: a full pipe would hold it up.
    pub fn of(stdout: ChildStdout) -> Lines {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody may listen any more; the pipe is emptied all the same.
                let _ = sender.send(line);
            }
        });
        Lines(receiver)
    }

    /// The next one.
    pub fn next(&self) -> String {
        self.0.recv_timeout(DEADLINE).unwrap_or_else(|why| {
            let why = match why {
                RecvTimeoutError::Timeout => "it stands still",
                RecvTimeoutError::Disconnected => "it has ended",
            };
            panic!("a child prints no further line: {why}")
        })
    }
}

/// A copy of this bench that plays another part in a process of its own, with its own descriptors and its own CPU time.
/// It obeys line by line and ends when its input does.
pub struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines,
}

impl Helper {
    /// Starts the part with its arguments.
    pub fn start(role: &str, arguments: &[&str]) -> Helper {
        let program = std::env::current_exe().expect("the bench knows its own file");
        let mut child = Command::new(program)
            .args([ROLE, role])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the bench starts once more");
        let stdin = child.stdin.take();
        let lines = Lines::of(child.stdout.take().expect("stdout is a pipe"));
        Helper { child, stdin, lines }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something.
    pub fn tell(&mut self, order: &str) {
        let stdin = self.stdin.as_mut().expect("it is open until the end");
        stdin.write_all(format!("{order}\n").as_bytes()).expect("the helper runs");
    }

    /// Waits for what it says next.
    pub fn hear(&self) -> String {
        self.lines.next()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.stdin = None;
        end(&mut self.child);
    }
}

/// The orders that reach a helper, until its input ends.
pub fn orders() -> impl Iterator<Item = String> {
    std::io::stdin().lines().map_while(Result::ok)
}

/// Waits for a child that was asked to end, and ends it if it does not.
pub fn end(child: &mut Child) -> bool {
    let gone = wait_until(|| !matches!(child.try_wait(), Ok(None)));
    if !gone {
        let _ = child.kill();
        let _ = child.wait();
    }
    gone
}

/// Asks until something holds; `false` if it does not before the deadline.
pub fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > DEADLINE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// What a process occupies, in bytes, exact to the page (`smaps_rollup`; the counters in `status` lag behind).
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All pages in memory: the binary's, shared libraries', its own.
    pub resident: i64,
    /// Pages that no other process shares.
    pub private: i64,
    /// Of these the ones without a file behind them: heap, stack, changed data.
    pub anonymous: i64,
}

/// Reads the memory of a process.
pub fn memory(pid: u32) -> Memory {
    let text = read(pid, "smaps_rollup");
    let kilobytes = |name: &str| -> i64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in smaps_rollup"))
    };
    Memory {
        resident: kilobytes("Rss:") * 1024,
        private: (kilobytes("Private_Clean:") + kilobytes("Private_Dirty:")) * 1024,
        anonymous: kilobytes("Anonymous:") * 1024,
    }
}

/// CPU time that a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTime {
    /// In nanoseconds, as the scheduler counts it.
    pub total: u64,
    /// In clock ticks. The kernel samples which part was user's and which its own: the split is good over seconds.
    user: u64,
    system: u64,
}

impl CpuTime {
    /// What was used since `earlier`.
    pub fn since(self, earlier: CpuTime) -> CpuTime {
        CpuTime {
            total: self.total - earlier.total,
            user: self.user - earlier.user,
            system: self.system - earlier.system,
        }
    }

    /// Both together.
    pub fn plus(self, other: CpuTime) -> CpuTime {
        CpuTime {
            total: self.total + other.total,
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }

    /// The share of the total that was spent outside the kernel, from 0 to 1.
    pub fn user_share(self) -> f64 {
        self.user as f64 / (self.user + self.system).max(1) as f64
    }
}

/// Reads the CPU time of a process, all its threads together.
pub fn cpu_time(pid: u32) -> CpuTime {
    let stat = read(pid, "stat");
    // The second field is the program's name in parentheses, and may hold spaces.
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |place: usize| fields[place].parse::<u64>().expect("stat holds numbers");
    let (user, system) = (ticks(11), ticks(12));
    let nanoseconds = scheduled(pid).unwrap_or_else(|| {
        let tick = Duration::from_secs(1) / TICKS_PER_SECOND;
        tick.as_nanos() as u64 * (user + system)
    });
    CpuTime { total: nanoseconds, user, system }
}

/// `None` on a kernel without `schedstat`.
fn scheduled(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads
        .map(|thread| {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        })
        .sum()
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn read(pid: u32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
