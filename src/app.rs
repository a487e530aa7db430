//! The builder for a program that uses the crate: settings, routes, then `run`.

mod demand;
mod handover;
mod key_set;
mod loops;
mod presence;
mod reload;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use crate::clock::Millis;
use crate::config::Config;
use crate::engine::feature::Feature;
use crate::engine::handler::{Handler, Route};
use crate::engine::origin::{ListedOrigin, Origins};
use crate::engine::reactor::{Addresses, Ended, Plan, Port, Reactor};
use crate::engine::redis::command_connection::CommandConnection;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::glob;
use crate::engine::redis::place::RedisPlace;
use crate::engine::redis::subscriber::RedisSubscriber;
use crate::engine::redis::url::Security;
use crate::engine::resume::cursor::Signer;
use crate::engine::router::ROUTES_MAX;
use crate::engine::router::files::{File, Page};
use crate::features::control::Control;
use crate::features::overload::Overload;
use crate::features::presence::PresenceFeature;
use crate::features::presence::members::MembersFeature;
use crate::features::publisher::{PublisherPort, Terms};
use crate::features::receipts::Receipts;
use crate::features::streams::pages::StreamPages;
use crate::features::streams::reader::StreamReader;
use crate::features::zeromq::{ZeromqPort, ZeromqTerms};
use crate::observe::systemd::Supervisor;
use crate::tls::redis::redis_tls;
use crate::tls::{self, Certificates, TicketKeys};
use crate::upgrade::{Predecessor, Program};
use demand::{demand, own_patterns};
pub use loops::{LoopRole, ParentRole};
use presence::presence;
use reload::reload;

/// Makes the page, which names the addresses.
type MakesPage = Box<dyn FnOnce(Addresses) -> Page>;

/// Reads the settings again from their sources.
type ReadSettings = Box<dyn Fn() -> Result<Config, Vec<String>> + Send + Sync>;

/// A server to be.
///
/// ```no_run
/// use std::rc::Rc;
/// use oneloop::app::App;
/// use oneloop::config::Config;
/// use oneloop::push::Push;
/// use oneloop::push::token::Keys;
///
/// let config = Config::default();
/// let keys = Keys::from_secret(b"at least thirty-two bytes of secret")?;
/// let push = Push::new(Rc::new(keys), &config.routes[0])?;
/// App::new(config).route("/ws", push, &["https://example.com"]).run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct App {
    config: Config,
    routes: Vec<Route>,
    page: Option<MakesPage>,
    files: Vec<File>,
    trim: Option<fn()>,
    asks_redis: bool,
    supervisor: Supervisor,
    listeners: Vec<OwnedFd>,
    handover: (Option<Predecessor>, Option<Program>),
    reread: Option<ReadSettings>,
    role: LoopRole,
    problem: Option<String>,
}

impl App {
    /// A server with these settings, except their routes: the caller builds handlers for them.
    pub fn new(config: Config) -> App {
        App {
            config,
            routes: Vec::new(),
            page: None,
            files: Vec::new(),
            trim: None,
            asks_redis: false,
            supervisor: Supervisor::default(),
            listeners: Vec::new(),
            handover: (None, None),
            reread: None,
            role: LoopRole::Alone,
            problem: None,
        }
    }

    /// Adds a route. No origin: pages of the same host may connect; `*`: all; else those listed, as
    /// `scheme://host[:port]`, `scheme://*.domain[:port]`, `null` or `file://`. Beside those listed, the page may connect.
    pub fn route(self, path: &str, handler: impl Handler + 'static, origins: &[&str]) -> App {
        let listed: Option<Vec<ListedOrigin>> =
            origins.iter().map(|origin| ListedOrigin::parse(origin)).collect();
        match (origins, listed) {
            ([], _) => self.route_from(path, handler, Origins::SameHost),
            (["*"], _) => self.route_from(path, handler, Origins::Any),
            (_, Some(listed)) => self.route_from(path, handler, Origins::Listed(listed)),
            (_, None) => App {
                problem: Some(format!("{path}: an origin is not of the form scheme://host[:port]")),
                ..self
            },
        }
    }

    /// Adds a route whose origins are parsed already.
    pub fn route_from(
        mut self,
        path: &str,
        handler: impl Handler + 'static,
        origins: Origins,
    ) -> App {
        let handler = Box::new(handler);
        self.routes.push(Route { path: path.to_owned(), origins, handler });
        self
    }

    /// Serves a page at `/`. It is made when the addresses are known.
    pub fn page(mut self, page: impl FnOnce(Addresses) -> Page + 'static) -> App {
        self.page = Some(Box::new(page));
        self
    }

    /// Serves a file where clients connect, to pages of every origin. A route with the same path goes before it.
    pub fn file(mut self, path: &str, content_type: &'static str, body: Vec<u8>) -> App {
        self.files.push(File::new(path, content_type, body));
        self
    }

    /// Calls `trim` a second after a burst, to make the allocator return free memory to the system. The program chooses the
    /// allocator, so the call is its part too.
    pub fn trim(mut self, trim: fn()) -> App {
        self.trim = Some(trim);
        self
    }

    /// Opens a connection to Redis for the requests of handlers ([`crate::Server::ask`]). Without it, or without a Redis in the
    /// settings, the answer to each is `Unavailable`. While that connection is down, `/readyz` is red.
    pub fn asks_redis(mut self) -> App {
        self.asks_redis = true;
        self
    }

    /// Reports to the service manager that the server is alive, and whether it is ready.
    pub fn reports_to(mut self, supervisor: Supervisor) -> App {
        self.supervisor = supervisor;
        self
    }

    /// Serves clients at a listener that is open already, by TCP or a Unix socket. The first one takes the place of the first
    /// address in the settings, and so on.
    pub fn listener(mut self, listener: impl Into<OwnedFd>) -> App {
        self.listeners.push(listener.into());
        self
    }

    /// Gives this process a part in a server of several loops.
    pub fn role(mut self, role: LoopRole) -> App {
        self.role = role;
        self
    }

    /// Takes the place of a running process, with its connections, and starts `program` when SIGUSR2 comes, to hand them over to it.
    pub fn handover(mut self, predecessor: Option<Predecessor>, program: Program) -> App {
        self.handover = (predecessor, Some(program));
        self
    }

    /// Reads the settings again whenever SIGHUP comes, in a thread of its own, and takes over what changes without dropping a client
    /// ([`RouteEvent::Reload`](crate::engine::handler::RouteEvent::Reload), with
    /// [`RouteSettings`](crate::config::RouteSettings)). Without it SIGHUP ends the process.
    pub fn reload_by(
        mut self,
        read: impl Fn() -> Result<Config, Vec<String>> + Send + Sync + 'static,
    ) -> App {
        self.reread = Some(Box::new(read));
        self
    }

    /// Listens. The addresses are known then; nothing is served before [`Bound::run`].
    ///
    /// # Errors
    /// Settings that contradict each other (`InvalidInput`), or an address that cannot be bound.
    pub fn bind(self) -> io::Result<Bound> {
        let App {
            mut config,
            mut routes,
            page,
            files,
            trim,
            asks_redis,
            supervisor,
            mut listeners,
            handover: (mut predecessor, program),
            reread,
            mut role,
            problem,
        } = self;
        if let Some(problem) = problem {
            return Err(invalid(problem));
        }
        if routes.len() > ROUTES_MAX {
            return Err(invalid(format!("at most {ROUTES_MAX} routes are possible")));
        }
        let (current, whole) = (config.clone(), config.clone());
        let handover = handover::begin(&config, &mut role, predecessor.as_mut(), program)?;
        let shared = role.prepare(&mut config, &mut listeners)?;
        let (bounds, users_max) = role.bounds(&config)?;
        let link = link(&config).map_err(invalid)?;
        let presence = presence(&config, users_max).filter(|_| !role.is_worker());
        let mut features: Vec<Box<dyn Feature>> = vec![Box::new(Overload::new(trim))];
        if let Some(link) = link.as_ref().filter(|link| !link.streams.is_empty()) {
            features.push(Box::new(StreamPages::new(link.streams.len())));
        }
        let cursor_key = match config.signer() {
            Some(_) => None,
            None => Some(role.cursor_key().map_or_else(|| own_cursor_key(&config), Ok)?),
        };
        let key = cursor_key.as_ref();
        let signer = config.signer().or(key.map(Signer::with_key)).expect("one of them");
        let publishers = config.publishers.map(|address| (address, publisher_port(&config)));
        let zeromq = config.zeromq.address.map(|address| (address, zeromq_port(&config)));
        let members = config.lists_members().then(|| config.prefix.clone());
        let reports_members = members.is_some() && !role.is_worker();
        let asks_redis = asks_redis || presence.is_some() || reports_members;
        let names = link.as_ref().map_or_else(Vec::new, |link| link.streams.clone());
        if role.is_parent() {
            routes.clear();
        }
        let subscribed = link.clone().filter(|_| !role.is_worker());
        let demand = subscribed.as_ref().and_then(|link| demand(&config, link.timeout));
        let commands = link.clone().filter(|link| asks_redis || !link.streams.is_empty());
        let has_redis = commands.is_some();
        let tls = certificates(&config)?;
        let plan = Plan {
            listen: config.listen,
            listeners,
            unix: config.unix,
            proxies: Box::new(config.proxies),
            proxy_protocol: config.proxy_protocol,
            ports: publishers.into_iter().chain(zeromq).collect(),
            admin: config.admin,
            commands: commands.map(|link| CommandConnection::new(link, 0)),
            features,
            streams: subscribed
                .clone()
                .filter(|link| !link.streams.is_empty())
                .map(|link| Box::new(StreamReader::new(link, 0)) as _),
            expects_channels: config.patterns != [format!("{}*", config.prefix)],
            demand,
            subscriber: subscribed.map(|link| RedisSubscriber::new(link, 0)),
            routes,
            prefix: config.prefix,
            signer,
            bounds,
            handover,
            trim,
        };
        let tickets = tls.as_ref().map(|(_, tickets)| tickets.clone());
        let mut reactor = Reactor::new(plan)?;
        role.name(&mut reactor, names);
        if let Some((certificates, tickets)) = tls {
            reactor.router.add_feature(|_| tickets.clone());
            tls::take_over(&mut reactor, certificates, tickets);
        }
        reactor.report_to(supervisor);
        if let Some(reread) = reread {
            let jwt = current.jwt.clone();
            let in_force = Arc::new(Mutex::new(current));
            key_set::watch(&mut reactor, &in_force, &jwt);
            reactor.reload_by(reload(in_force, reread, tickets, role.part()))?;
        }
        if let Some(channel) = config.control {
            reactor.router.add_feature(|server| Control::new(server, channel, has_redis));
        }
        if loops::gives_receipts(&whole) && !role.is_worker() {
            reactor.router.add_feature(|_| Receipts::new(config.receipts));
        }
        if let Some(settings) = presence {
            reactor.router.add_feature(|server| PresenceFeature::new(server, settings));
        }
        if let Some(prefix) = members {
            reactor.router.add_feature(|server| MembersFeature::new(server, &prefix, has_redis));
        }
        reactor.router.server.revocations.keep_for(config.jwt.ended_seconds());
        reactor.router.challenges.webroot = config.acme_webroot;
        if let Some(page) = page.filter(|_| !role.is_parent()) {
            let page = page(reactor.addresses().clone());
            reactor.serve_page(page);
        }
        for file in files {
            reactor.serve_file(file);
        }
        role.begin(&mut reactor, &whole, shared, predecessor)?;
        Ok(Bound(reactor))
    }

    /// Listens and serves until a signal ends it.
    ///
    /// # Errors
    /// The errors of [`App::bind`] and of the loop.
    pub fn run(self) -> io::Result<Ended> {
        self.bind()?.run()
    }
}

/// Returns the certificates of the settings, if there are any, and new keys of tickets.
fn certificates(config: &Config) -> io::Result<Option<(Certificates, TicketKeys)>> {
    let certificates = Certificates::of(&config.tls).map_err(|all| invalid(all.join("\n")))?;
    let with_tickets = |one| Ok((one, TicketKeys::new().map_err(io::Error::other)?));
    certificates.map(with_tickets).transpose()
}

/// A server that listens.
pub struct Bound(Reactor);

impl Bound {
    /// The addresses of its listeners, with the ports that the system chose.
    pub fn addresses(&self) -> &Addresses {
        self.0.addresses()
    }

    /// Serves until a signal ends it.
    ///
    /// # Errors
    /// The errors of the loop, none of which a peer can cause.
    pub fn run(self) -> io::Result<Ended> {
        self.0.run()
    }
}

/// Returns where Redis is, if there is to be one.
///
/// # Errors
/// A sentence that shows no secret.
pub fn redis_place(config: &Config) -> Result<Option<RedisPlace>, String> {
    let place = config.redis.as_deref().map(RedisPlace::parse).transpose();
    place.map_err(|why| format!("redis: {why}"))
}

/// Returns the settings of the connections to Redis, if there is to be one.
///
/// # Errors
/// A sentence about the URL, the patterns, or a file for TLS; it shows no secret.
pub fn link(config: &Config) -> Result<Option<RedisConfig>, String> {
    let Some(place) = redis_place(config)? else {
        return Ok(None);
    };
    let tls = redis_tls(config, &place)?;
    let dead = dead_patterns(config);
    if dead.len() == config.patterns.len() {
        return Err(dead.join("; "));
    }
    Ok(Some(RedisConfig {
        patterns: config.patterns.iter().cloned().chain(own_patterns(config)).collect(),
        node: format!("{:016x}", getrandom::u64().unwrap_or_default()),
        streams: config.streams.clone(),
        silence: u64::from(config.bounds.redis_silence_seconds) * 1000,
        timeout: u64::from(config.bounds.redis_timeout_seconds) * 1000,
        backoff_max: u64::from(config.bounds.redis_backoff_ms_max),
        payload_bytes_max: config.bounds.payload_bytes_max,
        ..RedisConfig::new(place, tls).map_err(|why| format!("redis: {why}"))?
    }))
}

/// Returns a warning if anyone could answer in place of the Redis.
pub fn unverified_redis(config: &Config) -> Option<String> {
    let place = redis_place(config).ok()??;
    (place.security() == Security::UnverifiedTls).then(|| {
        format!(
            "redis: #insecure turns off the check of the certificate of {}: whoever stands in between can read and forge every              message",
            place
        )
    })
}

/// Returns a sentence for each pattern whose messages would all be dropped, since no channel that it matches begins with the
/// prefix. Settings with such patterns alone cannot be served.
pub fn dead_patterns(config: &Config) -> Vec<String> {
    let Config { patterns, prefix, redis, .. } = config;
    let reaches = |pattern: &&String| glob::reaches_beyond(pattern.as_bytes(), prefix.as_bytes());
    let tell = |pattern: &String| {
        format!(
            "patterns: {pattern:?} matches no channel that begins with the prefix {prefix:?}, so all that comes by it would be \
             dropped: write {:?}, or set prefix",
            [prefix, pattern.as_str()].concat()
        )
    };
    patterns.iter().filter(|pattern| redis.is_some() && !reaches(pattern)).map(tell).collect()
}

/// Returns the publishers' port of these settings.
pub fn publisher_port(config: &Config) -> Box<dyn Port> {
    Box::new(PublisherPort::new(Terms {
        password: config.publishers_password.as_ref().map(|one| Rc::from(one.as_bytes())),
        payload_bytes_max: config.bounds.payload_bytes_max,
        auth_millis: Millis::from(config.bounds.auth_seconds) * 1000,
        bounds: config.publisher_bounds.clone(),
    }))
}

/// Returns the ZeroMQ port of these settings.
pub fn zeromq_port(config: &Config) -> Box<dyn Port> {
    Box::new(ZeromqPort::new(ZeromqTerms {
        connections_max: config.zeromq.connections_max,
        topic_field: config.zeromq.topic_field.clone(),
        prefix: config.prefix.clone(),
        password: config.publishers_password.as_ref().map(|one| Rc::from(one.as_bytes())),
        payload_bytes_max: config.bounds.payload_bytes_max,
        handshake_millis: Millis::from(config.bounds.auth_seconds) * 1000,
    }))
}

/// Returns the number of connections of publishers that there can be.
fn publishers_max(config: &Config) -> usize {
    config.publisher_bounds.connections_max + config.zeromq.descriptors()
}

/// A key for cursors that no other server has.
fn own_cursor_key(config: &Config) -> io::Result<[u8; 16]> {
    if !config.streams.is_empty() {
        log::warn!(
            "no secret is shared with other processes: the cursors of this one are good at itself alone, until it ends; \
             set cursor_key_file, the same at each"
        );
    }
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(key)
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
