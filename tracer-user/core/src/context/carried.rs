//! What the headers of one request carry, and what is made of it: precedence between formats is written here, once.
//!
//! [`Carried`] is what the formats say, each for itself; a protocol parser makes it and knows no configuration.
//! [`RequestContext`] is what remains under the configured [`Propagators`]:
//!
//! 1. Formats that are not configured say nothing.
//! 2. The first configured format that names a trace decides: its trace, its parent span.
//! 3. Others *agree* if they name the same trace and neither another span nor another sampling decision. An id of 64
//!    bits is the same as one of 128 bits that ends with it; then the longer one is taken.
//! 4. The sampling decision is the first one, in the same order, of a format that names the same trace or no trace at
//!    all.
//! 5. What does not agree is kept as a conflict, to be told on the span. Nothing of it is used.

use super::baggage;
use super::claim::{Claim, Format, Sampling, is_short, same_trace};
use super::propagators::Propagators;
use super::request_id::{self, RequestId, RequestIdKey};
use super::sw8::SkyWalkingSpan;
use crate::span::{SpanId, TraceId};

/// What the formats that a request's headers belong to say, before any choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// One for each format that is present and valid.
    pub(super) claims: Vec<Claim>,
    /// `tracestate`: the valid list members in order, joined by commas. Only beside a valid `traceparent`.
    pub(super) trace_state: Option<String>,
    /// Formats that are present and not valid.
    pub(super) refused: Vec<Format>,
    pub(super) sky_walking: Option<SkyWalkingSpan>,
    pub(super) request_ids: Vec<request_id::Raw>,
    /// As sent, within the limits.
    pub(super) baggage: Vec<u8>,
}

/// A caller's span, as a header named it. Only valid ones are built: ids are non-zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteContext {
    /// Who decided.
    pub format: Format,
    pub trace_id: TraceId,
    /// `None`: the header names a trace and no span of it.
    pub span_id: Option<SpanId>,
    pub trace_state: Option<String>,
}

/// What a request's headers say about where it comes from, under the configured formats. Something is always there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestContext {
    remote: Option<RemoteContext>,
    sampling: Sampling,
    /// In order of precedence.
    claims: Vec<Claim>,
    refused: Vec<Format>,
    sky_walking: Option<SkyWalkingSpan>,
    request_ids: Vec<RequestId>,
    baggage: Vec<(&'static str, String)>,
}

impl Carried {
    /// Chooses between what the formats say. `None` when nothing of it is configured.
    pub fn choose(self, propagators: &Propagators, key: &RequestIdKey) -> Option<RequestContext> {
        let Self { mut claims, trace_state, mut refused, sky_walking, request_ids, baggage } = self;
        claims.retain(|claim| propagators.rank(claim.format).is_some());
        claims.sort_by_key(|claim| propagators.rank(claim.format));
        let remote = remote(&claims, trace_state);
        let sampling = sampling(&claims, remote.as_ref());
        refused.retain(|format| propagators.rank(*format).is_some());
        let sky_walking = sky_walking.filter(|_| propagators.rank(Format::Sw8).is_some());
        let request_ids = request_id::hash(request_ids, key);
        let baggage = baggage::choose(&baggage, propagators.baggage_keys());
        let empty = claims.is_empty() && refused.is_empty() && request_ids.is_empty() && baggage.is_empty();
        (!empty).then_some(RequestContext {
            remote,
            sampling,
            claims,
            refused,
            sky_walking,
            request_ids,
            baggage,
        })
    }
}

fn remote(claims: &[Claim], trace_state: Option<String>) -> Option<RemoteContext> {
    let (first, trace_id) = claims.iter().find_map(|claim| Some((claim, claim.trace_id?)))?;
    let mut same = claims.iter().filter(|claim| claim.trace_id.is_some_and(|id| same_trace(id, trace_id)));
    let whole = same.clone().filter_map(|claim| claim.trace_id).find(|id| !is_short(*id));
    let has_state = same.any(|claim| claim.format == Format::TraceContext);
    Some(RemoteContext {
        format: first.format,
        trace_id: if is_short(trace_id) { whole.unwrap_or(trace_id) } else { trace_id },
        span_id: first.span_id,
        trace_state: trace_state.filter(|_| has_state),
    })
}

fn sampling(claims: &[Claim], remote: Option<&RemoteContext>) -> Sampling {
    let decided = claims.iter().find(|claim| {
        let concerned = match (claim.trace_id, remote) {
            (None, _) => true,
            (Some(id), Some(remote)) => same_trace(id, remote.trace_id),
            (Some(_), None) => false,
        };
        concerned && claim.sampling.is_known()
    });
    decided.map_or(Sampling::Unknown, |claim| claim.sampling)
}

impl RequestContext {
    /// The caller's span, or at least its trace, if a format named one.
    pub fn remote(&self) -> Option<&RemoteContext> {
        self.remote.as_ref()
    }

    /// The caller's decision, also where no trace is named.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// What every configured format says, in order of precedence.
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// Configured formats that are present and not valid.
    pub fn refused(&self) -> &[Format] {
        &self.refused
    }

    /// Spans that the headers name, each once: with several formats, there may be several.
    pub fn span_ids(&self) -> impl Iterator<Item = SpanId> {
        let claims = &self.claims;
        claims.iter().enumerate().filter_map(|(n, claim)| {
            let id = claim.span_id?;
            (!claims[..n].iter().any(|earlier| earlier.span_id == Some(id))).then_some(id)
        })
    }

    /// What was not followed, because a format of higher precedence says otherwise.
    pub fn conflicts(&self) -> impl Iterator<Item = &Claim> {
        let decided = self.remote.as_ref().map(|remote| Claim {
            format: remote.format,
            trace_id: Some(remote.trace_id),
            span_id: remote.span_id,
            sampling: self.sampling,
        });
        let decided =
            decided.or_else(|| self.claims.first().map(|claim| Claim { sampling: self.sampling, ..*claim }));
        self.claims.iter().filter(move |claim| decided.is_some_and(|decided| !decided.agrees(claim)))
    }

    /// Some format names the same trace in both.
    pub fn shares_trace(&self, other: &Self) -> bool {
        self.trace_ids().any(|id| other.trace_ids().any(|other| same_trace(id, other)))
    }

    pub(crate) fn trace_ids(&self) -> impl Iterator<Item = TraceId> {
        self.claims.iter().filter_map(|claim| claim.trace_id)
    }

    /// SkyWalking's name of the caller, whose ids are of no use elsewhere.
    pub fn sky_walking(&self) -> Option<&SkyWalkingSpan> {
        self.sky_walking.as_ref()
    }

    /// What the request is called by in logs: no trace and no parent, but what is done for it may carry it on.
    pub fn request_ids(&self) -> &[RequestId] {
        &self.request_ids
    }

    /// Attributes of the baggage that was asked for: `baggage.<key>` and the decoded value.
    pub fn baggage(&self) -> &[(&'static str, String)] {
        &self.baggage
    }

    /// What its strings hold, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        let state = self.remote.as_ref().and_then(|remote| remote.trace_state.as_ref());
        let sky_walking = self.sky_walking.iter().flat_map(|span| [&span.trace_id, &span.segment_id]);
        let baggage = self.baggage.iter().map(|(_, value)| value);
        state.into_iter().chain(sky_walking).chain(baggage).map(String::len).sum()
    }
}

#[cfg(test)]
mod tests;
