//! The status page: whom it answers, what it shows over which socket, and how it is in a real browser.

use crate::asker::{DUNNO, Question, exchange, http, http_tcp};
use crate::aws::add_section;
use crate::browser::{Browser, STEP};
use crate::gatepost::{BINARY, Daemon, Home};
use crate::sockets::free;
use crate::valkey::{FORGETFUL, Valkey};
use crate::wait;
use serde_json::{Value, json};
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

const POLICY: &str = "[[limit]]\nname = \"per-client\"\nkey = \"client_address\"\nrate = \"2/h\"\n";

/// An address that would be a picture with a script, were it taken for markup.
const HOSTILE: &str = "<img src=x onerror=window.broken=1>@evil.example";

/// A daemon with refusals by two rules, an observed one less, and its TCP address.
fn standing() -> (Home, Daemon, String) {
    let home = Home::alone("info@example.com OK\n", POLICY);
    let tcp = free("127.0.0.1");
    home.configure("", &format!(", \"inet:{tcp}\""));
    let daemon = home.start();
    assert_eq!(home.ask_sender("info@example.com"), DUNNO);
    for n in 0..4 {
        home.ask(&Question::data(&n.to_string()));
    }
    assert!(home.ask_sender(HOSTILE).starts_with("554"));
    (home, daemon, tcp)
}

fn status(home: &Home) -> Value {
    http(&home.path("admin.sock"), "GET", "/status.json").json()
}

/// The status once it tells of so many refusals: lines are written, and noted, a moment after the answer.
fn status_with(home: &Home, refusals: usize) -> Value {
    wait::until("refusals in status.json", wait::LONG, || {
        Some(status(home)).filter(|status| status["refusals"].as_array().unwrap().len() == refusals)
    })
}

#[test]
fn the_data_hold_what_was_decided_and_over_tcp_no_address() {
    let (home, _daemon, tcp) = standing();
    home.run(&["suppress", "add", "gone@example.net", "--note", "user unknown"]);
    wait::until("the entry in the index", wait::LONG, || {
        (home.metric("gatepost_suppressed_entries") == 1.0).then_some(())
    });
    // A store that takes longer than 50 ms to confirm lets mail pass, as on a loaded machine.
    let mut passed = 0;
    wait::until("the refusal", wait::LONG, || {
        let refused = home.ask(&Question::rcpt("info@example.com", "gone@example.net")).starts_with("550");
        passed += u32::from(!refused);
        refused.then_some(())
    });
    let whole = status_with(&home, 4);
    assert_eq!(whole["fleet"], Value::Null);
    assert_eq!((&whole["addresses"], &whole["status"]), (&json!(true), &json!("ok")));
    let (accepted, refused) = (&whole["totals"]["accepted"], &whole["totals"]["refused"]);
    assert_eq!((accepted, refused, &whole["day"]["totals"]["refused"]), (&json!(3 + passed), &json!(4), &json!(4)));
    assert_eq!(whole["refusals"][0]["to"], "gone@example.net");
    assert_eq!(whole["refusals"][0]["code"], "550 5.1.1");
    let by = |rule: &str, decision: &str| {
        let rows = whole["rules"]["rows"].as_array().unwrap();
        rows.iter().find(|row| row["rule"] == rule && row["decision"] == decision).map(|row| row["count"].clone())
    };
    assert_eq!(by("suppression-list", "reject"), Some(json!(1)));
    assert_eq!(by("allowed_senders:unlisted", "reject"), Some(json!(1)));
    assert_eq!(by("policy.toml:1:per-client", "reject"), Some(json!(2)));
    assert_eq!(
        (&whole["limits"]["rows"][0]["key"], &whole["limits"]["rows"][0]["available"]),
        (&json!("10.0.0.1"), &json!(0))
    );
    for (rates, steps) in [(&whole["hour"], 60), (&whole["day"]["rates"], 288)] {
        assert_eq!(rates["accepted"].as_array().unwrap().len(), steps);
    }
    let over_tcp = http_tcp(&tcp, "GET", "/status.json");
    for secret in ["@", "10.0.0.1", "user unknown"] {
        assert!(!over_tcp.body.contains(secret), "{secret}: {}", over_tcp.body);
    }
    assert_eq!(over_tcp.json()["refusals"].as_array().unwrap().len(), 4);
    // What is asked again and again is made once a second.
    assert!((0..50).map(|_| status(&home)["taken"].to_string()).collect::<std::collections::BTreeSet<_>>().len() <= 4);
}

/// A relay in the fleet of `store`, beside one that was heard of a minute ago.
fn in_fleet(store: &Valkey) -> (Home, Daemon, String) {
    let seen = jiff::Timestamp::now().as_millisecond() - 60_000;
    let silent = json!({"run": "r", "seen": seen, "version": "0.0.9"}).to_string();
    store.ask::<redis::Value>(&["HSET", "{gatepost}:members", "relay-silent", &silent]).unwrap();
    let home = Home::alone("info@example.com OK\n", POLICY);
    let tcp = free("127.0.0.1");
    home.configure("", &format!(", \"inet:{tcp}\""));
    let url = store.url().replace("127.", ":@127.");
    add_section(
        &home,
        &format!("[suppression]\nstore = \"{url}\"\n[limits]\nstore = \"{url}\"\n[fleet]\nname = \"relay-one\"\n"),
    );
    let daemon = home.start();
    (home, daemon, tcp)
}

#[test]
fn a_fleet_is_shown_with_how_old_it_is() {
    let mut store = Valkey::start(FORGETFUL);
    let (home, _daemon, tcp) = in_fleet(&store);
    let fleet = || status(&home)["fleet"].clone();
    let seen = wait::until("both relays", wait::LONG, || {
        Some(fleet()).filter(|fleet| fleet["members"]["rows"].as_array().is_some_and(|rows| rows.len() == 2))
    });
    let (name, members) = (&seen["name"], &seen["members"]);
    assert_eq!((name, &members["at_work"], &members["others"]), (&json!("relay-one"), &json!(1), &json!(0)));
    let silent = &members["rows"][0];
    assert_eq!(
        (&silent["name"], &silent["at_work"], &silent["version"]),
        (&json!("relay-silent"), &json!(false), &json!("0.0.9"))
    );
    assert!(silent["silent_seconds"].as_f64().unwrap() >= 60.0, "{silent}");
    assert_eq!(
        (&seen["limits"]["shared"], &seen["limits"]["relays"], &seen["list"]["connected"]),
        (&json!(true), &json!(1), &json!(true))
    );
    // No place over TCP, and no password anywhere.
    assert!(seen["limits"]["store"].as_str().unwrap().contains(":***@127.0.0.1"), "{seen}");
    assert_eq!(http_tcp(&tcp, "GET", "/status.json").json()["fleet"]["limits"]["store"], Value::Null);
    store.kill();
    let away = wait::until("the store to be away", wait::LONG, || {
        Some(fleet()).filter(|fleet| [&fleet["limits"]["shared"], &fleet["list"]["connected"]] == [&json!(false); 2])
    });
    assert!(away["limits"]["trouble"].is_string(), "{away}");
    assert_eq!(status(&home)["status"], "degraded");
    // As it was read last.
    assert_eq!(away["members"]["rows"].as_array().unwrap().len(), 2);
    assert_eq!(home.health().0, 200);

    let (browser, base) = (Browser::start(), forward(&home));
    browser.open(&base);
    browser.wait_until("the relays", "document.querySelectorAll('#fleet tbody tr').length === 2");
    let text = browser.run("return document.querySelector('main').innerText").as_str().unwrap().to_owned();
    for words in [
        "Fleet, the store of the list: ",
        "Fleet, the store of limits: ",
        "relay-silent",
        "silent",
        "away since",
        "by this relay, its share of 1",
        "the relays as they were at",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    for (scheme, width) in [("light", 1280), ("dark", 390)] {
        browser.screen(width, scheme);
        assert_eq!(browser.run(PALE)[1], json!([]), "{scheme}");
        assert_eq!(browser.run("return document.documentElement.scrollWidth"), json!(width), "{scheme}");
        browser.save(&pictures().join(format!("fleet-{scheme}-{width}.png")));
    }
}

#[test]
fn a_search_tells_all_about_an_address_over_the_unix_socket_alone() {
    let (home, _daemon, tcp) = standing();
    home.run(&["suppress", "add", "gone@example.net", "--note", "user <b>unknown</b>"]);
    let search = |q: &str| http(&home.path("admin.sock"), "GET", &format!("/search.json?q={q}"));
    let found = wait::until("the entry", wait::LONG, || {
        Some(search("%20Gone%40EXAMPLE.net").json()).filter(|found| !found["suppression"].is_null())
    });
    assert_eq!(found["suppression"]["evidence"], "user <b>unknown</b>");
    status_with(&home, 3);
    let found = search("10.0.0.1").json();
    let refusals = found["refusals"].as_array().unwrap();
    // The hostile one came from there too.
    assert_eq!((refusals.len(), &found["limits"][0]["used"], &found["suppression"]), (3, &json!(2), &Value::Null));
    assert_eq!(search("evil.example").json()["refusals"].as_array().unwrap().len(), 1);
    assert_eq!((search("").status, http(&home.path("admin.sock"), "GET", "/search.json").status), (400, 400));
    assert_eq!(http_tcp(&tcp, "GET", "/search.json?q=gone@example.net").status, 404);
}

#[test]
fn a_mail_log_that_takes_no_lines_is_a_problem_in_words() {
    let home = Home::alone("info@example.com OK\n", POLICY);
    home.configure("[event_log]\noutput = \"file:/dev/full\"\n", "");
    let _daemon = home.start();
    assert!(home.ask_sender("new@example.com").starts_with("554"));
    let status = wait::until("the problem", wait::LONG, || Some(status(&home)).filter(|s| s["status"] == "degraded"));
    let problem = status["problems"][0].as_str().unwrap();
    assert!(problem.starts_with("Mail log: ") && problem.contains("No space left"), "{problem}");
    let (code, health) = home.health();
    assert_eq!((code, health["event_log"].is_string()), (200, true));
    assert_eq!(home.metric("gatepost_log_blocked"), 1.0);
}

#[test]
fn wrong_requests_get_a_plain_text() {
    let (home, _daemon, tcp) = standing();
    let own = format!("Host: {tcp}\r\n");
    let evil = format!("Host: evil.example:{}\r\n", tcp.rsplit_once(':').unwrap().1);
    let foreign = format!("{own}Origin: http://evil.example\r\n");
    for (method, path, head, status) in [
        ("GET", "/", &own, 200),
        ("HEAD", "/", &own, 200),
        ("GET", "/nothing", &own, 404),
        ("GET", "/limits", &own, 404),
        ("GET", "/../etc/passwd", &own, 404),
        ("POST", "/", &own, 405),
        ("DELETE", "/status.json", &own, 405),
        ("GET", "/", &evil, 421),
        ("GET", "/status.json", &evil, 421),
        ("GET", "/status.json", &foreign, 403),
        // A scrape may call the relay by any name.
        ("GET", "/metrics", &evil, 200),
        ("GET", "/health", &evil, 200),
    ] {
        let answered = exchange(TcpStream::connect(&tcp).unwrap(), method, path, head);
        assert_eq!(answered.status, status, "{method} {path} {head}");
        for header in ["x-content-type-options: nosniff", "referrer-policy: no-referrer", "frame-ancestors 'none'"] {
            assert!(answered.head.contains(header), "{method} {path}: {}", answered.head);
        }
        if status >= 400 {
            assert!(answered.head.contains("content-type: text/plain") && answered.body.len() < 120, "{path}");
            assert!(answered.body.ends_with(".\n"), "{path}: {}", answered.body);
        }
    }
    // A page that a browser was led to by ssh's forward must not reset limits, nor read by a name that is not ours.
    let socket = || UnixStream::connect(home.path("admin.sock")).unwrap();
    let reset = "Host: localhost:8080\r\nOrigin: http://evil.example\r\n";
    assert_eq!(exchange(socket(), "POST", "/limits/reset", reset).status, 403);
    assert_eq!(exchange(socket(), "GET", "/limits", "Host: evil.example\r\n").status, 421);
    assert!(home.run(&["limits", "show"]).contains("2 of 2 used"));
}

/// What `ssh -L` does: a port of loopback that leads to the admin Unix socket. Its threads end with the test.
fn forward(home: &Home) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, socket) = (listener.local_addr().unwrap(), home.path("admin.sock"));
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // No daemon: the connection closes, as ssh's does.
            let Ok(admin) = UnixStream::connect(&socket) else { continue };
            let (mut from, mut to) = (client.try_clone().unwrap(), admin.try_clone().unwrap());
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            let (mut from, mut to) = (admin, client);
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    });
    format!("http://localhost:{}/", address.port())
}

/// Where the screenshots go.
fn pictures() -> PathBuf {
    let folder = Path::new(BINARY).ancestors().nth(2).expect("target/debug/gatepost").join("tmp");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The texts of the page that are harder to read than WCAG 2 AA allows (4.5 to 1), with their contrast.
const PALE: &str = r"
const rgb = (text) => { const n = text.match(/[\d.]+/g).map(Number); return n.length > 3 && n[3] === 0 ? null : n; };
const light = (c) => { const l = c.slice(0, 3).map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * l[0] + .7152 * l[1] + .0722 * l[2]; };
const ground = (node) => { for (; node; node = node.parentElement) { const c = rgb(getComputedStyle(node).backgroundColor); if (c) return c; } return [255, 255, 255]; };
const pale = []; let seen = 0;
for (const node of document.body.querySelectorAll('*')) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!own || !node.checkVisibility() || node.closest('script')) continue;
  seen += 1;
  const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
  const contrast = (a + .05) / (b + .05);
  if (contrast < 4.5) pale.push(node.tagName + ' ' + node.textContent + ' ' + contrast.toFixed(2));
}
return [seen, pale];";

#[test]
fn the_page_in_a_browser() {
    let (home, daemon, _) = standing();
    status_with(&home, 3);
    let (browser, base) = (Browser::start(), forward(&home));
    browser.open(&base);
    browser.wait_until("the refusals", "document.querySelectorAll('#refusals tbody tr').length === 3");
    let text = |selector: &str| browser.run(&format!("return document.querySelector('{selector}').innerText"));
    let refusals = text("#refusals").as_str().unwrap().to_owned();
    for words in
        ["<\"<img src=x onerror=window.broken=1>\"@evil.example>", "554 5.7.1", "allowed_senders:unlisted", "10.0.0.1"]
    {
        assert!(refusals.contains(words), "{words}: {refusals}");
    }
    browser.wait_until("the state", "document.querySelector('#state').innerText === 'In order'");
    assert!(text("#limits").as_str().unwrap().contains("10.0.0.1"));
    // What comes next is shown without a reload.
    assert!(home.ask_sender("later@example.org").starts_with("554"));
    browser.wait_until(
        "the next refusal",
        "document.querySelector('#refusals tbody tr').innerText.includes('later@example.org')",
    );
    // A minute is long for a test, so the curve is drawn from given ones: with a gap, a lone one, and none at all.
    for (minutes, curves) in [("[1, 2, null, 3]", 2), ("[null, 0]", 1), ("[null, null]", 0)] {
        let rates = format!("{{from: '2026-11-20T10:00:00Z', step_seconds: 60, accepted: {minutes}}}");
        let path =
            browser.run(&format!("return chart('x', {rates}, 'accepted').querySelector('.curve').getAttribute('d')"));
        let path = path.as_str().unwrap();
        assert_eq!((path.matches('M').count(), path.contains("NaN")), (curves, false), "{minutes}: {path}");
    }
    // A search, by keyboard.
    browser.run("document.querySelector('#q').value = 'evil.example'; document.querySelector('form').requestSubmit()");
    browser.wait_until("what was found", "document.querySelectorAll('#found tbody tr').length === 1");
    assert_eq!(browser.run("return [window.broken ?? null, document.images.length]"), json!([null, 0]));

    for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)] {
        browser.screen(width, scheme);
        let pale = browser.run(PALE);
        assert!(pale[0].as_u64().unwrap() > 60 && pale[1] == json!([]), "{scheme} {width}: {pale}");
        let wide = browser.run("return document.documentElement.scrollWidth");
        assert_eq!(wide, json!(width), "{scheme}: wider than the screen");
        accessible(&browser);
        browser.save(&pictures().join(format!("page-{scheme}-{width}.png")));
    }
    assert_eq!(browser.run("return getComputedStyle(document.body).backgroundColor"), "rgb(14, 19, 23)");

    // Gone: the page says so, and since when. Back: it goes on.
    drop(daemon);
    browser.wait_until("the page to notice", "document.body.dataset.state === 'stale'");
    let said = text("#silent").as_str().unwrap().to_owned();
    assert!(said.contains("has not answered this page since") && said.contains("was taken at"), "{said}");
    assert_eq!(text("#state"), "No answer");
    let _daemon = home.start();
    browser.wait_until(
        "the page to go on",
        "document.body.dataset.state === 'ok' && document.querySelector('#silent').hidden",
    );

    let asked = browser.requests();
    assert!(asked.len() >= 4, "{asked:?}");
    let foreign: Vec<_> = asked.iter().filter(|url| !url.starts_with(&base) && !url.starts_with("data:")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let complaints: Vec<_> = browser.complaints().into_iter().filter(|c| !c.contains("status.json")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn the_page_over_tcp_shows_no_addresses() {
    let (home, _daemon, tcp) = standing();
    status_with(&home, 3);
    home.append_policy("allowed_senders", "secret@example.com");
    let browser = Browser::start();
    browser.open(&format!("http://{tcp}/"));
    browser.wait_until("the refusals", "document.querySelectorAll('#refusals tbody tr').length === 3");
    // A poll that a loaded machine does not answer in time is shown as such, until the next one.
    let text = wait::until("the problem", STEP, || {
        let text = browser.run("return document.body.innerText").as_str().unwrap().to_owned();
        ["allowed_senders:2:", "1 problem", "allowed_senders:unlisted"].iter().all(|s| text.contains(s)).then_some(text)
    });
    assert!(!text.contains('@') && !text.contains("10.0.0.1"), "{text}");
    assert_eq!(browser.run("return document.querySelector('#search').checkVisibility()"), json!(false));
}

/// What a screen reader is told: everything that can be met has a name, and the page has its landmarks and headings.
fn accessible(browser: &Browser) {
    let tree = browser.devtools("Accessibility.getFullAXTree", &json!({}));
    let nodes = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] == json!(false));
    let nodes: Vec<(String, String)> = nodes
        .map(|node| {
            ["role", "name"].map(|part| node[part]["value"].as_str().unwrap_or_default().trim().to_owned()).into()
        })
        .collect();
    let named =
        |role: &str| -> Vec<&str> { nodes.iter().filter(|(r, _)| r == role).map(|(_, name)| &**name).collect() };
    for role in ["banner", "main", "contentinfo", "search"] {
        assert_eq!(named(role).len(), 1, "{role}: {nodes:?}");
    }
    assert_eq!(named("heading").iter().filter(|name| name.starts_with("gatepost on ")).count(), 1);
    for heading in ["Rates", "Accepted", "Decisions by rule", "Nearest to their limits", "Latest refusals", "Search"] {
        assert!(named("heading").contains(&heading), "{heading}: {:?}", named("heading"));
    }
    for role in ["region", "table", "image", "img", "searchbox", "button", "link", "progressbar", "progressindicator"] {
        assert!(named(role).iter().all(|name| !name.is_empty()), "a {role} without a name: {:?}", named(role));
    }
    // Rules, limits, refusals, and what the search found of the last two.
    assert!(named("table").len() >= 4 && named("columnheader").len() >= 15, "{:?}", named("table"));
    assert!(named("img").len() + named("image").len() >= 5 && named("searchbox") == ["Address, client or text"]);
}
