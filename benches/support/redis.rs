//! A real Redis as a child, and a publisher that is connected to it.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::process::{free_address, wait_until};

/// Attempts to find a port: between its choice and its use somebody else may take it.
const ATTEMPTS: usize = 10;

/// Nothing is kept.
const FORGETFUL: [&str; 4] = ["--save", "", "--appendonly", "no"];

/// Acknowledged writes are kept.
const FAITHFUL: [&str; 6] = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];

/// A Redis of our own; it ends with the value.
pub struct Redis {
    child: Child,
    folder: PathBuf,
    flags: &'static [&'static str],
    /// Its address.
    pub address: SocketAddr,
}

impl Redis {
    /// Starts one on a free port that keeps nothing.
    ///
    /// # Panics
    /// With a sentence that says what to install, if there is none.
    pub fn start() -> Redis {
        Redis::start_with(&FORGETFUL)
    }

    /// The same, of one that still has what it acknowledged after it was killed.
    pub fn start_faithful() -> Redis {
        Redis::start_with(&FAITHFUL)
    }

    fn start_with(flags: &'static [&'static str]) -> Redis {
        let folder = std::env::temp_dir().join(format!("oneloop-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder can be made");
        for _ in 0..ATTEMPTS {
            let address = free_address();
            let child = spawn(&folder, address, flags);
            let mut redis = Redis { child, folder: folder.clone(), flags, address };
            let mut ended = false;
            let up = wait_until(|| {
                ended = !matches!(redis.child.try_wait(), Ok(None));
                ended || answers(address)
            });
            assert!(up, "redis-server does not answer on {address}");
            if !ended {
                return redis;
            }
        }
        panic!("redis-server ended {ATTEMPTS} times as soon as it was started")
    }

    /// Kills it and starts another one on the same port.
    pub fn restart(&mut self) {
        self.restart_after(Duration::ZERO);
    }

    /// The same, with so much time in between.
    pub fn restart_after(&mut self, away: Duration) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::thread::sleep(away);
        self.child = spawn(&self.folder, self.address, self.flags);
        let address = self.address;
        assert!(wait_until(|| answers(address)), "redis-server does not come back on {address}");
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// For `--redis`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(folder: &PathBuf, address: SocketAddr, flags: &[&str]) -> Child {
    let port = address.port().to_string();
    let spawned = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port])
        .args(flags)
        .arg("--dir")
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    spawned.unwrap_or_else(|error| match error.kind() {
        ErrorKind::NotFound => panic!(
            "this bench needs redis-server, which is not installed: `apt-get install redis-server`"
        ),
        _ => panic!("redis-server cannot be started: {error}"),
    })
}

/// Returns whether a Redis answers that has read its own file.
pub fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut answer = [0; 7];
    stream.set_read_timeout(Some(DEADLINE)).is_ok()
        && stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"+PONG\r\n"
}

/// A connection to Redis that publishes, and asked for no answers.
pub struct RedisPublisher(TcpStream);

impl RedisPublisher {
    /// Connects.
    pub fn connect(redis: &Redis) -> RedisPublisher {
        let mut stream = TcpStream::connect(redis.address).expect("Redis listens");
        stream
            .set_write_timeout(Some(DEADLINE))
            .and_then(|()| stream.set_nodelay(true))
            .and_then(|()| stream.write_all(&command(&["CLIENT", "REPLY", "OFF"])))
            .expect("Redis takes commands");
        RedisPublisher(stream)
    }

    /// Publishes a payload so many times, as fast as Redis takes them.
    pub fn publish(&mut self, topic: &str, payload: &str, times: usize) {
        let one = publish_command(topic, payload);
        const AT_ONCE: usize = 1000;
        for start in (0..times).step_by(AT_ONCE) {
            self.write(&one.repeat(AT_ONCE.min(times - start)));
        }
    }

    /// Publishes a payload so many times at a steady rate: whatever is due leaves in one write, each `pause`. Returns how
    /// long it took.
    pub fn publish_paced(
        &mut self,
        topic: &str,
        payload: &str,
        times: usize,
        per_second: usize,
        pause: Duration,
    ) -> Duration {
        let one = publish_command(topic, payload);
        let start = Instant::now();
        let mut sent = 0;
        while sent < times {
            let due = (start.elapsed().as_secs_f64() * per_second as f64) as usize;
            let more = due.min(times) - sent;
            if more > 0 {
                self.write(&one.repeat(more));
                sent += more;
            }
            std::thread::sleep(pause);
        }
        start.elapsed()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("Redis takes commands");
    }
}

/// A connection to Redis that waits for each answer.
pub struct RedisAsker(BufReader<TcpStream>);

impl RedisAsker {
    /// Connects.
    pub fn connect(redis: &Redis) -> RedisAsker {
        let stream = TcpStream::connect(redis.address).expect("Redis listens");
        stream
            .set_read_timeout(Some(DEADLINE))
            .and_then(|()| stream.set_nodelay(true))
            .expect("a socket takes its options");
        RedisAsker(BufReader::new(stream))
    }

    /// Executes a command whose answer is no array. Returns the answer, which is no error.
    pub fn ask(&mut self, words: &[&str]) -> String {
        self.0.get_mut().write_all(&command(words)).expect("Redis takes commands");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("Redis answers in time");
        let line = line.trim_end();
        assert!(line.starts_with(['+', ':', '$']), "{} was answered {line}", words[0]);
        let Some(length) = line.strip_prefix('$') else { return line[1..].to_owned() };
        let mut text = vec![0; length.parse::<usize>().expect("a string") + 2];
        self.0.read_exact(&mut text).expect("Redis answers in time");
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }

    /// A number of `INFO`.
    pub fn number(&mut self, name: &str) -> i64 {
        let info = self.ask(&["INFO"]);
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.and_then(|number| number.parse().ok()).expect("INFO has that number")
    }
}

/// The command that publishes under `pub.`.
pub fn publish_command(topic: &str, payload: &str) -> Vec<u8> {
    command(&["PUBLISH", &format!("pub.{topic}"), payload])
}

/// A command as it goes out.
pub fn command(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    out.into_bytes()
}
