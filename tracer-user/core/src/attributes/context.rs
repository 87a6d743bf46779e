//! What a request's headers say about where it comes from, as far as ids and parents do not tell it.

use super::keys;
use crate::context::RequestContext;
use crate::span::Value;

/// Adds the attributes of a request that carried something.
pub(crate) fn context(context: &RequestContext, out: &mut Vec<(&'static str, Value)>) {
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
}
