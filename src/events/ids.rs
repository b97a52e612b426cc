//! The ids by which a message is found in both logs: as tags, or in its headers.

use super::event::trimmed;
use super::json::Json;
use std::borrow::Cow;

/// The tags, of those that the milter or the application gave the message, that come into the line.
const QUEUE_ID: &str = "queue_id";
const CORRELATION_ID: &str = "correlation_id";

/// Queue id and correlation id: from the tags, or else from the header that sets tags, or else from our own.
pub(super) fn read<'j>(mail: &'j Json<'j>, correlation_header: &str) -> (Option<Cow<'j, str>>, Option<Cow<'j, str>>) {
    let id = |name| tag(mail, name).or_else(|| headers(mail, "X-SES-MESSAGE-TAGS").find_map(|v| in_list(v, name)));
    let correlation_id = id(CORRELATION_ID)
        .or_else(|| headers(mail, correlation_header).map(str::trim).find(|v| !v.is_empty()).map(Cow::Borrowed));
    (id(QUEUE_ID), correlation_id)
}

/// The first value of a tag.
fn tag<'j>(mail: &'j Json<'j>, name: &str) -> Option<Cow<'j, str>> {
    let value = match mail.object("tags")?.get(name)? {
        Json::List(values) => values.iter().find_map(Json::as_text)?,
        other => other.as_text()?,
    };
    trimmed(value)
}

/// The values of the headers of a name.
fn headers<'j, 'n>(mail: &'j Json<'j>, name: &'n str) -> impl Iterator<Item = &'j str> + use<'j, 'n> {
    let list = if let Some(Json::List(list)) = mail.get("headers") { list.as_slice() } else { &[] };
    list.iter().filter_map(move |header| match (header.get("name"), header.get("value")) {
        (Some(Json::Text(n)), Some(Json::Text(value))) if n.trim().eq_ignore_ascii_case(name) => Some(&**value),
        _ => None,
    })
}

/// The value of a name in `name1=value1, name2=value2`.
fn in_list<'j>(list: &'j str, name: &str) -> Option<Cow<'j, str>> {
    let (_, value) = list.split(',').filter_map(|pair| pair.split_once('=')).find(|(n, _)| n.trim() == name)?;
    trimmed(Cow::Borrowed(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = r#"{"messageId":" id-1 ","timestamp":"2026-11-19T10:00:00.000Z","sendingAccountId":"123456789012",
        "destination":[" N <a@example.net>"],"tags":{"queue_id":["Q1"],"correlation_id":["C1"]},"headers":[]}"#;

    fn json(text: &str) -> Json<'_> {
        Json::parse(text).expect("JSON")
    }

    fn ids_of(mail: &str) -> (Option<String>, Option<String>) {
        let json = json(mail);
        let (queue, correlation) = read(&json, "X-Correlation-ID");
        (queue.map(Cow::into_owned), correlation.map(Cow::into_owned))
    }

    #[test]
    fn ids_come_from_tags_first() {
        let some = |q: &str, c: &str| (Some(q.to_owned()), Some(c.to_owned()));
        assert_eq!(ids_of(MAIL), some("Q1", "C1"));
        let headers = r#""headers":[{"name":"x-ses-message-tags","value":"a=b, queue_id=Q2 ,correlation_id=C2"},
            {"name":"X-CORRELATION-ID","value":" C3 "}]"#;
        assert_eq!(ids_of(&format!("{{{headers}}}")), some("Q2", "C2"));
        assert_eq!(ids_of(&format!("{{\"tags\":{{\"queue_id\":[\"Q1\"]}},{headers}}}")), some("Q1", "C2"));
        let own = headers.replace("correlation_id", "other");
        assert_eq!(ids_of(&format!("{{\"tags\":{{\"correlation_id\":[]}},{own}}}")), some("Q2", "C3"));
        assert_eq!(ids_of(r#"{"tags":{"queue_id":"Q4","correlation_id":[" "]}}"#), (Some("Q4".to_owned()), None));
    }
}
