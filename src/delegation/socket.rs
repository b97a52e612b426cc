//! A connected socket that waits to be read only. tokio's own streams also hear when there is room to write, and on a
//! Unix-domain socket that is each time the peer takes an answer: a second wake-up for each question of a client that
//! does not ask again at once. Here room to write is waited for only while an answer does not fit, which next to never
//! happens. And the system is called without the C library, whose points of cancellation nobody needs here.

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The socket of a connection.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
    /// The same again, while there is no room to write.
    full: Option<AsyncFd<OwnedFd>>,
}

impl Socket {
    /// Takes over a stream socket that does not block.
    ///
    /// # Errors
    /// Where the system cannot watch one more.
    pub fn new(stream: impl Into<OwnedFd>) -> io::Result<Self> {
        Ok(Self { fd: watched(stream.into(), Interest::READABLE)?, full: None })
    }

    /// Reads into `into`, which is not empty; 0 where the peer has ended.
    #[inline]
    pub fn poll_read(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(context))?;
            match recv(self.fd.get_ref(), &mut *into, RecvFlags::empty()) {
                Ok((n, _)) => {
                    // What came was less than there was room for, so nothing is left, and what comes next is told:
                    // that saves the read that would find nothing.
                    if n > 0 && n < into.len() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Writes all of `bytes`. The common case is one write that takes them, and no wait.
    ///
    /// # Errors
    /// Where the peer is gone, or did not make room within `timeout`.
    #[inline]
    pub async fn write_all(&mut self, mut bytes: &[u8], timeout: Duration) -> io::Result<()> {
        write(self.fd.get_ref(), &mut bytes)?;
        if bytes.is_empty() {
            return Ok(());
        }
        tokio::time::timeout(timeout, self.write_rest(bytes)).await?
    }

    #[cold]
    async fn write_rest(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|context| self.poll_write(context, bytes)).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes of `bytes`, which are not empty, what there is room for; waits until there is some.
    ///
    /// # Errors
    /// Where the peer is gone.
    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut rest = bytes;
            write(self.fd.get_ref(), &mut rest)?;
            if rest.len() < bytes.len() {
                self.full = None;
                return Poll::Ready(Ok(bytes.len() - rest.len()));
            }
            let full = match self.full.take() {
                Some(full) => full,
                None => watched(self.fd.get_ref().try_clone()?, Interest::WRITABLE)?,
            };
            ready!(self.full.insert(full).poll_write_ready(context))?.clear_ready();
        }
    }
}

/// tokio's deprecation of `with_interest` is about types that may give away a descriptor which they do not own.
#[expect(deprecated, reason = "OwnedFd owns its descriptor, and the replacement is an unsafe function")]
fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// Writes until everything is written or there is no more room; leaves the rest in `bytes`.
#[inline]
fn write(socket: impl AsFd, bytes: &mut &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(&socket, bytes, SendFlags::NOSIGNAL) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => *bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    async fn read(socket: &Socket, room: usize) -> Vec<u8> {
        let mut into = vec![0; room];
        let n = poll_fn(|context| socket.poll_read(context, &mut into)).await.unwrap();
        into.truncate(n);
        into
    }

    fn pair() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Socket::new(ours).unwrap(), theirs)
    }

    #[tokio::test]
    async fn everything_is_read_in_any_pieces_up_to_the_end() {
        let (socket, mut theirs) = pair();
        theirs.write_all(b"abcdef").unwrap();
        assert_eq!(read(&socket, 3).await, b"abc");
        assert_eq!(read(&socket, 3).await, b"def");
        theirs.write_all(b"g").unwrap();
        assert_eq!(read(&socket, 3).await, b"g");
        let nothing = tokio::time::timeout(Duration::from_millis(20), read(&socket, 3)).await;
        assert!(nothing.is_err());
        theirs.write_all(b"h").unwrap();
        drop(theirs);
        assert_eq!(read(&socket, 3).await, b"h");
        assert_eq!(read(&socket, 3).await, b"");
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_until_the_peer_reads() {
        let (mut socket, mut theirs) = pair();
        let long: Vec<u8> = (0..4_000_000u32).map(|i| i as u8).collect();
        let mut write = tokio::spawn({
            let long = long.clone();
            async move { socket.write_all(&long, Duration::MAX).await }
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut write).await.is_err());
        let got = tokio::task::spawn_blocking(move || {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).map(|_| got)
        });
        write.await.unwrap().unwrap();
        assert_eq!(got.await.unwrap().unwrap(), long);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_an_error() {
        let (mut socket, theirs) = pair();
        drop(theirs);
        assert!(socket.write_all(b"x", Duration::MAX).await.is_err());
        assert_eq!(read(&socket, 3).await, b"");
    }
}
