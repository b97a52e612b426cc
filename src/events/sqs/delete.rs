//! Deletes: gathered into batches of ten over all pollers of a queue, so that answers of one or two messages do
//! not cost a call each. A message that could not be deleted comes again, and is a duplicate.

use super::pause::Pauses;
use super::queue::{BATCH, Queue};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Most handles that wait for a batch: twice what all pollers of a queue hold. Then the pollers wait.
pub(super) const MAX_WAITING: usize = 2 * BATCH * super::MAX_POLLERS;

/// How long a batch waits to become full: nothing against the visibility.
const GATHER: Duration = Duration::from_millis(50);

/// Most deletes under way at once.
const AT_ONCE: usize = super::MAX_POLLERS;

/// How often a delete is tried; then the messages are left to come again.
const TRIES: u32 = 3;

/// Deletes what comes by `handles` until the pollers have ended.
pub(super) async fn run(queue: Arc<Queue>, mut handles: mpsc::Receiver<String>) {
    let under_way = Arc::new(Semaphore::new(AT_ONCE));
    let mut batch = Vec::with_capacity(BATCH);
    while handles.recv_many(&mut batch, BATCH).await > 0 {
        let full = async {
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                if handles.recv_many(&mut batch, room).await == 0 {
                    return;
                }
            }
        };
        tokio::select! {
            () = full => {}
            () = tokio::time::sleep(GATHER) => {}
            () = queue.stop.cancelled() => {}
        }
        let Ok(permit) = under_way.clone().acquire_owned().await else { return };
        let (queue, handles) = (queue.clone(), std::mem::replace(&mut batch, Vec::with_capacity(BATCH)));
        queue.clone().tasks.spawn(async move {
            delete(&queue, handles).await;
            drop(permit);
        });
    }
}

/// Deletes these, and tries what fails again, each on its own.
async fn delete(queue: &Queue, mut handles: Vec<String>) {
    let mut pauses = Pauses::default();
    for _ in 0..TRIES {
        match queue.delete(&handles).await {
            Ok(refused) => {
                queue.delete_works();
                if refused.is_empty() {
                    return;
                }
                let code = refused.first().map(|(_, entry)| entry.code.as_str()).unwrap_or_default();
                queue.delete_refused(refused.len(), code);
                // A handle that has expired or is not the queue's stays so.
                let worth_it = refused.iter().filter(|(_, entry)| !entry.sender_fault);
                handles = worth_it.filter_map(|(n, _)| handles.get(*n).cloned()).collect();
            }
            Err(refusal) => queue.delete_failed(&refusal),
        }
        if handles.is_empty() || queue.stop.is_cancelled() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pauses.next()) => {}
            // One last try.
            () = queue.stop.cancelled() => {}
        }
    }
}
