//! Messages on their way from a peer of the ZeroMQ port to clients, and the operator's lines about others.

use std::net::SocketAddr;

use crate::engine::reactor::{OtherPorts, publish_beside};
use crate::engine::router::Router;
use crate::features::zeromq::peer::{Fault, PeerEvent};
use crate::features::zeromq::settings::ZeromqTerms;
use crate::features::zeromq::topic::topic_of;
use crate::observe::complaints::{Origin, Weight};

/// The kinds of the operator's lines.
pub const CONNECTION: &str = "zeromq";
const MESSAGE: &str = "zeromq message";

/// Everything that messages touch: the clients of all routes, and the receivers at other ports.
pub struct ZeromqDelivery<'a, 'ports> {
    pub router: &'a mut Router,
    pub others: OtherPorts<'ports>,
    pub terms: &'a ZeromqTerms,
    /// The prefix of channels, and the topic of an earlier message.
    pub channel: &'a mut Vec<u8>,
}

impl ZeromqDelivery<'_, '_> {
    /// Handles an event of the peer at this address.
    pub fn on_event(&mut self, event: PeerEvent<'_>, address: SocketAddr) {
        match event {
            PeerEvent::Ready => {}
            PeerEvent::Message { channel, payload } => {
                publish(self.router, &mut self.others, &channel, &payload);
            }
            PeerEvent::Object(object) => match topic_of(&object, &self.terms.topic_field) {
                Ok(topic) => {
                    self.channel.truncate(self.terms.prefix.len());
                    self.channel.extend_from_slice(topic.as_bytes());
                    publish(self.router, &mut self.others, self.channel, &object);
                }
                Err(why) => self.drop_malformed(why, address),
            },
            PeerEvent::Oversized => self.router.oversized(),
            PeerEvent::Malformed(why) => self.drop_malformed(why, address),
            PeerEvent::Failed(fault) => self.on_failed(fault, address),
        }
    }

    /// Returns whether a client has so much pending that nothing more may be published in this turn.
    pub fn is_pressed(&self) -> bool {
        self.router.server.is_pressed()
    }

    fn drop_malformed(&mut self, why: &'static str, address: SocketAddr) {
        let server = &mut self.router.server;
        server.metrics().zeromq_malformed += 1;
        let origin = Origin { path: None, address: Some(address.ip()) };
        let text = || format!("a message was dropped: {why}");
        server.complain(MESSAGE, Weight::Curable, origin, text);
    }

    fn on_failed(&mut self, fault: Fault, address: SocketAddr) {
        let has_password = self.terms.password.is_some();
        let server = &mut self.router.server;
        server.metrics().zeromq_failed += 1;
        let origin = Origin { path: None, address: Some(address.ip()) };
        let text = || fault.advice(has_password).to_owned();
        server.complain(CONNECTION, Weight::Curable, origin, text);
    }
}

/// Publishes a message. Nobody is told to how many: a PUSH socket hears nothing.
fn publish(router: &mut Router, others: &mut OtherPorts<'_>, channel: &[u8], payload: &[u8]) {
    router.server.metrics().zeromq_messages += 1;
    let receivers = others.deliver(&mut router.server, channel, payload);
    // A channel without a topic has been counted and told.
    let _ = publish_beside(router, receivers, channel, payload);
}
