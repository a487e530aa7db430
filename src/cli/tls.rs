//! TLS by the machine's own `openssl`: the binary contains none, and does not need it for a check.

use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::cli::dial::{ServerConnection, TIMEOUT};
use crate::cli::url::Url;
use crate::clock;

/// The longest output that is read; that of one certificate and one session is a few KB.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// A running `openssl`, ended on drop.
pub(super) struct TlsTunnel(Child);

/// A server that speaks TLS.
pub(super) struct TlsEndpoint<'a> {
    /// Its name or address, without brackets.
    host: &'a str,
    /// Its address with the port.
    address: &'a str,
}

impl Drop for TlsTunnel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl TlsEndpoint<'_> {
    pub(super) fn of(url: &Url) -> TlsEndpoint<'_> {
        TlsEndpoint { host: &url.name, address: &url.address }
    }

    /// Connects through TLS. The connection to a server that cannot be trusted ends at once.
    ///
    /// # Errors
    /// A sentence if there is no `openssl`.
    pub(super) fn connect(&self) -> Result<(ServerConnection, TlsTunnel), String> {
        self.start(&["-quiet", "-verify_quiet", "-verify_return_error"], true)
    }

    /// Returns the report of `openssl` on the server: the verdict on its certificate, and the certificate.
    ///
    /// # Errors
    /// A sentence if there is no `openssl`, or the server does not speak TLS.
    pub(super) fn inspect(&self) -> Result<String, String> {
        let (mut connection, _tunnel) = self.start(&[], false)?;
        let mut output = Vec::new();
        while output.len() <= OUTPUT_BYTES_MAX
            && matches!(connection.read(&mut output, TIMEOUT), Ok(1..))
        {}
        let output = String::from_utf8_lossy(&output).into_owned();
        match output.contains("-----BEGIN CERTIFICATE-----") {
            true => Ok(output),
            false => Err("no certificate came: does the server speak TLS?".to_owned()),
        }
    }

    fn start(
        &self,
        flags: &[&str],
        has_input: bool,
    ) -> Result<(ServerConnection, TlsTunnel), String> {
        let said = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => NO_OPENSSL.to_owned(),
            _ => format!("openssl: {error}"),
        };
        let (ours, theirs) = UnixStream::pair().map_err(said)?;
        let end = || theirs.try_clone().map(|end| Stdio::from(OwnedFd::from(end))).map_err(said);
        let checked = match self.host.parse::<IpAddr>() {
            Ok(_) => &["-verify_ip", self.host][..],
            Err(_) => &["-servername", self.host, "-verify_hostname", self.host],
        };
        let (input, errors) =
            if has_input { (end()?, Stdio::null()) } else { (Stdio::null(), end()?) };
        let child = Command::new("openssl")
            .args(["s_client", "-connect", self.address])
            .args(checked)
            .args(flags)
            .stdin(input)
            .stdout(end()?)
            .stderr(errors)
            .spawn();
        Ok((ServerConnection::new(ours), TlsTunnel(child.map_err(said)?)))
    }
}

/// The error without `openssl`.
pub(super) const NO_OPENSSL: &str = "openssl is not installed";

/// Reads the verdict on a certificate, a number and words: `0`, `ok`.
pub(super) fn verdict(output: &str) -> (u32, &str) {
    let found = output.lines().find_map(|line| line.trim().strip_prefix("Verify return code: "));
    let parts = found.and_then(|found| found.split_once(" ("));
    let number = parts.and_then(|(number, _)| number.parse().ok());
    let words = parts.map_or("not told", |(_, words)| words.trim_end_matches(')'));
    (number.unwrap_or(u32::MAX), words)
}

/// Reads the end of the certificate in a report, in words and as a unix second.
pub(super) fn end(output: &str) -> Option<(String, u64)> {
    let mut child = Command::new("openssl")
        .args(["x509", "-noout", "-enddate"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // It reads everything before it writes.
    let _ = child.stdin.take()?.write_all(output.as_bytes());
    let output = child.wait_with_output().ok()?;
    let date = String::from_utf8(output.stdout).ok()?;
    let date = date.trim().strip_prefix("notAfter=")?;
    Some((date.to_owned(), unix(date)?))
}

/// The unix second of `Mar  2 10:11:12 2027 GMT`.
fn unix(date: &str) -> Option<u64> {
    let mut words = date.split_whitespace();
    let month = words.next().filter(|month| month.len() == 3)?;
    let month = "JanFebMarAprMayJunJulAugSepOctNovDec".find(month)? / 3 + 1;
    let (day, time, year) = (words.next()?, words.next()?, words.next()?);
    clock::unix(&format!("{year}-{month:02}-{day:0>2}T{time}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_a_time() {
        for (date, expected) in [
            ("Jan  1 00:00:00 1970 GMT", Some(0)),
            ("Feb 29 12:00:01 2000 GMT", Some(951_825_601)),
            ("Mar  1 00:00:00 2000 GMT", Some(951_868_800)),
            ("Dec 31 23:59:59 2099 GMT", Some(4_102_444_799)),
            ("Xyz  1 00:00:00 2000 GMT", None),
            ("Jan", None),
            ("", None),
        ] {
            assert_eq!(unix(date), expected, "{date}");
        }
    }

    #[test]
    fn the_verdict_is_read() {
        let output = "---\n    Verify return code: 62 (hostname mismatch)\n    Extended\n";
        assert_eq!(verdict(output), (62, "hostname mismatch"));
        assert_eq!(verdict("Verify return code: 0 (ok)\nVerify return code: 9 (x)"), (0, "ok"));
        assert_eq!(verdict("CONNECTED(00000003)"), (u32::MAX, "not told"));
    }
}
