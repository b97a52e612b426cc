//! Which relay sent a mail, and under which ids: told by its mail log, asked for by whichever relay reads an event of that
//! mail. What comes back is from outside.

use super::MAX_NAME_BYTES;
use super::keys::Keys;
use super::link::Link;
use crate::lines::read::is_queue_id;
use redis::RedisResult;
use std::time::Duration;

/// How long it is kept: SES gives a mail up after a day at the most, and complaints come within days.
pub const KEPT: Duration = Duration::from_secs(3 * 86_400);

/// The longest id of SES's that is looked for; theirs have 60 bytes.
const MAX_ID_BYTES: usize = 128;

/// The longest correlation id: that of a tag.
const MAX_CORRELATION_BYTES: usize = 256;

/// The first word of a record: which words follow.
const VERSION: &str = "1";

/// What is known of a mail that SES took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Postfix's id on the relay that sent it.
    pub queue_id: String,
    /// The message's correlation id, where it was stamped.
    pub correlation_id: Option<String>,
    /// The name of the relay; `None`: this one, which shares with nobody.
    pub relay: Option<String>,
}

impl Sent {
    fn to_record(&self) -> String {
        let relay = self.relay.as_deref().unwrap_or_default();
        [VERSION, relay, &self.queue_id].into_iter().chain(self.correlation_id.as_deref()).collect::<Vec<_>>().join(" ")
    }

    /// `None` where it is none of ours.
    fn from_record(record: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(record).ok()?.split(' ');
        let (VERSION, relay, queue_id, correlation_id, None) =
            (words.next()?, words.next()?, words.next()?, words.next(), words.next())
        else {
            return None;
        };
        let is_sound = is_word(relay, MAX_NAME_BYTES)
            && is_queue_id(queue_id.as_bytes())
            && correlation_id.is_none_or(|id| is_word(id, MAX_CORRELATION_BYTES));
        is_sound.then(|| Self {
            queue_id: queue_id.to_owned(),
            correlation_id: correlation_id.map(str::to_owned),
            relay: Some(relay.to_owned()),
        })
    }
}

fn is_word(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

/// Tells the fleet of mails, by SES's ids.
///
/// # Errors
/// What the store or the way to it says.
pub async fn publish(link: &mut Link, keys: &Keys, sent: &[(String, Sent)]) -> RedisResult<()> {
    let mut pipeline = redis::pipe();
    for (ses_id, sent) in sent.iter().filter(|(ses_id, _)| is_word(ses_id, MAX_ID_BYTES)) {
        pipeline.cmd("SET").arg(name(keys, ses_id)).arg(sent.to_record()).arg("EX").arg(KEPT.as_secs()).ignore();
    }
    if pipeline.is_empty() { Ok(()) } else { pipeline.exec_async(link).await }
}

/// What the fleet knows of mails, in the order of SES's ids.
///
/// # Errors
/// What the store or the way to it says.
pub async fn find(link: &mut Link, keys: &Keys, ses_ids: &[String]) -> RedisResult<Vec<Option<Sent>>> {
    let sound: Vec<_> = ses_ids.iter().filter(|id| is_word(id, MAX_ID_BYTES)).collect();
    if sound.is_empty() {
        return Ok(vec![None; ses_ids.len()]);
    }
    let mut call = redis::cmd("MGET");
    sound.iter().for_each(|id| {
        call.arg(name(keys, id));
    });
    let mut found = call.query_async::<Vec<Option<Vec<u8>>>>(link).await?.into_iter();
    let mut next = || found.next().flatten().and_then(|record| Sent::from_record(&record));
    Ok(ses_ids.iter().map(|id| if is_word(id, MAX_ID_BYTES) { next() } else { None }).collect())
}

fn name(keys: &Keys, ses_id: &str) -> String {
    keys.of("sent:") + ses_id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for correlation_id in [None, Some("0198c2d4-x".to_owned())] {
            let relay = Some("relay-a.example.com".to_owned());
            let sent = Sent { queue_id: "4ZabcD1Yxz1".into(), correlation_id, relay };
            assert_eq!(Sent::from_record(sent.to_record().as_bytes()), Some(sent));
        }
    }

    #[test]
    fn what_is_no_record_of_ours_is_nothing() {
        let long = format!("1 {} 4ZabcD1Yxz1", "a".repeat(MAX_NAME_BYTES + 1));
        for record in [
            "",
            "1",
            "1 a",
            "2 a 4ZabcD1Yxz1",
            "1  4ZabcD1Yxz1",
            "1 a status=sent",
            "1 a 4ZabcD1Yxz1 c d",
            "1 a\n 4ZabcD1Yxz1",
            "1 a, 4ZabcD1Yxz1",
            &long,
        ] {
            assert_eq!(Sent::from_record(record.as_bytes()), None, "{record}");
        }
        assert_eq!(Sent::from_record(b"1 \xff 4ZabcD1Yxz1"), None);
    }
}
