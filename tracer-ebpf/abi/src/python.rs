//! CPython's memory: which task of an event loop runs on a thread, and which tasks wait for it.
//!
//! Both sides run these walks, the kernel half on the program's memory at a socket operation, user space on the same
//! memory when it examines a process and on made-up memory in tests. Every value that is read may be anything: the
//! program may be hostile, or move on meanwhile. So each step is taken only if the objects confirm each other (a
//! task is the one whose coroutine runs, a waiter waits for the very object), reading fails softly, and every loop is
//! bounded. What is not confirmed is not known.
//!
//! What it does not do: it runs nothing in the program, stops nothing, and knows no version: layouts are values.

use crate::python_frame::{Frame, OWNED_BY_C, OWNED_BY_GENERATOR, current_frame};
use crate::python_waits::Function;

/// Reads memory of a program. What cannot be read is zero.
pub trait Memory {
    fn word(&self, address: u64) -> u64;
    fn half(&self, address: u64) -> u32;
    fn byte(&self, address: u64) -> u8;

    /// So many words at once, which costs no more than one; zeroes where any of them cannot be read.
    fn words<const N: usize>(&self, address: u64, words: &mut [u64; N]) {
        *words = core::array::from_fn(|index| self.word(address.wrapping_add(8 * index as u64)));
    }
}

/// Tasks in a record: the one that runs and those that wait for it, one for another. Deeper nesting is cut.
pub const CHAIN_TASKS: usize = 8;

/// Frames that a walk passes at most: a task's own, its loop's and what started the loop are a few dozen.
pub const MAX_FRAMES: u32 = 160;

/// Objects between waiters: a task, and the future of a `gather` or `wait` between it and the next.
pub const MAX_CHAIN_STEPS: u32 = 16;

/// Coroutines that a suspended task awaits one through the other, as far as they are followed.
pub const MAX_AWAITS: u32 = 16;

/// Variables in a closure of the event loop's own library.
pub(crate) const MAX_CELLS: u64 = 8;

/// Loops that run at once in one process, as far as they are looked through.
const MAX_LOOPS: u64 = 8;

// Of every version that is known: an object's type, and the first words of common objects.
pub(crate) const TYPE: u64 = 8;
pub(crate) const TUPLE_LEN: u64 = 16;
pub(crate) const TUPLE_ITEMS: u64 = 24;
pub(crate) const LIST_LEN: u64 = 16;
pub(crate) const LIST_ITEMS: u64 = 24;
pub(crate) const CELL_CONTENTS: u64 = 16;
pub(crate) const FUNCTION_GLOBALS: u64 = 16;
pub(crate) const FUNCTION_CLOSURE: u64 = 72;
pub(crate) const TEXT_LEN: u64 = 16;
const BUILTIN_SELF: u64 = 24;
const METHOD_FUNCTION: u64 = 16;
const METHOD_SELF: u64 = 24;
const PARTIAL_FUNCTION: u64 = 16;
const PARTIAL_ARGS: u64 = 24;
const INT_TAG: u64 = 16;
const INT_DIGITS: u64 = 24;
const TYPE_BASIC_SIZE: u64 = 32;
const DICT_USED: u64 = 16;
const DICT_KEYS: u64 = 32;
const KEYS_LOG2_INDEX_BYTES: u64 = 9;
const KEYS_KIND: u64 = 10;
const KEYS_ENTRIES: u64 = 24;
const KEYS_INDICES: u64 = 32;

// Of asyncio's objects: `Future` and what `Task` shares with it, `Handle`, the callback of a task's first step.
const FUTURE_LOOP: u64 = 16;
const FUTURE_CALLBACK: u64 = 24;
const FUTURE_MORE_CALLBACKS: u64 = 40;
const HANDLE_CALLBACK: u64 = 24;
const STEP_TASK: u64 = 16;
/// Attributes in the order in which the constructors set them.
const GROUP_PARENT_TASK: u64 = 4;
const READER_WAITER: u64 = 4;
const READER_TRANSPORT: u64 = 6;

/// Where fields are that differ between versions, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PythonLayout {
    /// From the thread pointer: the thread-specific value that is the interpreter's thread state.
    pub thread_slot: u32,
    /// From the thread state: the current frame, or where `is_indirect` is 1 what has it.
    pub thread_frame: u32,
    pub is_indirect: u32,
    /// From what has it.
    pub indirect_frame: u32,
    pub frame_previous: u32,
    pub frame_owner: u32,
    pub frame_stack_top: u32,
    pub frame_locals: u32,
    /// From a frame: its code.
    pub frame_code: u32,
    /// From a generator or coroutine: its frame.
    pub coroutine_frame: u32,
    /// From a task: the future that it waits for, its coroutine, its name.
    pub task_awaits: u32,
    pub task_coroutine: u32,
    pub task_name: u32,
    /// From a task: what has this bit unless `gather` made the task.
    pub task_logs: u32,
    pub task_logs_bit: u32,
    /// From a string: its text, if that is ASCII.
    pub text: u32,
    /// [`values`]
    pub values: u32,
    pub reserved: u32,
}

/// Where an instance keeps the values of its attributes.
pub mod values {
    /// A pointer four words before the object.
    pub const BEFORE: u32 = 0;
    /// A marked pointer three words before the object, one less than the values' address.
    pub const MARKED: u32 = 1;
    /// Behind the object's basic size, and a word.
    pub const INLINE: u32 = 2;
}

/// A process whose tasks are known, the value of the kernel half's table of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PythonProcess {
    /// `group_leader->start_boottime`, in nanoseconds; or rounded down to the tick, as `/proc/PID/stat` gives it.
    pub start_boottime: u64,
    // Addresses of types.
    pub function_type: u64,
    pub builtin_type: u64,
    pub method_type: u64,
    pub coroutine_type: u64,
    pub int_type: u64,
    pub task_type: u64,
    /// `functools.partial`, or zero.
    pub partial_type: u64,
    /// The dictionaries that are the globals of `asyncio.tasks` and `asyncio.taskgroups`.
    pub tasks_globals: u64,
    pub groups_globals: u64,
    /// For [`crate::python_thread`], zeroes where they are not known: the globals of `asyncio.futures`; the types of a loop's
    /// futures, of those of pools and of code; and `asyncio.to_thread`.
    pub futures_globals: u64,
    pub loop_future_type: u64,
    pub pool_future_type: u64,
    pub code_type: u64,
    pub to_thread: Function,
    /// The dictionary of the tasks that run, one per loop; or zero.
    pub current_tasks: u64,
    /// Where the number is kept that the youngest task was given; or zero.
    pub task_counter: u64,
    /// For [`crate::python_streams`]: the types of connections that are written to behind their tasks; zeroes where there are
    /// none.
    pub stream_types: [u64; 2],
    /// What the kernel half spent on this process, and how often it looked.
    pub spent_nanos: u64,
    pub looks: u64,
    pub layout: PythonLayout,
}

/// A task: its address, and the number that its loop's library gave it, because addresses are used again. Zero where
/// the program named the task itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct TaskId {
    pub address: u64,
    pub number: u64,
}

/// Whether an object is a task whose coroutine is this one.
#[inline(always)]
fn is_task_of<M: Memory>(memory: &M, process: &PythonProcess, object: u64, coroutine: u64) -> bool {
    object != 0
        && memory.word(object.wrapping_add(TYPE)) == process.task_type
        && memory.word(object.wrapping_add(u64::from(process.layout.task_coroutine))) == coroutine
}

#[inline(always)]
fn is_task<M: Memory>(memory: &M, process: &PythonProcess, object: u64) -> bool {
    object != 0 && memory.word(object.wrapping_add(TYPE)) == process.task_type
}

#[inline(always)]
fn awaited_by<M: Memory>(memory: &M, process: &PythonProcess, task: u64) -> u64 {
    memory.word(task.wrapping_add(u64::from(process.layout.task_awaits)))
}

/// What a number takes of its word as it is told. Above it is of which kind the task is, zero where the number is.
pub const NUMBER_BITS: u32 = 40;
const KIND_BITS: u32 = 23;

/// The last bit: what waits for the task has made it, a `gather` or a task group.
pub const OWN: u64 = 1 << (NUMBER_BITS + KIND_BITS);

/// As it is told.
#[inline(always)]
fn told<M: Memory>(memory: &M, process: &PythonProcess, task: u64) -> TaskId {
    let number = number(memory, process, task);
    if number == 0 || number >> NUMBER_BITS != 0 {
        return TaskId { address: task, number: 0 };
    }
    TaskId { address: task, number: number | kind(memory, process, task) << NUMBER_BITS }
}

/// What tasks have in common whose coroutines have the same code: what of its address tells it from others nearby. Of what is
/// no coroutine, the same of its type.
#[inline(always)]
fn kind<M: Memory>(memory: &M, process: &PythonProcess, task: u64) -> u64 {
    let layout = &process.layout;
    let coroutine = memory.word(task.wrapping_add(u64::from(layout.task_coroutine)));
    let coroutine_type = memory.word(coroutine.wrapping_add(TYPE));
    let kind = if coroutine_type == process.coroutine_type {
        let frame = coroutine.wrapping_add(u64::from(layout.coroutine_frame));
        memory.word(frame.wrapping_add(u64::from(layout.frame_code)))
    } else {
        coroutine_type
    };
    kind >> 4 & ((1 << KIND_BITS) - 1)
}

/// `Task-`, the first byte lowest.
const NAME: u64 = u64::from_le_bytes(*b"Task-\0\0\0");
const NAME_MASK: u64 = 0xff_ffff_ffff;
/// Digits that fit behind it in two words.
const NAME_DIGITS: u32 = 11;

/// The number in a task's name.
#[inline(always)]
fn number<M: Memory>(memory: &M, process: &PythonProcess, task: u64) -> u64 {
    let name = memory.word(task.wrapping_add(u64::from(process.layout.task_name)));
    if name == 0 {
        return 0;
    }
    if memory.word(name.wrapping_add(TYPE)) == process.int_type {
        // The sign is in the low bits, the number of digits of 30 bits above: one or two positive ones.
        let digits = memory.word(name.wrapping_add(INT_DIGITS));
        return match memory.word(name.wrapping_add(INT_TAG)) {
            0x8 => digits & 0x3fff_ffff,
            0x10 => digits & 0x3fff_ffff | (digits >> 32 & 0x3fff_ffff) << 30,
            _ => 0,
        };
    }
    let text = name.wrapping_add(u64::from(process.layout.text));
    let (first, second) = (memory.word(text), memory.word(text.wrapping_add(8)));
    if first & NAME_MASK != NAME {
        return 0;
    }
    let mut rest = first >> 40;
    let mut value = 0_u64;
    for index in 0..NAME_DIGITS {
        if index == 3 {
            rest = second;
        }
        let digit = (rest & 0xff).wrapping_sub(0x30);
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(digit);
        rest >>= 8;
    }
    value
}

/// The value of the attribute that an object's constructor set after `index` others; zero if it is kept elsewhere.
#[inline(always)]
pub(crate) fn attribute<M: Memory>(memory: &M, layout: &PythonLayout, object: u64, index: u64) -> u64 {
    let values = match layout.values {
        values::BEFORE => memory.word(object.wrapping_sub(32)),
        values::MARKED => {
            let marked = memory.word(object.wrapping_sub(24));
            if marked & 1 == 0 { 0 } else { marked.wrapping_add(1) }
        }
        _ => {
            let size = memory.word(memory.word(object.wrapping_add(TYPE)).wrapping_add(TYPE_BASIC_SIZE));
            if size > 4096 { 0 } else { object.wrapping_add(size + 8) }
        }
    };
    if values == 0 { 0 } else { memory.word(values.wrapping_add(8 * index)) }
}

/// The way from a thread's current frame down to the function that runs a task.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Frames {
    frame: u64,
    /// The coroutine whose frame was passed last, if no function's was since.
    coroutine: u64,
    /// The last of all that were passed.
    outermost: u64,
    /// The task that runs, once found.
    pub task: u64,
}

impl Frames {
    /// The thread's current frame. `thread_pointer` is its `fs` base.
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
        let Frame { previous, owner, .. } = Frame::read(memory, layout, frame);
        if owner == OWNED_BY_GENERATOR {
            self.coroutine = frame.wrapping_sub(u64::from(layout.coroutine_frame));
            self.outermost = self.coroutine;
        } else if owner != OWNED_BY_C && self.coroutine != 0 {
            // A function runs a coroutine. `Handle._run(self)` does so for a task, through a callback of its handle.
            let handle = memory.word(frame.wrapping_add(u64::from(layout.frame_locals)));
            let callback = memory.word(handle.wrapping_add(HANDLE_CALLBACK));
            let holder = if memory.word(callback.wrapping_add(TYPE)) == process.builtin_type {
                BUILTIN_SELF
            } else {
                STEP_TASK
            };
            let task = memory.word(callback.wrapping_add(holder));
            if is_task_of(memory, process, task, self.coroutine) {
                self.task = task;
                return false;
            }
            self.coroutine = 0;
        }
        self.frame = previous;
        true
    }

    /// The end of the chain was reached.
    pub const fn is_at_end(&self) -> bool {
        self.frame == 0
    }

    /// Loops that are not written in Python have no frame: looks for the coroutine among the tasks that run.
    #[inline(always)]
    pub fn among_current<M: Memory>(&mut self, memory: &M, process: &PythonProcess) {
        if self.task != 0 || self.outermost == 0 || process.current_tasks == 0 {
            return;
        }
        let keys = memory.word(process.current_tasks.wrapping_add(DICT_KEYS));
        if memory.word(process.current_tasks.wrapping_add(DICT_USED)) == 0
            || memory.byte(keys.wrapping_add(KEYS_KIND)) != 0
        {
            return;
        }
        let indices = memory.byte(keys.wrapping_add(KEYS_LOG2_INDEX_BYTES));
        let entries = memory.word(keys.wrapping_add(KEYS_ENTRIES));
        let first = keys.wrapping_add(KEYS_INDICES + (1 << (indices & 15)));
        for index in 0..MAX_LOOPS {
            if index >= entries {
                break;
            }
            let task = memory.word(first.wrapping_add(24 * index + 16));
            if is_task_of(memory, process, task, self.outermost) {
                self.task = task;
                break;
            }
        }
    }
}

/// Why a chain of waiters ends.
pub mod chain_end {
    /// Nobody waits for its last task, or nobody that is known.
    pub const NOBODY: u8 = 0;
    /// Several do.
    pub const SEVERAL: u8 = 1;
    /// Something of the program's own does.
    pub const FOREIGN: u8 = 2;
    /// Objects do not confirm each other.
    pub const UNCLEAR: u8 = 3;
    /// There are more than are looked at.
    pub const CUT: u8 = 4;
}

/// A task, those that wait for it, and so on.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Chain {
    /// The task or future whose waiter is looked for.
    object: u64,
    pub tasks: [TaskId; CHAIN_TASKS],
    pub len: u32,
    /// [`chain_end`]
    pub end: u32,
}

impl Chain {
    #[inline(always)]
    pub fn begin<M: Memory>(&mut self, memory: &M, process: &PythonProcess, task: u64) {
        self.object = task;
        self.len = 1;
        self.end = u32::from(chain_end::CUT);
        self.tasks[0] = told(memory, process, task);
    }

    /// Without a task of its own: those that wait for a future of the loop's.
    #[inline(always)]
    pub fn begin_at(&mut self, future: u64) {
        self.object = future;
        self.len = 0;
        self.end = u32::from(chain_end::CUT);
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_CHAIN_STEPS`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &PythonProcess) -> bool {
        let object = self.object;
        let mut callback = memory.word(object.wrapping_add(FUTURE_CALLBACK));
        if callback == 0 {
            return self.ends(chain_end::NOBODY);
        }
        let more = memory.word(object.wrapping_add(FUTURE_MORE_CALLBACKS));
        if more != 0 {
            // `shield` has a callback on the future that it puts between, besides the waiter's; so has what waits for a pool.
            let own = is_of(memory, process, callback, process.tasks_globals)
                || is_of(memory, process, callback, process.futures_globals);
            if !own || is_task(memory, process, object) || memory.word(more.wrapping_add(LIST_LEN)) != 1 {
                return self.ends(chain_end::SEVERAL);
            }
            let pair = memory.word(memory.word(more.wrapping_add(LIST_ITEMS)));
            callback = memory.word(pair.wrapping_add(TUPLE_ITEMS));
        }
        let kind = memory.word(callback.wrapping_add(TYPE));
        if kind == process.builtin_type {
            // A task's own: it wakes up when the object is done.
            let waiter = memory.word(callback.wrapping_add(BUILTIN_SELF));
            if !is_task(memory, process, waiter) || awaited_by(memory, process, waiter) != object {
                return self.ends(chain_end::UNCLEAR);
            }
            return self.add(memory, process, waiter);
        }
        if kind == process.method_type {
            // A task group's: it belongs to the task that leaves it last.
            let function = memory.word(callback.wrapping_add(METHOD_FUNCTION));
            if !is_of(memory, process, function, process.groups_globals) {
                return self.ends(chain_end::FOREIGN);
            }
            let group = memory.word(callback.wrapping_add(METHOD_SELF));
            let parent = attribute(memory, &process.layout, group, GROUP_PARENT_TASK);
            if !is_task(memory, process, parent) {
                return self.ends(chain_end::UNCLEAR);
            }
            self.last_is_own();
            return self.add(memory, process, parent);
        }
        // `gather`, `wait`, `shield` and `wait_for` put a future between.
        let next = if kind == process.function_type {
            if memory.word(callback.wrapping_add(FUNCTION_GLOBALS)) != process.tasks_globals {
                return self.ends(chain_end::FOREIGN);
            }
            // Of a task that it made itself `gather` does not want to be told that it was destroyed.
            let layout = &process.layout;
            let logs = memory.half(object.wrapping_add(u64::from(layout.task_logs))) & layout.task_logs_bit;
            if logs == 0 && is_task(memory, process, object) {
                self.last_is_own();
            }
            self.enclosed(memory, memory.word(callback.wrapping_add(FUNCTION_CLOSURE)))
        } else if kind == process.partial_type && kind != 0 {
            let function = memory.word(callback.wrapping_add(PARTIAL_FUNCTION));
            if !is_of(memory, process, function, process.tasks_globals) {
                return self.ends(chain_end::FOREIGN);
            }
            let args = memory.word(callback.wrapping_add(PARTIAL_ARGS));
            memory.word(args.wrapping_add(TUPLE_ITEMS))
        } else {
            return self.ends(chain_end::FOREIGN);
        };
        if next == 0 || next == object || !self.is_future(memory, next) {
            return self.ends(chain_end::UNCLEAR);
        }
        self.object = next;
        true
    }

    /// The one future among a closure's variables.
    #[inline(always)]
    fn enclosed<M: Memory>(&self, memory: &M, closure: u64) -> u64 {
        let cells = memory.word(closure.wrapping_add(TUPLE_LEN));
        let mut found = 0;
        for index in 0..MAX_CELLS {
            if index >= cells {
                break;
            }
            let cell = memory.word(closure.wrapping_add(TUPLE_ITEMS + 8 * index));
            let value = memory.word(cell.wrapping_add(CELL_CONTENTS));
            if value != self.object && self.is_future(memory, value) {
                if found != 0 && found != value {
                    return 0;
                }
                found = value;
            }
        }
        found
    }

    /// Whether it is a future of the same loop, which somebody waits for.
    #[inline(always)]
    fn is_future<M: Memory>(&self, memory: &M, object: u64) -> bool {
        let own = memory.word(self.object.wrapping_add(FUTURE_LOOP));
        object != 0
            && object & 7 == 0
            && own != 0
            && memory.word(object.wrapping_add(FUTURE_LOOP)) == own
            && memory.word(object.wrapping_add(FUTURE_CALLBACK)) != 0
    }

    #[inline(always)]
    fn add<M: Memory>(&mut self, memory: &M, process: &PythonProcess, task: u64) -> bool {
        let len = self.len as usize;
        if len >= CHAIN_TASKS {
            return self.ends(chain_end::CUT);
        }
        self.tasks[len & (CHAIN_TASKS - 1)] = told(memory, process, task);
        self.len += 1;
        self.object = task;
        true
    }

    #[inline(always)]
    fn last_is_own(&mut self) {
        let task = &mut self.tasks[(self.len as usize).wrapping_sub(1) & (CHAIN_TASKS - 1)];
        if task.number != 0 {
            task.number |= OWN;
        }
    }

    #[inline(always)]
    fn ends(&mut self, end: u8) -> bool {
        self.end = u32::from(end);
        false
    }
}

/// Whether an object is a function of the module with these globals.
#[inline(always)]
fn is_of<M: Memory>(memory: &M, process: &PythonProcess, function: u64, globals: u64) -> bool {
    globals != 0
        && memory.word(function.wrapping_add(TYPE)) == process.function_type
        && memory.word(function.wrapping_add(FUNCTION_GLOBALS)) == globals
}

/// The way from a suspended task to the coroutine in which it waits.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Suspended {
    object: u64,
    /// Frame of the coroutine that was passed last.
    frame: u64,
    awaits: u64,
}

impl Suspended {
    /// Of a task as it was told. `None`: there is no such task any more, or it does not wait.
    #[inline(always)]
    pub fn begin<M: Memory>(memory: &M, process: &PythonProcess, task: TaskId) -> Option<Self> {
        let address = task.address;
        if !is_task(memory, process, address) || told(memory, process, address).number != task.number & !OWN {
            return None;
        }
        let awaits = awaited_by(memory, process, address);
        let object = memory.word(address.wrapping_add(u64::from(process.layout.task_coroutine)));
        if awaits == 0 { None } else { Some(Self { object, frame: 0, awaits }) }
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_AWAITS`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &PythonProcess) -> bool {
        let layout = &process.layout;
        if self.object == 0 || memory.word(self.object.wrapping_add(TYPE)) != process.coroutine_type {
            return false;
        }
        self.frame = self.object.wrapping_add(u64::from(layout.coroutine_frame));
        // What it awaits is the last value on its stack.
        let top = memory.half(self.frame.wrapping_add(u64::from(layout.frame_stack_top)));
        if top == 0 || top > 1024 {
            self.object = 0;
            return false;
        }
        let locals = self.frame.wrapping_add(u64::from(layout.frame_locals));
        self.object = memory.word(locals.wrapping_add(8 * (u64::from(top) - 1)));
        true
    }

    /// The code of the innermost coroutine; zero if there is none.
    #[inline(always)]
    pub(crate) fn code<M: Memory>(&self, memory: &M, process: &PythonProcess) -> u64 {
        if self.frame == 0 {
            0
        } else {
            memory.word(self.frame.wrapping_add(u64::from(process.layout.frame_code)))
        }
    }

    /// The future that it waits for.
    pub(crate) const fn awaits(&self) -> u64 {
        self.awaits
    }

    /// Whether it waits in the read of a stream whose bytes the current thread has just received: the function that
    /// received them works on the very transport that the stream reads from.
    #[inline(always)]
    pub fn waits_for_bytes<M: Memory>(
        &self,
        memory: &M,
        process: &PythonProcess,
        thread_pointer: u64,
    ) -> bool {
        let locals = u64::from(process.layout.frame_locals);
        let receiving = current_frame(memory, &process.layout, thread_pointer);
        let transport = memory.word(receiving.wrapping_add(locals));
        receiving != 0 && transport != 0 && self.reads_from(memory, process) == Some(transport)
    }

    /// The transport of the stream in whose read it waits.
    #[inline(always)]
    pub(crate) fn reads_from<M: Memory>(&self, memory: &M, process: &PythonProcess) -> Option<u64> {
        if self.frame == 0 {
            return None;
        }
        let layout = &process.layout;
        let reader = memory.word(self.frame.wrapping_add(u64::from(layout.frame_locals)));
        if reader == 0 || attribute(memory, layout, reader, READER_WAITER) != self.awaits {
            return None;
        }
        Some(attribute(memory, layout, reader, READER_TRANSPORT))
    }
}
