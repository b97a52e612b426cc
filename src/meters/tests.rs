//! Limits together: all or none, observed ones beside, warnings, eviction, and the bound under concurrency.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::mail::ReplyCode;
use crate::rules::rate::Per;
use crate::rules::{Count, KeyKind, Mode, Overrides};
use proptest::prelude::*;
use std::collections::HashMap;

pub(super) const NOW: Duration = Duration::from_secs(1_790_000_000);

pub(super) const MONTH: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn limit(name: &str, key: KeyKind, count: u32, per: Per, burst: u32) -> Arc<Limit> {
    Arc::new(Limit {
        name: name.to_owned(),
        key,
        count: Count::Messages,
        rate: Quota::Limited(Rate { count, per, burst }),
        mode: Mode::Enforce,
        reply: ReplyCode::SLOW_DOWN,
        overrides: Overrides::default(),
        line: 1,
        ipv6_prefix: 64,
    })
}

pub(super) fn charge<'a>(limit: &'a Arc<Limit>, key: Key<'a>, n: u32) -> Charge<'a> {
    let Quota::Limited(rate) = limit.rate else { panic!("unlimited") };
    Charge { limit, key, rate, n }
}

pub(super) fn all_kinds() -> Vec<Key<'static>> {
    vec![
        Key::Net([10, 0, 0, 1].into(), 32),
        Key::Net([10, 1, 0, 0].into(), 24),
        Key::Net([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0].into(), 64),
        Key::Text(b"someone@example.com"),
        Key::Text(b"\xff\n"),
        Key::All,
    ]
}

fn observed(limit: &Arc<Limit>) -> Arc<Limit> {
    Arc::new(Limit { mode: Mode::Observe, ..Limit::clone(limit) })
}

fn with_rate(limit: &Arc<Limit>, count: u32, per: Per, burst: u32) -> Arc<Limit> {
    Arc::new(Limit { rate: Quota::Limited(Rate { count, per, burst }), ..Limit::clone(limit) })
}

/// Every counter and its exact state.
fn states(meters: &Meters) -> Vec<(LimitId, String, u64)> {
    let mut all = Vec::new();
    for shard in &meters.shards {
        all.extend(lock(shard).iter().map(|e| (e.limit, e.key.text(), e.state.bits())));
    }
    all.sort();
    all
}

pub(super) fn sweep_all(meters: &Meters, now: Duration) -> usize {
    (0..SHARDS / SWEPT_AT_ONCE).map(|_| meters.sweep(now)).sum()
}

#[test]
fn all_are_charged_or_none() {
    let meters = Meters::default();
    let narrow = limit("narrow", KeyKind::ClientAddress, 3, Per::Hour, 3);
    let wide = limit("wide", KeyKind::All, 2, Per::Hour, 2);
    let client = Key::Net([10, 0, 0, 1].into(), 32);
    let question = [charge(&narrow, client, 1), charge(&wide, Key::All, 1)];
    assert!(meters.charge_all(&question, NOW).refused.is_none());
    assert!(meters.charge_all(&question, NOW).refused.is_none());
    let before = states(&meters);
    let outcome = meters.charge_all(&question, NOW);
    let wait = Duration::from_secs(1_800);
    assert_eq!(outcome.refused, Some(Refused { index: 1, why: Why::Later(wait) }));
    assert!(outcome.warned.is_empty() && outcome.observed.is_empty());
    let other = [charge(&narrow, Key::Net([10, 0, 0, 2].into(), 32), 1), charge(&wide, Key::All, 1)];
    assert!(meters.charge_all(&other, NOW).refused.is_some());
    assert_eq!(states(&meters), before);
    assert!(meters.charge_all(&[charge(&narrow, client, 1)], NOW).refused.is_none());
    assert!(meters.charge_all(&other, NOW + wait).refused.is_none());
    assert_eq!(meters.charge_all(&[], NOW).refused, None);
}

#[test]
fn observed_limits_never_block_and_are_not_charged_when_over() {
    let meters = Meters::default();
    let watched = observed(&limit("watched", KeyKind::All, 1, Per::Hour, 1));
    let hard = limit("hard", KeyKind::All, 3, Per::Hour, 3);
    let question = [charge(&watched, Key::All, 1), charge(&hard, Key::All, 1)];
    assert!(meters.charge_all(&question, NOW).observed.is_empty());
    let outcome = meters.charge_all(&question, NOW);
    assert_eq!(outcome.refused, None);
    assert_eq!(outcome.observed[0], Refused { index: 0, why: Why::Later(Duration::from_secs(3_600)) });
    let big = [charge(&watched, Key::All, 2), charge(&hard, Key::All, 9)];
    let outcome = meters.charge_all(&big, NOW);
    assert_eq!(outcome.observed[0].why, Why::NeverFits);
    assert_eq!(outcome.refused, Some(Refused { index: 1, why: Why::NeverFits }));
    assert!(meters.charge_all(&question, NOW).refused.is_none());
    assert!(meters.charge_all(&question, NOW).refused.is_some());
}

#[test]
fn a_key_twice_in_a_question_is_charged_twice() {
    let meters = Meters::default();
    let domains = limit("domains", KeyKind::RecipientDomain, 4, Per::Hour, 4);
    let twice = [
        charge(&domains, Key::Text(b"x"), 2),
        charge(&domains, Key::Text(b"y"), 1),
        charge(&domains, Key::Text(b"x"), 1),
    ];
    assert!(meters.charge_all(&twice, NOW).refused.is_none());
    let outcome = meters.charge_all(&twice, NOW);
    assert_eq!(outcome.refused.map(|r| r.index), Some(0));
    let row = |key| meters.show(&Filter { key: Some(key), ..Filter::default() }, NOW)[0].used;
    assert_eq!((row("x"), row("y")), (3, 1));
    let alone = [charge(&domains, Key::Text(b"z"), 3), charge(&domains, Key::Text(b"z"), 3)];
    assert_eq!(meters.charge_all(&alone, NOW).refused.map(|r| r.index), Some(1));
    assert_eq!(meters.len(), 2);
}

#[test]
fn limits_of_the_same_key_are_counted_apart_and_reloads_keep_them() {
    let meters = Meters::default();
    let (a, b) = (limit("a", KeyKind::All, 5, Per::Hour, 5), limit("b", KeyKind::All, 5, Per::Hour, 5));
    assert!(meters.charge_all(&[charge(&a, Key::All, 5), charge(&b, Key::All, 1)], NOW).refused.is_none());
    let same = with_rate(&a, 5, Per::Hour, 5);
    assert!(meters.charge_all(&[charge(&same, Key::All, 1)], NOW).refused.is_some());
    let smaller = with_rate(&a, 60, Per::Minute, 2);
    let outcome = meters.charge_all(&[charge(&smaller, Key::All, 1)], NOW);
    assert_eq!(outcome.refused.map(|r| r.why), Some(Why::Later(Duration::from_secs(1))));
    let other = Arc::new(Limit { count: Count::Recipients, ..Limit::clone(&a) });
    assert!(meters.charge_all(&[charge(&other, Key::All, 5)], NOW).refused.is_none());
    assert!(meters.charge_all(&[charge(&b, Key::All, 4)], NOW).refused.is_none());
}

/// Whatever was used up before, a key that is asked for again and again is granted after a period
/// of the new rate, and has its whole burst back after a window.
fn gets_its_rate(meters: &Meters, limit: &Arc<Limit>, now: Duration) {
    let Quota::Limited(rate) = limit.rate else { panic!("unlimited") };
    let is_granted = |now| meters.charge_all(&[charge(limit, Key::All, 1)], now).refused.is_none();
    assert!(!is_granted(now));
    for i in 1..=3 {
        assert!(!is_granted(now + rate.replenish() * i - Duration::from_nanos(1)), "period {i}");
        assert!(is_granted(now + rate.replenish() * i), "period {i}");
    }
    let window = rate.replenish() * rate.burst();
    assert!(meters.charge_all(&[charge(limit, Key::All, rate.burst())], now + window * 2).refused.is_none());
}

#[test]
fn another_rate_or_a_clock_set_back_locks_nobody_out() {
    let daily = limit("all", KeyKind::All, 500, Per::Day, 500);
    for (count, per, burst) in [(1_000, Per::Minute, 1_000), (1_000, Per::Day, 10), (10, Per::Second, 10)] {
        let meters = Meters::default();
        assert!(meters.charge_all(&[charge(&daily, Key::All, 400)], NOW).refused.is_none());
        gets_its_rate(&meters, &with_rate(&daily, count, per, burst), NOW + Duration::from_secs(1));
        let observed = observed(&with_rate(&daily, count, per, burst));
        assert!(meters.charge_all(&[charge(&observed, Key::All, 1)], NOW + MONTH).observed.is_empty());
    }
    let minutely = limit("all", KeyKind::All, 100, Per::Minute, 100);
    for back in [Duration::from_secs(3_600), MONTH] {
        let meters = Meters::default();
        assert!(meters.charge_all(&[charge(&minutely, Key::All, 100)], NOW).refused.is_none());
        gets_its_rate(&meters, &minutely, NOW - back);
    }
}

#[test]
fn a_limit_behind_one_that_refuses_is_cut_to_its_burst_too() {
    let meters = Meters::default();
    let (daily, hard) = (limit("a", KeyKind::All, 500, Per::Day, 500), limit("b", KeyKind::All, 1, Per::Minute, 1));
    meters.charge_all(&[charge(&daily, Key::All, 400), charge(&hard, Key::All, 1)], NOW);
    let faster = with_rate(&daily, 600, Per::Minute, 600);
    let question = [charge(&hard, Key::All, 1), charge(&faster, Key::All, 600)];
    assert_eq!(meters.charge_all(&question, NOW).refused.map(|r| r.index), Some(0));
    assert!(meters.charge_all(&question, NOW + Duration::from_secs(60)).refused.is_none());
}

#[test]
fn a_thread_that_lags_gives_nothing_back() {
    let meters = Meters::default();
    let ten = limit("ten", KeyKind::All, 10, Per::Second, 10);
    let is_granted = |now| meters.charge_all(&[charge(&ten, Key::All, 1)], now).refused.is_none();
    assert!(meters.charge_all(&[charge(&ten, Key::All, 10)], NOW).refused.is_none());
    assert!(!is_granted(NOW - Duration::from_millis(900)));
    assert!(!is_granted(NOW + Duration::from_millis(99)));
    assert!(is_granted(NOW + Duration::from_millis(100)));
}

#[test]
fn charge_once_is_charge_all_within_once() {
    let (meters, grants) = (Meters::default(), Grants::new());
    let two = limit("two", KeyKind::All, 2, Per::Hour, 2);
    let ask = |instance: &[u8], n: usize| {
        let charges = vec![charge(&two, Key::All, 1); n];
        match meters.charge_once(&grants, instance, &[b"DATA"], &charges, NOW) {
            Granted::Repeat => "repeat",
            Granted::New(outcome) if outcome.refused.is_some() => "refused",
            Granted::New(_) => "charged",
        }
    };
    let used = || meters.show(&Filter::default(), NOW).first().map_or(0, |row| row.used);
    assert_eq!((ask(b"a", 1), ask(b"a", 1), ask(b"a", 6), used()), ("charged", "repeat", "repeat", 1));
    assert_eq!((ask(b"b", 2), ask(b"b", 1), ask(b"b", 1), used()), ("refused", "charged", "repeat", 2));
    assert_eq!((ask(b"", 1), ask(b"c", 0), ask(b"c", 0)), ("refused", "charged", "repeat"));
}

#[test]
fn a_crossing_of_80_percent_is_told_once_and_again_after_it_fell_below_60() {
    let meters = Meters::default();
    let ten = limit("ten", KeyKind::All, 10, Per::Second, 10);
    let warned = |now| !meters.charge_all(&[charge(&ten, Key::All, 1)], now).warned.is_empty();
    let told: Vec<_> = (0..11).map(|_| warned(NOW)).collect();
    assert_eq!(told, [false, false, false, false, false, false, false, false, true, false, false]);
    let later = NOW + Duration::from_millis(300);
    sweep_all(&meters, later);
    assert!(!warned(later), "70 % is not yet below 60");
    let later = later + Duration::from_millis(300);
    sweep_all(&meters, later);
    let told: Vec<_> = (0..5).map(|_| warned(later)).collect();
    assert_eq!(told, [false, false, false, true, false]);
}

#[test]
fn a_refused_question_does_not_use_up_the_warning() {
    let meters = Meters::default();
    let (one, hard) = (limit("one", KeyKind::All, 1, Per::Hour, 1), limit("hard", KeyKind::All, 1, Per::Hour, 1));
    let refused = meters.charge_all(&[charge(&one, Key::All, 1), charge(&hard, Key::All, 2)], NOW);
    assert!(refused.refused.is_some() && refused.warned.is_empty() && meters.is_empty());
    assert_eq!(meters.charge_all(&[charge(&one, Key::All, 1)], NOW).warned.as_slice(), [0]);
}

#[test]
fn idle_keys_are_swept() {
    let meters = Meters::default();
    let clients = limit("clients", KeyKind::ClientAddress, 1, Per::Second, 10);
    for i in 0u32..5_000 {
        let n = 1 + i % 2;
        meters.charge_all(&[charge(&clients, Key::Net(std::net::Ipv4Addr::from(i).into(), 32), n)], NOW);
    }
    assert_eq!((meters.len(), sweep_all(&meters, NOW)), (5_000, 0));
    assert_eq!((sweep_all(&meters, NOW + Duration::from_secs(1)), meters.len()), (2_500, 2_500));
    assert_eq!((sweep_all(&meters, NOW + Duration::from_secs(2)), meters.len()), (2_500, 0));
}

#[test]
fn the_number_of_keys_is_bounded_and_nobody_is_refused_for_it() {
    let meters = Meters::new(1_000);
    let senders = limit("senders", KeyKind::Sender, 1, Per::Hour, 1);
    for i in 0u32..20_000 {
        assert!(meters.charge_all(&[charge(&senders, Key::Text(&i.to_be_bytes()), 1)], NOW).refused.is_none());
        assert!(meters.len() <= 1_000 + SHARDS, "{}", meters.len());
    }
    assert_eq!(meters.evicted_live() as usize + meters.len(), 20_000);
    assert_eq!(states(&meters).len(), meters.len());
    let live = meters.evicted_live();
    let later = NOW + Duration::from_secs(3_600);
    for i in 20_000u32..20_500 {
        meters.charge_all(&[charge(&senders, Key::Text(&i.to_be_bytes()), 1)], later);
    }
    assert!(meters.evicted_live() - live < 50, "idle keys go first");
}

#[test]
fn show_and_reset_find_what_is_asked_for() {
    let meters = Meters::default();
    let clients = limit("clients", KeyKind::ClientAddress, 60, Per::Minute, 60);
    let all = limit("all", KeyKind::All, 100, Per::Hour, 4);
    meters.adopt(&[clients.clone(), all.clone()]);
    for (i, key) in (1..).zip(all_kinds()) {
        let limit = if key == Key::All { &all } else { &clients };
        meters.charge_all(&[charge(limit, key, if key == Key::All { 4 } else { i })], NOW);
    }
    let shown = meters.show(&Filter::default(), NOW);
    let first = Shown {
        limit: "all".into(),
        key: "all".into(),
        rate: Rate { count: 100, per: Per::Hour, burst: 4 },
        used: 4,
        burst: 4,
        available: 0,
        next_free: Duration::from_secs(36),
    };
    assert_eq!((shown.len(), &shown[0]), (6, &first));
    assert_eq!(shown.iter().map(|s| s.used).collect::<Vec<_>>(), [4, 5, 4, 3, 2, 1]);
    let keys = |limit, key| -> Vec<String> {
        meters.show(&Filter { limit, key, top: 100 }, NOW).into_iter().map(|s| s.key).collect()
    };
    assert_eq!(keys(None, Some("10.0.0.1")), ["10.0.0.1"]);
    assert_eq!(keys(None, Some("10.1.0.77")), ["10.1.0.0/24"]);
    assert_eq!(keys(None, Some("10.0.0.0/8")), ["10.1.0.0/24", "10.0.0.1"]);
    assert_eq!(keys(None, Some("2001:db8::1")), ["2001:db8::/64"]);
    assert_eq!(keys(Some("clients"), Some("Someone@Example.com")), ["someone@example.com"]);
    assert_eq!(keys(Some("all"), None), ["all"]);
    assert_eq!(keys(Some("none"), None), Vec::<String>::new());
    assert_eq!(meters.show(&Filter { top: 2, ..Filter::default() }, NOW), shown[..2]);
    assert!(meters.show(&Filter::default(), NOW + Duration::from_secs(3_600)).is_empty());
    assert_eq!((meters.reset(Some("clients"), Some("all")), meters.reset(Some("none"), None)), (0, 0));
    assert_eq!((meters.reset(None, Some("10.0.0.1")), meters.reset(Some("all"), None), meters.len()), (1, 1, 4));
    assert_eq!((meters.reset(None, None), meters.len()), (4, 0));
}

#[test]
fn eight_threads_get_no_more_than_was_promised() {
    const EACH: u32 = 20_000;
    let meters = Meters::default();
    let clients = limit("clients", KeyKind::ClientAddress, 1_000, Per::Second, 500);
    let all = limit("all", KeyKind::All, 3_000, Per::Second, 300);
    let accepted: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let run = |thread: u32| {
        for i in 0..EACH {
            let client = (thread + i) % 4;
            let key = Key::Net(std::net::Ipv4Addr::from(client).into(), 32);
            let mut question = [charge(&clients, key, 1), charge(&all, Key::All, 1)];
            if i % 2 == 0 {
                question.reverse();
            }
            let now = NOW + Duration::from_micros(u64::from(i) * 50);
            if meters.charge_all(&question, now).refused.is_none() {
                accepted[client as usize].fetch_add(1, Ordering::Relaxed);
            }
            if i % 1_000 == 0 {
                meters.sweep(NOW);
            }
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|thread| drop(scope.spawn(move || run(thread)))));
    // A second passed. A thread that lags asks at an earlier time, which grants nothing more.
    let sums: Vec<u64> = accepted.iter().map(|a| a.load(Ordering::Relaxed)).collect();
    assert!(sums.iter().all(|sum| *sum <= 1_500), "{sums:?}");
    let total: u64 = sums.iter().sum();
    assert!(total <= 3_300, "{total}");
    // Nothing was charged for the refused: each TAT is what the accepted cells cost, or later.
    let end = NOW + Duration::from_secs(2);
    assert!(meters.charge_all(&[charge(&all, Key::All, 300)], end).refused.is_none());
}

#[test]
fn at_one_moment_eight_threads_get_exactly_the_burst() {
    let meters = Meters::default();
    let clients = limit("clients", KeyKind::ClientAddress, 1, Per::Day, 400);
    let all = limit("all", KeyKind::All, 1, Per::Day, 1_000);
    let accepted = AtomicU64::new(0);
    let run = |thread: u32| {
        for i in 0u32..2_000 {
            let key = Key::Net(std::net::Ipv4Addr::from((thread + i) % 4).into(), 32);
            let question = [charge(&all, Key::All, 1), charge(&clients, key, 1)];
            if meters.charge_all(&question, NOW).refused.is_none() {
                accepted.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|thread| drop(scope.spawn(move || run(thread)))));
    assert_eq!(accepted.into_inner(), 1_000);
    let used: u32 =
        meters.show(&Filter { limit: Some("clients"), ..Filter::default() }, NOW).iter().map(|s| s.used).sum();
    assert_eq!(used, 1_000);
}

proptest! {
    /// Whatever is asked: a refusal changes nothing, and no key gets more than burst + rate * t.
    #[test]
    fn any_questions(
        bursts in prop::collection::vec(1u32..6, 3),
        questions in prop::collection::vec(
            (0u64..2_000, prop::collection::vec((0usize..3, 0u8..3, 1u32..4), 0..5)), 1..60),
    ) {
        let meters = Meters::default();
        let limits: Vec<_> = (0..3).zip(&bursts).map(|(i, burst)| {
            let limit = limit(&format!("limit{i}"), KeyKind::Sender, i + 1, Per::Second, *burst);
            if i == 2 { observed(&limit) } else { limit }
        }).collect();
        let mut now = NOW;
        let mut granted: HashMap<(usize, u8), u128> = HashMap::new();
        for (step, question) in questions {
            now += Duration::from_millis(step);
            let texts: Vec<[u8; 1]> = question.iter().map(|(_, key, _)| [*key]).collect();
            let charges: Vec<_> = question.iter().zip(&texts)
                .map(|((l, _, n), text)| charge(&limits[*l], Key::Text(text), *n)).collect();
            let before = states(&meters);
            let outcome = meters.charge_all(&charges, now);
            if outcome.refused.is_some() {
                prop_assert_eq!(states(&meters), before);
                continue;
            }
            for (i, (limit, key, n)) in question.iter().enumerate() {
                if !outcome.observed.iter().any(|refused| refused.index == i) {
                    *granted.entry((*limit, *key)).or_default() += u128::from(*n);
                }
            }
        }
        for ((limit, _), n) in granted {
            let passed = (now - NOW).as_nanos() * (limit as u128 + 1);
            prop_assert!(n * 1_000_000_000 <= u128::from(bursts[limit]) * 1_000_000_000 + passed);
        }
    }
}
