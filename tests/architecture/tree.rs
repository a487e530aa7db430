//! The sources below `src`, without their tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

pub struct Source {
    /// Below `src`.
    pub path: String,
    /// All of it but tests.
    pub text: String,
    /// The same without comments.
    pub code: String,
}

impl Source {
    /// `engine/client/mod.rs` and `engine/client/frame.rs` stand in `engine::client`, `push/auth.rs` in `push`.
    pub fn room(&self) -> String {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let mut names = path.split('/');
        let first = names.next().unwrap_or_default();
        match names.next() {
            Some(second) if WINGS.contains(&first) => format!("{first}::{second}"),
            _ => first.to_owned(),
        }
    }
}

/// Folders whose folders are rooms of their own.
pub const WINGS: [&str; 2] = ["engine", "features"];

/// Every product file.
pub fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    let mut for_tests = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                let text = fs::read_to_string(&path).unwrap();
                for module in modules_for_tests(&text) {
                    let below = name.trim_end_matches(".rs").trim_end_matches("mod");
                    for_tests.insert(format!("{}/{module}", below.trim_end_matches('/')));
                }
                files.push((name, text));
            }
        }
    }
    let is_test = |name: &str| {
        for_tests.iter().any(|test| {
            let rest = name.strip_prefix(test.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
    };
    files.retain(|(name, _)| !is_test(name));
    assert!(files.len() > 100, "the sources were found");
    let mut sources: Vec<Source> = files
        .into_iter()
        .map(|(path, text)| {
            let text = without_tests(&text);
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            let code = text.lines().filter(is_code).collect::<Vec<_>>().join("\n");
            Source { path, text, code }
        })
        .collect();
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

/// Files that are modules of tests alone: `#[cfg(test)] mod simulation;`.
fn modules_for_tests(text: &str) -> Vec<String> {
    let mut lines = text.lines().map(str::trim);
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]"
            && let Some(declared) = lines.next().and_then(|next| next.strip_suffix(';'))
            && let Some((_, module)) = declared.rsplit_once("mod ")
        {
            found.push(module.to_owned());
        }
    }
    found
}

/// Cuts every item that stands under `#[cfg(test)]`: as far as its brace closes, by the indentation that rustfmt gives it.
fn without_tests(text: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push(line);
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(indent));
        for line in lines.by_ref() {
            let is_last = line.starts_with(&closing)
                || (line.trim_end().ends_with(';')
                    && line.len() - line.trim_start().len() == indent)
                || (line.trim_end().ends_with(',')
                    && line.len() - line.trim_start().len() == indent);
            if is_last {
                break;
            }
        }
    }
    kept.join("\n")
}

/// The names that follow `prefix` in a piece of code, wherever it stands as a path.
pub fn names_after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(prefix).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back();
        let is_start = before.is_none_or(|char| !char.is_alphanumeric() && !":_".contains(char));
        let rest = &code[at + prefix.len()..];
        let end =
            rest.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(rest.len());
        (is_start && end > 0).then(|| &rest[..end])
    })
}
