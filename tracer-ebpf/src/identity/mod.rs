//! Whose work a socket operation was, as the program's own runtime knows it: one file per runtime.
//!
//! Each is a program of its own, beside the one that reports operations and on the same hook, so that a kernel that
//! refuses it refuses nothing else. It runs after that one: the loader attaches them in the order that this takes, and
//! what does not fit the operation just reported is not looked at. It reads the program's memory and nothing is ever
//! written there.

mod cpython;

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated as helpers;
use tracer_abi::conn::Direction;
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

/// The thread's and the socket's state, if the operation of this hook was reported just now and begins a turn.
///
/// # Safety
///
/// `sk` must be a socket pointer that the verifier tracks.
#[inline(always)]
unsafe fn reported(
    task: Task,
    sk: *const c_void,
    ret: i32,
    direction: Direction,
) -> Option<(&'static mut TaskState, &'static mut SockState)> {
    let thread = maps::task_state(task)?;
    if core::mem::take(&mut thread.begins_turn) == 0 {
        return None;
    }
    // SAFETY: the caller promises a tracked pointer.
    let state = unsafe { maps::sock_state(sk, false) }?;
    let record = &thread.op.record;
    let fits = record.cookie.0 == state.cookie && record.direction == direction as u8 && thread.op.ret == ret;
    fits.then_some((thread, state))
}
