//! The milter in trouble and at its end, beside a real Postfix with the lines as they are shipped: gone, killed, slow,
//! stuck, stopping.

use crate::asker::Question;
use crate::gatepost::{BINARY, Daemon, Home};
use crate::postfix::Postfix;
use crate::stamped::{COMPLETE, begin, end, gatepost, home, postfix, postfix_with, send, sendmail, stamps, unstamped};
use crate::wait;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

const TO: &[&str] = &["user@example.net"];

fn content(subject: &str) -> String {
    format!("Subject: {subject}\n{COMPLETE}\nBody\n")
}

#[test]
fn without_a_milter_mail_by_smtp_goes_on_and_local_mail_waits() {
    let postfix = postfix_with(&["gatepost_down = permit"]);
    let (home, mut daemon) = gatepost(&postfix, "", "");
    daemon.signal("TERM");
    let (_, took) = daemon.wait_for_end(wait::LONG);
    assert!(took < wait::promised(Duration::from_secs(1)), "{took:?} with no session open");
    send(&mut postfix.session(), TO, &content("unstamped"));
    unstamped(&postfix.sink.message("unstamped"), &content("unstamped"));
    sendmail(&postfix, "info@example.com", TO, &content("waits"));
    postfix.log_line(&["postfix/cleanup", "local.sock"]);
    let _daemon = home.start();
    // The next submission wakes pickup(8), which else looks each minute.
    sendmail(&postfix, "info@example.com", TO, &content("wakes"));
    for subject in ["waits", "wakes"] {
        stamps(&postfix.sink.message(subject)).stand_on(content(subject));
    }
}

#[test]
fn a_session_that_outlives_gatepost_goes_on_unstamped_and_a_new_one_is_stamped() {
    let postfix = postfix_with(&["gatepost_down = permit"]);
    let (home, mut daemon) = gatepost(&postfix, "", "");
    let mut kept = postfix.session();
    send(&mut kept, TO, &content("before"));
    // In the middle of a message.
    begin(&mut kept, "MAIL FROM:<info@example.com>", TO);
    daemon.signal("KILL");
    daemon.wait_for_end(wait::LONG);
    end(&mut kept, content("during").as_bytes()).expect(250, &[]);
    let _daemon = home.start();
    send(&mut kept, TO, &content("kept"));
    send(&mut kept, TO, &content("kept again"));
    send(&mut postfix.session(), TO, &content("new"));
    for subject in ["before", "new"] {
        stamps(&postfix.sink.message(subject)).stand_on(content(subject));
    }
    for subject in ["during", "kept", "kept again"] {
        unstamped(&postfix.sink.message(subject), &content(subject));
    }
}

#[test]
fn a_gatepost_that_is_slow_is_waited_for() {
    let postfix = postfix();
    let (_home, daemon) = gatepost(&postfix, "", "");
    let mut session = postfix.session();
    begin(&mut session, "MAIL FROM:<info@example.com>", TO);
    daemon.signal("STOP");
    let reply = std::thread::scope(|scope| {
        let reply = scope.spawn(|| end(&mut session, content("slow").as_bytes()));
        std::thread::sleep(Duration::from_secs(2));
        assert!(!reply.is_finished(), "it was not waited for");
        daemon.signal("CONT");
        reply.join().unwrap()
    });
    reply.expect(250, &[]);
    stamps(&postfix.sink.message("slow")).stand_on(content("slow"));
}

#[test]
fn a_gatepost_that_is_stuck_holds_mail_up_no_longer_than_the_timeouts() {
    let milter =
        "smtpd_milters = { unix:gatepost/milter.sock, command_timeout=1s, content_timeout=1s, default_action=accept }";
    let postfix = postfix_with(&["gatepost_down = permit", milter]);
    let (_home, daemon) = gatepost(&postfix, "", "");
    let mut session = postfix.session();
    begin(&mut session, "MAIL FROM:<info@example.com>", TO);
    daemon.signal("STOP");
    let start = Instant::now();
    let reply = end(&mut session, content("stuck").as_bytes());
    daemon.signal("CONT");
    reply.expect(250, &[]);
    let took = start.elapsed();
    assert!(took < wait::promised(Duration::from_secs(5)), "{took:?}");
    unstamped(&postfix.sink.message("stuck"), &content("stuck"));
}

#[test]
fn an_open_session_is_served_to_its_end_when_gatepost_stops() {
    let postfix = postfix();
    let (_home, mut daemon) = gatepost(&postfix, "", "");
    let mut session = postfix.session();
    send(&mut session, TO, &content("before"));
    daemon.signal("HUP");
    send(&mut session, TO, &content("reloaded"));
    daemon.signal("TERM");
    daemon.says(&["Stopping"]);
    send(&mut session, TO, &content("after"));
    session.say("QUIT").expect(221, &[]);
    let (status, took) = daemon.wait_for_end(wait::LONG);
    assert!(status.success() && took < wait::promised(Duration::from_secs(2)), "{status} {took:?}");
    for subject in ["before", "reloaded", "after"] {
        stamps(&postfix.sink.message(subject)).stand_on(content(subject));
    }
}

#[test]
fn a_session_that_does_not_end_is_ended_after_ten_seconds_with_delegation_answering_meanwhile() {
    let postfix = postfix_with(&["gatepost_down = permit"]);
    let (home, mut daemon) = gatepost(&postfix, "", "");
    let _idle = postfix.session();
    let mut asker = home.asker();
    wait::true_within("the session", wait::LONG, || home.metric("gatepost_milter_sessions") as u64 == 1);
    daemon.signal("TERM");
    daemon.says(&["Stopping"]);
    let question = Question::rcpt("other@example.com", "user@example.net").with("policy_context", "sender");
    assert!(asker.ask(&question).contains("554"));
    let (status, took) = daemon.wait_for_end(wait::LONG);
    assert!(status.success() && took > Duration::from_secs(8), "{status} {took:?}");
    assert!(took < wait::promised(Duration::from_secs(12)), "{took:?}");
    daemon.says(&["Milter sessions were still open"]);
}

/// With sockets that systemd holds: who comes while one session keeps gatepost from ending waits for the next one.
#[test]
fn a_client_that_comes_while_gatepost_stops_is_stamped_by_the_next_one() {
    let postfix = postfix();
    let home = home(&postfix, "", "");
    let kept = Kept::start(&home, &postfix);
    let _idle = postfix.session();
    wait::true_within("the session", wait::LONG, || home.metric("gatepost_milter_sessions") as u64 == 1);
    std::thread::scope(|scope| {
        scope.spawn(|| kept.restart("TERM"));
        kept.daemon.says(&["Stopping"]);
        let start = Instant::now();
        send(&mut postfix.session(), TO, &content("waited"));
        assert!(start.elapsed() > Duration::from_secs(8), "{:?}: nobody was waited for", start.elapsed());
    });
    stamps(&postfix.sink.message("waited")).stand_on(content("waited"));
}

/// A gatepost that is started again whenever it ends, on sockets that something else holds, as systemd does it.
pub struct Kept<'a> {
    home: &'a Home,
    daemon: Daemon,
}

impl<'a> Kept<'a> {
    /// Starts the first one.
    pub fn start(home: &'a Home, postfix: &Postfix) -> Self {
        let folder = postfix.socket().parent().unwrap().to_owned();
        let (pid, stop) = (home.path("pid"), home.path("stop"));
        let script = format!(
            "while [ ! -e {stop} ]; do \
             sh -c 'echo $$ > {pid}.new; mv {pid}.new {pid}; LISTEN_PID=$$ exec {BINARY} --config {config} serve'; \
             done",
            stop = stop.display(),
            pid = pid.display(),
            config = home.config().display()
        );
        let mut command = Command::new("systemd-socket-activate");
        let sockets = ["policy.sock", "milter.sock", "local.sock"].map(|name| folder.join(name));
        for socket in &sockets {
            command.arg("-l").arg(socket);
        }
        command.args(["sh", "-c", &script]);
        let kept = Self { home, daemon: Daemon::of(command) };
        wait::true_within("the sockets", wait::LONG, || sockets.iter().all(|socket| socket.exists()));
        for socket in &sockets {
            std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        // systemd-socket-activate starts its program when somebody connects.
        drop(std::os::unix::net::UnixStream::connect(&sockets[0]));
        kept.daemon.says(&[" is ready"]);
        kept
    }

    fn pid(&self) -> String {
        std::fs::read_to_string(self.home.path("pid")).unwrap_or_default()
    }

    /// Ends the one that runs, and waits until the next one is ready.
    pub fn restart(&self, signal: &str) {
        let (old, ready) = (self.pid(), self.ready());
        assert!(Command::new("kill").args([&format!("-{signal}"), old.trim()]).status().unwrap().success());
        wait::true_within("the next gatepost", wait::LONG, || self.pid() != old && self.ready() > ready);
    }

    fn ready(&self) -> usize {
        self.daemon.stderr().matches(" is ready").count()
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let _ = std::fs::write(self.home.path("stop"), "");
        let _ = Command::new("kill").args(["-TERM", self.pid().trim()]).status();
    }
}
