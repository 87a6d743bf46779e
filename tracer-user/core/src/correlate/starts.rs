//! Traces that programs start.
//!
//! A program that traces itself and serves a request without a trace header starts a trace for it, and its calls carry
//! that trace's id. The span of the request that is made here is not the program's, but it belongs to the same trace.
//! It, and what is joined to it, takes that id ([`super::fragment`]) when all of this is so:
//!
//! 1. a rule other than headers shows *certainly* that the call was made for the request;
//! 2. the request brought no trace, and no span of its fragment has left or has another id;
//! 3. no request of this host had brought the trace when it first went out: what came in before belongs elsewhere;
//! 4. all such calls of the fragment carry one trace: a program that makes a new trace for every call has none for the
//!    request;
//! 5. the program records the trace: otherwise nothing is there to be joined, and the request's own span remains.
//!
//! Whether it is so is known when the call's question is settled, so the fragment's spans wait for that, no longer than
//! for anything else. No parent is claimed by any of this.

use std::collections::BTreeSet;

use super::Correlator;
use super::exchange::{Exchange, Key};
use super::ladder;
use super::rules::{Moment, Tables, Verdict, header};
use crate::span::{Confidence, SpanId, TraceId};

/// Traces are known by the half of their id that all formats carry. An id of eight bytes, hence as a span's.
pub(super) fn half(id: TraceId) -> Option<SpanId> {
    let [.., a, b, c, d, e, f, g, h] = id.to_bytes();
    SpanId::new([a, b, c, d, e, f, g, h])
}

/// Nobody had brought the call's trace in when it went out.
fn is_started_here(tables: &Tables, call: &Exchange, trace: TraceId) -> bool {
    let Some(half) = half(trace) else { return false };
    let sent = header::sent_by(tables, call);
    tables.traces.before(half, sent).next().is_none() && tables.traces.is_whole(call.first.time)
}

impl Correlator {
    /// A request brings these traces in.
    pub(super) fn note_traces(&mut self, key: Key) {
        let Some(request) = self.tables.exchanges.get(&key) else { return };
        let (process, at) = (request.process(), request.first.time);
        let traces: BTreeSet<SpanId> =
            request.context.iter().flat_map(|context| context.trace_ids()).filter_map(half).collect();
        for trace in traces {
            self.tables.traces.came_in(trace, key, process, at);
        }
    }

    /// A call may turn out to be made for a request: if it carries a trace and the request brought none, the request's
    /// fragment waits until that is known.
    pub(super) fn await_trace(&mut self, call: Key, request: Key) {
        let Some(above) = self.tables.exchanges.get(&request) else { return };
        let (fragment, brought) = (above.fragment, above.remote().is_some());
        let Some(exchange) = self.tables.exchanges.get_mut(&call) else { return };
        let carries = exchange.remote().is_some_and(|remote| remote.span_id.is_some());
        if let Some(called) = exchange.called_mut()
            && (carries, brought, called.awaited_by) == (true, false, None)
        {
            called.awaited_by = Some(fragment);
            self.fragments.hold(fragment);
        }
    }

    /// The call's question is about to be settled below a span of its program, or without a parent: what its trace says
    /// about the request's.
    pub(super) fn pass_trace_on(&mut self, call: Key, below_program: bool) {
        let Some(exchange) = self.tables.exchanges.get_mut(&call) else { return };
        let awaited = exchange.called_mut().and_then(|called| called.awaited_by.take());
        let Some(awaited) = awaited else { return };
        if below_program {
            self.claim_trace(call);
        }
        for waiting in self.fragments.let_go(awaited).into_iter().flatten() {
            self.ready(waiting);
        }
    }

    fn claim_trace(&mut self, call: Key) {
        let Some(exchange) = self.tables.exchanges.get(&call) else { return };
        let Some(remote) = exchange.remote() else { return };
        let moment = Moment { now: self.now, last: true };
        let Verdict::Parent(request, _, Confidence::Certain) = ladder::shown(&self.tables, exchange, moment)
        else {
            return;
        };
        let Some(above) = self.tables.exchanges.get(&request).filter(|above| above.remote().is_none()) else {
            return;
        };
        let recorded = exchange.context.as_ref().is_some_and(|context| context.sampling().is_recorded());
        let started = is_started_here(&self.tables, exchange, remote.trace_id);
        self.fragments.claim(above.fragment, remote.trace_id, recorded && started, exchange.first.time);
    }
}
