//! The formats that `import` reads, told apart by their beginning, each read as a stream: no file
//! is held in memory, and no record may be longer than [`MAX_RECORD_BYTES`].

use super::record::{Raw, Time};
use crate::cli::output::Failure;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, Read};

/// The longest record or line: many times the longest address with the longest evidence, and a
/// bound to what a missing quote can make of a whole file.
pub(super) const MAX_RECORD_BYTES: u64 = 64 << 10;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Comma-separated values; the first line names the columns.
    Csv,
    /// One JSON object a line, as `export --format json` writes.
    Jsonl,
    /// A JSON document: what `aws sesv2 list-suppressed-destinations` prints, an array of records,
    /// or several of these.
    Json,
    /// One address a line; lines that begin with `#` are comments.
    List,
}

/// Takes each record with its line: the record, or what is wrong with it.
pub(super) type Each<'a> = dyn FnMut(u64, Result<Raw, String>) -> Result<(), Failure> + 'a;

/// Tells the format by the beginning of the file.
pub(super) fn detect(head: &[u8]) -> Format {
    let text = String::from_utf8_lossy(head.strip_prefix(BOM).unwrap_or(head));
    let text = text.trim_start();
    let first = text.lines().next().unwrap_or("").to_ascii_lowercase();
    if text.starts_with('[') {
        return Format::Json;
    }
    if let Some(inside) = text.strip_prefix('{') {
        let key = inside.trim_start_matches([' ', '\t']);
        let ours = key.starts_with('"') && !key.starts_with("\"SuppressedDest") && !key.starts_with("\"NextToken");
        return if ours { Format::Jsonl } else { Format::Json };
    }
    let columns: Vec<&str> = first.split(',').map(|c| c.trim_matches([' ', '"'])).collect();
    let named = columns.iter().any(|c| ["address", "emailaddress", "email"].contains(c));
    if named { Format::Csv } else { Format::List }
}

/// Reads all of `input`, handing each record to `each`; `bytes` is kept at what was read. What
/// cannot be read at all ends the reading and is handed over as the last wrong record.
pub(super) fn read(
    format: Format,
    input: &mut dyn BufRead,
    bytes: &Cell<u64>,
    each: &mut Each<'_>,
) -> Result<(), Failure> {
    let meter = Meter { bytes, lines: Cell::new(1), record: Cell::new(0) };
    let result = skip_bom(input);
    let metered = Metered { input, meter: &meter };
    match (result, format) {
        (Err(e), _) => each(1, Err(e.to_string())),
        (_, Format::List) => read_lines(metered, each, |line| {
            Ok((!line.starts_with('#')).then(|| Raw { address: Some(line.to_owned()), ..Raw::default() }))
        }),
        (_, Format::Jsonl) => {
            read_lines(metered, each, |line| serde_json::from_str(line).map(Some).map_err(|e| e.to_string()))
        }
        (_, Format::Json) => read_document(metered, each),
        (_, Format::Csv) => read_csv(metered, each),
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

fn skip_bom(input: &mut dyn BufRead) -> io::Result<()> {
    if input.fill_buf()?.starts_with(BOM) {
        input.consume(BOM.len());
    }
    Ok(())
}

/// Counts bytes and lines, and bounds the bytes of a record.
struct Meter<'a> {
    bytes: &'a Cell<u64>,
    lines: Cell<u64>,
    record: Cell<u64>,
}

impl Meter<'_> {
    fn count(&self, read: &[u8]) {
        self.bytes.set(self.bytes.get() + read.len() as u64);
        self.record.set(self.record.get() + read.len() as u64);
        self.lines.set(self.lines.get() + read.iter().filter(|b| **b == b'\n').count() as u64);
    }

    fn next_record(&self) {
        self.record.set(0);
    }
}

struct Metered<'a> {
    input: &'a mut dyn BufRead,
    meter: &'a Meter<'a>,
}

impl Read for Metered<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // what a reader takes in advance belongs to later records
        if self.meter.record.get() > MAX_RECORD_BYTES + buf.len() as u64 {
            let text = format!("a record is longer than {MAX_RECORD_BYTES} bytes: is a quote missing?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let n = self.input.read(buf)?;
        self.meter.count(buf.get(..n).unwrap_or_default());
        Ok(n)
    }
}

fn read_lines(
    mut from: Metered<'_>,
    each: &mut Each<'_>,
    parse: impl Fn(&str) -> Result<Option<Raw>, String>,
) -> Result<(), Failure> {
    let mut line = Vec::new();
    loop {
        let number = from.meter.lines.get();
        let record = match next_line(&mut from, &mut line) {
            Ok(None) => return Ok(()),
            Err(e) => return each(number, Err(format!("cannot be read on: {e}"))),
            Ok(Some(false)) => Err(format!("longer than {MAX_RECORD_BYTES} bytes")),
            Ok(Some(true)) => match std::str::from_utf8(&line) {
                Err(_) => Err("not UTF-8".to_owned()),
                Ok(text) if text.trim().is_empty() => Ok(None),
                Ok(text) => parse(text.trim()),
            },
        };
        if let Some(record) = record.transpose() {
            each(number, record)?;
        }
    }
}

/// The next line without its end; `Some(false)` for one that is too long, which is skipped.
fn next_line(from: &mut Metered<'_>, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let (mut any, mut fits) = (false, true);
    loop {
        let buffer = from.input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(any.then_some(fits));
        }
        any = true;
        let end = memchr::memchr(b'\n', buffer);
        let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
        fits &= (line.len() + part.len()) as u64 <= MAX_RECORD_BYTES;
        if fits {
            line.extend_from_slice(part);
        }
        let used = end.map_or(buffer.len(), |n| n + 1);
        from.meter.count(buffer.get(..used).unwrap_or_default());
        from.input.consume(used);
        if end.is_some() {
            return Ok(Some(fits));
        }
    }
}

fn read_csv(from: Metered<'_>, each: &mut Each<'_>) -> Result<(), Failure> {
    let meter = from.meter;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(from);
    let names = match reader.byte_headers() {
        Ok(names) => names.iter().map(|n| String::from_utf8_lossy(n).trim().to_ascii_lowercase()).collect::<Vec<_>>(),
        Err(e) => return each(1, Err(e.to_string())),
    };
    if !names.iter().any(|n| column(n) == Some("address")) {
        return each(1, Err("the first line must name the columns, and \"address\" must be one of them".to_owned()));
    }
    let mut record = csv::ByteRecord::new();
    loop {
        meter.next_record();
        match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => each(record.position().map_or(0, csv::Position::line), csv_record(&names, &record))?,
            Err(e) => return each(reader.position().line(), Err(format!("cannot be read on: {e}"))),
        }
    }
}

/// Our name of a CSV column.
fn column(name: &str) -> Option<&'static str> {
    match name {
        "emailaddress" | "email" => Some("address"),
        "lastupdatetime" => Some("created"),
        name => super::record::COLUMNS.into_iter().find(|c| *c == name),
    }
}

fn csv_record(names: &[String], record: &csv::ByteRecord) -> Result<Raw, String> {
    let mut raw = Raw::default();
    for (name, field) in names.iter().zip(record) {
        let text = || String::from_utf8(field.to_vec()).map_err(|_| format!("{name}: not UTF-8")).map(Some);
        match column(name) {
            Some("address") => raw.address = text()?,
            Some("reason") => raw.reason = text()?,
            Some("source") => raw.source = text()?,
            Some("created") => raw.created = text()?.map(Time::Text),
            Some("expires") => raw.expires = text()?.map(Time::Text),
            Some("spelling") => raw.spelling = text()?,
            Some("evidence") => raw.evidence = text()?,
            _ => {}
        }
    }
    Ok(raw)
}

/// A stream of JSON values. The parser reads byte by byte, so lines are counted exactly.
fn read_document(from: Metered<'_>, each: &mut Each<'_>) -> Result<(), Failure> {
    let meter = from.meter;
    let mut json = serde_json::Deserializer::from_reader(from);
    let mut sink = Sink { each, meter, failure: None };
    loop {
        // the end of the last value and the end of the file look alike
        let result = match json.end() {
            Ok(()) => return Ok(()),
            Err(_) => Records(&mut sink).deserialize(&mut json),
        };
        if let Err(e) = result {
            return match sink.failure.take() {
                Some(failure) => Err(failure),
                None => (sink.each)(e.line() as u64, Err(format!("cannot be read on: {e}"))),
            };
        }
    }
}

struct Sink<'s, 'e> {
    each: &'s mut Each<'e>,
    meter: &'s Meter<'s>,
    failure: Option<Failure>,
}

impl Sink<'_, '_> {
    fn take<E: serde::de::Error>(&mut self, value: Value) -> Result<(), E> {
        self.meter.next_record();
        let record = serde_json::from_value::<Raw>(value).map_err(|e| e.to_string());
        (self.each)(self.meter.lines.get(), record).map_err(|failure| {
            self.failure = Some(failure);
            E::custom("stopped")
        })
    }
}

/// An array of records, SES's document, or one record.
struct Records<'a, 's, 'e>(&'a mut Sink<'s, 'e>);

impl<'de> DeserializeSeed<'de> for Records<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Records<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record, an array of records, or the output of aws sesv2 list-suppressed-destinations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element::<Value>()? {
            self.0.take(value)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut record, mut document) = (Map::new(), false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "SuppressedDestinationSummaries" => {
                    document = true;
                    map.next_value_seed(Records(&mut *self.0))?;
                }
                _ => {
                    record.insert(key, map.next_value()?);
                }
            }
        }
        if document {
            return Ok(());
        }
        if record.is_empty() {
            return Err(A::Error::custom("an empty object is no record"));
        }
        self.0.take(Value::Object(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(format: Format, text: &[u8]) -> Vec<(u64, Result<String, String>)> {
        let mut out = Vec::new();
        let mut each = |line, raw: Result<Raw, String>| {
            out.push((line, raw.map(|r| r.address.unwrap_or_default())));
            Ok(())
        };
        read(format, &mut &*text, &Cell::new(0), &mut each).expect("no failure");
        out
    }

    #[test]
    fn formats_are_told_by_their_beginning() {
        for (text, format) in [
            ("", Format::List),
            ("a@b.c\n", Format::List),
            ("# address list\na@b.c\n", Format::List),
            ("\u{feff}address,reason\n", Format::Csv),
            ("reason,\"Address\"\n", Format::Csv),
            ("address\na@b.c", Format::Csv),
            ("{\"address\":\"a@b.c\"}\n", Format::Jsonl),
            ("{\n  \"address\": \"a@b.c\"\n}", Format::Json),
            ("{\"SuppressedDestinationSummaries\":[", Format::Json),
            ("{\n    \"SuppressedDestinationSummaries\": [", Format::Json),
            ("  [{", Format::Json),
        ] {
            assert_eq!(detect(text.as_bytes()), format, "{text}");
        }
    }

    #[test]
    fn wrong_records_are_named_by_line_and_the_others_read() {
        let found = all(Format::Jsonl, b"{\"address\":\"a@b.c\"}\n\n{oops\n{\"address\":\"d@e.f\"}");
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], (1, Ok("a@b.c".into())));
        assert!(found[1].0 == 3 && found[1].1.is_err());
        assert_eq!(found[2], (4, Ok("d@e.f".into())));
    }

    #[test]
    fn an_aws_document_is_read_across_pages_and_odd_elements() {
        let text = br#"{ "SuppressedDestinationSummaries": [
            {"EmailAddress": "a@b.c", "Reason": "BOUNCE", "LastUpdateTime": 1586560985.5},
            17,
            {"EmailAddress": "d@e.f", "Reason": "COMPLAINT", "LastUpdateTime": "2020-04-10T21:03:05-04:00"}
          ], "NextToken": "x" }
          {"SuppressedDestinationSummaries": [{"EmailAddress": "g@h.i"}]}"#;
        let found = all(Format::Json, text);
        let names: Vec<_> = found.iter().map(|(line, r)| (*line, r.as_deref().unwrap_or("wrong"))).collect();
        assert_eq!(names, [(2, "a@b.c"), (3, "wrong"), (4, "d@e.f"), (6, "g@h.i")]);
    }

    #[test]
    fn no_record_is_read_past_the_bound() {
        let long = [b"address\n\"".as_slice(), &vec![b'x'; 1 << 20]].concat();
        assert!(matches!(all(Format::Csv, &long).as_slice(), [(_, Err(e))] if e.contains("longer than 65536")));
        let long = [b"[{\"address\":\"".as_slice(), &vec![b'x'; 1 << 20]].concat();
        assert!(matches!(all(Format::Json, &long).as_slice(), [(_, Err(e))] if e.contains("longer than 65536")));
        let long = [vec![b'x'; 1 << 20].as_slice(), b"\na@b.c\n"].concat();
        assert!(matches!(all(Format::List, &long).as_slice(), [(1, Err(_)), (2, Ok(a))] if a == "a@b.c"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in prop::collection::vec(any::<u8>(), 0..300), n in 0..4_usize) {
            let _ = detect(&text);
            let format = [Format::Csv, Format::Jsonl, Format::Json, Format::List][n];
            let _ = all(format, &text);
        }

        #[test]
        fn nothing_near_json_panics(text in r#"[\[\]{}",:a0\\ \n]{0,60}"#) {
            let _ = all(Format::Json, text.as_bytes());
            let _ = all(Format::Csv, text.as_bytes());
        }
    }
}
