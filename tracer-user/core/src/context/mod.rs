//! Trace context that came with a request: one file per header format, precedence written once, here.
//!
//! Deliberately strict: what a format's grammar does not allow is absent, never repaired, because a wrong trace id
//! joins strangers. It does not decide whether the context is believed; the correlation does.

mod w3c;

use crate::span::{SpanId, TraceId};

/// A caller's span, as a header named it. Only valid ones are built: ids are non-zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteContext {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub sampled: bool,
    /// `tracestate`: the valid list members in order, joined by commas.
    pub trace_state: Option<String>,
}

/// Whether a header of this name can change what [`extract`] returns. Case does not matter.
pub fn is_relevant(name: &[u8]) -> bool {
    w3c::is_relevant(name)
}

/// The context that a request's headers carry, if any of the known formats is present and valid.
///
/// Headers come as name and raw value, in message order; surrounding white space does not matter. Precedence: the
/// W3C format is the only one known.
pub fn extract<'h>(headers: impl Iterator<Item = (&'h [u8], &'h [u8])> + Clone) -> Option<RemoteContext> {
    w3c::extract(headers)
}

/// Strips optional white space (RFC 9110 section 5.6.3), and the line ends that obsolete line folding leaves.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] | [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = value {
        value = rest;
    }
    value
}
