//! Intake, outbox and spool on a real database, with a mail log that fails when it is told to.

use super::intake::{Desk, IntakeThread};
use super::*;
use crate::lines::Line;
use crate::mail::Rewriting;
use crate::rules::{ListRules, LocalRules, Mode, Rules, SuppressionRules};
use crate::store::Store;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Long enough on a busy machine.
const LONG: Duration = Duration::from_secs(20);

struct Scene {
    dir: TempDir,
    stats: Arc<Stats>,
    progress: Arc<Progress>,
    ids: Option<EventIds>,
}

/// A mail log in memory.
#[derive(Clone, Default)]
struct Memory {
    lines: Arc<Mutex<Vec<String>>>,
    broken: Arc<AtomicBool>,
}

impl MailLog for Memory {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        if self.broken.load(Relaxed) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.lines.lock().expect("lines").push(line.text.clone());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            dir: tempfile::tempdir().expect("folder"),
            stats: Arc::default(),
            progress: Arc::default(),
            ids: None,
        };
        Store::open(&scene.database()).expect("database");
        scene
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("gatepost.db")
    }

    fn store(&self) -> Store {
        Store::open(&self.database()).expect("database")
    }

    fn origins(&self) -> Origins {
        Origins { log: self.ids.clone(), sharing: None }
    }

    fn intake(&self) -> (Intake, IntakeThread) {
        let rules = Arc::new(rules());
        let desk = Desk {
            origins: self.origins(),
            store: self.database(),
            rules: Box::new(move || rules.clone()),
            accounts: vec!["123456789012".into()],
            correlation_header: "X-Correlation-ID".into(),
            stats: self.stats.clone(),
            progress: self.progress.clone(),
        };
        Intake::start(desk).expect("thread")
    }

    fn drain(&self, log: &Memory) -> Drain {
        let log = log.clone();
        let open = Box::new(move || Ok(Box::new(log.clone()) as Box<dyn MailLog>));
        Drain::start(self.database(), open, self.origins(), self.progress.clone(), self.stats.clone()).expect("thread")
    }
}

fn rules() -> Rules {
    let off = || ListRules { mode: Mode::Off, list: None };
    Rules {
        generation: 1,
        rewriting: Rewriting {
            myorigin: String::new(),
            recipient_delimiter: String::new(),
            parent_domain_matches_subdomains: true,
        },
        senders: off(),
        recipients: off(),
        suppression: SuppressionRules::default(),
        local: LocalRules::default(),
        limits: Vec::new(),
    }
}

fn bounce(n: usize) -> String {
    format!(
        r#"{{"eventType":"Bounce","mail":{{"timestamp":"2026-11-20T10:00:00.000Z","messageId":"id-{n}",
           "sendingAccountId":"123456789012","destination":["u{n}@example.com"]}},
           "bounce":{{"bounceType":"Permanent","bounceSubType":"General","timestamp":"2026-11-20T10:00:01.000Z",
           "bouncedRecipients":[{{"emailAddress":"u{n}@example.com","action":"failed","status":"5.1.1"}}]}}}}"#
    )
    .replace('\n', " ")
}

fn hand_over(intake: &Intake, quarantine: bool, bodies: &[String]) -> oneshot::Receiver<Vec<Fate>> {
    let (done, fates) = oneshot::channel();
    let bodies = bodies.iter().map(|body| body.clone().into_bytes()).collect();
    let parcel = Parcel { bodies, source: "here".into(), quarantine, done };
    assert!(intake.submit_blocking(parcel).is_ok());
    fates
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn parcels_are_applied_and_answered() {
    let scene = Scene::new();
    let (intake, thread) = scene.intake();
    let fates = hand_over(&intake, false, &[bounce(1), "no event".into(), bounce(1), bounce(2)]);
    let fates = fates.blocking_recv().expect("answer");
    assert!(matches!(fates[..], [Fate::Done, Fate::Unreadable(_), Fate::Done, Fate::Done]), "{fates:?}");
    let fates = hand_over(&intake, true, &["no event".into()]);
    assert_eq!(fates.blocking_recv(), Ok(vec![Fate::Done]));
    let foreign = bounce(3).replace("123456789012", "210987654321");
    assert_eq!(hand_over(&intake, false, &[foreign]).blocking_recv(), Ok(vec![Fate::Done]));
    let store = scene.store();
    assert!(
        store.get("u1@example.com").expect("read").is_some() && store.get("u3@example.com").expect("read").is_none()
    );
    assert_eq!((store.quarantined(), store.backlog().expect("read").lines), (Ok(1), 2));
    let stats = &scene.stats;
    let counts = [&stats.added, &stats.duplicates, &stats.unreadable, &stats.foreign, &stats.lines];
    assert_eq!(counts.map(|n| n.load(Relaxed)), [2, 1, 2, 1, 2]);
    assert!(stats.last_event.load(Relaxed) > 0);
    thread.stop();
    assert!(thread.ended_by(Instant::now() + LONG));
    assert!(stats.store.words().is_none());
}

#[test]
fn in_trouble_with_the_store_parcels_wait() {
    let scene = Scene::new();
    let away = scene.dir.path().join("away.db");
    let (intake, thread) = scene.intake();
    std::fs::rename(scene.database(), &away).expect("moved");
    let fates = hand_over(&intake, true, &[bounce(1)]);
    until("trouble", || scene.stats.store.words().is_some());
    assert_eq!(scene.stats.complaints(0).len(), 1);
    std::fs::rename(&away, scene.database()).expect("moved");
    assert_eq!(fates.blocking_recv(), Ok(vec![Fate::Done]));
    assert!(scene.stats.store.words().is_none() && scene.stats.store_errors.load(Relaxed) > 0);
    assert!(scene.store().get("u1@example.com").expect("read").is_some());

    // Another file at its path is opened, and what waits at the end goes back.
    std::fs::rename(scene.database(), &away).expect("moved");
    Store::open(&scene.database()).expect("another");
    assert_eq!(hand_over(&intake, true, &[bounce(2)]).blocking_recv(), Ok(vec![Fate::Done]));
    assert!(scene.store().get("u1@example.com").expect("read").is_none());
    assert!(scene.store().get("u2@example.com").expect("read").is_some());
    std::fs::rename(scene.database(), &away).expect("moved");
    let fates = hand_over(&intake, true, &[bounce(3)]);
    let behind = hand_over(&intake, true, &[bounce(4)]);
    until("trouble", || scene.stats.store.words().is_some());
    thread.stop();
    assert!(thread.ended_by(Instant::now() + LONG));
    assert!(fates.blocking_recv().is_err() && behind.blocking_recv().is_err());
    let (done, _) = oneshot::channel();
    let parcel = Parcel { bodies: Vec::new(), source: "here".into(), quarantine: true, done };
    assert!(intake.submit_blocking(parcel).is_err());
}

#[test]
fn lines_wait_for_the_log_in_their_order_and_then_leave() {
    let scene = Scene::new();
    let (intake, thread) = scene.intake();
    let log = Memory::default();
    let drain = scene.drain(&log);
    let bodies: Vec<String> = (0..500).map(bounce).collect();
    hand_over(&intake, true, &bodies[..100]).blocking_recv().expect("answer");
    until("100 lines", || log.lines.lock().expect("lines").len() == 100);
    until("an empty outbox", || scene.store().backlog().expect("read").lines == 0);
    log.broken.store(true, Relaxed);
    hand_over(&intake, true, &bodies[100..400]).blocking_recv().expect("answer");
    until("trouble", || scene.stats.log.words().is_some());
    until("the count", || scene.stats.outbox_lines.load(Relaxed) == 300);
    log.broken.store(false, Relaxed);
    hand_over(&intake, true, &bodies[400..]).blocking_recv().expect("answer");
    thread.stop();
    drain.finish();
    until("an empty outbox", || scene.store().backlog().expect("read").lines == 0);
    let lines = log.lines.lock().expect("lines");
    let ids: Vec<_> = lines.iter().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(ids, (0..500).map(|n| format!("id-{n}")).collect::<Vec<_>>());
    assert!(scene.stats.log.words().is_none());
}

/// What is written and not yet taken out is what a crash repeats.
#[test]
fn few_lines_are_written_ahead() {
    let scene = Scene::new();
    let (intake, thread) = scene.intake();
    let bodies: Vec<String> = (0..600).map(bounce).collect();
    hand_over(&intake, true, &bodies).blocking_recv().expect("answer");
    let log = Memory::default();
    scene.stats.pollers.store(3, Relaxed);
    let lines = log.lines.clone();
    let mut reader = Some(scene.store());
    let drain = scene.drain(&log);
    until("all lines", || {
        let written = lines.lock().expect("lines").len();
        // The database is read later: what leaves it meanwhile makes it fewer, and what is written does not count.
        let left = reader.as_mut().map_or(0, |store| store.backlog().expect("read").lines);
        assert!(written as u64 + left <= 600 + 30, "{written} written, {left} left");
        written == 600
    });
    drain.finish();
    thread.stop();
}

fn spool(scene: &Scene, intake: Intake) -> (PathBuf, Spool) {
    let folder = scene.dir.path().join("spool");
    let spool = Spool::start(folder.clone(), intake, scene.stats.clone()).expect("thread");
    until("the folders", || folder.join("failed").is_dir());
    (folder, spool)
}

fn drop_into(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(".new"), text).expect("written");
    std::fs::rename(folder.join(".new"), folder.join(name)).expect("renamed");
}

#[test]
fn what_is_written_in_place_is_not_lost() {
    let scene = Scene::new();
    let (intake, thread) = scene.intake();
    let (folder, spool) = spool(&scene, intake);
    let path = folder.join("slow.json");
    std::fs::write(&path, "").expect("made");
    std::thread::sleep(Duration::from_millis(600));
    std::fs::write(&path, &bounce(1)[..100]).expect("begun");
    std::thread::sleep(Duration::from_millis(600));
    std::fs::write(&path, bounce(1)).expect("written");
    until("slow.json to be done", || folder.join("done/slow.json").exists());
    assert!(scene.store().get("u1@example.com").expect("read").is_some());
    assert_eq!(scene.stats.unreadable.load(Relaxed), 0);
    drop_into(&folder, "empty.json", "");
    until("the empty one to fail", || folder.join("failed/empty.json").exists());
    spool.stop();
    assert!(spool.ended_by(Instant::now() + LONG));
    thread.stop();
}

#[test]
fn spooled_files_end_in_done_or_failed() {
    let scene = Scene::new();
    let (intake, thread) = scene.intake();
    let (folder, spool) = spool(&scene, intake);
    let many: Vec<String> = (0..450).map(bounce).collect();
    drop_into(&folder, "many.json", &many.join("\n"));
    until("many.json to be done", || folder.join("done/many.json").exists());
    assert!(scene.store().get("u449@example.com").expect("read").is_some());
    drop_into(&folder, "many.json", &format!("{}\nno event\n{}", bounce(1), bounce(1000)));
    until("the other to fail", || folder.join("failed/many.json").exists());
    let why = std::fs::read_to_string(folder.join("failed/many.json.why")).expect("why");
    assert!(why.starts_with("line 2: ") && why.lines().count() == 1, "{why}");
    assert!(scene.store().get("u1000@example.com").expect("read").is_some());
    assert_eq!(scene.store().quarantined(), Ok(0));
    assert_eq!(scene.stats.duplicates.load(Relaxed), 1);
    assert!(scene.stats.silence(stats::unix_now()).is_some_and(|age| age < 5));
    spool.stop();
    assert!(spool.ended_by(Instant::now() + LONG));
    thread.stop();
}

/// Postfix's line of a mail can come after the first of its events.
#[test]
fn a_line_waits_for_its_ids_and_holds_up_no_other() {
    let known = Arc::new(Mutex::new(vec!["id-2"]));
    let asked = known.clone();
    let ids: EventIds = Arc::new(move |ses_id| {
        asked.lock().expect("ids").contains(&ses_id).then(|| (format!("Q-{ses_id}"), Some("c".to_owned())))
    });
    let scene = Scene { ids: Some(ids), ..Scene::new() };
    let log = Memory::default();
    let drain = scene.drain(&log);
    let (intake, thread) = scene.intake();
    hand_over(&intake, false, &[bounce(1), bounce(2), bounce(3)]).blocking_recv().expect("fates");
    let lines = |count: usize| {
        until("the lines", || log.lines.lock().expect("lines").len() >= count);
        log.lines.lock().expect("lines").clone()
    };
    assert!(lines(1)[0].ends_with("suppressed=yes, queue_id=Q-id-2, correlation_id=c"));
    let entries = scene.store();
    assert!(entries.get("u1@example.com").expect("read").is_some(), "the door does not wait");
    known.lock().expect("ids").push("id-1");
    // Once its ids are known a later event of the message need not wait, but does not come first.
    let send = bounce(1).replace("\"Bounce\"", "\"Send\"").replace("\"bounce\":", "\"send\":{},\"was\":");
    hand_over(&intake, false, &[send]).blocking_recv().expect("fates");
    let later = lines(3)[2].clone();
    assert!(later.starts_with("id-1: ") && later.contains("status=accepted, queue_id=Q-id-1"), "{later}");
    let second = lines(2)[1].clone();
    assert!(second.starts_with("id-1: ") && second.ends_with(", queue_id=Q-id-1, correlation_id=c"), "{second}");

    // The third is written without in the end; a stop keeps it, and the next start has it still.
    thread.stop();
    assert!(thread.ended_by(Instant::now() + Duration::from_secs(10)));
    drain.finish();
    assert_eq!(log.lines.lock().expect("lines").len(), 3);
    let drain = scene.drain(&log);
    let third = lines(4)[3].clone();
    assert!(third.starts_with("id-3: ") && !third.contains("queue_id="), "{third}");
    drain.finish();
    assert_eq!(scene.stats.joined.load(Relaxed), 3);
}
