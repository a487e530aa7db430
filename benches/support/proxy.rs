//! Proxies that speak TLS in front of a plain server, set up as the manual says.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::connections_max;
use super::process::{free_address, wait_until};
use super::tls::Certificate;

/// A running proxy; it ends with the value.
pub struct Proxy {
    child: Child,
    /// The address for clients.
    pub address: SocketAddr,
}

impl Proxy {
    /// An nginx of one process in front of this address. No client is cut for its silence: nothing is pinged here.
    pub fn nginx(upstream: SocketAddr, certificate: Certificate) -> Proxy {
        let address = free_address();
        let folder = folder("nginx");
        let (chain, key) = (certificate.chain_file(), certificate.key_file());
        let (connections, place) = (connections_max(), folder.display());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("    {kind}_temp_path {place}/{kind};\n"))
            .collect();
        let settings = format!(
            "daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log stderr crit;\n\
             events {{ worker_connections {connections}; }}\n\
             http {{\n    access_log off;\n{temporary}\
             \x20   upstream oneloop {{ server {upstream}; }}\n    server {{\n\
             \x20       listen {address} ssl backlog=4096;\n\
             \x20       ssl_protocols TLSv1.2 TLSv1.3;\n\
             \x20       ssl_certificate {chain};\n        ssl_certificate_key {key};\n\
             \x20       location / {{\n            proxy_pass http://oneloop;\n\
             \x20           proxy_http_version 1.1;\n\
             \x20           proxy_set_header Host $http_host;\n\
             \x20           proxy_set_header Upgrade $http_upgrade;\n\
             \x20           proxy_set_header Connection \"upgrade\";\n\
             \x20           proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
             \x20           proxy_read_timeout 3600s;\n            proxy_send_timeout 3600s;\n\
             \x20           proxy_buffering off;\n        }}\n    }}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, settings).expect("a file can be written");
        let mut command = Command::new("nginx");
        command.arg("-e").arg("stderr").arg("-p").arg(&folder).arg("-c").arg(&file);
        Proxy::start(command, "nginx-light", address)
    }

    /// A Caddy in front of this address.
    pub fn caddy(upstream: SocketAddr, certificate: Certificate) -> Proxy {
        let address = free_address();
        let folder = folder("caddy");
        let (chain, key) = (certificate.chain_file(), certificate.key_file());
        let settings = format!(
            "{{\n\tadmin off\n\tauto_https off\n\tlog {{\n\t\tlevel ERROR\n\t}}\n}}\n\
             https://:{} {{\n\tbind {}\n\ttls {chain} {key}\n\treverse_proxy {upstream}\n}}\n",
            address.port(),
            address.ip(),
        );
        let file = folder.join("Caddyfile");
        fs::write(&file, settings).expect("a file can be written");
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
        for variable in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, &folder);
        }
        Proxy::start(command, "caddy", address)
    }

    fn start(mut command: Command, package: &str, address: SocketAddr) -> Proxy {
        // Where Debian keeps servers, which is not in the path of everybody.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let started = command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = match started {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("{:?} is missing: install Debian's package {package}", command.get_program())
            }
            started => started.expect("a proxy starts"),
        };
        let listens = wait_until(|| TcpStream::connect(address).is_ok());
        assert!(listens, "the proxy does not listen");
        Proxy { child, address }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder(name: &str) -> PathBuf {
    let name = format!("{name}-{}", std::process::id());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}
