//! Threads that only read requests, for others which answer them.
//!
//! Servers with a pool, as Puma, have a thread that waits for many connections: it reads what comes in there and queues
//! whole requests for the pool, whose threads also read requests themselves. Elsewhere that a request is answered by
//! another thread than read it shows that threads own nothing. A *reader* is told from that by what it never does: it has
//! neither sent a byte of a response nor made a call. As soon as it does, the process is taken for what it looks like.
//!
//! A thread that answers what was handed over amid a request of its own does as much: it works for two at a time. Unless
//! it had only begun to read its own: that may be with a reader by then, which shows when that reads on. The process is
//! taken for what it looks like when the thread itself reads on, or answers.
//!
//! What a reader hands over has no parents by thread: which thread took it up, and when, is not seen. A call that a
//! thread without a request makes while one is handed over may be that one's. It is *unplaced* until its thread answers: if
//! that is a request which a reader had read before the call, it is nothing unusual; if it is not, the call was made outside
//! of requests, and says of the process what such calls say.

use tracer_abi::conn::Direction;
use tracer_abi::task::{ProcessKey, Tid};
use tracer_abi::time::KernelInstant;

use super::Correlator;
use super::conn::ConnFacts;
use super::exchange::{Exchange, Key, Served};
use super::rules::{Tables, thread};
use super::threads::Threads;
use crate::event::{DataMoved, IoOutcome, Thread as ThreadEvent};

/// Requests that a thread has read for others, before what it reads of a request which another has begun is taken away from
/// that one.
const KNOWN: u32 = 8;

/// What a thread has done that readers do not, or has not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// It has sent a byte of a response, or made a call.
    pub(super) acted: bool,
    /// Requests that it has read, or some of them, and others have answered.
    pub(super) for_others: u32,
    /// When it made the first call that may be for a request which it was handed.
    pub(super) unplaced: Option<KernelInstant>,
}

impl Reading {
    const fn may_be_readers(self) -> bool {
        !self.acted
    }
}

fn may_be_reader(threads: &Threads, process: ProcessKey, tid: Tid) -> bool {
    threads.find(process, tid).is_some_and(|thread| thread.reading.may_be_readers())
}

/// The thread that has read the request, or the last of it, if that may be a reader.
pub(super) fn reader(threads: &Threads, request: &Exchange) -> Option<Tid> {
    let passed_to = request.served().and_then(|served| served.passed_to);
    let tid = passed_to.unwrap_or(request.thread().tid);
    may_be_reader(threads, request.process(), tid).then_some(tid)
}

/// A request was answered by another thread than began to read it. Whether a reader explains that; it is noted, then.
pub(super) fn explain(tables: &mut Tables, request: Key, answered_by: Tid) -> bool {
    let Some(exchange) = tables.exchanges.get(&request) else { return false };
    let Some(tid) = reader(&tables.threads, exchange).filter(|tid| *tid != answered_by) else { return false };
    let first = exchange.thread();
    let process = first.process;
    // Amid a request of its own: then which of them it has called for cannot be told.
    let Some(own) = tables.threads.find(process, answered_by).map(|thread| thread.open.clone()) else {
        return false;
    };
    if !own.iter().all(|key| sets_aside(tables, *key)) {
        return false;
    }
    let Some(thread) = tables.threads.find_mut(ThreadEvent { process, tid, ..first }) else {
        return false;
    };
    thread.reading.for_others = thread.reading.for_others.saturating_add(1);
    if thread.reading.for_others == 1
        && let Some(known) = tables.processes.note(process)
    {
        known.hands_over = true;
        known.readers += 1;
        // It was counted among those that have nothing to do.
        if known.proofs < thread::PROOFS {
            known.proofs = 0;
        }
    }
    true
}

/// The thread of a request has answered another one. Whether it may have passed this one on before.
fn sets_aside(tables: &mut Tables, request: Key) -> bool {
    let Some(exchange) = tables.exchanges.get_mut(&request) else { return false };
    let in_part = exchange.request_last.is_none() && exchange.response.is_none();
    let Some(served) = exchange.served_mut() else { return false };
    served.set_aside |= in_part;
    in_part
}

impl Correlator {
    /// A thread has sent some of a response, or of a call.
    pub(super) fn acts(&mut self, of: ThreadEvent) {
        let Some(thread) = self.tables.threads.find_mut(of) else { return };
        let acted = std::mem::replace(&mut thread.reading.acted, true);
        if !acted && thread.reading.for_others > 0 {
            self.threads_own_nothing(of.process);
        }
    }

    /// An operation, in the order of its thread: what it says about who reads, and about calls without a place.
    pub(super) fn note_readers(&mut self, event: &DataMoved, conn: &ConnFacts) {
        if conn.calls != Some(false) {
            return;
        }
        match (event.direction, event.outcome) {
            (Direction::Ingress, IoOutcome::Moved(_)) => {
                self.takes_up(event, conn);
                self.reads_on(event, conn);
            }
            (Direction::Egress, IoOutcome::Moved(_)) => {
                self.takes_up(event, conn);
                self.acts(event.thread);
                self.places(event, conn);
            }
            // Whom it was to answer has gone away: it is what the thread has worked for, all the same.
            (Direction::Egress, IoOutcome::Failed(_)) => self.places(event, conn),
            (_, IoOutcome::EndOfStream | IoOutcome::Failed(_)) => {}
        }
    }

    /// A thread goes on with a request that it had set aside.
    fn takes_up(&mut self, event: &DataMoved, conn: &ConnFacts) {
        let request = conn.open.back().and_then(|(_, key)| self.tables.exchanges.get(key));
        let again = request.is_some_and(|request| {
            let by_its_own =
                request.process() == event.thread.process && request.thread().tid == event.thread.tid;
            let set_aside = |served: &Served| served.set_aside && served.passed_to.is_none();
            by_its_own && request.served().is_some_and(set_aside)
        });
        if again {
            self.threads_own_nothing(event.thread.process);
        }
    }

    /// Some of a request that is not whole.
    fn reads_on(&mut self, event: &DataMoved, conn: &ConnFacts) {
        let Some((_, key)) = conn.open.back() else { return };
        if self.tables.exchanges.get(key).is_some_and(|exchange| exchange.request_last.is_none()) {
            self.passes(*key, event.thread);
        }
    }

    /// A thread reads some of a request, which another may have begun to read.
    pub(super) fn passes(&mut self, key: Key, to: ThreadEvent) {
        let Some(reading) = self.tables.threads.find_mut(to).map(|thread| thread.reading) else { return };
        let Some(exchange) = self.tables.exchanges.get_mut(&key) else { return };
        let begun_by = exchange.thread();
        if begun_by.process != to.process || begun_by.tid == to.tid || !reading.may_be_readers() {
            return;
        }
        let Some(served) = exchange.served_mut() else { return };
        served.passed_to = Some(to.tid);
        self.drifts(key, to.process);
        // Known as a reader: the thread that had begun is free for another.
        if reading.for_others >= KNOWN
            && let Some(thread) = self.tables.threads.find_mut(begun_by)
        {
            thread.request_ended(key);
        }
    }

    /// A request may be answered by another thread than has read it.
    pub(super) fn drifts(&mut self, key: Key, process: ProcessKey) {
        let exchange = self.tables.exchanges.get_mut(&key);
        let Some(served) = exchange.and_then(|exchange| exchange.served_mut()) else { return };
        if !std::mem::replace(&mut served.adrift, true)
            && let Some(known) = self.tables.processes.note(process)
        {
            known.adrift += 1;
        }
    }

    pub(super) fn request_may_drift(&mut self, key: Key, first: ThreadEvent) {
        if may_be_reader(&self.tables.threads, first.process, first.tid) {
            self.drifts(key, first.process);
        }
    }

    /// A thread with an unplaced call answers.
    fn places(&mut self, event: &DataMoved, conn: &ConnFacts) {
        let Some(thread) = self.tables.threads.find_mut(event.thread) else { return };
        let Some(called) = thread.reading.unplaced.take() else { return };
        let request = conn.open.front().and_then(|(_, key)| self.tables.exchanges.get(key));
        let handed_over = request.is_some_and(|request| {
            let before = request.request_last.is_some_and(|last| last.time < called);
            // Who has begun to read it may be the one that it is handed to.
            let reader = reader(&self.tables.threads, request);
            before && reader.is_some_and(|reader| reader != event.thread.tid)
        });
        if !handed_over {
            self.called_outside(event.thread);
        }
    }

    /// A thread reads a request itself, or ends: a call that it had made without one was none of a request's.
    pub(super) fn places_no_more(&mut self, thread: ThreadEvent) {
        let known = self.tables.threads.find_mut(thread);
        if known.is_some_and(|thread| thread.reading.unplaced.take().is_some()) {
            self.called_outside(thread);
        }
    }

    /// A call was made outside of requests.
    pub(super) fn called_outside(&mut self, by: ThreadEvent) {
        let Some(thread) = self.tables.threads.find_mut(by) else { return };
        thread.called_outside = true;
        if thread.has_served() {
            self.threads_own_nothing(by.process);
        }
    }

    fn threads_own_nothing(&mut self, process: ProcessKey) {
        if let Some(known) = self.tables.processes.note(process) {
            known.not_exclusive = true;
        }
        self.decide_awaiting(process);
    }
}
