//! Chapters of the manual, completed by the generated tables.

use std::fmt::Write;

use super::manual::settings_markdown;
use crate::manual::Chapter;
use crate::observe::metrics::{Gauges, Metrics};

/// Returns the whole text of a chapter.
pub fn chapter(chapter: &Chapter) -> String {
    let table = match chapter.name {
        "settings" => settings_markdown(),
        "metrics" => metrics_markdown(),
        _ => String::new(),
    };
    chapter.text.to_owned() + &table
}

/// Returns the manual's table of metrics, as Markdown, without those of the process (`process_…`).
pub fn metrics_markdown() -> String {
    let mut table = String::from("| metric | type | meaning |\n|---|---|---|\n");
    let families = Metrics::default().render(&Gauges::default());
    for family in families.split("# HELP ").skip(1) {
        let (help, rest) = family.split_once("\n# TYPE ").expect("a type follows the help");
        let (name, meaning) = help.split_once(' ').expect("a sentence follows the name");
        let kind = rest.split_whitespace().nth(1).expect("a kind follows the name");
        writeln!(table, "| `{name}` | {kind} | {meaning} |").expect("a String takes all");
    }
    table
}
