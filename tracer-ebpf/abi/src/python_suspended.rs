//! CPython's memory: where a task waits.

use crate::python::{Memory, OWN, PythonProcess, Scratch, TYPE, TaskId, attribute, told};
use crate::python_frame::{current_frame, local, untagged};

/// Coroutines that a suspended task awaits one through the other, as far as they are followed: a framework's, with what it puts
/// around each request, are some twenty.
pub const MAX_AWAITS: u32 = 48;

/// Values that a coroutine has on its stack, with its locals.
const MAX_STACK: u64 = 1024;

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
    pub fn begin<M: Memory>(
        memory: &M,
        process: &PythonProcess,
        task: TaskId,
        scratch: &mut Scratch,
    ) -> Option<Self> {
        scratch.object.read(memory, task.address);
        if !scratch.object.is_task(process) || told(memory, process, scratch).number != task.number & !OWN {
            return None;
        }
        let awaits = scratch.object.word(process.layout.task_awaits);
        let object = scratch.object.word(process.layout.task_coroutine);
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
        let locals = self.frame.wrapping_add(u64::from(layout.frame_locals));
        let top = self.frame.wrapping_add(u64::from(layout.frame_stack_top));
        let awaited = match layout.awaited_below {
            0 => (8 * u64::from(memory.half(top))).wrapping_sub(8),
            below => memory.word(top).wrapping_sub(locals).wrapping_sub(u64::from(below)),
        };
        if awaited >= 8 * MAX_STACK || awaited & 7 != 0 {
            self.object = 0;
            return false;
        }
        self.object = untagged(memory.word(locals.wrapping_add(awaited)));
        true
    }

    /// The code of the innermost coroutine; zero if there is none.
    #[inline(always)]
    pub(crate) fn code<M: Memory>(&self, memory: &M, process: &PythonProcess) -> u64 {
        if self.frame == 0 {
            0
        } else {
            untagged(memory.word(self.frame.wrapping_add(u64::from(process.layout.frame_code))))
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
        let receiving = current_frame(memory, &process.layout, thread_pointer);
        let transport = local(memory, &process.layout, receiving, 0);
        receiving != 0 && transport != 0 && self.reads_from(memory, process) == Some(transport)
    }

    /// The transport of the stream in whose read it waits.
    #[inline(always)]
    pub(crate) fn reads_from<M: Memory>(&self, memory: &M, process: &PythonProcess) -> Option<u64> {
        if self.frame == 0 {
            return None;
        }
        let layout = &process.layout;
        let reader = local(memory, layout, self.frame, 0);
        if reader == 0 || attribute(memory, layout, reader, u64::from(layout.reader_waiter)) != self.awaits {
            return None;
        }
        Some(attribute(memory, layout, reader, u64::from(layout.reader_transport)))
    }
}
