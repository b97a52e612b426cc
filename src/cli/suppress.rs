//! `gatepost suppress`: the suppression list, with the daemon up or down. A running daemon follows
//! what is changed here within a second.

mod import;
mod record;
mod sources;

use super::exit;
use super::output::{Console, Failure};
use super::time;
use crate::mail::{Address, Printable};
use crate::store::{Counts, Entry, Filter, OnExisting, Origin, Reader, Reason, Store, StoreError};
use record::Record;
use std::path::{Path, PathBuf};

pub use sources::Format;

/// Most bytes of an address's evidence in `list`, which has one line an entry; `show` and `--json`
/// have all of it.
const LIST_EVIDENCE_BYTES: usize = 200;

/// Most bytes of what a text from outside may take on the terminal.
const PRINT_BYTES: usize = 4_000;

/// What to do with the suppression list.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SuppressCommand {
    /// Print the entries, oldest first
    List(ListArgs),
    /// Print everything about one address; exit code 1 where it is not suppressed
    Show {
        /// The address
        address: String,
    },
    /// Suppress addresses
    Add(AddArgs),
    /// Take addresses off the list, named or by filter; an older event cannot bring them back
    Remove(RemoveArgs),
    /// Read addresses from a file: our CSV or JSON, a plain list, or what
    /// `aws sesv2 list-suppressed-destinations` printed
    Import(ImportArgs),
    /// Write the entries as CSV or JSON, for a backup or another relay
    Export(ExportArgs),
}

/// Which entries are meant; all parts that are given must hold.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FilterArgs {
    /// Only entries for this reason (may be given several times)
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<Reason>,
    /// Only addresses of this domain, without its subdomains
    #[arg(long)]
    pub domain: Option<String>,
    /// Only entries created at or after: a date, an RFC 3339 time, or so long ago (7d)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only entries created before: a date, an RFC 3339 time, or so long ago (7d)
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only entries that came from here: cli, import or event
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<Origin>,
    /// Only entries whose evidence contains this, in either case
    #[arg(long)]
    pub text: Option<String>,
}

/// `list`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ListArgs {
    /// Which entries
    #[command(flatten)]
    pub filter: FilterArgs,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

/// `add`.
#[derive(Clone, Debug, clap::Args)]
pub struct AddArgs {
    /// The addresses
    #[arg(required = true, value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Why: manual, bounce, complaint, global_list or mailbox_full
    #[arg(long, default_value = "manual")]
    pub reason: Reason,
    /// A note, or the text of the bounce; the refusal quotes it
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// For how long, such as 14d, or "never" (no end)
    #[arg(long, value_name = "TIME", default_value = "never")]
    pub ttl: String,
}

/// `remove`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RemoveArgs {
    /// The addresses
    #[arg(value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Which entries
    #[command(flatten)]
    pub filter: FilterArgs,
    /// The whole list
    #[arg(long)]
    pub all: bool,
    /// Only say how many entries would go
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// `import`.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArgs {
    /// The file, or - for standard input
    pub file: PathBuf,
    /// What the file holds; found out from its beginning otherwise
    #[arg(long)]
    pub format: Option<Format>,
    /// The reason of addresses that come without one
    #[arg(long, default_value = "manual")]
    pub reason: Reason,
    /// The note of addresses that come without one
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// For how long, for addresses that come without an expiry: such as 14d, or "never"
    #[arg(long, value_name = "TIME", default_value = "never")]
    pub ttl: String,
}

/// `export`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ExportArgs {
    /// Which entries
    #[command(flatten)]
    pub filter: FilterArgs,
    /// csv, or json (one object a line)
    #[arg(long, default_value = "csv")]
    pub format: ExportFormat,
}

/// What `export` writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// Comma-separated values with a line of names.
    #[default]
    Csv,
    /// One object a line.
    Json,
}

/// Runs one command on the database at `path`; `json` asks for JSON where it prints data.
///
/// # Errors
/// A text for the operator and the exit code.
pub fn run(command: &SuppressCommand, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let code = match command {
        SuppressCommand::List(args) => list(args, path, json, console),
        SuppressCommand::Show { address } => show(address, path, json, console),
        SuppressCommand::Add(args) => add(args, path, json, console),
        SuppressCommand::Remove(args) => remove(args, path, json, console),
        SuppressCommand::Import(args) => import::run(args, path, json, console),
        SuppressCommand::Export(args) => export(args, path, json, console),
    }?;
    console.out.flush()?;
    Ok(code)
}

fn list(args: &ListArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let filter = args.filter.in_force(console.now)?;
    let Some(reader) = open_existing(path, console)? else { return Ok(0) };
    reader.scan(&filter, args.limit, |entry| -> Result<(), Failure> {
        match json {
            true => Record::from(&entry).write_json(console.out)?,
            false => writeln!(console.out, "{}", in_a_line(&entry))?,
        }
        Ok(())
    })?;
    Ok(0)
}

fn show(address: &str, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let address = parse(address)?;
    let found = match open_existing(path, console)? {
        Some(reader) => reader.get(address.as_str())?,
        None => None,
    };
    match found {
        Some(entry) if entry.in_force(console.now) => {
            match json {
                true => Record::from(&entry).write_json(console.out)?,
                false => write!(console.out, "{}", in_full(&entry))?,
            }
            Ok(0)
        }
        Some(Entry { expires: Some(at), .. }) => {
            let (address, at) = (printable(address.as_str()), time::rfc3339(at));
            Err(Failure::new(1, format!("{address}: not suppressed; its entry expired at {at}")))
        }
        _ => Err(Failure::new(1, format!("{}: not suppressed", printable(address.as_str())))),
    }
}

fn add(args: &AddArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let expires = expiry(&args.ttl, console.now)?;
    let entry = |text: &String| -> Result<Entry, Failure> {
        Ok(Entry {
            address: parse(text)?,
            spelling: Some(record::spelling(text)),
            reason: args.reason,
            evidence: args.note.clone().unwrap_or_default(),
            source: Origin::Cli,
            created: console.now,
            expires,
        })
    };
    let entries: Vec<Entry> = args.addresses.iter().map(entry).collect::<Result<_, _>>()?;
    let counts = Store::open(path)?.put(&entries, OnExisting::Replace, console.now)?;
    match json {
        true => writeln!(console.out, "{}", counts_json(counts))?,
        false => writeln!(console.out, "{}", in_words(counts))?,
    }
    Ok(0)
}

fn remove(args: &RemoveArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let filter = args.filter.parse(console.now)?;
    match (args.addresses.is_empty(), filter.is_empty(), args.all) {
        (false, true, false) => return remove_named(args, path, json, console),
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
        report_removed(console, json, "would_remove", count, format_args!("would remove {}", entries(count)))?;
        return Ok(0);
    }
    if args.all && !args.yes && !sure(count, console)? {
        writeln!(console.err, "nothing was removed")?;
        return Ok(0);
    }
    let removed = Store::open(path)?.remove_matching(&filter, console.now)?;
    let count = removed.entries;
    report_removed(console, json, "removed", count, format_args!("removed {}", entries(count)))?;
    if removed.bounces_and_complaints > 0 {
        writeln!(
            console.err,
            "{} of them for a bounce or a complaint: these may still stand on SES's own account list, which is not \
             changed from here. For each address that should get mail again:\n  {}",
            removed.bounces_and_complaints,
            ses_command("ADDRESS")
        )?;
    }
    Ok(0)
}

fn remove_named(args: &RemoveArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let addresses: Vec<Address> = args.addresses.iter().map(|a| parse(a)).collect::<Result<_, _>>()?;
    if args.dry_run {
        let Some(reader) = open_existing(path, console)? else { return Ok(0) };
        let mut count = 0;
        for address in &addresses {
            count += u64::from(reader.get(address.as_str())?.is_some());
        }
        report_removed(console, json, "would_remove", count, format_args!("would remove {}", entries(count)))?;
        return Ok(0);
    }
    let removed = Store::open(path)?.remove(&addresses, console.now)?;
    let count = removed.iter().flatten().count() as u64;
    report_removed(console, json, "removed", count, format_args!("removed {}", entries(count)))?;
    for (address, old) in addresses.iter().zip(&removed) {
        match old {
            None => writeln!(console.err, "{}: was not on the list", printable(address.as_str()))?,
            Some(entry) if matches!(entry.reason, Reason::Bounce | Reason::Complaint) => writeln!(
                console.err,
                "{} may still stand on SES's own account list, which is not changed from here:\n  {}",
                printable(address.as_str()),
                ses_command(entry.original())
            )?,
            Some(_) => {}
        }
    }
    Ok(0)
}

fn export(args: &ExportArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let filter = args.filter.in_force(console.now)?;
    let Some(reader) = open_existing(path, console)? else { return Ok(0) };
    let len = if console.err_is_terminal { Some(reader.count(&filter)?) } else { None };
    let progress = console.progress(len, false);
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress.at(done, String::new);
    };
    if json || args.format == ExportFormat::Json {
        reader.scan(&filter, None, |entry| -> Result<(), Failure> {
            step();
            Ok(Record::from(&entry).write_json(console.out)?)
        })?;
        return Ok(0);
    }
    let mut csv = csv::Writer::from_writer(&mut *console.out);
    csv.write_record(record::COLUMNS).map_err(record::csv_failure)?;
    reader.scan(&filter, None, |entry| -> Result<(), Failure> {
        step();
        Record::from(&entry).write_csv(&mut csv)
    })?;
    csv.flush()?;
    Ok(0)
}

impl FilterArgs {
    /// The filter that was asked for.
    fn parse(&self, now: i64) -> Result<Filter, Failure> {
        let usage = |text: String| Failure::new(exit::USAGE, text);
        let point = |text: &Option<String>| text.as_deref().map(|t| time::point(t, now)).transpose();
        let domain = self.domain.as_deref().map(|d| {
            let wrong = |e| usage(format!("--domain {}: {e}", printable(d)));
            Address::parse(&format!("x@{}", d.trim_start_matches('@'))).map(|a| a.domain().to_owned()).map_err(wrong)
        });
        Ok(Filter {
            reasons: self.reason.clone(),
            domain: domain.transpose()?,
            source: self.source,
            since: point(&self.since).map_err(usage)?,
            until: point(&self.until).map_err(usage)?,
            text: self.text.clone().filter(|t| !t.is_empty()),
            in_force_at: None,
        })
    }

    fn in_force(&self, now: i64) -> Result<Filter, Failure> {
        Ok(Filter { in_force_at: Some(now), ..self.parse(now)? })
    }
}

/// The database, or a note that there is none yet: an empty list is no error.
fn open_existing(path: &Path, console: &mut Console<'_>) -> Result<Option<Reader>, Failure> {
    match Reader::open(path) {
        Ok(reader) => Ok(Some(reader)),
        Err(StoreError::Missing { .. }) => {
            let path = path.display();
            writeln!(console.err, "{path}: no database yet, the list is empty (the daemon or \"add\" makes it)")?;
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

fn parse(text: &str) -> Result<Address, Failure> {
    Address::parse(text).map_err(|e| Failure::new(exit::USAGE, format!("{}: {e}", printable(text))))
}

fn expiry(ttl: &str, now: i64) -> Result<Option<i64>, Failure> {
    match ttl {
        "never" => Ok(None),
        _ => match time::seconds(ttl) {
            Ok(seconds) => Ok(Some(now.saturating_add(seconds))),
            Err(e) => Err(Failure::new(exit::USAGE, format!("--ttl: {e}, or \"never\""))),
        },
    }
}

fn sure(count: u64, console: &mut Console<'_>) -> Result<bool, Failure> {
    if !console.input_is_terminal {
        let text = "--all removes the whole list and there is no terminal to ask on: give --yes as well";
        return Err(Failure::new(exit::USAGE, text));
    }
    console.confirm(&format!("Remove all {}?", entries(count)))
}

fn report_removed(
    console: &mut Console<'_>,
    json: bool,
    key: &str,
    count: u64,
    words: std::fmt::Arguments<'_>,
) -> Result<(), Failure> {
    match json {
        true => writeln!(console.out, "{{\"{key}\":{count}}}")?,
        false => writeln!(console.out, "{words}")?,
    }
    Ok(())
}

/// The command that takes an address off SES's own list, quoted for a shell.
fn ses_command(address: &str) -> String {
    let address = printable(address);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"@._+".contains(&b);
    let address = match address.as_str() {
        // a minus at the beginning would be taken for an option
        a if a.bytes().all(plain) => format!(" {a}"),
        a => format!("='{}'", a.replace('\'', r"'\''")),
    };
    format!("aws sesv2 delete-suppressed-destination --email-address{address}")
}

fn in_a_line(entry: &Entry) -> String {
    let until = entry.expires.map_or_else(|| "never".to_owned(), time::rfc3339);
    let evidence = Printable::new(entry.evidence.as_bytes(), LIST_EVIDENCE_BYTES);
    let line = format!(
        "{}  {}  {}  since {}  expires {until}  {evidence}",
        printable(entry.address.as_str()),
        entry.reason,
        entry.source,
        time::rfc3339(entry.created)
    );
    line.trim_end().to_owned()
}

fn in_full(entry: &Entry) -> String {
    format!(
        "address:  {}\nwritten:  {}\nreason:   {}\nsource:   {}\ncreated:  {}\nexpires:  {}\nevidence: {}\n",
        printable(entry.address.as_str()),
        printable(entry.original()),
        entry.reason,
        entry.source,
        time::rfc3339(entry.created),
        entry.expires.map_or_else(|| "never".to_owned(), time::rfc3339),
        printable(&entry.evidence)
    )
}

fn printable(text: &str) -> Printable {
    Printable::new(text.as_bytes(), PRINT_BYTES)
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

fn in_words(counts: Counts) -> String {
    format!("{} added, {} renewed, {} unchanged", counts.added, counts.renewed, counts.unchanged)
}

fn counts_json(counts: Counts) -> String {
    format!("{{\"added\":{},\"renewed\":{},\"unchanged\":{}}}", counts.added, counts.renewed, counts.unchanged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: SuppressCommand,
    }

    #[test]
    fn the_arguments_are_read() {
        Line::command().debug_assert();
        let line = ["suppress", "list", "--reason", "bounce", "--reason", "global-list", "--source", "event"];
        let SuppressCommand::List(list) = Line::try_parse_from(line).expect("good").command else { panic!("not list") };
        assert_eq!(list.filter.reason, [Reason::Bounce, Reason::GlobalList]);
        let wrong = Line::try_parse_from(["suppress", "list", "--reason", "spam"]).expect_err("no such reason");
        assert!(wrong.to_string().contains("\"spam\" is no reason: expected one of bounce, global_list"), "{wrong}");
    }

    #[test]
    fn the_command_for_ses_is_quoted_for_a_shell() {
        let command = "aws sesv2 delete-suppressed-destination --email-address";
        assert_eq!(ses_command("User@Example.com"), format!("{command} User@Example.com"));
        assert_eq!(ses_command("-o'x$(id)@a.b"), format!(r"{command}='-o'\''x$(id)@a.b'"));
    }
}
