//! Measurements, to be asked for: `cargo test --release --lib meters:: -- --ignored --nocapture --test-threads 1`.

#![allow(clippy::unwrap_used)]

use super::tests::{MONTH, NOW, charge, limit, sweep_all};
use super::*;
use crate::rules::KeyKind;
use crate::rules::rate::Per;

/// Nanoseconds of processor time that this thread took: other work on the machine does not count.
pub(super) fn cpu_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}

#[test]
#[ignore = "a measurement"]
fn measure_charge_all() {
    const CLIENTS: u32 = 100_000;
    let meters = Meters::default();
    let limits = [
        limit("per-client", KeyKind::ClientAddress, 100_000, Per::Second, 100_000),
        limit("per-sender", KeyKind::Sender, 100_000, Per::Second, 100_000),
        limit("all", KeyKind::All, 4_000_000, Per::Second, 4_000_000),
    ];
    let senders: Vec<String> = (0..CLIENTS).map(|i| format!("sender{i}@example{}.com", i % 100)).collect();
    meters.adopt(&limits);
    for round in 0..5 {
        let start = cpu_nanos();
        let mut i = 0u32;
        for step in 0..CLIENTS {
            i = (i + 61_051) % CLIENTS;
            let charges: SmallVec<[Charge<'_>; 4]> = smallvec::smallvec![
                charge(&limits[0], Key::Net(std::net::Ipv4Addr::from(i).into(), 32), 1),
                charge(&limits[1], Key::Text(senders[i as usize].as_bytes()), 1),
                charge(&limits[2], Key::All, 1),
            ];
            let now = NOW + Duration::from_micros(u64::from(round * CLIENTS + step));
            assert!(meters.charge_all(&charges, now).refused.is_none());
        }
        println!("round {round}: {} ns per question", (cpu_nanos() - start) / u64::from(CLIENTS));
    }
    let start = std::time::Instant::now();
    sweep_all(&meters, NOW);
    println!("sweep of {} keys: {:?}", meters.len(), start.elapsed());
    let folder = tempfile::tempdir().expect("a folder");
    let start = std::time::Instant::now();
    save(&meters, &folder.path().join("limits.state")).expect("saved");
    println!("save: {:?}", start.elapsed());
}

/// What a DATA question costs: the grant, and three limits of which one has many keys.
#[test]
#[ignore = "a measurement"]
fn measure_question() {
    const CLIENTS: u32 = 100_000;
    let (meters, grants) = (Meters::default(), Grants::new());
    let limits = [
        limit("per-client", KeyKind::ClientAddress, 100_000, Per::Second, 100_000),
        limit("per-domain", KeyKind::SenderDomain, 400_000, Per::Second, 400_000),
        limit("all", KeyKind::All, 4_000_000, Per::Second, 4_000_000),
    ];
    let domains: Vec<String> = (0..100).map(|i| format!("example{i}.com")).collect();
    meters.adopt(&limits);
    let ask = |thread: u32, round: u32, start: Duration, micros: u64| {
        let (mut i, mut text) = (thread * 7_919, *b"1a2b.6a1f00c0.0000000.0");
        for step in 0..CLIENTS {
            i = (i + 61_051) % CLIENTS;
            let domain = domains[(i % 100) as usize].as_bytes();
            let charges = [
                charge(&limits[0], Key::Net(std::net::Ipv4Addr::from(i).into(), 32), 1),
                charge(&limits[1], Key::Text(domain), 1),
                charge(&limits[2], Key::All, 1),
            ];
            let now = start + Duration::from_micros(micros * u64::from(round * CLIENTS + step));
            text[14..18].copy_from_slice(&step.to_be_bytes());
            text[18..22].copy_from_slice(&(round * 2 + thread).to_be_bytes());
            let granted = meters.charge_once(&grants, &text, &[b"DATA"], &charges, now);
            assert!(matches!(granted, Granted::New(outcome) if outcome.refused.is_none()));
        }
    };
    for round in 0..6 {
        let start = cpu_nanos();
        ask(0, round, NOW, 250);
        println!("question, round {round}: {} ns", (cpu_nanos() - start) / u64::from(CLIENTS));
    }
    let two = |thread| {
        let start = cpu_nanos();
        (6..9).for_each(|round| ask(thread, round, NOW + MONTH, 0));
        println!("question, one of two threads: {} ns", (cpu_nanos() - start) / 3 / u64::from(CLIENTS));
    };
    std::thread::scope(|scope| (0..2).for_each(|thread| drop(scope.spawn(move || two(thread)))));
}
