//! `gatepost suppress migrate`: this relay's list into a fleet's store, and back.

use super::MigrateArgs;
use crate::cli::exit;
use crate::cli::output::{Console, Failure, write_json};
use crate::daemon::Config;
use crate::daemon::fleet::settings;
use crate::fleet::sync::{Direction, Migrated, migrate};

/// Joins one side into the other, with the daemon up or down.
pub(super) fn run(args: &MigrateArgs, config: &Config, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let (direction, url) = match (&args.to, &args.from) {
        (Some(url), _) => (Direction::Into, url),
        (None, url) => (Direction::OutOf, url.as_ref().unwrap_or(&None)),
    };
    let Some(url) = url.clone().or_else(|| config.fleet.suppression.clone()) else {
        let text = "gatepost.toml names no store of a fleet: name one, such as redis://valkey.internal:6379/0";
        return Err(Failure::new(exit::USAGE, text));
    };
    let settings = settings(config, url.clone()).map_err(|e| Failure::new(exit::NOINPUT, e.to_string()))?;
    // a signal does not tear it: what is done stays, and twice is harmless
    console.signals.hold();
    let migrated = migrate(&settings, direction)
        .map_err(|e| Failure::new(exit::UNAVAILABLE, format!("{url}: {e}; what was done so far stays, try again")))?;
    let Migrated { addresses, changed } = migrated;
    if json {
        write_json(console.out, &migrated)?;
        return Ok(exit::OK);
    }
    let namespace = &config.fleet.namespace;
    match direction {
        Direction::Into => {
            writeln!(
                console.out,
                "{addresses} addresses read here, {changed} changed in {url}, namespace {namespace}"
            )?;
        }
        Direction::OutOf => {
            writeln!(
                console.out,
                "{addresses} addresses read in {url}, namespace {namespace}, {changed} changed here"
            )?;
        }
    }
    Ok(exit::OK)
}
