//! Taking a list into a fleet, and out of it, at an operator's word.

use super::session::{Session, now};
use super::share::{FILTERS, REPORTS};
use super::snapshot::WINDOW;
use super::{Fault, Settings, Status};
use crate::mail::Address;
use crate::store::{Record, Telling};
use serde::Serialize;
use std::io;

/// Which side gets what the other knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The shared store.
    Into,
    /// The relay's own database.
    OutOf,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// Addresses that were read, of entries and of removals.
    pub addresses: u64,
    /// Those of which the other side knew less.
    pub changed: u64,
}

/// Joins what one side knows into the other.
///
/// # Errors
/// In words, what ended it. What was done until then stays, and doing it again is harmless.
pub fn migrate(settings: &Settings, direction: Direction) -> Result<Migrated, String> {
    let run = || -> Result<Migrated, Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io::Error::other)?;
        let status = Status::default();
        runtime.block_on(async {
            let mut session = Session::begin(settings, &status).await?;
            session.store.use_large_cache()?;
            match direction {
                Direction::Into => session.migrate_into().await,
                Direction::OutOf => session.migrate_out_of().await,
            }
        })
    };
    run().map_err(|fault| fault.to_string())
}

impl Session<'_> {
    async fn migrate_into(&mut self) -> Result<Migrated, Fault> {
        let (mut migrated, mut after) = (Migrated::default(), String::new());
        loop {
            let known = self.store.known_after(&after, WINDOW)?;
            let Some(last) = known.last() else { break };
            after.clone_from(last);
            let records = known.iter().filter_map(|address| Address::parse(address).ok()).map(|address| {
                let record = self.store.record(address.as_str())?.in_force(now());
                Ok((address, record))
            });
            let records = records.collect::<Result<Vec<(Address, Record)>, Fault>>()?;
            migrated.addresses += records.len() as u64;
            migrated.changed += self.pusher.push(&records).await?.written;
        }
        self.pusher.push(&self.store.removed_by_filter()?).await?;
        self.tell_reports().await?;
        Ok(migrated)
    }

    async fn migrate_out_of(&mut self) -> Result<Migrated, Fault> {
        let mut migrated = Migrated::default();
        let mut sorted = self.scan().await?;
        loop {
            let mut records: Vec<(Address, Record)> = Vec::new();
            let mut is_end = true;
            while let Some(pair) = sorted.next()? {
                records.extend(self.read(pair));
                is_end = records.len() < WINDOW;
                if !is_end {
                    break;
                }
            }
            migrated.addresses += records.len() as u64;
            migrated.changed += self.store.merge(&records, Telling::Own, &[], now())?.changed;
            if is_end {
                break;
            }
        }
        self.hear_all(FILTERS).await?;
        self.hear_all(REPORTS).await?;
        Ok(migrated)
    }
}
