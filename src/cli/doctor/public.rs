//! The checks of the public address, reached as a browser reaches it: through the proxies in front of the server.

use std::net::{IpAddr, ToSocketAddrs};
use std::time::Duration;

use super::forwarded::Before;
use super::report::{Problem, Report, Warning};
use crate::cli::command::ProbeOptions;
use crate::cli::dial::{self, TIMEOUT};
use crate::cli::tls;
use crate::cli::url::Url;
use crate::cli::websocket::{WebSocket, WebSocketEvent};
use crate::clock::utc;
use crate::config::{self, Config, RouteConfig};
use crate::engine::origin::Origins;
use crate::engine::reactor::Listen;
use crate::push::PROTOCOL;
use crate::tls::DAYS_LEFT_MIN;
use crate::tls::inspection::{CertificateFlaw, Inspection};

/// The origin of a page that cannot exist (RFC 6761 section 6.4).
const FOREIGN: &str = "https://oneloop-doctor.invalid";

/// Replaces the `*` of a listed origin, and names the user in a forged header.
const LABEL: &str = "oneloop-doctor";

/// Seconds that a ping may be late.
const PING_LATE_SECONDS: u64 = 5;

/// Seconds of waiting if there are no pings: common proxies close after 60 s of silence.
const SILENCE_SECONDS: u64 = 65;

/// The time to wait for the refusal of an origin, which comes with the answer to the handshake.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// One run of the checks.
pub(super) struct PublicCheck<'a> {
    pub(super) report: Report<'a>,
    pub(super) config: &'a Config,
    pub(super) url: Url,
    pub(super) probe: &'a ProbeOptions,
    pub(super) clock: &'a dyn Fn() -> Duration,
}

impl PublicCheck<'_> {
    /// Runs the checks until one fails. `unix`: the wall clock in seconds.
    pub(super) fn run(&mut self, unix: u64, sign: &dyn Fn(u64) -> Option<String>) {
        if !self.reach() || (self.url.has_tls && !self.trust(unix)) {
            return;
        }
        let ping = u64::from(self.config.bounds.ping_seconds);
        let usual = if ping == 0 { SILENCE_SECONDS } else { ping + PING_LATE_SECONDS };
        let wait = self.probe.wait_seconds.unwrap_or(usual);
        // Without TLS, a token of ours must not leave this machine.
        let is_safe = self.url.has_tls || is_loopback(&self.url.name);
        let own = || is_safe.then(|| sign(wait + 60)).flatten();
        let token = self.probe.token.clone().or_else(own);
        let origin = self.probe.origin.clone().unwrap_or_else(|| self.own_origin());
        let bearer = token.as_deref().map(|token| [", bearer.", token].concat());
        let protocols = [PROTOCOL, bearer.as_deref().unwrap_or_default()].concat();
        let before = Before::scrape(&mut self.report, self.config, &self.url);
        let Some(mut socket) = self.upgrade(&origin, &protocols) else { return };
        if let Some(before) = before {
            before.judge(&mut self.report);
        }
        self.foreign();
        self.forged(&origin);
        if token.is_none() && self.route().is_none_or(|route| route.anonymous.is_empty()) {
            if let WebSocketEvent::Closed(4505, _) = socket.next(REFUSAL_TIMEOUT) {
                return self.refuses_own();
            }
            return self.report.warning("url-welcome", "there is no token to show: what comes behind the handshake cannot be tried", "--token TOKEN (oneloop token makes one; a server without a key prints one as it starts)");
        }
        if self.welcome(&mut socket) {
            self.silence(&mut socket, Duration::from_secs(wait), ping);
        }
    }

    /// Resolves the name and connects.
    fn reach(&mut self) -> bool {
        let address = self.url.address.as_str();
        let found = address.to_socket_addrs().map(|all| {
            let all: Vec<String> = all.map(|one| one.ip().to_string()).collect();
            all.join(", ")
        });
        match found {
            Ok(all) => self.report.ok("url-name", &[&self.url.name, " is ", &all].concat()),
            Err(error) => {
                let mend =
                    ["getent hosts ", &self.url.name, " (make an A or AAAA record)"].concat();
                self.report.problem("url-name", &error.to_string(), &mend);
                return false;
            }
        }
        let connected = dial::connect(address);
        match &connected {
            Ok(_) => self.report.ok("url-connect", &["somebody listens at ", address].concat()),
            Err(error) => {
                let seen = format!("{address}: {error}");
                let mend = "ss -ltn (on that machine), and let the port through its firewall";
                self.report.problem("url-connect", &seen, mend);
            }
        }
        connected.is_ok()
    }

    /// Checks the certificate.
    fn trust(&mut self, unix: u64) -> bool {
        let (name, address) = (&self.url.name, &self.url.address);
        let Inspection { not_after, flaw } = match tls::inspect(&self.url, unix) {
            Ok(found) => found,
            Err(why) => {
                let mend = format!("openssl s_client -connect {address}");
                self.report.problem("url-tls", &why, &mend);
                return false;
            }
        };
        let until = not_after.map_or("not told".to_owned(), |end| format!("{}Z", utc(end)));
        if let Some(flaw) = flaw {
            let (words, mend) = words(&flaw);
            let seen = format!("the certificate of {name} is not good: {words} (its end: {until})");
            self.report.say(Problem, "url-tls", &seen, "no client connects", mend);
            return false;
        }
        self.report.ok("url-tls", &["the certificate is good for ", name].concat());
        let days = not_after.map_or(0, |end| end.saturating_sub(unix) / 86_400);
        let seen = format!("{days} days are left (until {until})");
        match days < DAYS_LEFT_MIN {
            true => self.report.warning("url-expiry", &seen, "certbot renew, and reload the proxy"),
            false => self.report.ok("url-expiry", &seen),
        }
        true
    }

    /// The settings of this path, which a proxy may have changed.
    fn route(&self) -> Option<&RouteConfig> {
        self.config.routes.iter().find(|route| route.path == self.url.route())
    }

    /// The origin of a page that the settings admit.
    fn own_origin(&self) -> String {
        match self.route().map(|route| &route.origins) {
            Some(Origins::Listed(listed)) => {
                listed.first().map(|one| one.example(LABEL)).unwrap_or_default()
            }
            _ => self.url.origin(),
        }
    }

    fn connect(&self, origin: &str, protocols: &str) -> Result<WebSocket, String> {
        WebSocket::open(&self.url, &self.url.path, origin, protocols)
    }

    /// Connects as one of our pages does.
    fn upgrade(&mut self, origin: &str, protocols: &str) -> Option<WebSocket> {
        let socket = match self.connect(origin, protocols) {
            Ok(socket) => socket,
            Err(why) => {
                if !self.tells_of_tls() {
                    let mend = proxy_pass(self.config);
                    self.report.problem("url-upgrade", &why, &mend);
                }
                return None;
            }
        };
        let WebSocket { status, is_proven, has_protocol, is_ours, location, .. } = &socket;
        if !is_proven && !is_ours && self.tells_of_tls() {
            return None;
        }
        if !is_proven {
            let who = if *is_ours {
                "the server"
            } else {
                "a proxy, or another program in the server's place,"
            };
            let seen = format!("{who} answered {status} where 101 is expected {location}");
            let mend = advice(*status, self.config);
            self.report.problem("url-upgrade", seen.trim_end(), &mend);
            return None;
        }
        self.report.ok("url-upgrade", "101, and the proof of the handshake is right");
        if *has_protocol {
            self.report.ok("url-protocol", &[PROTOCOL, " is spoken"].concat());
            return Some(socket);
        }
        self.report.say(
            Problem,
            "url-protocol",
            &["nobody took up ", PROTOCOL].concat(),
            "Sec-WebSocket-Protocol is lost on the way, and with it the tokens of browsers",
            "proxy_set_header Sec-WebSocket-Protocol $http_sec_websocket_protocol;",
        );
        None
    }

    /// Reports a port that speaks TLS although the URL says otherwise.
    fn tells_of_tls(&mut self) -> bool {
        let address = &self.url.address;
        let speaks = !self.url.has_tls && tls::inspect(&self.url, 0).is_ok();
        if speaks {
            let mend = format!("--url wss://{}{}", self.url.host, self.url.route());
            self.report.problem("url-upgrade", &[address, " speaks TLS"].concat(), &mend);
        }
        speaks
    }

    /// Checks that `Origin` arrives, by one that must be refused.
    fn foreign(&mut self) {
        const NAME: &str = "url-origin";
        let Some(route) = self.route() else {
            return self.report.unseen(NAME, "the settings have no route of this path", "");
        };
        if route.origins == Origins::Any {
            return self.report.unseen(NAME, "pages of every origin may connect", "");
        }
        let answer = self.connect(FOREIGN, PROTOCOL).map(|mut socket| {
            let closed = socket.is_proven.then(|| socket.next(REFUSAL_TIMEOUT));
            (socket.status, matches!(closed, Some(WebSocketEvent::Closed(4505, _))))
        });
        match answer {
            Ok((_, true)) => self.report.ok(NAME, "a page of elsewhere is refused"),
            answer => {
                let status = answer.map_or_else(|why| why, |(status, _)| status.to_string());
                self.report.say(
                    Warning,
                    NAME,
                    &format!("a page of elsewhere should be closed with 4505: {status}"),
                    "Origin is lost on the way, or the server has other settings than these",
                    "proxy_set_header Origin $http_origin;",
                );
            }
        }
    }

    /// Checks that the proxy replaces or removes the header that names the user, by one of our own.
    fn forged(&mut self, origin: &str) {
        const NAME: &str = "url-identity";
        let Some(route) = self.route() else { return };
        let Some(header) = route.identity.clone() else { return };
        if route.format == config::Format::Raw {
            return self.report.unseen(NAME, "a raw route tells nobody who it is", "");
        }
        let named = WebSocket::open_with(&self.url, origin, &[&header, ": ", LABEL].concat());
        let welcome = named.map(|mut socket| match socket.is_proven {
            true => socket.next(REFUSAL_TIMEOUT),
            false => WebSocketEvent::Silence,
        });
        let own = [r#""sub":""#, LABEL, "\""].concat();
        match welcome {
            Err(why) => self.report.unseen(NAME, &why, ""),
            Ok(WebSocketEvent::Message(text)) if String::from_utf8_lossy(&text).contains(&own) => {
                self.report.say(
                    Problem,
                    NAME,
                    &["a client chose its user by ", &header, ", and the proxy passed that on"]
                        .concat(),
                    "everyone can listen as anyone",
                    &["proxy_set_header ", &header, " $user; (it replaces the client's)"].concat(),
                );
            }
            Ok(_) => self.report.ok(NAME, &["no client chooses its user by ", &header].concat()),
        }
    }

    /// Reports that a page of the address itself counts as foreign.
    fn refuses_own(&mut self) {
        self.report.say(
            Problem,
            "url-welcome",
            "the server refuses the origin of this address (4505)",
            "Host is lost on the way, or the settings name other origins",
            "proxy_set_header Host $http_host; or name the page in the settings: origins",
        );
    }

    /// Waits for the first frame.
    fn welcome(&mut self, socket: &mut WebSocket) -> bool {
        let is_raw = self.route().is_some_and(|route| route.format == config::Format::Raw);
        let (seen, mend) = match socket.next(TIMEOUT) {
            WebSocketEvent::Message(_) => {
                self.report
                    .ok("url-welcome", "the token is good, and what the server sends arrives");
                return true;
            }
            WebSocketEvent::Silence if is_raw => return true,
            WebSocketEvent::Closed(4505, _) => {
                self.refuses_own();
                return false;
            }
            WebSocketEvent::Closed(code @ 4500..=4501, _) => (
                format!("the token is refused ({code})"),
                "oneloop explain TOKEN TOPIC (with the settings of the server)",
            ),
            WebSocketEvent::Closed(code, _) => {
                (format!("the server closed it with {code}"), "journalctl -u oneloop")
            }
            _ => ("nothing that the server sends arrives".to_owned(), "proxy_buffering off;"),
        };
        self.report.problem("url-welcome", &seen, mend);
        false
    }

    /// Stays silent until the server pings: a proxy that closes the connection before would close clients, too.
    fn silence(&mut self, socket: &mut WebSocket, wait: Duration, ping: u64) {
        const NAME: &str = "url-silence";
        let started = (self.clock)();
        let mut last_message = started;
        loop {
            let left = (started + wait).saturating_sub((self.clock)());
            let event = if left.is_zero() { WebSocketEvent::Silence } else { socket.next(left) };
            let now = (self.clock)();
            let quiet = (now - last_message).as_secs_f64().round() as u64;
            match event {
                WebSocketEvent::Message(_) => last_message = now,
                WebSocketEvent::Ping => {
                    let seen =
                        format!("the ping came after {quiet} s of silence, and was answered");
                    return self.report.ok(NAME, &seen);
                }
                WebSocketEvent::Silence if last_message > started => {
                    return self.report.unseen(NAME, "messages came all the while", "");
                }
                WebSocketEvent::Silence if wait.as_secs() <= ping || ping == 0 => {
                    let seen = format!("nobody cut it within {} s", wait.as_secs());
                    return self.report.ok(NAME, &seen);
                }
                WebSocketEvent::Silence => {
                    let seen =
                        format!("no ping came within {} s; ping_seconds is {ping}", wait.as_secs());
                    let why =
                        "pings are lost on the way, or the server has other settings than these";
                    return self.report.say(Warning, NAME, &seen, why, "systemctl restart oneloop");
                }
                WebSocketEvent::Closed(code, _) => {
                    let seen =
                        format!("the server closed it with {code} after {quiet} s of silence");
                    return self.report.problem(NAME, &seen, "journalctl -u oneloop");
                }
                WebSocketEvent::Cut => return self.cut(NAME, quiet, ping),
            }
        }
    }

    fn cut(&mut self, name: &str, quiet: u64, ping: u64) {
        let seen =
            format!("the proxy closed it after {quiet} s of silence; ping_seconds is {ping}");
        let patient = if ping == 0 { 3600 } else { ping * 3 };
        let mend = match quiet / 2 {
            0 => format!("proxy_read_timeout {patient}s;"),
            half => {
                format!("proxy_read_timeout {patient}s; or in the settings: ping_seconds = {half}")
            }
        };
        self.report.say(
            Problem,
            name,
            &seen,
            "clients are cut, and come back, again and again",
            &mend,
        );
    }
}

/// Explains a flaw of a certificate, and how to mend it.
fn words(flaw: &CertificateFlaw) -> (String, &'static str) {
    match flaw {
        CertificateFlaw::Expired => {
            ("it has expired".to_owned(), "certbot renew, and reload the proxy")
        }
        CertificateFlaw::Name(names) => (
            format!("it is for {}", names.join(", ")),
            "a certificate with this name in it: certbot certonly -d NAME",
        ),
        CertificateFlaw::Issuer => (
            "this system trusts none of those who signed it, or the chain to them was not sent"
                .to_owned(),
            "ssl_certificate fullchain.pem; (nginx: the chain, not the certificate alone)",
        ),
        CertificateFlaw::Other(words) => (
            words.clone(),
            "openssl s_client -showcerts -connect HOST:PORT (it shows what is sent)",
        ),
    }
}

/// The nginx configuration to fix when the handshake is answered with this status.
fn advice(status: u16, config: &Config) -> String {
    match status {
        101 => "proxy_pass to the server itself: the program that answers does not speak WebSocket"
            .to_owned(),
        400 | 426 => "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
            proxy_set_header Connection \"upgrade\";"
            .to_owned(),
        404 => {
            let paths: Vec<&str> = config.routes.iter().map(|route| route.path.as_str()).collect();
            format!(
                "the settings serve {}: name such a path, or proxy_pass without one",
                paths.join(" ")
            )
        }
        429 | 503 => "clients_max and clients_per_address_max: the server is full".to_owned(),
        502 | 504 => format!("systemctl start oneloop; {}", proxy_pass(config)),
        _ => "the log of the proxy says why".to_owned(),
    }
}

/// The line of nginx that leads to the server.
fn proxy_pass(config: &Config) -> String {
    match config.own_address() {
        Listen::Tcp(address) => format!("proxy_pass http://{address};"),
        Listen::Tls(address) => format!("proxy_pass https://{address};"),
        unix @ Listen::Unix(_) => format!("proxy_pass http://{unix};"),
    }
}

fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
