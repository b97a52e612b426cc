//! JSON as it lies in a body. A text without escapes is borrowed, and an object is a list of its members: a
//! tenth of the allocations of `serde_json::Value`. No type is asked for while reading, so a side field of a
//! wrong type costs nothing.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// A value. serde_json bounds the depth at 128.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Whole(i64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl<'a> Json<'a> {
    /// Reads a text. A byte order mark before it is passed over.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(text))
    }

    /// The member of this name; of several the last, as nearly every reader has it.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The member of this name, where it is an object.
    pub fn object(&self, name: &str) -> Option<&Self> {
        self.get(name).filter(|value| matches!(value, Self::Object(_)))
    }

    /// The member of this name, where it is a text (or a number, taken as its text).
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name)?.as_text()
    }

    /// A text as it is, a number as its text.
    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Whole(n) => Some(n.to_string().into()),
            Self::Float(n) => Some(n.to_string().into()),
            _ => None,
        }
    }

    /// A number as it is, a text as the number in it.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Whole(n) => Some(*n as f64),
            Self::Float(n) => Some(*n),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
        .filter(|n: &f64| n.is_finite())
    }
}

/// The text with every half of a surrogate pair that stands alone (`\ud83d`) made U+FFFD; `None` where there
/// is none. RFC 8259 section 8.2 lets them stand, serde_json refuses them, and a subject cut in the middle of
/// an emoji has one.
pub(super) fn without_lone_surrogates(text: &str) -> Option<String> {
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    let unit = |at: usize| -> Option<u16> {
        let hex = text.get(at..at + 6)?.strip_prefix("\\u")?;
        hex.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(hex, 16).ok())?
    };
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr(b'\\', rest.as_bytes())) {
        at += found;
        let length = match unit(at) {
            Some(0xd800..=0xdbff) if unit(at + 6).is_some_and(|low| (0xdc00..=0xdfff).contains(&low)) => 12,
            Some(0xd800..=0xdfff) => {
                out.push_str(text.get(copied..at)?);
                out.push('\u{fffd}');
                copied = at + 6;
                6
            }
            Some(_) => 6,
            // the character behind the backslash
            None => 1 + text.get(at + 1..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8),
        };
        at += length;
    }
    (copied > 0).then(|| out + text.get(copied..).unwrap_or_default())
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Values)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Json<'de>, E> {
        Ok(Json::Whole(n))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(n).map_or(Json::Float(n as f64), Json::Whole))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(n))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(Key(name)) = map.next_key()? {
            members.push((name, map.next_value()?));
        }
        Ok(Json::Object(members))
    }
}

/// The name of a member: a `Cow` that borrows where it can.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn members_are_found_whatever_their_type() {
        let json = Json::parse("\u{feff}{\"a\": 1, \"b\": \"x\\n\", \"c\": null, \"a\": 2.5, \"d\": {\"e\": [true]}}");
        let json = json.expect("JSON");
        assert_eq!(json.text("a").as_deref(), Some("2.5"), "the last of two");
        assert_eq!(json.text("b").as_deref(), Some("x\n"));
        assert_eq!((json.text("c"), json.text("d"), json.text("f")), (None, None, None));
        assert!(json.object("d").is_some_and(|d| d.get("e") == Some(&Json::List(vec![Json::Bool(true)]))));
        assert!(json.object("b").is_none() && json.get("b").is_some_and(|b| b.get("x").is_none()));
        assert_eq!(Json::Text(" 12.5 ".into()).as_number(), Some(12.5));
        assert_eq!(Json::Text("inf".into()).as_number(), None);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(Json::parse(&nested(127)).is_ok());
        assert!(Json::parse(&nested(129)).is_err_and(|e| e.to_string().contains("recursion limit")));
        assert!(Json::parse(&nested(100_000)).is_err());
    }

    #[test]
    fn lone_surrogates_are_replaced() {
        for (text, mended) in [
            (r#""\ud83d""#, "\"\u{fffd}\""),
            (r#""a\uDE00b""#, "\"a\u{fffd}b\""),
            (r#""\ud83d\ud83d\ude00""#, "\"\u{fffd}\\ud83d\\ude00\""),
            (r#""\\ud83d \ud83d""#, "\"\\\\ud83d \u{fffd}\""),
        ] {
            assert_eq!(without_lone_surrogates(text).as_deref(), Some(mended), "{text}");
            assert!(Json::parse(mended).is_ok());
        }
        for text in [r#""\ud83d\ude00""#, r#""\\ud83d""#, r#""\u00e9""#, "\"\\", "\\u", "\\\u{e9}"] {
            assert_eq!(without_lone_surrogates(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(\\PC|[\\\\\"ud8c{}\\[\\]:,0]){0,40}") {
            let read = Json::parse(&text);
            prop_assert_eq!(read.is_ok(), serde_json::from_str::<serde_json::Value>(&text).is_ok());
            if let Some(mended) = without_lone_surrogates(&text) {
                prop_assert_eq!(without_lone_surrogates(&mended), None);
            }
        }
    }
}
