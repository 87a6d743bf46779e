//! An operation of an HTTP/2 connection → its records: everything but the payloads of long `DATA` frames.
//!
//! It walks from frame to frame and keeps, for each direction of a socket, how much of the frame in progress is still to
//! come. A record carries bytes up to a payload that is left out and says how long that is, or up to the end of what one
//! record holds: each is an operation of its own to user space, at its own position. Servers give each frame's header and
//! its payload an element of a scatter-gather array, dozens in one operation: what is short is gathered from several
//! elements in the thread's own storage, as [`crate::whole`] does.
//!
//! | place | how it is known where frames begin | user space |
//! |---|---|---|
//! | sure | followed from the direction's first byte | is told of each record that begins with a frame |
//! | guessed | from the start of an operation that looks like a frame, since the place was lost or the socket was met in mid-stream | finds it by itself, and counts what does not fit |
//! | lost | what should be a frame is none: the rest of the operation is captured in small part | |

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helpers;
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::event::{Source, flags};
use tracer_abi::frame::{Frame, HEADER_BYTES, PREFACE_BYTES};
use tracer_abi::limits::{JOINED_WHOLE_BYTES, MAX_CHUNK_BYTES, MAX_FRAME_STEPS, ODD_HEAD_BYTES};
use tracer_abi::sniff::{Class, PREFIX_BYTES};

use crate::emit::{self, at_most};
use crate::maps::{Operation, SHORT, SockState, StreamState, count, sock_flags};
use crate::regs::{IOVEC_BYTES, place, read_user};
use crate::turns;
use crate::whole;

/// Where the frames of one direction are.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Frames {
    /// Stream position up to which they were followed.
    followed: u64,
    /// First bytes of a header of which the rest is to come.
    header: [u64; 2],
    have: u32,
    /// Payload bytes that are to be captured, and behind them those to be left out.
    copy: u32,
    skip: u32,
    /// [`certainty`]
    certainty: u32,
    /// Bytes of which nothing is left out: user space has to find the place.
    whole_left: u32,
    reserved: u32,
}

/// Values of [`Frames::certainty`].
mod certainty {
    /// Nothing was followed yet.
    pub(super) const NONE: u32 = 0;
    pub(super) const SURE: u32 = 1;
    pub(super) const GUESSED: u32 = 2;
    pub(super) const LOST: u32 = 3;
}

/// The walk through one operation.
#[repr(C)]
pub(crate) struct Walk {
    frames: Frames,
    /// Next byte.
    at: u32,
    /// First byte that no record carried, how many from there on are captured, and how many behind those are left out.
    from: u32,
    captured: u32,
    elided: u32,
    /// What is captured begins with a frame.
    frame: u32,
    /// Nothing can be added to what is captured: it goes on elsewhere in memory.
    closed: u32,
    /// The current element's place in the operation, and in the program's memory.
    start: u32,
    end: u32,
    address: u64,
    /// Where the captured bytes are.
    source: u64,
    /// Next element of the array.
    element: u64,
    elements_left: u64,
    /// Of the whole operation.
    offset: u64,
    seq_end: u32,
    flags: u32,
    done: u32,
    /// Of the captured bytes, how many were copied to behind the operation's record: those of the elements before.
    gathered: u32,
    /// Some of them could not be read.
    fault: u32,
    reserved: u32,
}

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

/// Emits the records of the operation, whose record is complete but for what differs from record to record.
#[inline(never)]
pub(crate) fn emit(state: &mut SockState, op: &mut Operation) {
    let preexisting = state.flags & sock_flags::PREEXISTING != 0;
    op.record.class = state.class;
    // First bytes of the direction that operations before this one moved: too few to tell what it is.
    let before = if preexisting { 0 } else { state.prefix };
    let stream = if op.record.direction == 0 { &mut state.egress } else { &mut state.ingress };
    begin(stream, op, before, preexisting);
    if op.buffer.place < place::BUFFER {
        pass(op);
    } else {
        let callback: extern "C" fn(u64, &mut &mut Operation) -> i64 = step;
        // What the callback gets must be a pointer to the stack.
        let mut context = &mut *op;
        // A loop of the kernel's: the verifier walks its body a few times, and not once per turn and path.
        // SAFETY: the callback has the form that the helper calls, with a pointer to the operation.
        unsafe {
            helpers::bpf_loop(MAX_FRAME_STEPS, callback as *mut c_void, (&raw mut context).cast(), 0);
        }
        if op.frame_walk.done == 0 {
            // What is left has no record, hence is lost.
            count(KernelLoss::TooManyIovecs);
            op.frame_walk.frames.certainty = certainty::LOST;
        }
    }
    let walk = &mut op.frame_walk;
    walk.frames.followed = walk.offset + u64::from(op.total);
    stream.frames = walk.frames;
}

/// Where the operation lies in the frames that were followed so far.
#[inline(always)]
fn begin(stream: &StreamState, op: &mut Operation, before: u64, preexisting: bool) {
    let mut frames = stream.frames;
    let offset = op.record.offset;
    if frames.certainty == certainty::NONE {
        turns::peek(op);
        let start = op.start;
        let from_start = !preexisting && offset < PREFIX_BYTES as u64;
        // "PRI ": no frame begins so. It is sent once, before the first one.
        let preface = if from_start {
            (if offset == 0 { start } else { before }) as u8 == b'P'
        } else {
            start as u32 == u32::from_le_bytes(*b"PRI ")
        };
        let moved = if from_start { offset as u32 } else { 0 };
        if preface {
            frames.copy = PREFACE_BYTES - moved;
        } else if moved > 0 {
            frames.header[0] = before & !(u64::MAX << (8 * moved));
            frames.have = moved;
        }
        // In several pieces, the other side's may have come in between.
        let sure = moved == 0 && (preface || from_start);
        frames.certainty = if sure { certainty::SURE } else { certainty::GUESSED };
        frames.whole_left = if sure { 0 } else { JOINED_WHOLE_BYTES };
    } else {
        let missed = offset.wrapping_sub(frames.followed);
        if missed != 0 && !skipped(&mut frames, missed) {
            frames.certainty = certainty::LOST;
        }
    }
    if frames.certainty == certainty::LOST {
        frames.certainty = certainty::GUESSED;
        frames.have = 0;
        frames.copy = 0;
        frames.skip = 0;
    }
    let whole = matches!(op.buffer.place, place::BUFFER);
    op.record.tail_len = 0;
    op.frame_walk = Walk {
        frames,
        at: 0,
        from: 0,
        captured: 0,
        elided: 0,
        frame: 0,
        closed: 0,
        start: 0,
        end: if whole { op.total } else { 0 },
        address: op.buffer.address,
        source: 0,
        element: op.buffer.address,
        elements_left: op.buffer.count,
        offset,
        seq_end: op.record.tcp_seq_end,
        flags: u32::from(op.record.header.flags),
        done: 0,
        gathered: 0,
        fault: 0,
        reserved: 0,
    };
}

/// Bytes were moved that cannot be looked at. False: there may be a header among them.
#[inline(always)]
fn skipped(frames: &mut Frames, len: u64) -> bool {
    let copied = if len < u64::from(frames.copy) { len as u32 } else { frames.copy };
    let rest = len - u64::from(copied);
    if frames.have > 0 || rest > u64::from(frames.skip) {
        return false;
    }
    frames.copy -= copied;
    frames.skip -= rest as u32;
    true
}

/// The operation's bytes are nowhere in the program's memory.
#[inline(always)]
fn pass(op: &mut Operation) {
    let walk = &mut op.frame_walk;
    if !skipped(&mut walk.frames, u64::from(op.total)) {
        walk.frames.certainty = certainty::LOST;
    }
    walk.elided = op.total;
    op.record.payload_state = PayloadState::NoUserBuffer.code();
    flush(op);
}

/// One thing that the walk meets: an element's end, bytes that are captured, bytes that are left out, or a record that
/// is full.
extern "C" fn step(_index: u64, context: &mut &mut Operation) -> i64 {
    let op = &mut **context;
    let walk = &mut op.frame_walk;
    if walk.at >= walk.end {
        return end_element(op);
    }
    let left = walk.end - walk.at;
    let frames = &mut walk.frames;
    if frames.copy == 0 && frames.skip > 0 {
        let len = smaller(frames.skip, left);
        frames.skip -= len;
        walk.elided += len;
        walk.at += len;
        return CONTINUE;
    }
    let header = frames.copy == 0;
    let wanted = if header { HEADER_BYTES - frames.have } else { frames.copy };
    let len = smaller(smaller(wanted, left), MAX_CHUNK_BYTES);
    let room = if walk.gathered > 0 { SHORT as u32 } else { MAX_CHUNK_BYTES };
    if walk.elided > 0 || walk.closed > 0 || walk.captured + len > room {
        flush(op);
        return CONTINUE;
    }
    let source = walk.address + u64::from(walk.at - walk.start);
    if walk.captured == walk.gathered {
        walk.source = source;
    }
    if walk.captured == 0 {
        walk.frame = u32::from(header && frames.have == 0 && frames.certainty == certainty::SURE);
    }
    walk.captured += len;
    walk.at += len;
    if header {
        return read_header(op, source, len);
    }
    frames.copy -= len;
    CONTINUE
}

/// Takes `len` bytes of a frame's header, and decides about its payload when they are all.
#[inline(always)]
fn read_header(op: &mut Operation, source: u64, len: u32) -> i64 {
    let total = op.total;
    let walk = &mut op.frame_walk;
    let frames = &mut walk.frames;
    let have = at_most::<8>(u64::from(frames.have));
    let len = at_most::<{ HEADER_BYTES as u64 }>(u64::from(len));
    let mut piece = [0_u64; 2];
    // SAFETY: no more than the variable's size is written.
    let failed =
        unsafe { helpers::bpf_probe_read_user((&raw mut piece).cast(), len as u32, source as *const c_void) };
    if failed != 0 {
        count(KernelLoss::PayloadFault);
        return STOP;
    }
    let [low, high] = piece;
    if have == 0 {
        frames.header = [low, high];
    } else if have < 8 {
        // No more than the ninth byte is beyond the first word.
        frames.header[0] |= low << (8 * have);
        frames.header[1] = low >> (8 * (8 - have)) & 0xff;
    } else {
        frames.header[1] = low & 0xff;
    }
    frames.have += len as u32;
    if frames.have < HEADER_BYTES {
        return CONTINUE;
    }
    frames.have = 0;
    let [first, ninth] = frames.header;
    let frame = if frames.certainty == certainty::SURE {
        Some(Frame::read(first))
    } else {
        Frame::guess(first, ninth as u8)
    };
    let Some(frame) = frame else {
        frames.certainty = certainty::LOST;
        let left = total - walk.at;
        let budget = if frames.whole_left > ODD_HEAD_BYTES { frames.whole_left } else { ODD_HEAD_BYTES };
        frames.copy = smaller(left, budget);
        frames.skip = u32::MAX;
        return CONTINUE;
    };
    (frames.copy, frames.skip) = frame.plan();
    if frames.skip > 0 && frames.whole_left >= frame.len {
        frames.whole_left -= frame.len;
        (frames.copy, frames.skip) = (frame.len, 0);
    }
    CONTINUE
}

#[inline(always)]
fn end_element(op: &mut Operation) -> i64 {
    let total = op.total;
    let walk = &mut op.frame_walk;
    if walk.at >= total {
        if walk.captured > 0 || walk.elided > 0 {
            flush(op);
        }
        op.frame_walk.done = 1;
        return STOP;
    }
    let element = if walk.elements_left > 0 { read_user::<[u64; 2]>(walk.element) } else { None };
    let Some([base, len]) = element else {
        return STOP;
    };
    if walk.captured <= SHORT as u32 {
        gather(op);
    }
    let walk = &mut op.frame_walk;
    // What is too long to be gathered goes on elsewhere in memory.
    walk.closed = walk.captured - walk.gathered;
    walk.element += IOVEC_BYTES;
    walk.elements_left -= 1;
    walk.start = walk.end;
    walk.address = base;
    let left = total - walk.start;
    walk.end = walk.start + if len < u64::from(left) { len as u32 } else { left };
    CONTINUE
}

/// Copies what was captured of one element to behind what was before it.
#[inline(always)]
fn gather(op: &mut Operation) {
    let walk = &mut op.frame_walk;
    let len = walk.captured - walk.gathered;
    if len == 0 {
        return;
    }
    let at = at_most::<{ SHORT as u64 }>(u64::from(walk.gathered));
    let len = at_most::<{ SHORT as u64 }>(u64::from(len));
    // SAFETY: place and length are at most `SHORT`, and there is room for twice that.
    let failed = unsafe {
        helpers::bpf_probe_read_user(
            (&raw mut op.payload).cast::<u8>().add(at as usize).cast(),
            len as u32,
            walk.source as *const c_void,
        )
    };
    if failed != 0 {
        count(KernelLoss::PayloadFault);
        walk.fault = 1;
    }
    walk.gathered = walk.captured;
}

/// Emits what was captured and left out.
#[inline(never)]
fn flush(op: &mut Operation) {
    let walk = &mut op.frame_walk;
    let len = walk.captured + walk.elided;
    let behind = op.total - walk.from - len;
    let record = &mut op.record;
    record.offset = walk.offset + u64::from(walk.from);
    record.result = len as i32;
    if record.source == Source::Socket.code() {
        record.tcp_seq_end = walk.seq_end.wrapping_sub(behind);
    } else {
        // How far a session had come is said of the whole call.
        record.user_r14 = u64::from(walk.from) | u64::from(op.total) << 32;
    }
    record.head_len = walk.captured;
    record.header.flags = walk.flags as u16 | flags::LAST | if walk.frame > 0 { flags::FRAME } else { 0 };
    let (source, captured) = (walk.source, walk.captured);
    walk.from += len;
    walk.elided = 0;
    walk.frame = 0;
    walk.closed = 0;
    if captured > SHORT as u32 {
        emit::data(&op.record, source, u64::from(captured));
    } else {
        gather(op);
        whole::output(op, captured, op.frame_walk.fault > 0);
    }
    let walk = &mut op.frame_walk;
    walk.captured = 0;
    walk.gathered = 0;
    walk.fault = 0;
}

/// A turn of this class begins HTTP/2.
#[inline(never)]
pub(crate) fn begins(state: &mut SockState, op: &mut Operation, class: u8) -> bool {
    if class == Class::Unknown.code() {
        let joins = may_join(state, op);
        if joins {
            state.flags |= sock_flags::PREEXISTING;
        }
        return joins;
    }
    // What begins like a server's first frame may be a body, where HTTP/1 was spoken.
    class == Class::Http2.code() && (state.prefix as u8 == b'P' || state.class != Class::Http1.code())
}

/// The operation's first bytes, on a socket that was met in mid-stream or in a session that may have been, are frames: one
/// that ends where the operation does or is followed by another.
#[inline(always)]
fn may_join(state: &SockState, op: &mut Operation) -> bool {
    if !turns::may_be_older(state, op.record.source) || op.total < HEADER_BYTES {
        return false;
    }
    let next = frame_end(op, 0);
    let total = u64::from(op.total);
    next > 0 && (next == total || next + u64::from(HEADER_BYTES) <= total && frame_end(op, next) > 0)
}

/// Where the frame ends that seems to begin at this place of the operation; 0: none does. Senders with scatter-gather
/// arrays give its header an element of its own, or the start of one: one that lies in several is not looked for.
#[inline(never)]
fn frame_end(op: &mut Operation, at: u64) -> u64 {
    let mut address = 0;
    if matches!(op.buffer.place, place::BUFFER) {
        address = op.buffer.address + at;
    } else {
        let mut start = 0;
        for [base, len] in op.elements {
            if at >= start && at - start + u64::from(HEADER_BYTES) <= len {
                address = base + (at - start);
                break;
            }
            start += len;
        }
    }
    match (read_user::<u64>(address), read_user::<u8>(address + 8)) {
        (Some(first), Some(ninth)) => {
            Frame::guess(first, ninth).map_or(0, |frame| at + u64::from(HEADER_BYTES) + u64::from(frame.len))
        }
        _ => 0,
    }
}

#[inline(always)]
const fn smaller(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}
