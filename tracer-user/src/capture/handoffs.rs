//! Following hand-offs between the threads of single processes: the hooks that see them, and the table of whose.
//!
//! The hooks run at every wake-up and every sleep of the machine, so they are attached only while some process is
//! followed. A process whose wake-ups are more than [`MAX_WAKES`] allows is followed no more.
//!
//! Who is followed is asked for, but for CPython's pools: what they did before it is not known later, and they may do it
//! within a millisecond. So a process that has loaded them is followed from when that is seen, for a tenth of the price.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use aya::Pod;
use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use tracer_abi::config::{Followed, identity_slot};
use tracer_abi::event::EventKind;
use tracer_abi::task::{ProcessKey, Tgid};
use tracer_abi::time::KernelInstant;

use super::account::Budget;
use super::ladder::{Probe, TailCall};
use super::object::{Attached, Loaded};
use super::record;
use super::waits::{Pools, Waits};
use crate::process::event_fds::event_fds;
use crate::process::procfs::StartTick;

/// In the order in which they are attached: what is told of a thread's sleep is never older than the sleep.
pub(super) const PROBES: &[Probe] = &[
    Probe::trace_point("tracer_switch", "sched_switch"),
    Probe::trace_point("tracer_newtask", "task_newtask"),
    Probe::trace_point("tracer_waking", "sched_waking"),
];

/// Programs that go on with a wake-up, by runtime. Where one is refused, what that runtime's threads wait for is not known,
/// and nothing else is missing.
pub(super) const WAITS: &[TailCall] = &[
    Probe::trace_point("tracer_py_wake", "sched_waking").after("TRACER_IDWAKE", identity_slot::PYTHON),
    Probe::trace_point("tracer_jv_wake", "sched_waking").after("TRACER_IDWAKE", identity_slot::JAVA),
];

/// Wake-ups of a process in a second, over two looks: looking at one costs about 0.4 µs of a CPU, so that these are a
/// tenth of one.
const MAX_WAKES: u64 = 250_000;

/// Of them, reported: each costs the tracer about as much again as the process.
const MAX_REPORTED: u64 = 100_000;

/// What a process may cost less that nobody has asked for.
const UNASKED_SHARE: u64 = 10;

/// Processes followed beyond which none is that nobody has asked for: half of what the table holds.
const MAX_UNASKED: usize = 512;

/// Processes that are remembered to have been followed without being asked for: beyond it, none is.
const MAX_TRIED: usize = 4096;

pub(super) struct HandOffs {
    table: BpfHashMap<MapData, u32, Entry>,
    /// How many entries the table has.
    count: Array<MapData, u32>,
    attached: Vec<Attached>,
    followed: BTreeMap<u32, Spent>,
    waits: Waits,
    /// Processes that are to be asked whose work operations are, from now on or no more.
    changed: Vec<(u32, bool)>,
    /// Whether processes with pools are followed before it is asked for; and those that were, as long as they live.
    pools: bool,
    tried: BTreeMap<u32, Tried>,
}

/// A process that was followed before it was asked for.
#[derive(Clone, Copy, Debug)]
struct Tried {
    start: StartTick,
    /// It cost too much.
    refused: bool,
}

/// What a process had cost when it was looked at last.
#[derive(Clone, Copy, Debug)]
struct Spent {
    process: ProcessKey,
    at: Instant,
    wakes: u64,
    reported: u64,
    /// It cost too much at the last look, too.
    too_much: bool,
    /// Somebody has asked for it.
    wanted: bool,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Entry(Followed);

// SAFETY: `repr(C)` integers without padding.
unsafe impl Pod for Entry {}

/// Whether they are one process, also where its start is known to the tick only.
fn is_same(one: ProcessKey, other: ProcessKey) -> bool {
    one.tgid == other.tgid && StartTick::of(one) == StartTick::of(other)
}

impl HandOffs {
    /// `pools`: processes with pools are followed before it is asked for.
    pub(super) fn new(loaded: &mut Loaded, pools: bool, budget: Budget) -> anyhow::Result<Self> {
        Ok(Self {
            table: loaded.take_map("TRACER_HANDOFF")?.try_into().context("open map TRACER_HANDOFF")?,
            count: loaded.take_map("TRACER_FOLLOWS")?.try_into().context("open map TRACER_FOLLOWS")?,
            attached: Vec::new(),
            followed: BTreeMap::new(),
            waits: Waits::new(loaded, budget)?,
            changed: Vec::new(),
            pools,
            tried: BTreeMap::new(),
        })
    }

    /// How often asking for a process's waits rested.
    pub(super) const fn rests(&self) -> u64 {
        self.waits.rests()
    }

    /// See [`super::rests::Rests::take_interrupted`].
    pub(super) fn take_interrupted(&mut self) -> Vec<(ProcessKey, KernelInstant)> {
        self.waits.take_interrupted()
    }

    /// Idempotent.
    ///
    /// # Errors
    ///
    /// When the hooks cannot be attached, the table is full, or the process has cost too much before.
    pub(super) fn follow(&mut self, loaded: &mut Loaded, process: ProcessKey) -> anyhow::Result<()> {
        if let Some(known) = self.followed.get_mut(&process.tgid.0)
            && is_same(known.process, process)
        {
            (known.process, known.wanted) = (process, true);
            return Ok(());
        }
        // How long its threads sleep would have to be learned anew, and what was missed is not told.
        let refused = self.tried(process).is_some_and(|tried| tried.refused);
        ensure!(!refused, "its threads wake each other too often");
        self.enter(loaded, process, true)?;
        self.waits.follow(process);
        Ok(())
    }

    /// Follows a process that was found to run CPython if it has pools, at once: some milliseconds.
    pub(super) fn examine(&mut self, loaded: &mut Loaded, process: ProcessKey) {
        if self.may_try(process)
            && let Some(pools) = self.waits.examine(process)
        {
            self.follow_pools(loaded, pools);
        }
    }

    /// The same, as soon as it is known.
    pub(super) fn consider(&mut self, process: ProcessKey) {
        if self.may_try(process) {
            self.waits.consider(process);
        }
    }

    fn may_try(&self, process: ProcessKey) -> bool {
        self.pools
            && self.tried.len() < MAX_TRIED
            && self.followed.len() < MAX_UNASKED
            && self.tried(process).is_none()
            && !self.followed.contains_key(&process.tgid.0)
    }

    fn tried(&self, process: ProcessKey) -> Option<&Tried> {
        self.tried.get(&process.tgid.0).filter(|tried| tried.start == StartTick::of(process))
    }

    fn follow_pools(&mut self, loaded: &mut Loaded, pools: Pools) {
        let process = pools.process;
        if !self.may_try(process) {
            return;
        }
        self.tried.insert(process.tgid.0, Tried { start: StartTick::of(process), refused: false });
        match self.enter(loaded, process, false) {
            Ok(()) => {
                let asked = self.waits.follow_pools(loaded, pools);
                self.ask(process.tgid.0, asked);
            }
            // It says so when it is asked for.
            Err(error) => tracing::debug!("process {}: its pools are not followed: {error:#}", process.tgid),
        }
    }

    fn enter(&mut self, loaded: &mut Loaded, process: ProcessKey, wanted: bool) -> anyhow::Result<()> {
        let tgid = process.tgid.0;
        if self.attached.is_empty() {
            self.attached = loaded.attach_handoffs(PROBES)?;
        }
        let event_fds = event_fds(process);
        let start_boottime = process.start_boottime;
        let entry = Followed { start_boottime, wakes: 0, reported: 0, event_fds, asked: 0 };
        let entered = self.table.insert(tgid, Entry(entry), 0);
        if entered.is_ok() {
            let spent = Spent { process, at: Instant::now(), wakes: 0, reported: 0, too_much: false, wanted };
            self.followed.insert(tgid, spent);
            self.tell_count();
        } else {
            self.detach_if_idle(loaded);
        }
        entered.with_context(|| format!("enter process {tgid} into the table"))
    }

    pub(super) fn leave(&mut self, loaded: &mut Loaded, process: ProcessKey) {
        if self.followed.get(&process.tgid.0).is_some_and(|known| is_same(known.process, process)) {
            self.forget(process.tgid.0);
            self.detach_if_idle(loaded);
        }
    }

    /// Looks at a record on its way: a process that ended is followed no more.
    pub(super) fn observe(&mut self, record: &[u8]) {
        let executes = record::kind(record) == Some(EventKind::ProcessExeced);
        if (executes || record::is_process_end(record))
            && let Some(Tgid(tgid)) = record::tgid(record)
        {
            self.tried.remove(&tgid);
            let Some(spent) = self.followed.get(&tgid) else { return };
            if executes && spent.wanted {
                // What threads wait for is told by another program now.
                let process = spent.process;
                self.waits.forget(tgid);
                self.ask(tgid, false);
                self.waits.follow(process);
            } else {
                self.forget(tgid);
            }
        }
    }

    /// Waits until [`Self::advance`] has something to do at once. Cancel safe.
    pub(super) async fn readable(&mut self) {
        self.waits.readable().await;
    }

    /// To be called after records were looked at, and now and then. Processes whose runtime is to be asked whose work
    /// operations are, from now on or no more.
    pub(super) fn advance(&mut self, loaded: &mut Loaded) -> Vec<(u32, bool)> {
        let (asked, pools) = self.waits.advance(loaded);
        for (tgid, asked) in asked {
            self.ask(tgid, asked);
        }
        for pools in pools {
            self.follow_pools(loaded, pools);
        }
        std::mem::take(&mut self.changed)
    }

    /// Has a runtime asked what the process's threads wait for, or no more.
    fn ask(&mut self, tgid: u32, asked: bool) {
        self.changed.push((tgid, asked));
        // What is counted meanwhile is lost, and nothing else.
        let Ok(Entry(entry)) = self.table.get(&tgid, 0) else { return };
        let entry = Followed { asked: asked.into(), ..entry };
        if let Err(error) = self.table.insert(tgid, Entry(entry), 0) {
            tracing::warn!("process {tgid}: what its threads wait for is not asked: {error}");
        }
    }

    /// Leaves processes that cost too much, and returns them, and whether anybody had asked for each. To be called a few
    /// times a second.
    pub(super) fn over_budget(&mut self, loaded: &mut Loaded) -> Vec<(ProcessKey, bool)> {
        let now = Instant::now();
        let mut over = Vec::new();
        for (tgid, spent) in &mut self.followed {
            let Ok(Entry(count)) = self.table.get(tgid, 0) else { continue };
            let nanos = now.duration_since(spent.at).as_nanos().max(1);
            let rate = |new: u64, old: u64| u128::from(new.saturating_sub(old)) * 1_000_000_000 / nanos;
            let share = if spent.wanted { 1 } else { UNASKED_SHARE };
            let too_much = rate(count.wakes, spent.wakes) > u128::from(MAX_WAKES / share)
                || rate(count.reported, spent.reported) > u128::from(MAX_REPORTED / share);
            if too_much && spent.too_much {
                over.push((spent.process, spent.wanted));
            }
            *spent = Spent { at: now, wakes: count.wakes, reported: count.reported, too_much, ..*spent };
        }
        for (process, _) in &over {
            if let Some(tried) = self.tried.get_mut(&process.tgid.0) {
                tried.refused = true;
            }
            self.forget(process.tgid.0);
        }
        self.detach_if_idle(loaded);
        over
    }

    fn forget(&mut self, tgid: u32) {
        if self.followed.remove(&tgid).is_some() {
            self.waits.forget(tgid);
            self.changed.push((tgid, false));
            // Absent: there is nothing to remove.
            let _ = self.table.remove(&tgid);
            self.tell_count();
        }
    }

    fn tell_count(&mut self) {
        let count = u32::try_from(self.followed.len()).unwrap_or(u32::MAX);
        if let Err(error) = self.count.set(0, count, 0) {
            // What threads sleep for is not told then, and nothing is claimed from it.
            tracing::warn!("cannot write how many processes are followed: {error}");
        }
    }

    fn detach_if_idle(&mut self, loaded: &mut Loaded) {
        if self.followed.is_empty() {
            loaded.detach(std::mem::take(&mut self.attached));
        }
    }
}
