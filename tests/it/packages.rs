//! What the packages install, looked at without making one: the tree, the configuration as shipped, the bound on glibc. The
//! packages themselves are tried out by `make packages-test`.

use crate::gatepost::{BINARY, both};
use crate::postfix::shipped;
use gatepost::daemon::config::{Config, Logs, Milter};
use gatepost::daemon::listeners::Endpoint;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn packaging(script: &str, args: &[&str]) -> Output {
    Command::new(shipped("packaging").join(script)).args(args).output().unwrap()
}

/// The tree of a package of this format.
fn staged(format: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let out = packaging("stage", &[format, BINARY, root.to_str().unwrap()]);
    assert!(out.status.success(), "{}", both(&out));
    (dir, root)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_package_holds_what_an_operator_needs() {
    let (_dir, root) = staged("deb");
    for folder in ["policy", "postfix-snippets", "aws", "dashboards"] {
        let at = if folder == "policy" { "etc/gatepost/policy" } else { &format!("usr/share/gatepost/{folder}") };
        assert_eq!(names(&root.join(at)), names(&shipped(folder)), "{folder}");
    }
    for name in ["gatepost.service", "gatepost.socket", "gatepost-milter.socket"] {
        let ours = fs::read_to_string(shipped("systemd").join(name)).unwrap();
        let theirs = fs::read_to_string(root.join("usr/lib/systemd/system").join(name)).unwrap();
        assert_eq!(theirs, ours.replace("/usr/local/", "/usr/"), "{name}");
    }
    for file in [
        "etc/gatepost/gatepost.toml",
        "etc/logrotate.d/gatepost",
        "usr/lib/sysusers.d/gatepost.conf",
        "usr/lib/tmpfiles.d/gatepost.conf",
        "usr/share/man/man1/gatepost.1.gz",
        "usr/share/man/man1/gatepost-suppress-add.1.gz",
        "usr/share/bash-completion/completions/gatepost",
        "usr/share/zsh/vendor-completions/_gatepost",
        "usr/share/fish/vendor_completions.d/gatepost.fish",
        "usr/share/doc/gatepost/changelog.Debian.gz",
    ] {
        let meta = fs::metadata(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(meta.len() > 0, "{file} is empty");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o644, "{file}");
    }
    let out = Command::new(root.join("usr/bin/gatepost")).arg("--version").output().unwrap();
    assert!(out.status.success(), "the stripped binary: {}", both(&out));
}

/// Both formats are one tree, but for what each has of its own.
#[test]
fn an_rpm_has_its_own_folders() {
    let (_dir, root) = staged("rpm");
    for file in ["usr/share/zsh/site-functions/_gatepost", "usr/share/licenses/gatepost/LICENSE", "usr/bin/gatepost"] {
        assert!(root.join(file).exists(), "{file}");
    }
    assert!(!root.join("usr/share/doc/gatepost/changelog.Debian.gz").exists());
}

/// As the default, with the milter's sockets and the journal.
#[test]
fn the_shipped_configuration_is_the_default_with_milter_and_journal() {
    let (config, warnings) = Config::load(Some(&shipped("packaging/gatepost.toml"))).expect("a sound file");
    assert!(warnings.is_empty(), "{warnings:?}");
    let socket = |name: &str| vec![Endpoint::Unix(Path::new("/var/spool/postfix/gatepost").join(name))];
    let milter = config.milter.as_ref().expect("a milter");
    let expected = Config {
        milter: Some(Milter { listen: socket("milter.sock"), listen_local: socket("local.sock"), ..milter.clone() }),
        logs: Some(Logs { paths: Vec::new(), journal: true }),
        ..Config::default()
    };
    assert_eq!(config, expected);
}

/// Amazon Linux 2023 has glibc 2.34. Debian's own shell, for a newer one, is what must be found out.
#[test]
fn a_binary_for_a_newer_glibc_is_found_out() {
    let out = packaging("glibc", &[BINARY]);
    assert!(out.status.success(), "{}", both(&out));
    let out = packaging("glibc", &["/bin/bash"]);
    assert!(!out.status.success() && both(&out).contains("newer than 2.34"), "{}", both(&out));
}
