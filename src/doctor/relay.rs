//! The way out: relay host, TLS, login. And SELinux, which stands between everybody.

use super::catalogue as c;
use super::fallback::stale_index;
use super::finding::{Fault, Report, Verdict};
use super::postconf::Postfix;
use super::site::Site;
use std::net::IpAddr;
use std::path::Path;

/// SES's ports that take mail for relaying and are not blocked; those of the second pair begin with TLS.
const STARTTLS: [u16; 2] = [587, 2587];
const WRAPPED: [u16; 2] = [465, 2465];

/// Levels with which nothing goes out in clear.
const SAFE: [&str; 5] = ["encrypt", "secure", "verify", "fingerprint", "dane-only"];

/// Looks at all of it.
pub(super) fn check(postfix: &Postfix, report: &mut Report) {
    let relayhost = postfix.get("relayhost");
    let Some((host, port)) = split(relayhost) else {
        let example = "relayhost = [email-smtp.eu-west-1.amazonaws.com]:587";
        report.add(c::RELAYHOST, Fault::new("relayhost is empty", example));
        return report.skip(&[c::RELAY_PORT, c::RELAY_TLS, c::RELAY_SASL], "there is no relayhost");
    };
    report.add(c::RELAYHOST, Verdict::Sound);
    // A tunnel, or a stand-in: what counts is what it does.
    if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        return report.skip(&[c::RELAY_PORT, c::RELAY_TLS, c::RELAY_SASL], "the relay host is this machine");
    }
    let known = STARTTLS.contains(&port) || WRAPPED.contains(&port);
    let fix = format!("relayhost = [{host}]:587");
    report.add(c::RELAY_PORT, Verdict::fault_if(!known, format!("relayhost = {relayhost} is port {port}"), fix));
    report.add(c::RELAY_TLS, tls(postfix, port));
    report.add(c::RELAY_SASL, login(postfix, relayhost));
}

/// Host and port of `[host]:port`.
fn split(relayhost: &str) -> Option<(String, u16)> {
    let first = relayhost.split([',', ' ']).next().filter(|first| !first.is_empty())?;
    let (host, port) = match first.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, port)| (host, port.trim_start_matches(':')))?,
        None => first.split_once(':').unwrap_or((first, "")),
    };
    let port = match port {
        "" | "smtp" => 25,
        "submission" => 587,
        "submissions" | "smtps" => 465,
        other => other.parse().ok()?,
    };
    Some((host.to_owned(), port))
}

fn tls(postfix: &Postfix, port: u16) -> Verdict {
    let level = postfix.get("smtp_tls_security_level");
    let wrapped = postfix.is_yes("smtp_tls_wrappermode");
    let is_safe = SAFE.contains(&level) || level.is_empty() && postfix.is_yes("smtp_enforce_tls");
    if !is_safe {
        let shown = if level.is_empty() { "empty" } else { level };
        let what = format!("smtp_tls_security_level is {shown}");
        return Fault::new(what, "smtp_tls_security_level = secure").into();
    }
    if WRAPPED.contains(&port) != wrapped {
        let right = if wrapped { "no" } else { "yes" };
        let what = format!("port {port} with smtp_tls_wrappermode = {}", postfix.get("smtp_tls_wrappermode"));
        return Fault::new(what, format!("smtp_tls_wrappermode = {right}")).into();
    }
    Verdict::Sound
}

fn login(postfix: &Postfix, relayhost: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !postfix.is_yes("smtp_sasl_auth_enable") {
        faults.push(Fault::new("smtp_sasl_auth_enable = no", "smtp_sasl_auth_enable = yes"));
    }
    if postfix.get("smtp_sasl_tls_security_options").contains("noplaintext") {
        let what = "smtp_sasl_security_options holds noplaintext, and SES knows plaintext mechanisms only (inside TLS)";
        faults.push(Fault::new(what, "smtp_sasl_security_options = noanonymous"));
    }
    let maps = postfix.get("smtp_sasl_password_maps");
    match maps.split_once(':') {
        None => faults.push(Fault::new(
            "smtp_sasl_password_maps is empty",
            format!(
                "# with the line: {relayhost} USER:PASSWORD\nsmtp_sasl_password_maps = hash:/etc/postfix/sasl_passwd"
            ),
        )),
        Some((kind, path)) => faults.extend(stale_index(kind, Path::new(path))),
    }
    faults
}

/// What SELinux says, where it is there.
pub(super) fn selinux(site: &Site, report: &mut Report) {
    report.add(c::SELINUX, judge_selinux(site));
}

fn judge_selinux(site: &Site) -> Verdict {
    // selinuxfs(5): 1 is enforcing.
    let Ok(enforce) = std::fs::read_to_string(site.file("/sys/fs/selinux/enforce")) else { return Verdict::Sound };
    if enforce.trim() != "1" {
        return Verdict::Sound;
    }
    let folder = site.file("/var/lib/selinux");
    let Ok(policies) = std::fs::read_dir(&folder) else {
        return Verdict::skipped(format!(
            "SELinux is enforcing, and {} cannot be read to see its modules",
            folder.display()
        ));
    };
    let modules = policies.flatten().map(|policy| policy.path().join("active/modules"));
    let priorities = modules.filter_map(|modules| std::fs::read_dir(modules).ok()).flat_map(|dir| dir.flatten());
    let known = priorities.map(|priority| priority.path().join("gatepost")).any(|module| module.exists());
    let fix = "ausearch -m avc -c smtpd | audit2allow -M gatepost && semodule -i gatepost.pp";
    Verdict::fault_if(!known, "SELinux is enforcing, and no module \"gatepost\" is loaded", fix)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn relay_hosts_are_read() {
        for (text, host, port) in [
            ("[a.example]:587", "a.example", 587),
            ("a.example", "a.example", 25),
            ("[a.example]", "a.example", 25),
            ("a.example:submissions", "a.example", 465),
            ("[::1]:2587", "::1", 2587),
        ] {
            assert_eq!(split(text), Some((host.to_owned(), port)), "{text}");
        }
        assert_eq!(split(""), None);
    }
}
