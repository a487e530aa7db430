//! The commands that the publishers' port knows: their names and numbers of words.

/// A command, or a subcommand of a family (`CLIENT ID`).
#[derive(Debug)]
pub struct KnownCommand {
    /// In capitals.
    pub name: &'static str,
    /// The number of words, the name included; negative: at least as many.
    pub arity: i32,
}

/// The reason why a command is not executed.
#[derive(Debug, PartialEq, Eq)]
pub enum LookupError {
    /// A known command, or a family, with another number of words.
    Arity(&'static str),
    /// A known family, but none of its members.
    UnknownSubcommand,
    Unknown,
}

/// The commands whose first argument is a part of the name.
const FAMILIES: [&str; 8] =
    ["ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "MODULE", "PUBSUB", "SCRIPT"];

/// The command that must be quick.
pub const PUBLISH: KnownCommand = row("PUBLISH", 3);

const fn row(name: &'static str, arity: i32) -> KnownCommand {
    KnownCommand { name, arity }
}

#[rustfmt::skip]
pub const COMMANDS: [KnownCommand; 59] = [
    row("ACL WHOAMI", 2), row("AUTH", -2), row("CLIENT CACHING", 3), row("CLIENT GETNAME", 2),
    row("CLIENT GETREDIR", 2), row("CLIENT ID", 2), row("CLIENT INFO", 2), row("CLIENT LIST", -2),
    row("CLIENT NO-EVICT", 3), row("CLIENT NO-TOUCH", 3), row("CLIENT REPLY", 3), row("CLIENT SETINFO", 4),
    row("CLIENT SETNAME", 3), row("CLIENT TRACKING", -3), row("CLIENT TRACKINGINFO", 2), row("CLUSTER INFO", 2),
    row("CLUSTER MYID", 2), row("CLUSTER NODES", 2), row("CLUSTER SHARDS", 2), row("CLUSTER SLOTS", 2),
    row("COMMAND", -1), row("COMMAND COUNT", 2), row("COMMAND DOCS", -2), row("COMMAND INFO", -2),
    row("COMMAND LIST", -2), row("CONFIG GET", -3), row("DBSIZE", 1), row("DISCARD", 1), row("ECHO", 2),
    row("EVAL", -3), row("EVALSHA", -3), row("EXEC", 1), row("HELLO", -1), row("INFO", -1), row("LASTSAVE", 1),
    row("MODULE LIST", 2), row("MULTI", 1), row("PING", -1), row("PSUBSCRIBE", -2), PUBLISH,
    row("PUBSUB CHANNELS", -2), row("PUBSUB NUMPAT", 2), row("PUBSUB NUMSUB", -2), row("PUBSUB SHARDCHANNELS", -2),
    row("PUBSUB SHARDNUMSUB", -2), row("PUNSUBSCRIBE", -1), row("QUIT", -1), row("READONLY", 1), row("READWRITE", 1),
    row("RESET", 1), row("ROLE", 1), row("SCRIPT EXISTS", -3), row("SELECT", 2), row("SUBSCRIBE", -2), row("TIME", 1),
    row("UNSUBSCRIBE", -1), row("UNWATCH", 1), row("WAIT", 3), row("WATCH", -2),
];

/// Looks a command up by its words, of which there is one at least.
///
/// # Errors
/// Words of which no known command consists.
pub fn find(words: &[&[u8]]) -> Result<&'static KnownCommand, LookupError> {
    // Not searched for: there are a hundred thousand of them a second.
    if words.len() == 3 && words[0].eq_ignore_ascii_case(b"PUBLISH") {
        return Ok(&PUBLISH);
    }
    let is = |name: &str, word: &[u8]| word.eq_ignore_ascii_case(name.as_bytes());
    let family = FAMILIES.iter().find(|family| is(family, words[0])).copied();
    let is_named = |command: &&KnownCommand| match (command.name.split_once(' '), words) {
        (Some((first, second)), [family, member, ..]) => is(first, family) && is(second, member),
        (Some(_), _) => false,
        // Alone, the name of a family may be a command, too.
        (None, _) => is(command.name, words[0]) && (family.is_none() || words.len() == 1),
    };
    match (COMMANDS.iter().find(is_named), family) {
        (Some(command), _) => {
            let wanted = command.arity.unsigned_abs() as usize;
            let takes =
                if command.arity < 0 { words.len() >= wanted } else { words.len() == wanted };
            if takes { Ok(command) } else { Err(LookupError::Arity(command.name)) }
        }
        (None, Some(family)) if words.len() == 1 => Err(LookupError::Arity(family)),
        (None, Some(_)) => Err(LookupError::UnknownSubcommand),
        (None, None) => Err(LookupError::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        match find(&words) {
            Ok(command) => command.name.to_owned(),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn names_are_found_in_any_case_with_their_number_of_words() {
        for (line, expected) in [
            ("ping", "PING"),
            ("PING a b c", "PING"),
            ("Client Id", "CLIENT ID"),
            ("CLIENT ID x", "Arity(\"CLIENT ID\")"),
            ("CLIENT", "Arity(\"CLIENT\")"),
            ("CLIENT KILL x", "UnknownSubcommand"),
            ("COMMAND", "COMMAND"),
            ("COMMAND DOCS a", "COMMAND DOCS"),
            ("PUBLISH a", "Arity(\"PUBLISH\")"),
            ("PUBLISH a b", "PUBLISH"),
            ("cluster nodes", "CLUSTER NODES"),
            ("CLIENTID", "Unknown"),
            ("GET a", "Unknown"),
            ("", "Unknown"),
        ] {
            assert_eq!(look_up(line), expected, "{line}");
        }
    }
}
