//! CPython: which task of an event loop makes which.
//!
//! A probe in the function of C that sets up a new task: who runs there has made it. A task does not know that itself. How the
//! memory is walked is in [`tracer_abi::python`].

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_abi::conn::SocketCookie;
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{EventKind, IdentityRecord, Runtime};
use tracer_abi::python::{Memory as _, TaskId};

use super::cpython::runs;
use super::{OwnMemory, is_process, now, zeroed};
use crate::emit;
use crate::filter;
use crate::maps::{TRACER_DATA, TRACER_PYTHON, count, task_state};

#[uprobe]
fn tracer_py_make(ctx: ProbeContext) -> u32 {
    let Some(actor) = filter::current() else {
        return 0;
    };
    let Some(process) = TRACER_PYTHON.get_ptr_mut(actor.tgid) else {
        return 0;
    };
    // SAFETY: a live entry of the table, and entries are plain integers.
    let process = unsafe { &mut *process };
    if !is_process(actor.task, process.start_boottime) {
        return 0;
    }
    let Some(thread) = task_state(actor.task) else {
        count(KernelLoss::TaskStorageFull);
        return 0;
    };
    let begin = now();
    let maker = runs(thread, process, actor.task.thread_pointer());
    // It gets the next one, unless it is given a name.
    let number = match process.task_counter {
        0 => 0,
        counter => OwnMemory.word(counter).wrapping_add(1),
    };
    // SAFETY: a probe's context is the register frame; the new object is the first argument.
    let made = TaskId { address: unsafe { (*ctx.regs).rdi }, number };
    let Some(mut entry) = TRACER_DATA.reserve::<IdentityRecord>(0) else {
        count(KernelLoss::DataRingFull);
        return 0;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: memory of this size and alignment, all of which is written.
    unsafe {
        let tasks = zeroed(&raw mut (*record).tasks);
        (*record).header = emit::header::<IdentityRecord>(EventKind::TaskIdentified, Some(&actor));
        (*record).cookie = SocketCookie::default();
        (*record).runtime = Runtime::PythonMaker.code();
        (*record).direction = 0;
        (*record).end = 0;
        (*record).len = 2;
        tasks[0] = made;
        tasks[1] = maker;
        (*record).cost_nanos = (now() - begin) as u32;
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    // Another thread may add at the same time: what is lost then is one look.
    process.spent_nanos += now() - begin;
    process.looks += 1;
    0
}
