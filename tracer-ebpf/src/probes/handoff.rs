//! Hand-offs between the threads of a process: who wakes whom.
//!
//! Attached only while some process is followed, because these hooks see every sleep of the machine. Of a followed
//! process's wake-ups only those are reported that cannot be chance: the waker is in a futex call that wakes, and the
//! woken thread in one that waits, at the same address. An interrupt that lands in a thread and wakes another one is
//! none. What a wake-up means is not decided here.
//!
//! The consumer of the ring is never woken: that costs ten times what the record does.
//!
//! What the woken thread waits *for* is read from here, too, where its runtime is known: it shares its memory with the
//! waker, in whose context [`tracer_waking`] runs. That is another program's work, which goes on with the wake-up:
//! [`crate::identity`].

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_abi::config::{Followed, identity_slot};
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{
    Awaited, EventKind, Header, SubmittedRecord, WakeCause, WokenForRecord, WokenRecord,
};
use tracer_abi::python::TaskId;
use tracer_abi::python_work::Futures;
use tracer_abi::task::Tid;
use tracer_abi::time::KernelInstant;

use crate::emit;
use crate::filter::Actor;
use crate::identity;
use crate::kernel::Task;
use crate::maps::{TRACER_HANDOFF, TRACER_WOKEN, count, sleep_state};
use crate::regs::Regs;
use crate::waits;

/// The programs that know what a woken thread waited for, by `identity_slot`. Entered by the tracer.
#[map]
pub(crate) static TRACER_IDWAKE: ProgramArray = ProgramArray::with_max_entries(identity_slot::COUNT, 0);

/// `sched_waking(task)`: in the context of whoever wakes, with the task's own lock held and interrupts off. The task may
/// be on its way to sleep only.
#[btf_tracepoint(function = "sched_waking")]
fn tracer_waking(ctx: BtfTracePointContext) -> i32 {
    let woken = Task(ctx.arg::<*const c_void>(0));
    let Some(followed) = followed(woken) else {
        return 0;
    };
    // SAFETY: an entry of the table.
    unsafe { atomic_add(&raw mut (*followed).wakes, 1) };
    // SAFETY: the hook's own argument; no run queue is locked. Every thread of a followed process has a state from its
    // first wake-up on.
    let Some(sleep) = (unsafe { sleep_state(woken, true) }) else {
        count(KernelLoss::WakeStorageFull);
        return 0;
    };
    if let Some(futex) = woken_at(woken) {
        // SAFETY: an entry of the table.
        if unsafe { (*followed).asked } != 0 {
            identity::go_on_from(&ctx, &TRACER_IDWAKE, 0);
        }
        let woken = Woken { tid: woken.tid(), futex, since: sleep.since, awaited: Awaited::Unknown.code() };
        report(followed, WakeCause::Futex, woken);
    }
    0
}

/// A wake-up that is to be reported.
pub(crate) struct Woken {
    tid: u32,
    pub(crate) futex: u64,
    since: u64,
    /// [`Awaited`]
    pub(crate) awaited: u16,
}

/// The same wake-up, for a program that goes on with it.
#[inline(always)]
pub(crate) fn again(woken: Task) -> Option<(*mut Followed, Woken)> {
    let followed = followed(woken)?;
    let futex = woken_at(woken)?;
    // SAFETY: the hook's own argument; nothing is allocated.
    let since = (unsafe { sleep_state(woken, false) })?.since;
    Some((followed, Woken { tid: woken.tid(), futex, since, awaited: Awaited::Unknown.code() }))
}

/// The futex at which the current thread wakes another one of its process.
#[inline(always)]
fn woken_at(woken: Task) -> Option<u64> {
    let waker = Task::current();
    if waker.tgid() != woken.tgid() || waker.tid() == woken.tid() {
        return None;
    }
    let futex = Regs::of(waker).woken_futex()?;
    (Regs::of(woken).awaited_futex()? == futex).then_some(futex)
}

/// `sched_switch(preempt, prev, next, prev_state)`: with the run queue locked.
#[btf_tracepoint(function = "sched_switch")]
fn tracer_switch(ctx: BtfTracePointContext) -> i32 {
    let preempted: u32 = ctx.arg(0);
    let previous = Task(ctx.arg::<*const c_void>(1));
    let next = Task(ctx.arg::<*const c_void>(2));
    let state: u32 = ctx.arg(3);
    // Most threads of the machine have no state, which is found faster than that their process is not followed.
    if preempted & 1 == 0
        && state != 0
        // SAFETY: the hook's own argument; nothing is allocated.
        && let Some(sleep) = unsafe { sleep_state(previous, false) }
        && let Some(followed) = followed(previous)
    {
        // SAFETY: no preconditions.
        sleep.since = unsafe { helpers::bpf_ktime_get_ns() };
        // SAFETY: an entry of the table.
        waits::note(sleep, Regs::of(previous), unsafe { (*followed).event_fds });
    }
    // A thread that runs does not sleep: what it wrote when it last fell asleep must not be taken for its next sleep.
    // SAFETY: as above.
    if let Some(sleep) = unsafe { sleep_state(next, false) } {
        sleep.since = 0;
    }
    0
}

/// `task_newtask(task, clone_flags)`: in the context of its creator, before it runs.
#[btf_tracepoint(function = "task_newtask")]
fn tracer_newtask(ctx: BtfTracePointContext) -> i32 {
    let born = Task(ctx.arg::<*const c_void>(0));
    let creator = Task::current();
    if born.tgid() != creator.tgid() {
        return 0;
    }
    if let Some(followed) = followed(creator) {
        let woken = Woken { tid: born.tid(), futex: 0, since: 0, awaited: Awaited::Unknown.code() };
        report(followed, WakeCause::Born, woken);
    }
    0
}

/// The entry of a task's process, if its hand-offs are followed.
#[inline(always)]
pub(crate) fn followed(task: Task) -> Option<*mut Followed> {
    let followed = TRACER_HANDOFF.get_ptr_mut(task.tgid())?;
    // SAFETY: an entry of the table.
    identity::is_process(task, unsafe { (*followed).start_boottime }).then_some(followed)
}

/// The current task is the one that wakes.
#[inline(always)]
pub(crate) fn report(followed: *mut Followed, cause: WakeCause, woken: Woken) {
    let Some(number) = numbered(followed) else { return };
    let Some(mut entry) = TRACER_WOKEN.reserve::<WokenRecord>(0) else {
        count(KernelLoss::WakeRingFull);
        return;
    };
    let header = header::<WokenRecord>(EventKind::ThreadWoken, number);
    entry.write(record(header, cause, &woken));
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// The same, where it is known whose results the two have to do with.
#[inline(always)]
pub(crate) fn report_for(followed: *mut Followed, woken: Woken, futures: &Futures) {
    let Some(number) = numbered(followed) else { return };
    let Some(mut entry) = TRACER_WOKEN.reserve::<WokenForRecord>(0) else {
        count(KernelLoss::WakeRingFull);
        return;
    };
    let header = header::<WokenForRecord>(EventKind::ThreadWokenFor, number);
    entry.write(WokenForRecord {
        woken: record(header, WakeCause::Futex, &woken),
        within: futures.within.work.number,
        futures: futures.futures,
    });
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// The current task submits a work item.
#[inline(always)]
pub(crate) fn report_submitted(followed: *mut Followed, futures: &Futures) {
    let Some(number) = numbered(followed) else { return };
    let Some(mut entry) = TRACER_WOKEN.reserve::<SubmittedRecord>(0) else {
        count(KernelLoss::WakeRingFull);
        return;
    };
    entry.write(SubmittedRecord {
        header: header::<SubmittedRecord>(EventKind::WorkSubmitted, number),
        work: TaskId { address: futures.submitted, number: futures.futures[0] },
        within: futures.within.work.number,
    });
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// The number of a wake-up of the current task's, or of another record among those, that is to be reported.
#[inline(always)]
fn numbered(followed: *mut Followed) -> Option<u32> {
    // SAFETY: the current task; no run queue is locked.
    let Some(own) = (unsafe { sleep_state(Task::current(), true) }) else {
        count(KernelLoss::WakeStorageFull);
        return None;
    };
    own.woke = own.woke.wrapping_add(1);
    // SAFETY: an entry of the table.
    unsafe { atomic_add(&raw mut (*followed).reported, 1) };
    Some(own.woke)
}

#[inline(always)]
fn header<T>(kind: EventKind, number: u32) -> Header {
    let waker = Task::current();
    let actor = Actor {
        task: waker,
        tgid: waker.tgid(),
        tid: waker.tid(),
        process_start: waker.process_start(),
        flags: 0,
    };
    let mut header = emit::header::<T>(kind, Some(&actor));
    header.thread_seq = number;
    header
}

#[inline(always)]
const fn record(header: Header, cause: WakeCause, woken: &Woken) -> WokenRecord {
    WokenRecord {
        header,
        futex: woken.futex,
        asleep_since: KernelInstant::from_nanos(woken.since),
        woken: Tid(woken.tid),
        cause: cause.code(),
        awaited: woken.awaited,
    }
}

/// Adds to a word that other CPUs add to at the same time.
///
/// # Safety
///
/// `word` must be valid.
#[inline(always)]
unsafe fn atomic_add(word: *mut u64, value: u64) {
    // SAFETY: the caller promises a valid word.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {value}", word = in(reg) word, value = in(reg) value) };
}
