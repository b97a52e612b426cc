//! The accounts that one question charges, held together: all enforced charges are booked, or none.

use super::gcra::Gauge;
use super::limits::Limits;
use super::lock::{Apart, lock};
use super::table::{Address, Evicted, LimitId, Secrets, Shard, State};
use super::{Charge, Granted, Key, Outcome, Refused};
use crate::rules::Mode;
use smallvec::SmallVec;
use std::sync::MutexGuard;

/// A charge that takes its key above so many per cent of the burst is warned about.
const WARN_ABOVE: u32 = 80;

/// Up to so many charges of different shards, which nearly all questions are, take the short way:
/// no allocation, and nothing to merge.
const FEW: usize = 4;

/// The account of each charge where each has its own.
const OWN: [usize; FEW] = [0, 1, 2, 3];

/// Where the accounts are, and who hears of new ones.
pub(super) struct Books<'m> {
    pub(super) shards: &'m [Apart<Shard>],
    pub(super) secrets: &'m Secrets,
    pub(super) limits: &'m Limits,
    /// Whether there is no room for one more key.
    pub(super) is_full: &'m dyn Fn() -> bool,
    /// Hears of each new key: its limit, the charge that brought it, what was evicted for it.
    pub(super) booked: &'m dyn Fn(LimitId, &Charge<'_>, Evicted),
}

type Guard<'m> = Option<MutexGuard<'m, Shard>>;

/// One key of one limit; two charges of a question may share it.
#[derive(Clone, Copy, Debug, Default)]
struct Account<'m> {
    at: Address,
    /// Of the first charge to it; `None` where it must be worked out.
    gauge: Option<&'m Gauge>,
    /// The first charge to it.
    charge: usize,
    guard: usize,
    /// `None` where the key is new.
    bucket: Option<usize>,
    stored: State,
    /// What is stored, but no further used up than the burst.
    old: State,
    new: State,
}

/// The accounts of one question, their shards locked.
struct Ledger<'a, 'm> {
    books: &'a Books<'m>,
    charges: &'a [Charge<'a>],
    guards: &'a mut [Guard<'m>],
    accounts: &'a mut [Account<'m>],
    /// The account of each charge.
    account_of: &'a [usize],
}

impl<'m> Books<'m> {
    /// Charges every enforced limit, or none; observed ones beside them. Nothing where
    /// `is_repeat`, which is asked between the locking and the lookups: a lock is a barrier, and
    /// behind it the processor fetches what was granted and the counters at once.
    #[inline]
    pub(super) fn charge(&self, charges: &[Charge<'_>], now: u64, is_repeat: impl Fn() -> bool) -> Granted {
        match self.charge_few(charges, now, &is_repeat) {
            Some(granted) => granted,
            None if is_repeat() => Granted::Repeat,
            None => Granted::New(self.charge_many(charges, now)),
        }
    }

    #[inline]
    fn charge_few(&self, charges: &[Charge<'_>], now: u64, is_repeat: impl Fn() -> bool) -> Option<Granted> {
        let account_of = OWN.get(..charges.len())?;
        let mut accounts = [Account::default(); FEW];
        let accounts = &mut accounts[..charges.len()];
        for (i, charge) in charges.iter().enumerate() {
            self.address(&mut accounts[i], i, charge);
        }
        let mut order = OWN;
        let order = &mut order[..charges.len()];
        order.sort_unstable_by_key(|i| accounts[*i].at.shard);
        if order.windows(2).any(|two| accounts[two[0]].at.shard == accounts[two[1]].at.shard) {
            return None;
        }
        let mut guards = [const { None }; FEW];
        let wanted_by_all = order.partition_point(|i| !accounts[*i].at.is_of_all());
        for (part, order) in [&order[..wanted_by_all], &order[wanted_by_all..]].into_iter().enumerate() {
            order.iter().for_each(|i| guards[*i] = Some(lock(&self.shards[accounts[*i].at.shard])));
            if part == 0 && is_repeat() {
                return Some(Granted::Repeat);
            }
            for i in order {
                if let Some(guard) = &mut guards[*i] {
                    accounts[*i].find(guard, self.secrets, &charges[*i], now);
                }
            }
        }
        let outcome = Ledger { books: self, charges, guards: &mut guards, accounts, account_of }.settle(now);
        // What is wanted most was locked last and is set free first.
        order.iter().rev().for_each(|i| drop(guards[*i].take()));
        Some(Granted::New(outcome))
    }

    fn charge_many(&self, charges: &[Charge<'_>], now: u64) -> Outcome {
        let mut accounts = vec![Account::default(); charges.len()];
        for (i, charge) in charges.iter().enumerate() {
            self.address(&mut accounts[i], i, charge);
        }
        accounts.sort_unstable_by_key(|a| (a.at, a.charge));
        let account_of = merge(&mut accounts, charges);
        let mut guards: SmallVec<[Guard<'_>; 2 * FEW]> = SmallVec::new();
        let mut last = None;
        for account in &mut accounts {
            if last != Some(account.at.shard) {
                last = Some(account.at.shard);
                guards.push(Some(lock(&self.shards[account.at.shard])));
            }
            account.guard = guards.len() - 1;
            if let Some(guard) = &mut guards[account.guard] {
                account.find(guard, self.secrets, &charges[account.charge], now);
            }
        }
        let ledger =
            Ledger { books: self, charges, guards: &mut guards, accounts: &mut accounts, account_of: &account_of };
        ledger.settle(now)
    }

    /// Filled in place: copies of accounts cost more than what is in them.
    #[inline]
    fn address(&self, account: &mut Account<'m>, index: usize, charge: &Charge<'_>) {
        let (limit, gauge) = self.limits.of(charge, self.secrets);
        account.at = self.secrets.address(limit, &charge.key);
        (account.gauge, account.charge, account.guard) = (gauge, index, index);
    }
}

impl Account<'_> {
    /// Reads the account. A TAT further ahead than the burst (the rate was changed, the clock set
    /// back) is cut to it here, to be booked even where the question is refused: cut anew each
    /// time it is asked for, it would stay ahead of the clock for as long as it once was.
    #[inline]
    fn find(&mut self, shard: &mut Shard, secrets: &Secrets, charge: &Charge<'_>, now: u64) {
        self.bucket = shard.find(secrets, self.at, &charge.key);
        self.stored = self.bucket.map_or_else(State::default, |bucket| shard.state(bucket));
        let window = self.gauge.map_or_else(|| Gauge::new(charge.rate).window(), |gauge| gauge.window());
        self.old = self.stored.with_tat(self.stored.tat().min(shard.latest(now).saturating_add(window)));
        self.new = self.old;
    }
}

impl Ledger<'_, '_> {
    fn settle(mut self, now: u64) -> Outcome {
        let outcome = self.judge(now);
        if outcome.refused.is_some() {
            self.accounts.iter_mut().for_each(|account| account.new = account.old);
        }
        if self.book_known() {
            self.book_new(now);
        }
        outcome
    }

    /// Tries the charges in their order, on copies. What an observed limit says after an enforced
    /// one refused is not asked: had both been enforced, it would not have been reached either.
    fn judge(&mut self, now: u64) -> Outcome {
        let mut outcome = Outcome::default();
        for (index, (charge, &account)) in self.charges.iter().zip(self.account_of).enumerate() {
            let account = &mut self.accounts[account];
            let worked_out;
            let gauge = match account.gauge {
                Some(gauge) if account.charge == index => gauge,
                _ => {
                    worked_out = Gauge::new(charge.rate);
                    &worked_out
                }
            };
            match gauge.charge(account.new.tat(), now, charge.n) {
                Ok(tat) => {
                    account.new = account.new.with_tat(tat);
                    if !account.new.is_warned() && gauge.is_above(WARN_ABOVE, tat, now) {
                        account.new = account.new.with_warned(true);
                        outcome.warned.push(index);
                    }
                }
                Err(why) if charge.limit.mode == Mode::Enforce => {
                    outcome.warned.clear();
                    outcome.refused = Some(Refused { index, why });
                    return outcome;
                }
                Err(why) => outcome.observed.push(Refused { index, why }),
            }
        }
        outcome
    }

    /// Books the known keys; whether there are new ones.
    fn book_known(&mut self) -> bool {
        let mut is_left = false;
        for account in self.accounts.iter().filter(|a| a.new != a.stored) {
            match (account.bucket, &mut self.guards[account.guard]) {
                (Some(bucket), Some(shard)) => shard.set(bucket, account.new),
                _ => is_left = true,
            }
        }
        is_left
    }

    /// Books the new keys. Buckets do not hold any more. Keys of `all` are as many as limits and
    /// among themselves in their shards: they ask for no room, and push nothing out.
    fn book_new(&mut self, now: u64) {
        for account in self.accounts.iter().filter(|a| a.bucket.is_none() && a.new != a.stored) {
            let charge = &self.charges[account.charge];
            let Some(shard) = &mut self.guards[account.guard] else { continue };
            let must_go = charge.key != Key::All && (self.books.is_full)();
            let evicted = if must_go { shard.evict(now, account.at.hash) } else { Evicted::default() };
            shard.put(self.books.secrets, account.at, &charge.key, account.new);
            (self.books.booked)(account.at.limit, charge, evicted);
        }
    }
}

/// Leaves one account a key, and says which is each charge's. They are sorted: equals are neighbours.
fn merge(accounts: &mut Vec<Account<'_>>, charges: &[Charge<'_>]) -> Vec<usize> {
    let mut account_of = vec![0; accounts.len()];
    let mut kept = 0usize;
    for i in 0..accounts.len() {
        let (account, before) = (&accounts[i], kept.checked_sub(1).map(|k| &accounts[k]));
        let charge = account.charge;
        if !before.is_some_and(|b| b.at == account.at && charges[b.charge].key == charges[charge].key) {
            accounts.swap(kept, i);
            kept += 1;
        }
        account_of[charge] = kept - 1;
    }
    accounts.truncate(kept);
    account_of
}
