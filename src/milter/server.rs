//! What indymilter leaves to its user: accepting that outlives EMFILE, a bound on sessions, and an end that lets the
//! open sessions finish. Postfix never connects a milter again within an SMTP session, so a session that is cut costs
//! its client every further mail.

use super::session::{Milter, Side};
use crate::delegation::server::Listener;
use crate::delegation::stats::is_worth_a_line;
use crate::delegation::{Gate, Socket};
use indymilter::Config;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

/// How long open sessions are served after the end was asked for.
pub const DRAIN: Duration = Duration::from_secs(10);

/// The first and the longest pause after a failed accept. EMFILE passes when connections close.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// How long Postfix may leave a session silent. It does so while a client sends a message, as long as its own timeouts
/// allow: the milter's documentation advises against less than two hours.
const SILENCE: Duration = Duration::from_secs(7_210);

/// How much waits to be sent with the answer: the changes of nearly all messages.
const MAX_WAITING: usize = 8 * 1024;

/// The bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most sessions at once. Postfix has one per smtpd process, and one per local submission under way.
    pub max_connections: usize,
}

/// The milter server: one for all listeners of a daemon.
#[derive(Debug)]
pub struct Server {
    milter: Arc<Milter>,
    bounds: Bounds,
    /// Closed: no new sessions.
    closing: Gate,
    /// Closed: the open ones end too.
    ending: Gate,
    ended: Notify,
}

impl Server {
    /// A server for `milter`.
    #[must_use]
    pub fn new(milter: Arc<Milter>, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { milter, bounds, closing: Gate::default(), ending: Gate::default(), ended: Notify::new() })
    }

    /// Serves one listener until [`Server::end`].
    pub async fn serve(self: Arc<Self>, listener: Listener, side: Side, name: String) {
        let callbacks = self.milter.callbacks(side);
        // The bound is held at accept, where one too many is told so at once and not left to wait.
        let config = Config {
            max_connections: tokio::sync::Semaphore::MAX_PERMITS,
            connection_timeout: SILENCE,
            ..Config::default()
        };
        let server = self.clone();
        let door = Door { listener, server: server.clone(), name: name.clone(), pause: ACCEPT_PAUSE.0, waiting: None };
        if let Err(error) = indymilter::run(door, callbacks, config, server.ending.closed()).await {
            tracing::error!(%error, listener = name, "The milter listener ended.");
        }
    }

    /// Takes no new sessions, and waits until the open ones have ended, [`DRAIN`] at most: whether they have.
    pub async fn drained(&self) -> bool {
        self.closing.close();
        tokio::time::timeout(DRAIN, self.idle()).await.is_ok()
    }

    /// Ends the sessions that are left, at their next read.
    pub fn end(&self) {
        self.closing.close();
        self.ending.close();
    }

    async fn idle(&self) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // Registered before the count is read, so that an end in between is not missed.
            ended.as_mut().enable();
            if self.milter.stats.sessions.load(Relaxed) == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// A listener that never fails and, once the end was asked for, never has anybody at it: who comes then waits for the
/// next gatepost, where systemd holds the socket.
struct Door {
    listener: Listener,
    server: Arc<Server>,
    name: String,
    pause: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl indymilter::Listener for Door {
    type Io = Session;

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Session>> {
        loop {
            if self.server.closing.is_closed() {
                return Poll::Pending;
            }
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(context));
                self.waiting = None;
            }
            match ready!(self.incoming(context)) {
                Ok(socket) => {
                    self.pause = ACCEPT_PAUSE.0;
                    if let Some(session) = self.admit(socket) {
                        return Poll::Ready(Ok(session));
                    }
                }
                Err(error) => self.wait_after(&error),
            }
        }
    }
}

impl Door {
    fn incoming(&self, context: &mut Context<'_>) -> Poll<io::Result<Socket>> {
        Poll::Ready(match &self.listener {
            Listener::Unix(listener) => Socket::new(ready!(listener.poll_accept(context))?.0.into_std()?),
            Listener::Tcp(listener) => {
                let (stream, _) = ready!(listener.poll_accept(context))?;
                stream.set_nodelay(true)?;
                Socket::new(stream.into_std()?)
            }
        })
    }

    /// Gives a connection its place, or closes it where there are too many: Postfix then applies its default action at
    /// once.
    fn admit(&self, socket: Socket) -> Option<Session> {
        let (server, stats) = (&self.server, &self.server.milter.stats);
        stats.accepted.fetch_add(1, Relaxed);
        // Listeners that admit at once may go over it by as many as they are.
        if stats.sessions.load(Relaxed) >= server.bounds.max_connections as u64 {
            if is_worth_a_line(stats.turned_away.fetch_add(1, Relaxed)) {
                tracing::warn!(
                    max_connections = server.bounds.max_connections,
                    "Too many milter connections, closing new ones. Raise [milter] max_connections above Postfix's \
                     process limit."
                );
            }
            return None;
        }
        stats.sessions.fetch_add(1, Relaxed);
        Some(Session { socket, server: server.clone(), waiting: Vec::new() })
    }

    fn wait_after(&mut self, error: &io::Error) {
        self.server.milter.stats.accept_errors.fetch_add(1, Relaxed);
        if self.pause == ACCEPT_PAUSE.0 {
            tracing::warn!(listener = self.name, %error, "Cannot accept a milter connection; trying again.");
        }
        self.waiting = Some(Box::pin(tokio::time::sleep(self.pause)));
        self.pause = (self.pause * 2).min(ACCEPT_PAUSE.1);
    }
}

/// The connection of a session, which counts it for as long as it lives, also when its task panics. indymilter sends each
/// change of a message for itself, and each would wake Postfix; here they wait until the session reads again.
pub struct Session {
    socket: Socket,
    server: Arc<Server>,
    /// What is to be sent.
    waiting: Vec<u8>,
}

impl Session {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let sent = ready!(self.socket.poll_write(context, &self.waiting))?;
            self.waiting.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.server.milter.stats.sessions.fetch_sub(1, Relaxed);
        self.server.ended.notify_waiters();
    }
}

impl AsyncRead for Session {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        let read = ready!(self.socket.poll_read(context, into.initialize_unfilled()))?;
        into.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Session {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= MAX_WAITING {
            ready!(self.poll_send(context))?;
        }
        self.waiting.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The connection ends with its owner, who drops it now.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(context)
    }
}
