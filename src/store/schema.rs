//! The schema, its migrations, and how a connection is set up.

use super::StoreError;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::path::Path;
use std::time::Duration;

/// How long a writer waits for another one. A batch of an import holds the lock for well under a
/// second.
pub const BUSY_WAIT: Duration = Duration::from_secs(5);

/// How long a reader waits: in WAL mode only for the moment in which the log is recovered after a
/// crash. Short, because a policy question may stand behind it.
const READ_WAIT: Duration = Duration::from_millis(500);

/// `gate` in ASCII: tells our database from any other.
const APPLICATION_ID: i64 = 0x6761_7465;

/// One step of the schema per element; `PRAGMA user_version` counts the steps that were taken.
///
/// `entry` rows are narrow, and what the index reads stands first, so that loading it does not
/// depend on how long the evidence is. `change` starts with a row that no other database has. `seen` and
/// `soft` are numbered in the order of their time, so that the oldest are found without a search. The ids of
/// `outbox` are given by a counter in `meta`, those of `quarantine` and `late` by SQLite: none ever comes twice.
/// `held` has the columns of `entry` and its evidence, so that the same queries read both. What the fleet asks of a
/// row (`record::Stamp`) is NULL in rows that are older than that step.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE entry (
        id       INTEGER PRIMARY KEY,
        address  TEXT NOT NULL UNIQUE,
        expires  INTEGER,
        created  INTEGER NOT NULL,
        reason   INTEGER NOT NULL,
        source   INTEGER NOT NULL,
        spelling TEXT
    ) STRICT;
    CREATE INDEX entry_expires ON entry (expires) WHERE expires IS NOT NULL;
    CREATE TABLE evidence (
        id   INTEGER PRIMARY KEY REFERENCES entry (id) ON DELETE CASCADE,
        text TEXT NOT NULL
    ) STRICT;
    CREATE TABLE change (
        seq     INTEGER PRIMARY KEY,
        op      INTEGER NOT NULL,
        address TEXT NOT NULL,
        expires INTEGER
    ) STRICT;
    INSERT INTO change (seq, op, address) VALUES (1, 4, hex(randomblob(16)));
    CREATE TABLE removed (
        id      INTEGER PRIMARY KEY,
        address TEXT NOT NULL UNIQUE,
        at      INTEGER NOT NULL,
        until   INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE removed_filter (
        id     INTEGER PRIMARY KEY,
        filter TEXT NOT NULL,
        at     INTEGER NOT NULL,
        until  INTEGER NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE seen (
        id  INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        at  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE soft (
        id        INTEGER PRIMARY KEY,
        delivery  BLOB NOT NULL UNIQUE,
        address   TEXT NOT NULL,
        at        INTEGER NOT NULL,
        mail_time INTEGER NOT NULL,
        expires   INTEGER,
        need      INTEGER NOT NULL,
        within    INTEGER NOT NULL,
        until     INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX soft_address ON soft (address, at);
    CREATE TABLE outbox (
        id       INTEGER PRIMARY KEY,
        at       INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        text     TEXT NOT NULL
    ) STRICT;
    CREATE TABLE quarantine (
        id     INTEGER PRIMARY KEY AUTOINCREMENT,
        digest BLOB NOT NULL UNIQUE,
        at     INTEGER NOT NULL,
        cut    INTEGER NOT NULL,
        source TEXT NOT NULL,
        why    TEXT NOT NULL,
        body   BLOB NOT NULL
    ) STRICT;
    CREATE TABLE held (
        id       INTEGER PRIMARY KEY,
        address  TEXT NOT NULL UNIQUE,
        expires  INTEGER,
        created  INTEGER NOT NULL,
        reason   INTEGER NOT NULL,
        source   INTEGER NOT NULL,
        spelling TEXT,
        text     TEXT
    ) STRICT;
    CREATE TABLE meta (
        name  TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE late (
        id       INTEGER PRIMARY KEY AUTOINCREMENT,
        message  TEXT NOT NULL,
        until    INTEGER NOT NULL,
        at       INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        text     TEXT NOT NULL
    ) STRICT;
    CREATE INDEX late_message ON late (message);
",
    "
    ALTER TABLE entry ADD COLUMN version INTEGER;
    ALTER TABLE entry ADD COLUMN mail_time INTEGER;
    ALTER TABLE entry ADD COLUMN echo INTEGER;
    ALTER TABLE held ADD COLUMN mail_time INTEGER;
    ALTER TABLE held ADD COLUMN echo INTEGER;
    ALTER TABLE removed ADD COLUMN version INTEGER;
    CREATE INDEX removed_until ON removed (until);
    ALTER TABLE change ADD COLUMN fleet INTEGER;
    ALTER TABLE change ADD COLUMN taken INTEGER;
    CREATE TABLE fleet (
        name  TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
",
];

/// The version that brought what events need: the window of what was seen, the outbox, the quarantine, the
/// brake.
pub(super) const EVENTS_SINCE: i64 = 2;

/// The version that brought the lines that wait for their ids.
pub(super) const LATE_SINCE: i64 = 3;

/// Statements that a connection keeps prepared: all that a batch of events uses, and those of the commands.
const KEPT_STATEMENTS: usize = 64;

/// The schema of version 1.
#[cfg(test)]
pub(super) const FIRST_SCHEMA: &str = MIGRATIONS[0];

const KNOWN: i64 = MIGRATIONS.len() as i64;

/// A connection that writes; the file must exist. An empty file becomes a database.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(|e| StoreError::sql(path, &e))?;
    set_up_writer(&mut db).map_err(|e| StoreError::sql(path, &e))?;
    check(&db, path)?;
    migrate(&mut db, path)?;
    Ok(db)
}

/// A connection that only reads. [`StoreError::Missing`] where there is no file or an empty one.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(|e| StoreError::sql(path, &e))?;
    set_up(&db, READ_WAIT).map_err(|e| StoreError::sql(path, &e))?;
    match check(&db, path)? {
        0 => Err(StoreError::Missing { path: path.to_path_buf(), detail: "the file is empty".into() }),
        _ => Ok(db),
    }
}

fn set_up(db: &Connection, wait: Duration) -> rusqlite::Result<()> {
    db.busy_timeout(wait)?;
    // mapped pages of the file would count as the daemon's resident memory
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "cache_size", -2_000)?;
    db.set_prepared_statement_cache_capacity(KEPT_STATEMENTS);
    db.pragma_update(None, "trusted_schema", false)
}

fn set_up_writer(db: &mut Connection) -> rusqlite::Result<()> {
    set_up(db, BUSY_WAIT)?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "journal_size_limit", 64 << 20)
}

/// The schema version; 0 for an empty database.
fn check(db: &Connection, path: &Path) -> Result<i64, StoreError> {
    let number = |name: &str| {
        db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(|e| StoreError::sql(path, &e))
    };
    let (version, application) = (number("user_version")?, number("application_id")?);
    // a database that is empty has no id yet; one with tables must have ours
    let tables = number("schema_version")?;
    if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
        let detail = format!("its application_id is {application:#x}");
        return Err(StoreError::NotADatabase { path: path.to_path_buf(), detail });
    }
    if version > KNOWN {
        return Err(StoreError::TooNew { path: path.to_path_buf(), found: version, known: KNOWN });
    }
    Ok(version)
}

fn migrate(db: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let sql = |e| StoreError::sql(path, &e);
    let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(sql)?;
    if mode != "wal" {
        db.pragma_update(None, "journal_mode", "WAL").map_err(sql)?;
    }
    if check(db, path)? == KNOWN {
        return Ok(());
    }
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    // asked again under the lock: another process may have done it meanwhile
    let done = check(&tx, path)?;
    for step in MIGRATIONS.iter().skip(usize::try_from(done).unwrap_or(0)) {
        tx.execute_batch(step).map_err(sql)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
    tx.pragma_update(None, "user_version", KNOWN).map_err(sql)?;
    tx.commit().map_err(sql)
}
