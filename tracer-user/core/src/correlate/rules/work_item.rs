//! Pools of CPython and Java: a call's parent is the request whose thread waits for the result of the work item inside of
//! which the call is made.
//!
//! What a thread of a pool does is done for who asked for it, and a pool's thread goes from item to item; so the item binds a
//! call to its cause, and nothing that the thread does before or after. A call is bound to a request only when
//!
//! 1. it was sent, and its response was read, by one thread inside of one item;
//! 2. the request's thread, or one inside of another item for which this holds in turn, waits for the item's future. Either it
//!    has since before the response was read, so that the future is that item's, and cannot have become another's; or the
//!    submit of the item was seen, and none of another one at the address since. The request had come before the call was
//!    sent;
//! 3. the same request was seen to submit the item, or a task of Java's lies where the request's thread has allocated since the
//!    request came. Futures can be shared, and handed on: who waits need not be the cause.
//!    Where submits are not seen themselves, one is only if it woke a thread of the pool. Where all were busy, the edge is no
//!    more than *possible*: that who was seen to submit always waited shows little of the others, as programs hand results on
//!    just when much is going on. Where another was seen to wait, nothing is claimed at all.
//!
//! The edge is *likely* at best: where submits are not seen, an address can become another future's
//! ([`crate::correlate::works`]), in programs that hand results on; and what is read of a program's memory is the program's.
//!
//! Nobody waits for what is detached, so it has no parent by this rule, whoever submitted it. A call for another one that is
//! made inside of an item that its request waits for (it works off what others have queued) is that request's: it waits.
//!
//! The gate of [`super::thread`] goes for this rule as well: where requests do not stay with threads, threads own none.

use super::{Moment, Tables, Verdict};
use crate::correlate::exchange::{Answering, Exchange, Undecided};
use crate::correlate::works::Submitter;
use crate::span::{Confidence, Evidence};

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let Some(called) = call.called().filter(|called| called.served.is_none()) else {
        return Verdict::Abstain(None);
    };
    let Some(in_work) = called.in_work.as_deref() else { return Verdict::Abstain(None) };
    let process = call.process();
    let known = tables.processes.find(process).filter(|known| known.has_served && known.keeps_requests());
    let (Some(_), Some(followed)) = (known, tables.handoffs.find(process)) else {
        return Verdict::Abstain(None);
    };
    let key = match called.answered {
        Answering::One(key) => key,
        Answering::Several => return Verdict::abstain(Undecided::SeveralHandOffs),
        Answering::None if moment.last || in_work.changed => return Verdict::Abstain(None),
        // A request that begins later is not its cause.
        Answering::None if called.key.is_some_and(|key| followed.is_over(key)) => {
            return Verdict::Abstain(None);
        }
        Answering::None => return Verdict::Wait,
    };
    let Some(request) = tables.exchanges.get(&key) else { return Verdict::abstain(Undecided::LimitReached) };
    // Others may wait for the same until then.
    match request.end {
        None if moment.last => return Verdict::abstain(Undecided::RequestStillOpen),
        None => return Verdict::Wait,
        Some(_) => {}
    }
    let (Some(served), Some(submitter)) = (request.served(), in_work.submitter) else {
        return Verdict::abstain(Undecided::LimitReached);
    };
    let sent = call.first.time;
    let is_whole = |of: &Exchange| {
        let thread = tables.threads.find(process, of.thread().tid);
        thread.is_none_or(|thread| thread.whole_since <= of.thread().seq)
    };
    let lost = tables.last_gap(process).is_some_and(|at| at >= sent) || !followed.is_whole_since(sent);
    if lost || served.thread_lost || !is_whole(request) || !is_whole(call) {
        return Verdict::abstain(Undecided::EventsLost);
    }
    if call.is_damaged() || request.is_damaged() {
        return Verdict::abstain(Undecided::EventsLost);
    }
    if in_work.changed {
        return Verdict::abstain(Undecided::Contradiction);
    }
    if served.nonblocking {
        return Verdict::abstain(Undecided::EventLoop);
    }
    if served.overlapped {
        return Verdict::abstain(Undecided::SeveralOpenRequests);
    }
    match submitter {
        Submitter::Same | Submitter::Unseen if followed.works.are_handed_on() => {
            Verdict::abstain(Undecided::HandOffsElsewhere)
        }
        Submitter::Same => Verdict::Parent(key, Evidence::RuntimeTask, Confidence::Likely),
        Submitter::Unseen => Verdict::Parent(key, Evidence::RuntimeTask, Confidence::Possible),
        Submitter::Another => Verdict::abstain(Undecided::HandOffsElsewhere),
    }
}
