//! The units that systemd runs the server by.

use std::path::Path;

/// Where the settings are, unless `--config` names another file.
const CONFIG: &str = "/etc/oneloop.toml";

/// The service. `program`: the binary, as it was called.
pub fn service(program: &Path, config: Option<&Path>) -> String {
    let program = quoted(&program.to_string_lossy());
    let config = quoted(&config.unwrap_or(Path::new(CONFIG)).to_string_lossy());
    include_str!("oneloop.service").replace("{program}", &program).replace("{config}", &config)
}

/// The socket that systemd opens before the service and keeps while that restarts.
pub fn socket() -> &'static str {
    include_str!("oneloop.socket")
}

/// A word of a command line (systemd.service(5)): quoted where it must be, `%` and `$` meaning themselves.
fn quoted(word: &str) -> String {
    let word = word.replace('\\', "\\\\").replace('%', "%%").replace('$', "$$");
    match word.contains([' ', '\t', '"', '\'', ';']) {
        true => format!("\"{}\"", word.replace('"', "\\\"")),
        false => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_means_what_was_said() {
        for (word, written) in [
            ("/usr/bin/oneloop", "/usr/bin/oneloop"),
            ("/opt/my apps/oneloop", "\"/opt/my apps/oneloop\""),
            ("/a%b$c", "/a%%b$$c"),
            ("/a\"b", "\"/a\\\"b\""),
        ] {
            assert_eq!(quoted(word), written);
        }
        let text = service(Path::new("/opt/one loop"), Some(Path::new("/srv/o.toml")));
        assert!(text.contains("\nExecStart=\"/opt/one loop\" --config /srv/o.toml\n"), "{text}");
        assert!(!text.contains('{'), "{text}");
    }
}
