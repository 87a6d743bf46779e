//! Trace context that came with a request: one file per header format, precedence written once, here.

use crate::span::{SpanId, TraceId};

/// A caller's span, as a header named it. Only valid ones are built: ids are non-zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteContext {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub sampled: bool,
    /// `tracestate`, verbatim as far as valid.
    pub trace_state: Option<String>,
}
