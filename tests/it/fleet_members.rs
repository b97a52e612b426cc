//! Who is in a fleet, as its relays see each other in the store.

use crate::valkey::{FORGETFUL, Valkey};
use gatepost::fleet::members::{Heart, Member, members};
use gatepost::fleet::{Keys, Link, Patience, Relay, connect};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

struct Store {
    valkey: Valkey,
    keys: Keys,
    link: Link,
}

impl Store {
    async fn start() -> Self {
        let valkey = Valkey::start(FORGETFUL);
        let patience = Patience { connect: 10 * SECOND, answer: 10 * SECOND };
        let link = connect(&valkey.url().parse().unwrap(), None, patience).await.unwrap();
        Self { valkey, keys: Keys::new("mail"), link }
    }

    async fn beat(&mut self, heart: &mut Heart, position: &str) -> Vec<Member> {
        heart.beat(&mut self.link, &self.keys, position).await.unwrap()
    }

    /// Has a relay be silent for so long.
    fn age(&self, name: &str, by: Duration) {
        let text: String = self.valkey.ask(&["HGET", "{mail}:members", name]).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record["seen"] = (record["seen"].as_u64().unwrap() - by.as_millis() as u64).into();
        let _: u64 = self.valkey.ask(&["HSET", "{mail}:members", name, &record.to_string()]).unwrap();
    }
}

fn heart(name: &str, run: &str) -> Heart {
    Heart::new(Relay { name: name.to_owned(), run: run.to_owned() })
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn the_silent_do_not_count_and_the_long_silent_go() {
    block_on(async {
        let mut store = Store::start().await;
        let (mut a, mut b, mut c) = (heart("a", "1"), heart("b", "2"), heart("c", "3"));
        assert_eq!(store.beat(&mut a, "5-1").await.len(), 1);
        store.beat(&mut b, "").await;
        let all = store.beat(&mut c, "").await;
        assert_eq!(all.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((all[0].position.as_str(), all[0].run.as_str()), ("5-1", "1"));
        assert!(all.iter().all(|member| member.is_present() && !member.twice));
        store.age("a", 11 * SECOND);
        store.age("b", 86_401 * SECOND);
        let all = store.beat(&mut c, "").await;
        assert_eq!(
            all.iter().map(|member| (&*member.name, member.is_present())).collect::<Vec<_>>(),
            [("a", false), ("c", true)]
        );
        assert_eq!(members(&mut store.link, &store.keys).await.unwrap().len(), 2);
        // A record of another version is no trouble.
        let _: u64 = store.valkey.ask(&["HSET", "{mail}:members", "d", "v9 what"]).unwrap();
        assert_eq!(store.beat(&mut c, "").await.len(), 2);
    });
}

#[test]
fn two_relays_of_one_name_are_told_of_and_a_restart_is_none() {
    block_on(async {
        let mut store = Store::start().await;
        let (mut old, mut new) = (heart("mx", "1"), heart("mx", "2"));
        store.beat(&mut old, "").await;
        assert!(!store.beat(&mut new, "").await[0].twice, "the old one may have ended");
        assert!(!store.beat(&mut new, "").await[0].twice);
        assert!(store.beat(&mut old, "").await[0].twice, "it has not");
        assert!(store.beat(&mut new, "").await[0].twice);
        // Only one is left.
        store.beat(&mut new, "").await;
        assert!(!store.beat(&mut new, "").await[0].twice);
    });
}

#[test]
fn a_large_fleet_is_not_read_with_every_beat() {
    block_on(async {
        let mut store = Store::start().await;
        for n in 0..130 {
            store.beat(&mut heart(&format!("mx{n}"), "1"), "").await;
        }
        let mut own = heart("own", "1");
        assert_eq!(store.beat(&mut own, "").await.len(), 131);
        store.beat(&mut heart("late", "1"), "").await;
        let seen = [store.beat(&mut own, "").await.len(), store.beat(&mut own, "").await.len()];
        assert_eq!(seen, [131, 131]);
        assert_eq!(store.beat(&mut own, "").await.len(), 132);
    });
}
