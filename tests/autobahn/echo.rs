//! The echo server that the Autobahn test suite is run against: a handler of its own, on public names alone. With the files of a
//! certificate and its key as arguments its clients come by TLS.

use std::env;
use std::net::SocketAddr;

use oneloop::config::{Config, TlsConfig};
use oneloop::engine::client::deflate::Deflate;
use oneloop::engine::reactor::Listen;
use oneloop::{App, ConnId, Frame, Handler, Message, RouteOptions, Scope};

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, server: &mut Scope<'_>, id: ConnId, message: Message<'_>) {
        let echo = match message {
            Message::Text(text) | Message::Deferred(text) => Frame::text(text),
            Message::Binary(bytes) => Frame::binary(bytes),
        };
        let echo = server.deflatable(echo);
        server.send(id, &echo);
    }

    fn options(&self) -> RouteOptions {
        RouteOptions { takes_binary: true, deflate: Deflate::All, ..RouteOptions::default() }
    }
}

fn main() -> std::io::Result<()> {
    let mut config = Config { publishers: None, ..Config::default() };
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut files = env::args().skip(1);
    let scheme = if let (Some(certificate), Some(key)) = (files.next(), files.next()) {
        config.listen = vec![Listen::Tls(address)];
        config.tls = TlsConfig { certificate_files: vec![certificate], key_files: vec![key] };
        "wss"
    } else {
        config.listen = vec![Listen::Tcp(address)];
        "ws"
    };
    // The suite sends messages of 16 MiB, others in 65,537 fragments, and as fast as it can.
    config.bounds.message_bytes_max = 16 << 20;
    config.bounds.fragments_max = 1 << 17;
    config.bounds.commands_per_second_max = 0;
    config.bounds.backlog_bytes_max = 64 << 20;
    // Even the shortest are compressed, for those of its cases that ask for it.
    config.bounds.deflate_bytes_min = 1;
    let bound = App::new(config).route("/", Echo, &["*"]).bind()?;
    // It has a scheme of its own, if it speaks TLS.
    let shown = bound.addresses().clients[0].to_string();
    println!("{scheme}://{}/", shown.trim_start_matches("tls://"));
    bound.run().map(|_| ())
}
