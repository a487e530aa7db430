//! A program of its own on the crate: a handler that is not `Push`, through public names alone.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use oneloop::config::Config;
use oneloop::{App, Close, ConnId, Frame, Handler, Reject, Request, Response, RouteOptions, Scope};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Error, Message, WebSocket};

/// Sends back what comes, `copies` times.
struct Echo {
    copies: usize,
}

impl Handler for Echo {
    fn on_open(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        request: &Request,
    ) -> Result<(), Reject> {
        match request.query("please") {
            Some("close") => Err(Reject::Close(Close::plain(4444))),
            Some("refuse") => {
                // Verbs come in any order: what was queued goes down with the handshake.
                server.send(id, &Frame::text("never"));
                server.close(id, Close::BUSY);
                Err(Reject::Http(Response::text(403, "no")))
            }
            _ => {
                server.send(id, &Frame::text("hello"));
                Ok(())
            }
        }
    }

    fn on_message(&mut self, server: &mut Scope<'_>, id: ConnId, message: oneloop::Message<'_>) {
        let (frame, copies) = match message {
            oneloop::Message::Text(text) => (Frame::text(text), self.copies),
            oneloop::Message::Binary(bytes) => (Frame::binary(bytes), 1),
            oneloop::Message::Deferred(_) => unreachable!("nothing is put off"),
        };
        for _ in 0..copies {
            server.send(id, &frame);
        }
    }

    fn options(&self) -> RouteOptions {
        RouteOptions { takes_binary: true, ..RouteOptions::default() }
    }
}

/// Serves on a thread that lives as long as the test's process.
fn serve() -> SocketAddr {
    let mut config = Config::default();
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    (config.listen, config.publishers) = (vec![free.into()], Some(free));
    config.bounds.commands_per_second_max = 0;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let app = App::new(config).route("/echo", Echo { copies: 1 }, &[]).route(
            "/many",
            Echo { copies: 3_000 },
            &["*"],
        );
        let bound = app.bind().expect("the addresses are free");
        let address = bound.addresses().clients[0].socket_addr().expect("it listens by TCP");
        sender.send(address).expect("the test waits");
        bound.run().expect("the loop runs");
    });
    receiver.recv().expect("the server starts")
}

fn connect(address: SocketAddr, path: &str) -> Result<WebSocket<TcpStream>, Box<Error>> {
    let stream = TcpStream::connect(address).expect("the listener is open");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a deadline can be set");
    let request = format!("ws://{address}{path}").into_client_request().expect("a URL");
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(error)) => Err(Box::new(error)),
        Err(tungstenite::HandshakeError::Interrupted(_)) => panic!("the socket blocks"),
    }
}

fn text(socket: &mut WebSocket<TcpStream>) -> String {
    match socket.read().expect("a message comes in time") {
        Message::Text(text) => text.as_str().to_owned(),
        other => panic!("unexpected: {other:?}"),
    }
}

#[test]
fn a_handler_of_its_own_serves_its_route() {
    let address = serve();
    let mut socket = connect(address, "/echo").expect("the handshake succeeds");
    assert_eq!(text(&mut socket), "hello");
    socket.send(Message::text("été")).unwrap();
    assert_eq!(text(&mut socket), "été");
    socket.send(Message::binary(vec![0xff; 50_000])).unwrap();
    assert_eq!(socket.read().unwrap(), Message::binary(vec![0xff; 50_000]));
}

#[test]
fn a_reject_is_told_in_its_way() {
    let address = serve();
    match *connect(address, "/echo?please=refuse").expect_err("it is refused") {
        Error::Http(response) => assert_eq!(response.status(), 403),
        other => panic!("unexpected: {other}"),
    }
    let mut closed = connect(address, "/echo?please=close").expect("the upgrade succeeds");
    match closed.read().unwrap() {
        Message::Close(Some(close)) => assert_eq!(u16::from(close.code), 4444),
        other => panic!("unexpected: {other:?}"),
    }
}

/// Five thousand requests in one read, and three thousand answers to one of them, are both above the backlog's bound: a
/// client that reads gets all of them.
#[test]
fn a_client_that_reads_is_never_slow() {
    let address = serve();
    let mut bystander = connect(address, "/echo").expect("the handshake succeeds");
    assert_eq!(text(&mut bystander), "hello");
    let mut socket = connect(address, "/echo").expect("the handshake succeeds");
    assert_eq!(text(&mut socket), "hello");
    for number in 0..5_000 {
        socket.write(Message::text(number.to_string())).unwrap();
    }
    socket.flush().unwrap();
    for number in 0..5_000 {
        assert_eq!(text(&mut socket), number.to_string());
    }
    let mut many = connect(address, "/many").expect("the handshake succeeds");
    assert_eq!(text(&mut many), "hello");
    many.send(Message::text("again")).unwrap();
    for _ in 0..3_000 {
        assert_eq!(text(&mut many), "again");
    }
    bystander.send(Message::text("last")).unwrap();
    assert_eq!(text(&mut bystander), "last", "nothing came to the bystander before");
}
