//! nginx: for which request a connection to an upstream is used.
//!
//! A worker gives epoll, for each socket, the address of its `ngx_connection_t`. While a request goes upstream, that
//! connection is the request's, and the request knows the connection that it came on:
//!
//! ```text
//! what epoll was given ─→ ngx_connection_t ─→ ngx_http_request_t ─→ ngx_connection_t ─→ descriptor
//! ```
//!
//! Subrequests (`auth_request`, `mirror`) have the connection of the request that they are for. A stream of HTTP/2 has one of
//! its own, with the descriptor of the client's; its number is where the request has its stream:
//!
//! ```text
//! ngx_http_request_t ─→ ngx_http_v2_stream_t ─→ ngx_http_v2_node_t ─→ number
//!                                             ╲→ ngx_http_v2_connection_t ─→ ngx_connection_t of the client's socket
//! ```
//!
//! All of these fields are the first ones of their structures (`src/core/ngx_connection.h`, `src/http/ngx_http_request.h`,
//! `src/http/v2/ngx_http_v2.h`), before all that depends on how nginx was built, but for where a request has its stream,
//! which is looked for once. What is read may still be anything, and is compared with what it must be.

use crate::python::Memory;

/// What of an event's data is no part of the address: `ngx_event_t::instance`.
const INSTANCE: u64 = 1;

// Of `ngx_connection_t`.
const CONNECTION_DATA: u64 = 0;
const CONNECTION_DESCRIPTOR: u64 = 24;

// Of `ngx_http_request_t`.
const REQUEST_MARK: u64 = 0;
const REQUEST_CONNECTION: u64 = 8;
/// `NGX_HTTP_MODULE`
const MARK: u32 = u32::from_le_bytes(*b"HTTP");

// Of `ngx_http_v2_stream_t`, `ngx_http_v2_connection_t` and `ngx_http_v2_node_t`.
const STREAM_REQUEST: u64 = 0;
const STREAM_CONNECTION: u64 = 8;
const STREAM_NODE: u64 = 16;
const SHARED_CONNECTION: u64 = 0;
const NODE_NUMBER: u64 = 0;

/// Blocks of words in which a request's stream is looked for: it has some 1.3 KiB.
pub const BLOCKS: u32 = 32;

/// In a block.
const WORDS: usize = 8;

/// How often a process's requests are looked through at most, and of how many looks one does so: most servers have no clients
/// that speak HTTP/2 to them.
pub const MAX_SCANS: u64 = 64;
pub const SCAN_INTERVAL: u64 = 16;

/// A process of nginx, the value of the kernel half's table of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NginxProcess {
    /// As in [`crate::python::PythonProcess`].
    pub start_boottime: u64,
    /// Where a request has its stream, in bytes; zero while that is not known. Found by the kernel half.
    pub stream: u64,
    /// How often it was looked for.
    pub scans: u64,
    /// What the kernel half spent on this process, and how often it looked.
    pub spent_nanos: u64,
    pub looks: u64,
}

/// Who a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Of the request that an upstream is asked for, or of its subrequest.
    pub request: u64,
    /// Of the `ngx_connection_t` of the client, or of its stream.
    pub connection: u64,
    pub descriptor: u32,
}

/// Where nginx has the connection that it gave to epoll as `data`.
#[inline(always)]
pub const fn connection(data: u64) -> u64 {
    data & !INSTANCE
}

/// The client for whose request the connection is used that epoll was given as `data`, with this descriptor.
#[inline(always)]
pub fn client<M: Memory>(memory: &M, data: u64, descriptor: u32) -> Option<Client> {
    let own = connection(data);
    if own == 0 || memory.half(own.wrapping_add(CONNECTION_DESCRIPTOR)) != descriptor {
        return None;
    }
    let request = memory.word(own.wrapping_add(CONNECTION_DATA));
    if request == 0 || memory.half(request.wrapping_add(REQUEST_MARK)) != MARK {
        return None;
    }
    let connection = memory.word(request.wrapping_add(REQUEST_CONNECTION));
    // An answer is sent on the client's own.
    if connection == 0 || connection == own {
        return None;
    }
    let descriptor = memory.half(connection.wrapping_add(CONNECTION_DESCRIPTOR));
    Some(Client { request, connection, descriptor })
}

/// The number of the client's stream, which is at this offset of the request. `shared`: the connection of the client's
/// socket.
#[inline(always)]
pub fn stream<M: Memory>(memory: &M, client: &Client, offset: u64, shared: u64) -> Option<u32> {
    stream_at(memory, client, memory.word(client.request.wrapping_add(offset)), shared)
}

/// A request by HTTP/1 has none at this offset.
#[inline(always)]
pub fn has_no_stream<M: Memory>(memory: &M, client: &Client, offset: u64) -> bool {
    memory.word(client.request.wrapping_add(offset)) == 0
}

/// In which of a block's words the request has its stream, as an offset.
#[inline(always)]
pub fn find_stream<M: Memory>(memory: &M, client: &Client, block: u64, shared: u64) -> Option<u64> {
    let begin = 8 * WORDS as u64 * block;
    let mut words = [0; WORDS];
    memory.words(client.request.wrapping_add(begin), &mut words);
    for (at, word) in (0..).zip(words) {
        let may_be = word != 0 && word & 7 == 0 && word != client.connection;
        if may_be && stream_at(memory, client, word, shared).is_some() {
            return Some(begin + 8 * at);
        }
    }
    None
}

/// The stream's number, if there is a stream of the client's.
#[inline(always)]
fn stream_at<M: Memory>(memory: &M, client: &Client, stream: u64, shared: u64) -> Option<u32> {
    let request = memory.word(stream.wrapping_add(STREAM_REQUEST));
    // The request that came in, whose subrequest this one may be.
    if memory.half(request.wrapping_add(REQUEST_MARK)) != MARK
        || memory.word(request.wrapping_add(REQUEST_CONNECTION)) != client.connection
    {
        return None;
    }
    let connection = memory.word(stream.wrapping_add(STREAM_CONNECTION));
    if memory.word(connection.wrapping_add(SHARED_CONNECTION)) != shared {
        return None;
    }
    let node = memory.word(stream.wrapping_add(STREAM_NODE));
    let number = memory.word(node.wrapping_add(NODE_NUMBER));
    // Those of clients are odd (RFC 9113 section 5.1.1).
    (number & 1 == 1 && number >> 31 == 0).then_some(number as u32)
}
