//! The brake from the operator's side: what it recorded is shown, enforced or discarded, and a running daemon
//! follows.

use crate::asker::Question;
use crate::gatepost::{Home, OPEN, both, text};
use crate::wait;
use gatepost::lines::{EventLine, Status};
use gatepost::mail::Address;
use gatepost::store::{Applied, Batch, Cause, Effect, Entry, Origin, Reason, SeenKey, Store};

/// Some time ago, Unix seconds.
const THEN: i64 = 1_700_000_000;

/// A permanent bounce of the address.
pub fn bounce(address: &str) -> Effect {
    bounce_to(Entry {
        address: Address::parse(address).unwrap(),
        spelling: Some(address.to_owned()),
        reason: Reason::Bounce,
        evidence: "smtp; 550 5.1.1 user unknown".into(),
        source: Origin::Event,
        created: THEN,
        expires: None,
    })
}

/// The bounce that makes `entry`, of mail that was sent at that time.
pub fn bounce_to(entry: Entry) -> Effect {
    let to = entry.address.to_string();
    let seen = SeenKey::new("0109019c", &["bounce", &to, &entry.created.to_string(), &entry.evidence]);
    let line = EventLine {
        ses_id: "0109019c".into(),
        to,
        status: Status::Bounced,
        dsn: None,
        delay_ms: None,
        details: Vec::new(),
        suppressed: None,
        queue_id: None,
        correlation_id: None,
        sent_by: None,
        text: None,
    };
    let cause = Cause::Suppress { mail_time: entry.created, entry, echo: false };
    Effect { seen, cause, line }
}

/// Four bounces, of which the brake lets one pass.
fn braked(home: &Home) -> Applied {
    let mut store = Store::open(&home.path("state/gatepost.db")).unwrap();
    let effects = ["a@example.net", "B@example.net", "c@example.net", "d@example.org"].map(bounce);
    let brake = Some("1/h".parse().unwrap());
    store
        .apply(&Batch { effects: &effects, quarantine: &[], now: THEN, brake, written: None, late_until: None })
        .unwrap()
}

fn answer(home: &Home, recipient: &str) -> String {
    home.ask(&Question::rcpt("info@example.com", recipient))
}

#[test]
fn what_is_recorded_is_shown_and_not_enforced() {
    let home = Home::alone("", OPEN);
    assert_eq!(home.run(&["suppress", "brake"]), "");
    let applied = braked(&home);
    assert_eq!((applied.added, applied.braked, applied.brake_on), (1, 3, true));
    let state = home.run(&["suppress", "brake"]);
    assert!(state.starts_with("on since 2023-11-14T22:13:20Z, 3 entries held back\n"), "{state}");
    assert_eq!(state.lines().count(), 4);
    assert!(state.contains("b@example.net  bounce  event"), "{state}");
    let json: serde_json::Value = serde_json::from_str(&home.run(&["suppress", "brake", "--json"])).unwrap();
    assert_eq!(json, serde_json::json!({ "on": true, "since": "2023-11-14T22:13:20Z", "held": 3 }));
    assert_eq!(home.run(&["suppress", "list"]).lines().count(), 1);
    assert_eq!(home.run(&["suppress", "list", "--held"]).lines().count(), 3);
    assert_eq!(home.run(&["suppress", "list", "--held", "--limit", "1"]).lines().count(), 1);
    let of_org = home.run(&["suppress", "list", "--held", "--domain", "example.org", "--json"]);
    assert!(of_org.starts_with("{\"address\":\"d@example.org\""), "{of_org}");
    let shown = home.command(&["suppress", "show", "b@example.net"]).output().unwrap();
    assert_eq!(shown.status.code(), Some(1));
    let said = both(&shown);
    assert!(said.contains("user unknown") && said.contains("recorded, not enforced: the brake is on"), "{said}");
    let _daemon = home.start();
    assert!(answer(&home, "a@example.net").contains("550"));
    assert_eq!(answer(&home, "b@example.net"), "DUNNO");
}

#[test]
fn a_running_daemon_follows_what_is_enforced() {
    let home = Home::alone("", OPEN);
    braked(&home);
    let _daemon = home.start();
    assert_eq!(home.run(&["suppress", "brake", "--enforce"]), "3 entries enforced; the brake is off\n");
    wait::until("the refusal", wait::LONG, || answer(&home, "b@example.net").contains("550").then_some(()));
    assert_eq!(home.run(&["suppress", "brake"]), "off\n");
    let shown = home.run(&["suppress", "show", "b@example.net"]);
    assert!(shown.contains("written:  B@example.net\n") && shown.contains("source:   event\n"), "{shown}");
    assert_eq!(home.run(&["suppress", "brake", "--enforce", "--json"]), "{\"enforced\":0}\n");
}

#[test]
fn what_is_discarded_or_removed_stays_away() {
    let home = Home::alone("", OPEN);
    braked(&home);
    let removed = home.command(&["suppress", "remove", "b@example.net"]).output().unwrap();
    let said = text(&removed.stderr);
    assert!(said.contains("b@example.net: was held back by the brake, and is forgotten\n"), "{said}");
    assert!(said.contains("aws sesv2 delete-suppressed-destination --email-address B@example.net\n"), "{said}");
    assert_eq!(home.run(&["suppress", "brake", "--discard"]), "2 entries discarded; the brake is off\n");
    let both = home.command(&["suppress", "brake", "--discard", "--enforce"]).output().unwrap();
    assert_eq!(both.status.code(), Some(64));
    let mut store = Store::open(&home.path("state/gatepost.db")).unwrap();
    let again: Vec<Effect> =
        ["b@example.net", "c@example.net"].map(|a| Effect { seen: SeenKey::new("again", &[a]), ..bounce(a) }).into();
    let applied = store
        .apply(&Batch { effects: &again, quarantine: &[], now: THEN, brake: None, written: None, late_until: None })
        .unwrap();
    assert_eq!((applied.removed, applied.added), (2, 0));
}
