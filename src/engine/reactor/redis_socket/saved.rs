//! Connections to Redis as a state that is handed over: the subscription with its socket, the others by their places.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mio::Registry;
use mio::net::{TcpStream, UnixStream};

use super::follow::follow;
use super::{ConnectAttempt, RedisSocket, RedisSockets};
use crate::engine::reactor::redis_stream::RedisStream;
use crate::engine::reactor::token::Source;
use crate::engine::router::Router;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

const MALFORMED: StateError = StateError::Malformed("a connection to Redis");

impl RedisSocket {
    /// The socket and the input that is to be handed over, if it can be. The state of TLS cannot.
    fn portable(&self) -> Option<(BorrowedFd<'_>, bool, [&[u8]; 2])> {
        let held = self.protocol.portable()?;
        let (socket, is_unix) =
            match self.attempt.stream.as_ref().filter(|_| self.attempt.is_open)? {
                RedisStream::Tcp(socket) => (socket.as_fd(), false),
                RedisStream::Unix(socket) => (socket.as_fd(), true),
                RedisStream::Tls(_) => return None,
            };
        Some((socket, is_unix, [held, &self.attempt.pending]))
    }
}

/// Writes all connections.
pub fn save<'a>(sockets: &'a RedisSockets, writer: &mut StateWriter<'a>) {
    writer.len(sockets.0.len());
    for socket in &sockets.0 {
        writer.text(socket.protocol.session().name);
        let portable = writer.option(socket.portable());
        if let Some((descriptor, is_unix, input)) = portable {
            writer.descriptor(descriptor);
            writer.bool(is_unix);
            writer.parts(input);
        }
        writer.blob(|writer| socket.protocol.save(writer));
    }
}

/// Takes over connections, or goes on from their places by new ones.
///
/// # Errors
/// The state is malformed.
pub fn restore(
    sockets: &mut RedisSockets,
    router: &mut Router,
    registry: &Registry,
    reader: &mut StateReader<'_>,
) -> Result<(), StateError> {
    for _ in 0..reader.len(VALUES_MAX)? {
        let name = reader.text(BYTES_MAX)?;
        let portable = reader.option(|reader| {
            let descriptor: OwnedFd = reader.descriptor()?;
            Ok((descriptor, reader.bool()?, reader.bytes(BYTES_MAX)?))
        })?;
        let state = reader.bytes(BYTES_MAX)?;
        let known = sockets.0.iter_mut().find(|one| one.protocol.session().name == name);
        let Some(socket) = known else { continue };
        let mut nothing = ();
        let mut reader = StateReader::new(state, &mut nothing);
        let is_taken = socket.protocol.restore(router, &mut reader, portable.is_some())?;
        if socket.protocol.has_news() {
            // The subscription, which comes after, is taken over if it is to this server.
            follow(sockets, router);
        } else if let Some((descriptor, is_unix, pending)) = portable.filter(|_| is_taken) {
            let mut stream = match is_unix {
                true => RedisStream::Unix(UnixStream::from(descriptor)),
                false => RedisStream::Tcp(TcpStream::from(descriptor)),
            };
            let token = Source::Redis(socket.number).token();
            stream.register(registry, token).map_err(|_| MALFORMED)?;
            socket.attempt = ConnectAttempt {
                stream: Some(stream),
                is_connected: true,
                is_open: true,
                has_answered: true,
                is_held_up: !pending.is_empty(),
                pending,
                ..ConnectAttempt::default()
            };
        }
    }
    Ok(())
}
