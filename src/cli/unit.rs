//! The systemd units of the server.

use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::{Config, TlsConfig};
use crate::embedded::{EmbeddedText, embedded_text};
use crate::engine::reactor::{Listen, UnixAccess};
use crate::observe::systemd::STOP_SECONDS_SPARE;

/// The units, with places to fill in.
static SERVICE: EmbeddedText = embedded_text!("oneloop.service");
static SOCKET: EmbeddedText = embedded_text!("oneloop.socket");

/// The settings file, unless `--config` names another.
const CONFIG: &str = "/etc/oneloop.toml";

/// Folders that the unit's sandbox hides, each with the directive that does.
const HIDDEN: [(&str, &str); 5] = [
    ("/home", "ProtectHome"),
    ("/root", "ProtectHome"),
    ("/run/user", "ProtectHome"),
    ("/tmp", "PrivateTmp"),
    ("/var/tmp", "PrivateTmp"),
];

/// Ports that take a right to listen at (`ip_unprivileged_port_start`).
const PRIVILEGED_PORTS: Range<u16> = 1..1024;

/// Returns the service unit for the binary `program`, with the rights that the settings need.
pub fn service(program: &Path, config: Option<&Path>, settings: &Config) -> String {
    let program = quoted(&program.to_string_lossy());
    let config = quoted(&config.unwrap_or(Path::new(CONFIG)).to_string_lossy());
    let stop_seconds = u64::from(settings.bounds.drain_seconds) + STOP_SECONDS_SPARE;
    let needs_right = |listen: &Listen| {
        listen.socket_addr().is_some_and(|address| PRIVILEGED_PORTS.contains(&address.port()))
    };
    let (capabilities, private_users) = match settings.listen.iter().any(needs_right) {
        true => ("CAP_NET_BIND_SERVICE", "no"),
        false => ("", "yes"),
    };
    SERVICE
        .inflate()
        .replace("{program}", &program)
        .replace("{config}", &config)
        .replace("{stop_seconds}", &stop_seconds.to_string())
        .replace("{groups}", &key_groups(&settings.tls))
        .replace("{capabilities}", capabilities)
        .replace("{private_users}", private_users)
}

/// The group that may read a file, unless it is that of root.
fn reading_group(file: &Metadata) -> Option<u32> {
    (file.mode() & 0o040 != 0 && file.gid() != 0).then(|| file.gid())
}

/// Lists the numbers of the groups that may read keys which others may not.
fn key_groups(tls: &TlsConfig) -> String {
    let files = tls.key_files.iter().filter_map(|name| Path::new(name).metadata().ok());
    let closed = files.filter(|file| file.mode() & 0o004 == 0);
    let mut groups: Vec<u32> = closed.filter_map(|file| reading_group(&file)).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// Lists the files that the service could not reach, each with a command that fixes it: systemd itself would report no more than
/// status 203, or a missing file that plainly exists.
pub fn hidden(program: &Path, config: Option<&Path>) -> Vec<String> {
    let found = |path: &Path| HIDDEN.iter().find(|(folder, _)| path.starts_with(folder));
    let tell = |path: &Path, (folder, line): &(&str, &str), command: &str| {
        let path = path.display().to_string().escape_debug().to_string();
        format!(
            "the service will not find {path}: {line}=yes of the unit hides {folder}; \
             install it elsewhere and make the unit anew: {command} {path} "
        )
    };
    let program =
        found(program).map(|rule| tell(program, rule, "install -m 755") + "/usr/local/bin/oneloop");
    let config =
        config.and_then(|config| Some(tell(config, found(config)?, "install -m 644") + CONFIG));
    program.into_iter().chain(config).collect()
}

/// Lists the certificates and keys that the service could not read, each with a remedy. certbot leaves keys to root alone.
pub fn unreadable(tls: &TlsConfig) -> Vec<String> {
    let tell = |name: &String| {
        let path = Path::new(name);
        if let Some((folder, line)) = HIDDEN.iter().find(|(folder, _)| path.starts_with(folder)) {
            return Some(format!(
                "the service will not find {name:?}: {line}=yes of the unit hides {folder}; keep it below /etc or /var/lib"
            ));
        }
        let file = path.metadata().ok()?;
        (file.mode() & 0o004 == 0 && reading_group(&file).is_none()).then(|| {
            format!(
                "{name:?} is closed to the service, which is a user of its own: let a group read it, and make the unit anew, \
                 which then names that group (oneloop help tls)"
            )
        })
    };
    tls.certificate_files.iter().chain(&tls.key_files).filter_map(tell).collect()
}

/// Returns the socket unit, whose listeners systemd opens before the service and keeps while it restarts: those of the settings.
pub fn socket(listen: &[Listen], access: &UnixAccess) -> String {
    let mut lines = String::new();
    for address in listen {
        let place = match address {
            Listen::Tcp(address) | Listen::Tls(address) => address.to_string(),
            Listen::Unix(path) => path.display().to_string().replace('%', "%%"),
        };
        lines += &format!("ListenStream={place}\n");
    }
    if listen.iter().any(|address| address.socket_addr().is_none()) {
        lines += &format!("SocketMode={:04o}\n", access.mode);
        if let Some(group) = &access.group {
            lines += &format!("SocketGroup={group}\n");
        }
    }
    if listen.iter().any(|address| address.socket_addr().is_some()) {
        lines += "NoDelay=yes\n";
    }
    SOCKET.inflate().replace("{listen}", &lines)
}

/// Quotes a word of a command line if necessary; `%` and `$` mean themselves (systemd.service(5)).
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
    use crate::engine::reactor::UnixGroup;

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
        let mut settings = Config::default();
        settings.bounds.drain_seconds = 300;
        let text = service(Path::new("/opt/one loop"), Some(Path::new("/srv/o.toml")), &settings);
        assert!(text.contains("\nExecStart=\"/opt/one loop\" --config /srv/o.toml\n"), "{text}");
        assert!(text.contains("\nTimeoutStopSec=310\n"), "{text}");
        assert!(!text.contains('{'), "{text}");
    }

    #[test]
    fn the_service_may_open_low_ports_if_the_settings_name_one() {
        let mut settings = Config::default();
        for (address, rights) in [
            ("0.0.0.0:1024", "AmbientCapabilities=\nCapabilityBoundingSet=\nPrivateUsers=yes\n"),
            (
                "0.0.0.0:443",
                "AmbientCapabilities=CAP_NET_BIND_SERVICE\n\
                 CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nPrivateUsers=no\n",
            ),
        ] {
            settings.listen.push(Listen::Tls(address.parse().unwrap()));
            let text = service(Path::new("/usr/bin/oneloop"), None, &settings);
            assert!(text.contains(rights), "{address}: {text}");
        }
    }

    #[test]
    fn the_service_has_the_groups_that_may_read_its_keys() {
        let found = |name: &str| {
            let key_files = vec![name.to_owned(), "/nowhere".to_owned()];
            key_groups(&TlsConfig { certificate_files: Vec::new(), key_files })
        };
        // Debian lets the group shadow read it.
        if let Ok(shadow) = std::fs::metadata("/etc/shadow")
            && shadow.mode() & 0o044 == 0o040
        {
            assert_eq!(found("/etc/shadow"), shadow.gid().to_string());
        }
        assert_eq!(found("/etc/passwd"), "", "everybody may read it");
    }

    #[test]
    fn the_socket_unit_opens_what_the_settings_name() {
        let tcp = "[::1]:8099".parse().unwrap();
        let unix = Listen::Unix("/run/a%b".into());
        let group = Some(UnixGroup::Name("www-data".to_owned()));
        let access = UnixAccess { mode: 0o60, group };
        for (listen, lines) in [
            (&[Listen::Tcp(tcp)][..], "ListenStream=[::1]:8099\nNoDelay=yes\nBacklog="),
            (
                &[unix, Listen::Tls(tcp)],
                "ListenStream=/run/a%%b\nListenStream=[::1]:8099\nSocketMode=0060\n\
                 SocketGroup=www-data\nNoDelay=yes\nBacklog=",
            ),
        ] {
            let text = socket(listen, &access);
            assert!(text.contains(lines), "{text}");
        }
    }

    #[test]
    fn what_the_service_may_not_read_is_told_with_its_cure() {
        let file = std::env::temp_dir().join(format!("oneloop-{}-private.key", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let found = |name: &str| {
            let key_files = vec![name.to_owned()];
            unreadable(&TlsConfig { certificate_files: vec!["/nowhere/a.pem".into()], key_files })
        };
        let hidden = found(file.to_str().unwrap());
        let is_hidden = file.starts_with("/tmp");
        assert!(
            !is_hidden || hidden[0].contains("PrivateTmp=yes of the unit hides /tmp"),
            "{hidden:?}"
        );
        std::fs::remove_file(&file).unwrap();
        assert!(found("/etc/passwd").is_empty(), "everybody may read it");
        // Where there is one, root alone may read it.
        if std::fs::metadata("/proc/1/environ").is_ok_and(|found| found.mode() & 0o044 == 0) {
            let private = found("/proc/1/environ");
            assert!(private[0].contains("let a group read it"), "{private:?}");
        }
    }

    #[test]
    fn what_the_sandbox_hides_is_told_with_its_cure() {
        let problems =
            |program, config: Option<&str>| hidden(Path::new(program), config.map(Path::new));
        assert_eq!(problems("/usr/local/bin/oneloop", Some("/etc/oneloop.toml")), [""; 0]);
        assert_eq!(problems("/homes/oneloop", None), [""; 0]);
        let both = problems("/home/me/target/release/oneloop", Some("/tmp/oneloop.toml"));
        assert!(both[0].contains("ProtectHome=yes of the unit hides /home;"), "{both:?}");
        let cure = "install -m 755 /home/me/target/release/oneloop /usr/local/bin/oneloop";
        assert!(both[0].ends_with(cure), "{both:?}");
        let cure = "install -m 644 /tmp/oneloop.toml /etc/oneloop.toml";
        assert!(both[1].contains("PrivateTmp") && both[1].ends_with(cure), "{both:?}");
    }
}
