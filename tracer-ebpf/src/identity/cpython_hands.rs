//! CPython: which task of an event loop has a pool's thread do what.
//!
//! A probe in the function of C by which `ThreadPoolExecutor.submit` puts an item into the pool's queue, as
//! `run_in_executor` has it do. The item's future is told of as if it were a task that this one has made; of every item, as
//! addresses are used again. How the memory is walked is in [`tracer_abi::python_thread`].

use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_abi::python::TaskId;
use tracer_abi::python_thread::submitted;

use super::OwnMemory;
use super::cpython::{passed, runs};
use super::cpython_makers::tell_made;

#[uprobe]
fn tracer_py_hand(_ctx: ProbeContext) -> u32 {
    passed(|actor, thread, process, begin| {
        let pointer = actor.task.thread_pointer();
        let future = submitted(&OwnMemory, process, pointer);
        if future != 0 {
            let task = runs(thread, process, pointer);
            tell_made(actor, TaskId { address: future, number: 0 }, task, begin);
        }
    })
}
