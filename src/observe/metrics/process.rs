//! The kernel's metrics of this process, under the names that Prometheus' own clients use.

use std::fmt::Write;
use std::fs::{File, metadata, read_to_string};
use std::os::unix::fs::FileExt;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::family;

/// The kernel's files about this process.
pub struct Process {
    /// Kept open, to be read even if no descriptor is left.
    stat: Option<File>,
    /// The start of the machine, in seconds since 1970.
    boot: Option<u64>,
    start_bytes: Option<u64>,
}

/// The kernel's values; `None` if unknown, as on systems other than Linux.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time of all threads, in user space and in the kernel.
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    /// The start of the process, in seconds since 1970.
    pub start_seconds: Option<f64>,
    /// Open descriptors. Kernels before 6.2 do not count them, and listing 20,000 would delay every client.
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
    /// Resident memory at the start.
    pub start_bytes: Option<u64>,
}

impl Default for Process {
    /// Notes the memory at the start: call it before clients connect.
    fn default() -> Process {
        let stat = File::open("/proc/self/stat").ok();
        let boot = read_to_string("/proc/stat").ok().and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
        });
        let mut process = Process { stat, boot, start_bytes: None };
        process.start_bytes = process.usage().resident_bytes;
        process
    }
}

impl Process {
    /// Reads the current values, in some microseconds for four system calls.
    pub fn usage(&self) -> Usage {
        let open_fds = metadata("/proc/self/fd").map_or(0, |folder| folder.len());
        let mut usage = Usage {
            open_fds: (open_fds > 0).then_some(open_fds),
            max_fds: getrlimit(Resource::Nofile).current,
            start_bytes: self.start_bytes,
            ..Usage::default()
        };
        let mut text = [0; 1024];
        let length = self.stat.as_ref().and_then(|stat| stat.read_at(&mut text, 0).ok());
        let text = String::from_utf8_lossy(&text[..length.unwrap_or(0)]);
        usage.take_stat(&text, self.boot);
        usage
    }
}

impl Usage {
    /// Growth of resident memory since the start, at least 0.
    pub fn grown_bytes(&self) -> Option<u64> {
        Some(self.resident_bytes?.saturating_sub(self.start_bytes?))
    }

    /// Takes in the values of one more process.
    pub fn take_in(&mut self, other: &Usage) {
        let mut values = self.values();
        for (value, other) in values.iter_mut().zip(other.values()) {
            *value = value.map_or(other, |value| Some(value + other.unwrap_or(0.0)));
        }
        let start_seconds = [self.start_seconds, other.start_seconds].into_iter().flatten();
        *self = Usage { start_seconds: start_seconds.reduce(f64::min), ..Usage::of(values) };
    }

    /// The values, for [`Usage::of`]: up to 2^53, numbers keep their digits.
    pub(super) fn values(&self) -> [Option<f64>; 7] {
        let whole = |value: Option<u64>| value.map(|value| value as f64);
        [
            self.cpu_seconds,
            whole(self.resident_bytes),
            whole(self.virtual_bytes),
            self.start_seconds,
            whole(self.open_fds),
            whole(self.max_fds),
            whole(self.start_bytes),
        ]
    }

    pub(super) fn of(values: [Option<f64>; 7]) -> Usage {
        let whole = |value: Option<f64>| value.map(|value| value as u64);
        let [cpu, resident, reserved, start, open, most, at_start] = values;
        Usage {
            cpu_seconds: cpu,
            resident_bytes: whole(resident),
            virtual_bytes: whole(reserved),
            start_seconds: start,
            open_fds: whole(open),
            max_fds: whole(most),
            start_bytes: whole(at_start),
        }
    }

    /// Parses `/proc/self/stat` (proc_pid_stat(5)).
    fn take_stat(&mut self, text: &str, boot: Option<u64>) {
        // The name of the program, in brackets, may hold spaces and brackets. Behind it stands the third field.
        let Some((_, rest)) = text.rsplit_once(") ") else { return };
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
        self.cpu_seconds = field(14).zip(field(15)).map(|(user, system)| seconds(user + system));
        self.start_seconds = boot.zip(field(22)).map(|(boot, ticks)| boot as f64 + seconds(ticks));
        self.virtual_bytes = field(23);
        self.resident_bytes = field(24).map(|pages| pages * page_size() as u64);
    }

    pub(super) fn render(&self, out: &mut String) {
        let families = [
            ("cpu_seconds_total", "CPU time.", "counter"),
            ("resident_memory_bytes", "Resident memory.", "gauge"),
            ("virtual_memory_bytes", "Reserved memory.", "gauge"),
            ("start_time_seconds", "When it started.", "gauge"),
            ("open_fds", "Open descriptors.", "gauge"),
            ("max_fds", "Descriptors that can be open.", "gauge"),
        ];
        for ((name, help, kind), value) in families.into_iter().zip(self.values()) {
            if let Some(value) = value {
                let name = format!("process_{name}");
                family(out, &name, help, kind);
                let _ = writeln!(out, "{name} {value}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_manual() {
        let text = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 17 18 1200 8192 3 20\n";
        let mut usage = Usage::default();
        usage.take_stat(text, Some(1000));
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(usage.cpu_seconds, Some(300.0 / ticks));
        assert_eq!(usage.start_seconds, Some(1000.0 + 1200.0 / ticks));
        assert_eq!(usage.virtual_bytes, Some(8192));
        assert_eq!(usage.resident_bytes, Some(3 * page_size() as u64));
        for broken in ["", "7 (a", "7 (a) ", "7 (a) S x"] {
            let mut usage = Usage::default();
            usage.take_stat(broken, Some(1000));
            assert_eq!(usage, Usage::default(), "{broken}");
        }
    }

    #[test]
    fn what_is_held_is_seen() {
        // Other tests of this process hold memory and let it go meanwhile.
        let is_seen = (0..50).any(|_| {
            let process = Process::default();
            let held = std::hint::black_box(vec![1_u8; 64 << 20]);
            let grown = process.usage().grown_bytes().expect("Linux tells");
            drop(held);
            grown >= 60 << 20
        });
        assert!(is_seen);
    }
}
