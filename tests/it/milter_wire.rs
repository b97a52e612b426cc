//! The milter's protocol by hand: what a peer that is not Postfix, or not well, may do.

use crate::gatepost::{Daemon, Home, OPEN};
use crate::wait;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What Postfix 3.7 offers.
const ACTIONS: u32 = 0x1ff;
const EVENTS: u32 = 0x1f_ffff;

/// The bits of SMFIP_NR_*: events that need no reply.
const NO_REPLIES: u32 = 0xf_f080;

/// One connection.
struct Peer(UnixStream);

impl Peer {
    fn connect(home: &Home) -> Self {
        let stream = UnixStream::connect(home.path("milter.sock")).unwrap();
        stream.set_read_timeout(Some(wait::LONG)).unwrap();
        Self(stream)
    }

    fn send(&mut self, command: u8, data: &[u8]) {
        let mut packet = u32::try_from(data.len() + 1).unwrap().to_be_bytes().to_vec();
        packet.push(command);
        packet.extend(data);
        self.0.write_all(&packet).unwrap();
    }

    /// The next reply; `None` where the connection has ended.
    fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut packet).ok()?;
        Some((packet[0], packet[1..].to_vec()))
    }

    /// Negotiates; the events bits of the answer.
    fn negotiate(&mut self, events: u32) -> u32 {
        self.send(b'O', &[6u32, ACTIONS, events].map(u32::to_be_bytes).concat());
        let (command, data) = self.read().expect("an answer");
        assert_eq!(command, b'O');
        u32::from_be_bytes(data[8..12].try_into().unwrap())
    }

    /// An event; where all are answered, the answer is to go on.
    fn event(&mut self, command: u8, data: &[u8], answered: bool) {
        self.send(command, data);
        if answered {
            assert_eq!(self.read(), Some((b'c', Vec::new())), "{}", command as char);
        }
    }

    fn begin(&mut self, answered: bool) {
        self.event(b'C', b"client.example.net\x004\x01\xbb10.0.0.1\x00", answered);
    }

    fn headers(&mut self, headers: &[&[u8]], answered: bool) {
        self.event(b'M', b"<info@example.com>\0", answered);
        self.event(b'R', b"<user@example.net>\0", answered);
        for header in headers {
            self.event(b'L', header, answered);
        }
    }

    /// The end of a message: all replies up to the one that ends it.
    fn end(&mut self, queue_id: &str) -> Vec<(u8, Vec<u8>)> {
        self.send(b'D', format!("Ei\0{queue_id}\0").as_bytes());
        self.send(b'E', b"");
        let mut replies = Vec::new();
        loop {
            let reply = self.read().expect("a reply");
            let last = !b"imhb+-eq".contains(&reply.0);
            replies.push(reply);
            if last {
                return replies;
            }
        }
    }
}

fn gatepost(milter: &str) -> (Home, Daemon) {
    let home = Home::alone("", OPEN);
    let socket = home.path("milter.sock").display().to_string();
    home.configure(&format!("[milter]\nlisten = \"unix:{socket}\"\n{milter}\n"), "");
    let daemon = home.start();
    (home, daemon)
}

/// The value of an inserted header.
fn inserted(replies: &[(u8, Vec<u8>)], name: &str) -> String {
    let start = [&1u32.to_be_bytes()[..], name.as_bytes(), b"\0"].concat();
    let found = replies.iter().find(|(command, data)| *command == b'i' && data.starts_with(&start));
    let (_, data) = found.unwrap_or_else(|| panic!("no {name} in {replies:?}"));
    String::from_utf8(data[start.len()..data.len() - 1].to_vec()).unwrap()
}

fn deleted(replies: &[(u8, Vec<u8>)]) -> usize {
    replies.iter().filter(|(command, _)| *command == b'm').count()
}

#[test]
fn events_are_answered_only_where_the_peer_insists() {
    let (home, _daemon) = gatepost("");
    for (offered, answered) in [(EVENTS, false), (EVENTS & !NO_REPLIES, true)] {
        let mut peer = Peer::connect(&home);
        let agreed = peer.negotiate(offered);
        assert_eq!(agreed & !offered, 0, "{agreed:#x}");
        assert_eq!(agreed & NO_REPLIES != 0, !answered, "{agreed:#x}");
        peer.begin(answered);
        peer.headers(&[b"Subject\0x\0"], answered);
        let replies = peer.end("QID1");
        assert_eq!(replies.last().unwrap().0, b'c');
        assert!(inserted(&replies, "X-SES-MESSAGE-TAGS").starts_with("queue_id=QID1, correlation_id="));
    }
}

#[test]
fn each_message_of_a_session_is_its_own() {
    let (home, _daemon) = gatepost("");
    let mut peer = Peer::connect(&home);
    peer.negotiate(EVENTS);
    peer.begin(false);
    peer.headers(&[b"X-Correlation-ID\0a\0", b"x-ses-message-tags\0b=c\0"], false);
    let first = peer.end("QID1");
    assert_eq!(deleted(&first), 2);
    // Broken off, twice, as Postfix does it.
    peer.headers(&[b"X-Correlation-ID\0a\0"], false);
    peer.send(b'A', b"");
    peer.send(b'A', b"");
    peer.headers(&[], false);
    let second = peer.end("QID2");
    assert_eq!(deleted(&second), 0);
    assert_ne!(inserted(&first, "X-Correlation-ID"), inserted(&second, "X-Correlation-ID"));
    assert!(inserted(&second, "X-SES-MESSAGE-TAGS").contains("QID2"));
    home.log_line(&["QID2: correlation_id=", "client=10.0.0.1"]);
}

#[test]
fn a_queue_id_that_is_none_gets_nowhere() {
    let (home, _daemon) = gatepost("");
    let mut peer = Peer::connect(&home);
    peer.negotiate(EVENTS);
    peer.begin(false);
    peer.headers(&[], false);
    let replies = peer.end("x, y=z\r\nBcc: a@b");
    assert!(inserted(&replies, "X-SES-MESSAGE-TAGS").starts_with("correlation_id="));
    home.log_line(&["NOQUEUE: correlation_id="]);
}

#[test]
fn more_headers_than_can_be_taken_out_refuse_the_message() {
    let (home, _daemon) = gatepost("");
    let mut peer = Peer::connect(&home);
    peer.negotiate(EVENTS);
    peer.begin(false);
    let many: Vec<Vec<u8>> = (0..300).map(|n| format!("X-SES-{n}\0x\0").into_bytes()).collect();
    peer.headers(&many.iter().map(Vec::as_slice).collect::<Vec<_>>(), false);
    let replies = peer.end("QID1");
    assert_eq!(replies.len(), 1);
    assert_eq!((replies[0].0, &replies[0].1[..10]), (b'y', &b"554 5.7.1 "[..]));
}

#[test]
fn a_peer_that_talks_nonsense_ends_only_itself() {
    let (home, mut daemon) = gatepost("");
    let mut well = Peer::connect(&home);
    well.negotiate(EVENTS);
    well.begin(false);
    let nonsense: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\0",
        b"\0\0\0\x01Z",
        b"\xff\xff\xff\xffO",
        b"\0\0\0\x03O\0\0",
        b"\0\0\0\x0dO\0\0\0\x01\0\0\0\0\0\0\0\0",
    ];
    for bytes in nonsense {
        let mut peer = Peer::connect(&home);
        peer.0.write_all(bytes).unwrap();
        peer.0.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(peer.read(), None, "{bytes:?}");
    }
    well.headers(&[], false);
    assert_eq!(well.end("QID1").last().unwrap().0, b'c');
    wait::true_within("the others to be gone", wait::LONG, || home.metric("gatepost_milter_sessions") as u64 == 1);
    assert_eq!(home.health().1["milter_sessions"], 1);
    assert!(daemon.ended().is_none());
}

#[test]
fn one_too_many_is_closed_at_once_and_the_others_are_served() {
    let (home, _daemon) = gatepost("max_connections = 10");
    let mut peers: Vec<Peer> = (0..10).map(|_| Peer::connect(&home)).collect();
    for peer in &mut peers {
        peer.negotiate(EVENTS);
    }
    let mut late = Peer::connect(&home);
    late.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(late.read(), None);
    assert_eq!(home.metric("gatepost_milter_sessions_turned_away_total") as u64, 1);
    drop(peers.pop());
    wait::true_within("a place to be free", wait::LONG, || home.metric("gatepost_milter_sessions") as u64 == 9);
    Peer::connect(&home).negotiate(EVENTS);
}

#[test]
fn too_few_descriptors_pass_by() {
    let (home, daemon) = gatepost("");
    drop(daemon);
    let _daemon = home.start_by("prlimit", &["--nofile=64:64"]);
    let peers: Vec<Peer> = (0..80).map(|_| Peer::connect(&home)).collect();
    std::thread::sleep(Duration::from_millis(100));
    drop(peers);
    Peer::connect(&home).negotiate(EVENTS);
    wait::true_within("the others to be gone", wait::LONG, || home.metric("gatepost_milter_sessions") as u64 <= 1);
    assert!(home.metric("gatepost_milter_accept_errors_total") > 0.0);
}
