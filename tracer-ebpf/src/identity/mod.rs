//! Whose work a socket operation was, as the program's own runtime knows it: one file per runtime.
//!
//! Each is a program of its own, so that a kernel that refuses it refuses nothing else. It is attached to nothing: the
//! program that has reported an operation goes on with it, if user space has entered it in that program's table, which
//! it does while a process of the runtime is traced. So it costs nothing elsewhere. It reads the program's memory and
//! nothing is ever written there.

mod cpython;

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::maps::ProgramArray;
use tracer_abi::python::Memory;

pub(crate) use self::cpython::Walk;

use crate::kernel::Task;
use crate::maps::{self, SockState, TaskState};

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

/// Goes on with the program of `table`, and does not return; returns if there is none.
#[inline(always)]
pub(crate) fn go_on<C: EbpfContext>(ctx: &C, table: &ProgramArray) {
    // SAFETY: nothing here has anything left to do.
    unsafe { table.tail_call(ctx, 0) };
}

/// The thread's and the socket's state, both as the program that reported the operation has left them.
///
/// # Safety
///
/// `sk` must be a socket pointer that the verifier tracks.
#[inline(always)]
unsafe fn reported(
    task: Task,
    sk: *const c_void,
) -> Option<(&'static mut TaskState, &'static mut SockState)> {
    let thread = maps::task_state(task)?;
    // SAFETY: the caller promises a tracked pointer.
    let state = unsafe { maps::sock_state(sk, false) }?;
    Some((thread, state))
}
