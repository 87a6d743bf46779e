//! CPython's memory: the task that waits for what a thread of a pool does, where a loop has handed it over.
//!
//! `asyncio.to_thread` submits a work item to the loop's pool, and waits for the item's future by one of the loop's that is
//! set when the item's is. So the way from a thread of the pool to the task is
//!
//! | from | to | known by |
//! |---|---|---|
//! | the thread's innermost frame | the item inside of which it is | the function `_WorkItem.run`, whose first local has a future |
//! | the item's future | the loop's | its only callback, a function of `asyncio.futures`, in whose closure that is |
//! | the loop's future | the task | the one that waits for it: see [`Chain`] |
//!
//! That a task waits for an item does not say that it is its own: futures can be handed on. What `to_thread` waits for
//! it has submitted itself, in the same coroutine, and nobody else can be handed that. So the task's innermost coroutine
//! must be that function's. A task that awaits what `run_in_executor` returns is not known.
//!
//! The pool's library may come to be loaded at any time, so its function is known by its qualified name alone; the others
//! are there with the loop, and known as in [`crate::python_waits`].

use crate::python::{
    CELL_CONTENTS, Chain, FUNCTION_CLOSURE, FUNCTION_GLOBALS, LIST_ITEMS, LIST_LEN, MAX_CELLS, Memory,
    PythonProcess, Suspended, TEXT_LEN, TUPLE_ITEMS, TUPLE_LEN, TYPE, attribute,
};
use crate::python_frame::{Frame, OWNED_BY_C, OWNED_BY_GENERATOR, current_frame};
use crate::python_waits::CODE_NAME;

/// Frames that are passed on the way to an item: those of frameworks and clients are a few dozen.
pub const MAX_FRAMES: u32 = 96;

/// Attributes in the order in which the constructors set them.
const WORK_FUTURE: u64 = 0;
const FUTURE_CALLBACKS: u64 = 5;

/// `_WorkItem.run`, the first byte lowest; a zero ends it.
const RUN: [u64; 2] = [u64::from_le_bytes(*b"_WorkIte"), u64::from_le_bytes(*b"m.run\0\0\0")];
const RUN_MASK: u64 = 0xffff_ffff_ffff;
const RUN_LEN: u64 = 13;

/// The way from a thread's innermost frame outwards to the item inside of which it is.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Item {
    frame: u64,
    /// The item's future, once found.
    future: u64,
}

impl Item {
    /// `thread_pointer` is the thread's `fs` base.
    #[inline(always)]
    pub fn begin<M: Memory>(memory: &M, process: &PythonProcess, thread_pointer: u64) -> Self {
        Self { frame: current_frame(memory, &process.layout, thread_pointer), future: 0 }
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_FRAMES`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &PythonProcess) -> bool {
        let layout = &process.layout;
        let frame = self.frame;
        if frame == 0 {
            return false;
        }
        let Frame { code, previous, owner } = Frame::read(memory, layout, frame);
        if owner != OWNED_BY_C && owner != OWNED_BY_GENERATOR && is_run(memory, process, code) {
            // What is not confirmed is not known: another one further out is not the one that runs here.
            let work = memory.word(frame.wrapping_add(u64::from(layout.frame_locals)));
            let future = if work == 0 { 0 } else { attribute(memory, layout, work, WORK_FUTURE) };
            if is_of_type(memory, future, process.pool_future_type) {
                self.future = future;
            }
            return false;
        }
        self.frame = previous;
        true
    }

    /// The loop's future that is set when the item's is, and nothing else is done then; zero if it is not known.
    #[inline(always)]
    pub fn chained<M: Memory>(&self, memory: &M, process: &PythonProcess) -> u64 {
        if self.future == 0 || process.futures_globals == 0 {
            return 0;
        }
        let callbacks = attribute(memory, &process.layout, self.future, FUTURE_CALLBACKS);
        if callbacks == 0 || memory.word(callbacks.wrapping_add(LIST_LEN)) != 1 {
            return 0;
        }
        let callback = memory.word(memory.word(callbacks.wrapping_add(LIST_ITEMS)));
        if !is_of_type(memory, callback, process.function_type)
            || memory.word(callback.wrapping_add(FUNCTION_GLOBALS)) != process.futures_globals
        {
            return 0;
        }
        let closure = memory.word(callback.wrapping_add(FUNCTION_CLOSURE));
        let cells = memory.word(closure.wrapping_add(TUPLE_LEN));
        let mut found = 0;
        for index in 0..MAX_CELLS {
            if index >= cells {
                break;
            }
            let cell = memory.word(closure.wrapping_add(TUPLE_ITEMS + 8 * index));
            let value = memory.word(cell.wrapping_add(CELL_CONTENTS));
            if is_of_type(memory, value, process.loop_future_type) {
                if found != 0 && found != value {
                    return 0;
                }
                found = value;
            }
        }
        found
    }
}

/// Whether the first task of a chain from a loop's future waits for that in `to_thread`: `suspended` is where that task is.
#[inline(always)]
pub fn is_own<M: Memory>(
    memory: &M,
    process: &PythonProcess,
    chain: &Chain,
    future: u64,
    suspended: &Suspended,
) -> bool {
    let code = suspended.code(memory, process);
    chain.len > 0
        && suspended.awaits() == future
        && code != 0
        && code == process.to_thread.code
        && is_of_type(memory, code, process.code_type)
        && memory.word(code.wrapping_add(CODE_NAME)) == process.to_thread.name
}

#[inline(always)]
fn is_of_type<M: Memory>(memory: &M, object: u64, kind: u64) -> bool {
    object != 0 && kind != 0 && memory.word(object.wrapping_add(TYPE)) == kind
}

#[inline(always)]
fn is_run<M: Memory>(memory: &M, process: &PythonProcess, code: u64) -> bool {
    if !is_of_type(memory, code, process.code_type) {
        return false;
    }
    let name = memory.word(code.wrapping_add(CODE_NAME));
    if memory.word(name.wrapping_add(TEXT_LEN)) != RUN_LEN {
        return false;
    }
    let text = name.wrapping_add(u64::from(process.layout.text));
    memory.word(text) == RUN[0] && memory.word(text.wrapping_add(8)) & RUN_MASK == RUN[1]
}
