//! Sorting more than fits into memory, in a thread of its own: sorted runs in files without a name, merged while what is
//! sorted is read. Pairs go in and out by the page, one behind the other: a page is one piece of memory, however many
//! pairs it has, so that handing them from thread to thread costs no allocation for each.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::mpsc;

/// Bytes that are sorted at once in memory.
const RUN_BYTES: usize = 48 << 20;

/// Bytes of a page that is given out, and how many pages wait, on the way in and on the way out.
const PAGE_BYTES: usize = 256 << 10;
const PAGES: usize = 2;

/// Bytes that are read of each run at once, and written.
const READ_BYTES: usize = 128 << 10;

/// A name and a value.
pub(super) type Pair<'a> = (&'a [u8], &'a [u8]);

/// Pairs, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Page {
    bytes: Vec<u8>,
}

/// Takes pages of pairs in any order.
#[derive(Debug)]
pub(super) struct Sorter {
    pages: mpsc::Sender<Page>,
    sorted: Sorted,
}

/// Gives pairs in the order of their names.
#[derive(Debug)]
pub(super) struct Sorted {
    pages: Receiver<io::Result<Page>>,
    page: Page,
    at: usize,
    /// Where the pair before was.
    before: usize,
    is_end: bool,
}

impl Page {
    /// Adds a pair.
    pub(super) fn push(&mut self, (name, value): Pair<'_>) {
        for part in [name, value] {
            self.bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
    }

    /// The pair at `at`, and where the next one is; `None` at the end.
    fn pair(&self, at: usize) -> Option<(Pair<'_>, usize)> {
        let (head, rest) = self.bytes.get(at..)?.split_at_checked(HEAD_BYTES)?;
        let (name, value) = lengths(head.try_into().ok()?);
        let (name, rest) = rest.split_at_checked(name)?;
        let value = rest.get(..value)?;
        Some(((name, value), at + HEAD_BYTES + name.len() + value.len()))
    }
}

/// The bytes before a pair: how long its name and its value are.
const HEAD_BYTES: usize = 8;

fn lengths(head: [u8; HEAD_BYTES]) -> (usize, usize) {
    let [a, b, c, d, e, f, g, h] = head;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize)
}

impl Sorter {
    /// One whose runs are in `folder`.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub(super) fn start(folder: PathBuf) -> io::Result<Self> {
        Self::with_runs(folder, RUN_BYTES)
    }

    fn with_runs(folder: PathBuf, run_bytes: usize) -> io::Result<Self> {
        let (pages, mut given) = mpsc::channel::<Page>(PAGES);
        let (out, sorted) = sync_channel(PAGES);
        let work = move || {
            let mut runs = Runs { folder, run_bytes, page: Page::default(), places: Vec::new(), files: Vec::new() };
            let sort = || -> io::Result<()> {
                while let Some(page) = given.blocking_recv() {
                    runs.take(&page)?;
                }
                runs.merge(&out)
            };
            // an empty page is the end; whoever reads no more needs none
            let _ = out.send(sort().map(|()| Page::default()));
        };
        std::thread::Builder::new().name("fleet-sort".into()).spawn(work)?;
        let sorted = Sorted { pages: sorted, page: Page::default(), at: 0, before: 0, is_end: false };
        Ok(Self { pages, sorted })
    }

    /// Takes a page. Waits while there are enough of them.
    ///
    /// # Errors
    /// Why pairs cannot be sorted.
    pub(super) async fn push(&mut self, page: Page) -> io::Result<()> {
        match self.pages.send(page).await {
            Ok(()) => Ok(()),
            // it says why
            Err(_) => self.sorted.turn().and_then(|()| Err(gone())),
        }
    }

    /// All pairs, sorted.
    pub(super) fn finish(self) -> Sorted {
        self.sorted
    }
}

impl Sorted {
    /// The next pair. Of a name that was pushed twice there are two.
    ///
    /// # Errors
    /// Why pairs cannot be sorted.
    pub(super) fn next(&mut self) -> io::Result<Option<Pair<'_>>> {
        while self.at >= self.page.bytes.len() && !self.is_end {
            self.turn()?;
        }
        self.before = self.at;
        let Some((pair, next)) = self.page.pair(self.at) else { return Ok(None) };
        self.at = next;
        Ok(Some(pair))
    }

    /// The pair that came last comes again.
    pub(super) fn step_back(&mut self) {
        self.at = self.before;
    }

    fn turn(&mut self) -> io::Result<()> {
        self.page = self.pages.recv().unwrap_or_else(|_| Err(gone()))?;
        (self.at, self.before) = (0, 0);
        self.is_end = self.page.bytes.is_empty();
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that sorts is gone")
}

/// Pairs in memory, and those that were written into files, sorted.
struct Runs {
    folder: PathBuf,
    /// Bytes of a run.
    run_bytes: usize,
    page: Page,
    places: Vec<Place>,
    files: Vec<File>,
}

/// Where a pair is, with the beginning of its name: most comparisons need no more.
struct Place {
    begins: u64,
    at: u32,
}

impl Runs {
    fn take(&mut self, page: &Page) -> io::Result<()> {
        let mut at = 0;
        while let Some((pair, next)) = page.pair(at) {
            let place = u32::try_from(self.page.bytes.len()).unwrap_or(u32::MAX);
            self.places.push(Place { begins: beginning(pair.0), at: place });
            self.page.push(pair);
            at = next;
            if self.page.bytes.len() + self.places.len() * size_of::<Place>() >= self.run_bytes {
                self.write()?;
            }
        }
        Ok(())
    }

    fn sort(&mut self) {
        let name = |place: &Place| self.page.pair(place.at as usize).map_or(b"".as_slice(), |((name, _), _)| name);
        self.places.sort_unstable_by(|a, b| a.begins.cmp(&b.begins).then_with(|| name(a).cmp(name(b))));
    }

    fn write(&mut self) -> io::Result<()> {
        self.sort();
        let path = self.folder.join(format!(".gatepost-sort-{}", fastrand::u64(..)));
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        std::fs::remove_file(&path)?;
        let mut out = BufWriter::with_capacity(READ_BYTES, file);
        for place in self.places.drain(..) {
            let at = place.at as usize;
            let end = self.page.pair(at).map_or(at, |(_, end)| end);
            out.write_all(self.page.bytes.get(at..end).unwrap_or_default())?;
        }
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        self.files.push(file);
        self.page.bytes.clear();
        Ok(())
    }

    /// Gives all of it, until nobody reads any more.
    fn merge(mut self, out: &SyncSender<io::Result<Page>>) -> io::Result<()> {
        let mut giving = Giving { page: Page::default(), out };
        if self.files.is_empty() {
            self.sort();
            let pairs = self.places.iter().filter_map(|place| self.page.pair(place.at as usize));
            let _ = pairs.map(|(pair, _)| giving.push(pair)).find(|is_read| !is_read);
            giving.give();
            return Ok(());
        }
        self.write()?;
        self.page = Page::default();
        self.places = Vec::new();
        let mut heads = BinaryHeap::with_capacity(self.files.len());
        for file in self.files {
            let mut head =
                Head { file: BufReader::with_capacity(READ_BYTES, file), name: Vec::new(), value: Vec::new() };
            if head.read()? {
                heads.push(head);
            }
        }
        while let Some(mut head) = heads.peek_mut() {
            if !giving.push((&head.name, &head.value)) {
                return Ok(());
            }
            if !head.read()? {
                PeekMut::pop(head);
            }
        }
        giving.give();
        Ok(())
    }
}

fn beginning(name: &[u8]) -> u64 {
    let mut begins = [0; 8];
    begins.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(begins)
}

/// The page that is filled.
struct Giving<'a> {
    page: Page,
    out: &'a SyncSender<io::Result<Page>>,
}

impl Giving<'_> {
    /// Whether anybody reads.
    fn push(&mut self, pair: Pair<'_>) -> bool {
        self.page.push(pair);
        self.page.bytes.len() < PAGE_BYTES || self.give()
    }

    fn give(&mut self) -> bool {
        let next = Page { bytes: Vec::with_capacity(PAGE_BYTES + PAGE_BYTES / 8) };
        let page = std::mem::replace(&mut self.page, next);
        page.bytes.is_empty() || self.out.send(Ok(page)).is_ok()
    }
}

/// The next pair of a run. The highest one is first.
struct Head {
    file: BufReader<File>,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Head {
    /// Whether there is a further pair.
    fn read(&mut self) -> io::Result<bool> {
        let mut head = [0; HEAD_BYTES];
        match self.file.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
        let (name, value) = lengths(head);
        for (part, length) in [(&mut self.name, name), (&mut self.value, value)] {
            part.resize(length, 0);
            self.file.read_exact(part)?;
        }
        Ok(true)
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.name.cmp(&self.name)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Head {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn sorted(folder: &Path, run_bytes: usize, pages: &[Vec<(Vec<u8>, Vec<u8>)>]) -> Sorted {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let mut sorter = Sorter::with_runs(folder.to_owned(), run_bytes).expect("thread");
        for pairs in pages {
            let mut page = Page::default();
            pairs.iter().for_each(|(name, value)| page.push((name, value)));
            runtime.block_on(sorter.push(page)).expect("push");
        }
        sorter.finish()
    }

    fn all(mut sorted: Sorted) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some((name, value)) = sorted.next().expect("next") {
            let pair = (name.to_owned(), value.to_owned());
            sorted.step_back();
            let again = sorted.next().expect("again").map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(again.as_ref(), Some(&pair));
            all.push(pair);
        }
        assert_eq!(sorted.next().expect("end"), None);
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_pushed_comes_in_order_from_memory_and_from_runs(
            pages in prop::collection::vec(
                prop::collection::btree_map("[a-c]{0,12}", prop::collection::vec(any::<u8>(), 0..20), 0..30), 0..8,
            ),
            run_bytes in prop_oneof![Just(RUN_BYTES), 1..2_000_usize],
        ) {
            let folder = tempfile::tempdir().expect("folder");
            // a name is in one page only, as in the store
            let named = |(n, page): (usize, &std::collections::BTreeMap<String, Vec<u8>>)| -> Vec<(Vec<u8>, Vec<u8>)> {
                page.iter().map(|(name, value)| (format!("{name}{n}").into(), value.clone())).collect()
            };
            let pages: Vec<_> = pages.iter().enumerate().map(named).collect();
            let mut expected = pages.concat();
            expected.sort();
            prop_assert_eq!(all(sorted(folder.path(), run_bytes, &pages)), expected);
            prop_assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0, "no file has a name");
        }
    }

    #[test]
    fn more_than_the_pages_that_wait() {
        let folder = tempfile::tempdir().expect("folder");
        let page = |n: u32| -> Vec<_> { (0..5_000).map(|i| (format!("{i}-{n}").into(), vec![b'v'; 100])).collect() };
        let pages: Vec<_> = (0..10).map(page).collect();
        let all = all(sorted(folder.path(), 1 << 20, &pages));
        assert!(all.len() == 50_000 && all.is_sorted());
    }

    #[test]
    fn no_folder_for_runs_is_told_and_no_end() {
        let folder = tempfile::tempdir().expect("folder");
        let nowhere = folder.path().join("nowhere");
        let mut sorted = sorted(&nowhere, 1, &[vec![(b"name".to_vec(), b"value".to_vec())]]);
        assert_eq!(sorted.next().expect_err("no folder").kind(), io::ErrorKind::NotFound);
        // nor is it the end when it is asked again
        assert!(sorted.next().is_err());
    }
}
