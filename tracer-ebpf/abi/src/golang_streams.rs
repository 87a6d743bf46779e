//! Go's memory at the places where a goroutine takes up a stream of HTTP/2: which connection's, and which number it has.
//!
//! A server of `net/http` starts a goroutine for each stream; frames are read and written by others. Its client has a
//! goroutine for each call, too, which the caller starts and waits for. Where these begin, their arguments are in
//! registers, and lead to the stream and to the socket:
//!
//! ```text
//! runHandler(serverConn, responseWriter) ─→ responseWriterState ─→ stream ─→ id;  both name the serverConn
//! encodeAndWriteHeaders(clientStream) ─→ ID, ClientConn
//! serverConn, ClientConn ─→ net.Conn ─→ (what wraps it: tls.Conn …) ─→ net.TCPConn ─→ netFD ─→ descriptor
//! ```
//!
//! As in [`crate::golang`], whatever is read may be anything, and what is not confirmed is not known. Where fields are is the
//! same in all versions of `net/http` from 1.22 to 1.26, and in those of `golang.org/x/net/http2` of their time; with 1.27,
//! which has a package of its own for it, two fields of the server's have moved.

use crate::python::{Memory, TaskId};

/// Connections in each other, at most: TLS, limits of a listener, what was read ahead.
pub const MAX_WRAPPED: u32 = 4;

/// Where a `responseWriterState` names its `serverConn`, and that one its `net.Conn`: before 1.27, and since then.
const SERVERS: [(u64, u64); 2] = [(16, 16), (184, 24)];
const CLIENT_CONNECTION: u64 = 8;
const WRITER_STATE: u64 = 0;
const STATE_STREAM: u64 = 0;
const STREAM_SERVER: u64 = 0;
const STREAM_ID: u64 = 8;
const CALL_CLIENT: u64 = 0;
const CALL_ID: u64 = 40;
const CALL_ANSWERED: u64 = 248;

/// An interface's second word is the value's address.
const INTERFACE_VALUE: u64 = 8;

// `net.netFD`, which begins with a `poll.FD`, which begins with a `poll.fdMutex`.
const FD_STATE: u64 = 0;
const FD_NUMBER: u64 = 16;
const FD_FAMILY: u64 = 56;
const FD_SOCKET_TYPE: u64 = 64;

/// `mutexClosed`: set before the descriptor is closed.
const CLOSED: u64 = 1;

/// Descriptors are below this number (`fs.nr_open`'s largest value).
const MAX_DESCRIPTORS: u64 = 1 << 30;

/// `AF_UNIX`, `AF_INET`, `AF_INET6`; `SOCK_STREAM`.
const FAMILIES: [u64; 3] = [1, 2, 10];
const SOCKET_STREAM: u64 = 1;

/// A channel's size of elements; that of an empty structure is zero.
const CHANNEL_ELEMENT_BYTES: u64 = 24;

/// A stream, and where its connection has the `net.Conn` that it goes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    pub id: u32,
    pub connection: u64,
}

/// Whether a word can be the address of an object of the program's.
#[inline(always)]
pub(crate) const fn is_address(word: u64) -> bool {
    word >> 47 == 0 && word & 7 == 0 && word >= 0x1_0000
}

/// Of a `serverConn` and the `responseWriter` of a stream of it.
#[inline(always)]
pub fn served<M: Memory>(memory: &M, server: u64, writer: u64) -> Option<Stream> {
    let state = memory.word(writer.wrapping_add(WRITER_STATE));
    if !is_address(server) || !is_address(writer) || !is_address(state) {
        return None;
    }
    let stream = memory.word(state.wrapping_add(STATE_STREAM));
    if !is_address(stream) || memory.word(stream.wrapping_add(STREAM_SERVER)) != server {
        return None;
    }
    let is = |place: u64| memory.word(state.wrapping_add(place)) == server;
    let [(before, then), (since, now)] = SERVERS;
    let connection = if is(before) {
        then
    } else if is(since) {
        now
    } else {
        return None;
    };
    known(memory.half(stream.wrapping_add(STREAM_ID)), server.wrapping_add(connection))
}

/// Of a `clientStream`, which has its number.
#[inline(always)]
pub fn called<M: Memory>(memory: &M, stream: u64) -> Option<Stream> {
    let client = memory.word(stream.wrapping_add(CALL_CLIENT));
    if !is_address(stream) || !is_address(client) {
        return None;
    }
    known(memory.half(stream.wrapping_add(CALL_ID)), client.wrapping_add(CLIENT_CONNECTION))
}

/// The channel that is closed when a `clientStream` is answered. Its caller waits there, among others.
#[inline(always)]
pub fn answers<M: Memory>(memory: &M, stream: u64) -> Option<u64> {
    let channel = memory.word(stream.wrapping_add(CALL_ANSWERED));
    let is = is_address(channel) && memory.half(channel.wrapping_add(CHANNEL_ELEMENT_BYTES)) & 0xffff == 0;
    is.then_some(channel)
}

/// Streams that a client begins have odd numbers (RFC 9113, section 5.1.1).
#[inline(always)]
pub(crate) fn known(id: u32, connection: u64) -> Option<Stream> {
    (id & 1 == 1 && id >> 31 == 0).then_some(Stream { id, connection })
}

/// The way from a `net.Conn` to its descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrapped {
    /// Where the interface is that is looked into next.
    interface: u64,
    /// The `netFD`, once found.
    found: u64,
}

impl Wrapped {
    pub const fn begin(connection: u64) -> Self {
        Self { interface: connection, found: 0 }
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_WRAPPED`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M) -> bool {
        let value = memory.word(self.interface.wrapping_add(INTERFACE_VALUE));
        if !is_address(value) {
            return false;
        }
        let inner = memory.word(value);
        if !is_address(inner) {
            return false;
        }
        if is_descriptor(memory, inner) {
            self.found = inner;
            return false;
        }
        // What wraps a connection has it in front.
        self.interface = value;
        true
    }

    /// The descriptor, unless it is being closed: to be asked again once it was looked up, for its number may be another
    /// one's then.
    #[inline(always)]
    pub fn descriptor<M: Memory>(&self, memory: &M) -> Option<u32> {
        if self.found == 0 || memory.word(self.found.wrapping_add(FD_STATE)) & CLOSED != 0 {
            return None;
        }
        let number = memory.word(self.found.wrapping_add(FD_NUMBER));
        (number < MAX_DESCRIPTORS).then_some(number as u32)
    }
}

/// Whether that is the `netFD` of a stream socket.
#[inline(always)]
fn is_descriptor<M: Memory>(memory: &M, place: u64) -> bool {
    let family = memory.word(place.wrapping_add(FD_FAMILY));
    memory.word(place.wrapping_add(FD_SOCKET_TYPE)) == SOCKET_STREAM
        && (family == FAMILIES[0] || family == FAMILIES[1] || family == FAMILIES[2])
        && memory.word(place.wrapping_add(FD_NUMBER)) < MAX_DESCRIPTORS
}

/// The goroutine that started another one, by its number alone.
#[inline(always)]
pub const fn by_number(number: u64) -> TaskId {
    TaskId { address: 0, number }
}
