//! Daemons in trouble, at the place where Postfix looks for gatepost; and a line between the two that
//! can be cut.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No socket.
    Gone,
    /// A socket that no process listens on.
    Refusing,
    /// Connections are accepted and closed.
    Closing,
    /// Connections are accepted, questions read, nothing answered.
    Stuck,
}

/// A daemon in trouble. Dropped, its socket goes.
pub struct Troubled {
    path: PathBuf,
    over: Arc<AtomicBool>,
}

impl Troubled {
    /// Puts one at `path`.
    pub fn at(path: &Path, trouble: Trouble) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let troubled = Self { path: path.to_owned(), over: Arc::clone(&over) };
        if trouble == Trouble::Gone {
            return troubled;
        }
        let listener = listen(path);
        if trouble == Trouble::Refusing {
            return troubled; // the listener ends here, its file stays
        }
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                if trouble == Trouble::Stuck {
                    held.push(stream);
                }
            }
        });
        troubled
    }
}

impl Drop for Troubled {
    fn drop(&mut self) {
        end(&self.path, &self.over);
    }
}

/// A line from Postfix to gatepost that is cut once: after a DATA question went through it, before the
/// answer gets back.
pub struct CutLine {
    path: PathBuf,
    over: Arc<AtomicBool>,
    questions: Arc<AtomicUsize>,
}

/// When the line is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// When gatepost has answered.
    Answered,
    /// At once, whatever gatepost does.
    Asked,
}

impl CutLine {
    /// Listens at `path`, passes on to `upstream`, and cuts the first DATA question's answer off.
    pub fn at(path: &Path, upstream: &Path, cut: Cut) -> Self {
        let listener = listen(path);
        let (over, questions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let line = Self { path: path.to_owned(), over: Arc::clone(&over), questions: Arc::clone(&questions) };
        let upstream = upstream.to_owned();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (upstream, questions) = (upstream.clone(), Arc::clone(&questions));
                thread::spawn(move || drop(pass(stream, &upstream, &questions, cut)));
            }
        });
        line
    }

    /// How many DATA questions came through it.
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

impl Drop for CutLine {
    fn drop(&mut self) {
        end(&self.path, &self.over);
    }
}

/// One connection, question by question, until one of the ends closes or the line is cut.
fn pass(mut postfix: UnixStream, upstream: &Path, questions: &AtomicUsize, cut: Cut) -> std::io::Result<()> {
    let mut gatepost = UnixStream::connect(upstream)?;
    while let Some(question) = read_block(&mut postfix)? {
        let is_data = question.windows(20).any(|w| w == b"protocol_state=DATA\n");
        let first = is_data && questions.fetch_add(1, Ordering::SeqCst) == 0;
        gatepost.write_all(&question)?;
        if first && cut == Cut::Asked {
            return Ok(());
        }
        let answer = read_block(&mut gatepost)?;
        match answer {
            Some(answer) if !first => postfix.write_all(&answer)?,
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Up to and with the empty line; `None` where the other end has closed.
fn read_block(stream: &mut UnixStream) -> std::io::Result<Option<Vec<u8>>> {
    let (mut block, mut byte) = (Vec::new(), [0]);
    while !block.ends_with(b"\n\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        block.extend(byte);
    }
    Ok(Some(block))
}

fn listen(path: &Path) -> UnixListener {
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).expect("a socket where gatepost's would be");
    fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    listener
}

/// Wakes the accepting thread for the last time, and removes the socket.
fn end(path: &Path, over: &AtomicBool) {
    over.store(true, Ordering::SeqCst);
    drop(UnixStream::connect(path));
    let _ = fs::remove_file(path);
}
