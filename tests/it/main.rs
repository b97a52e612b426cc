//! The tests that start things: the real binary, a real Postfix with the shipped snippets, systemd's
//! own tools, pflogsumm. They need root and Debian's packages (`make test` installs them).
//!
//! Harness: [`postfix`] is a scratch Postfix, [`sink`] what it hands its mail to, [`smtp`] a client that
//! hides nothing, [`gatepost`] the binary under test, [`stamped`] what its milter does to mail, [`asker`] asks it without a
//! Postfix, [`faults`] daemons in trouble, [`aws`] what stands for Amazon's services, [`browser`] is Chromium, [`queue`] a
//! daemon that follows a stand-in for SQS, [`valkey`] the store of a fleet,
//! [`proxy`] the way to it, [`fleet_world`] three relays that share it, [`fleet_load`] mail through them.
//! Nothing waits by sleeping:
//! [`wait`] asks until a condition holds or a deadline passes. [`ports`] are for who must be told one. Whatever is started is ended by its pid.
#![allow(clippy::unwrap_used, reason = "the harness is part of the tests")]

mod asker;
mod aws;
mod balancer;
mod browser;
mod faults;
mod fleet_load;
mod fleet_world;
mod gatepost;
mod ports;
mod postfix;
mod proxy;
mod queue;
mod sink;
mod smtp;
mod stamped;
mod valkey;
mod wait;

mod access5;
mod admin;
mod brake;
mod commands;
mod corpus;
mod counting;
mod doctor;
mod documents;
mod down;
mod events_corpus;
mod events_crash;
mod fleet;
mod fleet_events;
mod fleet_faults;
mod fleet_limits;
mod fleet_members;
mod fleet_script;
mod fleet_stores;
mod fleet_sync;
mod ingest;
mod journal;
mod limits;
mod metrics;
mod milter;
mod milter_filter;
mod milter_life;
mod milter_local;
mod milter_restarts;
mod milter_wire;
mod miltertest;
mod moto;
mod packages;
mod page;
mod pflogsumm;
mod quarantine;
mod queue_faults;
mod relay;
mod reload;
mod reload_trouble;
mod report;
mod report_world;
mod restart;
mod server;
mod ses_events;
mod signals;
mod snippets;
mod sockets;
mod store_faults;
mod suppress;
mod systemd;
mod tidy;
mod trace;
mod trouble;
mod whole_journey;
mod wrong_configs;
