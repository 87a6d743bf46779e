//! Greenlets: the one that runs on the thread.
//!
//! | operation | told |
//! |---|---|
//! | a turn of egress begins, but for answers; a turn of ingress begins | which greenlet it is |
//!
//! How the memory is walked is in [`tracer_abi::greenlet`].

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated as helpers;
use tracer_abi::config::identity_slot;
use tracer_abi::conn::{Direction, Role};
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{EventKind, IdentityRecord, Runtime};
use tracer_abi::greenlet::{self, GreenletProcess};
use tracer_abi::python::{CHAIN_TASKS, TaskId};

use super::{OwnMemory, asked_process, is_process, reported};
use crate::kernel::Task;
use crate::maps::{TRACER_DATA, TRACER_GREENLET, TaskState, count};
use crate::probes::{fexit, sock_length};

programs! {
    GREENLET, look;
    trace_points {
        tracer_gl_send, "sock_send_length", Egress, TRACER_IDSEND;
        tracer_gl_recv, "sock_recv_length", Ingress, TRACER_IDRECV;
    }
    returns {
        tracer_gl_in4s, "inet_sendmsg", Egress, TRACER_IDIN4S;
        tracer_gl_in6s, "inet6_sendmsg", Egress, TRACER_IDIN6S;
        tracer_gl_uns, "unix_stream_sendmsg", Egress, TRACER_IDUNS;
        tracer_gl_in4r, "inet_recvmsg", Ingress, TRACER_IDIN4R;
        tracer_gl_in6r, "inet6_recvmsg", Ingress, TRACER_IDIN6R;
        tracer_gl_unr, "unix_stream_recvmsg", Ingress, TRACER_IDUNR;
    }
}

/// False: the process is not one that runs greenlets.
///
/// # Safety
///
/// `sk` must be a socket pointer that the verifier tracks.
#[inline(always)]
unsafe fn look(sk: *const c_void, direction: Direction) -> bool {
    let Some(tgid) = asked_process() else {
        return true;
    };
    let Some(process) = TRACER_GREENLET.get_ptr_mut(tgid) else {
        return false;
    };
    // SAFETY: as the caller promises; a live entry of the table, and entries are plain integers.
    unsafe { ask(sk, direction, &mut *process) };
    true
}

/// # Safety
///
/// As of [`look`].
#[inline(always)]
unsafe fn ask(sk: *const c_void, direction: Direction, process: &mut GreenletProcess) {
    let task = Task::current();
    if !is_process(task, process.start_boottime) {
        return;
    }
    // SAFETY: as the caller promises.
    let Some((thread, state)) = (unsafe { reported(task, sk) }) else {
        return;
    };
    if matches!(direction, Direction::Egress) && state.role == Role::Server.code() {
        // An answer: the greenlet that has read the request gives it.
        return;
    }
    // SAFETY: no preconditions.
    let begin = unsafe { helpers::bpf_ktime_get_ns() };
    let found = greenlet::current(&OwnMemory, process, task.thread_pointer());
    // SAFETY: no preconditions.
    let cost = unsafe { helpers::bpf_ktime_get_ns() } - begin;
    // Another thread may add at the same time: what is lost then is one look.
    process.spent_nanos += cost;
    process.looks += 1;
    if let Some(greenlet) = found {
        emit(thread, greenlet, cost as u32);
    }
}

/// Tells what was found, with the number and the time of the operation.
#[inline(always)]
fn emit(thread: &TaskState, greenlet: TaskId, cost: u32) {
    let Some(mut entry) = TRACER_DATA.reserve::<IdentityRecord>(0) else {
        count(KernelLoss::DataRingFull);
        return;
    };
    let op = &thread.op.record;
    // SAFETY: memory of this size and alignment.
    unsafe {
        let record = entry.as_mut_ptr();
        (*record).header = op.header;
        (*record).header.kind = EventKind::TaskIdentified.code();
        (*record).header.flags = 0;
        (*record).header.len_bytes = size_of::<IdentityRecord>() as u32;
        (*record).cookie = op.cookie;
        for index in 1..CHAIN_TASKS {
            (*record).tasks[index] = TaskId::default();
        }
        (*record).tasks[0] = greenlet;
        (*record).cost_nanos = cost;
        (*record).runtime = Runtime::Greenlet.code();
        (*record).direction = op.direction;
        (*record).len = 1;
        (*record).end = 0;
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}
