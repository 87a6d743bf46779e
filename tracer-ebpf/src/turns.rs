//! How much of an operation is copied, decided by what the turn that it is of looks like: a *turn* is what moves in one
//! direction until the other one speaks. Bytes beyond the first eight of one are not looked into.
//!
//! | what the turns look like | captured per turn | then |
//! |---|---|---|
//! | HTTP/1, FastCGI, or too short to tell | the head budget, and the tail of every operation | |
//! | HTTP/2 | all but the payloads of its `DATA` frames: see [`crate::framing`] | |
//! | something else on a socket that spoke one of them | the same; after a few turns little | muted after many |
//! | something else, first turn of a socket seen from its start | little | muted at once |
//! | something else on a socket met in mid-stream | little | muted after several |

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helpers;
use tracer_abi::error::PayloadState;
use tracer_abi::event::{Source, flags};
use tracer_abi::limits::{ODD_HEAD_BYTES, ODD_TURNS_HTTP, ODD_TURNS_UNKNOWN, TAIL_BYTES};
use tracer_abi::sniff::{Class, PREFIX_BYTES, begins_fastcgi_request, classify_word};

use crate::emit;
use crate::framing;
use crate::io;
use crate::maps::{Operation, SockState, config, sock_flags};
use crate::regs::place;
use crate::tls;

/// `Class` of a turn whose first bytes could not be read. Like an undecided one, it may be HTTP.
const UNDECIDABLE: u8 = 0xff;

/// Whether it is not known yet what the turn is of which an operation in this direction is.
#[inline(always)]
pub(crate) fn is_undecided(state: &SockState, direction: u8) -> bool {
    state.turn != direction + 1 || state.turn_class == Class::Undecided.code()
}

/// Whether whose work an operation was is worth knowing: of those of a turn the first that tells what it is, on a socket
/// that speaks HTTP or FastCGI and not, as behind a `CONNECT`, TLS. Some runtimes read a byte ahead, for nobody.
#[inline(always)]
pub(crate) fn begins_message(state: &SockState, undecided: bool) -> bool {
    let is_told = state.turn_class != Class::Undecided.code() && state.turn_class != Class::Tls.code();
    undecided && is_told && is_read(state.class)
}

/// Decides what of an operation is captured: its record's head and tail, and flags of its records.
#[inline(always)]
pub(crate) fn plan(state: &mut SockState, op: &mut Operation) {
    tracer_plan(&raw mut *state, &raw mut *op);
}

/// Global, as [`crate::capture`] says.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tracer_plan(state: *mut SockState, op: *mut Operation) -> u32 {
    // SAFETY: valid, or null as far as the verifier knows.
    if let (Some(state), Some(op)) = (unsafe { state.as_mut() }, unsafe { op.as_mut() }) {
        decide(state, op);
    }
    0
}

#[inline(always)]
fn decide(state: &mut SockState, op: &mut Operation) {
    let turn = op.record.direction + 1;
    let budget = config!(head_budget_bytes);
    if state.turn != turn {
        state.turn = turn;
        state.turn_class = Class::Undecided.code();
        state.prefix_len = 0;
        state.head_left = budget;
    }
    if state.turn_class == Class::Undecided.code() {
        append_prefix(state, op);
        if state.turn_class == Class::Undecided.code() {
            state.turn_class = tracer_classify(state.prefix, state.prefix_len) as u8;
        }
        let class = state.turn_class;
        if framing::begins(state, op, class) {
            state.class = Class::Http2.code();
            return;
        }
        if is_read(class) {
            state.class = class;
            state.odd_turns = 0;
        } else if class != Class::Undecided.code() && class != UNDECIDABLE {
            op.record.header.flags |= odd_turn(state, class, op.record.source);
            if class == Class::Tls.code() {
                op.record.io_flags |= tls::goroutine_flag(op.record.user_r14, op.record.header.tgid.0);
            }
        }
    } else if state.class == Class::Http1.code() && state.head_left < op.total {
        // Another message may begin without a turn: a pipelined response, an early request.
        peek(op);
        if tracer_classify(op.start, op.start_len) as u8 == Class::Http1.code() {
            state.head_left = budget;
        }
    } else if state.class == Class::FastCgi.code() && state.head_left < op.total {
        // So may another request; a record of a long answer shows with its first bytes where the next one is.
        peek(op);
        if tracer_classify(op.start, op.start_len) as u8 == Class::FastCgi.code() {
            if begins_fastcgi_request(op.start) {
                state.head_left = budget;
            } else if state.head_left < ODD_HEAD_BYTES {
                state.head_left = ODD_HEAD_BYTES;
            }
        }
    }
    if op.buffer.place < place::BUFFER {
        op.record.payload_state = PayloadState::NoUserBuffer.code();
        return;
    }
    let total = op.total;
    let head = if total < state.head_left { total } else { state.head_left };
    state.head_left -= head;
    if total - head <= TAIL_BYTES {
        // Head and tail meet.
        op.record.head_len = total;
    } else {
        op.record.head_len = head;
        op.record.tail_len = TAIL_BYTES;
    }
}

#[inline(always)]
fn is_read(class: u8) -> bool {
    class == Class::Http1.code() || class == Class::FastCgi.code()
}

/// Global, as [`crate::capture`] says: its branches are many.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tracer_classify(prefix: u64, len: u32) -> u32 {
    u32::from(classify_word(prefix, len as usize).code())
}

/// A turn begins with something that is not read. Returns flags for its record.
#[inline(always)]
fn odd_turn(state: &mut SockState, class: u8, source: u8) -> u16 {
    state.odd_turns += 1;
    let spoke_http = is_read(state.class);
    let limit = if spoke_http {
        ODD_TURNS_HTTP
    } else if may_be_older(state, source) {
        ODD_TURNS_UNKNOWN
    } else {
        1
    };
    if !spoke_http || state.odd_turns > ODD_TURNS_UNKNOWN {
        state.head_left = ODD_HEAD_BYTES;
    }
    if state.odd_turns < limit {
        return 0;
    }
    state.class = class;
    state.flags |= sock_flags::MUTED;
    flags::MUTED
}

/// The first that was seen of it need not be its start: when a session of TLS began is not known.
#[inline(always)]
pub(crate) fn may_be_older(state: &SockState, source: u8) -> bool {
    state.flags & sock_flags::PREEXISTING != 0 || source != Source::Socket.code()
}

/// Adds the operation's first bytes to those of the turn.
#[inline(always)]
fn append_prefix(state: &mut SockState, op: &mut Operation) {
    peek(op);
    let (start, new) = (io::read_back(&op.start), io::read_back(&op.start_len));
    let have = state.prefix_len & (PREFIX_BYTES as u32 - 1);
    // The first byte is the lowest one: the machine is little-endian.
    state.prefix = if have == 0 { start } else { state.prefix | start << (8 * have) };
    let len = have + new;
    state.prefix_len = if len > PREFIX_BYTES as u32 { PREFIX_BYTES as u32 } else { len };
    if len < PREFIX_BYTES as u32 && new < op.total {
        // The rest could not be read: what comes next does not follow these bytes.
        state.turn_class = UNDECIDABLE;
    }
}

/// Reads up to eight bytes from the start of an operation, the first one lowest, unless they are known.
#[inline(never)]
pub(crate) fn peek(op: &mut Operation) {
    if op.start_len > 0 {
        return;
    }
    let wanted = if op.total < PREFIX_BYTES as u32 { op.total } else { PREFIX_BYTES as u32 };
    (op.start, op.start_len) = match op.buffer.place {
        place::BUFFER => (peek_piece(op.buffer.address, wanted), wanted),
        place::VECTOR => {
            let mut start = 0;
            let mut have = 0;
            for [address, len] in op.elements {
                if have >= wanted {
                    break;
                }
                let left = wanted - have;
                let len = if len < u64::from(left) { len as u32 } else { left };
                start |= peek_piece(address, len) << (8 * have);
                have += len;
            }
            (start, have)
        }
        _ => (0, 0),
    };
}

/// Up to eight bytes, zeroes where they cannot be read.
#[inline(always)]
fn peek_piece(address: u64, len: u32) -> u64 {
    let mut piece = 0_u64;
    let len = emit::at_most::<{ PREFIX_BYTES as u64 }>(u64::from(len)) as u32;
    // SAFETY: no more than the variable's size is written.
    unsafe { helpers::bpf_probe_read_user((&raw mut piece).cast(), len, address as *const c_void) };
    piece
}
