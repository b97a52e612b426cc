//! A stand-in for one SQS queue: the AWS JSON 1.0 protocol on loopback over HTTP/1.1 with keep-alive, as the
//! SDKs for Rust and Python speak it, in memory, a thread for each connection. It is fast (bodies are
//! rendered once, when they are sent), it counts calls, it knows of every message how often it was received and
//! whether it was deleted, and it can be in every kind of trouble that its clients must get over.
//!
//! As in SQS: what is not deleted in time comes back, each receive gives a new receipt handle and the delete by
//! an older one is answered and does nothing, and what was received too often goes to a dead-letter queue.
//! Unlike it: signatures are not looked at.

mod faults;
mod serve;
mod state;
mod wire;

pub use faults::{Action, Fault};
pub use state::Record;

use faults::Faults;
use state::State;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The account of the queue.
pub const ACCOUNT: &str = "123456789012";

/// The name of the queue.
pub const NAME: &str = "ses-events-queue";

/// What makes bodies while they are received.
type Supply = Box<dyn FnMut() -> Option<String> + Send>;

/// What is told of each delete that is asked for, before it is done, with the message's number.
type DeleteHook = Box<dyn Fn(u64) + Send + Sync>;

/// What the queue is like.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a received message is out of sight, where the receive does not say.
    pub visibility: Duration,
    /// Whether messages come back after that time whatever receives and prolongations say: a test need not wait.
    pub insists: bool,
    /// With a dead-letter queue: how often a message may be received.
    pub max_receives: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { visibility: Duration::from_secs(30), insists: false, max_receives: None }
    }
}

impl Settings {
    /// How long a message is out of sight where so many seconds are asked for.
    fn out_of_sight(&self, seconds: Option<u64>) -> Duration {
        let asked = seconds.map_or(self.visibility, Duration::from_secs);
        if self.insists { asked.min(self.visibility) } else { asked }
    }
}

/// What has happened at the queue.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Calls by [`Action::ALL`].
    pub calls: [u64; Action::ALL.len()],
    /// Messages that were sent.
    pub sent: u64,
    /// Messages that were deleted.
    pub deleted: u64,
    /// Messages that are in the dead-letter queue.
    pub dead: u64,
    /// From the first receive to the last delete.
    pub span: Duration,
}

impl Tally {
    /// Calls of all actions.
    pub fn all_calls(&self) -> u64 {
        self.calls.iter().sum()
    }

    /// Calls of one action.
    pub fn calls_of(&self, action: Action) -> u64 {
        self.calls[action as usize]
    }
}

/// A queue that serves; dropped, it is gone and its connections with it.
pub struct Queue {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    url: String,
    settings: Settings,
    state: Mutex<State>,
    /// Messages came or became visible, faults began or ended, or it is over.
    news: Condvar,
    faults: Faults,
    supply: Mutex<Option<Supply>>,
    on_delete: Mutex<Option<Arc<DeleteHook>>>,
    streams: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

impl Queue {
    /// Starts one on a free port.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            url: format!("http://{address}/{ACCOUNT}/{NAME}"),
            settings,
            state: Mutex::default(),
            news: Condvar::new(),
            faults: Faults::default(),
            supply: Mutex::default(),
            on_delete: Mutex::default(),
            streams: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let queue = Self { shared: shared.clone(), address };
        thread::Builder::new().name("queue".into()).spawn(move || accept(&listener, &shared))?;
        Ok(queue)
    }

    /// Where it listens: `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The queue's URL.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Puts a message into the queue; its number, from 0.
    pub fn send(&self, body: &str) -> u64 {
        let message = wire::render(body);
        let number = self.shared.state().send(message);
        self.shared.news.notify_all();
        number
    }

    /// From now on, where fewer messages wait than are asked for, `supply` is asked for more.
    pub fn supply(&self, supply: impl FnMut() -> Option<String> + Send + 'static) {
        *lock(&self.shared.supply) = Some(Box::new(supply));
        self.shared.news.notify_all();
    }

    /// From now on every delete that is asked for is told to `hook` first.
    pub fn on_delete(&self, hook: impl Fn(u64) + Send + Sync + 'static) {
        *lock(&self.shared.on_delete) = Some(Arc::new(Box::new(hook)));
    }

    /// These actions are in trouble from now on, also calls that wait already.
    pub fn trouble(&self, actions: &[Action], fault: Fault) {
        self.shared.faults.begin(actions, fault);
        self.shared.tell_all();
    }

    /// The trouble is over.
    pub fn heal(&self) {
        self.shared.faults.end();
        self.shared.tell_all();
    }

    /// How many calls the trouble has struck so far.
    pub fn struck(&self) -> u64 {
        self.shared.faults.struck()
    }

    /// What has happened so far.
    pub fn tally(&self) -> Tally {
        self.shared.state().tally()
    }

    /// What became of each message, by its number.
    pub fn records(&self) -> Vec<Record> {
        self.shared.state().records()
    }

    /// Messages that were neither deleted nor given up.
    pub fn left(&self) -> u64 {
        let tally = self.tally();
        tally.sent - tally.deleted - tally.dead
    }

    /// The `WaitTimeSeconds` of the receives that wait now.
    pub fn waiting_receives(&self) -> Vec<u64> {
        self.shared.state().waiting.clone()
    }

    /// Messages that were received, not yet deleted and are out of sight.
    pub fn in_flight(&self) -> usize {
        self.shared.state().in_flight(Instant::now())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        self.shared.faults.end();
        self.shared.tell_all();
        // Wakes the accepting thread for the last time.
        drop(TcpStream::connect(self.address));
        for stream in lock(&self.shared.streams).drain(..) {
            // A stream that the client has closed is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Wakes every call that waits. With the lock held: between its look and its wait nothing gets lost.
    fn tell_all(&self) {
        let _state = self.state();
        self.news.notify_all();
    }

    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming().flatten() {
        if shared.is_over() {
            return;
        }
        if let Ok(kept) = stream.try_clone() {
            lock(&shared.streams).push(kept);
        }
        let shared = shared.clone();
        // A client that goes away in the middle is its own business.
        thread::spawn(move || drop(serve::connection(&shared, stream)));
    }
}

/// A thread that panicked under the lock is a failure of its own; the others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
