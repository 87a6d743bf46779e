//! What runtimes tell about the tasks of a process: which of them answers which request, and which makes which call.
//!
//! It notes; what follows is for the rule ([`super::rules::runtime_task`]) to judge.

use std::collections::BTreeSet;
use std::hash::BuildHasherDefault;

use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::event::Runtime;
use tracer_abi::python::TaskId;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::Correlator;
use super::conn::ConnFacts;
use super::deadlines::Look;
use super::exchange::{Answering, Key, Question, ServedTask, Working};
use super::generations::Generations;
use super::hash::{HashKey, NumberHasher};
use super::kinds::Kinds;
use super::processes::Process;
use super::rules::awaited::SETTLE;
use super::unsettled::Unsettled;
use crate::event::TaskIdentified;
use crate::exchange::Mark;

/// Tasks remembered to have answered, in a generation of two: at thousands of requests a second, each with a task of its
/// own, several seconds. A task that lives as long as its connection is remembered with that.
const MAX_ANSWERS: usize = 65_536;

/// Tasks of a process whose makers are remembered, in a generation of two.
const MAX_MAKERS: usize = 16_384;

/// A process some of whose tasks are known.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    makers: Makers,
    /// Requests that are open.
    open: BTreeSet<Key>,
    /// How many are that were before any task was known.
    unknown: u32,
    /// Calls whose task is known.
    calls: Unsettled,
    /// The highest number of a task that was seen.
    newest: u64,
    /// Kinds of tasks that are waited for.
    pub(super) kinds: Kinds,
    /// Requests that were answered by a task of their own, or one that had waited for them.
    pub(super) proofs: u32,
    /// A task answered a request while another of another connection waited for it: tasks are no one request's.
    pub(super) shared: bool,
    /// A task made others that answered several requests, or one when it had answered itself.
    pub(super) answers_through_children: bool,
}

impl Tasks {
    /// Whether every request that was open when a call was made has ended.
    pub(super) fn is_over(&self, call: Key) -> bool {
        self.unknown == 0 && self.open.first().is_none_or(|oldest| *oldest > call)
    }
}

/// Which task has made which, by the new one's address. Another one is made there once that is gone, which is seen as well.
#[derive(Debug)]
struct Makers {
    known: Generations<u64, Making, BuildHasherDefault<NumberHasher>>,
    /// How many were seen to be made.
    count: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Making {
    /// Unless it was given a name, which is not told. Zero: not known.
    number: u64,
    /// The default: none.
    pub(super) maker: TaskId,
    pub(super) at: KernelInstant,
    /// What tells it from others that were at its address.
    place: u16,
}

/// Of a task with a name: any that was at its address.
const ANY: u16 = u16::MAX;

/// Whether it may be another one of those that were at its address.
const fn is_any(task: TaskId) -> bool {
    task.address >> ADDRESS_BITS == ANY as u64
}

/// Bits of an address.
const ADDRESS_BITS: u32 = 48;
const ADDRESS: u64 = (1 << ADDRESS_BITS) - 1;

impl Default for Makers {
    fn default() -> Self {
        Self { known: Generations::new(MAX_MAKERS, BuildHasherDefault::new()), count: 0 }
    }
}

impl Makers {
    /// A task is made, as is told.
    fn note(&mut self, task: TaskId, maker: TaskId, at: KernelInstant) {
        self.count = if self.count + 1 < ANY { self.count + 1 } else { 1 };
        let maker = self.told_apart(maker);
        self.known.note(task.address, Making { number: task.number, maker, at, place: self.count });
    }

    /// A task that was given a name has no number, and its address is used again: each that was seen to be made is another
    /// one. What tells it from those is put above its address.
    fn told_apart(&self, task: TaskId) -> TaskId {
        if task.number != 0 || task == TaskId::default() {
            return task;
        }
        let place = match self.known.get(&task.address) {
            Some(made) => made.place,
            None if self.known.forgets() => ANY,
            None => 0,
        };
        TaskId { address: task.address | u64::from(place) << ADDRESS_BITS, ..task }
    }

    /// Who has made a task that is told apart, as far as that is told.
    fn of(&self, task: TaskId) -> Maker {
        match self.known.get(&(task.address & ADDRESS)) {
            Some(made) if task.number != 0 && made.number == task.number => Maker::Told(made),
            // A name is no number, and numbers may not be known: the last that was told of at this address.
            Some(made) if task.number == 0 || made.number == 0 => Maker::ToldLast(made),
            Some(_) | None => Maker::Unseen,
        }
    }
}

/// Who has made a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Maker {
    #[default]
    Unseen,
    Told(Making),
    /// If nothing was lost since: that may have told of another one at its address.
    ToldLast(Making),
}

impl Maker {
    /// As far as it is known when something was lost.
    pub(super) fn made(self, lost: Option<KernelInstant>) -> Option<Making> {
        match self {
            Self::Told(made) => Some(made),
            Self::ToldLast(made) => Some(made).filter(|made| lost.is_none_or(|lost| lost < made.at)),
            Self::Unseen => None,
        }
    }
}

/// Who has answered: on which connection last, and when.
pub(super) type Answers = Generations<(ProcessKey, TaskId), (SocketCookie, KernelInstant), HashKey>;

pub(super) fn answers(key: HashKey) -> Answers {
    Generations::new(MAX_ANSWERS, key)
}

impl Process {
    /// What its runtime tells about its tasks, from now on if nothing was told before.
    fn told_tasks(&mut self) -> &mut Tasks {
        let open = self.open_requests;
        self.tasks.get_or_insert_with(|| Box::new(Tasks { unknown: open, ..Tasks::default() }))
    }
}

impl Correlator {
    /// Whose work the next operation on this connection is.
    pub(crate) fn identified(&mut self, mut event: TaskIdentified, conn: &mut ConnFacts) {
        if event.stream.is_some() {
            self.stream_taken(event, conn);
            return;
        }
        let direction = usize::from(event.direction.code());
        if event.runtime != Runtime::Python {
            conn.identified[direction] = Some(Box::new(event));
            return;
        }
        let Some(process) = self.tables.processes.note(event.thread.process) else { return };
        let tasks = process.told_tasks();
        // Of what is received, the second one is no task.
        let told = if direction == usize::from(Direction::Ingress.code()) { 1 } else { event.tasks.len() };
        for task in event.tasks.iter_mut().take(told) {
            *task = tasks.makers.told_apart(*task);
        }
        let newest = event.tasks.iter().map(|task| task.number).max();
        tasks.newest = tasks.newest.max(newest.unwrap_or(0));
        conn.identified[direction] = Some(Box::new(event));
    }

    /// A task makes another one.
    pub(crate) fn task_made(&mut self, event: &TaskIdentified) {
        let [task, maker] = *event.tasks.as_slice() else { return };
        let Some(process) = self.tables.processes.note(event.thread.process) else { return };
        process.told_tasks().makers.note(task, maker, event.time);
    }

    /// A request came in.
    pub(super) fn task_may_serve(&mut self, key: Key, first: Mark, conn: &ConnFacts) {
        let process = first.thread.process;
        let Some(tasks) =
            self.tables.processes.find_mut(process).and_then(|process| process.tasks.as_deref_mut())
        else {
            return;
        };
        tasks.open.insert(key);
        let told = conn.tasks(Direction::Ingress, &first).unwrap_or_default();
        let awaited_by = told.first().copied().filter(|task| *task != TaskId::default());
        // The youngest task's number. One that is less than what was seen is none.
        let youngest = told.get(1).map(|told| told.address).filter(|youngest| *youngest >= tasks.newest);
        let next_task = youngest.map_or(0, |youngest| youngest.saturating_add(1));
        let work = ServedTask { awaited_by, next_task, ..ServedTask::default() };
        if let Some(served) = self.tables.exchanges.get_mut(&key).and_then(|request| request.served_mut()) {
            served.work = Some(Box::new(work));
        }
    }

    /// A call was made.
    pub(super) fn task_calls(&mut self, key: Key, first: Mark, conn: &ConnFacts) {
        let Some((chain, made)) = conn.made_tasks(&first) else { return };
        let process = first.thread.process;
        let Some(tasks) =
            self.tables.processes.find_mut(process).and_then(|process| process.tasks.as_deref_mut())
        else {
            return;
        };
        tasks.calls.note(key);
        let Some(called) = self.tables.exchanges.get_mut(&key).and_then(|call| call.called_mut()) else {
            return;
        };
        called.tasks = chain.to_vec();
        called.made = made.to_vec();
        // Of those who are waited for.
        let below = chain.split_last().map_or(&[][..], |(_, below)| below);
        called.makers = below.iter().map(|task| tasks.makers.of(*task)).collect();
        called.key = Some(key);
        // Requests for which a task had waited, or whose answers have begun to flow. A thread of a pool may have called
        // before what its loop was seen to do.
        let answering: Vec<Key> = tasks
            .open
            .iter()
            .filter(|request| {
                let request = self.tables.exchanges.get(request);
                let before = request.filter(|request| request.head_last.time < first.time);
                let work = before.and_then(|request| request.served()?.work.as_deref());
                work.is_some_and(|work| work.tasks().any(|task| chain.contains(&task)))
            })
            .copied()
            .collect();
        if chain.len() > 1 {
            self.plan(Look::Outlived, first.time.plus(SETTLE), key);
        }
        if let [request] = *answering.as_slice() {
            self.task_is_awaited(key, request);
        }
        for request in answering {
            self.name_request(key, request);
        }
    }

    /// A request's task waits for those that make a call, as far as it works on no other.
    fn task_is_awaited(&mut self, call: Key, request: Key) {
        let exchanges = &self.tables.exchanges;
        let work = exchanges.get(&request).and_then(|request| request.served()?.work.as_deref());
        let Some(work) = work.filter(|work| work.next_task != 0) else { return };
        let Some(call) = exchanges.get(&call) else { return };
        let process = self.tables.processes.find_mut(call.process());
        let tasks = process.and_then(|process| process.tasks.as_deref_mut());
        let (Some(tasks), Some(called)) = (tasks, call.called()) else { return };
        let Some((place, working)) = work.place(&called.tasks) else { return };
        if work.again && working != Working::HadWaited {
            return;
        }
        for task in called.awaited(place).filter(|task| task.number != 0) {
            tasks.kinds.awaited(task, work.next_task);
        }
    }

    /// A request is answered: by whom, and which calls the same task made, or waited for; or the one that has made that task,
    /// if both have been made since the request came.
    pub(super) fn task_answers(&mut self, key: Key, first: Mark, conn: &mut ConnFacts) {
        let process = first.thread.process;
        let lost = self.tables.last_loss_of(process);
        let Some(&task) = conn.tasks(Direction::Egress, &first).and_then(|tasks| tasks.first()) else {
            return;
        };
        let Some(tasks) =
            self.tables.processes.find_mut(process).and_then(|process| process.tasks.as_deref_mut())
        else {
            return;
        };
        let maker = tasks.makers.of(task);
        let Some(request) = self.tables.exchanges.get_mut(&key) else { return };
        let (cookie, came) = (request.cookie(), request.head_last.time);
        let unseen_before =
            request.id.index == 0 && request.conn.as_ref().is_none_or(|conn| conn.opened.preexisting);
        let before = self.tables.answers.note((process, task), (cookie, first.time));
        let again = before.is_some() || conn.answered_by == Some(task) || unseen_before || is_any(task);
        conn.answered_by = Some(task);
        let Some(served) = request.served_mut() else { return };
        // None: it came before any task was known.
        let work = served.work.get_or_insert_default();
        work.answered_by = Some(task);
        work.again = again;
        let awaited = work.awaited_by == Some(task);
        tasks.shared |= !awaited && before.is_some_and(|(conn, at)| conn != cookie && at > came);
        tasks.proofs = tasks.proofs.saturating_add(u32::from(awaited || !again));
        if let Some(Making { maker, at, .. }) =
            maker.made(lost).filter(|made| made.maker != TaskId::default() && !is_any(made.maker))
        {
            let before = self.tables.answers.note((process, maker), (cookie, first.time));
            tasks.answers_through_children |= before.is_some();
            let is_own = at > came && work.next_task != 0 && maker.number >= work.next_task;
            work.answerer_made = is_own.then_some((maker, at));
        }
        let answerers = [Some(task), work.answerer_made.map(|(maker, _)| maker)];
        let exchanges = &self.tables.exchanges;
        let calls: Vec<Key> = tasks
            .calls
            .iter()
            .filter(|call| {
                let call = exchanges.get(call).filter(|call| call.first.time > came);
                let called = call.and_then(|call| call.called());
                called.is_some_and(|called| called.tasks.iter().any(|task| answerers.contains(&Some(*task))))
            })
            .collect();
        for call in calls {
            self.task_is_awaited(call, key);
            self.name_request(call, key);
        }
    }

    /// A request has ended: calls may have waited for that.
    pub(super) fn task_serves_no_more(&mut self, key: Key, process: ProcessKey) {
        let Some(tasks) =
            self.tables.processes.find_mut(process).and_then(|process| process.tasks.as_deref_mut())
        else {
            return;
        };
        if !tasks.open.remove(&key) {
            tasks.unknown = tasks.unknown.saturating_sub(1);
        }
        let mut calls = std::mem::take(&mut tasks.calls);
        let over = calls.take_over(|call| tasks.is_over(call));
        tasks.calls = calls;
        for call in over {
            self.decide(call, false);
        }
    }

    /// A request has ended: calls for which a runtime has named it may have waited for that.
    pub(super) fn decide_named(&mut self, key: Key) {
        let request = self.tables.exchanges.get_mut(&key);
        let Some(served) = request.and_then(|request| request.served_mut()) else { return };
        for call in std::mem::take(&mut served.named_by) {
            self.decide(call, false);
        }
    }

    /// The call is made for the request, as its runtime tells. The request stays until the call's question is settled.
    pub(super) fn name_request(&mut self, call: Key, request: Key) {
        let open =
            self.tables.exchanges.get_mut(&call).filter(|exchange| exchange.question == Question::Open);
        let Some(called) = open.and_then(|exchange| exchange.called_mut()) else { return };
        match called.answered {
            Answering::None => {
                called.answered = Answering::One(request);
                called.answer_pin = Some(request);
                if let Some(request) = self.tables.exchanges.get_mut(&request) {
                    request.pins += 1;
                    if let Some(served) = request.served_mut() {
                        served.named_by.push(call);
                    }
                }
            }
            Answering::One(known) if known == request => {}
            Answering::One(_) | Answering::Several => called.answered = Answering::Several,
        }
        self.decide(call, false);
    }
}
