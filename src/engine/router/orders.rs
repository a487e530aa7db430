//! Orders from back ends, on their way to every route.

use super::Router;
use crate::engine::redis::request::{Ticket, command};
use crate::features::control::order::{Malformed, Order};
use crate::features::control::report;

impl Router {
    /// An order from a back end, to every route. Returns on how many clients it was carried out.
    pub(super) fn obey(&mut self, payload: &[u8]) -> usize {
        self.server.metrics.controls += 1;
        let order = match Order::parse(payload) {
            Ok(Order::Count { .. }) if !self.has_redis => {
                Err(Malformed("count needs a Redis to be answered in"))
            }
            parsed => parsed,
        };
        let order = match order {
            Ok(order) => order,
            Err(malformed) => {
                self.disobey(malformed);
                return 0;
            }
        };
        let mut reached = 0;
        for (number, route) in self.routes.iter_mut().enumerate() {
            reached += route.handler.on_order(&mut self.server.scope(number as u8), &order);
        }
        if let Order::Count { topic, reply } = &order {
            let counted = report::counted(topic, reached, self.server.node());
            let publish = command(&[b"PUBLISH", reply.as_bytes(), counted.as_bytes()]);
            self.server.ask(publish, Ticket::of_feature("reports", 0));
        }
        reached
    }

    /// What is no order is counted, and logged once a second at most.
    fn disobey(&mut self, malformed: Malformed) {
        self.server.metrics.control_malformed += 1;
        if self.malformed_logged.allow(self.server.now.millis) {
            log::warn!(
                "what came on the control channel is no order: {}; {} so far",
                malformed.0,
                self.server.metrics.control_malformed
            );
        }
    }
}
