//! Decides what of an operation that moved bytes is captured, and captures it.
//!
//! The verifier walks most functions once for every way in which a program may come to them: here, once for each protocol
//! that an operation may have been told to be of, on each kind of socket. A *global* function (one with external linkage,
//! `btf_prepare_func_args` in `kernel/bpf/btf.c`) it walks once, knowing nothing of what it is given but its type. That is a
//! small part of the work, and the verifier's work is most of what a start of the tracer takes.

use tracer_abi::sniff::Class;

use crate::chunks;
use crate::framing;
use crate::maps::{SockState, TaskState};
use crate::turns;
use crate::whole;

/// What was captured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Captured {
    Bytes,
    /// The first bytes of a turn of a protocol that is read.
    BeginsMessage,
    /// Frames, which may be of many streams.
    Frames,
}

/// Captures the operation that the thread's state holds, of which everything else is known.
#[inline(always)]
pub(crate) fn capture(thread: &mut TaskState, state: &mut SockState) -> Captured {
    match tracer_capture(&raw mut *thread, &raw mut *state) {
        BEGINS_MESSAGE => Captured::BeginsMessage,
        FRAMES => Captured::Frames,
        _ => Captured::Bytes,
    }
}

const BYTES: u32 = 0;
const BEGINS_MESSAGE: u32 = 1;
const FRAMES: u32 = 2;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tracer_capture(thread: *mut TaskState, state: *mut SockState) -> u32 {
    // SAFETY: valid, or null as far as the verifier knows.
    let (Some(thread), Some(state)) = (unsafe { thread.as_mut() }, unsafe { state.as_mut() }) else {
        return BYTES;
    };
    let op = &mut thread.op;
    op.start_len = 0;
    op.planned = 0;
    let undecided = turns::is_undecided(state, op.record.direction);
    if state.class != Class::Http2.code() {
        if whole::emit(state, op) {
            return begins(state, undecided);
        }
        if op.planned == 0 {
            turns::plan(state, op);
        }
    }
    if state.class == Class::Http2.code() {
        framing::emit(state, op);
        return FRAMES;
    }
    op.record.class = state.class;
    chunks::emit(thread);
    begins(state, undecided)
}

#[inline(always)]
fn begins(state: &SockState, undecided: bool) -> u32 {
    if turns::begins_message(state, undecided) { BEGINS_MESSAGE } else { BYTES }
}
