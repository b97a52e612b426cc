//! `gatepost suppress`: the suppression list, with the daemon up or down. A running daemon follows
//! what is changed here within a second, and so do the other relays of its fleet; where it is down, they follow once it
//! starts.

mod brake;
mod import;
mod migrate;
mod record;
mod remove;
mod sources;

use super::exit;
use super::output::{Console, Failure, shown, write_json};
use super::time;
use crate::daemon::Config;
use crate::fleet::StoreUrl;
use crate::mail::{Address, Printable};
use crate::store::{Counts, Entry, Filter, OnExisting, Origin, Reader, Reason};
use record::Record;
use std::io::Write;
use std::path::{Path, PathBuf};

pub use sources::Format;

/// Most bytes of an address's evidence in `list`, which has one line an entry; `show` and `--json`
/// have all of it.
const LIST_EVIDENCE_BYTES: usize = 200;

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
    /// Say whether the brake is on and which entries it holds back; enforce or discard them, which takes it off
    Brake(BrakeArgs),
    /// Read addresses from a file: our CSV or JSON, a plain list, or what
    /// `aws sesv2 list-suppressed-destinations` printed
    Import(ImportArgs),
    /// Write the entries as CSV or JSON, for a backup or another relay
    Export(ExportArgs),
    /// Take this relay's list into the store that a fleet shares, or the fleet's into this relay's; what the other side
    /// knows stays, and twice is harmless
    Migrate(Box<MigrateArgs>),
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
    /// Entries that the brake holds back: recorded, not enforced
    #[arg(long)]
    pub held: bool,
}

/// `add`.
#[derive(Clone, Debug, clap::Args)]
pub struct AddArgs {
    /// The addresses
    #[arg(required = true, value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// What is said of them
    #[command(flatten)]
    pub about: AboutArgs,
}

/// What is said of addresses.
#[derive(Clone, Debug, clap::Args)]
pub struct AboutArgs {
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

/// `brake`.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct BrakeArgs {
    /// Suppress what it holds back
    #[arg(long, conflicts_with = "discard")]
    pub enforce: bool,
    /// Forget what it holds back; an older event cannot bring it back
    #[arg(long)]
    pub discard: bool,
}

/// `import`.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArgs {
    /// The file, or - for standard input
    pub file: PathBuf,
    /// What the file holds; found out from its beginning otherwise
    #[arg(long)]
    pub format: Option<Format>,
    /// What is said of addresses that come without it
    #[command(flatten, next_help_heading = "For addresses that come without")]
    pub about: AboutArgs,
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

/// `migrate`.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(required = true, multiple = false)]
pub struct MigrateArgs {
    /// Into this store, such as redis://valkey.internal:6379/0 [default: that of gatepost.toml]
    #[arg(long, value_name = "URL", num_args = 0..=1)]
    pub to: Option<Option<StoreUrl>>,
    /// Out of this store
    #[arg(long, value_name = "URL", num_args = 0..=1)]
    pub from: Option<Option<StoreUrl>>,
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

/// Runs one command on the database that `config` names; `json` asks for JSON where it prints data.
///
/// # Errors
/// A text for the operator and the exit code.
pub fn run(command: &SuppressCommand, config: &Config, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let path = &config.store_path();
    let code = match command {
        SuppressCommand::List(args) => list(args, path, json, console),
        SuppressCommand::Show { address } => show(address, path, json, console),
        SuppressCommand::Add(args) => add(args, path, json, console),
        SuppressCommand::Remove(args) => remove::run(args, path, json, console),
        SuppressCommand::Brake(args) => brake::run(*args, path, json, console),
        SuppressCommand::Import(args) => import::run(args, path, json, console),
        SuppressCommand::Export(args) => export(args, path, json, console),
        SuppressCommand::Migrate(args) => migrate::run(args, config, json, console),
    }?;
    console.out.flush()?;
    Ok(code)
}

fn list(args: &ListArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let filter = args.filter.in_force(console.now)?;
    let Some(reader) = open_existing(path, console)? else { return Ok(0) };
    if args.held {
        brake::list(&reader, &filter, args.limit, json, console.out)?;
        return Ok(0);
    }
    reader.scan(&filter, args.limit, |entry| write_entry(&entry, json, console.out))?;
    Ok(0)
}

/// One line.
fn write_entry(entry: &Entry, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    match json {
        true => write_json(out, &Record::from(entry))?,
        false => writeln!(out, "{}", in_a_line(entry))?,
    }
    Ok(())
}

fn show(address: &str, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let address = parse(address)?;
    let (found, held) = match open_existing(path, console)? {
        Some(reader) => (reader.get(address.as_str())?, reader.held_entry(address.as_str())?),
        None => (None, None),
    };
    let (in_force, held) =
        (found.as_ref().filter(|e| e.in_force(console.now)), held.filter(|e| e.in_force(console.now)));
    if let Some(entry) = in_force.or(held.as_ref()) {
        match json {
            true => write_json(console.out, &Record::from(entry))?,
            false => write!(console.out, "{}", in_full(entry))?,
        }
        if in_force.is_some() {
            return Ok(0);
        }
    }
    let address = shown(address.as_str());
    Err(Failure::new(
        1,
        match (held, found) {
            (Some(_), _) => format!("{address}: not suppressed; recorded, not enforced: the brake is on"),
            (None, Some(Entry { expires: Some(at), .. })) => {
                format!("{address}: not suppressed; its entry expired at {}", time::rfc3339(at))
            }
            _ => format!("{address}: not suppressed"),
        },
    ))
}

fn add(args: &AddArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let AddArgs { addresses, about } = args;
    let expires = about.expires(console.now)?;
    let entry = |text: &String| -> Result<Entry, Failure> {
        Ok(Entry {
            address: parse(text)?,
            spelling: Some(record::spelling(text)),
            reason: about.reason,
            evidence: about.note.clone().unwrap_or_default(),
            source: Origin::Cli,
            created: console.now,
            expires,
        })
    };
    let entries: Vec<Entry> = addresses.iter().map(entry).collect::<Result<_, _>>()?;
    let counts = console.open_store(path)?.put(&entries, OnExisting::Replace, console.now)?;
    match json {
        true => write_json(console.out, &counts)?,
        false => writeln!(console.out, "{}", in_words(counts))?,
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
            Ok(write_json(console.out, &Record::from(&entry))?)
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
            let wrong = |e| usage(format!("--domain {}: {e}", shown(d)));
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

impl AboutArgs {
    fn expires(&self, now: i64) -> Result<Option<i64>, Failure> {
        match self.ttl.as_str() {
            "never" => Ok(None),
            ttl => match time::seconds(ttl) {
                Ok(seconds) => Ok(Some(now.saturating_add(seconds))),
                Err(e) => Err(Failure::new(exit::USAGE, format!("--ttl: {e}, or \"never\""))),
            },
        }
    }
}

/// The database, or a note that there is none yet: an empty list is no error.
fn open_existing(path: &Path, console: &mut Console<'_>) -> Result<Option<Reader>, Failure> {
    let reader = Reader::open_existing(path)?;
    if reader.is_none() {
        let path = path.display();
        writeln!(console.err, "{path}: no database yet, the list is empty (the daemon or \"add\" makes it)")?;
    }
    Ok(reader)
}

fn parse(text: &str) -> Result<Address, Failure> {
    Address::parse(text).map_err(|e| Failure::new(exit::USAGE, format!("{}: {e}", shown(text))))
}

fn in_a_line(entry: &Entry) -> String {
    let until = entry.expires.map_or_else(|| "never".to_owned(), time::rfc3339);
    let evidence = Printable::new(entry.evidence.as_bytes(), LIST_EVIDENCE_BYTES);
    let line = format!(
        "{}  {}  {}  since {}  expires {until}  {evidence}",
        shown(entry.address.as_str()),
        entry.reason,
        entry.source,
        time::rfc3339(entry.created)
    );
    line.trim_end().to_owned()
}

fn in_full(entry: &Entry) -> String {
    format!(
        "address:  {}\nwritten:  {}\nreason:   {}\nsource:   {}\ncreated:  {}\nexpires:  {}\nevidence: {}\n",
        shown(entry.address.as_str()),
        shown(entry.original()),
        entry.reason,
        entry.source,
        time::rfc3339(entry.created),
        entry.expires.map_or_else(|| "never".to_owned(), time::rfc3339),
        shown(&entry.evidence)
    )
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

fn in_words(counts: Counts) -> String {
    format!("{} added, {} renewed, {} unchanged", counts.added, counts.renewed, counts.unchanged)
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
}
