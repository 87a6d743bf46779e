//! Kernel objects as opaque pointers, and the one way to read a field of them.
//!
//! The pointers come from hooks whose argument types the verifier knows, or from fields of such objects; a load from
//! them at a constant offset is checked at load time and cannot fault. Offsets come from the running kernel's own
//! type information.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated as helpers;

use crate::maps::offset;

/// Reads a field of a kernel object.
///
/// # Safety
///
/// `object` must be a pointer whose type the verifier tracks, and `offset` that of a field of type `T`.
#[inline(always)]
pub(crate) unsafe fn field<T: Copy>(object: *const c_void, offset: u32) -> T {
    // SAFETY: the caller promises a tracked pointer; the verifier proves the access or refuses the program.
    unsafe { object.cast::<u8>().add(offset as usize).cast::<T>().read_volatile() }
}

/// Reads kernel memory through the helper that tolerates bad addresses. For cold paths.
#[inline(always)]
pub(crate) fn probe<T: Copy>(object: *const c_void, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination is exactly this large. The helper fills it, with zeroes if the source is bad; `T` is
    // made of plain integers wherever this is called.
    unsafe {
        helpers::bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            object.cast::<u8>().add(offset as usize).cast(),
        );
        value.assume_init()
    }
}

/// A `struct task_struct`.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const c_void);

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: no preconditions; never null.
        Self(unsafe { helpers::bpf_get_current_task_btf() }.cast_const().cast())
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        // SAFETY: a task and a field of it.
        unsafe { field(self.0, offset!(task_tgid)) }
    }

    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        // SAFETY: as above.
        unsafe { field(self.0, offset!(task_pid)) }
    }

    /// Start of the process (not of the thread), nanoseconds of `CLOCK_BOOTTIME`.
    #[inline(always)]
    pub(crate) fn process_start(self) -> u64 {
        // SAFETY: as above; `group_leader` points to a task.
        unsafe {
            let leader: *const c_void = field(self.0, offset!(task_group_leader));
            field(leader, offset!(task_start_boottime))
        }
    }

    #[inline(always)]
    pub(crate) fn parent_tgid(self) -> u32 {
        // SAFETY: as above; `real_parent` points to a task.
        unsafe {
            let parent: *const c_void = field(self.0, offset!(task_real_parent));
            field(parent, offset!(task_tgid))
        }
    }

    /// Voluntary context switches of this thread.
    #[inline(always)]
    pub(crate) fn nvcsw(self) -> u64 {
        // SAFETY: as above.
        unsafe { field(self.0, offset!(task_nvcsw)) }
    }

    /// The thread pointer: `fs` base.
    #[inline(always)]
    pub(crate) fn thread_pointer(self) -> u64 {
        // SAFETY: as above; on x86_64 it is an integer in the task's own `thread_struct`.
        unsafe { field(self.0, offset!(task_fsbase)) }
    }

    #[inline(always)]
    pub(crate) fn exit_code(self) -> u32 {
        // SAFETY: as above.
        unsafe { field(self.0, offset!(task_exit_code)) }
    }

    /// Threads of the process that have not begun to exit.
    #[inline(always)]
    pub(crate) fn live_threads(self) -> u32 {
        // SAFETY: as above; `signal` points to a `signal_struct` until the task is released.
        unsafe {
            let signal: *const c_void = field(self.0, offset!(task_signal));
            field(signal, offset!(signal_live))
        }
    }

    /// Where the process's argument vector begins and ends in its own memory.
    #[inline(always)]
    pub(crate) fn argv_range(self) -> (u64, u64) {
        // SAFETY: as above; a kernel thread has no `mm`, and a load through null gives zero.
        unsafe {
            let mm: *const c_void = field(self.0, offset!(task_mm));
            (field(mm, offset!(mm_arg_start)), field(mm, offset!(mm_arg_end)))
        }
    }
}
