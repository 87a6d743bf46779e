//! HotSpot: what a thread that is woken has waited for.
//!
//! How its memory is walked is in [`tracer_abi::java_waits`].

use core::ffi::c_void;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_abi::config::identity_slot;
use tracer_abi::event::WakeCause;
use tracer_abi::java_waits::JavaWaits;

use super::{OwnMemory, go_on_behind, is_process, now};
use crate::kernel::Task;
use crate::maps::TRACER_JVWAITS;
use crate::probes::handoff::{self, TRACER_IDWAKE, report};

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
        if is_process(task, process.start_boottime) {
            let begin = now();
            woken.awaited = awaited(process, task.thread_pointer(), woken.futex);
            // Another thread may add at the same time: what is lost then is one look.
            process.spent_nanos += now() - begin;
            process.looks += 1;
        }
    } else {
        go_on_behind(&ctx, &TRACER_IDWAKE, identity_slot::JAVA);
    }
    report(followed, WakeCause::Futex, woken);
    0
}

/// What a thread waits for that shares the memory of the current one.
#[inline(never)]
fn awaited(process: &JavaWaits, thread_pointer: u64, futex: u64) -> u16 {
    process.awaited(&OwnMemory, thread_pointer, futex).code()
}
