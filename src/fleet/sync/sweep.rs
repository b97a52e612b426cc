//! Cleaning the shared store: once a day one relay goes over all of it, slowly, and takes out what is over. Nobody takes
//! its absence for news, and whoever knows more tells it again.

use super::Fault;
use super::session::{Session, is_refusal, now};
use super::share::Shared;
use crate::mail::Address;
use crate::store::{FullReport, Record, RemovedFilter};
use std::time::{Duration, Instant};

/// How long a sweep is enough.
const DAY_MS: u64 = 24 * 3_600_000;

/// How often a part is looked at: ten million entries take three hours, and a thousandth of the store's time.
const STEP: Duration = Duration::from_secs(2);

/// Where a sweep is.
#[derive(Debug)]
pub(super) struct Sweep {
    looked: Instant,
    /// The hash, by its number in [`HASHES`], and the cursor in it; `None`: it is not this relay's turn.
    at: Option<(usize, u64)>,
}

/// What a sweep goes over.
const HASHES: [&str; 3] =
    [<(Address, Record) as Shared>::HASH, <FullReport as Shared>::HASH, <RemovedFilter as Shared>::HASH];

impl Default for Sweep {
    fn default() -> Self {
        Self { looked: Instant::now(), at: None }
    }
}

impl Session<'_> {
    /// Goes on with the sweep, where it is time.
    pub(super) async fn sweep(&mut self) -> Result<(), Fault> {
        if self.sweep.looked.elapsed() < STEP {
            return Ok(());
        }
        self.sweep.looked = Instant::now();
        let at = match self.sweep.at {
            Some(at) => Some(at),
            None => self.begin_sweep().await?,
        };
        let Some((number, cursor)) = at else { return Ok(()) };
        let Some(hash) = HASHES.get(number) else {
            self.sweep.at = None;
            return Ok(());
        };
        let page = self.page(hash, cursor).await?;
        let is_over = |name: &[u8], value: &[u8]| match number {
            0 => over::<(Address, Record)>(name, value, now()),
            1 => over::<FullReport>(name, value, now()),
            _ => over::<RemovedFilter>(name, value, now()),
        };
        let over: Vec<_> = page.pairs.into_iter().filter(|(name, value)| is_over(name, value)).collect();
        match self.pusher.drop_these(hash, &over).await {
            Err(Fault::Fleet(error)) if is_refusal(&error) => {}
            dropped => dropped?,
        }
        self.sweep.at = Some(page.next.map_or((number + 1, 0), |next| (number, next)));
        Ok(())
    }

    /// Whether this relay is the first that asks on this day.
    async fn begin_sweep(&mut self) -> Result<Option<(usize, u64)>, Fault> {
        let mut question = redis::cmd("SET");
        question.arg(self.keys().of("sweep")).arg(&self.settings.relay.name).arg("NX").arg("PX").arg(DAY_MS);
        match question.query_async::<Option<String>>(self.link()).await {
            Ok(first) => Ok(first.map(|_| (0, 0))),
            Err(error) if is_refusal(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether nobody needs it any more. What cannot be read is left alone.
fn over<T: Shared>(name: &[u8], value: &[u8], now: i64) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| T::decode(name, value).is_ok_and(|thing| thing.is_over(now)))
}
