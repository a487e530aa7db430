//! The pages of the admin listener over all loops: the parent asks the workers, and answers when they have, or after a while.

use crate::clock::Millis;
use crate::engine::router::Router;
use crate::engine::router::admin::{AdminPage, AdminRequest, answer};
use crate::loops::link::MalformedLink;
use crate::observe::backlog_report;
use crate::observe::metrics::{LoopReport, Metrics, Snapshot, Usage, render_loops};

/// The time that workers have to answer; the page then says who has not.
const PATIENCE: Millis = 1_000;

/// The number of pages, which a number in a frame is below.
pub const PAGES: usize = AdminPage::ALL.len();

/// The requests that wait, and everything known of the loops.
pub struct Desk {
    loops: Vec<KnownLoop>,
    /// One for each page, in the order of [`AdminPage::ALL`].
    rounds: [Round; PAGES],
    /// The counts of workers that have ended: without them, sums would fall.
    ended: Snapshot,
}

/// A place among the loops.
#[derive(Default)]
struct KnownLoop {
    /// The latest values of its worker.
    latest: Option<Snapshot>,
    restarts: u64,
}

/// A question to all workers. Requests that come meanwhile share its answer.
#[derive(Default)]
struct Round {
    requests: Vec<AdminRequest>,
    /// Its end, if it has begun.
    until: Option<Millis>,
    /// Workers that were asked, and those that have yet to answer, a bit for each.
    asked: u64,
    missing: u64,
    /// The answers, except those of [`AdminPage::Metrics`].
    reports: Vec<String>,
}

/// The contents of a page, as far as this process knows, for [`Desk::take_report`].
pub fn report(router: &mut Router, page: AdminPage) -> Vec<u8> {
    match page {
        AdminPage::Metrics => snapshot(router).encode(),
        AdminPage::Clients => router.slowest().into_bytes(),
        AdminPage::Ready => router.health.problem().unwrap_or_default().into(),
    }
}

fn snapshot(router: &Router) -> Snapshot {
    Snapshot { metrics: router.server.metrics.clone(), gauges: router.gauges() }
}

impl Desk {
    pub fn new(loops: usize) -> Desk {
        let loops = (0..loops).map(|_| KnownLoop::default()).collect();
        Desk { loops, rounds: Default::default(), ended: Snapshot::default() }
    }

    /// Takes requests over. Returns the pages for which `workers`, a bit for each, must be asked now.
    pub fn take_requests(
        &mut self,
        requests: impl Iterator<Item = AdminRequest>,
        workers: u64,
        now: Millis,
    ) -> Vec<AdminPage> {
        requests.for_each(|request| self.rounds[request.page as usize].requests.push(request));
        let is_new = |round: &Round| round.until.is_none() && !round.requests.is_empty();
        let new = AdminPage::ALL.into_iter().filter(|page| is_new(&self.rounds[*page as usize]));
        let new: Vec<AdminPage> = new.collect();
        for page in &new {
            let round = &mut self.rounds[*page as usize];
            (round.until, round.asked, round.missing) = (Some(now + PATIENCE), workers, workers);
        }
        new
    }

    /// Takes the report of a worker.
    ///
    /// # Errors
    /// It is no report on this page.
    pub fn take_report(
        &mut self,
        place: usize,
        page: usize,
        report: &[u8],
    ) -> Result<(), MalformedLink> {
        let round = self.rounds.get_mut(page).ok_or(MalformedLink)?;
        // One that is late counts for the next round, if there is one: it is as good.
        let is_awaited = round.missing & 1 << place != 0;
        round.missing &= !(1 << place);
        if page == AdminPage::Metrics as usize {
            let snapshot = Snapshot::decode(report).ok_or(MalformedLink)?;
            self.loops[place].latest = Some(snapshot);
        } else if is_awaited {
            let report = String::from_utf8(report.to_vec()).map_err(|_| MalformedLink)?;
            round.reports.push(report);
        }
        Ok(())
    }

    /// A worker has begun, in the place of so many that were there before.
    pub fn begin(&mut self, place: usize, predecessors: u64) {
        self.loops[place].restarts = predecessors;
    }

    /// A worker has ended.
    pub fn leave(&mut self, place: usize) {
        for round in &mut self.rounds {
            round.missing &= !(1 << place);
            round.asked &= !(1 << place);
        }
        if let Some(Snapshot { metrics, gauges }) = self.loops[place].latest.take() {
            // Its gauges ended with it.
            let metrics =
                Metrics { presence_users: 0, certificate_ends: Default::default(), ..metrics };
            self.ended.metrics.take_in(&metrics);
            let cpu_seconds = gauges.process.cpu_seconds;
            self.ended.gauges.process.take_in(&Usage { cpu_seconds, ..Usage::default() });
        }
    }

    /// Answers the requests whose round is over. `links`: links to workers, which the router counts among the connections of ports.
    pub fn answer(&mut self, router: &mut Router, links: usize, now: Millis) {
        for page in AdminPage::ALL {
            let round = &self.rounds[page as usize];
            if !round.until.is_some_and(|until| round.missing == 0 || until <= now) {
                continue;
            }
            let round = std::mem::take(&mut self.rounds[page as usize]);
            let contents = match page {
                AdminPage::Metrics => self.metrics(router, links, round.asked & !round.missing),
                AdminPage::Clients => backlog_report::joined(&round.reports, round.missing == 0),
                AdminPage::Ready => readiness(router, round.reports),
            };
            let server = &mut router.server;
            round.requests.iter().for_each(|request| answer(server, request, &contents));
        }
    }

    /// Returns when a round ends at the latest.
    pub fn deadline(&self) -> Option<Millis> {
        self.rounds.iter().filter_map(|round| round.until).min()
    }

    /// The sums, and the values of each loop. `up`: those that have answered, a bit for each.
    fn metrics(&self, router: &Router, links: usize, up: u64) -> String {
        let mut own = snapshot(router);
        own.gauges.publishers = own.gauges.publishers.saturating_sub(links as u64);
        let mut sums = own.clone();
        let mut reports = vec![LoopReport {
            name: "parent".to_owned(),
            is_up: true,
            restarts: 0,
            snapshot: Some(&own),
        }];
        for (place, KnownLoop { latest, restarts }) in self.loops.iter().enumerate() {
            latest.iter().for_each(|latest| sums.take_in(latest));
            reports.push(LoopReport {
                name: place.to_string(),
                is_up: up & 1 << place != 0,
                restarts: *restarts,
                snapshot: latest.as_ref(),
            });
        }
        sums.metrics.take_in(&self.ended.metrics);
        sums.gauges.process.take_in(&self.ended.gauges.process);
        let mut text = sums.metrics.render(&sums.gauges);
        render_loops(&mut text, &reports);
        text
    }
}

/// Returns why the server is not ready: itself, or all of its loops. `reports`: what each of them says, nothing if it is ready.
fn readiness(router: &Router, reports: Vec<String>) -> String {
    if let Some(problem) = router.health.problem() {
        return problem.to_owned();
    }
    match reports.iter().any(String::is_empty) {
        true => String::new(),
        false => reports.into_iter().next().unwrap_or_else(|| "no loop answers".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use crate::config::RouteConfig;
    use crate::engine::client::transport::Transport;
    use crate::engine::reactor::tests::harness::TestLoop;
    use crate::engine::server::ADMIN_ROUTE;
    use crate::engine::slots::ConnId;

    const BOTH: u64 = 0b11;

    /// A parent with a desk for two workers, and a client that is none of its business.
    struct Parent {
        test: TestLoop,
        desk: Desk,
        bystander: ConnId,
    }

    impl Parent {
        fn new() -> Parent {
            let mut test = TestLoop::new(RouteConfig::default(), |_| ());
            let bystander = test.connect("43", &[]);
            test.received_bytes(bystander);
            test.reactor.router.admin_requests = Some(Vec::new());
            Parent { test, desk: Desk::new(2), bystander }
        }

        /// Sends a request. Returns the connection.
        fn request(&mut self, line: &str) -> ConnId {
            let server = &mut self.test.reactor.router.server;
            let id = server.admit(Transport::Memory, Ipv4Addr::LOCALHOST.into(), ADMIN_ROUTE);
            let head = format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            self.test.send_raw(id, head.as_bytes());
            id
        }

        /// Lets the desk take the requests. Returns the pages that it asks both workers for.
        fn asks(&mut self) -> Vec<AdminPage> {
            let router = &mut self.test.reactor.router;
            let requests = router.admin_requests.iter_mut().flat_map(|all| all.drain(..));
            self.desk.take_requests(requests, BOTH, router.server.now.millis)
        }

        fn report(&mut self, place: usize, page: AdminPage, report: &[u8]) {
            self.desk.take_report(place, page as usize, report).expect("it is one");
        }

        /// Lets both workers report as many clients.
        fn both_report(&mut self, clients: u64) {
            (0..2).for_each(|place| self.report(place, AdminPage::Metrics, &numbers(clients)));
        }

        /// The response that a connection has got by now.
        fn response(&mut self, id: ConnId) -> String {
            let router = &mut self.test.reactor.router;
            let now = router.server.now.millis;
            self.desk.answer(router, 0, now);
            self.test.turn();
            assert!(self.test.received_bytes(self.bystander).is_empty());
            String::from_utf8(self.test.received_bytes(id)).unwrap()
        }
    }

    /// The report of a worker with as many clients, which has counted as many deliveries.
    fn numbers(clients: u64) -> Vec<u8> {
        let mut snapshot = Snapshot::default();
        (snapshot.gauges.clients, snapshot.gauges.source_up) = (clients, 1);
        snapshot.metrics.deliveries = clients;
        snapshot.metrics.messages = clients;
        snapshot.gauges.process.cpu_seconds = Some(clients as f64);
        snapshot.encode()
    }

    fn assert_has(text: &str, samples: &[&str]) {
        for sample in samples {
            assert!(text.contains(&format!("\n{sample}\n")), "{sample}\n{text}");
        }
    }

    #[test]
    fn the_metrics_are_those_of_all_loops_and_of_each() {
        let mut parent = Parent::new();
        let ids = [parent.request("GET /metrics"), parent.request("GET /metrics")];
        assert_eq!(parent.asks(), [AdminPage::Metrics]);
        let late = parent.request("GET /metrics");
        assert_eq!(parent.asks(), [], "they were asked already");
        parent.report(0, AdminPage::Metrics, &numbers(3));
        assert_eq!(parent.response(ids[0]), "");
        parent.report(1, AdminPage::Metrics, &numbers(5));
        let expected = [
            // The parent has a client in this test.
            "oneloop_clients 9",
            "oneloop_deliveries_total 8",
            "oneloop_messages_total 5",
            "oneloop_loop_up{loop=\"0\"} 1",
            "oneloop_loop_clients{loop=\"parent\"} 1",
            "oneloop_loop_clients{loop=\"0\"} 3",
            "oneloop_loop_clients{loop=\"1\"} 5",
            "oneloop_loop_cpu_seconds_total{loop=\"1\"} 5",
        ];
        for id in [ids[0], ids[1], late] {
            let text = parent.response(id);
            assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("version=0.0.4"), "{text}");
            assert_has(&text, &expected);
        }
        assert_eq!(parent.desk.deadline(), None);
        let head = parent.request("HEAD /metrics");
        assert_eq!(parent.asks(), [AdminPage::Metrics], "a new round");
        parent.both_report(1);
        let text = parent.response(head);
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\n"), "{text}");
    }

    #[test]
    fn a_loop_that_says_nothing_is_marked_and_keeps_its_latest_values() {
        let mut parent = Parent::new();
        let (first, second) = (parent.request("GET /metrics"), parent.request("GET /clients"));
        assert_eq!(parent.asks(), [AdminPage::Metrics, AdminPage::Clients]);
        parent.both_report(3);
        assert!(!parent.response(first).is_empty());
        parent.report(1, AdminPage::Clients, br#"{"clients":[{"bytes":7}]}"#);
        let third = parent.request("GET /metrics");
        assert_eq!(parent.asks(), [AdminPage::Metrics]);
        parent.report(0, AdminPage::Metrics, &numbers(4));
        parent.test.pass(PATIENCE - 1);
        assert_eq!(parent.response(second) + &parent.response(third), "");
        parent.test.pass(1);
        assert!(
            parent.response(second).ends_with(r#"{"clients":[{"bytes":7}],"incomplete":true}"#)
        );
        let text = parent.response(third);
        assert_has(&text, &["oneloop_clients 8", "oneloop_loop_up{loop=\"1\"} 0"]);
    }

    #[test]
    fn counts_outlive_a_worker_and_its_gauges_do_not() {
        let mut parent = Parent::new();
        for (clients, ends) in [(3, false), (4, true), (1, false)] {
            if ends {
                parent.desk.leave(1);
                parent.desk.begin(1, 1);
            }
            let id = parent.request("GET /metrics");
            parent.asks();
            parent.both_report(clients);
            let text = parent.response(id);
            let (ended, restarts) = if clients == 3 { (0, 0) } else { (3, 1) };
            let sum = |name: &str, add: u64| format!("{name} {}", 2 * clients + add);
            let (clients, deliveries) =
                (sum("oneloop_clients", 1), sum("oneloop_deliveries_total", ended));
            let restarts = format!("oneloop_loop_restarts_total{{loop=\"1\"}} {restarts}");
            assert_has(&text, &[&clients, &deliveries, &restarts]);
        }
        let id = parent.request("GET /metrics");
        parent.asks();
        (0..2).for_each(|place| parent.desk.leave(place));
        let text = parent.response(id);
        let expected =
            ["oneloop_clients 1", "oneloop_deliveries_total 5", "oneloop_loop_up{loop=\"0\"} 0"];
        assert_has(&text, &expected);
        assert!(!text.contains("oneloop_loop_clients{loop=\"0\"}"), "{text}");
    }

    #[test]
    fn the_server_is_ready_if_a_loop_is() {
        for (problems, is_draining, expected) in [
            (["", ""], false, "200"),
            (["no link to Redis for commands", ""], false, "200"),
            (["no link to Redis for commands", "x"], false, "503 no link to Redis for commands"),
            (["", ""], true, "503 draining"),
        ] {
            let mut parent = Parent::new();
            let id = parent.request("GET /readyz");
            assert_eq!(parent.asks(), [AdminPage::Ready]);
            for (place, problem) in problems.iter().enumerate() {
                parent.report(place, AdminPage::Ready, problem.as_bytes());
            }
            parent.test.reactor.router.health.draining = is_draining;
            let text = parent.response(id);
            let (status, problem) = expected.split_once(' ').unwrap_or((expected, "ok"));
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
            assert!(text.ends_with(&format!("\r\n\r\n{problem}\n")), "{text}");
        }
        let mut parent = Parent::new();
        let id = parent.request("GET /readyz");
        parent.asks();
        parent.test.pass(PATIENCE);
        assert!(parent.response(id).ends_with("no loop answers\n"));
    }

    #[test]
    fn a_worker_reports_what_it_would_answer_itself() {
        let mut test = TestLoop::new(RouteConfig::default(), |_| ());
        test.connect("42", &[]);
        let router = &mut test.reactor.router;
        let snapshot = Snapshot::decode(&report(router, AdminPage::Metrics)).expect("it is whole");
        assert_eq!((snapshot.gauges.clients, snapshot.metrics.opened), (1, 1));
        assert_eq!(report(router, AdminPage::Clients), br#"{"clients":[]}"#);
        router.health.no_commands = true;
        assert_eq!(report(router, AdminPage::Ready), b"no link to Redis for commands");
    }

    #[test]
    fn other_requests_are_answered_at_once_and_junk_is_no_report() {
        let mut parent = Parent::new();
        for (line, status) in
            [("GET /healthz", "200"), ("GET /x", "404"), ("OPTIONS /metrics", "204")]
        {
            let id = parent.request(line);
            assert!(parent.response(id).starts_with(&format!("HTTP/1.1 {status} ")), "{line}");
        }
        assert_eq!(parent.asks(), []);
        for (page, report) in
            [(AdminPage::Metrics as usize, &b"x"[..]), (AdminPage::ALL.len(), b"")]
        {
            assert!(parent.desk.take_report(0, page, report).is_err(), "{page}");
        }
        let id = parent.request("GET /readyz");
        parent.asks();
        assert!(parent.desk.take_report(0, AdminPage::Ready as usize, b"\xff").is_err());
        parent.desk.leave(0);
        parent.report(1, AdminPage::Ready, b"");
        assert!(parent.response(id).starts_with("HTTP/1.1 200 "));
    }
}
