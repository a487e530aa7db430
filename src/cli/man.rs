//! The manual page, in roff (groff_man(7)), from the tables of commands and settings.

use std::fmt::Write;

use super::command::COMMANDS;
use super::help::{ABOUT, SOURCES};
use crate::config::table;
use crate::manual::CHAPTERS;

const SIGNALS: [(&str, &str); 5] = [
    (
        "SIGTERM, SIGINT, SIGQUIT",
        "Drain: nobody is let in any more, every client is asked to come back. The second one ends at once.",
    ),
    ("SIGHUP", "Read the settings again, and say in the log what changed."),
    (
        "SIGUSR2",
        "Start the program anew and hand every connection over to it, as oneloop upgrade asks for.",
    ),
    ("SIGUSR1", "Nothing: a line in the log."),
    ("SIGPIPE", "Ignored."),
];

const STATUS: [(&str, &str); 3] = [
    ("0", "After a drain or an upgrade. Of explain: the token hears the topic."),
    (
        "1",
        "It could not be done. Of explain: the token does not hear the topic. Of upgrade: the old process goes on.",
    ),
    ("2", "The settings cannot be served. Of upgrade: nothing was tried."),
];

const ENVIRONMENT: [(&str, &str); 5] = [
    ("ONELOOP_CONFIG", "The file with the settings, if --config names none."),
    ("ONELOOP_...", "Each setting, as listed above."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Who is told that it is ready and alive: sd_notify(3)."),
    (
        "LISTEN_FDS, LISTEN_PID",
        "Listeners that were passed, in place of the first addresses of listen: sd_listen_fds(3).",
    ),
    ("JOURNAL_STREAM", "If stderr is the journal, each line begins with its level."),
];

/// Returns the page for `man -l`, or `/usr/share/man/man1/oneloop.1`.
pub fn man() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let (name, about) = ABOUT.split_once(": ").unwrap_or((ABOUT, ""));
    let mut page = format!(
        ".TH ONELOOP 1 \"\" \"oneloop {version}\" \"User Commands\"\n.SH NAME\n{name} \\- {}\n\
         .SH SYNOPSIS\n",
        escape(about)
    );
    let usages = COMMANDS.iter().map(|row| format!(".B oneloop\n{}\n", escape(row.usage)));
    page += &Vec::from_iter(usages).join(".br\n");
    page.push_str(".SH COMMANDS\n");
    for row in COMMANDS {
        item(&mut page, row.name, row.about);
        if !row.flags.is_empty() {
            page.push_str(".RS\n");
            for flag in row.flags {
                let name = format!("--{} {}", flag.name, flag.value);
                item(&mut page, name.trim_end(), flag.about);
            }
            page.push_str(".RE\n");
        }
    }
    let _ = writeln!(page, ".SH TOPICS\nChapters of the manual, printed by oneloop help TOPIC.");
    CHAPTERS.iter().for_each(|chapter| item(&mut page, chapter.name, &chapter.title()));
    let _ = writeln!(page, ".SH SETTINGS\n{}", escape(&SOURCES.replace('\n', " ")));
    for (title, rows) in table::groups() {
        let _ = writeln!(page, ".SS {}", escape(title));
        for setting in *rows {
            let name = match setting.is_variable_only() {
                true => setting.variable(),
                false => format!("{}, {}", setting.flag(), setting.variable()),
            };
            let (default, allowed) = (setting.default_text(), setting.allowed_text());
            item(&mut page, &name, &format!("{}.", setting.about));
            let _ = writeln!(page, ".br\nDefault: {}.", escape(&default));
            let _ = writeln!(page, "Allowed: {}.", escape(&allowed));
        }
    }
    for (title, rows) in
        [("SIGNALS", &SIGNALS[..]), ("EXIT STATUS", &STATUS), ("ENVIRONMENT", &ENVIRONMENT)]
    {
        let _ = writeln!(page, ".SH {title}");
        rows.iter().for_each(|(name, about)| item(&mut page, name, about));
    }
    page
}

fn item(page: &mut String, name: &str, about: &str) {
    let _ = writeln!(page, ".TP\n.B {}\n{}", escape(name), escape(about));
}

/// Escapes the characters that mean something in roff: a backslash, a dot or a quote at the start of a line, and a hyphen that is
/// meant to be copied.
fn escape(text: &str) -> String {
    let text = text.trim().replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_each_command_flag_and_setting() {
        let page = man();
        for row in COMMANDS {
            assert!(page.contains(&format!(".TP\n.B {}\n", row.name)), "{}", row.name);
        }
        for chapter in CHAPTERS {
            assert!(page.contains(&format!(".TP\n.B {}\n", chapter.name)), "{}", chapter.name);
        }
        for setting in table::all() {
            let variable = setting.variable();
            let count = page.lines().filter(|line| line.ends_with(&variable)).count();
            assert_eq!(count, 1, "{variable}");
        }
    }

    #[test]
    fn nothing_is_taken_for_a_request() {
        assert_eq!(escape("a\\b -c \"d\""), "a\\eb \\-c \\(dqd\\(dq");
        assert_eq!([escape(".x"), escape("'x"), escape("x.")], ["\\&.x", "\\&'x", "x."]);
    }
}
