//! A call's parent is the one request that brought what the call carries.
//!
//! What a program was given to hand on, it hands on: the ids of a trace, or a request id. A value that exactly one
//! request ever brought into a process, and that no call took out before it came, is that request's; a call that
//! carries it was made for the request, on whatever thread. Everything else that may put the same value on a call is
//! excluded, or the rule abstains:
//!
//! | what else could be | excluded by |
//! |---|---|
//! | a constant, a value of the environment | at least [`PROOFS`] different values went through the process |
//! | a counter | values that are short or monotonous count for nothing |
//! | parallel requests of a trace, a retry, a session's id | two requests with a value share it, for good |
//! | work that goes on after its answer | the request is open when the call is sent |
//! | a value that the program made itself and that came back to it | it left before it came, so it is shared |
//! | the call's own effect, stamped before it | the request began well before the call, or outlives it |
//! | a request that was not seen | nothing was lost for a while, no request can be older than the tracer, and none is in a protocol that is not read |
//!
//! What cannot be known: a message that came as a *response* (from a queue's server) may carry the trace of a request
//! that is open at the same time. A trace id of such a message is taken for the request's.
//!
//! Losses are told some time after they happen, so the answer is given [`SETTLE`] after the call, when the call and
//! the request have ended, or at the call's deadline.

use std::time::Duration;

use super::{Moment, Tables, Verdict};
use crate::correlate::carriers::{Carriers, Standing, values};
use crate::correlate::exchange::{Exchange, Key, Undecided};
use crate::span::{Confidence, Evidence};

/// How long after a call what was lost before it is known: the kernel half's counters are read several times a
/// second.
pub(in crate::correlate) const SETTLE: Duration = Duration::from_millis(400);

/// Requests whose values calls have carried, before any is believed. A constant is one, two are two.
pub(in crate::correlate) const PROOFS: u32 = 4;

/// How long before a call a request may have been lost that is still open.
const LOSS_MEMORY: Duration = Duration::from_secs(60);

/// How long after a running process was first seen requests may be under way in it that were read before; and how
/// long one may be under way that came in a protocol that is not read.
const UNSEEN: Duration = Duration::from_secs(10);

/// The kernel stamps operations at their end: a thread that is kept from running may stamp a call later than what
/// the call brought about.
const STAMPS: Duration = Duration::from_millis(100);

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    let request = match carrier(tables, call) {
        Ok(Some(key)) => key,
        Ok(None) => return Verdict::Abstain(None),
        Err(reason) => return Verdict::abstain(reason),
    };
    let Some(from) = tables.exchanges.get(&request) else {
        return Verdict::abstain(Undecided::LimitReached);
    };
    if let Some(reason) = objection(tables, call, from) {
        return Verdict::abstain(reason);
    }
    let losses_known = moment.now.since(call.first.time) >= SETTLE;
    let both_ended = call.end.is_some() && from.end.is_some();
    if !moment.last && (!both_ended || !losses_known) {
        return Verdict::Wait;
    }
    let proven = tables.processes.find(call.process()).is_some_and(|process| process.hands_on >= PROOFS);
    if !proven {
        return Verdict::abstain(Undecided::HeaderUnproven);
    }
    Verdict::Parent(request, Evidence::HeaderContinuity, Confidence::Certain)
}

/// The one request that brought what the call carries, whatever else speaks against it.
pub(in crate::correlate) fn carrier(tables: &Tables, call: &Exchange) -> Result<Option<Key>, Undecided> {
    let (Some(_), Some(context)) = (call.called(), call.context.as_ref()) else { return Ok(None) };
    let carriers: &Carriers = &tables.carriers;
    let (mut found, mut reason) = (None, None);
    for value in values(context) {
        let Some(carrier) = carriers.find(call.process(), value) else { continue };
        match carrier.standing {
            Standing::Shared => reason = Some(Undecided::HeaderShared),
            Standing::Unsure => reason = Some(Undecided::LimitReached),
            Standing::Fresh => {
                let began = tables.exchanges.get(&carrier.request).map(|request| request.head_last.time);
                // What came after the call did not cause it.
                if began.is_some_and(|began| began >= call.first.time) {
                    continue;
                }
                if found.is_some_and(|other| other != carrier.request) {
                    return Err(Undecided::Contradiction);
                }
                found = Some(carrier.request);
            }
        }
    }
    match (found, reason) {
        (Some(key), _) => Ok(Some(key)),
        (None, Some(reason)) => Err(reason),
        (None, None) => Ok(None),
    }
}

/// The requests that brought what the call carries, one or several, before the call was sent.
pub(in crate::correlate) fn names(tables: &Tables, call: &Exchange) -> Vec<Key> {
    let (Some(_), Some(context)) = (call.called(), call.context.as_ref()) else { return Vec::new() };
    let came_first = |key: &Key| {
        let request = tables.exchanges.get(key);
        request.is_some_and(|request| request.head_last.time < call.first.time)
    };
    let values = values(context);
    // What a span's id says is more than what its trace's does.
    let named = values.iter().map(|value| tables.carriers.all(call.process(), *value));
    let mut named = named.map(|keys| keys.filter(came_first).collect::<Vec<Key>>());
    named.find(|keys| !keys.is_empty()).unwrap_or_default()
}

/// What speaks against the request as the cause, for good.
fn objection(tables: &Tables, call: &Exchange, request: &Exchange) -> Option<Undecided> {
    let sent = call.first.time;
    if request.end.is_some_and(|end| end.time <= sent) {
        return Some(Undecided::NoOpenRequest);
    }
    let lost = tables.last_gap(call.process()).is_some_and(|at| at.plus(LOSS_MEMORY) >= sent);
    if lost || call.is_damaged() || request.is_damaged() {
        return Some(Undecided::EventsLost);
    }
    let process = tables.processes.find(call.process())?;
    if process.preexisting_since.is_some_and(|since| sent.since(since) < UNSEEN) {
        return Some(Undecided::EventsLost);
    }
    if process.unread_at.is_some_and(|at| at.plus(UNSEEN) >= sent) {
        return Some(Undecided::UnreadRequests);
    }
    if answered_inside(request, call) && sent.since(request.head_last.time) < STAMPS {
        return Some(Undecided::OrderUnclear);
    }
    match (call.context.as_ref(), request.context.as_ref()) {
        (Some(carried), Some(brought))
            if carried.remote().is_some() && brought.remote().is_some() && !brought.shares_trace(carried) =>
        {
            Some(Undecided::Contradiction)
        }
        _ => None,
    }
}

/// The request was answered before the call was: it may be what the call brought about.
fn answered_inside(request: &Exchange, call: &Exchange) -> bool {
    match (&request.response, &call.response) {
        (Some((_, sent)), Some((_, received))) => sent.time <= received.time,
        (Some(_), None) => true,
        (None, _) => request.end.is_some(),
    }
}
