//! CPython: which task of an event loop writes what the loop sends when its tasks have had their turn.
//!
//! A probe in the functions of uvloop's by which a task writes to a connection. How the memory is walked is in
//! [`tracer_abi::python_streams`].

use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_abi::python::{PythonProcess, TaskId};
use tracer_abi::python_streams::Stream;

use super::OwnMemory;
use super::cpython::{passed, runs, waiters};
use crate::filter::Actor;
use crate::maps::{TRACER_PYWROTE, TaskState};
use crate::sock::OpenSocket;

#[uprobe]
fn tracer_py_write(ctx: ProbeContext) -> u32 {
    // SAFETY: a probe's context is the register frame; the connection is the first argument.
    let connection = unsafe { (*ctx.regs).rdi };
    passed(|actor, thread, process, _| note(thread, actor, process, connection))
}

#[inline(never)]
fn note(thread: &mut TaskState, actor: &Actor, process: &PythonProcess, connection: u64) {
    let Some(stream) = Stream::of(&OwnMemory, process, connection) else {
        return;
    };
    let Some(socket) = OpenSocket::of(actor.task, stream.descriptor) else {
        return;
    };
    let (key, seq) = (socket.address(), socket.write_seq());
    let writer = runs(thread, process, actor.task.thread_pointer());
    if let Some(written) = TRACER_PYWROTE.get_ptr_mut(key) {
        // SAFETY: a live entry of the table, and entries are plain integers.
        if unsafe { (*written).goes_on(writer, seq) } {
            return;
        }
    }
    if writer == TaskId::default() {
        // Written by no task, as far as can be told: nor is it by one that writes behind that.
        thread.walk.chain.len = 0;
    } else {
        waiters(thread, process);
    }
    let walk = &mut thread.walk;
    walk.written.begin(&walk.chain, seq, stream);
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "else it is copied to the stack, where there is no room"
    )]
    let _ = TRACER_PYWROTE.insert(key, &walk.written, 0);
}
