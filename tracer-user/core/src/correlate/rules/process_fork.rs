//! A call's parent is the request inside of which the call's process was forked.
//!
//! A server that starts a program for a request (CGI) forks on the thread that works on the request. What that process
//! and its children call, they call for the request, if
//!
//! 1. the thread had read the request, all of its head, *with reads that wait*, and held no other when it forked, and none
//!    of its events is missing; and the answer was sent after the fork, by the thread or by the forked process, and by
//!    nobody else;
//! 2. every process from the forked one to the one that calls has lived inside of the request: it has ended before the
//!    request was over, or right after. A process that lives on may have worked for others;
//! 3. none of them served a request itself, and the call was sent before the answer's end;
//! 4. nowhere in the process of the thread do requests change threads, nor does a thread that serves fork outside of
//!    requests; and while other requests are open, it has forked inside of requests [`PROOFS`] times, beside a thread that
//!    had nothing to do, without such a sign: a pool whose threads help each other would show itself (see
//!    [`super::thread`]).
//!
//! The answer is given when the request has been answered and the processes have ended, or at the call's deadline.

use std::time::Duration;

use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::{Moment, Tables, Verdict};
use crate::correlate::exchange::{Exchange, Key, Undecided};
use crate::correlate::processes::{Process, Processes};
use crate::exchange::Outcome;
use crate::span::{Confidence, Evidence};

/// As of calls: see [`super::thread::PROOFS`].
pub(in crate::correlate) const PROOFS: u32 = 64;

/// How long after the answer's last byte a process may end: it still has to be left by what it ran.
const GRACE: Duration = Duration::from_millis(100);

/// Forks from the one that serves to the one that calls: a script's pipelines are a few.
const MAX_DEPTH: usize = 16;

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let Some(called) = call.called() else { return Verdict::Abstain(None) };
    let Some(process) = tables.processes.find(call.process()) else { return Verdict::Abstain(None) };
    let Some(root) = process.forked_for.filter(|_| !process.has_served) else {
        return Verdict::Abstain(None);
    };
    if called.forked_for != Some(root.request) {
        // It was over when the call was sent.
        return Verdict::abstain(Undecided::NoOpenRequest);
    }
    let Some(request) = tables.exchanges.get(&root.request) else {
        return Verdict::abstain(Undecided::LimitReached);
    };
    let examined = match request.served().and_then(|served| served.forks_examined) {
        Some(examined) => examined,
        None if moment.last => Err(Undecided::RequestStillOpen),
        None => return Verdict::Wait,
    };
    if let Err(reason) = examined {
        return Verdict::abstain(reason);
    }
    let Some(ended) = request.end else { return Verdict::abstain(Undecided::RequestStillOpen) };
    if call.first.time <= request.head_last.time || call.first.time >= ended.time {
        return Verdict::abstain(Undecided::NoOpenRequest);
    }
    let over = request.served().and_then(|served| served.over).unwrap_or(ended.time).plus(GRACE);
    match lived_inside(&tables.processes, call.process(), request.process(), over) {
        Some(true) => {}
        None if !moment.last && moment.now <= over => return Verdict::Wait,
        Some(false) | None => return Verdict::abstain(Undecided::ChildOutlives),
    }
    let lost = tables.last_gap_anywhere().is_some_and(|at| at >= request.first.time);
    if lost || call.is_damaged() {
        return Verdict::abstain(Undecided::EventsLost);
    }
    let server = tables.processes.find(request.process());
    let proven = root.alone || server.is_some_and(|server| server.fork_proofs >= PROOFS);
    match (server.is_none_or(|server| !server.keeps_requests() || server.forks_outside), proven) {
        (true, _) => Verdict::abstain(Undecided::NotThreadPerRequest),
        (false, true) => Verdict::Parent(root.request, Evidence::ProcessFork, Confidence::Certain),
        (false, false) if moment.last => Verdict::abstain(Undecided::ProcessUnproven),
        (false, false) => Verdict::Wait,
    }
}

/// The process has shown often enough that it forks for the request at hand.
pub(in crate::correlate) fn is_proven(server: &Process) -> bool {
    server.fork_proofs >= PROOFS || !server.keeps_requests() || server.forks_outside
}

/// Whether all processes from `process` up to the child of `server` had ended by `over`; `None` while some have not.
fn lived_inside(
    processes: &Processes,
    process: ProcessKey,
    server: ProcessKey,
    over: KernelInstant,
) -> Option<bool> {
    let (mut at, mut all_ended) = (process, true);
    for _ in 0..MAX_DEPTH {
        let Some(known) = processes.find(at) else { return Some(false) };
        if known.has_served {
            return Some(false);
        }
        match known.exited {
            Some(exited) if exited <= over => {}
            Some(_) => return Some(false),
            None => all_ended = false,
        }
        match known.forked_by {
            Some(parent) if parent == server => return all_ended.then_some(true),
            Some(parent) => at = parent,
            None => return Some(false),
        }
    }
    Some(false)
}

/// A request has ended inside of which its thread forked: what is to be said of that.
pub(in crate::correlate) fn examine(tables: &Tables, key: Key) -> Result<(), Undecided> {
    let request = tables.exchanges.get(&key).ok_or(Undecided::LimitReached)?;
    let served = request.served().ok_or(Undecided::NoOpenRequest)?;
    let reader = request.thread();
    let thread = tables.threads.find(reader.process, reader.tid);
    let whole = served.thread_done
        || thread.is_some_and(|thread| thread.whole_since <= reader.seq && !served.thread_lost);
    if !whole || request.is_damaged() {
        return Err(Undecided::EventsLost);
    }
    let reads_wait = !served.nonblocking
        && request.first.blocking == Some(true)
        && request.head_last.blocking == Some(true);
    let migrates = tables.processes.find(reader.process).is_some_and(|process| process.connections_migrate);
    if !reads_wait || (served.on_return && !migrates) {
        return Err(Undecided::EventLoop);
    }
    if request.head_last.tid != reader.tid || served.shared.is_some() {
        return Err(Undecided::RequestMovedThreads);
    }
    let last_sent = served.last_sent.max(served.child_sent);
    let strayed = served.foreign_read.is_some_and(|at| last_sent.is_none_or(|sent| at < sent));
    if served.overlapped || !served.rivals.is_empty() || strayed {
        return Err(Undecided::SeveralOpenRequests);
    }
    let answered = last_sent.is_some_and(|sent| served.forked.is_some_and(|forked| forked < sent));
    match request.end.map(|end| end.outcome) {
        Some(Outcome::Complete | Outcome::Upgraded | Outcome::ResponseCut) if answered => Ok(()),
        Some(Outcome::Lost) => Err(Undecided::EventsLost),
        Some(
            Outcome::Complete
            | Outcome::Upgraded
            | Outcome::ResponseCut
            | Outcome::NoResponse
            | Outcome::Reset(_)
            | Outcome::Dropped
            | Outcome::StillOpen,
        )
        | None => Err(Undecided::RequestUnanswered),
    }
}
