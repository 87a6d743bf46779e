//! CPython: which task of an event loop has a pool's thread do what.
//!
//! A probe in the function of C by which `ThreadPoolExecutor.submit` puts an item into the pool's queue, as
//! `run_in_executor` has it do. The item's future is told of as if it were a task that this one has made; of every item, as
//! addresses are used again. How the memory is walked is in [`tracer_abi::python_thread`].

use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_abi::error::KernelLoss;
use tracer_abi::python::TaskId;
use tracer_abi::python_thread::submitted;

use super::cpython::runs;
use super::cpython_makers::tell_made;
use super::{OwnMemory, is_process, now};
use crate::filter;
use crate::maps::{TRACER_PYTHON, count, task_state};

#[uprobe]
fn tracer_py_hand(_ctx: ProbeContext) -> u32 {
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
    let pointer = actor.task.thread_pointer();
    let future = submitted(&OwnMemory, process, pointer);
    if future != 0 {
        let task = runs(thread, process, pointer);
        tell_made(&actor, TaskId { address: future, number: 0 }, task, begin);
    }
    // Another thread may add at the same time: what is lost then is one look.
    process.spent_nanos += now() - begin;
    process.looks += 1;
    0
}
