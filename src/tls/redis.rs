//! TLS to Redis, from the settings.

use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::client::Trust;
use super::key::signing_key;
use super::pem::{certificates, private_key};
use crate::config::Config;
use crate::engine::redis::place::RedisPlace;
use crate::engine::redis::tls::RedisTls;
use crate::engine::redis::url::{Address, Security};

/// Builds the TLS settings for the first of the servers; `None` if the URLs ask for no TLS.
///
/// # Errors
/// A sentence that names the setting, and no secret.
pub fn redis_tls(config: &Config, place: &RedisPlace) -> Result<Option<RedisTls>, String> {
    let trust = match (place.security(), &config.redis_ca) {
        (Security::Plain, _) => return Ok(None),
        (Security::UnverifiedTls, Some(_)) => {
            return Err(
                "redis: #insecure at the end of the URL trusts anyone, and redis_ca_file names whom to trust: keep one of them"
                    .to_owned(),
            );
        }
        (Security::UnverifiedTls, None) => Trust::anyone(),
        (Security::Tls, Some(pem)) => {
            Trust::file(pem).map_err(|why| format!("redis_ca_file: {why}"))?
        }
        (Security::Tls, None) => Trust::system().map_err(|why| {
            format!("redis: {why}, or name a file of certificates in redis_ca_file")
        })?,
    };
    let identity = match (&config.redis_certificate, &config.redis_key) {
        (Some(chain), Some(key)) => {
            let chain = certificates(chain).map_err(|why| format!("redis_cert_file: {why}"))?;
            let (key, _) = private_key(key.as_bytes())
                .and_then(|key| signing_key(&Zeroizing::new(key)))
                .map_err(|why| format!("redis_key_file: {why}"))?;
            Some(CertifiedKey::new(chain, key))
        }
        _ => None,
    };
    let client = trust
        .settings(identity)
        .map_err(|why| format!("redis_cert_file and redis_key_file: {why}"))?;
    let address = &place.urls[0].address;
    let Address::Tcp { host, .. } = address else { return Ok(None) };
    RedisTls::new(client, host, address.to_string(), config.redis_ca.is_some())
        .map(Some)
        .map_err(|why| format!("redis: {why}"))
}
