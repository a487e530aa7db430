//! The source of a mio event, packed into its `Token`.

use mio::Token;

use crate::engine::slots::{ConnId, GENERATIONS};

/// The closed set of event sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client, by the id of its connection.
    Client(ConnId),
    /// A connection of a port, by the numbers of both.
    Port { port: usize, number: usize },
    /// A listener, by its number.
    Listener(usize),
    /// A connection to Redis, by its number.
    Redis(usize),
    /// SIGTERM, SIGINT or SIGQUIT.
    Signals,
    /// SIGHUP.
    Hangup,
    /// The resolver has a result.
    Resolver,
    /// SIGUSR2.
    Handover,
    /// The process that is to take this one's place has said something, or ended.
    Successor,
}

/// Two bits give the kind; a client's other bits are its generation (30) and its index (32).
const KIND: u32 = 62;
const PORT: usize = 1;
const LISTENER: usize = 2;
const OTHER: usize = 3;

/// The number of a port stands above that of its connection.
const PORT_NUMBER: u32 = 32;

const _: () = assert!(usize::BITS == 64 && GENERATIONS.ilog2() == 30, "a client's id fits a token");

impl Source {
    /// The token to register a source with.
    pub fn token(self) -> Token {
        Token(match self {
            Source::Client(id) => id.number() as usize,
            Source::Port { port, number } => PORT << KIND | port << PORT_NUMBER | number,
            Source::Listener(number) => LISTENER << KIND | number,
            Source::Signals => OTHER << KIND,
            Source::Resolver => OTHER << KIND | 1,
            Source::Hangup => OTHER << KIND | 2,
            Source::Handover => OTHER << KIND | 3,
            Source::Successor => OTHER << KIND | 4,
            Source::Redis(number) => OTHER << KIND | (5 + number),
        })
    }

    /// The inverse of [`Source::token`].
    pub fn of(token: Token) -> Source {
        let rest = token.0 & ((1 << KIND) - 1);
        match (token.0 >> KIND, rest) {
            (0, _) => Source::Client(ConnId::of_number(rest as u64)),
            (PORT, rest) => {
                Source::Port { port: rest >> PORT_NUMBER, number: rest & ((1 << PORT_NUMBER) - 1) }
            }
            (LISTENER, number) => Source::Listener(number),
            (_, 0) => Source::Signals,
            (_, 1) => Source::Resolver,
            (_, 2) => Source::Hangup,
            (_, 3) => Source::Handover,
            (_, 4) => Source::Successor,
            (_, number) => Source::Redis(number - 5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_comes_back_from_its_token() {
        for source in [
            Source::Client(ConnId { index: 0, generation: 0 }),
            Source::Client(ConnId { index: u32::MAX, generation: GENERATIONS - 1 }),
            Source::Port { port: 0, number: 0 },
            Source::Port { port: 1, number: 65_535 },
            Source::Listener(2),
            Source::Redis(0),
            Source::Redis(2),
            Source::Signals,
            Source::Resolver,
            Source::Hangup,
            Source::Handover,
            Source::Successor,
        ] {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
