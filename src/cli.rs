//! The command line: arguments, messages on the terminal, the process log and exit codes.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use tracing_subscriber::EnvFilter;

use crate::config::LogLevel;
use crate::host::log_writer::LogWriter;

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Run without a file: self-signed certificate, built-in origin, loopback only.
    Demonstration,
    /// Serve with this configuration.
    Run { config: PathBuf },
    /// Check this file and its certificates, and exit.
    Check { config: PathBuf },
    /// Have the process that runs with this file reload it.
    Reload { config: PathBuf },
    /// Print the effective configuration of this file, or of the process that runs with it.
    Config { config: PathBuf, running: bool },
    /// Print the version and exit.
    Version,
}

/// How the program ends, for a shell or supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Code 0: no error.
    Success,
    /// Code 1: the configuration, or a file it names, is refused.
    Configuration,
    /// Code 2: the arguments are not valid.
    Usage,
    /// Code 3: the host or an address is refused at start, or a worker cannot go on.
    Host,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Configuration => 1,
            Self::Usage => 2,
            Self::Host => 3,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

const AFTER_HELP: &str = "\
Without a command, ringway runs a demonstration on https://localhost:4433 with a self-signed
certificate and a built-in origin.

Signals: QUIT finishes requests in flight and exits; TERM does so for a few seconds; INT and a
second TERM exit at once; HUP reloads the configuration; USR1 opens the access log again.
Exit codes: 0 success; 1 bad configuration; 2 bad usage; 3 the host, an address or the running
process cannot be used, or a worker cannot go on.";

/// HTTP/3 edge gateway.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
struct Arguments {
    /// Same as `check`, as in nginx
    #[arg(short = 't', requires = "config")]
    test: bool,
    /// The configuration to test with -t
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve with a configuration
    Run(ConfigArgument),
    /// Check a configuration and its certificates, and exit
    Check(ConfigArgument),
    /// Reload the configuration of the process that runs with it, and print what changed
    Reload(ConfigArgument),
    /// Print a configuration with all keys and their values
    Config(EffectiveArguments),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
struct ConfigArgument {
    /// The configuration (TOML)
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct EffectiveArguments {
    #[command(flatten)]
    file: ConfigArgument,
    /// Ask the process that runs with it, which may not have reloaded it
    #[arg(long)]
    running: bool,
}

/// Parses arguments; the first is the program's name.
pub(crate) fn parse<I>(arguments: I) -> Result<Command, clap::Error>
where
    I: IntoIterator,
    I::Item: Into<std::ffi::OsString> + Clone,
{
    let Arguments { test, config, verb } = Arguments::try_parse_from(arguments)?;
    let conflict =
        |message: &str| Err(Arguments::command().error(ErrorKind::ArgumentConflict, message));
    match (verb, test, config) {
        (None, true, Some(config)) => Ok(Command::Check { config }),
        (None, false, None) => Ok(Command::Demonstration),
        (None, _, Some(config)) => {
            let config = config.display();
            conflict(&format!("write `ringway run --config {config}` to serve with this file"))
        }
        (Some(Verb::Run(argument)), false, None) => Ok(Command::Run { config: argument.config }),
        (Some(Verb::Check(argument)), false, None) => {
            Ok(Command::Check { config: argument.config })
        }
        (Some(Verb::Reload(argument)), false, None) => {
            Ok(Command::Reload { config: argument.config })
        }
        (Some(Verb::Config(EffectiveArguments { file, running })), false, None) => {
            Ok(Command::Config { config: file.config, running })
        }
        (Some(Verb::Version), false, None) => Ok(Command::Version),
        _ => conflict("options go behind the command, and -t is a command by itself"),
    }
}

/// Parses this process's arguments. Prints help or a mistake and returns how to exit if there is
/// no command to carry out.
pub(crate) fn parse_or_print() -> Result<Command, Exit> {
    parse(std::env::args_os()).map_err(|error| {
        // If even standard error is closed, there is nowhere to report it.
        let _ = error.print();
        if error.use_stderr() { Exit::Usage } else { Exit::Success }
    })
}

pub(crate) fn print_version() {
    println!("ringway {}", env!("CARGO_PKG_VERSION"));
}

/// Prints why the program cannot go on, with its name before each line. Returns `exit`.
pub(crate) fn refuse(exit: Exit, why: &dyn Display) -> Exit {
    for line in why.to_string().lines() {
        eprintln!("ringway: {line}");
    }
    exit
}

/// The right to change the level of the process log.
pub(crate) struct LevelHandle(Box<dyn Fn(EnvFilter) + Send>);

impl LevelHandle {
    pub(crate) fn set(&self, level: LogLevel) {
        (self.0)(filter(level));
    }
}

/// Sends the process log to standard error. Later calls have no effect.
pub(crate) fn init_log(level: LogLevel) -> LevelHandle {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level))
        .with_writer(Mutex::new(LogWriter::new(std::io::stderr())))
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    // Fails for a second call in tests: the first subscriber stays.
    let _ = tracing::subscriber::set_global_default(builder.finish());
    LevelHandle(Box::new(move |filter| {
        // Fails if the subscriber is gone, and with it the log.
        let _ = handle.reload(filter);
    }))
}

fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    // Libraries log at most warnings. Those of quinn-proto and h2 are about packets and frames,
    // which strangers send.
    let others = if level == "error" { "error" } else { "warn" };
    EnvFilter::new(format!("{others},quinn_proto=off,h2=off,ringway={level}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        parse(std::iter::once("ringway").chain(line.split_whitespace()))
    }

    #[test]
    fn the_verbs() {
        let config = PathBuf::from("a.toml");
        for (line, command) in [
            ("", Command::Demonstration),
            ("run --config a.toml", Command::Run { config: config.clone() }),
            ("run -c a.toml", Command::Run { config: config.clone() }),
            ("check --config=a.toml", Command::Check { config: config.clone() }),
            ("-t --config a.toml", Command::Check { config: config.clone() }),
            ("-t -c a.toml", Command::Check { config: config.clone() }),
            ("reload -c a.toml", Command::Reload { config: config.clone() }),
            ("config -c a.toml", Command::Config { config: config.clone(), running: false }),
            (
                "config --config a.toml --running",
                Command::Config { config: config.clone(), running: true },
            ),
            ("version", Command::Version),
        ] {
            assert_eq!(parsed(line).unwrap(), command, "{line}");
        }
    }

    #[test]
    fn invalid_arguments_are_usage_errors() {
        for (line, part) in [
            ("run", "--config <FILE>"),
            ("check", "--config <FILE>"),
            ("-t", "--config <FILE>"),
            ("--config a.toml", "ringway run --config a.toml"),
            ("-t --config a.toml run --config b.toml", "command by itself"),
            ("--config a.toml version", "options go behind"),
            ("serve", "unrecognized subcommand"),
            ("run --config a.toml --fast", "--fast"),
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.use_stderr(), "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
        for line in ["--help", "--version", "run --help"] {
            assert!(!parsed(line).expect_err(line).use_stderr(), "{line}");
        }
    }
}
