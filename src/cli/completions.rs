//! Shell completions, from the tables of commands and settings.

use std::fmt::Write;

use super::command::{COMMANDS, CommandRow, Shell, Verb};
use crate::config::setting::{Apply, Setting};
use crate::config::table;
use crate::manual::CHAPTERS;

/// The value after a flag.
enum After {
    Nothing,
    File,
    OneOf(Vec<&'static str>),
    Text,
}

struct FlagCompletion {
    name: String,
    about: &'static str,
    after: After,
}

/// Returns the script that a shell reads once.
pub fn completions(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash(),
        Shell::Zsh => zsh(),
        Shell::Fish => fish(),
    }
}

/// Returns a command's own flags, then those of all commands with settings.
fn flags(row: &CommandRow) -> Vec<FlagCompletion> {
    let own = row.flags.iter().map(|flag| FlagCompletion {
        name: format!("--{}", flag.name),
        about: flag.about,
        after: if flag.value.is_empty() { After::Nothing } else { After::Text },
    });
    let mut flags: Vec<FlagCompletion> = own.collect();
    if row.takes_config() {
        let (name, about) = ("--config".to_owned(), "the file with the settings");
        flags.push(FlagCompletion { name, about, after: After::File });
    }
    let settings = table::all().filter(|setting| row.takes_settings && !setting.is_variable_only());
    for setting in settings {
        let name = setting.flag();
        // `--topics` of a token is its own.
        if flags.iter().all(|flag| flag.name != name) {
            flags.push(FlagCompletion { name, about: setting.about, after: after(setting) });
        }
    }
    flags
}

fn after(setting: &Setting) -> After {
    match &setting.apply {
        Apply::File { .. } => After::File,
        Apply::Text { allowed, .. } | Apply::Route { allowed, .. } => {
            choices(allowed).map_or(After::Text, After::OneOf)
        }
        Apply::Number { .. } | Apply::Variable { .. } => After::Text,
    }
}

/// Returns the words of `json or raw`; `None` for `IP:PORT or off`, of which one cannot be typed as it is.
fn choices(allowed: &'static str) -> Option<Vec<&'static str>> {
    let words: Vec<&str> = allowed.split(" or ").flat_map(|part| part.split(", ")).collect();
    let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    (words.len() > 1 && words.iter().all(is_word)).then_some(words)
}

/// Returns the words that may follow a command: `completions bash`, `help streams`.
fn words(row: &CommandRow) -> Vec<&'static str> {
    match row.verb {
        Verb::Completions => Shell::ALL.map(|(name, _)| name).to_vec(),
        Verb::Help => CHAPTERS.iter().map(|chapter| chapter.name).collect(),
        _ => Vec::new(),
    }
}

fn bash() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|row| row.name).collect();
    let mut after = String::new();
    let mut cases = String::new();
    let of_files = COMMANDS.iter().flat_map(flags).filter(|flag| matches!(flag.after, After::File));
    let mut files: Vec<String> = of_files.map(|flag| flag.name).collect();
    files.sort_unstable();
    files.dedup();
    let files = files.join("|");
    let _ = writeln!(
        after,
        "        {files})\n            COMPREPLY=($(compgen -f -- \"$word\"))\n            return ;;"
    );
    for flag in flags(&COMMANDS[0]) {
        if let After::OneOf(words) = &flag.after {
            let (name, words) = (&flag.name, words.join(" "));
            let _ = writeln!(
                after,
                "        {name})\n            COMPREPLY=($(compgen -W \"{words}\" -- \"$word\"))\n            return ;;"
            );
        }
    }
    for row in COMMANDS {
        let others = words(row).into_iter().map(str::to_owned);
        let all: Vec<String> = flags(row).into_iter().map(|flag| flag.name).chain(others).collect();
        let (name, all) = (row.name, all.join(" "));
        let _ = writeln!(cases, "        {name})\n            words=\"{all}\" ;;");
    }
    let (either, names) = (names.join("|"), names.join(" "));
    format!(
        "# For bash: eval \"$(oneloop completions bash)\"\n\
         _oneloop() {{\n\
         \x20   local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}}\n\
         \x20   local command=serve words\n\
         \x20   case ${{COMP_WORDS[1]}} in {either}) command=${{COMP_WORDS[1]}} ;; esac\n\
         \x20   case $before in\n{after}\x20   esac\n\
         \x20   case $command in\n{cases}\x20   esac\n\
         \x20   if [ \"$COMP_CWORD\" -eq 1 ]; then words=\"{names} $words\"; fi\n\
         \x20   COMPREPLY=($(compgen -W \"$words --help --version\" -- \"$word\"))\n\
         }}\n\
         complete -F _oneloop oneloop\n"
    )
}

fn zsh() -> String {
    let mut text = String::from(
        "#compdef oneloop\n# For zsh: eval \"$(oneloop completions zsh)\", or as _oneloop in $fpath\n\
         _oneloop() {\n    local command=serve\n    local -a known\n    known=(\n",
    );
    for row in COMMANDS {
        let _ = writeln!(text, "        '{}:{}'", row.name, single(&row.about.replace(':', "\\:")));
    }
    text.push_str(
        "    )\n    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n        \
         _describe command known\n    fi\n    \
         [[ -n ${known[(r)${words[2]}:*]} ]] && command=$words[2]\n    case $command in\n",
    );
    for row in COMMANDS {
        let _ = writeln!(text, "    {})\n        _arguments -s \\", row.name);
        for flag in flags(row) {
            let (name, about) = (&flag.name, zsh_about(flag.about));
            let value = match &flag.after {
                After::Nothing => String::new(),
                After::File => ":file:_files".to_owned(),
                After::OneOf(words) => format!(":value:({})", words.join(" ")),
                After::Text => ":value:".to_owned(),
            };
            let _ = writeln!(text, "            '{name}[{about}]{value}' \\");
        }
        let words = words(row).join(" ");
        let value = if words.is_empty() { String::new() } else { format!("({words})") };
        let _ = writeln!(text, "            '*:word:{value}' ;;");
    }
    // From $fpath the file is the function's body at its first call.
    text.push_str(
        "    esac\n}\nif [[ $funcstack[1] == _oneloop ]]; then\n    _oneloop \"$@\"\nelse\n    \
         compdef _oneloop oneloop\nfi\n",
    );
    text
}

/// Escapes a description in brackets within single quotes.
fn zsh_about(about: &str) -> String {
    let escaped = about.replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]");
    single(&escaped.replace(':', "\\:"))
}

/// Escapes a text within single quotes, for a shell that knows no escape there.
fn single(text: &str) -> String {
    text.replace('\'', "'\\''")
}

fn fish() -> String {
    let mut text = String::from(
        "# For fish: oneloop completions fish > ~/.config/fish/completions/oneloop.fish\n\
         complete -c oneloop -f\n",
    );
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let others: Vec<&str> = COMMANDS[1..].iter().map(|row| row.name).collect();
    for row in COMMANDS {
        let (name, about) = (row.name, quote(row.about));
        let _ = writeln!(text, "complete -c oneloop -n __fish_use_subcommand -a {name} -d {about}");
        let condition = match name {
            // It may be left out.
            "serve" => format!("not __fish_seen_subcommand_from {}", others.join(" ")),
            name => format!("__fish_seen_subcommand_from {name}"),
        };
        for flag in flags(row) {
            let (name, about) = (flag.name.trim_start_matches('-'), quote(flag.about));
            let value = match &flag.after {
                After::Nothing => String::new(),
                After::File => " -r -F".to_owned(),
                After::OneOf(words) => format!(" -x -a {}", quote(&words.join(" "))),
                After::Text => " -x".to_owned(),
            };
            let _ =
                writeln!(text, "complete -c oneloop -n '{condition}' -l {name}{value} -d {about}");
        }
        for word in words(row) {
            let _ = writeln!(text, "complete -c oneloop -n '{condition}' -a {word}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_can_be_typed_are_choices() {
        let info = choices("off, error, warn, info or debug");
        assert_eq!(info, Some(vec!["off", "error", "warn", "info", "debug"]));
        assert_eq!(
            choices("close, latest, drop-oldest or keep-newest").map(|all| all.len()),
            Some(4)
        );
        for none in ["IP:PORT or off", "text", "a channel's name, or off", "list of grants"] {
            assert_eq!(choices(none), None, "{none}");
        }
    }

    #[test]
    fn each_flag_and_command_is_completed_in_each_shell() {
        for (name, shell) in Shell::ALL {
            let text = completions(shell);
            for row in COMMANDS {
                assert!(text.contains(row.name), "{name}: {}", row.name);
                for word in words(row) {
                    assert!(text.contains(word), "{name}: {} {word}", row.name);
                }
                for flag in flags(row) {
                    let written = match shell {
                        Shell::Fish => format!(" -l {} ", flag.name.trim_start_matches('-')),
                        Shell::Zsh => format!("'{}[", flag.name),
                        Shell::Bash => flag.name.clone(),
                    };
                    assert!(text.contains(&written), "{name}: {written}");
                }
            }
        }
    }
}
