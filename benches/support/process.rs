//! Child processes: what they print, how they are told what to do, how they end.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::usage::{cpu_time, is_sleeping, is_stopped};
use super::{DEADLINE, ROLE};

/// The lines that a child prints, each waited for with a deadline.
pub struct Lines(Receiver<String>);

impl Lines {
    /// Reads on until the child closes its output: a full pipe would hold it up.
    pub fn of(stdout: ChildStdout) -> Lines {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The receiver may be gone; the pipe is emptied all the same.
                let _ = sender.send(line);
            }
        });
        Lines(receiver)
    }

    /// The next one. A helper that waits in vain says first what for.
    pub fn next(&self) -> String {
        self.0.recv_timeout(DEADLINE + Duration::from_secs(5)).unwrap_or_else(|why| {
            let why = match why {
                RecvTimeoutError::Timeout => "it stands still",
                RecvTimeoutError::Disconnected => "it has ended",
            };
            panic!("a child prints no further line: {why}")
        })
    }
}

/// A copy of this bench that plays another part in a process of its own, with its own descriptors and its own CPU time.
/// It obeys line by line, and ends with the value, or when its input does.
pub struct Helper {
    child: Child,
    stdin: ChildStdin,
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
        let stdin = child.stdin.take().expect("stdin is a pipe");
        let lines = Lines::of(child.stdout.take().expect("stdout is a pipe"));
        Helper { child, stdin, lines }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something.
    pub fn tell(&mut self, order: &str) {
        self.stdin.write_all(format!("{order}\n").as_bytes()).expect("the helper runs");
    }

    /// Waits for what it says next.
    pub fn hear(&self) -> String {
        self.lines.next()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It has nothing to leave in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps a process on one core: the kernel likes to put one who talks and one who answers on the same, whatever is free.
pub fn pin(pid: u32, core: usize) {
    let pinned = Command::new("taskset")
        .args(["-cp", &core.to_string(), &pid.to_string()])
        .stdout(Stdio::null())
        .status()
        .expect("taskset is there: Debian's package util-linux");
    assert!(pinned.success(), "there is no core {core}");
}

/// Stops a process where it stands: what others do meanwhile waits for it in the kernel.
pub fn freeze(pid: u32) {
    signal(pid, Signal::STOP);
    assert!(wait_until(|| is_stopped(pid)), "a process does not stop");
}

/// Lets it run on.
pub fn thaw(pid: u32) {
    signal(pid, Signal::CONT);
}

/// Waits until a process has slept for a while: whatever it was sent is done. One that is ready and has no core does not sleep.
pub fn wait_for_rest(pid: u32) {
    const WHILE: Duration = Duration::from_millis(10);
    let start = Instant::now();
    let mut last = (cpu_time(pid).total, Instant::now());
    while last.1.elapsed() < WHILE {
        std::thread::sleep(Duration::from_millis(1));
        let used = cpu_time(pid).total;
        if used != last.0 || !is_sleeping(pid) {
            last = (used, Instant::now());
        }
        assert!(start.elapsed() < DEADLINE, "a process never rests");
    }
}

/// Sends a signal to a child that runs.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process has a number above 0");
    kill_process(pid, signal).expect("it runs");
}

/// Ports that the system gives to nobody who connects: a process that is killed finds its own free when it comes back.
const PORTS: RangeInclusive<u16> = 10_000..=32_000;

/// An address without a listener, on a port that stays free unless somebody asks for just this one.
pub fn free_address() -> SocketAddr {
    let ports = PORTS.len() as u32;
    let start = std::process::id().wrapping_mul(331) % ports;
    let mut addresses = (0..ports).map(|step| {
        let port = PORTS.start() + ((start + step) % ports) as u16;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    });
    let is_free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
    addresses.find(is_free).expect("a port can be had")
}

/// The orders that reach a helper, until its input ends.
pub fn orders() -> impl Iterator<Item = String> {
    std::io::stdin().lines().map_while(Result::ok)
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
