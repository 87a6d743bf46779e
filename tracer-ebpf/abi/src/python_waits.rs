//! CPython's memory: what a thread that sleeps in a lock waits for.
//!
//! The innermost functions of its stack say so, if they are those of the interpreter's own library: a thread that waits
//! for a future's result is in `Condition.wait`, called by `Future.result`. A function is known by the address of its code
//! object, and by that object's name being the same object as when it was looked up: code that was freed, and another
//! one in its place, has another name. The program's own functions are known by none, so that its waits are waits for
//! anything.
//!
//! | innermost functions | the thread waits for |
//! |---|---|
//! | `Condition.wait` of `Future.result` or `.exception` | the result of a future |
//! | `Condition.wait` of `Event.wait` of `futures.wait` or `as_completed` | the results of several |
//! | `Thread.join`, or what that calls | the end of a thread |
//! | any others | anything else |
//!
//! Both sides run it, as all walks: the kernel half while it is woken, on the memory that it shares with the thread
//! that wakes it. It sleeps, so that its frames stay as they are. Every value that is read may be anything all the same.

use crate::event::Awaited;
use crate::python::{Memory, PythonLayout, TYPE};
use crate::python_frame::{Frame, current_frame, local, thread_state};

/// Functions that are known: [`function`].
pub const FUNCTIONS: usize = 10;

/// Frames that are looked at: those of three functions, and what C puts between them.
pub const MAX_STEPS: u32 = 8;

/// From a thread state: its interpreter.
pub const THREAD_INTERPRETER: u64 = 16;

/// From a code object: its qualified name.
pub const CODE_NAME: u64 = 128;

/// Places in [`PythonWaits::functions`].
pub mod function {
    pub const CONDITION_WAIT: usize = 0;
    pub const EVENT_WAIT: usize = 1;
    pub const FUTURE_RESULT: usize = 2;
    pub const FUTURE_EXCEPTION: usize = 3;
    pub const FUTURES_WAIT: usize = 4;
    pub const AS_COMPLETED: usize = 5;
    pub const THREAD_JOIN: usize = 6;
    /// What `join` calls, before 3.13.
    pub const THREAD_ENDS: usize = 7;
    /// See [`crate::python_work`].
    pub const WORK_RUN: usize = 8;
    pub const SUBMIT: usize = 9;
}

/// A function, by its code object and that one's name. Zeroes: it is not loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Function {
    pub code: u64,
    pub name: u64,
}

/// A process whose threads' waits are known, the value of the kernel half's table of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PythonWaits {
    /// `group_leader->start_boottime`, in nanoseconds.
    pub start_boottime: u64,
    /// Where the interpreter has its own variables, and where they end: a futex there is its lock, for which any thread
    /// may wait at any time.
    pub own: u64,
    pub own_end: u64,
    /// The one interpreter whose lock is there: a thread of another one waits for a lock elsewhere.
    pub interpreter: u64,
    pub code_type: u64,
    /// Classes of a pool's work items and of futures, and the type of sets. Zero: not loaded.
    pub work_type: u64,
    pub future_type: u64,
    pub set_type: u64,
    /// 1: a probe sees every submit to its pools, so that none is looked for where a thread is woken.
    pub sees_submits: u64,
    /// What the kernel half spent on this process, and how often it looked.
    pub spent_nanos: u64,
    pub looks: u64,
    pub functions: [Function; FUNCTIONS],
    pub layout: PythonLayout,
}

impl PythonWaits {
    /// Whether the library of futures and of pools was loaded when it was looked at.
    pub const fn knows_futures(&self) -> bool {
        self.functions[function::FUTURE_RESULT].code != 0 && self.functions[function::WORK_RUN].code != 0
    }

    #[inline(always)]
    pub const fn is_own(&self, futex: u64) -> bool {
        futex >= self.own && futex < self.own_end
    }

    #[inline(always)]
    pub(crate) fn is<M: Memory>(&self, memory: &M, code: u64, function: usize) -> bool {
        let known = &self.functions[function];
        code != 0
            && code == known.code
            && memory.word(code.wrapping_add(TYPE)) == self.code_type
            && memory.word(code.wrapping_add(CODE_NAME)) == known.name
    }
}

/// The way from a thread's innermost frame to the function that says what it waits for.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Waiting {
    /// The next one outwards.
    pub(crate) frame: u64,
    /// First local of the function that says what is waited for, if it is a result: the future, or a set of them.
    pub(crate) object: u64,
    /// [`Awaited`]
    awaited: u32,
    /// [`place`]
    place: u32,
}

/// How far [`Waiting`] has come.
mod place {
    pub(super) const INNERMOST: u32 = 0;
    pub(super) const CONDITION: u32 = 1;
    pub(super) const EVENT: u32 = 2;
}

impl Waiting {
    /// `thread_pointer` is the waiting thread's `fs` base.
    #[inline(always)]
    pub fn begin<M: Memory>(memory: &M, process: &PythonWaits, thread_pointer: u64) -> Self {
        let thread = thread_state(memory, &process.layout, thread_pointer);
        if thread == 0 || memory.word(thread.wrapping_add(THREAD_INTERPRETER)) != process.interpreter {
            return Self::default();
        }
        Self { frame: current_frame(memory, &process.layout, thread_pointer), ..Self::default() }
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_STEPS`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &PythonWaits) -> bool {
        let layout = &process.layout;
        let frame = self.frame;
        if frame == 0 {
            return false;
        }
        let known = Frame::read(memory, layout, frame);
        self.frame = known.previous;
        if known.is_of_c() {
            return true;
        }
        let code = known.code;
        if code == 0 || memory.word(code.wrapping_add(TYPE)) != process.code_type {
            // No stack of the interpreter's.
            self.awaited = Awaited::Unknown as u32;
            return false;
        }
        self.awaited = Awaited::Other as u32;
        let is = |function| process.is(memory, code, function);
        let result = match self.place {
            place::INNERMOST => {
                if is(function::CONDITION_WAIT) {
                    self.place = place::CONDITION;
                    return true;
                }
                is(function::THREAD_JOIN) || is(function::THREAD_ENDS)
            }
            place::CONDITION => {
                if is(function::EVENT_WAIT) {
                    self.place = place::EVENT;
                    return true;
                }
                is(function::FUTURE_RESULT) || is(function::FUTURE_EXCEPTION)
            }
            _ => is(function::FUTURES_WAIT) || is(function::AS_COMPLETED),
        };
        if result {
            self.awaited = Awaited::Result as u32;
            self.object = local(memory, layout, frame, 0);
        }
        false
    }

    /// [`Awaited`]
    #[inline(always)]
    pub const fn awaited(&self) -> u16 {
        self.awaited as u16
    }
}
