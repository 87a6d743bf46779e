//! CPython's memory: a thread's stack of frames.

use crate::python::{Memory, PythonLayout};

/// Words that a frame begins with, in which all is that is read of it but its locals.
const WORDS: usize = OWNER + 2;

/// One of this and the next has the owner, behind the others.
const OWNER: usize = 8;

// Who owns a frame.
pub(crate) const OWNED_BY_GENERATOR: u8 = 1;
/// From this on: none of a function's.
pub const OWNED_BY_C: u8 = 3;
/// The last that there is, since 3.14.
pub const LAST_OWNER: u8 = 4;

/// What a frame refers to: since 3.14 the lowest bits say how the reference is counted.
#[inline(always)]
pub const fn untagged(reference: u64) -> u64 {
    reference & !7
}

/// What a frame has in all versions: read at once, as a walk takes most of its time in reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub code: u64,
    /// The next one outwards.
    pub previous: u64,
    pub owner: u8,
}

impl Frame {
    #[inline(always)]
    pub fn read<M: Memory>(memory: &M, layout: &PythonLayout, frame: u64) -> Self {
        let mut words = [0; WORDS];
        memory.words(frame, &mut words);
        // Compared with each place: the kernel's verifier does not follow an index that it does not know.
        let word = |offset: u32| {
            let mut at = 0;
            let mut found = 0;
            while at < OWNER {
                if offset as usize == 8 * at {
                    found = words[at];
                }
                at += 1;
            }
            found
        };
        let of_owner = if layout.frame_owner as usize / 8 == OWNER { words[OWNER] } else { words[OWNER + 1] };
        Self {
            code: untagged(word(layout.frame_code)),
            previous: word(layout.frame_previous),
            owner: (of_owner >> (8 * (layout.frame_owner & 7))) as u8,
        }
    }

    /// Whether no function's code runs in it.
    #[inline(always)]
    pub(crate) const fn is_of_c(&self) -> bool {
        self.owner >= OWNED_BY_C
    }

    /// Whether [`Self::read`] finds what this layout says.
    pub const fn fits(layout: &PythonLayout) -> bool {
        let end = 8 * OWNER as u32;
        layout.frame_code < end
            && layout.frame_code.is_multiple_of(8)
            && layout.frame_previous < end
            && layout.frame_previous.is_multiple_of(8)
            && layout.frame_owner >= end
            && layout.frame_owner < end + 16
    }
}

/// The interpreter's state of a thread. `thread_pointer` is its `fs` base.
#[inline(always)]
pub(crate) fn thread_state<M: Memory>(memory: &M, layout: &PythonLayout, thread_pointer: u64) -> u64 {
    memory.word(thread_pointer.wrapping_add_signed(i64::from(layout.thread_slot)))
}

/// The frame that a thread runs. `thread_pointer` is its `fs` base.
#[inline(always)]
pub(crate) fn current_frame<M: Memory>(memory: &M, layout: &PythonLayout, thread_pointer: u64) -> u64 {
    let thread = thread_state(memory, layout, thread_pointer);
    if thread == 0 {
        return 0;
    }
    let frame = memory.word(thread.wrapping_add(u64::from(layout.thread_frame)));
    if layout.is_indirect == 0 || frame == 0 {
        return frame;
    }
    memory.word(frame.wrapping_add(u64::from(layout.indirect_frame)))
}

/// Frames of C's between a function and what it calls of C's.
const MAX_INNER: u32 = 2;

/// The function of Python's that has called the function of C's that a thread is in: its frame, and what that has. `frame` is
/// the thread's innermost one; zero: there is none near.
#[inline(always)]
pub(crate) fn calling<M: Memory>(memory: &M, layout: &PythonLayout, mut frame: u64) -> (u64, Frame) {
    let mut known = Frame::read(memory, layout, frame);
    for _ in 0..MAX_INNER {
        if frame == 0 || !known.is_of_c() {
            break;
        }
        frame = known.previous;
        known = Frame::read(memory, layout, frame);
    }
    (frame, known)
}

/// A local variable of a frame's function.
#[inline(always)]
pub(crate) fn local<M: Memory>(memory: &M, layout: &PythonLayout, frame: u64, index: u64) -> u64 {
    let locals = frame.wrapping_add(u64::from(layout.frame_locals));
    untagged(memory.word(locals.wrapping_add(8 * index)))
}
