//! What is found in files of every form, and that nothing breaks but what is broken.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::Value;
use std::io::Write;

fn all(input: impl Read) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    bodies(input, |f| -> io::Result<()> {
        found.push(f);
        Ok(())
    })?;
    Ok(found)
}

fn texts(input: &[u8]) -> Vec<(u64, String)> {
    let found = all(input).expect("read");
    found.into_iter().map(|f| (f.line, String::from_utf8_lossy(&f.body).into_owned())).collect()
}

fn check(input: &str, expected: &[(u64, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(line, text)| (*line, (*text).to_owned())).collect();
    assert_eq!(texts(input.as_bytes()), expected, "{input:?}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("write");
    encoder.finish().expect("gzip")
}

#[test]
fn bodies_of_every_form_are_found() {
    check("", &[]);
    check(" \r\n\n", &[]);
    check("{\"a\":1}\n{\"b\":2}\n", &[(1, "{\"a\":1}"), (2, "{\"b\":2}")]);
    check("{\"a\":1}\r\n\r\n  {\"b\":2}", &[(1, "{\"a\":1}"), (3, "{\"b\":2}")]);
    check("{\"a\":1}{\"b\":2} {\"c\":3}", &[(1, "{\"a\":1}"), (1, "{\"b\":2}"), (1, "{\"c\":3}")]);
    check("{\n  \"a\": {\n    \"b\": []\n  }\n}\n{}\n", &[(1, "{\n  \"a\": {\n    \"b\": []\n  }\n}"), (6, "{}")]);
    check("[\n {\"a\":1},\n {\"b\":[2]}\n]\n", &[(2, "{\"a\":1}"), (3, "{\"b\":[2]}")]);
    check("[{\"a\":1},{\"b\":2}]\n[{\"c\":3}]", &[(1, "{\"a\":1}"), (1, "{\"b\":2}"), (2, "{\"c\":3}")]);
    check("[]\n{\"a\":1}", &[(2, "{\"a\":1}")]);
    check("\u{feff}{\"a\":1}\n\u{feff}{\"b\":2}", &[(1, "{\"a\":1}"), (2, "{\"b\":2}")]);
    check("{\"a\":\"\\\"}\\\\\"}\n{}", &[(1, "{\"a\":\"\\\"}\\\\\"}"), (2, "{}")]);
}

#[test]
fn a_broken_line_costs_only_itself() {
    for broken in [
        "{\"a\":1",
        "{\"a\":",
        "{\"a\":[",
        "{\"a\":[1,",
        "{\"a\":\"b",
        "{\"a\":\"b\\",
        "{\"a",
        "{",
        "{\"a\":1]}",
        "{'a':1}",
        "{}}",
        "nothing",
        "null",
        "\"text\"",
        "17",
        "]",
        ",",
        "}",
        "\u{1}\u{2}",
    ] {
        let found = texts(format!("{{\"x\":1}}\n{broken}\n{{\"y\":2}}\n{{\"z\":{{}}}}\n").as_bytes());
        let good = ["{\"x\":1}", "{\"y\":2}", "{\"z\":{}}"];
        for (text, line) in good.iter().zip([1, 3, 4]) {
            assert!(found.contains(&(line, (*text).to_owned())), "{broken}: {found:?}");
        }
        let bad: Vec<_> = found.iter().filter(|(_, t)| !good.contains(&t.as_str()) && t != "{}").collect();
        assert!(bad.len() == 1 && bad[0].0 == 2, "{broken}: {found:?}");
    }
    check("{\n \"a\": 1\n \"b\": 2\n}\n{\"c\":3}", &[(1, "{\n \"a\": 1\n \"b\": 2\n}"), (5, "{\"c\":3}")]);
    check("one\ntwo\n{\"c\":3}", &[(1, "one"), (2, "two"), (3, "{\"c\":3}")]);
    check("{\"a\":1} tail\n{}", &[(1, "{\"a\":1}"), (1, "tail"), (2, "{}")]);
}

#[test]
fn what_is_too_long_is_cut_and_skipped_to_the_next_line() {
    let long = "x".repeat(3 * MAX_BODY_BYTES);
    for (input, lines) in [
        (format!("{{\"a\":\"{long}\"}}\n{{\"b\":1}}\n"), [1, 2]),
        (format!("{long}\n\n{{\"b\":1}}\n"), [1, 3]),
        (format!("{{\"a\":\n\"{long}\"}}\n{{\"b\":1}}\n"), [1, 3]),
    ] {
        let found = all(input.as_bytes()).expect("read");
        let last = found.last().expect("the good one");
        assert_eq!(
            (found[0].line, last.line, last.body.as_slice(), last.cut),
            (lines[0], lines[1], &b"{\"b\":1}"[..], false)
        );
        assert_eq!(found.iter().filter(|f| f.cut).count(), 1);
        assert!(found.iter().all(|f| f.body.len() <= MAX_BODY_BYTES));
    }
    let just = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_BODY_BYTES - 8));
    assert_eq!(just.len(), MAX_BODY_BYTES);
    assert_eq!(all(just.as_bytes()).expect("read"), [Found { line: 1, body: just.into_bytes(), cut: false }]);
}

#[test]
fn gzip_is_known_by_its_beginning() {
    let two = [gzip(b"{\"a\":1}\n{\"b\""), gzip(b":2}\n")].concat();
    assert_eq!(texts(&two), texts(b"{\"a\":1}\n{\"b\":2}\n"));
    let whole = gzip("{\"a\":1}\n".repeat(100_000).as_bytes());
    let mut count = 0;
    let ended = bodies(&whole[..whole.len() - 20], |_| -> io::Result<()> {
        count += 1;
        Ok(())
    });
    assert!(ended.is_err() && count > 1_000, "{count}");
    assert!(all(&[0x1f_u8, 0x8b][..]).is_err());
    assert_eq!(texts(&[0x1f]).len(), 1);
}

#[test]
fn lines_that_open_and_never_close_take_no_time_to_speak_of() {
    for line in ["{\"a\":[\n", "{\"a\":\n", "[\n", "{\"a\":[1,\n"] {
        let input = line.repeat(500_000 / line.len());
        let began = std::time::Instant::now();
        assert!(all(input.as_bytes()).expect("read").len() > 1_000);
        assert!(began.elapsed().as_secs() < 20, "{line}: {:?}", began.elapsed());
    }
}

/// Gives its bytes in small pieces.
struct Slowly<'a>(&'a [u8], usize);

impl Read for Slowly<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(buf.len()).min(self.0.len());
        let (head, rest) = self.0.split_at(n);
        buf[..n].copy_from_slice(head);
        self.0 = rest;
        Ok(n)
    }
}

fn any_event() -> impl Strategy<Value = Value> {
    let text = prop_oneof![any::<String>(), Just("{".to_owned()), Just("]\n[".to_owned()), Just("\"\\".to_owned())];
    prop::collection::vec(
        (text.clone(), prop_oneof![text.prop_map(Value::from), any::<i64>().prop_map(Value::from)]),
        0..6,
    )
    .prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
}

proptest! {
    #[test]
    fn every_event_is_found_however_it_is_written(
        events in prop::collection::vec((any_event(), 0..3_usize), 0..8),
        in_array: bool,
        packed: bool,
        piece in 1..9_usize,
    ) {
        let written: Vec<String> = events.iter().map(|(event, form)| match form {
            0 => format!("{event}\n"),
            1 => format!("\r\n{event:#}\r\n"),
            _ => event.to_string(),
        }).collect();
        let text = if in_array { format!("[{}]", written.join(",")) } else { written.concat() };
        let bytes = if packed { gzip(text.as_bytes()) } else { text.into_bytes() };
        let found = all(Slowly(&bytes, piece)).expect("read");
        let read: Vec<Value> = found.iter().map(|f| serde_json::from_slice(&f.body).expect("json")).collect();
        prop_assert_eq!(read, events.into_iter().map(|(event, _)| event).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_panics_and_nothing_but_blanks_and_brackets_gets_lost(
        text in "[\\[\\]{}\",:1a\\\\ \r\n]{0,40}",
        piece in 1..9_usize,
    ) {
        let found = all(Slowly(text.as_bytes(), piece)).expect("read");
        let kept: usize = found.iter().map(|f| f.body.len()).sum();
        let counted = text.bytes().filter(|b| !b" \t\r\n[],".contains(b)).count();
        prop_assert!(kept >= counted, "{:?}", found);
        prop_assert!(found.iter().all(|f| !f.body.is_empty() && !f.cut));
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = all(&bytes[..]);
    }
}
