//! Programs that trace themselves.
//!
//! Such a program writes the span that it has made for a call into the call's headers: an id that came in with no
//! request. The span of the same call that is made here then tells what the program's own tells, so that it may be
//! left out: [`SdkSpans::Suppress`]. Its place in the tree is the program's span's, and the request at the other end
//! hangs there.
//!
//! What headers cannot tell: whether the program exports its spans at all, and to where; whether the span was made
//! for this call alone (once two calls name one span, no more is left out in that process, but what was is); and any
//! span that a program makes for a request that it serves, whose id leaves the program only if it makes calls and
//! only if it makes no spans for them. Spans of requests are therefore never left out.

use super::Correlator;
use super::exchange::{Key, Question, Settled};
use crate::engine::SdkSpans;
use crate::span::SpanId;

impl Correlator {
    /// A call begins: which span it names.
    pub(super) fn note_named(&mut self, key: Key) {
        let Some(call) = self.tables.exchanges.get(&key) else { return };
        let named = call.remote().and_then(|remote| remote.span_id);
        let (process, at) = (call.process(), call.first.time);
        let (SdkSpans::Suppress, Some(span_id)) = (self.bounds.sdk_spans, named) else { return };
        self.named.came_in(span_id, key, process, at);
        if self.named.is_shared(span_id)
            && let Some(process) = self.tables.processes.note(process)
        {
            process.shares_spans = true;
        }
    }

    /// A call is about to be settled below a span of its program: it stands for that span, if that is asked for and
    /// still possible.
    pub(super) fn stand_aside(&mut self, key: Key, span_id: SpanId) {
        if self.bounds.sdk_spans == SdkSpans::Keep {
            return;
        }
        let Some(call) = self.tables.exchanges.get(&key) else { return };
        let Some(called) = call.called() else { return };
        let shares = self.tables.processes.find(call.process()).is_none_or(|process| process.shares_spans);
        if shares || !self.named.is_whole(call.first.time) {
            return;
        }
        if let Some(receiver) = called.receiver {
            match self.tables.exchanges.get_mut(&receiver) {
                Some(request) if !request.left => {
                    if let Question::Settled(Settled::Parent { span_id: above, .. }) = &mut request.question {
                        *above = span_id;
                        request.parent_elsewhere = true;
                    }
                }
                // It has left below the span that this call would have.
                Some(_) | None => return,
            }
        }
        if let Some(call) = self.tables.exchanges.get_mut(&key) {
            call.span_id = span_id;
            call.suppressed = true;
        }
    }
}
