//! Reserve → fill → submit. A full ring is a counted reason.
//!
//! Records are built in place, in one of a few sizes: the verifier wants sizes to be constants, and memory of our
//! own per CPU would not be exclusive, because a program can be preempted by another.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated as helpers;
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::event::{DataRecord, EventKind, Header};
use tracer_abi::limits::{LOOK_INTERVAL_NANOS, MAX_CHUNK_BYTES, WAKE_INTERVAL_NANOS, urgent_bytes};
use tracer_abi::task::{Tgid, Tid};
use tracer_abi::time::KernelInstant;

use crate::filter::Actor;
use crate::maps::{TRACER_CTRL, TRACER_DATA, TRACER_WAKE, config, count};

/// Clamps a length to a constant in the very register that is used afterwards. A comparison in Rust may be compiled
/// to one of a copy, which leaves the verifier without a bound.
#[inline(always)]
pub(crate) fn at_most<const MAX: u64>(mut value: u64) -> u64 {
    // SAFETY: changes nothing but the register.
    unsafe {
        asm!("if {value} <= {max} goto +1", "{value} = {max}", value = inout(reg) value, max = const MAX);
    }
    value
}

/// The header of a record made by `actor`, or in no process's context. Stamped now.
#[inline(always)]
pub(crate) fn header<T>(kind: EventKind, actor: Option<&Actor>) -> Header {
    // SAFETY: no preconditions.
    let (now, cpu) = unsafe { (helpers::bpf_ktime_get_ns(), helpers::bpf_get_smp_processor_id()) };
    let mut header = Header {
        kind: kind.code(),
        len_bytes: size_of::<T>() as u32,
        time: KernelInstant::from_nanos(now),
        cpu,
        ..Header::default()
    };
    if let Some(actor) = actor {
        header.process_start_boottime = actor.process_start;
        header.tgid = Tgid(actor.tgid);
        header.tid = Tid(actor.tid);
    }
    header
}

/// Writes a life-cycle record; `fill` gets zeroed memory. The consumer is woken.
#[inline(always)]
pub(crate) fn control<T: 'static>(fill: impl FnOnce(&mut T)) {
    let Some(mut entry) = TRACER_CTRL.reserve::<T>(0) else {
        count(KernelLoss::ControlRingFull);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: memory of this size and alignment, which is a multiple of eight; records are plain integers, for which
    // zero is a value. Written word by word: a call of `memset` would be a loop over bytes.
    unsafe {
        for word in 0..size_of::<T>() / 8 {
            record.cast::<u64>().add(word).write_volatile(0);
        }
        fill(&mut *record);
    }
    entry.submit(0);
}

/// A data record with room for a chunk of payload.
#[repr(C)]
struct Slot<const BYTES: usize> {
    record: DataRecord,
    payload: [u8; BYTES],
}

/// Room for payload in the slots below. Most heads fit the second, bodies fill the last.
const SMALL: usize = 256;
const MIDDLE: usize = 1024;
const LARGE: usize = MAX_CHUNK_BYTES as usize;

/// Writes one data record with `len` bytes (at most [`MAX_CHUNK_BYTES`]) of the program's memory at `source`. The
/// ring being full is counted here. Not inlined: the verifier walks it once per call, but it is stored once.
#[inline(never)]
pub(crate) fn data(template: &DataRecord, source: u64, len: u64) -> bool {
    let done = if len == 0 {
        chunk::<0>(template, source, 0)
    } else if len <= SMALL as u64 {
        chunk::<SMALL>(template, source, at_most::<{ SMALL as u64 }>(len))
    } else if len <= MIDDLE as u64 {
        chunk::<MIDDLE>(template, source, at_most::<{ MIDDLE as u64 }>(len))
    } else {
        chunk::<LARGE>(template, source, at_most::<{ LARGE as u64 }>(len))
    };
    if !done {
        count(KernelLoss::DataRingFull);
    }
    done
}

#[inline(always)]
fn chunk<const BYTES: usize>(template: &DataRecord, source: u64, len: u64) -> bool {
    let Some(mut entry) = TRACER_DATA.reserve::<Slot<BYTES>>(0) else {
        return false;
    };
    let slot = entry.as_mut_ptr();
    // SAFETY: `slot` is memory for a `Slot`; the payload is only written within its bounds, which the verifier
    // proves once more.
    unsafe {
        let record = &raw mut (*slot).record;
        record.write(*template);
        if BYTES > 0 {
            let payload: *mut c_void = (&raw mut (*slot).payload).cast();
            if helpers::bpf_probe_read_user(payload, len as u32, source as *const c_void) == 0 {
                (*record).payload_len = len as u32;
                (*record).header.len_bytes = size_of::<DataRecord>() as u32 + len as u32;
            } else {
                (*record).payload_state = PayloadState::Unreadable.code();
                count(KernelLoss::PayloadFault);
            }
        }
    }
    entry.submit(wakeup(template.header.time.as_nanos()));
    true
}

/// Waking the consumer costs several times what the record does, and so does every change to it and back. It is woken when
/// this CPU has not done so for a while, and sooner when much has gathered, which is looked at now and then; in between
/// it looks by itself. One that is behind gains nothing from being woken more often.
#[inline(always)]
pub(crate) fn wakeup(now: u64) -> u64 {
    let Some(wake) = TRACER_WAKE.get_ptr_mut(0) else {
        return u64::from(BPF_RB_NO_WAKEUP);
    };
    // SAFETY: a valid slot of this CPU, and a valid map.
    unsafe {
        if now.wrapping_sub((*wake).woken) < WAKE_INTERVAL_NANOS {
            if now.wrapping_sub((*wake).looked) < LOOK_INTERVAL_NANOS {
                return u64::from(BPF_RB_NO_WAKEUP);
            }
            (*wake).looked = now;
            let waiting = helpers::bpf_ringbuf_query((&raw const TRACER_DATA).cast_mut().cast(), 0);
            if waiting < u64::from(urgent_bytes(config!(data_ring_bytes))) {
                return u64::from(BPF_RB_NO_WAKEUP);
            }
        }
        (*wake).woken = now;
    }
    u64::from(BPF_RB_FORCE_WAKEUP)
}
