//! Cleaning the shared store: once a day one relay goes over all of it, slowly, and takes out what is over. Nobody takes
//! its absence for news, and whoever knows more tells it again.

use super::Fault;
use super::session::{Session, is_refusal, now};
use super::share::{FILTERS, REPORTS, Shared};
use super::snapshot::SCAN;
use crate::fleet::PARTS;
use crate::mail::Address;
use crate::store::{FullReport, Record, RemovedFilter};
use std::time::{Duration, Instant};

/// How long a sweep is enough.
const DAY_MS: u64 = 24 * 3_600_000;

/// How often some of it is looked at: ten million entries take some five hours, and a thousandth of the store's time.
const STEP: Duration = Duration::from_secs(2);

/// Most questions of a step, each of which the list's changes wait for.
const QUESTIONS: usize = 100;

/// Where a sweep is.
#[derive(Debug)]
pub(super) struct Sweep {
    looked: Instant,
    /// What is left of it.
    left: Vec<Left>,
}

/// A hash from a cursor on, and what tells whether a thing in it is over.
#[derive(Debug)]
struct Left {
    hash: String,
    is_over: fn(&[u8], &[u8], i64) -> bool,
    cursor: u64,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { looked: Instant::now(), left: Vec::new() }
    }
}

impl Session<'_> {
    /// Goes on with the sweep, where it is time.
    pub(super) async fn sweep(&mut self) -> Result<(), Fault> {
        if self.sweep.looked.elapsed() < STEP {
            return Ok(());
        }
        self.sweep.looked = Instant::now();
        if self.sweep.left.is_empty() && self.is_its_day().await? {
            self.sweep.left = self.everything().await?;
        }
        let mut seen = 0;
        for _ in 0..QUESTIONS {
            let Some(Left { hash, is_over, cursor }) = self.sweep.left.pop_if(|_| seen < SCAN) else { break };
            let page = self.page(&hash, cursor).await?;
            seen += page.pairs.len();
            let over: Vec<_> = page.pairs.into_iter().filter(|(name, value)| is_over(name, value, now())).collect();
            match self.pusher.drop_these(&hash, &over).await {
                Err(Fault::Fleet(error)) if is_refusal(&error) => {}
                dropped => dropped?,
            }
            self.sweep.left.extend(page.next.map(|cursor| Left { hash, is_over, cursor }));
        }
        Ok(())
    }

    /// Whether this relay is the first that asks on this day.
    async fn is_its_day(&mut self) -> Result<bool, Fault> {
        let mut question = redis::cmd("SET");
        question.arg(self.keys().of("sweep")).arg(&self.settings.relay.name).arg("NX").arg("PX").arg(DAY_MS);
        match question.query_async::<Option<String>>(self.link()).await {
            Ok(first) => Ok(first.is_some()),
            Err(error) if is_refusal(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What there is to sweep.
    async fn everything(&mut self) -> Result<Vec<Left>, Fault> {
        let keys = self.keys();
        let mut all = vec![
            Left { hash: keys.of(REPORTS), is_over: over::<FullReport>, cursor: 0 },
            Left { hash: keys.of(FILTERS), is_over: over::<RemovedFilter>, cursor: 0 },
        ];
        let part = |part| Left { hash: keys.entries_part(part), is_over: over::<(Address, Record)>, cursor: 0 };
        all.extend((0..PARTS).map(part));
        let mut question = redis::pipe();
        all.iter().for_each(|left| {
            question.cmd("HLEN").arg(&left.hash);
        });
        let lengths: Vec<u64> = question.query_async(self.link()).await?;
        Ok(all.into_iter().zip(lengths).filter_map(|(left, length)| (length > 0).then_some(left)).collect())
    }
}

/// Whether nobody needs it any more. What cannot be read is left alone.
fn over<T: Shared>(name: &[u8], value: &[u8], now: i64) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| T::decode(name, value).is_ok_and(|thing| thing.is_over(now)))
}
