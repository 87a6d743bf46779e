//! CPython's memory: which task of an event loop runs on a thread, and which tasks wait for it.
//!
//! Both sides run these walks, the kernel half on the program's memory at a socket operation, user space on the same
//! memory when it examines a process and on made-up memory in tests. Every value that is read may be anything: the
//! program may be hostile, or move on meanwhile. So each step is taken only if the objects confirm each other (a
//! task is the one whose coroutine runs, a waiter waits for the very object), reading fails softly, and every loop is
//! bounded. What is not confirmed is not known.
//!
//! What it does not do: it runs nothing in the program, stops nothing, and knows no version: layouts are values.

use crate::python_frame::{Frame, OWNED_BY_GENERATOR, current_frame, local, thread_state, untagged};
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

/// Variables in a closure of the event loop's own library.
pub(crate) const MAX_CELLS: u64 = 8;

/// Loops that run at once in one process, as far as they are looked through.
const MAX_LOOPS: u64 = 8;

// Of every version that is known: an object's type, and the first words of common objects.
pub(crate) const TYPE: u64 = 8;
pub(crate) const TUPLE_LEN: u64 = 16;
pub(crate) const LIST_LEN: u64 = 16;
pub(crate) const LIST_ITEMS: u64 = 24;
pub(crate) const CELL_CONTENTS: u64 = 16;
pub(crate) const FUNCTION_GLOBALS: u64 = 16;
pub(crate) const FUNCTION_CLOSURE: u64 = 72;
pub(crate) const TEXT_LEN: u64 = 16;
pub(crate) const BUILTIN_SELF: u64 = 24;
const INT_TAG: u64 = 16;
const INT_DIGITS: u64 = 24;
const INT_IS_SMALL: u64 = 4;
const TYPE_BASIC_SIZE: u64 = 32;
/// Behind which is a word, and the table of keys.
const DICT_USED: u64 = 16;
const KEYS_LOG2_INDEX_BYTES: u64 = 9;
const KEYS_KIND: u64 = 10;
const KEYS_INDICES: u64 = 32;

// Of asyncio's objects: `Handle`, and the callback of a task's first step.
const HANDLE_CALLBACK: u64 = 24;
const STEP_TASK: u64 = 16;

/// Where fields are that differ between versions, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PythonLayout {
    /// From the thread pointer: the thread-specific value, or variable, that is the interpreter's thread state.
    pub thread_slot: i32,
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
    /// From the thread state: the task that runs on it; zero where a dictionary has those that run.
    pub thread_task: u32,
    /// Not zero: a frame has a pointer to the end of its stack, so many bytes behind what it awaits. Else it has how many
    /// values are on it, with its locals, and awaits the last.
    pub awaited_below: u32,
    /// From a tuple: its items.
    pub tuple_items: u32,
    // Which of an instance's values are attributes: the task of a group, the future and the transport of a stream that is read,
    // the callbacks of a pool's future.
    pub group_parent: u32,
    pub reader_waiter: u32,
    pub reader_transport: u32,
    pub future_callbacks: u32,
}

impl PythonLayout {
    /// Where a tuple has an item.
    #[inline(always)]
    pub(crate) const fn item(&self, tuple: u64, index: u64) -> u64 {
        tuple.wrapping_add(self.tuple_items as u64).wrapping_add(8 * index)
    }
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
    /// `ThreadPoolExecutor.submit`, which `run_in_executor` calls; zeroes where no pool was loaded.
    pub submit: Function,
    /// `Handle._run`, by which a loop runs a task's step; zeroes where it is not known.
    pub handle_run: Function,
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

/// Words of an object from its start, in which all is that is read of it.
const OBJECT_WORDS: usize = 21;

/// Words of the smallest objects that are looked at, where more cannot be read.
const SMALL_WORDS: usize = 6;

/// An object, read at once: a walk takes most of its time in reading.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Object {
    pub(crate) address: u64,
    /// Of these [`OBJECT_WORDS`] are read. As many as make any index one of them.
    words: [u64; 32],
}

impl Object {
    #[inline(always)]
    pub(crate) fn read<M: Memory>(&mut self, memory: &M, address: u64) {
        self.address = address;
        let [read @ .., _, _, _, _, _, _, _, _, _, _, _] = &mut self.words;
        let read: &mut [u64; OBJECT_WORDS] = read;
        memory.words(address, read);
        if read[1] == 0 && address != 0 {
            // Nothing has no type: it may be a small one at the end of what is mapped.
            let mut small = [0; SMALL_WORDS];
            memory.words(address, &mut small);
            let [first, second, third, fourth, fifth, sixth, ..] = read;
            (*first, *second, *third) = (small[0], small[1], small[2]);
            (*fourth, *fifth, *sixth) = (small[3], small[4], small[5]);
        }
    }

    #[inline(always)]
    pub(crate) fn word(&self, offset: impl Into<u64>) -> u64 {
        self.words[offset.into() as usize / 8 % 32]
    }

    #[inline(always)]
    pub(crate) fn half(&self, offset: u32) -> u32 {
        (self.word(offset) >> (8 * (offset & 4))) as u32
    }

    /// Whether all that a walk reads of objects of this layout is read.
    pub const fn fits(layout: &PythonLayout) -> bool {
        let end = 8 * OBJECT_WORDS as u32;
        let code = layout.coroutine_frame + layout.frame_code;
        is_below(layout.task_awaits, end)
            && is_below(layout.task_coroutine, end)
            && is_below(layout.task_name, end)
            && is_below(layout.task_logs & !4, end)
            && is_below(layout.text + 8, end)
            && is_below(code, end)
    }

    /// What it is.
    #[inline(always)]
    pub(crate) fn kind(&self) -> u64 {
        self.words[TYPE as usize / 8]
    }

    #[inline(always)]
    pub(crate) fn is_task(&self, process: &PythonProcess) -> bool {
        self.address != 0 && self.kind() == process.task_type
    }
}

/// Whether a word at this offset ends before another one.
const fn is_below(offset: u32, end: u32) -> bool {
    offset.is_multiple_of(8) && offset < end
}

/// What walks read into.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Scratch {
    /// The object that the walk is at.
    pub(crate) object: Object,
    /// What it refers to.
    pub(crate) other: Object,
}

/// What a number takes of its word as it is told. Above it is of which kind the task is, zero where the number is.
pub const NUMBER_BITS: u32 = 40;
const KIND_BITS: u32 = 23;

/// The last bit: what waits for the task has made it, a `gather` or a task group.
pub const OWN: u64 = 1 << (NUMBER_BITS + KIND_BITS);

/// A task that was read, as it is told.
#[inline(always)]
pub(crate) fn told<M: Memory>(memory: &M, process: &PythonProcess, scratch: &mut Scratch) -> TaskId {
    let Scratch { object: task, other } = scratch;
    let number = number(memory, process, task, other);
    if number == 0 || number >> NUMBER_BITS != 0 {
        return TaskId { address: task.address, number: 0 };
    }
    TaskId { address: task.address, number: number | kind(memory, process, task, other) << NUMBER_BITS }
}

/// What tasks have in common whose coroutines have the same code: what of its address tells it from others nearby. Of what is
/// no coroutine, the same of its type.
#[inline(always)]
fn kind<M: Memory>(memory: &M, process: &PythonProcess, task: &Object, other: &mut Object) -> u64 {
    let layout = &process.layout;
    other.read(memory, task.word(layout.task_coroutine));
    let kind = if other.kind() == process.coroutine_type {
        untagged(other.word(layout.coroutine_frame.wrapping_add(layout.frame_code)))
    } else {
        other.kind()
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
fn number<M: Memory>(memory: &M, process: &PythonProcess, task: &Object, other: &mut Object) -> u64 {
    let name = task.word(process.layout.task_name);
    if name == 0 {
        return 0;
    }
    other.read(memory, name);
    if other.kind() == process.int_type {
        // The sign is in the low bits, and since 3.14 whether it is one of the smallest; above, the number of digits of 30 bits:
        // one or two positive ones.
        let digits = other.word(INT_DIGITS);
        return match other.word(INT_TAG) & !INT_IS_SMALL {
            0x8 => digits & 0x3fff_ffff,
            0x10 => digits & 0x3fff_ffff | (digits >> 32 & 0x3fff_ffff) << 30,
            _ => 0,
        };
    }
    let text = process.layout.text;
    let (first, second) = (other.word(text), other.word(text.wrapping_add(8)));
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

/// The value of an attribute, which comes behind `index` others; zero if it is kept elsewhere.
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
    /// The one of the only task that runs anywhere in the process, or that runs on the thread where that is known, and the
    /// task; zeroes where there is no such task.
    only: u64,
    only_task: u64,
    /// The task that runs, once found: the object that was read last.
    pub task: u64,
    /// 1: it runs inside of a coroutine's step, not of the loop's.
    pub is_within: u64,
}

/// Tasks that run, one per loop, as their dictionary has them.
struct Running {
    used: u64,
    entries: u64,
    /// The first entry.
    first: u64,
}

impl Running {
    #[inline(always)]
    fn of<M: Memory>(memory: &M, process: &PythonProcess) -> Option<Self> {
        if process.current_tasks == 0 {
            return None;
        }
        let mut dict = [0; 3];
        memory.words(process.current_tasks.wrapping_add(DICT_USED), &mut dict);
        let [used, _, keys] = dict;
        let mut table = [0; 4];
        memory.words(keys, &mut table);
        let [_, kinds, _, entries] = table;
        let byte = |at: u64| kinds >> (8 * (at & 7)) & 0xff;
        if keys == 0 || byte(KEYS_KIND) != 0 {
            return None;
        }
        let first = keys.wrapping_add(KEYS_INDICES + (1 << (byte(KEYS_LOG2_INDEX_BYTES) & 15)));
        Some(Self { used, entries, first })
    }

    /// The task of an entry; zero where none is any more.
    #[inline(always)]
    fn task<M: Memory>(&self, memory: &M, index: u64) -> u64 {
        memory.word(self.first.wrapping_add(24 * index + 16))
    }
}

impl Frames {
    /// The thread's current frame. `thread_pointer` is its `fs` base.
    #[inline(always)]
    pub fn begin<M: Memory>(
        memory: &M,
        process: &PythonProcess,
        thread_pointer: u64,
        scratch: &mut Scratch,
    ) -> Self {
        let mut frames = Self::default();
        let layout = &process.layout;
        let mut task = 0;
        if layout.thread_task != 0 {
            let thread = thread_state(memory, layout, thread_pointer);
            task = memory.word(thread.wrapping_add(u64::from(layout.thread_task)));
            if thread == 0 || task == 0 {
                return frames;
            }
        } else if let Some(running) = Running::of(memory, process) {
            if running.used == 0 {
                return frames;
            }
            if running.used == 1 {
                for index in 0..MAX_LOOPS {
                    if index >= running.entries || task != 0 {
                        break;
                    }
                    task = running.task(memory, index);
                }
            }
        }
        if task != 0 {
            scratch.object.read(memory, task);
            if scratch.object.is_task(process) {
                frames.only = scratch.object.word(layout.task_coroutine);
                frames.only_task = task;
            }
        }
        frames.frame = current_frame(memory, layout, thread_pointer);
        frames
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_FRAMES`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &PythonProcess, scratch: &mut Scratch) -> bool {
        let layout = &process.layout;
        let frame = self.frame;
        if frame == 0 {
            return false;
        }
        let known = Frame::read(memory, layout, frame);
        if known.owner == OWNED_BY_GENERATOR {
            self.coroutine = frame.wrapping_sub(u64::from(layout.coroutine_frame));
            self.outermost = self.coroutine;
            if self.coroutine == self.only {
                self.task = self.only_task;
                return false;
            }
        } else if !known.is_of_c() && self.coroutine != 0 {
            // A function runs a coroutine. `Handle._run(self)` does so for a task, through a callback of its handle.
            if self.only == 0 {
                let handle = local(memory, layout, frame, 0);
                scratch.other.read(memory, memory.word(handle.wrapping_add(HANDLE_CALLBACK)));
                let holder =
                    if scratch.other.kind() == process.builtin_type { BUILTIN_SELF } else { STEP_TASK };
                let task = scratch.other.word(holder);
                if self.is_task(memory, process, task, self.coroutine, scratch) {
                    return false;
                }
            }
            self.coroutine = 0;
        }
        self.frame = known.previous;
        true
    }

    /// Begins to look at what runs the task that was found; false: that is not known.
    #[inline(always)]
    pub fn begin_within<M: Memory>(&mut self, memory: &M, process: &PythonProcess) -> bool {
        if self.frame == 0 || self.only == 0 || process.handle_run.code == 0 {
            return false;
        }
        self.frame = Frame::read(memory, &process.layout, self.frame).previous;
        true
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_FRAMES`] times at most.
    #[inline(always)]
    pub fn step_within<M: Memory>(&mut self, memory: &M, process: &PythonProcess) -> bool {
        if self.frame == 0 {
            return false;
        }
        let known = Frame::read(memory, &process.layout, self.frame);
        self.frame = known.previous;
        self.is_within = u64::from(known.owner == OWNED_BY_GENERATOR);
        self.is_within == 0 && (known.is_of_c() || known.code != process.handle_run.code)
    }

    /// Whether an object is a task whose coroutine is this one, which is what was looked for then.
    #[inline(always)]
    fn is_task<M: Memory>(
        &mut self,
        memory: &M,
        process: &PythonProcess,
        task: u64,
        coroutine: u64,
        scratch: &mut Scratch,
    ) -> bool {
        scratch.object.read(memory, task);
        let found = scratch.object.is_task(process)
            && scratch.object.word(process.layout.task_coroutine) == coroutine;
        if found {
            self.task = task;
        }
        found
    }

    /// Loops that are not written in Python have no frame: looks for the coroutine among the tasks that run.
    #[inline(always)]
    pub fn among_current<M: Memory>(&mut self, memory: &M, process: &PythonProcess, scratch: &mut Scratch) {
        if self.frame != 0 || self.task != 0 || self.outermost == 0 || self.only != 0 {
            return;
        }
        let Some(running) = Running::of(memory, process) else {
            return;
        };
        for index in 0..MAX_LOOPS {
            if index >= running.entries {
                break;
            }
            let task = running.task(memory, index);
            if self.is_task(memory, process, task, self.outermost, scratch) {
                break;
            }
        }
    }
}
