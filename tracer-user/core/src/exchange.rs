//! What protocol parsers tell the correlation: how each exchange (a request and its response) proceeds.
//!
//! Protocol-neutral: HTTP/1 numbers the exchanges of a connection in order, a multiplexed protocol by stream.

use std::time::Duration;

use smol_str::SmolStr;
use tracer_abi::conn::{Role, SocketCookie};
use tracer_abi::time::KernelInstant;

use crate::context::Carried;
use crate::event::Thread;

/// One exchange on one socket. The two ends of a connection have a cookie each, so an exchange between two traced
/// processes has two ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId {
    pub cookie: SocketCookie,
    /// Order of the request on the connection, from 0. Numbers of streams may be used again, these are not.
    pub index: u64,
}

/// A byte of a stream: where it is, and the operation that moved it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Stream position of the byte.
    pub offset: u64,
    /// TCP sequence number of the byte; `None` on other sockets.
    pub tcp_seq: Option<u32>,
    /// End of the operation that moved it.
    pub time: KernelInstant,
    pub thread: Thread,
    /// See `DataMoved::blocking`.
    pub blocking: Option<bool>,
    pub nvcsw: u64,
    pub user_r14: u64,
}

/// Progress of one exchange, in this order; every exchange that was begun ends exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExchangeUpdate {
    /// The request's head is complete.
    RequestBegan {
        id: ExchangeId,
        /// Server: the request came in. Client: it went out. Never `Unknown`.
        role: Role,
        request: Box<RequestHead>,
        /// The request's first byte.
        first: Mark,
        /// The last byte of its head; where that was not captured whole, the last byte that was.
        head_last: Mark,
        /// HTTP/2: its number on the connection.
        stream: Option<u32>,
    },
    /// All of the request has been seen. May come after the response began.
    RequestEnded { id: ExchangeId, last: Mark, body_len: BodyLen },
    /// A final (not 1xx) response's head is complete.
    ResponseBegan { id: ExchangeId, response: ResponseHead, first: Mark },
    /// Nothing more will be said about this exchange.
    Ended {
        id: ExchangeId,
        /// The last byte that belongs to the exchange, where one was seen after the request began.
        last: Option<Mark>,
        /// When it ended: the last byte's time, or the close's.
        time: KernelInstant,
        outcome: Outcome,
        response_body_len: Option<BodyLen>,
        trailer: Option<Trailer>,
        incomplete: Option<Incomplete>,
    },
}

impl ExchangeUpdate {
    pub fn id(&self) -> ExchangeId {
        match self {
            Self::RequestBegan { id, .. }
            | Self::RequestEnded { id, .. }
            | Self::ResponseBegan { id, .. }
            | Self::Ended { id, .. } => *id,
        }
    }
}

/// What a protocol says of an exchange at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailer {
    /// FastCGI specification 1.0, section 5.5.
    FastCgi { app_status: u32, protocol_status: u8 },
    /// Of an HTTP/2 stream, or of a grpc-web call in HTTP/1.
    Stream(StreamEnd),
}

/// What is known of a stream, or of a grpc-web call, when it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// As the response's trailers say it, of grpc-web those in its body, or its head where that is all of it.
    pub grpc_status: Option<u32>,
    /// When the first frame of the response's body was moved.
    pub first_data: Option<KernelInstant>,
    /// Messages of a gRPC body, where the length of each was seen.
    pub request_messages: Option<u64>,
    pub response_messages: Option<u64>,
}

/// How requests and responses are put into bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http1,
    FastCgi,
    Http2,
}

impl Protocol {
    /// Any number of exchanges share a connection, which one thread may read and write for all that work on them.
    pub const fn is_multiplexed(self) -> bool {
        match self {
            Self::Http1 | Self::FastCgi => false,
            Self::Http2 => true,
        }
    }

    /// Exchanges of one connection need not end in the order in which they began.
    pub const fn has_streams(self) -> bool {
        match self {
            Self::Http1 => false,
            Self::FastCgi | Self::Http2 => true,
        }
    }
}

/// Bytes of a body as transferred, without framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLen {
    Exact(u64),
    /// Framing was partly elided or lost: not known.
    Unknown,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response's last byte was seen.
    Complete,
    /// The connection left the protocol at this response (101, CONNECT): what follows is opaque.
    Upgraded,
    /// Closed before any response byte.
    NoResponse,
    /// Closed, or reset, inside the response.
    ResponseCut,
    /// One side gave the stream up before the response was complete: with this code (RFC 9113 section 7), where it was
    /// seen.
    Reset(Option<u32>),
    /// The server announced that it goes away and did not work on it (RFC 9113 section 6.8).
    Dropped,
    /// Bytes that would tell were lost.
    Lost,
    /// Still open when the tracer stopped looking.
    StillOpen,
}

/// Why a span is marked `tracer.incomplete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Incomplete {
    /// Events were lost between kernel and tracer.
    EventsLost,
    /// The kernel could not read the program's buffer.
    PayloadUnreadable,
    /// The connection was older than the tracer.
    StartedBeforeTracer,
    /// The tracer stopped while it was open.
    StillOpen,
    /// A bound of the tracer was reached.
    LimitReached,
    /// The bytes are not valid in the protocol.
    Malformed,
}

impl Incomplete {
    /// Value of the attribute.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EventsLost => "events_lost",
            Self::PayloadUnreadable => "payload_unreadable",
            Self::StartedBeforeTracer => "started_before_tracer",
            Self::StillOpen => "still_open",
            Self::LimitReached => "limit_reached",
            Self::Malformed => "malformed",
        }
    }
}

/// What is kept of a request: the facts spans need, nothing else of its headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    pub protocol: Protocol,
    /// The protocol's: "1.1" or "1.0" of HTTP.
    pub version: &'static str,
    /// It was made over TLS, says who passed it on.
    pub secure: bool,
    /// As sent; any token. `None`: not known, because the connection is older than the tracer or something was lost.
    pub method: Option<SmolStr>,
    /// Request target as sent, non-UTF-8 bytes escaped; never empty. `None` as above.
    pub target: Option<SmolStr>,
    pub host: Option<SmolStr>,
    pub user_agent: Option<SmolStr>,
    pub content_length: Option<u64>,
    /// It is a gRPC call, says its content type.
    pub grpc: Option<GrpcCall>,
    /// What its headers say about where it comes from.
    pub context: Option<Box<Carried>>,
}

/// What a gRPC call's head says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcCall {
    /// How long its caller waits for the answer.
    pub timeout: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead {
    pub version: &'static str,
    /// `None`: not known, as of a request's method.
    pub status: Option<u16>,
    pub content_length: Option<u64>,
    /// It answers a gRPC call, says its content type.
    pub grpc: bool,
}
