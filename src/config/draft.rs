//! The settings while their sources are merged: each value with its source, and every problem.

use std::collections::BTreeMap;

use super::setting::{Apply, Setting, SettingName};
use super::table;
use super::value::Value;
use super::{Config, RouteConfig};

/// Settings that are not complete yet. Later sources overwrite earlier ones, so the order of the calls is the precedence.
#[derive(Default)]
pub(super) struct Draft {
    /// The defaults, overwritten by the values that were given. `routes` holds just the default route.
    pub(super) config: Config,
    /// Each key that was given, well or badly, as it was written, with its last source: `oneloop.toml:3`, `--listen`.
    pub(super) sources: BTreeMap<&'static str, String>,
    /// The file names given for the keys that take one: only the last of each is read.
    pub(super) files: BTreeMap<&'static str, String>,
    /// The `[[route]]` tables, each with its source.
    pub(super) routes: Vec<(RouteConfig, String)>,
    /// A message for each problem.
    pub(super) problems: Vec<String>,
    /// A message for each former name.
    pub(super) warnings: Vec<String>,
}

/// The source of a value.
#[derive(Clone, Copy)]
pub(super) enum SettingSource<'a> {
    File { name: &'a str, line: usize },
    Variable,
    Flag,
}

impl SettingSource<'_> {
    fn name(&self, named: SettingName) -> String {
        match self {
            SettingSource::File { name, line } => format!("{name}:{line}"),
            SettingSource::Variable => named.variable(),
            SettingSource::Flag => named.flag(),
        }
    }
}

impl Draft {
    /// Takes a value; a value that is refused becomes a problem.
    pub(super) fn take(
        &mut self,
        named: impl Into<SettingName>,
        value: Value,
        source: SettingSource,
    ) {
        let named = named.into();
        let (setting, source_name) = (named.setting, source.name(named));
        if setting.is_variable_only() && !matches!(source, SettingSource::Variable) {
            return self.refuse_secret(setting, &source_name);
        }
        if named.is_former() {
            self.warnings.push(format!(
                "{} ({source_name}) is called {} now; the next version will not know the old name",
                named.key, setting.key
            ));
        }
        if let Err(reason) = self.set(setting, &value) {
            self.problems.push(message(setting, named.key, &source_name, &reason));
        }
        self.sources.insert(named.key, source_name);
    }

    /// Takes one key of a `[[route]]` table.
    pub(super) fn take_into(
        &mut self,
        route: &mut RouteConfig,
        setting: &'static Setting,
        value: Value,
        source: SettingSource,
    ) {
        let Apply::Route { field, .. } = setting.apply else { return };
        if let Err(reason) = field.set(route, &value) {
            let key = format!("route.{}", setting.key);
            self.problems.push(message(setting, &key, &source.name(setting.into()), &reason));
        }
    }

    /// The key and the source of a setting: `redis (--redis)`.
    pub(super) fn label(&self, key: &str) -> String {
        match self.given(key) {
            Some((key, source)) => format!("{key} ({source})"),
            None => key.to_owned(),
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.given(key).is_some()
    }

    /// The key under which a setting was given, its own or its former one, and the source.
    fn given(&self, key: &str) -> Option<(&'static str, &str)> {
        let former = table::by_key(key).map_or("", |named| named.setting.former);
        let found = [key, former].into_iter().find_map(|key| self.sources.get_key_value(key));
        found.map(|(key, source)| (*key, source.as_str()))
    }

    fn set(&mut self, setting: &'static Setting, value: &Value) -> Result<(), String> {
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
            Apply::Text { field, .. } | Apply::Variable { field, .. } => {
                field.set(&mut self.config, value)
            }
            Apply::Route { field, .. } => {
                let route = self.config.routes.first_mut().expect("a draft has its default route");
                field.set(route, value)
            }
            Apply::File { .. } => {
                let name = match value.text()? {
                    "" => return Err("the file's name is empty; leave it out instead".to_owned()),
                    name => name.to_owned(),
                };
                self.files.insert(setting.key, name);
                Ok(())
            }
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
