//! HotSpot: the task of a pool inside of which a thread calls, and where it allocates as its request comes.
//!
//! | operation | done |
//! |---|---|
//! | a turn of a request begins | it is remembered where the thread allocates |
//! | of calls: a turn of either direction begins | told: the task |
//!
//! How the memory is walked is in [`tracer_abi::java_work`].

use tracer_abi::config::identity_slot;
use tracer_abi::conn::Role;
use tracer_abi::event::Runtime;
use tracer_abi::java_waits::JavaWaits;
use tracer_abi::java_work::{Begins, JavaThread, MAX_WORDS};
use tracer_abi::python::TaskId;

use super::{OwnMemory, run, tell};
use crate::kernel::Task;
use crate::maps::{SockState, TaskState, java_thread};
use crate::probes::{fexit, sock_length};
use crate::sock::Sock;

programs! {
    JAVA_WORK, TRACER_JVWAITS, ask, answers passed;
    trace_points {
        tracer_jw_send, "sock_send_length", Egress, TRACER_IDSEND;
        tracer_jw_recv, "sock_recv_length", Ingress, TRACER_IDRECV;
    }
    returns {
        tracer_jw_in4s, "inet_sendmsg", Egress, TRACER_IDIN4S;
        tracer_jw_in6s, "inet6_sendmsg", Egress, TRACER_IDIN6S;
        tracer_jw_uns, "unix_stream_sendmsg", Egress, TRACER_IDUNS;
        tracer_jw_in4r, "inet_recvmsg", Ingress, TRACER_IDIN4R;
        tracer_jw_in6r, "inet6_recvmsg", Ingress, TRACER_IDIN6R;
        tracer_jw_unr, "unix_stream_recvmsg", Ingress, TRACER_IDUNR;
    }
}

#[inline(always)]
fn ask(
    task: Task,
    thread: &mut TaskState,
    (state, _): (&mut SockState, Sock),
    process: &mut JavaWaits,
    begin: u64,
) -> bool {
    // SAFETY: the current task; no run queue is locked. Without room nothing is known.
    let Some(own) = (unsafe { java_thread(task, true) }) else {
        return true;
    };
    if state.role == Role::Server.code() {
        own.begins(&OwnMemory, process, task.thread_pointer(), Begins::Request);
        return true;
    }
    let work = of_thread(own, process, task.thread_pointer());
    if work.address != 0 {
        tell(thread, Runtime::JavaWork, begin, 0, |tasks| {
            tasks[0] = work;
            1
        });
    }
    true
}

/// What the loop of the kernel's hands on.
struct Context<'w> {
    thread: &'w mut JavaThread,
    process: &'w JavaWaits,
}

/// The task that a thread runs which shares the memory of the current one; zeroes if it runs none that is known.
#[inline(never)]
pub(super) fn of_thread(thread: &mut JavaThread, process: &JavaWaits, thread_pointer: u64) -> TaskId {
    let begins = thread.look(&OwnMemory, process, thread_pointer);
    let mut context = Context { thread, process };
    if begins {
        run(MAX_WORDS, step, &mut context);
    }
    context.thread.task(&OwnMemory, context.process)
}

extern "C" fn step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.thread.step(&OwnMemory, context.process))
}
