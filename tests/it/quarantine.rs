//! The quarantine from the operator's side: list, show, retry, drop.

use crate::gatepost::{Home, OPEN, both, text};
use crate::ingest::{bounce, bounce_of};
use gatepost::store::{Batch, MAX_QUARANTINED_BYTES, Quarantined, Store};
use serde_json::Value;

const NOW: i64 = 1_700_000_000;

/// A folder whose quarantine holds these bodies.
fn holding(bodies: &[&[u8]]) -> Home {
    let home = Home::alone("", OPEN);
    let kept =
        |body: &&[u8]| Quarantined { body: body.to_vec(), why: "no\r\nJSON".into(), source: "https://q/1".into() };
    let quarantine: Vec<_> = bodies.iter().map(kept).collect();
    let mut store = Store::open(&home.path("state/gatepost.db")).unwrap();
    store
        .apply(&Batch { effects: &[], quarantine: &quarantine, now: NOW, brake: None, written: None, late_until: None })
        .unwrap();
    home
}

fn fails(home: &Home, args: &[&str], code: i32) -> String {
    let out = home.command(args).output().unwrap();
    assert_eq!(out.status.code(), Some(code), "{}", both(&out));
    both(&out)
}

#[test]
fn bodies_are_listed_shown_and_dropped() {
    let empty = Home::alone("", OPEN);
    assert_eq!(empty.run(&["events", "quarantine", "list"]), "");
    fails(&empty, &["events", "quarantine", "show", "1"], 1);
    fails(&empty, &["events", "quarantine", "drop", "1"], 1);
    let home = holding(&[b"{\x1b[2J\nx\xff", &[b'x'; MAX_QUARANTINED_BYTES + 1]]);
    let list = home.run(&["events", "quarantine", "list"]);
    assert_eq!(
        list,
        "1  2023-11-14T22:13:20Z  https://q/1  8 bytes  no  JSON\n\
         2  2023-11-14T22:13:20Z  https://q/1  1048576 bytes and more  no  JSON\n"
    );
    let json = home.run(&["events", "quarantine", "list", "--json"]);
    let rows: Vec<Value> = json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((rows.len(), &rows[1]["cut"], &rows[0]["bytes"]), (2, &Value::Bool(true), &Value::from(8)));
    let shown = home.run(&["events", "quarantine", "show", "1"]);
    assert!(shown.ends_with("no  JSON\n{ [2J\nx\u{fffd}\n"), "{shown:?}");
    let raw = home.command(&["events", "quarantine", "show", "1", "--raw"]).output().unwrap();
    assert_eq!(raw.stdout, b"{\x1b[2J\nx\xff");
    let json: Value = serde_json::from_str(&home.run(&["events", "quarantine", "show", "1", "--json"])).unwrap();
    assert_eq!(json["body"], "{\u{1b}[2J\nx\u{fffd}");
    let said = fails(&home, &["events", "quarantine", "drop", "1", "7"], 1);
    assert!(said.contains("1 dropped") && said.contains("7: no body of this number"), "{said}");
    assert_eq!(home.run(&["events", "quarantine", "drop", "2", "--json"]), "{\"dropped\":1}\n");
    assert_eq!(home.run(&["events", "quarantine", "list"]), "");
    for usage in [
        &["events", "quarantine", "retry"][..],
        &["events", "quarantine", "retry", "--all", "1"],
        &["events", "quarantine", "drop"],
    ] {
        fails(&home, usage, 64);
    }
}

#[test]
fn what_can_be_read_now_is_applied_and_leaves() {
    let event = bounce_of("gone@example.net", "m1");
    let home =
        holding(&[b"{\"broken\":", event.to_string().as_bytes(), bounce("b@example.net").to_string().as_bytes()]);
    let said = fails(&home, &["events", "quarantine", "retry", "1"], 65);
    assert!(said.contains("1: ") && said.contains("0 released, 3 left"), "{said}");
    let out = home.run(&["events", "quarantine", "retry", "2"]);
    assert_eq!(out, "1 released, 2 left\n");
    assert!(home.run(&["suppress", "show", "gone@example.net"]).contains("reason:   bounce\n"));
    home.log_line(&["to=<gone@example.net>", "status=bounced", "suppressed=yes"]);
    let out = home.command(&["events", "quarantine", "retry", "--all", "--json"]).output().unwrap();
    assert_eq!(out.status.code(), Some(65));
    let json: Value = serde_json::from_str(&text(&out.stdout)).unwrap();
    assert_eq!((&json["released"], &json["left"], &json["added"]), (&1.into(), &1.into(), &1.into()));
    fails(&home, &["events", "quarantine", "retry", "99"], 1);
}
