//! The map in `src/lib.rs` holds: who imports whom, and where each outside crate lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the lowest layer that its other modules may use.
const GROUND: [&str; 3] = ["clock", "cursor", "slots"];

/// The one home of each outside crate: files, or folders with what is in them.
const HOMES: [(&str, &[&str]); 18] = [
    ("data_encoding", &["push/", "client/http.rs"]),
    ("getrandom", &["serve/", "reactor/link.rs", "app.rs"]),
    ("hmac", &["cursor/"]),
    ("jsonwebtoken", &["push/"]),
    ("lexopt", &["config/"]),
    ("mio", &["reactor/", "client/transport.rs", "signals.rs"]),
    ("redis", &["source/"]),
    (
        "rustix",
        &["limits.rs", "logger.rs", "memory.rs", "metrics/", "reactor/doors.rs", "supervisor.rs"],
    ),
    ("serde", &["backend/", "push/"]),
    ("serde_json", &["backend/", "logger.rs", "operate/slowest.rs", "operate/subscribe/", "push/"]),
    ("sha2", &["cursor/"]),
    ("signal_hook", &["signals.rs"]),
    ("siphasher", &["cursor/"]),
    ("slab", &["slots.rs", "reactor/publishers.rs"]),
    ("smol_str", &["hub/"]),
    ("socket2", &["client/transport.rs", "reactor/"]),
    ("toml", &["config/"]),
    ("tungstenite", &["client/"]),
];

/// A facade, used everywhere.
const EVERYWHERE: [&str; 1] = ["log"];

struct Source {
    /// Below `src`.
    path: String,
    /// Without comments and tests.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let is_code = |line: &&str| !line.trim_start().starts_with("//");
                let code = code.lines().filter(is_code).collect::<Vec<_>>().join("\n");
                sources.push(Source { path: name, code });
            }
        }
    }
    // What only tests see is no part of the map.
    let for_tests: BTreeSet<String> = sources
        .iter()
        .flat_map(|source| source.code.split("#[cfg(test)]\nmod ").skip(1))
        .filter_map(|rest| Some(format!("{}.rs", rest.split_once(';')?.0)))
        .collect();
    sources.retain(|source| !for_tests.contains(source.path.rsplit('/').next().unwrap()));
    assert!(sources.len() > 30, "the sources were found");
    sources
}

/// `client/mod.rs` and `client/frame.rs` belong to `client`.
fn module(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap()
}

/// What follows `prefix` in a piece of code, wherever it stands as a path.
fn names_after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(prefix).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back();
        let is_start = before.is_none_or(|char| !char.is_alphanumeric() && !":_".contains(char));
        let rest = &code[at + prefix.len()..];
        let end =
            rest.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(rest.len());
        (is_start && end > 0).then(|| &rest[..end])
    })
}

fn layers() -> BTreeMap<String, u32> {
    let text = include_str!("../src/lib.rs");
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | "));
    rows.filter_map(|row| {
        let (layer, rest) = row.split_once(" | ")?;
        let module = rest.split(" | ").next()?.trim_matches(['[', ']', '`']);
        Some((module.to_owned(), layer.parse().ok()?))
    })
    .collect()
}

#[test]
fn every_module_stands_in_the_map_once() {
    let layers = layers();
    let modules: BTreeSet<String> =
        sources().iter().map(|source| module(&source.path).to_owned()).collect();
    let expected: BTreeSet<String> = modules.into_iter().filter(|name| name != "lib").collect();
    assert_eq!(layers.keys().cloned().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_module_imports_from_lower_layers_only() {
    let layers = layers();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let own = module(&source.path);
        let prefix = if own == "main" { "oneloop::" } else { "crate::" };
        for name in names_after(&source.code, prefix) {
            let Some(layer) = layers.get(name) else { panic!("{}: {name}", source.path) };
            let ground = layers[own] == 0 && GROUND.contains(&name) && own != "clock";
            let allowed = name == own || *layer < layers[own] || ground;
            assert!(allowed, "{} (layer {}) imports {name} ({layer})", source.path, layers[own]);
        }
    }
}

/// Files of one module, by what they import of each other: `crate::client::frame`, `super::frame`.
#[test]
fn files_of_a_module_import_in_no_circle() {
    let sources = sources();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in &sources {
        let own = module(&source.path);
        let deep = format!("crate::{own}::");
        let names = names_after(&source.code, &deep).chain(names_after(&source.code, "super::"));
        let names: BTreeSet<&str> = names.collect();
        let siblings = sources.iter().filter(|other| {
            let name = other.path.strip_prefix(own).and_then(|rest| rest.strip_prefix('/'));
            let name = name.and_then(|name| name.strip_suffix(".rs"));
            other.path != source.path && name.is_some_and(|name| names.contains(name))
        });
        imports.insert(&source.path, siblings.map(|other| other.path.as_str()).collect());
    }
    while let Some(leaf) = imports.iter().find(|(_, of)| of.is_empty()).map(|(path, _)| *path) {
        imports.remove(leaf);
        imports.values_mut().for_each(|of| {
            of.remove(leaf);
        });
    }
    assert!(imports.is_empty(), "a circle among {imports:?}");
}

#[test]
fn each_outside_crate_has_one_home() {
    let manifest = include_str!("../Cargo.toml");
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let lines = section.lines().filter(|line| !line.starts_with('#') && line.contains('='));
    let named: BTreeSet<String> =
        lines.map(|line| line.split(['=', '.']).next().unwrap().trim().replace('-', "_")).collect();
    let known = HOMES.iter().map(|(name, _)| *name).chain(EVERYWHERE);
    assert_eq!(named, known.map(str::to_owned).collect(), "the crates of Cargo.toml");
    for source in sources() {
        for (name, homes) in HOMES {
            let is_used = names_after(&source.code, &format!("{name}::")).next().is_some();
            let at_home = homes.iter().any(|home| source.path.starts_with(home));
            assert!(!is_used || at_home, "{} uses {name}", source.path);
        }
    }
}

#[test]
fn only_the_loop_polls_and_reads_the_clock() {
    for source in sources() {
        let allowed =
            matches!(source.path.as_str(), "reactor/mod.rs" | "reactor/time.rs" | "main.rs");
        for forbidden in ["Instant::now", "SystemTime", "Poll::new", ".poll("] {
            assert!(allowed || !source.code.contains(forbidden), "{}: {forbidden}", source.path);
        }
    }
}

#[test]
fn nothing_is_shared_that_could_be_borrowed_twice() {
    for source in sources() {
        for forbidden in ["RefCell", "unsafe ", "todo!", "unimplemented!"] {
            // The allocator is the program's choice, and one call of it has no safe name.
            let excused = source.path == "main.rs" && forbidden == "unsafe ";
            let most = usize::from(excused);
            let count = source.code.matches(forbidden).count();
            assert!(count <= most, "{}: {forbidden}", source.path);
        }
    }
}
