//! `[logs] journal = true`, on a journald of the test's own: in namespaces in which /run and /dev are nobody else's, so
//! that Postfix and gatepost write by syslog, as they do, and journalctl(1) finds that journald's journal.

use crate::aws::Ses;
use crate::gatepost::{Home, both, text};
use crate::postfix::{Options, Postfix};
use crate::stamped::snippet;
use crate::wait;
use std::process::{Command, Stdio};

/// Starts journald where nobody else sees it, then becomes what the arguments say. What it started ends with it.
const BESIDE_A_JOURNALD: &str = r#"
set -e
mount -t tmpfs tmpfs /var/log
mount --rbind /dev /mnt
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev
for name in null zero full random urandom tty; do touch /dev/$name; mount --bind /mnt/$name /dev/$name; done
umount -l /mnt
ln -s /proc/self/fd /dev/fd
ln -s /run/systemd/journal/dev-log /dev/log
mkdir -p /run/systemd/journal /run/log /dev/shm
/lib/systemd/systemd-journald &
until [ -S /run/systemd/journal/dev-log ]; do sleep 0.02; done
"$@"
"#;

#[test]
fn the_journal_is_a_log_like_any_other() {
    let out = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", BESIDE_A_JOURNALD, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["journal::in_a_namespace", "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    assert!(out.status.success() && both(&out).contains("1 passed"), "{}", both(&out));
}

/// The lines of the journal that hold all of `words`.
fn lines(words: &[&str]) -> Vec<String> {
    let out = Command::new("journalctl").args(["--quiet", "SYSLOG_FACILITY=2"]).output().unwrap();
    let journal = text(&out.stdout);
    journal.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}

#[test]
#[ignore = "the_journal_is_a_log_like_any_other starts it, in a namespace"]
fn in_a_namespace() {
    let spool = tempfile::tempdir().unwrap();
    let ses = Ses::spooling_to(spool.path(), &["--notifications", "--no-events"]);
    let mut set = snippet("main.cf.milter");
    set.extend([ses.relayhost(), "maillog_file =".to_owned()]);
    let postfix = Postfix::start(&Options { set, ..Options::default() });
    let home = Home::beside(&postfix, "info@example.com OK\n", "");
    let folder = postfix.socket().parent().unwrap().display().to_string();
    home.configure(
        &format!(
            "listen = [\"unix:{folder}/policy.sock\"]\nsocket_mode = \"0660\"\nsocket_group = \"postfix\"\n[milter]\nlisten = [\"unix:{folder}/milter.sock\"]\n\
             [event_log]\noutput = \"syslog\"\n[logs]\njournal = true\n\
             [events]\nsource = \"spool\"\nspool_dir = \"{}\"\n",
            spool.path().display()
        ),
        "",
    );
    // For the time without gatepost.
    std::fs::write(postfix.allowed_senders(), "info@example.com OK\n").unwrap();
    let mut daemon = home.start();

    let send = |to: &str| {
        postfix.session().mail("info@example.com", &[to], to).expect(250, &[]);
        ses.message(to)
    };
    // No tag tells the queue id, so the journal does.
    let joined = |to: &str| {
        let delivered = wait::until("the delivery in the journal", wait::LONG, || {
            lines(&[&format!("to=<{to}>"), "status=delivered"]).pop()
        });
        let sent = lines(&[&format!("to=<{to}>"), "status=sent"]).pop().expect("Postfix's line");
        let queue_id = sent.split("]: ").nth(1).unwrap().split(':').next().unwrap().to_owned();
        assert!(delivered.contains(&format!(", queue_id={queue_id}, ")), "{delivered}\n{sent}");
    };
    send("first@example.com");
    joined("first@example.com");
    assert!(home.metric("gatepost_events_mail_logs_unreadable") < 1.0);

    let out = Command::new("journalctl").arg("--rotate").output().unwrap();
    assert!(out.status.success(), "{}", both(&out));
    send("rotated@example.com");
    joined("rotated@example.com");

    daemon.signal("TERM");
    daemon.wait_for_end(wait::LONG);
    let down = send("down@example.com");
    ses.published("notification:Delivery", &down.id);
    daemon = home.start();
    joined("down@example.com");

    // Whoever ends the journalctl that it follows, it starts another.
    let children = Command::new("pgrep").args(["-P", &daemon.pid().to_string()]).output().unwrap();
    assert!(Command::new("kill").arg(text(&children.stdout).trim()).status().unwrap().success());
    daemon.says(&["the journal: cannot be read", "journalctl"]);
    daemon.says(&["The mail logs can be read again."]);
    send("again@example.com");
    joined("again@example.com");

    for to in ["first@example.com", "rotated@example.com"] {
        let shown = home.run(&["trace", to]);
        let at = |word: &str| shown.find(word).unwrap_or_else(|| panic!("no {word} in {shown}"));
        assert!(at(" submitted ") < at(" stamped ") && at(" stamped ") < at(" sent "), "{shown}");
        assert!(at(" sent ") < at(" ses delivered "), "{shown}");
    }
    follow(&home, &send);
}

/// `trace --follow` prints what comes into the journal, over rotation, until it is told to end.
fn follow(home: &Home, send: &impl Fn(&str) -> crate::aws::Mail) {
    let shown = tempfile::NamedTempFile::new().unwrap();
    let mut command = home.command(&["trace", "--follow", "info@example.com"]);
    let mut child = command.stdout(shown.reopen().unwrap()).stderr(Stdio::inherit()).spawn().unwrap();
    let so_far = || std::fs::read_to_string(shown.path()).unwrap();
    // What comes behind what it found is followed, whenever it begins with that.
    wait::true_within("what was found", wait::LONG, || so_far().contains("to again@example.com"));
    for to in ["followed@example.com", "followed-on@example.com"] {
        send(to);
        wait::true_within("it to be shown", wait::LONG, || so_far().contains(&format!(" delivered to {to}")));
        assert_eq!(so_far().matches(&format!(" sent to {to}")).count(), 1, "{}", so_far());
        assert!(Command::new("journalctl").arg("--rotate").status().unwrap().success());
    }
    assert!(Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}
