//! What `policy.toml` means; wrong files are in `tests/it/wrong_configs.rs`.

use super::*;
use crate::rules::Problem;
use proptest::prelude::*;
use std::path::Path;

fn read(text: &str) -> Policy {
    let (policy, warnings) = parse(Path::new("policy.toml"), text.as_bytes()).expect("sound");
    assert_eq!(warnings, []);
    policy
}

#[test]
fn a_missing_file_is_the_default() {
    let policy = read("");
    assert_eq!(policy, Policy::default());
    assert_eq!(policy.senders, Mode::Enforce);
    assert_eq!(policy.suppression.global_list, Ttl::For(Duration::from_secs(14 * 86_400)));
    assert_eq!(policy.suppression.mailbox_full.within, Duration::from_secs(7 * 86_400));
}

#[test]
fn every_key_is_read() {
    let policy = read(
        r#"
        [senders]
        mode = "observe"
        [recipients]
        mode = "off"
        [suppression]
        mode = "observe"
        action = "refuse"
        brake = "500/h"
        exempt_recipients = ["postmaster@Example.com", "@example.org", "example.net"]
        exempt_senders = ["security@example.com"]
        permanent_bounce = { ttl = "365d" }
        global_list = { ttl = "never" }
        complaint = { ttl = "30d", candidates = "all" }
        mailbox_full = { count = 3, within = "12h", ttl = "1d" }
        [local]
        unlisted = "bounce"
        "#,
    );
    assert_eq!((policy.senders, policy.recipients), (Mode::Observe, Some(Mode::Off)));
    assert_eq!(policy.local.unlisted, Unlisted::Bounce);
    let rules = policy.suppression;
    assert_eq!((rules.mode, rules.action), (Mode::Observe, DropOrRefuse::Refuse));
    assert_eq!(rules.brake.map(|rate| rate.to_string()), Some("500/h".into()));
    assert!(rules.exempt_recipients.addresses.contains(&b"postmaster@example.com"[..]));
    assert!(rules.exempt_recipients.domains.contains(&b"example.org"[..]));
    assert!(rules.exempt_recipients.domains.contains(&b"example.net"[..]));
    assert!(rules.exempt_senders.addresses.contains(&b"security@example.com"[..]));
    let days = |days: u64| Ttl::For(Duration::from_secs(days * 86_400));
    assert_eq!((rules.permanent_bounce, rules.global_list, rules.complaint), (days(365), Ttl::Never, days(30)));
    assert!(!rules.complaint_needs_one_candidate);
    let within = Duration::from_secs(43_200);
    assert_eq!(rules.mailbox_full, MailboxFull { count: 3, within, ttl: days(1) });
}

#[test]
fn limits_are_read_with_their_overrides() {
    let policy = read(
        r#"
        [[limit]]
        name = "per-client"
        key = "client_address"
        count = "recipients"
        rate = "100/min burst 200"
        mode = "observe"
        reply = "554 5.7.1"
        ipv6_prefix = 56
        [limit.override]
        "10.0.0.0/8" = "unlimited"
        "10.10.3.125" = "1000/min"
        "10.10.9.0/24" = "unlimited"

        [[limit]]
        name = "domain"
        key = "recipient_domain"
        rate = "1,000/h"
        override = { "Example.COM" = "5/s" }
        "#,
    );
    let [client, domain] = &policy.limits[..] else { panic!("two limits") };
    assert_eq!((client.line, client.key, client.count), (2, KeyKind::ClientAddress, Count::Recipients));
    assert_eq!((client.mode, client.reply.to_string(), client.ipv6_prefix), (Mode::Observe, "554 5.7.1".into(), 56));
    let quota = |ip: &str| client.quota_of_client(ip.parse().expect(ip)).to_string();
    assert_eq!(quota("10.10.3.125"), "1000/min");
    assert_eq!(quota("10.10.3.126"), "unlimited");
    assert_eq!(quota("192.0.2.1"), "100/min burst 200");
    assert_eq!(client.overrides.networks.iter().map(|(net, _)| net.prefix_len()).collect::<Vec<_>>(), [32, 24, 8]);
    assert_eq!((domain.mode, domain.reply, domain.ipv6_prefix), (Mode::Enforce, ReplyCode::SLOW_DOWN, 64));
    assert_eq!(domain.quota_of_text(b"example.com").to_string(), "5/s");
    assert_eq!(domain.quota_of_text(b"example.org").to_string(), "1000/h");
}

#[test]
fn there_is_a_most_of_limits() {
    let limit = |n| format!("[[limit]]\nname = \"l{n}\"\nkey = \"all\"\nrate = \"1/s\"\n");
    let text = |n| (0..n).map(limit).collect::<String>();
    assert_eq!(read(&text(MAX_LIMITS)).limits.len(), MAX_LIMITS);
    let problems = parse(Path::new("p"), text(MAX_LIMITS + 9).as_bytes()).expect_err("too many");
    assert_eq!(
        problems.iter().map(Problem::to_string).collect::<Vec<_>>(),
        ["p:257:1: more than 64 limits, and every message is charged to each; use fewer"]
    );
}

proptest! {
    #[test]
    fn no_file_panics(
        bytes: Vec<u8>,
        lines in prop::collection::vec("(\\[\\[limit\\]\\]|\\[limit.override\\]|\\[suppression\\]|(name|key|rate|override|brake|complaint|exempt_senders|x) = (\"[a-z0-9/@.: ]{0,12}\"|[0-9]{1,3}|\\{ ttl = \"\\PC{0,4}\" \\}|\\[\"\\PC{0,6}\"\\]))", 0..12),
    ) {
        let _ = salvage(Path::new("p"), &bytes);
        let _ = salvage(Path::new("p"), lines.join("\n").as_bytes());
    }
}
