//! The change of the process: the settings that both must share, and the state on its way.

use std::fmt::Write;
use std::io;

use super::LoopRole;
use crate::config::Config;
use crate::engine::reactor::{HandoverPlan, Inheritance, Reactor, take_over};
use crate::upgrade::{Predecessor, Program, StateReader};

/// The state that this process takes over, if there is one.
pub(super) struct StateInput<'a> {
    reader: Option<StateReader<'a>>,
    inheritance: Option<Inheritance>,
    shape: String,
}

/// Says that the settings are good, and reads the beginning of the state.
///
/// # Errors
/// The settings cannot be taken over to, or the state does not come.
pub(super) fn begin<'a>(
    config: &Config,
    predecessor: Option<&'a mut Predecessor>,
    role: &LoopRole,
) -> io::Result<StateInput<'a>> {
    let shape = shape(config);
    let Some(predecessor) = predecessor else {
        return Ok(StateInput { reader: None, inheritance: None, shape });
    };
    if !role.is_alone() {
        let text = "an upgrade is for a single loop: restart for several";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    predecessor.greet()?;
    let mut reader = StateReader::new(Vec::new(), predecessor.link());
    let inheritance = Inheritance::read(&mut reader, &shape)?;
    Ok(StateInput { reader: Some(reader), inheritance: Some(inheritance), shape })
}

impl StateInput<'_> {
    /// The plan of a loop that begins with this state, and hands its own to this program.
    pub(super) fn plan(&mut self, program: Option<Program>) -> HandoverPlan {
        let shape = std::mem::take(&mut self.shape);
        HandoverPlan { shape, inheritance: self.inheritance.take(), program }
    }

    /// Gives the loop all that the state has.
    ///
    /// # Errors
    /// The state is malformed, or does not come.
    pub(super) fn restore(self, reactor: &mut Reactor) -> io::Result<()> {
        let restored = self.reader.map(|mut reader| take_over(reactor, &mut reader));
        Ok(restored.transpose().map(|_| ())?)
    }
}

/// The settings that must be the same in processes that hand connections over, as a text: these and the history depend on them.
pub(super) fn shape(config: &Config) -> String {
    let mut shape = format!("{} {:?}", config.prefix, config.streams);
    for route in &config.routes {
        let _ = write!(shape, " {} {:?}", route.path, route.format);
    }
    shape
}
