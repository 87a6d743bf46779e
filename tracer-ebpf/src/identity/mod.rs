//! Whose work a socket operation was, as the program's own runtime knows it: one file per runtime.
//!
//! Each is a program of its own, so that a kernel that refuses it refuses nothing else. It is attached to nothing: the
//! program that has reported an operation goes on with it, by that program's table; one that does not know the process
//! goes on with the next, and none goes on where no runtime is to be asked, or begins before the first that is. So it costs
//! next to nothing elsewhere. It reads the program's memory and nothing is ever written there.

/// Declares a runtime's programs, one for each hook, in its place of the hooks' tables. `$processes` has what is known of
/// the processes of this runtime. `$ask` is given the task, the thread's and the socket's state, the socket, such a process
/// and the time, tells what it finds, and says whether no other runtime is to be asked. Of answers it is not asked unless
/// they are `told`: who has read the request gives them.
macro_rules! programs {
    (
        $slot:ident, $processes:ident, $ask:ident, answers $answers:ident;
        trace_points { $($point:ident, $event:literal, $at:ident, $behind:ident;)+ }
        returns { $($program:ident, $function:literal, $direction:ident, $table:ident;)+ }
    ) => {
        /// False: another runtime may know of it.
        ///
        /// # Safety
        ///
        /// `sk` must be a socket pointer that the verifier tracks.
        #[inline(always)]
        unsafe fn look(sk: *const core::ffi::c_void, direction: tracer_abi::conn::Direction) -> bool {
            let Some(process) = $crate::maps::$processes.get_ptr_mut($crate::identity::current()) else {
                return false;
            };
            // SAFETY: a live entry of the table, and entries are plain integers.
            let process = unsafe { &mut *process };
            let task = $crate::kernel::Task::current();
            if !$crate::identity::is_process(task, process.start_boottime) {
                return true;
            }
            // SAFETY: as the caller promises.
            let Some((thread, state)) = (unsafe { $crate::identity::reported(task, sk) }) else {
                return true;
            };
            if !$crate::identity::answers::$answers(state, direction) {
                return true;
            }
            let begin = $crate::identity::now();
            let done = $ask(task, thread, (state, $crate::sock::Sock(sk)), process, begin);
            // Another thread may add at the same time: what is lost then is one look.
            process.spent_nanos += $crate::identity::now() - begin;
            process.looks += 1;
            done
        }

        $(
            #[aya_ebpf::macros::btf_tracepoint(function = $event)]
            fn $point(ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
                // SAFETY: the first argument is a `struct sock`.
                let known = unsafe { look(ctx.arg(0), tracer_abi::conn::Direction::$at) };
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
                    look(sk, tracer_abi::conn::Direction::$direction)
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
mod cpython_hands;
mod cpython_makers;
mod cpython_submits;
mod cpython_waits;
mod cpython_work;
mod cpython_writes;
pub(crate) mod golang;
mod golang_streams;
mod greenlet;
mod java;
mod java_waits;
mod java_work;
mod nginx;
mod tokio;

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::maps::ProgramArray;
use tracer_abi::config::{NANOS_PER_TICK, RECORDS_SLOT, identity_slot, runtime_slots};
use tracer_abi::conn::SocketCookie;
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{EventKind, Header, IdentityRecord, Runtime, Source, flags};
use tracer_abi::python::{CHAIN_TASKS, Memory, TaskId};

pub(crate) use self::cpython::Walk;
pub(crate) use self::tokio::Polled;

use crate::io::Next;
use crate::kernel::Task;
use crate::maps::{self, SockState, TRACER_DATA, TRACER_RTSLOTS, TaskState, count};

/// The memory of the program that runs.
struct OwnMemory;

impl OwnMemory {
    #[inline(always)]
    fn read<T: Copy>(address: u64) -> T {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the destination is exactly this large. What cannot be read becomes zero, which is a value of the
        // integers that this is called for.
        unsafe {
            read_to(value.as_mut_ptr(), address);
            value.assume_init()
        }
    }
}

/// # Safety
///
/// `value` must be valid for writes. Zeroes are written where nothing can be read.
#[inline(always)]
unsafe fn read_to<T>(value: *mut T, address: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        helpers::bpf_probe_read_user(value.cast(), size_of::<T>() as u32, address as *const c_void);
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

    #[inline(always)]
    fn words<const N: usize>(&self, address: u64, words: &mut [u64; N]) {
        // SAFETY: a reference to integers.
        unsafe { read_to(words, address) };
    }
}

/// Goes on with what is to be done next, and does not return; returns if there is no such program.
#[inline(always)]
pub(crate) fn go_on<C: EbpfContext>(ctx: &C, table: &ProgramArray, next: Next) {
    match next {
        Next::Nothing => {}
        // Most processes are of no runtime that is asked, which one look tells.
        Next::Identity => {
            if let Some(first) = first_asked(current()) {
                go_on_from(ctx, table, first);
            }
        }
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

/// Whether a runtime is asked of an operation.
mod answers {
    use tracer_abi::conn::{Direction, Role};

    use crate::maps::SockState;

    #[inline(always)]
    pub(super) fn told(_state: &SockState, _direction: Direction) -> bool {
        true
    }

    #[inline(always)]
    pub(super) fn passed(state: &SockState, direction: Direction) -> bool {
        matches!(direction, Direction::Ingress) || state.role != Role::Server.code()
    }

    /// Requests are not asked about either.
    #[inline(always)]
    pub(super) fn of_calls(state: &SockState, _direction: Direction) -> bool {
        state.role != Role::Server.code()
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no preconditions.
    unsafe { helpers::bpf_ktime_get_ns() }
}

/// Tells whose work an operation was, with its number and time. `fill` gets zeroes, and returns how many of them it has
/// filled; it began at `begin`.
#[inline(always)]
fn tell(
    thread: &TaskState,
    runtime: Runtime,
    begin: u64,
    end: u8,
    fill: impl FnOnce(&mut [TaskId; CHAIN_TASKS]) -> u8,
) {
    let op = &thread.op.record;
    let header = Header {
        kind: EventKind::TaskIdentified.code(),
        flags: if op.source == Source::Socket.code() { 0 } else { flags::PLAINTEXT },
        len_bytes: size_of::<IdentityRecord>() as u32,
        ..op.header
    };
    write((header, op.cookie, op.direction), runtime, begin, end, fill);
}

/// The same, of what this header, cookie and direction say.
#[inline(always)]
fn write(
    (header, cookie, direction): (Header, SocketCookie, u8),
    runtime: Runtime,
    begin: u64,
    end: u8,
    fill: impl FnOnce(&mut [TaskId; CHAIN_TASKS]) -> u8,
) {
    let Some(mut entry) = TRACER_DATA.reserve::<IdentityRecord>(0) else {
        count(KernelLoss::DataRingFull);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: memory of this size and alignment, all of which is written before it is read.
    unsafe {
        let tasks = zeroed(&raw mut (*record).tasks);
        (*record).header = header;
        (*record).cookie = cookie;
        (*record).runtime = runtime.code();
        (*record).direction = direction;
        (*record).end = end;
        (*record).len = fill(tasks);
        (*record).cost_nanos = (now() - begin) as u32;
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// Zeroes, word by word: a call of `memset` would be a loop over bytes.
///
/// # Safety
///
/// `tasks` must be valid for writes.
#[inline(always)]
unsafe fn zeroed<'r>(tasks: *mut [TaskId; CHAIN_TASKS]) -> &'r mut [TaskId; CHAIN_TASKS] {
    // SAFETY: as the caller promises; integers may be zero.
    unsafe {
        let words: *mut u64 = tasks.cast();
        for index in 0..2 * CHAIN_TASKS {
            words.add(index).write_volatile(0);
        }
        &mut *tasks
    }
}

/// The current process.
#[inline(always)]
fn current() -> u32 {
    (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32
}

/// The first place where the process's runtime may be asked.
#[inline(always)]
fn first_asked(tgid: u32) -> Option<u32> {
    let (word, bit) = runtime_slots::place(tgid);
    runtime_slots::first(*TRACER_RTSLOTS.get(word)?, bit)
}

/// Whether this is the first runtime that the current process may be asked by.
#[inline(always)]
pub(crate) fn asks_first(slot: u32) -> bool {
    first_asked(current()).is_some_and(|first| first == slot)
}

/// Whether the task's process is the one that started then. User space may know that to the tick only.
#[inline(always)]
pub(crate) fn is_process(task: Task, known: u64) -> bool {
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
