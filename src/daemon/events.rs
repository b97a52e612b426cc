//! The event side of the daemon: its source, the intake, and the outbox's way into the mail log. It starts when
//! policy questions are answered already, and nothing that happens to it stops them.

use super::config::{Config, EventSource, Events};
use super::event_log::{LogSink, Output};
use super::mail_logs::MailLogs;
use crate::delegation::House;
use crate::events::intake::{Desk, IntakeThread};
use crate::events::outbox::OpenLog;
use crate::events::{Drain, Intake, Origins, Progress, Sharing, SharingThread, Spool, Sqs, Stats, sharing};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the end may take, before the last lines are written: a little more than the pollers take to give back
/// what they hold.
const LAST_MOMENTS: Duration = Duration::from_millis(320);

/// The threads of the event side; stop it to end them.
#[derive(Debug, Default)]
pub struct EventSide {
    source: Option<Source>,
    intake: Option<IntakeThread>,
    mail_logs: Option<MailLogs>,
    drain: Option<Drain>,
    sharing: Option<SharingThread>,
}

#[derive(Debug)]
enum Source {
    Sqs(Sqs),
    Spool(Spool),
}

impl EventSide {
    /// Starts what the configuration says; the outbox is drained in any case, for `gatepost ingest`. What cannot be
    /// started is logged, and stands in `stats` for health.
    #[must_use]
    pub fn start(config: &Config, house: &Arc<House>, stats: &Arc<Stats>) -> Self {
        let mut side = Self::default();
        if let Err(error) = side.start_all(config, house, stats) {
            stats.store.begin("start", &format!("the event side did not start: {error}"));
            tracing::error!(%error, "The event side did not start; policy questions are answered.");
        }
        side
    }

    fn start_all(&mut self, config: &Config, house: &Arc<House>, stats: &Arc<Stats>) -> io::Result<()> {
        let sharing = self.share(config, stats)?;
        let logs = config.logs.as_ref().filter(|logs| logs.journal || !logs.paths.is_empty());
        if let Some(logs) = logs.filter(|_| config.events.is_some()) {
            self.mail_logs =
                Some(MailLogs::start(logs, sharing.clone().map(|sharing| (sharing, &*config.state_dir)), stats)?);
        }
        let origins = Origins { log: self.mail_logs.as_ref().map(MailLogs::lookup), sharing };
        let progress = Arc::<Progress>::default();
        let open = opener(config.event_log_output.clone());
        self.drain = Some(Drain::start(config.store_path(), open, origins.clone(), progress.clone(), stats.clone())?);
        let Some(events) = &config.events else { return Ok(()) };
        let (intake, thread) = Intake::start(Desk { origins, ..desk(config, events, house, stats, progress) })?;
        self.intake = Some(thread);
        self.source = Some(match &events.source {
            EventSource::Sqs(urls) => {
                tracing::info!(queues = urls.join(", "), "Following SES's events.");
                Source::Sqs(Sqs::start(urls, &intake, stats)?)
            }
            EventSource::Spool(folder) => {
                tracing::info!(folder = %folder.display(), "Following SES's events.");
                Source::Spool(Spool::start(folder.clone(), intake, stats.clone())?)
            }
        });
        Ok(())
    }

    /// Where there is a fleet, events are shared with it.
    fn share(&mut self, config: &Config, stats: &Arc<Stats>) -> io::Result<Option<Sharing>> {
        let Some(place) = config.fleet.events().filter(|_| config.events.is_some()) else { return Ok(None) };
        let (sharing, thread) = Sharing::start(place, sharing::DEADLINE, stats.clone())?;
        self.sharing = Some(thread);
        Ok(Some(sharing))
    }

    /// Ends it within half a second: nothing more is taken, what was taken and is not on disk goes back, and the
    /// lines that are on disk are written if the log takes them.
    pub fn stop(self) {
        let latest = Instant::now() + LAST_MOMENTS;
        match &self.source {
            Some(Source::Sqs(sqs)) => sqs.stop(),
            Some(Source::Spool(spool)) => spool.stop(),
            None => {}
        }
        if let Some(logs) = &self.mail_logs {
            logs.stop();
        }
        let applied = self.intake.is_none_or(|intake| {
            intake.stop();
            intake.ended_by(latest)
        });
        if !applied {
            tracing::warn!("The database stands still; events that were not applied come again.");
        }
        if let Some(drain) = self.drain {
            drain.finish();
        }
        if let Some(sharing) = &self.sharing {
            sharing.stop();
        }
        let ended = match self.source {
            Some(Source::Sqs(sqs)) => sqs.ended_by(latest),
            Some(Source::Spool(spool)) => spool.ended_by(latest),
            None => true,
        };
        let ended = self.mail_logs.is_none_or(|logs| logs.ended_by(latest)) && ended;
        let ended = self.sharing.is_none_or(|sharing| sharing.ended_by(latest)) && ended;
        if !ended {
            tracing::warn!("The source of events, or what follows the mail logs, did not end in time.");
        }
    }
}

fn desk(config: &Config, events: &Events, house: &Arc<House>, stats: &Arc<Stats>, progress: Arc<Progress>) -> Desk {
    let house = house.clone();
    Desk {
        store: config.store_path(),
        rules: Box::new(move || house.rules.load_full()),
        accounts: events.accounts.clone(),
        correlation_header: config.correlation_header().to_owned(),
        origins: Origins::default(),
        stats: stats.clone(),
        progress,
    }
}

fn opener(output: Output) -> OpenLog {
    Box::new(move || Ok(Box::new(LogSink::open(&output)?)))
}
