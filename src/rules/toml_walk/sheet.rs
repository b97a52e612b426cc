//! The text of a TOML file with its findings: places in it, and what its syntax errors mean.

use super::quoted;
use crate::rules::{Problem, Severity};
use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use toml::de::DeTable;

/// How many keys without a value are passed over: each costs a reading, and nobody mends more at once.
const MAX_HEALED_LINES: usize = 50;

/// A place that is not TOML, in the parser's words.
pub(super) struct Slip {
    span: Range<usize>,
    message: String,
}

impl Slip {
    pub(super) fn new(error: &toml::de::Error) -> Self {
        Self { span: error.span().unwrap_or(0..0), message: error.message().to_owned() }
    }

    fn is_in_list(&self) -> bool {
        self.message.contains(" in array") || self.message.contains("missing comma")
    }
}

/// The parser reads no further after a key without a value: such lines are blanked, each a slip,
/// until it reads to the end.
pub(super) fn heal(text: &str) -> (Cow<'_, str>, Vec<Slip>) {
    let (mut healed, mut slips) = (Cow::Borrowed(text), Vec::new());
    while slips.len() < MAX_HEALED_LINES {
        let (_, errors) = DeTable::parse_recoverable(&healed);
        let Some(error) = errors.iter().find(|e| e.message().starts_with("key with no value")) else { break };
        let slip = Slip::new(error);
        let start = healed.get(..slip.span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let rest = healed.get(start..).unwrap_or("");
        let end = start + rest.find('\n').unwrap_or(rest.len());
        if healed.get(start..end).is_none_or(|line| line.trim().is_empty()) {
            break;
        }
        healed.to_mut().replace_range(start..end, &" ".repeat(end - start));
        slips.push(slip);
    }
    (healed, slips)
}

/// The text of a file, where its lines begin, and what was found in it.
pub(super) struct Sheet<'a> {
    file: &'a Path,
    pub(super) text: &'a str,
    line_starts: Vec<usize>,
    /// Lines (from 1) that are not TOML: what else is wrong there follows from it.
    shadowed: Vec<Range<u32>>,
    pub(super) problems: RefCell<Vec<Problem>>,
}

impl<'a> Sheet<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str, mut slips: Vec<Slip>) -> Self {
        let line_starts =
            std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|i| i + 1)).collect();
        let problems = RefCell::default();
        let mut sheet = Self { file, text, line_starts, shadowed: Vec::new(), problems };
        let line = |slip: &Slip| sheet.place(slip.span.start).0;
        slips.sort_by_key(|slip| (line(slip), !slip.is_in_list(), slip.span.start));
        for slip in slips {
            // One a line; the parser finds its feet only at the next.
            let message = syntax_message(text, &slip.span, &slip.message);
            sheet.report(slip.span.start, Severity::Problem, message);
            sheet.shadow(&slip);
        }
        sheet
    }

    pub(super) fn is_broken(&self) -> bool {
        !self.shadowed.is_empty()
    }

    /// Line and column, both from 1, the column in characters.
    pub(super) fn place(&self, at: usize) -> (u32, u32) {
        let line = self.line_starts.partition_point(|start| *start <= at);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..at).map_or(0, |before| before.chars().count());
        // At most MAX_TOML_BYTES: fits.
        (line as u32, column as u32 + 1)
    }

    pub(super) fn report(&self, at: usize, severity: Severity, message: String) {
        let (line, column) = self.place(at);
        if !self.shadowed.iter().any(|lines| lines.contains(&line)) {
            self.problems.borrow_mut().push(Problem { file: self.file.into(), line, column, severity, message });
        }
    }

    /// Hides what follows from a broken line: itself, and under a broken header its whole section,
    /// whose keys would count as those of the section before.
    fn shadow(&mut self, slip: &Slip) {
        let line = self.place(slip.span.start).0;
        let is_header = |line: u32| self.line(line).is_some_and(|text| text.trim_start().starts_with('['));
        if slip.is_in_list() && self.is_statement(line, &slip.span) {
            self.shadowed.push(line..u32::MAX);
            return;
        }
        let mut end = line + 1;
        while is_header(line) && self.line(end).is_some() && !is_header(end) {
            end += 1;
        }
        self.shadowed.push(line..end);
    }

    /// Whether the parser ran into the next statement: the list before it takes in the rest of the file.
    fn is_statement(&self, line: u32, span: &Range<usize>) -> bool {
        let text = self.line(line).unwrap_or("").trim_start();
        let before = self.text.get(..span.start).unwrap_or("");
        let begins = before.rsplit('\n').next().is_none_or(|blank| blank.trim().is_empty());
        let is_equals = self.text.get(span.clone()) == Some("=");
        is_equals || (begins && (text.starts_with('[') || text.contains('=')))
    }

    fn line(&self, line: u32) -> Option<&'a str> {
        let start = *self.line_starts.get((line as usize).checked_sub(1)?)?;
        let end = self.line_starts.get(line as usize).copied().unwrap_or(self.text.len());
        self.text.get(start..end)
    }
}

pub(super) fn not_utf8(file: &Path, bytes: &[u8], at: usize) -> Problem {
    let before = String::from_utf8_lossy(bytes.get(..at).unwrap_or(b""));
    let line = before.matches('\n').count() as u32 + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) as u32 + 1;
    let byte = bytes.get(at).copied().unwrap_or(0);
    let message = format!("the byte 0x{byte:02x} is not UTF-8; save the file as UTF-8");
    Problem { file: file.into(), line, column, severity: Severity::Problem, message }
}

/// The parser's words, in ours where a usual slip is behind them.
fn syntax_message(text: &str, span: &Range<usize>, message: &str) -> String {
    let found = text.get(span.clone()).unwrap_or("");
    let what = message.split(", expected").next().unwrap_or(message);
    match what {
        "string values must be quoted" if found.is_empty() => "a value is missing after \"=\"".into(),
        "string values must be quoted" if is_yes_or_no(found).is_some() => {
            let switch = is_yes_or_no(found).unwrap_or_default();
            format!("{found} is no value; write {switch} for a switch, {} for a text", quoted(found))
        }
        "string values must be quoted" => {
            format!("text must stand in quotes: write {}", quoted(found.trim_matches(QUOTES)))
        }
        what if what.contains("array") || what == "missing comma between key-value pairs" => {
            "a comma is missing here, or the list or table before is not closed".into()
        }
        "duplicate key" => format!("{} stands here a second time; keep one of them", quoted(found)),
        "unexpected key or value" => "nothing but a # comment may follow the value on its line".into(),
        "key with no value" => "a key without a value; write key = value".into(),
        "unclosed table" => "the section header is not closed; write a \"]\" at its end".into(),
        "unexpected leading zero" => "a number must not begin with 0; quote an octal mode: \"0660\"".into(),
        "missing escaped value" => "a backslash in a text must be doubled, or the text put in single quotes".into(),
        "invalid basic string" if found.is_empty() => "the text is not closed; write a \" at its end".into(),
        _ => format!("not TOML: {message}"),
    }
}

fn is_yes_or_no(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => Some(true),
        "no" | "off" | "false" => Some(false),
        _ => None,
    }
}

/// What word processors make of quotes, beside the real ones.
const QUOTES: [char; 8] = ['"', '\'', '`', '\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}'];
