//! All connections of the ZeroMQ port: their admission, and their part of each phase of a turn.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use mio::event::Event;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::reactor::{
    InputState, OtherPorts, Port, PortConnections, PortRegistry, turn_away,
};
use crate::engine::router::Router;
use crate::engine::server::Server;
use crate::features::zeromq::connection::ZeromqConnection;
use crate::features::zeromq::delivery::{CONNECTION, ZeromqDelivery};
use crate::features::zeromq::settings::ZeromqTerms;
use crate::observe::complaints::{Origin, Weight};
use crate::upgrade::{StateError, StateReader};

/// The ZeroMQ port.
pub struct ZeromqPort {
    terms: Rc<ZeromqTerms>,
    /// A stranger among them is one whose handshake is not complete.
    connections: PortConnections<ZeromqConnection>,
    /// The prefix of channels, and the topic of the last message without a channel.
    channel: Vec<u8>,
}

impl ZeromqPort {
    /// The setting that has its address.
    pub const NAME: &str = "zeromq";

    pub fn new(terms: ZeromqTerms) -> ZeromqPort {
        ZeromqPort {
            connections: PortConnections::new(terms.connections_max),
            channel: terms.prefix.clone().into_bytes(),
            terms: Rc::new(terms),
        }
    }
}

impl Port for ZeromqPort {
    fn name(&self) -> &'static str {
        ZeromqPort::NAME
    }

    fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Nothing: a peer reads no reason before the greetings, and comes back by itself.
    fn room_at(&self, now: Millis) -> Millis {
        self.connections.room_at(now)
    }

    fn admit(
        &mut self,
        server: &mut Server,
        registry: PortRegistry<'_>,
        stream: TcpStream,
        address: SocketAddr,
    ) {
        if self.connections.is_full() {
            let max = self.terms.connections_max;
            server.complain(CONNECTION, Weight::Curable, Origin::default(), || {
                format!("turned away: zeromq_connections_max ({max}) are connected")
            });
            if !self.connections.vacate(server) {
                server.metrics().zeromq_refused += 1;
                return turn_away(stream, self.refusal());
            }
        }
        let (now, terms) = (server.now().millis, &self.terms);
        self.connections.enter(registry, stream, address, now, |_, socket| {
            ZeromqConnection::new(socket, terms, address, now)
        });
    }

    fn on_ready(&mut self, number: usize, event: &Event) {
        self.connections.on_ready(number, event);
    }

    /// A connection that was not read comes first in the next turn.
    fn read(
        &mut self,
        router: &mut Router,
        others: OtherPorts<'_>,
        buffer: &mut [u8],
        bytes_max: usize,
    ) -> bool {
        let ZeromqPort { terms, connections, channel } = self;
        let limit = bytes_max.div_ceil(connections.queue.len().max(1));
        let have_waited = !connections.queue.is_empty() && router.server.is_pressed();
        let now = router.server.now().millis;
        let mut delivery = ZeromqDelivery { router, others, terms, channel };
        for _ in 0..connections.queue.len() {
            if delivery.is_pressed() {
                break;
            }
            let Some(number) = connections.queue.pop_front() else { break };
            let Some(connection) = connections.get_mut(number) else { continue };
            let is_put_off = connection.read(&mut delivery, buffer, limit, now);
            delivery.router.server.metrics().source_reads_put_off += u64::from(is_put_off);
            let is_queued = connection.socket.input == InputState::Queued;
            if !connection.peer.is_stranger() {
                connections.prove(number);
            }
            connections.touched.push(number);
            if is_queued {
                connections.queue.push_back(number);
            }
        }
        have_waited
    }

    /// Nothing: these peers only send.
    fn deliver(&mut self, _: &mut Server, _: &[u8], _: &[u8]) -> usize {
        0
    }

    fn flush(&mut self, server: &mut Server) {
        let now = server.now().millis;
        server.metrics().zeromq_failed += self.connections.end_overdue(now) as u64;
        for number in std::mem::take(&mut self.connections.touched) {
            let Some(connection) = self.connections.get_mut(number) else { continue };
            connection.write(now);
            self.connections.settle(number);
        }
    }

    fn reap(&mut self) -> bool {
        !self.connections.reap().is_empty()
    }

    fn deadline(&self, now: Millis) -> Option<Millis> {
        self.connections.next_deadline(now)
    }

    fn portable(&self) -> Vec<(BorrowedFd<'_>, Vec<u8>)> {
        let all = self.connections.iter();
        all.filter_map(|one| Some((one.socket.descriptor(), one.portable()?))).collect()
    }

    fn take_over(
        &mut self,
        _: &mut Server,
        registry: PortRegistry<'_>,
        stream: TcpStream,
        state: &mut StateReader<'_>,
    ) -> Result<(), StateError> {
        let Ok(address) = stream.peer_addr() else { return Ok(()) };
        let terms = &self.terms;
        self.connections.take_over(registry, stream, |_, socket| {
            ZeromqConnection::restored(socket, terms, address, state)
        })
    }

    fn close(&mut self, now: Millis) {
        self.connections.close(|connection| connection.write(now));
    }
}
