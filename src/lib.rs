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
//!  publishers ─► redis::subscriber (channels)   ───┐                                  ┌─► outbox ─► socket
//!  publishers ─► streams::reader (Redis streams) ──┤                                  │
//!  publishers ─► publisher::connection────────────────┴─► Router::publish ─► Handler ─► Server::publish: encoded once ─► hub
//!  Server::ask ─► redis::command_connection ─► Router::on_answer
//!  clients ────► client ─► request, text ─► Router ─► Handler (push) ─► Server: join, leave, send, close
//! ```
//!
//! While events are dispatched nothing is written to a socket and nothing is freed. A job that its bound cuts short
//! leaves a note, and the next poll does not sleep. Connections are numbers with a generation; a dead number finds nothing.
//! An idle connection is a slot of 40 bytes, its deadline, and its memberships: no buffer, no WebSocket context.
//!
//! Every message is recorded in the [`engine::resume::history`] before it is told. A client that comes back has a place there, and is live again
//! when it has read to the end (`src/engine/server/replay.rs`); what Redis alone still has, it is given in pages first
//! (`src/engine/server/pages.rs`).
//!
//! A message to few is queued for each of them. One to a crowd waits in one place, and the flush phase walks along its
//! listeners, as many in a turn as the turn has writes: no turn is as long as a crowd is large, and nobody needs a box for
//! what fits into its socket (`src/engine/server/dealing.rs`).
//!
//! # Where it comes from
//!
//! The design is that of a PHP application, taken over piece by piece:
//!
//! | there | here |
//! |---|---|
//! | ReactPHP's `LoopInterface`, shared by all | [`engine::reactor`]: the loop, its phases, its clock |
//! | Ratchet's `App`: `route($path, $handler, $allowedOrigins)`, `run()` | [`app::App`] |
//! | Ratchet's `MessageComponentInterface`: `onOpen`, `onMessage`, `onClose` | [`engine::handler::Handler`] |
//! | the application's `onPublishEntry` | [`engine::handler::Handler::on_publish`] |
//! | predis-async's `pubSubLoop(['psubscribe' => 'pub.*'])` | [`engine::redis::subscriber`] |
//! | `SplObjectStorage` of connections, arrays of topics | [`engine::slots`] and [`engine::pubsub::hub`] |
//! | Ratchet's `WsServer` and its buffers per connection | [`engine::client`], which borrows them |
//! | the JWT check in `onOpen` | [`push`], the handler that the binary runs |
//!
//! # The map
//!
//! A room imports from lower layers only (held by `tests/architecture`, which reads this table and lists the imports that
//! are still to be cut).
//!
//! | layer | room | its one job |
//! |---|---|---|
//! | 13 | `main` | the process: settings, log, run, exit status |
//! | 12 | [`serve`] | settings turned into routes, the page and the script, and the lines that say where |
//! | 12 | [`cli`] | the operator's commands |
//! | 11 | [`app`] | the builder for a program that uses the crate: settings, routes, then `run` |
//! | 10 | [`push`] | the product: decides which client may hear a topic, as a handler like any other |
//! | 9 | [`config`] | the settings: one table, three sources |
//! | 8 | [`features::control`] | the JSON spoken with back ends |
//! | 8 | [`features::presence`] | the users that are online, over all nodes that share a Redis |
//! | 8 | [`features::publisher`] | the publishers' port: RESP from back ends |
//! | 8 | [`features::streams`] | durable topics: Redis streams, read from their end and paged backwards |
//! | 7 | [`engine::reactor`] | the loop; the only room that polls or reads the clock |
//! | 6 | [`engine::router`] | the calls from the loop to the handlers of the routes |
//! | 5 | [`engine::handler`] | the seam: `Handler`, `Route`, `Reject` |
//! | 4 | [`engine::server`] | the connections of a loop, and the verbs on them |
//! | 3 | [`engine::client`] | one client's connection from its first byte to its last |
//! | 3 | [`engine::redis`] | the connections to Redis, without I/O |
//! | 2 | [`engine::admission`] | connections per address, and room for newcomers |
//! | 2 | [`engine::pending_writes`] | clients with something to be written, in the order in which it comes |
//! | 2 | [`engine::pubsub`] | topics, and the subscriptions of clients to them |
//! | 2 | [`engine::resume`] | the history of recent messages, and cursors into it |
//! | 2 | [`engine::signals`] | signals as readable bytes, or as nothing at all |
//! | 2 | [`engine::timers`] | one coarse deadline per connection |
//! | 1 | [`engine::bounds`] | every bound that the loop enforces |
//! | 1 | [`engine::origin`] | origins of pages, in one spelling |
//! | 1 | [`engine::slots`] | numbered places that never move |
//! | 1 | [`observe`] | metrics, log lines, and the service manager's view |
//! | 0 | [`suggestion`] | the known name that is nearest to an unknown one |
//! | 0 | [`clock`] | time, as it is handed to everything |
//!
//! Inside a room of several files, imports make no circle.
//!
//! # Reading order
//!
//! [`engine::reactor`] first: `run` and the five phases are one screen. Then [`engine::client`] (what a connection is, and how little an idle
//! one owns), [`engine::pubsub::hub`], [`engine::server`] (the verbs), [`engine::handler`] (the seam), [`push`] (what the verbs are used for), and last
//! [`engine::redis`]. The protocol code takes bytes and time as arguments and does no I/O of its own.

#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod features;
pub mod observe;
pub mod push;
pub mod serve;
pub mod suggestion;

pub use app::App;
pub use engine::client::frame::{Close, Frame};
pub use engine::client::http::{Request, Response};
pub use engine::handler::{Handler, Message, Reject};
pub use engine::server::{RouteOptions, Scope, Server};
pub use engine::slots::ConnId;
