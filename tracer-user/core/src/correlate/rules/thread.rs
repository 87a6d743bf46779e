//! A call's parent is the request that its thread was serving.
//!
//! Claimed only when the thread is shown to have worked on that request and nothing else from before the call until
//! after it, by facts that an event loop does not produce:
//!
//! 1. the thread read the whole head of the request *with reads that wait*, sent the call, and then sent bytes of the
//!    response: it held the request on both sides of the call;
//! 2. meanwhile no other thread used the request's connection, and this one read from no connection on which it does
//!    not itself call;
//! 3. it held no other request meanwhile;
//! 4. none of its events is missing since it read the request's first byte;
//! 5. nowhere in the process was a request answered by another thread than read it, no thread held two, and no thread
//!    that serves made calls outside of requests. Threads that only read, for others, are excepted: see [`readers`].
//!
//! Loops and runtimes that move work between threads use sockets that do not wait, so (1) excludes them before they
//! have shown anything else. A loop over sockets that do wait (`select` and blocking reads) returns to a connection
//! after it served another, and none of its connections is ever read by another thread; that is excluded, too. Both
//! are let in where a process has proven that its threads wait for one socket at a time: see [`waits`].
//!
//! One sort of program does all this and still runs one request's calls inside another's: a pool whose threads steal
//! work and help while they wait. It shows itself by calls that serving threads make outside of requests, which
//! closes the gate of (5), too. Only a thread that has nothing to do can make one: while all of them hold requests,
//! nothing tells such a pool from any other. So while other requests are open, a process is believed only after it has
//! made [`PROOFS`] calls beside a thread that had nothing to do, without such a sign; until then answers wait. That no other
//! request was open is known when it is known that none was lost.
//!
//! The answer is given when the request has been answered, or at the call's deadline if its response has begun to
//! flow after the call.

use std::time::Duration;

use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::header_continuity::SETTLE;
use super::{Moment, Tables, Verdict};
use crate::correlate::exchange::{Exchange, Key, Served, Undecided};
use crate::correlate::processes::Process;
use crate::correlate::readers;
use crate::correlate::waits::{self, Standing};
use crate::exchange::Outcome;
use crate::span::{Confidence, Evidence};

/// Calls that a process must have made in good order, beside a thread that had nothing to do, before it is believed while
/// it serves several requests at once. Where an idle thread steals a fifth of them, that stays unnoticed once in
/// 1.6 million runs (0.8^64); where it steals a tenth, once in 850.
pub(in crate::correlate) const PROOFS: u32 = 64;

/// How long before a call a request may have been lost beside which it was made.
const LOSS_MEMORY: Duration = Duration::from_secs(10);

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let Some(called) = call.called() else { return Verdict::Abstain(None) };
    let Some(process) = tables.processes.find(call.process()) else { return Verdict::Abstain(None) };
    if process.is_nginx() {
        return Verdict::Abstain(None);
    }
    if process.not_exclusive {
        return Verdict::abstain(Undecided::NotThreadPerRequest);
    }
    let Some(key) = called.served else {
        return match (process.has_served, called.after_loss) {
            (_, true) => Verdict::abstain(Undecided::EventsLost),
            (true, false) => Verdict::abstain(Undecided::NoOpenRequest),
            // Nothing here could have caused it: a client program.
            (false, false) => Verdict::Abstain(None),
        };
    };
    let standing = waits::standing(tables, key);
    if standing == Standing::Over {
        return Verdict::abstain(Undecided::EventLoop);
    }
    let examined = match called.examined {
        Some(examined) => examined,
        None => match examine(tables, call, key) {
            Err(reason) if moment.last || !reason.may_pass() => Err(reason),
            Ok(()) if moment.last => Ok(()),
            Ok(()) | Err(_) => return Verdict::Wait,
        },
    };
    let known = waits::are_known(tables, key);
    let confidence = if known { Confidence::Certain } else { Confidence::Likely };
    match examined {
        Err(reason) => Verdict::abstain(reason),
        Ok(()) if standing == Standing::Open && moment.last => Verdict::abstain(Undecided::EventLoop),
        Ok(()) if standing == Standing::Open => Verdict::Wait,
        Ok(()) if process.proofs >= PROOFS => Verdict::Parent(key, Evidence::Thread, confidence),
        Ok(()) if called.alone && !moment.last && moment.now < losses_known(call) => Verdict::Wait,
        Ok(()) if called.alone && may_not_be_alone(process, call) => Verdict::abstain(Undecided::EventsLost),
        Ok(()) if called.alone => Verdict::Parent(key, Evidence::Thread, confidence),
        Ok(()) if moment.last => Verdict::abstain(Undecided::ProcessUnproven),
        Ok(()) => Verdict::Wait,
    }
}

/// When it is known what was lost before the call.
pub(in crate::correlate) fn losses_known(call: &Exchange) -> KernelInstant {
    call.first.time.plus(SETTLE)
}

/// A request may have been open on another thread that was never seen.
fn may_not_be_alone(process: &Process, call: &Exchange) -> bool {
    let gap = process.last_gap_beside(call.thread().tid);
    gap.is_some_and(|at| at.plus(LOSS_MEMORY) >= call.first.time)
}

/// The requests that the thread held when it sent the call, where nothing else speaks against it than that they are
/// several, or that too little is known yet.
pub(in crate::correlate) fn names(tables: &Tables, call: &Exchange) -> Vec<Key> {
    let (Some(called), Some(process)) = (call.called(), tables.processes.find(call.process())) else {
        return Vec::new();
    };
    let Some(key) = called.served.filter(|_| !process.is_nginx()) else { return Vec::new() };
    if waits::standing(tables, key) != Standing::Proven {
        return Vec::new();
    }
    match called.examined.unwrap_or_else(|| examine(tables, call, key)) {
        // Where threads own nothing, holding one request says nothing about it.
        Ok(()) | Err(Undecided::RequestUnanswered | Undecided::RequestStillOpen)
            if !process.not_exclusive =>
        {
            vec![key]
        }
        Err(Undecided::SeveralOpenRequests) => called.beside.iter().copied().chain([key]).collect(),
        Ok(()) | Err(_) => Vec::new(),
    }
}

/// Whether the thread is shown to have made the call for the request, as far as is known now: conditions 1 to 4.
pub(in crate::correlate) fn examine(tables: &Tables, call: &Exchange, key: Key) -> Result<(), Undecided> {
    let request = tables.exchanges.get(&key).ok_or(Undecided::LimitReached)?;
    if call.request.protocol.is_multiplexed() || request.request.protocol.is_multiplexed() {
        return Err(Undecided::Multiplexed);
    }
    let served = request.served().ok_or(Undecided::NoOpenRequest)?;
    if let Some(reason) = objection(tables, call, request, served) {
        return Err(reason);
    }
    // (1), the far side of the call.
    let answered_after = served.last_sent.is_some_and(|sent| sent > call.first.time);
    let Some(end) = &request.end else {
        return if answered_after { Ok(()) } else { Err(Undecided::RequestStillOpen) };
    };
    let by_thread = end.last.is_some_and(|last| last.thread.tid == call.thread().tid);
    match end.outcome {
        // Where a client goes away inside the response, its bytes say as much as a whole one's.
        Outcome::Complete | Outcome::Upgraded | Outcome::ResponseCut if by_thread && answered_after => Ok(()),
        Outcome::Lost => Err(Undecided::EventsLost),
        Outcome::Complete
        | Outcome::Upgraded
        | Outcome::Reset(_)
        | Outcome::Dropped
        | Outcome::NoResponse
        | Outcome::ResponseCut
        | Outcome::StillOpen => Err(Undecided::RequestUnanswered),
    }
}

/// What speaks against the thread having worked on this request alone.
fn objection(tables: &Tables, call: &Exchange, request: &Exchange, served: &Served) -> Option<Undecided> {
    let tid = call.thread().tid;
    let thread = tables.threads.find(call.process(), tid);
    let whole = served.thread_done
        || thread.is_some_and(|thread| thread.whole_since <= request.thread().seq && !served.thread_lost);
    if !whole || request.is_damaged() {
        return Some(Undecided::EventsLost);
    }
    if waits::matter(tables, request, served) && !waits::are_alone(call, request, served) {
        return Some(Undecided::EventLoop);
    }
    let whole_head = request.head_last.tid == request.thread().tid;
    let whole_call = call.head_last.tid == tid;
    if !whole_head || !whole_call || request.thread().tid != tid {
        return Some(Undecided::RequestMovedThreads);
    }
    // Where a response ends may show only when the connection goes on, and that may be another thread's doing.
    match (served.shared, &request.end) {
        (None, _) => {}
        (Some(at), Some(end)) if end.last.is_some_and(|last| last.time < at) => {}
        (Some(at), None) if served.last_sent.is_some_and(|sent| sent < at) => {
            return Some(Undecided::RequestStillOpen);
        }
        (Some(_), _) => return Some(Undecided::RequestMovedThreads),
    }
    // After its last byte of the response the thread may go where it likes.
    let strayed = served.foreign_read.is_some_and(|at| served.last_sent.is_none_or(|sent| at < sent));
    if served.overlapped || !served.rivals.is_empty() || strayed {
        return Some(Undecided::SeveralOpenRequests);
    }
    // A call that left before the request was whole was not made for it.
    (call.first.time <= request.head_last.time).then_some(Undecided::NoOpenRequest)
}

/// A request of this thread has ended: which of the others that it held meanwhile overlap, and whether that shows
/// that the process does not keep one request per thread.
///
/// Where a response ends may show later than its thread went on, so nothing is concluded from an earlier request that
/// has not ended: the two remain rivals until it has, and this one is pinned. Returns the requests that had ended before
/// and waited for this one: each has a pin less to hold.
pub(in crate::correlate) fn settle_rivals(tables: &mut Tables, key: Key) -> Vec<Key> {
    let mut settled = Vec::new();
    let Some(ended) = tables.exchanges.get_mut(&key) else { return settled };
    let handed_over = readers::reader(&tables.threads, ended).is_some();
    let (first, cookie, process) = (ended.first.time, ended.cookie(), ended.process());
    let (reader, clean) = (ended.thread().tid, !ended.is_damaged());
    let Some(end) = ended.end else { return settled };
    let Some(served) = ended.served_mut() else { return settled };
    let clean = clean && !served.thread_lost;
    let rivals = std::mem::take(&mut served.rivals);
    // A response that only the close ends was over for its thread at its last byte.
    let last = end.last.map_or(end.time, |mark| mark.time);
    let complete = matches!(end.outcome, Outcome::Complete | Outcome::Upgraded);
    // A process that was forked for the request may answer it.
    let child = |by: ProcessKey| by != process && tables.processes.forked_for(by) == Some(key);
    let moved = end
        .last
        .filter(|mark| complete && clean && mark.thread.tid != reader && !child(mark.thread.process))
        .map(|mark| mark.thread.tid);

    let (mut overlapped, mut two_held) = (false, false);
    let mut remaining = Vec::new();
    for rival in rivals {
        let Some(other) = tables.exchanges.get_mut(&rival) else {
            overlapped = true;
            continue;
        };
        let other_first = other.first.time;
        let other_last = match other.end {
            Some(end) => end.last.map_or(end.time, |mark| mark.time),
            // It began when this one was over.
            None if last < other_first => KernelInstant::MAX,
            None => {
                remaining.push(rival);
                continue;
            }
        };
        let waited = other.end.is_some();
        let together = first.max(other_first) <= last.min(other_last);
        // Pipelining is the client's doing: it says nothing about threads.
        // And threads that only read hold what others answer.
        let handed_over = handed_over || readers::reader(&tables.threads, other).is_some();
        two_held |= together && complete && clean && other.cookie() != cookie && !handed_over;
        overlapped |= together;
        if let Some(served) = other.served_mut() {
            served.overlapped |= together;
            if waited && served.rivals.contains(&key) {
                settled.push(rival);
            }
            served.rivals.retain(|rival| *rival != key);
        }
    }
    if let Some(ended) = tables.exchanges.get_mut(&key) {
        ended.pins += remaining.len() as u32;
        if let Some(served) = ended.served_mut() {
            served.overlapped |= overlapped;
            served.rivals = remaining;
        }
    }
    let moved = moved.is_some_and(|answered_by| !readers::explain(tables, key, answered_by));
    if (moved || two_held)
        && let Some(process) = tables.processes.note(process)
    {
        process.not_exclusive = true;
    }
    settled
}
