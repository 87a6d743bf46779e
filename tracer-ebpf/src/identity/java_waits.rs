//! HotSpot: what a thread that is woken has waited for, and whose result that is.
//!
//! How its memory is walked is in [`tracer_abi::java_waits`] and [`tracer_abi::java_work`].

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_abi::config::identity_slot;
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{Awaited, WakeCause};
use tracer_abi::java_waits::{JavaWaits, Kind};
use tracer_abi::java_work::Begins;
use tracer_abi::python_work::Futures;

use super::java_work::of_thread;
use super::{OwnMemory, go_on_behind, is_process, now};
use crate::kernel::Task;
use crate::maps::{TRACER_JVWAITS, count, java_thread, sleep_state};
use crate::probes::handoff::{self, TRACER_IDWAKE, report, report_for};

/// `sched_waking(task)`, of a wake-up that is to be reported.
#[btf_tracepoint(function = "sched_waking")]
fn tracer_jv_wake(ctx: BtfTracePointContext) -> i32 {
    let task = Task(ctx.arg::<*const c_void>(0));
    let Some((followed, mut woken)) = handoff::again(task) else {
        return 0;
    };
    if let Some(process) = TRACER_JVWAITS.get_ptr_mut(task.tgid()) {
        // SAFETY: a live entry of the table, and entries are plain integers.
        let process = unsafe { &mut *process };
        // SAFETY: the current task; no run queue is locked.
        let Some(waker) = (unsafe { sleep_state(Task::current(), true) }) else {
            count(KernelLoss::WakeStorageFull);
            return 0;
        };
        if is_process(task, process.start_boottime) {
            let begin = now();
            woken.awaited = look(&mut waker.futures, process, task, woken.futex) as u16;
            // Another thread may add at the same time: what is lost then is one look.
            process.spent_nanos += now() - begin;
            process.looks += 1;
            if waker.futures.any() {
                report_for(followed, woken, &waker.futures);
                return 0;
            }
        }
    } else {
        go_on_behind(&ctx, &TRACER_IDWAKE, identity_slot::JAVA);
    }
    report(followed, WakeCause::Futex, woken);
    0
}

/// What a thread waits for that shares the memory of the current one: [`Awaited`]; and whose result that is.
#[inline(never)]
fn look(futures: &mut Futures, process: &mut JavaWaits, task: Task, futex: u64) -> u32 {
    let (sleeps, wakes) = (task.thread_pointer(), Task::current().thread_pointer());
    futures.clear();
    let wait = process.wait(&OwnMemory, sleeps, futex);
    let awaited = u32::from(wait.awaited.code());
    // SAFETY: the current task and the hook's own argument; no run queue is locked. Without room nothing is known.
    let (Some(waker), Some(sleeper)) =
        (unsafe { (java_thread(Task::current(), true), java_thread(task, true)) })
    else {
        return awaited;
    };
    match wait.kind {
        Kind::FutureTask => process.future_task = wait.class,
        Kind::ForkJoinTask | Kind::Completion => process.fork_join_task = wait.class,
        Kind::Other => {
            if awaited == u32::from(Awaited::Queue.code()) {
                // It goes to do something else.
                sleeper.begins(&OwnMemory, process, sleeps, Begins::Task);
            }
            return awaited;
        }
    }
    let work = of_thread(waker, process, wakes);
    if work.address == 0 || !matches!(wait.kind, Kind::Completion) && work.address != wait.blocker {
        return awaited;
    }
    let is_own = sleeper.has_made(&OwnMemory, process, sleeps, work.address);
    futures.of_one(work.number, of_thread(sleeper, process, sleeps));
    // Its task is over, but for what wakes others; what completes may have more to do.
    if !matches!(wait.kind, Kind::Completion) {
        waker.begins(&OwnMemory, process, wakes, Begins::NextTask);
    }
    if is_own { u32::from(Awaited::OwnResult.code()) } else { awaited }
}
