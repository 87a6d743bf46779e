//! HotSpot's memory: which thread of Java runs on a thread of the kernel, and which virtual thread on that.
//!
//! ```text
//! thread pointer ─→ dynamic thread vector ─→ the machine's thread-local block ─→ JavaThread ─→ OSThread ─→ the same pointer
//! ```
//!
//! While a virtual thread is mounted, the thread that carries it has the frame of its continuation on its own stack, and
//! the number by which monitors know their owner is the virtual thread's: one that no other thread ever gets. Neither is
//! an object on the heap, so that no collector can move it meanwhile.
//!
//! As in [`crate::python`], whatever is read may be anything, and what is not confirmed is not known.

use crate::python::{Memory, TaskId};

// Of glibc's thread control block and vector (`dtv_t`).
const VECTOR: u64 = 8;
const ENTRY_BYTES: u64 = 16;
const NOT_MADE: u64 = u64::MAX;

/// Threads are numbered from one on: as many are never started.
const MAX_NUMBER: u64 = 1 << 48;

/// Where the machine keeps its threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct JavaThreads {
    /// The machine's number among the libraries with thread-local variables.
    pub module: u64,
    /// From its thread-local block: the current `JavaThread`.
    pub local: u32,
    /// From a `JavaThread`: its `OSThread`, and from that its thread pointer.
    pub os_thread: u32,
    pub pthread: u32,
    pub reserved: u32,
}

impl JavaThreads {
    /// The `JavaThread` of a thread, by its `fs` base. Zero: it is none, or not known.
    #[inline(always)]
    pub fn find<M: Memory>(&self, memory: &M, thread_pointer: u64) -> u64 {
        let vector = memory.word(thread_pointer.wrapping_add(VECTOR));
        let block = memory.word(vector.wrapping_add(ENTRY_BYTES.wrapping_mul(self.module)));
        if block == 0 || block == NOT_MADE {
            return 0;
        }
        let thread = memory.word(block.wrapping_add(u64::from(self.local)));
        if thread == 0 {
            return 0;
        }
        let os_thread = memory.word(thread.wrapping_add(u64::from(self.os_thread)));
        let pointer = memory.word(os_thread.wrapping_add(u64::from(self.pthread)));
        if os_thread != 0 && pointer == thread_pointer { thread } else { 0 }
    }
}

/// A process whose virtual threads are known, the value of the kernel half's table of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct JavaProcess {
    /// As in [`crate::python::PythonProcess`].
    pub start_boottime: u64,
    pub threads: JavaThreads,
    /// What the kernel half spent on this process, and how often it looked.
    pub spent_nanos: u64,
    pub looks: u64,
    /// From a `JavaThread`: the number of the thread that is mounted, or its own, or zero where none ever is; the continuation that is mounted, or
    /// null; where its stack begins, which grows down, and how large it is.
    pub owner: u32,
    pub continuation: u32,
    pub stack_base: u32,
    pub stack_bytes: u32,
}

impl JavaProcess {
    /// Whether threads may carry virtual ones, which have numbers.
    pub const fn knows_virtual_threads(&self) -> bool {
        self.owner != 0
    }
}

/// The virtual thread that runs on a thread.
#[inline(always)]
pub fn virtual_thread<M: Memory>(memory: &M, process: &JavaProcess, thread_pointer: u64) -> Option<TaskId> {
    let thread = if process.owner == 0 { 0 } else { process.threads.find(memory, thread_pointer) };
    if thread == 0 {
        return None;
    }
    let word = |offset: u32| memory.word(thread.wrapping_add(u64::from(offset)));
    let continuation = word(process.continuation);
    if continuation == 0 {
        return None;
    }
    let depth = word(process.stack_base).wrapping_sub(continuation);
    if depth == 0 || depth > word(process.stack_bytes) {
        return None;
    }
    let number = word(process.owner);
    (number != 0 && number < MAX_NUMBER).then_some(TaskId { address: number, number })
}
