//! The parts that a loop is made from, the addresses at which it listens, and its end.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::engine::bounds::Bounds;
use crate::engine::demand::DemandSettings;
use crate::engine::feature::Feature;
use crate::engine::handler::Route;
use crate::engine::reactor::listen::Listen;
use crate::engine::reactor::listeners::HandedListener;
use crate::engine::reactor::port::Port;
use crate::engine::reactor::redis_protocol::RedisProtocol;
use crate::engine::reactor::unix_socket::UnixAccess;
use crate::engine::redis::command_connection::CommandConnection;
use crate::engine::redis::subscriber::RedisSubscriber;
use crate::engine::resume::cursor::{Node, Signer};
use crate::engine::router::ProxyPolicy;
use crate::upgrade::{BYTES_MAX, Program, StateError, StateReader, VALUES_MAX};

/// The parts of a loop.
pub struct Plan {
    /// The addresses for clients.
    pub listen: Vec<Listen>,
    /// Listeners that are open already, in place of the first ones in `listen`.
    pub listeners: Vec<OwnedFd>,
    /// The mode and group of Unix sockets.
    pub unix: UnixAccess,
    /// The proxies in front of the server that are believed.
    pub proxies: Box<dyn ProxyPolicy>,
    /// Clients connect by them alone, each with a PROXY header.
    pub proxy_protocol: bool,
    /// The listeners of features, with their addresses.
    pub ports: Vec<(SocketAddr, Box<dyn Port>)>,
    /// The address of `/metrics`, `/clients`, `/healthz` and `/readyz`, if they are served.
    pub admin: Option<SocketAddr>,
    /// The connections to Redis, made at this moment: their times count from the start of the process.
    pub subscriber: Option<RedisSubscriber>,
    /// Topics are subscribed to as clients want them, over several such connections.
    pub demand: Option<DemandSettings>,
    pub commands: Option<CommandConnection>,
    pub streams: Option<Box<dyn RedisProtocol>>,
    /// Messages come by channels, too, beside streams. If not, that is assumed once one has come.
    pub expects_channels: bool,
    /// The routes and their handlers.
    pub routes: Vec<Route>,
    /// Additions to the engine.
    pub features: Vec<Box<dyn Feature>>,
    /// Cut from a channel's name to get its topic.
    pub prefix: String,
    /// Signs cursors; the same at every process to which clients may come back.
    pub signer: Signer,
    /// Every bound; where clients come, `clients_max` is a number, not 0.
    pub bounds: Bounds,
    /// The change of the process, in both directions.
    pub handover: HandoverPlan,
    /// Makes the allocator return free memory to the system; called a while after a burst.
    pub trim: Option<fn()>,
}

/// The change of the process under the connections: what this one takes over, and the one that takes its place.
#[derive(Default)]
pub struct HandoverPlan {
    /// Settings that must be the same in both processes, by their names.
    pub shape: Vec<(&'static str, String)>,
    /// The listeners of the process whose place this one takes, and its name.
    pub inheritance: Option<Inheritance>,
    /// The program that is started when SIGUSR2 comes.
    pub program: Option<Program>,
}

/// The listeners, the name and the age of the process whose place this one takes.
pub struct Inheritance {
    elapsed: Duration,
    node: Node,
    listeners: Vec<HandedListener>,
}

impl Inheritance {
    /// Reads it from the process whose place this one takes, if the settings have the same `shape`.
    ///
    /// # Errors
    /// Settings that must be the same are not, or the state is malformed.
    pub fn read(
        reader: &mut StateReader<'_>,
        shape: &[(&'static str, String)],
    ) -> Result<Inheritance, StateError> {
        if reader.len(VALUES_MAX)? != shape.len() {
            return Err(StateError::Malformed("the settings that must be the same"));
        }
        for (name, value) in shape {
            if reader.text(BYTES_MAX)? != *name || reader.text(BYTES_MAX)? != *value {
                let text = format!("an upgrade cannot change {name}: restart for that");
                return Err(StateError::Settings(text));
            }
        }
        let (elapsed, node) = (Duration::from_micros(reader.u64()?), reader.u64()?);
        let listeners = reader.list(VALUES_MAX, HandedListener::restored)?;
        Ok(Inheritance { elapsed, node: Node::of_number(node), listeners })
    }

    /// The age, the name and the listeners; those of a process that begins anew if there is no inheritance.
    pub(super) fn parts(it: Option<Inheritance>) -> (Duration, Option<Node>, Vec<HandedListener>) {
        it.map_or_else(Default::default, |it| (it.elapsed, Some(it.node), it.listeners))
    }
}

/// The addresses at which the loop listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// For clients, in the order of the setting.
    pub clients: Vec<Listen>,
    /// For the connections of ports, with their names.
    pub ports: Vec<(&'static str, SocketAddr)>,
    /// For the operator.
    pub admin: Option<SocketAddr>,
}

impl Addresses {
    /// Returns the address of the port with this name, if there is one.
    pub fn port(&self, name: &str) -> Option<SocketAddr> {
        self.ports.iter().find(|port| port.0 == name).map(|port| port.1)
    }
}

/// The end of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to and drained.
    Drained,
    /// It was asked twice and left at once.
    Forced,
    /// Another process has taken its place, with all connections: this one must end without a word.
    HandedOver,
}
