//! CPython: what a thread that is woken has waited for, and whose results it and its waker have to do with.
//!
//! How its memory is walked is in [`tracer_abi::python_waits`] and [`tracer_abi::python_work`].

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_abi::config::identity_slot;
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{Awaited, WakeCause};
use tracer_abi::python_waits::{MAX_STEPS, PythonWaits, Waiting};
use tracer_abi::python_work::{MAX_FRAMES, MAX_PLACES};

use super::{OwnMemory, go_on_behind, is_process, now, run};
use crate::kernel::Task;
use crate::maps::{SleepState, TRACER_PYWAITS, count, sleep_state};
use crate::probes::handoff::{self, TRACER_IDWAKE, report, report_for};

/// `sched_waking(task)`, of a wake-up that is to be reported.
#[btf_tracepoint(function = "sched_waking")]
fn tracer_py_wake(ctx: BtfTracePointContext) -> i32 {
    let task = Task(ctx.arg::<*const c_void>(0));
    let Some((followed, mut woken)) = handoff::again(task) else {
        return 0;
    };
    if let Some(process) = TRACER_PYWAITS.get_ptr_mut(task.tgid()) {
        // SAFETY: a live entry of the table, and entries are plain integers.
        let process = unsafe { &mut *process };
        if process.is_own(woken.futex) {
            return 0;
        }
        // SAFETY: the current task; no run queue is locked.
        let Some(waker) = (unsafe { sleep_state(Task::current(), true) }) else {
            count(KernelLoss::WakeStorageFull);
            return 0;
        };
        if is_process(task, process.start_boottime) {
            look(waker, process, task.thread_pointer(), Task::current().thread_pointer());
            woken.awaited = waker.waiting.awaited();
            if waker.futures.any() {
                report_for(followed, woken, &waker.futures);
                return 0;
            }
        }
    } else {
        go_on_behind(&ctx, &TRACER_IDWAKE, identity_slot::PYTHON);
    }
    report(followed, WakeCause::Futex, woken);
    0
}

/// What the loops of the kernel's hand on.
pub(super) struct Context<'w> {
    pub(super) waker: &'w mut SleepState,
    pub(super) process: &'w PythonWaits,
}

/// What a thread waits for that shares the memory of the current one, and whose results the two have to do with: left with
/// the waker.
#[inline(never)]
fn look(waker: &mut SleepState, process: &mut PythonWaits, woken: u64, own: u64) {
    let begin = now();
    waker.waiting = Waiting::begin(&OwnMemory, process, woken);
    let mut context = Context { waker, process };
    run(MAX_STEPS, step, &mut context);
    let Context { waker, process: known } = context;
    let mut more = false;
    if waker.waiting.awaited() == Awaited::Result.code() {
        more = waker.futures.await_results(&OwnMemory, known, &waker.waiting);
    } else if known.sees_submits == 0 {
        waker.futures.submit(&OwnMemory, known, own);
    } else {
        waker.futures.clear();
    }
    let mut context = Context { waker, process: known };
    if more {
        run(MAX_PLACES, place, &mut context);
    }
    if context.waker.futures.any() {
        run(MAX_FRAMES, frame, &mut context);
    }
    // Another thread may add at the same time: what is lost then is one look.
    process.spent_nanos += now() - begin;
    process.looks += 1;
}

extern "C" fn step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.waker.waiting.step(&OwnMemory, context.process))
}

extern "C" fn place(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.waker.futures.step(&OwnMemory, context.process))
}

pub(super) extern "C" fn frame(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.waker.futures.within.step(&OwnMemory, context.process))
}
