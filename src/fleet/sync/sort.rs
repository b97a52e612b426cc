//! Sorting more than fits into memory: sorted runs in files without a name, merged as they are read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Bytes that are sorted at once in memory.
const RUN_BYTES: usize = 48 << 20;

/// What a pair costs beside its bytes.
const PAIR_BYTES: usize = 56;

/// Bytes that are read of each run at once.
const READ_BYTES: usize = 128 << 10;

/// Names and values, in the order of the names.
pub(super) type Pair = (Box<[u8]>, Box<[u8]>);

/// Takes pairs in any order.
pub(super) struct Sorter {
    folder: PathBuf,
    pairs: Vec<Pair>,
    bytes: usize,
    runs: Vec<File>,
}

/// Gives them in order.
pub(super) struct Sorted {
    runs: Vec<BufReader<File>>,
    next: BinaryHeap<Reverse<(Pair, usize)>>,
    last: std::vec::IntoIter<Pair>,
}

impl Sorter {
    /// One whose runs are in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), pairs: Vec::new(), bytes: 0, runs: Vec::new() }
    }

    pub(super) fn push(&mut self, name: Vec<u8>, value: Vec<u8>) -> io::Result<()> {
        self.bytes += name.len() + value.len() + PAIR_BYTES;
        self.pairs.push((name.into(), value.into()));
        if self.bytes >= RUN_BYTES { self.write_run() } else { Ok(()) }
    }

    /// All pairs, sorted.
    pub(super) fn finish(mut self) -> io::Result<Sorted> {
        if !self.runs.is_empty() {
            self.write_run()?;
        }
        self.pairs.sort_unstable();
        let runs = self.runs.into_iter().map(|file| BufReader::with_capacity(READ_BYTES, file)).collect();
        let mut sorted = Sorted { runs, next: BinaryHeap::new(), last: self.pairs.into_iter() };
        for run in 0..sorted.runs.len() {
            sorted.refill(run)?;
        }
        Ok(sorted)
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.pairs.sort_unstable();
        let path = self.folder.join(format!(".gatepost-sort-{}", fastrand::u64(..)));
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        std::fs::remove_file(&path)?;
        let mut out = BufWriter::with_capacity(READ_BYTES, file);
        for (name, value) in self.pairs.drain(..) {
            for part in [name, value] {
                out.write_all(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes())?;
                out.write_all(&part)?;
            }
        }
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        self.runs.push(file);
        self.bytes = 0;
        Ok(())
    }
}

impl Sorted {
    /// The next pair. Of a name that was pushed twice there are two.
    pub(super) fn next(&mut self) -> io::Result<Option<Pair>> {
        if self.runs.is_empty() {
            return Ok(self.last.next());
        }
        let Some(Reverse((pair, run))) = self.next.pop() else { return Ok(None) };
        self.refill(run)?;
        Ok(Some(pair))
    }

    fn refill(&mut self, run: usize) -> io::Result<()> {
        let Some(file) = self.runs.get_mut(run) else { return Ok(()) };
        if let Some(name) = read_part(file)? {
            let value = read_part(file)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.next.push(Reverse(((name, value), run)));
        }
        Ok(())
    }
}

fn read_part(file: &mut BufReader<File>) -> io::Result<Option<Box<[u8]>>> {
    let mut length = [0; 4];
    match file.read_exact(&mut length) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let mut part = vec![0; u32::from_le_bytes(length) as usize];
    file.read_exact(&mut part)?;
    Ok(Some(part.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_comes_in_order_from_memory_and_from_runs() {
        let folder = tempfile::tempdir().expect("folder");
        for run_every in [usize::MAX, 100] {
            let mut sorter = Sorter::new(folder.path());
            for n in 0..1_000_u32 {
                let name = format!("{:05}", n * 7_919 % 1_000);
                sorter.push(name.clone().into(), name.into()).expect("push");
                if (n as usize + 1).is_multiple_of(run_every) {
                    sorter.write_run().expect("run");
                }
            }
            let mut sorted = sorter.finish().expect("sorted");
            for n in 0..1_000 {
                let expected = format!("{n:05}").into_bytes().into_boxed_slice();
                assert_eq!(sorted.next().expect("next"), Some((expected.clone(), expected)));
            }
            assert_eq!(sorted.next().expect("end"), None);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0, "no file has a name");
    }
}
