//! The protocols spoken over a socket to Redis, and the events that the router gets from them.

use crate::clock::Millis;
use crate::engine::feature::StreamReply;
use crate::engine::redis::command_connection::{CommandConnection, CommandEvent};
use crate::engine::redis::config::RedisServer;
use crate::engine::redis::sentinel::{self, Fare, SentinelWatch};
use crate::engine::redis::session::Session;
use crate::engine::redis::subscriber::{RedisSubscriber, SubscriptionEvent, saved, share};
use crate::engine::router::{Router, demand};
use crate::upgrade::{StateError, StateReader, StateWriter};

/// The most answers taken from one read: each may write to a client.
const ANSWERS_PER_READ: usize = 256;
/// The most requests reported in one turn as lost with a broken connection.
const LOST_PER_TURN: usize = 1024;

/// A connection of ours to Redis, as its socket sees it.
pub trait RedisProtocol {
    fn session(&self) -> &Session;

    fn session_mut(&mut self) -> &mut Session;

    /// Returns when to look again, as [`Session::deadline`] does.
    fn deadline(&self) -> Option<Millis> {
        self.session().deadline()
    }

    /// Takes bytes from the socket. `false`: a client has too much pending, and the rest of the input must come again.
    ///
    /// # Errors
    /// The connection has to end, and the text says what to do.
    fn on_input(&mut self, router: &mut Router, input: &mut &[u8]) -> Result<bool, String>;

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// None came.
    fn on_time(&mut self, now: Millis) -> Result<(), String>;

    /// Takes the requests that wait in the router, and reports those that will not be answered; the subscription takes the topics that
    /// are wanted. `false`: it takes no requests.
    fn take_requests(&mut self, _router: &mut Router) -> bool {
        false
    }

    /// Returns whether `take_requests` has more to do, whatever comes.
    fn has_lost(&self) -> bool {
        false
    }

    /// Learns how the other connections fare, and names the server that they are to connect to, if that is news.
    fn name_server(&mut self, _fare: Fare, _now: Millis) -> Option<RedisServer> {
        None
    }

    /// Returns whether `name_server` has news.
    fn has_news(&self) -> bool {
        false
    }

    /// Returns whether nothing is under way that the end of the process should wait for.
    fn is_settled(&self) -> bool {
        true
    }

    /// Writes the place from which the process that takes this one's place goes on.
    fn save(&self, _writer: &mut StateWriter<'_>) {}

    /// Returns the beginning of a value that has not come whole, if the connection can be handed over: it is up, and nothing is
    /// asked.
    fn portable(&self) -> Option<&[u8]> {
        None
    }

    /// Returns whether it is ready to be handed over, or cannot be.
    fn is_quiet(&self) -> bool {
        true
    }

    /// Goes on from the place that was written. Returns whether the connection of the other process is taken over, if it
    /// `has_socket`.
    ///
    /// # Errors
    /// The state is malformed.
    fn restore(
        &mut self,
        _router: &mut Router,
        _reader: &mut StateReader<'_>,
        _has_socket: bool,
    ) -> Result<bool, StateError> {
        Ok(false)
    }

    /// The connection is gone, or could not be made. Returns whether it was up.
    fn down(&mut self, router: &mut Router, random: u64) -> bool;
}

/// All connections that there are to be, the subscription first: Redis cuts it off if it lags. Before them stands the watch over
/// the Sentinels that name their server. Until they are up, the health says so.
pub fn all(
    subscriber: Option<RedisSubscriber>,
    streams: Option<Box<dyn RedisProtocol>>,
    commands: Option<CommandConnection>,
    router: &mut Router,
) -> Vec<Box<dyn RedisProtocol>> {
    router.health.no_subscriber = subscriber.is_some();
    router.health.no_streams = streams.is_some();
    router.health.no_commands = commands.is_some();
    if let Some(streams) = &streams {
        router.server.resume.read_streams(streams.session().config.streams.clone());
    }
    let now = router.server.now.millis;
    let subscribers = subscriber.into_iter().flat_map(|one| match &router.server.demand {
        None => vec![one],
        Some(demand) => (0..demand.settings.connections)
            .map(|number| {
                let config = one.session.config.clone();
                RedisSubscriber::of_share(config, &demand.settings, number, now)
            })
            .collect(),
    });
    let subscribers: Vec<_> =
        subscribers.map(|one| Box::new(one) as Box<dyn RedisProtocol>).collect();
    let commands = commands.map(|one| Box::new(one) as Box<dyn RedisProtocol>);
    let mut all: Vec<_> = subscribers.into_iter().chain(streams).chain(commands).collect();
    let settings = all.first().map(|one| &one.session().config);
    if let Some(watch) = settings.and_then(|config| SentinelWatch::new(config, 0)) {
        all.insert(0, Box::new(watch));
    }
    all
}

impl RedisProtocol for RedisSubscriber {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn on_input(&mut self, router: &mut Router, input: &mut &[u8]) -> Result<bool, String> {
        let now = router.server.now.millis;
        while !router.server.is_pressed() {
            match self.next(input, now)? {
                None => return Ok(true),
                Some(SubscriptionEvent::Message(message)) => {
                    let (channel, by_everything) = (message.channel(), message.by_everything);
                    if self
                        .share()
                        .is_none_or(|share| demand::hears(router, share, channel, by_everything))
                    {
                        router.publish(channel, message.payload());
                    }
                }
                Some(SubscriptionEvent::Oversized) => router.oversized(),
                Some(SubscriptionEvent::Changed(change)) => {
                    if !demand::on_share_change(router, self.share(), &change) {
                        return Err(share::unsubscribed(self, &change));
                    }
                    let topics = router.server.demand.as_deref();
                    topics.into_iter().for_each(|topics| self.acknowledged(topics));
                }
                Some(SubscriptionEvent::Up) => match self.share() {
                    Some(share) => demand::on_share(router, share, true),
                    None => {
                        log::info!("subscribed to Redis");
                        router.on_source(true);
                    }
                },
            }
        }
        Ok(false)
    }

    fn take_requests(&mut self, router: &mut Router) -> bool {
        if let Some(topics) = &mut router.server.demand {
            self.subscribe(topics, router.server.now.millis);
        }
        false
    }

    fn has_lost(&self) -> bool {
        self.has_commands()
    }

    fn on_time(&mut self, now: Millis) -> Result<(), String> {
        RedisSubscriber::on_time(self, now)
    }

    fn save(&self, writer: &mut StateWriter<'_>) {
        saved::save(self, writer);
    }

    fn portable(&self) -> Option<&[u8]> {
        saved::portable(self)
    }

    fn is_quiet(&self) -> bool {
        !self.session.is_ready() || self.share().is_some() || saved::portable(self).is_some()
    }

    fn restore(
        &mut self,
        router: &mut Router,
        reader: &mut StateReader<'_>,
        has_socket: bool,
    ) -> Result<bool, StateError> {
        let is_up = saved::restore(self, reader, router.server.now.millis, has_socket)?;
        router.health.no_subscriber &= !is_up;
        Ok(is_up)
    }

    fn down(&mut self, router: &mut Router, random: u64) -> bool {
        // Before a Sentinel has named a server, the watch says what is missing.
        if !self.session.config.servers.is_empty() {
            router.health.deaf = self.session.deaf().map(str::to_owned);
        }
        let was_up = RedisSubscriber::down(self, router.server.now.millis, random);
        match self.share() {
            Some(share) if was_up => demand::on_share(router, share, false),
            None if was_up => router.on_source(false),
            _ => {}
        }
        was_up
    }
}

impl RedisProtocol for CommandConnection {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn on_input(&mut self, router: &mut Router, input: &mut &[u8]) -> Result<bool, String> {
        let now = router.server.now.millis;
        for _ in 0..ANSWERS_PER_READ {
            if router.server.is_pressed() {
                break;
            }
            let (reply, refused) = match self.next(input, now)? {
                None => return Ok(true),
                Some(CommandEvent::Ready) => {
                    log::info!("connected to Redis for commands");
                    router.health.no_commands = false;
                    continue;
                }
                Some(CommandEvent::Answer(ticket, answer)) => {
                    router.on_answer(ticket, answer);
                    continue;
                }
                Some(CommandEvent::Entry { ticket, id, message, .. }) => {
                    let (topic, key, payload) = (message.topic(), message.key(), message.data());
                    let number = ticket.number;
                    let reply = StreamReply::Entry { number, id, topic, key, payload };
                    router.on_stream_reply(reply);
                    continue;
                }
                Some(CommandEvent::PageEnd { ticket, stream, end, refused }) => {
                    (StreamReply::PageEnd { number: ticket.number, stream, end }, refused)
                }
                Some(CommandEvent::Info { stream, info, refused }) => {
                    (StreamReply::Info { stream, info }, refused)
                }
            };
            refused.iter().for_each(|why| router.log_refusal(why));
            router.on_stream_reply(reply);
        }
        Ok(false)
    }

    fn on_time(&mut self, now: Millis) -> Result<(), String> {
        CommandConnection::on_time(self, now)
    }

    fn take_requests(&mut self, router: &mut Router) -> bool {
        let lost = std::iter::from_fn(|| self.next_lost());
        lost.take(LOST_PER_TURN).for_each(|(ticket, form)| router.on_unavailable(ticket, form));
        let now = router.server.now.millis;
        // A request that is made because of an answer waits for the next turn.
        for _ in 0..router.server.requests.len() {
            let Some(request) = router.server.requests.pop() else { break };
            let (ticket, form) = (request.ticket, request.form);
            if !self.ask(request, now) {
                router.on_unavailable(ticket, form);
            }
        }
        true
    }

    fn has_lost(&self) -> bool {
        CommandConnection::has_lost(self)
    }

    fn is_settled(&self) -> bool {
        CommandConnection::is_settled(self)
    }

    fn down(&mut self, router: &mut Router, random: u64) -> bool {
        router.health.no_commands = true;
        CommandConnection::down(self, router.server.now.millis, random)
    }
}

impl RedisProtocol for SentinelWatch {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn deadline(&self) -> Option<Millis> {
        SentinelWatch::deadline(self)
    }

    fn on_input(&mut self, router: &mut Router, input: &mut &[u8]) -> Result<bool, String> {
        self.read(input, router.server.now.millis).map(|()| true)
    }

    fn on_time(&mut self, now: Millis) -> Result<(), String> {
        SentinelWatch::on_time(self, now)
    }

    fn name_server(&mut self, fare: Fare, now: Millis) -> Option<RedisServer> {
        SentinelWatch::name_server(self, fare, now)
    }

    fn has_news(&self) -> bool {
        SentinelWatch::has_news(self)
    }

    fn save(&self, writer: &mut StateWriter<'_>) {
        sentinel::saved::save(self, writer);
    }

    fn restore(
        &mut self,
        _router: &mut Router,
        reader: &mut StateReader<'_>,
        _has_socket: bool,
    ) -> Result<bool, StateError> {
        sentinel::saved::restore(self, reader).map(|()| false)
    }

    fn down(&mut self, router: &mut Router, random: u64) -> bool {
        if !self.knows_primary() {
            router.health.deaf = self.session.deaf().map(str::to_owned);
        }
        SentinelWatch::down(self, router.server.now.millis, random)
    }
}
