//! Pollers: each receives, hands over, waits until it is on disk, and receives again while that is deleted. A full
//! answer starts another, an empty one ends all but one, and so does trouble.

use super::MAX_POLLERS;
use super::pause::Pauses;
use super::queue::{BATCH, Held, Queue, VISIBILITY};
use crate::events::{Fate, Parcel};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use md5::{Digest, Md5};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// SQS takes a message back after twelve hours, prolonged or not.
const LONGEST_HOLD: Duration = Duration::from_secs(12 * 3600 - 600);

/// So many answers in a row that are less than half full end a poller: fewer could do the same.
const SMALL_ANSWERS: u32 = 8;

/// An unreadable message is handed back at once, so that it reaches the dead-letter queue soon; after this many
/// receives so much later each time, up to the visibility.
const EAGER_RECEIVES: i64 = 20;
const SECONDS_MORE: i64 = 5;

/// Starts the first poller of a queue. They end with the daemon.
pub(super) fn start(queue: Arc<Queue>, deletes: mpsc::Sender<String>) {
    Poller { queue, deletes, pauses: Pauses::default(), small: 0 }.start();
}

struct Poller {
    queue: Arc<Queue>,
    deletes: mpsc::Sender<String>,
    pauses: Pauses,
    /// Small answers in a row.
    small: u32,
}

impl Poller {
    fn start(self) {
        self.queue.pollers.fetch_add(1, Relaxed);
        self.queue.stats.pollers.fetch_add(1, Relaxed);
        let tasks = self.queue.tasks.clone();
        tasks.spawn(self.run());
    }

    async fn run(mut self) {
        let stop = self.queue.stop.clone();
        loop {
            let answer = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                answer = self.queue.receive() => answer,
            };
            match answer {
                Ok(messages) => {
                    if self.answered(messages).await && self.may_end() {
                        return;
                    }
                }
                Err(refusal) => {
                    self.queue.away(&refusal).await;
                    if self.may_end() {
                        return;
                    }
                    // Only the last one waits for better times.
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(self.pauses.next()) => {}
                    }
                }
            }
        }
    }

    /// Deals with an answer. `true`: fewer pollers would do.
    async fn answered(&mut self, messages: Vec<Message>) -> bool {
        self.pauses.reset();
        self.queue.is_back();
        if messages.is_empty() {
            self.queue.ask_again().await;
            return true;
        }
        self.small = if messages.len() < BATCH / 2 { self.small + 1 } else { 0 };
        if messages.len() >= BATCH && self.queue.pollers.load(Relaxed) < MAX_POLLERS {
            start(self.queue.clone(), self.deletes.clone());
        }
        self.take(messages).await;
        self.small >= SMALL_ANSWERS
    }

    /// Counts this poller out, unless it is the last.
    fn may_end(&mut self) -> bool {
        self.small = 0;
        let less = |n: usize| (n > 1).then(|| n - 1);
        self.queue.pollers.fetch_update(Relaxed, Relaxed, less).is_ok()
    }

    /// Hands messages over and sees to what becomes of them.
    async fn take(&mut self, messages: Vec<Message>) {
        let (mut held, mut bodies) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        for message in messages {
            if !is_whole(&message) {
                self.queue.damaged();
                continue;
            }
            let receives = receives(&message);
            let Some(handle) = message.receipt_handle else { continue };
            held.push(Held { handle, receives });
            bodies.push(message.body.unwrap_or_default().into_bytes());
        }
        if held.is_empty() {
            return;
        }
        let (done, fates) = oneshot::channel();
        let quarantine = self.queue.dead_letters_after().is_none();
        let parcel = Parcel { bodies, source: self.queue.source.name.clone(), quarantine, done };
        match self.while_held(&held, parcel, fates).await {
            Some(fates) => self.settle(held, fates).await,
            None => self.give_back(&held).await,
        }
    }

    /// Waits until the messages are on disk, however long, and keeps them ours meanwhile. `None`: the daemon stops.
    async fn while_held(
        &self,
        held: &[Held],
        parcel: Parcel,
        fates: oneshot::Receiver<Vec<Fate>>,
    ) -> Option<Vec<Fate>> {
        let received = Instant::now();
        let applied = async {
            self.queue.intake.submit(parcel).await.ok()?;
            fates.await.ok()
        };
        tokio::pin!(applied);
        loop {
            tokio::select! {
                biased;
                fates = &mut applied => return fates,
                () = tokio::time::sleep(VISIBILITY / 2) => {}
            }
            if received.elapsed() < LONGEST_HOLD {
                let all: Vec<_> = held.iter().map(|held| (held, VISIBILITY)).collect();
                // Where that fails they may come again meanwhile, and are duplicates.
                let _ = self.queue.keep_for(&all).await;
            }
        }
    }

    /// What is on disk is deleted; what cannot be read goes its way to the dead-letter queue.
    async fn settle(&self, held: Vec<Held>, fates: Vec<Fate>) {
        let (mut unreadable, mut elsewhere) = (Vec::new(), Vec::new());
        for (held, fate) in held.into_iter().zip(fates) {
            match fate {
                // The other end is there as long as a poller is.
                Fate::Done => drop(self.deletes.send(held.handle).await),
                Fate::Unreadable(_) => unreadable.push(held),
                Fate::Elsewhere => elsewhere.push(held),
            }
        }
        if !elsewhere.is_empty() {
            let back: Vec<_> = elsewhere.iter().map(|held| (held, elsewhere_for(held.receives))).collect();
            let _ = self.queue.keep_for(&back).await;
        }
        if unreadable.is_empty() {
            return;
        }
        let last = self.queue.dead_letters_after().unwrap_or_default();
        let left = unreadable.iter().filter(|held| held.receives == 0 || held.receives >= last).count();
        self.queue.stats.dead_lettered.fetch_add(left as u64, Relaxed);
        let back: Vec<_> = unreadable.iter().map(|held| (held, back_after(held.receives))).collect();
        let _ = self.queue.keep_for(&back).await;
    }

    /// The daemon stops: another one may have them at once.
    async fn give_back(&self, held: &[Held]) {
        let back: Vec<_> = held.iter().map(|held| (held, Duration::ZERO)).collect();
        let _ = self.queue.keep_for(&back).await;
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.queue.stats.pollers.fetch_sub(1, Relaxed);
    }
}

/// When an unreadable message may come again.
fn back_after(receives: i64) -> Duration {
    let seconds = (receives - EAGER_RECEIVES).max(0).saturating_mul(SECONDS_MORE);
    Duration::from_secs(seconds.unsigned_abs()).min(VISIBILITY)
}

/// When a message may come again that another relay is at work on: soon at first, and so much later each time that a
/// relay that died is not waited for until the message goes to the dead-letter queue.
fn elsewhere_for(receives: i64) -> Duration {
    Duration::from_secs(SECONDS_MORE.saturating_mul(receives.max(1)).unsigned_abs()).min(VISIBILITY)
}

/// 0 where the queue does not say.
fn receives(message: &Message) -> i64 {
    let attributes = message.attributes.as_ref();
    let count = attributes.and_then(|all| all.get(&MessageSystemAttributeName::ApproximateReceiveCount));
    count.and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Whether the body is what the queue took the MD5 of.
fn is_whole(message: &Message) -> bool {
    let (Some(expected), Some(body)) = (&message.md5_of_body, &message.body) else { return true };
    let digest = Md5::digest(body.as_bytes());
    let hex = |n: u8| char::from_digit(n.into(), 16);
    let found = digest.iter().flat_map(|byte| [hex(byte >> 4), hex(byte & 15)]);
    found.eq(expected.chars().map(|c| Some(c.to_ascii_lowercase())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_bodies_are_seen() {
        let message = |md5: &str| Message::builder().body("hello").md5_of_body(md5).build();
        assert!(is_whole(&message("5d41402abc4b2a76b9719d911017c592")));
        assert!(is_whole(&message("5D41402ABC4B2A76B9719D911017C592")));
        assert!(!is_whole(&message("5d41402abc4b2a76b9719d911017c593")));
        assert!(!is_whole(&message("5d41")));
        assert!(is_whole(&Message::builder().body("hello").build()));
    }

    #[test]
    fn a_dead_relay_is_not_waited_for_in_the_dead_letter_queue() {
        // all visibilities between the first receive and the tenth, the last before the queue gives a message up
        let waited: Duration = (1..10).map(elsewhere_for).sum();
        assert!(waited >= 3 * crate::fleet::claims::CLAIM, "{waited:?}");
        assert_eq!((elsewhere_for(1), elsewhere_for(i64::MAX)), (Duration::from_secs(5), VISIBILITY));
    }

    #[test]
    fn unreadable_messages_slow_down() {
        assert_eq!(back_after(0), Duration::ZERO);
        assert_eq!(back_after(20), Duration::ZERO);
        assert_eq!(back_after(22), Duration::from_secs(10));
        assert_eq!(back_after(i64::MAX), VISIBILITY);
    }
}
