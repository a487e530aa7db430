//! The process: settings, log, run, exit status.

#![deny(unsafe_code)]

use std::borrow::Cow;
use std::io;
use std::path::{PathBuf, absolute};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use oneloop::cli::{
    self, Artifact, Command, DoctorEnvironment, Invocation, ProbeOptions, PublishOptions,
    ServerProcess, SubscribeOptions, Terminal, UpgradeFailure, UpgradeOptions, unit,
};
use oneloop::config::{Config, LogFormat, Problems};
use oneloop::engine::pubsub::topic::is_user_topic;
use oneloop::engine::reactor::Ended;
use oneloop::loops::process::{CommandLine, VARIABLE};
use oneloop::loops::worker::WorkerStart;
use oneloop::observe::logger;
use oneloop::observe::systemd::{self, Supervisor};
use oneloop::push::token::Keys;
use oneloop::serve::{self, CommandContext, Environment, Started};
use oneloop::upgrade::{Predecessor, Program};

/// The exit status for bad settings.
const BAD_SETTINGS: u8 = 2;

/// The user of `doctor` at the public address.
const DOCTOR: &str = "oneloop-doctor";

/// The user of `subscribe` unless one is named, and the lifetime of its token.
const SUBSCRIBER: &str = "oneloop-subscribe";
const SUBSCRIBER_SECONDS: u64 = 3600;

/// The reason for an exit with a message.
enum CommandFailure {
    /// The settings or the arguments are bad.
    Settings(String),
    Other(String),
}
use CommandFailure::{Other, Settings};

fn main() -> ExitCode {
    let (problems, status) = match run() {
        Ok(status) => return status,
        Err(Settings(problems)) => (problems, ExitCode::from(BAD_SETTINGS)),
        Err(Other(problem)) => (problem, ExitCode::FAILURE),
    };
    problems.lines().for_each(|problem| eprintln!("oneloop: {problem}"));
    status
}

fn run() -> Result<ExitCode, CommandFailure> {
    let invocation = read().and_then(beside).map_err(|problems| Settings(problems.to_string()))?;
    let config = invocation.config;
    logger::start(config.log, log_style(&config));
    if std::env::var_os(VARIABLE).is_none() {
        warn(&invocation.warnings);
    }
    match invocation.command {
        Command::Publish(options) => publish(&config, &options),
        Command::Subscribe(options) => subscribe(&config, options),
        Command::Forward(options) => {
            match cli::forward(&config, &options, &std::thread::sleep).map_err(Settings)? {}
        }
        Command::Top { admin, once } => top(&config, admin, once),
        Command::Upgrade(options) => upgrade(&options),
        Command::Doctor(options) => doctor(&config, &options),
        Command::Print(artifact) => Ok(print(artifact_text(artifact, &config).trim_end())),
        Command::Help => Ok(print(&cli::help())),
        Command::Version => Ok(print(&cli::version())),
        Command::Serve { check: true } => {
            check(&config)?;
            Ok(print("the settings are good"))
        }
        Command::Serve { check: false } => serve(config),
        Command::Token { sub, topics, may, ttl_seconds, admin } => {
            let keys = Keys::new(&config.jwt).map_err(Settings)?;
            let token = keys.issue(&sub, &topics, &may, admin, unix(), ttl_seconds);
            Ok(print(&token.map_err(Settings)?))
        }
        Command::Explain { token, topic } => {
            let explained = serve::explain(&config, &token, &topic, unix());
            let (text, is_subscribed) = explained.map_err(Settings)?;
            print(text.trim_end());
            Ok(ExitCode::from(u8::from(!is_subscribed)))
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

fn check(config: &Config) -> Result<(), CommandFailure> {
    serve::check(config).map_err(|problems| Settings(problems.join("\n")))
}

fn serve(config: Config) -> Result<ExitCode, CommandFailure> {
    let failure = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidInput => Settings(error.to_string()),
        _ => Other(error.to_string()),
    };
    let environment = environment().map_err(failure)?;
    let is_worker = environment.worker.is_some();
    let Started { lines, bound } = serve::start(config, unix(), environment).map_err(failure)?;
    if !is_worker {
        print(lines.trim_end());
    }
    match bound.run() {
        Ok(Ended::Drained | Ended::HandedOver) => Ok(ExitCode::SUCCESS),
        Ok(Ended::Forced) => Ok(ExitCode::FAILURE),
        Err(error) => Err(Other(error.to_string())),
    }
}

fn artifact_text(artifact: Artifact, settings: &Config) -> Cow<'static, str> {
    match artifact {
        Artifact::Dashboard => cli::dashboard().into(),
        Artifact::Completions(shell) => cli::completions(shell).into(),
        Artifact::Man => cli::man().into(),
        Artifact::Chapter(chapter) => cli::chapter(chapter).into(),
        Artifact::Socket { .. } => unit::socket(&settings.listen, &settings.unix).into(),
        Artifact::Service { config } => {
            let program = std::env::current_exe().unwrap_or("/usr/local/bin/oneloop".into());
            let config = config.map(|name| absolute(&name).unwrap_or(name.into()));
            let hidden = unit::hidden(&program, config.as_deref()).into_iter();
            let problems = hidden.chain(unit::unreadable(&settings.tls));
            problems.for_each(|problem| eprintln!("oneloop: {problem}"));
            unit::service(&program, config.as_deref(), settings).into()
        }
    }
}

/// The service manager, the passed listeners and the shell of this process.
fn environment() -> io::Result<Environment> {
    let (variable, pid) = (|name: &str| std::env::var_os(name), std::process::id());
    Ok(Environment {
        trim,
        supervisor: Supervisor::from_environment(variable, pid)?,
        listeners: systemd::passed_listeners(variable, pid)?,
        predecessor: Predecessor::from_environment(variable)?,
        program: program(command_line())?,
        shell: shell(),
        line: command_line(),
        worker: variable(VARIABLE).map(|_| WorkerStart::from_parent()).transpose()?,
        reread: || {
            let invocation = read().map_err(|all| all.0)?;
            warn(&invocation.warnings);
            Ok(invocation.config)
        },
    })
}

/// The command line as it was given.
fn command_line() -> CommandLine {
    let mut words = std::env::args_os();
    CommandLine { name: words.next().unwrap_or("oneloop".into()), arguments: words.collect() }
}

/// The file by which this process was started, and its arguments: an upgrade starts what lies there then.
fn program(line: CommandLine) -> io::Result<Program> {
    let name = PathBuf::from(line.name);
    let is_path = name.components().count() > 1;
    let path = if is_path { absolute(name) } else { std::env::current_exe() };
    Ok(Program { path: path?, arguments: line.arguments })
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

fn top(config: &Config, admin: Option<String>, once: bool) -> Result<ExitCode, CommandFailure> {
    let address = admin.or_else(|| config.admin.map(|address| address.to_string()));
    let missing = "top needs the server's admin address: --admin http://127.0.0.1:9090";
    let address = address.ok_or_else(|| Settings(missing.to_owned()))?;
    let start = Instant::now();
    cli::top(&address, once, || start.elapsed()).map_err(Other)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the command again, with the settings of the server that runs as `pid`.
fn read_beside(pid: u32) -> Result<Invocation, Problems> {
    let problem = |why: String| Problems(vec![format!("--pid: {why}")]);
    let server = ServerProcess::read(pid).map_err(problem)?;
    std::env::set_current_dir(&server.folder)
        .map_err(|error| problem(format!("{}: {error}", server.folder.display())))?;
    cli::read_beside(std::env::args_os().skip(1), server.arguments, server.variables)
}

fn upgrade(options: &UpgradeOptions) -> Result<ExitCode, CommandFailure> {
    let start = Instant::now();
    match cli::upgrade(options, &|| start.elapsed()) {
        Ok(told) => Ok(print(&told)),
        Err(UpgradeFailure::Refused(why)) => Err(Settings(why)),
        Err(UpgradeFailure::Failed(why)) => Err(Other(why)),
    }
}

fn publish(config: &Config, options: &PublishOptions) -> Result<ExitCode, CommandFailure> {
    let data = options.data.as_deref();
    let published = cli::publish(config, &options.channel, data, io::stdin()).map_err(Other)?;
    if let Some(explanation) = published.explanation {
        eprintln!("oneloop: {explanation}");
    }
    Ok(print(&published.count.to_string()))
}

fn subscribe(config: &Config, mut options: SubscribeOptions) -> Result<ExitCode, CommandFailure> {
    if options.token.as_deref() == Some("-") {
        options.token = io::read_to_string(io::stdin()).ok();
    }
    options.token = options.token.map(|token| token.trim().to_owned());
    let terminal = Terminal {
        out: &mut io::stdout(),
        notes: &mut io::stderr(),
        sleep: &std::thread::sleep,
        sign: &|sub, topics| {
            if config.jwt.secret.is_none() {
                return Ok(None);
            }
            let keys = Keys::new(&config.jwt)?;
            let is_admin = topics.iter().any(|topic| is_user_topic(topic));
            let sub = sub.unwrap_or(SUBSCRIBER);
            let seconds = keys.lifetime_seconds(SUBSCRIBER_SECONDS);
            keys.issue(sub, &[], topics, is_admin, unix(), seconds).map(Some)
        },
    };
    let is_done = cli::subscribe(config, &options, terminal).map_err(Settings)?;
    Ok(ExitCode::from(u8::from(!is_done)))
}

/// Runs the checks. The exit status tells scripts whether there is a problem.
fn doctor(config: &Config, options: &ProbeOptions) -> Result<ExitCode, CommandFailure> {
    serve::check_settings(config).map_err(|problems| Settings(problems.join("\n")))?;
    let start = Instant::now();
    let environment = DoctorEnvironment {
        out: &mut io::stdout(),
        clock: &|| start.elapsed(),
        unix_millis,
        sign: &|seconds| {
            let keys = config.jwt.secret.is_some().then(|| Keys::new(&config.jwt).ok())??;
            keys.issue(DOCTOR, &[], &[], false, unix(), keys.lifetime_seconds(seconds)).ok()
        },
    };
    let has_problem = cli::doctor(config, options, environment).map_err(Settings)?;
    Ok(ExitCode::from(u8::from(has_problem)))
}

/// Prints to stdout. Write errors are ignored.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(io::stdout(), "{text}");
    ExitCode::SUCCESS
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
