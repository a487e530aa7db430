//! The parts that a loop is made from, the addresses it listens at, and its end.

use std::net::{SocketAddr, TcpListener};

use crate::engine::bounds::Bounds;
use crate::engine::feature::Feature;
use crate::engine::handler::Route;
use crate::engine::reactor::port::Port;
use crate::engine::reactor::redis_protocol::RedisProtocol;
use crate::engine::redis::command_connection::CommandConnection;
use crate::engine::redis::subscriber::RedisSubscriber;
use crate::engine::resume::cursor::Signer;
use crate::engine::router::ProxyPolicy;

/// The parts of a loop.
pub struct Plan {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// A listener that is open already, in place of `listen`.
    pub listener: Option<TcpListener>,
    /// The proxies in front of the server that are believed.
    pub proxies: Box<dyn ProxyPolicy>,
    /// Whether clients connect by them alone, each with a PROXY header.
    pub proxy_protocol: bool,
    /// A listener of a feature and its address, if there is one.
    pub port: Option<(SocketAddr, Box<dyn Port>)>,
    /// Where `/metrics`, `/clients`, `/healthz` and `/readyz` are served, if they are.
    pub admin: Option<SocketAddr>,
    /// The link to Redis, made at this moment; its times count from the process's start.
    pub link: Option<RedisSubscriber>,
    /// The connection that executes commands at Redis, where there are any; made at this moment, too.
    pub commander: Option<CommandConnection>,
    /// The connection that reads streams, where there are any; made at this moment, too.
    pub reader: Option<Box<dyn RedisProtocol>>,
    /// Beside streams, messages come by channels, too. Else that is taken for so once one has come.
    pub expects_channels: bool,
    /// The routes and their handlers.
    pub routes: Vec<Route>,
    /// Additions to the engine.
    pub features: Vec<Box<dyn Feature>>,
    /// Cut from a channel's name to get its topic.
    pub prefix: String,
    /// Signs cursors; the same at every process that clients are to come back to.
    pub signer: Signer,
    /// Every bound; `clients_max` is a number here, not 0.
    pub bounds: Bounds,
    /// Makes the allocator return what is free to the system; called a while after a burst.
    pub trim: Option<fn()>,
}

/// Where the loop listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For clients.
    pub clients: SocketAddr,
    /// For the connections of the port.
    pub port: Option<SocketAddr>,
    /// For the operator.
    pub admin: Option<SocketAddr>,
}

/// How the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to and drained.
    Drained,
    /// It was asked twice and left at once.
    Forced,
}
