//! CPython: the work item of a pool inside of which a thread calls.
//!
//! | operation | told |
//! |---|---|
//! | of calls: a turn of either direction begins | the innermost item, and its future |
//!
//! How the memory is walked is in [`tracer_abi::python_work`].

use tracer_abi::config::identity_slot;
use tracer_abi::event::Runtime;
use tracer_abi::python_waits::PythonWaits;
use tracer_abi::python_work::{MAX_FRAMES, Working};

use super::{OwnMemory, run, tell};
use crate::kernel::Task;
use crate::maps::{SockState, TaskState};
use crate::probes::{fexit, sock_length};
use crate::sock::Sock;

programs! {
    PYTHON_WORK, TRACER_PYWAITS, ask, answers of_calls;
    trace_points {
        tracer_pw_send, "sock_send_length", Egress, TRACER_IDSEND;
        tracer_pw_recv, "sock_recv_length", Ingress, TRACER_IDRECV;
    }
    returns {
        tracer_pw_in4s, "inet_sendmsg", Egress, TRACER_IDIN4S;
        tracer_pw_in6s, "inet6_sendmsg", Egress, TRACER_IDIN6S;
        tracer_pw_uns, "unix_stream_sendmsg", Egress, TRACER_IDUNS;
        tracer_pw_in4r, "inet_recvmsg", Ingress, TRACER_IDIN4R;
        tracer_pw_in6r, "inet6_recvmsg", Ingress, TRACER_IDIN6R;
        tracer_pw_unr, "unix_stream_recvmsg", Ingress, TRACER_IDUNR;
    }
}

#[inline(always)]
fn ask(
    task: Task,
    thread: &mut TaskState,
    _: (&mut SockState, Sock),
    process: &mut PythonWaits,
    begin: u64,
) -> bool {
    find(thread, process, task.thread_pointer());
    let work = thread.walk.working.work;
    if work.address != 0 {
        tell(thread, Runtime::PythonWork, begin, 0, |tasks| {
            tasks[0] = work;
            1
        });
    }
    true
}

/// What the loop of the kernel's hands on.
struct Context<'w> {
    working: &'w mut Working,
    process: &'w PythonWaits,
}

#[inline(never)]
fn find(thread: &mut TaskState, process: &PythonWaits, thread_pointer: u64) {
    let working = &mut thread.walk.working;
    *working = Working::begin(&OwnMemory, process, thread_pointer);
    let mut context = Context { working, process };
    run(MAX_FRAMES, step, &mut context);
}

extern "C" fn step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.working.step(&OwnMemory, context.process))
}
