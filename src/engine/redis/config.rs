//! Where Redis is and how we speak with it.

use crate::clock::Millis;
use crate::engine::redis::place::RedisPlace;
use crate::engine::redis::tls::RedisTls;
use crate::engine::redis::url::{Address, RedisUrl};

/// A server to connect to, and the login there. Not `Debug`: it holds a password.
#[derive(Clone)]
pub struct RedisServer {
    pub address: Address,
    pub kind: ServerKind,
    /// `None`: the connection is plain.
    pub tls: Option<RedisTls>,
    /// None with a password: the user `default`.
    pub username: Option<String>,
    pub password: Option<String>,
    /// For commands; it means nothing to pub/sub.
    pub database: i64,
    /// Never try `HELLO 3` (`?protocol=resp2`).
    pub resp2_only: bool,
}

/// The kind of server that is expected at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// A server that carries messages: a primary, a replica in sync, or a node of a cluster.
    Any,
    /// The primary that a Sentinel has named.
    Primary,
    Sentinel,
    /// A node of a cluster, which is connected to the others.
    ClusterNode,
}

impl RedisServer {
    /// The server of a URL. `tls` is there if the URL asks for it.
    ///
    /// # Errors
    /// A sentence if no certificate can carry the name of the host.
    fn new(url: RedisUrl, kind: ServerKind, tls: Option<&RedisTls>) -> Result<RedisServer, String> {
        let RedisUrl { address, username, password, database, resp2_only, .. } = url;
        let tls = tls.map(|tls| tls.at(&address)).transpose()?;
        Ok(RedisServer { address, kind, tls, username, password, database, resp2_only })
    }

    /// The same login at another address.
    ///
    /// # Errors
    /// A sentence if no certificate can carry the name of the host.
    pub fn at(&self, address: Address) -> Result<RedisServer, String> {
        let tls = self.tls.as_ref().map(|tls| tls.at(&address)).transpose()?;
        Ok(RedisServer { address, tls, ..self.clone() })
    }
}

/// Sentinels, and the primary that they are asked for.
#[derive(Clone)]
pub struct SentinelConfig {
    /// The name of the primary among those that they watch.
    pub name: String,
    pub servers: Vec<RedisServer>,
    /// The login at the primary; its address means nothing.
    pub primary: RedisServer,
}

/// The settings of our connections to Redis. Not `Debug`: they hold a password.
#[derive(Clone)]
pub struct RedisConfig {
    /// The server of this attempt to connect.
    pub server: RedisServer,
    /// The servers to try, in order of preference; none before a Sentinel has named the primary.
    pub servers: Vec<RedisServer>,
    /// The Sentinels that name the server.
    pub sentinels: Option<Box<SentinelConfig>>,
    /// For `PSUBSCRIBE`: at least one, but on demand.
    pub patterns: Vec<String>,
    /// The name of this process in the channel of its [probe](crate::engine::redis::probe).
    pub node: String,
    /// Keys of the streams that are read; none without them.
    pub streams: Vec<String>,
    /// Without a byte for so long, a PING is sent.
    pub silence: Millis,
    /// For everything from the attempt to connect up to the last acknowledged pattern, and for any byte after a PING.
    pub timeout: Millis,
    /// The longest wait between two attempts; below 10 it counts as 10.
    pub backoff_max: Millis,
    /// A message with a larger payload is dropped.
    pub payload_bytes_max: usize,
}

impl RedisConfig {
    /// Settings of plain connections; see [`RedisPlace::parse`]. All else has the default of the README's table.
    ///
    /// # Errors
    /// A text for the operator. It shows nothing of the URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<RedisConfig, String> {
        RedisPlace::parse(url).and_then(|place| RedisConfig::new(place, None))
    }

    /// Settings with the defaults of the README's table. `tls` is there if the URLs ask for it.
    ///
    /// # Errors
    /// A sentence if no certificate can carry the name of a host.
    pub fn new(place: RedisPlace, tls: Option<RedisTls>) -> Result<RedisConfig, String> {
        let tls = tls.as_ref();
        let kind = match place.primary {
            Some(_) => ServerKind::Sentinel,
            None if place.is_cluster => ServerKind::ClusterNode,
            None => ServerKind::Any,
        };
        let servers = place.urls.into_iter().map(|url| RedisServer::new(url, kind, tls));
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        let (server, servers, sentinels) = match place.primary {
            None => (servers[0].clone(), servers, None),
            Some((name, login)) => {
                let primary = RedisServer::new(login, ServerKind::Primary, tls)?;
                let sentinels = SentinelConfig { name, servers, primary: primary.clone() };
                (primary, Vec::new(), Some(Box::new(sentinels)))
            }
        };
        Ok(RedisConfig {
            server,
            servers,
            sentinels,
            patterns: vec!["pub.*".to_owned()],
            node: "0".to_owned(),
            streams: Vec::new(),
            silence: 10_000,
            timeout: 5_000,
            backoff_max: 2_000,
            payload_bytes_max: 1024 * 1024,
        })
    }

    /// Chooses the server of an attempt: the first one, and after each attempt in vain the next.
    pub fn choose(&mut self, turn: usize) {
        if let Some(server) = self.servers.get(turn % self.servers.len().max(1)) {
            self.server = server.clone();
        }
    }

    /// Chooses the server with this address. Returns whether there is one.
    pub fn choose_address(&mut self, address: &str) -> bool {
        let found = self.servers.iter().find(|server| server.address.to_string() == address);
        found.map(|server| self.server = server.clone()).is_some()
    }

    /// Replaces the settings of TLS of every server that has it.
    pub fn set_tls(&mut self, tls: &RedisTls) {
        let RedisConfig { server, servers, sentinels, .. } = self;
        let of_sentinels = sentinels.iter_mut().flat_map(|sentinels| {
            let SentinelConfig { servers, primary, .. } = &mut **sentinels;
            servers.iter_mut().chain([primary])
        });
        let current = servers.iter_mut().chain([server]).chain(of_sentinels);
        current.filter_map(|server| server.tls.as_mut()).for_each(|current| current.renew(tls));
    }
}
