//! The process: settings, log, run, exit status.

#![deny(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::absolute;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use oneloop::cli::{
    self, Artifact, Command, DoctorEnvironment, Invocation, ProbeOptions, PublishOptions,
    SubscribeOptions, Terminal, unit,
};
use oneloop::config::{Config, LogFormat, Problems};
use oneloop::engine::pubsub::topic::is_user_topic;
use oneloop::engine::reactor::Ended;
use oneloop::observe::logger;
use oneloop::observe::systemd::{self, Supervisor};
use oneloop::serve::{self, CommandContext, Environment, Started};

/// The exit status for bad settings.
const BAD_SETTINGS: u8 = 2;

/// The user of `doctor` at the public address.
const DOCTOR: &str = "oneloop-doctor";

/// The user of `subscribe` unless one is named, and the lifetime of its token.
const SUBSCRIBER: &str = "oneloop-subscribe";
const SUBSCRIBER_SECONDS: u64 = 3600;

fn main() -> ExitCode {
    let invocation = match read().and_then(beside) {
        Ok(invocation) => invocation,
        Err(problems) => return bad_settings(&problems.to_string()),
    };
    let config = invocation.config;
    logger::start(config.log, log_style(&config));
    warn(&invocation.warnings);
    match invocation.command {
        Command::Publish(options) => publish(&config, &options),
        Command::Subscribe(options) => subscribe(&config, options),
        Command::Top { admin, once } => top(&config, admin, once),
        Command::Doctor(probe) => doctor(&config, &probe),
        Command::Print(artifact) => print(artifact_text(artifact, &config).trim_end()),
        Command::Help => print(&cli::help()),
        Command::Version => print(&cli::version()),
        Command::Serve { check: true } => match serve::check(&config) {
            Ok(()) => print("the settings are good"),
            Err(problems) => bad_settings(&problems.join("\n")),
        },
        Command::Serve { check: false } => run(config),
        Command::Token { sub, topics, may, ttl_seconds, admin } => {
            let keys = serve::keys(&config.jwt);
            match keys.and_then(|keys| keys.issue(&sub, &topics, &may, admin, unix(), ttl_seconds))
            {
                Ok(token) => print(&token),
                Err(problem) => bad_settings(&problem),
            }
        }
        Command::Explain { token, topic } => {
            match serve::explain(&config, &token, &topic, unix()) {
                Ok((text, is_subscribed)) => {
                    print(text.trim_end());
                    ExitCode::from(u8::from(!is_subscribed))
                }
                Err(problem) => bad_settings(&problem),
            }
        }
    }
}

fn read() -> Result<Invocation, Problems> {
    cli::read(std::env::args_os().skip(1), std::env::vars_os())
}

/// Takes the settings of the running server that a command names.
fn beside(own: Invocation) -> Result<Invocation, Problems> {
    let pid = match &own.command {
        Command::Publish(options) => options.pid,
        Command::Subscribe(options) => options.pid,
        _ => None,
    };
    pid.map_or(Ok(own), read_beside)
}

fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
}

fn log_style(config: &Config) -> logger::LogStyle {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    logger::LogStyle {
        is_json: config.log_format == LogFormat::Json,
        is_journal: logger::is_journal(stream.as_deref()),
        unix_millis,
    }
}

fn run(config: Config) -> ExitCode {
    let started = environment().and_then(|given| serve::start(config, unix(), given));
    let started = match started {
        Ok(started) => started,
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            return bad_settings(&error.to_string());
        }
        Err(error) => return failed(error),
    };
    let Started { lines, bound } = started;
    print(lines.trim_end());
    match bound.run() {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Forced) => ExitCode::FAILURE,
        Err(error) => failed(error),
    }
}

fn artifact_text(artifact: Artifact, settings: &Config) -> Cow<'static, str> {
    match artifact {
        Artifact::Dashboard => cli::dashboard().into(),
        Artifact::Completions(shell) => cli::completions(shell).into(),
        Artifact::Man => cli::man().into(),
        Artifact::Chapter(chapter) => cli::chapter(chapter).into(),
        Artifact::Socket => unit::socket().into(),
        Artifact::Service { config } => {
            let program = std::env::current_exe().unwrap_or("/usr/local/bin/oneloop".into());
            let config = config.map(|name| absolute(&name).unwrap_or(name.into()));
            let hidden = unit::hidden(&program, config.as_deref());
            hidden.iter().for_each(|problem| eprintln!("oneloop: {problem}"));
            unit::service(&program, config.as_deref(), settings.bounds.drain_seconds).into()
        }
    }
}

/// The service manager, a passed listener and the shell of this process.
fn environment() -> std::io::Result<Environment> {
    let (variable, pid) = (|name: &str| std::env::var_os(name), std::process::id());
    Ok(Environment {
        trim,
        supervisor: Supervisor::from_environment(variable, pid)?,
        listener: systemd::passed_listener(variable, pid)?,
        shell: shell(),
        reread: || {
            let invocation = read().map_err(|all| all.0)?;
            warn(&invocation.warnings);
            Ok(invocation.config)
        },
    })
}

/// The context of the command that is printed.
fn shell() -> CommandContext {
    let program = std::env::args_os().next().and_then(|name| name.into_string().ok());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_redis_cli =
        std::env::split_paths(&path).any(|folder| folder.join("redis-cli").is_file());
    CommandContext {
        program: program.unwrap_or("oneloop".to_owned()),
        pid: std::process::id(),
        has_redis_cli,
    }
}

fn top(config: &Config, admin: Option<String>, once: bool) -> ExitCode {
    let configured = || config.admin.map(|address| address.to_string());
    let Some(address) = admin.or_else(configured) else {
        return bad_settings("top needs the server's admin address: --admin http://127.0.0.1:9090");
    };
    let start = Instant::now();
    match cli::top(&address, once, || start.elapsed()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => failed(problem),
    }
}

/// Reads the command again, with the settings of the server that runs as `pid`.
fn read_beside(pid: u32) -> Result<Invocation, Problems> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::read(&path).map_err(|error| Problems(vec![format!("--pid: {path}: {error}")]))
    };
    let words = |bytes: Vec<u8>| -> Vec<OsString> {
        let mut words: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
        // Each word ends with a zero byte.
        words.pop();
        words.into_iter().map(|word| OsStr::from_bytes(word).to_owned()).collect()
    };
    let (line, variables) = (words(read("cmdline")?), words(read("environ")?));
    // File names in its settings are relative to its folder.
    let folder = format!("/proc/{pid}/cwd");
    std::env::set_current_dir(&folder)
        .map_err(|error| Problems(vec![format!("--pid: {folder}: {error}")]))?;
    let pairs = variables.iter().filter_map(|pair| {
        let at = pair.as_bytes().iter().position(|byte| *byte == b'=')?;
        let (name, value) = pair.as_bytes().split_at(at);
        Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(&value[1..]).to_owned()))
    });
    cli::read_beside(std::env::args_os().skip(1), line.into_iter().skip(1), pairs)
}

fn publish(config: &Config, options: &PublishOptions) -> ExitCode {
    let data = options.data.as_deref();
    match cli::publish(config, &options.channel, data, std::io::stdin()) {
        Ok(published) => {
            if let Some(explanation) = published.explanation {
                eprintln!("oneloop: {explanation}");
            }
            print(&published.count.to_string())
        }
        Err(problem) => failed(problem),
    }
}

fn subscribe(config: &Config, mut options: SubscribeOptions) -> ExitCode {
    if options.token.as_deref() == Some("-") {
        options.token = std::io::read_to_string(std::io::stdin()).ok();
    }
    options.token = options.token.map(|token| token.trim().to_owned());
    let terminal = Terminal {
        out: &mut std::io::stdout(),
        notes: &mut std::io::stderr(),
        sleep: &std::thread::sleep,
        sign: &|sub, topics| {
            if config.jwt.secret.is_none() {
                return Ok(None);
            }
            let keys = serve::keys(&config.jwt)?;
            let is_admin = topics.iter().any(|topic| is_user_topic(topic));
            let sub = sub.unwrap_or(SUBSCRIBER);
            keys.issue(sub, &[], topics, is_admin, unix(), SUBSCRIBER_SECONDS).map(Some)
        },
    };
    match cli::subscribe(config, &options, terminal) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => bad_settings(&problem),
    }
}

/// Runs the checks. The exit status tells scripts whether there is a problem.
fn doctor(config: &Config, probe: &ProbeOptions) -> ExitCode {
    if let Err(problems) = serve::check(config) {
        return bad_settings(&problems.join("\n"));
    }
    let start = Instant::now();
    let environment = DoctorEnvironment {
        out: &mut std::io::stdout(),
        clock: &|| start.elapsed(),
        unix_millis,
        sign: &|seconds| {
            let keys = config.jwt.secret.is_some().then(|| serve::keys(&config.jwt).ok())??;
            keys.issue(DOCTOR, &[], &[], false, unix(), seconds).ok()
        },
    };
    match cli::doctor(config, probe, environment) {
        Ok(has_problem) => ExitCode::from(u8::from(has_problem)),
        Err(problem) => bad_settings(&problem),
    }
}

/// Prints to stdout. Write errors are ignored.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
    ExitCode::SUCCESS
}

fn bad_settings(problems: &str) -> ExitCode {
    for problem in problems.lines() {
        eprintln!("oneloop: {problem}");
    }
    ExitCode::from(BAD_SETTINGS)
}

fn failed(error: impl Display) -> ExitCode {
    eprintln!("oneloop: {error}");
    ExitCode::FAILURE
}

fn unix() -> u64 {
    unix_millis() / 1000
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Returns free heap memory to the system.
///
/// glibc keeps recently freed blocks for its next calls, wherever they are, and returns only what is free above all of them: of
/// 2.8 MB that 19,000 clients had occupied nothing was returned, and 2.5 with this call. This is the program's only `unsafe` line:
/// the function has no preconditions (malloc_trim(3)).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn trim() {
    unsafe extern "C" {
        safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    malloc_trim(0);
}

/// Other allocators return memory themselves, as musl's does, or not at all.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}
