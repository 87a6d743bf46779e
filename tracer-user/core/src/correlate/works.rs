//! Work items of pools, as CPython and Java tell: inside of which item a call is made, who waits for an item's result, and
//! who submitted it.
//!
//! A task of Java's is its own future, is named so that no other one ever has the name, and tells who has made it.
//!
//! An item of CPython's is known by its future's address, which is another future's once this one has been freed. It is the
//! same one where:
//!
//! | told | and then | is the same future, because |
//! |---|---|---|
//! | a call's response is read inside the item | a thread is woken that has waited for the result since before | it waits for it |
//! | a thread inside of an outer item is woken | another is that has waited for the outer one since before | the same |
//! | a thread submits it | a thread is woken that has waited for the result since before | every submit is seen: the last one at an address made what is there |
//! | a thread is woken that takes it, as submits are not seen | a thread goes to wait for the result, the first since | nearly always: see [`Works::submitter`] |
//!
//! It notes; what follows is for the rule ([`super::rules::work_item`]) to judge.

use std::collections::VecDeque;

use tracer_abi::conn::Direction;
use tracer_abi::event::{Awaited, Runtime};
use tracer_abi::python::TaskId;
use tracer_abi::task::{ProcessKey, Tid};
use tracer_abi::time::KernelInstant;

use super::Correlator;
use super::conn::ConnFacts;
use super::exchange::{Answering, Exchange, Key};
use super::hash::NumberMap;
use super::table::Exchanges;
use super::unsettled::Unsettled;
use crate::event::{Cause, Results, Thread, ThreadWoken, WorkSubmitted};
use crate::exchange::Mark;

/// Addresses of futures. A busy pool uses some hundreds again and again; beyond it, all are forgotten.
const MAX_FUTURES: usize = 16_384;

/// Calls inside of one item, the latest of them.
const MAX_MADE: usize = 32;

/// In how many of a hundred results that were waited for, another may have waited than had submitted the item: beyond it, the
/// program hands them on.
const MAX_DIFFERENT_PERCENT: u32 = 1;

/// What is known of items of a process.
#[derive(Debug, Default)]
pub(super) struct Works {
    /// By future: calls that were made inside of its item, or of one that was waited for there.
    made: NumberMap<u64, VecDeque<Made>>,
    /// By future: who submitted the item.
    submitted: NumberMap<u64, Submitted>,
    /// By thread: the future whose item it runs, or was woken to.
    running: NumberMap<Tid, u64>,
    /// Submits so far.
    submits: u64,
    agreed: u32,
    different: u32,
    /// Calls inside of items.
    calls: Unsettled,
}

#[derive(Clone, Copy, Debug)]
struct Made {
    call: Key,
    /// It was inside of the item then for certain: the response began to be read, or who waited inside was woken.
    at: KernelInstant,
    /// Which submit the item is of, where that was seen.
    submit: Option<u64>,
    submitter: Submitter,
}

/// Who submitted the item whose result is waited for; of several links from a call to a request, the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Submitter {
    /// Who waits.
    Same,
    /// It was not seen who did: submits are not, and a thread of the pool took it without having slept.
    Unseen,
    Another,
}

#[derive(Clone, Copy, Debug)]
struct Submitted {
    /// No other submit of the process has it.
    number: u64,
    by: Owner,
    thread: Tid,
    /// The item, where the submit itself was seen, and not only that a thread was woken for it.
    item: Option<u64>,
    /// The thread that runs the item, as far as known; that was woken for it, or else it is not known which.
    run_by: Option<Tid>,
    /// When somebody was first told of its result, where the submit was not seen.
    told: Option<KernelInstant>,
}

/// For what a thread works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    Request(Key),
    /// That of the item with this future, and which submit that was, where it is known.
    Work(u64, Option<u64>),
}

/// A thread that waits for a result.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    owner: Owner,
    since: KernelInstant,
    told_by: Tid,
}

/// The item inside of which a call is made.
#[derive(Debug)]
pub(crate) struct InWork {
    pub(super) work: TaskId,
    /// Its response was read inside of another one.
    pub(super) changed: bool,
    /// That of all items on the way to the request that was named.
    pub(super) submitter: Option<Submitter>,
}

impl Works {
    /// Wake-ups are missing.
    pub(super) fn lose(&mut self) {
        self.made.clear();
        self.submitted.clear();
        self.running.clear();
    }

    /// Whether results are handed on: others wait for them than have submitted the items.
    pub(super) const fn are_handed_on(&self) -> bool {
        self.different as u64 * 100 > self.agreed as u64 * MAX_DIFFERENT_PERCENT as u64
    }

    /// A thread submits an item, which nobody runs yet.
    fn submit(&mut self, work: TaskId, by: Owner, thread: Tid) {
        let submitted =
            Submitted { number: 0, by, thread, item: Some(work.address), run_by: None, told: None };
        self.enter(work.number, submitted);
    }

    /// The same, as seen by whom it wakes.
    fn wake_for(&mut self, future: u64, by: Owner, thread: Tid, woken: Tid) {
        let known = self.submitted.get(&future);
        let seen = |known: &Submitted| known.item.is_some() && known.run_by.is_none();
        if known.is_some_and(|known| seen(known) && known.thread == thread) {
            return;
        }
        self.runs(TaskId { address: 0, number: future }, woken);
        let submitted = Submitted { number: 0, by, thread, item: None, run_by: Some(woken), told: None };
        self.enter(future, submitted);
    }

    fn enter(&mut self, future: u64, submitted: Submitted) {
        if self.submitted.len() >= MAX_FUTURES && !self.submitted.contains_key(&future) {
            self.submitted.clear();
        }
        self.submits += 1;
        self.submitted.insert(future, Submitted { number: self.submits, ..submitted });
    }

    /// A thread is inside of an item, or woken to run it: the one that it was in before is over, and its future's address may
    /// be another's, whose submit is seen or not. So is one that was seen to be submitted, if it is run as another item or by
    /// another thread. The item's address may be unknown: zero.
    fn runs(&mut self, work: TaskId, by: Tid) {
        if self.running.len() >= MAX_FUTURES && !self.running.contains_key(&by) {
            self.running.clear();
            self.submitted.clear();
        }
        let TaskId { address, number: future } = work;
        if let Some(over) = self.running.insert(by, future).filter(|over| *over != future)
            && self.submitted.get(&over).is_some_and(|submitted| submitted.item.is_none())
        {
            self.submitted.remove(&over);
        }
        let Some(submitted) = self.submitted.get_mut(&future) else { return };
        let other_item = address != 0 && submitted.item.is_some_and(|item| item != address);
        if other_item || *submitted.run_by.get_or_insert(by) != by {
            self.submitted.remove(&future);
        }
    }

    /// Whether the one that waits has submitted the item.
    ///
    /// Where submits are seen, the last one at an address is of the item whose future is there as long as it is waited for. A
    /// future that no pool has made may have the address later; no call is made inside of an item of that.
    ///
    /// Where they are not, what was seen of a future goes for those that had gone to wait before anybody was told of its
    /// result, and for nobody once the submitter's request is over: others may have the address by then. Between a result that
    /// nobody slept for and that, they may, too: that is seen where the thread that was woken for it does anything else
    /// ([`Self::runs`]), and not where it takes an item at the same address directly behind it. So the same one is likely, and
    /// not certain.
    fn submitter(
        &mut self,
        exchanges: &Exchanges,
        future: u64,
        waits: Waiting,
        now: KernelInstant,
    ) -> Submitter {
        let Waiting { owner: waits, since, told_by } = waits;
        let Some(submitted) = self.submitted.get_mut(&future) else { return Submitter::Unseen };
        let over = submitted.by.is_over(exchanges, since);
        if submitted.item.is_none() {
            if over || submitted.told.is_some_and(|told| since >= told) {
                self.submitted.remove(&future);
                return Submitter::Unseen;
            }
            submitted.told.get_or_insert(now);
        }
        match (submitted.by, waits) {
            // Work of the program's own.
            (Owner::Nobody, Owner::Nobody) => Submitter::Unseen,
            (by, waits) if by == waits => {
                self.agreed = self.agreed.saturating_add(1);
                Submitter::Same
            }
            (Owner::Work(one, None), Owner::Work(other, _))
            | (Owner::Work(one, _), Owner::Work(other, None))
                if one == other =>
            {
                Submitter::Unseen
            }
            // A future that no pool has made shows nothing.
            _ if over && submitted.run_by != Some(told_by) => Submitter::Another,
            _ => {
                self.different = self.different.saturating_add(1);
                Submitter::Another
            }
        }
    }

    /// `submit` is known here.
    fn make(&mut self, future: u64, made: Made) {
        let made = Made { submit: self.seen(future), ..made };
        if self.made.len() >= MAX_FUTURES && !self.made.contains_key(&future) {
            self.made.clear();
        }
        let inside = self.made.entry(future).or_default();
        if inside.len() >= MAX_MADE {
            inside.pop_front();
        }
        inside.push_back(made);
    }

    /// The last submit of an item with this future, if it was seen.
    fn seen(&self, future: u64) -> Option<u64> {
        self.submitted.get(&future).filter(|submitted| submitted.item.is_some()).map(|seen| seen.number)
    }

    /// Calls that were made inside of the item of this very future: a thread has waited for it since then, or it has submitted
    /// the item itself, and nobody any other since.
    fn inside(&self, future: u64, since: KernelInstant, submitter: Submitter) -> Vec<Made> {
        let seen = self.seen(future).filter(|_| submitter == Submitter::Same);
        let is_same = |made: &&Made| since < made.at || seen.is_some() && made.submit == seen;
        self.made.get(&future).into_iter().flatten().filter(is_same).copied().collect()
    }

    /// Calls that were made inside of a task whose name no other one has.
    fn all_inside(&self, task: u64) -> Vec<Made> {
        self.made.get(&task).into_iter().flatten().copied().collect()
    }
}

impl Owner {
    /// Its request has ended before.
    fn is_over(self, exchanges: &Exchanges, at: KernelInstant) -> bool {
        match self {
            Self::Request(key) => {
                exchanges.get(&key).is_none_or(|request| request.end.is_some_and(|end| end.time < at))
            }
            Self::Nobody | Self::Work(..) => false,
        }
    }
}

/// Whether a thread was told of results to which this call has nothing to contribute.
pub(super) fn is_for_another(call: &Exchange, event: &ThreadWoken) -> bool {
    let in_work = call.called().and_then(|called| called.in_work.as_deref());
    let (Some(in_work), Some(futures)) = (in_work, awaited(event).map(|results| results.futures)) else {
        return false;
    };
    // More than fit are not told.
    futures.last() == Some(&0) && !futures.contains(&in_work.work.number)
}

/// The results that a woken thread has waited for.
fn awaited(event: &ThreadWoken) -> Option<&Results> {
    let waits = matches!(event.cause, Cause::Futex { awaited: Awaited::Result | Awaited::OwnResult, .. });
    event.results.as_deref().filter(|_| waits)
}

/// They are those of tasks that it has made itself, for what it does.
fn has_made(event: &ThreadWoken) -> bool {
    matches!(event.cause, Cause::Futex { awaited: Awaited::OwnResult, .. })
}

impl Correlator {
    /// A call was made, or its response begins.
    pub(super) fn work_calls(&mut self, key: Key, direction: Direction, at: &Mark, conn: &ConnFacts) {
        let told = [Runtime::PythonWork, Runtime::JavaWork];
        let Some(identified) = told.into_iter().find_map(|runtime| conn.identified(runtime, direction))
        else {
            return;
        };
        let Some(call) = self.tables.exchanges.get_mut(&key) else { return };
        let process = call.process();
        let Some(called) = call.called_mut() else { return };
        let Some(&work) = identified.tasks.first().filter(|_| identified.thread == at.thread) else { return };
        let Some(followed) = self.tables.handoffs.find_mut(process) else { return };
        let works = &mut followed.works;
        match (direction, &mut called.in_work) {
            (Direction::Egress, in_work) => {
                *in_work = Some(Box::new(InWork { work, changed: false, submitter: None }));
                called.key = Some(key);
                works.calls.note(key);
                works.runs(work, at.thread.tid);
            }
            (Direction::Ingress, Some(in_work)) if in_work.work == work => {
                let submitter = Submitter::Same;
                works.make(work.number, Made { call: key, at: at.time, submit: None, submitter });
            }
            (Direction::Ingress, Some(in_work)) => {
                in_work.changed = true;
                if let Some(handed) = called.handed.as_deref_mut() {
                    handed.elsewhere = true;
                }
            }
            (Direction::Ingress, None) => {}
        }
    }

    /// A thread submits a work item.
    pub(crate) fn work_submitted(&mut self, event: &WorkSubmitted) {
        if !self.note_wake(event.by, event.time) {
            return;
        }
        let Thread { process, tid, .. } = event.by;
        self.within(process, tid, event.within);
        let by = self.owner(process, tid, event.within);
        if let Some(followed) = self.tables.handoffs.find_mut(process) {
            followed.works.submit(event.work, by, tid);
        }
    }

    /// A thread is inside of the item with this future.
    fn within(&mut self, process: ProcessKey, tid: Tid, future: Option<u64>) {
        if let (Some(future), Some(followed)) = (future, self.tables.handoffs.find_mut(process)) {
            followed.works.runs(TaskId { address: 0, number: future }, tid);
        }
    }

    /// A thread was woken that has to do with results.
    pub(super) fn note_results(&mut self, event: &ThreadWoken) {
        let Some(results) = event.results.as_deref() else { return };
        let process = event.by.process;
        let inside = if awaited(event).is_some() { event.woken } else { event.by.tid };
        self.within(process, inside, results.within);
        let futures = results.futures.iter().copied().filter(|future| *future != 0);
        if awaited(event).is_none() {
            let by = self.owner(process, event.by.tid, results.within);
            if let Some(followed) = self.tables.handoffs.find_mut(process) {
                futures.for_each(|future| followed.works.wake_for(future, by, event.by.tid, event.woken));
            }
            return;
        }
        let Cause::Futex { asleep_since: Some(since), .. } = event.cause else { return };
        let waits = self.owner(process, event.woken, results.within);
        for future in futures {
            let Some(followed) = self.tables.handoffs.find_mut(process) else { return };
            let waiting = Waiting { owner: waits, since, told_by: event.by.tid };
            let works = &mut followed.works;
            let (submitter, inside) = if has_made(event) {
                (Submitter::Same, works.all_inside(future))
            } else {
                let submitter = works.submitter(&self.tables.exchanges, future, waiting, event.time);
                (submitter, works.inside(future, since, submitter))
            };
            for made in inside {
                let submitter = submitter.max(made.submitter);
                match waits {
                    Owner::Request(request) => self.work_for(made.call, request, submitter, event.time),
                    Owner::Work(outer, _) => {
                        // Who waits inside of the outer item has been there all the time.
                        let made = Made { at: event.time, submitter, ..made };
                        if let Some(followed) = self.tables.handoffs.find_mut(process) {
                            followed.works.make(outer, made);
                        }
                    }
                    Owner::Nobody => {}
                }
            }
        }
    }

    /// For what a thread works that is inside of an item, or of none.
    fn owner(&self, process: ProcessKey, tid: Tid, within: Option<u64>) -> Owner {
        let open = self.tables.threads.find(process, tid).and_then(|thread| thread.open.last());
        match (open, within) {
            (Some(request), _) => Owner::Request(*request),
            (None, Some(future)) => {
                let followed = self.tables.handoffs.find(process);
                let submitted = followed.and_then(|followed| followed.works.submitted.get(&future));
                Owner::Work(future, submitted.map(|submitted| submitted.number))
            }
            (None, None) => Owner::Nobody,
        }
    }

    /// The thread that serves a request was told of a result to which a call has contributed.
    fn work_for(&mut self, call: Key, request: Key, submitter: Submitter, woken: KernelInstant) {
        let exchanges = &mut self.tables.exchanges;
        let Some(sent) = exchanges.get(&call).map(|call| call.first.time) else { return };
        let open = exchanges.get(&request).is_some_and(|request| {
            let answered = request.end.and_then(|end| end.last).is_some_and(|last| last.time < woken);
            request.head_last.time < sent && !answered
        });
        let Some(called) = exchanges.get_mut(&call).and_then(|call| call.called_mut()) else { return };
        let Some(in_work) = called.in_work.as_deref_mut() else { return };
        let submitter = if open { submitter } else { Submitter::Another };
        in_work.submitter = in_work.submitter.max(Some(submitter));
        let several =
            !matches!(called.answered, Answering::None) && called.answered != Answering::One(request);
        if let Some(handed) = called.handed.as_deref_mut() {
            handed.elsewhere |= several || submitter == Submitter::Another;
        }
        self.name_request(call, request);
    }

    /// A request has ended: calls may have waited for that.
    pub(super) fn works_serve_no_more(&mut self, process: ProcessKey) {
        let Some(followed) = self.tables.handoffs.find_mut(process) else { return };
        let mut calls = std::mem::take(&mut followed.works.calls);
        let over = calls.take_over(|call| followed.is_over(call));
        followed.works.calls = calls;
        for call in over {
            self.decide(call, false);
        }
    }
}
