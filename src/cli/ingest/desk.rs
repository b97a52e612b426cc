//! Where commands bring bodies: each is read by the rules of the policy folder, and what the bodies mean is
//! applied in batches. Their log lines go through the outbox, as those of the daemon do.

use super::log::Log;
use crate::cli::output::{Console, Failure};
use crate::cli::{exit, print_problems};
use crate::daemon::Config;
use crate::events::{Gathered, Kind, Origins, Settings, Sharing, SharingThread, Stats, Verdict, digest};
use crate::rules::{Rate, SuppressionRules, load};
use crate::store::{Applied, Batch, Quarantined, Store, StoreError};
use serde_json::{Map, Value};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Effects a transaction: one commit to disk for many, and never so many that the daemon waits for long.
const BATCH: usize = 500;

/// Bodies for the quarantine a transaction: they are kept whole until then, and may be large.
const KEPT: usize = 16;

/// How often a busy database is tried, five seconds each: a daemon under load writes all the time.
const TRIES: u32 = 6;

/// How long a batch waits for the fleet's store: nobody waits for a command's answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// How often, and how soon, what another relay has in its hands is looked at again: it needs a moment, or is dead.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(in crate::cli) struct Desk<'a> {
    config: &'a Config,
    rules: SuppressionRules,
    store: Store,
    log: Log<'a>,
    events: Gathered,
    origins: Origins,
    sharing: Option<SharingThread>,
    kept: Vec<Quarantined>,
    stats: Arc<Stats>,
    started: (Instant, i64),
    /// Most new entries; the policy's, unless the operator wants none.
    pub(in crate::cli) brake: Option<Rate>,
    /// What was done so far.
    pub(in crate::cli) total: Applied,
}

impl<'a> Desk<'a> {
    /// Reads the policy folder and opens the database. With `json` standard output is left to the command.
    pub(in crate::cli) fn open(config: &'a Config, json: bool, console: &Console<'_>) -> Result<Self, Failure> {
        let (rules, _) = load::load(&config.policy_dir).map_err(|problems| {
            print_problems(&problems);
            Failure::new(exit::CONFIG, "the policy folder has problems; nothing was read")
        })?;
        let store = console.open_store(&config.store_path())?;
        store.use_large_cache()?;
        let stats = Arc::<Stats>::default();
        let start = |place| Sharing::start(place, DEADLINE, stats.clone());
        let (way, sharing) = config.fleet.events().map(start).transpose()?.unzip();
        Ok(Self {
            config,
            brake: rules.suppression.brake,
            rules: rules.suppression,
            store,
            log: Log::new(config, json),
            events: Gathered::default(),
            origins: Origins { log: None, sharing: way },
            sharing,
            kept: Vec::new(),
            stats,
            started: (Instant::now(), console.now),
            total: Applied::default(),
        })
    }

    pub(in crate::cli) fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Reads a body that came from `source`. What it means is applied with what comes after it, at the latest by
    /// [`Desk::finish`]; an event of an unknown type, or of no account, is kept in the quarantine.
    pub(in crate::cli) fn take(&mut self, body: &[u8], source: &str, err: &mut dyn Write) -> Result<Verdict, Failure> {
        let verdict = self.read(body);
        let why = match &verdict {
            Verdict::Unknown { what } => Some(format!("an event of an unknown type: {what}")),
            Verdict::Foreign { account } if account.is_empty() => Some("names no account".to_owned()),
            _ => None,
        };
        if let Some(why) = why {
            self.kept.push(Quarantined { body: body.to_vec(), why, source: source.to_owned() });
        }
        if self.events.effects.len() >= BATCH || self.kept.len() >= KEPT {
            self.apply(err)?;
        }
        Ok(verdict)
    }

    /// Reads a body; what it means waits for [`Desk::apply`].
    pub(in crate::cli) fn read(&mut self, body: &[u8]) -> Verdict {
        let accounts = self.config.events.as_ref().map_or(&[][..], |events| &events.accounts);
        let settings = Settings {
            rules: &self.rules,
            accounts,
            correlation_header: self.config.correlation_header(),
            now: self.now(),
        };
        let mut digest = digest(body, &settings);
        self.stats.count(&digest);
        self.events.add((0, 0), &mut digest, &self.origins, &self.stats);
        digest.verdict
    }

    /// Applies what was read, in one transaction, less what another relay of the fleet applies.
    pub(in crate::cli) fn apply(&mut self, err: &mut dyn Write) -> Result<(), Failure> {
        let Some(sharing) = self.origins.sharing.clone() else { return self.apply_all(err) };
        for _ in 0..LOOKS {
            let before = self.stats.duplicates.load(Relaxed);
            let elsewhere = self.events.share(&sharing, &self.origins, &self.stats).unwrap_or_else(|| {
                self.stats.unasked.fetch_add(self.events.len() as u64, Relaxed);
                Gathered::default()
            });
            self.total.duplicates += self.stats.duplicates.load(Relaxed) - before;
            self.apply_all(err)?;
            if elsewhere.is_empty() {
                return Ok(());
            }
            self.events = elsewhere;
            std::thread::sleep(LOOK_AGAIN);
        }
        // An event that counts twice does less harm than one that is lost.
        self.apply_all(err)
    }

    fn apply_all(&mut self, err: &mut dyn Write) -> Result<(), Failure> {
        let batch = Batch {
            effects: &self.events.effects,
            quarantine: &self.kept,
            now: self.now(),
            brake: self.brake,
            written: None,
            late_until: None,
        };
        let mut tries = 1;
        let applied = loop {
            match self.store.apply(&batch) {
                Err(StoreError::Busy { .. }) if tries < TRIES => tries += 1,
                done => break done?,
            }
        };
        self.count(&applied);
        let events = std::mem::take(&mut self.events);
        self.origins.sharing.iter().for_each(|sharing| sharing.done(&events));
        self.kept.clear();
        self.log.after(&mut self.store, applied.lines, err)
    }

    /// Applies what is left, and writes the lines to the mail log where no daemon does.
    pub(in crate::cli) fn finish(&mut self, err: &mut dyn Write) -> Result<(), Failure> {
        self.apply(err)?;
        if let Some(sharing) = self.sharing.take() {
            sharing.stop();
            let _ = sharing.ended_by(Instant::now() + DEADLINE);
        }
        let unasked = self.stats.unasked.load(Relaxed);
        if unasked > 0 {
            let text = "the fleet's store did not answer: what another relay reads too counts twice";
            writeln!(err, "{text} (of {unasked} events)")?;
        }
        self.log.finish(&mut self.store, err)
    }

    fn count(&mut self, applied: &Applied) {
        let total = &mut self.total;
        for (sum, n) in [
            (&mut total.added, applied.added),
            (&mut total.renewed, applied.renewed),
            (&mut total.braked, applied.braked),
            (&mut total.removed, applied.removed),
            (&mut total.taken_back, applied.taken_back),
            (&mut total.duplicates, applied.duplicates),
            (&mut total.lines, applied.lines),
        ] {
            *sum += n;
        }
        total.brake_on = applied.brake_on;
    }

    fn now(&self) -> i64 {
        let (began, then) = self.started;
        then.saturating_add(i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX))
    }

    /// In few words, for a progress bar.
    pub(in crate::cli) fn progress(&self) -> String {
        format!("{} events, {} added", self.events(), self.total.added)
    }

    fn events(&self) -> u64 {
        self.by_kind().map(|(_, n)| n).sum()
    }

    fn by_kind(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.into_iter().zip(&self.stats.events).map(|(kind, n)| (kind, n.load(Relaxed))).filter(|(_, n)| *n > 0)
    }

    /// What was read, and what it did, each with its word.
    fn counts(&self) -> [(&'static str, u64); 10] {
        let (total, read) = (&self.total, |n: &AtomicU64| n.load(Relaxed));
        [
            ("added", total.added),
            ("renewed", total.renewed),
            ("braked", total.braked),
            ("removed", total.removed),
            ("taken_back", total.taken_back),
            ("duplicates", total.duplicates),
            ("foreign", read(&self.stats.foreign)),
            ("not_events", read(&self.stats.not_events)),
            ("unknown", read(&self.stats.unknown)),
            ("unreadable", read(&self.stats.unreadable)),
        ]
    }

    /// For the operator.
    pub(in crate::cli) fn summary(&self) -> String {
        let kinds: Vec<String> = self.by_kind().map(|(kind, n)| format!("{n} {}", kind.as_str())).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
        let counts = self.counts().map(|(word, n)| format!("{n} {}", word.replace('_', " "))).join(", ");
        format!("{} events{kinds}: {counts}", self.events())
    }

    /// The same as one JSON object.
    pub(in crate::cli) fn summary_json(&self) -> Value {
        let kinds: Map<String, Value> = self.by_kind().map(|(kind, n)| (kind.as_str().to_owned(), n.into())).collect();
        let counts = self.counts().into_iter().map(|(word, n)| (word.to_owned(), Value::from(n)));
        let all = std::iter::once(("events".to_owned(), Value::Object(kinds))).chain(counts);
        Value::Object(all.chain([("lines".to_owned(), self.total.lines.into())]).collect())
    }
}
