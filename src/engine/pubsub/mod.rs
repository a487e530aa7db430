//! Topics, and the subscriptions of clients to them.

pub mod hub;
pub mod topic;
