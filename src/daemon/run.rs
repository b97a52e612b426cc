//! The daemon's life: start in an order in which nobody is answered before the rules and the index
//! are loaded, serve, reload on SIGHUP, and stop on SIGTERM: within a second, unless milter sessions are open.

use super::admin::{self, Office, StoreHealth};
use super::config::Config;
use super::event_log::Writer;
use super::events::EventSide;
use super::fleet::FleetSide;
use super::fleet_view::FleetView;
use super::history::{History, keep_history};
use super::limits;
use super::listeners::{self, Access, Endpoint, Inherited, ListenError, OwnFile};
use super::metrics::{self, Sources};
use super::milter::{self, MilterSide};
use super::reload::{self, ReloadState, Reloader};
use crate::delegation::answer::unix_time;
use crate::delegation::server::Bounds;
use crate::delegation::{Gate, House, Server};
use crate::events::Stats;
use crate::events::stats::unix_now;
use crate::lines::Outlet;
use crate::meters::Meters;
use crate::milter::Milter;
use crate::rules::Problem;
use crate::suppression::{Confirmer, Follower, Index};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

/// How long connections get to finish what is in hand once the daemon stops: six times what a
/// question can wait for the store. With what comes after it, the end stays within a second.
const DRAIN: Duration = Duration::from_millis(300);

/// How long the lock of the state folder is waited for, and how often it is tried.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// How often the limiter's counters and the issued ids are saved: what a power cut may cost.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// How often idle limiter keys are given up, an eighth of the table at a time.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Why the daemon did not start, or stopped, with the exit code of sysexits(3) it deserves.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The policy folder has problems and there is no last good copy.
    #[error("the policy folder has problems, and there is no last good copy to start with")]
    Policy(Vec<Problem>),
    /// The state folder cannot be used.
    #[error("{0}: cannot use the state folder: {1}")]
    State(PathBuf, io::Error),
    /// A second instance on one state folder.
    #[error("{0}: another gatepost is running with this state folder")]
    SecondInstance(PathBuf),
    /// A socket cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The event log cannot be opened.
    #[error("cannot open the event log: {0}")]
    EventLog(io::Error),
    /// The system gave no thread, no signal handler, or the like.
    #[error("cannot {0}: {1}")]
    System(&'static str, io::Error),
}

/// Runs the daemon until SIGTERM or SIGINT. `config_file` is what SIGHUP reads again.
///
/// # Errors
/// Where it cannot start; the reason is for the operator.
pub async fn run(config: Config, config_file: Option<PathBuf>) -> Result<(), Fatal> {
    let mut signals = Signals::new().map_err(|e| Fatal::System("handle signals", e))?;
    let _lock = lock_state(&config.state_dir).await?;
    let rewriting = config.rewriting();
    let first = reload::first(&config.policy_dir, &rewriting, &config.state_dir).map_err(Fatal::Policy)?;
    if let Some(warning) = config.cannot_drop(&first.rules) {
        tracing::warn!("{warning}");
    }
    let (outlet, lines) = Outlet::new();
    let writer = Writer::start(&config.event_log_output, lines).map_err(Fatal::EventLog)?;

    let fleet = FleetSide::start(&config).map_err(|e| Fatal::System("share with the fleet", e))?;
    if !first_list(&fleet, &config, &mut signals).await {
        fleet.stop();
        writer.finish();
        return Ok(());
    }
    let store_path = config.store_path();
    let index = Arc::new(Index::default());
    let confirmer = Arc::new(Confirmer::new(&store_path));
    let follower = {
        let (index, confirmer) = (index.clone(), confirmer.clone());
        // The load takes seconds for millions of entries: off the runtime, but awaited.
        let start = move || {
            let follower = Follower::start(&store_path, index, confirmer.clone());
            // The first hit then finds the database open, and not half of its 50 ms gone. Trouble is the follower's to tell.
            let _ = confirmer.read(b"", 0);
            follower
        };
        tokio::task::spawn_blocking(start)
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|e| Fatal::System("follow the suppression list", e))?
    };
    let follower = Arc::new(follower);
    let meters = Arc::new(Meters::new(config.max_keys));
    meters.adopt(&first.rules.limits);
    limits::restore(&meters, &config.state_dir);
    let view = Arc::new(FleetView::new(&config, fleet.list.as_ref().map(|list| list.status().clone())));
    let shared = limits::shared(&config, &meters, &view.roster).await;
    let (shared, keeper) = shared.map_err(|e| Fatal::System("share with the fleet", e))?.unzip();
    let mut house = House::new(Arc::new(first.rules), index, confirmer, meters, outlet);
    house.shared = shared;
    let house = Arc::new(house);
    let state = Arc::new(ReloadState::default());
    let reloader = Reloader::start(
        config.policy_dir.clone(),
        rewriting,
        config.state_dir.clone(),
        house.clone(),
        state.clone(),
        first.problems,
        first.seen,
    )
    .map_err(|e| Fatal::System("start the reload thread", e))?;

    let gate = Arc::new(Gate::default());
    let events = Arc::<Stats>::default();
    let milter_stats = Arc::<crate::milter::Stats>::default();
    let office = office(&config, &house, &state, &writer, &follower, (&events, &milter_stats), view);
    let mut milter = MilterSide::new(&config, &house, &milter_stats);
    let mut tasks = JoinSet::new();
    let opened = open_all(&config, &house, &gate, &office, milter.as_mut(), &mut tasks);
    let (server, files) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            reloader.stop();
            follower.stop();
            fleet.stop();
            return Err(error);
        }
    };
    let stamping = milter.as_ref().map(|side| side.milter.clone());
    tasks.spawn(keep_state(house.clone(), stamping.clone(), config.state_dir.clone(), gate.clone()));
    tasks.spawn(feed_watchdog(gate.clone()));
    if let Some(keeper) = keeper {
        tasks.spawn(limits::keep(keeper, gate.clone()));
    }
    tasks.spawn(keep_history(office.clone(), gate.clone()));
    let event_side = EventSide::start(&config, &house, &events);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(
        generation = house.rules.load().generation,
        suppressed = house.index.len(),
        "gatepost {} is ready.",
        env!("CARGO_PKG_VERSION")
    );

    let mut config = config;
    while let Some(Wake::Reload) = signals.next().await {
        if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading, now]);
        }
        reload_config(&mut config, config_file.clone(), &reloader).await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("Stopping.");
    // Delegation goes on answering meanwhile: what the open sessions bring is asked about as before.
    if let Some(milter) = milter {
        milter.end().await;
    }
    gate.close();
    drop(files);
    let event_side = tokio::task::spawn_blocking(move || event_side.stop());
    if tokio::time::timeout(DRAIN, drained(&server, &mut tasks)).await.is_err() {
        tracing::warn!(
            connections = house.stats.connections.load(std::sync::atomic::Ordering::Relaxed),
            "Connections were still busy; ending them."
        );
        tasks.shutdown().await;
    }
    let ended = tokio::task::spawn_blocking(move || {
        reloader.stop();
        follower.stop();
        fleet.stop();
    });
    let _ = tokio::time::timeout(Duration::from_millis(200), ended).await;
    // It began with the drain of connections, and bounds itself.
    let _ = event_side.await;
    save_state(&house, stamping.as_deref(), &config.state_dir);
    drop((server, office, house, stamping));
    writer.finish();
    Ok(())
}

/// Waits for the list of the fleet where that is needed; `false` where the daemon is to stop meanwhile.
async fn first_list(fleet: &FleetSide, config: &Config, signals: &mut Signals) -> bool {
    let mut waited = std::pin::pin!(fleet.first_list(config));
    loop {
        tokio::select! {
            () = &mut waited => return true,
            wake = signals.next() => match wake {
                Some(Wake::Reload) => {}
                Some(Wake::Stop) | None => return false,
            },
        }
    }
}

async fn drained(server: &Server, tasks: &mut JoinSet<()>) {
    server.drained().await;
    while tasks.join_next().await.is_some() {}
}

/// One daemon per state folder; the lock goes with the process. A command that writes event lines to the log has it
/// for moments.
async fn lock_state(state_dir: &Path) -> Result<File, Fatal> {
    let failed = |e| Fatal::State(state_dir.to_owned(), e);
    std::fs::create_dir_all(state_dir).map_err(failed)?;
    let lock = File::options().create(true).truncate(false).write(true).open(state_dir.join("gatepost.lock"));
    let lock = lock.map_err(failed)?;
    let latest = Instant::now() + LOCK_WAIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < latest => tokio::time::sleep(LOCK_RETRY).await,
            Err(TryLockError::WouldBlock) => return Err(Fatal::SecondInstance(state_dir.to_owned())),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
}

fn office(
    config: &Config,
    house: &Arc<House>,
    state: &Arc<ReloadState>,
    writer: &Writer,
    follower: &Arc<Follower>,
    (events, milter): (&Arc<Stats>, &Arc<crate::milter::Stats>),
    fleet: Arc<FleetView>,
) -> Arc<Office> {
    let (follower, same) = (follower.clone(), follower.clone());
    let started = unix_now();
    let registry = metrics::registry(Sources {
        house: house.clone(),
        reload: state.clone(),
        writer: writer.desk.clone(),
        started,
        store_healthy: Box::new(move || follower.status().trouble.is_none()),
        events: events.clone(),
        milter: milter.clone(),
        fleet: fleet.clone(),
    });
    let served = config.milter.is_some().then(|| milter.clone());
    let store = StoreHealth(Box::new(move || same.status().trouble.map(|t| t.to_string())));
    Arc::new(Office {
        house: house.clone(),
        reload: state.clone(),
        registry,
        store,
        events: events.clone(),
        milter: served,
        fleet,
        log: writer.desk.clone(),
        history: History::default(),
        started,
        kept: Arc::default(),
    })
}

type Opening = (Arc<Server>, Vec<OwnFile>);

/// Opens every socket, then serves them: with one that cannot be opened, nobody is answered.
fn open_all(
    config: &Config,
    house: &Arc<House>,
    gate: &Arc<Gate>,
    office: &Arc<Office>,
    milter: Option<&mut MilterSide>,
    tasks: &mut JoinSet<()>,
) -> Result<Opening, Fatal> {
    let mut inherited = Inherited::from_env();
    let bounds = Bounds { max_connections: config.max_connections, idle_timeout: config.idle_timeout };
    let server = Server::new(house.clone(), gate.clone(), bounds);
    let access = Access { mode: config.socket_mode, group: config.socket_group.clone() };
    // The admin socket resets limits: for the daemon's own user and root.
    let admin_access = Access { mode: 0o600, group: None };
    let mut open = |endpoints: &[Endpoint], access: &Access| -> Result<Vec<_>, ListenError> {
        endpoints.iter().map(|e| Ok((e.clone(), listeners::open(e, access, &mut inherited)?))).collect()
    };
    let delegation = open(&config.delegation_listen, &access)?;
    let admin = open(&config.admin_listen, &admin_access)?;
    let milters = milter::endpoints(config)
        .into_iter()
        .map(|(endpoint, side)| Ok((listeners::open(&endpoint, &access, &mut inherited)?, endpoint, side)))
        .collect::<Result<Vec<_>, ListenError>>()?;
    for address in inherited.unclaimed() {
        tracing::warn!(address, "systemd handed over a socket that no listen key names; nobody answers there.");
    }
    let mut files = Vec::new();
    for (endpoint, opened) in delegation {
        files.extend(opened.file);
        tracing::info!(%endpoint, "Answering policy questions.");
        tasks.spawn(server.clone().serve(opened.listener, endpoint.to_string()));
    }
    if let Some(milter) = milter {
        for (opened, endpoint, side) in milters {
            milter.serve(&endpoint, opened, side, tasks);
        }
    }
    for (endpoint, opened) in admin {
        files.extend(opened.file);
        let (office, gate) = (office.clone(), gate.clone());
        tasks.spawn(async move {
            let name = endpoint.to_string();
            if let Err(error) = admin::serve(office, endpoint, opened.listener, gate).await {
                tracing::error!(%error, endpoint = name, "The admin listener ended.");
            }
        });
    }
    Ok((server, files))
}

async fn reload_config(config: &mut Config, file: Option<PathBuf>, reloader: &Reloader) {
    // Off the runtime: where one thread answers, this is it, and a disk may hang.
    match tokio::task::spawn_blocking(move || Config::load(file.as_deref())).await {
        Ok(Ok((new, warnings))) => {
            for warning in &warnings {
                tracing::warn!("{warning}");
            }
            let restart = config.needs_restart(&new);
            if !restart.is_empty() {
                tracing::warn!("Changed in gatepost.toml, but only in force after a restart: {}.", restart.join(", "));
            }
            config.take_live(&new);
        }
        Ok(Err(problems)) => {
            for problem in &problems {
                tracing::error!("{problem}");
            }
            tracing::error!("gatepost.toml has problems; the settings in force stay.");
        }
        Err(error) => tracing::error!(%error, "gatepost.toml was not read; the settings in force stay."),
    }
    reloader.reload(config.policy_dir.clone(), config.rewriting());
}

/// Saves what a restart must not forget. It blocks.
fn save_state(house: &House, stamping: Option<&Milter>, state_dir: &Path) {
    limits::save(house, state_dir);
    if let Some(stamping) = stamping {
        milter::save(stamping, state_dir);
    }
}

/// Gives up idle keys, and saves what a restart must not forget every minute.
async fn keep_state(house: Arc<House>, stamping: Option<Arc<Milter>>, state_dir: PathBuf, gate: Arc<Gate>) {
    let mut since_save = Duration::ZERO;
    loop {
        tokio::select! {
            () = gate.closed() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => since_save += SWEEP_EVERY,
        }
        let (house, stamping, dir) = (house.clone(), stamping.clone(), state_dir.clone());
        let save = since_save >= SAVE_EVERY;
        let work = tokio::task::spawn_blocking(move || {
            house.meters.sweep(unix_time());
            if save {
                save_state(&house, stamping.as_deref(), &dir);
            }
        });
        if save {
            since_save = Duration::ZERO;
        }
        let _ = work.await;
    }
}

/// Tells systemd that the runtime still turns, twice per WatchdogSec.
async fn feed_watchdog(gate: Arc<Gate>) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    loop {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        tokio::select! {
            () = gate.closed() => return,
            () = tokio::time::sleep(period / 2) => {}
        }
    }
}

enum Wake {
    Reload,
    Stop,
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Option<Wake> {
        Some(tokio::select! {
            _ = self.term.recv() => Wake::Stop,
            _ = self.int.recv() => Wake::Stop,
            _ = self.hup.recv() => Wake::Reload,
        })
    }
}
