//! Sizes and names: what `cargo test --test architecture house -- --nocapture` prints, and ceilings that only fall.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Source, sources};

/// Product lines in `src`, with comments and blank lines and without tests.
const LINES_MAX: usize = 56_788;
/// Of them, in `src/engine`.
const ENGINE_LINES_MAX: usize = 26_409;
/// Lines of a file, without its tests.
const FILE_LINES_MAX: usize = 450;

fn lines(sources: &[Source], folder: &str) -> usize {
    let of_it = sources.iter().filter(|source| source.path.starts_with(folder));
    of_it.map(|source| source.text.lines().count()).sum()
}

#[test]
fn the_house_stays_small() {
    let sources = sources();
    let mut rooms: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for source in &sources {
        let room = rooms.entry(source.room()).or_default();
        *room = (room.0 + source.text.lines().count(), room.1 + 1);
    }
    for (room, (lines, files)) in &rooms {
        println!("{lines:6} lines in {files:3} files: {room}");
    }
    let (all, engine) = (lines(&sources, ""), lines(&sources, "engine/"));
    println!("{all:6} lines in {} files, {engine} of them in engine/", sources.len());
    let code = sources.iter().flat_map(|source| source.code.lines());
    let code = code.filter(|line| !line.trim().is_empty()).count();
    println!("{code:6} lines without comments and blank lines");
    let is_long = |source: &&Source| source.text.lines().count() > FILE_LINES_MAX;
    let long: Vec<&str> = sources.iter().filter(is_long).map(|source| &*source.path).collect();
    // A change that needs more first looks for what it made unnecessary, and argues in its commit for the rest.
    assert!(all <= LINES_MAX, "{all} product lines, more than {LINES_MAX}");
    assert!(engine <= ENGINE_LINES_MAX, "{engine} lines in engine/, more than {ENGINE_LINES_MAX}");
    assert!(long.is_empty(), "files of more than {FILE_LINES_MAX} lines: {long:?}");
}

/// The type of an inherent or trait `impl` block.
fn implemented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    let rest = match rest.strip_prefix('<') {
        Some(generics) => generics.split_once("> ")?.1,
        None => rest.strip_prefix(' ')?,
    };
    let name = rest.rsplit(" for ").next()?;
    let name = name.split(['<', ' ', '{']).next()?;
    name.rsplit("::").next()
}

#[test]
fn the_impl_blocks_of_a_type_stand_in_two_files_at_most() {
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        for name in source.code.lines().filter_map(implemented) {
            files.entry(name.to_owned()).or_default().insert(source.path.clone());
        }
    }
    // Types of the same name in several files are told apart by where they are declared.
    let declared = declarations();
    let scattered: BTreeSet<String> = files
        .into_iter()
        .filter(|(name, of)| of.len() > 2 && declared.get(name).is_some_and(|count| *count == 1))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(scattered, BTreeSet::new());
}

/// How often each type is declared.
fn declarations() -> BTreeMap<String, usize> {
    let mut declared = BTreeMap::new();
    for source in sources() {
        for line in source.code.lines().map(str::trim) {
            let line = line.trim_start_matches("pub ");
            let line = match line.strip_prefix("pub(") {
                Some(rest) => rest.split_once(") ").map_or("", |(_, rest)| rest),
                None => line,
            };
            let kinds = ["struct ", "enum ", "trait ", "union "];
            if let Some(rest) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) {
                let end = rest.find(|char: char| !char.is_alphanumeric()).unwrap_or(rest.len());
                *declared.entry(rest[..end].to_owned()).or_default() += 1;
            }
        }
    }
    declared
}

#[test]
fn a_type_has_a_name_of_its_own() {
    let twice = declarations().into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name);
    assert_eq!(twice.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_comment_begins_with_a_noun_or_an_imperative() {
    const OPENERS: [&str; 10] = [
        "What ",
        "Whose ",
        "Whom ",
        "Who ",
        "Whoever ",
        "Whatever ",
        "That ",
        "Those ",
        "So many ",
        "So much ",
    ];
    let mut found = Vec::new();
    for source in sources() {
        let mut is_first = true;
        for line in source.text.lines() {
            let line = line.trim_start();
            let comment = line.strip_prefix("/// ").or_else(|| line.strip_prefix("//! "));
            if let Some(comment) = comment
                && is_first
                && OPENERS.iter().any(|opener| comment.starts_with(opener))
            {
                found.push(format!("{}: {comment}", source.path));
            }
            is_first = !line.starts_with("///") && !line.starts_with("//!");
        }
    }
    assert!(found.is_empty(), "comments that begin with a relative clause:\n{}", found.join("\n"));
}
