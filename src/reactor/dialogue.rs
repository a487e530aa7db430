//! What is spoken over a socket to Redis, and what the site learns by it.

use crate::clock::Millis;
use crate::site::Site;
use crate::source::link::{Event, Link};
use crate::source::session::Session;

/// One of our connections to Redis, as its socket sees it.
pub trait Dialogue {
    /// What there is none of while it is down, for the log.
    fn name(&self) -> &'static str;

    fn session(&self) -> &Session;

    fn session_mut(&mut self) -> &mut Session;

    /// The socket is connected: queues the greeting.
    fn connected(&mut self, now: Millis);

    /// Takes what was read, until it is used up or a client is owed enough; says why if the connection is to end.
    fn take_in(&mut self, site: &mut Site, input: &mut &[u8]) -> Result<(), String>;

    /// Asks for a sign of life, or says that none came.
    fn on_time(&mut self, now: Millis) -> Result<(), String>;

    /// The connection is gone, or could not be made. Says whether it was ready.
    fn down(&mut self, site: &mut Site, random: u64) -> bool;
}

impl Dialogue for Link {
    fn name(&self) -> &'static str {
        "link to Redis"
    }

    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn connected(&mut self, now: Millis) {
        Link::connected(self, now);
    }

    fn take_in(&mut self, site: &mut Site, input: &mut &[u8]) -> Result<(), String> {
        let now = site.server.now.millis;
        while !site.server.is_pressed() {
            match self.next(input, now) {
                None => return Ok(()),
                Some(Event::Message { channel, payload }) => {
                    site.publish(channel, payload);
                }
                Some(Event::Oversized) => site.oversized(),
                Some(Event::Failed(why)) => return Err(why),
                Some(Event::Up) => {
                    log::info!("subscribed to Redis");
                    site.on_source(true);
                }
            }
        }
        Ok(())
    }

    fn on_time(&mut self, now: Millis) -> Result<(), String> {
        match Link::on_time(self, now) {
            Some(Event::Failed(why)) => Err(why),
            _ => Ok(()),
        }
    }

    fn down(&mut self, site: &mut Site, random: u64) -> bool {
        let was_up = Link::down(self, site.server.now.millis, random);
        if was_up {
            site.on_source(false);
        }
        was_up
    }
}
