//! The structure of `src` holds: who imports whom, where each outside crate lives, and how large things may grow.

mod crates;
mod house;
mod rooms;
mod topics;
mod tree;
