//! TLS settings from files: certificates and their keys, the choice among them, tickets, and renewal.
//!
//! Nothing here speaks to a peer: handshakes and records are [`engine::tls`](crate::engine::tls).

mod certificate;
mod certificate_fields;
mod certificates;
pub mod client;
mod files;
pub mod inspection;
mod key;
mod pem;
pub mod redis;
mod renewal;
mod resolver;
#[cfg(test)]
mod tests;
mod tickets;

pub use certificate::{Certificate, CertificateFiles, DAYS_LEFT_MIN};
pub use certificates::Certificates;
pub use key::KeyKind;
pub use renewal::take_over;
pub use tickets::TicketKeys;
