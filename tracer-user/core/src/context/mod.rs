//! Trace context that came with a request: one file per header format.
//!
//! Deliberately strict: what a format's grammar does not allow is absent, never repaired, because a wrong trace id
//! joins strangers. It does not decide whether the context is believed; the correlation does.
//!
//! A protocol parser hands the fields of a head to [`Fields`], in message order, and reads them once: the result says
//! what each format says. [`Carried::choose`] makes one context of that, by the precedence written in [`carried`].

mod b3;
mod baggage;
mod base64;
pub mod carried;
mod claim;
mod datadog;
mod digits;
mod elastic;
mod fields;
mod gcp;
mod grpc;
mod jaeger;
mod ottrace;
mod propagators;
mod request_id;
mod sw8;
mod w3c;
mod xray;

pub use self::carried::{Carried, RemoteContext, RequestContext};
pub use self::claim::{Claim, Format, Sampling};
pub use self::fields::Fields;
pub use self::propagators::{Propagators, PropagatorsError};
pub use self::request_id::{RequestId, RequestIdKey};
pub use self::sw8::SkyWalkingSpan;

use self::fields::Refused;

/// What one format found in the fields: nothing of its own, or what it says.
type Extracted = Result<Option<Claim>, Refused>;

type Extractor = fn(&Fields<'_>) -> Extracted;

/// In no order.
const EXTRACTORS: &[(Format, Extractor)] = &[
    (Format::TraceContext, w3c::extract),
    (Format::OpenCensus, grpc::extract),
    (Format::B3, b3::extract_single),
    (Format::B3Multi, b3::extract_multi),
    (Format::Jaeger, jaeger::extract),
    (Format::Datadog, datadog::extract),
    (Format::Elastic, elastic::extract),
    (Format::OtTrace, ottrace::extract),
    (Format::Sw8, |fields| Ok(sw8::extract(fields)?.map(|(claim, _)| claim))),
    (Format::Gcp, gcp::extract),
    (Format::XRay, xray::extract),
];

impl Fields<'_> {
    /// What all formats say. `None` when no field matters.
    pub fn read(&self) -> Option<Box<Carried>> {
        if self.is_empty() {
            return None;
        }
        let mut carried = Box::<Carried>::default();
        for (format, extract) in EXTRACTORS {
            match extract(self) {
                Ok(None) => {}
                Ok(Some(claim)) if !self.too_many() => carried.claims.push(claim),
                Ok(Some(_)) | Err(Refused) => carried.refused.push(*format),
            }
        }
        if carried.claims.iter().any(|claim| claim.format == Format::TraceContext) {
            carried.trace_state = w3c::trace_state(self);
        }
        if carried.claims.iter().any(|claim| claim.format == Format::Sw8) {
            carried.sky_walking = sw8::extract(self).ok().flatten().map(|(_, span)| span);
        }
        carried.request_ids = request_id::extract(self);
        carried.baggage = baggage::extract(self);
        Some(carried)
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod testing {
    //! Headers in, as text; what is made of them out.

    use super::*;

    pub(super) fn carried(headers: &[(&str, &str)]) -> Carried {
        let mut fields = Fields::default();
        for (name, value) in headers {
            fields.take(name.as_bytes(), value.as_bytes());
        }
        fields.read().map_or_else(Carried::default, |carried| *carried)
    }

    /// `<trace id>-<span id>-<decision>`, `refused`, or nothing; of the only format there is.
    pub(super) fn said(headers: &[(&str, &str)]) -> String {
        let Carried { claims, refused, .. } = carried(headers);
        match (claims.as_slice(), refused.as_slice()) {
            ([], []) => String::new(),
            ([], [_]) => "refused".to_owned(),
            ([claim], []) => claim.to_string(),
            other => format!("{other:?}"),
        }
    }
}
