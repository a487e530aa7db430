//! Renewal of the public keys in force when the JWKS file changes: issuers announce the next key days before they use it.

use std::sync::Arc;

use super::reload::{InForce, reload_routes};
use crate::config::{Jwt, read_key_file};
use crate::engine::reactor::{Look, LookResult, Reactor, SeenFiles, shared_level, states};
use crate::push::token::Keys;

/// The subject of the watch.
const SUBJECT: &str = "keys";

/// Watches the file of these settings from now on, if they name one.
pub(super) fn watch(reactor: &mut Reactor, in_force: &InForce, jwt: &Jwt) {
    let name = jwt.jwks_file.clone();
    let look = name.map(|name| look(name, Arc::clone(in_force), jwt.clone()));
    reactor.watch_files(SUBJECT, look);
}

/// Makes the look that watches the file `name`, whose keys are in `jwt`. The first change is a reading: the file may have changed
/// since the settings were read.
fn look(name: String, in_force: InForce, mut jwt: Jwt) -> Look {
    let mut seen_files = SeenFiles::default();
    Box::new(move || {
        seen_files.judge(states([name.as_str()].into_iter()), || match renewed(&name, &jwt) {
            Ok(newer) if newer.jwks == jwt.jwks => LookResult::Unchanged,
            Ok(newer) => {
                jwt = newer;
                let (jwks, in_force) = (jwt.jwks.clone(), Arc::clone(&in_force));
                LookResult::Changed(Box::new(move |reactor| {
                    let mut config = in_force.lock().expect("the loop alone locks it");
                    config.jwt.jwks = jwks;
                    reload_routes(reactor, &config);
                    reactor.router.server.metrics.reloads += 1;
                    let level = shared_level(reactor, log::Level::Info);
                    log::log!(level, "changed: jwt.jwks_file, which was read again");
                }))
            }
            Err(problem) => LookResult::Changed(Box::new(move |reactor| {
                reactor.router.server.metrics.reloads_refused += 1;
                let level = shared_level(reactor, log::Level::Error);
                log::log!(level, "the keys stay as they were: jwt.jwks_file: {problem}");
            })),
        })
    })
}

/// Reads the file. Returns the settings with its keys, which can be used.
///
/// # Errors
/// A sentence for the operator.
fn renewed(name: &str, jwt: &Jwt) -> Result<Jwt, String> {
    let newer = Jwt { jwks: Some(read_key_file(name)?), ..jwt.clone() };
    Keys::new(&newer).map(|_| newer)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Mutex;

    use super::*;
    use crate::config::Config;

    struct TemporaryFile(PathBuf);

    impl Drop for TemporaryFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// A set with one key of this name.
    fn set(kid: &str) -> String {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{kid}"}}]}}"#)
    }

    /// Looks until a change is complete, or there is none.
    fn settled(look: &mut Look) -> bool {
        loop {
            match look() {
                LookResult::Changing => {}
                LookResult::Unchanged => return false,
                LookResult::Changed(_) => return true,
            }
        }
    }

    #[test]
    fn each_new_content_of_the_file_is_taken_or_reported_once() {
        let file = std::env::temp_dir().join(format!("oneloop-{}-jwks.json", std::process::id()));
        let file = TemporaryFile(file);
        let write = |text: &str| std::fs::write(&file.0, text).unwrap();
        write(&set("a"));
        let name = file.0.to_str().unwrap().to_owned();
        let jwt = Jwt { jwks: Some(set("a").into_bytes()), ..Jwt::default() };
        let in_force = Arc::new(Mutex::new(Config::default()));
        let mut look = look(name, in_force, jwt);
        assert!(!settled(&mut look), "it is as it was when the settings were read");
        // Of different lengths, so that they differ even within a tick of the file system's clock.
        for (text, is_new) in [(set("bb"), true), ("{}".to_owned(), true), (set("bb"), false)] {
            write(&text);
            assert_eq!(settled(&mut look), is_new, "{text}");
            assert!(!settled(&mut look), "once: {text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_says_why() {
        let jwt = Jwt::default();
        assert!(renewed("no such file", &jwt).err().unwrap().contains("cannot read the file"));
        assert!(renewed("Cargo.toml", &jwt).err().unwrap().contains("not JSON"));
    }
}
