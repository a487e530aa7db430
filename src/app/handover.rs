//! The change of the process: the settings that both must share, and the first part of the state.

use std::fmt::Write;
use std::io;

use super::LoopRole;
use crate::config::Config;
use crate::engine::reactor::{HandoverPlan, Inheritance};
use crate::upgrade::{Predecessor, Program, StateReader};

/// Reads the first part of the state that this process takes over, if there is one. Returns the plan of a loop that begins with it, and
/// hands its own state to this program.
///
/// # Errors
/// The settings cannot be taken over to, or the state does not come.
pub(super) fn begin(
    config: &Config,
    role: &mut LoopRole,
    predecessor: Option<&mut Predecessor>,
    program: Option<Program>,
) -> io::Result<HandoverPlan> {
    let shape = shape(config);
    // A worker does as its parent does.
    let program = program.filter(|_| !role.is_worker());
    let Some(predecessor) = predecessor else {
        return Ok(HandoverPlan { shape, inheritance: None, program });
    };
    predecessor.greet()?;
    let mut reader = StateReader::new(Vec::new(), predecessor.link());
    let inheritance = Some(Inheritance::read(&mut reader, &shape)?);
    role.inherit(config, &mut reader)?;
    Ok(HandoverPlan { shape, inheritance, program })
}

/// The settings that must be the same in processes that hand connections over, as texts: these and the history depend on them.
pub(super) fn shape(config: &Config) -> Vec<(&'static str, String)> {
    let mut routes = String::new();
    for route in &config.routes {
        let _ = write!(routes, " {} {:?}", route.path, route.format);
    }
    vec![
        ("loops", config.loops().to_string()),
        ("prefix", config.prefix.clone()),
        ("streams", format!("{:?}", config.streams)),
        ("the paths and formats of routes", routes),
    ]
}
