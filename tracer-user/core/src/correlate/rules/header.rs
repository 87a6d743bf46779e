//! The parent that a trace context header names.
//!
//! A header names the span that *made* the request, if the id was made for it. An id that other requests of this host
//! brought in before only passes through: it names an ancestor. So a server exchange takes it unless its other end
//! was traced (then that is the parent, and `same_bytes` said so), and a client exchange takes it when the id did not
//! come in with a request.

use std::time::Duration;

use tracer_abi::conn::Role;
use tracer_abi::time::KernelInstant;

use super::header_continuity::SETTLE;
use super::{Moment, Tables, Verdict};
use crate::correlate::exchange::{Exchange, Undecided};
use crate::correlate::join::Occupant;
use crate::span::{Confidence, Evidence};

/// How long before a call the request that caused it may have been lost.
const LOSS_MEMORY: Duration = Duration::from_secs(10);

/// How long after a running process was first seen requests may be under way in it that were read before.
const UNSEEN_REQUESTS: Duration = Duration::from_secs(10);

pub(in crate::correlate) fn judge(tables: &Tables, exchange: &Exchange, moment: Moment) -> Verdict {
    let Some(span_id) = exchange.remote().and_then(|remote| remote.span_id) else {
        return Verdict::Abstain(None);
    };
    let named = Verdict::Remote(span_id, Evidence::Header, Confidence::Certain);
    let mut earlier = tables.contexts.before(span_id, sent_by(tables, exchange));
    match exchange.role() {
        Role::Server | Role::Unknown => {
            if earlier.any(|incoming| {
                incoming.process != exchange.process() && incoming.is_open_at(exchange.first.time)
            }) {
                return Verdict::abstain(Undecided::HeaderPassedThrough);
            }
            named
        }
        Role::Client => {
            if earlier.next().is_some() {
                return Verdict::abstain(Undecided::HeaderPassedThrough);
            }
            // A loss is learned of later than it happens.
            let losses_known = moment.now.since(exchange.first.time) >= SETTLE;
            if !moment.last && (exchange.end.is_none() || !losses_known) {
                return Verdict::Wait;
            }
            let lost =
                tables.last_gap_anywhere().is_some_and(|at| at.plus(LOSS_MEMORY) >= exchange.first.time);
            let process = tables.processes.find(exchange.process());
            let unseen = process
                .and_then(|process| process.preexisting_since)
                .is_some_and(|since| exchange.first.time.since(since) < UNSEEN_REQUESTS);
            if lost || unseen {
                return Verdict::abstain(Undecided::EventsLost);
            }
            if !tables.contexts.is_whole(exchange.first.time) {
                return Verdict::abstain(Undecided::LimitReached);
            }
            named
        }
    }
}

/// When the request was under way at the latest. The kernel stamps operations at their end: what a call's receiver did
/// with the request may be stamped before the call.
pub(in crate::correlate) fn sent_by(tables: &Tables, exchange: &Exchange) -> KernelInstant {
    let first = exchange.first.time;
    match tables.join.nearest_end(exchange) {
        Occupant::One(key) if exchange.role() == Role::Client => {
            tables.exchanges.get(&key).map_or(first, |receiver| first.min(receiver.first.time))
        }
        Occupant::One(_) | Occupant::Several | Occupant::Nobody => first,
    }
}
