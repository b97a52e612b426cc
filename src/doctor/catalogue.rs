//! All checks: their stable ids, how bad a fault is, and why it matters. `docs/doctor.md` says of each what to do; a test
//! holds the two together.

use super::finding::{Check, Group, Severity};

macro_rules! catalogue {
    ($($name:ident: $group:ident $severity:ident $id:literal, $sound:literal, $why:literal;)*) => {
        $(
            #[doc = $sound]
            pub const $name: Check = Check {
                id: $id,
                group: Group::$group,
                severity: Severity::$severity,
                sound: $sound,
                why: $why,
            };
        )*
        /// All of them, in the order in which they are made.
        pub const ALL: &[Check] = &[$($name),*];
    };
}

catalogue! {
    POSTCONF: Postfix Error "postfix-settings", "Postfix's settings can be read",
        "without them nothing of Postfix can be checked";
    MAIN_CF_WARNINGS: Postfix Warning "main-cf-warnings", "postconf warns of nothing in main.cf and master.cf",
        "a setting that stands twice counts where it stands last, and a misspelt one counts nowhere";
    RELAY_RESTRICTIONS: Postfix Error "relay-restrictions", "strangers may not relay",
        "gatepost's DUNNO permits nothing and forbids nothing: without reject_unauth_destination the relay is open, or Postfix refuses to start";
    CHECK_MISSING: Postfix Error "check-missing", "each of gatepost's checks is in its list",
        "what is not asked is not checked: unlisted senders, suppressed recipients or floods pass";
    CHECK_BYPASSED: Postfix Error "check-bypassed", "nothing permits before gatepost's checks",
        "a list ends with the first yes: the clients that it permits are never asked about";
    CHECK_WARN_ONLY: Postfix Error "check-warn-only", "gatepost's checks are not behind warn_if_reject",
        "its refusals become warnings in the log, and the mail goes out";
    CLOSING_REJECT: Postfix Error "closing-reject", "no closing reject stands behind gatepost's checks",
        "gatepost answers DUNNO for what it has nothing against, and the reject behind it then refuses all mail";
    LIMITS_NOT_LAST: Postfix Warning "limits-not-last", "limits are asked last",
        "a mail that a later restriction refuses has been charged already";
    CHECK_CONTEXT: Postfix Error "check-context", "each check says which one it is",
        "without the right policy_context gatepost makes another check there, or none";
    POLICY_ADDRESS: Postfix Error "policy-address", "main.cf asks where gatepost listens",
        "nobody answers at that address: each check falls to its default_action";
    CHROOT_PATH: Postfix Error "chroot-path", "the sockets' paths hold inside the chroot",
        "a chrooted process looks for an absolute path below the queue directory, and finds nothing";
    DEFAULT_ACTION: Postfix Error "default-action", "each check says what counts without gatepost",
        "Postfix's own default is a 451 for every recipient: without gatepost the relay stands still, or opens";
    POLICY_TIMEOUT: Postfix Warning "policy-timeout", "the checks' timeouts are short",
        "a gatepost that is stuck holds up every session for so long; Postfix's own 100 s hold them all";
    POLICY_TRY_LIMIT: Postfix Warning "policy-try-limit", "the checks' try_limit is as shipped",
        "with 2 each recipient costs a second while gatepost is gone; with 1 a session that is open over a restart goes on unchecked";
    SERVICE_OVERRIDE: Postfix Error "service-override", "no service of master.cf goes round the checks",
        "a setting of a service's own replaces that of main.cf for all mail which comes there";
    DELAY_REJECT: Postfix Note "delay-reject", "restrictions wait for RCPT",
        "without the delay a refused sender's mail is refused at MAIL, and no log line names its recipients";
    SOFT_BOUNCE: Postfix Warning "soft-bounce", "refusals for good are for good",
        "soft_bounce makes a 450 of gatepost's 550: clients try suppressed recipients again for days";
    ERROR_LIMITS: Postfix Error "error-limits", "refused recipients do not end a session",
        "each refused recipient counts as an error: past the soft limit each costs a second, at the hard limit the session is cut, and the good recipients of the mail are lost with it";
    RESTRICTION_CLASS: Postfix Error "restriction-class", "the class for the time without gatepost is defined",
        "Postfix answers 451 to everybody when it is to use a class that it does not know";
    FALLBACK_CLASS: Postfix Error "fallback-class", "without gatepost, senders stay checked",
        "the class decides about every sender while gatepost is away: the relay must neither stop nor open";
    FALLBACK_TABLE: Postfix Error "fallback-table", "Postfix can read the list of senders itself",
        "without the table every sender gets a 451 while gatepost is away";
    FALLBACK_TYPE: Postfix Warning "fallback-type", "the fallback table needs no postmap",
        "an edit of the list counts for gatepost at once, and for Postfix only after postmap";
    FALLBACK_STALE: Postfix Warning "fallback-stale", "the fallback table is gatepost's list",
        "while gatepost is away an older list decides who may send";
    FALLBACK_DUPLICATES: Postfix Note "fallback-duplicates", "no sender is listed twice",
        "Postfix takes the first entry and warns of each other one";
    SOCKET_MISSING: Postfix Error "socket-missing", "every socket of gatepost.toml is there",
        "Postfix finds nobody: checks fall to their default_action, milters to theirs";
    SOCKET_ACCESS: Postfix Error "socket-access", "Postfix may connect to the sockets",
        "Postfix's daemons run as their own user: without the right to folder and socket nobody is asked";
    SOCKET_OPEN: Postfix Warning "socket-open", "nobody else may connect to the sockets",
        "every user of this machine can ask who is suppressed, and use up other clients' limits";
    PROCESS_LIMIT: Postfix Warning "process-limit", "gatepost takes all connections that Postfix can open",
        "what is over the bound is closed, and its questions fall to their default_action";
    MILTER_SMTPD: Postfix Warning "milter-smtpd", "mail by SMTP goes to the milter",
        "it is not stamped: no correlation id, no tags, and a forged X-SES header passes";
    MILTER_LOCAL: Postfix Warning "milter-local", "mail by sendmail(1) goes to the milter",
        "cron and mail(1) pass every check of gatepost";
    MILTER_UNSERVED: Postfix Error "milter-unserved", "gatepost serves the milters that main.cf names",
        "Postfix finds nobody there: mail is refused, or goes unstamped, as default_action says";
    MILTER_DEFAULT_ACTION: Postfix Warning "milter-default-action", "the milters say what counts without gatepost",
        "Postfix's own default refuses mail of every open session while gatepost is away; accept for local mail lets it pass the rules";
    MILTER_TIMEOUTS: Postfix Warning "milter-timeouts", "the milters' timeouts are short",
        "a gatepost that is stuck holds up each mail for so long";
    MILTER_PROTOCOL: Postfix Error "milter-protocol", "the milter protocol is version 6",
        "gatepost cannot change headers by an older one: messages are not stamped";
    BOUNCE_FILTER: Postfix Warning "bounce-filter", "bounces go through the milter where they need a sender",
        "SES refuses the null sender: without the milter bounce_sender is never put in, and bounces are lost; without bounce_sender the milter has nothing to do with them";
    PROXY_PROTOCOL: Postfix Error "proxy-protocol", "the PROXY header is read where a load balancer sends it",
        "a service that waits for a header which nobody sends refuses all mail, and one that does not read it refuses the balancer's, or sees its address alone";
    RELAYHOST: Postfix Error "relayhost", "mail goes to a relay host, not by MX",
        "without one Postfix delivers by itself over port 25, which AWS blocks, and nothing goes by SES";
    RELAY_PORT: Postfix Error "relay-port", "the relay host is asked on a submission port",
        "AWS blocks port 25 outwards: mail waits in the queue until it expires";
    RELAY_TLS: Postfix Error "relay-tls", "the relay is only talked to over TLS",
        "SES takes no login without TLS, and the password would go over the wire";
    RELAY_SASL: Postfix Error "relay-sasl", "Postfix logs in at the relay",
        "SES answers 530 Authentication required to every mail";
    MYORIGIN: Postfix Error "myorigin", "gatepost knows Postfix's myorigin",
        "a sender or recipient without a domain is looked up under another name than Postfix gives it";
    RECIPIENT_DELIMITER: Postfix Error "recipient-delimiter", "gatepost knows Postfix's recipient_delimiter",
        "user+tag@domain is looked up otherwise than Postfix would";
    PARENT_DOMAINS: Postfix Error "parent-domains", "gatepost matches subdomains as Postfix does",
        "an entry of a domain counts for its subdomains in gatepost and not in Postfix, or the other way round";
    SELINUX: Postfix Warning "selinux", "SELinux does not stand in the way",
        "an enforcing policy that does not know gatepost keeps smtpd from connecting, whatever modes and owners say";

    CONFIG: Daemon Error "config", "gatepost.toml has no problems",
        "the daemon does not start with it, and does not take it at a reload";
    CONFIG_WARNINGS: Daemon Warning "config-warnings", "gatepost.toml has no warnings",
        "something in it does not do what it seems to";
    CONFIG_ACCESS: Daemon Error "config-access", "the daemon may read gatepost.toml, and of a password in it nobody else",
        "whoever may log in here may change the list of the whole fleet, or the daemon does not start again";
    POLICY: Daemon Error "policy", "the policy folder has no problems",
        "the daemon keeps the rules that it had; a new one starts with the last good copy, or not at all";
    POLICY_WARNINGS: Daemon Warning "policy-warnings", "the policy folder has no warnings",
        "an entry in it does not do what it seems to";
    DAEMON_POLICY: Daemon Error "daemon-policy", "gatepost answers policy questions",
        "Postfix does what default_action says, for every mail";
    DAEMON_MILTER: Daemon Error "daemon-milter", "gatepost answers the milter protocol",
        "Postfix does what the milters' default_action says, for every mail";
    DAEMON_ADMIN: Daemon Error "daemon-admin", "gatepost's admin socket answers",
        "health and metrics cannot be seen, and `gatepost limits` does not work";
    HEALTH: Daemon Error "health", "gatepost says that it is well",
        "mail goes on, with a part of the checks missing";
    VERSION: Daemon Warning "version", "the running gatepost is the installed one",
        "what the files say may mean another thing to the one that runs";
    SECOND_INSTANCE: Daemon Error "second-instance", "no second gatepost shares queue, spool or store",
        "each event goes to one of them only: both lists are incomplete, and both logs";
    STORE: Daemon Error "store", "the suppression list can be read",
        "no recipient is refused, and no event is taken";
    STORE_INTEGRITY: Daemon Error "store-integrity", "the database is sound",
        "entries are missing or wrong, and the next write may fail";
    STORE_WRITABLE: Daemon Error "store-writable", "the daemon may write its database",
        "no event can be applied: bounces and complaints close no door";
    STATE_DIR: Daemon Error "state-dir", "the daemon may write its state folder",
        "counters and the last good policy are not kept, and the daemon does not start again";
    SPOOL_DIR: Daemon Error "spool-dir", "the daemon may empty its spool",
        "events stay in the folder and close no door";
    CLOCK: Daemon Warning "clock", "the clock is right",
        "AWS refuses requests that are minutes off, entries expire at the wrong time, and logs do not join";
    FD_LIMIT: Daemon Warning "fd-limit", "the daemon may open enough files",
        "connections beyond it are not accepted, and their questions fall to default_action";

    FLEET_STORE: Fleet Error "fleet-store", "the store of the fleet answers",
        "the relays do not hear of each other's bounces, and each counts limits for itself";
    FLEET_WRITES: Fleet Error "fleet-writes", "the store takes writes",
        "bounces wait on the relay that read them, and each relay counts limits for itself";
    FLEET_EVICTION: Fleet Error "fleet-eviction", "the store drops nothing when it is full",
        "counters begin anew, events count twice, or the list goes at once and every relay has to send it again, into a full store";
    FLEET_MEMORY: Fleet Warning "fleet-memory", "the store has room",
        "a full store takes no entry and counts no limit";
    FLEET_PERSISTENCE: Fleet Warning "fleet-persistence", "the store keeps its data over a restart",
        "nothing is lost, for the relays have it all and send it again; until then a new relay knows nothing, and limits begin anew";
    FLEET_CLOCK: Fleet Warning "fleet-clock", "the store's clock is this relay's",
        "of two changes of an entry the later one counts, and a relay whose clock is ahead is always the later one";
    FLEET_NAMESPACE: Fleet Warning "fleet-namespace", "no other fleet is in the store",
        "a relay that was given another namespace shares nothing with this one";
    FLEET_NAME: Fleet Error "fleet-name", "every relay has a name of its own",
        "two relays of one name count as one: each takes twice its share of a limit while the store is away, and each believes to hold the other's events";
    FLEET_MEMBERS: Fleet Warning "fleet-members", "every relay that was heard of lately is at work",
        "its share of the mail comes to the others, and while the store is away each of them lets through more, or less, than its share";
    FLEET_LAG: Fleet Warning "fleet-lag", "every relay has heard of all changes",
        "it lets mail through to recipients that the others refuse";
    FLEET_DAEMON: Fleet Error "fleet-daemon", "the running daemon is in the fleet",
        "what this relay learns stays on it, or it counts limits for itself";
    FLEET_SHARES: Fleet Note "fleet-shares", "list and limits are both shared",
        "behind a load balancer a client's mail comes to every relay";

    QUEUE: Aws Error "queue", "the queue answers",
        "no event comes: bounces and complaints close no door";
    QUEUE_RIGHTS: Aws Error "queue-rights", "the credentials may work the queue",
        "events come again and again, or cannot be read at all";
    DEAD_LETTER_QUEUE: Aws Warning "dead-letter-queue", "the queue has a dead-letter queue",
        "what cannot be read has nowhere to go but the quarantine of this machine";
    DEAD_LETTERS: Aws Warning "dead-letters", "the dead-letter queue is empty",
        "each message there is an event that closed no door";
    QUEUE_RETENTION: Aws Warning "queue-retention", "the queue keeps events long enough",
        "what is older than that when gatepost comes back is lost";
    QUEUE_BACKLOG: Aws Warning "queue-backlog", "the queue does not pile up",
        "doors close late, by as long as the events wait";
    EVENTS_SILENT: Aws Warning "events-silent", "SES tells what became of the mail",
        "a mail without the configuration set, or a topic that SES may not write to, is silent: no bounce closes a door";
    EVENTS_TWICE: Aws Warning "events-twice", "SES tells everything once",
        "an identity's own notifications beside those of the configuration set cost twice, and their lines stand twice in the log";
    EVENTS_FOREIGN: Aws Warning "events-foreign", "all events are of the accounts that are named",
        "somebody else writes to the queue, or an account of yours is not in events.accounts and its bounces count for nothing";
    CONFIGURATION_SET: Aws Warning "configuration-set", "the stamped configuration set exists",
        "SES refuses every mail that names one which it does not know";

    LOGS_THERE: Logs Warning "logs-there", "the mail logs are there",
        "trace and report find nothing, and events without tags are not tied to their mail";
    LOGS_READABLE: Logs Error "logs-readable", "the daemon may read the mail logs",
        "events without tags are not tied to their mail, and trace sees a part";
    LOGS_ROTATED: Logs Warning "logs-rotated", "the mail logs stay readable over rotation",
        "everything works until the first rotation, and then nothing of it";
    LOGS_OF_POSTFIX: Logs Warning "logs-of-postfix", "Postfix's log is among them",
        "trace and report see events and not the mail that they belong to";
    LOGS_PARSED: Logs Warning "logs-parsed", "the mail logs are in a form that is understood",
        "lines that are not understood are passed by, and what they tell is missing";
    LOGS_OF_GATEPOST: Logs Warning "logs-of-gatepost", "gatepost's own lines arrive there",
        "trace and report miss what SES tells, and what gatepost decided";
    JOURNALD: Logs Warning "journald-rate", "journald drops no line",
        "under load lines are dropped, and the mail that they tell of is missing in trace and report";
    FAIL2BAN: Logs Warning "fail2ban", "fail2ban bans no client for refused recipients",
        "an application that writes to some suppressed recipients is banned by the firewall, and all its mail stops";
    CLIENTS: Logs Warning "clients", "clients are seen with their own addresses",
        "limits per client count all of them as one, and conditions on clients mean nothing";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_words_and_stand_once() {
        for (n, check) in ALL.iter().enumerate() {
            assert!(
                check.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{}",
                check.id
            );
            assert!(ALL[..n].iter().all(|other| other.id != check.id), "{} stands twice", check.id);
        }
    }
}
