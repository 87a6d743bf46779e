//! What threads with requests sleep for, where sockets do not wait by themselves.
//!
//! A thread that reads without waiting may be an event loop's, or one that sleeps in `poll` until that one socket is
//! ready, as Ruby's do. Where a process is followed, the kernel half tells the two apart by what threads sleep for while
//! they hold a request:
//!
//! | slept for | shows |
//! |---|---|
//! | one socket, which the thread used then | it serves one request at a time: [`PROOFS`] such requests prove the process |
//! | the response of a call, in a read that waits | as much, once two threads have shown it |
//! | one descriptor, but it used another socket then | nothing is said of this request |
//! | any of several, before the last byte of its response | an event loop: for good, nothing is said of the process |
//!
//! Threads of Tomcat and Jetty, which are handed sockets that are ready, sleep for nothing else in a call. One thread alone
//! that does may be a loop whose calls wait, or a pool of one, which leave a request, work on something else, and come back.
//! Where there are several, who comes back is another one, and shows it.
//!
//! A loop that never sleeps could run a call of its own between two steps of a request. So a call counts only when its
//! thread has used no other socket from its first byte until its response began, and no other call was under way.

use tracer_abi::conn::{Direction, Role};
use tracer_abi::task::{ProcessKey, Tid};
use tracer_abi::time::KernelInstant;

use super::Correlator;
use super::exchange::{Exchange, Key, Served, Settled, Undecided};
use super::processes::Following;
use super::rules::Tables;
use crate::engine::{HandOffPolicy, Wish};
use crate::event::{DataMoved, Waited};
use crate::exchange::{Mark, Outcome};

/// Requests whose threads waited for one socket alone, or in a call, before a process is believed. A loop waits for several
/// at its first request that takes time.
const PROOFS: u32 = 8;

/// Calls that stay undecided while a process is followed and proves nothing, before it is followed no more: a second's
/// worth on a busy server.
const IN_VAIN: u32 = 256;

/// How a process's threads wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waits {
    proofs: u32,
    /// Those of threads that have slept for one socket; the others have waited in a call.
    polls: u32,
    /// The first of the others, and whether there is another.
    in_call: Option<Tid>,
    in_calls: bool,
    /// Nothing is to be expected: its threads wait for several, or have shown nothing for long.
    over: bool,
    /// Calls that would have needed to know, and were settled without.
    missed: u32,
    /// The process is followed, and what that tells is waited for.
    asked: bool,
    /// It is followed for nothing else.
    pub(super) alone: bool,
}

/// Whether a process is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is followed and may be.
    Open,
    Proven,
    /// Nothing is to be expected, or not asked for.
    Over,
}

impl Waits {
    /// Events were lost that could have shown a loop.
    pub(super) const fn lose(&mut self) {
        if !self.is_shown() {
            (self.proofs, self.polls) = (0, 0);
        }
    }

    fn prove(&mut self, thread: Tid, polls: bool) {
        self.proofs = self.proofs.saturating_add(1);
        self.polls = self.polls.saturating_add(u32::from(polls));
        self.in_calls |= !polls && *self.in_call.get_or_insert(thread) != thread;
    }

    const fn is_shown(self) -> bool {
        self.polls >= PROOFS || self.proofs >= PROOFS && self.in_calls
    }

    pub(super) const fn is_proven(self) -> bool {
        matches!(self.standing(), Standing::Proven)
    }

    const fn standing(self) -> Standing {
        match self {
            Self { over: true, .. } => Standing::Over,
            _ if self.is_shown() => Standing::Proven,
            Self { asked: false, .. } => Standing::Over,
            Self { .. } => Standing::Open,
        }
    }
}

/// What a request's thread has slept for since it read the request's head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServedWaits {
    /// Not all of it is known.
    unknown: bool,
    alone: bool,
    in_call: bool,
    /// When it used a socket after it had waited for another descriptor, or for several.
    aside: Option<KernelInstant>,
    several: Option<KernelInstant>,
}

impl ServedWaits {
    /// What it slept for before is nothing of the request's.
    pub(super) const fn began(&mut self, waited: Waited) {
        self.unknown = !waited.known;
    }

    fn note(&mut self, waited: Waited, at: KernelInstant) {
        self.unknown |= !waited.known;
        self.alone |= waited.alone;
        if waited.aside {
            self.aside.get_or_insert(at);
        }
        if waited.several {
            self.several.get_or_insert(at);
        }
    }
}

/// Whether a request's thread is bound to it only if it waits for one socket at a time: its reads do not wait, or it
/// returned to a connection as loops do.
pub(super) fn matter(tables: &Tables, request: &Exchange, served: &Served) -> bool {
    let reads_wait = !served.nonblocking
        && request.first.blocking == Some(true)
        && request.head_last.blocking == Some(true);
    let migrates =
        tables.processes.find(request.process()).is_some_and(|process| process.connections_migrate);
    !reads_wait || (served.on_return && !migrates)
}

/// Whether what matters of the request's waits is known.
pub(super) fn are_known(tables: &Tables, request: Key) -> bool {
    let Some(request) = tables.exchanges.get(&request) else { return false };
    request.served().is_some_and(|served| !served.waits.unknown || !matter(tables, request, served))
}

/// Whether nothing that is known speaks against the thread having worked on this request alone, and having waited for
/// this call.
pub(super) fn are_alone(call: &Exchange, request: &Exchange, served: &Served) -> bool {
    let waits = &served.waits;
    let over = request.end.is_some();
    // After its last byte of the response the thread may wait for what it likes.
    let later = |at: KernelInstant| over && served.last_sent.is_some_and(|sent| sent < at);
    let inline = call.called().is_some_and(|called| !called.interleaved)
        && call.response.as_ref().is_none_or(|(_, first)| first.tid == call.thread().tid);
    waits.aside.is_none_or(later) && waits.several.is_none_or(later) && inline
}

/// Whether a request's process is one whose threads are bound to their requests, as far as is known now.
pub(super) fn standing(tables: &Tables, request: Key) -> Standing {
    let Some(request) = tables.exchanges.get(&request) else { return Standing::Over };
    match (request.served(), tables.processes.find(request.process())) {
        (Some(served), _) if !matter(tables, request, served) => Standing::Proven,
        (Some(_), Some(process)) => process.waits.standing(),
        (None, _) | (_, None) => Standing::Over,
    }
}

impl Correlator {
    /// An operation of a thread, in the order of its thread.
    pub(super) fn note_waits(&mut self, event: &DataMoved) {
        let Some(thread) = self.tables.threads.find_mut(event.thread) else { return };
        thread.waited = event.waited;
        let exchanges = &mut self.tables.exchanges;
        let called = thread.calling.and_then(|call| exchanges.get(&call));
        let of_call = called.is_some_and(|call| call.end.is_none() && call.cookie() == event.cookie);
        let in_call = of_call && event.direction == Direction::Ingress && event.blocking == Some(true);
        for key in &thread.open {
            if let Some(served) = exchanges.get_mut(key).and_then(|exchange| exchange.served_mut()) {
                served.waits.note(event.waited, event.time);
                served.waits.in_call |= in_call;
            }
        }
        let Some(call) = thread.calling else { return };
        let Some(exchange) = exchanges.get_mut(&call).filter(|exchange| exchange.end.is_none()) else {
            thread.calling = None;
            return;
        };
        if exchange.cookie() != event.cookie {
            if let Some(called) = exchange.called_mut() {
                called.interleaved = true;
            }
        } else if event.direction == Direction::Ingress {
            thread.calling = None;
        }
    }

    /// A thread calls: is another call of its under way? If it serves a request, how its process waits is worth knowing.
    pub(super) fn note_calling(&mut self, key: Key, first: Mark, request: Option<Key>) {
        let request = request.and_then(|request| self.tables.exchanges.get(&request));
        if let Some((request, served)) = request.and_then(|request| Some((request, request.served()?)))
            && matter(&self.tables, request, served)
        {
            self.want_waits(first.thread.process);
        }
        let Some(thread) = self.tables.threads.find_mut(first.thread) else { return };
        let other = thread.calling.replace(key);
        let under_way = other.and_then(|other| self.tables.exchanges.get(&other));
        let interleaved = under_way.is_some_and(|other| other.end.is_none());
        if let Some(called) = self.tables.exchanges.get_mut(&key).and_then(|call| call.called_mut()) {
            called.interleaved = interleaved;
        }
    }

    fn want_waits(&mut self, process: ProcessKey) {
        if self.bounds.handoffs == HandOffPolicy::Off {
            return;
        }
        let Some(known) = self.tables.processes.note(process) else { return };
        if known.waits.asked || known.waits.over || known.not_exclusive || known.is_nginx() {
            return;
        }
        if known.tasks.is_some() || known.goroutines.is_some() || known.tokio.is_some() {
            // Its runtime tells whose a call is. Threads serve whatever is next.
            return;
        }
        match known.following {
            Following::Unasked => {
                (known.following, known.waits.asked, known.waits.alone) = (Following::Asked, true, true);
                self.wishes.push_back(Wish::FollowHandOffs(process));
            }
            Following::Asked => known.waits.asked = true,
            Following::Refused => {}
        }
    }

    /// A request has ended: what its thread slept for says something about the process.
    pub(super) fn settle_waits(&mut self, key: Key) {
        let Some(request) = self.tables.exchanges.get(&key) else { return };
        let (Some(served), Some(end), process) = (request.served(), request.end, request.process()) else {
            return;
        };
        if self.tables.processes.find(process).is_some_and(|known| known.not_exclusive && known.waits.asked) {
            self.wait_no_more(key);
            return;
        }
        if !matter(&self.tables, request, served) {
            return;
        }
        let (waits, sent, thread) = (served.waits, served.last_sent, request.thread().tid);
        let before_sent = |at: KernelInstant| sent.is_some_and(|sent| at <= sent);
        let complete = matches!(end.outcome, Outcome::Complete | Outcome::Upgraded);
        let Some(known) = self.tables.processes.note(process) else { return };
        if waits.several.is_some_and(before_sent) {
            self.wait_no_more(key);
        } else if (waits.alone || waits.in_call) && !waits.unknown && complete && sent.is_some() {
            known.waits.prove(thread, waits.alone);
        }
    }

    /// A call of a process was settled: what could not be said of it for want of knowing how its threads wait.
    pub(super) fn note_missed(&mut self, key: Key, settled: Settled) {
        let Some(call) = self.tables.exchanges.get(&key) else { return };
        let Some(known) = self.tables.processes.find_mut(call.process()) else { return };
        if call.role() != Role::Client
            || settled != Settled::Root(Some(Undecided::EventLoop))
            || known.waits.standing() != Standing::Open
        {
            return;
        }
        known.waits.missed = known.waits.missed.saturating_add(1);
        if known.waits.missed >= IN_VAIN {
            self.wait_no_more(key);
        }
    }

    /// Nothing will come of it in the process of this exchange.
    fn wait_no_more(&mut self, key: Key) {
        let Some(process) = self.tables.exchanges.get(&key).map(Exchange::process) else { return };
        let Some(known) = self.tables.processes.note(process) else { return };
        if std::mem::replace(&mut known.waits.over, true) {
            return;
        }
        if known.waits.alone && known.following == Following::Asked {
            // It may be asked for again, for another reason.
            (known.following, known.calls_begun, known.calls_aside) = (Following::Unasked, 0, 0);
            if let Some(followed) = self.tables.handoffs.find_mut(process) {
                followed.lose(self.now);
            }
            self.wishes.push_back(Wish::LeaveHandOffs(process));
        }
        self.decide_awaiting(process);
    }
}
