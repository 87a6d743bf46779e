//! A short operation → its one record: copied first, looked at in the copy.
//!
//! Most operations are heads and small bodies, all of whose bytes are captured. Reading the program's memory costs more
//! than anything else that is done for them, so it is read once, to behind the record in the thread's own storage. From
//! there both go into the ring together and take no more of it than they need. What is longer, lies in many pieces, or
//! turns out not to be captured whole is left to [`crate::chunks`].

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helpers;
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::event::{DataRecord, flags};
use tracer_abi::sniff::PREFIX_BYTES;

use crate::emit::{self, at_most};
use crate::maps::{Operation, SHORT, SockState, TRACER_DATA, count};
use crate::regs::{ELEMENTS, place};
use crate::turns;

const RECORD: usize = size_of::<DataRecord>();

/// Plans and emits the operation. False: it was not emitted; `op.planned` says whether it was planned.
#[inline(never)]
pub(crate) fn emit(state: &mut SockState, op: &mut Operation) -> bool {
    if op.total > SHORT as u32 || !copy(op) {
        return false;
    }
    // The payload has eight bytes and begins at a multiple of eight. What lies behind the operation's bytes is old.
    // SAFETY: the payload is larger than a word.
    let start = unsafe { (&raw const op.payload).cast::<u64>().read_volatile() };
    let total = u64::from(op.total);
    if total < PREFIX_BYTES as u64 {
        op.start = start & !(u64::MAX << (8 * total));
        op.start_len = total as u32;
    } else {
        op.start = start;
        op.start_len = PREFIX_BYTES as u32;
    }
    turns::plan(state, op);
    op.planned = 1;
    if op.record.head_len != op.total {
        return false;
    }
    op.record.header.flags |= flags::LAST;
    op.record.class = state.class;
    output(op, op.total, false);
    true
}

/// Puts the record and `len` bytes behind it, at most [`SHORT`], into the ring; `unreadable`: without those.
#[inline(always)]
pub(crate) fn output(op: &mut Operation, len: u32, unreadable: bool) {
    let copied = if unreadable { 0 } else { len };
    let state = op.record.payload_state;
    if unreadable {
        op.record.payload_state = PayloadState::Unreadable.code();
    }
    op.record.header.len_bytes = RECORD as u32 + copied;
    op.record.payload_len = copied;
    let wakeup = emit::wakeup(op.record.header.time.as_nanos());
    let bytes = at_most::<{ (RECORD + SHORT) as u64 }>(RECORD as u64 + u64::from(copied));
    // SAFETY: the payload lies directly behind the record, and has room for `SHORT` bytes; the verifier proves it again.
    let failed = unsafe {
        helpers::bpf_ringbuf_output(
            (&raw const TRACER_DATA).cast_mut().cast(),
            (&raw mut op.record).cast(),
            bytes,
            wakeup,
        )
    };
    if failed != 0 {
        count(KernelLoss::DataRingFull);
    }
    // Others of the operation may follow, which are made in place.
    op.record.header.len_bytes = RECORD as u32;
    op.record.payload_len = 0;
    op.record.payload_state = state;
}

/// Copies the program's bytes to behind the record. False: they could not be read, or lie in too many pieces. Not inlined:
/// the verifier forgets at the return which way it took.
#[inline(never)]
fn copy(op: &mut Operation) -> bool {
    let payload = (&raw mut op.payload).cast::<u8>();
    let total = u64::from(op.total);
    match op.buffer.place {
        place::BUFFER => {
            let len = at_most::<{ SHORT as u64 }>(total);
            // SAFETY: the payload has room for `SHORT` bytes, as the verifier proves once more.
            unsafe {
                helpers::bpf_probe_read_user(payload.cast(), len as u32, op.buffer.address as *const c_void)
                    == 0
            }
        }
        place::VECTOR if op.buffer.count <= ELEMENTS => {
            let mut have = 0;
            for [base, len] in op.elements {
                if have >= total {
                    break;
                }
                let left = total - have;
                let at = at_most::<{ SHORT as u64 }>(have);
                let len = at_most::<{ SHORT as u64 }>(if len < left { len } else { left });
                // SAFETY: place and length are at most `SHORT`, and there is room for twice that.
                let failed = unsafe {
                    helpers::bpf_probe_read_user(
                        payload.add(at as usize).cast(),
                        len as u32,
                        base as *const c_void,
                    )
                };
                if failed != 0 {
                    return false;
                }
                have = at + len;
            }
            have == total
        }
        _ => false,
    }
}
