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

use super::java_work::of_thread;
use super::{OwnMemory, go_on_behind, is_process, now};
use crate::kernel::Task;
use crate::maps::{SleepState, TRACER_JVWAITS, count, sleep_state};
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
        // SAFETY: the current task and the hook's own argument; no run queue is locked.
        let states = unsafe { (sleep_state(Task::current(), true), sleep_state(task, false)) };
        let (Some(waker), Some(sleeper)) = states else {
            count(KernelLoss::WakeStorageFull);
            return 0;
        };
        if is_process(task, process.start_boottime) {
            let begin = now();
            look(waker, sleeper, process, task.thread_pointer(), woken.futex);
            woken.awaited = waker.java_awaited as u16;
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

/// What a thread waits for that shares the memory of the current one, and whose result that is: left with the waker.
#[inline(never)]
fn look(waker: &mut SleepState, sleeper: &mut SleepState, process: &mut JavaWaits, sleeps: u64, futex: u64) {
    let wakes = Task::current().thread_pointer();
    let wait = process.wait(&OwnMemory, sleeps, futex);
    waker.java_awaited = u32::from(wait.awaited.code());
    waker.futures.clear();
    match wait.kind {
        Kind::FutureTask => process.future_task = wait.class,
        Kind::ForkJoinTask | Kind::Completion => process.fork_join_task = wait.class,
        Kind::Other => {
            if wait.awaited.code() == Awaited::Queue.code() {
                // It goes to do something else.
                sleeper.java.begins(&OwnMemory, process, sleeps);
            }
            return;
        }
    }
    let work = of_thread(&mut waker.java, process, wakes);
    if work.address == 0 || !matches!(wait.kind, Kind::Completion) && work.address != wait.blocker {
        return;
    }
    if sleeper.java.has_made(&OwnMemory, process, sleeps, work.address) {
        waker.java_awaited = u32::from(Awaited::OwnResult.code());
    }
    let outer = of_thread(&mut sleeper.java, process, sleeps);
    waker.futures.of_one(work.number, outer);
    // Its task is over, but for what wakes others.
    waker.java.begins(&OwnMemory, process, wakes);
}
