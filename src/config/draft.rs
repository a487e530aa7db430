//! The configuration while the sources are being merged: what was said, by whom, and what is wrong with it.

use std::collections::BTreeMap;

use super::setting::{Apply, Setting};
use super::table;
use super::value::Value;
use super::{Config, RouteConfig};

/// Later sources overwrite earlier ones, so the order of the calls is the precedence.
#[derive(Default)]
pub(super) struct Draft {
    /// The defaults, overwritten by what was said. `routes` holds just the default route.
    pub(super) config: Config,
    /// Each key that was given, well or badly, with its last source: `oneloop.toml:3`, `--listen`.
    pub(super) said: BTreeMap<&'static str, String>,
    /// The file names given for the keys that take one: only the last of each is read.
    pub(super) files: BTreeMap<&'static str, String>,
    /// The `[[route]]` tables, each with its source.
    pub(super) routes: Vec<(RouteConfig, String)>,
    /// One message for each thing that is wrong.
    pub(super) problems: Vec<String>,
}

/// Where a value comes from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    File { name: &'a str, line: usize },
    Variable,
    Flag,
}

impl Source<'_> {
    fn name(&self, setting: &Setting) -> String {
        match self {
            Source::File { name, line } => format!("{name}:{line}"),
            Source::Variable => setting.variable(),
            Source::Flag => setting.flag(),
        }
    }
}

impl Draft {
    /// Takes one value; whatever is wrong with it becomes a problem.
    pub(super) fn take(&mut self, setting: &'static Setting, value: Value, source: Source) {
        let source_name = source.name(setting);
        if setting.is_variable_only() && !matches!(source, Source::Variable) {
            return self.refuse_secret(setting, &source_name);
        }
        let refusal = self.set(setting, value).err();
        if let Some(reason) = refusal {
            self.problems.push(message(setting, setting.key, &source_name, &reason));
        }
        self.said.insert(setting.key, source_name);
    }

    /// Takes one key of a `[[route]]` table.
    pub(super) fn take_into(
        &mut self,
        route: &mut RouteConfig,
        setting: &'static Setting,
        value: Value,
        source: Source,
    ) {
        let Apply::Route { set, .. } = setting.apply else { return };
        if let Err(reason) = set(route, &value) {
            let key = format!("route.{}", setting.key);
            self.problems.push(message(setting, &key, &source.name(setting), &reason));
        }
    }

    /// The key and the source of what was said about it: `redis (--redis)`.
    pub(super) fn label(&self, key: &str) -> String {
        match self.said.get(key) {
            Some(source) => format!("{key} ({source})"),
            None => key.to_owned(),
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.said.contains_key(key)
    }

    fn set(&mut self, setting: &'static Setting, value: Value) -> Result<(), String> {
        match &setting.apply {
            Apply::Number { sized, minimum, maximum, place, .. } => {
                let number = value.number(*sized)?;
                match u64::try_from(number) {
                    Ok(number) if (*minimum..=*maximum).contains(&number) => {
                        place.set(&mut self.config, number);
                        Ok(())
                    }
                    _ => Err(format!("{} is out of bounds", value.seen())),
                }
            }
            Apply::Text { set, .. } => set(&mut self.config, &value),
            Apply::Route { set, .. } => {
                let route = self.config.routes.first_mut().expect("a draft has its default route");
                set(route, &value)
            }
            Apply::File { .. } => {
                let name = match value.text()? {
                    "" => return Err("the file's name is empty; leave it out instead".to_owned()),
                    name => name.to_owned(),
                };
                self.files.insert(setting.key, name);
                Ok(())
            }
            Apply::Variable { set, .. } => set(&mut self.config, value.into_bytes()?),
        }
    }

    fn refuse_secret(&mut self, setting: &Setting, source: &str) {
        let (key, variable) = (setting.key, setting.variable());
        let file = format!("{key}_file");
        debug_assert!(table::by_key(&file).is_some());
        self.problems.push(format!(
            "{key} ({source}): a secret is not given here, where others can read it; \
             put it into the variable {variable}, or name its file with {file}"
        ));
    }
}

fn message(setting: &Setting, key: &str, source: &str, reason: &str) -> String {
    format!("{key} ({source}): {reason}; allowed: {}", setting.allowed_text())
}
