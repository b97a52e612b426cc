//! The milter: stamps every message, so that Postfix's "sent" and SES's "delivered" carry the same ids, and holds local
//! submissions (`sendmail(1)`) to the rules that smtpd's restrictions hold the others to. On indymilter, which speaks
//! the protocol; what it leaves to its user (accepting, bounds, draining) is in [`server`].

mod held;
mod issued;
mod judge;
pub mod server;
mod session;
pub mod stamp;
pub mod stats;

pub use issued::Issued;
pub use server::{Bounds, Server};
pub use session::{Milter, Setup, Side};
pub use stats::Stats;
