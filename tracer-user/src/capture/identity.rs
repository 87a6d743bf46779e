//! Tells the kernel half where the runtimes of traced processes keep their tasks, and takes that away where looking
//! costs too much.
//!
//! | a process is | becomes | when |
//! |---|---|---|
//! | unknown | under examination | it is traced from now on, listens, or moves data on a socket |
//! | under examination | examined | the [`examiner`](super::examiner) is done with it |
//! | examined, has an event loop | asked | at once |
//! | examined, may come to have one | under examination | later and later |
//! | asked | resting | looking has cost more than its share of the process's own CPU time |
//! | resting | under examination | the process has run for long enough since |
//! | any | unknown | it executes another program, or ends |

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::maps::{Array, MapData, MapError};
use tracer_abi::config::{PREFILTER_SLOTS, identity_slot as place, runtime_slots};
use tracer_abi::event::EventKind;
use tracer_abi::golang::GoProcess;
use tracer_abi::greenlet::GreenletProcess;
use tracer_abi::java::JavaProcess;
use tracer_abi::nginx::NginxProcess;
use tracer_abi::python::PythonProcess;
use tracer_abi::task::{ProcessKey, Tgid};
use tracer_abi::time::KernelInstant;
use tracer_abi::tokio::{TokioProcess, walk_end};

use super::account::{self, Account, Budget, Overdrawn, Spent};
use super::asked::Asked;
use super::examiner::{Examiner, Found, Ticket};
use super::function_probes::{FunctionProbe, FunctionProbes};
use super::object::Loaded;
use super::record;
use super::rests::Rests;
use crate::process::procfs::{StartTick, children};
use crate::runtime::tokio::{Lesson, Lessons};
use crate::runtime::{self, Code, Finding, PythonLoop, Runtime};

/// Processes that are watched: as many as the kernel half traces.
const MAX_PROCESSES: usize = 16 << 10;

/// Until a process that had no event loop yet is examined again: at first, and at most.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Processes of which something is being learned at once.
const MAX_LEARNING: usize = 256;

/// What is known of threads' waits is asked for from here on.
const FIRST_OF_WAITS: u32 = place::PYTHON_WORK;

/// How often variables of those are read.
const LESSON: Duration = Duration::from_millis(20);

/// What asking runtimes came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdentityCost {
    pub(crate) looks: u64,
    pub(crate) nanos: u64,
    /// How often a process was left alone for what that, or asking what its threads wait for, had cost.
    pub(crate) rests: u64,
}

impl IdentityCost {
    fn add(&mut self, spent: Spent) {
        self.looks += spent.looks;
        self.nanos += spent.nanos;
    }
}

pub(super) struct Identities {
    /// `None`: the kernel half's part of it did not load, or nobody is to be asked.
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
    rests: Rests,
    /// Of processes that are not asked any more.
    past: IdentityCost,
    /// Processes that run CPython, as it seems, each time that this was found.
    pythons: Vec<ProcessKey>,
    /// Loops of Python's that were looked at again, and when: what they are made of may have been loaded meanwhile.
    looked_at_again: HashSet<(u32, Occasion)>,
    makers: FunctionProbes,
    handers: FunctionProbes,
    writers: FunctionProbes,
    /// Where a probe is to be.
    unprobed: Vec<(Tgid, FunctionProbe, Code)>,
    /// Loops of Python's in whose processes no pool was loaded: when they are looked at again, and how long after the last time.
    poolless: HashMap<u32, (Instant, Duration)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Occasion {
    Listens,
    MovesData,
}

struct Tables {
    python: Asked<PythonProcess>,
    golang: Asked<GoProcess>,
    tokio: Asked<TokioProcess>,
    greenlet: Asked<GreenletProcess>,
    java: Asked<JavaProcess>,
    nginx: Asked<NginxProcess>,
    slots: Array<MapData, u64>,
    /// By slot of thread group ids: how many processes are asked from each place on.
    slot_users: HashMap<u32, [u32; place::COUNT as usize]>,
    /// From which place on a process is asked.
    places: HashMap<u32, u32>,
    /// Processes that are asked by what is known of their threads' waits.
    marked: HashSet<u32>,
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
    Asked(Account),
    /// Not asked until what it has cost is paid for: see [`Rests`].
    Resting,
    Off,
}

impl Identities {
    /// `ask`: or leave all runtimes alone.
    pub(super) fn new(loaded: &mut Loaded, ask: bool, budget: Budget) -> anyhow::Result<Self> {
        let tables = if ask && !budget.is_nothing() && loaded.knows_identity() {
            Some(Tables {
                python: Asked::open(loaded, "TRACER_PYTHON")?,
                golang: Asked::open(loaded, "TRACER_GO")?,
                tokio: Asked::open(loaded, "TRACER_TOKIO")?,
                greenlet: Asked::open(loaded, "TRACER_GREENLET")?,
                java: Asked::open(loaded, "TRACER_JAVA")?,
                nginx: Asked::open(loaded, "TRACER_NGINX")?,
                slots: loaded.take_map("TRACER_RTSLOTS")?.try_into().context("open map TRACER_RTSLOTS")?,
                slot_users: HashMap::new(),
                places: HashMap::new(),
                marked: HashSet::new(),
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
            next_account: Instant::now() + account::INTERVAL,
            rests: Rests::new(budget),
            past: IdentityCost::default(),
            pythons: Vec::new(),
            looked_at_again: HashSet::new(),
            makers: FunctionProbes::new(FunctionProbe::Makes),
            handers: FunctionProbes::new(FunctionProbe::Hands),
            poolless: HashMap::new(),
            writers: FunctionProbes::new(FunctionProbe::Writes),
            unprobed: Vec::new(),
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
            Some(EventKind::ListenStarted) => {
                self.look(process, true);
                self.look_again(process, Occasion::Listens);
            }
            Some(EventKind::DataMoved) if self.recent != Some(process) => {
                self.recent = Some(process);
                let known = self.watched.get(&process.tgid.0);
                let known = known.is_some_and(|known| StartTick::of(known.process) == StartTick::of(process));
                if known {
                    self.look_again(process, Occasion::MovesData);
                } else {
                    self.forget(process.tgid.0);
                    self.order(process, FIRST_RETRY, true);
                }
            }
            Some(EventKind::ProcessForked) => {
                if let Some(child) = record::child(record) {
                    self.forked(process, child);
                }
            }
            Some(EventKind::TaskIdentified) if !self.learning.is_empty() => self.learn(process, record),
            Some(EventKind::ProcessExeced) => self.forget(process.tgid.0),
            Some(EventKind::TaskExited) if record::is_process_end(record) => self.forget(process.tgid.0),
            _ => {}
        }
    }

    /// A worker of nginx is what its master is, and may serve before it could be looked at.
    fn forked(&mut self, parent: ProcessKey, child: ProcessKey) {
        let Some(tables) = &self.tables else { return };
        let known = self.watched.get(&parent.tgid.0).map(|watched| StartTick::of(watched.process));
        let is_nginx = tables.places.get(&parent.tgid.0) == Some(&place::NGINX);
        if is_nginx && known == Some(StartTick::of(parent)) && self.has_room(child) {
            self.forget(child.tgid.0);
            self.note(child, FIRST_RETRY, true, runtime::forked_by_nginx(child));
        }
    }

    /// Looks at a process that is to be traced, which takes some milliseconds: where nothing waits to be read.
    pub(super) fn examine(&mut self, loaded: &mut Loaded, process: ProcessKey) {
        if self.tables.is_some() && self.has_room(process) {
            self.note(process, FIRST_RETRY, false, runtime::examine(process));
            self.probe(loaded);
        }
    }

    /// Attaches the probes that are due.
    fn probe(&mut self, loaded: &mut Loaded) {
        for (pid, probe, code) in std::mem::take(&mut self.unprobed) {
            let probes = match probe {
                FunctionProbe::Writes => &mut self.writers,
                FunctionProbe::Hands => &mut self.handers,
                FunctionProbe::Makes | FunctionProbe::Submits => &mut self.makers,
            };
            if let Err(error) = probes.attach(loaded, pid, &code) {
                unseen(pid, probe, &format!("{error:#}"));
            }
        }
    }

    /// Processes that were found to run CPython, or a runtime that is not ready, since the last call.
    pub(super) fn take_pythons(&mut self) -> Vec<ProcessKey> {
        std::mem::take(&mut self.pythons)
    }

    /// See [`Rests::take_interrupted`].
    pub(super) fn take_interrupted(&mut self) -> Vec<(ProcessKey, KernelInstant)> {
        self.rests.take_interrupted()
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
                && matches!(known.state, State::Asked(_) | State::Resting | State::Ordered { .. })
        });
        if !asked {
            self.order(process, FIRST_RETRY, used);
        }
    }

    /// Has a process examined again, once for each occasion, that runs a loop of Python's already.
    fn look_again(&mut self, process: ProcessKey, occasion: Occasion) {
        let tgid = process.tgid.0;
        let is_loop =
            self.tables.as_ref().is_some_and(|tables| tables.places.get(&tgid) == Some(&place::PYTHON));
        let is_asked = self.watched.get(&tgid).is_some_and(|known| {
            StartTick::of(known.process) == StartTick::of(process) && matches!(known.state, State::Asked(_))
        });
        if is_loop && is_asked && self.looked_at_again.insert((tgid, occasion)) {
            self.order(process, FIRST_RETRY, true);
        }
    }

    /// Waits until [`Self::advance`] has something to do at once. Cancel safe.
    pub(super) async fn readable(&mut self) {
        self.examiner.readable().await;
    }

    /// To be called after records were looked at, and now and then.
    pub(super) fn advance(&mut self, loaded: &mut Loaded) {
        while let Some(Found { ticket, process, finding }) = self.examiner.found() {
            let state = self.watched.get(&process.tgid.0).map(|watched| watched.state);
            if let Some(State::Ordered { ticket: awaited, pause, used }) = state
                && awaited == ticket
            {
                self.note(process, pause, used, finding);
            }
        }
        self.probe(loaded);
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
                    State::Examine { .. }
                    | State::Ordered { .. }
                    | State::Asked(_)
                    | State::Resting
                    | State::Off => None,
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
                    State::Ordered { .. } | State::Asked(_) | State::Resting | State::Off => None,
                })
                .min();
        }
        if self.next_account <= now {
            self.next_account = now + account::INTERVAL;
            self.account();
            self.look_for_pools(now);
        }
    }

    /// A pool is loaded when it is used first, long after the loop.
    fn look_for_pools(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (tgid, (at, pause)) in &mut self.poolless {
            let watched = self.watched.get(tgid);
            if let Some(Watched { process, state: State::Asked(_) }) = watched.filter(|_| *at <= now) {
                *pause = LAST_RETRY.min(*pause * 2);
                *at = now + *pause;
                due.push(*process);
            }
        }
        for process in due {
            self.order(process, FIRST_RETRY, true);
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
            Lesson::Local(offset) => tables.tokio.change(tgid, |known| known.local_id = offset),
            Lesson::Next(address) => tables.tokio.change(tgid, |known| known.next_id = address),
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

    /// A process is asked whose work operations are, or no more, by what is known of its threads' waits. Idempotent.
    pub(super) fn mark(&mut self, tgid: u32, asked: bool) {
        let Some(tables) = &mut self.tables else { return };
        let marked = if asked && tables.marked.insert(tgid) {
            tables.use_slot(tgid, FIRST_OF_WAITS)
        } else if !asked && tables.marked.remove(&tgid) {
            tables.free_slot(tgid, FIRST_OF_WAITS)
        } else {
            Ok(())
        };
        if let Err(error) = marked {
            tracing::warn!("process {tgid}: whose work its operations are is not asked: {error:#}");
        }
    }

    /// What asking has come to so far.
    pub(super) fn cost(&self) -> IdentityCost {
        let mut cost = IdentityCost { rests: self.rests.count, ..self.past };
        for tgid in self.watched.keys() {
            if let Some(spent) = self.tables.as_ref().and_then(|tables| tables.spent(*tgid)) {
                cost.add(spent);
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
        if matches!(finding, Finding::Python(..) | Finding::Greenlet(..) | Finding::NotYet(..)) {
            self.pythons.push(process);
        }
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
            Finding::Python(runtime, entry, PythonLoop { makes, writes, hands }) => {
                if hands.is_some() {
                    self.poolless.remove(&pid.0);
                } else {
                    let first = (Instant::now() + FIRST_RETRY, FIRST_RETRY);
                    self.poolless.entry(pid.0).or_insert(first);
                }
                let probes = [
                    (FunctionProbe::Makes, Some(makes)),
                    (FunctionProbe::Writes, writes),
                    (FunctionProbe::Hands, hands),
                ];
                for (probe, code) in probes {
                    match code {
                        Some(Ok(code)) => self.unprobed.push((pid, probe, code)),
                        Some(Err(reason)) => unseen(pid, probe, reason),
                        None => {}
                    }
                }
                self.ask(process, &runtime, place::PYTHON, |tables| tables.python.enter(pid.0, *entry))
            }
            Finding::Go(runtime, entry) => {
                self.ask(process, &runtime, place::GO, |tables| tables.golang.enter(pid.0, *entry))
            }
            Finding::Greenlet(runtime, entry) => {
                self.ask(process, &runtime, place::GREENLET, |tables| tables.greenlet.enter(pid.0, *entry))
            }
            Finding::Java(runtime, entry) => {
                self.ask(process, &runtime, place::JAVA, |tables| tables.java.enter(pid.0, *entry))
            }
            Finding::Nginx(runtime, entry) => {
                // A master has its workers by the time that it was looked at.
                for worker in children(process) {
                    self.look(worker, true);
                }
                self.ask(process, &runtime, place::NGINX, |tables| tables.nginx.enter(pid.0, *entry))
            }
            Finding::Tokio(runtime, entry) => {
                if self.learning.len() < MAX_LEARNING {
                    self.learning.insert(pid.0, Lessons::new(process));
                }
                self.ask(process, &runtime, place::TOKIO, |tables| tables.tokio.enter(pid.0, *entry))
            }
        };
        if !matches!(state, State::Asked(_)) {
            self.ask_no_more(pid.0);
        }
        self.watched.insert(pid.0, Watched { process, state });
    }

    fn ask(
        &mut self,
        process: ProcessKey,
        runtime: &Runtime,
        place: u32,
        enter: impl FnOnce(&mut Tables) -> Result<(), MapError>,
    ) -> State {
        let Some(tables) = &mut self.tables else { return State::Off };
        let pid = process.tgid;
        let entered =
            enter(tables).context("enter it into the table").and_then(|()| tables.use_place(pid.0, place));
        match entered {
            Ok(()) => {
                tracing::debug!("process {pid}: {runtime}: its tasks are known");
                self.rests.end(process);
                State::Asked(Account::open(process))
            }
            Err(error) => {
                tracing::warn!("process {pid}: {runtime}: its tasks are not asked for: {error:#}");
                State::Off
            }
        }
    }

    /// Processes whose asking costs more than its share rest until they have paid for it.
    fn account(&mut self) {
        let Some(tables) = &self.tables else { return };
        let mut dear = Vec::new();
        for (tgid, Watched { process, state }) in &mut self.watched {
            let State::Asked(account) = state else { continue };
            if let Some(spent) = tables.spent(*tgid)
                && let Some(overdrawn) = account.settle(*process, spent, self.rests.budget)
            {
                dear.push((*process, *account, overdrawn));
            }
        }
        for (process, account, overdrawn) in dear {
            self.rest(process, account, overdrawn);
        }
        for process in self.rests.repaid() {
            self.order(process, FIRST_RETRY, true);
        }
    }

    fn rest(&mut self, process: ProcessKey, account: Account, Overdrawn { asking, running }: Overdrawn) {
        let tgid = process.tgid.0;
        let is_nginx =
            self.tables.as_ref().is_some_and(|tables| tables.places.get(&tgid) == Some(&place::NGINX));
        let meanwhile = if is_nginx {
            "what it answers next tells for which request a call was"
        } else {
            "calls of its event loop have no parents"
        };
        self.leave(tgid);
        self.watched.insert(tgid, Watched { process, state: State::Resting });
        if self.rests.begin(process, account) {
            let budget = self.rests.budget;
            tracing::warn!(
                "process {tgid}: asking its runtime took {asking:.1?} of {running:.1?} that it ran, more than \
                 {budget}: it is left alone for as long as that takes to even out, now and then, and \
                 meanwhile {meanwhile}"
            );
        }
    }

    fn forget(&mut self, tgid: u32) {
        self.rests.forget(tgid);
        self.leave(tgid);
    }

    /// Asks a process no more.
    fn leave(&mut self, tgid: u32) {
        if self.recent.is_some_and(|recent| recent.tgid.0 == tgid) {
            self.recent = None;
        }
        if self.watched.remove(&tgid).is_none() {
            return;
        }
        self.learning.remove(&tgid);
        self.makers.forget(tgid);
        self.handers.forget(tgid);
        self.writers.forget(tgid);
        self.poolless.remove(&tgid);
        self.unprobed.retain(|(pid, ..)| pid.0 != tgid);
        for occasion in [Occasion::Listens, Occasion::MovesData] {
            self.looked_at_again.remove(&(tgid, occasion));
        }
        self.ask_no_more(tgid);
    }

    fn ask_no_more(&mut self, tgid: u32) {
        if let Some(tables) = &mut self.tables {
            if let Some(spent) = tables.spent(tgid) {
                self.past.add(spent);
            }
            tables.remove(tgid);
        }
    }
}

/// What a probe would have told is not known.
fn unseen(pid: Tgid, probe: FunctionProbe, reason: &str) {
    match probe {
        FunctionProbe::Writes => {
            let instead = PythonLoop::INSTEAD_OF_UVLOOP;
            tracing::warn!(
                "process {pid}: few calls of its event loop have parents, as which of its tasks writes is not seen \
                 ({reason}): {instead}"
            );
        }
        FunctionProbe::Makes | FunctionProbe::Submits => {
            tracing::debug!("process {pid}: which task makes which is not seen: {reason}");
        }
        FunctionProbe::Hands => {
            tracing::debug!("process {pid}: which task submits what to a pool is not seen: {reason}");
        }
    }
}

impl Tables {
    fn spent(&self, tgid: u32) -> Option<Spent> {
        self.python
            .spent(tgid)
            .or_else(|| self.golang.spent(tgid))
            .or_else(|| self.tokio.spent(tgid))
            .or_else(|| self.greenlet.spent(tgid))
            .or_else(|| self.java.spent(tgid))
            .or_else(|| self.nginx.spent(tgid))
    }

    fn remove(&mut self, tgid: u32) {
        self.python.remove(tgid);
        self.golang.remove(tgid);
        self.tokio.remove(tgid);
        self.greenlet.remove(tgid);
        self.java.remove(tgid);
        self.nginx.remove(tgid);
        if let Some(place) = self.places.remove(&tgid) {
            // Marked for longer than needed: that costs a look-up, nothing else.
            let _ = self.free_slot(tgid, place);
        }
    }

    /// Idempotent.
    fn use_place(&mut self, tgid: u32, place: u32) -> anyhow::Result<()> {
        if self.places.get(&tgid) == Some(&place) {
            return Ok(());
        }
        self.use_slot(tgid, place)?;
        self.places.insert(tgid, place);
        Ok(())
    }

    fn use_slot(&mut self, tgid: u32, place: u32) -> anyhow::Result<()> {
        let users = self.slot_users.entry(tgid % PREFILTER_SLOTS).or_default();
        users[place as usize] += 1;
        let first = first_used(users);
        self.write_slot(tgid, first)
    }

    fn free_slot(&mut self, tgid: u32, place: u32) -> anyhow::Result<()> {
        let slot = tgid % PREFILTER_SLOTS;
        let Some(users) = self.slot_users.get_mut(&slot) else { return Ok(()) };
        users[place as usize] = users[place as usize].saturating_sub(1);
        let first = first_used(users);
        if first.is_none() {
            self.slot_users.remove(&slot);
        }
        self.write_slot(tgid, first)
    }

    fn write_slot(&mut self, tgid: u32, first: Option<u32>) -> anyhow::Result<()> {
        let (word, bit) = runtime_slots::place(tgid);
        let old = self.slots.get(&word, 0).context("read map TRACER_RTSLOTS")?;
        let new = runtime_slots::with_first(old, bit, first);
        if new == old {
            return Ok(());
        }
        self.slots.set(word, new, 0).context("write map TRACER_RTSLOTS")
    }
}

/// The first place from which one is asked.
fn first_used(users: &[u32; place::COUNT as usize]) -> Option<u32> {
    (0..).zip(users).find(|(_, count)| **count > 0).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_those_who_share_a_slot_the_first_place_counts() {
        let mut users = [0; place::COUNT as usize];
        assert_eq!(first_used(&users), None);
        users[place::NGINX as usize] = 1;
        assert_eq!(first_used(&users), Some(place::NGINX));
        users[place::GO as usize] = 2;
        assert_eq!(first_used(&users), Some(place::GO));
    }
}
