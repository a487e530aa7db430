//! Reasons for the end of a TLS connection: each is a label of a metric and, if the peer should know, an alert.

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

/// The end of what a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordsEnd {
    /// A close_notify: all that the client sent has been received. A bare end of the stream is none.
    Closed,
    /// The alert is among the replies, and nothing can be sent after it.
    Failed(TlsFailure),
}

/// Causes that end a handshake or a session. All but `Internal` are the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// A request in plain HTTP, which gets an answer in plain HTTP.
    PlainHttp,
    NoSharedVersion,
    NoSharedSuite,
    /// No common key exchange group, or no signature scheme that suits the certificate.
    NoSharedGroup,
    /// ALPN: the client offered protocols, and HTTP/1.1 is not among them.
    NoSharedProtocol,
    /// Neither a certificate for the requested name nor a default one.
    NoCertificateForName,
    /// The client does not trust the certificate.
    CertificateRefused,
    AlertReceived,
    BadRecordMac,
    RecordOverflow,
    UnexpectedMessage,
    IllegalParameter,
    Decode,
    TooManyUselessRecords,
    /// 2³² records were received under one key.
    KeyWornOut,
    HandshakeTooLarge,
    /// Anything else that rustls refused in a handshake.
    Misbehaved,
    /// Our own fault: no random bytes, or keys that rustls' key schedule does not confirm.
    Internal,
}

impl TlsFailure {
    pub const ALL: [TlsFailure; 18] = [
        TlsFailure::PlainHttp,
        TlsFailure::NoSharedVersion,
        TlsFailure::NoSharedSuite,
        TlsFailure::NoSharedGroup,
        TlsFailure::NoSharedProtocol,
        TlsFailure::NoCertificateForName,
        TlsFailure::CertificateRefused,
        TlsFailure::AlertReceived,
        TlsFailure::BadRecordMac,
        TlsFailure::RecordOverflow,
        TlsFailure::UnexpectedMessage,
        TlsFailure::IllegalParameter,
        TlsFailure::Decode,
        TlsFailure::TooManyUselessRecords,
        TlsFailure::KeyWornOut,
        TlsFailure::HandshakeTooLarge,
        TlsFailure::Misbehaved,
        TlsFailure::Internal,
    ];

    /// Returns the label in metrics and in the log.
    pub fn name(self) -> &'static str {
        match self {
            TlsFailure::PlainHttp => "plain_http",
            TlsFailure::NoSharedVersion => "no_shared_version",
            TlsFailure::NoSharedSuite => "no_shared_suite",
            TlsFailure::NoSharedGroup => "no_shared_group",
            TlsFailure::NoSharedProtocol => "no_shared_protocol",
            TlsFailure::NoCertificateForName => "no_certificate_for_name",
            TlsFailure::CertificateRefused => "certificate_refused",
            TlsFailure::AlertReceived => "alert_received",
            TlsFailure::BadRecordMac => "bad_record_mac",
            TlsFailure::RecordOverflow => "record_overflow",
            TlsFailure::UnexpectedMessage => "unexpected_message",
            TlsFailure::IllegalParameter => "illegal_parameter",
            TlsFailure::Decode => "decode",
            TlsFailure::TooManyUselessRecords => "too_many_useless_records",
            TlsFailure::KeyWornOut => "key_worn_out",
            TlsFailure::HandshakeTooLarge => "handshake_too_large",
            TlsFailure::Misbehaved => "misbehaved",
            TlsFailure::Internal => "internal",
        }
    }

    /// Returns the cause that a client's alert names.
    pub(super) fn by_alert(alert: AlertDescription) -> TlsFailure {
        match alert {
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA => TlsFailure::CertificateRefused,
            _ => TlsFailure::AlertReceived,
        }
    }

    /// Returns the fatal alert that tells the client (RFC 8446, section 6.2). An alert is not answered by one.
    pub(super) fn alert(self) -> Option<AlertDescription> {
        match self {
            TlsFailure::AlertReceived | TlsFailure::CertificateRefused | TlsFailure::PlainHttp => {
                None
            }
            TlsFailure::BadRecordMac => Some(AlertDescription::BadRecordMac),
            TlsFailure::RecordOverflow => Some(AlertDescription::RecordOverflow),
            TlsFailure::IllegalParameter => Some(AlertDescription::IllegalParameter),
            TlsFailure::Decode | TlsFailure::HandshakeTooLarge => {
                Some(AlertDescription::DecodeError)
            }
            TlsFailure::Internal | TlsFailure::KeyWornOut => Some(AlertDescription::InternalError),
            _ => Some(AlertDescription::UnexpectedMessage),
        }
    }
}

impl From<TlsFailure> for RecordsEnd {
    fn from(failure: TlsFailure) -> RecordsEnd {
        RecordsEnd::Failed(failure)
    }
}

impl From<Error> for TlsFailure {
    fn from(error: Error) -> TlsFailure {
        match error {
            Error::AlertReceived(alert) => TlsFailure::by_alert(alert),
            Error::PeerIncompatible(why) => incompatible(&why),
            Error::PeerMisbehaved(
                PeerMisbehaved::TooManyEmptyFragments
                | PeerMisbehaved::TooManyWarningAlertsReceived
                | PeerMisbehaved::TooManyRenegotiationRequests
                | PeerMisbehaved::TooManyKeyUpdateRequests,
            ) => TlsFailure::TooManyUselessRecords,
            Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => {
                TlsFailure::HandshakeTooLarge
            }
            Error::InvalidMessage(_) => TlsFailure::Decode,
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                TlsFailure::UnexpectedMessage
            }
            Error::DecryptError => TlsFailure::BadRecordMac,
            Error::PeerSentOversizedRecord => TlsFailure::RecordOverflow,
            Error::NoApplicationProtocol => TlsFailure::NoSharedProtocol,
            Error::General(why) if why.starts_with("no server certificate") => {
                TlsFailure::NoCertificateForName
            }
            // TLS 1.2: the client signs by ECDSA, and not on the curve of the certificate.
            Error::General(why) if why == "incompatible signing key" => TlsFailure::NoSharedGroup,
            Error::General(_) | Error::FailedToGetRandomBytes | Error::FailedToGetCurrentTime => {
                TlsFailure::Internal
            }
            _ => TlsFailure::Misbehaved,
        }
    }
}

fn incompatible(why: &PeerIncompatible) -> TlsFailure {
    match why {
        PeerIncompatible::NoCipherSuitesInCommon => TlsFailure::NoSharedSuite,
        PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoEcPointFormatsInCommon => TlsFailure::NoSharedGroup,
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired
        // TLS 1.1 and older know no such extension, and rustls looks for it first.
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => TlsFailure::NoSharedVersion,
        _ => TlsFailure::Misbehaved,
    }
}
