//! `clients_per_address_max` over all loops. A worker tells of an address that has more than a few connections there; from then on
//! each of them knows how many the others have, and refuses the next one itself.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::engine::admission::address_counts::AddressCounts;
use crate::engine::slots::ConnId;
use crate::loops::kinds::*;
use crate::loops::link::{
    Fields, LinkFrame, MalformedLink, write_bytes, write_frame, write_number,
};

/// Returns the number of connections of an address to one of so many workers that are few. There may be as many at each of them, and as
/// many again until the parent has told them of each other.
pub fn few(max: usize, loops: usize) -> usize {
    max / (2 * loops)
}

/// Appends a worker's changes.
pub fn write_changes(counts: &mut AddressCounts, out: &mut Vec<u8>) {
    for change in counts.take_changes() {
        write_frame(out, ADDRESS_COUNT, |out| {
            write_address(out, change.address);
            write_number(out, change.count as u64);
            change.came.iter().for_each(|id| write_number(out, id.number()));
        });
    }
}

/// Handles the number of connections of an address elsewhere.
///
/// # Errors
/// The frame is malformed.
pub fn take_elsewhere(
    counts: &mut AddressCounts,
    frame: LinkFrame<'_>,
) -> Result<(), MalformedLink> {
    let mut fields = Fields::of(frame.body);
    let address = read_address(&mut fields)?;
    let count = fields.truth()?.then(|| fields.number()).transpose()?;
    counts.set_elsewhere(address, count.map(|count| count as usize));
    fields.end()
}

/// Handles the connections of which some are too many, the latest first. `leave` closes one, and returns whether it counts: it may have
/// gone meanwhile.
///
/// # Errors
/// The frame is malformed.
pub fn take_crowd(
    frame: LinkFrame<'_>,
    mut leave: impl FnMut(ConnId) -> bool,
) -> Result<(), MalformedLink> {
    let mut fields = Fields::of(frame.body);
    let mut left = fields.number()?;
    while left > 0 && !fields.is_empty() {
        left -= u64::from(leave(ConnId::of_number(fields.number()?)));
    }
    Ok(())
}

/// The parent's counts of the addresses that are watched.
pub struct AddressTotals {
    loops: usize,
    watched: HashMap<IpAddr, WatchedAddress>,
    /// Addresses of which the workers are to know more.
    changed: BTreeSet<IpAddr>,
}

/// An address with its connections to each worker.
struct WatchedAddress {
    counts: Vec<usize>,
    /// The connections elsewhere that each worker knows of; `None`: it does not watch the address.
    told: Vec<Option<usize>>,
    crowds: Vec<Crowd>,
}

/// Connections to a worker of which so many are too many.
struct Crowd {
    worker: usize,
    excess: usize,
    /// In the order in which they came. Some may have gone.
    came: Vec<u64>,
}

impl AddressTotals {
    pub fn new(loops: usize) -> AddressTotals {
        AddressTotals { loops, watched: HashMap::new(), changed: BTreeSet::new() }
    }

    /// Takes a worker's change of an address that may have `max` connections.
    ///
    /// # Errors
    /// The frame is malformed.
    pub fn take_count(
        &mut self,
        frame: LinkFrame<'_>,
        worker: usize,
        max: usize,
    ) -> Result<(), MalformedLink> {
        let mut fields = Fields::of(frame.body);
        let (address, count) = (read_address(&mut fields)?, fields.number()? as usize);
        let mut came = Vec::new();
        while !fields.is_empty() {
            came.push(fields.number()?);
        }
        let loops = self.loops;
        let of = self.watched.entry(address).or_insert_with(|| WatchedAddress {
            counts: vec![0; loops],
            told: vec![None; loops],
            crowds: Vec::new(),
        });
        of.counts[worker] = count;
        let excess = of.counts.iter().sum::<usize>().saturating_sub(max).min(came.len());
        if excess > 0 {
            of.crowds.push(Crowd { worker, excess, came });
        }
        self.changed.insert(address);
        Ok(())
    }

    /// Appends to the `out` of each worker what it is to know of addresses with at most `max` connections. `attached`: the workers that
    /// can be told, a bit for each.
    pub fn write(&mut self, attached: u64, max: usize, out: &mut [Vec<u8>]) {
        for address in std::mem::take(&mut self.changed) {
            let Some(of) = self.watched.get_mut(&address) else { continue };
            let is_over = of.counts.iter().all(|count| *count <= few(max, out.len()) / 2);
            let total: usize = of.counts.iter().sum();
            for (worker, out) in out.iter_mut().enumerate() {
                let count = (!is_over).then(|| total - of.counts[worker]);
                if attached & 1 << worker == 0 || count == of.told[worker] {
                    continue;
                }
                of.told[worker] = count;
                write_frame(out, ADDRESS_ELSEWHERE, |out| {
                    write_address(out, address);
                    out.push(u8::from(count.is_some()));
                    count.into_iter().for_each(|count| write_number(out, count as u64));
                });
            }
            for Crowd { worker, excess, came } in of.crowds.drain(..) {
                write_frame(&mut out[worker], ADDRESS_CROWDED, |out| {
                    write_number(out, excess as u64);
                    came.iter().rev().for_each(|id| write_number(out, *id));
                });
            }
            if is_over {
                self.watched.remove(&address);
            }
        }
    }

    /// A worker is there that knows of no address yet.
    pub fn join(&mut self) {
        self.changed.extend(self.watched.keys());
    }

    /// A worker is gone with all of its clients.
    pub fn leave(&mut self, worker: usize) {
        for (address, of) in &mut self.watched {
            (of.counts[worker], of.told[worker]) = (0, None);
            of.crowds.retain(|crowd| crowd.worker != worker);
            self.changed.insert(*address);
        }
    }
}

fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => write_bytes(out, &address.octets()),
        IpAddr::V6(address) => write_bytes(out, &address.octets()),
    }
}

fn read_address(fields: &mut Fields<'_>) -> Result<IpAddr, MalformedLink> {
    let octets = fields.bytes()?;
    let short = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let found = short.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
    found.map_err(|_| MalformedLink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::admission::address_counts::AddressLoad;
    use crate::engine::random::Random;
    use crate::loops::link::next_frame;

    const LOOPS: usize = 3;

    /// Workers with their connections, and the frames on their way between them and the parent.
    struct World {
        max: usize,
        totals: AddressTotals,
        workers: Vec<AddressCounts>,
        to_parent: Vec<Vec<u8>>,
        to_worker: Vec<Vec<u8>>,
        /// Connections with their workers, in the order in which they came.
        open: Vec<(usize, ConnId)>,
        latest: u32,
    }

    impl World {
        fn new(max: usize) -> World {
            World {
                max,
                totals: AddressTotals::new(LOOPS),
                workers: (0..LOOPS).map(|_| worker(max)).collect(),
                to_parent: vec![Vec::new(); LOOPS],
                to_worker: vec![Vec::new(); LOOPS],
                open: Vec::new(),
                latest: 0,
            }
        }

        /// A client connects, and stays unless it is refused.
        fn connect(&mut self, at: usize) {
            self.latest += 1;
            let id = ConnId { index: self.latest, generation: 1 };
            self.workers[at].enter(id, address());
            match self.workers[at].load(id) {
                AddressLoad::Within => self.open.push((at, id)),
                _ => self.workers[at].leave(id),
            }
        }

        fn disconnect(&mut self, place: usize) {
            let (at, id) = self.open.remove(place);
            self.workers[at].leave(id);
        }

        fn speak(&mut self, at: usize) {
            write_changes(&mut self.workers[at], &mut self.to_parent[at]);
        }

        fn hear(&mut self, at: usize) {
            let wire = std::mem::take(&mut self.to_parent[at]);
            let mut input = &wire[..];
            while let Some(frame) = next_frame(&mut input).unwrap() {
                self.totals.take_count(frame, at, self.max).expect("it is well-formed");
            }
            self.totals.write(0b111, self.max, &mut self.to_worker);
        }

        fn obey(&mut self, at: usize) {
            let wire = std::mem::take(&mut self.to_worker[at]);
            let mut input = &wire[..];
            while let Some(frame) = next_frame(&mut input).unwrap() {
                if frame.kind == ADDRESS_ELSEWHERE {
                    take_elsewhere(&mut self.workers[at], frame).expect("it is well-formed");
                    continue;
                }
                take_crowd(frame, |id| self.leave_crowd(at, id)).expect("it is well-formed");
            }
        }

        fn leave_crowd(&mut self, at: usize, id: ConnId) -> bool {
            let place = self.open.iter().position(|one| *one == (at, id));
            let is_above = self.workers[at].load(id) > AddressLoad::Within;
            place.into_iter().filter(|_| is_above).for_each(|place| self.disconnect(place));
            place.is_some()
        }

        fn restart(&mut self, at: usize) {
            self.open.retain(|one| one.0 != at);
            (self.to_parent[at], self.to_worker[at]) = (Vec::new(), Vec::new());
            self.workers[at] = worker(self.max);
            self.totals.leave(at);
            self.totals.join();
        }

        fn settle(&mut self) {
            for _ in 0..8 {
                (0..LOOPS).for_each(|at| self.speak(at));
                (0..LOOPS).for_each(|at| self.hear(at));
                (0..LOOPS).for_each(|at| self.obey(at));
            }
        }
    }

    fn worker(max: usize) -> AddressCounts {
        let mut counts = AddressCounts::new(max);
        let few = few(max, LOOPS);
        counts.watch(few, (LOOPS - 1) * few);
        counts
    }

    fn address() -> IpAddr {
        "10.0.0.1".parse().unwrap()
    }

    #[test]
    fn an_address_has_no_more_connections_over_all_workers_and_none_too_few() {
        for seed in 1..400 {
            let mut random = Random::new(seed);
            let mut world = World::new(1 + random.below(20));
            for _ in 0..300 {
                let at = random.below(LOOPS);
                match random.below(12) {
                    0..=4 => world.connect(at),
                    5 if !world.open.is_empty() => {
                        world.disconnect(random.below(world.open.len()));
                    }
                    6 if random.below(10) == 0 => world.restart(at),
                    7 | 8 => world.speak(at),
                    9 | 10 => world.hear(at),
                    _ => world.obey(at),
                }
            }
            world.settle();
            assert!(world.open.len() <= world.max, "seed {seed}");
            for step in 0..world.max - world.open.len() {
                let before = world.open.len();
                world.connect(random.below(LOOPS));
                assert_eq!(world.open.len(), before + 1, "seed {seed}: there is room {step}");
                world.settle();
                assert_eq!(world.open.len(), before + 1, "seed {seed}: it may stay {step}");
            }
            for at in 0..LOOPS {
                world.connect(at);
                assert_eq!(world.open.len(), world.max, "seed {seed}: worker {at} knows");
            }
            while !world.open.is_empty() {
                world.disconnect(0);
                world.settle();
            }
            assert!(world.totals.watched.is_empty(), "seed {seed}");
        }
    }

    #[test]
    fn addresses_come_back() {
        for text in ["10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1"] {
            let (address, mut wire) = (text.parse().unwrap(), Vec::new());
            write_address(&mut wire, address);
            assert_eq!(read_address(&mut Fields::of(&wire)), Ok(address));
        }
        assert_eq!(read_address(&mut Fields::of(&[1, 0, 0, 0, 9])), Err(MalformedLink));
    }
}
