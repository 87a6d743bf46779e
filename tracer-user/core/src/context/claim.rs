//! What one format says about a request, and when two formats say the same.

use std::fmt;

use crate::span::{SpanId, TraceId};

/// A header format. The order here is the default precedence; see [`super::Propagators`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// W3C `traceparent`.
    TraceContext,
    /// OpenCensus's `grpc-trace-bin`.
    OpenCensus,
    /// Zipkin's B3 in one header.
    B3,
    /// Zipkin's B3 in several headers.
    B3Multi,
    /// Jaeger's `uber-trace-id`.
    Jaeger,
    /// Datadog's `x-datadog-…`.
    Datadog,
    /// Elastic's `elastic-apm-traceparent`.
    Elastic,
    /// OpenTracing's `ot-tracer-…`.
    OtTrace,
    /// SkyWalking's `sw8`.
    Sw8,
    /// Google Cloud's `X-Cloud-Trace-Context`.
    Gcp,
    /// AWS X-Ray's `X-Amzn-Trace-Id`.
    XRay,
}

impl Format {
    pub const ALL: &[Self] = &[
        Self::TraceContext,
        Self::OpenCensus,
        Self::B3,
        Self::B3Multi,
        Self::Jaeger,
        Self::Datadog,
        Self::Elastic,
        Self::OtTrace,
        Self::Sw8,
        Self::Gcp,
        Self::XRay,
    ];

    /// Value of `tracer.context.format`: the name by which `OTEL_PROPAGATORS` knows the format, where it does.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TraceContext => "tracecontext",
            Self::OpenCensus => "opencensus",
            Self::B3 => "b3",
            Self::B3Multi => "b3multi",
            Self::Jaeger => "jaeger",
            Self::Datadog => "datadog",
            Self::Elastic => "elastic",
            Self::OtTrace => "ottrace",
            Self::Sw8 => "sw8",
            Self::Gcp => "gcp",
            Self::XRay => "xray",
        }
    }
}

/// Whether the trace is to be recorded, as its caller decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sampling {
    /// Not said, or left to the callee.
    #[default]
    Unknown,
    No,
    Yes,
    /// Yes, whatever samplers further on say.
    Debug,
}

impl Sampling {
    /// Nothing speaks against recording.
    pub const fn is_recorded(self) -> bool {
        match self {
            Self::No => false,
            Self::Unknown | Self::Yes | Self::Debug => true,
        }
    }

    pub(super) const fn is_known(self) -> bool {
        !matches!(self, Self::Unknown)
    }

    pub(super) const fn from_flag(sampled: bool) -> Self {
        if sampled { Self::Yes } else { Self::No }
    }
}

/// What one format says. At least one of trace id and sampling decision is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub format: Format,
    /// Ids of 64 bits have zeros on the left.
    pub trace_id: Option<TraceId>,
    /// The caller's span. Only beside a trace id.
    pub span_id: Option<SpanId>,
    pub sampling: Sampling,
}

impl Claim {
    /// Both are about the same trace and name no two spans and no two decisions.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        let traces = both(self.trace_id, other.trace_id).is_none_or(|(a, b)| same_trace(a, b));
        let spans = both(self.span_id, other.span_id).is_none_or(|(a, b)| a == b);
        let decided = self.sampling.is_known() && other.sampling.is_known();
        traces && spans && (!decided || self.sampling.is_recorded() == other.sampling.is_recorded())
    }
}

/// `<trace id>-<span id>-<decision>`, as far as they are there; the decision is `?`, `0`, `1` or `d`.
impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(trace_id) = self.trace_id {
            write!(f, "{trace_id}-")?;
            if let Some(span_id) = self.span_id {
                write!(f, "{span_id}")?;
            }
            write!(f, "-")?;
        }
        f.write_str(match self.sampling {
            Sampling::Unknown => "?",
            Sampling::No => "0",
            Sampling::Yes => "1",
            Sampling::Debug => "d",
        })
    }
}

fn both<T>(a: Option<T>, b: Option<T>) -> Option<(T, T)> {
    a.zip(b)
}

/// Some formats have 64 bits only, and carry the low ones of a longer id.
pub(super) fn same_trace(a: TraceId, b: TraceId) -> bool {
    let low = |id: TraceId| u128::from_be_bytes(id.to_bytes()) as u64;
    a == b || (low(a) == low(b) && (is_short(a) || is_short(b)))
}

/// Has no more than 64 bits.
pub(super) fn is_short(id: TraceId) -> bool {
    u128::from_be_bytes(id.to_bytes()) >> 64 == 0
}
