//! SES's events: the queues, and what came out of them lately.

use super::catalogue as c;
use super::finding::{Check, Fault, Report, Verdict};
use super::logs::Scan;
use super::site::Site;
use crate::daemon::config::EventSource;
use crate::events::sqs::inspect::{Attributes, Inspection, Trouble, inspect};

/// SQS's default, and what a weekend takes.
const LEAST_RETENTION: u64 = 4 * 86_400;

/// More than the pollers take within seconds.
const MOST_WAITING: u64 = 10_000;

/// AWS refuses signatures that are five minutes off; half of that is a clock that runs away.
const MOST_AHEAD: i64 = 150;

/// How long SES may take to tell of a mail, in seconds, before its silence means something.
pub(super) const SES_TAKES: i64 = 900;

const QUEUES: [Check; 6] =
    [c::QUEUE, c::QUEUE_RIGHTS, c::DEAD_LETTER_QUEUE, c::DEAD_LETTERS, c::QUEUE_RETENTION, c::QUEUE_BACKLOG];

/// Looks at all of it.
pub(super) fn check(site: &Site, scan: &Scan, report: &mut Report) {
    match site.config.events.as_ref().map(|events| &events.source) {
        Some(EventSource::Sqs(urls)) => queues(site, urls, report),
        _ => report.skip(&QUEUES, "[events] names no queue"),
    }
    if site.config.events.is_none() {
        report.skip(&[c::EVENTS_SILENT, c::EVENTS_TWICE, c::EVENTS_FOREIGN], "there is no [events]");
    } else {
        events(site, scan, report);
    }
    let set = site.config.milter.as_ref().and_then(|milter| milter.ses_configuration_set.as_ref());
    let why = set.map_or("none is stamped".to_owned(), |set| {
        format!(
            "the relay's role may not ask SES; run: aws sesv2 get-configuration-set-event-destinations \
             --configuration-set-name {set}"
        )
    });
    report.add(c::CONFIGURATION_SET, Verdict::skipped(why));
}

fn queues(site: &Site, urls: &[String], report: &mut Report) {
    let mut found: Vec<(Check, Verdict)> = Vec::new();
    for url in urls {
        match inspect(url) {
            Ok(inspection) => judge(site, url, &inspection, &mut found),
            Err(error) => found.push((c::QUEUE, Verdict::skipped(error.to_string()))),
        }
    }
    for check in QUEUES {
        let of_check = found.iter().filter(|(other, _)| *other == check).map(|(_, verdict)| verdict.clone());
        report.add(check, Verdict::together(of_check));
    }
    // (Said beside the clock of the files.)
    let clocks = found.into_iter().filter(|(check, verdict)| *check == c::CLOCK && *verdict != Verdict::Sound);
    clocks.for_each(|(check, verdict)| report.add(check, verdict));
}

fn judge(site: &Site, url: &str, inspection: &Inspection, found: &mut Vec<(Check, Verdict)>) {
    let mut add = |check: Check, verdict: Verdict| found.push((check, verdict));
    if let Some(ahead) = inspection.ahead.filter(|ahead| ahead.abs() > MOST_AHEAD) {
        let what = format!(
            "this machine's clock is {} s {} that of AWS",
            ahead.abs(),
            if ahead > 0 { "before" } else { "behind" }
        );
        add(c::CLOCK, Fault::new(what, "timedatectl set-ntp true   # and: timedatectl timesync-status").into());
    }
    let attributes = match &inspection.attributes {
        Ok(attributes) => attributes,
        Err(trouble) => return away(site, url, trouble, found),
    };
    add(c::QUEUE, Verdict::Sound);
    add(c::QUEUE_RIGHTS, rights(url, &inspection.forbidden));
    let has_dead = attributes.dead_letter_arn.is_some();
    let set = format!(
        "aws sqs set-queue-attributes --queue-url {url} --attributes \
         '{{\"RedrivePolicy\":\"{{\\\"deadLetterTargetArn\\\":\\\"ARN\\\",\\\"maxReceiveCount\\\":10}}\"}}'"
    );
    add(c::DEAD_LETTER_QUEUE, Verdict::fault_if(!has_dead, format!("{url} has no dead-letter queue"), set));
    add(c::DEAD_LETTERS, dead_letters(inspection.dead_letters.as_ref()));
    add(c::QUEUE_RETENTION, retention(url, attributes));
    let what = format!("{} events wait in {url}", attributes.waiting);
    let fix = "journalctl -u gatepost   # says what holds the pollers up";
    add(c::QUEUE_BACKLOG, Verdict::fault_if(attributes.waiting > MOST_WAITING, what, fix));
}

/// The queue did not say; where the daemon reaches it, these are only not its credentials.
fn away(site: &Site, url: &str, trouble: &Trouble, found: &mut Vec<(Check, Verdict)>) {
    let reaches = site.running.metric("gatepost_events_last_success_age_seconds").is_some_and(|age| age < 120.0);
    let words = format!("{url}: {}", trouble.words);
    let verdict = if reaches && (trouble.denied || trouble.credentials) {
        Verdict::skipped(format!("the daemon reaches the queue, but not with the credentials of this shell: {words}"))
    } else {
        let fix = format!("aws sqs get-queue-attributes --queue-url {url} --attribute-names All");
        Fault::new(words, fix).into()
    };
    let check = if trouble.denied { c::QUEUE_RIGHTS } else { c::QUEUE };
    found.push((check, verdict));
    let rest = QUEUES.iter().filter(|other| **other != check);
    found.extend(rest.map(|other| (*other, Verdict::skipped("the queue did not tell"))));
}

fn rights(url: &str, forbidden: &[&str]) -> Verdict {
    let what = format!("these credentials may not {} on {url}", forbidden.join(", "));
    let fix = "aws/template.yaml has the policy: sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility, \
               sqs:GetQueueAttributes";
    Verdict::fault_if(!forbidden.is_empty(), what, fix)
}

fn dead_letters(queue: Option<&(String, Result<Attributes, Trouble>)>) -> Verdict {
    let Some((url, answer)) = queue else { return Verdict::skipped("there is no dead-letter queue") };
    let command =
        format!("aws sqs get-queue-attributes --queue-url {url} --attribute-names ApproximateNumberOfMessages");
    match answer {
        Ok(attributes) => {
            let what = format!("{} messages are in {url}", attributes.waiting);
            let fix = format!(
                "aws sqs receive-message --queue-url {url}   # then, when mended: gatepost ingest, or a redrive"
            );
            Verdict::fault_if(attributes.waiting > 0, what, fix)
        }
        Err(_) => Verdict::skipped(format!("the relay's role may not ask; run: {command}")),
    }
}

fn retention(url: &str, attributes: &Attributes) -> Verdict {
    let what = format!("{url} keeps messages for {} s", attributes.retention);
    let fix = format!("aws sqs set-queue-attributes --queue-url {url} --attributes MessageRetentionPeriod=1209600");
    Verdict::fault_if(attributes.retention < LEAST_RETENTION, what, fix)
}

/// What the daemon counted.
fn events(site: &Site, scan: &Scan, report: &mut Report) {
    let running = &site.running;
    let last = running.metric("gatepost_events_last_event_timestamp_seconds").unwrap_or_default();
    let silent = scan.sent_unanswered();
    let what = format!("{silent} mails went to SES more than {} minutes ago, and no event has come", SES_TAKES / 60);
    let fix = "# the set of aws/template.yaml, or yours\n[milter]\nses_configuration_set = \"relay-events\"";
    report.add(c::EVENTS_SILENT, Verdict::fault_if(silent > 0 && last == 0.0, what, fix));
    if running.metrics.is_empty() {
        return report.skip(&[c::EVENTS_TWICE, c::EVENTS_FOREIGN], "the admin socket does not answer");
    }
    let all = running.sum("gatepost_events_read_total");
    let identity = running.sum("gatepost_events_identity_notifications_total");
    let what = format!("of {all} events {identity} were an identity's own notifications");
    let fix = ["Bounce", "Complaint", "Delivery"].map(|kind| {
        // (Without --sns-topic: none.)
        format!("aws ses set-identity-notification-topic --identity YOURS --notification-type {kind}")
    });
    let fix = fix.join("\n");
    report.add(c::EVENTS_TWICE, Verdict::fault_if(identity > 0.0 && identity < all, what, fix));
    let foreign = running.sum("gatepost_events_foreign_total");
    let what = format!("{foreign} events were of accounts that events.accounts does not name");
    let fix =
        "# or lock the topic's policy to your account (aws/README.md)\n[events]\naccounts = [\"123456789012\", \"…\"]";
    report.add(c::EVENTS_FOREIGN, Verdict::fault_if(foreign > 0.0, what, fix));
}
