//! Tells the kernel half where the runtimes of traced processes keep their tasks, and takes that away where looking
//! costs too much.
//!
//! | a process is | becomes | when |
//! |---|---|---|
//! | unknown | under examination | it is traced from now on, listens, or moves data on a socket |
//! | under examination | examined | the [`examiner`](super::examiner) is done with it |
//! | examined, has an event loop | asked | at once |
//! | examined, may come to have one | under examination | later and later |
//! | asked | off | looking costs more than its share of the process's own CPU time |
//! | any | unknown | it executes another program, or ends |

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::Pod;
use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use tracer_abi::config::PREFILTER_SLOTS;
use tracer_abi::event::EventKind;
use tracer_abi::golang::GoProcess;
use tracer_abi::greenlet::GreenletProcess;
use tracer_abi::java::JavaProcess;
use tracer_abi::python::PythonProcess;
use tracer_abi::task::ProcessKey;
use tracer_abi::tokio::{TokioProcess, walk_end};

use super::examiner::{Examiner, Found, Ticket};
use super::object::Loaded;
use super::record;
use crate::process::procfs::{ProcDir, StartTick};
use crate::runtime::tokio::{Lesson, Lessons};
use crate::runtime::{self, Finding, Runtime};

/// Processes that are watched: as many as the kernel half traces.
const MAX_PROCESSES: usize = 16 << 10;

/// Until a process that had no event loop yet is examined again: at first, and at most.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Processes of which something is being learned at once.
const MAX_LEARNING: usize = 256;

/// How often variables of those are read.
const LESSON: Duration = Duration::from_millis(20);

/// How often it is looked what asking costs.
pub(super) const ACCOUNT: Duration = Duration::from_secs(2);

/// CPU time of a process after which its share is known well enough: `/proc` tells it in ticks of 10 ms.
pub(super) const MIN_CPU: Duration = Duration::from_millis(500);

/// What asking may take of a process's CPU time, in percent.
pub(crate) const BUDGET_PERCENT: u32 = 3;

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Entry(PythonProcess);

// SAFETY: `repr(C)` integers without padding.
unsafe impl Pod for Entry {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct GoEntry(GoProcess);

// SAFETY: as above.
unsafe impl Pod for GoEntry {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct GreenletEntry(GreenletProcess);

// SAFETY: as above.
unsafe impl Pod for GreenletEntry {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct JavaEntry(JavaProcess);

// SAFETY: as above.
unsafe impl Pod for JavaEntry {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct TokioEntry(TokioProcess);

// SAFETY: as above.
unsafe impl Pod for TokioEntry {}

/// Where a process's runtime keeps what it is asked for.
enum Asked {
    Python(PythonProcess),
    Go(GoProcess),
    Tokio(Box<TokioProcess>),
    Greenlet(GreenletProcess),
    Java(JavaProcess),
}

/// What asking runtimes came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdentityCost {
    pub(crate) looks: u64,
    pub(crate) nanos: u64,
    /// Processes that lost it for its cost.
    pub(crate) given_up: u64,
}

pub(super) struct Identities {
    /// `None`: the kernel half's part of it did not load.
    tables: Option<Tables>,
    examiner: Examiner<Finding>,
    watched: HashMap<u32, Watched>,
    /// Processes of which something is being learned from what is told.
    learning: HashMap<u32, Lessons>,
    next_lesson: Instant,
    /// The process of the last data record: nearly always that of the next one.
    recent: Option<ProcessKey>,
    next_retry: Option<Instant>,
    next_account: Instant,
    /// Of processes that are not asked any more.
    past: IdentityCost,
}

struct Tables {
    python: BpfHashMap<MapData, u32, Entry>,
    golang: BpfHashMap<MapData, u32, GoEntry>,
    tokio: BpfHashMap<MapData, u32, TokioEntry>,
    greenlet: BpfHashMap<MapData, u32, GreenletEntry>,
    java: BpfHashMap<MapData, u32, JavaEntry>,
    slots: Array<MapData, u64>,
    slot_users: HashMap<u32, u32>,
}

struct Watched {
    process: ProcessKey,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// To be examined, `pause` after it was last.
    Examine {
        at: Instant,
        pause: Duration,
    },
    /// `used`: it listened or moved data before, so that all of its runtime is there.
    Ordered {
        ticket: Ticket,
        pause: Duration,
        used: bool,
    },
    Asked {
        spent: Duration,
        cpu: Option<Duration>,
    },
    Off,
}

impl Identities {
    pub(super) fn new(loaded: &mut Loaded) -> anyhow::Result<Self> {
        let tables = if loaded.knows_identity() {
            Some(Tables {
                python: loaded.take_map("TRACER_PYTHON")?.try_into().context("open map TRACER_PYTHON")?,
                golang: loaded.take_map("TRACER_GO")?.try_into().context("open map TRACER_GO")?,
                tokio: loaded.take_map("TRACER_TOKIO")?.try_into().context("open map TRACER_TOKIO")?,
                greenlet: loaded
                    .take_map("TRACER_GREENLET")?
                    .try_into()
                    .context("open map TRACER_GREENLET")?,
                java: loaded.take_map("TRACER_JAVA")?.try_into().context("open map TRACER_JAVA")?,
                slots: loaded.take_map("TRACER_RTSLOTS")?.try_into().context("open map TRACER_RTSLOTS")?,
                slot_users: HashMap::new(),
            })
        } else {
            None
        };
        Ok(Self {
            tables,
            examiner: Examiner::start(runtime::examine)?,
            watched: HashMap::new(),
            learning: HashMap::new(),
            next_lesson: Instant::now(),
            recent: None,
            next_retry: None,
            next_account: Instant::now() + ACCOUNT,
            past: IdentityCost::default(),
        })
    }

    /// Looks at a record on its way.
    pub(super) fn observe(&mut self, record: &[u8]) {
        if self.tables.is_none() {
            return;
        }
        let Some(process) = record::process(record) else { return };
        match record::kind(record) {
            // By then a server has what it serves with.
            Some(EventKind::ListenStarted) => self.look(process, true),
            Some(EventKind::DataMoved) if self.recent != Some(process) => {
                self.recent = Some(process);
                let known = self.watched.get(&process.tgid.0);
                let known = known.is_some_and(|known| StartTick::of(known.process) == StartTick::of(process));
                if !known {
                    self.forget(process.tgid.0);
                    self.order(process, FIRST_RETRY, true);
                }
            }
            Some(EventKind::TaskIdentified) if !self.learning.is_empty() => self.learn(process, record),
            Some(EventKind::ProcessExeced) => self.forget(process.tgid.0),
            Some(EventKind::TaskExited) if record::is_process_end(record) => self.forget(process.tgid.0),
            _ => {}
        }
    }

    /// Looks at a process that is to be traced, which takes some milliseconds: where nothing waits to be read.
    pub(super) fn examine(&mut self, process: ProcessKey) {
        if self.tables.is_some() && self.has_room(process) {
            self.note(process, FIRST_RETRY, false, runtime::examine(process));
        }
    }

    /// Has a process examined that is traced from now on.
    pub(super) fn traced(&mut self, process: ProcessKey) {
        self.look(process, false);
    }

    /// Has a process examined, again if it had no event loop.
    fn look(&mut self, process: ProcessKey, used: bool) {
        if self.tables.is_none() {
            return;
        }
        let known = self.watched.get(&process.tgid.0);
        let asked = known.is_some_and(|known| {
            StartTick::of(known.process) == StartTick::of(process)
                && matches!(known.state, State::Asked { .. } | State::Ordered { .. })
        });
        if !asked {
            self.order(process, FIRST_RETRY, used);
        }
    }

    /// Waits until [`Self::advance`] has something to do at once. Cancel safe.
    pub(super) async fn readable(&mut self) {
        self.examiner.readable().await;
    }

    /// To be called after records were looked at, and now and then.
    pub(super) fn advance(&mut self) {
        while let Some(Found { ticket, process, finding }) = self.examiner.found() {
            let state = self.watched.get(&process.tgid.0).map(|watched| watched.state);
            if let Some(State::Ordered { ticket: awaited, pause, used }) = state
                && awaited == ticket
            {
                self.note(process, pause, used, finding);
            }
        }
        let now = Instant::now();
        if !self.learning.is_empty() && self.next_lesson <= now {
            self.next_lesson = now + LESSON;
            let looked: Vec<_> = self
                .learning
                .iter_mut()
                .filter_map(|(tgid, lessons)| Some((*tgid, lessons.look()?)))
                .collect();
            for (tgid, lesson) in looked {
                self.learned(tgid, lesson);
            }
        }
        if self.next_retry.is_some_and(|at| at <= now) {
            self.next_retry = None;
            let due: Vec<(ProcessKey, Duration)> = self
                .watched
                .values()
                .filter_map(|watched| match watched.state {
                    State::Examine { at, pause } if at <= now => Some((watched.process, pause)),
                    State::Examine { .. } | State::Ordered { .. } | State::Asked { .. } | State::Off => None,
                })
                .collect();
            for (process, pause) in due {
                self.order(process, LAST_RETRY.min(pause * 2), true);
            }
            self.next_retry = self
                .watched
                .values()
                .filter_map(|watched| match watched.state {
                    State::Examine { at, .. } => Some(at),
                    State::Ordered { .. } | State::Asked { .. } | State::Off => None,
                })
                .min();
        }
        if self.next_account <= now {
            self.next_account = now + ACCOUNT;
            self.account();
        }
    }

    /// What a process's runtime has told says where it has what else is to be asked for.
    fn learn(&mut self, process: ProcessKey, record: &[u8]) {
        let tgid = process.tgid.0;
        let (Some(lessons), Some((end, words))) = (self.learning.get_mut(&tgid), record::tokio(record))
        else {
            return;
        };
        match end {
            walk_end::LEARNS => {
                if let Some(lesson) = lessons.compare(&words) {
                    self.learned(tgid, lesson);
                }
            }
            walk_end::READS => lessons.note(words[1]),
            _ => words.as_chunks().0.iter().for_each(|[_, id]: &[u64; 2]| lessons.note(*id)),
        }
    }

    fn learned(&mut self, tgid: u32, lesson: Lesson) {
        tracing::debug!("process {tgid}: {lesson:x?}");
        let Some(tables) = &mut self.tables else { return };
        let changed = match lesson {
            Lesson::Local(offset) => tables.change_tokio(tgid, |known| known.local_id = offset),
            Lesson::Next(address) => tables.change_tokio(tgid, |known| known.next_id = address),
            Lesson::NoNext => Ok(()),
            Lesson::NoLocal => {
                tracing::warn!(
                    "process {tgid}: which task of tokio runs was not found out: its calls have no parents"
                );
                if let Some(Watched { process, .. }) = self.watched.get(&tgid) {
                    let process = *process;
                    self.forget(tgid);
                    self.watched.insert(tgid, Watched { process, state: State::Off });
                }
                return;
            }
        };
        if let Err(error) = changed {
            tracing::warn!("process {tgid}: what was learned of its tasks is lost: {error:#}");
        }
        if !matches!(lesson, Lesson::Local(_)) {
            self.learning.remove(&tgid);
        }
    }

    /// What asking has come to so far.
    pub(super) fn cost(&self) -> IdentityCost {
        let mut cost = self.past;
        for (tgid, watched) in &self.watched {
            if let (State::Asked { .. }, Some(tables)) = (watched.state, &self.tables)
                && let Some((looks, nanos)) = tables.spent(*tgid)
            {
                cost.looks += looks;
                cost.nanos += nanos;
            }
        }
        cost
    }

    fn has_room(&self, process: ProcessKey) -> bool {
        self.watched.len() < MAX_PROCESSES || self.watched.contains_key(&process.tgid.0)
    }

    fn order(&mut self, process: ProcessKey, pause: Duration, used: bool) {
        if !self.has_room(process) {
            return;
        }
        let state = match self.examiner.order(process) {
            Some(ticket) => State::Ordered { ticket, pause, used },
            None => self.examine_later(pause),
        };
        self.watched.insert(process.tgid.0, Watched { process, state });
    }

    fn examine_later(&mut self, pause: Duration) -> State {
        let at = Instant::now() + pause;
        self.next_retry = Some(self.next_retry.map_or(at, |next| next.min(at)));
        State::Examine { at, pause }
    }

    /// What an examination has brought.
    fn note(&mut self, process: ProcessKey, pause: Duration, used: bool, finding: Finding) {
        let pid = process.tgid;
        let state = match finding {
            Finding::Nothing if used => State::Off,
            Finding::Nothing => {
                // What it executes may not be there yet. Its first bytes will tell.
                self.forget(pid.0);
                return;
            }
            Finding::NotYet(runtime, reason) => {
                tracing::debug!("process {pid}: {runtime}: {reason}");
                self.examine_later(pause)
            }
            Finding::Unknown(runtime, needed) => {
                tracing::warn!("process {pid}: {runtime}: calls of its event loop have no parents: {needed}");
                State::Off
            }
            Finding::Python(runtime, entry) => self.ask(process, &runtime, Asked::Python(*entry)),
            Finding::Go(runtime, entry) => self.ask(process, &runtime, Asked::Go(*entry)),
            Finding::Greenlet(runtime, entry) => self.ask(process, &runtime, Asked::Greenlet(*entry)),
            Finding::Java(runtime, entry) => self.ask(process, &runtime, Asked::Java(*entry)),
            Finding::Tokio(runtime, entry) => {
                if self.learning.len() < MAX_LEARNING {
                    self.learning.insert(pid.0, Lessons::new(process));
                }
                self.ask(process, &runtime, Asked::Tokio(entry))
            }
        };
        self.watched.insert(pid.0, Watched { process, state });
    }

    fn ask(&mut self, process: ProcessKey, runtime: &Runtime, asked: Asked) -> State {
        let Some(tables) = &mut self.tables else { return State::Off };
        let pid = process.tgid;
        match tables.enter(pid.0, asked) {
            Ok(()) => {
                tracing::debug!("process {pid}: {runtime}: its tasks are known");
                State::Asked { spent: Duration::ZERO, cpu: cpu_time(process) }
            }
            Err(error) => {
                tracing::warn!("process {pid}: {runtime}: its tasks are not asked for: {error:#}");
                State::Off
            }
        }
    }

    /// Processes whose asking costs more than its share are asked no more.
    fn account(&mut self) {
        let Some(tables) = &self.tables else { return };
        let mut dear = Vec::new();
        for (tgid, watched) in &mut self.watched {
            let State::Asked { spent, cpu } = watched.state else { continue };
            let (Some((_, nanos)), Some(now)) = (tables.spent(*tgid), cpu_time(watched.process)) else {
                continue;
            };
            let total = Duration::from_nanos(nanos);
            let (asking, running) = (total.saturating_sub(spent), now.saturating_sub(cpu.unwrap_or(now)));
            if running < MIN_CPU && cpu.is_some() {
                continue;
            }
            watched.state = State::Asked { spent: total, cpu: Some(now) };
            if is_too_dear(asking, running) {
                dear.push((*tgid, watched.process, asking, running));
            }
        }
        for (tgid, process, asking, running) in dear {
            tracing::warn!(
                "process {tgid}: asking its runtime took {asking:?} of {running:?} that it ran, more than \
                 {BUDGET_PERCENT} %: it is not asked any more, and calls of its event loop have no parents"
            );
            self.past.given_up += 1;
            self.forget(tgid);
            self.watched.insert(tgid, Watched { process, state: State::Off });
        }
    }

    fn forget(&mut self, tgid: u32) {
        if self.recent.is_some_and(|recent| recent.tgid.0 == tgid) {
            self.recent = None;
        }
        let Some(watched) = self.watched.remove(&tgid) else { return };
        self.learning.remove(&tgid);
        if let (State::Asked { .. }, Some(tables)) = (watched.state, &mut self.tables) {
            if let Some((looks, nanos)) = tables.spent(tgid) {
                self.past.looks += looks;
                self.past.nanos += nanos;
            }
            // Absent, or marked for longer than needed: both cost a look-up, nothing else.
            let _ = tables.python.remove(&tgid);
            let _ = tables.golang.remove(&tgid);
            let _ = tables.tokio.remove(&tgid);
            let _ = tables.greenlet.remove(&tgid);
            let _ = tables.java.remove(&tgid);
            let _ = tables.free_slot(tgid);
        }
    }
}

impl Tables {
    fn enter(&mut self, tgid: u32, asked: Asked) -> anyhow::Result<()> {
        match asked {
            Asked::Python(entry) => self.python.insert(tgid, Entry(entry), 0),
            Asked::Go(entry) => self.golang.insert(tgid, GoEntry(entry), 0),
            Asked::Greenlet(entry) => self.greenlet.insert(tgid, GreenletEntry(entry), 0),
            Asked::Java(entry) => self.java.insert(tgid, JavaEntry(entry), 0),
            Asked::Tokio(entry) => self.tokio.insert(tgid, TokioEntry(*entry), 0),
        }
        .context("enter it into the table")?;
        self.use_slot(tgid)
    }

    /// How often a process was looked at, and the nanoseconds that this took.
    fn spent(&self, tgid: u32) -> Option<(u64, u64)> {
        if let Ok(Entry(entry)) = self.python.get(&tgid, 0) {
            return Some((entry.looks, entry.spent_nanos));
        }
        if let Ok(GoEntry(entry)) = self.golang.get(&tgid, 0) {
            return Some((entry.looks, entry.spent_nanos));
        }
        if let Ok(TokioEntry(entry)) = self.tokio.get(&tgid, 0) {
            return Some((entry.looks, entry.spent_nanos));
        }
        if let Ok(JavaEntry(entry)) = self.java.get(&tgid, 0) {
            return Some((entry.looks, entry.spent_nanos));
        }
        self.greenlet.get(&tgid, 0).ok().map(|GreenletEntry(entry)| (entry.looks, entry.spent_nanos))
    }

    /// What the kernel half writes meanwhile into the entry is lost, which costs it to find that again.
    fn change_tokio(&mut self, tgid: u32, change: impl FnOnce(&mut TokioProcess)) -> anyhow::Result<()> {
        let TokioEntry(mut entry) = self.tokio.get(&tgid, 0).context("read the table")?;
        change(&mut entry);
        self.tokio.insert(tgid, TokioEntry(entry), 0).context("write the table")
    }

    fn use_slot(&mut self, tgid: u32) -> anyhow::Result<()> {
        let slot = tgid % PREFILTER_SLOTS;
        let users = self.slot_users.entry(slot).or_default();
        *users += 1;
        if *users == 1 { self.write_slot(slot, true) } else { Ok(()) }
    }

    fn free_slot(&mut self, tgid: u32) -> anyhow::Result<()> {
        let slot = tgid % PREFILTER_SLOTS;
        let Some(users) = self.slot_users.get_mut(&slot) else { return Ok(()) };
        *users -= 1;
        if *users > 0 {
            return Ok(());
        }
        self.slot_users.remove(&slot);
        self.write_slot(slot, false)
    }

    fn write_slot(&mut self, slot: u32, used: bool) -> anyhow::Result<()> {
        let (word, bit) = (slot / 64, 1 << (slot % 64));
        let old = self.slots.get(&word, 0).context("read map TRACER_RTSLOTS")?;
        let new = if used { old | bit } else { old & !bit };
        self.slots.set(word, new, 0).context("write map TRACER_RTSLOTS")
    }
}

pub(super) const fn is_too_dear(asking: Duration, running: Duration) -> bool {
    asking.as_nanos() * 100 > running.as_nanos() * BUDGET_PERCENT as u128
}

/// CPU time that a process has used.
pub(super) fn cpu_time(process: ProcessKey) -> Option<Duration> {
    let stat = ProcDir::open(process.tgid).and_then(|dir| dir.stat()).ok()?;
    (stat.start == StartTick::of(process)).then_some(stat.cpu_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_percent_are_no_more_than_three_percent() {
        let running = Duration::from_secs(1);
        assert!(!is_too_dear(Duration::from_millis(30), running));
        assert!(is_too_dear(Duration::from_micros(30_001), running));
        assert!(!is_too_dear(Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_process_has_used_cpu_time() {
        let own = || ProcDir::open(tracer_abi::task::Tgid(std::process::id())).unwrap().stat().unwrap();
        let before = own().cpu_time;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) && own().cpu_time <= before + Duration::from_millis(20)
        {
            std::hint::black_box((0..100_000_u64).sum::<u64>());
        }
        assert!(own().cpu_time > before);
    }
}
