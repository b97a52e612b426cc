//! A load balancer in front: whether Postfix sees the clients behind it, and reads the header that names them where, and
//! only where, it is sent.

use super::catalogue as c;
use super::finding::{Fault, Report, Verdict};
use super::logs::Scan;
use super::postconf::{Postfix, Service};
use super::site::Site;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// So many mails from a few addresses are no accident.
const LEAST_ARRIVALS: usize = 200;

/// Most addresses of a balancer: one in each zone of a region.
const MOST_ZONES: usize = 6;

/// Both ways out of it.
const WAYS: &str = "# the target group keeps the clients' addresses (for a network load balancer):\n\
                    aws elbv2 modify-target-group-attributes --target-group-arn ARN --attributes Key=preserve_client_ip.enabled,Value=true\n\
                    # or it sends them ahead (Key=proxy_protocol_v2.enabled,Value=true), and main.cf has:\n\
                    smtpd_upstream_proxy_protocol = haproxy";

/// Looks at the settings.
pub(super) fn check(postfix: &Postfix, report: &mut Report) {
    let mut faults: Vec<Fault> = postfix.services.iter().filter_map(|service| header(postfix, service)).collect();
    faults.extend(too_old(postfix));
    faults.extend(half(postfix));
    report.add(c::PROXY_PROTOCOL, faults);
}

/// Whether the clients in the log are a balancer's own addresses.
pub(super) fn clients(site: &Site, scan: &Scan) -> Verdict {
    let reads_headers = site.postfix.as_ref().is_ok_and(|postfix| readers(postfix).next().is_some());
    let (clients, most) = (&scan.clients, if site.config.fleet.stores().is_empty() { 1 } else { 2 });
    let knocks = clients.len() <= MOST_ZONES && clients.iter().all(|ip| scan.silent.contains(ip));
    let local = clients.iter().any(IpAddr::is_loopback);
    if clients.is_empty() || local || reads_headers || scan.arrivals < LEAST_ARRIVALS {
        return Verdict::Sound;
    }
    let names: BTreeSet<String> = clients.iter().map(IpAddr::to_string).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(" and ");
    let hint =
        if knocks { ", which also connect without a word, as the health checks of a load balancer do" } else { "" };
    let what = format!("the last {} mails all came from {names}{hint}", scan.arrivals);
    Verdict::fault_if(clients.len() <= most || knocks, what, WAYS)
}

/// The services that take mail from the network, with what each is to read before the first word.
fn readers(postfix: &Postfix) -> impl Iterator<Item = (&Service, &str)> {
    let inet = postfix.services.iter().filter(|service| service.name.ends_with("/inet"));
    inet.filter_map(|service| Some((service, protocol(postfix, service)?)).filter(|(_, protocol)| !protocol.is_empty()))
}

/// The protocol of a service; `None` where it takes no mail by SMTP.
fn protocol<'p>(postfix: &'p Postfix, service: &'p Service) -> Option<&'p str> {
    let param = parameter(service)?;
    Some(service.overrides.get(&param).map_or_else(|| postfix.get(&param), String::as_str))
}

fn parameter(service: &Service) -> Option<String> {
    let takes_mail = matches!(service.program.as_str(), "smtpd" | "postscreen");
    takes_mail.then(|| format!("{}_upstream_proxy_protocol", service.program))
}

/// What is wrong with the header that one service waits for.
fn header(postfix: &Postfix, service: &Service) -> Option<Fault> {
    let (protocol, param) = (protocol(postfix, service)?, parameter(service)?);
    if protocol.is_empty() || !service.name.ends_with("/inet") {
        return None;
    }
    if protocol != "haproxy" {
        let what = format!("{}: {param} is \"{protocol}\", and Postfix knows haproxy only", service.name);
        return Some(Fault::new(what, format!("{param} = haproxy")));
    }
    let local = ["127.", "localhost:", "[::1]:"].iter().any(|host| service.name.starts_with(host));
    let what =
        format!("{} waits for a header, and no load balancer is in front of this machine's own address", service.name);
    local.then(|| Fault::new(what, format!("# below {} in master.cf\n  -o {param}=", service.name)))
}

/// A network load balancer sends version 2 of the protocol (postconf(5): known since 3.5).
fn too_old(postfix: &Postfix) -> Option<Fault> {
    let version = postfix.get("mail_version");
    let mut numbers = version.split(['.', '-']).map_while(|word| word.parse::<u32>().ok());
    let known = (numbers.next(), numbers.next()) >= (Some(3), Some(5));
    let (service, _) = readers(postfix).next().filter(|_| !known)?;
    let what = format!("{} reads the PROXY header, and Postfix {version} does not know version 2 of it", service.name);
    Some(Fault::new(
        what,
        "# Postfix 3.5 or later; or the target group keeps the clients' addresses\nsmtpd_upstream_proxy_protocol =",
    ))
}

/// Postscreen stands in front of smtpd, and has a setting of its own.
fn half(postfix: &Postfix) -> Option<Fault> {
    let meant = !postfix.get("smtpd_upstream_proxy_protocol").is_empty();
    let is_deaf =
        |service: &&Service| service.program == "postscreen" && protocol(postfix, service).is_some_and(str::is_empty);
    let service = postfix.services.iter().find(is_deaf).filter(|_| meant)?;
    let what = format!("{} is postscreen's, which reads no header, and smtpd would", service.name);
    Some(Fault::new(what, "postscreen_upstream_proxy_protocol = haproxy"))
}
