//! Tells the kernel half how to read what the threads of followed processes wait for, and takes that away where looking
//! costs too much.
//!
//! | a process is | becomes | when |
//! |---|---|---|
//! | unknown | under examination | its hand-offs are followed |
//! | unknown | considered | it runs CPython, as it seems |
//! | considered | asked | it has pools: it is followed from then on |
//! | under examination | asked | its runtime tells |
//! | under examination | off | it does not, or is none that could |
//! | asked or under examination | under examination | it may tell more by now: later and later |
//! | asked | resting | looking has cost more than its share of the process's own CPU time |
//! | resting | under examination | the process has run for long enough since |
//!
//! Where a process is not asked, its hand-offs are followed all the same, with less to go by.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tracer_abi::java_waits::JavaWaits;
use tracer_abi::python_waits::PythonWaits;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::account::{self, Account, Budget, Overdrawn, Spent};
use super::asked::Asked;
use super::examiner::{Examiner, Found, Ticket};
use super::function_probes::{FunctionProbe, FunctionProbes};
use super::object::Loaded;
use super::rests::Rests;
use crate::runtime::{self, Waits as Finding};

/// Until a process is examined again: at first, and at most.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Processes that are looked at for pools at once.
const MAX_CONSIDERED: usize = 256;

/// The kernel half's tables of whose threads are asked, by runtime.
struct Tables {
    python: Asked<PythonWaits>,
    java: Asked<JavaWaits>,
}

impl Tables {
    fn spent(&self, tgid: u32) -> Option<Spent> {
        self.python.spent(tgid).or_else(|| self.java.spent(tgid))
    }

    fn remove(&mut self, tgid: u32) {
        self.python.remove(tgid);
        self.java.remove(tgid);
    }
}

pub(super) struct Waits {
    tables: Tables,
    submits: FunctionProbes,
    /// `None`: the kernel half's part of it did not load.
    examiner: Option<Examiner<Finding>>,
    processes: HashMap<u32, Followed>,
    /// Examinations of processes that are not followed.
    considered: HashMap<u32, Ticket>,
    next_account: Instant,
    rests: Rests,
}

/// A process that has pools whose work items are known.
pub(super) struct Pools {
    pub(super) process: ProcessKey,
    finding: Finding,
}

impl Pools {
    fn of(process: ProcessKey, finding: Finding) -> Option<Self> {
        matches!(&finding, Finding::Python(_, entry, _) if entry.knows_futures())
            .then_some(Self { process, finding })
    }
}

struct Followed {
    process: ProcessKey,
    /// The examination that is under way.
    ticket: Option<Ticket>,
    /// When the next one is due, and after which pause.
    again: Option<Instant>,
    pause: Duration,
    asked: Option<Account>,
}

impl Waits {
    pub(super) fn new(loaded: &mut Loaded, budget: Budget) -> anyhow::Result<Self> {
        let may_ask = loaded.knows_waits() && !budget.is_nothing();
        let examiner = may_ask.then(|| Examiner::start(runtime::examine_waits)).transpose()?;
        Ok(Self {
            tables: Tables {
                python: Asked::open(loaded, "TRACER_PYWAITS")?,
                java: Asked::open(loaded, "TRACER_JVWAITS")?,
            },
            submits: FunctionProbes::new(FunctionProbe::Submits),
            examiner,
            processes: HashMap::new(),
            considered: HashMap::new(),
            next_account: Instant::now() + account::INTERVAL,
            rests: Rests::new(budget),
        })
    }

    pub(super) fn follow(&mut self, process: ProcessKey) {
        let Some(examiner) = &mut self.examiner else { return };
        let ticket = examiner.order(process);
        let again = ticket.is_none().then(|| Instant::now() + FIRST_RETRY);
        let followed = Followed { process, ticket, again, pause: FIRST_RETRY, asked: None };
        self.processes.insert(process.tgid.0, followed);
    }

    /// Looks at once whether a process has pools, which takes some milliseconds.
    pub(super) fn examine(&self, process: ProcessKey) -> Option<Pools> {
        self.examiner.as_ref()?;
        Pools::of(process, runtime::examine_waits(process))
    }

    /// Has it looked at whether a process has pools that is not followed. One that finds no room is not.
    pub(super) fn consider(&mut self, process: ProcessKey) {
        if self.considered.len() < MAX_CONSIDERED
            && let Some(examiner) = &mut self.examiner
            && let Some(ticket) = examiner.order(process)
        {
            self.considered.insert(process.tgid.0, ticket);
        }
    }

    /// A process is followed for its pools: true when it is to be asked.
    pub(super) fn follow_pools(&mut self, loaded: &mut Loaded, Pools { process, finding }: Pools) -> bool {
        let followed = Followed { process, ticket: None, again: None, pause: FIRST_RETRY, asked: None };
        self.processes.insert(process.tgid.0, followed);
        self.note(loaded, process, finding)
    }

    pub(super) fn forget(&mut self, tgid: u32) {
        self.rests.forget(tgid);
        self.leave(tgid);
    }

    fn leave(&mut self, tgid: u32) {
        self.considered.remove(&tgid);
        if self.processes.remove(&tgid).is_some() {
            self.tables.remove(tgid);
            self.submits.forget(tgid);
        }
    }

    /// How often a process was left alone for what it had cost.
    pub(super) const fn rests(&self) -> u64 {
        self.rests.count
    }

    /// See [`Rests::take_interrupted`].
    pub(super) fn take_interrupted(&mut self) -> Vec<(ProcessKey, KernelInstant)> {
        self.rests.take_interrupted()
    }

    /// Waits until [`Self::advance`] has something to do at once. Cancel safe.
    pub(super) async fn readable(&mut self) {
        match &mut self.examiner {
            Some(examiner) => examiner.readable().await,
            None => std::future::pending().await,
        }
    }

    /// Processes that are to be asked from now on, or no more; and those that were found to have pools.
    pub(super) fn advance(&mut self, loaded: &mut Loaded) -> (Vec<(u32, bool)>, Vec<Pools>) {
        let (mut changed, mut pools) = (Vec::new(), Vec::new());
        while let Some(Found { ticket, process, finding }) = self.examiner.as_mut().and_then(Examiner::found)
        {
            let tgid = process.tgid.0;
            if self.considered.get(&tgid) == Some(&ticket) {
                self.considered.remove(&tgid);
                pools.extend(Pools::of(process, finding));
            } else if let Some(followed) = self.processes.get_mut(&tgid)
                && followed.ticket == Some(ticket)
            {
                followed.ticket = None;
                if self.note(loaded, process, finding) {
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
            self.next_account = now + account::INTERVAL;
            changed.extend(self.account().into_iter().map(|tgid| (tgid, false)));
        }
        (changed, pools)
    }

    /// What an examination has brought. True when the process is to be asked.
    fn note(&mut self, loaded: &mut Loaded, process: ProcessKey, finding: Finding) -> bool {
        let pid = process.tgid;
        let Some(followed) = self.processes.get_mut(&pid.0) else { return false };
        let mut put = Err("it runs another runtime");
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
            Finding::Python(runtime, entry, code) => {
                put = code;
                if !entry.knows_futures() {
                    followed.again = Some(Instant::now() + followed.pause);
                }
                (runtime, self.tables.python.enter(pid.0, *entry))
            }
            Finding::Java(runtime, entry) => {
                if entry.knows_tasks() && !entry.knows_workers() {
                    followed.again = Some(Instant::now() + followed.pause);
                }
                (runtime, self.tables.java.enter(pid.0, *entry))
            }
        };
        if let Err(error) = entered {
            tracing::warn!("process {pid}: {runtime}: what its threads wait for is not asked: {error}");
            return false;
        }
        tracing::debug!("process {pid}: {runtime}: what its threads wait for is known");
        let attached = put.map_err(anyhow::Error::msg).and_then(|put| {
            self.submits.attach(loaded, pid, &put)?;
            self.tables
                .python
                .change(pid.0, |entry| entry.sees_submits = 1)
                .context("say so to the kernel half")
        });
        if let Err(error) = attached {
            tracing::debug!("process {pid}: {runtime}: who submits to its pools is not seen: {error:#}");
        }
        followed.asked.get_or_insert_with(|| Account::open(process));
        self.rests.end(process);
        true
    }

    /// Processes whose asking costs more than its share rest until they have paid for it: which ones do from now on.
    fn account(&mut self) -> Vec<u32> {
        let mut dear = Vec::new();
        for (tgid, Followed { process, asked, .. }) in &mut self.processes {
            let Some(account) = asked else { continue };
            if let Some(spent) = self.tables.spent(*tgid)
                && let Some(overdrawn) = account.settle(*process, spent, self.rests.budget)
            {
                dear.push((*process, *account, overdrawn));
            }
        }
        for (process, account, Overdrawn { asking, running }) in &dear {
            let tgid = process.tgid;
            self.leave(tgid.0);
            if self.rests.begin(*process, *account) {
                let budget = self.rests.budget;
                tracing::warn!(
                    "process {tgid}: asking what its threads wait for took {asking:.1?} of {running:.1?} that it ran, \
                     more than {budget}: it is left alone for as long as that takes to even out, now and then"
                );
            }
        }
        for process in self.rests.repaid() {
            self.follow(process);
        }
        dear.iter().map(|(process, ..)| process.tgid.0).collect()
    }
}
