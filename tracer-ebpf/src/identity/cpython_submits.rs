//! CPython: which thread submits which work item to a pool.
//!
//! A probe in the function of C by which `ThreadPoolExecutor.submit` puts the item into the pool's queue. Other queues are
//! of the same kind, so what counts is where the thread is: in `submit`, with an item and its future at hand. How the
//! memory is walked is in [`tracer_abi::python_work`].

use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_abi::error::KernelLoss;
use tracer_abi::python_waits::PythonWaits;
use tracer_abi::python_work::MAX_FRAMES;

use super::cpython_waits::{Context, frame};
use super::{OwnMemory, is_process, now, run};
use crate::kernel::Task;
use crate::maps::{SleepState, TRACER_PYWAITS, count, sleep_state};
use crate::probes::handoff;

#[uprobe]
fn tracer_py_submit(_ctx: ProbeContext) -> u32 {
    let task = Task::current();
    let Some(followed) = handoff::followed(task) else {
        return 0;
    };
    let Some(process) = TRACER_PYWAITS.get_ptr_mut(task.tgid()) else {
        return 0;
    };
    // SAFETY: a live entry of the table, and entries are plain integers.
    let process = unsafe { &mut *process };
    if !is_process(task, process.start_boottime) {
        return 0;
    }
    // SAFETY: the current task; no run queue is locked.
    let Some(own) = (unsafe { sleep_state(task, true) }) else {
        count(KernelLoss::WakeStorageFull);
        return 0;
    };
    let begin = now();
    look(own, process, task.thread_pointer());
    // Another thread may add at the same time: what is lost then is one look.
    process.spent_nanos += now() - begin;
    process.looks += 1;
    if own.futures.any() {
        handoff::report_submitted(followed, &own.futures);
    }
    0
}

/// What the current thread submits, and inside of which item: left with it.
#[inline(never)]
fn look(own: &mut SleepState, process: &PythonWaits, thread_pointer: u64) {
    own.futures.submit(&OwnMemory, process, thread_pointer);
    if own.futures.any() {
        let mut context = Context { waker: own, process };
        run(MAX_FRAMES, frame, &mut context);
    }
}
