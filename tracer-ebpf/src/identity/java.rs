//! HotSpot: the virtual thread that runs on the thread.
//!
//! | operation | told |
//! |---|---|
//! | a turn of egress begins, but for answers; a turn of ingress begins | which virtual thread it is, if it is one |
//!
//! How the memory is walked is in [`tracer_abi::java`].

use tracer_abi::config::identity_slot;
use tracer_abi::event::Runtime;
use tracer_abi::java::{self, JavaProcess};

use super::{OwnMemory, tell};
use crate::kernel::Task;
use crate::maps::{SockState, TaskState};
use crate::probes::{fexit, sock_length};
use crate::sock::Sock;

programs! {
    JAVA, TRACER_JAVA, ask, answers passed;
    trace_points {
        tracer_jv_send, "sock_send_length", Egress, TRACER_IDSEND;
        tracer_jv_recv, "sock_recv_length", Ingress, TRACER_IDRECV;
    }
    returns {
        tracer_jv_in4s, "inet_sendmsg", Egress, TRACER_IDIN4S;
        tracer_jv_in6s, "inet6_sendmsg", Egress, TRACER_IDIN6S;
        tracer_jv_uns, "unix_stream_sendmsg", Egress, TRACER_IDUNS;
        tracer_jv_in4r, "inet_recvmsg", Ingress, TRACER_IDIN4R;
        tracer_jv_in6r, "inet6_recvmsg", Ingress, TRACER_IDIN6R;
        tracer_jv_unr, "unix_stream_recvmsg", Ingress, TRACER_IDUNR;
    }
}

#[inline(always)]
fn ask(
    task: Task,
    thread: &mut TaskState,
    _: (&mut SockState, Sock),
    process: &mut JavaProcess,
    begin: u64,
) -> bool {
    let Some(found) = java::virtual_thread(&OwnMemory, process, task.thread_pointer()) else {
        // A thread of the kernel's own may be of a pool.
        return false;
    };
    tell(thread, Runtime::Java, begin, 0, |tasks| {
        tasks[0] = found;
        1
    });
    true
}
