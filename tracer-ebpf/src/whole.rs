//! A short operation → its one record: copied first, looked at in the copy.
//!
//! Most operations are heads and small bodies, all of whose bytes are captured. Reading the program's memory costs more
//! than anything else that is done for them, so it is read once. What is longer, lies in many pieces, or turns out not to
//! be captured whole is left to [`crate::chunks`].

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helpers;
use tracer_abi::event::{DataRecord, flags};
use tracer_abi::sniff::PREFIX_BYTES;

use crate::emit::{self, MIDDLE, SMALL, Slot, at_most};
use crate::io;
use crate::maps::{Operation, SockState, TRACER_DATA};
use crate::regs::{ELEMENTS, place};

/// Plans and emits the operation. False: it was not emitted; `op.planned` says whether it was planned.
#[inline(never)]
pub(crate) fn emit(state: &mut SockState, op: &mut Operation) -> bool {
    let total = op.total;
    match op.buffer.place {
        place::BUFFER if total <= SMALL as u32 => copy::<SMALL, SMALL>(state, op),
        place::BUFFER if total <= MIDDLE as u32 => copy::<MIDDLE, MIDDLE>(state, op),
        place::VECTOR if op.buffer.count <= ELEMENTS && total <= SMALL as u32 => {
            copy::<SMALL, { 2 * SMALL }>(state, op)
        }
        place::VECTOR if op.buffer.count <= ELEMENTS && total <= MIDDLE as u32 => {
            copy::<MIDDLE, { 2 * MIDDLE }>(state, op)
        }
        _ => false,
    }
}

/// `ROOM` is `BYTES` for one buffer. For an array it is twice that: the verifier sees that neither place nor length
/// exceeds `BYTES`, but not that their sum does not.
#[inline(always)]
fn copy<const BYTES: usize, const ROOM: usize>(state: &mut SockState, op: &mut Operation) -> bool {
    let Some(mut entry) = TRACER_DATA.reserve::<Slot<ROOM>>(0) else {
        return false;
    };
    let slot = entry.as_mut_ptr();
    // SAFETY: `slot` is memory for a `Slot`.
    let payload = unsafe { (&raw mut (*slot).payload).cast::<u8>() };
    let total = u64::from(op.total);
    let copied = if ROOM == BYTES {
        let len = bounded::<BYTES>(total);
        // SAFETY: the payload has room for `len` bytes, as the verifier proves once more.
        unsafe {
            helpers::bpf_probe_read_user(payload.cast(), len as u32, op.buffer.address as *const c_void) == 0
        }
    } else {
        // SAFETY: the payload has room for twice `BYTES`.
        unsafe { gather::<BYTES>(payload, op, total) }
    };
    if !copied {
        entry.discard(0);
        return false;
    }
    // SAFETY: every slot's payload has eight bytes and begins at a multiple of eight. What lies behind the operation's
    // bytes is taken off.
    let start = unsafe { payload.cast::<u64>().read_volatile() };
    if total < PREFIX_BYTES as u64 {
        op.start = start & !(u64::MAX << (8 * total));
        op.start_len = total as u32;
    } else {
        op.start = start;
        op.start_len = PREFIX_BYTES as u32;
    }
    io::plan(state, op);
    op.planned = 1;
    if op.record.head_len != op.total {
        entry.discard(0);
        return false;
    }
    // SAFETY: as above.
    unsafe {
        let record = &raw mut (*slot).record;
        record.write(op.record);
        (*record).header.flags |= flags::LAST;
        (*record).header.len_bytes = size_of::<DataRecord>() as u32 + op.total;
        (*record).payload_len = op.total;
        (*record).class = state.class;
    }
    entry.submit(emit::wakeup(op.record.header.time.as_nanos()));
    true
}

/// Copies the elements' bytes one behind the other. False: fewer than `total` could be read.
///
/// # Safety
///
/// `payload` must have room for twice `BYTES`.
#[inline(always)]
unsafe fn gather<const BYTES: usize>(payload: *mut u8, op: &Operation, total: u64) -> bool {
    let mut have = 0;
    for [base, len] in op.elements {
        if have >= total {
            break;
        }
        let left = total - have;
        let at = bounded::<BYTES>(have);
        let len = bounded::<BYTES>(if len < left { len } else { left });
        // SAFETY: place and length are at most `BYTES`, as the verifier proves once more.
        let failed = unsafe {
            helpers::bpf_probe_read_user(payload.add(at as usize).cast(), len as u32, base as *const c_void)
        };
        if failed != 0 {
            return false;
        }
        have = at + len;
    }
    have == total
}

/// [`at_most`] with the bound of a slot.
#[inline(always)]
fn bounded<const BYTES: usize>(value: u64) -> u64 {
    if BYTES == SMALL { at_most::<{ SMALL as u64 }>(value) } else { at_most::<{ MIDDLE as u64 }>(value) }
}
