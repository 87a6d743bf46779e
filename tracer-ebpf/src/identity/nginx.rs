//! nginx: the request for which a worker uses an upstream's connection.
//!
//! | operation | told |
//! |---|---|
//! | a turn of egress begins, or bytes of HTTP/2 are sent, but for answers | the client's connection, the cookie of its socket, and the stream |
//!
//! How the memory is walked is in [`tracer_abi::nginx`].

use tracer_abi::config::identity_slot;
use tracer_abi::event::Runtime;
use tracer_abi::nginx::{self, BLOCKS, Client, MAX_SCANS, NginxProcess, SCAN_INTERVAL, connection};
use tracer_abi::python::TaskId;

use super::{OwnMemory, run, tell};
use crate::kernel::Task;
use crate::maps::{SockState, TaskState};
use crate::probes::{fexit, sock_length};
use crate::sock::{OpenSocket, Sock, Watch};

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
    (state, sock): (&mut SockState, Sock),
    process: &mut NginxProcess,
    begin: u64,
) -> bool {
    let Some(watch) = watch(state, sock) else { return true };
    let Some(client) = nginx::client(&OwnMemory, watch.data, watch.descriptor) else {
        state.sender = TaskId::default();
        return true;
    };
    // The worker is here, and so closes nothing meanwhile.
    let Some(front) = OpenSocket::of(task, client.descriptor) else { return true };
    let number = front.cookie();
    let Some(stream) = stream(process, &client, &front).filter(|_| number != 0) else { return true };
    tell(thread, Runtime::Nginx, begin, 0, |tasks| {
        tasks[0] = TaskId { address: client.connection, number };
        tasks[1].address = u64::from(stream);
        if stream == 0 { 1 } else { 2 }
    });
    true
}

/// What epoll was given for a connection to an upstream. It stays so for as long as the socket is nginx's, and the socket
/// remembers it, as it does tasks of other runtimes: to find it costs as much as all of the rest.
#[inline(always)]
fn watch(state: &mut SockState, sock: Sock) -> Option<Watch> {
    if state.sender.address != 0 {
        return Some(Watch { descriptor: state.sender.number as u32, data: state.sender.address });
    }
    let watch = sock.watch()?;
    state.sender = TaskId { address: watch.data, number: u64::from(watch.descriptor) };
    Some(watch)
}

/// The client's stream; zero where it is none, as far as is known. `None`: it is one, but not which.
#[inline(always)]
fn stream(process: &mut NginxProcess, client: &Client, front: &OpenSocket) -> Option<u32> {
    let is_known = process.stream != 0;
    if is_known && nginx::has_no_stream(&OwnMemory, client, process.stream) {
        return Some(0);
    }
    if !is_known && !(process.looks.is_multiple_of(SCAN_INTERVAL) && process.scans < MAX_SCANS) {
        return Some(0);
    }
    let shared = connection(front.watch()?.data);
    if shared == client.connection {
        return Some(0);
    }
    if !is_known {
        process.scans += 1;
        let mut scan = Scan { client: *client, shared, found: 0 };
        run(BLOCKS, look_through, &mut scan);
        process.stream = scan.found;
        if scan.found == 0 {
            return None;
        }
    }
    nginx::stream(&OwnMemory, client, process.stream, shared)
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
