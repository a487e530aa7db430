//! The operator's view of a running process: metrics, log lines, and notifications of the service manager.

pub(crate) mod backlog_report;
pub mod complaints;
pub mod descriptors;
pub mod logger;
pub mod metrics;
pub mod systemd;
