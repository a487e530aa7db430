//! TLS, as the machine's own `openssl` speaks it: there is none in the binary, and none is wanted for a look.

use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::cli::dial::{ServerConnection, TIMEOUT};

/// What it prints of one certificate and one session is a few KB.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// An `openssl` that runs, and ends with this.
pub(super) struct TlsTunnel(Child);

/// Where TLS is spoken.
pub(super) struct TlsEndpoint<'a> {
    /// Without brackets.
    pub(super) host: &'a str,
    /// With its port.
    pub(super) address: &'a str,
}

impl Drop for TlsTunnel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl TlsEndpoint<'_> {
    /// A connection whose bytes are encrypted on their way. One that cannot be trusted ends at once.
    ///
    /// # Errors
    /// A sentence: there is no `openssl`.
    pub(super) fn connect(&self) -> Result<(ServerConnection, TlsTunnel), String> {
        self.start(&["-quiet", "-verify_quiet", "-verify_return_error"], true)
    }

    /// What `openssl` says about the server: the verdict on its certificate, and the certificate.
    ///
    /// # Errors
    /// A sentence: there is no `openssl`, or nobody speaks TLS there.
    pub(super) fn look(&self) -> Result<String, String> {
        let (mut line, tls) = self.start(&[], false)?;
        let (mut output, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(length @ 1..) = line.read_within(&mut buffer, TIMEOUT) {
            output.extend_from_slice(&buffer[..length]);
            if output.len() > OUTPUT_BYTES_MAX {
                break;
            }
        }
        drop(tls);
        let output = String::from_utf8_lossy(&output).into_owned();
        match output.contains("-----BEGIN CERTIFICATE-----") {
            true => Ok(output),
            false => Err("no certificate came: is it TLS that is spoken there?".to_owned()),
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
        Ok((ServerConnection::Unix(ours), TlsTunnel(child.map_err(said)?)))
    }
}

/// What is said where it is missing.
pub(super) const NO_OPENSSL: &str = "openssl is not installed";

/// The verdict on a certificate, as number and words: `0`, `ok`.
pub(super) fn verdict(output: &str) -> (u32, &str) {
    let found = output.lines().find_map(|line| line.trim().strip_prefix("Verify return code: "));
    let parts = found.and_then(|found| found.split_once(" ("));
    let number = parts.and_then(|(number, _)| number.parse().ok());
    let words = parts.map_or("not told", |(_, words)| words.trim_end_matches(')'));
    (number.unwrap_or(u32::MAX), words)
}

/// When the certificate in there ends, in words and in seconds of Unix time.
pub(super) fn end(output: &str) -> Option<(String, u64)> {
    let mut child = Command::new("openssl")
        .args(["x509", "-noout", "-enddate"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // It reads all of that before it says anything.
    let _ = child.stdin.take()?.write_all(output.as_bytes());
    let said = child.wait_with_output().ok()?;
    let date = String::from_utf8(said.stdout).ok()?;
    let date = date.trim().strip_prefix("notAfter=")?;
    Some((date.to_owned(), unix(date)?))
}

/// `Mar  2 10:11:12 2027 GMT`.
fn unix(date: &str) -> Option<u64> {
    let mut words = date.split_whitespace();
    let month = words.next().filter(|month| month.len() == 3)?;
    let month = "JanFebMarAprMayJunJulAugSepOctNovDec".find(month)? as u64 / 3;
    let day: u64 = words.next()?.parse().ok()?;
    let mut seconds = 0;
    for part in words.next()?.split(':') {
        seconds = seconds * 60 + part.parse::<u64>().ok().filter(|part| *part < 100)?;
    }
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    // Years that begin in March have their leap day at the end (its inverse is in `clock`).
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    Some(days.checked_sub(719_469)? * 86_400 + seconds)
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
            ("Jan  1 00:00:00 1969 GMT", None),
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
