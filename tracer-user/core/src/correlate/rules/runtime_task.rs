//! A call's parent is the request on which the task works that made the call, or one that waits for that task.
//!
//! An event loop serves many requests on one thread, but its runtime knows at each moment whose step is running: the
//! kernel half asks it when a request is read, when a call leaves, and when a response begins. A call is bound to a
//! request only when
//!
//! 1. the task that works on the request made the call, or waited, at the very moment of the call, for the task that
//!    did: step by step, each the only one that waits for the next;
//! 2. the request's head had been read, and its answer had not ended, which its end shows: see [`named::is_whole`];
//! 3. that task works on this request and no other. Either it was seen to wait for the bytes of this very connection when
//!    the request came, so that nothing of an earlier one was left to be done. Or it answers the request, and has
//!    never answered another. A task that serves a connection may answer, and make calls for that request when the
//!    next one has come already: what it does then cannot be told apart, and is undecided. Or it has made the task that
//!    answers, as frameworks do to send a body piece by piece, and made the call before: then both must have been made
//!    since the request came, and no task of the process have made answering ones for several by the time that all
//!    requests have ended which were open at the call. Such edges are *likely*;
//! 4. of tasks between, which are waited for, none was made for somebody else: see [`super::awaited`]. Such edges are *likely*.
//!
//! What a thread of a pool does for a task that waits for it in `asyncio.to_thread`, the task does.
//!
//! Tasks that nobody waits for (background work, queues, fire and forget), and those that several wait for, work on
//! nothing: their calls are undecided.
//!
//! A program may have one task serve many connections at once. It answers one while others wait for it, which shows,
//! and ends the trust in tasks that were not seen to wait. Until [`PROOFS`] requests of a process had tasks of their
//! own, a call of such a task waits until all requests that were open when it was made have ended.

use std::time::Duration;

use super::{Moment, Tables, Verdict, awaited, named};
use crate::correlate::exchange::{Answering, Exchange, Undecided, Working};
use crate::span::Confidence;

/// Requests with a task of their own, before a process is believed at once.
pub(in crate::correlate) const PROOFS: u32 = 32;

/// How long before a call a loss may have hidden an answer after which its task still had something to do. What came late
/// has hidden none of a loop's own calls: a task is one thread's, which has told what the task does in order, whenever that
/// was learned. What a thread of a pool does for the task has no such order.
const LOSS_MEMORY: Duration = Duration::from_secs(2);

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let Some(called) = call.called().filter(|called| !called.tasks.is_empty()) else {
        return Verdict::Abstain(None);
    };
    let process = tables.processes.find(call.process());
    let Some(process) = process else { return Verdict::Abstain(None) };
    let Some(tasks) = process.tasks.as_deref() else { return Verdict::Abstain(None) };
    let over = moment.last || called.is_over(tasks);
    let key = match called.answered {
        Answering::One(key) => key,
        Answering::Several => return Verdict::abstain(Undecided::SeveralOpenRequests),
        // A client program: nothing here could have caused it.
        Answering::None if !process.has_served => return Verdict::Abstain(None),
        Answering::None if over => return Verdict::abstain(Undecided::TaskUnrelated),
        Answering::None => return Verdict::Wait,
    };
    let Some(request) = tables.exchanges.get(&key) else {
        return Verdict::abstain(Undecided::LimitReached);
    };
    let Some(work) = request.served().and_then(|served| served.work.as_deref()) else {
        return Verdict::abstain(Undecided::LimitReached);
    };
    if call.is_damaged() || request.is_damaged() {
        return Verdict::abstain(Undecided::EventsLost);
    }
    let Some((place, working)) = work.place(&called.tasks) else {
        return Verdict::abstain(Undecided::TaskUnrelated);
    };
    // One that makes others for several requests may not have shown that yet.
    let proven = tasks.proofs >= PROOFS && working != Working::MadeAnswerer;
    if working == Working::HadWaited {
        if let Err(verdict) = named::is_whole(tables, request, moment) {
            return verdict;
        }
    } else {
        match answered_after(request, call) {
            Some(true) => {}
            Some(false) => return Verdict::abstain(Undecided::TaskNotFresh),
            None if moment.last => return Verdict::abstain(Undecided::RequestStillOpen),
            None => return Verdict::Wait,
        }
        let of_loop = call.thread().tid == request.thread().tid;
        let process = call.process();
        let gap = if of_loop { tables.last_loss_of(process) } else { tables.last_gap(process) };
        let lost = gap.is_some_and(|at| at.plus(LOSS_MEMORY) >= call.first.time);
        let sent = call.first.time;
        if work.again
            || working == Working::MadeAnswerer && work.answerer_made.is_none_or(|(_, at)| at < sent)
        {
            return Verdict::abstain(Undecided::TaskNotFresh);
        } else if lost {
            return Verdict::abstain(Undecided::EventsLost);
        } else if tasks.shared || working == Working::MadeAnswerer && tasks.answers_through_children {
            return Verdict::abstain(Undecided::SeveralOpenRequests);
        } else if !proven && !called.is_over(tasks) {
            return if moment.last { Verdict::abstain(Undecided::ProcessUnproven) } else { Verdict::Wait };
        }
    }
    let made_for = called.made_for(place, request.head_last.time, tables.last_loss_of(call.process()));
    let below = called.awaited(place).zip(made_for);
    let mut verdict = awaited::judge(&tasks.kinds, below, (key, work.next_task), call, moment);
    if let (Working::MadeAnswerer, Verdict::Parent(_, _, confidence)) = (working, &mut verdict) {
        *confidence = Confidence::Likely.min(*confidence);
    }
    verdict
}

/// Whether the request was still being answered when the call was made; `None` while that is not known.
fn answered_after(request: &Exchange, call: &Exchange) -> Option<bool> {
    let sent = call.first.time;
    if request.response.as_ref().is_some_and(|(_, first)| first.time > sent) {
        return Some(true);
    }
    // Its answer was flowing already: it must have gone on after the call.
    let end = request.end?;
    Some(end.last.is_some_and(|last| last.time > sent))
}
