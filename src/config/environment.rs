//! The variables of the environment that are settings.

use std::ffi::{OsStr, OsString};

use super::table;

const PREFIX: &str = "ONELOOP_";

/// Returns the variables that are meant as settings, by name: the environment has no order.
///
/// An empty variable is one that is not set, as `${X}` of a compose file makes it where X has no value. A secret alone may not be
/// empty: a server that was meant to have one must not serve without.
pub(super) fn own_variables(
    vars: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(String, OsString)> {
    let named = vars.into_iter().map(|(name, value)| (name.to_string_lossy().into_owned(), value));
    let is_meant = |name: &str, value: &OsStr| match table::by_variable(name) {
        Some(named) => !value.is_empty() || named.setting.is_variable_only(),
        None => name.starts_with(PREFIX) && !value.is_empty() && !is_service_link(name, value),
    };
    let mut own: Vec<_> = named.filter(|(name, value)| is_meant(name, value)).collect();
    own.sort_unstable();
    own
}

/// Returns whether Kubernetes has set this variable for a service whose name begins with `oneloop`. Each pod is given
/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`, `NAME_PORT=tcp://…`, `NAME_PORT_6379_TCP_ADDR` and the like of every service of its
/// namespace, so nobody has mistyped them. By name and value: `ONELOOP_REDIS_PORT=6379` is still a slip.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let service = name.strip_prefix("ONELOOP").unwrap_or_default();
    if service.ends_with("_SERVICE_HOST") || service.ends_with("_SERVICE_PORT") {
        return true;
    }
    if service.contains("_SERVICE_PORT_") && is_number(&value) {
        return true;
    }
    if service.ends_with("_PORT") && is_address {
        return true;
    }
    let words: Vec<&str> = service.split('_').collect();
    match words[..] {
        [.., "PORT", port, "TCP" | "UDP" | "SCTP"] => is_number(port),
        [.., "PORT", port, "TCP" | "UDP" | "SCTP", "PROTO" | "PORT" | "ADDR"] => is_number(port),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(name: &str, value: &str) -> bool {
        !own_variables([(name.into(), value.into())]).is_empty()
    }

    #[test]
    fn variables_of_kubernetes_are_no_settings() {
        for service in ["", "_REDIS", "_ADMIN", "_REDIS_MASTER", "_PORT", "_6379", "_SERVICE"] {
            for (rest, value) in [
                ("_SERVICE_HOST", "10.96.0.7"),
                ("_SERVICE_HOST", "fd00::7"),
                ("_SERVICE_PORT", "6379"),
                ("_SERVICE_PORT_RESP", "6379"),
                ("_SERVICE_PORT_HTTP_METRICS", "9090"),
                ("_PORT", "tcp://10.96.0.7:6379"),
                ("_PORT", "udp://10.96.0.7:53"),
                ("_PORT_6379_TCP", "tcp://10.96.0.7:6379"),
                ("_PORT_6379_TCP_PROTO", "tcp"),
                ("_PORT_6379_TCP_PORT", "6379"),
                ("_PORT_6379_TCP_ADDR", "10.96.0.7"),
                ("_PORT_9899_SCTP_ADDR", "10.96.0.7"),
            ] {
                let name = format!("ONELOOP{service}{rest}");
                assert!(!meant(&name, value), "{name}={value}");
            }
        }
    }

    #[test]
    fn a_slip_is_still_one() {
        for (name, value) in [
            ("ONELOOP_REDIS_PORT", "6379"),
            ("ONELOOP_REDIS_HOST", "10.96.0.7"),
            ("ONELOOP_PUBLISHERS_PORT", "6380"),
            ("ONELOOP_PORT", "8099"),
            ("ONELOOP_LISEN", "127.0.0.1:1"),
            ("ONELOOP_PORT_X_TCP_ADDR", "10.96.0.7"),
            ("ONELOOP_PORT_6379_TCP_NAME", "x"),
            ("ONELOOP_REDIS_SERVICE_PORT_RESP", "x"),
            ("ONELOOP_LISTEN", "127.0.0.1:1"),
        ] {
            assert!(meant(name, value), "{name}={value}");
        }
        assert!(!meant("PATH", "x") && !meant("ONELOOPX", "x"));
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        for setting in table::all() {
            assert_eq!(meant(&setting.variable(), ""), setting.is_variable_only());
        }
        assert!(!meant("ONELOOP_CONFIG", ""));
        assert!(!meant("ONELOOP_LISEN", ""));
    }
}
