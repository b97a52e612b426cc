//! Goes over the logs once, in pieces on all cores, never with more of them in memory than a window a core, and collects the
//! lines that hold a needle.

use super::query::Needle;
use super::source::{Log, Logs, Unread};
use jiff::Timestamp;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// A piece of a file for one thread to read: small enough that none is left with much at the end.
const PIECE_BYTES: u64 = 16 * 1024 * 1024;

/// What is in memory of a file: more than the longest line, and within the cache of a core.
const WINDOW_BYTES: usize = 256 * 1024;

/// More threads than this wait for memory, not for each other.
const MAX_THREADS: usize = 8;

/// A line that holds the needle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    /// Which of the logs.
    pub(super) log: usize,
    /// Where it begins.
    pub(super) offset: u64,
    pub(super) line: Box<[u8]>,
}

/// Where lines go; `false`: enough.
pub(super) trait Sink: Sync {
    fn take(&self, hit: Hit) -> bool;
}

impl<F: Fn(Hit) -> bool + Sync> Sink for F {
    fn take(&self, hit: Hit) -> bool {
        self(hit)
    }
}

/// Some whole lines of a log.
#[derive(Clone, Copy, Debug)]
pub struct Window<'w> {
    /// Which of the logs.
    pub(super) log: usize,
    /// Where the first line begins.
    pub(super) offset: u64,
    /// When the last line of the log was written, as far as is known: the bound of times without a year.
    pub latest: Timestamp,
    /// The lines; the last one of a log may lack its end.
    pub lines: &'w [u8],
}

/// Hands each line that holds the needle to `sink`, in no order; what could not be read.
pub(super) fn scan(logs: &Logs, needle: &Needle, sink: &impl Sink) -> Vec<Unread> {
    let each_hit = |(): &mut (), window: Window<'_>| {
        let mut enough = false;
        needle.each_line(window.lines, |start, line| {
            let hit = Hit { log: window.log, offset: window.offset + start as u64, line: line.into() };
            enough |= !enough && !sink.take(hit);
        });
        !enough
    };
    scan_all(logs, || (), each_hit).1
}

/// Hands all lines to `take`, in no order, with what `new` made for each thread (`false`: enough of this piece of the
/// log); what the threads made of them, and what could not be read.
pub fn scan_all<S: Send>(
    logs: &Logs,
    new: impl Fn() -> S + Sync,
    take: impl Fn(&mut S, Window<'_>) -> bool + Sync,
) -> (Vec<S>, Vec<Unread>) {
    let pieces = pieces(logs);
    let next = AtomicUsize::new(0);
    let unread = Mutex::new(Vec::new());
    let made = Mutex::new(Vec::new());
    let work = || {
        let mut window = vec![0; WINDOW_BYTES];
        let mut own = new();
        while let Some(piece) = pieces.get(next.fetch_add(1, Relaxed)) {
            let log = &logs.all[piece.log];
            if let Err(error) = piece.read(log, &mut |window| take(&mut own, window), &mut window) {
                let mut unread = unread.lock().unwrap_or_else(PoisonError::into_inner);
                if !unread.iter().any(|other: &Unread| other.name == log.name) {
                    unread.push(Unread { name: log.name.clone(), error });
                }
            }
        }
        made.lock().unwrap_or_else(PoisonError::into_inner).push(own);
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(pieces.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    (made.into_inner().unwrap_or_else(PoisonError::into_inner), unread.into_inner().unwrap_or_default())
}

/// The lines that begin in a part of a log.
#[derive(Clone, Copy, Debug)]
struct Piece {
    log: usize,
    start: u64,
    /// `None`: to its end.
    end: Option<u64>,
}

fn pieces(logs: &Logs) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (log, about) in logs.all.iter().enumerate() {
        if !about.is_divisible() {
            // Packed ones take longest, and one thread each.
            pieces.insert(0, Piece { log, start: 0, end: None });
            continue;
        }
        let starts = (0..about.len.max(1)).step_by(PIECE_BYTES as usize);
        pieces.extend(starts.map(|start| Piece { log, start, end: Some((start + PIECE_BYTES).min(about.len)) }));
    }
    pieces
}

impl Piece {
    /// The line that begins before the piece belongs to the one before: reading begins a byte early, and behind the
    /// first line end. The last line goes on behind the end.
    fn read(&self, log: &Log, take: &mut impl FnMut(Window<'_>) -> bool, window: &mut [u8]) -> io::Result<()> {
        let mut base = self.start.saturating_sub(1);
        let mut input = log.reader(base)?;
        let (mut skipping, mut filled) = (self.start > 0, 0);
        loop {
            let n = read_full(&mut input, &mut window[filled..])?;
            filled += n;
            let ended = filled < window.len();
            let mut text = &window[..filled];
            if skipping {
                let Some(at) = memchr::memchr(b'\n', text) else {
                    if ended || self.is_over(base + filled as u64) {
                        return Ok(());
                    }
                    base += filled as u64;
                    filled = 0;
                    continue;
                };
                text = &text[at + 1..];
                skipping = false;
            }
            let begin = filled - text.len();
            let at = base + begin as u64;
            if self.is_over(at) {
                return Ok(());
            }
            let (lines, last) = self.whole_lines(text, at, ended);
            let goes_on = take(Window { log: self.log, offset: at, latest: log.latest, lines });
            if last || !goes_on {
                return Ok(());
            }
            let used = begin + lines.len();
            window.copy_within(used..filled, 0);
            base += used as u64;
            filled -= used;
        }
    }

    fn is_over(&self, at: u64) -> bool {
        self.end.is_some_and(|end| at >= end)
    }

    /// Of `text`, which begins at `at` with a line: the whole lines that are the piece's, and whether they are its last.
    /// A line longer than the window is cut.
    fn whole_lines<'t>(&self, text: &'t [u8], at: u64, ended: bool) -> (&'t [u8], bool) {
        let mine = self.end.and_then(|end| usize::try_from(end - at).ok()).filter(|mine| *mine <= text.len());
        if let Some(mine) = mine
            && let Some(end) = memchr::memchr(b'\n', &text[mine.saturating_sub(1)..])
        {
            return (&text[..mine.saturating_sub(1) + end + 1], true);
        }
        if ended {
            return (text, true);
        }
        let end = memchr::memrchr(b'\n', text).map_or(text.len(), |end| end + 1);
        (&text[..end], false)
    }
}

/// Fills the buffer, as far as there is something.
fn read_full(input: &mut impl Read, mut buf: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while !buf.is_empty() {
        match input.read(buf) {
            Ok(0) => break,
            Ok(n) => {
                read += n;
                buf = &mut buf[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// The lines with "x" that begin in the pieces into which `cuts` cut a text.
    fn collected(text: &[u8], cuts: &[usize], window: usize) -> Vec<(u64, Vec<u8>)> {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(text).expect("write");
        let mut logs = Logs::default();
        logs.add(file.path()).expect("add");
        let needle = Needle::many(&[b"xxxxx"]).expect("needle");
        let found = Mutex::new(Vec::new());
        let mut take = |window: Window<'_>| {
            needle.each_line(window.lines, |start, line| {
                found.lock().expect("lock").push((window.offset + start as u64, line.to_vec()));
            });
            true
        };
        let mut bounds = vec![0, text.len() as u64];
        bounds.extend(cuts.iter().map(|cut| (cut % (text.len() + 1)) as u64));
        bounds.sort_unstable();
        bounds.dedup();
        for pair in bounds.windows(2) {
            let piece = Piece { log: 0, start: pair[0], end: Some(pair[1]) };
            piece.read(&logs.all[0], &mut take, &mut vec![0; window]).expect("read");
        }
        let mut found = found.into_inner().expect("lock");
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn wherever_it_is_cut_each_line_is_found_once(
            lines in prop::collection::vec("[a-b]{0,9}(xxxxx)?[a-b]{0,9}", 1..40),
            cuts in any::<[usize; 4]>(),
            closed: bool,
        ) {
            let mut text = lines.join("\n");
            if closed {
                text.push('\n');
            }
            let mut expected = Vec::new();
            let mut offset = 0;
            for line in lines {
                if line.contains("xxxxx") {
                    expected.push((offset, line.clone().into_bytes()));
                }
                offset += line.len() as u64 + 1;
            }
            prop_assert_eq!(collected(text.as_bytes(), &cuts, 64), expected);
        }
    }
}
