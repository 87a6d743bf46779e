//! CPython's memory: the connections of uvloop, whose loop sends what tasks have written when these have had their turn.
//!
//! By then no task runs. So who writes is noted where it writes, with the socket and its place in that, and the note is
//! good for what begins to be sent at this very place.

use crate::python::{Memory, PythonProcess, TYPE, TaskId};
use crate::python_chain::{Chain, chain_end};
use crate::python_suspended::Suspended;

/// From a connection: libuv's handle of it.
const HANDLE: u64 = 24;

// Of libuv 1: `uv_stream_t`, from its start.
const HANDLE_OBJECT: u64 = 0;
const HANDLE_KIND: u64 = 16;
const HANDLE_QUEUED: u64 = 96;
const HANDLE_DESCRIPTOR: u64 = 184;

/// `UV_NAMED_PIPE`, `UV_TCP`
const KINDS: [u32; 2] = [7, 12];

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    pub descriptor: u32,
    /// What was written before waits for the other end to read.
    pub is_behind: bool,
}

impl Stream {
    /// `None`: the object is no connection, or an open one no more.
    #[inline(always)]
    pub fn of<M: Memory>(memory: &M, process: &PythonProcess, object: u64) -> Option<Self> {
        let kind = memory.word(object.wrapping_add(TYPE));
        if kind == 0 || !process.stream_types.contains(&kind) {
            return None;
        }
        let handle = memory.word(object.wrapping_add(HANDLE));
        let kind = memory.half(handle.wrapping_add(HANDLE_KIND));
        let descriptor = memory.half(handle.wrapping_add(HANDLE_DESCRIPTOR));
        if memory.word(handle.wrapping_add(HANDLE_OBJECT)) != object
            || !KINDS.contains(&kind)
            || descriptor > i32::MAX as u32
        {
            return None;
        }
        Some(Self { descriptor, is_behind: memory.word(handle.wrapping_add(HANDLE_QUEUED)) != 0 })
    }
}

/// Who has written first what a socket sends next, the value of the kernel half's table of them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Written {
    /// It wrote, others wait for it. Of no task: it is not clear which it was.
    pub chain: Chain,
    /// TCP: the sequence number from which on it is sent. Zero elsewhere, where what counts is that nothing was received since.
    pub seq: u32,
    pub reserved: u32,
}

impl Written {
    /// Of a task that writes now.
    #[inline(always)]
    pub fn begin(&mut self, chain: &Chain, seq: u32, stream: Stream) {
        self.chain = *chain;
        (self.seq, self.reserved) = (seq, 0);
        if stream.is_behind {
            self.becomes_unclear();
        }
    }

    /// Another write. True: it comes behind what was written before, and the note stays, as it is now.
    #[inline(always)]
    pub fn goes_on(&mut self, writer: TaskId, seq: u32) -> bool {
        if self.seq != seq {
            return false;
        }
        // What is sent at once may be several messages, of which nobody knows whose the second one is. And what is no TCP may
        // be left over from what was sent already.
        if self.chain.tasks[0] != writer {
            self.becomes_unclear();
        }
        true
    }

    #[inline(always)]
    fn becomes_unclear(&mut self) {
        self.chain.len = 0;
        self.chain.end = u32::from(chain_end::UNCLEAR);
        self.chain.tasks[0] = TaskId::default();
    }
}

impl Suspended {
    /// The connection in the read of whose stream it waits.
    #[inline(always)]
    pub fn reads<M: Memory>(&self, memory: &M, process: &PythonProcess) -> Option<Stream> {
        Stream::of(memory, process, self.reads_from(memory, process)?)
    }
}
