//! Keeps the connections of a [`Limiter`]: makes them, has them prove themselves, sees them fail, and makes others. It
//! also counts the relays.

use super::limiter::{Failure, Line, SCRIPT, ask};
use super::members::{self, BEAT, Heart, Member, PRESENT};
use super::news::News;
use super::script::proof;
use super::{Keys, Limiter, Link, Patience, Relay, Roster, StoreUrl, connect};
use crate::meters::Meters;
use redis::RedisResult;
use std::sync::Arc;
use std::time::Duration;

/// How many connections carry the questions: a second one keeps a core of the store's busy while the first is read.
pub const LINKS: usize = 2;

/// For a connection and for what is asked beside the questions.
const PATIENCE: Patience = Patience { connect: Duration::from_secs(1), answer: Duration::from_secs(1) };

/// The first and the longest pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A connection that answers within this, twice in a row, is taken.
const PROOF: Duration = Duration::from_millis(15);

/// The longest attempt, whatever the driver tries in it.
const ATTEMPT: Duration = Duration::from_secs(5);

/// What stood for so long was no flap: the next pause is a short one again.
const STEADY: Duration = Duration::from_secs(10);

/// Which store, and who asks it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The store.
    pub url: StoreUrl,
    /// See [`connect`].
    pub ca: Option<Vec<u8>>,
    /// The names in it.
    pub keys: Keys,
    /// This relay, where it is to write itself among the members here; `None`: it is written elsewhere.
    pub beats_as: Option<Relay>,
    /// How many relays there were when they were last counted.
    pub relays: u32,
    /// Where the members are noted; `None`: that is done elsewhere.
    pub roster: Option<Arc<Roster>>,
}

/// The task that a limiter needs.
#[derive(Debug)]
pub struct Keeper {
    limiter: Arc<Limiter>,
    url: StoreUrl,
    ca: Option<Vec<u8>>,
    heart: Option<Heart>,
    roster: Option<Arc<Roster>>,
    news: News,
    pause: Duration,
}

impl Keeper {
    /// A limiter, and what keeps its connections. The store is away until the keeper has reached it.
    #[must_use]
    pub fn new(setup: Setup, meters: Arc<Meters>) -> (Arc<Limiter>, Self) {
        let limiter = Arc::new(Limiter::new(setup.keys, meters));
        limiter.set_relays(setup.relays);
        let keeper = Self {
            limiter: limiter.clone(),
            url: setup.url,
            ca: setup.ca,
            heart: setup.beats_as.map(Heart::new),
            roster: setup.roster,
            news: News::default(),
            pause: PAUSE.0,
        };
        (limiter, keeper)
    }

    /// Tries to reach the store, once: at the start, so that the first questions find it.
    pub async fn greet(&mut self) {
        match self.reach().await {
            Ok(line) => {
                self.limiter.close(Arc::new(line));
                self.count().await;
            }
            Err(failure) => self.tell(&failure),
        }
    }

    /// Keeps the connections for ever.
    pub async fn keep(mut self) {
        loop {
            match self.limiter.line() {
                Some(line) => self.watch(&line).await,
                None => self.come_back().await,
            }
        }
    }

    /// Until the next beat, or until the line is given up.
    async fn watch(&mut self, line: &Arc<Line>) {
        let limiter = self.limiter.clone();
        let beat = async {
            tokio::time::sleep(BEAT).await;
            self.count().await;
        };
        tokio::select! {
            () = limiter.opened.notified() => {}
            () = beat => {}
        }
        if limiter.line().is_none() {
            if line.since.elapsed() > STEADY {
                self.pause = PAUSE.0;
            }
            self.news.away(&self.limiter);
        }
    }

    async fn come_back(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE.1);
        match self.reach().await {
            Ok(line) => {
                self.news.back(&self.limiter);
                self.limiter.close(Arc::new(line));
            }
            Err(failure) => self.tell(&failure),
        }
    }

    fn tell(&mut self, failure: &Failure) {
        self.limiter.set_trouble(Some(failure.to_string()));
        self.news.away(&self.limiter);
    }

    /// New connections, each of which has counted twice in time: a replica, a store without memory or without the
    /// right to write would answer a mere PING.
    async fn reach(&self) -> Result<Line, Failure> {
        tokio::time::timeout(ATTEMPT, self.connected()).await.unwrap_or(Err(Failure::Late))
    }

    async fn connected(&self) -> Result<Line, Failure> {
        let mut links = Vec::with_capacity(LINKS);
        for _ in 0..LINKS {
            links.push(connect(&self.url, self.ca.as_deref(), PATIENCE).await?);
        }
        if let Some(link) = links.first_mut() {
            SCRIPT.load_async(link).await?;
        }
        for _ in 0..2 {
            for link in &mut links {
                ask(link, proof(&self.limiter.keys), PROOF).await?;
            }
        }
        Ok(Line::new(links))
    }

    /// Counts the relays. After a time without the store the others have not all written yet: then more may be taken
    /// for present than are, but not fewer.
    async fn count(&mut self) {
        let Some(line) = self.limiter.line() else { return };
        let Some(mut link) = line.link() else { return };
        match self.members(&mut link).await {
            Ok(members) => {
                if let Some(roster) = &self.roster {
                    roster.note(&members);
                }
                let present = members.iter().filter(|member| member.is_present()).count();
                let present = u32::try_from(present).unwrap_or(u32::MAX);
                let steady = line.since.elapsed() > PRESENT;
                self.limiter.set_relays(if steady { present } else { present.max(self.limiter.relays()) });
            }
            Err(error) => self.limiter.open(&line, &error.into()),
        }
    }

    async fn members(&mut self, link: &mut Link) -> RedisResult<Vec<Member>> {
        match &mut self.heart {
            Some(heart) => heart.beat(link, &self.limiter.keys, "").await,
            None => members::members(link, &self.limiter.keys).await,
        }
    }
}
