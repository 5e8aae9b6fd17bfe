//! Arguments -> [`Command`], and how the program speaks to the person who started it.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use tracing_subscriber::EnvFilter;

use crate::config::LogLevel;

/// What the program is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run without a file: self-signed certificate, built-in origin, loopback only.
    Demonstration,
    /// Run by this file.
    Run {
        /// The configuration.
        config: PathBuf,
    },
    /// Read and check this file, and its certificates, and end.
    Check {
        /// The configuration.
        config: PathBuf,
    },
    /// Print the version and end.
    Version,
}

/// How the program ends, for whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Well,
    /// The configuration or a file it names is refused.
    Configuration,
    /// The arguments make no sense.
    Usage,
    /// The host or an address refuses.
    Host,
}

impl Exit {
    /// Returns the exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Well => 0,
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

Signals: QUIT finishes running requests and ends, TERM and INT end at once.
Exit codes: 0 well, 1 bad configuration, 2 usage, 3 the host or an address refuses, or a
worker cannot go on.";

/// HTTP/3 edge gateway.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
struct Arguments {
    /// The same as `check`, for those who know it from nginx
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
    /// Run by a configuration
    Run(ConfigArgument),
    /// Read and check a configuration and its certificates, and end
    Check(ConfigArgument),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
struct ConfigArgument {
    /// The configuration (TOML)
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

/// Understands the arguments, the program's own name first.
pub fn parse<I>(arguments: I) -> Result<Command, clap::Error>
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
            conflict(&format!("write `ringway run --config {config}` to run by this file"))
        }
        (Some(Verb::Run(argument)), false, None) => Ok(Command::Run { config: argument.config }),
        (Some(Verb::Check(argument)), false, None) => {
            Ok(Command::Check { config: argument.config })
        }
        (Some(Verb::Version), false, None) => Ok(Command::Version),
        _ => conflict("options go behind the command, and -t is a command by itself"),
    }
}

/// Understands this process's arguments. `Err` is how to end: what there was to say (help, a
/// mistake) is said.
pub fn parse_or_tell() -> Result<Command, Exit> {
    parse(std::env::args_os()).map_err(|error| {
        // Nothing is left to tell when even standard error is closed.
        let _ = error.print();
        if error.use_stderr() { Exit::Usage } else { Exit::Well }
    })
}

/// Prints the version.
pub fn tell_version() {
    println!("ringway {}", env!("CARGO_PKG_VERSION"));
}

/// Prints why the program cannot go on, each line for itself, and returns how it ends.
pub fn refuse(exit: Exit, why: &dyn Display) -> Exit {
    for line in why.to_string().lines() {
        eprintln!("ringway: {line}");
    }
    exit
}

/// Sends the process log to standard error. Only the first call counts.
pub fn init_log(level: LogLevel) {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    // Libraries speak up from warnings on, unless even those are not wanted.
    let others = if level == "error" { "error" } else { "warn" };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{others},ringway={level}")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .finish();
    // A second call is a test's: the first subscriber stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
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
            ("version", Command::Version),
        ] {
            assert_eq!(parsed(line).unwrap(), command, "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_usage() {
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
