//! The milter's protocol by hand: what a peer that is not Postfix, or not well, may do.

use crate::gatepost::{Daemon, Home, OPEN};
use crate::wait;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// What Postfix 3.7 offers.
const ACTIONS: u32 = 0x1ff;
const EVENTS: u32 = 0x1f_ffff;

/// The bits of SMFIP_NR_*: events that need no reply.
const NO_REPLIES: u32 = 0xf_f080;

/// Where a client comes from.
const FROM: &[u8] = b"client.example.net\x004\x01\xbb10.0.0.1\x00";

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

    /// A connection that has come to its first message.
    fn begun(home: &Home) -> Self {
        let mut peer = Self::connect(home);
        peer.negotiate(EVENTS);
        peer.begin(false);
        peer
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
        self.event(b'C', FROM, answered);
    }

    /// A message of one recipient.
    fn message(&mut self, headers: &[&[u8]], queue_id: &str) -> Vec<(u8, Vec<u8>)> {
        self.headers(headers, false);
        self.end(queue_id)
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

/// Bytes behind a negotiation.
fn with_offer(bytes: &[u8]) -> Vec<u8> {
    let offer = [6u32, ACTIONS, EVENTS].map(u32::to_be_bytes).concat();
    [b"\0\0\0\x0dO", &offer[..], bytes].concat()
}

fn deleted(replies: &[(u8, Vec<u8>)]) -> usize {
    deletions(replies).len()
}

/// The headers that go, in their order: number and name.
fn deletions(replies: &[(u8, Vec<u8>)]) -> Vec<(u32, String)> {
    let changes = replies.iter().filter(|(command, _)| *command == b'm');
    changes
        .map(|(_, data)| {
            let (nth, rest) = data.split_first_chunk().expect("a number");
            let name = rest.strip_suffix(b"\0\0").expect("a name and no value");
            (u32::from_be_bytes(*nth), String::from_utf8_lossy(name).into_owned())
        })
        .collect()
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
    let replies = Peer::begun(&home).message(&[], "x, y=z\r\nBcc: a@b");
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
    let nonsense: [&[u8]; 16] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\0",
        b"\0\0\0\x01Z",
        b"\xff\xff\xff\xffO",
        b"\0\0\0\x03O\0\0",
        b"\0\0\0\x0dO\0\0\0\x01\0\0\0\0\0\0\0\0",
        // A header before anything was agreed on; and behind it, payloads that are none.
        b"\0\0\0\x05Ln\0v\0",
        &with_offer(b"\0\0\0\x02C\0"),
        &with_offer(b"\0\0\0\x04Ch\x004"),
        &with_offer(b"\0\0\0\x0aCh\x004\0\0nil\0"),
        &with_offer(b"\0\0\0\x08Ch\x009\0\0x\0"),
        &with_offer(b"\0\0\0\x01M"),
        &with_offer(b"\0\0\0\x03M<>"),
        &with_offer(b"\0\0\0\x03M\0\0\0\0\0\x04R\0\0\0\0\0\0\x03L\0\0"),
        &with_offer(b"\0\0\0\x03Mx\0\0\0\0\x03Rx\0\0\0\0\x03Lx\0"),
        &with_offer(b"\0\0\0\x03Mx\0\0\0\0\x03Rx\0\0\0\0\x01D\0\0\0\x02D\xff\0\0\0\x05DEi\0x\0\0\0\x02LZ"),
    ];
    for bytes in nonsense {
        let mut peer = Peer::connect(&home);
        peer.0.write_all(bytes).unwrap();
        peer.0.shutdown(std::net::Shutdown::Write).unwrap();
        let said: Vec<u8> = std::iter::from_fn(|| Some(peer.read()?.0)).collect();
        assert!(said.is_empty() || said == b"O", "{bytes:?}: {said:?}");
    }
    well.headers(&[], false);
    assert_eq!(well.end("QID1").last().unwrap().0, b'c');
    wait::true_within("the others to be gone", wait::LONG, || home.metric("gatepost_milter_sessions") as u64 == 1);
    assert_eq!(home.health().1["milter_sessions"], 1);
    assert!(daemon.ended().is_none());
}

/// Postfix counts anew after each deletion.
#[test]
fn headers_go_from_the_last_to_the_first() {
    let (home, _daemon) = gatepost("");
    let forged: [&[u8]; 5] = [
        b"X-Correlation-ID\0a\0",
        b"x-correlation-id \0b\0",
        b"X-SES-MESSAGE-TAGS\0c=d\0",
        b"Subject\0x\0",
        b"X-CORRELATION-ID\t\0 folded\n\tvalue\0",
    ];
    let replies = Peer::begun(&home).message(&forged, "QID1");
    let expected =
        [(3, "X-CORRELATION-ID"), (1, "X-SES-MESSAGE-TAGS"), (2, "x-correlation-id"), (1, "X-Correlation-ID")];
    assert_eq!(deletions(&replies), expected.map(|(nth, name)| (nth, name.to_owned())));
    let kinds: String = replies.iter().map(|(command, _)| char::from(*command)).collect();
    assert_eq!(kinds, "mmmmiic", "what comes is put in when all has gone");
}

#[test]
fn values_may_be_as_long_as_a_packet() {
    let (home, mut daemon) = gatepost("");
    let long = |name: &str, bytes: usize| [name.as_bytes(), b"\0a=b,", &vec![b'x'; bytes], b"\0"].concat();
    let mut peer = Peer::begun(&home);
    let near = 1024 * 1024 - 100;
    for name in ["X-Correlation-ID", "X-SES-MESSAGE-TAGS", "Message-ID", "Subject"] {
        let replies = peer.message(&[&long(name, near)], "QID1");
        assert_eq!((replies.last().unwrap().0, deleted(&replies)), (b'c', usize::from(name.starts_with('X'))));
        assert!(inserted(&replies, "X-SES-MESSAGE-TAGS").len() < 4_096);
    }
    // A name of that length, and a packet beyond it.
    peer.message(&[&[&vec![b'n'; near], &b"\0x\0"[..]].concat()], "QID2");
    peer.headers(&[], false);
    let mut packet = u32::try_from(2 * near).unwrap().to_be_bytes().to_vec();
    packet.extend(long("LSubject", near));
    // It is not read to its end.
    let _ = peer.0.write_all(&packet);
    assert_eq!(peer.read(), None);
    assert_eq!(Peer::begun(&home).message(&[], "QID3").last().unwrap().0, b'c');
    assert!(daemon.ended().is_none());
}

#[test]
fn a_message_without_recipients_and_one_without_a_sender_are_stamped() {
    let (home, _daemon) = gatepost("");
    let mut peer = Peer::begun(&home);
    // An end without RCPT is no end: nothing is said, and the next message is as any other.
    peer.event(b'M', b"<info@example.com>\0", false);
    peer.send(b'E', b"");
    assert_eq!(peer.message(&[], "QID1").last().unwrap().0, b'c');
    home.log_line(&["QID1: correlation_id=", "nrcpt=1"]);
    // RCPT and MAIL without an address.
    peer.event(b'M', b"<>\0", false);
    peer.event(b'R', b"\0", false);
    let replies = peer.end("QID2");
    assert!(inserted(&replies, "X-SES-MESSAGE-TAGS").starts_with("queue_id=QID2"));
    home.log_line(&["QID2: correlation_id=", "from=<>"]);
}

/// Where a session may be used again for another client, nothing of the first is left.
#[test]
fn quit_and_new_connection() {
    let (home, _daemon) = gatepost("trusted_networks = [\"10.0.0.0/8\"]");
    let own: &[u8] = b"X-Correlation-ID\0order-1\0";
    let mut peer = Peer::begun(&home);
    assert_eq!(inserted(&peer.message(&[own], "QID1"), "X-Correlation-ID"), "order-1");
    peer.send(b'K', b"");
    peer.event(b'C', b"other.example.net\x004\x01\xbb192.0.2.1\x00", false);
    assert_ne!(inserted(&peer.message(&[own], "QID2"), "X-Correlation-ID"), "order-1");
    peer.send(b'K', b"");
    peer.event(b'C', b"other.example.net\0L\0\0/run/client.sock\0", false);
    assert_ne!(inserted(&peer.message(&[own], "QID3"), "X-Correlation-ID"), "order-1");
    home.log_line(&["QID3: correlation_id=", "client=unknown"]);
    peer.send(b'Q', b"");
    assert_eq!(peer.read(), None);
}

/// A whole session, cut behind each of its bytes.
#[test]
fn packets_that_are_cut_end_only_their_session() {
    let (home, mut daemon) = gatepost("");
    let mut well = Peer::begun(&home);
    let mut session = Vec::new();
    let offer = [6u32, ACTIONS, EVENTS].map(u32::to_be_bytes).concat();
    let message: [(u8, &[u8]); 7] = [
        (b'O', &offer),
        (b'C', FROM),
        (b'M', b"<info@example.com>\0"),
        (b'R', b"<user@example.net>\0"),
        (b'L', b"X-Correlation-ID\0forged\0"),
        (b'D', b"Ei\0CUT\0"),
        (b'E', b""),
    ];
    for (command, data) in message {
        session.extend(u32::try_from(data.len() + 1).unwrap().to_be_bytes());
        session.push(command);
        session.extend(data);
    }
    for at in 0..session.len() {
        let mut peer = Peer::connect(&home);
        peer.0.write_all(&session[..at]).unwrap();
        peer.0.shutdown(std::net::Shutdown::Write).unwrap();
        // What has come whole is answered.
        while peer.read().is_some() {}
    }
    assert_eq!(home.metric("gatepost_milter_messages_stamped_total") as u64, 0);
    assert_eq!(well.message(&[], "QID1").last().unwrap().0, b'c');
    wait::true_within("the others to be gone", wait::LONG, || home.metric("gatepost_milter_sessions") as u64 == 1);
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
    late.0.set_read_timeout(Some(wait::LONG)).unwrap();
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
    let daemon = home.start_by("prlimit", &["--nofile=64:64"]);
    let peers: Vec<Peer> = (0..80).map(|_| Peer::connect(&home)).collect();
    daemon.says(&["WARN", "Cannot accept a milter connection"]);
    drop(peers);
    Peer::connect(&home).negotiate(EVENTS);
    wait::true_within("the others to be gone", wait::LONG, || home.metric("gatepost_milter_sessions") as u64 <= 1);
    assert!(home.metric("gatepost_milter_accept_errors_total") > 0.0);
}
