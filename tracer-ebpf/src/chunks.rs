//! One operation → its records: walks the program's buffer and emits what was planned to be captured.
//!
//! Each record carries bytes of one element of a scatter-gather array, at most [`MAX_CHUNK_BYTES`]. The last record is
//! marked, and made empty if need be, so that user space knows an operation to be complete.

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helpers;
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::event::flags;
use tracer_abi::limits::{MAX_CHUNK_BYTES, MAX_CHUNK_STEPS};

use crate::emit;
use crate::maps::{Operation, TaskState, count};
use crate::regs::{IOVEC_BYTES, place, read_user};

/// Where the walk through an operation is.
#[repr(C)]
pub(crate) struct Walk {
    /// End of the captured head, start of the captured tail.
    head_end: u32,
    tail_start: u32,
    /// Next byte to emit.
    at: u32,
    /// The current element's place in the operation, and in the program's memory.
    start: u32,
    end: u32,
    /// [`state`]
    state: u32,
    address: u64,
    /// Next element of the array.
    element: u64,
    elements_left: u64,
    /// Flags of every record.
    flags: u64,
}

/// Values of [`Walk::state`].
mod state {
    pub(super) const WALKING: u32 = 0;
    /// The last record is out, or lost for lack of room.
    pub(super) const DONE: u32 = 1;
    /// The array could not be read, or ended before the operation.
    pub(super) const UNREADABLE: u32 = 2;
}

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

/// Emits the records of the operation that the thread's state holds, whose record is complete but for what differs from
/// record to record.
#[inline(never)]
pub(crate) fn emit(thread: &mut TaskState) {
    let op = &mut thread.op;
    let whole = matches!(op.buffer.place, place::BUFFER);
    op.walk = Walk {
        head_end: op.record.head_len,
        tail_start: op.total - op.record.tail_len,
        at: if op.record.head_len > 0 { 0 } else { op.total - op.record.tail_len },
        start: 0,
        end: if whole { op.total } else { 0 },
        state: state::WALKING,
        address: op.buffer.address,
        element: op.buffer.address,
        elements_left: op.buffer.count,
        flags: u64::from(op.record.header.flags),
    };
    if op.walk.at < op.total {
        let callback: extern "C" fn(u64, &mut &mut Operation) -> i64 = step;
        // What the callback gets must be a pointer to the stack.
        let mut context = &mut *op;
        // A loop of the kernel's: the verifier walks its body a few times, and not once per turn and path.
        // SAFETY: the callback has the form that the helper calls, with a pointer to the operation.
        unsafe {
            helpers::bpf_loop(MAX_CHUNK_STEPS, callback as *mut c_void, (&raw mut context).cast(), 0);
        }
        match op.walk.state {
            state::DONE => return,
            state::WALKING => count(KernelLoss::TooManyIovecs),
            _ => {
                count(KernelLoss::PayloadFault);
                op.record.payload_state = PayloadState::Unreadable.code();
            }
        }
    }
    op.record.header.flags = op.walk.flags as u16 | flags::LAST;
    op.record.chunk_offset = 0;
    emit::data(&op.record, 0, 0);
}

/// Emits one chunk, or goes on to the next element.
extern "C" fn step(_index: u64, context: &mut &mut Operation) -> i64 {
    let op = &mut **context;
    let walk = &mut op.walk;
    let at = walk.at;
    if at >= walk.end {
        return next_element(op);
    }
    let limit = smaller(walk.end, if at < walk.head_end { walk.head_end } else { op.total });
    let len = smaller(limit - at, MAX_CHUNK_BYTES);
    let mut next = at + len;
    if next >= walk.head_end && next < walk.tail_start {
        next = walk.tail_start;
    }
    let last = next >= op.total;
    walk.at = next;
    op.record.chunk_offset = at;
    op.record.header.flags = walk.flags as u16 | if last { flags::LAST } else { 0 };
    let source = walk.address + u64::from(at - walk.start);
    if !emit::data(&op.record, source, u64::from(len)) || last {
        op.walk.state = state::DONE;
        return STOP;
    }
    CONTINUE
}

#[inline(always)]
fn next_element(op: &mut Operation) -> i64 {
    let walk = &mut op.walk;
    let element = if walk.elements_left > 0 { read_user::<[u64; 2]>(walk.element) } else { None };
    let Some([base, len]) = element else {
        walk.state = state::UNREADABLE;
        return STOP;
    };
    walk.element += IOVEC_BYTES;
    walk.elements_left -= 1;
    walk.start = walk.end;
    walk.address = base;
    let left = op.total - walk.start;
    walk.end = walk.start + if len < u64::from(left) { len as u32 } else { left };
    CONTINUE
}

#[inline(always)]
const fn smaller(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}
