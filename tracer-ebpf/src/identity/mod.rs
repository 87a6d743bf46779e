//! Whose work a socket operation was, as the program's own runtime knows it: one file per runtime.
//!
//! Each is a program of its own, so that a kernel that refuses it refuses nothing else. It is attached to nothing: the
//! program that has reported an operation goes on with it, by that program's table; one that does not know the process
//! goes on with the next, and none goes on where no runtime is to be asked. So it costs next to nothing elsewhere. It
//! reads the program's memory and nothing is ever written there.

/// Declares a runtime's programs, one for each hook, in its place of the hooks' tables. `$look` is given the socket and the
/// direction, and returns false if the process is not one of this runtime.
macro_rules! programs {
    (
        $slot:ident, $look:ident;
        trace_points { $($point:ident, $event:literal, $at:ident, $behind:ident;)+ }
        returns { $($program:ident, $function:literal, $direction:ident, $table:ident;)+ }
    ) => {
        $(
            #[aya_ebpf::macros::btf_tracepoint(function = $event)]
            fn $point(ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
                // SAFETY: the first argument is a `struct sock`.
                let known = unsafe { $look(ctx.arg(0), tracer_abi::conn::Direction::$at) };
                if !known {
                    $crate::identity::go_on_behind(&ctx, &sock_length::$behind, identity_slot::$slot);
                }
                0
            }
        )+
        $(
            #[aya_ebpf::macros::fexit(function = $function)]
            fn $program(ctx: aya_ebpf::programs::FExitContext) -> i32 {
                // SAFETY: the first argument is a `struct socket`, and `sk` a field of it.
                let known = unsafe {
                    let sk: *const core::ffi::c_void =
                        $crate::kernel::field(ctx.arg(0), $crate::maps::offset!(socket_sk));
                    $look(sk, tracer_abi::conn::Direction::$direction)
                };
                if !known {
                    $crate::identity::go_on_behind(&ctx, &fexit::$table, identity_slot::$slot);
                }
                0
            }
        )+
    };
}

mod cpython;
mod cpython_waits;
mod golang;
mod greenlet;
mod tokio;

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::maps::ProgramArray;
use tracer_abi::config::{NANOS_PER_TICK, PREFILTER_SLOTS, RECORDS_SLOT, identity_slot};
use tracer_abi::python::Memory;

pub(crate) use self::cpython::Walk;
pub(crate) use self::tokio::Polled;

use crate::io::Next;
use crate::kernel::Task;
use crate::maps::{self, SockState, TRACER_RTSLOTS, TaskState};

/// The memory of the program that runs.
struct OwnMemory;

impl OwnMemory {
    #[inline(always)]
    fn read<T: Copy>(address: u64) -> T {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the destination is exactly this large. What cannot be read becomes zero, which is a value of the
        // integers that this is called for.
        unsafe {
            helpers::bpf_probe_read_user(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                address as *const c_void,
            );
            value.assume_init()
        }
    }
}

impl Memory for OwnMemory {
    #[inline(always)]
    fn word(&self, address: u64) -> u64 {
        Self::read(address)
    }

    #[inline(always)]
    fn half(&self, address: u64) -> u32 {
        Self::read(address)
    }

    #[inline(always)]
    fn byte(&self, address: u64) -> u8 {
        Self::read(address)
    }
}

/// Goes on with what is to be done next, and does not return; returns if there is no such program.
#[inline(always)]
pub(crate) fn go_on<C: EbpfContext>(ctx: &C, table: &ProgramArray, next: Next) {
    match next {
        Next::Nothing => {}
        Next::Identity => go_on_from(ctx, table, 0),
        // SAFETY: nothing here has anything left to do.
        Next::Records => unsafe { table.tail_call(ctx, RECORDS_SLOT) },
    }
}

/// With the first runtime behind a place.
#[inline(always)]
fn go_on_behind<C: EbpfContext>(ctx: &C, table: &ProgramArray, slot: u32) {
    go_on_from(ctx, table, slot + 1);
}

/// With the first runtime from a place on.
#[inline(always)]
pub(crate) fn go_on_from<C: EbpfContext>(ctx: &C, table: &ProgramArray, first: u32) {
    let mut slot = first;
    while slot < identity_slot::COUNT {
        // SAFETY: nothing here has anything left to do.
        unsafe { table.tail_call(ctx, slot) };
        slot += 1;
    }
}

/// The current process, if it may be one whose runtime is asked.
#[inline(always)]
fn asked_process() -> Option<u32> {
    let tgid = (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32;
    let slot = tgid & (PREFILTER_SLOTS - 1);
    TRACER_RTSLOTS.get(slot >> 6).is_some_and(|word| word >> (slot & 63) & 1 != 0).then_some(tgid)
}

/// Whether the task's process is the one that started then. User space may know that to the tick only.
#[inline(always)]
fn is_process(task: Task, known: u64) -> bool {
    let start = task.process_start();
    known == start || known.is_multiple_of(NANOS_PER_TICK) && known / NANOS_PER_TICK == start / NANOS_PER_TICK
}

/// A loop of the kernel's: the verifier walks its body a few times, and not once per turn and path.
#[inline(always)]
fn run<C>(times: u32, callback: extern "C" fn(u64, &mut C) -> i64, context: &mut C) {
    // SAFETY: the callback has the form that the helper calls, with a pointer to the stack.
    unsafe {
        helpers::bpf_loop(times, callback as *mut c_void, (&raw mut *context).cast(), 0);
    }
}

/// The thread's and the socket's state, both as the core's program has left them.
///
/// # Safety
///
/// `sk` must be a socket pointer that the verifier tracks.
#[inline(always)]
pub(crate) unsafe fn reported(
    task: Task,
    sk: *const c_void,
) -> Option<(&'static mut TaskState, &'static mut SockState)> {
    let thread = maps::task_state(task)?;
    // SAFETY: the caller promises a tracked pointer.
    let state = unsafe { maps::sock_state(sk, false) }?;
    Some((thread, state))
}
