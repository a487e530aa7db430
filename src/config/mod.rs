//! The settings as the program uses them: typed, checked, with every default filled in.
//!
//! Reading order: this file has the types, `table` lists every setting under its names, `read` merges
//! the three sources (TOML file, then `ONELOOP_*` variables, then flags), `settle` judges the whole.

mod changes;
mod cluster;
mod draft;
mod environment;
mod file;
mod read;
mod readers;
pub(crate) mod setting;
mod settle;
mod settle_demand;
pub(crate) mod table;
pub(crate) mod value;

pub use crate::features::proxies::Proxies;
pub use changes::{Changes, changes};
pub use read::Problems;
pub(crate) use read::{FlagValues, read, read_without_checks};
pub(crate) use settle::{Task, read_key_file};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;

use crate::engine::bounds::Bounds;
use crate::engine::client::deflate::Deflate;
use crate::engine::origin::Origins;
use crate::engine::reactor::{Listen, UnixAccess};
use crate::engine::redis::sink::Sink;
use crate::engine::resume::cursor::Signer;
use crate::features::publisher::PublisherBounds;
use crate::features::zeromq::ZeromqSettings;

/// The settings.
#[derive(Clone)]
pub struct Config {
    /// The addresses for clients: at least one, at most [`Config::LISTEN_MAX`]. Port 0 lets the system choose one.
    pub listen: Vec<Listen>,
    /// The mode and group of the Unix sockets among them.
    pub unix: UnixAccess,
    /// The number of loops that serve clients, each in a process of its own if there are several; 0: one for each core.
    pub loops: usize,
    /// Proxies that are believed on the address of a client.
    pub proxies: Proxies,
    /// Each connection of a client begins with a header of the PROXY protocol, version 2. Only `proxies` are let in then.
    pub proxy_protocol: bool,
    /// The URL of Redis or Valkey as it was written; it may hold a password: never log it.
    pub redis: Option<String>,
    /// The certificates that a Redis with TLS is trusted by, in place of the system's: the bytes of a PEM file, not parsed yet.
    pub redis_ca: Option<Vec<u8>>,
    /// The certificate shown to a Redis with TLS, with its chain: the bytes of a PEM file, not parsed yet.
    pub redis_certificate: Option<Vec<u8>>,
    /// The key of `redis_certificate`, the bytes of a PEM file, not parsed yet.
    pub redis_key: Option<Secret>,
    /// The address for publishers, who speak RESP; `None` is off.
    pub publishers: Option<SocketAddr>,
    /// The password for `AUTH`; always there if `publishers` is not loopback.
    pub publishers_password: Option<Secret>,
    /// The limits on publishers.
    pub publisher_bounds: PublisherBounds,
    /// The ZeroMQ port. It takes the publishers' password.
    pub zeromq: ZeromqSettings,
    /// Cut from a channel's name to get its topic; may be empty.
    pub prefix: String,
    /// The patterns of `PSUBSCRIBE`; never empty.
    pub patterns: Vec<String>,
    /// The topics that are subscribed to at Redis.
    pub subscribe: Subscribe,
    /// Connections that share the topics with [`Subscribe::Demand`].
    pub subscribe_connections: usize,
    /// Seconds that a topic stays subscribed to after its last client, with [`Subscribe::Demand`].
    pub subscribe_linger_seconds: u32,
    /// The channel of control commands from back ends; `None` is off.
    pub control: Option<String>,
    /// The channel of receipts for messages that come by channels; `None` is off.
    pub receipts: Option<String>,
    /// Keys of the Redis streams that are read: at most [`Config::STREAMS_MAX`], none twice; empty without `redis`.
    pub streams: Vec<String>,
    /// The address of `/metrics`, `/clients`, `/healthz` and `/readyz`; `None` is off.
    pub admin: Option<SocketAddr>,
    /// Serve the client for browsers and mini programs beside the routes.
    pub client_script: bool,
    /// The directory whose `.well-known/acme-challenge` is served; `None` is off.
    pub acme_webroot: Option<PathBuf>,
    /// Serve a page at `/` to try the server with; `None`: only without a key.
    pub page: Option<bool>,
    /// The secret that cursors are signed with; `None`: with the one that signs tokens, if there is one.
    pub cursor_key: Option<Secret>,
    /// The secret before `cursor_key`, only there beside it.
    pub previous_cursor_key: Option<Secret>,
    /// The place in Redis that gets an event when a user comes or goes; only there beside `redis`.
    pub events: Option<Sink>,
    pub tls: TlsConfig,
    pub jwt: Jwt,
    /// At least one, no path twice.
    pub routes: Vec<RouteConfig>,
    pub bounds: Bounds,
    pub log: log::LevelFilter,
    pub log_format: LogFormat,
}

/// The format of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// A JSON object.
    Json,
}

/// Bytes that no log, message or `Debug` ever shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// The PEM files of certificates and of their keys, in pairs. Their contents are not part of the settings: they are renewed on their
/// own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    pub certificate_files: Vec<String>,
    pub key_files: Vec<String>,
}

/// The rules for tokens. Their keys are of one family: either a secret or public keys, never both.
#[derive(Clone)]
pub struct Jwt {
    /// The shared secret (RFC 7518 section 3.2), at least [`Jwt::SECRET_BYTES_MIN`] bytes.
    pub secret: Option<Secret>,
    /// The secret before `secret`, only there beside it: its tokens stay valid.
    pub previous_secret: Option<Secret>,
    /// A public key, the bytes of a PEM file, not parsed yet.
    pub key: Option<Vec<u8>>,
    /// The public key before `key`, only there beside it.
    pub previous_key: Option<Vec<u8>>,
    /// A set of public keys (RFC 7517 section 5), the bytes of a JSON file, not parsed yet.
    pub jwks: Option<Vec<u8>>,
    /// The name of that file, if it came from one: issuers change their keys while the server runs.
    pub jwks_file: Option<String>,
    /// The claim that names the user; no other claim that is read here.
    pub user_claim: String,
    /// Values of which `aud` must contain one; without any it is not checked.
    pub audience: Vec<String>,
    /// Values of which `iss` must be one; without any it is not checked.
    pub issuer: Vec<String>,
    /// The cookie of a handshake that a token may stand in; `None` is off, and beside a route for every origin always.
    pub cookie: Option<String>,
    /// The longest time from `iat` to `exp`, in seconds; 0: any, and `iat` may be missing.
    pub lifetime_seconds_max: u64,
    /// The tolerance of `exp` and `nbf`, in seconds.
    pub leeway_seconds: u64,
    /// Names of RFC 7518 section 3.1 and RFC 8037, all of the key's family; empty: the family's default.
    pub algorithms: Vec<String>,
}

/// A path that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// Begins with `/`, printable ASCII without `?` and `#`; compared as a whole.
    pub path: String,
    /// Origins whose pages may connect.
    pub origins: Origins,
    /// The header in which one of `proxies` names the user; never beside a route for every origin. `None`: none is read.
    pub identity: Option<String>,
    pub format: Format,
    /// Grants that every client with a token is subscribed to from the start, as they were written.
    pub topics: Vec<String>,
    /// Grants that every client with a token may subscribe to, as they were written.
    pub may: Vec<String>,
    /// Grants of a client without a token; empty: such clients are refused.
    pub anonymous: Vec<String>,
    /// Grants of topics whose subscribers may list each other, as they were written.
    pub members: Vec<String>,
    /// A newer connection of the same user closes the older one (4503).
    pub single_session: bool,
    pub slow: SlowPolicy,
    /// The messages that are compressed for clients that ask for it.
    pub deflate: Deflate,
    /// The place in Redis for messages of clients; `None`: they may send none.
    pub upstream: Option<Sink>,
}

/// The new settings of a route, for its handler after a reload
/// ([`RouteEvent::Reload`](crate::engine::handler::RouteEvent::Reload)).
pub struct RouteSettings {
    pub jwt: Jwt,
    pub route: RouteConfig,
}

/// The form of a message on the WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The envelope of `oneloop.v1`.
    Json,
    /// The payload alone.
    Raw,
}

/// The topics that are subscribed to at Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribe {
    /// All of them, by patterns.
    All,
    /// The topics of this process's own clients.
    Demand,
}

/// The fate of a client whose backlog hits its bound, since it reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPolicy {
    /// It is closed with 4000.
    Close,
    /// Its oldest messages are dropped, and it gets a `gap`.
    DropOldest,
    /// Of each topic and key it gets the newest message only.
    KeepNewest,
    /// Of each topic and key it gets the newest message only; if messages without a key have no room, it is closed with 4000.
    Latest,
}

impl Jwt {
    /// RFC 7518 section 3.2: a key of the hash's size or more; HS256 is the smallest.
    pub const SECRET_BYTES_MIN: usize = 32;

    /// The usual claim for the user (RFC 7519 section 4.1.2).
    pub const USER_CLAIM: &str = "sub";

    /// Returns the seconds after its issue at which every token has ended; `None`: there is no such time.
    pub fn ended_seconds(&self) -> Option<u64> {
        let lifetime = Some(self.lifetime_seconds_max).filter(|lifetime| *lifetime > 0);
        lifetime.map(|lifetime| lifetime + self.leeway_seconds)
    }

    /// Returns whether any key is configured. Without one the program makes a random secret, on loopback only.
    pub fn has_key(&self) -> bool {
        self.secret.is_some() || self.key.is_some() || self.jwks.is_some()
    }
}

impl Config {
    /// The most addresses for clients: each turn looks at all of them.
    pub const LISTEN_MAX: usize = 64;

    /// The most streams: a cursor names a place in each of them.
    pub const STREAMS_MAX: usize = 8;

    /// Returns the address for clients that commands on this machine use: a plain one if there is one, by TCP if possible.
    pub fn own_address(&self) -> Listen {
        let addresses = self.listen.iter();
        let own = addresses.min_by_key(|address| match address {
            Listen::Tcp(_) => 0,
            Listen::Unix(_) => 1,
            Listen::Tls(_) => 2,
        });
        match own.expect("there is at least one") {
            Listen::Tcp(address) => Listen::Tcp(reachable(*address)),
            Listen::Tls(address) => Listen::Tls(reachable(*address)),
            Listen::Unix(path) => Listen::Unix(path.clone()),
        }
    }

    /// The most loops.
    pub const LOOPS_MAX: usize = 64;

    /// The number of loops on this machine.
    pub fn loops(&self) -> usize {
        match self.loops {
            0 => available_parallelism().map_or(1, NonZeroUsize::get).min(Config::LOOPS_MAX),
            loops => loops,
        }
    }

    /// Returns whether clients of a route may list the members of topics.
    pub fn lists_members(&self) -> bool {
        self.routes.iter().any(|route| !route.members.is_empty())
    }

    /// Signs cursors with a key that other processes with these settings have as well; `None`: they share no secret.
    pub fn signer(&self) -> Option<Signer> {
        let (own, previous) = match &self.cursor_key {
            Some(own) => (own, &self.previous_cursor_key),
            None => (self.jwt.secret.as_ref()?, &self.jwt.previous_secret),
        };
        Some(Signer::derived(own.as_bytes(), previous.as_ref().map(Secret::as_bytes)))
    }
}

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Default for Config {
    /// The settings if nothing is set at all.
    fn default() -> Config {
        Config {
            listen: vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8099)))],
            unix: UnixAccess::default(),
            loops: 1,
            proxies: Proxies::default(),
            proxy_protocol: false,
            redis: None,
            redis_ca: None,
            redis_certificate: None,
            redis_key: None,
            publishers: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 6380))),
            publishers_password: None,
            publisher_bounds: PublisherBounds::default(),
            zeromq: ZeromqSettings::default(),
            prefix: "pub.".to_owned(),
            patterns: vec!["pub.*".to_owned()],
            subscribe: Subscribe::All,
            subscribe_connections: 1,
            subscribe_linger_seconds: 60,
            control: None,
            receipts: None,
            streams: Vec::new(),
            admin: None,
            client_script: true,
            acme_webroot: None,
            page: None,
            cursor_key: None,
            previous_cursor_key: None,
            events: None,
            tls: TlsConfig::default(),
            jwt: Jwt::default(),
            routes: vec![RouteConfig { topics: vec!["news".to_owned()], ..Default::default() }],
            bounds: Bounds::default(),
            log: log::LevelFilter::Info,
            log_format: LogFormat::Plain,
        }
    }
}

impl Default for Jwt {
    fn default() -> Jwt {
        Jwt {
            secret: None,
            previous_secret: None,
            key: None,
            previous_key: None,
            jwks: None,
            jwks_file: None,
            user_claim: Jwt::USER_CLAIM.to_owned(),
            audience: Vec::new(),
            issuer: Vec::new(),
            cookie: None,
            lifetime_seconds_max: 0,
            leeway_seconds: 5,
            algorithms: Vec::new(),
        }
    }
}

impl Default for RouteConfig {
    fn default() -> RouteConfig {
        RouteConfig {
            path: "/ws".to_owned(),
            origins: Origins::SameHost,
            identity: None,
            format: Format::Json,
            topics: Vec::new(),
            may: Vec::new(),
            anonymous: Vec::new(),
            members: Vec::new(),
            single_session: false,
            slow: SlowPolicy::Close,
            deflate: Deflate::Off,
            upstream: None,
        }
    }
}

/// Returns the address under which a listener is reached from its own machine: loopback for one on all addresses.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Shows each setting but those that may be secrets, and the routes.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut config = self.clone();
        let shown = table::all().filter_map(|row| Some((row.key, row.shown(&mut config)?)));
        f.debug_map().entries(shown).entry(&"routes", &self.routes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_secret() {
        let secret = || Some(Secret::new(b"hunter2".to_vec()));
        let key = Some(b"hunter2".to_vec());
        let config = Config {
            redis: Some("redis://:hunter2@10.0.0.1".to_owned()),
            publishers_password: secret(),
            jwt: Jwt { secret: secret(), key, ..Jwt::default() },
            ..Config::default()
        };
        let shown = format!("{config:?} {:?}", config.publishers_password);
        assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
        assert!(shown.contains("***"));
    }

    #[test]
    fn the_defaults_are_those_of_the_design() {
        let config = Config::default();
        assert_eq!(config.listen, [Listen::Tcp("127.0.0.1:8099".parse().unwrap())]);
        assert_eq!(config.publishers.map(|a| a.to_string()).as_deref(), Some("127.0.0.1:6380"));
        assert!(config.redis.is_none() && config.admin.is_none() && !config.jwt.has_key());
        assert_eq!((config.prefix.as_str(), config.patterns), ("pub.", vec!["pub.*".to_owned()]));
        assert_eq!(config.jwt.leeway_seconds, 5);
        assert_eq!(config.log, log::LevelFilter::Info);
        let [route] = &config.routes[..] else { panic!("one route") };
        assert_eq!((route.path.as_str(), &route.origins), ("/ws", &Origins::SameHost));
        assert_eq!((route.format, &route.topics), (Format::Json, &vec!["news".to_owned()]));
        assert!(route.may.is_empty() && route.anonymous.is_empty() && !route.single_session);
    }
}
