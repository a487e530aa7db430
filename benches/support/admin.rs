//! The server's metrics, read at its admin listener.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::DEADLINE;

/// The values of `/metrics` at one moment.
pub struct Metrics(String);

impl Metrics {
    /// Asks for them.
    pub fn read(admin: SocketAddr) -> Metrics {
        let mut text = String::new();
        let asked = TcpStream::connect(admin).and_then(|mut stream| {
            stream.set_read_timeout(Some(DEADLINE))?;
            let head =
                format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.read_to_string(&mut text)
        });
        asked.expect("the admin listener answers");
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        Metrics(text)
    }

    /// A value, by its name without `oneloop_`.
    pub fn get(&self, name: &str) -> u64 {
        let mut lines = self.0.lines();
        let value = lines
            .find_map(|line| line.strip_prefix("oneloop_")?.strip_prefix(name)?.strip_prefix(' '));
        value
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no oneloop_{name} in /metrics"))
    }

    /// The buckets of a histogram, by its name without `oneloop_`: up to which value they go, as it stands there, and how many
    /// values were no greater.
    pub fn buckets(&self, name: &str) -> Vec<(String, u64)> {
        let start = format!("oneloop_{name}_bucket{{le=\"");
        let rows = self.0.lines().filter_map(|line| line.strip_prefix(&start));
        let rows = rows.filter_map(|row| {
            let (most, count) = row.split_once("\"} ")?;
            Some((most.to_owned(), count.trim().parse().ok()?))
        });
        rows.collect()
    }
}
