//! The fleet: the store that it shares, as it says of itself, and the relays that are in it.

use super::catalogue as c;
use super::finding::{Check, Fault, Report, Verdict};
use super::site::Site;
use crate::fleet::members::Member;
use crate::fleet::{Inspection, Keys, Refusal, StoreUrl, inspect};
use redis::InfoDict;
use std::time::Duration;

/// Limits are counted by the store's clock, and changes of the list are ordered by those of the relays: seconds are no
/// matter, minutes are.
const MOST_AHEAD: f64 = 5.0;

/// From here on the store is called full, in percent: what a night may bring has to fit.
const FULL: u64 = 90;

/// How far behind the others a relay may be: they hear of a change within a second.
const MOST_LAG: Duration = Duration::from_secs(10);

const STORE: [Check; 10] = [
    c::FLEET_STORE,
    c::FLEET_WRITES,
    c::FLEET_EVICTION,
    c::FLEET_MEMORY,
    c::FLEET_PERSISTENCE,
    c::FLEET_CLOCK,
    c::FLEET_NAMESPACE,
    c::FLEET_NAME,
    c::FLEET_MEMBERS,
    c::FLEET_LAG,
];

/// Looks at all of it.
pub(super) fn check(site: &Site, report: &mut Report) {
    let fleet = &site.config.fleet;
    let stores = fleet.stores();
    if stores.is_empty() {
        let why = "neither [suppression] store nor [limits] store names the store of a fleet";
        report.skip(&[&STORE[..], &[c::FLEET_DAEMON, c::FLEET_SHARES]].concat(), why);
        return;
    }
    let ca = fleet.ca().map_err(|e| Refusal { code: String::new(), words: e.to_string() });
    let keys = Keys::new(&fleet.namespace);
    let mut found = Vec::new();
    for store in stores {
        let inspection = ca.clone().and_then(|ca| inspect(store, ca.as_deref(), &keys));
        match inspection {
            Ok(inspection) => judge(store, &inspection, &keys, &mut found),
            Err(refusal) => away(store, &refusal, &mut found),
        }
    }
    for check in STORE {
        report.add(check, Verdict::together(found.iter().filter(|(other, _)| *other == check).map(|(_, v)| v.clone())));
    }
    report.add(c::FLEET_DAEMON, daemon(site));
    report.add(c::FLEET_SHARES, shares(site));
}

fn away(store: &StoreUrl, refusal: &Refusal, found: &mut Vec<(Check, Verdict)>) {
    let words = format!("{store}: {}", refusal.words);
    found.push((c::FLEET_STORE, Fault::new(words, way_to(store)).into()));
    found.extend(STORE[1..].iter().map(|check| (*check, Verdict::skipped(format!("{store} does not answer")))));
}

/// A command that asks the store from this machine.
fn way_to(store: &StoreUrl) -> String {
    format!(
        "valkey-cli -u '{store}' PING   # with the password; and: [fleet] ca_file, the store's security group and ACL"
    )
}

fn judge(store: &StoreUrl, said: &Inspection, keys: &Keys, found: &mut Vec<(Check, Verdict)>) {
    let mut add = |check: Check, verdict: Verdict| found.push((check, verdict));
    add(c::FLEET_STORE, Verdict::Sound);
    let refused = said.write.as_ref().err();
    add(
        c::FLEET_WRITES,
        refused.map(|refusal| Fault::new(format!("{store}: {}", refusal.words), mend(refusal, keys))).into(),
    );
    add(c::FLEET_EVICTION, evicts(store, &said.info).into());
    add(c::FLEET_MEMORY, is_full(store, &said.info).into());
    add(c::FLEET_PERSISTENCE, persistence(store, said));
    add(c::FLEET_CLOCK, clock(store, said.ahead));
    add(c::FLEET_NAMESPACE, namespace(store, said, keys));
    add(c::FLEET_NAME, names(&said.members));
    add(c::FLEET_MEMBERS, members(&said.members));
    add(c::FLEET_LAG, lags(&said.members));
}

/// What to do about a store that refuses to write.
fn mend(refusal: &Refusal, keys: &Keys) -> String {
    match refusal.code.as_str() {
        "READONLY" => "# the store's primary endpoint, or its sentinels\n[suppression]\nstore = \"redis+sentinel://ONE:26379,TWO:26379/MASTER\"".into(),
        "OOM" => "CONFIG SET maxmemory 4gb   # in the store, and in its valkey.conf: maxmemory 4gb".into(),
        "NOPERM" => format!("ACL SETUSER gatepost ~{}* …   # docs/fleet.md, \"Setting it up\", has the rights that are needed", keys.prefix()),
        "MISCONF" => "df -h   # on the store's machine: it cannot save, and takes no writes until it can".into(),
        _ => "INFO   # in the store: replication, memory, persistence".into(),
    }
}

fn evicts(store: &StoreUrl, info: &InfoDict) -> Option<Fault> {
    let policy: String = info.get("maxmemory_policy")?;
    let bound = info.get::<u64>("maxmemory")? > 0;
    let what =
        format!("{store}: maxmemory-policy is {policy}: a full store drops counters, claims of events, or the list");
    let fix = "CONFIG SET maxmemory-policy noeviction   # and in valkey.conf, or the parameter group: maxmemory-policy noeviction";
    (bound && policy != "noeviction").then(|| Fault::new(what, fix))
}

fn is_full(store: &StoreUrl, info: &InfoDict) -> Option<Fault> {
    let (used, most): (u64, u64) = (info.get("used_memory")?, info.get("maxmemory")?);
    let share = (used * 100).checked_div(most)?;
    let what = format!("{store} uses {share} % of its maxmemory ({} of {} MiB)", used >> 20, most >> 20);
    let fix = format!("CONFIG SET maxmemory {}mb   # and in valkey.conf, or a larger node", (most >> 19).max(1));
    (share >= FULL).then(|| Fault::new(what, fix))
}

/// A replica that takes over has the data as well.
fn persistence(store: &StoreUrl, said: &Inspection) -> Verdict {
    let any = |field: &str| said.info.get::<u64>(field).is_some_and(|n| n > 0);
    match &said.save {
        _ if any("aof_enabled") || any("connected_slaves") => Verdict::Sound,
        Some(save) if !save.is_empty() => Verdict::Sound,
        Some(_) => {
            let what = format!(
                "{store} keeps nothing over a restart: neither appendonly nor save is set, and it has no replica"
            );
            Fault::new(what, "CONFIG SET appendonly yes   # and in valkey.conf: appendonly yes").into()
        }
        None => {
            Verdict::skipped(format!("{store} does not tell when it saves (CONFIG GET save), and has no replica now"))
        }
    }
}

fn clock(store: &StoreUrl, ahead: Option<f64>) -> Verdict {
    let Some(ahead) = ahead else { return Verdict::skipped(format!("{store} does not tell its time")) };
    let side = if ahead > 0.0 { "before" } else { "behind" };
    let what = format!("this machine's clock is {:.0} s {side} that of {store}", ahead.abs());
    Verdict::fault_if(ahead.abs() > MOST_AHEAD, what, "timedatectl set-ntp true   # here and on the store's machine")
}

fn namespace(store: &StoreUrl, said: &Inspection, keys: &Keys) -> Verdict {
    let others = said.other_namespaces.join(", ");
    let what = format!("{store} also holds relays of another fleet: {others} (this one is {})", keys.prefix());
    let fix = format!("[fleet]\nnamespace = \"{others}\"");
    Verdict::fault_if(!others.is_empty(), what, fix)
}

fn names(members: &[(Member, Duration)]) -> Verdict {
    let twice = members.iter().filter(|(member, _)| member.twice && member.is_present());
    let fault = |(member, _): &(Member, Duration)| {
        Fault::new(
            format!("two relays are at work under the name {}", member.name),
            "# another one for each relay; without the key, the host's\n[fleet]\nname = \"relay-1\"",
        )
    };
    twice.map(fault).collect::<Vec<_>>().into()
}

/// One that ended as it should is silent as well, and forgotten after a day.
fn members(members: &[(Member, Duration)]) -> Verdict {
    let silent = members.iter().filter(|(member, _)| !member.is_present());
    let fault = |(member, _): &(Member, Duration)| {
        let what = format!("{} has been silent for {} s", member.name, member.silent.as_secs());
        Fault::new(what, format!("systemctl status gatepost   # on {}", member.name))
    };
    let faults: Vec<Fault> = silent.map(fault).collect();
    let seen = |(member, lag): &(Member, Duration)| {
        let (silent, lag) = (member.silent.as_secs_f64(), lag.as_secs_f64());
        format!("{} {silent:.1} s ago, {lag:.1} s behind, gatepost {}", member.name, member.version)
    };
    if faults.is_empty() && !members.is_empty() {
        return Verdict::Seen(members.iter().map(seen).collect::<Vec<_>>().join("; "));
    }
    faults.into()
}

fn lags(members: &[(Member, Duration)]) -> Verdict {
    let late = members.iter().filter(|(member, lag)| member.is_present() && *lag > MOST_LAG);
    let fault = |(member, lag): &(Member, Duration)| {
        let what = format!("{} has not heard of changes of the last {} s", member.name, lag.as_secs());
        Fault::new(what, format!("journalctl -u gatepost   # on {}; a slow disk: iostat -x 1", member.name))
    };
    late.map(fault).collect::<Vec<_>>().into()
}

/// What the running daemon says of its own share.
fn daemon(site: &Site) -> Verdict {
    let Some(health) = &site.running.health else { return Verdict::skipped("the admin socket does not answer") };
    let fleet = &site.config.fleet;
    let parts = [
        ("limits_store", "limits", fleet.limits.is_some()),
        ("fleet_store", "suppression", fleet.suppression.is_some()),
    ];
    let fault = |(field, section, is_meant): (&str, &str, bool)| match health.get(field).and_then(|said| said.as_str())
    {
        _ if !is_meant => None,
        Some("ok") => None,
        Some(trouble) => Some(Fault::new(
            format!("[{section}] store, as the daemon has it: {trouble}"),
            "journalctl -u gatepost   # says since when",
        )),
        None => Some(Fault::new(
            format!("the daemon was started before [{section}] named a store"),
            "systemctl restart gatepost",
        )),
    };
    parts.into_iter().filter_map(fault).collect::<Vec<_>>().into()
}

/// One of the two alone may be meant.
fn shares(site: &Site) -> Verdict {
    let fleet = &site.config.fleet;
    match (&fleet.suppression, &fleet.limits) {
        (Some(store), None) => Fault::new(
            "the suppression list is shared, and each relay counts limits for itself",
            format!("[limits]\nstore = \"{store}\"   # or leave it, with rates for one relay"),
        )
        .into(),
        (None, Some(store)) => Fault::new(
            "limits are shared, and each relay has a suppression list of its own",
            format!("[suppression]\nstore = \"{store}\""),
        )
        .into(),
        _ => Verdict::Sound,
    }
}
