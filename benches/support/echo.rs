//! A yardstick for latency: a bare process that sends back what it reads, under the same load of the machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::DEADLINE;
use super::process::Helper;

/// The name of this part.
pub const ROLE: &str = "echo";

/// Bytes of what is sent and comes back.
pub const BYTES: usize = 128;

/// The process, as the bench sees it.
pub struct Echo {
    _helper: Helper,
    /// Takes and gives [`BYTES`] at a time.
    pub stream: TcpStream,
}

impl Echo {
    /// Starts it and connects.
    pub fn start() -> Echo {
        let helper = Helper::start(ROLE, &[]);
        let address: SocketAddr = helper.hear().parse().expect("an address");
        let stream = TcpStream::connect(address).expect("it listens");
        stream
            .set_read_timeout(Some(DEADLINE))
            .and_then(|()| stream.set_nodelay(true))
            .expect("a socket takes its options");
        Echo { _helper: helper, stream }
    }
}

/// Plays this part.
pub fn run() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port can be had");
    println!("{}", listener.local_addr().expect("it is bound"));
    let (mut stream, _) = listener.accept().expect("the bench connects");
    stream.set_nodelay(true).expect("a socket takes its options");
    let mut buffer = [0; BYTES];
    while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
}
