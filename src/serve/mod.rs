//! The server that the binary runs: the settings turned into routes with their handlers, and the start-up lines.

mod page;
mod page_publisher;
mod trial;

use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::app::{
    App, Bound, LoopRole, ParentRole, dead_patterns, link, redis_place, unverified_redis,
};
use crate::config::{Config, Jwt, Secret, Subscribe};
use crate::embedded::{EmbeddedText, embedded_text};
use crate::engine::origin::Origins;
use crate::engine::pubsub::topic;
use crate::engine::reactor::{Addresses, Listen};
use crate::features::publisher::PublisherPort;
use crate::features::zeromq::ZeromqPort;
use crate::loops::process::CommandLine;
use crate::loops::worker::WorkerStart;
use crate::observe::systemd::Supervisor;
use crate::push::token::Keys;
use crate::push::{Push, explain};
use crate::tls::Certificates;
use crate::upgrade::{Predecessor, Program};
use page::Pass;
use page_publisher::{PATH, PagePublisher};
pub use trial::CommandContext;

/// The lifetime of the token in the start-up lines and the page.
const READY_TOKEN_SECONDS: u64 = 86_400;

/// The user of that token.
const READY_TOKEN_SUB: &str = "42";

/// The client for browsers and mini programs.
static CLIENT: EmbeddedText = embedded_text!("oneloop.js");

/// The types of its functions.
static CLIENT_TYPES: EmbeddedText = embedded_text!("oneloop.d.ts");

/// The connector for Laravel Echo, and its types.
static CONNECTOR: EmbeddedText = embedded_text!("oneloop-echo.js");
static CONNECTOR_TYPES: EmbeddedText = embedded_text!("oneloop-echo.d.ts");

/// A listening server and its start-up lines.
pub struct Started {
    /// The lines for stdout.
    pub lines: String,
    pub bound: Bound,
}

/// The process around a server, beside the settings.
pub struct Environment {
    /// See [`App::trim`].
    pub trim: fn(),
    /// The service manager to notify.
    pub supervisor: Supervisor,
    /// The listeners that were passed to the process.
    pub listeners: Vec<OwnedFd>,
    /// The process whose place this one takes.
    pub predecessor: Option<Predecessor>,
    /// This program, which is started anew for an upgrade.
    pub program: Program,
    /// Reads the settings again from their sources.
    pub reread: fn() -> Result<Config, Vec<String>>,
    /// The context of the printed command.
    pub shell: CommandContext,
    /// The command line, for processes of several loops.
    pub line: CommandLine,
    /// The parent's first words, in a process of several loops that serves clients.
    pub worker: Option<WorkerStart>,
}

/// Checks everything that can be checked before a socket is opened.
///
/// # Errors
/// A sentence for each problem.
pub fn check(config: &Config) -> Result<(), Vec<String>> {
    let settings = check_settings(config).err();
    let certificates = Certificates::of(&config.tls).err();
    let problems: Vec<String> = settings.into_iter().chain(certificates).flatten().collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Checks everything but certificates, which are read on their own: by `doctor` to tell more of them, at a reload to keep them.
///
/// # Errors
/// A sentence for each problem.
pub fn check_settings(config: &Config) -> Result<(), Vec<String>> {
    let mut problems: Vec<String> = link(config).err().into_iter().collect();
    match random_secret().and_then(|secret| keys(&config.jwt, &secret)) {
        Err(problem) => problems.push(problem),
        Ok(keys) => {
            let keys = Rc::new(keys);
            let pushes = config.routes.iter().map(|route| Push::new(Rc::clone(&keys), route));
            problems.extend(pushes.filter_map(Result::err));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    warn_of_settings(config);
    Ok(())
}

/// Binds the listeners and builds the server.
///
/// # Errors
/// The settings cannot be served (`InvalidInput`), or an address cannot be bound.
pub fn start(config: Config, unix: u64, environment: Environment) -> io::Result<Started> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let Environment {
        trim,
        supervisor,
        listeners,
        predecessor,
        program,
        reread,
        shell,
        line,
        mut worker,
    } = environment;
    let predecessor = match &mut worker {
        Some(start) => start.predecessor()?,
        None => predecessor,
    };
    let has_key = config.jwt.has_key();
    if !has_key {
        check_passed(&listeners)?;
    }
    let is_worker = worker.is_some();
    let secret = match worker.as_ref().and_then(|start| start.hello.secret.clone()) {
        Some(secret) => secret,
        None => random_secret().map_err(invalid)?,
    };
    let keys = Rc::new(keys(&config.jwt, &secret).map_err(invalid)?);
    let token = match has_key {
        true => None,
        false => Some(
            keys.issue(
                READY_TOKEN_SUB,
                &[],
                &[],
                false,
                unix,
                keys.lifetime_seconds(READY_TOKEN_SECONDS),
            )
            .map_err(invalid)?,
        ),
    };
    let mut app = App::new(config.clone()).trim(trim).reports_to(supervisor);
    app = app.handover(predecessor, program);
    app = app.reload_by(move || {
        let config = reread()?;
        check_settings(&config).map(|()| config)
    });
    for listener in listeners {
        app = app.listener(listener);
    }
    if asks_redis(&config) {
        app = app.asks_redis();
    }
    for route in &config.routes {
        let push = Push::new(Rc::clone(&keys), route).map_err(invalid)?;
        app = app.route_from(&route.path, push, route.origins.clone());
    }
    if config.client_script {
        app = with_client(app);
    }
    let nonce = match worker.as_ref().and_then(|start| start.hello.nonce.clone()) {
        Some(nonce) => nonce,
        None => format!("{:016x}{:016x}", getrandom::u64()?, getrandom::u64()?),
    };
    if config.page.unwrap_or(!has_key) {
        app = with_page(app, &config, token.clone().zip(Some(nonce.clone())), &shell)?;
    }
    app = app.role(match worker {
        Some(start) => LoopRole::Worker(Box::new(start)),
        None if config.loops() > 1 => LoopRole::Parent(ParentRole {
            line,
            secret: (!has_key).then_some(secret),
            nonce: Some(nonce),
            handed: None,
        }),
        None => LoopRole::Alone,
    });
    let bound = app.bind()?;
    if !is_worker {
        warn_of_settings(&config);
    }
    let lines = lines(&config, bound.addresses(), token.as_deref(), &shell);
    Ok(Started { lines, bound })
}

/// Refuses a passed listener that other machines can reach.
fn check_passed(listeners: &[OwnedFd]) -> io::Result<()> {
    for listener in listeners {
        // A Unix socket has no such address.
        let address = TcpListener::from(listener.try_clone()?).local_addr();
        if let Ok(address) = address
            && !address.ip().to_canonical().is_loopback()
        {
            let text = format!(
                "the socket that was passed listens on {address}, which others can reach, but there is \
                 no key to check tokens with"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    Ok(())
}

/// Adds the page. With a token and a nonce it is for this machine only, and publishes.
fn with_page(
    mut app: App,
    config: &Config,
    token: Option<(String, String)>,
    shell: &CommandContext,
) -> io::Result<App> {
    let pass = match token {
        None => None,
        Some((token, nonce)) => {
            let patterns = config.redis.is_some().then(|| match config.subscribe {
                Subscribe::All => config.patterns.join(", "),
                Subscribe::Demand => "what its clients want".to_owned(),
            });
            if patterns.is_some() {
                app = app.asks_redis();
            }
            // Its handler checks the origin itself, more strictly.
            app = app.route_from(
                PATH,
                PagePublisher::new(&nonce, config.prefix.clone(), patterns),
                Origins::Any,
            );
            Some(Pass { token, nonce })
        }
    };
    let (config, shell) = (config.clone(), shell.clone());
    Ok(app.page(move |addresses| page::page(&config, pass.as_ref(), &addresses, &shell)))
}

/// Warns of patterns that no topic can match, and of a Redis that is not verified.
fn warn_of_settings(config: &Config) {
    let keys = (config.subscribe == Subscribe::Demand).then(|| {
        "subscribe = demand: a channel with a key (pub.room.7#K) is not heard, and is lost without a trace; publish keys by \
         streams, or at the publishers' port"
            .to_owned()
    });
    let warnings = dead_patterns(config).into_iter().chain(unverified_redis(config)).chain(keys);
    warnings.for_each(|warning| log::warn!("{warning}"));
}

/// Adds the files of the client and of its connector: each a script that is a CommonJS module as well, and an ES module.
fn with_client(mut app: App) -> App {
    let script = "text/javascript; charset=utf-8";
    let types = "application/typescript; charset=utf-8";
    for (path, name, code, declarations) in [
        ("/oneloop", "oneloop", &CLIENT, &CLIENT_TYPES),
        ("/oneloop-echo", "OneloopConnector", &CONNECTOR, &CONNECTOR_TYPES),
    ] {
        let (code, declarations) = (code.inflate(), declarations.inflate());
        let module = es_module(&code, "\nif (typeof module", name);
        let module_types = es_module(&declarations, "\nexport = ", name);
        app = app
            .file(&format!("{path}.js"), script, code.into())
            .file(&format!("{path}.mjs"), script, module.into_bytes())
            .file(&format!("{path}.d.ts"), types, declarations.into())
            .file(&format!("{path}.d.mts"), types, module_types.into_bytes());
    }
    app
}

/// Replaces the CommonJS export, which begins with `common`, by a default export; bundlers warn of a file that has both. An import of
/// the client's types becomes one of its module.
fn es_module(text: &str, common: &str, name: &str) -> String {
    let (text, _) = text.split_once(common).expect("the file has a CommonJS export");
    let import = [r#"oneloop = require("./oneloop");"#, r#"oneloop from "./oneloop.mjs";"#];
    format!("{}\nexport default {name};\n", text.replace(import[0], import[1]))
}

/// Returns whether the settings need the connection for commands.
fn asks_redis(config: &Config) -> bool {
    let has_channel = config.control.is_some() || config.receipts.is_some();
    has_channel || config.routes.iter().any(|route| route.upstream.is_some())
}

/// The keys that the settings name; without any, this secret.
///
/// # Errors
/// A sentence for the operator.
fn keys(jwt: &Jwt, secret: &[u8]) -> Result<Keys, String> {
    if jwt.has_key() {
        return Keys::new(jwt);
    }
    Keys::new(&Jwt { secret: Some(Secret::new(secret.to_vec())), ..jwt.clone() })
}

/// A secret for this server only.
fn random_secret() -> Result<Vec<u8>, String> {
    let mut secret = vec![0; 32];
    getrandom::fill(&mut secret).map_err(|error| format!("no random bytes to be had: {error}"))?;
    Ok(secret)
}

/// Explains whether the holder of a token receives a topic, and by which rule, a line per route; then the token's user and dates.
/// Returns the text, and whether a route delivers the topic without being asked.
///
/// # Errors
/// The settings or the topic cannot be used.
pub fn explain(
    config: &Config,
    token: &str,
    topic: &str,
    unix: u64,
) -> Result<(String, bool), String> {
    if !config.jwt.has_key() {
        return Err(
            "explain needs the key that the server has: set ONELOOP_JWT_SECRET or jwt.*".into()
        );
    }
    let keys = Keys::new(&config.jwt)?;
    let topic = topic::published(topic.as_bytes())
        .ok_or("the topic is malformed: 1 to 260 bytes of `A-Z a-z 0-9 _ - . : @ /`")?;
    let (mut text, mut is_received) = (String::new(), false);
    match keys.check(token, unix) {
        Ok(user) => {
            for route in &config.routes {
                let (is_received_here, rule) = explain::explain(&user, route, topic)?;
                is_received |= is_received_here;
                let place = match config.routes.len() {
                    1 => String::new(),
                    _ => format!(" (on {})", route.path),
                };
                let _ = writeln!(text, "{rule}{place}");
            }
        }
        Err(refusal) => {
            let (name, detail) = (refusal.name(), refusal.detail());
            let _ = writeln!(text, "no: the token is refused ({name}): {detail}");
        }
    }
    Ok((text + &keys.shown(token, unix), is_received))
}

/// The scheme and address of the page, for a browser; `None` on a Unix socket.
fn page_address(address: &Listen) -> Option<(&str, SocketAddr)> {
    let scheme = if address.has_tls() { "https" } else { "http" };
    Some((scheme, address.socket_addr()?))
}

/// The start-up lines: every address, and one command to try.
fn lines(
    config: &Config,
    addresses: &Addresses,
    token: Option<&str>,
    shell: &CommandContext,
) -> String {
    let mut text = concat!("oneloop ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<11} {value}");
    };
    for address in &addresses.clients {
        for route in &config.routes {
            line("clients", &address.client_url(&route.path));
        }
    }
    if let Ok(Some(place)) = redis_place(config) {
        line("redis", &place.to_string());
    }
    for (name, address) in &addresses.ports {
        let scheme = if *name == ZeromqPort::NAME { "tcp://" } else { "" };
        line(name, &format!("{scheme}{address}"));
    }
    if let Some(admin) = addresses.admin {
        line("admin", &format!("http://{admin}"));
    }
    let pages = addresses.clients.iter().filter(|_| config.page.unwrap_or(token.is_some()));
    if let Some((scheme, address)) = pages.filter_map(page_address).next() {
        line("page", &format!("{scheme}://{address}/"));
    }
    if let Some(token) = token {
        line("token", token);
    }
    line("try", &trial::command(config, addresses.port(PublisherPort::NAME), shell));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses {
            clients: Config::default().listen,
            ports: vec![(PublisherPort::NAME, ([127, 0, 0, 1], 6380).into())],
            admin: None,
        }
    }

    #[test]
    fn the_lines_name_every_address_and_one_thing_to_try() {
        let shell = CommandContext { has_redis_cli: true, ..CommandContext::default() };
        let text = lines(&Config::default(), &addresses(), Some("T"), &shell);
        for line in [
            "  clients     ws://127.0.0.1:8099/ws\n",
            "  publishers  127.0.0.1:6380\n",
            "  page        http://127.0.0.1:8099/\n",
            "  token       T\n",
            "  try         redis-cli -p 6380 PUBLISH pub.news '{\"hello\":\"world\"}'\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn a_password_of_redis_is_in_no_line() {
        let redis = Some("redis://user:hush@10.0.0.1:7000".to_owned());
        let config = Config { redis, publishers: None, ..Config::default() };
        let addresses = Addresses { ports: Vec::new(), ..addresses() };
        let text = lines(&config, &addresses, None, &CommandContext::default());
        assert!(text.contains("10.0.0.1:7000") && !text.contains("hush"), "{text}");
    }
}
