//! Hot reload, every way of saving: an edit is in force within a second of the close or the rename.
//! What goes wrong with edits is in `reload_trouble`.

use crate::asker::{Asker, DUNNO, Question};
use crate::gatepost::{Daemon, Home, OPEN};
use crate::wait;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What the issue grants from the close or rename on.
pub const IN_FORCE: Duration = Duration::from_secs(1);

/// A list that lets `n` senders pass, and so never shrinks by more than half between two of these.
pub fn list(n: usize) -> String {
    (0..n).map(|i| format!("s{i}@example.com OK\n")).collect()
}

fn standing(senders: &str) -> (Home, Daemon) {
    let home = Home::alone(senders, "");
    let daemon = home.start();
    (home, daemon)
}

/// Whether the daemon lets a sender pass, asked over an open connection.
pub fn passes(asker: &mut Asker, sender: &str) -> bool {
    asker.ask(&Question::mail(sender)) == DUNNO
}

/// Waits, at most the second that is granted, until a sender passes or no longer does.
pub fn in_force(home: &Home, saved: Instant, sender: &str, is_allowed: bool) {
    let mut asker = home.asker();
    wait::until(&format!("{sender} to pass: {is_allowed}"), wait::LONG, || {
        (passes(&mut asker, sender) == is_allowed).then_some(())
    });
    let took = saved.elapsed();
    assert!(took <= wait::promised(IN_FORCE), "in force only after {took:?}");
}

fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}

/// Replaces a link as Kubernetes and `ln -sfn` with `mv -T` do: a new link, renamed over it.
fn switch(link: &Path, target: &Path) {
    let aside = link.with_file_name("aside");
    symlink(target, &aside).unwrap();
    rename(&aside, link);
}

#[test]
fn written_in_place() {
    let (home, _daemon) = standing(&list(4));
    home.write_policy("allowed_senders", &list(5));
    in_force(&home, Instant::now(), "s4@example.com", true);
    let path = home.policy_dir().join("allowed_senders");
    let mut file = fs::File::create(&path).unwrap();
    for line in list(4).lines() {
        writeln!(file, "{line}").unwrap();
    }
    drop(file);
    in_force(&home, Instant::now(), "s4@example.com", false);
}

#[test]
fn a_line_appended_and_lines_in_a_row() {
    let (home, _daemon) = standing(&list(4));
    for n in 0..5 {
        home.append_policy("allowed_senders", &format!("more{n}@example.com OK"));
        in_force(&home, Instant::now(), &format!("more{n}@example.com"), true);
    }
}

#[test]
fn renamed_over_as_rsync_and_sed_do() {
    let (home, _daemon) = standing(&list(4));
    let path = home.policy_dir().join("allowed_senders");
    let aside = home.policy_dir().join(".allowed_senders.Xy12Zq");
    fs::write(&aside, list(5)).unwrap();
    rename(&aside, &path);
    in_force(&home, Instant::now(), "s4@example.com", true);
    // From another folder, as `mv` does.
    let elsewhere = home.path("new_list");
    fs::write(&elsewhere, list(6)).unwrap();
    rename(&elsewhere, &path);
    in_force(&home, Instant::now(), "s5@example.com", true);
    let sed = Command::new("sed").args(["-i", "s/^s5@/sed@/"]).arg(&path).status().unwrap();
    assert!(sed.success());
    in_force(&home, Instant::now(), "sed@example.com", true);
    in_force(&home, Instant::now(), "s5@example.com", false);
}

/// `backupcopy=no`: the old file becomes the backup, a new one is written, the backup goes.
#[test]
fn saved_as_vim_does() {
    let (home, daemon) = standing(&list(4));
    let path = home.policy_dir().join("allowed_senders");
    let (backup, swap) = (home.policy_dir().join("allowed_senders~"), home.policy_dir().join(".allowed_senders.swp"));
    fs::write(&swap, "b0VIM").unwrap();
    for n in 5..8 {
        rename(&path, &backup);
        fs::write(&path, list(n)).unwrap();
        let saved = Instant::now();
        fs::remove_file(&backup).unwrap();
        in_force(&home, saved, &format!("s{}@example.com", n - 1), true);
    }
    fs::remove_file(&swap).unwrap();
    assert!(!daemon.stderr().contains("ERROR"), "{}", daemon.stderr());
}

/// As kubelet mounts a ConfigMap.
#[test]
fn switched_as_kubernetes_does() {
    let home = Home::alone(&list(4), "");
    let dir = home.policy_dir();
    for name in ["allowed_senders", "policy.toml"] {
        fs::remove_file(dir.join(name)).unwrap();
        symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
    }
    let volume = |name: &str, n| {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("allowed_senders"), list(n)).unwrap();
        fs::write(dir.join(name).join("policy.toml"), "").unwrap();
    };
    volume("..2026_0", 4);
    symlink("..2026_0", dir.join("..data")).unwrap();
    let _daemon = home.start();
    for n in 1..4 {
        volume(&format!("..2026_{n}"), 4 + n);
        switch(&dir.join("..data"), Path::new(&format!("..2026_{n}")));
        let saved = Instant::now();
        fs::remove_dir_all(dir.join(format!("..2026_{}", n - 1))).unwrap();
        in_force(&home, saved, &format!("s{}@example.com", 3 + n), true);
    }
}

#[test]
fn what_a_link_leads_to_is_rewritten() {
    let home = Home::alone(&list(4), "");
    let link = home.policy_dir().join("allowed_senders");
    fs::remove_file(&link).unwrap();
    fs::create_dir(home.path("elsewhere")).unwrap();
    let target = home.path("elsewhere/senders");
    fs::write(&target, list(4)).unwrap();
    symlink(&target, &link).unwrap();
    let _daemon = home.start();
    fs::write(&target, list(5)).unwrap();
    in_force(&home, Instant::now(), "s4@example.com", true);
    fs::write(home.path("elsewhere/aside"), list(6)).unwrap();
    rename(&home.path("elsewhere/aside"), &target);
    in_force(&home, Instant::now(), "s5@example.com", true);
    // To a file beside the policy folder, where other files come and go.
    fs::write(home.path("senders"), list(7)).unwrap();
    switch(&link, Path::new("../senders"));
    in_force(&home, Instant::now(), "s6@example.com", true);
    fs::write(home.path("senders"), list(8)).unwrap();
    in_force(&home, Instant::now(), "s7@example.com", true);
}

#[test]
fn a_link_in_the_middle_of_the_way_is_switched() {
    let home = Home::alone(&list(4), "");
    let link = home.policy_dir().join("allowed_senders");
    fs::remove_file(&link).unwrap();
    for n in 0..3 {
        fs::create_dir_all(home.path(&format!("releases/v{n}/mail"))).unwrap();
        fs::write(home.path(&format!("releases/v{n}/mail/senders")), list(4 + n)).unwrap();
    }
    let current = home.path("releases/current");
    symlink("v0", &current).unwrap();
    symlink(current.join("mail/senders"), &link).unwrap();
    let _daemon = home.start();
    for n in 1..3 {
        switch(&current, Path::new(&format!("v{n}")));
        in_force(&home, Instant::now(), &format!("s{}@example.com", 3 + n), true);
    }
}

#[test]
fn the_folder_itself_is_replaced() {
    let (home, _daemon) = standing(&list(4));
    let folder = |name: &str, n| {
        fs::create_dir(home.path(name)).unwrap();
        fs::write(home.path(name).join("allowed_senders"), list(n)).unwrap();
    };
    for n in 5..8 {
        folder("new", n);
        rename(&home.policy_dir(), &home.path(&format!("old{n}")));
        rename(&home.path("new"), &home.policy_dir());
        in_force(&home, Instant::now(), &format!("s{}@example.com", n - 1), true);
        home.append_policy("allowed_senders", &format!("more{n}@example.com OK"));
        in_force(&home, Instant::now(), &format!("more{n}@example.com"), true);
    }
    // Removed and made again: the file system may give the new folder the inode of the old one.
    for n in 8..11 {
        fs::remove_dir_all(home.policy_dir()).unwrap();
        folder("policy", n);
        in_force(&home, Instant::now(), &format!("s{}@example.com", n - 1), true);
        home.append_policy("allowed_senders", &format!("more{n}@example.com OK"));
        in_force(&home, Instant::now(), &format!("more{n}@example.com"), true);
    }
    // Moved away and back: the same inode.
    rename(&home.policy_dir(), &home.path("away"));
    rename(&home.path("away"), &home.policy_dir());
    home.append_policy("allowed_senders", "back@example.com OK");
    in_force(&home, Instant::now(), "back@example.com", true);
    home.append_policy("allowed_senders", "again@example.com OK");
    in_force(&home, Instant::now(), "again@example.com", true);
}

#[test]
fn the_folder_is_a_link_that_is_switched() {
    let home = Home::alone(&list(4), "");
    fs::remove_dir_all(home.policy_dir()).unwrap();
    for n in 0..3 {
        fs::create_dir(home.path(&format!("v{n}"))).unwrap();
        fs::write(home.path(&format!("v{n}/allowed_senders")), list(4 + n)).unwrap();
    }
    symlink("v0", home.policy_dir()).unwrap();
    let _daemon = home.start();
    for n in 1..3 {
        switch(&home.policy_dir(), Path::new(&format!("v{n}")));
        in_force(&home, Instant::now(), &format!("s{}@example.com", 3 + n), true);
        fs::write(home.path(&format!("v{n}/allowed_senders")), list(4 + n) + "in@example.com OK\n").unwrap();
        in_force(&home, Instant::now(), "in@example.com", true);
    }
}

#[test]
fn one_file_among_others_that_come_and_go() {
    let (home, daemon) = standing(&list(4));
    for n in 0..50 {
        fs::write(home.policy_dir().join(format!("note{n}")), "not ours").unwrap();
        fs::write(home.path(&format!("beside{n}")), "not ours").unwrap();
    }
    home.append_policy("allowed_senders", "one@example.com OK");
    in_force(&home, Instant::now(), "one@example.com", true);
    daemon.says(&["New policy in force"]);
    assert_eq!(daemon.stderr().matches("New policy in force").count(), 1, "{}", daemon.stderr());
}

/// In the debug build; the benches have the million on a release build.
#[test]
fn thirty_thousand_lines() {
    let senders: String = (0..30_000).map(|i| format!("sender{i}@example.com OK\n")).collect();
    let (home, _daemon) = standing(&senders);
    home.append_policy("allowed_senders", "one@example.com OK");
    in_force(&home, Instant::now(), "one@example.com", true);
}

#[test]
fn several_files_at_once_are_one_generation() {
    let (home, daemon) = standing(&list(4));
    let limit = "[[limit]]\nname = \"all\"\nkey = \"all\"\nrate = \"1/h\"\n";
    home.write_policy("policy.toml", limit);
    home.write_policy("allowed_senders", &list(5));
    home.write_policy("allowed_recipients", "example.net OK\n");
    in_force(&home, Instant::now(), "s4@example.com", true);
    let refused = home.ask(&Question::rcpt("s4@example.com", "user@example.org"));
    assert_eq!(refused, "554 5.7.1 Recipient not allowed here");
    assert_eq!(home.ask(&Question::data("1.2.3")), DUNNO);
    assert!(home.ask(&Question::data("1.2.4")).starts_with("450 4.7.1 Limit all"));
    // The line names the generation whose rules decided.
    let generation = home.health().1["generation"].as_u64().unwrap();
    home.log_line(&["decision=reject", "check=recipients", &format!("generation={generation},")]);
    daemon.says(&["New policy in force", &format!("generation={generation}")]);
    home.append_policy("allowed_senders", "next@example.com OK");
    in_force(&home, Instant::now(), "next@example.com", true);
    assert!(home.ask_sender("nobody@example.com").starts_with("554"));
    home.log_line(&["from=<nobody@example.com>", &format!("generation={},", generation + 1)]);
}

#[test]
fn modes_and_overrides_are_live_and_counters_stay() {
    let home = Home::alone(&list(1), "");
    let policy = |mode: &str, rest: &str| {
        format!(
            "[senders]\nmode = \"{mode}\"\n[[limit]]\nname = \"per-client\"\nkey = \"client_address\"\nrate = \"2/h\"\n{rest}"
        )
    };
    home.write_policy("policy.toml", &policy("enforce", ""));
    let daemon = home.start();
    let data = |n: u32| home.ask(&Question::data(&format!("1.{n}")));
    let saved = |text: &str| {
        let before = home.metric("gatepost_reload_generation");
        home.write_policy("policy.toml", text);
        let took =
            wait::true_within("the next generation", wait::LONG, || home.metric("gatepost_reload_generation") > before);
        assert!(took <= wait::promised(IN_FORCE), "{took:?}");
    };
    assert_eq!(data(1), DUNNO);
    // The limit is unchanged: its counter goes on.
    saved(&policy("observe", ""));
    assert_eq!(home.ask_sender("nobody@example.com"), DUNNO);
    home.log_line(&["decision=would-reject", "check=senders", "mode=observe", "nobody@example.com"]);
    assert_eq!(data(2), DUNNO);
    assert!(data(3).starts_with("450 4.7.1 Limit per-client (2/h) reached, try again in "), "{}", data(3));
    // Unlimited for this client, and back.
    saved(&policy("observe", "[limit.override]\n\"10.0.0.1\" = \"unlimited\"\n"));
    (4..10).for_each(|n| assert_eq!(data(n), DUNNO));
    saved(&policy("observe", ""));
    // Observed: logged, not refused.
    saved(&policy("enforce", "mode = \"observe\"\n"));
    (10..14).for_each(|n| assert_eq!(data(n), DUNNO));
    home.log_line(&["decision=would-reject", "check=limits", "mode=observe", "450 4.7.1"]);
    assert!(home.ask_sender("nobody@example.com").starts_with("554"));
    saved(OPEN);
    assert_eq!(home.ask_sender("nobody@example.com"), DUNNO);
    drop(daemon);
}
