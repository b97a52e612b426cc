//! SIGTERM while a command works: it ends with 0, at once where it only reads, and with whole work where it writes.

use crate::gatepost::{Home, OPEN, both, text};
use crate::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};

fn start(home: &Home, args: &[&str]) -> Child {
    let mut command = home.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn terminate(child: &Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
}

/// More lines than a pipe holds.
fn many() -> String {
    (0..10_100).map(|n| format!("user{n}@example.net\n")).collect()
}

fn count(home: &Home) -> usize {
    home.run(&["suppress", "list"]).lines().count()
}

#[test]
fn a_command_that_reads_ends_at_once() {
    let home = Home::alone("", OPEN);
    let list = home.path("list");
    fs::write(&list, many()).unwrap();
    home.run(&["suppress", "import", list.to_str().unwrap()]);
    for args in [&["suppress", "list"][..], &["suppress", "export"]] {
        let mut child = start(&home, args);
        let mut stdout = child.stdout.take().unwrap();
        // It writes, and nobody takes the rest.
        stdout.read_exact(&mut [0]).unwrap();
        terminate(&child);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
    }
}

#[test]
fn an_import_ends_behind_what_it_read() {
    let home = Home::alone("", OPEN);
    let mut child = start(&home, &["suppress", "import", "-"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(many().as_bytes()).unwrap();
    // A batch of 10,000 is on the list; the others wait for the end of a pipe that stays open.
    wait::until("a batch", wait::LONG, || (count(&home) > 0).then_some(()));
    terminate(&child);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", both(&out));
    let said = format!("{} added, 0 renewed, 0 unchanged", count(&home));
    assert_eq!(text(&out.stderr), format!("stdin: stopped early; so far {said}\n"));
    assert_eq!(text(&out.stdout), format!("{said}, 0 refused\n"));
    drop(stdin);
}

#[test]
fn a_change_under_way_is_finished() {
    let home = Home::alone("", OPEN);
    home.run(&["suppress", "add", "a@example.net"]);
    let database = home.path("state").join("gatepost.db");
    let holder = rusqlite::Connection::open(&database).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let child = start(&home, &["suppress", "add", "b@example.net"]);
    let files = format!("/proc/{}/fd", child.id());
    wait::until("the database to be opened", wait::LONG, || {
        let mut files = fs::read_dir(&files).unwrap().flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|path| path == database)).then_some(())
    });
    terminate(&child);
    holder.execute_batch("COMMIT").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(0), "1 added, 0 renewed, 0 unchanged\n".to_owned()));
    assert_eq!(count(&home), 2);
}
