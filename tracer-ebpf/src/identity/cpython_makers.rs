//! CPython: which task of an event loop makes which.
//!
//! A probe in the function of C that sets up a new task: who runs there has made it. A task does not know that itself. How the
//! memory is walked is in [`tracer_abi::python`].

use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::event::{EventKind, IdentityRecord, Runtime};
use tracer_abi::python::{Memory as _, TaskId};

use super::cpython::{passed, runs};
use super::{OwnMemory, write};
use crate::emit;
use crate::filter::Actor;

#[uprobe]
fn tracer_py_make(ctx: ProbeContext) -> u32 {
    // SAFETY: a probe's context is the register frame; the new object is the first argument.
    let address = unsafe { (*ctx.regs).rdi };
    passed(|actor, thread, process, begin| {
        let maker = runs(thread, process, actor.task.thread_pointer());
        // It gets the next one, unless it is given a name.
        let number = match process.task_counter {
            0 => 0,
            counter => OwnMemory.word(counter).wrapping_add(1),
        };
        (thread.walk.made, thread.walk.maker) = (address, maker.address);
        tell_made(actor, TaskId { address, number }, maker, begin);
    })
}

/// A task, or what a pool is to do for one, and who has made it.
#[inline(always)]
pub(super) fn tell_made(actor: &Actor, made: TaskId, maker: TaskId, begin: u64) {
    let header = emit::header::<IdentityRecord>(EventKind::TaskIdentified, Some(actor));
    let nothing = (header, SocketCookie::default(), Direction::Egress as u8);
    write(nothing, Runtime::PythonMaker, begin, 0, |tasks| {
        (tasks[0], tasks[1]) = (made, maker);
        2
    });
}
