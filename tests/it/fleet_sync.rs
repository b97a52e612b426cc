//! Relays that share one suppression list: whatever happens to the store, what one knows all know in the end.

use crate::asker::Question;
use crate::gatepost::{Daemon, Home};
use crate::valkey::{FORGETFUL, Valkey};
use crate::wait;
use std::time::Duration;

/// Suppression in force, everything else open.
const RULES: &str = "[senders]\nmode = \"off\"\n[suppression]\nmode = \"enforce\"\n";

/// What the others may take to know of a change.
const SOON: Duration = Duration::from_secs(1);

/// A relay of a fleet.
struct Relay {
    home: Home,
    daemon: Option<Daemon>,
}

impl Relay {
    /// A relay that has not started yet.
    fn of(valkey: &Valkey, name: &str) -> Self {
        Self::in_namespace(valkey, name, "gatepost")
    }

    fn in_namespace(valkey: &Valkey, name: &str, namespace: &str) -> Self {
        let home = Home::alone("", RULES);
        let url = valkey.url();
        let fleet =
            format!("[suppression]\nstore = \"{url}\"\n[fleet]\nname = \"{name}\"\nnamespace = \"{namespace}\"\n");
        home.configure(&fleet, "");
        Self { home, daemon: None }
    }

    fn started(mut self) -> Self {
        self.start();
        self
    }

    fn start(&mut self) {
        self.daemon = Some(self.home.start());
    }

    fn suppress(&self, args: &[&str]) -> String {
        self.home.run(&[&["suppress"], args].concat())
    }

    fn refuses(&self, address: &str) -> bool {
        let question = Question::rcpt("a@example.com", address).with("policy_context", "recipient");
        self.home.ask(&question).contains("550")
    }

    fn knows(&self, address: &str, limit: Duration) {
        wait::true_within(&format!("{address} to be refused"), limit, || self.refuses(address));
    }

    fn forgets(&self, address: &str, limit: Duration) {
        wait::true_within(&format!("{address} to pass"), limit, || !self.refuses(address));
    }
}

#[test]
fn what_is_changed_on_one_relay_holds_on_all_within_a_second() {
    let valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| Relay::of(&valkey, name).started());
    a.suppress(&["add", "one@example.net"]);
    b.knows("one@example.net", SOON);
    b.suppress(&["remove", "one@example.net"]);
    a.forgets("one@example.net", SOON);
    let list: String = (0..500).map(|n| format!("user{n}@example.net\n")).collect();
    std::fs::write(a.home.path("list"), list).unwrap();
    a.suppress(&["import", a.home.path("list").to_str().unwrap()]);
    b.knows("user499@example.net", SOON);
    b.suppress(&["remove", "--domain", "example.net"]);
    a.forgets("user0@example.net", SOON);
    a.forgets("user499@example.net", SOON);
}
