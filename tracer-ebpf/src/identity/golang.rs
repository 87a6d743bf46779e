//! Go: the goroutine that runs on the thread, and the one that waits for the call of this connection.
//!
//! | operation | told |
//! |---|---|
//! | a turn of egress begins, a turn of ingress on a connection of a client | who waits for the call |
//! | a turn of ingress begins on another connection | who reads it, and which numbers no goroutine has yet |
//!
//! An operation is one of a socket, or one of plaintext where `crypto/tls` returns: which goroutine's that is, is known in
//! the same way.
//!
//! How the memory is walked is in [`tracer_abi::golang`].

use tracer_abi::config::identity_slot;
use tracer_abi::conn::{Direction, Role};
use tracer_abi::event::{Runtime, Source};
use tracer_abi::golang::{self, Connection, FIRST_CACHE, GoProcess, MAX_CACHES, MAX_STACK_WORDS};
use tracer_abi::python::{CHAIN_TASKS, TaskId};

use super::{OwnMemory, is_process, now, run, tell};
use crate::filter::Actor;
use crate::kernel::Task;
use crate::maps::{SockState, TRACER_GO, TaskState};
use crate::probes::{fexit, sock_length};
use crate::regs::Regs;
use crate::sock::Sock;

programs! {
    GO, TRACER_GO, ask, answers passed;
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

#[inline(always)]
fn ask(
    task: Task,
    thread: &mut TaskState,
    (state, _): (&mut SockState, Sock),
    process: &mut GoProcess,
    begin: u64,
) -> bool {
    let stack_pointer = Regs::of(task).stack_pointer();
    if let Some(goroutine) = golang::running(&OwnMemory, process, thread.op.record.user_r14, stack_pointer) {
        found(thread, state, process, &goroutine, begin);
    }
    true
}

/// Of an operation of plaintext that was just reported: the goroutine is the one that runs, and `state` its session's, which
/// may be known to be a server's.
#[inline(always)]
pub(crate) fn of_plaintext(
    actor: &Actor,
    thread: &mut TaskState,
    state: &mut SockState,
    stack_pointer: u64,
    is_server: bool,
) {
    let Some(process) = TRACER_GO.get_ptr_mut(actor.tgid) else {
        return;
    };
    // SAFETY: a live entry of the table, and entries are plain integers.
    let process = unsafe { &mut *process };
    if !is_process(actor.task, process.start_boottime) {
        return;
    }
    let begin = now();
    if let Some(goroutine) = golang::running(&OwnMemory, process, thread.op.record.nvcsw, stack_pointer) {
        if is_server {
            serves(thread, process, &goroutine, begin);
        } else {
            found(thread, state, process, &goroutine, begin);
        }
    }
    // As of operations of sockets.
    process.spent_nanos += now() - begin;
    process.looks += 1;
}

/// What the loop of the kernel's hands on.
struct Context<'w> {
    connection: Connection,
    process: &'w GoProcess,
}

/// Tells who serves a session. Its stack may have been that of one that called, and hold what that left there.
#[inline(never)]
fn serves(thread: &TaskState, process: &GoProcess, goroutine: &TaskId, begin: u64) {
    let goroutine = *goroutine;
    let egress = thread.op.record.direction == Direction::Egress as u8;
    tell(thread, Runtime::Go, begin, 0, |tasks| {
        tasks[0] = goroutine;
        if egress { 1 } else { unborn(tasks, process) }
    });
}

/// Tells whose an operation was.
#[inline(never)]
fn found(thread: &TaskState, state: &mut SockState, process: &GoProcess, goroutine: &TaskId, begin: u64) {
    let goroutine = *goroutine;
    let egress = thread.op.record.direction == Direction::Egress as u8;
    // A session may have no role, and who sends on it may return behind who is answered.
    let of_session = thread.op.record.source != Source::Socket.code();
    let calls = of_session || state.role == Role::Client.code() || egress || state.sender.address != 0;
    let mut context = Context { connection: Connection::default(), process };
    if calls {
        context.connection = Connection::begin(&OwnMemory, goroutine);
        run(MAX_STACK_WORDS, stack_step, &mut context);
    }
    let connection = context.connection;
    if egress {
        state.sender = if connection.is_found() { goroutine } else { TaskId::default() };
    }
    tell(thread, Runtime::Go, begin, 0, |tasks| {
        tasks[0] = goroutine;
        if connection.is_found() {
            if let Some(waiter) = connection.waiter(&OwnMemory, process) {
                tasks[1] = waiter.task;
                tasks[2] = TaskId { address: waiter.started_at, number: waiter.parent };
            }
            return 3;
        }
        let reads = !egress && (of_session || !calls);
        if reads { unborn(tasks, process) } else { 1 }
    });
}

/// Tells behind the goroutine that runs which numbers none has yet, where that can be known; returns how many tasks are told.
#[inline(always)]
pub(super) fn unborn(tasks: &mut [TaskId; CHAIN_TASKS], process: &GoProcess) -> u8 {
    let last = golang::last_number(&OwnMemory, process);
    if last == 0 {
        return 1;
    }
    let words: *mut u64 = tasks.as_mut_ptr().cast();
    // SAFETY: of the tasks' words.
    unsafe {
        words.add(FIRST_CACHE - 1).write(last);
        for index in 0..MAX_CACHES {
            words.add(FIRST_CACHE + index).write(golang::unused(&OwnMemory, process, index as u64));
        }
    }
    CHAIN_TASKS as u8
}

extern "C" fn stack_step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.connection.step(&OwnMemory, context.process))
}
