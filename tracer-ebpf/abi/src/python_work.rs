//! CPython's memory: which work items of pools a thread has to do with.
//!
//! `ThreadPoolExecutor.submit` makes a work item, which has a future. A thread of the pool runs the item and sets the
//! future's result, and whoever asked for the result is woken. So these are read:
//!
//! | of a thread that | is read | where |
//! |---|---|---|
//! | uses a socket | the item inside of which it does, and its future | `_WorkItem.run`, the innermost of its stack |
//! | waits for results | the futures | `Future.result`, `.exception`: their first local; `wait`, `as_completed`: a set |
//! | submits | the future | `ThreadPoolExecutor.submit`, if that is the innermost function |
//!
//! A future's address alone says nothing once the future may have been freed. As long as a thread waits for it, or is
//! inside of its item, it cannot be; that is for who compares them to see to.
//!
//! Functions are known as in [`crate::python_waits`]; an item and a future must be of exactly the library's classes.

use crate::python::{Memory, TYPE, TaskId, attribute};
use crate::python_frame::{Frame, calling, current_frame, local, thread_state};
use crate::python_waits::{PythonWaits, THREAD_INTERPRETER, Waiting, function};

/// Futures that are told of one wait.
pub const MAX_FUTURES: usize = 8;

/// Frames that are passed on the way to an item: those of frameworks and clients are a few dozen.
pub const MAX_FRAMES: u32 = 96;

/// Places of a set that are looked at: room for eighteen futures.
pub const MAX_PLACES: u32 = 32;

const SET_MASK: u64 = 32;
const SET_TABLE: u64 = 40;
const SET_PLACE: u64 = 16;

/// The attribute that an item's constructor sets first.
const WORK_FUTURE: u64 = 0;

/// Locals of `submit`: the future, and behind it the work item, since 3.14 with what it is to do between them.
pub(crate) const SUBMIT_FUTURE: u64 = 4;

#[inline(always)]
fn is_future<M: Memory>(memory: &M, process: &PythonWaits, object: u64) -> bool {
    object != 0 && process.future_type != 0 && memory.word(object.wrapping_add(TYPE)) == process.future_type
}

/// The future of a work item; zero if it is none.
#[inline(always)]
fn future_of<M: Memory>(memory: &M, process: &PythonWaits, work: u64) -> u64 {
    if work == 0 || process.work_type == 0 || memory.word(work.wrapping_add(TYPE)) != process.work_type {
        return 0;
    }
    let future = attribute(memory, &process.layout, work, WORK_FUTURE);
    if is_future(memory, process, future) { future } else { 0 }
}

/// The way from a frame outwards to the work item inside of which it is.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Working {
    frame: u64,
    /// The item and, as its number, its future; zeroes as long as there is none.
    pub work: TaskId,
}

impl Working {
    /// From the thread's innermost frame. `thread_pointer` is its `fs` base.
    #[inline(always)]
    pub fn begin<M: Memory>(memory: &M, process: &PythonWaits, thread_pointer: u64) -> Self {
        Self::at(innermost(memory, process, thread_pointer))
    }

    #[inline(always)]
    const fn at(frame: u64) -> Self {
        Self { frame, work: TaskId { address: 0, number: 0 } }
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_FRAMES`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &PythonWaits) -> bool {
        let frame = self.frame;
        if frame == 0 {
            return false;
        }
        let Frame { code, previous, .. } = Frame::read(memory, &process.layout, frame);
        if process.is(memory, code, function::WORK_RUN) {
            // What is not confirmed is not known: another one further out is not the one that runs here.
            let work = local(memory, &process.layout, frame, 0);
            let future = future_of(memory, process, work);
            if future != 0 {
                self.work = TaskId { address: work, number: future };
            }
            return false;
        }
        self.frame = previous;
        true
    }
}

/// The futures that two threads have to do with, of which one wakes the other.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Futures {
    /// As in [`crate::event::WokenForRecord`].
    pub futures: [u64; MAX_FUTURES],
    /// The item that is being submitted; zero if none is.
    pub submitted: u64,
    pub within: Working,
    len: u32,
    place: u32,
    table: u64,
    places: u64,
}

impl Futures {
    /// Begins anew with those that a thread waits for whose way to what it waits for was taken. If this says so,
    /// [`Self::step`] is to be called, [`MAX_PLACES`] times at most.
    #[inline(always)]
    pub fn await_results<M: Memory>(&mut self, memory: &M, process: &PythonWaits, waiting: &Waiting) -> bool {
        *self = Self { within: Working::at(waiting.frame), ..Self::default() };
        let object = waiting.object;
        if is_future(memory, process, object) {
            self.futures[0] = object;
            self.len = 1;
            return false;
        }
        if object == 0 || process.set_type == 0 || memory.word(object.wrapping_add(TYPE)) != process.set_type
        {
            return false;
        }
        self.places = memory.word(object.wrapping_add(SET_MASK)).wrapping_add(1);
        self.table = memory.word(object.wrapping_add(SET_TABLE));
        true
    }

    /// Looks at the next place of a set; true if another one is to be looked at.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &PythonWaits) -> bool {
        if u64::from(self.place) >= self.places {
            return false;
        }
        let place = self.table.wrapping_add(SET_PLACE.wrapping_mul(u64::from(self.place)));
        self.place += 1;
        let object = memory.word(place);
        if is_future(memory, process, object) {
            let len = self.len as usize;
            if len >= MAX_FUTURES {
                return false;
            }
            self.futures[len & (MAX_FUTURES - 1)] = object;
            self.len += 1;
        }
        true
    }

    /// Begins anew with the one that a thread is submitting: none if it does anything else.
    #[inline(always)]
    pub fn submit<M: Memory>(&mut self, memory: &M, process: &PythonWaits, thread_pointer: u64) {
        *self = Self::default();
        let layout = &process.layout;
        let (frame, known) = calling(memory, layout, innermost(memory, process, thread_pointer));
        if frame == 0 || !process.is(memory, known.code, function::SUBMIT) {
            return;
        }
        let future = local(memory, layout, frame, SUBMIT_FUTURE);
        let mut work = local(memory, layout, frame, SUBMIT_FUTURE + 1);
        let mut of_work = future_of(memory, process, work);
        if of_work == 0 {
            work = local(memory, layout, frame, SUBMIT_FUTURE + 2);
            of_work = future_of(memory, process, work);
        }
        if future != 0 && of_work == future {
            self.futures[0] = future;
            self.submitted = work;
            self.len = 1;
            self.within = Working::at(known.previous);
        }
    }

    #[inline(always)]
    pub const fn any(&self) -> bool {
        self.len > 0
    }

    #[inline(always)]
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// One that is known otherwise, and the item inside of which its result is waited for.
    #[inline(always)]
    pub fn of_one(&mut self, future: u64, within: TaskId) {
        *self = Self { within: Working { frame: 0, work: within }, len: 1, ..Self::default() };
        self.futures[0] = future;
    }
}

/// The frame that a thread of the known interpreter is in; zero for other threads.
#[inline(always)]
fn innermost<M: Memory>(memory: &M, process: &PythonWaits, thread_pointer: u64) -> u64 {
    let thread = thread_state(memory, &process.layout, thread_pointer);
    if thread == 0 || memory.word(thread.wrapping_add(THREAD_INTERPRETER)) != process.interpreter {
        return 0;
    }
    current_frame(memory, &process.layout, thread_pointer)
}
