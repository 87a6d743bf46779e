//! CPython: what a thread that is woken has waited for.
//!
//! How its memory is walked is in [`tracer_abi::python_waits`].

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_abi::config::identity_slot;
use tracer_abi::error::KernelLoss;
use tracer_abi::event::WakeCause;
use tracer_abi::python_waits::{MAX_STEPS, PythonWaits, Waiting};

use super::{OwnMemory, go_on_behind, is_process, now, run};
use crate::kernel::Task;
use crate::maps::{SleepState, TRACER_PYWAITS, count, sleep_state};
use crate::probes::handoff::{self, TRACER_IDWAKE, report};

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
            woken.awaited = awaited(waker, process, task.thread_pointer());
        }
    } else {
        go_on_behind(&ctx, &TRACER_IDWAKE, identity_slot::PYTHON);
    }
    report(followed, WakeCause::Futex, woken);
    0
}

/// What the loop of the kernel's hands on.
struct Context<'w> {
    waiting: &'w mut Waiting,
    process: &'w PythonWaits,
}

/// What a thread waits for that shares the memory of the current one.
#[inline(never)]
fn awaited(waker: &mut SleepState, process: &mut PythonWaits, thread_pointer: u64) -> u16 {
    let begin = now();
    waker.waiting = Waiting::begin(&OwnMemory, process, thread_pointer);
    let mut context = Context { waiting: &mut waker.waiting, process };
    run(MAX_STEPS, step, &mut context);
    let awaited = context.waiting.awaited();
    // Another thread may add at the same time: what is lost then is one look.
    process.spent_nanos += now() - begin;
    process.looks += 1;
    awaited
}

extern "C" fn step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.waiting.step(&OwnMemory, context.process))
}
