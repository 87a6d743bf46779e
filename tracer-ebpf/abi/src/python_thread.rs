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
//! AnyIO, which Starlette, FastAPI and httpx are built on, has threads of its own, that take the loop's future with what they
//! are to do: it is a local of their function `WorkerThread.run`. What waits for it there is `run_sync_in_worker_thread`,
//! which has made it. Both are known by their qualified names and their file's.
//!
//! That a task waits for an item does not say that it is its own: futures can be handed on. What `to_thread` waits for
//! it has submitted itself, in the same coroutine, and nobody else can be handed that. So the task's innermost coroutine
//! must be that function's, or AnyIO's. Of what `run_in_executor` returns a probe in the pool's queue has to tell which task
//! it was that submitted it ([`submitted`]), and when: the item is told as if it were a task that this one has made.
//!
//! The pool's library may come to be loaded at any time, so its function is known by its qualified name alone; the others
//! are there with the loop, and known as in [`crate::python_waits`].

use crate::python::{
    CELL_CONTENTS, FUNCTION_CLOSURE, FUNCTION_GLOBALS, LIST_ITEMS, LIST_LEN, MAX_CELLS, Memory,
    PythonProcess, TEXT_LEN, TUPLE_LEN, TYPE, attribute,
};
use crate::python_chain::Chain;
use crate::python_frame::{Frame, OWNED_BY_GENERATOR, calling, current_frame, local};
use crate::python_suspended::Suspended;
use crate::python_waits::CODE_NAME;
use crate::python_work::SUBMIT_FUTURE;

/// Frames that are passed on the way to an item: those of frameworks and clients are a few dozen.
pub const MAX_FRAMES: u32 = 96;

/// The first attribute of an item.
const WORK_FUTURE: u64 = 0;

/// `_WorkItem.run`, the first byte lowest; a zero ends it.
const RUN: [u64; 2] = [u64::from_le_bytes(*b"_WorkIte"), u64::from_le_bytes(*b"m.run\0\0\0")];
const RUN_MASK: u64 = 0xffff_ffff_ffff;
const RUN_LEN: u64 = 13;

/// AnyIO's `WorkerThread.run`.
const ANYIO_RUN: [u64; 2] = [u64::from_le_bytes(*b"WorkerTh"), u64::from_le_bytes(*b"read.run")];
const ANYIO_RUN_LEN: u64 = 16;

/// Its local that is the future: behind `self`, `item`, `context`, `func` and `args`.
const ANYIO_FUTURE: u64 = 5;

/// The end of `run_sync_in_worker_thread`, also as a method of `AsyncIOBackend`; and how long both are.
const ANYIO_WAITS: [u64; 3] =
    [u64::from_le_bytes(*b"un_sync_"), u64::from_le_bytes(*b"in_worke"), u64::from_le_bytes(*b"r_thread")];
const ANYIO_WAITS_LEN: [u64; 2] = [25, 40];

/// The end of `anyio/_backends/_asyncio.py`.
const ANYIO_FILE: [u64; 3] =
    [u64::from_le_bytes(*b"io/_back"), u64::from_le_bytes(*b"ends/_as"), u64::from_le_bytes(*b"yncio.py")];

/// From a code object: its file's name.
const CODE_FILE: u64 = CODE_NAME - 16;

/// The way from a thread's innermost frame outwards to the item inside of which it is.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Item {
    frame: u64,
    /// The item's future, once found.
    future: u64,
    /// The loop's, where that is known without the item's.
    loop_future: u64,
}

impl Item {
    /// `thread_pointer` is the thread's `fs` base.
    #[inline(always)]
    pub fn begin<M: Memory>(memory: &M, process: &PythonProcess, thread_pointer: u64) -> Self {
        Self { frame: current_frame(memory, &process.layout, thread_pointer), ..Self::default() }
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_FRAMES`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &PythonProcess) -> bool {
        let layout = &process.layout;
        let frame = self.frame;
        if frame == 0 {
            return false;
        }
        let known = Frame::read(memory, layout, frame);
        let Frame { code, previous, owner } = known;
        let name = if known.is_of_c() || owner == OWNED_BY_GENERATOR {
            Named::Otherwise
        } else {
            Named::of(memory, process, code)
        };
        if matches!(name, Named::AnyIo) && is_of_anyio(memory, process, code) {
            let future = local(memory, layout, frame, ANYIO_FUTURE);
            if is_of_type(memory, future, process.loop_future_type) {
                self.loop_future = future;
            }
            return false;
        }
        if matches!(name, Named::WorkItem) {
            // What is not confirmed is not known: another one further out is not the one that runs here.
            let work = local(memory, layout, frame, 0);
            let future = if work == 0 { 0 } else { attribute(memory, layout, work, WORK_FUTURE) };
            if is_of_type(memory, future, process.pool_future_type) {
                self.future = future;
            }
            return false;
        }
        self.frame = previous;
        true
    }

    /// The item's future; zero where it is of AnyIO's, or of no pool.
    pub const fn future(&self) -> u64 {
        self.future
    }

    /// The loop's future that is set when the item's is, and nothing else is done then; zero if it is not known.
    #[inline(always)]
    pub fn chained<M: Memory>(&self, memory: &M, process: &PythonProcess) -> u64 {
        if self.future == 0 || process.futures_globals == 0 {
            return self.loop_future;
        }
        let callbacks =
            attribute(memory, &process.layout, self.future, u64::from(process.layout.future_callbacks));
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
            let cell = memory.word(process.layout.item(closure, index));
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

/// The future of the item that a thread is putting into a pool's queue; zero if it does anything else. `thread_pointer` is its
/// `fs` base.
#[inline(always)]
pub fn submitted<M: Memory>(memory: &M, process: &PythonProcess, thread_pointer: u64) -> u64 {
    let layout = &process.layout;
    let (frame, known) = calling(memory, layout, current_frame(memory, layout, thread_pointer));
    let is_submit = frame != 0
        && known.code != 0
        && known.code == process.submit.code
        && memory.word(known.code.wrapping_add(CODE_NAME)) == process.submit.name;
    if !is_submit {
        return 0;
    }
    let future = local(memory, layout, frame, SUBMIT_FUTURE);
    if is_of_type(memory, future, process.pool_future_type) { future } else { 0 }
}

/// Whether the first task of a chain from a loop's future waits for that in `to_thread`, or in what AnyIO has in its place:
/// `suspended` is where that task is.
#[inline(always)]
pub fn is_own<M: Memory>(
    memory: &M,
    process: &PythonProcess,
    chain: &Chain,
    future: u64,
    suspended: &Suspended,
) -> bool {
    let code = suspended.code(memory, process);
    if chain.len == 0 || suspended.awaits() != future || !is_of_type(memory, code, process.code_type) {
        return false;
    }
    let name = memory.word(code.wrapping_add(CODE_NAME));
    if code == process.to_thread.code {
        return name == process.to_thread.name;
    }
    let len = memory.word(name.wrapping_add(TEXT_LEN));
    (len == ANYIO_WAITS_LEN[0] || len == ANYIO_WAITS_LEN[1])
        && ends_with(memory, process, name, &ANYIO_WAITS)
        && is_of_anyio(memory, process, code)
}

#[inline(always)]
fn is_of_type<M: Memory>(memory: &M, object: u64, kind: u64) -> bool {
    object != 0 && kind != 0 && memory.word(object.wrapping_add(TYPE)) == kind
}

/// What a function is by its qualified name.
enum Named {
    WorkItem,
    AnyIo,
    Otherwise,
}

impl Named {
    #[inline(always)]
    fn of<M: Memory>(memory: &M, process: &PythonProcess, code: u64) -> Self {
        if !is_of_type(memory, code, process.code_type) {
            return Self::Otherwise;
        }
        let name = memory.word(code.wrapping_add(CODE_NAME));
        let len = memory.word(name.wrapping_add(TEXT_LEN));
        if len != RUN_LEN && len != ANYIO_RUN_LEN {
            return Self::Otherwise;
        }
        let text = name.wrapping_add(u64::from(process.layout.text));
        let (first, second) = (memory.word(text), memory.word(text.wrapping_add(8)));
        if len == RUN_LEN && first == RUN[0] && second & RUN_MASK == RUN[1] {
            Self::WorkItem
        } else if len == ANYIO_RUN_LEN && first == ANYIO_RUN[0] && second == ANYIO_RUN[1] {
            Self::AnyIo
        } else {
            Self::Otherwise
        }
    }
}

#[inline(always)]
fn is_of_anyio<M: Memory>(memory: &M, process: &PythonProcess, code: u64) -> bool {
    ends_with(memory, process, memory.word(code.wrapping_add(CODE_FILE)), &ANYIO_FILE)
}

/// Whether an ASCII string of so many words at least ends with them.
#[inline(always)]
fn ends_with<M: Memory>(memory: &M, process: &PythonProcess, string: u64, words: &[u64; 3]) -> bool {
    let len = memory.word(string.wrapping_add(TEXT_LEN));
    if string == 0 || !(24..=4096).contains(&len) {
        return false;
    }
    let end = string.wrapping_add(u64::from(process.layout.text)).wrapping_add(len - 24);
    memory.word(end) == words[0]
        && memory.word(end.wrapping_add(8)) == words[1]
        && memory.word(end.wrapping_add(16)) == words[2]
}
