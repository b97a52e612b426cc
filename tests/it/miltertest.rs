//! The scripts of tests/miltertest, each on a gatepost of its own: what a peer may say by the protocol, said by
//! miltertest(8). What it cannot say is in `milter_wire`. A script that is put there is run.

use crate::gatepost::{Home, both};
use crate::postfix::shipped;
use crate::wait;
use std::path::Path;
use std::process::Command;

/// A script has the globals `socket` and `other` (that of local mail). What it says behind `-- gatepost: ` is in `[milter]`.
fn run(script: &Path) -> Result<(), String> {
    let home = Home::alone("info@example.com OK\n", "");
    let text = std::fs::read_to_string(script).unwrap();
    let settings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("-- gatepost: ")).collect();
    let sockets = ["milter.sock", "local.sock"].map(|name| home.path(name).display().to_string());
    home.configure(
        &format!(
            "socket_group = \"nogroup\"\n[milter]\nlisten = \"unix:{}\"\nlisten_local = \"unix:{}\"\n{}\n",
            sockets[0],
            sockets[1],
            settings.join("\n")
        ),
        "",
    );
    let mut daemon = home.start();
    let mut command = Command::new("miltertest");
    for (name, socket) in ["socket", "other"].iter().zip(&sockets) {
        command.arg("-D").arg(format!("{name}=unix:{socket}"));
    }
    command.arg("-s").arg(script).current_dir(shipped("tests/miltertest"));
    let out = command.output().map_err(|e| format!("miltertest: {e}"))?;
    // Nothing that a peer says ends the daemon, or leaves anything behind.
    wait::true_within("the sessions to be gone", wait::LONG, || home.metric("gatepost_milter_sessions") as u64 == 0);
    if out.status.success() && daemon.ended().is_none() {
        return Ok(());
    }
    Err(format!("{} {}\n{}", out.status, both(&out), daemon.stderr()))
}

#[test]
fn scripts() {
    let mut scripts: Vec<_> = std::fs::read_dir(shipped("tests/miltertest"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "lua"))
        .collect();
    scripts.sort();
    assert!(scripts.len() > 5, "{scripts:?}");
    let run = |script: &std::path::PathBuf| {
        let name = script.file_stem().unwrap().to_string_lossy().into_owned();
        println!("miltertest {name}");
        run(script).err().map(|said| format!("{name}: {said}"))
    };
    let failed: Vec<_> = scripts.iter().filter_map(run).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_script_that_fails_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("fails.lua");
    std::fs::write(&script, "dofile(\"common/peer.lua\")\npeer()\ncheck(\"it holds\", false)\n").unwrap();
    let said = run(&script).unwrap_err();
    assert!(said.contains("failed: it holds"), "{said}");
}
