//! nginx: the request for which a worker uses an upstream's connection.
//!
//! | operation | told |
//! |---|---|
//! | a turn of egress begins, but for answers | the client's connection, the cookie of its socket, and the stream |
//!
//! How the memory is walked is in [`tracer_abi::nginx`].

use tracer_abi::config::identity_slot;
use tracer_abi::event::Runtime;
use tracer_abi::nginx::{self, BLOCKS, Client, MAX_SCANS, NginxProcess, connection};
use tracer_abi::python::TaskId;

use super::{OwnMemory, run, tell};
use crate::kernel::Task;
use crate::maps::{SockState, TaskState};
use crate::probes::{fexit, sock_length};
use crate::sock::{OpenSocket, Sock};

programs! {
    NGINX, TRACER_NGINX, ask, answers of_calls;
    trace_points {
        tracer_ng_send, "sock_send_length", Egress, TRACER_IDSEND;
    }
    returns {
        tracer_ng_in4s, "inet_sendmsg", Egress, TRACER_IDIN4S;
        tracer_ng_in6s, "inet6_sendmsg", Egress, TRACER_IDIN6S;
        tracer_ng_uns, "unix_stream_sendmsg", Egress, TRACER_IDUNS;
    }
}

#[inline(always)]
fn ask(
    task: Task,
    thread: &mut TaskState,
    (_, sock): (&mut SockState, Sock),
    process: &mut NginxProcess,
    begin: u64,
) -> bool {
    let Some(watch) = sock.watch() else { return true };
    let Some(client) = nginx::client(&OwnMemory, watch.data, watch.descriptor) else { return true };
    // The worker is here, and so closes nothing meanwhile.
    let Some(front) = OpenSocket::of(task, client.descriptor) else { return true };
    let (number, shared) = (front.cookie(), front.watch().map_or(0, |watch| connection(watch.data)));
    if number == 0 {
        return true;
    }
    let stream = if shared == client.connection { 0 } else { stream(process, &client, shared) };
    if shared != client.connection && stream == 0 {
        return true;
    }
    tell(thread, Runtime::Nginx, begin, 0, |tasks| {
        tasks[0] = TaskId { address: client.connection, number };
        tasks[1].address = u64::from(stream);
        if stream == 0 { 1 } else { 2 }
    });
    true
}

/// The client's stream. Zero: that is not known.
#[inline(always)]
fn stream(process: &mut NginxProcess, client: &Client, shared: u64) -> u32 {
    if shared == 0 {
        return 0;
    }
    if process.stream == 0 && process.scans < MAX_SCANS {
        process.scans += 1;
        let mut scan = Scan { client: *client, shared, found: 0 };
        run(BLOCKS, look_through, &mut scan);
        process.stream = scan.found;
    }
    if process.stream == 0 {
        return 0;
    }
    nginx::stream(&OwnMemory, client, process.stream, shared).unwrap_or(0)
}

/// What the loop of the kernel's hands on.
struct Scan {
    client: Client,
    shared: u64,
    found: u64,
}

extern "C" fn look_through(block: u64, scan: &mut Scan) -> i64 {
    let found = nginx::find_stream(&OwnMemory, &scan.client, block, scan.shared);
    scan.found = found.unwrap_or(0);
    i64::from(found.is_some())
}
