//! The publishers' port: back ends connect to us and speak RESP, as they would to a Redis.

pub(crate) mod catalog;
pub(crate) mod commands;
pub mod connection;
pub mod exchange;
pub(crate) mod facts;
pub(crate) mod inline;
pub(crate) mod terms;
