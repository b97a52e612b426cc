//! What indymilter leaves to its user: accepting that outlives EMFILE, a bound on sessions, and an end that lets the
//! open sessions finish. Postfix never connects a milter again within an SMTP session, so a session that is cut costs
//! its client every further mail.

use super::held::Held;
use super::session::{Milter, Side, Talk};
use crate::delegation::server::Listener;
use crate::delegation::stats::is_worth_a_line;
use crate::delegation::{Gate, Socket};
use indymilter::{Callbacks, Config};
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
        self.serve_by(callbacks, listener, name).await;
    }

    async fn serve_by(self: Arc<Self>, callbacks: Callbacks<Talk>, listener: Listener, name: String) {
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
        Some(Session { socket, held: Held::default(), server: server.clone() })
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

/// The connection of a session, which counts it for as long as it lives, also when its task panics.
pub struct Session {
    socket: Socket,
    held: Held,
    server: Arc<Server>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.server.milter.stats.sessions.fetch_sub(1, Relaxed);
        self.server.ended.notify_waiters();
    }
}

impl AsyncRead for Session {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(self.socket.poll_read(context, into.initialize_unfilled()))?;
        into.advance(read);
        Poll::Ready(Ok(()))
    }
}

/// indymilter flushes behind each packet.
impl AsyncWrite for Session {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.held.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, held, .. } = &mut *self;
        while !held.due().is_empty() {
            match ready!(socket.poll_write(context, held.due()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => held.wrote(n),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The connection ends with its owner, who drops it now. Changes without a last word are not sent.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::delegation::House;
    use crate::lines::Outlet;
    use crate::meters::Meters;
    use crate::milter::stamp::Settings;
    use crate::milter::{Setup, Stats};
    use crate::rules;
    use crate::suppression::{Confirmer, Index};
    use std::path::Path;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    /// What Postfix 3.7 offers: version, actions, steps.
    const OFFER: [u32; 3] = [6, 0x1ff, 0x1f_ffff];

    /// A milter by rules that let everything pass.
    fn milter(dir: &Path) -> Arc<Milter> {
        std::fs::write(dir.join("policy.toml"), "[senders]\nmode = \"off\"\n").unwrap();
        let (rules, _) = rules::load::load(dir).unwrap();
        let confirmer = Arc::new(Confirmer::new(&dir.join("gatepost.db")));
        let house =
            House::new(Arc::new(rules), Arc::<Index>::default(), confirmer, Arc::<Meters>::default(), Outlet::new().0);
        let stamps = Settings { correlation_header: "X-Correlation-ID".to_owned(), configuration_set: None };
        let setup = Setup { stamps, trusted: Vec::new(), bounce_sender: None };
        Milter::new(Arc::new(house), setup, Arc::<Stats>::default())
    }

    async fn say(peer: &mut UnixStream, command: u8, data: &[u8]) {
        peer.write_u32(data.len() as u32 + 1).await.unwrap();
        peer.write_all(&[&[command], data].concat()).await.unwrap();
    }

    /// The next reply's first byte; `None` where the session has ended.
    async fn reply(peer: &mut UnixStream) -> Option<u8> {
        let mut packet = vec![0; peer.read_u32().await.ok()? as usize];
        peer.read_exact(&mut packet).await.ok()?;
        packet.first().copied()
    }

    /// A session up to its first recipient.
    async fn begun(path: &Path) -> UnixStream {
        let mut peer = UnixStream::connect(path).await.unwrap();
        say(&mut peer, b'O', &OFFER.map(u32::to_be_bytes).concat()).await;
        assert_eq!(reply(&mut peer).await, Some(b'O'));
        say(&mut peer, b'M', b"<info@example.com>\0").await;
        say(&mut peer, b'R', b"<user@example.net>\0").await;
        peer
    }

    /// The fault is put in: no packet makes one.
    #[tokio::test]
    async fn a_panic_ends_the_session_in_which_it_happens_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("milter.sock");
        let milter = milter(dir.path());
        let server = Server::new(milter.clone(), Bounds { max_connections: 10 });
        let callbacks = milter.callbacks(Side::Smtpd).on_unknown(|_, _| panic!("a fault that was put in"));
        let listener = Listener::Unix(tokio::net::UnixListener::bind(&path).unwrap());
        let serving = tokio::spawn(server.clone().serve_by(callbacks, listener, "test".to_owned()));
        let open = || milter.stats.sessions.load(Relaxed);

        let (mut well, mut ill) = (begun(&path).await, begun(&path).await);
        assert_eq!(open(), 2);
        say(&mut ill, b'U', b"NOOP\0").await;
        assert_eq!(reply(&mut ill).await, None);
        say(&mut well, b'E', b"").await;
        assert_eq!((reply(&mut well).await, reply(&mut well).await), (Some(b'i'), Some(b'i')));
        assert_eq!(reply(&mut well).await, Some(b'c'));
        assert_eq!(open(), 1);
        say(&mut begun(&path).await, b'Q', b"").await;
        drop(well);
        assert!(server.drained().await);
        assert_eq!(open(), 0);
        server.end();
        serving.await.unwrap();
    }
}
