//! The server: accepts connections, reads requests in any split or batch, writes answers. In trouble
//! it answers nothing and closes, as the protocol asks (invariant 7). A connection is only ever
//! left at the read (invariant 6): a question that is in hand is answered, also while the daemon stops.

use super::answer::{Answerer, House, unix_time};
use super::codec::{self, MAX_REQUEST_BYTES};
use super::socket::Socket;
use super::stats::is_worth_a_line;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;

/// How long a peer may take to read an answer. Postfix waits for it; a peer that does not is stuck.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The first and the longest pause after a failed accept. EMFILE passes when connections close.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// The buffer of a connection: a request of Postfix has some 700 bytes.
const BUFFER_BYTES: usize = 4 * 1024;

/// A listening socket of either kind.
#[derive(Debug)]
pub enum Listener {
    /// A Unix-domain socket.
    Unix(UnixListener),
    /// TCP.
    Tcp(TcpListener),
}

/// Tells all connections and listeners to stop, at their next read.
#[derive(Debug, Default)]
pub struct Gate {
    closed: AtomicBool,
    changed: Notify,
}

impl Gate {
    /// Closes the gate, for good.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
        self.changed.notify_waiters();
    }

    /// Whether it is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        let mut changed = pin!(self.changed.notified());
        // Registered before the flag is read, so that a close in between is not missed.
        changed.as_mut().enable();
        if !self.is_closed() {
            changed.await;
        }
    }
}

/// The bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most connections at once. Postfix keeps one per smtpd process and policy_context.
    pub max_connections: usize,
    /// A connection without a request for so long (up to twice as long) is closed. Must be above
    /// Postfix's `smtpd_policy_service_max_idle` (300 s), or the next request costs a second.
    pub idle_timeout: Duration,
}

/// The delegation server: one for all listeners of a daemon.
#[derive(Debug)]
pub struct Server {
    house: Arc<House>,
    gate: Arc<Gate>,
    bounds: Bounds,
    places: Arc<Semaphore>,
    connections: TaskTracker,
}

impl Server {
    /// A server that judges by `house` until `gate` closes.
    #[must_use]
    pub fn new(house: Arc<House>, gate: Arc<Gate>, bounds: Bounds) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(bounds.max_connections));
        Arc::new(Self { house, gate, bounds, places, connections: TaskTracker::new() })
    }

    /// Accepts connections until the gate closes. Errors of accept never end it.
    pub async fn serve(self: Arc<Self>, listener: Listener, name: String) {
        let mut pause = ACCEPT_PAUSE.0;
        loop {
            let accepted = tokio::select! {
                () = self.gate.closed() => return,
                accepted = self.accept(&listener) => accepted,
            };
            let Err(error) = accepted else {
                pause = ACCEPT_PAUSE.0;
                continue;
            };
            self.house.stats.accept_errors.fetch_add(1, Relaxed);
            if pause == ACCEPT_PAUSE.0 {
                tracing::warn!(listener = name, %error, "Cannot accept a connection; trying again.");
            }
            tokio::select! {
                () = self.gate.closed() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(ACCEPT_PAUSE.1),
            }
        }
    }

    /// Waits until every connection has ended; call after the gate was closed.
    pub async fn drained(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    async fn accept(self: &Arc<Self>, listener: &Listener) -> io::Result<()> {
        match listener {
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                self.take(stream.into_std()?)
            }
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                self.take(stream.into_std()?)
            }
        }
    }

    /// Gives a connection its task, or closes it where there are too many: Postfix then applies its
    /// default action at once instead of waiting for an answer.
    fn take(self: &Arc<Self>, stream: impl Into<OwnedFd>) -> io::Result<()> {
        let stats = &self.house.stats;
        stats.accepted.fetch_add(1, Relaxed);
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            if is_worth_a_line(stats.turned_away.fetch_add(1, Relaxed)) {
                tracing::warn!(
                    max_connections = self.bounds.max_connections,
                    "Too many delegation connections, closing new ones. Raise [delegation] max_connections above \
                     three times Postfix's process limit."
                );
            }
            return Ok(());
        };
        let socket = Socket::new(stream)?;
        stats.connections.fetch_add(1, Relaxed);
        let server = self.clone();
        self.connections.spawn(async move {
            let open = Open { server: &server };
            Connection::new(socket, &server).converse().await;
            drop((open, place));
        });
        Ok(())
    }
}

/// Counts a connection as open for as long as it lives, also when its task panics.
struct Open<'a> {
    server: &'a Server,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.server.house.stats.connections.fetch_sub(1, Relaxed);
    }
}

/// Why a read ended.
enum Read {
    Bytes(usize),
    Ended,
}

struct Connection<'a> {
    socket: Socket,
    server: &'a Server,
    answerer: Answerer,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
}

impl<'a> Connection<'a> {
    fn new(socket: Socket, server: &'a Server) -> Self {
        let answerer = Answerer::new(server.house.clone());
        Self { socket, server, answerer, input: vec![0; BUFFER_BYTES], filled: 0, output: Vec::with_capacity(512) }
    }

    /// Reads and answers until the peer leaves, is silent too long or breaks the protocol, or the
    /// gate closes.
    async fn converse(mut self) {
        let gate = self.server.gate.clone();
        let mut closed = pin!(gate.changed.notified());
        let mut idle = pin!(tokio::time::sleep(self.server.bounds.idle_timeout));
        let timeout = self.server.bounds.idle_timeout;
        let mut patience = Patience { armed: false, busy: false, last_read: false, timeout };
        let mut scanned = 0;
        loop {
            match self.read(&mut patience, closed.as_mut(), idle.as_mut()).await {
                Read::Bytes(n) => self.filled += n,
                Read::Ended => return,
            }
            let began = unix_time();
            let (answered, broken) = self.answer_all(scanned, began).await;
            if answered > 0 {
                patience.busy = true;
                if self.socket.write_all(&self.output, WRITE_TIMEOUT).await.is_err() {
                    return;
                }
                let questions = u32::try_from(answered).unwrap_or(u32::MAX);
                self.server.house.stats.took(unix_time().saturating_sub(began), questions);
            }
            if broken {
                return;
            }
            scanned = self.filled;
            self.make_room();
        }
    }

    /// Answers every complete request in the buffer, and moves the rest to its front. How many, and
    /// whether what follows them is no request: the same however the bytes were split.
    async fn answer_all(&mut self, mut scanned: usize, now: Duration) -> (usize, bool) {
        let (mut start, mut answered) = (0, 0);
        self.output.clear();
        loop {
            let bytes = self.input.get(start..self.filled).unwrap_or_default();
            match codec::parse(bytes, scanned) {
                Ok(Some((request, length))) => {
                    self.answerer.answer(&request, now, &mut self.output).await;
                    start += length;
                    answered += 1;
                    scanned = 0;
                }
                Ok(None) => break,
                Err(error) => {
                    if is_worth_a_line(self.server.house.stats.wire_errors.fetch_add(1, Relaxed)) {
                        tracing::warn!(%error, "A delegation client sent no policy request; closing its connection.");
                    }
                    return (answered, true);
                }
            }
        }
        if start > 0 {
            self.input.copy_within(start..self.filled, 0);
            self.filled -= start;
        }
        (answered, false)
    }

    /// Grows a full buffer up to the bound of a request, and gives a large one back when it is empty.
    fn make_room(&mut self) {
        if self.filled == self.input.len() {
            self.input.resize((self.filled * 2).min(MAX_REQUEST_BYTES + 1), 0);
        } else if self.filled == 0 && self.input.len() > 4 * BUFFER_BYTES {
            self.input = vec![0; BUFFER_BYTES];
        }
    }

    /// Reads, or ends at the gate or when the peer was silent too long. At the gate, what has
    /// arrived is still read, once.
    ///
    /// A task has one waker for its life, so the gate and the idle timer are polled once and keep
    /// it; per request they cost two loads instead of two locks.
    async fn read(
        &mut self,
        patience: &mut Patience,
        mut closed: Pin<&mut tokio::sync::futures::Notified<'_>>,
        mut idle: Pin<&mut Sleep>,
    ) -> Read {
        let Self { socket, server, input, filled, .. } = self;
        let mut first = true;
        poll_fn(|context| {
            let stopping = server.gate.is_closed();
            if stopping && std::mem::replace(&mut patience.last_read, true) {
                return Poll::Ready(Read::Ended);
            }
            match socket.poll_read(context, input.get_mut(*filled..).unwrap_or_default()) {
                Poll::Ready(Ok(n @ 1..)) => return Poll::Ready(Read::Bytes(n)),
                Poll::Pending if !stopping => {}
                _ => return Poll::Ready(Read::Ended),
            }
            let known = std::mem::replace(&mut first, false) && patience.armed;
            if known && !idle.is_elapsed() {
                return Poll::Pending;
            }
            patience.armed = true;
            if closed.as_mut().poll(context).is_ready() {
                return Poll::Ready(Read::Ended);
            }
            while idle.as_mut().poll(context).is_ready() {
                if !std::mem::replace(&mut patience.busy, false) {
                    return Poll::Ready(Read::Ended);
                }
                idle.as_mut().reset(tokio::time::Instant::now() + patience.timeout);
            }
            Poll::Pending
        })
        .await
    }
}

struct Patience {
    /// Whether gate and timer hold this task's waker.
    armed: bool,
    /// Whether a question was answered since the timer was set.
    busy: bool,
    /// Whether the gate has closed and what had arrived was read.
    last_read: bool,
    timeout: Duration,
}
