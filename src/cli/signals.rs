//! SIGTERM and SIGINT while a command works. Nothing is lost where it only reads: SIGTERM ends it at once, with 0, and
//! SIGINT does what it always does. Once it changes something the first signal asks it to end when it can.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_default, register_conditional_shutdown};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Whether the command was told to end.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Whether it may end at any point.
    only_reads: Arc<AtomicBool>,
    told: Arc<AtomicBool>,
}

impl Signals {
    /// Watches from now on, as long as the process runs.
    ///
    /// # Errors
    /// Where the system has no signal handler to give; then signals do what they always do.
    pub fn watch() -> io::Result<Self> {
        let signals = Self { only_reads: Arc::new(AtomicBool::new(true)), told: Arc::default() };
        register_conditional_shutdown(SIGTERM, 0, signals.only_reads.clone())?;
        register_conditional_default(SIGINT, signals.only_reads.clone())?;
        for number in [SIGTERM, SIGINT] {
            // The second signal, with the code by which a shell tells of it: the first finds the flag down.
            register_conditional_shutdown(number, 128 + number, signals.told.clone())?;
            register(number, signals.told.clone())?;
        }
        Ok(signals)
    }

    /// Something is changed from here on. A command that takes longer than a transaction looks at [`Signals::told`].
    pub fn hold(&self) {
        self.only_reads.store(false, SeqCst);
    }

    /// Whether to end.
    #[must_use]
    pub fn told(&self) -> bool {
        self.told.load(SeqCst)
    }
}
