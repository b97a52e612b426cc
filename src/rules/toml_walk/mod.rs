//! Walking TOML with spans, so that every problem of a file is found, each with line and column.
//! serde would stop at the first. A reader takes what it knows from each [`Table`]; what it did not
//! ask for is an unknown key. Pure.

mod sheet;
#[cfg(test)]
mod tests;

use super::rate::{Fault, RateError};
use super::{Problem, Severity};
use sheet::{Sheet, Slip, heal, not_utf8};
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// The largest TOML file, in bytes: a policy of many thousand overrides has a tenth of it.
pub const MAX_TOML_BYTES: usize = 1024 * 1024;

/// How much of an operator's text a message repeats, in characters: enough to find it again.
const MAX_QUOTED_CHARS: usize = 60;

/// Reads a TOML file. `read` gets the top table and makes of it what it can, wrong values left at
/// their defaults; the findings say what was wrong, in the order of the file. A file that is not
/// text at all is not read.
pub fn walk<T>(file: &Path, bytes: &[u8], read: impl FnOnce(&mut Table<'_>) -> T) -> (Option<T>, Vec<Problem>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => return (None, vec![not_utf8(file, bytes, e.valid_up_to())]),
    };
    let (healed, mut errors) = heal(text);
    let (root, found) = DeTable::parse_recoverable(&healed);
    errors.extend(found.iter().map(Slip::new));
    let sheet = Sheet::new(file, text, errors);
    let mut table = Table::new(&sheet, String::new(), 0, root.get_ref());
    let value = read(&mut table);
    table.refuse_unknown();
    let mut problems = sheet.problems.into_inner();
    problems.sort();
    (Some(value), problems)
}

/// One table of the file, and which of its keys were asked for.
pub struct Table<'a> {
    sheet: &'a Sheet<'a>,
    path: String,
    at: usize,
    entries: &'a DeTable<'a>,
    known: Vec<&'static str>,
    /// The keys are the operator's: none is unknown.
    is_open: bool,
    /// One of a list of tables.
    is_listed: bool,
}

/// One value of the file, or one key of a table whose keys are the operator's.
#[derive(Clone)]
pub struct Item<'a> {
    sheet: &'a Sheet<'a>,
    path: String,
    span: Range<usize>,
    value: &'a DeValue<'a>,
    is_listed: bool,
}

impl<'a> Table<'a> {
    fn new(sheet: &'a Sheet<'a>, path: String, at: usize, entries: &'a DeTable<'a>) -> Self {
        Self { sheet, path, at, entries, known: Vec::new(), is_open: false, is_listed: false }
    }

    /// The value of `key`, where it stands in the table.
    pub fn get(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let value = self.entries.get(key)?;
        Some(self.item(key, value))
    }

    /// The value of `key`; that there is none is a problem, for which `example` is a line that
    /// would do.
    pub fn require(&mut self, key: &'static str, example: &str) -> Option<Item<'a>> {
        let found = self.get(key);
        if found.is_none() && !self.sheet.is_broken() {
            self.problem(format!("{} has no {key}; add a line such as {example}", self.title()));
        }
        found
    }

    /// Reads the table `key`, where it stands here.
    pub fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Table<'a>) -> T) -> Option<T> {
        self.get(key)?.table(read)
    }

    /// Every entry of a table whose keys are the operator's own: the key's text, and the value.
    /// The item of the key is for problems about it.
    pub fn entries(&mut self) -> Vec<(&'a str, Item<'a>, Item<'a>)> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(key, value)| {
                let item = self.item(key.get_ref(), value);
                (&**key.get_ref(), Item { span: key.span(), ..item.clone() }, item)
            })
            .collect();
        all.sort_by_key(|(_, key, _)| key.span.start);
        self.is_open = true;
        all
    }

    /// The line of the table's header, from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.sheet.place(self.at).0
    }

    /// A problem about the table.
    pub fn problem(&self, message: impl Into<String>) {
        self.sheet.report(self.at, Severity::Problem, message.into());
    }

    /// A warning about the table.
    pub fn warn(&self, message: impl Into<String>) {
        self.sheet.report(self.at, Severity::Warning, message.into());
    }

    fn item(&self, key: &str, value: &'a toml::Spanned<DeValue<'a>>) -> Item<'a> {
        let path = if self.path.is_empty() { quoted_key(key) } else { format!("{}.{}", self.path, quoted_key(key)) };
        Item { sheet: self.sheet, path, span: value.span(), value: value.get_ref(), is_listed: false }
    }

    fn title(&self) -> String {
        match (self.path.as_str(), self.is_listed) {
            ("", _) => "the file".into(),
            (path, true) => format!("[[{path}]]"),
            (path, false) => format!("[{path}]"),
        }
    }

    fn refuse_unknown(&self) {
        for (key, _) in self.entries.iter() {
            let name: &str = key.get_ref();
            if self.is_open || self.known.contains(&name) {
                continue;
            }
            let near = nearest(name, &self.known).map(|k| format!(", did you mean {k}?")).unwrap_or_else(|| ";".into());
            let place =
                if self.path.is_empty() { "at the top of the file".into() } else { format!("in {}", self.title()) };
            let message = format!("unknown key {} {place}{near} known here: {}", quoted(name), self.known.join(", "));
            self.sheet.report(key.span().start, Severity::Problem, message);
        }
    }
}

impl<'a> Item<'a> {
    /// A problem about the value, where it begins.
    pub fn problem(&self, message: impl Into<String>) {
        self.sheet.report(self.span.start, Severity::Problem, message.into());
    }

    /// A warning about the value, where it begins.
    pub fn warn(&self, message: impl Into<String>) {
        self.sheet.report(self.span.start, Severity::Warning, message.into());
    }

    /// The keys that lead to the value, as in `limit.rate`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The line where the value begins, from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.sheet.place(self.span.start).0
    }

    /// A problem: the value is not what it must be.
    pub fn must_be(&self, expected: &str) {
        self.problem(format!("{} must be {expected}; this is {}", self.path, described(self.value)));
    }

    /// The text; `expected` says what text, for the problem where it is none.
    #[must_use]
    pub fn text(&self, expected: &str) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => {
                self.must_be(expected);
                None
            }
        }
    }

    /// `true` or `false`.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        let found = self.value.as_bool();
        if found.is_none() {
            self.must_be("true or false, without quotes");
        }
        found
    }

    /// A whole number of `range`; `why` says why the range is what it is, or nothing.
    #[must_use]
    pub fn number(&self, range: RangeInclusive<u64>, why: &str) -> Option<u64> {
        let number = self.value.as_integer().and_then(|i| u64::from_str_radix(i.as_str(), i.radix()).ok());
        let found = number.filter(|n| range.contains(n));
        if found.is_none() {
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            self.must_be(&format!("a whole number from {} to {}{why}", range.start(), range.end()));
        }
        found
    }

    /// One of a few words.
    #[must_use]
    pub fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let listed = any_of(words.iter().map(|(word, _)| *word));
        let text = self.text(&listed)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            self.must_be(&listed);
        }
        found
    }

    /// A text in the grammar of rates and spans; problems name the column in it.
    #[must_use]
    pub fn timed<T>(&self, expected: &str, parse: impl FnOnce(&str) -> Result<T, RateError>) -> Option<T> {
        let text = self.text(expected)?;
        match parse(text) {
            Ok(value) => return Some(value),
            // Not a slip in the grammar, but another thing altogether.
            Err(RateError { at: 0, fault: Fault::NoNumber }) => self.must_be(expected),
            Err(e) => self.problem_at(e.at, format!("{} {}: {}", self.path, quoted(text), e.fault)),
        }
        None
    }

    /// The items of a list.
    #[must_use]
    pub fn list(&self, expected: &str) -> Option<Vec<Item<'a>>> {
        let Some(array) = self.value.as_array() else {
            self.must_be(expected);
            return None;
        };
        let item = |v: &'a toml::Spanned<DeValue<'a>>| Item {
            span: v.span(),
            value: v.get_ref(),
            is_listed: true,
            ..self.clone()
        };
        Some(array.iter().map(item).collect())
    }

    /// The items of a list, or the one text that stands in its place.
    #[must_use]
    pub fn list_or_one(&self, expected: &str) -> Option<Vec<Item<'a>>> {
        if self.value.is_str() { Some(vec![self.clone()]) } else { self.list(expected) }
    }

    /// Whether the value is a list without items.
    #[must_use]
    pub fn is_empty_list(&self) -> bool {
        self.value.as_array().is_some_and(|array| array.is_empty())
    }

    /// Reads a table, `[a.b]` or `{ … }`.
    pub fn table<T>(&self, read: impl FnOnce(&mut Table<'a>) -> T) -> Option<T> {
        let Some(entries) = self.value.as_table() else {
            self.must_be("a table");
            return None;
        };
        let (path, at) = (self.path.clone(), self.span.start);
        let mut table = Table { is_listed: self.is_listed, ..Table::new(self.sheet, path, at, entries) };
        let value = read(&mut table);
        table.refuse_unknown();
        Some(value)
    }

    /// A problem at byte `offset` of the text, exact where the file spells the text without escapes.
    pub fn problem_at(&self, offset: usize, message: impl Into<String>) {
        let raw = self.sheet.text.get(self.span.clone()).unwrap_or("");
        let plain = raw.len() > 2 && self.value.as_str().is_some_and(|text| raw.get(1..raw.len() - 1) == Some(text));
        let at = if plain { self.span.start + 1 + offset } else { self.span.start };
        self.sheet.report(at, Severity::Problem, message.into());
    }
}

/// Text from a file as a message repeats it: in quotes, on one line, not too long.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

fn shortened(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(MAX_QUOTED_CHARS) {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            out.extend(c.escape_unicode())
        } else {
            out.push(c)
        }
    }
    if text.chars().nth(MAX_QUOTED_CHARS).is_some() {
        out.push('…');
    }
    out
}

fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(i) => shortened(&i.to_string()),
        DeValue::Float(f) => shortened(f.as_str()),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn quoted_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if bare { key.to_owned() } else { quoted(key) }
}

/// `"a", "b" or "c"`.
fn any_of<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let mut all: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match all.pop() {
        Some(last) if !all.is_empty() => format!("{} or {last}", all.join(", ")),
        Some(only) => only,
        None => String::new(),
    }
}

/// The known word that was meant: a third of the letters may be wrong.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // Longer than any key of ours: no slip, and the distance costs time squared.
    if word.len() > 64 {
        return None;
    }
    let distance = |k: &&str| strsim::osa_distance(word, k);
    known.iter().copied().min_by_key(distance).filter(|k| distance(k) <= (k.len() / 3).max(1))
}
