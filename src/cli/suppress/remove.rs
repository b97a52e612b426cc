//! `gatepost suppress remove`: off our list, and a word about the one that SES keeps itself.

use super::{RemoveArgs, entries, open_existing, parse};
use crate::cli::exit;
use crate::cli::output::{Console, Failure, shown};
use crate::mail::Address;
use crate::store::Entry;
use std::fmt;
use std::io::Write;
use std::path::Path;

/// Removes what is named or filtered.
pub(super) fn run(args: &RemoveArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let filter = args.filter.parse(console.now)?;
    match (args.addresses.is_empty(), filter.is_empty(), args.all) {
        (false, true, false) => return named(args, path, json, console),
        (true, false, false) | (true, true, true) => {}
        (true, true, false) => {
            return Err(Failure::new(exit::USAGE, "name addresses, a filter such as --reason or --since, or --all"));
        }
        _ => {
            return Err(Failure::new(exit::USAGE, "addresses, filters and --all do not go together: give one of them"));
        }
    }
    let Some(reader) = open_existing(path, console)? else { return Ok(0) };
    let count = reader.count(&filter)?;
    drop(reader);
    if args.dry_run {
        report(console, json, "would_remove", count, format_args!("would remove {}", entries(count)))?;
        return Ok(0);
    }
    if args.all && !args.yes && !sure(count, console)? {
        writeln!(console.err, "nothing was removed")?;
        return Ok(0);
    }
    let removed = console.open_store(path)?.remove_matching(&filter, console.now)?;
    let count = removed.entries;
    report(console, json, "removed", count, format_args!("removed {}", entries(count)))?;
    if removed.may_stand_at_ses > 0 {
        writeln!(
            console.err,
            "{} of them for a bounce or a complaint: these may still stand on SES's own account list, which is not \
             changed from here. For each address that should get mail again:\n  {}",
            removed.may_stand_at_ses,
            ses_command("ADDRESS")
        )?;
    }
    Ok(0)
}

fn named(args: &RemoveArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let addresses: Vec<Address> = args.addresses.iter().map(|a| parse(a)).collect::<Result<_, _>>()?;
    if args.dry_run {
        let Some(reader) = open_existing(path, console)? else { return Ok(0) };
        let mut count = 0;
        for address in &addresses {
            count += u64::from(reader.get(address.as_str())?.is_some());
        }
        report(console, json, "would_remove", count, format_args!("would remove {}", entries(count)))?;
        return Ok(0);
    }
    let mut store = console.open_store(path)?;
    let held = addresses.iter().map(|a| store.held_entry(a.as_str())).collect::<Result<Vec<_>, _>>()?;
    let removed = store.remove(&addresses, console.now)?;
    let count = removed.iter().flatten().count() as u64;
    report(console, json, "removed", count, format_args!("removed {}", entries(count)))?;
    for (((address, written), old), held) in addresses.iter().zip(&args.addresses).zip(&removed).zip(&held) {
        tell(console.err, address, written, old.as_ref(), held.as_ref())?;
    }
    Ok(0)
}

/// What happened to one address. An address that had no entry may stand on SES's list all the same: events can
/// have been lost, or be older than this list.
fn tell(
    err: &mut dyn Write,
    address: &Address,
    written: &str,
    old: Option<&Entry>,
    held: Option<&Entry>,
) -> Result<(), Failure> {
    let address = shown(address.as_str());
    match (old, held) {
        (None, None) => writeln!(err, "{address}: was not on the list")?,
        (None, Some(_)) => writeln!(err, "{address}: was held back by the brake, and is forgotten")?,
        (Some(_), _) => {}
    }
    let known = old.or(held);
    if known.is_none_or(|entry| entry.reason.may_stand_at_ses()) {
        let spelling = known.map_or_else(|| super::record::spelling(written), |entry| entry.original().to_owned());
        writeln!(
            err,
            "{address} may still stand on SES's own account list, which is not changed from here:\n  {}",
            ses_command(&spelling)
        )?;
    }
    Ok(())
}

fn sure(count: u64, console: &mut Console<'_>) -> Result<bool, Failure> {
    if !console.input_is_terminal {
        let text = "--all removes the whole list and there is no terminal to ask on: give --yes as well";
        return Err(Failure::new(exit::USAGE, text));
    }
    console.confirm(&format!("Remove all {}?", entries(count)))
}

fn report(
    console: &mut Console<'_>,
    json: bool,
    key: &str,
    count: u64,
    words: fmt::Arguments<'_>,
) -> Result<(), Failure> {
    match json {
        true => writeln!(console.out, "{{\"{key}\":{count}}}")?,
        false => writeln!(console.out, "{words}")?,
    }
    Ok(())
}

/// The command that takes an address off SES's own list, quoted for a shell.
fn ses_command(address: &str) -> String {
    let address = shown(address);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"@._+".contains(&b);
    let address = match address.as_str() {
        // a minus at the beginning would be taken for an option
        a if a.bytes().all(plain) => format!(" {a}"),
        a => format!("='{}'", a.replace('\'', r"'\''")),
    };
    format!("aws sesv2 delete-suppressed-destination --email-address{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_ses_is_quoted_for_a_shell() {
        let command = "aws sesv2 delete-suppressed-destination --email-address";
        assert_eq!(ses_command("User@Example.com"), format!("{command} User@Example.com"));
        assert_eq!(ses_command("-o'x$(id)@a.b"), format!(r"{command}='-o'\''x$(id)@a.b'"));
    }
}
