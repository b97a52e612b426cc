//! Checks of limits that a fleet shares, by a relay's limiter and by the driver alone: the same script, three limits a
//! check, the same number of connections and of checks in flight, on one thread each.

use crate::args::Args;
use crate::common::Result;
use crate::common::figures::{Sample, quantile, verdict};
use crate::common::install::Workplace;
use crate::common::rounds::{self, Target, print_ratio, print_ratios_head};
use crate::store::Store;
use gatepost::fleet::{Fallback, Keeper, Keys, LINKS, Limiter, Setup, script};
use gatepost::mail::ReplyCode;
use gatepost::meters::{Charge, Key, Meters};
use gatepost::rules::rate::Per;
use gatepost::rules::{Count, KeyKind, Limit, Mode, Overrides, Quota, Rate};
use redis::aio::MultiplexedConnection;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Never reached.
const RATE: Rate = Rate { count: 1_000_000, per: Per::Second, burst: 1_000_000 };

/// How many senders there are.
const SENDERS: u32 = 100_000;

/// How long it runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(200);

/// What came of one measurement.
struct Figures {
    /// Checks per second.
    rate: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    /// Checks that were made without the store: with one of them the rest means nothing.
    fallbacks: u64,
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    let place = Workplace::new(args.dir.as_deref())?;
    let store = Store::start(place.path())?;
    println!("Shared limits: a relay's limiter beside the driver alone, 3 limits a check, {LINKS} connections.");
    let mut met = true;
    for checks in &args.checks {
        let mut all = Vec::new();
        for n in 0..args.rounds {
            eprintln!("round {} of {}", n + 1, args.rounds);
            all.push(rounds::round(n, |at| measure(&store, at == 1, *checks, args.seconds))?);
        }
        met &= print(*checks, &all);
    }
    println!("shared limits: {}", verdict(met));
    Ok(())
}

fn print(checks: usize, rounds: &[[Figures; 3]]) -> bool {
    println!("\n{checks} checks in flight\n  {:<16} {:>28} {:>22} {:>22}", "", "checks/s", "p50", "p99");
    for (at, name) in ["driver alone", "limiter", "driver again"].into_iter().enumerate() {
        let of = |field: fn(&Figures) -> f64| rounds.iter().map(|round| field(&round[at])).collect::<Sample>();
        let (rate, p50, p99) = (of(|f| f.rate), of(|f| f.p50), of(|f| f.p99));
        println!("  {name:<16} {:>28} {:>22} {:>22}", rate.show(0), p50.show(0), p99.show(0));
    }
    print_ratios_head("limiter");
    let rate = print_ratio("rate", rounds, |f| f.rate, Target::AtLeast(0.8));
    // As a rate too: the other way round it would have no bound.
    let p99 = print_ratio("1/p99", rounds, |f| 1.0 / f.p99, Target::AtLeast(0.8));
    let fallbacks: u64 = rounds.iter().flatten().map(|figures| figures.fallbacks).sum();
    println!("  checks made without the store: {fallbacks}  = 0: {}", verdict(fallbacks == 0));
    rate & p99 & (fallbacks == 0)
}

fn measure(store: &Store, by_limiter: bool, checks: usize, seconds: f64) -> Result<Figures> {
    // As a relay with two cores answers.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let asker = if by_limiter { Asker::limiter(store).await? } else { Asker::alone(store).await? };
        let figures = load(&asker, checks, seconds).await?;
        Ok(Figures { fallbacks: asker.fallbacks(), ..figures })
    })
}

/// Who asks the store.
#[derive(Clone)]
enum Asker {
    Limiter(Arc<Limiter>, Arc<[Arc<Limit>; 3]>),
    Alone(Vec<MultiplexedConnection>, Arc<redis::Script>),
}

impl Asker {
    async fn limiter(store: &Store) -> Result<Self> {
        let setup = Setup {
            url: store.url().parse()?,
            ca: None,
            keys: Keys::new("bench"),
            beats_as: None,
            relays: 1,
            roster: None,
        };
        let (limiter, mut keeper) = Keeper::new(setup, Arc::new(Meters::default()));
        let began = Instant::now();
        while let Some(trouble) = limiter.trouble() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err(trouble.into());
            }
            keeper.greet().await;
        }
        let kinds = [KeyKind::Sender, KeyKind::SenderDomain, KeyKind::All];
        Ok(Self::Limiter(limiter, Arc::new(kinds.map(|kind| Arc::new(limit(kind))))))
    }

    async fn alone(store: &Store) -> Result<Self> {
        let client = redis::Client::open(store.url())?;
        let mut connections = Vec::new();
        for _ in 0..LINKS {
            connections.push(client.get_multiplexed_async_connection().await?);
        }
        Ok(Self::Alone(connections, Arc::new(redis::Script::new(script::CHARGE))))
    }

    /// One check of three limits; `task` says which connection the driver takes.
    async fn check(&mut self, task: usize, n: u32) -> Result<()> {
        let (sender, domain) = (format!("user{n}@s{}.example.com", n % 1_000), format!("s{}.example.com", n % 1_000));
        let is_granted = match self {
            Self::Limiter(limiter, limits) => {
                let keys = [Key::Text(sender.as_bytes()), Key::Text(domain.as_bytes()), Key::All];
                let charge = |at: usize| Charge { limit: &limits[at], key: keys[at], rate: RATE, n: 1 };
                limiter.charge(&[charge(0), charge(1), charge(2)], Duration::ZERO).await.refused.is_none()
            }
            Self::Alone(connections, script) => {
                let mut question = script.prepare_invoke();
                for (limit, key) in [("sender", sender.as_str()), ("domain", &domain), ("all", "all")] {
                    question.key(format!("{{bench}}:limit:{limit}:{key}")).arg([16, RATE.burst, 1, 1].as_slice());
                }
                question.invoke_async::<Vec<i64>>(&mut connections[task % LINKS]).await?.is_empty()
            }
        };
        if is_granted { Ok(()) } else { Err("a limit was reached".into()) }
    }

    /// How many checks were made without the store.
    fn fallbacks(&self) -> u64 {
        match self {
            Self::Limiter(limiter, _) => Fallback::ALL.into_iter().map(|why| limiter.fallbacks(why)).sum(),
            Self::Alone(..) => 0,
        }
    }
}

fn limit(key: KeyKind) -> Limit {
    Limit {
        name: key.as_str().to_owned(),
        key,
        count: Count::Messages,
        rate: Quota::Limited(RATE),
        mode: Mode::Enforce,
        reply: ReplyCode::SLOW_DOWN,
        overrides: Overrides::default(),
        line: 1,
        ipv6_prefix: 64,
    }
}

/// Has so many tasks check one after the other, each its own senders.
async fn load(asker: &Asker, checks: usize, seconds: f64) -> Result<Figures> {
    let began = Instant::now() + WARM_UP;
    let end = began + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for task in 0..checks {
        let mut asker = asker.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            for n in (0..SENDERS).cycle().skip(task).step_by(checks) {
                let asked = Instant::now();
                asker.check(task, n).await?;
                let now = Instant::now();
                if now > end {
                    break;
                }
                if asked > began {
                    times.push(u32::try_from((now - asked).as_nanos())?);
                }
            }
            Result::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(one) = tasks.join_next().await {
        times.extend(one??);
    }
    times.sort_unstable();
    let micros = |q| f64::from(quantile(&times, q)) / 1e3;
    Ok(Figures { rate: times.len() as f64 / seconds, p50: micros(0.5), p99: micros(0.99), fallbacks: 0 })
}
