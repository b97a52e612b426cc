//! gatepost: the daemon beside a Postfix relay that hands its mail to Amazon SES.
//!
//! The map of the crate, in the order in which one folder may use another: a folder imports
//! only folders above it in this list (`tests/it/tidy.rs` holds it). ARCHITECTURE.md tells the
//! way of a question through the house and the invariants.

pub mod mail;

pub mod lines;

pub mod rules;

pub mod store;

pub mod suppression;

pub mod meters;

pub mod fleet;

pub mod decide;

pub mod delegation;

pub mod milter;

pub mod events;

pub mod journey;

pub mod report;

pub mod daemon;

pub mod doctor;

pub mod cli;
