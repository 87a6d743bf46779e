//! Protocol parsers: bytes of one direction become message parts.
//!
//! A parser is a total state machine: any bytes, in any pieces, with any holes, and never a panic. It holds no byte
//! of a body, knows no time and no socket, and pairs nothing: the connection does.

pub mod detect;
pub mod fastcgi;
pub mod grpc;
pub mod http1;
pub mod http2;

use crate::exchange::{BodyLen, RequestHead, ResponseHead, Trailer};
use crate::stream::Edge;

/// One direction of one connection, as a protocol reads it.
pub trait Parser {
    /// What messages consist of.
    type Part;

    /// Reads `input`, the next bytes of the stream; `edge` tells how they lie in their operation. May consume less
    /// than all of it, then it is to be called again with the rest.
    fn bytes(&mut self, input: &[u8], edge: Edge) -> Step<Self::Part>;

    /// Passes over `len` bytes that are not there. `edge` as above.
    fn hole(&mut self, len: u64, edge: Edge) -> Step<Self::Part>;
}

/// What a protocol consists of whose messages are told apart by the number of their stream, in both directions. A
/// number may be used again when its exchange has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamPart {
    /// A request begins with the record, or frame, whose first bytes were consumed.
    Opened {
        stream: u64,
    },
    /// Its head is complete.
    Request {
        stream: u64,
        head: Box<RequestHead>,
        /// Some of it is missing.
        torn: bool,
        malformed: bool,
    },
    RequestEnd {
        stream: u64,
        body_len: BodyLen,
    },
    /// The response begins with the record whose first bytes were consumed.
    Answered {
        stream: u64,
    },
    Response {
        stream: u64,
        head: ResponseHead,
    },
    /// The exchange is over.
    End {
        stream: u64,
        body_len: BodyLen,
        trailer: Option<Trailer>,
    },
}

/// Outcome of one step of a parser.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<P> {
    /// How many bytes of the input (or of the hole) this outcome accounts for. The caller moves on by so many.
    pub consumed: u64,
    pub parsed: Parsed<P>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<P> {
    /// The last of the consumed bytes completed this part.
    Part(P),
    /// The consumed bytes are remembered as far as they matter; nothing is complete. Go on with what follows them.
    NeedMore,
    /// Hole only, nothing is consumed: it swallows what only bytes could tell, so the parser does not know what
    /// follows. The caller says how to go on: adrift, from the next message, or not at all.
    Torn,
    /// The consumed bytes cannot be this protocol here. What follows them is opaque, unless the variant says more.
    Invalid(Invalid),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// Not a start-line where a message must start, or not a frame where one must.
    StartLine,
    /// The head exceeds the limit. Nothing is consumed; the parser waits to be told how to go on, as after
    /// [`Parsed::Torn`].
    HeadTooLong,
    /// The body's framing cannot be read. The parser goes on as if the body lasted until the close.
    Body,
}
