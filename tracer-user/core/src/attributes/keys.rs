//! Attribute keys of this tracer's own: what the semantic conventions have no name for.

/// How the parent was found; values: [`crate::span::Evidence::as_str`].
pub const PARENT_EVIDENCE: &str = "tracer.parent.evidence";

/// How sure the parent is; values: [`crate::span::Confidence::as_str`].
pub const PARENT_CONFIDENCE: &str = "tracer.parent.confidence";

/// Why no parent is claimed, where one was looked for.
pub const PARENT_UNDECIDED: &str = "tracer.parent.undecided";

/// On a link of an undecided span: what names the linked span as its possible cause; values:
/// [`crate::span::Evidence::as_str`].
pub const CANDIDATE_EVIDENCE: &str = "tracer.candidate.evidence";

/// As above: why it is not claimed as the parent; values as of [`PARENT_UNDECIDED`].
pub const CANDIDATE_UNDECIDED: &str = "tracer.candidate.undecided";

/// Why the span is not whole; values: [`crate::exchange::Incomplete::as_str`].
pub const INCOMPLETE: &str = "tracer.incomplete";

/// From the request's first byte to the response's first byte, in nanoseconds.
pub const TIME_TO_FIRST_BYTE: &str = "tracer.time_to_first_byte_ns";

/// True when the start is the end of a long send and may be late.
pub const START_LATE: &str = "tracer.start_late";

/// Which header format named the caller; values: [`crate::context::Format::as_str`].
pub const CONTEXT_FORMAT: &str = "tracer.context.format";

/// What other header formats say and was not followed: `format=trace id-span id-sampling`.
pub const CONTEXT_CONFLICTS: &str = "tracer.context.conflicts";

/// Header formats that are present but not valid, so that nothing of them was believed.
pub const CONTEXT_REFUSED: &str = "tracer.context.refused";

/// The exit status that a FastCGI application gave a request.
pub const FASTCGI_APP_STATUS: &str = "tracer.fastcgi.app_status";

/// How a FastCGI application ended a request, where it did not complete it.
pub const FASTCGI_PROTOCOL_STATUS: &str = "tracer.fastcgi.protocol_status";

/// How long a gRPC call's caller waits for the answer, in nanoseconds.
pub const GRPC_TIMEOUT: &str = "tracer.grpc.timeout_ns";

/// Messages that a gRPC call's client sent, where the length of each was seen.
pub const GRPC_REQUEST_MESSAGES: &str = "tracer.grpc.request_messages";
/// As above: that its server sent.
pub const GRPC_RESPONSE_MESSAGES: &str = "tracer.grpc.response_messages";

/// From the request's first byte to the first bytes of the response's body, in nanoseconds.
pub const TIME_TO_FIRST_DATA: &str = "tracer.time_to_first_data_ns";

/// SkyWalking's own ids of the caller, which map to no ids of a span.
pub const SW8_TRACE_ID: &str = "tracer.context.sw8.trace_id";
/// As above: the segment.
pub const SW8_SEGMENT_ID: &str = "tracer.context.sw8.segment_id";
/// As above: the number of the span in its segment.
pub const SW8_SPAN_ID: &str = "tracer.context.sw8.span_id";
