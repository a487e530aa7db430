//! What handlers take long for has a bound per turn, too.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};

use super::tests::plan;
use super::*;
use crate::client::memory::{FarEnds, install};
use crate::handler::{Handler, Reject};
use crate::{Request, Server};

/// Checks a signature for everyone who comes.
struct Costly;

impl Handler for Costly {
    fn on_open(&mut self, server: &mut Server, _: ConnId, _: &Request) -> Result<(), Reject> {
        server.count_costly();
        Ok(())
    }

    fn on_message(&mut self, _: &mut Server, _: ConnId, _: &str) {}

    fn on_publish(&mut self, _: &mut Server, _: &str, _: &[u8]) -> usize {
        0
    }

    fn on_close(&mut self, _: &mut Server, _: ConnId) {}
}

/// Everyone has sent one head.
#[derive(Default)]
struct Heads(BTreeSet<ConnId>);

impl FarEnds for Heads {
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.0.insert(id) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let head = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        buffer[..head.len()].copy_from_slice(head.as_bytes());
        Ok(head.len())
    }

    fn write(&mut self, _: ConnId, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, _: ConnId) {}
}

#[test]
fn heads_that_end_at_once_are_checked_some_in_a_turn() {
    install(Some(Box::new(Heads::default())));
    let mut reactor = Reactor::new(plan(Costly, |_| ())).expect("a port is free");
    for _ in 0..1000 {
        let id = reactor.attach();
        reactor.on_ready(id, Readiness { readable: true, ..Readiness::default() });
    }
    let mut opened = 0;
    while opened < 1000 {
        reactor.read_clients();
        let more = reactor.metrics().opened - opened;
        assert!((1..=64).contains(&more), "{more} in one turn");
        opened += more;
        reactor.flush();
        reactor.reap();
    }
}
