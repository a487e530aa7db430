//! Renewal of the certificates in force when their files change. No client is dropped, and certbot and lego need no hook.

use super::certificate::{Certificate, CertificateFiles};
use super::certificates::Certificates;
use super::tickets::TicketKeys;
use crate::engine::reactor::{Look, LookResult, Reactor, SeenFiles, shared_level, states};

/// The subject of the watch.
const SUBJECT: &str = "certificates";

/// Puts certificates into force, and watches their files from now on.
pub fn take_over(reactor: &mut Reactor, certificates: Certificates, tickets: TicketKeys) {
    certificates.iter().for_each(|certificate| announce(reactor, certificate));
    put_into_force(reactor, &certificates, &tickets);
    reactor.watch_files(SUBJECT, Some(look(certificates, tickets)));
}

fn put_into_force(reactor: &mut Reactor, certificates: &Certificates, tickets: &TicketKeys) {
    reactor.set_acceptor(certificates.acceptor(tickets));
    reactor.router.server.metrics.certificate_ends = certificates.ends().into_iter().collect();
}

/// Logs a certificate and the reasons why clients may refuse it. An expired one is served all the same, until it is renewed.
fn announce(reactor: &Reactor, certificate: &Certificate) {
    let level = |level| shared_level(reactor, level);
    log::log!(level(log::Level::Info), "certificate: {}", certificate.summary());
    let unix = reactor.router.server.now.unix;
    let problems = certificate.date_problem(unix).into_iter().chain(certificate.flaws.clone());
    for problem in problems {
        log::log!(
            level(log::Level::Warn),
            "tls.cert_file {:?}: {problem}",
            certificate.files.certificate
        );
    }
}

/// Makes the look that watches the files of these certificates.
pub(super) fn look(certificates: Certificates, tickets: TicketKeys) -> Look {
    let files = certificates.files();
    let mut seen_files = SeenFiles::new(certificates.read_as.clone());
    let mut in_force = certificates;
    Box::new(move || {
        let seen = states(files.iter().flat_map(CertificateFiles::names));
        seen_files.judge(seen, || {
            let (again, problems) = in_force.read_again();
            let older = std::mem::replace(&mut in_force, again.clone());
            let tickets = tickets.clone();
            LookResult::Changed(Box::new(move |reactor| {
                let metrics = &mut reactor.router.server.metrics;
                metrics.reloads_refused += u64::from(!problems.is_empty());
                let level = shared_level(reactor, log::Level::Error);
                for problem in problems {
                    log::log!(level, "the certificate stays as it was: {problem}");
                }
                let mut new = again.new_since(&older).peekable();
                if new.peek().is_some() {
                    reactor.router.server.metrics.reloads += 1;
                    new.for_each(|certificate| announce(reactor, certificate));
                    put_into_force(reactor, &again, &tickets);
                }
            }))
        })
    })
}
