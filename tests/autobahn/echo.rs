//! The echo server that the Autobahn test suite is run against: a handler of its own, on public names alone.

use std::net::SocketAddr;

use oneloop::config::Config;
use oneloop::{App, ConnId, Frame, Handler, Message, RouteOptions, Scope};

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, server: &mut Scope<'_>, id: ConnId, message: Message<'_>) {
        match message {
            Message::Text(text) | Message::Deferred(text) => server.send(id, &Frame::text(text)),
            Message::Binary(bytes) => server.send(id, &Frame::binary(bytes)),
        }
    }

    fn options(&self) -> RouteOptions {
        RouteOptions { takes_binary: true, ..RouteOptions::default() }
    }
}

fn main() -> std::io::Result<()> {
    let mut config = Config { publishers: None, ..Config::default() };
    config.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
    // The suite sends messages of 16 MiB, others in 65,537 fragments, and as fast as it can.
    config.bounds.message_bytes_max = 16 << 20;
    config.bounds.fragments_max = 1 << 17;
    config.bounds.commands_per_second_max = 0;
    config.bounds.backlog_bytes_max = 64 << 20;
    let bound = App::new(config).route("/", Echo, &["*"]).bind()?;
    println!("ws://{}/", bound.addresses().clients[0]);
    bound.run().map(|_| ())
}
