//! A state on its way between two loops of a test: bytes, and copies of the descriptors.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::engine::random::Random;
use crate::engine::reactor::*;
use crate::upgrade::{StateReader, StateSink, StateSource, StateWriter};

#[derive(Default)]
pub struct Parcel {
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl StateSink for Parcel {
    fn send(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        for descriptor in descriptors {
            self.descriptors.push_back(descriptor.try_clone_to_owned()?);
        }
        Ok(())
    }
}

impl StateSource for Parcel {
    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<()> {
        bytes.append(&mut self.bytes);
        fds.append(&mut self.descriptors);
        Ok(())
    }
}

fn packed(reactor: &Reactor) -> Parcel {
    let mut parcel = Parcel::default();
    let mut writer = StateWriter::new(&mut parcel);
    handover::save(reactor, &mut writer);
    writer.finish().expect("a parcel takes all");
    parcel
}

/// Gives a fresh loop the state of one at rest, cut or changed at random.
pub fn garble(mut heir: Reactor, reactor: &Reactor, random: &mut Random) {
    let mut parcel = packed(reactor);
    let bytes = &mut parcel.bytes;
    if random.below(4) == 0 {
        bytes.truncate(random.below(bytes.len()));
    }
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len().max(1));
        bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << random.below(8));
    }
    heir.router.server.now = reactor.router.server.now;
    let _ = handover::restore(&mut heir, &mut StateReader::new(Vec::new(), &mut parcel));
}

/// Moves everything from a loop at rest to a fresh one.
pub fn move_to(mut heir: Reactor, reactor: &Reactor) -> Reactor {
    let mut parcel = packed(reactor);
    heir.router.server.now = reactor.router.server.now;
    saved::take_name(&mut heir.router.server, reactor.router.server.resume.node());
    let mut reader = StateReader::new(Vec::new(), &mut parcel);
    handover::restore(&mut heir, &mut reader).expect("the state is good");
    assert!(reader.u8().is_err(), "nothing is left");
    heir
}
