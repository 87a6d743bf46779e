//! Rung A: the kernel's own trace points behind every socket send and receive (since 6.3).
//!
//! `sock_send_length(sk, ret, flags)` and `sock_recv_length(sk, ret, flags)` fire in the context of the program, after
//! the operation, for every system call form and family, and cost nothing while unused.

use core::ffi::c_void;

use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_abi::config::TAIL_CALLS;
use tracer_abi::conn::Direction;

use crate::identity::go_on;
use crate::io::on_io;

/// Whose work it was, and what TLS it carried: the programs of [`crate::identity`] and [`crate::tls`] that each of these
/// goes on with. Written by the tracer, read here. A table each, because all programs of one must be for the same hook.
#[map]
pub(crate) static TRACER_IDSEND: ProgramArray = ProgramArray::with_max_entries(TAIL_CALLS, 0);

#[map]
pub(crate) static TRACER_IDRECV: ProgramArray = ProgramArray::with_max_entries(TAIL_CALLS, 0);

#[btf_tracepoint(function = "sock_send_length")]
fn tracer_send(ctx: BtfTracePointContext) -> i32 {
    // The flags are those of the kernel's inner call; the trace point passes none for sends.
    // SAFETY: the first argument is a `struct sock`.
    let next = unsafe { on_io(ctx.arg::<*const c_void>(0), ctx.arg(1), Direction::Egress, 0, false) };
    go_on(&ctx, &TRACER_IDSEND, next);
    0
}

#[btf_tracepoint(function = "sock_recv_length")]
fn tracer_recv(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: as above.
    let next =
        unsafe { on_io(ctx.arg::<*const c_void>(0), ctx.arg(1), Direction::Ingress, ctx.arg(2), false) };
    go_on(&ctx, &TRACER_IDRECV, next);
    0
}
