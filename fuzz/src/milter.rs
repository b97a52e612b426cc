//! The milter as its peer meets it: the server that the daemon runs, on a socket, and whatever bytes a peer may send.
//!
//! The first byte of an input chooses the listener, the second how the rest is sent: bit 0 as it is, else as framed
//! packets; bit 1 to a peer that wants every event answered; bit 2 in pieces; bit 3 without a negotiation before it.
//! Of a framed packet the first byte is the command (its highest bit: no NUL is put behind the payload), then come the
//! payload's length (one byte; from 240 on its low half is the high part of the next) and the payload.

use gatepost::delegation::House;
use gatepost::delegation::server::Listener;
use gatepost::lines::{Line, MAX_LINE_BYTES, Outlet};
use gatepost::mail::{Address, Rewriting};
use gatepost::meters::Meters;
use gatepost::milter::stamp::{SET_HEADER, Settings, TAGS_HEADER};
use gatepost::milter::{Bounds, Milter, Server, Setup, Side, Stats};
use gatepost::rules::Files;
use gatepost::store::{Entry, OnExisting, Origin, Reason, Store};
use gatepost::suppression::{Confirmer, Index};
use std::cell::Cell;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

/// How long a session may last after its peer has said all.
const PATIENCE: Duration = Duration::from_secs(8);

/// What Postfix 3.7 offers, and the events that need no reply.
const OFFER: [u32; 3] = [6, 0x1ff, 0x1f_ffff];
const NO_REPLIES: u32 = 0xf_f080;

/// The commands of the protocol, and one that is none.
const COMMANDS: &[u8] = b"CHMRTLNBEADQKUOx";

/// The most bytes of a value that is inserted: those of the tags, which are the longest.
const MAX_VALUE_BYTES: usize = 4_096;

const CORRELATION_HEADER: &str = "X-Correlation-ID";
const BOUNCE_SENDER: &str = "bounces@example.com";
const SUPPRESSED: &str = "gone@example.net";
const SENDERS: &[u8] = b"info@example.com OK\nhold@example.com HOLD for now\nnone@example.com DISCARD\n\
    warn@example.com WARN 100%\nno@example.com REJECT not %s\nlater@example.com 450 4.7.1 later\nexample.org OK\n";
const RECIPIENTS: &[u8] = b"example.net OK\nlater@example.com 450 later\n";

thread_local! {
    static STAGE: Stage = Stage::new();
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// The listeners, and the runtime that serves them.
struct Stage {
    runtime: Runtime,
    doors: Vec<Door>,
}

/// One listener of a gatepost of its own.
struct Door {
    address: SocketAddr,
    side: Side,
    set: Option<&'static str>,
    stats: Arc<Stats>,
    lines: Receiver<Line>,
}

/// Packets of the milter protocol, as a peer sends them: no panic, the session ends, what comes back are whole packets
/// that Postfix takes, no value breaks out of its header, and of each stamp a message gets one.
pub fn milter(data: &[u8]) {
    let [door, how, rest @ ..] = data else { return };
    let (raw, answered, pieces, bare) = (how & 1 > 0, how & 2 > 0, how & 4 > 0, how & 8 > 0);
    let mut bytes = Vec::new();
    if !bare {
        let [version, actions, events] = OFFER;
        let events = if answered { events & !NO_REPLIES } else { events };
        packet(b'O', &[version, actions, events].map(u32::to_be_bytes).concat(), &mut bytes);
    }
    if raw {
        bytes.extend_from_slice(rest);
    } else {
        frame(rest, &mut bytes);
    }
    STAGE.with(|stage| {
        let door = &stage.doors[usize::from(*door) % stage.doors.len()];
        let said = stage.runtime.block_on(door.talk(&bytes, if pieces { 7 } else { bytes.len() }));
        assert!(!PANICKED.take(), "the session panicked");
        door.check(&said);
    });
}

/// Frames the packets of an input.
fn frame(mut rest: &[u8], bytes: &mut Vec<u8>) {
    while let [command, length, more @ ..] = rest {
        let (length, more) = match (length, more) {
            (240.., [low, more @ ..]) => (usize::from(length & 15) << 8 | usize::from(*low), more),
            _ => (usize::from(*length), more),
        };
        let (payload, more) = more.split_at(length.min(more.len()));
        let (known, whole) = (COMMANDS.contains(&(command & 127)), command & 128 > 0);
        let command = if known { command & 127 } else { COMMANDS[usize::from(*command) % COMMANDS.len()] };
        let ended = if whole || b"NEADQK".contains(&command) { payload.to_vec() } else { [payload, b"\0"].concat() };
        packet(command, &ended, bytes);
        rest = more;
    }
}

fn packet(command: u8, payload: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&u32::try_from(payload.len() + 1).expect("some kilobytes").to_be_bytes());
    bytes.push(command);
    bytes.extend_from_slice(payload);
}

impl Stage {
    fn new() -> Self {
        watch_for_panics();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let entered = runtime.enter();
        let doors = vec![
            Door::open(Side::Smtpd, "[suppression]\naction = \"drop\"\n", Some("relay-events")),
            Door::open(Side::Smtpd, "", None),
            Door::open(Side::Local, "[local]\nunlisted = \"hold\"\n", None),
            Door::open(Side::Local, "[local]\nunlisted = \"bounce\"\n", Some("relay-events")),
            Door::open(Side::Local, "[local]\nunlisted = \"discard\"\n[recipients]\nmode = \"observe\"\n", None),
        ];
        drop(entered);
        Self { runtime, doors }
    }
}

/// tokio catches what a task panics with; here it counts. (A fuzzer's own hook ends the process before.)
fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // Tasks run on the thread that drives their runtime.
            PANICKED.set(true);
            before(info);
        }));
    });
}

impl Door {
    fn open(side: Side, policy: &str, set: Option<&'static str>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("gatepost-fuzz-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let address = SocketAddr::from_abstract_name(&name).expect("a name for the socket");
        let listener = UnixListener::bind_addr(&address).expect("a socket");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let listener = Listener::Unix(listener.try_into().expect("a socket for the runtime"));

        let (house, lines) = house(policy, &name);
        let setup = Setup {
            stamps: Settings {
                correlation_header: CORRELATION_HEADER.to_owned(),
                configuration_set: set.map(str::to_owned),
            },
            trusted: vec!["10.0.0.0/8".parse().expect("a network")],
            bounce_sender: Some(Address::parse(BOUNCE_SENDER).expect("an address")),
        };
        let stats = Arc::new(Stats::default());
        let server = Server::new(Milter::new(house, setup, stats.clone()), Bounds { max_connections: 10 });
        tokio::spawn(server.serve(listener, side, name));
        Self { address, side, set, stats, lines }
    }

    /// Sends all and reads all, until the session is over.
    async fn talk(&self, bytes: &[u8], piece: usize) -> Vec<u8> {
        let stream = UnixStream::connect_addr(&self.address).expect("a connection");
        stream.set_nonblocking(true).expect("a connection that does not block");
        let (mut reader, mut writer) =
            tokio::net::UnixStream::from_std(stream).expect("a connection for the runtime").into_split();
        let mut said = Vec::new();
        let send = async {
            for piece in bytes.chunks(piece.max(1)) {
                // A session may end before it has read everything.
                if writer.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _ = writer.shutdown().await;
        };
        let listen = async {
            let _ = reader.read_to_end(&mut said).await;
            while self.stats.sessions.load(Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        };
        let over = tokio::time::timeout(PATIENCE, async { tokio::join!(send, listen) }).await;
        assert!(over.is_ok(), "the session does not end");
        said
    }

    fn check(&self, said: &[u8]) {
        let mut stamped = 0;
        let mut changes = Vec::new();
        for (command, payload) in packets(said) {
            if b"im-eq".contains(&command) {
                self.check_change(command, payload);
                changes.push((command, payload));
                continue;
            }
            check_answer(command, payload, changes.is_empty());
            if !changes.is_empty() && command == b'c' {
                self.check_stamps(&changes);
                stamped += 1;
            }
            changes.clear();
        }
        assert!(changes.is_empty(), "a message without an answer");
        assert_eq!(self.stats.stamped.swap(0, Relaxed), stamped);
        self.check_lines(stamped);
    }

    fn check_change(&self, command: u8, payload: &[u8]) {
        let text = |rest| printable(cut(rest, 1)[0]);
        match command {
            b'i' => {
                let (index, [name, value]) = header(payload);
                assert_eq!(index, 1);
                assert!([CORRELATION_HEADER, TAGS_HEADER, SET_HEADER].map(str::as_bytes).contains(&name));
                assert!((1..=MAX_VALUE_BYTES).contains(&value.len()));
                // Folded lines go on with a tab, and no line is longer than SMTP has it.
                assert!(value.split(|b| *b == b'\n').all(|line| line.len() + name.len() < 900));
                let lines = String::from_utf8(value.to_vec()).expect("a value of ASCII").replace("\n\t", " ");
                printable(lines.as_bytes());
            }
            b'm' => {
                let (index, [name, value]) = header(payload);
                assert!(index > 0 && !name.is_empty());
                let from = format!("Mail Delivery System <{BOUNCE_SENDER}>");
                assert!(value.is_empty() || (value == from.as_bytes() && self.side == Side::Local));
            }
            b'-' => assert!(!cut(payload, 1)[0].is_empty()),
            b'e' => assert_eq!(text(payload), format!("<{BOUNCE_SENDER}>")),
            _ => assert!(!text(payload).is_empty()),
        }
        assert!(self.side == Side::Local || b"im-".contains(&command));
    }

    /// Of each stamp one, and the ids agree.
    fn check_stamps(&self, changes: &[(u8, &[u8])]) {
        let inserted = |wanted: &str| {
            let headers = changes.iter().filter(|(command, _)| *command == b'i').map(|(_, payload)| header(payload).1);
            let values: Vec<_> = headers.filter(|[name, _]| *name == wanted.as_bytes()).map(|[_, v]| v).collect();
            assert!(values.len() <= 1, "{} times {wanted}", values.len());
            values.first().map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let id = inserted(CORRELATION_HEADER).expect("a correlation id");
        let tags = inserted(TAGS_HEADER).expect("tags");
        let own = format!("correlation_id={id}");
        let mut words = tags.split(',').map(str::trim_ascii);
        assert!(words.by_ref().take(2).any(|word| word == own), "{own} in {tags}");
        assert!(!words.any(|word| word.starts_with("queue_id=") || word.starts_with("correlation_id=")), "{tags}");
        assert!(inserted(SET_HEADER).is_some() || self.set.is_none());
        let changed = changes.iter().filter(|(command, _)| *command == b'e').count();
        assert!(changed <= 1, "{changed} senders");
    }

    /// Every line is one, and every message that was stamped has one.
    fn check_lines(&self, stamped: u64) {
        let mut messages = 0;
        for line in self.lines.try_iter() {
            assert!(line.text.len() <= MAX_LINE_BYTES && !line.text.chars().any(char::is_control), "{line:?}");
            messages += u64::from(line.text.contains(": correlation_id="));
        }
        assert_eq!(messages, stamped);
    }
}

/// What ends a message, or answers an event.
fn check_answer(command: u8, payload: &[u8], unchanged: bool) {
    match command {
        b'O' => {
            assert!(payload.len() >= 12 && unchanged);
            let bits = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            assert!(bits(0) <= OFFER[0] && bits(4) & !OFFER[1] == 0 && bits(8) & !OFFER[2] == 0);
        }
        b'y' => {
            let text = printable(cut(payload, 1)[0]);
            let codes: Vec<_> = text.splitn(3, ' ').collect();
            assert!(codes.len() == 3 && codes[0].len() == 3 && codes[1].starts_with(&text[..1]), "{text}");
            // One alone begins a macro, or ends the message.
            assert!(!text.replace("%%", "").contains('%'), "{text}");
            assert!(unchanged, "changes of a message that is refused");
        }
        b'c' | b't' => assert!(payload.is_empty()),
        b'r' | b'd' => assert!(payload.is_empty() && unchanged),
        _ => panic!("an answer {:?}", char::from(command)),
    }
}

/// All packets, the last one whole too.
fn packets(mut said: &[u8]) -> Vec<(u8, &[u8])> {
    let mut packets = Vec::new();
    while !said.is_empty() {
        let (length, rest) = said.split_first_chunk::<4>().expect("a length");
        let (packet, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        let (command, payload) = packet.split_first().expect("a command");
        packets.push((*command, payload));
        said = rest;
    }
    packets
}

/// Number, name and value of a header.
fn header(payload: &[u8]) -> (u32, [&[u8]; 2]) {
    let (index, rest) = payload.split_first_chunk::<4>().expect("a number");
    let words = cut(rest, 2);
    (u32::from_be_bytes(*index), [words[0], words[1]])
}

/// So many words, each ended by NUL, and nothing behind.
fn cut(payload: &[u8], count: usize) -> Vec<&[u8]> {
    let words: Vec<_> = payload.split(|b| *b == 0).collect();
    assert!(words.len() == count + 1 && words[count].is_empty(), "{payload:?}");
    words
}

fn printable(text: &[u8]) -> String {
    let text = String::from_utf8(text.to_vec()).expect("text");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    text
}

/// What the sessions share: one suppressed address, a list of each kind, limits that are reached and some that are not.
fn house(policy: &str, name: &str) -> (Arc<House>, Receiver<Line>) {
    let limits = "[[limit]]\nname = \"few\"\nkey = \"sender\"\nrate = \"2/h\"\n\
        [limit.override]\n\"info@example.com\" = \"unlimited\"\n\
        [[limit]]\nname = \"all\"\nkey = \"all\"\nrate = \"1000000/s\"\n";
    let files = Files {
        allowed_senders: Some(SENDERS.to_vec()),
        allowed_recipients: Some(RECIPIENTS.to_vec()),
        policy_toml: Some(format!("{policy}{limits}").into_bytes()),
    };
    let (mut rules, _) = files.parse(Path::new("policy")).expect("rules");
    rules.rewriting = Rewriting { myorigin: "example.com".to_owned(), ..rules.rewriting };
    let meters = Meters::new(1_000);
    meters.adopt(&rules.limits);
    let index = Index::default();
    index.add(SUPPRESSED.as_bytes(), None, 0);
    let (outlet, lines) = Outlet::new();
    (Arc::new(House::new(Arc::new(rules), Arc::new(index), confirmer(name), Arc::new(meters), outlet)), lines)
}

/// One that remembers the entry of the suppressed address, and whose database is gone.
fn confirmer(name: &str) -> Arc<Confirmer> {
    let path = std::env::temp_dir().join(name);
    let entry = Entry {
        address: Address::parse(SUPPRESSED).expect("an address"),
        spelling: None,
        reason: Reason::Manual,
        evidence: String::new(),
        source: Origin::Cli,
        created: 0,
        expires: None,
    };
    let mut store = Store::open(&path).expect("a database");
    store.put(&[entry], OnExisting::KeepLonger, 0).expect("an entry");
    let confirmer = Confirmer::new(&path);
    let read = confirmer.read(SUPPRESSED.as_bytes(), 0).expect("the database");
    assert!(read.is_some());
    drop(store);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
    Arc::new(confirmer)
}
