//! Addresses of clients behind proxies: far ends supply the peer's address and the proxy's headers.

use std::cell::RefCell;
use std::rc::Rc;

use crate::config::Proxies;
use crate::engine::client::in_memory::install;
use crate::engine::client::proxy_protocol::HEADER_BYTES_MAX;
use crate::engine::handler::{Handler, Reject};
use crate::engine::reactor::tests::harness::Far;
use crate::engine::reactor::tests::plan;
use crate::engine::reactor::*;
use crate::{Message, Request, Scope};

/// A handler that records clients' addresses and messages.
#[derive(Clone, Default)]
struct Recorder(Rc<RefCell<Vec<String>>>);

impl Handler for Recorder {
    fn on_open(&mut self, _: &mut Scope<'_>, _: ConnId, request: &Request) -> Result<(), Reject> {
        self.0.borrow_mut().push(request.address().to_string());
        Ok(())
    }

    fn on_message(&mut self, _: &mut Scope<'_>, _: ConnId, message: Message<'_>) {
        let Message::Text(text) = message else { unreachable!("texts come") };
        self.0.borrow_mut().push(text.to_owned());
    }
}

/// A loop behind a proxy at 10.0.0.1, with one client allowed per address.
struct World {
    reactor: Reactor,
    far: Far,
    recorded: Recorder,
}

const PROXY: &str = "10.0.0.1";

impl World {
    fn new(proxy_protocol: bool) -> World {
        let (far, recorded) = (Far::default(), Recorder::default());
        let mut plan = plan(recorded.clone(), |bounds| bounds.clients_per_address_max = 1);
        plan.proxies = Box::new(proxies(PROXY));
        plan.proxy_protocol = proxy_protocol;
        install(Some(Box::new(far.clone())));
        let reactor = Reactor::new(plan).expect("a port is free");
        World { reactor, far, recorded }
    }

    /// Connects from this address without sending anything.
    fn dial(&mut self, peer: &str) -> ConnId {
        let id = self.reactor.attach();
        let peer = peer.parse().expect("an address");
        self.far.0.borrow_mut().entry(id).or_default().peer = Some(peer);
        id
    }

    fn say(&mut self, id: ConnId, bytes: &[u8]) {
        self.far.0.borrow_mut().entry(id).or_default().sends.extend(bytes);
        self.reactor.on_ready(id, Readiness { readable: true, ..Readiness::default() });
        self.turn();
    }

    fn turn(&mut self) {
        self.reactor.read_clients();
        self.reactor.tick();
        self.reactor.flush();
        self.reactor.reap();
    }

    /// The first twelve bytes that a connection received since the last call.
    fn received(&self, id: ConnId) -> String {
        let received = std::mem::take(&mut self.far.0.borrow_mut().entry(id).or_default().received);
        String::from_utf8_lossy(&received[..received.len().min(12)]).into_owned()
    }

    fn is_closed(&self, id: ConnId) -> bool {
        self.far.0.borrow().get(&id).is_some_and(|end| end.is_closed)
    }

    /// Connects and sends these bytes. Returns the answer.
    fn ask(&mut self, peer: &str, bytes: &[u8]) -> (ConnId, String) {
        let id = self.dial(peer);
        self.say(id, bytes);
        (id, self.received(id))
    }

    fn recorded(&self) -> Vec<String> {
        std::mem::take(&mut *self.recorded.0.borrow_mut())
    }
}

fn proxies(word: &str) -> Proxies {
    Proxies::new(&[word.to_owned()]).expect("a network")
}

fn head(forwarded: &str) -> Vec<u8> {
    let line = match forwarded {
        "" => String::new(),
        _ => format!("X-Forwarded-For: {forwarded}\r\n"),
    };
    format!(
        "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{line}\r\n"
    )
    .into_bytes()
}

/// A header of version 2 with `added` bytes after the addresses.
fn header(command: u8, source: [u8; 4], added: usize) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11, ((12 + added) >> 8) as u8, (12 + added) as u8]);
    header.extend(source);
    header.extend([127, 0, 0, 1, 1, 2, 3, 4]);
    header.resize(header.len() + added, 0);
    header
}

const OPENED: &str = "HTTP/1.1 101";
const CROWDED: &str = "HTTP/1.1 429";

#[test]
fn clients_behind_a_listed_proxy_are_counted_apart() {
    let mut world = World::new(false);
    for (peer, forwarded, answer, address) in [
        (PROXY, "192.0.2.1", OPENED, "192.0.2.1"),
        ("::ffff:10.0.0.1", "192.0.2.2", OPENED, "192.0.2.2"),
        // A client cannot pretend another address by its own headers.
        (PROXY, "192.0.2.3, 192.0.2.1", CROWDED, ""),
        (PROXY, "10.0.0.1, 192.0.2.2", CROWDED, ""),
        // Nor can a client that connects without the proxy.
        ("192.0.2.77", "192.0.2.4", OPENED, "192.0.2.77"),
        ("192.0.2.77", "192.0.2.5", CROWDED, ""),
        ("192.0.2.77", "10.0.0.1", CROWDED, ""),
        // If the proxy's header is absent or malformed, the proxy's address is used.
        (PROXY, "unknown", OPENED, PROXY),
        (PROXY, "", CROWDED, ""),
    ] {
        let (_, received) = world.ask(peer, &head(forwarded));
        assert_eq!(received, answer, "{peer} {forwarded}");
        assert_eq!(world.recorded().concat(), address, "{peer} {forwarded}");
    }
    assert_eq!(world.reactor.metrics().forwarded_malformed, 1);
}

#[test]
fn an_address_is_free_again_when_its_client_is_gone() {
    let mut world = World::new(false);
    let (first, received) = world.ask(PROXY, &head("192.0.2.1"));
    assert_eq!(
        (received.as_str(), world.ask(PROXY, &head("192.0.2.1")).1.as_str()),
        (OPENED, CROWDED)
    );
    world.reactor.router.server.terminate(first);
    // A refused connection lingers, and counts, for five seconds.
    world.reactor.router.server.now.millis += 6_000;
    world.turn();
    assert_eq!(world.ask(PROXY, &head("192.0.2.1")).1, OPENED);
}

/// Refused connections that stay open would fill `clients_max`, which all clients share.
#[test]
fn one_address_cannot_fill_the_server_with_what_was_refused() {
    for proxy_protocol in [false, true] {
        let mut world = World::new(proxy_protocol);
        let request = |last| match proxy_protocol {
            false => head(&format!("192.0.2.{last}")),
            true => [header(0x21, [192, 0, 2, last], 0), head("")].concat(),
        };
        let (first, received) = world.ask(PROXY, &request(1));
        assert_eq!(received, OPENED);
        let refused: Vec<ConnId> = (0..50)
            .map(|_| {
                let (id, received) = world.ask(PROXY, &request(1));
                assert_eq!(received, CROWDED);
                id
            })
            .collect();
        let kept = refused.iter().filter(|id| !world.is_closed(**id)).count();
        assert_eq!((kept, world.is_closed(first)), (4, false));
        assert_eq!(world.reactor.router.server.clients_len(), 5);
        assert_eq!(world.reactor.router.server.places.handshakes.len(), 0);
        assert_eq!(world.reactor.metrics().handshakes_refused, 50);
        assert_eq!(world.ask(PROXY, &request(2)).1, OPENED);
    }
}

#[test]
fn one_address_cannot_hold_the_handshakes_with_what_it_does_not_finish() {
    let mut world = World::new(true);
    let half = [header(0x21, [192, 0, 2, 1], 0), b"GET / HT".to_vec()].concat();
    let all: Vec<ConnId> = (0..50)
        .map(|_| {
            let id = world.dial(PROXY);
            // The header alone, then more of the request: it counts once.
            world.say(id, &half[..30]);
            world.say(id, &half[30..]);
            id
        })
        .collect();
    let kept = all.iter().filter(|id| !world.is_closed(**id)).count();
    assert_eq!((kept, world.reactor.router.server.places.handshakes.len()), (5, 5));
    let other = [header(0x21, [192, 0, 2, 2], 0), head("")].concat();
    assert_eq!(world.ask(PROXY, &other).1, OPENED);
    // Clients of other proxies are counted when their head gives the address.
    let mut world = World::new(true);
    world.reactor.router.addresses.proxies = Box::new(proxies("10.0.0.0/8"));
    for _ in 0..20 {
        let id = world.dial(PROXY);
        world.say(id, &header(0x21, [10, 0, 0, 2], 0));
        assert!(!world.is_closed(id));
    }
}

#[test]
fn other_proxies_are_believed_from_a_reload_on() {
    let mut world = World::new(false);
    assert_eq!(world.ask("192.0.2.9", &head("192.0.2.1")).1, OPENED);
    world.reactor.router.addresses.proxies = Box::new(proxies("192.0.2.0/29"));
    assert_eq!(world.ask(PROXY, &head("192.0.2.2")).1, OPENED);
    assert_eq!(world.ask("192.0.2.7", &head("198.51.100.1")).1, OPENED);
    assert_eq!(world.recorded(), ["192.0.2.9", PROXY, "198.51.100.1"]);
}

#[test]
fn a_proxy_header_may_be_cut_anywhere() {
    let mut world = World::new(true);
    let bystander = world.ask(PROXY, &[header(0x21, [192, 0, 2, 99], 0), head("")].concat()).0;
    assert_eq!(world.recorded(), ["192.0.2.99"]);
    let text = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
    let bytes = [&header(0x21, [192, 0, 2, 1], 9)[..], &head("192.0.2.2"), &text].concat();
    for cut in 1..bytes.len() {
        let id = world.dial(PROXY);
        world.say(id, &bytes[..cut]);
        world.say(id, &bytes[cut..]);
        assert_eq!(world.received(id), OPENED, "cut at {cut}");
        assert_eq!(world.recorded(), ["192.0.2.1", "hi"], "cut at {cut}");
        world.reactor.router.server.terminate(id);
        world.turn();
    }
    let id = world.dial(PROXY);
    bytes.iter().for_each(|byte| world.say(id, &[*byte]));
    assert_eq!(
        (world.received(id).as_str(), world.recorded().concat().as_str()),
        (OPENED, "192.0.2.1hi")
    );
    assert_eq!(world.received(bystander), "");
    assert_eq!(world.reactor.metrics().unproxied, 0);
}

#[test]
fn a_proxy_speaks_for_itself_or_for_another_proxy() {
    let mut world = World::new(true);
    for (command, source, forwarded, address) in [
        // A health check, and the address that the proxy gives in its own head.
        (0x20, [0; 4], "", PROXY),
        (0x20, [0; 4], "192.0.2.1", "192.0.2.1"),
        // It forwards the bytes of the proxy before it, which is listed as well.
        (0x21, [10, 0, 0, 1], "192.0.2.2", "192.0.2.2"),
        // It forwards the bytes of a client.
        (0x21, [192, 0, 2, 3], "192.0.2.4", "192.0.2.3"),
    ] {
        let bytes = [header(command, source, 0), head(forwarded)].concat();
        assert_eq!(world.ask(PROXY, &bytes).1, OPENED, "{source:?} {forwarded}");
        assert_eq!(world.recorded(), [address], "{source:?} {forwarded}");
    }
}

#[test]
fn a_client_whose_address_the_proxy_does_not_know_chooses_none() {
    let mut world = World::new(true);
    let unknown = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";
    for (forwarded, answer) in [("192.0.2.1", OPENED), ("192.0.2.2", CROWDED)] {
        let (_, received) = world.ask(PROXY, &[&unknown[..], &head(forwarded)].concat());
        assert_eq!(received, answer, "{forwarded}");
    }
    assert_eq!(world.recorded(), ["0.0.0.0"]);
}

#[test]
fn what_begins_without_a_proxy_header_is_closed_without_a_word() {
    let mut world = World::new(true);
    let bystander = world.ask(PROXY, &[header(0x21, [192, 0, 2, 99], 0), head("")].concat()).0;
    world.received(bystander);
    let longest = HEADER_BYTES_MAX - 28;
    for (refused, bytes) in [
        head(""),
        [b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n".to_vec(), head("")].concat(),
        [header(0x11, [192, 0, 2, 1], 0), head("")].concat(),
        header(0x21, [192, 0, 2, 1], longest + 1),
    ]
    .into_iter()
    .enumerate()
    {
        let (id, received) = world.ask(PROXY, &bytes);
        assert_eq!((received.as_str(), world.is_closed(id)), ("", true), "{bytes:?}");
        assert_eq!(world.reactor.metrics().unproxied, 1 + refused as u64);
    }
    let bytes = [header(0x21, [192, 0, 2, 1], longest), head("")].concat();
    assert_eq!(world.ask(PROXY, &bytes).1, OPENED);
    assert_eq!((world.received(bystander).as_str(), world.is_closed(bystander)), ("", false));
}

#[test]
fn a_proxy_header_has_the_time_of_a_head() {
    let mut world = World::new(true);
    let header = header(0x21, [192, 0, 2, 1], 0);
    let ids = [&b""[..], &header[..20], &header].map(|bytes| world.ask(PROXY, bytes).0);
    world.reactor.router.server.now.millis += 11_000;
    world.turn();
    assert_eq!(ids.map(|id| world.received(id)), ["HTTP/1.1 408"; 3]);
}

#[test]
fn a_balancer_is_answered_at_a_full_address_and_learns_of_a_drain() {
    let mut world = World::new(false);
    // Above that number there is no response: they count for the proxy.
    let refused: Vec<String> = (0..9).map(|_| world.ask(PROXY, &head("")).1).collect();
    assert_eq!((&*refused[0], &*refused[8]), (OPENED, CROWDED));
    let probes =
        ["GET /healthz HTTP/1.0", "HEAD /healthz HTTP/1.1\r\nHost: h", "OPTIONS / HTTP/1.0"];
    let ask = |world: &mut World| {
        probes.map(|probe| world.ask(PROXY, format!("{probe}\r\n\r\n").as_bytes()).1)
    };
    assert_eq!(ask(&mut world), ["HTTP/1.1 200", "HTTP/1.1 200", "HTTP/1.1 204"]);
    drain::begin(&mut world.reactor);
    assert_eq!(ask(&mut world), ["HTTP/1.1 503"; 3]);
}
