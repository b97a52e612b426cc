//! The command line: one file per command. Exit codes are those of sysexits(3).

pub mod check;
pub mod doctor;
pub mod events;
pub mod explain;
pub mod generate;
pub mod ingest;
pub mod input;
pub mod limits;
pub mod output;
pub mod report;
pub mod serve;
pub mod signals;
pub mod suppress;
pub mod time;
pub mod trace;

use crate::daemon::Config;
use crate::rules::Problem;
use clap::{Parser, Subcommand};
use output::{Console, Failure};
use signals::Signals;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Exit codes, named as sysexits(3) names them.
pub mod exit {
    /// All is well.
    pub const OK: u8 = 0;
    /// The answer is "no": nothing found.
    pub const NOT_FOUND: u8 = 1;
    /// Something was found that an operator must see to.
    pub const FAULTS: u8 = 1;
    /// The command was used wrongly.
    pub const USAGE: u8 = 64;
    /// Input that cannot be read as what it should be.
    pub const DATAERR: u8 = 65;
    /// A file to be read is not there or cannot be read.
    pub const NOINPUT: u8 = 66;
    /// A service that is needed is not there.
    pub const UNAVAILABLE: u8 = 69;
    /// The system gave no thread, no socket, or the like.
    pub const OSERR: u8 = 71;
    /// A file to be written cannot be made.
    pub const CANTCREAT: u8 = 73;
    /// Reading or writing failed.
    pub const IOERR: u8 = 74;
    /// Try again later.
    pub const TEMPFAIL: u8 = 75;
    /// Not allowed.
    pub const NOPERM: u8 = 77;
    /// The configuration has problems.
    pub const CONFIG: u8 = 78;
}

/// The daemon beside a Postfix relay that hands its mail to Amazon SES.
#[derive(Debug, Parser)]
#[command(name = "gatepost", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// The configuration file [default: /etc/gatepost/gatepost.toml, or built-in settings without it]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Serve(serve::ServeArgs),
    /// Check configuration and policy, print every problem as file:line:column: message
    Check,
    /// Check the whole installation (Postfix, daemon, AWS, logs), and say what to change
    Doctor(doctor::DoctorArgs),
    /// Say what the answer to a question is, and why; charges nothing
    Explain(explain::ExplainArgs),
    /// The suppression list
    #[command(subcommand)]
    Suppress(suppress::SuppressCommand),
    /// Read SES's events from files, by the same path as those from SQS
    Ingest(ingest::IngestArgs),
    /// SES's events that could not be read
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// The way of a message, from the mail logs
    Trace(trace::TraceArgs),
    /// What a day of the mail logs says: rates against their targets, counts, delays; 1 where an alert stands
    Report(report::ReportArgs),
    /// The counters of the running daemon
    #[command(subcommand)]
    Limits(limits::LimitsCommand),
    /// Print shell completions
    #[command(hide = true)]
    Completions(generate::CompletionsArgs),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(generate::ManArgs),
}

/// Runs the program; returns its exit code.
#[must_use]
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE } else { exit::OK };
        }
    };
    let config = cli.config.as_deref();
    let signals = match cli.command {
        Command::Serve(_) => Signals::default(),
        _ => Signals::watch().unwrap_or_default(),
    };
    let with_console = |command: &dyn Fn(&mut Console<'_>) -> Result<u8, Failure>| with_console(&signals, command);
    match cli.command {
        Command::Serve(args) => serve::run(&args, config),
        Command::Check => check::run(config, cli.json),
        Command::Doctor(args) => with_console(&|console| doctor::run(&args, config, cli.json, console)),
        Command::Explain(args) => with_config(config, |config| explain::run(&args, config, cli.json)),
        Command::Suppress(command) => {
            with_config(config, |config| with_console(&|console| suppress::run(&command, config, cli.json, console)))
        }
        Command::Ingest(args) => {
            with_config(config, |config| with_console(&|console| ingest::run(&args, config, cli.json, console)))
        }
        Command::Events(command) => {
            with_config(config, |config| with_console(&|console| events::run(&command, config, cli.json, console)))
        }
        Command::Trace(args) => {
            with_config(config, |config| with_console(&|console| trace::run(&args, config, cli.json, console)))
        }
        Command::Report(args) => {
            with_config(config, |config| with_console(&|console| report::run(&args, config, cli.json, console)))
        }
        Command::Limits(command) => with_config(config, |config| limits::run(&command, config, cli.json, &signals)),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}

/// Reads the configuration for a command that needs it; its problems end the command.
fn with_config(file: Option<&Path>, command: impl FnOnce(&Config) -> u8) -> u8 {
    match Config::load(file) {
        Ok((config, _)) => command(&config),
        Err(problems) => {
            print_problems(&problems);
            exit::CONFIG
        }
    }
}

/// Runs a command on the process's own streams; what ends it early goes to stderr.
fn with_console(signals: &Signals, command: impl FnOnce(&mut Console<'_>) -> Result<u8, Failure>) -> u8 {
    Console::standard(signals, command).unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            output::say(&failure);
        }
        failure.code
    })
}

/// Prints problems on stderr, one a line.
pub fn print_problems(problems: &[Problem]) {
    for problem in problems {
        // There is nobody to tell where this fails.
        let _ = writeln!(std::io::stderr(), "{problem}");
    }
}
