//! The parts of the bench of TLS.

mod deliveries;
mod handshakes;
mod machine;
mod memory;
mod renewal;
mod storm;

use serde_json::Value;

use super::support::{self, Options};

/// The figures of a part, and the bounds that it has missed: all are printed before the bench fails.
pub struct Part {
    pub figures: Value,
    pub missed: Vec<String>,
}

/// Measures a part.
type Measure = fn(&Options) -> Part;

/// The parts by name.
pub const ALL: &[(&str, Measure)] = &[
    ("memory", memory::run),
    ("machine", machine::run),
    ("handshakes", handshakes::run),
    ("deliveries", deliveries::run),
    ("storm", storm::run),
    ("renewal", renewal::run),
];

/// Notes a figure that is over its bound.
fn hold(missed: &mut Vec<String>, what: &str, figure: f64, bound: f64) {
    if figure > bound {
        missed.push(format!("{what}: {figure:.2} of {bound}"));
    }
}
