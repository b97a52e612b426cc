//! One queue: its calls, each with its counting, and what is known of it.

use super::client::{LONG_POLL_SECONDS, connect};
use super::pause::Pauses;
use super::refusal::{Kind, Refusal};
use crate::events::seldom::Seldom;
use crate::events::stats::{Source, Trouble, unix_now};
use crate::events::{Intake, Stats};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageSystemAttributeName, QueueAttributeName,
};
use std::error::Error;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a poller waits that is not the only one: when load ends, it ends soon.
const SHORT_POLL_SECONDS: i32 = 2;

/// SQS's bound for a batch.
pub(super) const BATCH: usize = 10;

/// How long a received message is ours before the queue brings it again: much longer than a transaction takes,
/// short enough that what a crash leaves comes back soon. Prolonged at half of it.
pub(super) const VISIBILITY: Duration = Duration::from_secs(60);

/// How long a call that is no long poll may take, and a long poll: a second beyond the SDK's own bound.
pub(super) const CALL: Duration = Duration::from_secs(10);
const RECEIVE: Duration = Duration::from_secs(31);

/// How often the dead-letter queue is asked for again where the role may not know.
const ASK_AGAIN: Duration = Duration::from_secs(3600);

/// How often credentials are read anew where they are the trouble.
const REREAD: Duration = Duration::from_secs(10);

/// A queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) source: Arc<Source>,
    pub(super) intake: Intake,
    pub(super) stats: Arc<Stats>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Pollers at work; at least one.
    pub(super) pollers: AtomicUsize,
    client: Mutex<Option<(Client, Instant)>>,
    /// After how many receives a message goes to the dead-letter queue; 0: there is none.
    max_receives: AtomicI64,
    /// When the role was refused the question for it.
    asked: Mutex<Option<Instant>>,
    refused: Mutex<Seldom>,
    mangled: Mutex<Seldom>,
}

/// A message in hand.
#[derive(Debug)]
pub(super) struct Held {
    /// What deletes it.
    pub(super) handle: String,
    /// How often it was received, this time included.
    pub(super) receives: i64,
}

impl Queue {
    pub(super) fn new(
        source: Arc<Source>,
        intake: Intake,
        stats: Arc<Stats>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            source,
            intake,
            stats,
            stop,
            tasks,
            pollers: AtomicUsize::new(0),
            client: Mutex::default(),
            max_receives: AtomicI64::new(0),
            asked: Mutex::default(),
            refused: Mutex::default(),
            mangled: Mutex::default(),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.source.name
    }

    /// After how many receives a message goes to the dead-letter queue, where there is one.
    pub(super) fn dead_letters_after(&self) -> Option<i64> {
        Some(self.max_receives.load(Relaxed)).filter(|n| *n > 0)
    }

    /// Asks until it is known whether there is a dead-letter queue, or that the role may not know.
    pub(super) async fn prepare(&self) {
        let mut pauses = Pauses::default();
        while let Err(refusal) = self.ask_for_dead_letters().await {
            self.away(&refusal).await;
            tokio::time::sleep(pauses.next()).await;
        }
        self.is_back();
    }

    /// Asks again where that was refused an hour ago.
    pub(super) async fn ask_again(&self) {
        let is_due = |asked: &Option<Instant>| asked.is_some_and(|at| at.elapsed() >= ASK_AGAIN);
        if is_due(&self.asked.lock().unwrap_or_else(PoisonError::into_inner)) {
            // What fails now is tried in another hour.
            let _ = self.ask_for_dead_letters().await;
        }
    }

    async fn ask_for_dead_letters(&self) -> Result<(), Refusal> {
        let client = self.client().await;
        let call =
            client.get_queue_attributes().queue_url(self.url()).attribute_names(QueueAttributeName::RedrivePolicy);
        let policy = match self.counted(CALL, call.send()).await {
            Ok(output) => output.attributes.and_then(|mut all| all.remove(&QueueAttributeName::RedrivePolicy)),
            Err(refusal) if refusal.kind.is_final() => {
                *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                tracing::info!(
                    queue = self.url(),
                    "Whether the queue has a dead-letter queue is not known ({}); what cannot be read goes into the \
                     quarantine.",
                    refusal.words
                );
                return Ok(());
            }
            Err(refusal) => return Err(refusal),
        };
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.max_receives.store(policy.as_deref().map_or(0, max_receives), Relaxed);
        Ok(())
    }

    /// A poll: the last poller waits long, further ones are there for what is coming fast.
    pub(super) async fn receive(&self) -> Result<Vec<Message>, Refusal> {
        let wait = if self.pollers.load(Relaxed) == 1 { LONG_POLL_SECONDS } else { SHORT_POLL_SECONDS };
        let call = self.client().await.receive_message();
        let call = call
            .queue_url(self.url())
            .max_number_of_messages(BATCH as i32)
            .wait_time_seconds(wait)
            .visibility_timeout(VISIBILITY.as_secs() as i32)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
        Ok(self.counted(RECEIVE, call.send()).await?.messages.unwrap_or_default())
    }

    /// Deletes up to [`BATCH`] messages. Returns what the queue refused, by their places.
    pub(super) async fn delete(&self, handles: &[String]) -> Result<Vec<(usize, BatchResultErrorEntry)>, Refusal> {
        let entry = |(n, handle): (usize, &String)| {
            DeleteMessageBatchRequestEntry::builder().id(n.to_string()).receipt_handle(handle).build().ok()
        };
        let entries = handles.iter().enumerate().filter_map(entry).collect();
        let call = self.client().await.delete_message_batch().queue_url(self.url()).set_entries(Some(entries));
        let failed = self.counted(CALL, call.send()).await?.failed;
        Ok(failed.into_iter().filter_map(|entry| Some((entry.id.parse().ok()?, entry))).collect())
    }

    /// Sets for how long these messages, [`BATCH`] at most, stay ours. Best effort: what is refused comes again when
    /// its time is over.
    pub(super) async fn keep_for(&self, held: &[(&Held, Duration)]) -> Result<(), Refusal> {
        let entry = |(n, (held, time)): (usize, &(&Held, Duration))| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(n.to_string());
            entry.receipt_handle(&held.handle).visibility_timeout(time.as_secs() as i32).build().ok()
        };
        let entries = held.iter().enumerate().filter_map(entry).collect();
        let call =
            self.client().await.change_message_visibility_batch().queue_url(self.url()).set_entries(Some(entries));
        let failed = self.counted(CALL, call.send()).await?.failed;
        if let Some(entry) = failed.first() {
            tracing::debug!(queue = self.url(), code = entry.code, "{} visibilities were not changed.", failed.len());
        }
        Ok(())
    }

    /// A call, counted, with a bound on its time.
    async fn counted<T, E>(
        &self,
        most: Duration,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Refusal>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let refusal = match tokio::time::timeout(most, call).await {
            Ok(Ok(output)) => {
                self.stats.api_calls.fetch_add(1, Relaxed);
                return Ok(output);
            }
            Ok(Err(error)) => Refusal::new(&error),
            Err(_) => Refusal::timeout(),
        };
        self.stats.api_errors.fetch_add(1, Relaxed);
        Err(refusal)
    }

    async fn client(&self) -> Client {
        let made =
            self.client.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(client, _)| client.clone());
        match made {
            Some(client) => client,
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> Client {
        let client = connect(self.url()).await;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some((client.clone(), Instant::now()));
        client
    }

    /// Notes that the queue does not answer as it should.
    pub(super) async fn away(&self, refusal: &Refusal) {
        if self.is_news(&self.source.trouble, &self.source.deletes, refusal) {
            tracing::error!(queue = self.url(), "Queue away: {}", refusal.words);
        }
        if refusal.kind.is_about_credentials() {
            let made = self.client.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, at)| *at);
            // The SDK keeps what it has read of files for the life of a client.
            if made.is_none_or(|at| at.elapsed() >= REREAD) {
                self.connect().await;
            }
        }
    }

    /// Notes trouble. `false` where the log was told of this kind, be it by another sort of call.
    fn is_news(&self, trouble: &Trouble, other: &Trouble, refusal: &Refusal) -> bool {
        // These come in turns where a network is on its way down or up.
        let kind = match refusal.kind {
            Kind::Timeout | Kind::Lost => Kind::Lost.as_str(),
            kind => kind.as_str(),
        };
        trouble.begin(kind, &refusal.words) && !other.is(kind)
    }

    /// Notes an answer.
    pub(super) fn is_back(&self) {
        self.stats.answered(&self.source, unix_now());
        if self.source.trouble.end() {
            tracing::info!(queue = self.url(), "The queue answers again.");
        }
    }

    /// Notes that deletes fail.
    pub(super) fn delete_failed(&self, refusal: &Refusal) {
        if self.is_news(&self.source.deletes, &self.source.trouble, refusal) {
            tracing::error!(
                queue = self.url(),
                "Messages cannot be deleted, and will come again (which changes nothing): {}",
                refusal.words
            );
        }
    }

    /// Counts messages whose delete the queue refused.
    pub(super) fn delete_refused(&self, count: usize, code: &str) {
        self.stats.failed_deletes.fetch_add(count as u64, Relaxed);
        if let Some(count) = self.seldom(&self.refused) {
            tracing::info!(
                count,
                code,
                queue = self.url(),
                "The queue refused to delete messages; they may come again, which changes nothing."
            );
        }
    }

    /// Counts a message that came damaged.
    pub(super) fn damaged(&self) {
        self.stats.damaged.fetch_add(1, Relaxed);
        if let Some(count) = self.seldom(&self.mangled) {
            tracing::warn!(count, queue = self.url(), "Messages came damaged (wrong MD5); they will come again.");
        }
    }

    fn seldom(&self, sort: &Mutex<Seldom>) -> Option<u64> {
        sort.lock().unwrap_or_else(PoisonError::into_inner).tell(Instant::now())
    }

    /// Notes that they work.
    pub(super) fn delete_works(&self) {
        if self.source.deletes.end() {
            tracing::info!(queue = self.url(), "Messages are deleted again.");
        }
    }
}

/// `maxReceiveCount` of a redrive policy, which is a number or a text; 0 where there is no dead-letter queue.
fn max_receives(policy: &str) -> i64 {
    let Ok(policy) = serde_json::from_str::<serde_json::Value>(policy) else { return 0 };
    if !policy.get("deadLetterTargetArn").is_some_and(serde_json::Value::is_string) {
        return 0;
    }
    let count = policy.get("maxReceiveCount");
    let count = count.and_then(|n| n.as_i64().or_else(|| n.as_str()?.parse().ok()));
    // There is a dead-letter queue, whatever it says of the count; SQS's default.
    count.filter(|n| *n > 0).unwrap_or(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redrive_policies_are_read() {
        assert_eq!(max_receives(r#"{"deadLetterTargetArn":"arn:x","maxReceiveCount":"5"}"#), 5);
        assert_eq!(max_receives(r#"{"deadLetterTargetArn":"arn:x","maxReceiveCount":3}"#), 3);
        assert_eq!(max_receives(r#"{"deadLetterTargetArn":"arn:x"}"#), 10);
        assert_eq!(max_receives(r#"{"maxReceiveCount":3}"#), 0);
        assert_eq!(max_receives(""), 0);
    }
}
