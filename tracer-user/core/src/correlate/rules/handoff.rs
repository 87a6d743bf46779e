//! A call's parent is the request whose thread was told that the call is done.
//!
//! A thread that serves a request and hands its calls to another one waits for them. So when a call is over, its thread
//! wakes the one that waits, at the futex where that one sleeps. That wake-up is what this rule goes by, and never the
//! one that handed the call out, which in a busy pool goes to the wrong thread or to none. It names a request when
//!
//! 1. the thread that made the call has no request of its own, sent the call and read all of its response;
//! 2. between the last bytes of the response and its next socket operation it woke, at an address that is no lock, a
//!    thread that holds exactly one open request; or a thread without a request that did so in turn, in at most
//!    four steps, never through a queue and never through a thread whose own response has just come;
//! 3. that request had come before the call was sent, and its thread has slept since before the call was sent; or since
//!    before the response came, if it was this request's thread that had woken the caller;
//! 4. all such wake-ups of the call name this one request.
//!
//! Waiting for the end of a call is not the only way to be woken by it: a full queue, a semaphore, a latch, a refresh
//! that nobody's request causes do the same. What they show sooner or later excludes their threads for good (*closed*):
//! the end of a call wakes a request that came after it was sent, or comes when no request is open that came before.
//! Until then, a request is believed only if the group of the thread is *trusted*, or if it is also the request whose
//! thread had woken the caller before the call. Too many calls of a process that name several requests suspend all. And
//! where most calls name none, their threads go on to work that others wait for: none is believed there.
//!
//! The gate of [`super::thread`] goes for this rule as well: where requests do not stay with threads, threads own none.
//!
//! The answer is given [`LATE`] after the request has been answered, so that what speaks against it has been seen, and
//! [`SETTLE`] after the call, so that losses are known. What the woken thread waits for may be known; that it is a result
//! does not tell whose, nor who asked for it: a program can hand results on, so that a request waits for what another has
//! submitted, and does so when much is going on, just when who submits is not seen. So the answer is no more than possible.

use std::time::Duration;

use super::{Moment, Tables, Verdict};
use crate::correlate::exchange::{Called, Exchange, Handed, HandedTo, Key, Undecided};
use crate::correlate::handoffs::{Class, Followed, Word};
use crate::span::{Confidence, Evidence};

/// After a call, and after the request's answer: others may show what its group is.
pub(in crate::correlate) const LATE: Duration = Duration::from_millis(100);

/// After a call: as long as it may take until what was lost is known, and an event that is late.
pub(in crate::correlate) const SETTLE: Duration = Duration::from_millis(600);

/// After the tracer came to a running process: requests may be open that it has not seen. What speaks for a group counts
/// no earlier than what speaks against it.
pub(in crate::correlate) const UNSEEN: Duration = Duration::from_millis(100);

/// After bytes came in that are not read: requests may be open that are not seen.
const UNREAD: Duration = Duration::from_secs(10);

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let Some(handed) = call.called().and_then(handed) else { return Verdict::Abstain(None) };
    if tables.processes.find(call.process()).is_none_or(|process| !process.keeps_requests()) {
        return Verdict::abstain(Undecided::NotThreadPerRequest);
    }
    match handed.concluded {
        Some(Ok(request)) => Verdict::Parent(request, Evidence::ThreadHandOff, Confidence::Possible),
        Some(Err(reason)) => Verdict::abstain(reason),
        None if moment.last => Verdict::abstain(Undecided::RequestStillOpen),
        None => Verdict::Wait,
    }
}

/// The requests that the call's wake-ups name, where they are too many or too little is proven.
pub(in crate::correlate) fn names(tables: &Tables, call: &Exchange) -> Vec<Key> {
    let Some(handed) = call.called().and_then(handed) else { return Vec::new() };
    match (handed.concluded, tables.handoffs.find(call.process())) {
        (Some(Err(Undecided::SeveralHandOffs | Undecided::HandOffUnproven)), Some(followed)) => {
            followed.requests(&tables.exchanges, handed)
        }
        (Some(_) | None, _) => Vec::new(),
    }
}

fn handed(called: &Called) -> Option<&Handed> {
    called.handed.as_deref().filter(|_| called.served.is_none())
}

/// What a call says about the group of its thread.
pub(in crate::correlate) fn word(tables: &Tables, key: Key) -> Option<Word> {
    let call = tables.exchanges.get(&key)?;
    let handed = call.called().and_then(handed)?;
    let followed = tables.handoffs.find(call.process())?;
    let submit = handed.submit.filter(|submit| followed.class(submit.address) != Class::Lock);
    let submitted = submit.and_then(|submit| submit.request).is_some();
    Some(match examine(tables, call, handed, followed) {
        Ok(Named { submitted: agrees, .. }) => {
            Word { proves: handed.one_cause, agrees: submitted.then_some(agrees), tells: Some(true) }
        }
        Err(Undecided::SeveralHandOffs) => {
            Word { agrees: submitted.then_some(false), tells: Some(true), ..Word::default() }
        }
        // Nothing could have caused it, or what is told is not what it seems.
        Err(Undecided::NoHandOff) if !handed.elsewhere => Word { tells: Some(false), ..Word::default() },
        Err(_) => Word::default(),
    })
}

/// The request that a call was made for, as is to be said once and for all. `None`: nothing is to be said of such a call.
pub(in crate::correlate) fn conclude(tables: &Tables, key: Key) -> Option<Result<Key, Undecided>> {
    let call = tables.exchanges.get(&key)?;
    let handed = call.called().and_then(handed)?;
    let followed = tables.handoffs.find(call.process())?;
    let tid = call.thread().tid;
    let elsewhere = handed.elsewhere || followed.is_closed(tid) || followed.works.are_handed_on();
    Some(match examine(tables, call, handed, followed) {
        Err(reason) => Err(reason),
        Ok(_) if elsewhere => Err(Undecided::HandOffsElsewhere),
        Ok(Named { request, submitted, .. })
            if followed.is_heard() && (submitted || followed.is_trusted(tid)) =>
        {
            Ok(request)
        }
        Ok(_) => Err(Undecided::HandOffUnproven),
    })
}

/// The one request that a call names.
struct Named {
    request: Key,
    /// Its thread had woken the caller, too.
    submitted: bool,
}

/// Conditions 1 to 4.
fn examine(
    tables: &Tables,
    call: &Exchange,
    handed: &Handed,
    followed: &Followed,
) -> Result<Named, Undecided> {
    let (sent, process) = (call.first.time, call.process());
    let lost = tables.last_gap(process).is_some_and(|at| at >= sent);
    if lost || handed.unsure || call.is_damaged() || !followed.is_whole_since(sent) {
        return Err(Undecided::EventsLost);
    }
    let known = tables.processes.find(process).ok_or(Undecided::LimitReached)?;
    if known.unread_at.is_some_and(|at| at.plus(UNREAD) >= sent) {
        return Err(Undecided::UnreadRequests);
    }
    let end = call.end.ok_or(Undecided::RequestStillOpen)?;
    let stayed = !handed.moved && end.last.is_some_and(|last| last.thread.tid == call.thread().tid);
    let requests = followed.requests(&tables.exchanges, handed);
    let request = match requests.as_slice() {
        [request] if stayed => *request,
        [_, _, ..] => return Err(Undecided::SeveralHandOffs),
        [_] | [] => {
            return Err(Undecided::NoHandOff);
        }
    };
    if followed.is_suspended() {
        return Err(Undecided::HandOffsElsewhere);
    }
    let submitted = handed.submit.is_some_and(|submit| {
        submit.request == Some(request) && followed.class(submit.address) != Class::Lock
    });
    let waited = |to: &HandedTo| to.request == request && to.asleep_since < sent;
    if !submitted && !handed.candidates.iter().any(waited) {
        return Err(Undecided::NoHandOff);
    }
    let from = tables.exchanges.get(&request).ok_or(Undecided::LimitReached)?;
    let served = from.served().ok_or(Undecided::LimitReached)?;
    if served.nonblocking {
        return Err(Undecided::EventLoop);
    }
    let is_whole = |of: &Exchange| {
        let thread = tables.threads.find(process, of.thread().tid);
        thread.is_none_or(|thread| thread.whole_since <= of.thread().seq)
    };
    if from.is_damaged() || served.thread_lost || !is_whole(from) || !is_whole(call) {
        return Err(Undecided::EventsLost);
    }
    if served.overlapped {
        return Err(Undecided::SeveralOpenRequests);
    }
    Ok(Named { request, submitted })
}
