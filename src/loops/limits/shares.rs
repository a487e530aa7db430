//! `clients_max` over all loops: each worker is lent a share of it, and the parent moves places to where clients come.
//!
//! The shares together are never more than the whole: a worker's share grows only by what others have given back. While there is room, a
//! worker speaks of its share only once most of it is taken. When places are scarce all of them tell how many they need.

use crate::clock::Millis;
use crate::engine::server::Server;
use crate::loops::kinds::*;
use crate::loops::link::{Fields, LinkFrame, MalformedLink, write_frame, write_number};
use crate::upgrade::{StateReader, StateWriter};

/// Milliseconds between two times that places are moved, and between two requests of a worker for more, unless places are scarce.
const PAUSE: Millis = 2;

/// A worker asks for more when less than this part of its share is free: a quarter.
const FREE_PART: usize = 4;

/// Places are scarce when less than this part of all is free: an eighth. Then a worker tells of changes by this part of its share.
const SCARCE_PART: usize = 8;
const TOLD_PART: usize = 64;

/// A worker's own share.
pub struct ClientShare {
    /// Clients for which the process has descriptors.
    room: usize,
    /// It is lent; else `clients_max` is off, and the room is the bound.
    is_lent: bool,
    share: usize,
    is_scarce: bool,
    /// The number of clients that the parent knows of, and the time at which it was told.
    told: usize,
    told_at: Millis,
    /// The parent waits for an answer.
    answers: bool,
}

impl ClientShare {
    pub fn new(room: usize, lent: Option<usize>) -> ClientShare {
        let (is_lent, share) = (lent.is_some(), lent.unwrap_or(room));
        ClientShare { room, is_lent, share, is_scarce: false, told: 0, told_at: 0, answers: false }
    }

    pub fn save(&self, writer: &mut StateWriter<'_>) {
        writer.u64(self.share as u64);
    }

    /// Takes over the share of the worker whose place this one takes, with its clients: the shares of all workers together are never
    /// more than the whole then. The parent hears of it before it moves places.
    pub fn restore(&mut self, server: &mut Server, reader: &mut StateReader<'_>) {
        // An older process says nothing: all but its clients may be lent to others.
        let before = reader.u64().unwrap_or(0) as usize;
        let taken = server.places.settled_len(&server.clients);
        self.inherit(before, taken);
        if self.is_lent {
            server.bounds.clients_max = self.share;
        }
    }

    fn inherit(&mut self, before: usize, taken: usize) {
        self.answers = true;
        self.share = taken.max(before.min(self.share)).max(1);
    }

    /// Takes a share in place of the one before. Places that are taken, and some more, are not given back at once.
    ///
    /// # Errors
    /// The frame is malformed.
    pub fn take_order(
        &mut self,
        server: &mut Server,
        frame: LinkFrame<'_>,
    ) -> Result<(), MalformedLink> {
        self.share = self.take(share_of(server), frame)?;
        server.bounds.clients_max = self.share;
        Ok(())
    }

    /// Returns the share to have, for one of which a part is taken.
    fn take(
        &mut self,
        (share, taken): (usize, usize),
        frame: LinkFrame<'_>,
    ) -> Result<usize, MalformedLink> {
        let mut fields = Fields::of(frame.body);
        let (wanted, is_lent) = (fields.number()? as usize, fields.truth()?);
        self.is_scarce = fields.truth()?;
        self.answers = true;
        let was_lent = std::mem::replace(&mut self.is_lent, is_lent);
        // The parent may not know of all clients here: half of the free places stay for the next ones.
        let kept = taken + share.saturating_sub(taken) / 2;
        fields.end().map(|()| match is_lent {
            true if was_lent && wanted < share => share.min(wanted.max(kept)),
            true => wanted.min(self.room),
            false => self.room,
        })
    }

    /// Appends what the parent must know.
    pub fn write(&mut self, server: &Server, out: &mut Vec<u8>) {
        self.tell(share_of(server), server.now().millis, out);
    }

    /// Returns when the parent must know something.
    pub fn due(&self, server: &Server) -> Option<Millis> {
        self.due_with(share_of(server))
    }

    fn tell(&mut self, (share, taken): (usize, usize), now: Millis, out: &mut Vec<u8>) {
        if self.due_with((share, taken)).is_some_and(|due| due <= now) {
            (self.told, self.told_at) = (taken, now);
            write_frame(out, SHARE_USE, |out| {
                write_number(out, share as u64);
                write_number(out, taken as u64);
                out.push(u8::from(std::mem::take(&mut self.answers)));
            });
        }
    }

    fn due_with(&self, (share, taken): (usize, usize)) -> Option<Millis> {
        let is_near = || taken + share / FREE_PART >= share && share < self.room;
        let has_news = match self.is_scarce {
            true => taken.abs_diff(self.told) > share / TOLD_PART,
            false => taken != self.told && is_near(),
        };
        match has_news && self.is_lent {
            _ if self.answers => Some(0),
            true if self.is_scarce => Some(0),
            true => Some(self.told_at + PAUSE),
            false => None,
        }
    }
}

/// The share of a worker, and the clients that take it.
fn share_of(server: &Server) -> (usize, usize) {
    (server.bounds().clients_max, server.places.settled_len(&server.clients))
}

/// The parent's view of the shares.
pub struct ClientShares {
    /// `clients_max`; 0: off.
    max: usize,
    of: Vec<LentShare>,
    is_scarce: bool,
    /// Places may have to be moved.
    is_due: bool,
    moved: Millis,
    /// Workers that have yet to tell what they took over, a bit for each: no place is moved before.
    unheard: u64,
}

#[derive(Clone, Default)]
struct LentShare {
    /// The worker has no more than this.
    lent: usize,
    /// Its clients, as far as is known.
    clients: usize,
    /// It was told another share, and has not answered.
    is_awaited: bool,
    /// It was told that places are scarce.
    is_scarce: bool,
}

impl ClientShares {
    pub fn new(max: usize, loops: usize) -> ClientShares {
        let of = vec![LentShare::default(); loops];
        ClientShares { max, of, is_scarce: false, is_due: false, moved: 0, unheard: 0 }
    }

    /// All workers have taken the places of others, and will tell which shares they have.
    pub fn await_all(&mut self) {
        self.unheard = u64::MAX >> (64 - self.of.len());
        self.is_due = true;
    }

    /// Returns whether it is known what this worker has, and not what others have.
    pub fn awaits_others(&self, worker: usize) -> bool {
        !self.are_known() && self.unheard & 1 << worker == 0
    }

    /// Returns whether it is known what each worker has.
    pub fn are_known(&self) -> bool {
        self.unheard == 0
    }

    /// Lends a share to a worker that starts; `None`: `clients_max` is off. A worker has one place at least.
    pub fn begin(&mut self, worker: usize) -> Option<usize> {
        self.of[worker] = LentShare::default();
        if self.max == 0 {
            return None;
        }
        let fair = self.max.div_ceil(self.of.len());
        self.of[worker].lent = fair.min(self.spare()).max(1);
        Some(self.of[worker].lent)
    }

    /// A worker is there that may have to be told more.
    pub fn join(&mut self) {
        self.is_due = true;
    }

    /// A worker is gone with all of its clients.
    pub fn leave(&mut self, worker: usize) {
        self.of[worker] = LentShare::default();
        self.unheard &= !(1 << worker);
        self.is_due = true;
    }

    /// Takes a worker's word.
    ///
    /// # Errors
    /// The frame is malformed.
    pub fn take_use(&mut self, frame: LinkFrame<'_>, worker: usize) -> Result<(), MalformedLink> {
        let mut fields = Fields::of(frame.body);
        let (share, clients) = (fields.number()? as usize, fields.number()? as usize);
        let of = &mut self.of[worker];
        of.clients = clients;
        if fields.truth()? {
            of.lent = if self.max == 0 { 0 } else { share };
            of.is_awaited = false;
            self.unheard &= !(1 << worker);
        }
        self.is_due = true;
        fields.end()
    }

    /// Returns when places may have to be moved.
    pub fn deadline(&self) -> Option<Millis> {
        let pause = if self.is_scarce { 0 } else { PAUSE };
        (self.is_due && self.are_known()).then_some(self.moved + pause)
    }

    /// Appends new shares of `max` places to the `out` of workers, if it is time for that. `attached`: the workers that can be told, a
    /// bit for each.
    pub fn write(&mut self, max: usize, attached: u64, now: Millis, out: &mut [Vec<u8>]) {
        if !self.are_known() {
            return;
        }
        let is_other = std::mem::replace(&mut self.max, max) != max;
        if !is_other && self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        (self.is_due, self.moved) = (false, now);
        let (loops, was_scarce) = (self.of.len(), self.is_scarce);
        let free = max.saturating_sub(self.of.iter().map(|one| one.clients).sum());
        // It ends later than it begins: places become scarce once, not at each client.
        let part = if was_scarce { SCARCE_PART / 2 } else { SCARCE_PART };
        // With fewer than one for each, none is moved to where clients come unless all tell what they need.
        self.is_scarce = free * part < max || max > 0 && free < loops;
        let each = free / loops;
        let is_short = |one: &LentShare| 2 * one.lent.saturating_sub(one.clients) < each.max(1);
        let is_calm = !self.is_scarce && !was_scarce && !is_other;
        if is_calm && !self.of.iter().any(is_short) {
            return;
        }
        for worker in 0..loops {
            let spare = self.spare();
            let of = &mut self.of[worker];
            if of.is_awaited || attached & 1 << worker == 0 {
                continue;
            }
            let wanted = of.clients + each + usize::from(worker < free % loops);
            let share = if max == 0 { 0 } else { wanted.min(of.lent + spare).max(1) };
            if share == of.lent && of.is_scarce == self.is_scarce {
                continue;
            }
            // A smaller share holds once the worker has answered.
            of.lent = if max == 0 { 0 } else { of.lent.max(share) };
            (of.is_awaited, of.is_scarce) = (true, self.is_scarce);
            write_frame(&mut out[worker], SHARE, |out| {
                write_number(out, share as u64);
                out.extend([max > 0, of.is_scarce].map(u8::from));
            });
        }
    }

    /// Places that are lent to nobody.
    fn spare(&self) -> usize {
        let lent = self.of.iter().map(|one| one.lent).sum();
        if self.are_known() { self.max.saturating_sub(lent) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use crate::loops::link::next_frame;

    const LOOPS: usize = 3;

    /// Workers that admit clients as far as their shares go, and the frames on their way.
    struct World {
        max: usize,
        now: Millis,
        shares: ClientShares,
        workers: Vec<Worker>,
        to_worker: Vec<Vec<u8>>,
        to_parent: Vec<Vec<u8>>,
    }

    struct Worker {
        share: usize,
        clients: usize,
        own: ClientShare,
    }

    impl Worker {
        fn new(share: usize) -> Worker {
            Worker { share, clients: 0, own: ClientShare::new(1000, Some(share)) }
        }
    }

    impl World {
        fn new(max: usize) -> World {
            let mut shares = ClientShares::new(max, LOOPS);
            let lent = (0..LOOPS).map(|at| shares.begin(at).expect("there is a limit"));
            let workers = lent.map(Worker::new).collect();
            let (to_worker, to_parent) = (vec![Vec::new(); LOOPS], vec![Vec::new(); LOOPS]);
            World { max, now: 100, shares, workers, to_worker, to_parent }
        }

        /// A client connects. Returns whether it is admitted.
        fn connect(&mut self, at: usize) -> bool {
            let worker = &mut self.workers[at];
            let has_room = worker.clients < worker.share;
            worker.clients += usize::from(has_room);
            has_room
        }

        fn speak(&mut self, at: usize) {
            let Worker { share, clients, own } = &mut self.workers[at];
            own.tell((*share, *clients), self.now, &mut self.to_parent[at]);
        }

        fn hear(&mut self, at: usize) {
            let wire = std::mem::take(&mut self.to_parent[at]);
            let mut input = &wire[..];
            while let Some(frame) = next_frame(&mut input).unwrap() {
                self.shares.take_use(frame, at).expect("it is well-formed");
            }
            self.shares.write(self.max, 0b111, self.now, &mut self.to_worker);
        }

        /// All processes are replaced, once nothing is under way.
        fn upgrade(&mut self) {
            (0..LOOPS).for_each(|at| self.obey(at));
            self.to_parent = vec![Vec::new(); LOOPS];
            self.shares = ClientShares::new(self.max, LOOPS);
            for (at, Worker { share, clients, own }) in self.workers.iter_mut().enumerate() {
                let fair = self.shares.begin(at).expect("there is a limit");
                *own = ClientShare::new(1000, Some(fair));
                own.inherit(*share, *clients);
                *share = own.share;
            }
            self.shares.await_all();
        }

        fn obey(&mut self, at: usize) {
            let wire = std::mem::take(&mut self.to_worker[at]);
            let mut input = &wire[..];
            while let Some(frame) = next_frame(&mut input).unwrap() {
                let Worker { share, clients, own } = &mut self.workers[at];
                *share = own.take((*share, *clients), frame).expect("it is well-formed");
            }
        }

        fn restart(&mut self, at: usize) {
            (self.to_parent[at], self.to_worker[at]) = (Vec::new(), Vec::new());
            self.shares.leave(at);
            let share = self.shares.begin(at).expect("there is a limit");
            self.workers[at] = Worker::new(share);
            self.shares.join();
        }

        fn settle(&mut self) {
            for _ in 0..12 {
                self.now += PAUSE;
                (0..LOOPS).for_each(|at| self.speak(at));
                (0..LOOPS).for_each(|at| self.hear(at));
                (0..LOOPS).for_each(|at| self.obey(at));
            }
        }

        fn clients(&self) -> usize {
            self.workers.iter().map(|worker| worker.clients).sum()
        }

        /// The most clients: a worker that starts when all places are taken has one all the same.
        fn most(&self, restarts: usize) -> usize {
            self.max + restarts.min(LOOPS)
        }
    }

    #[test]
    fn places_go_where_clients_come_and_are_never_lent_twice() {
        for seed in 1..300 {
            let mut random = Random::new(seed);
            let mut world = World::new(LOOPS + random.below(200));
            let (mut restarts, favourite) = (0, random.below(LOOPS));
            for _ in 0..2000 {
                let at = if random.below(3) == 0 { random.below(LOOPS) } else { favourite };
                match random.below(14) {
                    0..=5 => _ = world.connect(at),
                    6 | 7 => {
                        let worker = &mut world.workers[random.below(LOOPS)];
                        worker.clients = worker.clients.saturating_sub(random.below(3));
                    }
                    8 if random.below(60) == 0 => {
                        world.restart(at);
                        restarts += 1;
                    }
                    8 if random.below(30) == 0 => world.upgrade(),
                    9 => world.speak(at),
                    10 | 11 => world.hear(at),
                    12 => world.obey(at),
                    _ => world.now += 1,
                }
                assert!(world.clients() <= world.most(restarts), "seed {seed}");
            }
            world.settle();
            // All come to one of them: it admits almost as many as there is room for.
            let mut refused = 0;
            while world.clients() < world.max && refused < 3 {
                refused += usize::from(!world.connect(favourite));
                world.settle();
            }
            assert!(world.clients() <= world.most(restarts), "seed {seed}");
            let slack = LOOPS * (1 + world.max / TOLD_PART);
            assert!(world.clients() + slack >= world.max, "seed {seed}: {}", world.clients());
        }
    }

    #[test]
    fn a_limit_that_is_far_away_is_not_spoken_of() {
        let mut world = World::new(300);
        for at in [0, 1, 2].repeat(70) {
            assert!(world.connect(at));
            (0..LOOPS).for_each(|at| world.speak(at));
            assert!(world.to_parent.iter().all(Vec::is_empty));
            world.now += PAUSE;
        }
        assert!(world.shares.deadline().is_none());
    }

    #[test]
    fn a_reload_moves_the_limit_in_both_directions_and_turns_it_off() {
        let mut world = World::new(30);
        (0..30).for_each(|number| _ = world.connect(number % LOOPS));
        world.settle();
        assert_eq!(world.clients(), 30);
        for max in [90, 30, 0, 60] {
            world.max = max;
            (0..LOOPS).for_each(|at| world.hear(at));
            world.settle();
            let shares: usize = world.workers.iter().map(|worker| worker.share).sum();
            match max {
                0 => assert_eq!(shares, LOOPS * 1000, "all that the descriptors allow"),
                _ => assert!(shares <= max, "{shares} of {max}"),
            }
            world.settle();
            assert!(world.to_worker.iter().chain(&world.to_parent).all(Vec::is_empty));
        }
    }
}
