//! Who a relay is, to the others and to their operators.

use std::sync::LazyLock;

/// The longest name: that of a host (RFC 1035 section 2.3.4).
pub const MAX_NAME_BYTES: usize = 253;

/// A relay of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Its name, unique in the fleet: `[fleet] name`, else the host's.
    pub name: String,
    /// This run of it: another one after each start.
    pub run: String,
}

impl Relay {
    /// The relay named `name`, as it runs in this process; `None`: by the host's name.
    #[must_use]
    pub fn new(name: Option<&str>) -> Self {
        static RUN: LazyLock<String> = LazyLock::new(|| uuid::Uuid::now_v7().simple().to_string());
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { name: name.map_or_else(host, str::to_owned), run: RUN.clone() }
    }
}
