//! Memory of grpc-go where a goroutine takes up a stream: which connection's, and which number it has.
//!
//! Its servers start a goroutine for each stream, or have some that take one after the other. Its clients' callers give a
//! stream its number themselves, and leave the frames to a goroutine of the connection's:
//!
//! ```text
//! Server.handleStream(Server, ServerTransport, ServerStream)     begins
//! http2Client.NewStream(…) ─→ ClientStream                       returns
//!
//! ServerStream, ClientStream ─→ (Stream ─→) id;  ─→ http2Server, http2Client ─→ net.Conn, as of `net/http`
//! ```
//!
//! As in [`crate::golang`], whatever is read may be anything, and what is not confirmed is not known. It knows no version:
//! where fields are that differ is a value.

use crate::config::GrpcFields;
use crate::golang_streams::{Stream, is_address, known};
use crate::python::Memory;

/// To the `net.Conn`, in all versions that are known.
const SERVER_CONNECTION: u64 = 16;
const CLIENT_CONNECTION: u64 = 128;

/// Of a stream and the connection's transport that it came from, by which each must name the other. What serves in
/// `net/http` is another transport, whose streams have no number.
#[inline(always)]
pub fn served<M: Memory>(memory: &M, fields: GrpcFields, transport: u64, stream: u64) -> Option<Stream> {
    let (id, own) = of(memory, fields, stream)?;
    if own != transport {
        return None;
    }
    known(id, transport.wrapping_add(SERVER_CONNECTION))
}

/// Of a stream that has its number.
#[inline(always)]
pub fn called<M: Memory>(memory: &M, fields: GrpcFields, stream: u64) -> Option<Stream> {
    let (id, transport) = of(memory, fields, stream)?;
    known(id, transport.wrapping_add(CLIENT_CONNECTION))
}

/// A stream's number and its transport.
#[inline(always)]
fn of<M: Memory>(memory: &M, fields: GrpcFields, stream: u64) -> Option<(u32, u64)> {
    if !is_address(stream) {
        return None;
    }
    let common = if fields.is_apart { memory.word(stream) } else { stream };
    let transport = memory.word(stream.wrapping_add(fields.transport.into()));
    if !is_address(common) || !is_address(transport) {
        return None;
    }
    Some((memory.half(common.wrapping_add(fields.number.into())), transport))
}
