//! What is kept of header blocks.

use smol_str::SmolStr;

use crate::exchange::{Protocol, RequestHead, ResponseHead};
use crate::protocol::http2::head::Head;

const VERSION: &str = "2";

pub(super) fn request_head(head: &Head) -> RequestHead {
    RequestHead {
        protocol: Protocol::Http2,
        version: VERSION,
        secure: head.scheme.as_deref() == Some("https"),
        method: head.method.clone().filter(|method| !method.is_empty()),
        target: head.path.clone().or_else(|| connect_target(head)).filter(|target| !target.is_empty()),
        host: head.authority.clone().or_else(|| head.host.clone()),
        user_agent: head.user_agent.clone(),
        content_length: head.content_length,
        grpc: head.grpc().map(|_| head.grpc_call()),
        context: head.context.clone(),
    }
}

/// RFC 9113 section 8.5: CONNECT has no path.
fn connect_target(head: &Head) -> Option<SmolStr> {
    head.authority.clone().filter(|_| head.method.as_deref() == Some("CONNECT"))
}

pub(super) fn response_head(head: &Head) -> ResponseHead {
    ResponseHead {
        version: VERSION,
        status: head.status,
        content_length: head.content_length,
        grpc: head.grpc().is_some(),
    }
}

/// One of which it is known that it came, and nothing else.
pub(super) fn unknown_response(grpc: bool) -> ResponseHead {
    ResponseHead { version: VERSION, grpc, ..ResponseHead::default() }
}
