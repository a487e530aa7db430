//! The resources of a process, as `/proc` shows them: memory, CPU time, descriptors.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Clock ticks in a second, the unit of `/proc/PID/stat`: 100 on every Linux, whatever the kernel's own clock does.
const TICKS_PER_SECOND: u32 = 100;

/// The memory of a process, in bytes, exact to the page (`smaps_rollup`; the counters in `status` lag behind).
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All pages in memory: the binary's, shared libraries', its own.
    pub resident: i64,
    /// Pages that no other process shares.
    pub private: i64,
    /// Pages without a file behind them: heap, stack, changed data.
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

/// The resident memory of a process by what is mapped, in bytes, the most first: a file by its name, `[heap]`, `[stack]`, or
/// nothing for memory without a name.
pub fn mappings(pid: u32) -> Vec<(String, i64)> {
    let mut bytes: BTreeMap<String, i64> = BTreeMap::new();
    let mut name = String::new();
    for line in read(pid, "smaps").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Rss:", kilobytes, _] => {
                let kilobytes: i64 = kilobytes.parse().expect("smaps holds numbers");
                *bytes.entry(name.clone()).or_default() += kilobytes * 1024;
            }
            // The head of a mapping: addresses, rights, offset, device, inode, and what is mapped.
            [addresses, _, _, _, _, ref path @ ..] if addresses.contains('-') => {
                let path = path.first().copied().unwrap_or_default();
                name = path.rsplit('/').next().unwrap_or_default().to_owned();
            }
            _ => {}
        }
    }
    let mut mappings: Vec<(String, i64)> = bytes.into_iter().filter(|one| one.1 > 0).collect();
    mappings.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    mappings
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
    /// The CPU time used since `earlier`.
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
    let fields = fields(pid);
    let ticks = |place: usize| fields[place].parse::<u64>().expect("stat holds numbers");
    let (user, system) = (ticks(11), ticks(12));
    let nanoseconds = scheduled(pid).unwrap_or_else(|| {
        let tick = Duration::from_secs(1) / TICKS_PER_SECOND;
        tick.as_nanos() as u64 * (user + system)
    });
    CpuTime { total: nanoseconds, user, system }
}

/// The fields of `/proc/PID/stat` behind the program's name, which stands in parentheses and may hold spaces.
fn fields(pid: u32) -> Vec<String> {
    let stat = read(pid, "stat");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.map(str::to_owned).collect()
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

/// Nanoseconds for which a process of one thread was ready to run and had no core; 0 on a kernel without `schedstat`.
pub fn kept_waiting(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Returns whether a process stands still since a SIGSTOP (`t` if it is traced as well: `strace -c` shows a bench's system calls).
pub fn is_stopped(pid: u32) -> bool {
    ["T", "t"].contains(&fields(pid)[0].as_str())
}

/// Returns whether a process waits for something to happen.
pub fn is_sleeping(pid: u32) -> bool {
    fields(pid)[0] == "S"
}

/// Returns whether a process has ended.
pub fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    matches!(state, None | Some("Z" | "X"))
}

/// The processes that a process has started; none if it has ended.
pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}

/// The resident memory of a process and of all that it has started, together.
pub fn resident_of_family(pid: u32) -> i64 {
    resident(pid) + children(pid).into_iter().map(resident_of_family).sum::<i64>()
}

/// The resident memory of a process in bytes, up to some pages; 0 if it has ended. Cheap enough to be asked for again and again.
pub fn resident(pid: u32) -> i64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<i64>().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as i64
}

/// The number of times that a process went to sleep or was put aside, all its threads together.
pub fn context_switches(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    threads
        .map(|thread| {
            let status = thread.expect("a folder of numbers").path().join("status");
            // A thread that has just ended is switched no more.
            let text = fs::read_to_string(status).unwrap_or_default();
            let counts = text.lines().filter(|line| line.contains("ctxt_switches:"));
            counts
                .filter_map(|line| line.rsplit(char::is_whitespace).next()?.parse::<u64>().ok())
                .sum::<u64>()
        })
        .sum()
}

/// The number of open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn read(pid: u32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The most that a process ever had in memory, in bytes.
pub fn peak(pid: u32) -> i64 {
    let text = read(pid, "status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
    number.expect("no VmHWM in status") * 1024
}
