//! The other settings of main.cf that bear on gatepost's checks: error limits, the delay of refusals, numbers of
//! processes, and what changes a lookup.

use super::catalogue as c;
use super::finding::{Fault, Report, Verdict};
use super::lists::shipped;
use super::postconf::Postfix;
use super::site::Site;

/// Looks at all of them.
pub(super) fn check(site: &Site, postfix: &Postfix, report: &mut Report) {
    let delay = postfix.is_yes("smtpd_delay_reject");
    report.add(c::DELAY_REJECT, Verdict::fault_if(!delay, "smtpd_delay_reject = no", "smtpd_delay_reject = yes"));
    let soft = postfix.is_yes("soft_bounce");
    report.add(c::SOFT_BOUNCE, Verdict::fault_if(soft, "soft_bounce = yes", "soft_bounce = no"));
    report.add(c::ERROR_LIMITS, error_limits(postfix));
    report.add(c::PROCESS_LIMIT, processes(site, postfix));
    lookups(site, postfix, report);
}

/// Under stress too: a value may depend on it.
fn error_limits(postfix: &Postfix) -> Vec<Fault> {
    let most: u64 = postfix.get("smtpd_recipient_limit").parse().unwrap_or(1_000);
    let services = postfix.smtpd().flat_map(|service| {
        let own = |name| Some((format!("master.cf: {}: ", service.name), service.overrides.get(name)?.clone()));
        LIMITS.iter().filter_map(move |name| Some((*name, own(*name)?)))
    });
    // What postconf expands is the value without stress.
    let value = |name| postfix.set(name).filter(|raw| raw.contains("stress")).unwrap_or_else(|| postfix.get(name));
    let all = LIMITS.iter().map(|name| (*name, (String::new(), value(name).to_owned())));
    let too_low = |(name, (place, value)): (&str, (String, String))| {
        let least = least(&value)?;
        let what = format!("{place}{name} = {value}, and a mail may have {most} recipients");
        (least < most).then(|| Fault::new(what, shipped(name)))
    };
    all.chain(services).filter_map(too_low).collect()
}

const LIMITS: [&str; 2] = ["smtpd_soft_error_limit", "smtpd_hard_error_limit"];

/// The lowest number that a value can become: all of its branches count.
fn least(value: &str) -> Option<u64> {
    value.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).min()
}

/// One connection for each smtpd process and list, and a milter session for each.
fn processes(site: &Site, postfix: &Postfix) -> Vec<Fault> {
    let processes = postfix.smtpd_processes();
    let mut faults = Vec::new();
    let (has, needs) = (site.config.max_connections, processes * 3);
    if has < needs {
        let what = format!("[delegation] max_connections = {has}, and {processes} smtpd processes open {needs}");
        faults.push(Fault::new(what, format!("[delegation]\nmax_connections = {}", needs * 2)));
    }
    if let Some(milter) = site.config.milter.as_ref().filter(|milter| milter.max_connections <= processes) {
        let what =
            format!("[milter] max_connections = {}, and there are {processes} smtpd processes", milter.max_connections);
        faults.push(Fault::new(what, format!("[milter]\nmax_connections = {}", processes * 3)));
    }
    faults
}

/// `[postfix]` of gatepost.toml.
fn lookups(site: &Site, postfix: &Postfix, report: &mut Report) {
    let ours = &site.config.postfix;
    let differs = |name: &str, theirs: &str, ours: String, toml: String| {
        let what = format!("{name} is \"{theirs}\" in main.cf, and {ours} in [postfix] of gatepost.toml");
        Fault::new(what, toml)
    };
    let origin = postfix.get("myorigin");
    // Debian: the first line of a file.
    let file = origin.starts_with('/').then(|| std::fs::read_to_string(origin).unwrap_or_default());
    let origin = file.as_deref().map_or(origin, |text| text.lines().next().unwrap_or_default().trim());
    let same = origin.eq_ignore_ascii_case(&ours.myorigin);
    report.add(
        c::MYORIGIN,
        (!same).then(|| {
            differs("myorigin", origin, format!("\"{}\"", ours.myorigin), format!("[postfix]\nmyorigin = \"{origin}\""))
        }),
    );
    let theirs = postfix.get("recipient_delimiter");
    let delimiter = (theirs != ours.recipient_delimiter).then(|| {
        let toml = format!("[postfix]\nrecipient_delimiter = \"{theirs}\"");
        differs("recipient_delimiter", theirs, format!("\"{}\"", ours.recipient_delimiter), toml)
    });
    report.add(c::RECIPIENT_DELIMITER, delimiter);
    let lists = postfix.get("parent_domain_matches_subdomains");
    let theirs = lists.split([',', ' ', '\t']).any(|word| word == "smtpd_access_maps");
    let parents = (theirs != ours.parent_domain_matches_subdomains).then(|| {
        let toml = format!("[postfix]\nparent_domain_matches_subdomains = {theirs}");
        differs("parent_domain_matches_subdomains", lists, ours.parent_domain_matches_subdomains.to_string(), toml)
    });
    report.add(c::PARENT_DOMAINS, parents);
}

#[cfg(test)]
mod tests {
    use super::least;

    #[test]
    fn stress_counts() {
        for (value, lowest) in
            [("1000", Some(1_000)), ("${stress?{1}:{1000}}", Some(1)), ("${stress?3}${stress:20}", Some(3)), ("", None)]
        {
            assert_eq!(least(value), lowest, "{value}");
        }
    }
}
