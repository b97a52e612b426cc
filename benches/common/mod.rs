//! What the benches share: the command line, processes and what they use, gatepost's installation and what it is held
//! against, rounds and how figures are printed.

pub mod cli;
pub mod echo;
pub mod figures;
pub mod install;
pub mod process;
pub mod question;
pub mod rounds;
pub mod server;

/// What can go wrong: a server that does not start, an answer that is not the one expected, an event that is lost. Slow
/// figures are not errors.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
