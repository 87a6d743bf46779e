//! Greenlets: which one runs on a thread.
//!
//! A greenlet has a stack of its own and does one thing after the other, as a thread does: gevent gives one to each
//! connection that is served. The library keeps the current one per thread:
//!
//! ```text
//! thread pointer ─→ dynamic thread vector ─→ the library's thread-local block ─→ ThreadState ─→ the current greenlet
//! ```
//!
//! As in [`crate::python`], whatever is read may be anything, and what is not confirmed is not known: the current one and
//! the thread's first one must be Python objects.

use crate::python::{Memory, TaskId};

// Of glibc's thread control block and vector (`dtv_t`), of an object of Python's.
const VECTOR: u64 = 8;
const ENTRY_BYTES: u64 = 16;
const NOT_MADE: u64 = u64::MAX;
const REFERENCES: u64 = 0;
const TYPE: u64 = 8;
/// From 3.12 on objects that never end have a count beyond this.
const MAX_REFERENCES: u32 = 0xc000_0000;

// Of the library's thread-local block and its `ThreadState`.
const BLOCK_STATE: u64 = 8;
const STATE_FIRST: u64 = 0;
const STATE_CURRENT: u64 = 8;

/// A process whose greenlets are known, the value of the kernel half's table of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GreenletProcess {
    /// As in [`crate::python::PythonProcess`].
    pub start_boottime: u64,
    /// The library's number among those with thread-local variables.
    pub module: u64,
    /// The type of types.
    pub type_type: u64,
    /// What the kernel half spent on this process, and how often it looked.
    pub spent_nanos: u64,
    pub looks: u64,
}

/// The greenlet that runs on a thread.
#[inline(always)]
pub fn current<M: Memory>(memory: &M, process: &GreenletProcess, thread_pointer: u64) -> Option<TaskId> {
    let vector = memory.word(thread_pointer.wrapping_add(VECTOR));
    let block = memory.word(vector.wrapping_add(ENTRY_BYTES.wrapping_mul(process.module)));
    if block == 0 || block == NOT_MADE {
        return None;
    }
    let state = memory.word(block.wrapping_add(BLOCK_STATE));
    let first = memory.word(state.wrapping_add(STATE_FIRST));
    let current = memory.word(state.wrapping_add(STATE_CURRENT));
    if state == 0 || !is_object(memory, process, first) || !is_object(memory, process, current) {
        return None;
    }
    Some(TaskId { address: current, number: current })
}

/// Whether there is an object of Python's: its type is one.
#[inline(always)]
fn is_object<M: Memory>(memory: &M, process: &GreenletProcess, object: u64) -> bool {
    if object < 0x1_0000 || object >> 47 != 0 || object & 7 != 0 {
        return false;
    }
    let references = memory.half(object.wrapping_add(REFERENCES));
    let kind = memory.word(object.wrapping_add(TYPE));
    let of_kind = memory.word(kind.wrapping_add(TYPE));
    references != 0
        && references < MAX_REFERENCES
        && kind != 0
        && (of_kind == process.type_type || memory.word(of_kind.wrapping_add(TYPE)) == process.type_type)
}
