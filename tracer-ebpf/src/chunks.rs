//! One operation → its records: walks the program's buffer and emits what was planned to be captured.
//!
//! Each record carries bytes of one element of a scatter-gather array, at most [`MAX_CHUNK_BYTES`]. The last record is
//! marked, and made empty if need be, so that user space knows an operation to be complete.

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helpers;
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::event::{DataRecord, flags};
use tracer_abi::limits::{MAX_CHUNK_BYTES, MAX_CHUNK_STEPS};

use crate::emit;
use crate::maps::count;
use crate::regs::{IOVEC_BYTES, Place, UserBuffer, read_user};

/// Where the walk is. On the stack of the program, whose loop calls back with a pointer to it.
struct Walk {
    record: DataRecord,
    flags: u16,
    state: State,
    /// Bytes of the operation, end of its captured head, start of its captured tail.
    total: u32,
    head_end: u32,
    tail_start: u32,
    /// Next byte to emit.
    at: u32,
    /// The current element's place in the operation, and in the program's memory.
    start: u32,
    end: u32,
    address: u64,
    /// Next element.
    array: u64,
    elements_left: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum State {
    Walking,
    /// The last record is out, or lost for lack of room.
    Done,
    /// The array could not be read, or ended before the operation.
    Unreadable,
}

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

/// Emits the records of an operation of `total` bytes. `record` is complete but for what differs from record to record.
#[inline(always)]
pub(crate) fn emit(record: DataRecord, buffer: &UserBuffer, total: u32) {
    let head_end = record.head_len;
    let tail_start = total - record.tail_len;
    let mut walk = Walk {
        flags: record.header.flags,
        state: State::Walking,
        total,
        head_end,
        tail_start,
        at: if head_end > 0 { 0 } else { tail_start },
        start: 0,
        end: 0,
        address: 0,
        array: buffer.address,
        elements_left: buffer.count,
        record,
    };
    if matches!(buffer.place, Place::Buffer) {
        walk.end = total;
        walk.address = buffer.address;
    }
    if walk.at < total {
        let callback: extern "C" fn(u64, &mut Walk) -> i64 = step;
        // A loop of the kernel's: the verifier walks its body a few times, and not once per turn and path.
        // SAFETY: the callback has the form that the helper calls, with a pointer to `walk`.
        unsafe {
            helpers::bpf_loop(MAX_CHUNK_STEPS, callback as *mut c_void, (&raw mut walk).cast(), 0);
        }
        match walk.state {
            State::Done => return,
            State::Walking => count(KernelLoss::TooManyIovecs),
            State::Unreadable => {
                count(KernelLoss::PayloadFault);
                walk.record.payload_state = PayloadState::Unreadable.code();
            }
        }
    }
    walk.record.header.flags = walk.flags | flags::LAST;
    walk.record.chunk_offset = 0;
    emit::data(&walk.record, 0, 0);
}

/// Emits one chunk, or goes on to the next element.
extern "C" fn step(_index: u64, walk: &mut Walk) -> i64 {
    let at = walk.at;
    if at >= walk.end {
        return next_element(walk);
    }
    let limit = smaller(walk.end, if at < walk.head_end { walk.head_end } else { walk.total });
    let len = smaller(limit - at, MAX_CHUNK_BYTES);
    let mut next = at + len;
    if next >= walk.head_end && next < walk.tail_start {
        next = walk.tail_start;
    }
    let last = next >= walk.total;
    walk.at = next;
    walk.record.chunk_offset = at;
    walk.record.header.flags = if last { walk.flags | flags::LAST } else { walk.flags };
    let source = walk.address + u64::from(at - walk.start);
    if !emit::data(&walk.record, source, u64::from(len)) || last {
        walk.state = State::Done;
        return STOP;
    }
    CONTINUE
}

#[inline(always)]
fn next_element(walk: &mut Walk) -> i64 {
    let element = if walk.elements_left > 0 { read_user::<[u64; 2]>(walk.array) } else { None };
    let Some([base, len]) = element else {
        walk.state = State::Unreadable;
        return STOP;
    };
    walk.array += IOVEC_BYTES;
    walk.elements_left -= 1;
    walk.start = walk.end;
    walk.address = base;
    let left = walk.total - walk.start;
    walk.end = walk.start + if len < u64::from(left) { len as u32 } else { left };
    CONTINUE
}

#[inline(always)]
const fn smaller(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}
