//! The protocols spoken over a socket to Redis, and the events that the router gets from them.

use crate::clock::Millis;
use crate::engine::feature::StreamReply;
use crate::engine::redis::command_connection::{self, CommandConnection};
use crate::engine::redis::session::Session;
use crate::engine::redis::subscriber::{self, RedisSubscriber};
use crate::engine::router::Router;

/// Answers taken from what one read brought, and requests told in one turn that a broken connection lost them: each may write
/// to a client.
const ANSWERS_PER_READ: usize = 256;
const LOST_PER_TURN: usize = 1024;

/// One of our connections to Redis, as its socket sees it.
pub trait RedisProtocol {
    /// The connection's name, for the log.
    fn name(&self) -> &'static str;

    fn session(&self) -> &Session;

    fn session_mut(&mut self) -> &mut Session;

    /// Whether it does what it is for.
    fn is_up(&self) -> bool {
        self.session().is_ready()
    }

    /// The socket is connected: queues the greeting.
    fn connected(&mut self, now: Millis);

    /// Takes what was read, until all that follows from it is done, or a client is owed enough: `false`. Says why if the
    /// connection is to end.
    fn take_in(&mut self, router: &mut Router, input: &mut &[u8]) -> Result<bool, String>;

    /// Asks for a sign of life, or says that none came.
    fn on_time(&mut self, now: Millis) -> Result<(), String>;

    /// Takes the requests that wait in the site, and tells it of those that will not be answered; `false`: it takes none.
    fn take_requests(&mut self, _site: &mut Router) -> bool {
        false
    }

    /// Whether the site is to be told something in the next turn.
    fn has_note(&self) -> bool {
        false
    }

    /// Whether nothing is under way that the end of the process should wait for.
    fn is_settled(&self) -> bool {
        true
    }

    /// The connection is gone, or could not be made. Says whether it was ready.
    fn down(&mut self, router: &mut Router, random: u64) -> bool;
}

/// All that there are to be, the subscription first: it is cut off when it lags. Until they say otherwise nothing is up.
pub fn all(
    link: Option<RedisSubscriber>,
    reader: Option<Box<dyn RedisProtocol>>,
    commander: Option<CommandConnection>,
    router: &mut Router,
) -> Vec<Box<dyn RedisProtocol>> {
    let mut all: Vec<Box<dyn RedisProtocol>> = Vec::new();
    router.health.no_subscriber = link.is_some();
    router.health.no_streams = reader.is_some();
    router.health.no_commands = commander.is_some();
    if let Some(link) = link {
        all.push(Box::new(link));
    }
    if let Some(reader) = reader {
        router.server.resume.read_streams(reader.session().config().streams.clone());
        all.push(reader);
    }
    if let Some(commander) = commander {
        all.push(Box::new(commander));
    }
    all
}

impl RedisProtocol for RedisSubscriber {
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
        RedisSubscriber::connected(self, now);
    }

    fn take_in(&mut self, router: &mut Router, input: &mut &[u8]) -> Result<bool, String> {
        let now = router.server.now.millis;
        while !router.server.is_pressed() {
            match self.next(input, now) {
                None => return Ok(true),
                Some(subscriber::Event::Message { channel, payload }) => {
                    router.publish(channel, payload);
                }
                Some(subscriber::Event::Oversized) => router.oversized(),
                Some(subscriber::Event::Failed(why)) => return Err(why),
                Some(subscriber::Event::Up) => {
                    log::info!("subscribed to Redis");
                    router.on_source(true);
                }
            }
        }
        Ok(false)
    }

    fn on_time(&mut self, now: Millis) -> Result<(), String> {
        match RedisSubscriber::on_time(self, now) {
            Some(subscriber::Event::Failed(why)) => Err(why),
            _ => Ok(()),
        }
    }

    fn down(&mut self, router: &mut Router, random: u64) -> bool {
        router.health.deaf = self.deaf().map(str::to_owned);
        let was_up = RedisSubscriber::down(self, router.server.now.millis, random);
        if was_up {
            router.on_source(false);
        }
        was_up
    }
}

impl RedisProtocol for CommandConnection {
    fn name(&self) -> &'static str {
        "link to Redis for commands"
    }

    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn connected(&mut self, now: Millis) {
        CommandConnection::connected(self, now);
    }

    fn take_in(&mut self, router: &mut Router, input: &mut &[u8]) -> Result<bool, String> {
        let now = router.server.now.millis;
        for _ in 0..ANSWERS_PER_READ {
            if router.server.is_pressed() {
                break;
            }
            match self.next(input, now) {
                None => return Ok(true),
                Some(command_connection::Event::Answer(ticket, answer)) => {
                    router.on_answer(ticket, answer)
                }
                Some(command_connection::Event::Entry { ticket, entry, topic, data, .. }) => {
                    let (number, id, payload) = (ticket.number, entry, data);
                    router.on_stream_reply(StreamReply::Entry { number, id, topic, payload });
                }
                Some(command_connection::Event::PageEnd { ticket, stream, end, refused }) => {
                    if let Some(why) = refused {
                        router.log_refusal(&why);
                    }
                    let number = ticket.number;
                    router.on_stream_reply(StreamReply::PageEnd { number, stream, end });
                }
                Some(command_connection::Event::Extent { stream, extent, refused }) => {
                    if let Some(why) = refused {
                        router.log_refusal(&why);
                    }
                    router.on_stream_reply(StreamReply::Info { stream, info: extent });
                }
                Some(command_connection::Event::Failed(why)) => return Err(why),
                Some(command_connection::Event::Ready) => {
                    log::info!("connected to Redis for commands");
                    router.health.no_commands = false;
                }
            }
        }
        Ok(false)
    }

    fn on_time(&mut self, now: Millis) -> Result<(), String> {
        match CommandConnection::on_time(self, now) {
            Some(command_connection::Event::Failed(why)) => Err(why),
            _ => Ok(()),
        }
    }

    fn take_requests(&mut self, router: &mut Router) -> bool {
        let lost = std::iter::from_fn(|| self.next_lost());
        lost.take(LOST_PER_TURN).for_each(|(ticket, form)| router.on_unavailable(ticket, form));
        let now = router.server.now.millis;
        // A request that is made because of an answer waits for the next turn.
        for _ in 0..router.server.requests_len() {
            let Some(request) = router.server.next_request() else { break };
            let (ticket, form) = (request.ticket, request.form);
            if !self.ask(request, now) {
                router.on_unavailable(ticket, form);
            }
        }
        true
    }

    fn has_note(&self) -> bool {
        self.has_lost()
    }

    fn is_settled(&self) -> bool {
        CommandConnection::is_settled(self)
    }

    fn down(&mut self, router: &mut Router, random: u64) -> bool {
        router.health.no_commands = true;
        CommandConnection::down(self, router.server.now.millis, random)
    }
}
