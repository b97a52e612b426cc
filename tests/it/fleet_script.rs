//! The script that charges limits in the store, held to the meters of one relay: whatever is asked at whatever time,
//! both say the same. The script is the shipped one but for the clock, which is a key of the store here.

use crate::valkey::{FORGETFUL, Valkey};
use gatepost::fleet::{Keys, script};
use gatepost::mail::ReplyCode;
use gatepost::meters::{Charge, Key, Meters, Outcome, Refused, Why};
use gatepost::rules::rate::Per;
use gatepost::rules::{Count, KeyKind, Limit, Mode, Overrides, Quota, Rate};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// When all of it begins, Unix time.
const START: Duration = Duration::from_secs(1_790_000_000);

/// A limit by sender, of recipients.
pub fn limit(name: &str, rate: Rate, mode: Mode) -> Arc<Limit> {
    Arc::new(Limit {
        name: name.to_owned(),
        key: KeyKind::Sender,
        count: Count::Recipients,
        rate: Quota::Limited(rate),
        mode,
        reply: ReplyCode::SLOW_DOWN,
        overrides: Overrides::default(),
        line: 1,
        ipv6_prefix: 64,
    })
}

fn rate(count: u32, per: Per, burst: u32) -> Rate {
    Rate { count, per, burst }
}

/// A store whose clock is told.
struct Store {
    _valkey: Valkey,
    connection: RefCell<redis::Connection>,
    script: redis::Script,
}

impl Store {
    fn start() -> Self {
        let valkey = Valkey::start(FORGETFUL);
        let connection = redis::Client::open(valkey.url()).unwrap().get_connection().unwrap();
        let text = script::CHARGE
            .replace("redis.call('TIME')", "redis.call('LRANGE', 'clock', 0, 1)")
            // What expires does so by the store's own clock: later than any of this takes.
            .replace("'PX', ", "'PX', 3600000 + ");
        assert!(text.contains("'clock'") && text.contains("3600000"));
        Self { _valkey: valkey, connection: RefCell::new(connection), script: redis::Script::new(&text) }
    }

    fn charge(&self, keys: &Keys, charges: &[Charge<'_>], now: Duration) -> Outcome {
        let mut connection = self.connection.borrow_mut();
        let clock = [now.as_secs().to_string(), now.subsec_micros().to_string()];
        redis::pipe().del("clock").rpush("clock", &clock).exec(&mut *connection).unwrap();
        let (names, arguments) = script::arguments(keys, charges);
        let mut question = self.script.prepare_invoke();
        names.iter().for_each(|name| {
            question.key(name);
        });
        let said: Vec<i64> = question.arg(arguments).invoke(&mut connection).unwrap();
        script::outcome(&said, charges.len()).expect("the script's words")
    }
}

/// What the two are held against each other by.
fn shown(outcome: &Outcome, with_warnings: bool) -> (Option<Refused>, Vec<Refused>, Vec<usize>) {
    let warned = if with_warnings { outcome.warned.to_vec() } else { Vec::new() };
    (outcome.refused, outcome.observed.to_vec(), warned)
}

/// One question: how much later, by which policy, and what: limit, key, how many.
type Step = (u64, usize, Vec<(usize, usize, u32)>);

/// Rates whose periods are whole ticks, so that nothing is rounded.
fn any_rate() -> impl Strategy<Value = Rate> {
    let counted = prop_oneof![
        (prop::sample::select(vec![1, 2, 4, 5, 8, 10]), Just(Per::Second)),
        (prop::sample::select(vec![1, 3, 6, 60, 100]), Just(Per::Minute)),
        (prop::sample::select(vec![1, 60, 3600]), Just(Per::Hour)),
    ];
    (counted, 1u32..25).prop_map(|((count, per), burst)| rate(count, per, burst))
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![2 => Just(Mode::Enforce), 1 => Just(Mode::Observe)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let later = prop_oneof![Just(0), 1u64..1_000, 1u64..3_000_000, 1u64..60_000_000];
    (later, 0usize..2, prop::collection::vec((0usize..3, 0usize..2, prop_oneof![3 => 1u32..4, 1 => 1u32..30]), 1..6))
}

fn both_say_the_same(change_policies: bool) {
    let store = Store::start();
    let case = RefCell::new(0);
    let policies = prop::collection::vec(prop::collection::vec((any_rate(), any_mode()), 3), 2);
    let all = (policies, prop::collection::vec(any_step(), 1..60));
    let mut runner = TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&all, |(policies, steps)| {
        *case.borrow_mut() += 1;
        let keys = Keys::new(&format!("case-{}", case.borrow()));
        let meters = Meters::default();
        let made = |(at, (rate, mode)): (usize, &(Rate, Mode))| limit(["a", "b", "c"][at], *rate, *mode);
        let policies: Vec<Vec<_>> =
            policies.iter().map(|policy| policy.iter().enumerate().map(made).collect()).collect();
        let mut now = START;
        for (later, policy, asked) in steps {
            now += Duration::from_micros(later);
            let policy = &policies[if change_policies { policy } else { 0 }];
            meters.adopt(policy);
            // The whole table: it is there that keys of a relay are armed again.
            (0..8).for_each(|_| _ = meters.sweep(now));
            let charge = |(limit, key, n): &(usize, usize, u32)| {
                let Quota::Limited(rate) = policy[*limit].rate else { unreachable!() };
                Charge {
                    limit: &policy[*limit],
                    key: Key::Text([b"x@example.com", b"y@example.com"][*key]),
                    rate,
                    n: *n,
                }
            };
            let charges: Vec<_> = asked.iter().map(charge).collect();
            let (here, there) = (meters.charge_all(&charges, now), store.charge(&keys, &charges, now));
            prop_assert_eq!(shown(&there, !change_policies), shown(&here, !change_policies), "{:?}", charges);
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(*case.borrow() >= 100);
}

#[test]
fn the_script_says_what_the_meters_of_one_relay_say() {
    both_say_the_same(false);
}

#[test]
fn and_while_rates_and_modes_change_under_the_same_names() {
    both_say_the_same(true);
}

#[test]
fn a_burst_is_exact_and_so_is_what_comes_after() {
    let (store, keys) = (Store::start(), Keys::new("exact"));
    let of = |rate| limit("exact", rate, Mode::Enforce);
    for (n, rate) in
        [rate(100, Per::Minute, 200), rate(7, Per::Second, 3), rate(1_000_000, Per::Hour, 5)].into_iter().enumerate()
    {
        let (limit, name) = (of(rate), [b'0' + n as u8]);
        let ask = |now| store.charge(&keys, &[Charge { limit: &limit, key: Key::Text(&name), rate, n: 1 }], now);
        for _ in 0..rate.burst {
            assert!(ask(START).refused.is_none());
        }
        let Some(Refused { why: Why::Later(wait), .. }) = ask(START).refused else { panic!("the burst is over") };
        // Rounded up to a sixteenth of a microsecond.
        assert!(wait >= rate.replenish() && wait - rate.replenish() < Duration::from_nanos(63), "{wait:?}");
        let wait = Duration::from_micros(u64::try_from(wait.as_nanos().div_ceil(1_000)).unwrap());
        assert!(ask(START + wait - Duration::from_micros(1)).refused.is_some());
        assert!(ask(START + wait).refused.is_none());
        assert!(ask(START + wait).refused.is_some());
    }
}

#[test]
fn counters_are_named_by_limit_and_key_and_go_when_they_are_idle() {
    let valkey = Valkey::start(FORGETFUL);
    let mut connection = redis::Client::open(valkey.url()).unwrap().get_connection().unwrap();
    let (keys, rate) = (Keys::new("names"), rate(10, Per::Second, 20));
    let limit = limit("per-sender", rate, Mode::Enforce);
    let long = [b'x'; 400];
    let of = |key| Charge { limit: &limit, key, rate, n: 2 };
    let charges = [
        of(Key::Text(b"a\xff@example.com")),
        of(Key::Net([10, 1, 2, 0].into(), 24)),
        of(Key::All),
        of(Key::Text(&long)),
    ];
    let (names, arguments) = script::arguments(&keys, &charges);
    let (mut question, script) = (redis::cmd("EVAL"), script::CHARGE);
    let said: Vec<i64> = question.arg(script).arg(4).arg(&names).arg(arguments).query(&mut connection).unwrap();
    assert!(said.is_empty());
    assert_eq!(names[0], b"{names}:limit:per-sender:sender:recipients:a\xff@example.com");
    assert_eq!(names[1], b"{names}:limit:per-sender:sender:recipients:10.1.2.0/24");
    assert!(names[3].starts_with(b"{names}:limit:per-sender:sender:recipients:sha256:") && names[3].len() < 130);
    for name in names {
        let left: i64 = redis::cmd("PTTL").arg(name).query(&mut connection).unwrap();
        assert!((1..=200).contains(&left), "{left}");
    }
    crate::wait::until("all counters to be gone", crate::wait::LONG, || {
        (valkey.ask::<usize>(&["DBSIZE"]).unwrap() == 0).then_some(())
    });
}
