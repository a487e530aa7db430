//! Real-time push on one event loop: `PUBLISH pub.user.42 '{"paid":true}'` in Redis, and a moment later it is on
//! user 42's phone, over WebSocket, on nobody else's.
//!
//! One thread, one hand-written [mio] loop. It holds the listeners, every client, the subscription to Redis, the
//! publishers' port and the signals, and each of its turns has five phases in a fixed order:
//!
//! ```text
//!          sleep ──► dispatch ──► tick ──► flush ──► reap ──┐
//!            ▲   poll, at most      deadlines    one write     close and free
//!            │   until the next                  per client
//!            └── deadline ◄─────────────────────────────────┘
//!
//!  publishers ─► source::link (Redis, channels) ───┐                                  ┌─► outbox ─► socket
//!  publishers ─► source::reader (Redis, streams) ──┤                                  │
//!  publishers ─► source::publisher ────────────────┴─► Site::publish ─► Handler ─► Server::publish: encoded once ─► hub
//!  Server::ask ─► source::commander (Redis) ─► Site::on_answer
//!  clients ────► client ─► request, text ─► Site ─► Handler (push) ─► Server: join, leave, send, close
//! ```
//!
//! While events are dispatched nothing is written to a socket and nothing is freed. A job that its bound cuts short
//! leaves a note, and the next poll does not sleep. Connections are numbers with a generation; a dead number finds nothing.
//! An idle connection is a slot of 40 bytes, its deadline, and its memberships: no buffer, no WebSocket context.
//!
//! Every message is recorded in the [`history`] before it is told. A client that comes back has a place there, and is live again
//! when it has read to the end (`src/server/replay.rs`); what Redis alone still has, it is given in pages first
//! (`src/server/pages.rs`).
//!
//! A message to few is queued for each of them. One to a crowd waits in one place, and the flush phase walks along its
//! listeners, as many in a turn as the turn has writes: no turn is as long as a crowd is large, and nobody needs a box for
//! what fits into its socket (`src/server/dealing.rs`).
//!
//! # Where it comes from
//!
//! The design is that of a PHP application, taken over piece by piece:
//!
//! | there | here |
//! |---|---|
//! | ReactPHP's `LoopInterface`, shared by all | [`reactor`]: the loop, its phases, its clock |
//! | Ratchet's `App`: `route($path, $handler, $allowedOrigins)`, `run()` | [`app::App`] |
//! | Ratchet's `MessageComponentInterface`: `onOpen`, `onMessage`, `onClose` | [`handler::Handler`] |
//! | the application's `onPublishEntry` | [`handler::Handler::on_publish`] |
//! | predis-async's `pubSubLoop(['psubscribe' => 'pub.*'])` | [`source::link`] |
//! | `SplObjectStorage` of connections, arrays of topics | [`slots`] and [`hub`] |
//! | Ratchet's `WsServer` and its buffers per connection | [`client`], which borrows them |
//! | the JWT check in `onOpen` | [`push`], the handler that the binary runs |
//!
//! # The map
//!
//! A module imports only from layers below its own (held by `tests/architecture.rs`, which reads this table).
//!
//! | layer | module | its one job |
//! |---|---|---|
//! | 8 | `main` | the process: settings, log, run, exit status |
//! | 7 | [`serve`] | what the binary serves: settings turned into routes, and the lines that say where |
//! | 7 | [`operate`] | what the operator's commands print and show |
//! | 6 | [`app`] | what a program using the crate builds: settings, routes, then `run` |
//! | 5 | [`reactor`] | the loop; the only module that polls or reads the clock |
//! | 5 | [`push`] | the product: decides who may hear what, as a handler like any other |
//! | 4 | [`site`] | what is served where: the calls from the loop to the handlers |
//! | 3 | [`handler`] | the seam: `Handler`, `Route`, `Reject` |
//! | 2 | [`server`] | what the loop owns besides the loop, and the verbs on it |
//! | 1 | [`client`] | one client's connection from its first byte to its last |
//! | 1 | [`source`] | where messages come from: our connections to Redis, a publisher's connection to us |
//! | 1 | [`backend`] | the JSON spoken with back ends: their orders in, answers to them out |
//! | 1 | [`presence`] | who is here, over all nodes that share a Redis |
//! | 0 | [`hub`] | who listens to what |
//! | 0 | [`flush`] | who is owed a write, in the order in which it comes |
//! | 0 | [`timers`] | one coarse deadline per connection |
//! | 0 | [`slots`] | numbered places that never move |
//! | 0 | [`cursor`] | where somebody stands in what was published |
//! | 0 | [`history`] | what was said lately |
//! | 0 | [`addresses`] | how many connections each address has |
//! | 0 | [`topic`] | topics and grants, parsed once |
//! | 0 | [`complaints`] | lines to the operator about what was refused |
//! | 0 | [`config`] | the settings: one table, three sources |
//! | 0 | [`memory`] | how much memory the process holds |
//! | 0 | [`metrics`] | counters of what happened |
//! | 0 | [`limits`] | how many descriptors there are |
//! | 0 | [`signals`] | signals as readable bytes, or as nothing at all |
//! | 0 | [`supervisor`] | what started the process and watches it, as systemd does |
//! | 0 | [`logger`] | lines to stderr that never hold the loop up |
//! | 0 | [`clock`] | time, as it is handed to everything |
//!
//! Modules of layer 0 may use [`clock`], [`slots`] and [`cursor`]; inside a module of several files, imports make no circle.
//!
//! # Reading order
//!
//! [`reactor`] first: `run` and the five phases are one screen. Then [`client`] (what a connection is, and how little an idle
//! one owns), [`hub`], [`server`] (the verbs), [`handler`] (the seam), [`push`] (what the verbs are used for), and last
//! [`source`]. The protocol code takes bytes and time as arguments and does no I/O of its own.

#![forbid(unsafe_code)]

pub mod addresses;
pub mod app;
pub mod backend;
pub mod client;
pub mod clock;
pub mod complaints;
pub mod config;
pub mod cursor;
pub mod flush;
pub mod handler;
pub mod history;
pub mod hub;
pub mod limits;
pub mod logger;
pub mod memory;
pub mod metrics;
pub mod operate;
pub mod presence;
pub mod push;
#[cfg(test)]
mod random;
pub mod reactor;
pub mod serve;
pub mod server;
pub mod signals;
pub mod site;
pub mod slots;
pub mod source;
pub mod supervisor;
pub mod timers;
pub mod topic;

pub use app::App;
pub use client::frame::{Close, Frame};
pub use client::http::{Request, Response};
pub use handler::{Handler, Reject};
pub use server::Server;
pub use slots::ConnId;
