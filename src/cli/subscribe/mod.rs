//! `oneloop subscribe`: a client in the terminal that prints messages, and reconnects by itself.
//!
//! Messages go to one writer and notes about the connection to another, because the first may be a pipe. Control characters reach
//! neither.

mod disconnect;
mod frames;

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use crate::cli::command::SubscribeOptions;
use crate::cli::dial;
use crate::cli::url::Url;
use crate::cli::websocket::{WebSocket, WebSocketEvent};
use crate::config::Config;
use crate::push::PROTOCOL;
use disconnect::{Disconnect, closed};
use frames::{ProtocolFrame, harmless};

/// The first wait before a new attempt; it doubles with each, up to the longest.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The time that a ping may be late.
const PING_LATE: Duration = Duration::from_secs(10);

/// The timeout if the server sends no pings.
const NO_PING: Duration = Duration::from_secs(86_400);

/// The longest query, since a request's head is bounded. Topics beyond it are subscribed to after the welcome.
const QUERY_BYTES_MAX: usize = 4000;

/// Signs a token for a user that may subscribe to these topics; `None` if there is no secret.
pub type Sign<'a> = dyn Fn(Option<&str>, &[String]) -> Result<Option<String>, String> + 'a;

/// The terminal around the client.
pub struct Terminal<'a> {
    /// Receives messages.
    pub out: &'a mut dyn Write,
    /// Receives notes about the connection.
    pub notes: &'a mut dyn Write,
    pub sleep: &'a dyn Fn(Duration),
    pub sign: &'a Sign<'a>,
}

/// Runs until `count` messages have come or the reader of `out` has gone, and returns `true`. Returns `false` if the server makes
/// reconnecting useless.
///
/// # Errors
/// A sentence if an argument is malformed.
pub fn subscribe<'a>(
    config: &'a Config,
    options: &'a SubscribeOptions,
    terminal: Terminal<'a>,
) -> Result<bool, String> {
    let url = Url::parse(&options.url.clone().unwrap_or_else(|| own_url(config)))?;
    let mut client = TerminalClient {
        config,
        options,
        url,
        terminal,
        cursor: options.since.clone(),
        left: options.count.unwrap_or(u64::MAX),
        tries: 0,
    };
    loop {
        let (is_final, retry) = match client.attempt()? {
            AttemptEnd::Done => return Ok(true),
            AttemptEnd::Lost(Disconnect { is_final, retry, .. }) => (is_final, retry),
        };
        if is_final {
            return Ok(false);
        }
        let wait = retry.unwrap_or(Duration::ZERO)
            + BACKOFF.saturating_mul(1 << client.tries.min(10)).min(BACKOFF_MAX);
        client.tries += 1;
        client.note(&format!("next attempt in {:.1} s", wait.as_secs_f32()));
        (client.terminal.sleep)(wait);
    }
}

/// The URL of the first route of the settings, on this machine.
fn own_url(config: &Config) -> String {
    let path = config.routes.first().map_or("/ws", |route| &route.path);
    config.own_address().client_url(path)
}

/// The end of one attempt.
enum AttemptEnd {
    /// All messages that were asked for have come.
    Done,
    Lost(Disconnect),
}

struct TerminalClient<'a> {
    config: &'a Config,
    options: &'a SubscribeOptions,
    url: Url,
    terminal: Terminal<'a>,
    cursor: Option<String>,
    /// Messages still to come.
    left: u64,
    /// Attempts since the last welcome.
    tries: u32,
}

impl TerminalClient<'_> {
    /// Runs one connection from its first byte to its last.
    fn attempt(&mut self) -> Result<AttemptEnd, String> {
        let token = self.token()?;
        let (path, rest) = self.path();
        let mut socket = match self.connect(&path, token.as_deref()) {
            Ok(connected) => connected,
            Err(why) => {
                self.note(&why);
                return Ok(AttemptEnd::Lost(Disconnect::again()));
            }
        };
        if !socket.is_proven {
            let end = disconnect::refused(socket.status, &socket.body());
            self.note(&end.text);
            return Ok(AttemptEnd::Lost(end));
        }
        let mut timeout = NO_PING;
        loop {
            match socket.next(timeout) {
                WebSocketEvent::Message(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let frame = ProtocolFrame::read(&text);
                    if let ProtocolFrame::Welcome { ping, .. } = &frame {
                        timeout = match ping {
                            0 => NO_PING,
                            seconds => Duration::from_secs(*seconds) + PING_LATE,
                        };
                        if !rest.is_empty() {
                            socket.send(&frames::subscribe(&rest));
                        }
                    }
                    if !self.on_frame(&frame, &text) {
                        return Ok(AttemptEnd::Done);
                    }
                }
                WebSocketEvent::Ping => {}
                WebSocketEvent::Closed(code, reason) => {
                    let own = self.options.token.is_none();
                    let end = closed(code, &String::from_utf8_lossy(&reason), own);
                    self.note(&end.text);
                    return Ok(AttemptEnd::Lost(end));
                }
                WebSocketEvent::Cut => {
                    self.note("the connection was lost");
                    return Ok(AttemptEnd::Lost(Disconnect::again()));
                }
                WebSocketEvent::Silence => {
                    self.note("the server has gone silent: not even a ping came");
                    return Ok(AttemptEnd::Lost(Disconnect::again()));
                }
            }
        }
    }

    /// Handles a frame. Returns `false` if no more are wanted.
    fn on_frame(&mut self, frame: &ProtocolFrame, text: &str) -> bool {
        match frame {
            ProtocolFrame::Welcome { sub, topics, id, resumed, .. } => {
                self.tries = 0;
                let who = sub.as_ref().map_or("nobody".to_owned(), |sub| format!("user {sub}"));
                let topics =
                    if topics.is_empty() { "none yet".to_owned() } else { topics.join(", ") };
                self.note(&format!("connected as {who}; topics: {topics}"));
                if self.cursor.is_some() && !resumed {
                    self.note("gap: messages may have been missed, what follows is from now on");
                }
                self.cursor = id.clone().or(self.cursor.take());
            }
            ProtocolFrame::Gap => self.note("gap: messages may have been missed"),
            ProtocolFrame::Error { code, topic } => {
                let topic = topic.as_deref().unwrap_or("a topic");
                self.note(&format!("{topic}: {}", disconnect::error(code)));
            }
            ProtocolFrame::Other => {}
            ProtocolFrame::Message { id, .. } => {
                self.cursor = id.clone().or(self.cursor.take());
                if self.options.json {
                    return self.print(text);
                }
                return self.print(&frame.line());
            }
            ProtocolFrame::Raw => return self.print(text),
        }
        // With --json every frame is a line; without it, those about the connection become notes.
        let is_shown =
            self.options.json && writeln!(self.terminal.out, "{}", harmless(text)).is_ok();
        let _ = self.terminal.out.flush();
        is_shown || !self.options.json
    }

    /// Prints one message. Returns `false` if it was the last, or the reader has gone.
    fn print(&mut self, text: &str) -> bool {
        let printed = writeln!(self.terminal.out, "{}", harmless(text))
            .and_then(|()| self.terminal.out.flush());
        self.left -= 1;
        printed.is_ok() && self.left > 0
    }

    fn note(&mut self, text: &str) {
        let _ = writeln!(self.terminal.notes, "{}", harmless(text));
    }

    fn connect(&self, path: &str, token: Option<&str>) -> Result<WebSocket, String> {
        let bearer = token.map(|token| [", bearer.", token].concat()).unwrap_or_default();
        WebSocket::open(&self.url, path, "", &[PROTOCOL, &bearer].concat())
    }

    /// The path with the cursor and topics, and the topics for which it has no room.
    fn path(&self) -> (String, Vec<String>) {
        let mut path = self.url.path.clone();
        let mut add = |name: &str, value: &str| {
            let mark = if path.contains('?') { '&' } else { '?' };
            let pair = format!("{mark}{name}={}", frames::encoded(value));
            let fits = path.len() + pair.len() <= QUERY_BYTES_MAX;
            if fits {
                path.push_str(&pair);
            }
            fits
        };
        if let Some(cursor) = &self.cursor {
            add("since", cursor);
        }
        let rest =
            self.options.topics.iter().filter(|topic| !add("topic", topic)).cloned().collect();
        (path, rest)
    }

    /// The token to show: the one that was given, one that is signed, or that of the page of a server without a key.
    fn token(&self) -> Result<Option<String>, String> {
        if let Some(token) = &self.options.token {
            return Ok(Some(token.clone()));
        }
        let sub = self.options.sub.as_deref();
        let route = self.config.routes.iter().find(|route| self.url.path.starts_with(&route.path));
        if sub.is_none() && route.is_some_and(|route| !route.anonymous.is_empty()) {
            return Ok(None);
        }
        let is_here = self.url.name == "localhost"
            || self.url.name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match (self.terminal.sign)(sub, &self.options.topics)? {
            Some(_) if !self.url.has_tls && !is_here => {
                Err("a token would go in clear over the network: give --token, or a wss:// address"
                    .to_owned())
            }
            Some(token) => Ok(Some(token)),
            None if sub.is_none() && is_here && !self.url.has_tls => Ok(self.token_of_page()),
            None if sub.is_some() => Err(
                "--sub needs the secret of the server: set ONELOOP_JWT_SECRET or jwt.secret_file, \
                     or give --token"
                    .to_owned(),
            ),
            None => Ok(None),
        }
    }

    /// A server without a key gives its page, on this machine alone, a token.
    fn token_of_page(&self) -> Option<String> {
        let page = dial::fetch(&self.url.address, "/").ok()?;
        let token = page.split_once("data-token=\"")?.1.split('"').next()?;
        let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| token.to_owned())
    }
}
