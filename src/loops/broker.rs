//! The parent's side: starts the workers, hands them the input of the sources, and publishes what their handlers publish.

mod handover;

use std::collections::VecDeque;
use std::rc::Rc;

use mio::event::Event;

use crate::clock::Millis;
use crate::engine::feature::FeatureEvent;
use crate::engine::reactor::{
    HandoverStep, OtherPorts, Port, PortRegistry, SharedListeners, publish_beside,
};
use crate::engine::router::Router;
use crate::engine::server::Server;
use crate::loops::counts::Counts;
use crate::loops::desk::{Desk, PAGES};
use crate::loops::exchange::LoopExchange;
use crate::loops::forwarding::Forwarding;
use crate::loops::hello::Hello;
use crate::loops::kinds::*;
use crate::loops::limits::Limits;
use crate::loops::link::{Fields, MalformedLink, write_frame, write_number};
use crate::loops::members::write_lists;
use crate::loops::process::{
    CommandLine, EndingProcesses, PlaceHistory, WorkerProcess, WorkerStage,
};
use crate::loops::publications::{AwaitedPublication, read_publication, write_answer};
use crate::loops::state::write_state;
use crate::upgrade::StateWriter;
pub use handover::HandedLoops;
use handover::LoopsHandover;

/// Bytes read from one worker in a turn.
const READ_BYTES_PER_TURN: usize = 1 << 20;
/// The parent stood still for this long itself: no worker is to blame.
const FROZEN: Millis = 2_000;

/// A place among the loops.
enum LoopPlace {
    /// The next worker is started at this time.
    Vacant {
        until: Millis,
    },
    Taken(Box<WorkerProcess>),
}

/// The workers, as a port without a listener. Its connections are the links.
pub struct Broker {
    line: CommandLine,
    hello: Hello,
    /// Copies of the workers' listeners: their queues outlive a worker. `None` in a drain.
    listeners: Option<SharedListeners>,
    places: Vec<LoopPlace>,
    histories: Vec<PlaceHistory>,
    /// Places whose first worker does not serve yet; without any the server is ready.
    unready: u64,
    counts: Counts,
    limits: Limits,
    /// Messages of workers that are published, and whose receivers are counted.
    publications: VecDeque<AwaitedPublication>,
    desk: Desk,
    exchange: LoopExchange,
    ending: EndingProcesses,
    handover: LoopsHandover,
    ticked: Millis,
}

impl Broker {
    /// The broker of `hello.loops` workers.
    pub fn new(line: CommandLine, hello: Hello, listeners: SharedListeners) -> Broker {
        let loops = hello.loops;
        Broker {
            line,
            limits: Limits::new(loops, hello.share.unwrap_or(0)),
            hello,
            listeners: Some(listeners),
            places: (0..loops).map(|_| LoopPlace::Vacant { until: 0 }).collect(),
            histories: vec![PlaceHistory::default(); loops],
            unready: u64::MAX >> (64 - loops),
            counts: Counts::default(),
            publications: VecDeque::new(),
            desk: Desk::new(loops),
            exchange: LoopExchange::default(),
            ending: EndingProcesses::default(),
            handover: LoopsHandover::default(),
            ticked: 0,
        }
    }

    fn workers(&mut self) -> impl Iterator<Item = (usize, &mut WorkerProcess)> {
        self.places.iter_mut().enumerate().filter_map(|(place, of)| match of {
            LoopPlace::Taken(worker) => Some((place, &mut **worker)),
            LoopPlace::Vacant { .. } => None,
        })
    }

    fn attached(&mut self) -> impl Iterator<Item = (usize, &mut WorkerProcess)> {
        self.workers().filter(|(_, worker)| worker.stage >= WorkerStage::Attached)
    }

    fn start(&mut self, place: usize, now: Millis) {
        let Some(listeners) = &self.listeners else { return };
        let history = &mut self.histories[place];
        let predecessors = history.starts;
        history.starts += 1;
        let share = self.limits.shares.begin(place);
        let hello = Hello { number: place, predecessors, share, ..self.hello.clone() };
        let own = &listeners.of_each[place];
        self.places[place] = match WorkerProcess::start(&self.line, &hello, own, None, now) {
            Ok(worker) => {
                log::info!("loop {place} is process {}", worker.id());
                self.desk.begin(place, predecessors);
                LoopPlace::Taken(Box::new(worker))
            }
            Err(error) => {
                log::error!("loop {place} cannot be started: {error}");
                LoopPlace::Vacant { until: now + history.pause(0) }
            }
        };
    }

    /// Ends a worker whose link is over, or that is to blame for something.
    fn end(&mut self, place: usize, why: &str, now: Millis) {
        let vacant = LoopPlace::Vacant { until: now };
        let LoopPlace::Taken(worker) = std::mem::replace(&mut self.places[place], vacant) else {
            return;
        };
        let (id, lived) = (worker.id(), now - worker.started);
        self.ending.add(*worker);
        self.counts.leave(place);
        self.desk.leave(place);
        self.exchange.leave(place);
        self.limits.leave(place);
        if self.listeners.is_none() {
            return log::debug!("loop {place} (process {id}) {why}");
        }
        let pause = self.histories[place].pause(lived);
        self.places[place] = LoopPlace::Vacant { until: now + pause };
        log::error!(
            "loop {place} (process {id}) {why}: another one is started in its place, and its clients come back"
        );
    }

    /// Returns whether the sources wait for what a worker has to say.
    fn awaits(&self, place: usize) -> bool {
        self.exchange.deliveries.wait_for(place)
    }

    /// Takes the frames of a worker.
    fn take_frames(
        &mut self,
        place: usize,
        router: &mut Router,
        others: &mut OtherPorts<'_>,
    ) -> Result<(), MalformedLink> {
        loop {
            let LoopPlace::Taken(worker) = &mut self.places[place] else { return Ok(()) };
            let (stage, process) = (worker.stage, worker.id());
            let Some(frame) = worker.link.input.next_frame()? else { return Ok(()) };
            match frame.kind {
                ATTACH if stage == WorkerStage::Starting => {
                    worker.stage = WorkerStage::Asking;
                    self.limits.join();
                }
                SERVING if stage == WorkerStage::Attached => {
                    worker.stage = WorkerStage::Serving;
                    self.unready &= !(1 << place);
                }
                PULSE => worker.clients = Fields::of(frame.body).number()? as usize,
                COUNTS => {
                    let mut fields = Fields::of(frame.body);
                    while !fields.is_empty() {
                        self.counts.add(place, fields.number()?, fields.number()? as usize);
                    }
                }
                REPORT => {
                    let mut fields = Fields::of(frame.body);
                    let (page, report) = (fields.number_below(PAGES)?, fields.bytes()?);
                    self.desk.take_report(place, page, report)?;
                }
                PUBLISH => {
                    let publication = read_publication(frame)?;
                    let (ticket, channel, payload) =
                        (publication.0, publication.1.to_vec(), publication.2.to_vec());
                    self.publish((place, process, ticket), &channel, &payload, router, others);
                }
                AT_REST => self.handover.rested |= 1 << place,
                USERS | USERS_AGAIN | ADDRESS_COUNT | SHARE_USE => {
                    self.limits.take_frame(frame, place, router.server.bounds())?;
                }
                _ => {
                    let is_enough = self.exchange.take_frame((place, process), frame, router)?;
                    if is_enough {
                        worker.link.read_on();
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Publishes a message of a worker's handler.
    fn publish(
        &mut self,
        (place, process, ticket): (usize, u32, u64),
        channel: &[u8],
        payload: &[u8],
        router: &mut Router,
        others: &mut OtherPorts<'_>,
    ) {
        if router.server.is_pressed() {
            let why = "a loop has too much to read: try again".to_owned();
            return self.answer(place, process, ticket, Err(why));
        }
        let subscribers = others.deliver(&mut router.server, channel, payload);
        let answer = match publish_beside(router, subscribers, channel, payload) {
            Ok(receivers) => match receivers.elsewhere {
                Some(number) => {
                    let here = receivers.here;
                    let publication = AwaitedPublication { number, place, process, ticket, here };
                    return self.publications.push_back(publication);
                }
                None => Ok(receivers.here),
            },
            Err(why) => Err(why),
        };
        self.answer(place, process, ticket, answer);
    }

    /// Answers the handler of a worker, if that is still the same process.
    fn answer(&mut self, place: usize, process: u32, ticket: u64, answer: Result<usize, String>) {
        let LoopPlace::Taken(worker) = &mut self.places[place] else { return };
        if worker.id() != process {
            return;
        }
        write_answer(&mut worker.link.tail, ticket, answer);
    }

    /// Hands the input of this turn to the workers, and the state to those that have asked for it.
    fn forward(&mut self, router: &mut Router) {
        let Some(forwarding) = Forwarding::of(router) else { return };
        let mut batch = std::mem::take(&mut forwarding.batch);
        let counted = std::mem::take(&mut forwarding.counted);
        let deliveries = std::mem::take(&mut forwarding.deliveries);
        let places = self.attached().fold(0, |places, (place, _)| places | 1 << place);
        counted.into_iter().for_each(|number| self.counts.expect(number, places));
        self.exchange.expect(deliveries, places);
        if !batch.is_empty() {
            let next = router.server.resume.history.next();
            write_frame(&mut batch, NEXT, |out| write_number(out, next));
            let batch: Rc<[u8]> = batch.into();
            self.attached().for_each(|(_, worker)| worker.link.share(&batch));
        }
        let asking = self.workers().filter(|(_, worker)| worker.stage == WorkerStage::Asking);
        for (_, worker) in asking {
            write_state(&mut worker.link.tail, router);
            worker.stage = WorkerStage::Attached;
        }
        let attached = self.attached().fold(0, |places, (place, _)| places | 1 << place);
        self.limits.end_turn(attached, router.server.bounds(), router.server.now().millis);
        for (place, of) in self.places.iter_mut().enumerate() {
            if let LoopPlace::Taken(worker) = of {
                self.limits.write(place, &mut worker.link.tail);
            }
        }
        let has_workers = self.attached().next().is_some();
        Forwarding::of(router).into_iter().for_each(|it| it.has_workers = has_workers);
    }

    /// Asks the workers for the pages that the operator wants, and answers for all of them.
    fn serve_desk(&mut self, router: &mut Router, now: Millis) {
        let workers = self.attached().fold(0, |places, (place, _)| places | 1 << place);
        let requests = router.admin_requests.iter_mut().flat_map(|all| all.drain(..));
        for page in self.desk.take_requests(requests, workers, now) {
            for (_, worker) in self.attached() {
                write_frame(&mut worker.link.tail, QUESTION, |out| write_number(out, page as u64));
            }
        }
        let links = self.connections();
        self.desk.answer(router, links, now);
    }

    /// Brings the numbers of receivers that all workers have told to those who wait for them.
    fn bring_counts(&mut self, router: &mut Router, others: &mut OtherPorts<'_>) {
        while let Some((number, count)) = self.counts.pop() {
            others.on_counted(number, count);
            router.notify_features(FeatureEvent::Counted { number, count });
            while let Some(next) = self.publications.front()
                && next.number <= number
            {
                let AwaitedPublication { place, process, ticket, here, .. } = *next;
                self.publications.pop_front();
                self.answer(place, process, ticket, Ok(here.saturating_add(count)));
            }
        }
    }
}

impl Port for Broker {
    fn name(&self) -> &'static str {
        "loops"
    }

    fn connections(&self) -> usize {
        let is_taken = |place: &&LoopPlace| matches!(place, LoopPlace::Taken(_));
        self.places.iter().filter(is_taken).count() + self.ending.count()
    }

    fn clients(&self) -> usize {
        let taken = self.places.iter().filter_map(|place| match place {
            LoopPlace::Taken(worker) => Some(worker.clients),
            LoopPlace::Vacant { .. } => None,
        });
        taken.fold(0, usize::saturating_add)
    }

    fn on_ready(&mut self, number: usize, event: &Event) {
        if let Some(LoopPlace::Taken(worker)) = self.places.get_mut(number) {
            worker.link.note(event);
        }
    }

    fn read(
        &mut self,
        router: &mut Router,
        mut others: OtherPorts<'_>,
        buffer: &mut [u8],
        _bytes_max: usize,
    ) -> bool {
        let now = router.server.now().millis;
        for place in 0..self.places.len() {
            let LoopPlace::Taken(worker) = &mut self.places[place] else { continue };
            if !worker.link.has_more() {
                continue;
            }
            // Frames that were left in the last turn come first.
            let has_frame = worker.link.input.has_frame() == Ok(true);
            if has_frame || worker.link.read(buffer, READ_BYTES_PER_TURN) > 0 {
                worker.heard = now;
            }
            if self.take_frames(place, router, &mut others).is_err() {
                self.end(place, "sent what cannot be read", now);
            }
        }
        false
    }

    fn deliver(&mut self, _: &mut Server, _: &[u8], _: &[u8]) -> usize {
        // The observer sees it.
        0
    }

    fn tick(
        &mut self,
        router: &mut Router,
        mut others: OtherPorts<'_>,
        registry: PortRegistry<'_>,
    ) {
        let now = router.server.now().millis;
        if now > self.ticked + FROZEN {
            self.workers().for_each(|(_, worker)| worker.forgive(now));
        }
        self.ticked = now;
        for place in 0..self.places.len() {
            match &self.places[place] {
                LoopPlace::Taken(worker) if worker.link.is_over() => self.end(place, "ended", now),
                LoopPlace::Taken(worker) if worker.hangs(self.awaits(place), now) => {
                    self.end(place, "hangs", now);
                }
                LoopPlace::Vacant { until } if *until <= now => self.start(place, now),
                _ => {}
            }
        }
        self.ending.reap();
        self.exchange.tick(router);
        self.workers().for_each(|(place, worker)| _ = worker.link.register(&registry, place));
        self.forward(router);
        self.bring_counts(router, &mut others);
        self.serve_desk(router, now);
    }

    fn is_ready(&self) -> bool {
        self.unready == 0
    }

    fn is_at_rest(&self, router: &Router) -> Option<bool> {
        Some(self.rests(router))
    }

    fn on_handover(&mut self, step: HandoverStep, now: Millis) -> Result<(), String> {
        self.step(step, now)
    }

    fn save_ahead<'a>(&'a self, writer: &mut StateWriter<'a>) {
        self.write_ahead(writer);
    }

    fn on_reload(&mut self) {
        self.attached().for_each(|(_, worker)| write_frame(&mut worker.link.tail, RELOAD, |_| {}));
    }

    fn flush(&mut self, server: &mut Server) {
        let now = server.now().millis;
        let outputs = self.attached().map(|(_, worker)| (worker.id(), &mut worker.link.tail));
        write_lists(server, outputs);
        self.workers().for_each(|(_, worker)| worker.link.write(now));
        let is_behind = self.workers().any(|(_, worker)| worker.is_behind());
        server.pending.is_held = is_behind || self.exchange.deliveries.is_full();
    }

    fn reap(&mut self) -> bool {
        false
    }

    fn deadline(&self, now: Millis) -> Option<Millis> {
        let is_serving = self.listeners.is_some();
        let times = self.places.iter().enumerate().filter_map(|(place, of)| match of {
            LoopPlace::Vacant { until } => is_serving.then_some(*until),
            LoopPlace::Taken(worker) if worker.link.has_work() => Some(now),
            LoopPlace::Taken(worker) => Some(worker.deadline(self.awaits(place))),
        });
        let own = [self.desk.deadline(), self.exchange.deadline(now), self.limits.deadline()];
        let others = own.into_iter().chain([self.ending.deadline(now)]).flatten();
        times.chain(others).chain([self.ticked + FROZEN / 2]).min()
    }

    fn close(&mut self, now: Millis) {
        self.listeners = None;
        let of = self.places.len() as u64;
        for (place, worker) in self.attached() {
            write_frame(&mut worker.link.tail, DRAIN, |out| {
                write_number(out, place as u64);
                write_number(out, of);
            });
        }
        for place in 0..self.places.len() {
            if matches!(&self.places[place], LoopPlace::Taken(worker) if worker.stage < WorkerStage::Attached)
            {
                self.end(place, "had not begun", now);
            }
        }
    }
}
