//! What the operator sees of a running process: metrics, log lines, and the service manager's view.

pub mod complaints;
pub mod descriptors;
pub mod logger;
pub mod metrics;
pub mod systemd;
