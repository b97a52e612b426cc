//! Postfix's policy delegation protocol (SMTPD_POLICY_README): a pure codec, the answering of one
//! question, and the server that carries both over Unix and TCP connections.

pub mod answer;
mod case;
pub mod codec;
pub mod server;
mod socket;
pub mod stats;

pub use answer::{Answerer, House};
pub use case::Case;
pub use server::{Gate, Server};
pub use socket::Socket;
pub use stats::Stats;
