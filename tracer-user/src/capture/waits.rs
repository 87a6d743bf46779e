//! Tells the kernel half how to read what the threads of followed processes wait for, and takes that away where looking
//! costs too much.
//!
//! | a process is | becomes | when |
//! |---|---|---|
//! | unknown | under examination | its hand-offs are followed |
//! | under examination | asked | its runtime tells |
//! | under examination | off | it does not, or is none that could |
//! | asked or under examination | under examination | it may tell more by now: later and later |
//! | asked | off | looking costs more than its share of the process's own CPU time |
//!
//! Where a process is not asked, its hand-offs are followed all the same, with less to go by.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::Pod;
use aya::maps::{HashMap as BpfHashMap, MapData, MapError};
use tracer_abi::java_waits::JavaWaits;
use tracer_abi::python_waits::PythonWaits;
use tracer_abi::task::ProcessKey;

use super::examiner::{Examiner, Found, Ticket};
use super::identity::{ACCOUNT, BUDGET_PERCENT, MIN_CPU, cpu_time, is_too_dear};
use super::object::Loaded;
use crate::runtime::{self, Waits as Finding};

/// Until a process is examined again: at first, and at most.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Entry(PythonWaits);

// SAFETY: `repr(C)` integers without padding.
unsafe impl Pod for Entry {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct JavaEntry(JavaWaits);

// SAFETY: as above.
unsafe impl Pod for JavaEntry {}

/// The kernel half's tables of whose threads are asked, by runtime.
struct Tables {
    python: BpfHashMap<MapData, u32, Entry>,
    java: BpfHashMap<MapData, u32, JavaEntry>,
}

impl Tables {
    fn enter_python(&mut self, tgid: u32, entry: PythonWaits) -> Result<(), MapError> {
        let (spent_nanos, looks) =
            self.python.get(&tgid, 0).map_or((0, 0), |Entry(old)| (old.spent_nanos, old.looks));
        self.python.insert(tgid, Entry(PythonWaits { spent_nanos, looks, ..entry }), 0)
    }

    fn enter_java(&mut self, tgid: u32, entry: JavaWaits) -> Result<(), MapError> {
        let (spent_nanos, looks) =
            self.java.get(&tgid, 0).map_or((0, 0), |JavaEntry(old)| (old.spent_nanos, old.looks));
        self.java.insert(tgid, JavaEntry(JavaWaits { spent_nanos, looks, ..entry }), 0)
    }

    /// Nanoseconds that asking a process has taken.
    fn spent(&self, tgid: u32) -> Option<u64> {
        if let Ok(Entry(entry)) = self.python.get(&tgid, 0) {
            return Some(entry.spent_nanos);
        }
        self.java.get(&tgid, 0).ok().map(|JavaEntry(entry)| entry.spent_nanos)
    }

    fn remove(&mut self, tgid: u32) {
        // Absent: there is nothing to remove.
        let _ = self.python.remove(&tgid);
        let _ = self.java.remove(&tgid);
    }
}

pub(super) struct Waits {
    tables: Tables,
    /// `None`: the kernel half's part of it did not load.
    examiner: Option<Examiner<Finding>>,
    processes: HashMap<u32, Followed>,
    next_account: Instant,
}

struct Followed {
    process: ProcessKey,
    /// The examination that is under way.
    ticket: Option<Ticket>,
    /// When the next one is due, and after which pause.
    again: Option<Instant>,
    pause: Duration,
    asked: Option<Cost>,
}

/// What asking had cost when it was looked at last.
#[derive(Clone, Copy)]
struct Cost {
    spent: Duration,
    cpu: Option<Duration>,
}

impl Waits {
    pub(super) fn new(loaded: &mut Loaded) -> anyhow::Result<Self> {
        let examiner = loaded.knows_waits().then(|| Examiner::start(runtime::examine_waits)).transpose()?;
        Ok(Self {
            tables: Tables {
                python: loaded.take_map("TRACER_PYWAITS")?.try_into().context("open map TRACER_PYWAITS")?,
                java: loaded.take_map("TRACER_JVWAITS")?.try_into().context("open map TRACER_JVWAITS")?,
            },
            examiner,
            processes: HashMap::new(),
            next_account: Instant::now() + ACCOUNT,
        })
    }

    pub(super) fn follow(&mut self, process: ProcessKey) {
        let Some(examiner) = &mut self.examiner else { return };
        let ticket = examiner.order(process);
        let again = ticket.is_none().then(|| Instant::now() + FIRST_RETRY);
        let followed = Followed { process, ticket, again, pause: FIRST_RETRY, asked: None };
        self.processes.insert(process.tgid.0, followed);
    }

    pub(super) fn forget(&mut self, tgid: u32) {
        if self.processes.remove(&tgid).is_some() {
            self.tables.remove(tgid);
        }
    }

    /// Waits until [`Self::advance`] has something to do at once. Cancel safe.
    pub(super) async fn readable(&mut self) {
        match &mut self.examiner {
            Some(examiner) => examiner.readable().await,
            None => std::future::pending().await,
        }
    }

    /// Processes that are to be asked from now on, or no more.
    pub(super) fn advance(&mut self) -> Vec<(u32, bool)> {
        let mut changed = Vec::new();
        while let Some(Found { ticket, process, finding }) = self.examiner.as_mut().and_then(Examiner::found)
        {
            let tgid = process.tgid.0;
            if let Some(followed) = self.processes.get_mut(&tgid)
                && followed.ticket == Some(ticket)
            {
                followed.ticket = None;
                if self.note(process, finding) {
                    changed.push((tgid, true));
                }
            }
        }
        let now = Instant::now();
        if let Some(examiner) = &mut self.examiner {
            for followed in self.processes.values_mut() {
                if followed.again.is_some_and(|at| at <= now) {
                    followed.again = None;
                    followed.pause = LAST_RETRY.min(followed.pause * 2);
                    followed.ticket = examiner.order(followed.process);
                    if followed.ticket.is_none() {
                        followed.again = Some(now + followed.pause);
                    }
                }
            }
        }
        if self.next_account <= now {
            self.next_account = now + ACCOUNT;
            for tgid in self.too_dear() {
                self.forget(tgid);
                changed.push((tgid, false));
            }
        }
        changed
    }

    /// What an examination has brought. True when the process is to be asked.
    fn note(&mut self, process: ProcessKey, finding: Finding) -> bool {
        let pid = process.tgid;
        let Some(followed) = self.processes.get_mut(&pid.0) else { return false };
        let (runtime, entered) = match finding {
            Finding::Nothing => return false,
            Finding::NotYet(runtime, reason) => {
                tracing::debug!("process {pid}: {runtime}: what its threads wait for: {reason}");
                followed.again = Some(Instant::now() + followed.pause);
                return false;
            }
            Finding::Unknown(runtime, needed) => {
                tracing::info!("process {pid}: {runtime}: what its threads wait for is not known: {needed}");
                return false;
            }
            Finding::Python(runtime, entry) => {
                if !entry.knows_futures() {
                    followed.again = Some(Instant::now() + followed.pause);
                }
                (runtime, self.tables.enter_python(pid.0, *entry))
            }
            Finding::Java(runtime, entry) => (runtime, self.tables.enter_java(pid.0, *entry)),
        };
        if let Err(error) = entered {
            tracing::warn!("process {pid}: {runtime}: what its threads wait for is not asked: {error}");
            return false;
        }
        tracing::debug!("process {pid}: {runtime}: what its threads wait for is known");
        if followed.asked.is_none() {
            followed.asked = Some(Cost { spent: Duration::ZERO, cpu: cpu_time(process) });
        }
        true
    }

    /// Processes whose asking costs more than its share.
    fn too_dear(&mut self) -> Vec<u32> {
        let mut dear = Vec::new();
        for (tgid, followed) in &mut self.processes {
            let Some(cost) = followed.asked else { continue };
            let (Some(spent), Some(now)) = (self.tables.spent(*tgid), cpu_time(followed.process)) else {
                continue;
            };
            let total = Duration::from_nanos(spent);
            let (asking, running) =
                (total.saturating_sub(cost.spent), now.saturating_sub(cost.cpu.unwrap_or(now)));
            if running < MIN_CPU && cost.cpu.is_some() {
                continue;
            }
            followed.asked = Some(Cost { spent: total, cpu: Some(now) });
            if is_too_dear(asking, running) {
                tracing::warn!(
                    "process {tgid}: asking what its threads wait for took {asking:?} of {running:?} that it ran, \
                     more than {BUDGET_PERCENT} %: it is not asked any more"
                );
                dear.push(*tgid);
            }
        }
        dear
    }
}
