//! The fields of a certificate that rustls and webpki do not expose: its dates, and the names of its issuer and subject.

use crate::clock;
use crate::der::{DerReader, INTEGER, OBJECT_IDENTIFIER, SEQUENCE, SET, TAG_0};

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The object identifiers of a common name and of an organization (2.5.4.3, 2.5.4.10).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// The dates and names of a certificate (RFC 5280 section 4.1).
#[derive(Debug, PartialEq, Eq)]
pub struct CertificateFields<'a> {
    /// The first and the last unix second of its validity. A date before 1970 is 0.
    pub not_before: u64,
    pub not_after: u64,
    /// The encoded distinguished names: a certificate is issued by the one whose subject equals its issuer.
    pub issuer: &'a [u8],
    pub subject: &'a [u8],
}

impl CertificateFields<'_> {
    /// Parses a certificate; `None` if it is malformed.
    pub fn parse(certificate: &[u8]) -> Option<CertificateFields<'_>> {
        let mut whole = DerReader(certificate).contents_of(SEQUENCE)?;
        let mut body = whole.contents_of(SEQUENCE)?;
        let version_or_serial = body.element()?;
        if version_or_serial.0 == TAG_0 {
            body.contents_of(INTEGER)?;
        }
        // The signature's algorithm.
        body.contents_of(SEQUENCE)?;
        let issuer = body.contents_of(SEQUENCE)?.0;
        let mut validity = body.contents_of(SEQUENCE)?;
        let subject = body.contents_of(SEQUENCE)?.0;
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        Some(CertificateFields { not_before, not_after, issuer, subject })
    }

    /// Returns whether the certificate names itself as its issuer.
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }
}

/// Returns the common name in a distinguished name, else its organization, for a message.
pub fn name_for_people(name: &[u8]) -> String {
    let find = |wanted: &[u8]| {
        let mut rest = DerReader(name);
        while let Some(mut attributes) = rest.contents_of(SET) {
            while let Some(mut attribute) = attributes.contents_of(SEQUENCE) {
                if attribute.contents_of(OBJECT_IDENTIFIER)?.0 == wanted {
                    let (_, text) = attribute.element()?;
                    return Some(String::from_utf8_lossy(text).into_owned());
                }
            }
        }
        None
    };
    find(COMMON_NAME).or_else(|| find(ORGANIZATION)).unwrap_or_else(|| "no name".to_owned())
}

/// Takes a date, which ends in seconds and `Z` (RFC 5280 section 4.1.2.5). Years of two digits begin in 1950.
fn time(fields: &mut DerReader) -> Option<u64> {
    let (tag, text) = fields.element()?;
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let digits = text.strip_suffix('Z')?;
    let digits = match (tag, digits.len()) {
        (UTC_TIME, 12) if digits < "5" => ["20", digits].concat(),
        (UTC_TIME, 12) => ["19", digits].concat(),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| &digits[from..to];
    let (date, time) = (
        [part(0, 4), part(4, 6), part(6, 8)].join("-"),
        [part(8, 10), part(10, 12), part(12, 14)].join(":"),
    );
    let is_early = digits.bytes().all(|byte| byte.is_ascii_digit()) && *digits < *"1970";
    if is_early { Some(0) } else { clock::unix(&[date, time].join("T")) }
}
