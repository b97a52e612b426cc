//! A look at the whole installation: Postfix, the daemon, AWS, the logs. Every check is in the [`catalogue`] with its id; what
//! is found is told with why it matters and what to change. Nothing is changed.

mod access;
mod aws;
mod balancer;
pub mod catalogue;
mod fallback;
mod finding;
mod fleet;
mod lists;
mod logs;
mod milters;
mod neighbours;
mod postconf;
mod relay;
mod restrictions;
mod running;
pub mod send_test;
mod service;
mod session;
mod site;
mod sockets;

pub use finding::{Check, Fault, Group, Report, Severity, Verdict};
pub use site::Site;

/// Makes all checks.
#[must_use]
pub fn examine(site: &Site) -> Report {
    let mut report = Report::default();
    match &site.postfix {
        Ok(postfix) => {
            report.add(catalogue::POSTCONF, Verdict::Sound);
            report.add(catalogue::MAIN_CF_WARNINGS, warnings(postfix));
            lists::check(site, postfix, &mut report);
            session::check(site, postfix, &mut report);
            fallback::check(site, postfix, &mut report);
            sockets::check(site, postfix, &mut report);
            milters::check(site, postfix, &mut report);
            balancer::check(postfix, &mut report);
            relay::check(postfix, &mut report);
            relay::selinux(site, &mut report);
        }
        Err(error) => {
            let dir = site.postfix_dir.as_ref().map_or_else(String::new, |dir| format!(" -c {}", dir.display()));
            report.add(catalogue::POSTCONF, Fault::new(error, format!("postconf{dir} -n")));
        }
    }
    service::check(site, &mut report);
    fleet::check(site, &mut report);
    let scan = logs::Scan::of(site);
    aws::check(site, &scan, &mut report);
    logs::check(site, &scan, &mut report);
    neighbours::check(site, &mut report);
    report
}

fn warnings(postfix: &postconf::Postfix) -> Verdict {
    let fault = |line: &String| {
        let what = line.split_once("warning: ").map_or(line.as_str(), |(_, what)| what);
        Fault::new(what, "take the line out, or spell it right")
    };
    postfix.warnings.iter().map(fault).collect::<Vec<_>>().into()
}
