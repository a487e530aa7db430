//! The texts of `--help` and `oneloop help TOPIC`, with the generated tables of the manual.

use std::fmt::Write;

use super::command::COMMANDS;
use crate::config::setting::{Effect, Setting};
use crate::config::table;
use crate::manual::{CHAPTERS, Chapter};
use crate::observe::metrics::{Gauges, Metrics, render_loops};

pub(super) const ABOUT: &str = "oneloop: PUBLISH in Redis, WebSocket out, to the right client only";

pub(super) const SOURCES: &str = "\
Settings come from a TOML file (--config FILE or ONELOOP_CONFIG), then from variables, then
from flags; the last one wins. --jwt-issuer is issuer in the file's table [jwt]. Lists have
commas (in TOML: arrays), sizes may be written 65536, 64KiB or 1MiB.
";

/// The column of the second text of the usage.
const USAGE_WIDTH: usize = 34;

fn usage() -> String {
    let own = [("-h, --help", "print this"), ("-V, --version", "print the version")];
    let commands = COMMANDS.iter().map(|row| (row.usage, row.about));
    let mut text = format!("{ABOUT}\n\nUsage:\n");
    for (usage, about) in commands.chain(own) {
        line(&mut text, &format!("oneloop {usage}"), about);
    }
    text.push_str("\nFlags that are one command's own:\n");
    for (row, flag) in COMMANDS.iter().flat_map(|row| row.flags.iter().map(move |flag| (row, flag)))
    {
        line(&mut text, &format!("{} --{} {}", row.name, flag.name, flag.value), flag.about);
    }
    text.push_str("\nTopics of the manual, for `oneloop help TOPIC`:\n");
    CHAPTERS.iter().for_each(|chapter| line(&mut text, chapter.name, &chapter.title()));
    text + "\n" + SOURCES
}

/// Writes two columns; the second one begins in a new line if the first is too wide.
fn line(text: &mut String, name: &str, about: &str) {
    let gap =
        if name.len() > USAGE_WIDTH - 2 { format!("\n{:USAGE_WIDTH$}", "") } else { String::new() };
    writeln!(text, "  {name:width$}{gap}  {about}", width = USAGE_WIDTH - 2)
        .expect("a String takes all");
}

/// The text of `--help`: all settings in groups, with their variables, defaults and bounds.
pub fn help() -> String {
    let mut text = usage();
    let width = |of: fn(&Setting) -> String| table::all().map(|s| of(s).len()).max().unwrap_or(0);
    let (flag_width, variable_width) = (width(flag_or_dash), width(Setting::variable));
    for (title, rows) in table::groups() {
        writeln!(text, "\n{title}:").expect("a String takes all");
        for setting in *rows {
            let (flag, variable) = (flag_or_dash(setting), setting.variable());
            let (default, allowed) = (setting.default_text(), setting.allowed_text());
            writeln!(
                text,
                "  {flag:flag_width$}  {variable:variable_width$}  {default}\n      {} ({allowed})",
                setting.about
            )
            .expect("a String takes all");
        }
    }
    text
}

/// Returns the manual's table of settings, as Markdown.
pub fn settings_markdown() -> String {
    let mut text = String::from(
        "| setting | flag | default | allowed | a change counts | what it does |\n|---|---|---|---|---|---|\n",
    );
    for setting in table::all() {
        let (name, flag) = match setting.is_variable_only() {
            true => (setting.variable(), "none".to_owned()),
            false => (setting.key.to_owned(), format!("`{}`", setting.flag())),
        };
        let effect = match setting.effect {
            Effect::Live => "at once",
            Effect::LiveWithKey => "at once, unless it is the first key or the last",
            Effect::Restart => "after a restart",
        };
        let former = match setting.former {
            "" => String::new(),
            former => format!(" (formerly {})", escape(former)),
        };
        let cells = [setting.default_text(), setting.allowed_text(), setting.about.to_owned()];
        let [default, allowed, about] = cells.map(|cell| escape(&cell));
        writeln!(
            text,
            "| `{name}` | {flag} | {default} | {allowed} | {effect} | {about}{former} |"
        )
        .expect("a String takes all");
    }
    text
}

/// Returns the whole text of a chapter.
pub fn chapter(chapter: &Chapter) -> String {
    let table = match chapter.name {
        "settings" => settings_markdown(),
        "metrics" => metrics_markdown(),
        _ => String::new(),
    };
    chapter.text() + &table
}

/// Returns the manual's table of metrics, as Markdown, without those of the process (`process_…`).
pub fn metrics_markdown() -> String {
    let mut table = String::from("| metric | type | meaning |\n|---|---|---|\n");
    let mut families = Metrics::default().render(&Gauges::default());
    render_loops(&mut families, &[]);
    for family in families.split("# HELP ").skip(1) {
        let (help, rest) = family.split_once("\n# TYPE ").expect("a type follows the help");
        let (name, meaning) = help.split_once(' ').expect("a sentence follows the name");
        let kind = rest.split_whitespace().nth(1).expect("a kind follows the name");
        writeln!(table, "| `{name}` | {kind} | {meaning} |").expect("a String takes all");
    }
    table
}

fn flag_or_dash(setting: &Setting) -> String {
    if setting.is_variable_only() { "-".to_owned() } else { setting.flag() }
}

/// Escapes the characters that mean something in Markdown.
fn escape(cell: &str) -> String {
    let mut escaped = String::new();
    for letter in cell.chars() {
        if "\\*_[]|<>`".contains(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_markdown_lists_each_setting_once() {
        let markdown = settings_markdown();
        for setting in table::all() {
            let name = match setting.is_variable_only() {
                true => setting.variable(),
                false => setting.key.to_owned(),
            };
            let start = format!("| `{name}` |");
            let count = markdown.lines().filter(|line| line.starts_with(&start)).count();
            assert_eq!(count, 1, "{name}");
        }
        assert_eq!(markdown.lines().count(), 2 + table::all().count());
        for line in markdown.lines() {
            let bars = line.replace("\\|", "").matches('|').count();
            assert_eq!(bars, 7, "{line}");
        }
    }

    #[test]
    fn the_help_lists_each_flag_and_variable_once() {
        let help = help();
        let rows = help.strip_prefix(&usage()).expect("it begins with the usage");
        let words: Vec<&str> = rows.split_whitespace().collect();
        for setting in table::all() {
            let times = |name: String| words.iter().filter(|word| **word == name).count();
            assert_eq!(times(setting.variable()), 1, "{}", setting.key);
            let flags = usize::from(!setting.is_variable_only());
            assert_eq!(times(setting.flag()), flags, "{}", setting.key);
        }
    }
}
