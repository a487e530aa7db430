//! The three sources of settings: a file, then `ONELOOP_*` variables, then flags; the last one wins.

use std::ffi::OsString;
use std::fmt;

use super::Config;
use super::draft::{Draft, SettingSource};
use super::environment::own_variables;
use super::file::take_file;
use super::setting::SettingName;
use super::settle::Task;
use super::table;
use super::value::Value;
use crate::suggestion::suggestion;

/// Everything that is wrong, one message each; none of them shows a secret.
#[derive(Debug)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// The settings on a command line.
#[derive(Default)]
pub(crate) struct FlagValues {
    /// `--config`.
    pub(crate) file: Option<OsString>,
    pub(crate) values: Vec<(SettingName, Value)>,
    /// A message for each argument that is wrong.
    pub(crate) problems: Vec<String>,
}

/// Reads the settings for a task. Returns them with a line for each that was given by its former name. `vars` is the environment.
///
/// # Errors
/// All problems, those of the command line included.
pub(crate) fn read(
    mut flags: FlagValues,
    vars: impl IntoIterator<Item = (OsString, OsString)>,
    task: Task,
) -> Result<(Config, Vec<String>), Problems> {
    let mut variables = own_variables(vars);
    let named = variables.iter().position(|(name, _)| name == "ONELOOP_CONFIG");
    let by_variable = named.map(|at| (variables.remove(at).1, "ONELOOP_CONFIG"));
    let file = flags.file.map(|file| (file, "--config")).or(by_variable);

    let mut draft = Draft::default();
    let is_whole = match file.map(|(file, source)| (file.into_string(), source)) {
        None => true,
        Some((Ok(file), source)) => take_file(&mut draft, &file, source),
        Some((Err(_), source)) => {
            draft.problems.push(format!("{source}: the file's name is not UTF-8"));
            false
        }
    };
    take_variables(&mut draft, variables);
    draft.problems.append(&mut flags.problems);
    for (setting, value) in flags.values {
        draft.take(setting, value, SettingSource::Flag);
    }
    if !is_whole {
        // The settings in the file are unknown: judging the whole would accuse the innocent.
        return Err(Problems(draft.problems));
    }
    let warnings = std::mem::take(&mut draft.warnings);
    let (config, problems) = draft.settle(task);
    if problems.is_empty() { Ok((config, warnings)) } else { Err(Problems(problems)) }
}

/// Reads the good settings of the file and the variables, whatever is wrong with others: where a unit is written, the secret may
/// not be there yet.
pub(crate) fn read_without_checks(
    file: Option<&str>,
    vars: impl IntoIterator<Item = (OsString, OsString)>,
) -> Config {
    let mut draft = Draft::default();
    if let Some(file) = file {
        take_file(&mut draft, file, "--config");
    }
    take_variables(&mut draft, own_variables(vars));
    draft.config
}

fn take_variables(draft: &mut Draft, variables: Vec<(String, OsString)>) {
    for (name, value) in variables {
        match table::by_variable(&name) {
            Some(named) => draft.take(named, value.into(), SettingSource::Variable),
            None => {
                let known = table::all().map(|setting| setting.variable());
                let meant = suggestion("", &name, known.chain(["ONELOOP_CONFIG".to_owned()]));
                let name = name.escape_debug();
                draft.problems.push(format!("unknown variable {name}{meant}"));
            }
        }
    }
}
