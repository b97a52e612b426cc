//! Three relays that share one store: each a Postfix and a gatepost, with a proxy of its own on the way to the store. A
//! limit and the questions that show whether it is shared.

use crate::asker::{Asker, DUNNO, Question};
use crate::aws::add_section;
use crate::gatepost::{Daemon, Home};
use crate::postfix::{Options, Postfix};
use crate::proxy::{Proxy, Way};
use crate::queue::{Queue, stand_in};
use crate::sink::Message;
use crate::stamped::snippet;
use crate::valkey::Valkey;
use crate::wait;
use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Who may send.
pub const SENDERS: &str = "example.com OK\n<> OK\n";

/// Three messages of a sender at once, then none for 20 minutes: what shows whether counters are shared. And a limit that
/// is asked for every message, and that no test reaches.
pub const LIMITS: &str = "
[[limit]]
name = \"probe\"
key = \"sender\"
count = \"messages\"
rate = \"3/h\"
[limit.override]
\"info@example.com\" = \"unlimited\"
[[limit]]
name = \"roomy\"
key = \"client_address\"
count = \"messages\"
rate = \"1000000/min\"
";

/// How many relays there are.
pub const RELAYS: usize = 3;

/// What a world is made of.
#[derive(Default)]
pub struct Plan {
    /// policy.toml.
    pub policy: String,
    /// Further sections of gatepost.toml.
    pub sections: String,
    /// Variables of the daemons.
    pub environment: HashMap<String, String>,
    /// Further `name = value` of main.cf.
    pub set: Vec<String>,
    /// Another way to the store than each relay's proxy: what `store = …` says.
    pub url: Option<String>,
}

impl Plan {
    /// With the shared limits, and events from `queue`.
    pub fn following(queue: &Queue) -> Self {
        let sections = format!(
            "[events]\nsource = \"sqs\"\nqueue_url = \"{}\"\naccounts = [\"{}\"]\n",
            queue.url(),
            stand_in::ACCOUNT
        );
        let environment = crate::queue::environment(queue);
        Self { policy: LIMITS.to_owned(), sections, environment, ..Self::default() }
    }
}

/// One relay.
pub struct Relay {
    pub name: &'static str,
    pub postfix: Postfix,
    pub home: Home,
    pub daemon: Daemon,
    /// Its way to the store.
    pub proxy: Arc<Proxy>,
    words: Vec<String>,
}

/// The relays and their store.
pub struct World {
    pub relays: Vec<Relay>,
    pub store: Valkey,
}

impl World {
    /// Starts all of it, the relays at the same time.
    pub fn start(store: &[&str], plan: &Plan) -> Self {
        Self::around(Valkey::start(store), plan)
    }

    /// Starts the relays of a store.
    pub fn around(store: Valkey, plan: &Plan) -> Self {
        let relays = thread::scope(|scope| {
            let names = ["relay-a", "relay-b", "relay-c"];
            let starting = names.map(|name| scope.spawn(|| Relay::start(name, store.port(), plan)));
            starting.into_iter().map(|relay| relay.join().expect("a relay")).collect()
        });
        Self { relays, store }
    }

    /// Sets all ways to the store.
    pub fn set(&self, way: Way) {
        self.relays.iter().for_each(|relay| relay.proxy.set(way));
    }

    /// Leads all relays to another store.
    pub fn lead_to(&self, port: u16) {
        self.relays.iter().for_each(|relay| relay.proxy.lead_to(port));
    }

    /// The sum, over the relays, of the metrics whose names and labels begin so.
    pub fn metric(&self, name: &str) -> f64 {
        self.relays.iter().map(|relay| relay.home.metrics(name)).sum()
    }

    /// All mail that came through the relays.
    pub fn arrived(&self) -> Vec<Message> {
        self.relays.iter().flat_map(|relay| relay.postfix.sink.messages()).collect()
    }

    /// Whether every relay refuses every one of `addresses`.
    pub fn all_refuse(&self, addresses: &[String]) -> bool {
        self.relays.iter().all(|relay| addresses.iter().all(|address| relay.refuses(address)))
    }

    /// Whether no relay refuses any of `addresses`.
    pub fn none_refuses(&self, addresses: &[String]) -> bool {
        self.relays.iter().all(|relay| !addresses.iter().any(|address| relay.refuses(address)))
    }

    /// Waits until every relay knows of the others: so many have a share of a limit while the store is away.
    pub fn relays_are_counted(&self) {
        wait::until("every relay to know of the others", wait::LONG, || {
            (self.metric("gatepost_limits_relays") as usize == RELAYS * RELAYS).then_some(())
        });
    }

    /// Waits until limits are counted by all of them together.
    pub fn limits_are_shared(&self, limit: Duration) -> Duration {
        wait::true_within("limits to be shared", limit, || {
            (0..RELAYS).all(|n| share_a_limit(&self.relays[n], &self.relays[(n + 1) % RELAYS]))
        })
    }
}

/// Whether three messages by one relay fill up the limit for another.
fn share_a_limit(one: &Relay, other: &Relay) -> bool {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let sender = format!("probe{}@example.com", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut asker = one.home.asker();
    (0..3).all(|_| charge(&mut asker, &sender)) && !charge(&mut other.home.asker(), &sender)
}

/// Charges one message of `sender`; whether it may go.
pub fn charge(asker: &mut Asker, sender: &str) -> bool {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let instance = format!("fleet.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let answer = asker.ask(&Question::data(&instance).with("sender", sender));
    assert!(answer == DUNNO || answer.starts_with("450"), "{answer}");
    answer == DUNNO
}

impl Relay {
    fn start(name: &'static str, store: u16, plan: &Plan) -> Self {
        let proxy = Arc::new(Proxy::to(store));
        let set = [snippet("main.cf.milter"), plan.set.clone()].concat();
        let postfix = Postfix::start(&Options { set, ..Options::default() });
        let home = Home::beside(&postfix, SENDERS, &plan.policy);
        let url = plan.url.clone().unwrap_or_else(|| format!("redis://127.0.0.1:{}/0", proxy.port()));
        configure(&home, &postfix, name, &url, &plan.sections);
        let words: Vec<_> = plan.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let daemon = spawn(&home, &words);
        daemon.says(&[" is ready."]);
        Self { name, postfix, home, daemon, proxy, words }
    }

    /// Ends its gatepost at once.
    pub fn kill(&mut self) {
        self.daemon.signal("KILL");
        self.daemon.wait_for_end(wait::LONG);
    }

    /// Starts its gatepost anew, once the one before is gone.
    pub fn start_again(&mut self) {
        self.daemon = spawn(&self.home, &self.words);
        self.daemon.says(&[" is ready."]);
    }

    /// Whether it refuses a recipient, asked by the policy protocol.
    pub fn refuses(&self, address: &str) -> bool {
        self.home.ask(&Question::rcpt("info@example.com", address)).starts_with("550")
    }

    /// Suppresses an address by its command.
    pub fn suppress(&self, address: &str) {
        self.home.run(&["suppress", "add", address, "--reason", "manual"]);
    }

    /// Takes an address off the list by its command.
    pub fn remove(&self, address: &str) {
        self.home.run(&["suppress", "remove", address]);
    }
}

fn spawn(home: &Home, words: &[String]) -> Daemon {
    let mut command = std::process::Command::new("env");
    command.args(words).arg(crate::gatepost::BINARY).arg("--config").arg(home.config()).arg("serve");
    Daemon::of(command)
}

/// The one switch, and what else a relay has.
fn configure(home: &Home, postfix: &Postfix, name: &str, url: &str, sections: &str) {
    let config = fs::read_to_string(home.config()).unwrap();
    let embedded = config.lines().find(|line| line.starts_with("store = \"sqlite:")).expect("[suppression] store");
    let shared = format!("store = \"{url}\"");
    fs::write(home.config(), config.replace(embedded, &shared)).unwrap();
    let folder = postfix.socket().parent().unwrap().display().to_string();
    let logs = [home.path("mail.log"), postfix.log_path()].map(|path| format!("\"{}*\"", path.display()));
    let fleet = format!(
        "[limits]\n{shared}\n[fleet]\nname = \"{name}\"\n[milter]\nlisten = [\"unix:{folder}/milter.sock\"]\n[logs]\n\
         paths = [{}]\n{sections}",
        logs.join(", ")
    );
    add_section(home, &fleet);
}
