//! CPython's memory: the tasks that wait for a task, one for the other.

use crate::python::{
    BUILTIN_SELF, CELL_CONTENTS, CHAIN_TASKS, FUNCTION_CLOSURE, FUNCTION_GLOBALS, LIST_ITEMS, LIST_LEN,
    MAX_CELLS, Memory, OWN, Object, PythonProcess, Scratch, TUPLE_LEN, TYPE, TaskId, attribute, told,
};

/// Objects between waiters: a task, and the future of a `gather` or `wait` between it and the next.
pub const MAX_CHAIN_STEPS: u32 = 16;

const METHOD_FUNCTION: u64 = 16;
const METHOD_SELF: u64 = 24;
const PARTIAL_FUNCTION: u64 = 16;
const PARTIAL_ARGS: u64 = 24;

// Of `Future`, and what `Task` shares with it.
const FUTURE_LOOP: u64 = 16;
const FUTURE_CALLBACK: u64 = 24;
const FUTURE_MORE_CALLBACKS: u64 = 40;

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
    /// With the task that was read last.
    #[inline(always)]
    pub fn begin<M: Memory>(&mut self, memory: &M, process: &PythonProcess, scratch: &mut Scratch) {
        self.object = scratch.object.address;
        self.len = 1;
        self.end = u32::from(chain_end::CUT);
        self.tasks[0] = told(memory, process, scratch);
    }

    /// Without a task of its own: those that wait for a future of the loop's.
    #[inline(always)]
    pub fn begin_at<M: Memory>(&mut self, memory: &M, future: u64, scratch: &mut Scratch) {
        scratch.object.read(memory, future);
        self.object = future;
        self.len = 0;
        self.end = u32::from(chain_end::CUT);
    }

    /// Puts another one before all of them, the last of whom has no room any more if there are too many.
    #[inline(always)]
    pub fn begins_with(&mut self, task: TaskId) {
        for place in (1..CHAIN_TASKS).rev() {
            self.tasks[place] = self.tasks[place - 1];
        }
        self.tasks[0] = task;
        if self.len as usize >= CHAIN_TASKS {
            self.end = u32::from(chain_end::CUT);
        } else {
            self.len += 1;
        }
    }

    /// Behind the task that it has so far comes another one, inside of whose step that one was made and runs.
    #[inline(always)]
    pub fn is_made_by<M: Memory>(
        &mut self,
        memory: &M,
        process: &PythonProcess,
        maker: u64,
        scratch: &mut Scratch,
    ) {
        scratch.other.read(memory, maker);
        if maker != self.object && scratch.other.is_task(process) {
            scratch.object.read(memory, maker);
            self.last_is_own();
            self.add(memory, process, scratch);
        }
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_CHAIN_STEPS`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &PythonProcess, scratch: &mut Scratch) -> bool {
        let object = self.object;
        let mut callback = scratch.object.word(FUTURE_CALLBACK);
        if callback == 0 {
            return self.ends(chain_end::NOBODY);
        }
        let more = scratch.object.word(FUTURE_MORE_CALLBACKS);
        if more != 0 {
            // `shield` has a callback on the future that it puts between, besides the waiter's; so has what waits for a pool.
            let own = is_of(memory, process, callback, process.tasks_globals)
                || is_of(memory, process, callback, process.futures_globals);
            if !own || memory.word(more.wrapping_add(LIST_LEN)) != 1 {
                return self.ends(chain_end::SEVERAL);
            }
            let pair = memory.word(memory.word(more.wrapping_add(LIST_ITEMS)));
            // Since 3.14 it has two on a task as well, of which the first one wakes nobody up.
            if scratch.object.is_task(process) && !takes_note(memory, process, callback) {
                return self.ends(chain_end::SEVERAL);
            }
            callback = memory.word(process.layout.item(pair, 0));
        }
        scratch.other.read(memory, callback);
        let found = scratch.other.kind();
        if found == process.builtin_type {
            // A task's own: it wakes up when the object is done.
            let waiter = scratch.other.word(BUILTIN_SELF);
            scratch.object.read(memory, waiter);
            if !scratch.object.is_task(process) || scratch.object.word(process.layout.task_awaits) != object {
                return self.ends(chain_end::UNCLEAR);
            }
            return self.add(memory, process, scratch);
        }
        if found == process.method_type {
            // A task group's: it belongs to the task that leaves it last.
            let (function, group) = (scratch.other.word(METHOD_FUNCTION), scratch.other.word(METHOD_SELF));
            if !is_of(memory, process, function, process.groups_globals) {
                return self.ends(chain_end::FOREIGN);
            }
            let parent = attribute(memory, &process.layout, group, u64::from(process.layout.group_parent));
            scratch.object.read(memory, parent);
            if !scratch.object.is_task(process) {
                return self.ends(chain_end::UNCLEAR);
            }
            self.last_is_own();
            return self.add(memory, process, scratch);
        }
        // `gather`, `wait`, `shield` and `wait_for` put a future between.
        let next = if found == process.function_type {
            if scratch.other.word(FUNCTION_GLOBALS) != process.tasks_globals {
                return self.ends(chain_end::FOREIGN);
            }
            // Of a task that it made itself `gather` does not want to be told that it was destroyed.
            let layout = &process.layout;
            let logs = scratch.object.half(layout.task_logs) & layout.task_logs_bit;
            if logs == 0 && scratch.object.is_task(process) {
                self.last_is_own();
            }
            self.enclosed(memory, process, scratch.other.word(FUNCTION_CLOSURE), &scratch.object)
        } else if found == process.partial_type && found != 0 {
            let (function, args) = (scratch.other.word(PARTIAL_FUNCTION), scratch.other.word(PARTIAL_ARGS));
            if !is_of(memory, process, function, process.tasks_globals) {
                return self.ends(chain_end::FOREIGN);
            }
            memory.word(process.layout.item(args, 0))
        } else {
            return self.ends(chain_end::FOREIGN);
        };
        if next == 0 || next == object || !is_future(memory, &scratch.object, next) {
            return self.ends(chain_end::UNCLEAR);
        }
        self.object = next;
        scratch.object.read(memory, next);
        true
    }

    /// The one future among a closure's variables, besides tasks: some have the one that waits.
    #[inline(always)]
    fn enclosed<M: Memory>(&self, memory: &M, process: &PythonProcess, closure: u64, object: &Object) -> u64 {
        let cells = memory.word(closure.wrapping_add(TUPLE_LEN));
        let mut found = 0;
        for index in 0..MAX_CELLS {
            if index >= cells {
                break;
            }
            let cell = memory.word(process.layout.item(closure, index));
            let value = memory.word(cell.wrapping_add(CELL_CONTENTS));
            if value != self.object
                && is_future(memory, object, value)
                && memory.word(value.wrapping_add(TYPE)) != process.task_type
            {
                if found != 0 && found != value {
                    return 0;
                }
                found = value;
            }
        }
        found
    }

    #[inline(always)]
    fn add<M: Memory>(&mut self, memory: &M, process: &PythonProcess, scratch: &mut Scratch) -> bool {
        let len = self.len as usize;
        if len >= CHAIN_TASKS {
            return self.ends(chain_end::CUT);
        }
        self.tasks[len & (CHAIN_TASKS - 1)] = told(memory, process, scratch);
        self.len += 1;
        self.object = scratch.object.address;
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

/// Whether something is a future of the same loop as an object is of, which somebody waits for.
#[inline(always)]
fn is_future<M: Memory>(memory: &M, object: &Object, other: u64) -> bool {
    let own = object.word(FUTURE_LOOP);
    other != 0
        && other & 7 == 0
        && own != 0
        && memory.word(other.wrapping_add(FUTURE_LOOP)) == own
        && memory.word(other.wrapping_add(FUTURE_CALLBACK)) != 0
}

/// Whether a function of the tasks' library does no more when a task is done than to take note that somebody waits for it no
/// longer: its closure has that task alone.
#[inline(always)]
fn takes_note<M: Memory>(memory: &M, process: &PythonProcess, function: u64) -> bool {
    let closure = memory.word(function.wrapping_add(FUNCTION_CLOSURE));
    let cell = memory.word(process.layout.item(closure, 0));
    let value = memory.word(cell.wrapping_add(CELL_CONTENTS));
    is_of(memory, process, function, process.tasks_globals)
        && memory.word(closure.wrapping_add(TUPLE_LEN)) == 1
        && value != 0
        && memory.word(value.wrapping_add(TYPE)) == process.task_type
}

/// Whether an object is a function of the module with these globals.
#[inline(always)]
fn is_of<M: Memory>(memory: &M, process: &PythonProcess, function: u64, globals: u64) -> bool {
    globals != 0
        && memory.word(function.wrapping_add(TYPE)) == process.function_type
        && memory.word(function.wrapping_add(FUNCTION_GLOBALS)) == globals
}
