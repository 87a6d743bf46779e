//! Which header fields matter here, and those of one request.
//!
//! Every field of every request is looked at, so a name is told by its length and first letter before it is compared;
//! nothing is allocated before one matches. Values are borrowed and not looked at here.

/// A header that is present but not what its format's grammar allows, or is there more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// Fields kept of one request: far more than all formats together have. A request with more is believed in nothing,
/// because what is left out could contradict what is kept.
const MAX_FIELDS: usize = 64;

macro_rules! headers {
    ($($header:ident $name:literal,)+) => {
        /// A header field that some format reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Header { $($header,)+ }

        impl Header {
            /// In lower case.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$header => $name,)+ }
            }

            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$header,)+];
        }
    };
}

headers! {
    Traceparent "traceparent",
    Tracestate "tracestate",
    B3 "b3",
    B3TraceId "x-b3-traceid",
    B3SpanId "x-b3-spanid",
    B3ParentSpanId "x-b3-parentspanid",
    B3Sampled "x-b3-sampled",
    B3Flags "x-b3-flags",
    UberTraceId "uber-trace-id",
    DatadogTraceId "x-datadog-trace-id",
    DatadogParentId "x-datadog-parent-id",
    DatadogSamplingPriority "x-datadog-sampling-priority",
    DatadogTags "x-datadog-tags",
    ElasticTraceparent "elastic-apm-traceparent",
    OtTraceId "ot-tracer-traceid",
    OtSpanId "ot-tracer-spanid",
    OtSampled "ot-tracer-sampled",
    CloudTraceContext "x-cloud-trace-context",
    AmznTraceId "x-amzn-trace-id",
    GrpcTraceBin "grpc-trace-bin",
    Sw8 "sw8",
    Baggage "baggage",
    XRequestId "x-request-id",
    RequestId "request-id",
    XCorrelationId "x-correlation-id",
    CorrelationId "correlation-id",
    XAmznRequestId "x-amzn-requestid",
    XTraceId "x-trace-id",
}

impl Header {
    /// Case does not matter.
    fn of(name: &[u8]) -> Option<Self> {
        // The bit that tells the cases of letters apart; what it makes of other bytes is compared below.
        let first = *name.first()? | 0x20;
        let candidates: &[Self] = match (name.len(), first) {
            (2, b'b') => &[Self::B3],
            (3, b's') => &[Self::Sw8],
            (7, b'b') => &[Self::Baggage],
            (10, b'r') => &[Self::RequestId],
            (10, b't') => &[Self::Tracestate],
            (10, b'x') => &[Self::B3Flags, Self::XTraceId],
            (11, b't') => &[Self::Traceparent],
            (11, b'x') => &[Self::B3SpanId],
            (12, b'x') => &[Self::B3TraceId, Self::B3Sampled, Self::XRequestId],
            (13, b'u') => &[Self::UberTraceId],
            (14, b'c') => &[Self::CorrelationId],
            (14, b'g') => &[Self::GrpcTraceBin],
            (14, b'x') => &[Self::DatadogTags],
            (15, b'x') => &[Self::AmznTraceId],
            (16, b'o') => &[Self::OtSpanId],
            (16, b'x') => &[Self::XCorrelationId, Self::XAmznRequestId],
            (17, b'o') => &[Self::OtTraceId, Self::OtSampled],
            (17, b'x') => &[Self::B3ParentSpanId],
            (18, b'x') => &[Self::DatadogTraceId],
            (19, b'x') => &[Self::DatadogParentId],
            (21, b'x') => &[Self::CloudTraceContext],
            (23, b'e') => &[Self::ElasticTraceparent],
            (27, b'x') => &[Self::DatadogSamplingPriority],
            _ => return None,
        };
        candidates.iter().copied().find(|header| name.eq_ignore_ascii_case(header.name().as_bytes()))
    }
}

/// The fields of one request that matter, in message order.
#[derive(Debug, Default)]
pub struct Fields<'h> {
    list: Vec<(Header, &'h [u8])>,
    /// One bit for each kind in `list`.
    present: u64,
    too_many: bool,
}

impl Fields<'_> {
    /// How many fields of one request are believed.
    pub(crate) const MAX: usize = MAX_FIELDS;

    /// Whether a field of this name would be taken.
    pub(crate) fn matters(name: &[u8]) -> bool {
        Header::of(name).is_some()
    }
}

impl<'h> Fields<'h> {
    /// Takes a field if it matters, by its name and raw value; whether it does. White space around the value is
    /// allowed, and the line ends that obsolete line folding leaves there.
    pub fn take(&mut self, name: &[u8], value: &'h [u8]) -> bool {
        let Some(header) = Header::of(name) else { return false };
        if self.list.len() < MAX_FIELDS {
            self.present |= 1 << header as u32;
            self.list.push((header, trim(value)));
        } else {
            self.too_many = true;
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn too_many(&self) -> bool {
        self.too_many
    }

    pub(super) fn has(&self, header: Header) -> bool {
        self.present >> header as u32 & 1 != 0
    }

    /// Every value of this header, without the white space around it.
    pub(super) fn all(&self, header: Header) -> impl Iterator<Item = &'h [u8]> + Clone {
        let list = if self.has(header) { self.list.as_slice() } else { &[] };
        list.iter().filter(move |(found, _)| *found == header).map(|(_, value)| *value)
    }

    /// The value of a header that may be there once. With two of them, two callers claim the request, and neither is
    /// believed.
    pub(super) fn one(&self, header: Header) -> Result<Option<&'h [u8]>, Refused> {
        let mut values = self.all(header);
        let value = values.next();
        if values.next().is_some() { Err(Refused) } else { Ok(value) }
    }
}

/// Strips optional white space (RFC 9110 section 5.6.3), and the line ends that obsolete line folding leaves.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] | [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_is_told_in_any_case() {
        for header in Header::ALL {
            let name = header.name();
            assert_eq!(Header::of(name.as_bytes()), Some(*header), "{name}");
            assert_eq!(Header::of(name.to_ascii_uppercase().as_bytes()), Some(*header), "{name}");
            assert!((*header as u32) < u64::BITS);
            for at in 0..name.len() {
                let mut other = name.as_bytes().to_vec();
                other[at] ^= 0x40;
                assert_eq!(Header::of(&other), None, "{name} at {at}");
                assert_eq!(Header::of(&name.as_bytes()[..at]).filter(|found| found == header), None);
            }
        }
        assert_eq!(Header::of(b""), None);
    }

    #[test]
    fn what_does_not_matter_costs_no_memory() {
        let mut fields = Fields::default();
        for name in
            ["host", "user-agent", "connection", "x-forwarded-for", "content-type", "cookie", "accept"]
        {
            assert!(!fields.take(name.as_bytes(), b"x"));
        }
        assert!(fields.is_empty());
        assert_eq!(fields.list.capacity(), 0);
    }

    #[test]
    fn fields_beyond_the_bound_are_noticed_and_not_kept() {
        let mut fields = Fields::default();
        for n in 0..=MAX_FIELDS {
            assert!(!fields.too_many(), "{n}");
            assert!(fields.take(b"tracestate", b"a=1"));
        }
        assert!(fields.too_many());
        assert_eq!(fields.list.len(), MAX_FIELDS);
    }
}
