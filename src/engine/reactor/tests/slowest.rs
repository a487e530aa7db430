//! The operator's list of the deepest backlogs: a sample of the present clients, and at most once a second.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use crate::Frame;
use crate::engine::client::in_memory::{FarEnds, install};
use crate::engine::reactor::tests::costs::{Costly, HEAD};
use crate::engine::reactor::tests::plan;
use crate::engine::reactor::*;

/// Far ends that send a head, take the response, and read nothing more.
#[derive(Default)]
struct Deaf(BTreeMap<ConnId, [bool; 2]>);

impl FarEnds for Deaf {
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::replace(&mut self.0.entry(id).or_default()[0], true) {
            return Err(ErrorKind::WouldBlock.into());
        }
        buffer[..HEAD.len()].copy_from_slice(HEAD.as_bytes());
        Ok(HEAD.len())
    }

    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        if std::mem::replace(&mut self.0.entry(id).or_default()[1], true) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(bytes.len())
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, _: ConnId) {}
}

#[test]
fn the_deepest_backlogs_are_shown_and_all_are_looked_at_once_a_second() {
    install(Some(Box::new(Deaf::default())));
    let mut reactor = Reactor::new(plan(Costly(0), |_| ())).expect("a port is free");
    let all: Vec<ConnId> = (0..3_000).map(|_| reactor.attach()).collect();
    for id in &all {
        reactor.on_ready(*id, Readiness { readable: true, ..Readiness::default() });
    }
    while reactor.metrics().opened < 3_000 {
        reactor.read_clients();
        reactor.flush();
        reactor.reap();
    }
    // 30 of them, in no order, have one to thirty frames pending.
    for place in 1..=30 {
        let id = all[place * 997 % 3_000];
        (0..place).for_each(|_| reactor.router.server.send(id, &Frame::text("1234")));
        reactor.flush();
    }
    let shown = reactor.router.slowest();
    let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let clients = value["clients"].as_array().unwrap();
    let frames: Vec<u64> = clients.iter().map(|one| one["frames"].as_u64().unwrap()).collect();
    assert_eq!(frames, (21..=30).rev().collect::<Vec<_>>());
    let deepest = &clients[0];
    assert_eq!(deepest["bytes"], 30 * 6);
    assert_eq!(deepest["conn"], reactor.router.server.name_of(all[30 * 997 % 3_000]));
    assert_eq!((&deepest["full"], &deepest["route"]), (&true.into(), &"/".into()));
    assert!(deepest["sub"].is_null() && deepest["topics"] == 0, "{shown}");

    // A client that is gone stays in the list for a second.
    reactor.router.server.terminate(all[30 * 997 % 3_000]);
    reactor.reap();
    assert_eq!(reactor.router.slowest(), shown);
    assert_eq!(reactor.metrics().backlog_walks, 1);
    reactor.router.server.now.millis += 1000;
    let shown = reactor.router.slowest();
    assert!(!shown.contains("\"frames\":30") && shown.contains("\"frames\":20"), "{shown}");
    assert_eq!(reactor.metrics().backlog_walks, 2);
}
