//! Ports for who must be told one before it listens there. Two Postfixes that are told the same port both listen (master(8)
//! sets `SO_REUSEPORT`), and the kernel gives each of them a part of the clients: nobody says so.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the kernel gives out by itself (32768 and up), above those of `demo/run`.
const FIRST: u16 = 15_000;
const BLOCKS: u16 = 34;
/// More than all the tests ask for.
const PER_BLOCK: u16 = 500;

/// The ports of this process: another one finds its first port taken, and has another block.
struct Block {
    mark: TcpListener,
    next: AtomicU16,
}

static BLOCK: LazyLock<Block> = LazyLock::new(|| {
    let marks = (0..BLOCKS).map(|n| FIRST + n * PER_BLOCK);
    let mark = marks.into_iter().find_map(listen).expect("a block of ports that no other process has");
    Block { mark, next: AtomicU16::new(0) }
});

/// A port that nobody listens on, and that nothing else that asks here is given, in this process or another.
pub fn free() -> u16 {
    let first = BLOCK.mark.local_addr().expect("bound").port() + 1;
    let next = || first + BLOCK.next.fetch_add(1, Ordering::Relaxed) % (PER_BLOCK - 1);
    let mut tried = (1..PER_BLOCK).map(|_| next());
    tried.find(|port| listen(*port).is_some()).expect("a free port")
}

/// On all addresses, so that it fails where somebody listens on one of them.
fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()
}
