//! Counters on disk: saved every minute and at the end, brought back at the start.
//!
//! The file is written beside its place, synced and renamed, so that there is a whole one at any
//! time. One that is damaged is not used at all: counters that start afresh let one burst more
//! pass, wrong ones refuse mail.

use super::lock::lock;
use super::savefile::{
    Checksum, HEADER, MAX_HEAD, MAX_RECORD, SavedLimit, Unusable, checked, number_limits, walk, write_end, write_entry,
};
use super::table::{LimitId, OwnedKey, State};
use super::{Key, Meters, gauge_of, nanos};
use crate::rules::{Limit, replace};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Why saved counters were not brought back. The daemon starts with empty ones and says so.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file cannot be read.
    #[error("cannot read the saved counters: {0}")]
    Io(#[from] io::Error),
    /// It is bigger than all keys together could be.
    #[error("the saved counters have more than {0} bytes; they are not used")]
    TooBig(u64),
    /// It is damaged or of another version.
    #[error("the saved counters {0}; they are not used")]
    Unusable(#[from] Unusable),
}

/// Writes all counters of limits in force to `path`; how many. It blocks (about 0.1 s for a
/// million keys, and the disk's time), but holds no lock for longer than one shard is copied.
///
/// # Errors
/// What the file system says; the file that was there stays.
pub fn save(meters: &Meters, path: &Path) -> io::Result<usize> {
    let _one_at_a_time = lock(&meters.saving);
    replace(path, |file| write(meters, file))
}

/// Brings saved counters back; how many. Call [`Meters::adopt`] first: counters of limits that are
/// not in force, idle ones, and unlimited keys are left out, and none is further used up than its
/// limit's burst. No file: none.
///
/// # Errors
/// Where the file cannot be read or used; then no counter was changed.
pub fn restore(meters: &Meters, path: &Path, now: Duration) -> Result<usize, RestoreError> {
    let most = (MAX_HEAD + meters.max_keys.saturating_mul(MAX_RECORD)) as u64;
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(RestoreError::TooBig(most));
    }
    load(meters, &bytes, nanos(now))
}

fn load(meters: &Meters, bytes: &[u8], now: u64) -> Result<usize, RestoreError> {
    let body = checked(bytes)?;
    walk(body, |_| (), |(), _, _| ())?;
    let limits = meters.limits.load();
    let mut restored = 0;
    let in_force = |saved: SavedLimit<'_>| {
        let id = meters.secrets.limit_named(saved.name, saved.key, saved.count);
        limits.get(id).map(|limit| (id, Arc::clone(limit)))
    };
    walk(body, in_force, |limit, key, state| {
        if let Some((id, limit)) = limit {
            restored += usize::from(meters.put_back(*id, limit, &key, state, now));
        }
    })?;
    Ok(restored)
}

impl Meters {
    fn put_back(&self, id: LimitId, limit: &Limit, key: &Key<'_>, state: State, now: u64) -> bool {
        let owned = match *key {
            Key::Net(ip, prefix) => OwnedKey::Net(ip, prefix),
            Key::Text(text) => OwnedKey::Text(text.into()),
            Key::All => OwnedKey::All,
        };
        let Some(gauge) = gauge_of(limit, &owned) else { return false };
        let state = state.with_tat(now.saturating_add(gauge.ahead(state.tat(), now)));
        if state.tat() <= now || self.len() >= self.max_keys {
            return false;
        }
        let at = self.secrets.address(id, key);
        let mut shard = lock(&self.shards[at.shard]);
        if shard.find(&self.secrets, at, key).is_some() {
            return false;
        }
        shard.put(&self.secrets, at, key, state);
        self.keys.fetch_add(1, Ordering::Relaxed);
        true
    }
}

fn write(meters: &Meters, file: &mut File) -> io::Result<usize> {
    let (mut sum, mut keys) = (Checksum::default(), 0);
    let mut put = |part: &mut Vec<u8>| {
        sum.add(part);
        let done = file.write_all(part);
        part.clear();
        done
    };
    let limits = meters.limits.load();
    let mut part = HEADER.to_vec();
    let numbers = number_limits(&limits, &mut part);
    put(&mut part)?;
    for shard in &meters.shards {
        for entry in lock(shard).iter() {
            if let Some(number) = numbers.get(&entry.limit) {
                keys += usize::from(write_entry(*number, entry, &mut part));
            }
        }
        put(&mut part)?;
    }
    write_end(keys, &mut part);
    put(&mut part)?;
    file.write_all(&sum.bytes())?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::meters::Filter;
    use crate::meters::tests::{NOW, all_kinds, charge, limit};
    use crate::rules::KeyKind;
    use crate::rules::rate::Per;
    use proptest::prelude::*;
    use std::fs;

    fn used() -> (Meters, Vec<Arc<Limit>>) {
        let limits = vec![
            limit("clients", KeyKind::ClientAddress, 10, Per::Hour, 10),
            limit("all", KeyKind::All, 5, Per::Day, 5),
        ];
        let meters = Meters::default();
        meters.adopt(&limits);
        for key in all_kinds() {
            let limit = if key == Key::All { &limits[1] } else { &limits[0] };
            meters.charge_all(&[charge(limit, key, 3)], NOW);
        }
        (meters, limits)
    }

    fn saved() -> (Vec<u8>, Meters, Vec<Arc<Limit>>) {
        let (meters, limits) = used();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.state");
        assert_eq!(save(&meters, &path).unwrap(), all_kinds().len());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        (fs::read(&path).unwrap(), meters, limits)
    }

    #[test]
    fn what_was_saved_comes_back() {
        let (meters, limits) = used();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.state");
        save(&meters, &path).unwrap();
        save(&meters, &path).unwrap();
        let new = Meters::default();
        new.adopt(&limits);
        assert_eq!(restore(&new, &path, NOW).unwrap(), all_kinds().len());
        assert_eq!(restore(&new, &path, NOW).unwrap(), 0);
        assert_eq!(new.show(&Filter::default(), NOW), meters.show(&Filter::default(), NOW));
        assert_eq!(new.len(), meters.len());
    }

    #[test]
    fn idle_keys_and_limits_of_the_past_do_not_come_back_and_no_file_is_no_error() {
        let (bytes, _, limits) = saved();
        let (new, later) = (Meters::default(), nanos(NOW + Duration::from_secs(7_200)));
        assert_eq!(load(&new, &bytes, nanos(NOW)).unwrap(), 0);
        new.adopt(&limits);
        assert_eq!(load(&new, &bytes, later).unwrap(), 1);
        assert_eq!(restore(&new, Path::new("/nonexistent/limits.state"), NOW).unwrap(), 0);
    }

    #[test]
    fn absurd_futures_are_cut_to_the_burst() {
        let (bytes, _, limits) = saved();
        let new = Meters::default();
        new.adopt(&limits);
        load(&new, &bytes, nanos(Duration::from_secs(1))).unwrap();
        let shown = new.show(&Filter::default(), Duration::from_secs(1));
        assert!(shown.iter().all(|row| row.used == row.burst), "{shown:?}");
        assert!(new.show(&Filter::default(), Duration::from_secs(2 * 86_400)).is_empty());
    }

    #[test]
    fn a_failed_save_leaves_the_old_file() {
        let (meters, _) = used();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.state");
        fs::create_dir(folder.path().join("limits.new")).unwrap();
        fs::write(&path, "old").unwrap();
        assert!(save(&meters, &path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert!(matches!(restore(&meters, &path, NOW), Err(RestoreError::Unusable(Unusable::Damaged(_)))));
        fs::write(&path, "gatepost limits 2\nsomething").unwrap();
        assert!(matches!(restore(&meters, &path, NOW), Err(RestoreError::Unusable(Unusable::Version))));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_found() {
        let (bytes, _, limits) = saved();
        let new = Meters::default();
        new.adopt(&limits);
        for at in 0..bytes.len() {
            assert!(load(&new, &bytes[..at], nanos(NOW)).is_err());
            let mut broken = bytes.clone();
            broken[at] ^= 0x10;
            assert!(load(&new, &broken, nanos(NOW)).is_err());
        }
        assert!(new.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_in_a_file_is_a_panic(records: Vec<u8>, limits in 0u32..3) {
            let (new, known) = used();
            let mut bytes = [HEADER, &limits.to_le_bytes()].concat();
            for _ in 0..limits {
                bytes.extend_from_slice(&[1, 0, 1, 0, b'x']);
            }
            bytes.extend_from_slice(&records);
            let mut sum = Checksum::default();
            sum.add(&bytes);
            bytes.extend_from_slice(&sum.bytes());
            new.adopt(&known);
            let _ = load(&new, &bytes, nanos(NOW));
            let _ = load(&new, &records, nanos(NOW));
        }
    }
}
