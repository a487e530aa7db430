//! The answers of a Sentinel: the primary that it names, and whether it could have it changed.

use redis::Value;

use crate::engine::redis::far_end::text;
use crate::engine::redis::url::Address;

/// The most bytes of the name of a host.
const HOST_BYTES_MAX: usize = 255;

/// A primary as a Sentinel names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPrimary {
    pub address: Address,
    /// The number of the failover that made it the primary.
    pub epoch: u64,
    /// The Sentinel holds it for down.
    pub is_down: bool,
}

impl NamedPrimary {
    /// Reads the answer to `SENTINEL MASTER`: a map, or a list of names and values.
    ///
    /// # Errors
    /// The part that is odd.
    pub fn of_reply(value: &Value) -> Result<NamedPrimary, &'static str> {
        let pairs: Vec<(&str, &str)> = match value {
            Value::Map(pairs) => {
                pairs.iter().filter_map(|(name, value)| text(name).zip(text(value))).collect()
            }
            Value::Array(words) => {
                words.chunks_exact(2).filter_map(|two| text(&two[0]).zip(text(&two[1]))).collect()
            }
            _ => return Err("an answer to SENTINEL MASTER that is no list"),
        };
        NamedPrimary::of_pairs(&pairs)
    }

    /// Takes the address from the answer to `SENTINEL GET-MASTER-ADDR-BY-NAME`. While a failover ends, the answer to `SENTINEL
    /// MASTER` has the new epoch with the old address already. A Sentinel that may not be asked is believed.
    ///
    /// # Errors
    /// The part that is odd.
    pub fn take_address(&mut self, value: &Value) -> Result<(), &'static str> {
        match value {
            Value::Array(words) => match &words[..] {
                [host, port] => self.address = address(text(host), text(port))?,
                _ => return Err("no address of the primary"),
            },
            Value::ServerError(_) => {}
            _ => return Err("no address of the primary"),
        }
        Ok(())
    }

    /// Reads the names and values of the answer to `SENTINEL MASTER`.
    ///
    /// # Errors
    /// The part that is odd.
    pub fn of_pairs(pairs: &[(&str, &str)]) -> Result<NamedPrimary, &'static str> {
        let field = |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let address = address(field("ip"), field("port"))?;
        let epoch = field("config-epoch").and_then(|epoch| epoch.parse().ok());
        let epoch = epoch.ok_or("no config-epoch of the primary")?;
        let mut flags = field("flags").unwrap_or_default().split(',');
        let is_down = flags.any(|flag| matches!(flag, "s_down" | "o_down"));
        Ok(NamedPrimary { address, epoch, is_down })
    }
}

/// Reads an address as Sentinels write it.
///
/// # Errors
/// The part that is odd.
pub fn address(host: Option<&str>, port: Option<&str>) -> Result<Address, &'static str> {
    let is_host = |host: &&str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:%".contains(&byte);
        (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(is_part)
    };
    let host = host.filter(is_host).ok_or("no host of the primary")?.to_owned();
    let port = port.and_then(|port| port.parse().ok()).filter(|port| *port > 0);
    Ok(Address::Tcp { host, port: port.ok_or("no port of the primary")? })
}

/// Reads the answer to `SENTINEL CKQUORUM`. A Sentinel that may not be asked is believed.
pub fn has_quorum(value: &Value) -> bool {
    !matches!(value, Value::ServerError(error) if error.code() == "NOQUORUM")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(resp: &str) -> Result<NamedPrimary, &'static str> {
        let value = redis::parse_redis_value(resp.as_bytes()).expect("the test speaks RESP");
        NamedPrimary::of_reply(&value)
    }

    #[test]
    fn a_primary_is_read_in_both_protocols_and_nothing_odd_is() {
        let expected = NamedPrimary {
            address: Address::Tcp { host: "10.0.0.1".to_owned(), port: 6379 },
            epoch: 7,
            is_down: true,
        };
        let fields = |ip: &str, port: &str, epoch: &str| {
            let flags = ["name", "main", "flags", "master,o_down", "config-epoch", epoch];
            let words = ["ip", ip, "port", port].into_iter().chain(flags);
            words.map(|word| format!("${}\r\n{word}\r\n", word.len())).collect::<String>()
        };
        let good = fields("10.0.0.1", "6379", "7");
        assert_eq!(read(&format!("*10\r\n{good}")), Ok(expected.clone()));
        assert_eq!(read(&format!("%5\r\n{good}")), Ok(expected));
        for (ip, port, epoch, part) in [
            ("", "6379", "7", "host"),
            ("a b", "6379", "7", "host"),
            ("a\r\nb", "6379", "7", "host"),
            ("h", "0", "7", "port"),
            ("h", "65536", "7", "port"),
            ("h", "6379", "-1", "config-epoch"),
            ("h", "6379", "99999999999999999999", "config-epoch"),
        ] {
            let found = read(&format!("*10\r\n{}", fields(ip, port, epoch)));
            assert!(found.is_err_and(|why| why.contains(part)), "{ip} {port} {epoch}");
        }
        for odd in ["+OK\r\n", "*0\r\n", "*-1\r\n", "*1\r\n$2\r\nip\r\n", "%1\r\n:1\r\n:2\r\n"] {
            assert!(read(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn only_a_plain_no_is_no_quorum() {
        for (resp, expected) in [
            ("+OK 3 usable Sentinels. Quorum and failover authorization can be reached\r\n", true),
            ("-NOQUORUM 1 usable Sentinels. Not enough available Sentinels\r\n", false),
            ("-NOPERM this user has no permissions\r\n", true),
            ("-ERR Unknown sentinel subcommand 'CKQUORUM'\r\n", true),
        ] {
            let value = redis::parse_redis_value(resp.as_bytes()).expect("RESP");
            assert_eq!(has_quorum(&value), expected, "{resp}");
        }
    }
}
