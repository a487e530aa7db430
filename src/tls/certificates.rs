//! The certificates in force, read from the files of the settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::ServerConfig;

use super::certificate::{Certificate, CertificateFiles};
use super::resolver::NameTable;
use super::tickets::TicketKeys;
use crate::config::TlsConfig;
use crate::engine::reactor::{FileState, states};
use crate::engine::tls::{Acceptor, prepared, provider};

/// The certificates of a server, in the order of the settings; at least one.
#[derive(Clone, Debug)]
pub struct Certificates {
    list: Vec<Arc<Certificate>>,
    /// The states of the files before they were read, so that a later change is noticed.
    pub(super) read_as: Vec<FileState>,
}

impl Certificates {
    /// Reads the files of the settings; `None` if they name none.
    ///
    /// # Errors
    /// A sentence for each pair that cannot be used.
    pub fn of(settings: &TlsConfig) -> Result<Option<Certificates>, Vec<String>> {
        let files = CertificateFiles::pairs(settings);
        if files.is_empty() { Ok(None) } else { Certificates::read(&files).map(Some) }
    }

    /// Reads every pair of files; there is at least one.
    pub(super) fn read(files: &[CertificateFiles]) -> Result<Certificates, Vec<String>> {
        let read_as = states(files.iter().flat_map(CertificateFiles::names));
        let (mut list, mut problems) = (Vec::new(), Vec::new());
        for pair in files {
            match Certificate::read(pair) {
                Ok(certificate) => list.push(Arc::new(certificate)),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Certificates { list, read_as }) } else { Err(problems) }
    }

    /// Reads the files again. A pair that cannot be used keeps its certificate, so that one does not hold up the renewal of others.
    /// Returns the certificates, and a sentence for each pair that was kept.
    pub fn read_again(&self) -> (Certificates, Vec<String>) {
        let read_as = states(self.iter().flat_map(|one| one.files.names()));
        let mut problems = Vec::new();
        let again = self.list.iter().map(|old| match Certificate::read(&old.files) {
            Ok(certificate) => Arc::new(certificate),
            Err(problem) => {
                problems.push(problem);
                Arc::clone(old)
            }
        });
        (Certificates { list: again.collect(), read_as }, problems)
    }

    /// Iterates over the certificates.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.list.iter().map(|certificate| &**certificate)
    }

    /// Returns the files, in pairs.
    pub fn files(&self) -> Vec<CertificateFiles> {
        self.iter().map(|certificate| certificate.files.clone()).collect()
    }

    /// Returns those that `older` does not have.
    pub fn new_since<'a>(
        &'a self,
        older: &'a Certificates,
    ) -> impl Iterator<Item = &'a Certificate> {
        self.iter().filter(|one| !older.iter().any(|old| old.is_same(one)))
    }

    /// Returns the ends of validity by first name, as unix seconds; of two with the same name, the earlier one.
    pub fn ends(&self) -> BTreeMap<String, u64> {
        let mut ends = BTreeMap::new();
        for certificate in self.iter() {
            let end = ends.entry(certificate.name().to_owned()).or_insert(certificate.not_after);
            *end = certificate.not_after.min(*end);
        }
        ends
    }

    /// Builds the settings of the listeners' handshakes.
    pub fn acceptor(&self, tickets: &TicketKeys) -> Acceptor {
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()));
        let mut config = builder
            .with_safe_default_protocol_versions()
            .expect("the provider has suites of both versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(NameTable::new(&self.list)));
        config.ticketer = Arc::new(tickets.clone());
        // The most expensive key counts: a client's choice is known too late.
        let cost = self.iter().map(|one| one.kind.handshake_cost()).max().unwrap_or_default();
        Acceptor { config: Arc::new(prepared(config)), cost }
    }
}
