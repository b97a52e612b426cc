//! What the parser says of good and bad files, and what lookups find.

use super::*;
use proptest::prelude::*;

/// All findings of a file, as they print.
fn findings(text: &[u8]) -> (bool, Vec<String>) {
    let (good, found) = match Allowlist::parse(Path::new("f"), text) {
        Ok((_, warnings)) => (true, warnings),
        Err(problems) => (false, problems),
    };
    (good, found.iter().map(ToString::to_string).collect())
}

fn list(text: &str) -> Allowlist {
    match Allowlist::parse(Path::new("f"), text.as_bytes()) {
        Ok((list, _)) => list,
        Err(problems) => panic!("{text:?}: {problems:?}"),
    }
}

fn rewriting(delimiter: &str, parents: bool) -> Rewriting {
    Rewriting {
        myorigin: "origin.example".into(),
        recipient_delimiter: delimiter.into(),
        parent_domain_matches_subdomains: parents,
    }
}

fn line_of(list: &Allowlist, address: &str, rewriting: &Rewriting) -> Option<u32> {
    let mut canonical = Canonical::default();
    canonical.set_internal(address.as_bytes(), rewriting);
    list.lookup(&canonical, rewriting).map(|found| found.line)
}

#[test]
fn good_files_have_no_findings() {
    for text in [
        "# gatepost: empty on purpose\n",
        "info@example.com OK\n",
        "# comment\n\ninfo@example.com\tOK\nexample.org RELAY\n.example.net ok\nuser@ DUNNO\n<> REJECT no bounces here\n",
        "\"a b\"@example.com OK\nm\u{fc}ller@m\u{fc}nchen.example OK\n[192.0.2.1] OK\nx@[IPv6:2001:db8::1] OK\n",
        "a@b.example REJECT\n  text goes on\n# and on\n  here\n",
        "a@b.example 450 4.7.1 later\na@c.example 550 no\na@d.example 521 5.7.1 bye\n",
        "a@b FILTER smtp:[10.0.0.1]\na@c REDIRECT x@y\na@d BCC x@y\na@e PREPEND X-A: b\na@f HOLD\na@g DISCARD\n",
        "a@b DEFER\na@c DEFER_IF_PERMIT x\na@d DEFER_IF_REJECT\na@e WARN x\na@f INFO\n",
        "a@b OK clients=10.0.1.0/24,2001:db8::/32,192.0.2.1 sasl=billing,other\r\n",
        "a..b@example.com OK",
    ] {
        assert_eq!(findings(text.as_bytes()), (true, vec![]), "{text:?}");
    }
}

#[test]
fn warnings_name_the_place_and_what_to_write() {
    for (text, warning) in [
        (
            "@d.example OK",
            "f:1:1: warning: \"@d.example\" is understood as \"d.example\"; Postfix never matches it: write \"d.example\"",
        ),
        ("a@b 550", "f:1:5: warning: \"550\" alone is all digits, which allows: write OK, or \"550 text\" to refuse"),
        (
            "a@b 1234567",
            "f:1:5: warning: \"1234567\" alone is all digits, which allows: write OK, or \"554 text\" to refuse",
        ),
        ("a@b 550 4.7.1 x", "f:1:9: warning: the enhanced status code is of another class than 550: write 5.N.N"),
        (
            "a@b OK since 2024",
            "f:1:8: warning: ignored: after OK only the conditions clients= and sasl= mean something",
        ),
        (
            "10.0.0.1 OK",
            "f:1:1: warning: \"10.0.0.1\" is an IP address and never matches a sender or recipient: to say where a sender \
             may come from, write \"user@domain OK clients=10.0.0.1\"; an address literal is written \"[10.0.0.1]\"",
        ),
        (
            "a@d.example. OK",
            "f:1:1: warning: \"a@d.example.\" never matches: Postfix drops the closing dot of an address: write \"a@d.example\"",
        ),
        (
            "a@b: OK",
            "f:1:1: warning: \"a@b:\" never matches: there is no colon after the pattern in access(5): remove it",
        ),
        (
            "info%d OK",
            "f:1:1: warning: \"info%d\" never matches: Postfix makes user@domain of it before it looks: write user@domain",
        ),
        (
            "a@b,c OK",
            "f:1:1: warning: \"a@b,c\" never matches: it is no domain name: write user@domain, domain, .domain, user@ or <>",
        ),
        ("\"ab\"@c OK", "f:1:1: warning: the pattern never matches: Postfix looks for ab@c, write that"),
        (
            "a,b@c OK",
            "f:1:1: warning: the pattern matches nothing but the address \"a,b\"@c: write that, if it is meant",
        ),
        (
            "a@b OK\n\nA@B REJECT",
            "f:3:1: warning: \"a@b\" stands in line 1 already, and the first counts: remove one (Postfix refuses the whole \
             file as texthash:)",
        ),
        (
            "# gatepost: empty on purpose\na@b OK\n",
            "f:1:1: warning: says that the file is empty on purpose, but it has entries (1): remove this line",
        ),
    ] {
        assert_eq!(findings(text.as_bytes()), (true, vec![warning.to_owned()]), "{text:?}");
    }
}

#[test]
fn problems_name_the_place_and_what_to_write() {
    let actions = "write OK, REJECT [text], DUNNO, 4NN text, 5NN text, DEFER, DEFER_IF_PERMIT, DEFER_IF_REJECT, HOLD, \
                   DISCARD, FILTER, REDIRECT, PREPEND, BCC, WARN or INFO";
    for (text, problem) in [
        (
            "",
            "1:1: no entries, which would refuse everybody: add some, or the line \"# gatepost: empty on purpose\" if that is meant",
        ),
        (
            "# only this\n",
            "1:1: no entries, which would refuse everybody: add some, or the line \"# gatepost: empty on purpose\" if that is meant",
        ),
        ("\u{feff}a@b OK", "1:1: the file begins with a byte order mark: save it as UTF-8 without one"),
        ("a@b", "1:4: no action after \"a@b\": write \"a@b OK\""),
        ("a@b   \r\n", "1:4: no action after \"a@b\": write \"a@b OK\""),
        (
            "# x\n  a@b OK",
            "2:1: the line begins with white space, but there is no line before it that it could go on with: remove the white space",
        ),
        ("\"a b@c OK", "1:1: a quote that is never closed: close it, as in \"first last\"@domain OK"),
        ("a@b@c OK", "1:4: two @ outside quotes: quote the local part, as in \"user@host\"@domain"),
        ("@ OK", "1:1: nothing but an @: write user@domain, user@ or domain"),
        ("/^a@b$/ OK", "1:1: a regular expression: this file takes addresses and domains only, write those"),
        ("a\u{1}@b OK", "1:2: a control character in the pattern: remove it"),
        ("a@b REJECT x\u{7}y", "1:13: a control character in the action: remove it"),
        ("a@b REJECT x\u{2028}y", "1:13: a control character in the action: remove it"),
        (
            "\u{e4}\u{e4}@b OK clients=300.0.0.1",
            "1:17: \"300.0.0.1\" is no network: write an address or a CIDR such as 10.0.1.0/24 or 2001:db8::/32",
        ),
        (
            "a@b OK clients=10.0.0.0/8,10.0.1.5/24",
            "1:27: \"10.0.1.5/24\" has bits beyond its prefix: write 10.0.1.0/24 or 10.0.1.5",
        ),
        (
            "a@b OK clients=10.0.0.0/33",
            "1:16: \"10.0.0.0/33\" is no network: write an address or a CIDR such as 10.0.1.0/24 or 2001:db8::/32",
        ),
        (
            "a@b OK clients=10.0.0.1,",
            "1:25: \"\" is no network: write an address or a CIDR such as 10.0.1.0/24 or 2001:db8::/32",
        ),
        ("a@b OK clients= 10.0.0.1", "1:8: nothing after clients=: write clients= and the list without a blank"),
        ("a@b OK clients=10.0.0.1 clients=10.0.0.2", "1:25: clients= stands twice: write one list with commas"),
        ("a@b OK sasl=a sasl=b", "1:15: sasl= stands twice: write one list with commas"),
        ("a@b OK sasl=a,,b", "1:15: an empty name in sasl=: remove the comma"),
        (
            "a@b OK client=10.0.0.1",
            "1:8: unknown condition \"client=\": write clients= or sasl= (in lower case), or leave it out",
        ),
        (
            "a@b OK\n Clients=10.0.0.1",
            "2:2: unknown condition \"Clients=\": write clients= or sasl= (in lower case), or leave it out",
        ),
        (
            "a@b OK clients =10.0.0.1",
            "1:16: unknown condition \"=\": write clients= or sasl= (in lower case), or leave it out",
        ),
        (
            "a@b OK clients:10.0.0.1",
            "1:8: \"clients:10.0.0.1\" looks like a condition, but has no \"=\": write clients= or sasl=, or leave it out",
        ),
        ("a@b 650 x", "1:5: \"650\" is no reply code: write 4NN or 5NN and a text, such as \"550 5.7.1 text\""),
        ("a@b 5501 x", "1:5: \"5501\" is no reply code: write 4NN or 5NN and a text, such as \"550 5.7.1 text\""),
        ("a@b 55x x", "1:5: \"55x\" is no reply code: write 4NN or 5NN and a text, such as \"550 5.7.1 text\""),
        ("a@b 12 x", "1:5: \"12\" is no reply code: write 4NN or 5NN and a text, such as \"550 5.7.1 text\""),
        ("a@b FILTER", "1:11: FILTER needs a transport and a destination: write FILTER transport:destination"),
        ("a@b FILTER smtp", "1:11: FILTER needs a transport and a destination: write FILTER transport:destination"),
        ("a@b redirect root", "1:13: REDIRECT needs an address: write REDIRECT user@domain"),
        ("a@b BCC", "1:8: BCC needs an address: write BCC user@domain"),
        ("a@b PREPEND no header", "1:12: PREPEND needs a header: write PREPEND Name: text"),
        ("a@b ALLOW", &format!("1:5: unknown action \"ALLOW\": {actions}")),
        ("a@b OK,", &format!("1:5: \"OK,\" is a list; an entry takes one action: {actions}")),
        (
            "a@b reject_unknown_sender_domain, permit",
            &format!(
                "1:5: \"reject_unknown_sender_domain,\" is a restriction of Postfix, which gatepost cannot evaluate: {actions}"
            ),
        ),
        (
            "a@b permit",
            &format!("1:5: \"permit\" is a restriction of Postfix, which gatepost cannot evaluate: {actions}"),
        ),
    ] {
        assert_eq!(findings(text.as_bytes()), (false, vec![format!("f:{problem}")]), "{text:?}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_a_problem_of_their_line() {
    let (good, found) = findings(b"a@b OK\n\xc3\xa4\xff@b OK\nc@d REJECT \xff\n");
    assert!(!good);
    let message = "not UTF-8: Postfix skips such a line; save the file as UTF-8";
    assert_eq!(found, [format!("f:2:2: {message}"), format!("f:3:12: {message}")]);
}

#[test]
fn all_findings_are_told_up_to_a_bound() {
    let (good, found) = findings(b"a@b\n@c OK\nd@e NO\nf@g@h 650 x\n");
    assert!(!good);
    let places: Vec<&str> = found.iter().filter_map(|f| f.split(": ").next()).collect();
    assert_eq!(places, ["f:1:4", "f:2:1", "f:3:5", "f:4:4", "f:4:7"]);
    let (_, many) = findings("a@b\n".repeat(MAX_FINDINGS + 5).as_bytes());
    assert_eq!(many.len(), MAX_FINDINGS + 1);
    assert_eq!(many.last().map(String::as_str), Some("f:1:1: 5 more problems in this file"));
}

#[test]
fn bounds_hold() {
    let long = format!("{}@b OK", "a".repeat(MAX_PATTERN_BYTES));
    assert_eq!(findings(long.as_bytes()).1, ["f:1:1: the pattern is longer than 1400 bytes, no address is"]);
    let long = format!("a@b REJECT {}", "a".repeat(MAX_ACTION_BYTES));
    assert_eq!(findings(long.as_bytes()).1, ["f:1:5: the action is longer than 16384 bytes: shorten it"]);
    let long = vec![b'#'; MAX_FILE_BYTES + 1];
    let message = "f:1:1: the file has 268435457 bytes, more than 268435456: list domains instead of addresses";
    assert_eq!(findings(&long).1, [message]);
}

#[test]
fn actions_mean_what_access5_says() {
    let pass = |text: &str| Action::Pass(text.into());
    for (value, action) in [
        ("OK", Action::Allow),
        ("relay", Action::Allow),
        ("12345", Action::Allow),
        ("DUNNO whatever", Action::Unlisted),
        ("REJECT", Action::Reject(None)),
        ("reject \t go away ", Action::Reject(Some("go away".into()))),
        ("REJECT 5.1.8 no such", pass("554 5.1.8 no such")),
        ("REJECT 4.1.8 no such", Action::Reject(Some("4.1.8 no such".into()))),
        ("550 5.1.1  no", pass("550 5.1.1  no")),
        ("defer_if_permit later", pass("defer_if_permit later")),
        ("PREPEND X-A:\tb", pass("PREPEND X-A: b")),
    ] {
        let list = list(&format!("a@b {value}"));
        let found = line_and_action(&list, "a@b");
        assert_eq!(found, Some((1, action)), "{value}");
    }
}

fn line_and_action(list: &Allowlist, address: &str) -> Option<(u32, Action)> {
    let rewriting = rewriting("", true);
    let mut canonical = Canonical::default();
    canonical.set_internal(address.as_bytes(), &rewriting);
    list.lookup(&canonical, &rewriting).map(|found| (found.line, found.entry.action.clone()))
}

#[test]
fn the_more_exact_key_wins() {
    let parents = rewriting("+", true);
    // Taking the winner away brings the next one, down to nothing.
    let keys = ["u+x@a.b.example", "u@a.b.example", "a.b.example", "b.example", "example", "u+x@", "u@"];
    for first in 0..keys.len() {
        let text: String = keys[first..].iter().rev().map(|key| format!("{key} OK\n")).collect();
        let last = u32::try_from(keys.len() - first).expect("small");
        assert_eq!(line_of(&list(&text), "U+X@A.B.example", &parents), Some(last), "{text}");
    }
    let none = list("v@a.b.example OK\n.b.example OK\n");
    assert_eq!(line_of(&none, "u+x@a.b.example", &parents), None);
}

#[test]
fn subdomains_by_dot_or_by_parent() {
    let text = list("b.example OK\n.b.example OK\n.c.example OK\n");
    let (parents, dots) = (rewriting("", true), rewriting("", false));
    assert_eq!(line_of(&text, "u@a.b.example", &parents), Some(1));
    assert_eq!(line_of(&text, "u@a.b.example", &dots), Some(2));
    assert_eq!(line_of(&text, "u@b.example", &dots), Some(1));
    assert_eq!(line_of(&text, "u@x.y.c.example", &dots), Some(3));
    assert_eq!(line_of(&text, "u@c.example", &dots), None);
    assert_eq!(line_of(&text, "u@x.c.example", &parents), None);
    let told: Vec<String> = text.never_looked_up(Path::new("f"), &parents).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2);
    assert_eq!(
        told[0],
        "f:2:1: warning: \".b.example\" never matches while parent_domain_matches_subdomains includes smtpd_access_maps \
         (Postfix's default): write \"b.example\", which then matches its subdomains too"
    );
    assert!(text.never_looked_up(Path::new("f"), &dots).is_empty());
}

#[test]
fn special_addresses() {
    let text = list(
        "<> OK\n\"a b\"@d OK\na,b@d OK\nm\u{fc}nchen.example OK\nx@xn--mnchen-3ya.example OK\nroot@origin.example OK\n@at.example OK\n",
    );
    let plain = rewriting("+", true);
    for (address, line) in [
        ("", Some(1)),
        ("a b@d", Some(2)),
        ("a b+c@d", Some(2)),
        ("a,b@d", Some(3)),
        ("y@xn--mnchen-3ya.example", Some(4)),
        ("y@M\u{dc}NCHEN.example", Some(4)),
        ("y@sub.m\u{fc}nchen.example", Some(4)),
        ("x@m\u{fc}nchen.example", Some(5)),
        ("root", Some(6)),
        ("root+x", Some(6)),
        ("y@sub.at.example", Some(7)),
        ("y@<>", None),
        ("y@\u{fffd}.at.example", None),
        ("at.example", None),
    ] {
        assert_eq!(line_of(&text, address, &plain), line, "{address}");
    }
}

#[test]
fn extensions_split_as_in_postfix() {
    for (local, delimiters, bare) in [
        ("a+b", "+", Some("a")),
        ("a+b+c", "+", Some("a")),
        ("a-b+c", "+-", Some("a")),
        ("a+b", "", None),
        ("+b", "+", None),
        ("a", "+", None),
        ("owner-list", "-", None),
        ("list-request", "-", None),
        ("-request", "-", None),
        ("mailer-daemon", "-", None),
        ("double-bounce", "-", None),
        ("owner-list", "+", None),
    ] {
        assert_eq!(without_extension(local.as_bytes(), delimiters), bare.map(str::as_bytes), "{local} {delimiters}");
    }
}

#[test]
fn conditions_bind() {
    let text = list("a@b OK clients=10.0.1.0/24,2001:db8::/32 sasl=billing,shop\nc@d OK\n");
    let rules = rewriting("", true);
    let mut canonical = Canonical::default();
    canonical.set_internal(b"a@b", &rules);
    let binding = &text.lookup(&canonical, &rules).expect("listed").entry.binding;
    let ip = |text: &str| Some(text.parse().expect("an address"));
    for (client, sasl, holds) in [
        (ip("10.0.1.7"), "billing", true),
        (ip("::ffff:10.0.1.7"), "shop", true),
        (ip("2001:db8::5"), "shop", true),
        (ip("10.0.2.7"), "billing", false),
        (ip("10.0.1.7"), "", false),
        (ip("10.0.1.7"), "Billing", false),
        (None, "billing", false),
    ] {
        assert_eq!(binding.holds(client, sasl.as_bytes()), holds, "{client:?} {sasl}");
    }
    assert!(Binding::default().holds(None, b""));
}

/// Not a benchmark: it shows that the time does not grow with the square, in a debug build too.
#[test]
fn a_big_table_is_read_and_found_again() {
    let text: String = (0..100_000).map(|i| format!("user{i}@d{}.example OK\n", i % 97)).collect();
    let big = list(&text);
    assert_eq!(big.len(), 100_000);
    assert_eq!(big.entries.len(), 1);
    for i in [0, 1, 50_000, 99_999] {
        let address = format!("User{i}@D{}.example", i % 97);
        assert_eq!(line_of(&big, &address, &rewriting("+", true)), Some(i + 1));
    }
    assert_eq!(line_of(&big, "user100000@d1.example", &rewriting("+", true)), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_panic(text: Vec<u8>, address: Vec<u8>, parents: bool) {
        parse_and_look(&text, &address, parents);
    }

    #[test]
    fn no_text_of_ours_panics(text in "([a@.\"\\\\<> \t\r\n#\u{fc}+,=/0-9]{0,12} (OK|REJECT|550|[a-z ]{1,4})[ =,a-z0-9./]{0,9}\n){0,4}",
                              address in "[a@.\"+%!\u{fc}:]{0,8}", parents: bool) {
        parse_and_look(text.as_bytes(), address.as_bytes(), parents);
    }
}

fn parse_and_look(text: &[u8], address: &[u8], parents: bool) {
    let rewriting = rewriting("+", parents);
    if let Ok((list, _)) = Allowlist::parse(Path::new("f"), text) {
        let mut canonical = Canonical::default();
        canonical.set_internal(address, &rewriting);
        let _ = list.lookup(&canonical, &rewriting);
        let _ = list.never_looked_up(Path::new("f"), &rewriting);
    }
}
