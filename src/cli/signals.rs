//! SIGTERM and SIGINT while a command works: the first asks it to end when it can, the second ends it at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether the command was told to end.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    told: Arc<AtomicBool>,
}

impl Signals {
    /// Watches from now on, as long as the process runs.
    ///
    /// # Errors
    /// Where the system has no thread or no signal handler to give; then signals do what they always do.
    pub fn watch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let signals = {
            let _within = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let told = Arc::<AtomicBool>::default();
        let theirs = told.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || wait(&runtime, signals, &theirs))?;
        Ok(Self { told })
    }

    /// Whether to end.
    #[must_use]
    pub fn told(&self) -> bool {
        self.told.load(Relaxed)
    }
}

fn wait(runtime: &Runtime, (mut term, mut int): (Signal, Signal), told: &AtomicBool) {
    loop {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => SignalKind::terminate().as_raw_value(),
                _ = int.recv() => SignalKind::interrupt().as_raw_value(),
            }
        });
        if told.swap(true, Relaxed) {
            // as a shell tells of a program that a signal ended
            std::process::exit(128 + number);
        }
    }
}
