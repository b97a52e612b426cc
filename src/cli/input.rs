//! A file that is read by a thread of its own: waiting for the other end of a pipe must not keep the command from
//! ending.

use super::exit;
use super::output::Failure;
use super::signals::Signals;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// How much is read at once, and how many such pieces wait.
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 4;

/// How often it is looked whether to end.
const LOOK: Duration = Duration::from_millis(100);

/// A file that is there, or standard input.
pub struct Source {
    /// `None`: standard input.
    path: Option<PathBuf>,
    /// For messages.
    pub name: String,
    /// In bytes, where it is known.
    pub len: Option<u64>,
}

impl Source {
    /// The file that an operator named; `-` is standard input.
    ///
    /// # Errors
    /// Where there is no such file.
    pub fn find(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self { path: None, name: "stdin".to_owned(), len: None });
        }
        let name = path.display().to_string();
        let about = std::fs::metadata(path).map_err(|e| not_opened(&name, &e))?;
        if about.is_dir() {
            return Err(Failure::new(exit::NOINPUT, format!("{name}: is a folder: name a file")));
        }
        Ok(Self { path: Some(path.to_owned()), len: about.is_file().then_some(about.len()), name })
    }

    /// Opens it.
    ///
    /// # Errors
    /// Where it cannot be opened, or a signal told the command to end.
    pub fn open<'a>(&self, signals: &'a Signals) -> Result<Input<'a>, Failure> {
        Input::open(self.path.clone(), signals).map_err(|e| not_opened(&self.name, &e))
    }
}

fn not_opened(name: &str, error: &io::Error) -> Failure {
    Failure::new(exit::NOINPUT, format!("{name}: cannot be opened: {error}"))
}

/// What is read of it.
pub struct Input<'a> {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Cursor<Vec<u8>>,
    signals: &'a Signals,
}

impl<'a> Input<'a> {
    fn open(path: Option<PathBuf>, signals: &'a Signals) -> io::Result<Self> {
        let (sender, pieces) = sync_channel(PIECES);
        std::thread::Builder::new().name("input".into()).spawn(move || send_all(path, &sender))?;
        let mut input = Self { pieces, piece: Cursor::default(), signals };
        // The first piece is empty, and says that the file is open.
        input.next()?;
        Ok(input)
    }

    /// `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        loop {
            if self.signals.told() {
                return Err(io::Error::other("told to end"));
            }
            match self.pieces.recv_timeout(LOOK) {
                Ok(piece) => {
                    self.piece = Cursor::new(piece?);
                    return Ok(true);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.piece.read(buf)?;
            if n > 0 || buf.is_empty() || !self.next()? {
                return Ok(n);
            }
        }
    }
}

/// Sends pieces until the end, an error, or until nobody wants more.
fn send_all(path: Option<PathBuf>, pieces: &SyncSender<io::Result<Vec<u8>>>) {
    let opened = match path {
        Some(path) => File::open(path),
        None => io::stdin().as_fd().try_clone_to_owned().map(File::from),
    };
    let mut file = match opened {
        Ok(file) => file,
        Err(e) => return drop(pieces.send(Err(e))),
    };
    let mut piece = Ok(Vec::new());
    loop {
        let is_last = piece.is_err();
        if pieces.send(piece).is_err() || is_last {
            return;
        }
        let mut bytes = vec![0; PIECE_BYTES];
        piece = match file.read(&mut bytes) {
            Ok(0) => return,
            Ok(n) => {
                bytes.truncate(n);
                Ok(bytes)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(e) => Err(e),
        };
    }
}
