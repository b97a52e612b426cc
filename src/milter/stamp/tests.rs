//! The stamps, against a model of what Postfix makes of the edits.

use super::*;
use proptest::prelude::*;

const HEADER: &str = "X-Correlation-ID";
const NEW: &str = "0198c2d4-0000-7000-8000-000000000001";
const ISSUED: &str = "0198c2d4-0000-7000-8000-00000000000a";
const QUEUE_ID: &str = "4ZabcD1Yxz1";

type List = Vec<(String, String)>;

fn settings(set: Option<&str>) -> Settings {
    Settings { correlation_header: HEADER.to_owned(), configuration_set: set.map(str::to_owned) }
}

fn scene(trusted: bool, loopback: bool) -> Scene<'static> {
    Scene { trusted, loopback, queue_id: Some(QUEUE_ID), new_id: NEW }
}

fn list(headers: &[(&str, &str)]) -> List {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// As Postfix does it: `Received:` is on top and no milter sees it.
fn apply(headers: &List, edits: &[Edit]) -> List {
    let mut all = list(&[("Received", "by relay")]);
    all.extend(headers.iter().cloned());
    for edit in edits {
        match edit {
            Edit::Delete { name, nth } => {
                let same = |(n, _): &(String, String)| n.trim_ascii_end().as_bytes().eq_ignore_ascii_case(name);
                let at = all.iter().enumerate().filter(|(_, h)| same(h)).map(|(at, _)| at).nth(*nth as usize - 1);
                all.remove(at.expect("the header that is deleted"));
            }
            Edit::Insert { name, value } => all.insert((INDEX as usize).min(all.len()), (name.clone(), value.clone())),
        }
    }
    all
}

fn run(headers: &List, settings: &Settings, scene: &Scene<'_>) -> (List, Stamped) {
    let mut seen = Headers::default();
    for (name, value) in headers {
        seen.note(settings, name.as_bytes(), value.as_bytes());
    }
    assert!(!seen.are_too_many());
    let stamped = stamp(&seen, settings, scene, |id| id == ISSUED);
    (apply(headers, &stamped.edits), stamped)
}

#[test]
fn a_plain_message_is_stamped_below_received() {
    let headers = list(&[("From", "a@b"), ("Subject", "x")]);
    let (after, stamped) = run(&headers, &settings(Some("relay-events")), &scene(false, false));
    let tags = format!("queue_id={QUEUE_ID}, correlation_id={NEW}");
    let wanted = [
        ("Received", "by relay"),
        (HEADER, NEW),
        (TAGS_HEADER, &tags),
        (SET_HEADER, "relay-events"),
        ("From", "a@b"),
        ("Subject", "x"),
    ];
    assert_eq!(after, list(&wanted));
    assert_eq!((stamped.tags_merged, stamped.headers_removed), (0, 0));
    let (after, _) = run(&headers, &settings(None), &scene(false, false));
    assert!(!after.iter().any(|(name, _)| name == SET_HEADER));
}

#[test]
fn forged_and_repeated_headers_go() {
    let headers = list(&[
        (HEADER, "forged"),
        ("x-ses-message-tags", "queue_id=forged, campaign=spring"),
        ("X-SES-SOURCE-ARN", "arn"),
        ("x-correlation-id ", "again"),
        ("X-Ses-Configuration-Set", "other"),
        ("From", "a@b"),
        ("X-SES-Message-Tags\t", "correlation_id=forged,\n\tcampaign=autumn, ok=1"),
        ("x-ses-source-arn", "arn"),
    ]);
    let (after, stamped) = run(&headers, &settings(Some("relay-events")), &scene(false, true));
    let tags = format!("queue_id={QUEUE_ID}, correlation_id={NEW}, campaign=spring, ok=1");
    let wanted =
        [("Received", "by relay"), (HEADER, NEW), (TAGS_HEADER, &tags), (SET_HEADER, "relay-events"), ("From", "a@b")];
    assert_eq!(after, list(&wanted));
    assert_eq!((stamped.tags_merged, stamped.headers_removed), (2, 5));
}

#[test]
fn a_trusted_client_keeps_its_own() {
    let headers = list(&[
        (HEADER, "not a word"),
        (HEADER, " order-1234 "),
        (HEADER, "order-1235"),
        (SET_HEADER, "own-set"),
        ("X-SES-LIST-MANAGEMENT-OPTIONS", "news"),
    ]);
    let (after, stamped) = run(&headers, &settings(Some("relay-events")), &scene(true, false));
    let tags = format!("queue_id={QUEUE_ID}, correlation_id=order-1234");
    let wanted = [
        ("Received", "by relay"),
        (HEADER, "order-1234"),
        (TAGS_HEADER, &tags),
        (SET_HEADER, "own-set"),
        ("X-SES-LIST-MANAGEMENT-OPTIONS", "news"),
    ];
    assert_eq!(after, list(&wanted));
    assert_eq!(stamped.headers_removed, 2);
    for odd in ["", "two words", &"a".repeat(129), "a;b", "gr\u{fc}n"] {
        let (_, stamped) = run(&list(&[(HEADER, odd)]), &settings(None), &scene(true, false));
        assert_eq!(stamped.correlation_id, NEW, "{odd}");
    }
}

#[test]
fn what_comes_back_from_a_content_filter_keeps_its_id() {
    let first_tags = format!("queue_id=OLD, correlation_id={ISSUED}, campaign=spring");
    let headers = list(&[(HEADER, ISSUED), (TAGS_HEADER, &first_tags), (SET_HEADER, "own-set"), ("X-SES-OTHER", "x")]);
    let (after, stamped) = run(&headers, &settings(Some("relay-events")), &scene(false, true));
    let tags = format!("queue_id={QUEUE_ID}, correlation_id={ISSUED}, campaign=spring");
    let wanted = [
        ("Received", "by relay"),
        (HEADER, ISSUED),
        (TAGS_HEADER, &tags),
        (SET_HEADER, "own-set"),
        ("X-SES-OTHER", "x"),
    ];
    assert_eq!(after, list(&wanted));
    assert_eq!((stamped.tags_merged, stamped.headers_removed), (1, 0));
    // The same from elsewhere is forged.
    let (_, stamped) = run(&headers, &settings(None), &scene(false, false));
    assert_eq!(stamped.correlation_id, NEW);
}

#[test]
fn tags_are_bounded_and_folded() {
    let many: Vec<String> = (0..60).map(|n| format!("n{n}=v{n}")).collect();
    let long: Vec<String> = (0..20).map(|n| format!("{}{n:02}={}", "n".repeat(250), "v".repeat(256))).collect();
    let odd = "=x, y=, z, a b=c, d=e f, g=h=i, ses:x=y, \u{fc}=u, Queue_ID=mine, ok=1, OK=2";
    for (tags, merged) in [(many.join(","), 48), (long.join(", "), 7), (odd.to_owned(), 1)] {
        let (after, stamped) = run(&list(&[(TAGS_HEADER, &tags)]), &settings(None), &scene(false, false));
        assert_eq!(stamped.tags_merged, merged);
        let value = &after[2].1;
        assert!(value.len() <= 4_096 && value.split('\n').all(|line| line.len() < 998 - TAGS_HEADER.len()), "{value}");
        assert!(value.split('\n').skip(1).all(|line| line.starts_with('\t')), "{value}");
    }
}

#[test]
fn without_a_queue_id_nobody_else_names_one() {
    let scene = Scene { queue_id: None, ..scene(true, false) };
    let (after, _) = run(&list(&[(TAGS_HEADER, "queue_id=forged")]), &settings(None), &scene);
    assert_eq!(after[2].1, format!("correlation_id={NEW}"));
}

#[test]
fn too_many_headers_are_told() {
    let mut headers = Headers::default();
    for n in 0..=MAX_HEADERS {
        assert!(!headers.are_too_many());
        headers.note(&settings(None), format!("X-SES-{n}").as_bytes(), b"x");
        headers.note(&settings(None), b"X-Other", b"x");
    }
    assert!(headers.are_too_many());
}

fn name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        HEADER,
        "x-correlation-id",
        "X-CORRELATION-ID \t",
        TAGS_HEADER,
        "x-ses-message-tags",
        "X-Ses-Message-Tags ",
        SET_HEADER,
        "x-ses-configuration-set ",
        "X-SES-SOURCE-ARN",
        "x-ses-source-arn ",
        "X-SES-",
        "X-SES",
        "From",
        "X-Correlation-ID2",
        "Received",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => "[!-9;-~]{1,12}"]
}

fn value() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        ISSUED,
        "order-1",
        "own-set",
        "a=b",
        "a=b, c=d",
        "a=b,\n\tc=d",
        "queue_id=x",
        " =, ,",
        "a b",
        "",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[ -~\n]{0,40}", 1 => any::<String>()]
}

/// Whether a header is one that is ours to take out where `keeps` is false.
fn is_ours(name: &str, keeps: bool) -> bool {
    let name = name.trim_ascii_end().to_ascii_lowercase();
    let one = ["x-correlation-id", "x-ses-message-tags", "x-ses-configuration-set"].contains(&name.as_str());
    one || (!keeps && name.starts_with("x-ses-"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn of_each_exactly_one_near_the_top_and_the_rest_untouched(
        headers in prop::collection::vec((name(), value()), 0..30),
        trusted: bool,
        loopback: bool,
        set in prop::option::of(Just("relay-events")),
    ) {
        let (after, stamped) = run(&headers, &settings(set), &scene(trusted, loopback));
        let named = |wanted: &str| after.iter().filter(|(n, _)| n.trim_ascii_end().eq_ignore_ascii_case(wanted)).count();
        prop_assert_eq!(named(HEADER), 1);
        prop_assert_eq!(named(TAGS_HEADER), 1);
        prop_assert!(named(SET_HEADER) == 1 || (set.is_none() && named(SET_HEADER) == 0));
        let stamps = 2 + named(SET_HEADER);
        prop_assert_eq!(&after[1], &(HEADER.to_owned(), stamped.correlation_id.clone()));
        prop_assert_eq!(&after[2].0, TAGS_HEADER);
        let own = format!("queue_id={QUEUE_ID}, correlation_id={}", stamped.correlation_id);
        prop_assert!(after[2].1.starts_with(&own));
        for tag in after[2].1.split(',') {
            let (name, value) = tag.trim_ascii().split_once('=').expect("a tag");
            prop_assert!(word(name.as_bytes(), 256).is_some() && word(value.as_bytes(), 256).is_some());
        }
        let known = stamped.correlation_id == ISSUED || stamped.correlation_id == NEW;
        prop_assert!(known || trusted);
        let keeps = trusted || (loopback && stamped.correlation_id == ISSUED);
        let rest: List = headers.iter().filter(|(n, _)| !is_ours(n, keeps)).cloned().collect();
        prop_assert_eq!(&after[1 + stamps..], &rest[..]);
    }

    #[test]
    fn twice_is_as_once(headers in prop::collection::vec((name(), value()), 0..30), trusted: bool) {
        let first = Scene { new_id: ISSUED, ..scene(trusted, false) };
        let (once, stamped) = run(&headers, &settings(Some("s")), &first);
        prop_assume!(stamped.correlation_id == ISSUED);
        let (twice, again) = run(&once[1..].to_vec(), &settings(Some("s")), &scene(false, true));
        prop_assert_eq!(once, twice);
        prop_assert_eq!(again.headers_removed, 0);
    }
}
