//! TLS from a command to a server, by the authorities that the system trusts.

use crate::cli::dial::{self, ServerConnection};
use crate::cli::url::Url;
use crate::tls::client::{self, Trust};
use crate::tls::inspection::Inspection;

/// Begins TLS with the server that a URL names. Nothing is sent to one that cannot be trusted.
///
/// # Errors
/// A sentence.
pub(super) fn secure(connection: ServerConnection, url: &Url) -> Result<ServerConnection, String> {
    let settings = Trust::system()?.settings(None)?;
    let secured = connection.secure(client::begin(&settings, &url.name)?);
    secured.map_err(|error| format!("{}: {error}", url.address))
}

/// Judges the certificate of the server that a URL names. `unix`: the wall clock in seconds.
///
/// # Errors
/// A sentence if the server does not speak TLS.
pub(super) fn inspect(url: &Url, unix: u64) -> Result<Inspection, String> {
    let connection = dial::connect(&url.address).map_err(|error| error.to_string())?;
    let settings = Trust::anyone().settings(None)?;
    let secured = connection.secure(client::begin(&settings, &url.name)?);
    let secured = secured
        .map_err(|error| format!("no certificate came: does the server speak TLS? ({error})"))?;
    Ok(Inspection::of(secured.certificates(), &url.name, unix))
}
