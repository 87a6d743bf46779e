//! Rung B: the return of the protocols' own send and receive functions, where trampolines may be attached.
//!
//! These functions take the `struct socket`, and the verifier knows the type of its `sk`.

use core::ffi::c_void;

use aya_ebpf::macros::{fexit, map};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::FExitContext;
use tracer_abi::config::TAIL_CALLS;
use tracer_abi::conn::Direction;

use crate::identity::go_on;
use crate::io::{Next, on_io};
use crate::kernel::field;
use crate::maps::offset;

/// `MSG_SENDPAGE_NOTLAST`: the same call sends further pages at once.
const MSG_SENDPAGE_NOTLAST: u32 = 0x2_0000;

/// `args` is the number of the function's arguments: its result is stored behind them.
#[inline(always)]
fn moved(ctx: &FExitContext, args: usize, direction: Direction, flags: u32, more: bool) -> Next {
    // SAFETY: the first argument is a `struct socket`, and `sk` a field of it.
    unsafe {
        let sk: *const c_void = field(ctx.arg(0), offset!(socket_sk));
        on_io(sk, ctx.arg(args), direction, flags, more)
    }
}

/// Declares a program for a function with `(socket, msghdr, size)` or `(socket, msghdr, size, flags)`, and the table of
/// the programs that it goes on with, as [`super::sock_length`] has them.
macro_rules! programs {
    ($($program:ident, $function:literal, $direction:ident, $args:literal, $identity:ident;)+) => {
        $(
            #[map]
            pub(crate) static $identity: ProgramArray = ProgramArray::with_max_entries(TAIL_CALLS, 0);

            #[fexit(function = $function)]
            fn $program(ctx: FExitContext) -> i32 {
                let flags = if $args > 3 { ctx.arg(3) } else { 0 };
                let next = moved(&ctx, $args, Direction::$direction, flags, false);
                go_on(&ctx, &$identity, next);
                0
            }
        )+
    };
}

programs! {
    tracer_in4_send, "inet_sendmsg", Egress, 3, TRACER_IDIN4S;
    tracer_in6_send, "inet6_sendmsg", Egress, 3, TRACER_IDIN6S;
    tracer_un_send, "unix_stream_sendmsg", Egress, 3, TRACER_IDUNS;
    tracer_in4_recv, "inet_recvmsg", Ingress, 4, TRACER_IDIN4R;
    tracer_in6_recv, "inet6_recvmsg", Ingress, 4, TRACER_IDIN6R;
    tracer_un_recv, "unix_stream_recvmsg", Ingress, 4, TRACER_IDUNR;
}

/// `inet_sendpage(socket, page, offset, size, flags)`, of kernels before 6.5: sendfile and splice, page by page.
#[fexit(function = "inet_sendpage")]
fn tracer_in_page(ctx: FExitContext) -> i32 {
    let flags: u32 = ctx.arg(4);
    moved(&ctx, 5, Direction::Egress, flags, flags & MSG_SENDPAGE_NOTLAST != 0);
    0
}

#[fexit(function = "unix_stream_sendpage")]
fn tracer_un_page(ctx: FExitContext) -> i32 {
    let flags: u32 = ctx.arg(4);
    moved(&ctx, 5, Direction::Egress, flags, flags & MSG_SENDPAGE_NOTLAST != 0);
    0
}
