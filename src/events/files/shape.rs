//! How far a JSON value in brackets goes: its brackets, commas, colons and quotes, and no more. Whether a
//! number is one, or a text is UTF-8, is for the parser to say.

use memchr::memchr3;

/// Deepest nesting: serde_json reads no deeper.
const MAX_DEPTH: usize = 128;

/// A value on its way. Begins before its first bracket.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// The brackets that are open.
    open: Vec<Bracket>,
    expected: Expected,
    within: Within,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So far it is a value; it goes on.
    More,
    /// It ended after so many of the bytes.
    Complete(usize),
    /// It cannot be one.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bracket {
    Object,
    Array,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expected {
    #[default]
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Within {
    #[default]
    Nothing,
    /// A number, `true` and the like.
    Word,
    Quotes,
    /// Quotes, after a backslash.
    Escape,
}

impl Shape {
    /// Reads on.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match self.within {
                Within::Quotes => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let Some(next) = memchr3(b'"', b'\\', b'\n', rest) else { return Step::More };
                    at += next;
                    self.within = match rest.get(next) {
                        Some(b'"') => Within::Nothing,
                        Some(b'\\') => Within::Escape,
                        // a text goes over no line (RFC 8259 section 7)
                        _ => return Step::Broken,
                    };
                }
                Within::Escape if *byte == b'\n' => return Step::Broken,
                Within::Escape => self.within = Within::Quotes,
                Within::Word if is_of_word(*byte) => {}
                Within::Word | Within::Nothing => {
                    self.within = Within::Nothing;
                    if self.sign(*byte).is_none() {
                        return Step::Broken;
                    }
                    if self.open.is_empty() {
                        return Step::Complete(at + 1);
                    }
                }
            }
            at += 1;
        }
        Step::More
    }

    /// A byte outside of quotes and words; `None` where it cannot stand there.
    fn sign(&mut self, byte: u8) -> Option<()> {
        use Expected::{Colon, CommaOrEnd, Key, KeyOrEnd, Value, ValueOrEnd};
        self.expected = match (byte, self.expected) {
            (b' ' | b'\t' | b'\r' | b'\n', expected) => expected,
            (b'{', Value | ValueOrEnd) => self.opens(Bracket::Object)?,
            (b'[', Value | ValueOrEnd) => self.opens(Bracket::Array)?,
            (b'}', KeyOrEnd | CommaOrEnd) => self.closes(Bracket::Object)?,
            (b']', ValueOrEnd | CommaOrEnd) => self.closes(Bracket::Array)?,
            (b'"', Key | KeyOrEnd) => self.goes_into(Within::Quotes, Colon),
            (b'"', Value | ValueOrEnd) => self.goes_into(Within::Quotes, CommaOrEnd),
            (b':', Colon) => Value,
            (b',', CommaOrEnd) if self.open.last() == Some(&Bracket::Object) => Key,
            (b',', CommaOrEnd) => Value,
            (byte, Value | ValueOrEnd) if is_of_word(byte) => self.goes_into(Within::Word, CommaOrEnd),
            _ => return None,
        };
        Some(())
    }

    fn opens(&mut self, bracket: Bracket) -> Option<Expected> {
        self.open.push(bracket);
        let next = if bracket == Bracket::Object { Expected::KeyOrEnd } else { Expected::ValueOrEnd };
        (self.open.len() <= MAX_DEPTH).then_some(next)
    }

    fn closes(&mut self, bracket: Bracket) -> Option<Expected> {
        (self.open.pop() == Some(bracket)).then_some(Expected::CommaOrEnd)
    }

    fn goes_into(&mut self, within: Within, next: Expected) -> Expected {
        self.within = within;
        next
    }
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn shape_of(text: &str) -> Step {
        Shape::default().read(text.as_bytes())
    }

    #[test]
    fn values_end_go_on_or_break() {
        for (text, step) in [
            ("{}", Step::Complete(2)),
            ("{\"a\":[1,{\"b\":\"}\\\"\"}]} x", Step::Complete(21)),
            ("[\n1 ,2\r\n]", Step::Complete(9)),
            ("{\"a\":1", Step::More),
            ("{\"a\":\"b", Step::More),
            ("{\"a\":\"b\n", Step::Broken),
            ("{\"a\":\"b\\\n", Step::Broken),
            ("{\"a\":1\n{", Step::Broken),
            ("{\"a\" 1", Step::Broken),
            ("{\"a\":1]", Step::Broken),
            ("{\"a\":1,}", Step::Broken),
            ("{1", Step::Broken),
            ("[1 2", Step::Broken),
            ("[,", Step::Broken),
        ] {
            assert_eq!(shape_of(text), step, "{text}");
        }
        assert_eq!(shape_of(&"[".repeat(MAX_DEPTH)), Step::More);
        assert_eq!(shape_of(&"[".repeat(MAX_DEPTH + 1)), Step::Broken);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from)
        ];
        let nested = leaf.prop_recursive(4, 30, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        });
        prop::collection::vec(nested, 0..4).prop_map(Value::from)
    }

    proptest! {
        #[test]
        fn what_serde_writes_is_complete_and_no_beginning_of_it_is(value in any_json(), pretty: bool, cut: usize) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.expect("json").into_bytes();
            let (head, tail) = text.split_at(cut % text.len());
            let mut shape = Shape::default();
            prop_assert_eq!(shape.read(head), Step::More);
            prop_assert_eq!(shape.read(tail), Step::Complete(tail.len()));
        }

        #[test]
        fn what_serde_reads_is_not_broken(text in "[\\[{][\\[\\]{}\",:1a\\\\ \n]{0,12}") {
            if serde_json::from_str::<Value>(&text).is_ok() {
                prop_assert_eq!(shape_of(text.trim_end()), Step::Complete(text.trim_end().len()));
            }
        }
    }
}
