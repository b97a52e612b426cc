//! `gatepost events`: the bodies that could not be read, kept until an operator has looked at them or a newer
//! version can read them.

use super::exit;
use super::ingest::desk::Desk;
use super::output::{Console, Failure, shown};
use super::time;
use crate::daemon::Config;
use crate::events::Verdict;
use crate::store::{Kept, Reader};
use serde_json::json;
use std::path::Path;

/// What to do with SES's events.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum EventsCommand {
    /// Bodies that could not be read
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
}

/// What to do with the quarantine.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum QuarantineCommand {
    /// Print what is kept, oldest first, without the bodies
    List,
    /// Print one body and why it could not be read
    Show {
        /// Its number
        #[arg(value_name = "ID")]
        id: i64,
        /// Print the body alone, byte by byte as it came
        #[arg(long)]
        raw: bool,
    },
    /// Read bodies again; what can be read now is applied and leaves the quarantine. Exit code 65 where some
    /// still cannot be read
    Retry {
        /// Their numbers
        #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<i64>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
    /// Delete bodies
    Drop {
        /// Their numbers
        #[arg(value_name = "ID", required = true)]
        ids: Vec<i64>,
    },
}

/// Runs one command; `json` asks for JSON where it prints data.
///
/// # Errors
/// A text for the operator and the exit code.
pub fn run(command: &EventsCommand, config: &Config, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let EventsCommand::Quarantine(command) = command;
    let path = config.store_path();
    let code = match command {
        QuarantineCommand::List => list(&path, json, console),
        QuarantineCommand::Show { id, raw } => show(*id, *raw, &path, json, console),
        QuarantineCommand::Retry { ids, .. } => retry(ids, config, json, console),
        QuarantineCommand::Drop { ids } => drop_bodies(ids, &path, json, console),
    }?;
    console.out.flush()?;
    Ok(code)
}

fn list(path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let Some(reader) = Reader::open_existing(path)? else { return Ok(exit::OK) };
    reader.quarantine(0, |kept| -> Result<(), Failure> {
        match json {
            true => writeln!(console.out, "{}", described(&kept))?,
            false => writeln!(console.out, "{}", in_a_line(&kept))?,
        }
        Ok(())
    })?;
    Ok(exit::OK)
}

fn show(id: i64, raw: bool, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let kept = match Reader::open_existing(path)? {
        Some(reader) => reader.quarantined_body(id)?,
        None => None,
    };
    let kept = kept.ok_or_else(|| no_such(id))?;
    let text = String::from_utf8_lossy(&kept.what.body);
    if raw {
        console.out.write_all(&kept.what.body)?;
    } else if json {
        let mut value = described(&kept);
        value["body"] = text.into();
        writeln!(console.out, "{value}")?;
    } else {
        writeln!(console.out, "{}", in_a_line(&kept))?;
        for line in text.lines() {
            writeln!(console.out, "{}", line.replace(|c: char| c.is_control() && c != '\t', " "))?;
        }
    }
    Ok(exit::OK)
}

/// Each body is on disk with all that it means before it leaves the quarantine: where this is interrupted,
/// the next time finds it there, and its events among those that were seen.
fn retry(ids: &[i64], config: &Config, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let mut desk = Desk::open(config, json, console)?;
    let ids = if ids.is_empty() { all(desk.store())? } else { ids.to_vec() };
    let (mut released, mut code) = (0_u64, exit::OK);
    for id in ids.iter().take_while(|_| !console.signals.told()) {
        let Some(kept) = desk.store().quarantined_body(*id)? else {
            writeln!(console.err, "{}", no_such(*id))?;
            code = code.max(exit::NOT_FOUND);
            continue;
        };
        if let Some(why) = still_unreadable(desk.read(&kept.what.body)) {
            writeln!(console.err, "{id}: {}", shown(&why))?;
            code = exit::DATAERR;
            continue;
        }
        desk.apply(console.err)?;
        desk.store().release_quarantined(*id)?;
        released += 1;
    }
    desk.finish(console.err)?;
    let left = desk.store().quarantined()?;
    if json {
        let mut value = desk.summary_json();
        value["released"] = released.into();
        value["left"] = left.into();
        writeln!(console.out, "{value}")?;
    } else {
        writeln!(console.out, "{released} released, {left} left")?;
    }
    writeln!(console.err, "{}", desk.summary())?;
    Ok(code)
}

/// Why a body stays.
fn still_unreadable(verdict: Verdict) -> Option<String> {
    match verdict {
        Verdict::Event { .. } | Verdict::NotAnEvent(_) => None,
        Verdict::Unreadable { why } => Some(why),
        Verdict::Unknown { what } => Some(format!("an event of an unknown type: {what}")),
        Verdict::Foreign { account } if account.is_empty() => {
            Some("names no account, and gatepost.toml takes only those of events.accounts".to_owned())
        }
        Verdict::Foreign { account } => Some(format!("of the account {account}, which is not in events.accounts")),
    }
}

fn drop_bodies(ids: &[i64], path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let (mut dropped, mut code) = (0_u64, exit::OK);
    if Reader::open_existing(path)?.is_none() {
        return Err(no_such(ids.first().copied().unwrap_or_default()));
    }
    let mut store = console.open_store(path)?;
    for id in ids {
        if store.release_quarantined(*id)? {
            dropped += 1;
        } else {
            writeln!(console.err, "{}", no_such(*id))?;
            code = exit::NOT_FOUND;
        }
    }
    match json {
        true => writeln!(console.out, "{}", json!({ "dropped": dropped }))?,
        false => writeln!(console.out, "{dropped} dropped")?,
    }
    Ok(code)
}

fn all(reader: &Reader) -> Result<Vec<i64>, Failure> {
    let mut ids = Vec::new();
    reader.quarantine(0, |kept| -> Result<(), Failure> {
        ids.push(kept.id);
        Ok(())
    })?;
    Ok(ids)
}

fn no_such(id: i64) -> Failure {
    Failure::new(exit::NOT_FOUND, format!("{id}: no body of this number is kept"))
}

fn in_a_line(kept: &Kept) -> String {
    let Kept { id, at, what, cut } = kept;
    let (size, more) = (what.body.len(), if *cut { " and more" } else { "" });
    format!("{id}  {}  {}  {size} bytes{more}  {}", time::rfc3339(*at), shown(&what.source), shown(&what.why))
}

fn described(kept: &Kept) -> serde_json::Value {
    let Kept { id, at, what, cut } = kept;
    json!({
        "id": id,
        "at": time::rfc3339(*at),
        "source": what.source,
        "why": what.why,
        "bytes": what.body.len(),
        "cut": cut,
    })
}
