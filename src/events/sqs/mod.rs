//! SQS: pollers that receive, hand over, and delete what is on disk. They run on a thread and a runtime of their
//! own: nothing of AWS takes a moment from Postfix's questions.

mod client;
mod delete;
pub mod inspect;
mod pause;
mod poll;
mod queue;
mod refusal;

pub use client::{endpoint_of, region_of};

use super::stats::unix_now;
use super::{Intake, Stats};
use queue::Queue;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most pollers of a queue: 160 events on their way together, which at SQS's usual 20 ms a call are some 8,000 a
/// second.
pub const MAX_POLLERS: usize = 16;

/// How long the daemon's end waits for what was received to be given back, and for the last deletes.
const LAST_MOMENTS: Duration = Duration::from_millis(300);

/// The thread of all queues; stop it to end it.
#[derive(Debug)]
pub struct Sqs {
    thread: JoinHandle<()>,
    stop: CancellationToken,
}

impl Sqs {
    /// Starts polling the queues with these URLs.
    ///
    /// # Errors
    /// Where there is no thread or runtime to be had. Trouble with a queue is logged, and tried again.
    pub fn start(urls: &[String], intake: &Intake, stats: &Arc<Stats>) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tasks = TaskTracker::new();
        // A queue that is named twice is one queue.
        for url in urls.iter().collect::<BTreeSet<_>>() {
            let source = stats.add_source(url.as_str().into(), unix_now());
            let queue = Queue::new(source, intake.clone(), stats.clone(), stop.clone(), tasks.clone());
            tasks.spawn_on(serve(Arc::new(queue)), runtime.handle());
        }
        let until = stop.clone();
        let run = move || {
            runtime.block_on(async {
                until.cancelled().await;
                tasks.close();
                if tokio::time::timeout(LAST_MOMENTS, tasks.wait()).await.is_err() {
                    tracing::info!("Some messages were not given back to the queue; it brings them again by itself.");
                }
            });
            // A name server that does not answer holds a thread of the runtime.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("sqs".into()).spawn(run)?;
        Ok(Self { thread, stop })
    }

    /// Tells the pollers to end: nothing more is received, what is in hand goes back to its queue unless it is
    /// on disk.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end, until `latest` at most. `true`: it ended.
    #[must_use]
    pub fn ended_by(self, latest: Instant) -> bool {
        super::ended_by(self.thread, latest)
    }
}

/// One queue, from its first call to the daemon's end.
async fn serve(queue: Arc<Queue>) {
    let (deletes, handles) = mpsc::channel(delete::MAX_WAITING);
    queue.tasks.spawn(delete::run(queue.clone(), handles));
    let stop = queue.stop.clone();
    tokio::select! {
        () = stop.cancelled() => return,
        () = queue.prepare() => {}
    }
    poll::start(queue, deletes);
}
