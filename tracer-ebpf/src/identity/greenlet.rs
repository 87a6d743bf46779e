//! Greenlets: the one that runs on the thread.
//!
//! | operation | told |
//! |---|---|
//! | a turn of egress begins, but for answers; a turn of ingress begins | which greenlet it is |
//!
//! How the memory is walked is in [`tracer_abi::greenlet`].

use tracer_abi::config::identity_slot;
use tracer_abi::event::Runtime;
use tracer_abi::greenlet::{self, GreenletProcess};

use super::{OwnMemory, tell};
use crate::kernel::Task;
use crate::maps::{SockState, TaskState};
use crate::probes::{fexit, sock_length};
use crate::sock::Sock;

programs! {
    GREENLET, TRACER_GREENLET, ask, answers passed;
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

#[inline(always)]
fn ask(
    task: Task,
    thread: &mut TaskState,
    _: (&mut SockState, Sock),
    process: &mut GreenletProcess,
    begin: u64,
) -> bool {
    if let Some(greenlet) = greenlet::current(&OwnMemory, process, task.thread_pointer()) {
        tell(thread, Runtime::Greenlet, begin, 0, |tasks| {
            tasks[0] = greenlet;
            1
        });
    }
    true
}
