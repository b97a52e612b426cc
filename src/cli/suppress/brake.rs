//! `gatepost suppress brake`: what the brake holds back, and what becomes of it.

use super::{BrakeArgs, entries, open_existing, write_entry};
use crate::cli::output::{Console, Failure};
use crate::cli::time;
use crate::store::{BrakeState, Filter, Reader};
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Shows the brake, or enforces or discards what it holds back.
pub(super) fn run(args: BrakeArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let Some(reader) = open_existing(path, console)? else { return Ok(0) };
    if !args.enforce && !args.discard {
        return show(&reader, json, console);
    }
    drop(reader);
    let mut store = console.open_store(path)?;
    let (count, word) = match args.enforce {
        true => (store.enforce_held(console.now)?, "enforced"),
        false => (store.discard_held(console.now)?, "discarded"),
    };
    match json {
        true => writeln!(console.out, "{}", json!({ word: count }))?,
        false => writeln!(console.out, "{} {word}; the brake is off", entries(count))?,
    }
    Ok(0)
}

/// Writes the entries that are held back and that `filter` means, one a line.
pub(super) fn list(
    reader: &Reader,
    filter: &Filter,
    limit: Option<u64>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    reader.held(|entry| {
        if left == 0 || !filter.matches(&entry) {
            return Ok(());
        }
        left -= 1;
        write_entry(&entry, json, out)
    })
}

fn show(reader: &Reader, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let BrakeState { since, held } = reader.brake()?;
    if json {
        let since = since.map(time::rfc3339);
        writeln!(console.out, "{}", json!({ "on": since.is_some(), "since": since, "held": held }))?;
        return Ok(0);
    }
    match since {
        Some(since) => writeln!(console.out, "on since {}, {} held back", time::rfc3339(since), entries(held))?,
        None if held > 0 => writeln!(console.out, "off, {} still held back", entries(held))?,
        None => writeln!(console.out, "off")?,
    }
    list(reader, &Filter::default(), None, false, console.out)?;
    if since.is_some() || held > 0 {
        writeln!(console.err, "to suppress them: gatepost suppress brake --enforce; to forget them: --discard")?;
    }
    Ok(0)
}
