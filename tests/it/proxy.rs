//! A TCP proxy between a relay and the store that delays, stalls and cuts, as the test says.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What becomes of what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It passes, so much later in each direction.
    Open(Duration),
    /// It is kept until the way is open again; connections stand.
    Stalled,
    /// Connections are closed, and so are new ones.
    Cut,
}

/// As if there were no proxy.
pub const OPEN: Way = Way::Open(Duration::ZERO);

/// A running proxy. Its threads end with their connections, the listener's with the test process.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    way: Way,
    /// The port that it leads to.
    target: u16,
    streams: Vec<TcpStream>,
}

impl Proxy {
    /// An open one that leads to a port of this machine.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for the proxy");
        let port = listener.local_addr().unwrap().port();
        let state = Mutex::new(State { way: OPEN, target, streams: Vec::new() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                // A store that is away closes the connection.
                thread::spawn(move || drop(shared.connect(stream)));
            }
        });
        Self { port, shared }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on the way is this one.
    pub fn set(&self, way: Way) {
        let mut state = self.shared.state();
        state.way = way;
        if way == Way::Cut {
            state.close();
        }
        self.shared.changed.notify_all();
    }

    /// From now on it leads to another port; connections to the one before are closed.
    pub fn lead_to(&self, target: u16) {
        let mut state = self.shared.state();
        state.target = target;
        state.close();
    }
}

impl State {
    fn close(&mut self) {
        for stream in self.streams.drain(..) {
            // Already closed is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The delay, once the way is no longer stalled; `None`: it is cut.
    fn delay(&self) -> Option<Duration> {
        let state = self.changed.wait_while(self.state(), |state| state.way == Way::Stalled);
        match state.unwrap_or_else(PoisonError::into_inner).way {
            Way::Open(delay) => Some(delay),
            Way::Stalled | Way::Cut => None,
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        if self.delay().is_none() {
            return Ok(());
        }
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.state().target))?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            self.state().streams.push(stream.try_clone()?);
        }
        self.pump(client.try_clone()?, server.try_clone()?);
        self.pump(server, client);
        Ok(())
    }

    /// One thread reads, one writes when it is time: what is under way is not held up by what came before it.
    fn pump(self: &Arc<Self>, mut from: TcpStream, to: TcpStream) {
        let (send, receive) = channel();
        let shared = Arc::clone(self);
        thread::spawn(move || shared.write(&receive, to));
        thread::spawn(move || read(&mut from, &send));
    }

    fn write(&self, receive: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
        for (came, bytes) in receive {
            let Some(delay) = self.delay() else { break };
            thread::sleep((came + delay).saturating_duration_since(Instant::now()));
            if self.delay().is_none() || to.write_all(&bytes).is_err() {
                break;
            }
        }
        // The end goes on to the other side.
        let _ = to.shutdown(Shutdown::Both);
    }
}

fn read(from: &mut TcpStream, send: &Sender<(Instant, Vec<u8>)>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(n) = from.read(&mut bytes) {
        if n == 0 || send.send((Instant::now(), bytes[..n].to_vec())).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valkey::{FORGETFUL, Valkey};

    fn ping(proxy: &Proxy, patience: Duration) -> Option<Duration> {
        let url = format!("redis://127.0.0.1:{}/0", proxy.port());
        let began = Instant::now();
        let mut connection = redis::Client::open(url).unwrap().get_connection_with_timeout(patience).ok()?;
        connection.set_read_timeout(Some(patience)).unwrap();
        redis::cmd("PING").query::<String>(&mut connection).ok().map(|_| began.elapsed())
    }

    #[test]
    fn it_delays_stalls_and_cuts() {
        let (store, other) = (Valkey::start(FORGETFUL), Valkey::start(FORGETFUL));
        let proxy = Proxy::to(store.port());
        let long = Duration::from_secs(10);
        assert!(ping(&proxy, long).is_some());
        proxy.set(Way::Open(Duration::from_millis(60)));
        assert!(ping(&proxy, long).is_some_and(|took| took >= Duration::from_millis(120)));
        proxy.set(Way::Stalled);
        assert_eq!(ping(&proxy, Duration::from_millis(200)), None);
        proxy.set(Way::Cut);
        assert_eq!(ping(&proxy, long), None);
        proxy.set(OPEN);
        proxy.lead_to(other.port());
        store.ask::<()>(&["SHUTDOWN", "NOSAVE"]).unwrap_err();
        assert!(ping(&proxy, long).is_some());
    }
}
