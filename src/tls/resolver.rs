//! The choice of a certificate for a handshake, by the name that the client asks for and the signatures it can verify.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;

/// Certificates by name.
#[derive(Debug)]
pub(super) struct NameTable {
    /// Each name, or `*.` and the labels below, with the certificates that cover it, the preferred first.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For a client that names none of these: the first certificate, beside others for the same name.
    default: Vec<Arc<CertifiedKey>>,
}

impl NameTable {
    /// Makes a table of certificates in the order of the settings; there is at least one.
    pub fn new(certificates: &[Arc<Certificate>]) -> NameTable {
        let mut preferred: Vec<&Arc<Certificate>> = certificates.iter().collect();
        // Stable: of two of a kind, the one named first.
        preferred.sort_by_key(|certificate| certificate.kind);
        let mut by_name: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        for certificate in preferred {
            for name in &certificate.names {
                let covering = by_name.entry(name.clone()).or_default();
                covering.push(Arc::clone(&certificate.certified));
            }
        }
        let first = &certificates[0];
        let default = first.names.first().map(|name| by_name[name].clone());
        let default = default.unwrap_or_else(|| vec![Arc::clone(&first.certified)]);
        NameTable { by_name, default }
    }

    /// Returns the certificates that cover a name in lower case: exactly, else by a wildcard for its first label, else by default.
    fn covering(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let exact = name.and_then(|name| self.by_name.get(name));
        let by_wildcard = || {
            let (_, below) = name?.split_once('.')?;
            self.by_name.get(&["*.", below].concat())
        };
        exact.or_else(by_wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for NameTable {
    /// Returns the preferred certificate whose signature the client can verify, else the preferred one: rustls then ends the handshake
    /// with the right alert. (rustls gives the name in lower case.)
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let covering = self.covering(hello.server_name());
        let is_usable =
            |one: &&Arc<CertifiedKey>| one.key.choose_scheme(hello.signature_schemes()).is_some();
        covering.iter().find(is_usable).or(covering.first()).cloned()
    }
}
