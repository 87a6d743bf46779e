//! Go's memory: which goroutine moves bytes, and which one waits for a call of `net/http` that others write and read.
//!
//! Register R14 is the current goroutine (Go's own calling convention on x86_64). A server's goroutine reads, works and
//! answers itself. A call of `net/http` is written and read by two goroutines that belong to the connection, while the one
//! that called waits in `persistConn.roundTrip`:
//!
//! ```text
//! goroutine's stack ─→ persistConn ─→ reqch ─→ requestAndChan.ch ─→ recvq.first ─→ the goroutine that waits
//! ```
//!
//! The connection's channels and their element sizes, the goroutine's state and its stack must confirm each other at each
//! step. As in [`crate::python`], whatever is read may be anything, and what is not confirmed is not known. It knows no
//! version: layouts are values.

use crate::python::{Memory, TaskId};

/// Words below the top of a goroutine's stack among which its connection is looked for: its outermost function has it as
/// its argument, seven words down in all known versions.
pub const MAX_STACK_WORDS: u32 = 32;

/// Processors whose number caches are told.
pub const MAX_CACHES: usize = 13;

/// Words of [`crate::event::IdentityRecord::tasks`] before those of the caches.
pub const FIRST_CACHE: usize = 3;

// Of every version that is known.
const STACK_LOW: u64 = 0;
const STACK_HIGH: u64 = 8;
const CHANNEL_COUNT: u64 = 0;
const CHANNEL_ROOM: u64 = 8;
const CHANNEL_BUFFER: u64 = 16;
const CHANNEL_ELEMENT_BYTES: u64 = 24;
const WAITER_GOROUTINE: u64 = 0;
const WAITER_NEXT: u64 = 8;
const CONNECTION_REQUESTS: u64 = 128;
const CONNECTION_WRITES: u64 = 136;

/// `writeRequest` and `responseAndError` in bytes.
const WRITE_BYTES: u32 = 24;
const RESPONSE_BYTES: u32 = 24;

/// Below the top of a goroutine's stack: where the first function has its caller's frame pointer, behind four words and the
/// address that it returns to (`newproc1` and `gostartcall` in `src/runtime`).
const OUTERMOST_FRAME: u64 = 6 * 8;

/// `_Gwaiting`; a scan by the collector sets another bit.
const WAITING: u32 = 4;
const SCANNED: u32 = 0x1000;

/// A goroutine's stack is at most this large (`runtime/debug.SetMaxStack`'s default).
const MAX_STACK_BYTES: u64 = 1 << 30;

/// Where fields are that differ between versions, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GoLayout {
    /// From a goroutine: its state, its number, that of the one that started it, and where it was started.
    pub status: u32,
    pub number: u32,
    pub parent: u32,
    pub started_at: u32,
    /// From a channel: the first that waits to receive.
    pub receivers: u32,
    /// `requestAndChan`: its size, and where it has the channel for the response.
    pub request_bytes: u32,
    pub request_channel: u32,
    /// From a processor: the next number for a goroutine, and the end of those that it has taken.
    pub cache: u32,
    pub cache_end: u32,
    pub reserved: u32,
}

/// A process whose goroutines are known, the value of the kernel half's table of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GoProcess {
    /// As in [`crate::python::PythonProcess`].
    pub start_boottime: u64,
    /// `runtime.allp`, a slice, and `runtime.sched`, which begins with the last number that processors have taken; or zero.
    pub processors: u64,
    pub scheduler: u64,
    /// What the kernel half spent on this process, and how often it looked.
    pub spent_nanos: u64,
    pub looks: u64,
    pub layout: GoLayout,
}

/// The goroutine that runs, if it makes sense: the stack pointer is on its stack.
#[inline(always)]
pub fn running<M: Memory>(
    memory: &M,
    process: &GoProcess,
    goroutine: u64,
    stack_pointer: u64,
) -> Option<TaskId> {
    let (low, high) = stack(memory, goroutine);
    let number = memory.word(goroutine.wrapping_add(process.layout.number.into()));
    let fits = low < stack_pointer && stack_pointer <= high && high - low <= MAX_STACK_BYTES;
    (goroutine != 0 && number != 0 && fits).then_some(TaskId { address: goroutine, number })
}

/// Whether a function was called by the one that a goroutine was started for, of its frame pointer while it is its caller's.
#[inline(always)]
pub fn is_called_by_outermost<M: Memory>(memory: &M, goroutine: TaskId, frame_pointer: u64) -> bool {
    stack(memory, goroutine.address).1.wrapping_sub(frame_pointer) == OUTERMOST_FRAME
}

#[inline(always)]
fn stack<M: Memory>(memory: &M, goroutine: u64) -> (u64, u64) {
    let word = |offset| memory.word(goroutine.wrapping_add(offset));
    (word(STACK_LOW), word(STACK_HIGH))
}

/// A channel's room and the size of its elements.
#[inline(always)]
fn shape<M: Memory>(memory: &M, channel: u64) -> (u64, u32) {
    let bytes = memory.half(channel.wrapping_add(CHANNEL_ELEMENT_BYTES)) & 0xffff;
    (memory.word(channel.wrapping_add(CHANNEL_ROOM)), bytes)
}

/// Whether a word can be the address of an object of the program's.
#[inline(always)]
const fn is_address(word: u64) -> bool {
    word >> 47 == 0 && word & 7 == 0 && word >= 0x1_0000
}

/// The way from a connection's goroutine to the one that waits for its call.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Connection {
    top: u64,
    words: u64,
    /// The channel of requests of its `persistConn`, once found.
    requests: u64,
}

impl Connection {
    #[inline(always)]
    pub fn begin<M: Memory>(memory: &M, goroutine: TaskId) -> Self {
        Self { top: stack(memory, goroutine.address).1, words: 0, requests: 0 }
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_STACK_WORDS`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &GoProcess) -> bool {
        self.words += 1;
        let connection = memory.word(self.top.wrapping_sub(8 * self.words));
        if !is_address(connection) {
            return true;
        }
        let requests = memory.word(connection.wrapping_add(CONNECTION_REQUESTS));
        let writes = memory.word(connection.wrapping_add(CONNECTION_WRITES));
        if is_address(requests)
            && is_address(writes)
            && shape(memory, requests) == (1, process.layout.request_bytes)
            && shape(memory, writes) == (1, WRITE_BYTES)
        {
            self.requests = requests;
            return false;
        }
        true
    }

    /// The goroutine belongs to a connection.
    pub const fn is_found(&self) -> bool {
        self.requests != 0
    }

    /// Who waits for the response of the request that the connection has taken up last, if only one does.
    #[inline(always)]
    pub fn waiter<M: Memory>(&self, memory: &M, process: &GoProcess) -> Option<Waiter> {
        if self.requests == 0 || memory.word(self.requests.wrapping_add(CHANNEL_COUNT)) != 1 {
            return None;
        }
        let request = memory.word(self.requests.wrapping_add(CHANNEL_BUFFER));
        let responses = memory.word(request.wrapping_add(process.layout.request_channel.into()));
        if !is_address(responses) || shape(memory, responses) != (0, RESPONSE_BYTES) {
            return None;
        }
        waits(memory, process, responses)
    }
}

/// The one goroutine that waits to receive from a channel, also if it waits for others besides.
#[inline(always)]
pub fn waits<M: Memory>(memory: &M, process: &GoProcess, channel: u64) -> Option<Waiter> {
    let first = memory.word(channel.wrapping_add(process.layout.receivers.into()));
    if first == 0 || memory.word(first.wrapping_add(WAITER_NEXT)) != 0 {
        return None;
    }
    let goroutine = memory.word(first.wrapping_add(WAITER_GOROUTINE));
    let field = |offset: u32| memory.word(goroutine.wrapping_add(offset.into()));
    let status = memory.half(goroutine.wrapping_add(process.layout.status.into()));
    let (low, high) = stack(memory, goroutine);
    let number = field(process.layout.number);
    if goroutine == 0
        || number == 0
        || status & !SCANNED != WAITING
        || low >= high
        || high - low > MAX_STACK_BYTES
    {
        return None;
    }
    Some(as_waiter(memory, process, TaskId { address: goroutine, number }))
}

/// What is told of a goroutine that waits for a call, or will.
#[inline(always)]
pub fn as_waiter<M: Memory>(memory: &M, process: &GoProcess, goroutine: TaskId) -> Waiter {
    Waiter {
        task: goroutine,
        parent: parent(memory, process, goroutine),
        started_at: memory.word(goroutine.address.wrapping_add(process.layout.started_at.into())),
    }
}

/// The number of the goroutine that started another one.
#[inline(always)]
pub fn parent<M: Memory>(memory: &M, process: &GoProcess, goroutine: TaskId) -> u64 {
    memory.word(goroutine.address.wrapping_add(process.layout.parent.into()))
}

/// A goroutine that waits for a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Waiter {
    pub task: TaskId,
    /// The number of the goroutine that started it.
    pub parent: u64,
    /// Where in the program it was started.
    pub started_at: u64,
}

/// The last number that processors have taken for goroutines; zero where that is not known. What follows it is nobody's
/// yet, nor is what a processor has taken and not given out ([`unused`]).
#[inline(always)]
pub fn last_number<M: Memory>(memory: &M, process: &GoProcess) -> u64 {
    if process.scheduler == 0 || process.processors == 0 { 0 } else { memory.word(process.scheduler) }
}

/// How many numbers a processor takes at a time: `_GoidCacheBatch`.
pub const CACHE_NUMBERS: u64 = 16;

/// The numbers that a processor has taken for goroutines and not given out: the first of them, and how many follow in the
/// lowest byte. Zero where there are none.
#[inline(always)]
pub fn unused<M: Memory>(memory: &M, process: &GoProcess, index: u64) -> u64 {
    let count = memory.word(process.processors.wrapping_add(8));
    if index >= count {
        return 0;
    }
    let processor = memory.word(memory.word(process.processors).wrapping_add(8 * index));
    let next = memory.word(processor.wrapping_add(process.layout.cache.into()));
    let end = memory.word(processor.wrapping_add(process.layout.cache_end.into()));
    let len = end.wrapping_sub(next);
    if processor == 0 || next == 0 || len == 0 || len > CACHE_NUMBERS || next >> 56 != 0 {
        return 0;
    }
    next << 8 | len
}
