//! Locks that are held for less than a microsecond.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock on cache lines of its own, so that two do not stand in each other's way: two lines, for
/// the processor fetches them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Apart<T>(Mutex<T>);

impl<T> Deref for Apart<T> {
    type Target = Mutex<T>;

    fn deref(&self) -> &Mutex<T> {
        &self.0
    }
}

/// A panic while a shard was locked leaves whole counters behind: each write is one number.
#[inline]
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
