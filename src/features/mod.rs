//! Features: each is one folder, meets the engine at named hooks, and can be removed.

pub mod control;
pub mod overload;
pub mod presence;
pub mod proxies;
pub mod publisher;
pub mod receipts;
pub mod streams;
pub mod zeromq;
