//! What the operator's commands print and show.

mod look;
mod top;
pub mod unit;

pub use top::top;

/// A dashboard for Grafana (version 10 or later), which asks for a data source of Prometheus when it is imported.
pub const DASHBOARD: &str = include_str!("dashboard.json");
