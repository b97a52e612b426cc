//! From configuration to running tasks: every task has a name and an owner that awaits it
//! (invariant 6). What the tasks do is in the folders above; here they are wired, started, told to
//! reload and stopped.

pub mod admin;
pub mod client;
pub mod config;
pub mod decisions;
pub mod event_log;
mod event_metrics;
pub mod events;
pub mod fleet;
mod fleet_metrics;
pub mod fleet_view;
mod guard;
pub mod history;
mod limits;
pub mod listeners;
mod mail_logs;
pub mod metrics;
mod milter;
mod page;
pub mod reload;
pub mod run;
mod status;
pub mod watch;

pub use config::Config;
pub use run::{Fatal, run};
