//! Made-up memory: the stack of a thread of CPython, function by function.

use tracer_abi::python::{Memory as _, PythonLayout, values};
use tracer_abi::python_waits::{FUNCTIONS, Function, PythonWaits};

use super::image::{FRAME, Image};

pub(super) const THREAD: u64 = 0x1000;
const CODE: u64 = 0x2000;
const INTERPRETER: u64 = 0x2100;
pub(super) const WORK: u64 = 0x2200;
pub(super) const FUTURE: u64 = 0x2300;
pub(super) const SET: u64 = 0x2400;

/// Another function than those that are known.
pub(super) const OTHER: usize = FUNCTIONS;

/// A function, `None` being one of C's, and its first locals.
pub(super) type Frame = (Option<usize>, [u64; 6]);

/// As 3.12 has it.
pub(super) fn known() -> PythonWaits {
    PythonWaits {
        interpreter: INTERPRETER,
        code_type: CODE,
        work_type: WORK,
        future_type: FUTURE,
        set_type: SET,
        functions: std::array::from_fn(|n| Function { code: code(n), name: code(n) + 0x80_0000 }),
        layout: PythonLayout {
            thread_slot: 0x318,
            thread_frame: 56,
            is_indirect: 1,
            frame_previous: 8,
            frame_owner: 70,
            frame_locals: 72,
            values: values::MARKED,
            tuple_items: 24,
            ..PythonLayout::default()
        },
        ..PythonWaits::default()
    }
}

pub(super) const fn code(function: usize) -> u64 {
    0x100_0000 + 0x1000 * function as u64
}

impl Image {
    /// A thread in these functions, the innermost first.
    pub(super) fn stacked(functions: &[Frame]) -> Self {
        let mut image = Self::default();
        for n in 0..=FUNCTIONS {
            image.put(code(n) + 8, CODE);
            image.put(code(n) + 128, code(n) + 0x80_0000);
        }
        let (state, holder) = (image.object(0x9300), image.object(0x9700));
        let frames: Vec<u64> = functions.iter().map(|_| image.object(FRAME)).collect();
        for (n, (frame, (function, locals))) in frames.iter().zip(functions).enumerate() {
            image.put(*frame, function.map_or(0, code));
            image.put(frame + 8, frames.get(n + 1).copied().unwrap_or(0));
            image.put(frame + 64, if function.is_none() { 3 << 48 } else { 0 });
            (0..).zip(locals).for_each(|(at, local)| image.put(frame + 72 + 8 * at, *local));
        }
        image.put(THREAD + 0x318, state);
        image.put(state + 16, INTERPRETER);
        image.put(state + 56, holder);
        image.put(holder, frames.first().copied().unwrap_or(0));
        image
    }

    /// Words that say in which functions the thread is, and with what first local: the way to them, and those themselves.
    pub(super) fn says(&self) -> Vec<u64> {
        let state = self.word(THREAD + 0x318);
        let holder = self.word(state + 56);
        let frames = std::iter::successors(Some(self.word(holder)), |frame| Some(self.word(frame + 8)));
        let frames = frames.take_while(|frame| *frame != 0);
        let words = frames.flat_map(|frame| [frame, frame + 8, frame + 64, frame + 72]);
        [THREAD + 0x318, state + 56, holder].into_iter().chain(words).collect()
    }
}
