//! The service manager, by systemd's protocol (sd_notify(3), sd_listen_fds(3)), which other programs may speak too.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::clock::Millis;

/// The least time between two status lines; no wake-up is spent on them.
const STATUS_PAUSE: Millis = 10_000;

/// Seconds that a stop may take beyond the drain.
pub const STOP_SECONDS_SPARE: u64 = 10;

/// The wait before a watchdog message that could not be sent is retried, unless the next one is due earlier.
const RETRY: Millis = 100;

/// The most descriptors that are taken; a larger number is not meant.
const PASSED_MAX: u32 = 64;

/// The first of the descriptors that are passed (sd_listen_fds(3)).
#[cfg(target_os = "linux")]
const FIRST_PASSED: i32 = 3;

/// The service manager that is notified when the process is ready, alive, and stopping; none unless the environment names a socket.
#[derive(Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// The period of watchdog messages: half of the manager's timeout.
    pause: Option<Millis>,
    /// The time of the next one.
    next: Millis,
    /// The last status, and its time.
    said: Option<(String, Millis)>,
}

impl Supervisor {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. `pid`: this process.
    ///
    /// # Errors
    /// The socket cannot be used: a manager that waits for watchdog messages would kill the process.
    pub fn from_environment(
        variable: impl Fn(&str) -> Option<OsString>,
        pid: u32,
    ) -> io::Result<Supervisor> {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Supervisor::default());
        };
        let socket = connect(&name).map_err(|error| {
            io::Error::new(error.kind(), format!("NOTIFY_SOCKET cannot be used: {error}"))
        })?;
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_meant = number("WATCHDOG_PID").is_none_or(|meant| meant == u64::from(pid));
        let micros = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_meant);
        Ok(Supervisor {
            socket: Some(socket),
            pause: micros.map(|micros| (micros / 2000).max(1)),
            ..Supervisor::default()
        })
    }

    /// The time by which [`tick`](Supervisor::tick) must be called.
    pub fn deadline(&self) -> Option<Millis> {
        self.socket.as_ref()?;
        self.pause.map(|_| self.next)
    }

    /// Reports that the server serves, after a start or a reload.
    pub fn ready(&mut self, clients: usize) {
        self.send(&format!("READY=1\n{}", status(clients)));
    }

    /// Reports that a reload begins; [`Supervisor::ready`] must follow.
    pub fn reloading(&mut self) {
        self.send("RELOADING=1");
    }

    /// Reports that the process drains, for at most `seconds`: systemd would kill it after the `TimeoutStopSec` of its unit, which
    /// does not know the settings.
    pub fn stopping(&mut self, clients: usize, seconds: u32) {
        let micros = (u64::from(seconds) + STOP_SECONDS_SPARE) * 1_000_000;
        self.send(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=draining {clients} clients"
        ));
    }

    /// Reports that another process takes this one's place.
    pub fn replaced_by(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
    }

    /// Sends what is due: a watchdog message and, unless `stopping`, the number of clients.
    pub fn tick(&mut self, now: Millis, clients: usize, stopping: bool) {
        if self.socket.is_none() {
            return;
        }
        if let Some(pause) = self.pause
            && now >= self.next
        {
            let wait = if self.send("WATCHDOG=1") { pause } else { pause.min(RETRY) };
            self.next = now + wait;
        }
        let is_time = self.said.as_ref().is_none_or(|(_, at)| now >= at + STATUS_PAUSE);
        if is_time && !stopping {
            let text = status(clients);
            let is_new = self.said.as_ref().is_none_or(|(said, _)| *said != text);
            if is_new && self.send(&text) {
                self.said = Some((text, now));
            }
        }
    }

    /// Sends a message, and returns whether the socket took it. If its queue is full the message is lost: nothing waits for the
    /// manager.
    fn send(&self, text: &str) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.send(text.as_bytes()).is_ok())
    }
}

fn status(clients: usize) -> String {
    format!("STATUS={clients} clients")
}

/// Connects to a path, or to an abstract name after `@` (unix(7)).
fn connect(name: &OsString) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => abstract_address(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "abstract names are Linux' own"))
}

/// Returns the listeners that were passed to this process (`LISTEN_FDS`, `LISTEN_PID`), in the order in which the manager's units
/// name them.
///
/// # Errors
/// Listeners that cannot be had: the manager expects them to be served.
pub fn passed_listeners(
    variable: impl Fn(&str) -> Option<OsString>,
    pid: u32,
) -> io::Result<Vec<OwnedFd>> {
    let number = |name| variable(name)?.to_str()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(pid) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or_default();
    if count > PASSED_MAX {
        let text =
            format!("{count} sockets were passed (LISTEN_FDS): at most {PASSED_MAX} are served");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    take_passed(pid, count)
}

/// Takes the passed descriptors without `unsafe`: the kernel copies those of this very process, which is always permitted
/// (pidfd_getfd(2), Linux 5.6). The originals stay open.
#[cfg(target_os = "linux")]
fn take_passed(pid: u32, count: u32) -> io::Result<Vec<OwnedFd>> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    if count == 0 {
        return Ok(Vec::new());
    }
    let explain = |error: rustix::io::Errno| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("the passed socket cannot be had: {error}"))
    };
    let own = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has a number");
    let own = pidfd_open(own, PidfdFlags::empty()).map_err(explain)?;
    let take = |number| pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).map_err(explain);
    (FIRST_PASSED..).take(count as usize).map(take).collect()
}

#[cfg(not(target_os = "linux"))]
fn take_passed(_: u32, count: u32) -> io::Result<Vec<OwnedFd>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "sockets are passed on Linux only"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// A supervisor at an abstract name, and the socket of its manager.
    fn supervised(name: &str, variables: &[(&str, &str)]) -> (Supervisor, UnixDatagram) {
        let name = format!("oneloop-test-{}-{name}", std::process::id());
        let address = abstract_address(name.as_bytes()).unwrap();
        let heard = UnixDatagram::bind_addr(&address).unwrap();
        heard.set_nonblocking(true).unwrap();
        let mut environment = HashMap::from([("NOTIFY_SOCKET", format!("@{name}"))]);
        environment.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let variable = |name: &str| environment.get(name).map(OsString::from);
        (Supervisor::from_environment(variable, 7).unwrap(), heard)
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 256];
        std::iter::from_fn(|| {
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
        .collect()
    }

    #[test]
    fn signs_of_life_come_at_half_of_the_time() {
        let (mut supervisor, socket) = supervised("half", &[("WATCHDOG_USEC", "2000000")]);
        let mut due = Vec::new();
        for now in (0..4000).step_by(100) {
            supervisor.tick(now, 0, false);
            let signs = heard(&socket).into_iter().filter(|text| text == "WATCHDOG=1").count();
            due.extend(std::iter::repeat_n(now, signs));
        }
        assert_eq!(due, [0, 1000, 2000, 3000]);
        assert_eq!(supervisor.deadline(), Some(4000));
    }

    #[test]
    fn nobody_is_told_of_life_who_does_not_watch_this_process() {
        for variables in [
            &[][..],
            &[("WATCHDOG_USEC", "0")],
            &[("WATCHDOG_USEC", "x")],
            &[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "8")],
        ] {
            let (mut supervisor, socket) = supervised("other", variables);
            supervisor.tick(0, 0, false);
            assert_eq!(heard(&socket), ["STATUS=0 clients"], "{variables:?}");
            assert_eq!(supervisor.deadline(), None);
        }
        let nobody = Supervisor::from_environment(|_| None, 7).unwrap();
        assert_eq!(nobody.deadline(), None);
    }

    #[test]
    fn the_state_is_said_when_it_changed_and_not_too_often() {
        let (mut supervisor, socket) = supervised("state", &[]);
        supervisor.ready(0);
        for (now, clients) in [(0, 1), (1, 2), (9_999, 3), (10_000, 3), (20_000, 3), (20_001, 4)] {
            supervisor.tick(now, clients, false);
        }
        supervisor.stopping(4, 300);
        supervisor.tick(90_000, 3, true);
        assert_eq!(
            heard(&socket),
            [
                "READY=1\nSTATUS=0 clients",
                "STATUS=1 clients",
                "STATUS=3 clients",
                "STATUS=4 clients",
                "STOPPING=1\nEXTEND_TIMEOUT_USEC=310000000\nSTATUS=draining 4 clients",
            ]
        );
    }

    #[test]
    fn a_queue_that_is_full_loses_lines_and_holds_nobody_up() {
        let (mut supervisor, socket) = supervised("full", &[("WATCHDOG_USEC", "2000")]);
        for now in 0..10_000 {
            supervisor.tick(now, 0, false);
        }
        let before = heard(&socket).len();
        assert!(before < 9_000, "the queue of a socket is short: {before}");
        supervisor.tick(20_000, 0, false);
        assert_eq!(heard(&socket), ["WATCHDOG=1"]);
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (variables, part) in [
            (&[("NOTIFY_SOCKET", "/nowhere/socket")][..], "NOTIFY_SOCKET cannot be used"),
            (&[("LISTEN_PID", "7"), ("LISTEN_FDS", "65")], "65 sockets were passed"),
        ] {
            let variables: HashMap<_, _> = variables.iter().copied().collect();
            let variable = |name: &str| variables.get(name).map(OsString::from);
            let supervisor = Supervisor::from_environment(variable, 7).err();
            let listener = passed_listeners(variable, 7).err();
            let error = supervisor.or(listener).expect("one of them is refused");
            assert!(error.to_string().contains(part), "{error}");
        }
        let others = |name: &str| (name != "LISTEN_PID").then(|| OsString::from("1"));
        assert!(passed_listeners(others, 7).unwrap().is_empty());
    }
}
