//! The order in which events come makes no difference where the rules say so; and what they cost.

use super::*;
use proptest::prelude::*;
use std::time::Instant;

/// One event.
#[derive(Clone, Debug)]
enum Told {
    Bounce(u8, u8, i64),
    Full(u8, u8, i64),
    Delivered(u8, u8),
}

impl Told {
    fn effect(&self) -> Effect {
        let of = |m: &u8, a: &u8| (format!("m{m}"), format!("u{a}@x.y"));
        match self {
            Self::Bounce(m, a, at) => bounce(&of(m, a).0, &of(m, a).1, NOW + at),
            Self::Full(m, a, at) => full(&of(m, a).0, &of(m, a).1, NOW + at),
            Self::Delivered(m, a) => delivered(&of(m, a).0, &of(m, a).1),
        }
    }

    /// When the mail was sent, from now; deliveries are of any time.
    fn at(&self) -> i64 {
        match self {
            Self::Bounce(_, _, at) | Self::Full(_, _, at) => *at,
            Self::Delivered(..) => 0,
        }
    }
}

fn told() -> impl Strategy<Value = Told> {
    // of one message there is one report for one recipient: its time goes with its id
    let at = |m: u8| i64::from(m) * 4_001 % (12 * DAY) - 12 * DAY + i64::from(m) * DAY;
    prop_oneof![
        1 => (0..12_u8, 0..2_u8).prop_map(move |(m, a)| Told::Bounce(m, a, at(m))),
        8 => (0..12_u8, 0..2_u8).prop_map(move |(m, a)| Told::Full(m, a, at(m))),
        3 => (0..12_u8, 0..2_u8).prop_map(|(m, a)| Told::Delivered(m, a)),
    ]
}

fn standing(store: &Store) -> Vec<(String, Reason, Option<i64>)> {
    let mut all = Vec::new();
    let filter = Filter { in_force_at: Some(NOW), ..Filter::default() };
    let each = |e: Entry| -> Result<(), StoreError> {
        all.push((e.address.to_string(), e.reason, e.expires));
        Ok(())
    };
    store.scan(&filter, None, each).expect("scan");
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In any order, any number of times, in batches of any size, with an operator's removal at any point
    /// after which no older mail was sent.
    #[test]
    fn the_same_events_leave_the_same_list(
        (events, shuffled) in prop::collection::vec(told(), 0..40)
            .prop_flat_map(|e| (Just(e.clone()), Just([e.clone(), e].concat()).prop_shuffle())),
        size in 1..9_usize,
        removal in prop::option::of(-12 * DAY..0),
        place in 0..100_usize,
    ) {
        let in_order: Vec<Effect> = events.iter().map(Told::effect).collect();
        let (_folder, path) = folder();
        let mut first = Store::open(&path).expect("open");
        if let Some(at) = removal {
            first.remove(&[address("u0@x.y")], NOW + at).expect("remove");
        }
        let applied = apply(&mut first, &in_order);
        let (_other_folder, path) = folder();
        let mut second = Store::open(&path).expect("open");
        let (older, newer): (Vec<_>, Vec<_>) =
            shuffled.into_iter().partition(|e| removal.is_some_and(|at| e.at() <= at));
        let (before, after) = older.split_at(place.min(older.len()));
        let mut sum = Applied::default();
        for (n, part) in [before.to_vec(), [after.to_vec(), newer].concat()].into_iter().enumerate() {
            if let (Some(at), 1) = (removal, n) {
                second.remove(&[address("u0@x.y")], NOW + at).expect("remove");
            }
            for effects in part.iter().map(Told::effect).collect::<Vec<_>>().chunks(size) {
                let applied = apply(&mut second, effects);
                sum.lines += applied.lines;
                sum.duplicates += applied.duplicates;
            }
        }
        prop_assert_eq!(standing(&first), standing(&second));
        prop_assert_eq!(applied.lines, sum.lines);
        prop_assert_eq!(applied.lines + applied.duplicates, events.len() as u64);
        prop_assert_eq!(sum.lines + sum.duplicates, 2 * events.len() as u64);
    }
}

/// Measures what a transaction costs: `cargo test --release --lib -- --ignored --nocapture many_effects`, with
/// TMPDIR naming a folder on the disk that counts.
#[test]
#[ignore = "a measurement"]
fn many_effects_a_second() {
    const BATCHES: usize = 1_000;
    const SIZE: usize = 200;
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    store.use_large_cache().expect("cache");
    let id = |n: usize| format!("0109019c{:08x}-1c1c2d2d-1111-2222-3333-{n:012x}-000000", n / 3);
    let (mut spent, mut written) = (Duration::ZERO, None);
    for batch in 0..BATCHES {
        let effects: Vec<Effect> = (0..SIZE)
            .map(|i| {
                let n = batch * SIZE + i;
                let to = format!("user{}@domain{}.example", n * 7919 % 1_000_003, n % 97);
                match n % 20 {
                    0 => bounce(&id(n), &to, NOW),
                    1 => full(&id(n), &to, NOW),
                    _ => delivered(&id(n), &to),
                }
            })
            .collect();
        let began = Instant::now();
        let batch = Batch { effects: &effects, quarantine: &[], now: NOW, brake: None, written, late_until: None };
        let applied = store.apply(&batch).expect("apply");
        spent += began.elapsed();
        assert_eq!(applied.lines, SIZE as u64);
        written = Some(written.unwrap_or(0) + SIZE as i64);
    }
    let rate = (BATCHES * SIZE) as f64 / spent.as_secs_f64();
    eprintln!("{BATCHES} batches of {SIZE}: {spent:?}, {rate:.0} effects/s");
}
