//! What a request's headers say about where it comes from, as far as ids and parents do not tell it.

use super::keys;
use super::text::clean;
use crate::context::RequestContext;
use crate::span::{Attributes, Value};

/// Adds the attributes of a request that carried something.
pub(crate) fn context(context: &RequestContext, out: &mut Attributes) {
    if let Some(remote) = context.remote() {
        out.push((keys::CONTEXT_FORMAT, Value::from(remote.format.as_str())));
    }
    // Ids and decisions only: all of them were parsed, so that none can hold anything else.
    let conflicts: Vec<String> =
        context.conflicts().map(|claim| format!("{}={claim}", claim.format.as_str())).collect();
    if !conflicts.is_empty() {
        out.push((keys::CONTEXT_CONFLICTS, Value::StrArray(conflicts)));
    }
    let refused: Vec<String> = context.refused().iter().map(|format| format.as_str().to_owned()).collect();
    if !refused.is_empty() {
        out.push((keys::CONTEXT_REFUSED, Value::StrArray(refused)));
    }
    if let Some(span) = context.sky_walking() {
        out.push((keys::SW8_TRACE_ID, Value::from(clean(&span.trace_id))));
        out.push((keys::SW8_SEGMENT_ID, Value::from(clean(&span.segment_id))));
        out.push((keys::SW8_SPAN_ID, Value::Int(i64::from(span.span_id))));
    }
    out.extend(context.baggage().iter().map(|(key, value)| (*key, Value::from(clean(value)))));
}
