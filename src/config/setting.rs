//! What a row of the table is: a key, the two names that follow from it, the way its value is applied.

use super::value::{TRUTH, Value};
use super::{Config, RouteConfig};

pub(super) const MIB: u64 = 1 << 20;
const SECRET_FILE: &str = "a file; one newline at its end is cut";

/// One row.
pub(super) struct Setting {
    /// The key in the TOML file, with its table: `jwt.secret_file`. It gives the other two names:
    /// `--jwt-secret-file` and `ONELOOP_JWT_SECRET_FILE`.
    pub(super) key: &'static str,
    /// What it does, in a line.
    pub(super) about: &'static str,
    pub(super) apply: Apply,
}

/// How a value gets into the configuration; each reason for a refusal says what was seen.
pub(super) enum Apply {
    /// A whole number between two bounds; `zero` says what 0 means where it is no number.
    Number {
        sized: bool,
        minimum: u64,
        maximum: u64,
        zero: &'static str,
        place: Place,
    },
    Text {
        default: &'static str,
        allowed: &'static str,
        set: Set<Config>,
    },
    /// One key of `[[route]]`, or of the one default route.
    Route {
        default: &'static str,
        allowed: &'static str,
        set: Set<RouteConfig>,
    },
    /// The name of a file; its contents are set. No message names the file or its contents if `hidden`,
    /// because what stands here by mistake may be the secret itself.
    File {
        hidden: bool,
        allowed: &'static str,
        set: SetBytes,
    },
    /// A secret itself: it comes by a variable only, since flags show in `ps` and files get committed.
    Variable {
        allowed: &'static str,
        set: SetBytes,
    },
}

type Set<T> = fn(&mut T, &Value) -> Result<(), String>;
type SetBytes = fn(&mut Config, Vec<u8>) -> Result<(), String>;

/// Where a number lives.
pub(super) enum Place {
    U32(fn(&mut Config) -> &mut u32),
    U64(fn(&mut Config) -> &mut u64),
    Usize(fn(&mut Config) -> &mut usize),
}
use Place::{U32, U64, Usize};

impl Setting {
    pub(super) fn flag(&self) -> String {
        format!("--{}", self.key.replace(['.', '_'], "-"))
    }

    pub(super) fn variable(&self) -> String {
        format!("ONELOOP_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Whether a TOML file and a flag may give it too.
    pub(super) fn is_variable_only(&self) -> bool {
        matches!(self.apply, Apply::Variable { .. })
    }

    /// Whether it is on or off.
    pub(super) fn is_switch(&self) -> bool {
        matches!(self.apply, Apply::Text { allowed, .. } | Apply::Route { allowed, .. } if allowed == TRUTH)
    }

    /// Whether it is a key of `[[route]]`.
    pub(super) fn is_of_route(&self) -> bool {
        matches!(self.apply, Apply::Route { .. })
    }

    /// The default as it would be written; in words where it depends on other settings.
    pub(super) fn default_text(&self) -> String {
        match &self.apply {
            Apply::Number { sized, place, .. } => {
                write_number(place.value(&mut Config::default()), *sized)
            }
            Apply::Text { default, .. } | Apply::Route { default, .. } => (*default).to_owned(),
            Apply::File { .. } | Apply::Variable { .. } => "none".to_owned(),
        }
    }

    /// What it takes, as words or bounds.
    pub(super) fn allowed_text(&self) -> String {
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

impl Place {
    pub(super) fn value(&self, config: &mut Config) -> u64 {
        match self {
            U32(place) => u64::from(*place(config)),
            U64(place) => *place(config),
            Usize(place) => *place(config) as u64,
        }
    }

    /// Sets a number that is within its row's bounds.
    pub(super) fn set(&self, config: &mut Config, number: u64) {
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

pub(super) const fn text(
    key: &'static str,
    about: &'static str,
    default: &'static str,
    allowed: &'static str,
    set: Set<Config>,
) -> Setting {
    Setting { key, about, apply: Apply::Text { default, allowed, set } }
}

pub(super) const fn route(
    key: &'static str,
    about: &'static str,
    default: &'static str,
    allowed: &'static str,
    set: Set<RouteConfig>,
) -> Setting {
    Setting { key, about, apply: Apply::Route { default, allowed, set } }
}

pub(super) const fn number(
    key: &'static str,
    about: &'static str,
    minimum: u64,
    maximum: u64,
    zero: &'static str,
    place: Place,
) -> Setting {
    Setting { key, about, apply: Apply::Number { sized: false, minimum, maximum, zero, place } }
}

/// A number of bytes.
pub(super) const fn size(
    key: &'static str,
    about: &'static str,
    minimum: u64,
    maximum: u64,
    place: Place,
) -> Setting {
    Setting { key, about, apply: Apply::Number { sized: true, minimum, maximum, zero: "", place } }
}

/// A number of bytes, or 0: no bound.
pub(super) const fn size_or_off(
    key: &'static str,
    about: &'static str,
    maximum: u64,
    place: Place,
) -> Setting {
    let apply = Apply::Number { sized: true, minimum: 0, maximum, zero: "off", place };
    Setting { key, about, apply }
}

pub(super) const fn file(
    key: &'static str,
    about: &'static str,
    allowed: &'static str,
    set: SetBytes,
) -> Setting {
    Setting { key, about, apply: Apply::File { hidden: false, allowed, set } }
}

pub(super) const fn secret_file(key: &'static str, about: &'static str, set: SetBytes) -> Setting {
    Setting { key, about, apply: Apply::File { hidden: true, allowed: SECRET_FILE, set } }
}

pub(super) const fn secret(
    key: &'static str,
    about: &'static str,
    allowed: &'static str,
    set: SetBytes,
) -> Setting {
    Setting { key, about, apply: Apply::Variable { allowed, set } }
}
