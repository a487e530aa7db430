//! A row of the table: a key, the two names that follow from it, the place of its value, and when a change takes effect.

use std::fmt::Debug;

use super::value::{TRUTH, Value};
use super::{Config, RouteConfig};

pub(crate) const MIB: u64 = 1 << 20;
const SECRET_FILE: &str = "a file; one newline at its end is cut";

/// A row.
pub(crate) struct Setting {
    /// The key in the TOML file, with its table: `jwt.secret_file`. It gives the other two names:
    /// `--jwt-secret-file` and `ONELOOP_JWT_SECRET_FILE`.
    pub(crate) key: &'static str,
    /// The key before it was renamed, still accepted with a warning; empty: it had no other.
    pub(crate) former: &'static str,
    /// Its effect, in a line.
    pub(crate) about: &'static str,
    pub(crate) effect: Effect,
    pub(crate) apply: Apply,
}

/// When a running server that reads its settings again takes over a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// At once.
    Live,
    /// At once, if tokens are checked with a key of the settings before and after. A server that made up its own secret has shown
    /// its token to nobody but its own page, so the first key takes a restart, as the last one does.
    LiveWithKey,
    /// After a restart: the setting sized something when the server started, or is part of a connection.
    Restart,
}

/// The way from a value to its field; each reason for a refusal says what was seen.
pub(crate) enum Apply {
    /// A whole number between two bounds; `zero` is the meaning of 0 where 0 is not a number.
    Number { sized: bool, minimum: u64, maximum: u64, zero: &'static str, place: Place },
    Text {
        default: &'static str,
        allowed: &'static str,
        field: &'static dyn Field<Config>,
        /// Debug output and logs must not show the value.
        hidden: bool,
    },
    /// A key of `[[route]]`, or of the one default route.
    Route { default: &'static str, allowed: &'static str, field: &'static dyn Field<RouteConfig> },
    /// The name of a file, whose contents are set. If `hidden`, no message shows the name or the contents: a secret may have been
    /// given in place of the name.
    File { hidden: bool, allowed: &'static str, field: &'static dyn Field<Config> },
    /// A secret itself. It comes by a variable only, since flags show in `ps` and files get committed.
    Variable { allowed: &'static str, field: &'static dyn Field<Config> },
}

/// A field of the settings `S`, its type erased: it can be set, compared, copied and shown.
pub(crate) trait Field<S>: Sync {
    fn set(&self, settings: &mut S, value: &Value) -> Result<(), String>;
    fn differs(&self, settings: &mut S, newer: &mut S) -> bool;
    fn copy(&self, settings: &mut S, newer: &mut S);
    fn show(&self, settings: &mut S) -> String;
}

/// A field of type `T`, and the reader of its values.
pub(crate) struct TypedField<S, T> {
    place: fn(&mut S) -> &mut T,
    read: fn(&Value) -> Result<T, String>,
}

impl<S, T: Clone + Debug + PartialEq> Field<S> for TypedField<S, T> {
    fn set(&self, settings: &mut S, value: &Value) -> Result<(), String> {
        *(self.place)(settings) = (self.read)(value)?;
        Ok(())
    }

    fn differs(&self, settings: &mut S, newer: &mut S) -> bool {
        (self.place)(settings) != (self.place)(newer)
    }

    fn copy(&self, settings: &mut S, newer: &mut S) {
        (self.place)(settings).clone_from((self.place)(newer));
    }

    fn show(&self, settings: &mut S) -> String {
        format!("{:?}", (self.place)(settings))
    }
}

/// The field of a number.
pub(crate) enum Place {
    U32(fn(&mut Config) -> &mut u32),
    U64(fn(&mut Config) -> &mut u64),
    Usize(fn(&mut Config) -> &mut usize),
}
use Place::{U32, U64, Usize};

impl Setting {
    pub(crate) fn flag(&self) -> String {
        flag_of(self.key)
    }

    pub(crate) fn variable(&self) -> String {
        variable_of(self.key)
    }

    /// Makes the setting one whose change a running server takes over: [`Effect::Live`].
    pub(crate) const fn live(mut self) -> Setting {
        self.effect = Effect::Live;
        self
    }

    /// Makes the setting one that decides which tokens are good: [`Effect::LiveWithKey`].
    pub(crate) const fn of_tokens(mut self) -> Setting {
        self.effect = Effect::LiveWithKey;
        self
    }

    /// Accepts the key that the setting had before.
    pub(crate) const fn formerly(mut self, former: &'static str) -> Setting {
        self.former = former;
        self
    }

    /// Keeps the value out of debug output: it may hold a password.
    pub(crate) const fn hidden(mut self) -> Setting {
        if let Apply::Text { hidden, .. } = &mut self.apply {
            *hidden = true;
        }
        self
    }

    /// The value in debug output; `None`: it may be a secret, or belongs to a route.
    pub(crate) fn shown(&self, config: &mut Config) -> Option<String> {
        match &self.apply {
            Apply::Number { place, .. } => Some(place.value(config).to_string()),
            Apply::Text { field, hidden: false, .. } => Some(field.show(config)),
            _ => None,
        }
    }

    /// Returns whether only a variable may give it, and neither a TOML file nor a flag.
    pub(crate) fn is_variable_only(&self) -> bool {
        matches!(self.apply, Apply::Variable { .. })
    }

    /// Returns whether the value is on or off.
    pub(crate) fn is_switch(&self) -> bool {
        matches!(self.apply, Apply::Text { allowed, .. } | Apply::Route { allowed, .. } if allowed == TRUTH)
    }

    /// Returns whether the setting is a key of `[[route]]`.
    pub(crate) fn is_of_route(&self) -> bool {
        matches!(self.apply, Apply::Route { .. })
    }

    /// The default as it would be written; in words where it depends on other settings.
    pub(crate) fn default_text(&self) -> String {
        match &self.apply {
            Apply::Number { sized, place, .. } => {
                write_number(place.value(&mut Config::default()), *sized)
            }
            Apply::Text { default, .. } | Apply::Route { default, .. } => (*default).to_owned(),
            Apply::File { .. } | Apply::Variable { .. } => "none".to_owned(),
        }
    }

    /// The values that it takes, as words or bounds.
    pub(crate) fn allowed_text(&self) -> String {
        match &self.apply {
            Apply::Number { sized, minimum, maximum, zero, .. } => {
                let [least, most] = [minimum, maximum].map(|&bound| write_number(bound, *sized));
                match *zero {
                    "" => format!("{least} to {most}"),
                    zero => format!("1 to {most}; 0: {zero}"),
                }
            }
            Apply::Text { allowed, .. }
            | Apply::Route { allowed, .. }
            | Apply::File { allowed, .. }
            | Apply::Variable { allowed, .. } => (*allowed).to_owned(),
        }
    }
}

pub(crate) fn flag_of(key: &str) -> String {
    format!("--{}", key.replace(['.', '_'], "-"))
}

pub(crate) fn variable_of(key: &str) -> String {
    format!("ONELOOP_{}", key.replace('.', "_").to_uppercase())
}

/// A setting by the name that a source gave it: its own, or its former one.
#[derive(Clone, Copy)]
pub(crate) struct SettingName {
    pub(crate) setting: &'static Setting,
    pub(crate) key: &'static str,
}

impl From<&'static Setting> for SettingName {
    fn from(setting: &'static Setting) -> SettingName {
        SettingName { setting, key: setting.key }
    }
}

impl SettingName {
    pub(crate) fn is_former(&self) -> bool {
        self.key != self.setting.key
    }

    pub(crate) fn flag(&self) -> String {
        flag_of(self.key)
    }

    pub(crate) fn variable(&self) -> String {
        variable_of(self.key)
    }
}

impl Place {
    pub(crate) fn value(&self, config: &mut Config) -> u64 {
        match self {
            U32(place) => u64::from(*place(config)),
            U64(place) => *place(config),
            Usize(place) => *place(config) as u64,
        }
    }

    /// Sets a number that is within its row's bounds.
    pub(crate) fn set(&self, config: &mut Config, number: u64) {
        const FITS: &str = "the maximum of each row fits its type";
        match self {
            U32(place) => *place(config) = u32::try_from(number).expect(FITS),
            U64(place) => *place(config) = number,
            Usize(place) => *place(config) = usize::try_from(number).expect(FITS),
        }
    }
}

/// Bytes with the largest unit that divides them, as a setting takes them.
fn write_number(number: u64, sized: bool) -> String {
    match number {
        _ if !sized || number == 0 => number.to_string(),
        _ if number.is_multiple_of(1 << 30) => format!("{}GiB", number >> 30),
        _ if number.is_multiple_of(MIB) => format!("{}MiB", number >> 20),
        _ if number.is_multiple_of(1 << 10) => format!("{}KiB", number >> 10),
        _ => number.to_string(),
    }
}

const fn row(key: &'static str, about: &'static str, apply: Apply) -> Setting {
    Setting { key, former: "", about, effect: Effect::Restart, apply }
}

/// The field of a row, and the reader of its values.
pub(crate) const fn at<T>(
    place: fn(&mut Config) -> &mut T,
    read: fn(&Value) -> Result<T, String>,
) -> TypedField<Config, T> {
    TypedField { place, read }
}

/// The field of a route's row, and the reader of its values.
pub(crate) const fn at_route<T>(
    place: fn(&mut RouteConfig) -> &mut T,
    read: fn(&Value) -> Result<T, String>,
) -> TypedField<RouteConfig, T> {
    TypedField { place, read }
}

pub(crate) const fn text(
    key: &'static str,
    about: &'static str,
    default: &'static str,
    allowed: &'static str,
    field: &'static dyn Field<Config>,
) -> Setting {
    row(key, about, Apply::Text { default, allowed, field, hidden: false })
}

pub(crate) const fn route(
    key: &'static str,
    about: &'static str,
    default: &'static str,
    allowed: &'static str,
    field: &'static dyn Field<RouteConfig>,
) -> Setting {
    row(key, about, Apply::Route { default, allowed, field })
}

pub(crate) const fn number(
    key: &'static str,
    about: &'static str,
    minimum: u64,
    maximum: u64,
    zero: &'static str,
    place: Place,
) -> Setting {
    row(key, about, Apply::Number { sized: false, minimum, maximum, zero, place })
}

/// A number of bytes.
pub(crate) const fn size(
    key: &'static str,
    about: &'static str,
    minimum: u64,
    maximum: u64,
    place: Place,
) -> Setting {
    row(key, about, Apply::Number { sized: true, minimum, maximum, zero: "", place })
}

/// A number of bytes, or 0: no bound.
pub(crate) const fn size_or_off(
    key: &'static str,
    about: &'static str,
    maximum: u64,
    place: Place,
) -> Setting {
    row(key, about, Apply::Number { sized: true, minimum: 0, maximum, zero: "off", place })
}

pub(crate) const fn file(
    key: &'static str,
    about: &'static str,
    allowed: &'static str,
    field: &'static dyn Field<Config>,
) -> Setting {
    row(key, about, Apply::File { hidden: false, allowed, field })
}

pub(crate) const fn secret_file(
    key: &'static str,
    about: &'static str,
    field: &'static dyn Field<Config>,
) -> Setting {
    row(key, about, Apply::File { hidden: true, allowed: SECRET_FILE, field })
}

pub(crate) const fn secret(
    key: &'static str,
    about: &'static str,
    allowed: &'static str,
    field: &'static dyn Field<Config>,
) -> Setting {
    row(key, about, Apply::Variable { allowed, field })
}
