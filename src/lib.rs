//! Real-time push on one event loop: `PUBLISH pub.user.42 '{"paid":true}'` in Redis, and a moment later the message is on
//! user 42's phone, over WebSocket or server-sent events, and on nobody else's.
//!
//! One thread, one hand-written [mio] loop. It holds the listeners, every client, the subscription to Redis, the ports of
//! publishers and the signals. Each turn has five phases in a fixed order:
//!
//! ```text
//!          sleep ──► dispatch ──► tick ──► flush ──► reap ──┐
//!            ▲   poll, at most      deadlines    one write     close and free
//!            │   until the next                  per client
//!            └── deadline ◄─────────────────────────────────┘
//! ```
//!
//! While events are dispatched, nothing is written to a socket and nothing is freed. A job that its bound cuts short leaves a note,
//! and the next poll does not sleep. Connections are numbers with a generation; a stale number finds nothing. An idle connection
//! is a slot of 40 bytes, its deadline and its subscriptions: no buffer, no WebSocket context.
//!
//! # A program of its own
//!
//! ```no_run
//! use oneloop::config::Config;
//! use oneloop::{App, ConnId, Frame, Handler, Message, Scope};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     fn on_message(&mut self, server: &mut Scope<'_>, id: ConnId, message: Message<'_>) {
//!         if let Message::Text(text) = message {
//!             server.send(id, &Frame::text(text));
//!         }
//!     }
//! }
//!
//! App::new(Config::default()).route("/echo", Echo, &["*"]).run()?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The binary's own handler, [`push::Push`], uses nothing private.
//!
//! # A tour in twelve steps
//!
//! The way of a client from `accept` to the end, and of a message from Redis to its socket. These files are the spine of the
//! design; read in this order, they are an afternoon.
//!
//! 1. **The turn.** `Reactor::run` and `Reactor::turn` (`engine/reactor/mod.rs`): five phases on one screen. `Reactor::dispatch`
//!    turns events into notes, then works the notes off, Redis first.
//! 2. **Accepting.** `Listeners::accept` (`engine/reactor/listeners.rs`), paced and bounded; `Reactor::admit`
//!    (`engine/reactor/accept.rs`) gives the connection a slot and, at a `tls://` listener, a [`engine::client::tls::Tls`] beside
//!    it.
//! 3. **Reading.** `ClientIo::read_client` (`engine/reactor/clients.rs`) reads into the one buffer of the loop. Bytes of a client
//!    with TLS take one step more: `ClientIo::on_records` (`engine/reactor/clients.rs`) calls `Tls::open`
//!    (`engine/client/tls.rs`), which drives `TlsHandshake::advance` (`engine/tls/handshake.rs`) until keys are there, then
//!    decrypts records in place by `TlsSession::open` (`engine/tls/session.rs`). From here on, nothing differs: `Client::next`
//!    (`engine/client/mod.rs`) takes events off the buffer, a request, then messages, by one `Codec::next`
//!    (`engine/client/codec.rs`) that all clients share.
//! 4. **Routing.** `Router::on_event` (`engine/router/mod.rs`) finds the route; `Router::open` asks its handler, and
//!    `Router::admit_message` charges the client for each message. A request that asks for an event stream in place of a
//!    WebSocket is accepted in `engine/router/event_streams.rs`, and differs from here on only in the bytes that
//!    `Encoding::of` (`engine/client/encoding.rs`) makes of a frame, once for all such clients.
//! 5. **The handler.** [`engine::handler::Handler`] has six methods. `Push::on_open` (`push/mod.rs`) verifies the token and
//!    subscribes the client to what it grants. Commands of clients are parsed in `push/command.rs`, answers written in
//!    `push/wire.rs`.
//! 6. **Subscribing.** `Scope::subscribe` (`engine/server/subscriptions.rs`), then `Hub::subscribe` (`engine/pubsub/hub/mod.rs`):
//!    one node of 20 bytes in a list per topic and a list per client. [`engine::pubsub::topic`] alone decides which topics a
//!    grant covers.
//! 7. **A message arrives.** `RedisSocket::read` (`engine/reactor/redis_socket.rs`) hands the bytes to
//!    `RedisSubscriber::next` (`engine/redis/subscriber.rs`), which parses them without I/O of its own; `Router::publish`
//!    (`engine/router/messages.rs`) cuts the prefix and records the message by `History::push`
//!    (`engine/resume/history.rs`): one ring of bytes for all clients.
//! 8. **Publishing.** `Push::on_publish` (`push/mod.rs`) encodes it once, `Scope::publish` (`engine/server/scope.rs`) finds the
//!    subscribers: a few are queued a reference each by `Server::queue` (`engine/server/mod.rs`). `Client::queue`
//!    (`engine/client/flight.rs`) decides there whether a client is too slow: then it is closed with 4000.
//! 9. **Fan-out.** A message to more than 64 subscribers waits in one place, and `Fanout::next_recipient`
//!    (`engine/server/fanout.rs`) walks along them, as many in a turn as the turn has writes.
//! 10. **Writing.** `ClientIo::flush` (`engine/reactor/flush.rs`) takes clients off the [`engine::pending_writes`];
//!     `Client::flush` (`engine/client/flight.rs`) and `Outbox::write` (`engine/client/outbox.rs`) make one write of all
//!     frames. For a client with TLS, `Tls::seal` (`engine/client/tls.rs`) packs them into records of up to 16 KB first, in
//!     space that the loop lends; the rest of a record that the socket did not take is kept (`engine/client/sealed.rs`).
//! 11. **Deadlines.** `ClientIo::tick` (`engine/reactor/clients.rs`): pings, silence, stalls, the token's `exp`, all by one
//!     coarse timer per client ([`engine::timers`]).
//! 12. **The end.** `Server::close` queues the close frame, `Server::linger` (`engine/server/lifecycle.rs`) waits for the peer,
//!     `Router::reap` (`engine/router/mod.rs`) tells the handler and frees the slot. A client that comes back with a cursor is
//!     given what it missed by `Server::resume` (`engine/server/mod.rs`).
//!
//! # The life of a connection
//!
//! ```text
//!  accept                  handshake                     close frame queued     theirs came
//!    │                        │                                │                    │
//!    ▼    408, 4xx, 503       ▼    finish: close, drain, 4xxx  ▼                    ▼
//!   Head ─────────┐         Open ─────────────────────────► Leaving ────────────► Closing
//!    │            └──────────────────────────────────────────  │ ───────────────►  │  all is written
//!    │ peer ends: HalfClosed, until all is written             │ nothing read: 5 s ▼
//!    └────────────► Terminated ◄───────────────────────────────┴─────────────── Lingering
//!                       │                                        peer ends, or 5 s
//!                       │
//!                       ▼  at the end of the turn: Handler::on_close, then the slot is free
//! ```
//!
//! [`engine::client::State`] is that enum; it moves forward only.
//!
//! # Where the state of a client may live
//!
//! The slot is full: 40 bytes, asserted at compile time. What every open client has goes there and needs a measured reason. What a
//! client has only while something is in flight goes into its `Flight` box (`engine/client/flight.rs`), which is freed when it is
//! empty: after each whole message, so no count of a second fits there. What only some clients have belongs to whoever uses it,
//! in a map by [`ConnId`] that `Handler::on_close` empties, as `Push` does with rights and clients without a token
//! (`push/mod.rs`): a stale id finds nothing there either. What the loop keeps for each client stands in arrays beside the slots
//! (`engine/timers.rs`), and what it keeps for many, but not for all, in [`engine::slots::Beside`]: pages found by the number of
//! the slot, which cost nothing while they are empty. TLS is there, 16 bytes and a box of
//! keys, and with a control channel the second of each token, 4 bytes. A map would belong to `ClientIo`,
//! which empties it in `ClientIo::reap` (`engine/reactor/clients.rs`). The
//! steps of a new bound and of a new command stand in `.github/CONTRIBUTING.md`.
//!
//! # Patterns to copy
//!
//! | pattern | where |
//! |---|---|
//! | one parser shared by all connections, nothing kept while idle | `engine/client/codec.rs` |
//! | one message in several encodings, each made once, when the first client needs it | `engine/client/encoding.rs`, `engine/client/deflate` |
//! | edge-triggered readiness as notes, worked off with a bound per turn | `engine/reactor/clients.rs`, `engine/reactor/listeners.rs` |
//! | one write per client per turn, in fair lanes | `engine/pending_writes.rs`, `engine/reactor/flush.rs` |
//! | a fan-out that no turn is as long as | `engine/server/fanout.rs` |
//! | an index that grows by one bucket (linear hashing, Litwin 1980) | `engine/pubsub/hub/index.rs` |
//! | a price of commands per second in two bytes | `engine/client/allowance.rs` |
//! | one coarse timer per connection in an array | `engine/timers.rs` |
//! | generational ids over a slab in pages | `engine/slots.rs`, `engine/server/clients.rs` |
//! | a protocol without I/O: bytes and time as arguments | `engine/redis/session.rs` |
//! | TLS that hibernates: after the handshake keys alone, records in borrowed buffers | `engine/tls/handshake.rs`, `engine/tls/session.rs` |
//! | a history that costs a copy per message and nothing per client | `engine/resume/history.rs` |
//! | who makes room when places are scarce | `engine/server/places.rs`, `engine/admission/strangers.rs` |
//! | a whole loop driven by a seed over sockets in memory | `engine/reactor/tests/simulation.rs` |
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
//! A room imports from lower layers only (held by `tests/architecture`, which reads this table).
//!
//! | layer | room | its one job |
//! |---|---|---|
//! | 13 | `main` | the process: settings, log, run, exit status |
//! | 12 | [`serve`] | settings turned into routes, the page and the script, and the lines that say where |
//! | 12 | [`cli`] | the operator's commands |
//! | 11 | [`app`] | the builder for a program that uses the crate: settings, routes, then `run` |
//! | 10 | [`push`] | the product: decides which client may receive a topic, as a handler like any other |
//! | 10 | [`tls`] | certificates and keys, from files to the settings of handshakes |
//! | 9 | [`config`] | the settings: one table, three sources |
//! | 8 | [`loops`] | several loops in processes of their own, as one server |
//! | 8 | [`features::control`] | commands of back ends on one channel: kick, revoke, join, leave, count |
//! | 8 | [`features::overload`] | limits on the memory of all clients together |
//! | 8 | [`features::presence`] | the users that are online, over all nodes that share a Redis |
//! | 8 | [`features::proxies`] | the proxies whose word on the address of a client is believed |
//! | 8 | [`features::receipts`] | the number of clients that a message reached |
//! | 8 | [`features::publisher`] | the publishers' port: RESP from back ends |
//! | 8 | [`features::zeromq`] | the ZeroMQ port: a PULL socket for back ends |
//! | 8 | [`features::streams`] | durable topics: Redis streams, read from their end and paged backwards |
//! | 7 | [`engine::reactor`] | the loop; the only room that polls or reads the clock |
//! | 6 | [`engine::router`] | the calls from the loop to the handlers of the routes |
//! | 5 | [`engine::feature`] | the seam to features: `Feature` and its hooks |
//! | 5 | [`engine::handler`] | the seam: `Handler`, `Route`, `Reject` |
//! | 4 | [`engine::server`] | the connections of a loop, and the verbs on them |
//! | 3 | [`engine::client`] | one client's connection from its first byte to its last |
//! | 3 | [`engine::redis`] | the connections to Redis, without I/O |
//! | 2 | [`engine::admission`] | connections per address, room for newcomers, and passwords |
//! | 2 | [`engine::pending_writes`] | clients with something to be written, in the order in which it comes |
//! | 1 | [`engine::pubsub`] | topics, and the subscriptions of clients to them |
//! | 2 | [`engine::demand`] | the topics that are subscribed to at Redis as clients want them |
//! | 2 | [`engine::resume`] | the history of recent messages, and cursors into it |
//! | 2 | [`engine::signals`] | signals as readable bytes, or as nothing at all |
//! | 2 | [`engine::timers`] | one coarse deadline per connection |
//! | 1 | [`engine::bounds`] | every bound that the loop enforces |
//! | 1 | [`engine::tls`] | TLS on the server's side, without I/O: a handshake, then keys alone |
//! | 1 | [`engine::origin`] | origins of pages, in one spelling |
//! | 0 | [`engine::slots`] | numbered places that never move |
//! | 1 | [`observe`] | metrics, log lines, and the service manager's view |
//! | 0 | `der` | DER, read in place: certificates and keys |
//! | 0 | `build` | the build script: deflates the texts that the binary carries |
//! | 0 | `embedded` | those texts, inflated |
//! | 0 | [`upgrade`] | the state of a process as bytes and descriptors, for the one that takes its place |
//! | 0 | `json` | JSON, read and written in one way |
//! | 0 | [`suggestion`] | the known name that is nearest to an unknown one |
//! | 1 | [`manual`] | the manual's chapters, for rustdoc and for `oneloop help TOPIC` |
//! | 0 | [`clock`] | time, as it is handed to everything |
//!
//! Inside a room of several files, imports make no circle.
//!
#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
mod der;
mod embedded;
pub mod engine;
pub mod features;
mod json;
pub mod loops;
pub mod manual;
pub mod observe;
pub mod push;
pub mod serve;
pub mod suggestion;
pub mod tls;
pub mod upgrade;

pub use app::App;
pub use engine::client::frame::{Close, Frame};
pub use engine::client::http::{Request, Response};
pub use engine::handler::{Handler, Message, Reject};
pub use engine::pubsub::topic::Subject;
pub use engine::server::{RouteOptions, Scope, Server};
pub use engine::slots::ConnId;
