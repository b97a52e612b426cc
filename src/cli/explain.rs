//! `gatepost explain`: the real decision core on the real files, charging nothing.

use super::output::{print, say};
use super::{exit, print_problems};
use crate::daemon::Config;
use crate::decide::{self, Checks, Finding, Judgement, Question, Rule, Suppressed, Verdict};
use crate::delegation::answer::unix_time;
use crate::mail::Canonical;
use crate::meters::{Refused, Why};
use crate::rules::{Mode, Rules, load};
use crate::store::{Entry, Reader};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::net::IpAddr;

/// `gatepost explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The envelope sender; empty for the null sender
    #[arg(long, value_name = "ADDRESS")]
    sender: String,
    /// The recipient
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// The client's address
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// The SASL user
    #[arg(long, value_name = "USER")]
    sasl_user: Option<String>,
    /// How many recipients the message has
    #[arg(long, value_name = "N", default_value_t = 1)]
    recipients: u32,
    /// Only the checks of this protocol state [default: all of them, in their order]
    #[arg(long, value_enum, ignore_case = true)]
    state: Option<StateArg>,
}

/// The protocol states in which gatepost decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    /// The sender
    Mail,
    /// Sender and recipient
    Rcpt,
    /// The limits
    Data,
}

#[derive(Debug, Default, Serialize)]
struct Explained {
    answer: String,
    check: Option<&'static str>,
    mode: Option<&'static str>,
    rule: Option<String>,
    observed: Vec<Observed>,
    limits: Vec<Charged>,
}

#[derive(Debug, Serialize)]
struct Observed {
    answer: String,
    check: &'static str,
    rule: String,
}

#[derive(Debug, Serialize)]
struct Charged {
    limit: String,
    rule: String,
    key: String,
    rate: String,
    mode: &'static str,
    charge: u32,
}

/// Answers the question as the daemon would, and says why.
#[must_use]
pub fn run(args: &ExplainArgs, config: &Config, json: bool) -> u8 {
    let (mut rules, _) = match load::load(&config.policy_dir) {
        Ok(loaded) => loaded,
        Err(problems) => {
            print_problems(&problems);
            return exit::CONFIG;
        }
    };
    rules.rewriting = config.rewriting();
    let recipient = args.recipient.as_deref().map(|r| canonical(r, &rules));
    let entry = match recipient.as_ref().map(|r| stored(config, r)) {
        Some(Err(error)) => {
            say(&format_args!("the suppression list cannot be read, the daemon lets mail pass: {error}"));
            None
        }
        Some(Ok(entry)) => entry,
        None => None,
    };
    let explained = explain(args, &rules, recipient.as_ref(), entry.as_ref(), config);
    if !json {
        return print(&in_words(&explained));
    }
    match serde_json::to_string(&explained) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => {
            say(&error);
            exit::IOERR
        }
    }
}

/// The one entry that the store has for the recipient, as an index.
struct Stored<'a>(Option<&'a Entry>);

impl Suppressed for Stored<'_> {
    fn may_hold(&self, _: &[u8], _: u64) -> bool {
        self.0.is_some()
    }
}

fn explain(
    args: &ExplainArgs,
    rules: &Rules,
    recipient: Option<&Canonical>,
    entry: Option<&Entry>,
    config: &Config,
) -> Explained {
    let sender = canonical(&args.sender, rules);
    let recipients = args.recipients.max(1);
    let domain = recipient.map(Canonical::domain).filter(|domain| !domain.is_empty());
    let domains: Vec<(Box<[u8]>, u32)> = domain.map(|d| (Box::from(d), recipients)).into_iter().collect();
    let question = Question {
        checks: match args.state {
            None => Checks { sender: true, recipient: true, limits: true },
            Some(StateArg::Mail) => Checks { sender: true, recipient: false, limits: false },
            Some(StateArg::Rcpt) => Checks { sender: true, recipient: true, limits: false },
            Some(StateArg::Data) => Checks { sender: false, recipient: false, limits: true },
        },
        sender: &sender,
        recipient,
        client: args.client.map(|ip| ip.to_canonical()),
        sasl_username: args.sasl_user.as_deref().unwrap_or_default().as_bytes(),
        recipient_count: recipients,
        recipient_domains: &domains,
        now: unix_time().as_secs(),
    };
    let mut explained = Explained { answer: "DUNNO".to_owned(), ..Explained::default() };
    let mut judgement = decide::decide(&question, rules, &Stored(entry));
    if let (Verdict::Confirm { mode }, Some(entry)) = (&judgement.verdict, entry) {
        let finding = decide::suppressed(*mode, entry);
        if *mode == Mode::Enforce {
            judgement.verdict = Verdict::Decided(finding);
        } else {
            // Observed: the daemon goes on without it.
            let mut rest = decide::decide(&question, rules, &decide::Nobody);
            rest.observed.push(finding);
            judgement = rest;
        }
    }
    let Judgement { verdict, observed } = judgement;
    explained.observed = observed.iter().map(|f| observe(f, config)).collect();
    match verdict {
        Verdict::Pass | Verdict::Confirm { .. } => {}
        Verdict::Decided(finding) => explained.decided(&finding, config),
        Verdict::Charge(charges) => {
            // What can never be granted needs no counters to be known.
            for (index, charge) in charges.iter().enumerate().filter(|(_, c)| c.n > c.rate.burst()) {
                let Some(finding) = decide::limited(&charges, Refused { index, why: Why::NeverFits }) else { continue };
                if charge.limit.mode == Mode::Enforce {
                    explained.decided(&finding, config);
                    break;
                }
                explained.observed.push(observe(&finding, config));
            }
            explained.limits = charges
                .iter()
                .map(|charge| Charged {
                    limit: charge.limit.name.clone(),
                    rule: place(&Rule::Limit(charge.limit), config),
                    key: charge.key.to_string(),
                    rate: charge.rate.to_string(),
                    mode: charge.limit.mode.as_str(),
                    charge: charge.n,
                })
                .collect();
        }
    }
    explained
}

impl Explained {
    fn decided(&mut self, finding: &Finding<'_>, config: &Config) {
        self.answer = finding.answer.to_string();
        self.check = Some(finding.check.as_str());
        self.mode = Some(finding.mode.as_str());
        self.rule = Some(place(&finding.rule, config));
    }
}

fn observe(finding: &Finding<'_>, config: &Config) -> Observed {
    Observed { answer: finding.answer.to_string(), check: finding.check.as_str(), rule: place(&finding.rule, config) }
}

/// `<>` and `<a@b>` are what SMTP sends; both spellings are taken.
fn canonical(address: &str, rules: &Rules) -> Canonical {
    let address = address.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(address);
    let mut canonical = Canonical::default();
    canonical.set_external(address.as_bytes(), &rules.rewriting);
    canonical
}

fn stored(config: &Config, recipient: &Canonical) -> Result<Option<Entry>, crate::store::StoreError> {
    let Some(reader) = Reader::open_existing(&config.store_path())? else { return Ok(None) };
    let address = String::from_utf8_lossy(recipient.as_bytes());
    let now = i64::try_from(unix_time().as_secs()).unwrap_or(i64::MAX);
    Ok(reader.get(&address)?.filter(|e| e.in_force(now)))
}

/// Where a rule stands, as a path that an editor opens.
fn place(rule: &Rule<'_>, config: &Config) -> String {
    let file = |name: &str| config.policy_dir.join(name).display().to_string();
    match rule {
        Rule::Listed { file: name, line } => format!("{}:{line}", file(name)),
        Rule::Unbound { file: name, line } => format!("{}:{line} (a condition does not hold)", file(name)),
        Rule::Unlisted { file: name } => format!("{} (no entry matches)", file(name)),
        Rule::Limit(limit) => format!("{}:{} ({})", file("policy.toml"), limit.line, limit.name),
        Rule::Suppressed => format!("{} (the suppression list)", config.store_path().display()),
    }
}

fn in_words(explained: &Explained) -> String {
    let mut text = format!("answer: {}\n", explained.answer);
    if let (Some(check), Some(mode), Some(rule)) = (explained.check, explained.mode, &explained.rule) {
        text += &format!("check: {check}\nmode: {mode}\nrule: {rule}\n");
    }
    for observed in &explained.observed {
        text += &format!(
            "observed: check {} would have answered: {}\n  rule: {}\n",
            observed.check, observed.answer, observed.rule
        );
    }
    for charged in &explained.limits {
        text += &format!(
            "limit: {} would be charged {} for {} (rate {}, mode {})\n  rule: {}\n",
            charged.limit, charged.charge, charged.key, charged.rate, charged.mode, charged.rule
        );
    }
    text
}
