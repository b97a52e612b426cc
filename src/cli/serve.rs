//! `gatepost serve`: own diagnostics, the runtime, and the daemon.

use super::output::say;
use super::{exit, print_problems};
use crate::daemon::listeners::ListenError;
use crate::daemon::{self, Config, Fatal};
use crate::rules::Severity;
use clap::{Args, ValueEnum};
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

/// `gatepost serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// How the daemon's own messages are written [default: journald where systemd started it]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// The forms of the daemon's own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines on stderr
    Text,
    /// One JSON object a line on stderr
    Json,
    /// The journal
    Journald,
}

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn run(args: &ServeArgs, config_file: Option<&Path>) -> u8 {
    let (config, warnings) = match Config::load(config_file) {
        Ok(loaded) => loaded,
        Err(problems) => {
            print_problems(&problems);
            return exit::CONFIG;
        }
    };
    start_tracing(args.log_format);
    for warning in warnings.iter().filter(|w| w.severity == Severity::Warning) {
        tracing::warn!("{warning}");
    }
    let runtime = match runtime(workers()) {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format_args!("cannot start: {error}"));
            return exit::OSERR;
        }
    };
    let ended = runtime.block_on(daemon::run(config, config_file.map(Path::to_owned)));
    // What still blocks a thread (a disk that hangs) does not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(()) => exit::OK,
        Err(error) => {
            if let Fatal::Policy(problems) = &error {
                print_problems(problems);
            }
            say(&format_args!("{error}"));
            exit_code(&error)
        }
    }
}

fn exit_code(fatal: &Fatal) -> u8 {
    match fatal {
        Fatal::Policy(_) | Fatal::Listen(ListenError::NoGroup { .. } | ListenError::NotASocket(_)) => exit::CONFIG,
        Fatal::State(..) | Fatal::EventLog(_) => exit::CANTCREAT,
        Fatal::SecondInstance(_) | Fatal::Listen(ListenError::InUse(_)) => exit::UNAVAILABLE,
        Fatal::Listen(ListenError::System { .. }) | Fatal::System(..) => exit::OSERR,
    }
}

/// Where one thread answers it is this one: a runtime that cannot have two takes no locks and looks for nothing to steal
/// each time it goes to sleep.
fn runtime(workers: usize) -> std::io::Result<Runtime> {
    let mut builder = match workers {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(workers).enable_all().thread_name("gatepost").build()
}

/// How many threads answer: half of the cores. The others are for Postfix, which has far more to do for each
/// question; and every further thread that charges the same limit costs the others their caches. One
/// answers some 100,000 questions a second.
fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).max(1)
}

/// Whether stderr leads to the journal: systemd.exec(5) says to compare, for the variable is inherited
/// by everything that a service starts.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|m| stream == format!("{}:{}", m.dev(), m.ino()))
}

/// What is told unless `GATEPOST_LOG` says otherwise. The AWS SDK repeats itself with every try; what keeps the
/// queue away is told by us, once.
const FILTER: &str = "info,aws_config=error";

fn start_tracing(format: Option<LogFormat>) {
    let filter = EnvFilter::try_from_env("GATEPOST_LOG").unwrap_or_else(|_| EnvFilter::new(FILTER));
    let registry = Registry::default().with(filter);
    let format = format.unwrap_or(if stderr_is_the_journal() { LogFormat::Journald } else { LogFormat::Text });
    let text =
        || tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Json => registry.with(text().json()).try_init(),
        LogFormat::Text => registry.with(text()).try_init(),
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(journal) => registry.with(journal.with_syslog_identifier("gatepost".to_owned())).try_init(),
            Err(_) => registry.with(text()).try_init(),
        },
    };
    if let Err(error) = started {
        say(&format_args!("no diagnostics: {error}"));
    }
}
