//! The room over certificates in `tests/keys/tls`, made by OpenSSL, and over a rustls client in memory.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ServerConfig,
    ServerConnection, SignatureScheme,
};

use super::certificate_fields::{CertificateFields, name_for_people};
use super::*;
use crate::engine::random::Random;
use crate::engine::reactor::{Look, LookResult};

/// A file below `tests/keys`.
fn path(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
    root.join(name).to_str().expect("the path is UTF-8").to_owned()
}

fn pair(certificate: &str, key: &str) -> CertificateFiles {
    CertificateFiles { certificate: path(certificate), key: path(key) }
}

fn read(certificate: &str, key: &str) -> Certificate {
    Certificate::read(&pair(certificate, key)).unwrap_or_else(|problem| panic!("{problem}"))
}

fn problem(certificate: &str, key: &str) -> String {
    Certificate::read(&pair(certificate, key)).expect_err("a problem")
}

/// A file with the contents of others in a row, removed on drop.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn of(name: &str, parts: &[&str]) -> TemporaryFile {
        let file = std::env::temp_dir().join(format!("oneloop-{}-{name}", std::process::id()));
        let contents: Vec<Vec<u8>> =
            parts.iter().map(|part| std::fs::read(path(part)).unwrap()).collect();
        std::fs::write(&file, contents.concat()).unwrap();
        TemporaryFile(file)
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn every_kind_of_key_is_read_in_every_form() {
    let rsa = KeyKind::Rsa { bits: 2048 };
    for (certificate, key, kind) in [
        ("tls/p256.pem", "p256.private.pem", KeyKind::P256),
        ("tls/p256.pem", "tls/p256.sec1.key", KeyKind::P256),
        ("tls/p384.pem", "p384.private.pem", KeyKind::P384),
        ("tls/ed25519.pem", "ed25519.private.pem", KeyKind::Ed25519),
        ("tls/rsa.pem", "rsa.private.pem", rsa),
        ("tls/rsa.pem", "tls/rsa.pkcs1.key", rsa),
    ] {
        let found = read(certificate, key);
        assert_eq!((found.kind, &found.flaws[..]), (kind, &[][..]), "{key}");
    }
    let found = read("tls/p256.pem", "p256.private.pem");
    assert_eq!(found.names, ["example.com", "www.example.com"]);
    assert_eq!(found.issuer, "Test Intermediate");
    let summary = found.summary();
    let expected = "example.com, www.example.com (ECDSA P-256, by Test Intermediate, until 21";
    assert!(summary.starts_with(expected), "{summary}");
}

#[test]
fn one_file_may_hold_both() {
    let both = TemporaryFile::of("both.pem", &["p256.private.pem", "tls/p256.pem"]);
    let files = CertificateFiles { certificate: both.name().into(), key: both.name().into() };
    assert_eq!(Certificate::read(&files).expect("both are there").kind, KeyKind::P256);
}

#[test]
fn each_problem_names_its_file_and_the_way_out() {
    let (certificate, key) = ("tls/p256.pem", "p256.private.pem");
    for (certificate, key, setting, words) in [
        ("nowhere", key, "tls.cert_file", "cannot read the file: No such file"),
        (certificate, "nowhere", "tls.key_file", "cannot read the file: No such file"),
        (
            key,
            certificate,
            "tls.cert_file",
            "it holds a private key: are the files of certificate and key swapped?",
        ),
        (
            certificate,
            certificate,
            "tls.key_file",
            "it holds a certificate: are the files of certificate and key swapped?",
        ),
        ("tls/make", key, "tls.cert_file", "there is no certificate in it; name a PEM file"),
        (certificate, "tls/make", "tls.key_file", "there is no private key in it; name a PEM file"),
        ("tls/request.pem", key, "tls.cert_file", "it holds a request"),
        (certificate, "p256.public.pem", "tls.key_file", "it holds a public key"),
        (certificate, "tls/encrypted.key", "tls.key_file", "the key is encrypted"),
        (certificate, "tls/encrypted.sec1.key", "tls.key_file", "the key is encrypted"),
        (
            certificate,
            "tls/p521.key",
            "tls.key_file",
            "the key is ECDSA on P-521; possible are ECDSA on P-256",
        ),
        (certificate, "tls/k1.key", "tls.key_file", "the key is ECDSA on secp256k1"),
        (certificate, "tls/rsa1024.key", "tls.key_file", "the key is RSA with 1024 bits; possible"),
        (certificate, "tls/ed448.key", "tls.key_file", "the key is Ed448"),
        (
            certificate,
            "p384.private.pem",
            "tls.cert_file",
            "does not belong to the first certificate",
        ),
        ("tls/version1.pem", key, "tls.cert_file", "it must be one of version 3"),
        ("/proc", key, "tls.cert_file", "cannot read the file: it is no regular file"),
    ] {
        let found = problem(certificate, key);
        let file = if setting == "tls.cert_file" { certificate } else { key };
        assert!(found.starts_with(&format!("{setting} {:?}: ", path(file))), "{found}");
        assert!(found.contains(words), "{words}: {found}");
    }
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let file = TemporaryFile::of("pipe.pem", &[]);
    std::fs::remove_file(&file.0).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &file.0, mode).unwrap();
    let files = CertificateFiles { certificate: path("tls/p256.pem"), key: file.name().into() };
    let found = Certificate::read(&files).expect_err("it is a pipe");
    assert!(found.ends_with("it is no regular file"), "{found}");
}

#[test]
fn a_chain_in_the_wrong_order_is_named() {
    let turned = TemporaryFile::of("turned.pem", &["tls/intermediate.pem", "tls/p256.pem"]);
    let files =
        CertificateFiles { certificate: turned.name().into(), key: path("p256.private.pem") };
    let found = Certificate::read(&files).expect_err("the leaf is not first");
    assert!(
        found.contains("belongs to certificate 2 of the file, which must stand first"),
        "{found}"
    );
    // The leaf, its issuer, and then somebody else's.
    let foreign = TemporaryFile::of("foreign.pem", &["tls/p256.pem", "tls/rsa.pem"]);
    let files =
        CertificateFiles { certificate: foreign.name().into(), key: path("p256.private.pem") };
    let found = Certificate::read(&files).expect("it can be served").flaws;
    let expected =
        "certificate 2 of the file is issued by \"Test Root\", but certificate 3 is \"leaf\"";
    assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
}

#[test]
fn a_missing_chain_and_missing_names_are_flaws() {
    let whole = std::fs::read(path("tls/p256.pem")).unwrap();
    let end = b"-----END CERTIFICATE-----\n";
    let at = whole.windows(end.len()).position(|window| window == end).unwrap() + end.len();
    let alone = TemporaryFile::of("alone.pem", &[]);
    std::fs::write(&alone.0, &whole[..at]).unwrap();
    let files =
        CertificateFiles { certificate: alone.name().into(), key: path("p256.private.pem") };
    let flaws = Certificate::read(&files).expect("it can be served").flaws;
    assert!(flaws.len() == 1 && flaws[0].contains("unless \"Test Intermediate\""), "{flaws:?}");
    let nameless = read("tls/nameless.pem", "p256.private.pem");
    assert!(nameless.flaws[0].contains("no host name"), "{:?}", nameless.flaws);
    assert_eq!(nameless.name(), path("tls/nameless.pem"));
}

#[test]
fn dates_are_compared_with_the_clock() {
    let found = read("tls/p256.pem", "p256.private.pem");
    assert!(found.date_problem(found.not_before - 1).unwrap().starts_with("it begins at 20"));
    assert_eq!(found.date_problem(found.not_before), None);
    assert_eq!(found.date_problem(found.not_after), None);
    assert!(found.date_problem(found.not_after + 1).unwrap().starts_with("it ended at 21"));
}

/// All certificates at hand: ours, and the system's roots.
fn all_certificates() -> Vec<CertificateDer<'static>> {
    let files = ["root", "intermediate", "p256", "rsa", "p384", "ed25519", "version1"];
    let mut files: Vec<String> = files.map(|name| path(&format!("tls/{name}.pem"))).into();
    files.push(path("certificate.pem"));
    files.push("/etc/ssl/certs/ca-certificates.crt".to_owned());
    let read = files.iter().filter_map(|file| std::fs::read(file).ok());
    read.flat_map(|bytes| {
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().unwrap()
    })
    .collect()
}

#[test]
fn dates_and_names_are_those_that_openssl_reads() {
    // Not all: each takes openssl 10 ms.
    let all = all_certificates();
    for certificate in all.iter().take(16).chain(all.iter().skip(16).step_by(5)) {
        let fields = CertificateFields::parse(certificate).expect("it is well-formed");
        let mut openssl = Command::new("openssl")
            .args(["x509", "-inform", "der", "-noout", "-dates", "-dateopt", "iso_8601"])
            .args(["-subject", "-issuer", "-nameopt", "multiline,utf8,-esc_msb"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        openssl.stdin.take().unwrap().write_all(certificate).unwrap();
        let output = openssl.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for (name, second) in [("notBefore", fields.not_before), ("notAfter", fields.not_after)] {
            let told = crate::clock::utc(second).replace('T', " ");
            assert!(text.contains(&format!("{name}={told}Z\n")), "{told} in {text}");
        }
        for name in [fields.subject, fields.issuer].map(name_for_people) {
            let is_told = text.contains(&format!(" = {name}\n")) || name == "no name";
            assert!(is_told, "{name} in {text}");
        }
        assert_eq!(fields.is_self_issued(), fields.subject == fields.issuer);
    }
}

#[test]
fn no_bytes_panic_the_reader() {
    let certificates = all_certificates();
    for seed in 1..20_000_u64 {
        let mut random = Random::new(seed);
        let mut bytes = certificates[random.below(certificates.len())].to_vec();
        println!("seed {seed}"); // Shown when the test fails.
        for _ in 0..1 + random.below(4) {
            // Where the lengths and the dates are.
            let at = random.below(bytes.len().min(400));
            bytes[at] = random.below(256) as u8;
        }
        bytes.truncate(if random.below(4) == 0 { random.below(bytes.len()) } else { bytes.len() });
        if let Some(fields) = CertificateFields::parse(&bytes) {
            assert!(fields.not_after <= 253_402_300_799);
            name_for_people(fields.issuer);
        }
    }
}

/// Accepts every certificate.
#[derive(Debug)]
struct Credulous(Vec<SignatureScheme>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer,
        _: &[CertificateDer],
        _: &ServerName,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// A client that can verify these signatures.
fn client(schemes: &[SignatureScheme]) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().dangerous();
    let verifier = Arc::new(Credulous(schemes.to_vec()));
    Arc::new(builder.with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Connects in memory. Returns the certificate that the client was shown, and the kind of the handshake.
fn connect(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Option<(CertificateDer<'static>, HandshakeKind)> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut &bytes[..]).unwrap();
        let is_refused = server.process_new_packets().is_err();
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut &bytes[..]).unwrap();
        if client.process_new_packets().is_err() || is_refused {
            return None;
        }
    }
    let shown = client.peer_certificates()?.first()?.clone().into_owned();
    Some((shown, client.handshake_kind()?))
}

const MODERN: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];
const RSA_ALONE: &[SignatureScheme] =
    &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];

fn all_pairs() -> Vec<CertificateFiles> {
    vec![
        pair("tls/rsa.pem", "rsa.private.pem"),
        pair("tls/p384.pem", "p384.private.pem"),
        pair("tls/p256.pem", "p256.private.pem"),
        pair("tls/ed25519.pem", "ed25519.private.pem"),
    ]
}

fn config(certificates: &Certificates, tickets: &TicketKeys) -> Arc<ServerConfig> {
    certificates.acceptor(tickets).config
}

#[test]
fn the_certificate_is_chosen_by_name_and_by_what_the_client_can_verify() {
    let certificates = Certificates::read(&all_pairs()).expect("the pairs are good");
    let server = config(&certificates, &TicketKeys::new().unwrap());
    let kind = |name: &str, schemes: &[SignatureScheme]| {
        let (shown, _) = connect(&server, &client(schemes), name)?;
        let found = certificates.iter().find(|one| one.certified.cert[0] == shown);
        Some(found.expect("it is one of ours").kind)
    };
    let rsa = KeyKind::Rsa { bits: 2048 };
    for (name, schemes, expected) in [
        ("example.com", MODERN, Some(KeyKind::P256)),
        ("www.example.com", MODERN, Some(KeyKind::P256)),
        ("WWW.Example.COM", MODERN, Some(KeyKind::P256)),
        ("example.com", RSA_ALONE, Some(rsa)),
        ("example.org", MODERN, Some(KeyKind::P384)),
        ("b.example.org", MODERN, Some(KeyKind::P384)),
        // An exact name goes before the wildcard.
        ("a.example.org", MODERN, Some(KeyKind::Ed25519)),
        // A wildcard covers one label: the default takes the rest, and it has two kinds as well.
        ("b.a.example.org", MODERN, Some(KeyKind::P256)),
        ("elsewhere.net", MODERN, Some(KeyKind::P256)),
        ("elsewhere.net", RSA_ALONE, Some(rsa)),
        ("org", MODERN, Some(KeyKind::P256)),
        // An address is no name that a client may send.
        ("127.0.0.1", MODERN, Some(KeyKind::P256)),
        ("example.org", RSA_ALONE, None),
    ] {
        assert_eq!(kind(name, schemes), expected, "{name} {schemes:?}");
    }
}

#[test]
fn sessions_outlive_a_reload() {
    let tickets = TicketKeys::new().unwrap();
    let certificates = Certificates::read(&all_pairs()).expect("the pairs are good");
    let client = client(MODERN);
    let connect =
        |server: Arc<ServerConfig>| connect(&server, &client, "example.com").expect("connected").1;
    assert_eq!(connect(config(&certificates, &tickets)), HandshakeKind::Full);
    let (again, problems) = certificates.read_again();
    assert!(problems.is_empty() && again.new_since(&certificates).next().is_none());
    assert_eq!(connect(config(&again, &tickets)), HandshakeKind::Resumed);
    // Another process does not know the keys.
    assert_eq!(connect(config(&again, &TicketKeys::new().unwrap())), HandshakeKind::Full);
}

#[test]
fn a_pair_that_goes_bad_keeps_its_certificate() {
    let file = TemporaryFile::of("renewed.pem", &["tls/p256.pem"]);
    let moving =
        CertificateFiles { certificate: file.name().into(), key: path("p256.private.pem") };
    let files = [moving, pair("tls/p384.pem", "p384.private.pem")];
    let certificates = Certificates::read(&files).expect("the pairs are good");
    std::fs::write(&file.0, "half of a").unwrap();
    let (again, problems) = certificates.read_again();
    assert_eq!((again.new_since(&certificates).count(), problems.len()), (0, 1), "{problems:?}");
    assert!(problems[0].contains("there is no certificate in it"), "{problems:?}");
    std::fs::copy(path("tls/nameless.pem"), &file.0).unwrap();
    let (again, problems) = again.read_again();
    let new: Vec<_> = again.new_since(&certificates).map(|one| one.names.clone()).collect();
    assert_eq!((new, problems), (vec![Vec::<String>::new()], Vec::new()));
}

#[test]
fn the_metric_tells_the_earliest_end_of_a_name() {
    let certificates = Certificates::read(&all_pairs()).expect("the pairs are good");
    let ends = certificates.ends();
    let names: Vec<&str> = ends.keys().map(String::as_str).collect();
    assert_eq!(names, ["*.example.org", "a.example.org", "example.com"]);
    let earliest = certificates.iter().filter(|one| one.name() == "example.com");
    assert_eq!(Some(ends["example.com"]), earliest.map(|one| one.not_after).min());
    let cost = certificates.acceptor(&TicketKeys::new().unwrap()).cost;
    assert_eq!(cost, KeyKind::Rsa { bits: 2048 }.handshake_cost());
}

/// Looks until the files have settled, and returns the number of looks before a result.
fn looks_until_changed(look: &mut Look) -> usize {
    let results = std::iter::repeat_with(look).take(5);
    results.take_while(|result| !matches!(result, LookResult::Changed(_))).count()
}

#[test]
fn a_change_counts_once_two_looks_see_the_same() {
    let target = TemporaryFile::of("target.pem", &["tls/p256.pem"]);
    let link = std::env::temp_dir().join(format!("oneloop-{}-link.pem", std::process::id()));
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(&target.0, &link).unwrap();
    let link = TemporaryFile(link);
    let files =
        [CertificateFiles { certificate: link.name().into(), key: path("p256.private.pem") }];
    let certificates = Certificates::read(&files).expect("the pair is good");
    // A change between reading and the first look is seen.
    std::fs::write(&target.0, "not a certificate").unwrap();
    let mut look = renewal::look(certificates, TicketKeys::new().unwrap());
    assert_eq!(looks_until_changed(&mut look), 1);
    // A bad file is reported once.
    assert!(matches!(look(), LookResult::Unchanged));
    // A link to another file is a change as well, and so is a file that goes.
    let other = TemporaryFile::of("other.pem", &["tls/nameless.pem"]);
    std::fs::remove_file(&link.0).unwrap();
    assert!(matches!(look(), LookResult::Changing));
    std::os::unix::fs::symlink(&other.0, &link.0).unwrap();
    assert_eq!(looks_until_changed(&mut look), 1);
    assert!(matches!(look(), LookResult::Unchanged));
    // A change that is undone before it has settled is none.
    std::fs::rename(&other.0, other.0.with_extension("aside")).unwrap();
    assert!(matches!(look(), LookResult::Changing));
    std::fs::rename(other.0.with_extension("aside"), &other.0).unwrap();
    assert!(!matches!(look(), LookResult::Changed(_)));
}
