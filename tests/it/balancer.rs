//! A network load balancer that sends the clients' addresses ahead (PROXY protocol, version 2): Postfix and gatepost see
//! the clients behind it, and its health checks are no clients.

use crate::gatepost::Home;
use crate::postfix::{Options, Postfix};
use crate::smtp::Session;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

/// The beginning of a header, its command and its family (haproxy's proxy-protocol.txt, section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: [u8; 4] = [0x20, 0, 0, 0];
const PROXY_TCP4: [u8; 4] = [0x21, 0x11, 0, 12];

/// What comes ahead of a client's session.
fn header(client: Ipv4Addr) -> Vec<u8> {
    let (balancer, ports) = (Ipv4Addr::new(10, 1, 0, 5), [0x9c, 0x40, 0, 25]);
    [&SIGNATURE[..], &PROXY_TCP4, &client.octets(), &balancer.octets(), &ports].concat()
}

#[test]
fn each_client_behind_a_load_balancer_has_its_own_limit() {
    let set = ["smtpd_upstream_proxy_protocol = haproxy", "mynetworks = 127.0.0.0/8 10.0.0.0/16"].map(str::to_owned);
    let postfix = Postfix::start(&Options { set: set.into(), ..Options::default() });
    let limit = "[[limit]]\nname = \"per-client\"\nkey = \"client_address\"\nrate = \"1/h\"\n";
    let home = Home::beside(&postfix, "info@example.com OK clients=10.0.0.0/24\n", limit);
    let _daemon = home.start();
    let mail = |client: Ipv4Addr| {
        let mut session = Session::open_behind(postfix.port(), &header(client));
        session.mail("info@example.com", &["user@example.net"], "hello").code
    };
    let (one, other, foreign) = (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 0, 0, 8), Ipv4Addr::new(10, 0, 1, 7));
    assert_eq!((mail(one), mail(other), mail(one)), (250, 250, 450));
    let mut session = Session::open_behind(postfix.port(), &header(foreign));
    session.ask("info@example.com", "user@example.net").expect(554, &[]);
    home.log_line(&["decision=reject, check=senders", "client=10.0.1.7"]);

    // A health check has no client; its address in the log is the balancer's own.
    let mut check = TcpStream::connect((Ipv4Addr::LOCALHOST, postfix.port())).unwrap();
    check.write_all(&[&SIGNATURE[..], &LOCAL].concat()).unwrap();
    let mut greeting = [0; 4];
    check.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ");
    drop(check);
    postfix.log_line(&["lost connection after CONNECT from ", "[127.0.0.1]"]);
}
