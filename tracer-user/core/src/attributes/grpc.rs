//! A gRPC call to a span's name, status and attributes.
//!
//! Source: semantic conventions for gRPC spans, in the version of [`super::SCHEMA_URL`]. What a call is told by its content
//! type, and how it ended by its trailers; messages are not looked at.

use std::borrow::Cow;

use opentelemetry_semantic_conventions::attribute as semconv;
use smol_str::{SmolStr, ToSmolStr as _};
use tracer_abi::conn::Role;

use super::http::{Described, Out};
use super::keys;
use super::text::clean;
use crate::exchange::{StreamEnd, Trailer};

const SYSTEM: &str = "grpc";

/// By number, as gRPC names them.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Those that are a server's fault: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const SERVER_ERRORS: [u32; 6] = [2, 4, 12, 13, 14, 15];

/// The server has no such method.
const UNIMPLEMENTED: u32 = 12;

fn ended(facts: &Described<'_>) -> StreamEnd {
    match facts.trailer {
        Some(Trailer::Stream(end)) => end,
        Some(Trailer::FastCgi { .. }) | None => StreamEnd::default(),
    }
}

/// Whether the exchange is a call.
pub(super) fn is_call(facts: &Described<'_>) -> bool {
    facts.request.grpc.is_some()
        || facts.response.is_some_and(|response| response.grpc)
        || ended(facts).grpc_status.is_some()
}

/// `rpc.*`, and the span's name.
pub(super) fn describe(facts: &Described<'_>, out: &mut Out) -> Cow<'static, str> {
    let end = ended(facts);
    out.word(semconv::RPC_SYSTEM_NAME, SYSTEM);
    let path = facts.request.target.as_deref().map(|target| target.split('?').next().unwrap_or(target));
    let method = path.map(|path| clean(path.strip_prefix('/').unwrap_or(path)));
    let name = match method {
        // Whether it exists is known of who serves it: no status but this one says that it does not.
        Some(method) if end.grpc_status == Some(UNIMPLEMENTED) => {
            out.word(semconv::RPC_METHOD, "_OTHER");
            out.clean(semconv::RPC_METHOD_ORIGINAL, method);
            Cow::Borrowed(SYSTEM)
        }
        Some(method) => {
            let name = Cow::Owned(method.to_string());
            out.clean(semconv::RPC_METHOD, method);
            name
        }
        None => Cow::Borrowed(SYSTEM),
    };
    if let Some(status) = end.grpc_status {
        out.clean(semconv::RPC_RESPONSE_STATUS_CODE, code(status));
    }
    if let Some(timeout) = facts.request.grpc.and_then(|call| call.timeout) {
        out.int(keys::GRPC_TIMEOUT, u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
    }
    if let Some(messages) = end.request_messages {
        out.int(keys::GRPC_REQUEST_MESSAGES, messages);
    }
    if let Some(messages) = end.response_messages {
        out.int(keys::GRPC_RESPONSE_MESSAGES, messages);
    }
    name
}

/// Value of `error.type`, if the call's status is an error at this end of it.
pub(super) fn error(facts: &Described<'_>) -> Option<SmolStr> {
    let status = ended(facts).grpc_status?;
    let failed = match facts.role {
        Role::Client => status != 0,
        Role::Server | Role::Unknown => SERVER_ERRORS.contains(&status),
    };
    failed.then(|| code(status))
}

fn code(status: u32) -> SmolStr {
    let name = usize::try_from(status).ok().and_then(|status| CODES.get(status));
    name.map_or_else(|| status.to_smolstr(), |name| SmolStr::new_static(name))
}
