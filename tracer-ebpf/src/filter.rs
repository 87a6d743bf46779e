//! Is this task traced? Cheap to answer with no; never yes for the tracer itself.

use core::arch::asm;

use tracer_abi::config::{NANOS_PER_TICK, PREFILTER_SLOTS, ProcessState, process_flags};
use tracer_abi::error::KernelLoss;

use crate::kernel::Task;
use crate::maps::{TRACER_KSLOTS, TRACER_PORTS, TRACER_PROCS, TRACER_USLOTS, config, count};

/// A traced task, as record headers name it.
#[derive(Clone, Copy)]
pub(crate) struct Actor {
    pub(crate) task: Task,
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
    pub(crate) process_start: u64,
    /// Flags of the process table; zero when every process is traced.
    pub(crate) flags: u32,
}

impl Actor {
    /// The current task, which is not traced yet.
    #[inline(always)]
    fn untraced() -> Self {
        let task = Task::current();
        Self {
            task,
            tgid: task.tgid(),
            tid: task.tid(),
            process_start: task.process_start(),
            flags: process_flags::PENDING,
        }
    }

    /// Whether the process is traced for good, and not only until user space has decided.
    #[inline(always)]
    pub(crate) const fn is_traced(&self) -> bool {
        self.flags & process_flags::PENDING == 0
    }
}

/// The current task, if it is traced.
#[inline(always)]
pub(crate) fn current() -> Option<Actor> {
    listed().filter(|actor| actor.flags & process_flags::UNTRACED == 0)
}

/// The current task, if its process is in the table, traced or not.
#[inline(always)]
pub(crate) fn listed() -> Option<Actor> {
    // One call of a helper, and no other before the answer is no.
    let task = Task::current();
    let tgid = task.tgid();
    if config!(trace_all) != 0 && tgid != config!(tracer_tgid) {
        // The idle task has no process; it is what an interrupt may find.
        if tgid == 0 {
            return None;
        }
        return Some(Actor { task, tgid, tid: task.tid(), process_start: task.process_start(), flags: 0 });
    }
    if !slot_in_use(tgid) {
        return None;
    }
    let entry = TRACER_PROCS.get_ptr_mut(tgid)?;
    let (tid, process_start) = (task.tid(), task.process_start());
    // SAFETY: a live entry of the table; entries are plain integers.
    let entry = unsafe { &mut *entry };
    if entry.flags & process_flags::START_IN_TICKS != 0 {
        if entry.start_boottime != process_start / NANOS_PER_TICK {
            return None;
        }
        entry.start_boottime = process_start;
        entry.flags &= !process_flags::START_IN_TICKS;
    } else if entry.start_boottime != process_start {
        return None;
    }
    if tgid == config!(tracer_tgid) && entry.only_tid != tid {
        return None;
    }
    Some(Actor { task, tgid, tid, process_start, flags: entry.flags })
}

/// Whether any process of this slot may be in the table.
#[inline(always)]
fn slot_in_use(tgid: u32) -> bool {
    let slot = tgid & (PREFILTER_SLOTS - 1);
    let user = TRACER_USLOTS.get(slot >> 6).is_some_and(|word| word >> (slot & 63) & 1 != 0);
    // SAFETY: the index is inside the array, as the mask says; the verifier sees the same.
    user || kernel_slot(slot).is_some_and(|slot| unsafe { slot.read_volatile() } != 0)
}

#[inline(always)]
fn kernel_slot(slot: u32) -> Option<*mut u32> {
    let slots = TRACER_KSLOTS.get_ptr_mut(0)?.cast::<u32>();
    // SAFETY: the mask keeps the index inside the array.
    Some(unsafe { slots.add((slot & (PREFILTER_SLOTS - 1)) as usize) })
}

/// Enters a process into the table, with what its parent or its exec gave it.
#[inline(always)]
pub(crate) fn enter(tgid: u32, start_boottime: u64, flags: u32) {
    let state = ProcessState { start_boottime, flags: flags | process_flags::BY_KERNEL, only_tid: 0 };
    // SAFETY: a live entry of the table, if any; entries are plain integers.
    let counted = TRACER_PROCS
        .get_ptr(tgid)
        .is_some_and(|entry| unsafe { (*entry).flags } & process_flags::BY_KERNEL != 0);
    if TRACER_PROCS.insert(tgid, state, 0).is_err() {
        count(KernelLoss::ProcessTableFull);
    } else if !counted && let Some(slot) = kernel_slot(tgid) {
        // SAFETY: a valid slot.
        unsafe { atomic_add(slot, 1) };
    }
}

/// Whether a listener on this port makes its process one that user space decides about.
#[inline(always)]
pub(crate) fn awaits_port(port: u16) -> bool {
    let port = u32::from(port);
    TRACER_PORTS.get(port >> 6).is_some_and(|word| word >> (port & 63) & 1 != 0)
}

/// Captures the current process, which is not traced, until user space has decided. `None` for the tracer itself.
#[inline(always)]
pub(crate) fn enter_pending() -> Option<Actor> {
    let actor = Actor::untraced();
    if actor.tgid == config!(tracer_tgid) {
        return None;
    }
    enter(actor.tgid, actor.process_start, process_flags::PENDING);
    Some(actor)
}

/// Takes a process out of the table when its last thread exits. `flags` are those of its entry.
#[inline(always)]
pub(crate) fn leave(tgid: u32, flags: u32) {
    if TRACER_PROCS.remove(tgid).is_ok()
        && flags & process_flags::BY_KERNEL != 0
        && let Some(slot) = kernel_slot(tgid)
    {
        // SAFETY: as in `enter`.
        unsafe { atomic_add(slot, u32::MAX) };
    }
}

/// Adds to a word that other CPUs add to at the same time. The target has no atomic integer types of this size.
///
/// # Safety
///
/// `word` must be valid.
#[inline(always)]
unsafe fn atomic_add(word: *mut u32, value: u32) {
    // SAFETY: the caller promises a valid word.
    unsafe { asm!("lock *(u32 *)({word} + 0) += {value}", word = in(reg) word, value = in(wreg) value) };
}
