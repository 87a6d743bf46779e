//! Go: a call's parent is the request whose goroutine waits for it, or started the one that does.
//!
//! A server's goroutine reads a request, works and answers, and reads the next. So what it waits for meanwhile is
//! waited for on behalf of that request. A call is bound to a request only when
//!
//! 1. the goroutine that read the request's head made the call, or waited for its response when it was sent or when the
//!    response began, and no other one waited at the other moment; the edge is *certain*. Or
//! 2. one waited that it had started, with a number that nobody had when the head had been read. Such an edge is *likely*.
//!    A worker that a request started, and that stays for others, is started just so: goroutines that are started at
//!    this place of the program must never have been seen to work on when their request had ended. Until
//!    [`PROOFS`] calls have shown that, it is waited for a while after the request's end whether they do;
//! 3. the request's head had been read, and its answer had not ended, and its first byte was not read before the answer to
//!    the one before it on the connection had ended: else what is left to be done for that one cannot be told apart.
//!
//! Goroutines that take jobs from a channel, background work and what was detached work on nothing that is known.

use super::response_window::SETTLE;
use super::{Moment, Tables, Verdict, named};
use crate::correlate::exchange::{Exchange, Undecided};
use crate::correlate::goroutines::OUTLIVE;
use crate::span::{Confidence, Evidence};

/// Calls that were made within their requests, before a place that starts goroutines is believed at once.
const PROOFS: u32 = 16;

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let caller = call.called().and_then(|called| called.caller.as_deref());
    let Some(caller) = caller else { return Verdict::Abstain(None) };
    // A goroutine may be held up before it can tell, until the call is over.
    if caller.is_awaited() && !moment.last && call.end.is_none_or(|end| moment.now.since(end.time) < SETTLE) {
        return Verdict::Wait;
    }
    let (key, request) = match named::request(tables, call, caller.changed, moment) {
        Ok(named) => named,
        Err(verdict) => return verdict,
    };
    if request.served().and_then(|served| served.reader.as_deref()).is_none_or(|reader| reader.is_early) {
        return Verdict::abstain(Undecided::TaskNotFresh);
    }
    if !caller.is_child {
        return Verdict::Parent(key, Evidence::RuntimeTask, Confidence::Certain);
    }
    let process = tables.processes.find(call.process());
    let goroutines = process.and_then(|process| process.goroutines.as_deref());
    let Some(goroutines) = goroutines else { return Verdict::Abstain(None) };
    let site = goroutines.site(caller.started_at);
    if site.is_closed {
        return Verdict::abstain(Undecided::ChildOutlives);
    }
    let waited = request.end.is_some_and(|end| end.time.plus(OUTLIVE) <= moment.now);
    if site.proofs >= PROOFS || waited {
        return Verdict::Parent(key, Evidence::RuntimeTask, Confidence::Likely);
    }
    if moment.last { Verdict::abstain(Undecided::ProcessUnproven) } else { Verdict::Wait }
}
