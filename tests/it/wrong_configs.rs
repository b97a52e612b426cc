//! Wrong configurations, each with exactly what `gatepost check` says of it: file, line, column,
//! what is wrong, what instead. All problems of all files are told at once.

use std::path::Path;

/// One configuration. `{dir}` in `gatepost` is the folder it stands in; the policy folder in it is
/// `policy`. `expected` is the whole output, without that folder.
struct Case {
    name: &'static str,
    gatepost: &'static str,
    policy: &'static str,
    /// `None`: the file is not there.
    senders: Option<&'static str>,
    expected: &'static [&'static str],
}

/// A sound configuration, to be spoilt.
const CASE: Case = Case {
    name: "",
    gatepost: "policy_dir = \"{dir}/policy\"\n",
    policy: "",
    senders: Some("example.com OK\n"),
    expected: &[],
};

#[test]
fn gatepost_toml() {
    GATEPOST_TOML.iter().for_each(check);
}

#[test]
fn policy_toml() {
    POLICY_TOML.iter().for_each(check);
}

#[test]
fn allowed_senders() {
    ALLOWED_SENDERS.iter().for_each(check);
}

#[test]
fn several_files() {
    SEVERAL_FILES.iter().for_each(check);
}

#[test]
fn a_sound_configuration_is_summed_up() {
    let dir = tempfile::tempdir().expect("folder");
    write(dir.path(), &CASE);
    let report = gatepost::cli::check::report(Some(&dir.path().join("gatepost.toml")), false);
    let expected = "/gatepost.toml and /policy are sound: 1 entry, 0 limits\n";
    assert_eq!(report.stderr.replace(&dir.path().display().to_string(), ""), expected);
    assert_eq!((report.stdout.as_str(), report.code), ("", 0));
}

#[test]
fn bytes_that_are_no_utf8() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("gatepost.toml");
    std::fs::write(&file, b"[postfix]\nmyorigin = \"ex\xffample.com\"\n").expect("write");
    assert_eq!(said(&file).0, ["gatepost.toml:2:15: the byte 0xff is not UTF-8; save the file as UTF-8"]);
}

#[test]
fn a_named_file_that_is_not_there() {
    let dir = tempfile::tempdir().expect("folder");
    let (lines, code) = said(&dir.path().join("gatepost.toml"));
    assert_eq!(lines, ["gatepost.toml:1:1: is not there; name the configuration with --config FILE"]);
    assert_eq!(code, 78);
}

#[test]
fn json_is_one_object_a_line() {
    let dir = tempfile::tempdir().expect("folder");
    write(dir.path(), &Case { policy: "[senders]\nmode = 1\n", ..CASE });
    let report = gatepost::cli::check::report(Some(&dir.path().join("gatepost.toml")), true);
    let object: serde_json::Value = serde_json::from_str(report.stdout.trim_end()).expect("JSON");
    assert_eq!(object["file"], dir.path().join("policy/policy.toml").display().to_string());
    assert_eq!((&object["line"], &object["column"]), (&2.into(), &8.into()));
    assert_eq!(object["severity"], "problem");
}

fn check(case: &Case) {
    let dir = tempfile::tempdir().expect("folder");
    write(dir.path(), case);
    let (lines, code) = said(&dir.path().join("gatepost.toml"));
    assert_eq!(lines, case.expected, "{}", case.name);
    let only_warnings = case.expected.iter().all(|line| line.contains(": warning: "));
    assert_eq!(code, if only_warnings { 0 } else { 78 }, "{}", case.name);
}

fn write(dir: &Path, case: &Case) {
    std::fs::create_dir(dir.join("policy")).expect("folder");
    let gatepost = case.gatepost.replace("{dir}", &dir.display().to_string());
    std::fs::write(dir.join("gatepost.toml"), gatepost).expect("write");
    std::fs::write(dir.join("policy/policy.toml"), case.policy).expect("write");
    if let Some(senders) = case.senders {
        std::fs::write(dir.join("policy/allowed_senders"), senders).expect("write");
    }
}

/// The lines without the folder of the configuration, and the exit code.
fn said(config: &Path) -> (Vec<String>, u8) {
    let report = gatepost::cli::check::report(Some(config), false);
    let folder = format!("{}/", config.parent().expect("folder").display());
    (report.stdout.lines().map(|line| line.replace(&folder, "")).collect(), report.code)
}

const GATEPOST_TOML: &[Case] = &[
    Case {
        name: "a section header that is not closed",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation
listen = ["unix:/run/x.sock"]
"#,
        expected: &[r#"gatepost.toml:2:12: the section header is not closed; write a "]" at its end"#],
        ..CASE
    },
    Case {
        name: "unknown keys, with what was meant",
        gatepost: r#"policy_dir = "{dir}/policy"
state-dir = "/var/lib/gatepost"

[delegation]
listen = "unix:/run/x.sock"
socket_mod = "0660"
colour = "green"

[sendrs]
mode = "off"
"#,
        expected: &[
            r#"gatepost.toml:2:1: unknown key "state-dir" at the top of the file, did you mean state_dir? known here: policy_dir, state_dir, postfix, delegation, milter, suppression, limits, fleet, events, event_log, admin, logs"#,
            r#"gatepost.toml:6:1: unknown key "socket_mod" in [delegation], did you mean socket_mode? known here: listen, socket_mode, socket_group, max_connections, idle_timeout"#,
            r#"gatepost.toml:7:1: unknown key "colour" in [delegation]; known here: listen, socket_mode, socket_group, max_connections, idle_timeout"#,
            r#"gatepost.toml:9:2: unknown key "sendrs" at the top of the file; known here: policy_dir, state_dir, postfix, delegation, milter, suppression, limits, fleet, events, event_log, admin, logs"#,
        ],
        ..CASE
    },
    Case {
        name: "wrong types",
        gatepost: r#"policy_dir = 3
state_dir = ["/var/lib/gatepost"]
postfix = true

[delegation]
listen = 10031
socket_mode = 660
max_connections = "many"
"#,
        expected: &[
            r#"gatepost.toml:1:14: policy_dir must be an absolute path such as "/etc/gatepost/policy"; this is 3"#,
            r#"gatepost.toml:2:13: state_dir must be an absolute path such as "/var/lib/gatepost"; this is a list"#,
            "gatepost.toml:3:11: postfix must be a table; this is true",
            r#"gatepost.toml:6:10: delegation.listen must be an address such as "unix:/run/gatepost/x.sock" or "inet:127.0.0.1:10031", or a list of them; this is 10031"#,
            r#"gatepost.toml:7:15: delegation.socket_mode must be an octal mode in quotes, from "0000" to "0777", such as "0660"; this is 660"#,
            r#"gatepost.toml:8:19: delegation.max_connections must be a whole number from 10 to 1000000 (Postfix keeps one for each smtpd process and check); this is "many""#,
        ],
        ..CASE
    },
    Case {
        name: "relative paths",
        gatepost: r#"policy_dir = "policy"
state_dir = "../state"
"#,
        expected: &[
            r#"gatepost.toml:1:14: policy_dir must be an absolute path such as "/etc/gatepost/policy"; this is "policy""#,
            r#"gatepost.toml:2:13: state_dir must be an absolute path such as "/var/lib/gatepost"; this is "../state""#,
        ],
        ..CASE
    },
    Case {
        name: "addresses to listen on",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation]
listen = ["/run/x.sock", "unix:gatepost/policy.sock", "inet:10031", "inet:::1:10031", "tcp:127.0.0.1:25", "inet:127.0.0.1:70000"]
"#,
        expected: &[
            r#"gatepost.toml:3:11: delegation.listen "/run/x.sock": an address begins with "unix:" or "inet:", as in "unix:/run/gatepost/x.sock" or "inet:127.0.0.1:10031""#,
            r#"gatepost.toml:3:26: delegation.listen "unix:gatepost/policy.sock": the path of a socket must be absolute, as in "unix:/run/gatepost/x.sock""#,
            r#"gatepost.toml:3:55: delegation.listen "inet:10031": after "inet:" stand a host and a port, as in "inet:127.0.0.1:10031" or "inet:[::1]:10031""#,
            r#"gatepost.toml:3:69: delegation.listen "inet:::1:10031": the host must be an IP address or a name; an IPv6 address stands in brackets, as in "inet:[::1]:10031""#,
            r#"gatepost.toml:3:87: delegation.listen "tcp:127.0.0.1:25": an address begins with "unix:" or "inet:", as in "unix:/run/gatepost/x.sock" or "inet:127.0.0.1:10031""#,
            r#"gatepost.toml:3:107: delegation.listen "inet:127.0.0.1:70000": after "inet:" stand a host and a port, as in "inet:127.0.0.1:10031" or "inet:[::1]:10031""#,
        ],
        ..CASE
    },
    Case {
        name: "a socket path longer than the kernel takes",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation]
listen = ["unix:/var/spool/postfix/a-very-long-folder-name/another-very-long-folder-name/a-third-very-long-folder-name/policy.sock"]
"#,
        expected: &[
            r#"gatepost.toml:3:11: delegation.listen "unix:/var/spool/postfix/a-very-long-folder-name/another-very…": the path of a socket has at most 107 bytes (unix(7)), this one has 114; use a shorter one"#,
        ],
        ..CASE
    },
    Case {
        name: "one address in two sections",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation]
listen = ["unix:/run/x.sock", "unix:/run/x.sock"]
[admin]
listen = "unix:/run/x.sock"
"#,
        expected: &[
            r#"gatepost.toml:3:31: delegation.listen "unix:/run/x.sock" is taken in line 3; each address serves once"#,
            r#"gatepost.toml:5:10: admin.listen "unix:/run/x.sock" is taken in line 3; each address serves once"#,
        ],
        ..CASE
    },
    Case {
        name: "nothing to listen on",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation]
listen = []
[admin]
"#,
        expected: &[
            "gatepost.toml:3:10: delegation.listen is empty, so Postfix could ask nothing; name at least one address",
            r#"gatepost.toml:4:1: [admin] has no listen; add a line such as listen = ["unix:/run/gatepost/admin.sock"]"#,
        ],
        ..CASE
    },
    Case {
        name: "modes and groups of sockets",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation]
listen = "unix:/run/x.sock"
socket_mode = "rw-rw----"
socket_group = "post fix"
"#,
        expected: &[
            r#"gatepost.toml:4:15: delegation.socket_mode must be an octal mode in quotes, from "0000" to "0777", such as "0660"; this is "rw-rw----""#,
            r#"gatepost.toml:5:16: delegation.socket_group must be the name of a group, such as "postfix"; this is "post fix""#,
        ],
        ..CASE
    },
    Case {
        name: "a mode with a leading zero and no quotes",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation]
socket_mode = 0660
"#,
        expected: &[r#"gatepost.toml:3:15: a number must not begin with 0; quote an octal mode: "0660""#],
        ..CASE
    },
    Case {
        name: "an idle time shorter than Postfix's",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation]
idle_timeout = "5min"
max_connections = 3
"#,
        expected: &[
            r#"gatepost.toml:3:16: delegation.idle_timeout must be from "310s" to "1d": Postfix keeps an idle connection for 300 s and must be the one to close it; this is "5min""#,
            "gatepost.toml:4:19: delegation.max_connections must be a whole number from 10 to 1000000 (Postfix keeps one for each smtpd process and check); this is 3",
        ],
        ..CASE
    },
    Case {
        name: "an idle time without a unit",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation]
idle_timeout = "1200"
"#,
        expected: &[
            r#"gatepost.toml:3:21: delegation.idle_timeout "1200": expected a unit of time: s, min, h or d, as in "100/min" or "14d""#,
        ],
        ..CASE
    },
    Case {
        name: "stores of a fleet that are none",
        gatepost: r#"policy_dir = "{dir}/policy"
[suppression]
store = "redis://valkey.internal,other/0"
[limits]
store = "rediss+cluster://valkey.internal/1"
max_keys = 10
[fleet]
name = "relay 1"
namespace = ""
ca_file = "ca.pem"
"#,
        expected: &[
            "gatepost.toml:3:9: suppression.store names 2 hosts, and one is taken here (redis+sentinel:// and redis+cluster:// take up to 64)",
            "gatepost.toml:5:9: limits.store names a database, and a cluster has only database 0; leave it out",
            "gatepost.toml:6:12: limits.max_keys must be a whole number from 1000 to 50000000 (each takes about 100 bytes); this is 10",
            r#"gatepost.toml:8:8: fleet.name must be the name of this relay: 1 to 253 letters, digits, ".", "_" or "-"; this is "relay 1""#,
            r#"gatepost.toml:9:13: fleet.namespace must be a word of at most 64 letters, digits, ".", "_" or "-"; this is """#,
            r#"gatepost.toml:10:11: fleet.ca_file must be an absolute path such as "/etc/gatepost/valkey-ca.pem"; this is "ca.pem""#,
        ],
        ..CASE
    },
    Case {
        name: "stores that are none",
        gatepost: r#"policy_dir = "{dir}/policy"
[suppression]
store = "/var/lib/gatepost/gatepost.db"
[limits]
store = "memory"
"#,
        expected: &[
            r#"gatepost.toml:3:9: suppression.store must be "sqlite:" and an absolute path, such as "sqlite:/var/lib/gatepost/gatepost.db", or the store of a fleet, such as "redis://valkey.internal:6379/0"; this is "/var/lib/gatepost/gatepost.db""#,
            r#"gatepost.toml:5:9: limits.store must be "local", or the store of a fleet, such as "redis://valkey.internal:6379/0"; this is "memory""#,
        ],
        ..CASE
    },
    Case {
        name: "settings of main.cf as main.cf writes them",
        gatepost: r#"policy_dir = "{dir}/policy"
[postfix]
myorigin = "/etc/mailname"
recipient_delimiter = false
parent_domain_matches_subdomains = "smtpd_access_maps"
"#,
        expected: &[
            r#"gatepost.toml:3:12: postfix.myorigin "/etc/mailname": write the domain itself, as "postconf -hx myorigin" or the file it names shows it"#,
            r#"gatepost.toml:4:23: postfix.recipient_delimiter must be text such as "+", or ""; this is false"#,
            r#"gatepost.toml:5:36: postfix.parent_domain_matches_subdomains must be true or false, without quotes; this is "smtpd_access_maps""#,
        ],
        ..CASE
    },
    Case {
        name: "the event log",
        gatepost: r#"policy_dir = "{dir}/policy"
[event_log]
output = "/var/log/gatepost.log"
"#,
        expected: &[
            r#"gatepost.toml:3:10: event_log.output must be "syslog", "stdout", or "file:" and an absolute path; this is "/var/log/gatepost.log""#,
        ],
        ..CASE
    },
    Case {
        name: "the milter's section",
        gatepost: r#"policy_dir = "{dir}/policy"
[milter]
listen = "unix:/run/milter.sock"
correlation_header = "X-Correlation-ID:"
ses_configuration_set = "relay events"
trusted_networks = ["10.0.0.1/16", "10.0.0.0/33"]
bounce_sender = "bounces"
"#,
        expected: &[
            r#"gatepost.toml:4:22: milter.correlation_header must be the name of a header, such as "X-Correlation-ID"; this is "X-Correlation-ID:""#,
            r#"gatepost.toml:5:25: milter.ses_configuration_set must be the name of an SES configuration set: 1 to 64 letters, digits, "_" or "-"; this is "relay events""#,
            r#"gatepost.toml:6:21: milter.trusted_networks: "10.0.0.1/16" has bits set beyond its prefix; for the network write "10.0.0.0/16""#,
            r#"gatepost.toml:6:36: milter.trusted_networks: "10.0.0.0/33" is no IP address or network; write one such as "10.0.1.5" or "10.0.1.0/24""#,
            r#"gatepost.toml:7:17: milter.bounce_sender "bounces": no @ in the address"#,
        ],
        ..CASE
    },
    Case {
        name: "the milter's section, no key of the right kind",
        gatepost: r#"policy_dir = "{dir}/policy"
[milter]
listen = 10032
listen_local = ["milter.sock", "unix:relative.sock", 5]
correlation_header = 7
ses_configuration_set = true
trusted_networks = "10.0.0.0/16"
bounce_sender = ["a@b"]
max_connections = "100"
listn = "unix:/run/x.sock"
"#,
        expected: &[
            r#"gatepost.toml:3:10: milter.listen must be an address such as "unix:/run/gatepost/x.sock" or "inet:127.0.0.1:10031", or a list of them; this is 10032"#,
            r#"gatepost.toml:4:17: milter.listen_local "milter.sock": an address begins with "unix:" or "inet:", as in "unix:/run/gatepost/x.sock" or "inet:127.0.0.1:10031""#,
            r#"gatepost.toml:4:32: milter.listen_local "unix:relative.sock": the path of a socket must be absolute, as in "unix:/run/gatepost/x.sock""#,
            r#"gatepost.toml:4:54: milter.listen_local must be an address such as "unix:/run/gatepost/x.sock" or "inet:127.0.0.1:10031"; this is 5"#,
            r#"gatepost.toml:5:22: milter.correlation_header must be the name of a header, such as "X-Correlation-ID"; this is 7"#,
            r#"gatepost.toml:6:25: milter.ses_configuration_set must be the name of an SES configuration set: 1 to 64 letters, digits, "_" or "-"; this is true"#,
            r#"gatepost.toml:7:20: milter.trusted_networks must be a list such as ["10.0.0.0/16"]; this is "10.0.0.0/16""#,
            r#"gatepost.toml:8:17: milter.bounce_sender must be an address such as "bounces@example.com"; this is a list"#,
            r#"gatepost.toml:9:19: milter.max_connections must be a whole number from 10 to 1000000 (Postfix has one for each smtpd process); this is "100""#,
            r#"gatepost.toml:10:1: unknown key "listn" in [milter], did you mean listen? known here: listen, listen_local, correlation_header, ses_configuration_set, max_connections, trusted_networks, bounce_sender"#,
        ],
        ..CASE
    },
    Case {
        name: "the milter's section, empty and too much",
        gatepost: r#"policy_dir = "{dir}/policy"
[milter]
listen = []
correlation_header = ""
ses_configuration_set = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
trusted_networks = ["10.0.0.0/16", 5, "relay.example.com", ""]
bounce_sender = ""
max_connections = 1000001
"#,
        expected: &[
            r#"gatepost.toml:2:1: warning: [milter] has neither listen nor listen_local, so no message is stamped; add a line such as listen = ["unix:/var/spool/postfix/gatepost/milter.sock"]"#,
            r#"gatepost.toml:4:22: milter.correlation_header must be the name of a header, such as "X-Correlation-ID"; this is """#,
            r#"gatepost.toml:5:25: milter.ses_configuration_set must be the name of an SES configuration set: 1 to 64 letters, digits, "_" or "-"; this is "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…""#,
            r#"gatepost.toml:6:36: milter.trusted_networks must be text such as "10.0.1.0/24"; this is 5"#,
            r#"gatepost.toml:6:39: milter.trusted_networks: "relay.example.com" is no IP address or network; write one such as "10.0.1.5" or "10.0.1.0/24""#,
            r#"gatepost.toml:6:60: milter.trusted_networks: "" is no IP address or network; write one such as "10.0.1.5" or "10.0.1.0/24""#,
            r#"gatepost.toml:7:17: milter.bounce_sender "": no @ in the address"#,
            r#"gatepost.toml:8:19: milter.max_connections must be a whole number from 10 to 1000000 (Postfix has one for each smtpd process); this is 1000001"#,
        ],
        ..CASE
    },
    Case {
        name: "one socket for two, and a header that is SES's",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation]
listen = "unix:/run/policy.sock"
[milter]
listen = ["unix:/run/milter.sock", "unix:/run/policy.sock", "inet:127.0.0.1"]
listen_local = "unix:/run/milter.sock"
correlation_header = "X-SES-MESSAGE-TAGS"
bounce_sender = "bounces@exa mple.com"
[[milter]]
"#,
        expected: &[
            r#"gatepost.toml:5:36: milter.listen "unix:/run/policy.sock" is taken in line 3; each address serves once"#,
            r#"gatepost.toml:5:61: milter.listen "inet:127.0.0.1": after "inet:" stand a host and a port, as in "inet:127.0.0.1:10031" or "inet:[::1]:10031""#,
            r#"gatepost.toml:6:16: milter.listen_local "unix:/run/milter.sock" is taken in line 5; each address serves once"#,
            r#"gatepost.toml:7:22: milter.correlation_header "X-SES-MESSAGE-TAGS" has a meaning of its own, and would be taken out of every message; choose one that nobody else uses, such as "X-Correlation-ID""#,
            r#"gatepost.toml:8:17: milter.bounce_sender "bounces@exa mple.com": a character that no address may hold, or an unbalanced quote"#,
            r#"gatepost.toml:9:3: "milter" stands here a second time; keep one of them"#,
        ],
        ..CASE
    },
    Case {
        name: "the events' section",
        gatepost: r#"policy_dir = "{dir}/policy"
[events]
source = "sns"
queue_url = "ses-events-queue"
accounts = ["1234", 123456789012]
[logs]
paths = ["mail.log"]
journal = "yes"
"#,
        expected: &[
            r#"gatepost.toml:3:10: events.source must be "sqs" or "spool"; this is "sns""#,
            r#"gatepost.toml:4:13: events.queue_url must be the URL of a queue, such as "https://sqs.eu-west-1.amazonaws.com/123456789012/ses-events-queue"; this is "ses-events-queue""#,
            r#"gatepost.toml:5:13: events.accounts must be an AWS account of 12 digits in quotes, such as "123456789012"; this is "1234""#,
            r#"gatepost.toml:5:21: events.accounts must be an AWS account of 12 digits in quotes, such as "123456789012"; this is 123456789012"#,
            r#"gatepost.toml:7:10: logs.paths must be an absolute path such as "/var/log/mail.log*"; this is "mail.log""#,
            r#"gatepost.toml:8:11: logs.journal must be true or false, without quotes; this is "yes""#,
        ],
        ..CASE
    },
    Case {
        name: "a pattern of logs that is none",
        gatepost: r#"policy_dir = "{dir}/policy"
[logs]
paths = ["/var/log/mail.log*", "/var/log/mail.[log"]
"#,
        expected: &[r#"gatepost.toml:3:32: logs.paths "/var/log/mail.[log": invalid range pattern, at character 15"#],
        ..CASE
    },
    Case {
        name: "logs that are none",
        gatepost: r#"policy_dir = "{dir}/policy"
[logs]
paths = []
"#,
        expected: &[
            r#"gatepost.toml:3:9: logs.paths is empty; name at least one log, or the journal by journal = true"#,
        ],
        ..CASE
    },
    Case {
        name: "neither logs nor the journal",
        gatepost: r#"policy_dir = "{dir}/policy"
[logs]
journal = false
"#,
        expected: &[
            r#"gatepost.toml:2:1: [logs] has no paths; add a line such as paths = ["/var/log/mail.log*"], or journal = true"#,
        ],
        ..CASE
    },
    Case {
        name: "an event source without its queue",
        gatepost: r#"policy_dir = "{dir}/policy"
[events]
source = "sqs"
"#,
        expected: &[
            r#"gatepost.toml:2:1: [events] has source "sqs" but no queue_url; add a line such as queue_url = "https://sqs.eu-west-1.amazonaws.com/123456789012/ses-events-queue""#,
            r#"gatepost.toml:2:1: warning: [events] has no accounts, so events of every account are taken, from whoever may write to the queue; name yours, such as accounts = ["123456789012"]"#,
        ],
        ..CASE
    },
    Case {
        name: "accounts that are none",
        gatepost: r#"policy_dir = "{dir}/policy"
[events]
source = "spool"
spool_dir = "/var/lib/gatepost/spool"
accounts = []
"#,
        expected: &[
            "gatepost.toml:5:12: events.accounts is empty; name at least one account, or take the line out to take events of all",
        ],
        ..CASE
    },
    Case {
        name: "a public admin socket is a warning only",
        gatepost: r#"policy_dir = "{dir}/policy"
[admin]
listen = ["unix:/run/gatepost/admin.sock", "inet:0.0.0.0:9925"]
"#,
        expected: &[
            r#"gatepost.toml:3:10: warning: admin.listen "inet:0.0.0.0:9925": other machines can read the metrics there; use 127.0.0.1 unless a firewall stands before it"#,
        ],
        ..CASE
    },
    Case {
        name: "values without quotes, keys without values, a key twice",
        gatepost: r#"policy_dir = "{dir}/policy"
state_dir = /var/lib/gatepost
[delegation]
listen
socket_group = postfix
socket_mode = "0660"
socket_mode = "0666"
"#,
        expected: &[
            r#"gatepost.toml:2:13: text must stand in quotes: write "/var/lib/gatepost""#,
            "gatepost.toml:4:7: a key without a value; write key = value",
            r#"gatepost.toml:5:16: text must stand in quotes: write "postfix""#,
            r#"gatepost.toml:7:1: "socket_mode" stands here a second time; keep one of them"#,
        ],
        ..CASE
    },
];

const POLICY_TOML: &[Case] = &[
    Case {
        name: "modes",
        policy: r#"[senders]
mode = "enforced"
[recipients]
mode = true
[suppression]
mode = off
"#,
        expected: &[
            r#"policy/policy.toml:2:8: senders.mode must be "enforce", "observe" or "off"; this is "enforced""#,
            r#"policy/policy.toml:4:8: recipients.mode must be "enforce", "observe" or "off"; this is true"#,
            r#"policy/policy.toml:6:8: off is no value; write false for a switch, "off" for a text"#,
        ],
        ..CASE
    },
    Case {
        name: "unknown keys",
        policy: r#"[sender]
mode = "observe"
[suppression]
exempt_recipient = []
[[limits]]
name = "x"
"#,
        expected: &[
            r#"policy/policy.toml:1:2: unknown key "sender" at the top of the file, did you mean senders? known here: senders, recipients, suppression, local, limit"#,
            r#"policy/policy.toml:4:1: unknown key "exempt_recipient" in [suppression], did you mean exempt_recipients? known here: mode, action, brake, exempt_recipients, exempt_senders, permanent_bounce, global_list, complaint, mailbox_full"#,
            r#"policy/policy.toml:5:3: unknown key "limits" at the top of the file, did you mean limit? known here: senders, recipients, suppression, local, limit"#,
        ],
        ..CASE
    },
    Case {
        name: "what a limit needs",
        policy: r#"[[limit]]

[[limit]]
name = "per client"
key = "client"
rate = 100
"#,
        expected: &[
            r#"policy/policy.toml:1:1: [[limit]] has no key; add a line such as key = "client_address""#,
            r#"policy/policy.toml:1:1: [[limit]] has no name; add a line such as name = "per-client""#,
            r#"policy/policy.toml:1:1: [[limit]] has no rate; add a line such as rate = "100/min burst 200""#,
            r#"policy/policy.toml:4:8: limit.name must be text of 1 to 64 letters, digits, ".", "_" or "-", such as "per-client"; this is "per client""#,
            r#"policy/policy.toml:5:7: limit.key must be "client_address", "client_network", "sasl_username", "sender", "sender_domain", "recipient_domain" or "all"; this is "client""#,
            r#"policy/policy.toml:6:8: limit.rate must be a rate such as "100/min burst 200", or "unlimited"; this is 100"#,
        ],
        ..CASE
    },
    Case {
        name: "rates",
        policy: r#"[[limit]]
name = "a"
key = "all"
rate = "0/min"
[[limit]]
name = "b"
key = "all"
rate = "100/fortnight"
[[limit]]
name = "c"
key = "all"
rate = "100 per minute"
[[limit]]
name = "d"
key = "all"
rate = "1,00/h"
[[limit]]
name = "e"
key = "all"
rate = "100/min burst 0"
[[limit]]
name = "f"
key = "all"
rate = "99999999999/d"
[[limit]]
name = "g"
key = "all"
rate = "10/d burst 1000000"
"#,
        expected: &[
            r#"policy/policy.toml:4:9: limit.rate "0/min": a rate of zero would stop all mail; to count nothing write "unlimited", to refuse a sender strike it off allowed_senders"#,
            r#"policy/policy.toml:8:13: limit.rate "100/fortnight": expected a unit of time: s, min, h or d, as in "100/min" or "14d""#,
            r#"policy/policy.toml:12:13: limit.rate "100 per minute": expected "/" and a unit after the number, as in "100/min""#,
            r#"policy/policy.toml:16:9: limit.rate "1,00/h": a comma may only group thousands, as in "1,000/h""#,
            r#"policy/policy.toml:20:23: limit.rate "100/min burst 0": a burst of zero would stop all mail; leave "burst" out and it is the rate's count"#,
            r#"policy/policy.toml:24:9: limit.rate "99999999999/d": the number is too large, at most 1,000,000,000 can be counted"#,
            r#"policy/policy.toml:28:20: limit.rate "10/d burst 1000000": a burst so large would take over a hundred years to fill at this rate; write a smaller burst"#,
        ],
        ..CASE
    },
    Case {
        name: "a rate without quotes",
        policy: r#"[[limit]]
name = "a"
key = "all"
rate = 100/min burst 200
"#,
        expected: &[r#"policy/policy.toml:4:8: text must stand in quotes: write "100/min burst 200""#],
        ..CASE
    },
    Case {
        name: "names that are taken",
        policy: r#"[[limit]]
name = "a"
key = "all"
rate = "1/s"
[[limit]]
name = "a"
key = "sender"
rate = "1/s"
"#,
        expected: &[r#"policy/policy.toml:6:8: limit.name "a" is taken by the limit in line 1; choose another"#],
        ..CASE
    },
    Case {
        name: "replies",
        policy: r#"[[limit]]
name = "a"
key = "all"
rate = "1/s"
reply = "450 5.7.1"
[[limit]]
name = "b"
key = "all"
rate = "1/s"
reply = "slow down"
[[limit]]
name = "c"
key = "all"
rate = "1/s"
reply = 450
"#,
        expected: &[
            r#"policy/policy.toml:5:9: limit.reply "450 5.7.1": the reply code and the enhanced status code are of different classes"#,
            r#"policy/policy.toml:10:9: limit.reply "slow down": expected a reply code and an enhanced status code such as "450 4.7.1""#,
            r#"policy/policy.toml:15:9: limit.reply must be text such as "450 4.7.1"; this is 450"#,
        ],
        ..CASE
    },
    Case {
        name: "overrides of client limits",
        policy: r#"[[limit]]
name = "a"
key = "client_address"
rate = "1/s"
[limit.override]
"10.10.9.7/24" = "unlimited"
"10.10.3.125" = "1000/min"
"10.10.3.125/32" = "2000/min"
"app1.example.com" = "1/s"
"10.10.4.0/24" = "none"
"2001:db8::/129" = "1/s"
"#,
        expected: &[
            r#"policy/policy.toml:6:1: override "10.10.9.7/24" has bits set beyond its prefix; for the network write "10.10.9.0/24""#,
            r#"policy/policy.toml:8:1: override "10.10.3.125/32" is the network of line 7 again; keep one of them"#,
            r#"policy/policy.toml:9:1: override "app1.example.com" is no IP address or network; write one such as "10.0.1.5" or "10.0.1.0/24""#,
            r#"policy/policy.toml:10:18: limit.override."10.10.4.0/24" must be a rate such as "100/min burst 200", or "unlimited"; this is "none""#,
            r#"policy/policy.toml:11:1: override "2001:db8::/129" is no IP address or network; write one such as "10.0.1.5" or "10.0.1.0/24""#,
        ],
        ..CASE
    },
    Case {
        name: "overrides of the other limits",
        policy: r#"[[limit]]
name = "a"
key = "sender"
rate = "1/s"
override = { "example.com" = "1/s", "A@example.com" = "1/s", "a@EXAMPLE.com" = "2/s" }
[[limit]]
name = "b"
key = "recipient_domain"
rate = "1/s"
override = { "a@example.com" = "1/s", "@example.org" = "2/s" }
[[limit]]
name = "c"
key = "all"
rate = "1/s"
override = { "example.com" = "1/s" }
"#,
        expected: &[
            r#"policy/policy.toml:5:14: override "example.com": no @ in the address; write a whole address such as "info@example.com""#,
            r#"policy/policy.toml:5:62: override "a@EXAMPLE.com" stands in line 5 already; keep one of them"#,
            r#"policy/policy.toml:10:14: override "a@example.com": no domain; write one such as "example.com""#,
            r#"policy/policy.toml:15:14: a limit with key "all" has one counter and takes no overrides; strike it"#,
        ],
        ..CASE
    },
    Case {
        name: "an override narrower than what is counted is a warning only",
        policy: r#"[[limit]]
name = "a"
key = "client_address"
rate = "1/s"
[limit.override]
"2001:db8::1" = "1000/min"
"#,
        expected: &[
            r#"policy/policy.toml:6:1: warning: override "2001:db8::1" is narrower than the /64 by which this limit counts: it shares its counter with the rest of it"#,
        ],
        ..CASE
    },
    Case {
        name: "IPv6 prefixes",
        policy: r#"[[limit]]
name = "a"
key = "client_address"
rate = "1/s"
ipv6_prefix = 129
[[limit]]
name = "b"
key = "sender"
rate = "1/s"
ipv6_prefix = 64
"#,
        expected: &[
            "policy/policy.toml:5:15: limit.ipv6_prefix must be a whole number from 1 to 128 (bits of an IPv6 address); this is 129",
            r#"policy/policy.toml:10:15: limit.ipv6_prefix is for client keys only; key "sender" has none, strike it"#,
        ],
        ..CASE
    },
    Case {
        name: "limits written as one table",
        policy: r#"[limit]
name = "a"
key = "all"
rate = "1/s"
"#,
        expected: &["policy/policy.toml:1:1: limit must be written as [[limit]], once for each limit; this is a table"],
        ..CASE
    },
    Case {
        name: "suppression",
        policy: r#"[suppression]
action = "reject"
brake = "500"
exempt_recipients = "postmaster@example.com"
exempt_senders = ["security@", "two words", 5]
permanent_bounce = "never"
global_list = { ttl = "14" }
complaint = { ttl = "forever", candidates = 1 }
mailbox_full = { count = 0, within = "never", ttl = "20000d" }
"#,
        expected: &[
            r#"policy/policy.toml:2:10: suppression.action must be "refuse" or "drop"; this is "reject""#,
            r#"policy/policy.toml:3:13: suppression.brake "500": expected "/" and a unit after the number, as in "100/min""#,
            r#"policy/policy.toml:4:21: suppression.exempt_recipients must be a list such as ["postmaster@example.com", "example.org"]; this is "postmaster@example.com""#,
            r#"policy/policy.toml:5:19: suppression.exempt_senders "security@": no domain after the @"#,
            r#"policy/policy.toml:5:32: suppression.exempt_senders must be an address such as "postmaster@example.com" or a domain such as "example.org"; this is "two words""#,
            r#"policy/policy.toml:5:45: suppression.exempt_senders must be text such as "postmaster@example.com" or "example.org"; this is 5"#,
            r#"policy/policy.toml:6:20: suppression.permanent_bounce must be a table; this is "never""#,
            r#"policy/policy.toml:7:26: suppression.global_list.ttl "14": expected a unit of time: s, min, h or d, as in "100/min" or "14d""#,
            r#"policy/policy.toml:8:21: suppression.complaint.ttl must be a time such as "14d", or "never"; this is "forever""#,
            r#"policy/policy.toml:8:45: suppression.complaint.candidates must be "one" or "all"; this is 1"#,
            "policy/policy.toml:9:26: suppression.mailbox_full.count must be a whole number from 1 to 1000; this is 0",
            r#"policy/policy.toml:9:38: suppression.mailbox_full.within must be a time such as "7d", "12h" or "30min"; this is "never""#,
            r#"policy/policy.toml:9:54: suppression.mailbox_full.ttl "20000d": longer than ten years; write a shorter time, or "never" where that is allowed"#,
        ],
        ..CASE
    },
    Case {
        name: "dropping needs the milter: a warning only",
        policy: r#"[suppression]
action = "drop"
"#,
        expected: &[
            r#"policy/policy.toml:1:1: warning: suppression.action "drop" needs a milter, and [milter] listen in gatepost.toml names none: suppressed recipients pass; add it, or write "refuse""#,
        ],
        ..CASE
    },
    Case {
        name: "a correlation header that mail has anyway, and no listener",
        gatepost: r#"policy_dir = "{dir}/policy"
[milter]
correlation_header = "Message-ID"
max_connections = 1
"#,
        expected: &[
            r#"gatepost.toml:2:1: warning: [milter] has neither listen nor listen_local, so no message is stamped; add a line such as listen = ["unix:/var/spool/postfix/gatepost/milter.sock"]"#,
            r#"gatepost.toml:3:22: milter.correlation_header "Message-ID" has a meaning of its own, and would be taken out of every message; choose one that nobody else uses, such as "X-Correlation-ID""#,
            r#"gatepost.toml:4:19: milter.max_connections must be a whole number from 10 to 1000000 (Postfix has one for each smtpd process); this is 1"#,
        ],
        ..CASE
    },
    Case {
        name: "local mail",
        policy: r#"[local]
unlisted = "defer"
listed = "ok"
"#,
        expected: &[
            r#"policy/policy.toml:2:12: local.unlisted must be "hold", "bounce" or "discard"; this is "defer""#,
            r#"policy/policy.toml:3:1: unknown key "listed" in [local], did you mean unlisted? known here: unlisted"#,
        ],
        ..CASE
    },
    Case {
        name: "syntax slips, each told once, and what else is wrong",
        policy: r#"[senders]
mode = "observe
[suppression]
brake = 500/h
exempt_senders = ["a@example.com"

[[limit]
name = "a"
[local]
unlisted = "defer"
"#,
        expected: &[
            r#"policy/policy.toml:2:16: the text is not closed; write a " at its end"#,
            r#"policy/policy.toml:4:9: text must stand in quotes: write "500/h""#,
            "policy/policy.toml:7:1: a comma is missing here, or the list or table before is not closed",
        ],
        ..CASE
    },
];

const ALLOWED_SENDERS: &[Case] = &[
    Case {
        name: "no list",
        senders: None,
        expected: &[
            "policy/allowed_senders:1:1: is not there, and without it every sender would be refused; create it (for an empty list, write the line \"# gatepost: empty on purpose\" into it), or set mode = \"off\" in [senders] of policy.toml",
        ],
        ..CASE
    },
    Case { name: "no list where senders are off", policy: "[senders]\nmode = \"off\"\n", senders: None, ..CASE },
];

const SEVERAL_FILES: &[Case] = &[
    Case {
        name: "problems of both files, by file and line",
        gatepost: r#"policy_dir = "{dir}/policy"
[delegation]
listen = "x"
"#,
        policy: r#"[senders]
mode = "observed"
[local]
unlisted = 1
"#,
        expected: &[
            r#"gatepost.toml:3:10: delegation.listen "x": an address begins with "unix:" or "inet:", as in "unix:/run/gatepost/x.sock" or "inet:127.0.0.1:10031""#,
            r#"policy/policy.toml:2:8: senders.mode must be "enforce", "observe" or "off"; this is "observed""#,
            r#"policy/policy.toml:4:12: local.unlisted must be "hold", "bounce" or "discard"; this is 1"#,
        ],
        ..CASE
    },
    Case {
        name: "a policy folder that cannot be known is not guessed",
        gatepost: r#"policy_dir = "policy"
"#,
        policy: r#"[senders]
mode = "observed"
"#,
        expected: &[
            r#"gatepost.toml:1:14: policy_dir must be an absolute path such as "/etc/gatepost/policy"; this is "policy""#,
        ],
        ..CASE
    },
    Case {
        name: "a policy folder that is not there",
        gatepost: r#"policy_dir = "{dir}/polices"
"#,
        expected: &["polices:1:1: the policy folder is not there; create it, or set policy_dir"],
        ..CASE
    },
];
