//! The map in `src/lib.rs` holds: a room imports from lower layers only, the engine from nothing of the product.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Source, WINGS, names_after, sources};

/// The names that the crate's root exports, and the rooms they come from.
const EXPORTS: [(&str, &str); 11] = [
    ("App", "app"),
    ("Close", "engine::client"),
    ("ConnId", "engine::slots"),
    ("Frame", "engine::client"),
    ("Handler", "engine::handler"),
    ("Message", "engine::handler"),
    ("Reject", "engine::handler"),
    ("Request", "engine::client"),
    ("RouteOptions", "engine::server"),
    ("Scope", "engine::server"),
    ("Server", "engine::server"),
];

fn layers() -> BTreeMap<String, u32> {
    let text = include_str!("../../src/lib.rs");
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | "));
    rows.filter_map(|row| {
        let (layer, rest) = row.split_once(" | ")?;
        let room = rest.split(" | ").next()?.trim_matches(['[', ']', '`']);
        Some((room.to_owned(), layer.parse().ok()?))
    })
    .collect()
}

/// The rooms that a file imports from.
fn imported(source: &Source) -> BTreeSet<String> {
    let prefix = if source.room() == "main" { "oneloop::" } else { "crate::" };
    names_after(&source.code, prefix)
        .flat_map(|name| {
            if let Some((_, room)) = EXPORTS.iter().find(|(export, _)| *export == name) {
                return vec![(*room).to_owned()];
            }
            if !WINGS.contains(&name) {
                return vec![name.to_owned()];
            }
            let wing = format!("{prefix}{name}::");
            names_after(&source.code, &wing).map(|room| format!("{name}::{room}")).collect()
        })
        .collect()
}

#[test]
fn every_room_stands_in_the_map_once() {
    let rooms: BTreeSet<String> = sources().iter().map(Source::room).collect();
    let expected: BTreeSet<String> =
        rooms.into_iter().filter(|name| name != "lib" && !WINGS.contains(&name.as_str())).collect();
    assert_eq!(layers().into_keys().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_room_imports_from_lower_layers_only() {
    let layers = layers();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let own = source.room();
        for room in imported(source).into_iter().filter(|room| *room != own) {
            let Some(layer) = layers.get(&room) else { panic!("{}: {room}", source.path) };
            if *layer >= layers[&own] {
                wrong.push(format!("{} imports {room}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that lead up:\n{}", wrong.join("\n"));
}

#[test]
fn no_feature_imports_another() {
    for source in sources() {
        let own = source.room();
        let features = imported(&source).into_iter().filter(|room| room.starts_with("features::"));
        let others: Vec<String> = features.filter(|room| *room != own).collect();
        assert!(!own.starts_with("features::") || others.is_empty(), "{}: {others:?}", source.path);
    }
}

/// Files of one room, by what they import of each other: `crate::engine::client::frame`, `super::frame`.
#[test]
fn files_of_a_room_import_in_no_circle() {
    let sources = sources();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in &sources {
        let own = source.room();
        let deep = format!("crate::{own}::");
        let names = names_after(&source.code, &deep).chain(names_after(&source.code, "super::"));
        let names: BTreeSet<&str> = names.collect();
        let folder = own.replace("::", "/");
        let siblings = sources.iter().filter(|other| {
            let name = other.path.strip_prefix(&folder).and_then(|rest| rest.strip_prefix('/'));
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

/// The tour and the patterns in `src/lib.rs` name files, and functions of the file that stands behind or before them:
/// "`Reactor::turn` (`engine/reactor/mod.rs`)".
#[test]
fn the_tour_names_files_and_functions_that_exist() {
    let text = include_str!("../../src/lib.rs");
    let spans: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .collect::<Vec<_>>()
        .join(" ")
        .leak()
        .split('`')
        .skip(1)
        .step_by(2)
        .collect();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut functions, mut named, mut last) = (Vec::new(), 0, String::new());
    for span in spans {
        if span.ends_with(".rs") {
            let file = std::fs::read_to_string(root.join(span));
            let file = file.unwrap_or_else(|error| panic!("{span}: {error}"));
            for function in functions.drain(..) {
                let declared = ["(", "<"].map(|behind| format!("fn {function}{behind}"));
                let is_there = |file: &String| declared.iter().any(|one| file.contains(one));
                let is_there = is_there(&file) || is_there(&last);
                assert!(is_there, "{span} has no {function}");
                named += 1;
            }
            last = file;
        } else if let Some((kind, function)) = span.split_once("::")
            && kind.starts_with(char::is_uppercase)
            && function.starts_with(char::is_lowercase)
            && kind != "Handler"
        {
            functions.push(function.to_owned());
        }
    }
    assert!(named > 15, "the tour names functions");
}
