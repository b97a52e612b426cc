//! Waiting for a condition, with a deadline.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long anything may take that has no bound of its own: a loaded machine is no failure.
pub const LONG: Duration = Duration::from_secs(60);

/// A time that is promised, on a machine that does other things too: up to twice as long where all the last ten seconds
/// something waited for a core or a disk.
pub fn promised(time: Duration) -> Duration {
    time.mul_f64(1.0 + pressure("cpu").max(pressure("io")))
}

/// The share of the last ten seconds in which something waited, as the kernel tells it (if it does).
fn pressure(of: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/pressure/{of}")).unwrap_or_default();
    let percent = text.strip_prefix("some avg10=").and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    percent.unwrap_or(0.0) / 100.0
}

/// Asks `get` every 5 ms until it gives something; panics with `what` after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut get: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = get() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Asks until `holds`; gives the time after which the question that found it so was asked. (What a reply of
/// Postfix takes besides, such as a process and a queue file at the first accepted recipient, is not counted.)
pub fn true_within(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    until(what, limit, || {
        let asked = start.elapsed();
        holds().then_some(asked)
    })
}
