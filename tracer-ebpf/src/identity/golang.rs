//! Go: the goroutine that runs on the thread, and the one that waits for the call of this connection.
//!
//! | operation | told |
//! |---|---|
//! | a turn of egress begins, a turn of ingress on a connection of a client | who waits for the call |
//! | a turn of ingress begins on another connection | who reads it, and which numbers no goroutine has yet |
//!
//! How the memory is walked is in [`tracer_abi::golang`].

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated as helpers;
use tracer_abi::config::identity_slot;
use tracer_abi::conn::{Direction, Role};
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{EventKind, IdentityRecord, Runtime};
use tracer_abi::golang::{self, Connection, FIRST_CACHE, GoProcess, MAX_CACHES, MAX_STACK_WORDS};
use tracer_abi::python::{CHAIN_TASKS, TaskId};

use super::{OwnMemory, asked_process, is_process, reported, run};
use crate::kernel::Task;
use crate::maps::{SockState, TRACER_DATA, TRACER_GO, TaskState, count};
use crate::probes::{fexit, sock_length};
use crate::regs::Regs;

programs! {
    GO, look;
    trace_points {
        tracer_go_send, "sock_send_length", Egress, TRACER_IDSEND;
        tracer_go_recv, "sock_recv_length", Ingress, TRACER_IDRECV;
    }
    returns {
        tracer_go_in4s, "inet_sendmsg", Egress, TRACER_IDIN4S;
        tracer_go_in6s, "inet6_sendmsg", Egress, TRACER_IDIN6S;
        tracer_go_uns, "unix_stream_sendmsg", Egress, TRACER_IDUNS;
        tracer_go_in4r, "inet_recvmsg", Ingress, TRACER_IDIN4R;
        tracer_go_in6r, "inet6_recvmsg", Ingress, TRACER_IDIN6R;
        tracer_go_unr, "unix_stream_recvmsg", Ingress, TRACER_IDUNR;
    }
}

/// False: the process is not one that runs Go.
///
/// # Safety
///
/// `sk` must be a socket pointer that the verifier tracks.
#[inline(always)]
unsafe fn look(sk: *const c_void, direction: Direction) -> bool {
    let Some(tgid) = asked_process() else {
        return true;
    };
    let Some(process) = TRACER_GO.get_ptr_mut(tgid) else {
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
unsafe fn ask(sk: *const c_void, direction: Direction, process: &mut GoProcess) {
    let task = Task::current();
    if !is_process(task, process.start_boottime) {
        return;
    }
    // SAFETY: as the caller promises.
    let Some((thread, state)) = (unsafe { reported(task, sk) }) else {
        return;
    };
    let egress = matches!(direction, Direction::Egress);
    if egress && state.role == Role::Server.code() {
        // An answer. Who gives it, the operation itself says.
        return;
    }
    // SAFETY: no preconditions.
    let begin = unsafe { helpers::bpf_ktime_get_ns() };
    let regs = Regs::of(task);
    let found = golang::running(&OwnMemory, process, thread.op.record.user_r14, regs.stack_pointer());
    if let Some(goroutine) = found {
        tell(thread, state, process, &goroutine, begin);
    }
    // SAFETY: no preconditions.
    let cost = unsafe { helpers::bpf_ktime_get_ns() } - begin;
    // Another thread may add at the same time: what is lost then is one look.
    process.spent_nanos += cost;
    process.looks += 1;
}

/// What the loop of the kernel's hands on.
struct Context<'w> {
    connection: Connection,
    process: &'w GoProcess,
}

/// Tells whose an operation was, with its number and time.
#[inline(never)]
fn tell(thread: &TaskState, state: &mut SockState, process: &GoProcess, goroutine: &TaskId, begin: u64) {
    let goroutine = *goroutine;
    let egress = thread.op.record.direction == Direction::Egress as u8;
    let calls = state.role == Role::Client.code() || egress || state.sender.address != 0;
    let mut context = Context { connection: Connection::default(), process };
    if calls {
        context.connection = Connection::begin(&OwnMemory, goroutine);
        run(MAX_STACK_WORDS, stack_step, &mut context);
    }
    let connection = context.connection;
    if egress {
        state.sender = if connection.is_found() { goroutine } else { TaskId::default() };
    }
    let Some(mut entry) = TRACER_DATA.reserve::<IdentityRecord>(0) else {
        count(KernelLoss::DataRingFull);
        return;
    };
    let op = &thread.op.record;
    let record = entry.as_mut_ptr();
    // SAFETY: memory of this size and alignment.
    unsafe {
        (*record).header = op.header;
        (*record).header.kind = EventKind::TaskIdentified.code();
        (*record).header.flags = 0;
        (*record).header.len_bytes = size_of::<IdentityRecord>() as u32;
        (*record).cookie = op.cookie;
        for index in 1..CHAIN_TASKS {
            (*record).tasks[index] = TaskId::default();
        }
        (*record).tasks[0] = goroutine;
        (*record).len = 1;
        if connection.is_found() {
            (*record).len = 3;
            if let Some(waiter) = connection.waiter(&OwnMemory, process) {
                (*record).tasks[1] = waiter.task;
                (*record).tasks[2] = TaskId { address: waiter.started_at, number: waiter.parent };
            }
        } else if !calls {
            let last = golang::last_number(&OwnMemory, process);
            if last != 0 {
                (*record).len = CHAIN_TASKS as u8;
                let words: *mut u64 = (&raw mut (*record).tasks).cast();
                words.add(FIRST_CACHE - 1).write(last);
                for index in 0..MAX_CACHES {
                    words.add(FIRST_CACHE + index).write(golang::unused(&OwnMemory, process, index as u64));
                }
            }
        }
        (*record).cost_nanos = (helpers::bpf_ktime_get_ns() - begin) as u32;
        (*record).runtime = Runtime::Go.code();
        (*record).direction = op.direction;
        (*record).end = 0;
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

extern "C" fn stack_step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.connection.step(&OwnMemory, context.process))
}
