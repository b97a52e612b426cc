//! Replies that are held back: changes of a message leave with the last word about it, in one write. Postfix then has all
//! of them or none, also where gatepost is killed in between, and wakes once for them. Pure.

/// What waits to be written.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// Where the next packet begins.
    next: usize,
    /// Whether the last packet is a change, behind which more comes.
    more_comes: bool,
}

/// More than this is not held: only forged headers with names of many kilobytes, or recipients by the thousand, come to it.
const MAX_HELD_BYTES: usize = 64 * 1024;

/// Length and command.
const HEAD_BYTES: usize = 5;

/// The commands that change a message: recipients, sender, headers, the hold queue.
const CHANGES: &[u8] = b"+-2ehimq";

impl Held {
    /// Takes bytes; they may begin and end anywhere in a packet.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        while let Some([a, b, c, d, command]) = self.bytes.get(self.next..).and_then(<[u8]>::first_chunk::<HEAD_BYTES>)
        {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            self.more_comes = CHANGES.contains(command);
            self.next = self.next.saturating_add(HEAD_BYTES - 1).saturating_add(length);
        }
    }

    /// What is to be written now; empty: nothing.
    pub(super) fn due(&self) -> &[u8] {
        let held = self.more_comes && self.written == 0 && self.bytes.len() < MAX_HELD_BYTES;
        if held { &[] } else { self.bytes.get(self.written..).unwrap_or_default() }
    }

    /// So much of [`Held::due`] was written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= self.bytes.len() {
            self.next = self.next.saturating_sub(self.bytes.len());
            self.bytes.clear();
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(command: u8, data: &[u8]) -> Vec<u8> {
        [&(data.len() as u32 + 1).to_be_bytes()[..], &[command], data].concat()
    }

    #[test]
    fn changes_leave_with_the_last_word() {
        let mut held = Held::default();
        let edits = [packet(b'm', b"\0\0\0\x01a\0\0"), packet(b'i', b"\0\0\0\x01a\0b\0")].concat();
        held.take(&edits);
        assert!(held.due().is_empty());
        held.take(&packet(b'c', b""));
        let all = [edits, packet(b'c', b"")].concat();
        assert_eq!(held.due(), all);
        held.wrote(3);
        assert_eq!(held.due(), &all[3..]);
        held.wrote(all.len() - 3);
        assert!(held.due().is_empty());
        // That gatepost is still at work is told at once.
        held.take(&packet(b'p', b""));
        assert_eq!(held.due(), packet(b'p', b""));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut held = Held::default();
        let edit = packet(b'-', &[b'x'; 1_000]);
        let most = (0..1_000).take_while(|_| {
            held.take(&edit);
            held.due().is_empty()
        });
        assert!(most.count() * edit.len() < MAX_HELD_BYTES && held.bytes.len() < MAX_HELD_BYTES + edit.len());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_changed(
            packets in prop::collection::vec((prop::sample::select(b"Ochimp-qty".to_vec()), 0usize..300), 0..40),
            cut in 1usize..40,
            wrote in 1usize..200,
        ) {
            let sent: Vec<u8> = packets.iter().flat_map(|(command, n)| packet(*command, &vec![b'x'; *n])).collect();
            let (mut held, mut out) = (Held::default(), Vec::new());
            for part in sent.chunks(cut) {
                held.take(part);
                while !held.due().is_empty() {
                    let n = wrote.min(held.due().len());
                    out.extend_from_slice(&held.due()[..n]);
                    held.wrote(n);
                }
            }
            prop_assert!(sent.starts_with(&out));
            if packets.last().is_some_and(|(command, _)| !CHANGES.contains(command)) {
                prop_assert_eq!(out, sent);
            }
        }
    }
}
