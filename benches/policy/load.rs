//! The load generator: behaves like many smtpd processes, each with one question in flight on a
//! connection that stays open, and reads every answer to its last byte. A process of its own with
//! few threads (epoll), so that it takes little of the CPU that the server under test needs.

use crate::common::Result;
use crate::common::echo::DUNNO;
use crate::common::figures::quantile;
use crate::common::process::cpu_time;
use crate::common::question::{Kind, Questions};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The first argument of a process in this role.
pub const ROLE: &str = "--role=load";

/// How long the load runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(200);

/// The longest wait for one answer before the run is given up.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What to do to which server.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The server's socket.
    pub socket: &'a Path,
    /// The server's process, whose CPU time is read.
    pub pid: u32,
    /// What to ask.
    pub kind: Kind,
    /// Connections in all.
    pub connections: usize,
    /// Threads, over which the connections are spread.
    pub threads: usize,
    /// How long to measure.
    pub seconds: f64,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Answers per second.
    pub rate: f64,
    /// CPU time of the server per question, in microseconds.
    pub cpu: f64,
    /// Median time to an answer, in microseconds.
    pub p50: f64,
    /// 99th percentile, in microseconds.
    pub p99: f64,
    /// 99.9th percentile, in microseconds.
    pub p999: f64,
    /// The longest, in microseconds.
    pub max: f64,
}

impl Plan<'_> {
    /// Starts the load in a process of its own.
    pub fn start(&self) -> Result<Running> {
        let child = Command::new(std::env::current_exe()?)
            .args([ROLE, self.kind.as_str()])
            .arg(self.socket)
            .args([self.pid.to_string(), self.connections.to_string(), self.threads.to_string()])
            .arg(self.seconds.to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Running(child))
    }
}

/// A load that runs.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Whether it has ended.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Waits for its end, and its figures.
    pub fn figures(self) -> Result<Figures> {
        let out = self.0.wait_with_output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        match numbers[..] {
            [rate, cpu, p50, p99, p999, max] if out.status.success() => Ok(Figures { rate, cpu, p50, p99, p999, max }),
            _ => Err(format!("the load generator failed: {} {text}", out.status).into()),
        }
    }
}

/// `--role=load KIND SOCKET PID CONNECTIONS THREADS SECONDS`: prints the figures as six numbers.
pub fn run(args: &[String]) -> Result<()> {
    let [kind, socket, pid, connections, threads, seconds] = args else {
        return Err("usage: --role=load KIND SOCKET PID CONNECTIONS THREADS SECONDS".into());
    };
    let kind = kind.parse().map_err(|()| "unknown kind")?;
    let plan = Plan {
        socket: Path::new(socket),
        pid: pid.parse()?,
        kind,
        connections: connections.parse()?,
        threads: threads.parse::<usize>()?.max(1),
        seconds: seconds.parse()?,
    };
    let f = measure(&plan)?;
    println!("{} {} {} {} {} {}", f.rate, f.cpu, f.p50, f.p99, f.p999, f.max);
    Ok(())
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const STOPPING: u8 = 2;

fn measure(plan: &Plan<'_>) -> Result<Figures> {
    let phase = &AtomicU8::new(WARMING);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads).map(|t| scope.spawn(move || drive(plan, t, phase))).collect();
        let window = window(plan, phase);
        // Also where a window failed: the threads must end.
        phase.store(STOPPING, Relaxed);
        let mut times = Vec::new();
        for thread in threads {
            times.extend(thread.join().map_err(|_| "a thread panicked")??);
        }
        let (elapsed, cpu) = window?;
        if times.is_empty() {
            return Err("nothing was answered".into());
        }
        times.sort_unstable();
        let micros = |q| f64::from(quantile(&times, q)) / 1e3;
        Ok(Figures {
            rate: times.len() as f64 / elapsed.as_secs_f64(),
            cpu: cpu.as_secs_f64() * 1e6 / times.len() as f64,
            p50: micros(0.5),
            p99: micros(0.99),
            p999: micros(0.999),
            max: micros(1.0),
        })
    })
}

/// Lets the threads warm up, then measure: how long that took, and what CPU time the server used.
fn window(plan: &Plan<'_>, phase: &AtomicU8) -> Result<(Duration, Duration)> {
    std::thread::sleep(WARM_UP);
    let (cpu, began) = (cpu_time(plan.pid)?, Instant::now());
    phase.store(MEASURING, Relaxed);
    std::thread::sleep(Duration::from_secs_f64(plan.seconds));
    phase.store(STOPPING, Relaxed);
    Ok((began.elapsed(), cpu_time(plan.pid)?.saturating_sub(cpu)))
}

/// A connection with one question in flight.
struct Connection {
    stream: UnixStream,
    asked: Instant,
    /// How much of the answer is there.
    got: usize,
}

/// One thread: asks on its connections until told to stop; the times to each measured answer, in
/// nanoseconds.
fn drive(plan: &Plan<'_>, thread: usize, phase: &AtomicU8) -> Result<Vec<u32>> {
    let mut questions = Questions::new(plan.kind, thread);
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for n in (thread..plan.connections).step_by(plan.threads) {
        let mut stream = UnixStream::connect(plan.socket)?;
        stream.set_nonblocking(true)?;
        epoll::add(&ready, &stream, epoll::EventData::new_u64((n / plan.threads) as u64), epoll::EventFlags::IN)?;
        stream.write_all(questions.next())?;
        connections.push(Connection { stream, asked: Instant::now(), got: 0 });
    }
    let (mut times, mut events) = (Vec::with_capacity(1 << 20), Vec::with_capacity(connections.len().max(1)));
    let mut in_flight = connections.len();
    while in_flight > 0 {
        events.clear();
        if epoll::wait(&ready, spare_capacity(&mut events), Some(&PATIENCE))? == 0 {
            return Err("no answer for ten seconds".into());
        }
        for event in &events {
            let Some(connection) = connections.get_mut(event.data.u64() as usize) else { continue };
            if !connection.answered()? {
                continue;
            }
            let now = Instant::now();
            let phase = phase.load(Relaxed);
            if phase == MEASURING {
                let nanos = now.duration_since(connection.asked).as_nanos();
                times.push(u32::try_from(nanos).unwrap_or(u32::MAX));
            }
            if phase == STOPPING {
                in_flight -= 1;
            } else {
                (connection.asked, connection.got) = (now, 0);
                connection.stream.write_all(questions.next())?;
            }
        }
    }
    Ok(times)
}

impl Connection {
    /// Reads on; whether the whole answer is there. Any other answer is an error.
    fn answered(&mut self) -> Result<bool> {
        let mut buffer = [0; 512];
        let read = self.stream.read(&mut buffer)?;
        let answer = &buffer[..read];
        if read == 0 || DUNNO.get(self.got..self.got + read) != Some(answer) {
            return Err(format!("expected {DUNNO:?}, got {:?}", String::from_utf8_lossy(answer)).into());
        }
        self.got += read;
        Ok(self.got == DUNNO.len())
    }
}
