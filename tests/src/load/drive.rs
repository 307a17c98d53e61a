//! The open loop: starts requests on schedule, collects what comes of them.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::{
    plan::{Mode, Plan, Target},
    report::{Good, Report, Sample, Tally},
    send::{self, Connection, NoAnswer},
};

const LATE: Duration = Duration::from_millis(50);
/// Load that is told to end goes on until it has sent so many requests: what happened meanwhile may have taken a moment
/// only, and fewer do not tell that nothing failed.
const LEAST: u64 = 100;
/// Between the requests and the one that counts; the loop waits when it is full, which shows as late requests.
const SAMPLES: usize = 4096;

/// Idle kept connections of each target.
#[derive(Clone, Default)]
struct Pool(Arc<Mutex<HashMap<SocketAddr, Vec<Connection>>>>);

impl Pool {
    fn take(&self, addr: SocketAddr) -> Option<Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&addr)?.pop()
    }

    fn put(&self, addr: SocketAddr, connection: Connection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(addr).or_default().push(connection);
    }
}

/// Carries a plan out. Errors: the plan makes no sense, or a target is outside of labs.
pub fn drive(plan: &Plan) -> anyhow::Result<Report> {
    let targets = plan.resolve()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(run(plan, targets));
    // Standard input may still be read, which cannot be cut short.
    runtime.shutdown_background();
    Ok(report)
}

async fn run(plan: &Plan, targets: Vec<Target>) -> Report {
    let (samples, mut inbox) = mpsc::channel(SAMPLES);
    let started_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut tally = Tally::new(u64::try_from(started_unix_ms).unwrap_or_default());
    let collector = tokio::spawn(async move {
        while let Some(sample) = inbox.recv().await {
            tally.add(sample);
        }
        tally.finish()
    });
    let stopped = until_eof(plan.until_eof);
    let (start, pool) = (Instant::now(), Pool::default());
    let within = Duration::from_secs_f64(plan.timeout_s);
    for number in 0u64.. {
        let at = Duration::from_secs_f64(number as f64 / plan.rate);
        if at.as_secs_f64() >= plan.duration_s || (number >= LEAST && stopped.is_finished()) {
            break;
        }
        tokio::time::sleep_until(start + at).await;
        let target = targets[usize::try_from(number).unwrap_or_default() % targets.len()].clone();
        let (samples, pool, mode) = (samples.clone(), pool.clone(), plan.mode);
        tokio::spawn(async move {
            let due = start + at;
            let (begun, late) = (Instant::now(), due.elapsed() > LATE);
            let keep = mode == Mode::Keepalive;
            let (resent, result) = match mode {
                Mode::Fresh | Mode::Keepalive => request(keep, &target, &pool, within).await,
                Mode::Udp => (false, send::udp(&target, within).await),
                Mode::Dns => (false, send::dns(&target, within).await),
            };
            // Timers here are of whole milliseconds, which is longer than an answer of a name server takes.
            let from = if mode == Mode::Dns { begun } else { due };
            let result = result.map(|body| Good { latency: from.elapsed(), body });
            // The collector lives until all senders are gone.
            let _ = samples.send(Sample { at, target: target.name, resent, late, result }).await;
        });
    }
    drop(samples);
    collector.await.unwrap_or_default()
}

async fn request(
    keep: bool,
    target: &Target,
    pool: &Pool,
    within: Duration,
) -> (bool, Result<String, send::Wrong>) {
    let mut resent = false;
    loop {
        // All idle connections may be stale at once; each is tried only once, and then a new one.
        let kept = if keep { pool.take(target.addr) } else { None };
        match send::http(target, kept, keep, within).await {
            Ok(answer) => {
                if let Some(connection) = answer.kept {
                    pool.put(target.addr, connection);
                }
                return (resent, Ok(answer.body));
            }
            Err(NoAnswer::Stale) => resent = true,
            Err(NoAnswer::Failed(wrong)) => return (resent, Err(wrong)),
        }
    }
}

/// Ends when standard input does, if `wanted`; never otherwise. Cannot be aborted: a read from a pipe goes on.
fn until_eof(wanted: bool) -> JoinHandle<()> {
    tokio::task::spawn_blocking(move || {
        if !wanted {
            loop {
                std::thread::park();
            }
        }
        // An error is an end as well.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    })
}
