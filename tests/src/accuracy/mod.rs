//! The measuring stick for parents: real programs under load, every edge judged against the truth.
//!
//! A *cell* is a workload at one number of requests at a time. Its truth comes from the ledgers that the programs keep in
//! files, so that it does not depend on what the ids say: runs with random ids must score the same. What is measured,
//! and nothing else, is in [`Cell`]; which programs there are is in [`workloads`].

mod cell;
mod servers;
pub mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::http::{self, Client};
use crate::nginx;
use crate::score::{Call, Naming, Score, Truth, ledger};
use crate::tracer::Tracer;
pub use cell::{Cell, Tally};
use workloads::{Manner, Running, Workload};

/// How to fill a cell.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Edges with a parent that a cell must have; fewer fail it.
    pub min_edges: usize,
    /// Runs, each with programs started anew.
    pub seeds: usize,
}

/// Fills one cell. `random_names`: ids tell nothing, not even a person.
///
/// # Errors
/// When a program fails, or there are too few edges: a short measurement proves nothing.
pub fn measure(
    binary: &Path,
    workload: &Workload,
    concurrency: usize,
    effort: Effort,
    random_names: bool,
    note: impl FnMut(&str),
) -> anyhow::Result<Cell> {
    measure_with(binary, &[], workload, concurrency, effort, random_names, note).map(|(cell, _)| cell)
}

/// The same with these options of the tracer; and what that had to say.
///
/// # Errors
/// As [`measure`].
pub fn measure_with(
    binary: &Path,
    options: &[&str],
    workload: &Workload,
    concurrency: usize,
    effort: Effort,
    random_names: bool,
    mut note: impl FnMut(&str),
) -> anyhow::Result<(Cell, String)> {
    let mut logs = String::new();
    let mut cell = Cell::new(workload, concurrency);
    for seed in 0..effort.seeds {
        let wanted = effort.min_edges.div_ceil(effort.seeds);
        let manner = Manner { random_names, ..Manner::default() };
        let running = (workload.start)(manner).with_context(|| format!("start {}", workload.name()))?;
        let (score, log) = once(binary, options, &running, concurrency, wanted, seed, random_names)
            .with_context(|| format!("{} at {concurrency}: {}", workload.name(), running.complaints()))?;
        for what in &score.notes {
            note(what);
        }
        if score.in_process.lost + score.cross_process.lost > 0 {
            note(&log);
        }
        cell.add(&score);
        logs += &log;
    }
    let edges = cell.in_process.total();
    ensure!(
        edges >= effort.min_edges,
        "{} at {concurrency}: {edges} edges only, of {} wanted",
        workload.name(),
        effort.min_edges
    );
    Ok((cell, logs))
}

/// Requests after which it is looked whether there are enough edges.
const BATCH: usize = 150;

/// A workload that does not get together its edges in this time is broken.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long connections are waited for that others of the machine may be making.
const CONNECTS: Duration = Duration::from_secs(10);

fn once(
    binary: &Path,
    options: &[&str],
    running: &Running,
    concurrency: usize,
    wanted: usize,
    seed: usize,
    random_names: bool,
) -> anyhow::Result<(Score, String)> {
    // Connections and threads that are older than the tracer are part of the exercise.
    let mut old = Client::new(running.addr);
    for number in 0..if running.warms_up { 3 } else { 0 } {
        old.get(&format!("{}/work/warm{seed}x{number}", running.prefix)).context("warm up")?;
    }
    let front = running.lasting()?;
    let options: Vec<String> = front
        .iter()
        .chain(&running.proxy())
        .chain(&running.back())
        .flat_map(|pid| ["--pid".to_owned(), pid.to_string()])
        .chain(options.iter().map(|&option| option.to_owned()))
        .collect();
    // What was called before is nothing that could be seen.
    let before = settled(running, &BTreeMap::new)?;
    let tracer = Tracer::attach_binary(binary, &options)?;
    let driver = Driver {
        addr: running.addr,
        prefix: running.prefix,
        seed,
        random_names,
        answered: Mutex::default(),
        abandoned: Mutex::default(),
    };
    // Load grows from one request at a time, as that of a real service does.
    driver.run(1, 0..BATCH / 3)?;
    let mut next = BATCH / 3;
    let begin = Instant::now();
    loop {
        driver.run(concurrency, next..next + BATCH)?;
        next += BATCH;
        let calls = running.calls(&driver.answered())?;
        let seen = calls.iter().filter(|(id, call)| call.cause.is_some() && !before.contains_key(*id));
        // Calls that a program gave up do not count.
        if seen.count() >= wanted + wanted / 20 + 5 {
            break;
        }
        ensure!(begin.elapsed() < PATIENCE, "{} calls after {PATIENCE:?}", calls.len());
    }
    let mut calls = settled(running, &|| driver.answered())?;
    calls.retain(|id, _| !before.contains_key(id));
    let report = tracer.finish()?;
    let mut front = front;
    // Processes that were born meanwhile.
    front.extend(running.front()?);
    let (proxy, back) = (running.proxy(), running.back());
    let others: BTreeSet<u32> = proxy.union(&back).copied().collect();
    front.extend(report.spans.iter().map(crate::spans::Span::pid).filter(|pid| !others.contains(pid)));
    let (requests, abandoned) = (driver.answered(), driver.abandoned());
    if proxy.is_empty() {
        let truth = Truth { front, back, requests, abandoned, calls };
        return Ok((Score::of(&report.spans, &truth), report.log));
    }
    // The proxy's own edges, and how what it called came in.
    let handed_on = Naming::Same.calls(&requests.keys().cloned().collect());
    let outer =
        Truth { front: proxy, back: front.clone(), requests, abandoned: abandoned.clone(), calls: handed_on };
    // Who asks the program is traced, too: its requests have a parent, which is judged above.
    let inner = Truth { front, back, requests: BTreeMap::new(), abandoned, calls };
    let mut score = Score::of(&report.spans, &inner);
    score.add(Score::of(&report.spans, &outer));
    Ok((score, report.log))
}

/// Waits until no request's calls are under way any more: some are made after the answer, and where a listener's queue was
/// full, TCP takes a second or more to try again.
fn settled(
    running: &Running,
    answered: &dyn Fn() -> BTreeMap<String, u64>,
) -> anyhow::Result<BTreeMap<String, Call>> {
    let caused = |calls: &BTreeMap<String, Call>| calls.values().filter(|call| call.cause.is_some()).count();
    let mut calls = running.calls(&answered())?;
    let begin = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(400));
        let now = running.calls(&answered())?;
        if caused(&now) == caused(&calls) && (!connects() || begin.elapsed() > CONNECTS) {
            return Ok(now);
        }
        calls = now;
    }
}

/// Whether anything on this machine waits for a connection to another process of it.
fn connects() -> bool {
    const LOOPBACK: &str = "0100007F:";
    const SYN_SENT: &str = "02";
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    sockets.lines().any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        matches!(fields.as_slice(), [_, _, remote, SYN_SENT, ..] if remote.starts_with(LOOPBACK))
    })
}

/// Asks for things and remembers what was answered.
struct Driver {
    addr: SocketAddr,
    prefix: &'static str,
    seed: usize,
    random_names: bool,
    answered: Mutex<BTreeMap<String, u64>>,
    abandoned: Mutex<BTreeSet<String>>,
}

impl Driver {
    fn run(&self, concurrency: usize, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
        http::drive(self.addr, concurrency, numbers.len(), |client, index| {
            let number = numbers.start + index;
            if number.is_multiple_of(9) {
                client.close();
            }
            let id = self.name(number);
            let body = number.is_multiple_of(5).then(|| vec![b'q'; [1, 700, 60_000][number % 3]]);
            let method = if body.is_some() { "POST" } else { "GET" };
            let path = format!("{}/work/{id}?secret=s{number}", self.prefix);
            if number % 41 == 40 {
                // Somebody who does not wait for the answer.
                self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                return client.abandon(
                    method,
                    &path,
                    body.as_deref(),
                    Duration::from_millis(number as u64 % 4),
                );
            }
            let response = client.request(method, &path, body.as_deref())?;
            ensure!(response.status == 200, "{id}: status {}", response.status);
            let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
            answered.insert(id, response.body.len() as u64);
            Ok(())
        })
    }

    fn name(&self, number: usize) -> String {
        if self.random_names {
            // Splitmix64: names that differ and tell nothing.
            let mut word = ((self.seed as u64) << 32 | number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            return format!("{:016x}", word ^ word >> 31);
        }
        format!("s{}r{number}", self.seed)
    }

    fn abandoned(&self) -> BTreeSet<String> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answered(&self) -> BTreeMap<String, u64> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads the ledger of a running workload.
fn read_ledger(path: &PathBuf) -> anyhow::Result<BTreeMap<String, Call>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // A line may just be written.
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    ledger(whole).with_context(|| format!("ledger {}", path.display()))
}

/// All descendants of a process, itself included.
fn family(pid: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([pid]);
    let mut fresh = vec![pid];
    while let Some(parent) = fresh.pop() {
        for child in nginx::children(parent).unwrap_or_default() {
            if found.insert(child) {
                fresh.push(child);
            }
        }
    }
    found
}
