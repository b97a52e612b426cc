//! The charges of a question, as the store counts them: the names of the counters, the arguments of the script, and
//! what it says. Pure.

use super::Keys;
use crate::meters::{Charge, Key, Outcome, Refused, Why};
use crate::rules::{KeyKind, Limit, Mode, Rate};
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

/// The script. It is the store's to run: all of a question at once, or nothing.
pub const CHARGE: &str = include_str!("charge.lua");

/// Longer texts are kept as their SHA-256: what is no address may be long (as in the table of one relay).
const MAX_TEXT: usize = 320;

/// How many of the script's units of time a second has.
pub(super) const TICKS: u64 = 16_000_000;

/// Unix time at the beginning of the script's, in seconds.
const EPOCH: u64 = 1_735_689_600;

/// The script's time at a time of the store's.
pub(super) fn time(seconds: u64, micros: u64) -> u64 {
    seconds.saturating_sub(EPOCH).saturating_mul(TICKS) + micros * (TICKS / 1_000_000)
}

/// A rate, as the script counts by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// The time in which one cell comes back, in ticks, rounded up: never more than the rate is granted.
    pub(super) period: u64,
    pub(super) burst: u64,
}

impl Pace {
    pub(super) fn of(rate: Rate) -> Self {
        let period = (rate.per.seconds() * TICKS).div_ceil(u64::from(rate.count.max(1)));
        Self { period, burst: u64::from(rate.burst().max(1)) }
    }
}

/// What all counters of a limit begin with.
pub(super) fn counters_of(keys: &Keys, limit: &Limit) -> String {
    keys.of(&format!("limit:{}:{}:{}:", limit.name, limit.key.as_str(), limit.count.as_str()))
}

/// The names of the counters of `charges`, and the arguments of the script.
#[must_use]
pub fn arguments(keys: &Keys, charges: &[Charge<'_>]) -> (Vec<Vec<u8>>, Vec<u64>) {
    let mut arguments = Vec::with_capacity(4 * charges.len());
    let name = |charge: &Charge<'_>| {
        let mut name = counters_of(keys, charge.limit).into_bytes();
        write_key(&charge.key, &mut name);
        name
    };
    for charge in charges {
        let Pace { period, burst } = Pace::of(charge.rate);
        arguments.extend([period, burst, charge.n.into(), u64::from(charge.limit.mode == Mode::Enforce)]);
    }
    (charges.iter().map(name).collect(), arguments)
}

/// The key that a counter of `limit` is named after; `None` where no charge names one so.
pub(super) fn key_of<'a>(limit: &Limit, named: &'a [u8]) -> Option<Key<'a>> {
    match limit.key {
        KeyKind::ClientAddress | KeyKind::ClientNetwork => {
            let text = std::str::from_utf8(named).ok()?;
            let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
            Some(Key::Net(net.addr(), net.prefix_len()))
        }
        KeyKind::All => (named == b"all").then_some(Key::All),
        _ => Some(Key::Text(named)),
    }
}

fn write_key(key: &Key<'_>, out: &mut Vec<u8>) {
    match *key {
        Key::Text(text) if text.len() <= MAX_TEXT => out.extend_from_slice(text),
        Key::Text(text) => {
            let mut hex = String::from("sha256:");
            for byte in Sha256::digest(text) {
                // Writing to a String does not fail.
                let _ = write!(hex, "{byte:02x}");
            }
            out.extend_from_slice(hex.as_bytes());
        }
        Key::Net(..) | Key::All => out.extend_from_slice(key.to_string().as_bytes()),
    }
}

/// The same for a charge that is none, by which a connection shows that it can count.
pub(super) fn proof(keys: &Keys) -> (Vec<Vec<u8>>, Vec<u64>) {
    (vec![keys.of("proof").into_bytes()], vec![1, TICKS, 1, 0])
}

/// What the script said about so many charges; `None` where it cannot have been this one.
#[must_use]
pub fn outcome(said: &[i64], charges: usize) -> Option<Outcome> {
    let mut outcome = Outcome::default();
    if !said.len().is_multiple_of(3) {
        return None;
    }
    for three in said.chunks_exact(3) {
        let index = usize::try_from(three[0]).ok().filter(|index| *index < charges)?;
        let refused = |why| Refused { index, why };
        match three[1] {
            0 => outcome.refused = Some(refused(Why::Later(ticks(three[2])))),
            1 => outcome.refused = Some(refused(Why::NeverFits)),
            2 => outcome.observed.push(refused(Why::Later(ticks(three[2])))),
            3 => outcome.observed.push(refused(Why::NeverFits)),
            4 => outcome.warned.push(index),
            _ => return None,
        }
    }
    if outcome.refused.is_some() {
        outcome.warned.clear();
    }
    Some(outcome)
}

/// A time of the script's; negative is none.
pub(super) fn ticks(ticks: i64) -> Duration {
    let ticks = u128::from(u64::try_from(ticks).unwrap_or(0));
    Duration::from_nanos(u64::try_from((ticks * 1_000_000_000).div_ceil(u128::from(TICKS))).unwrap_or(u64::MAX))
}
