//! User registers → system call number, buffer, flags. For x86_64; another architecture is another table here.
//!
//! The registers of the system call's entry are still in place when a socket operation ends. They say where the
//! program's buffer is in every kernel version alike, which the kernel's own iterators do not. What they name is
//! only read as far as the operation's result says that bytes moved.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated as helpers;
use tracer_abi::error::KernelLoss;

use crate::emit::at_most;
use crate::filter;
use crate::kernel::{Task, field};
use crate::maps::{self, TaskState, count};

// Fields of `struct pt_regs`; its layout is that of the entry code and has not changed.
const R14: u32 = 8;
const R10: u32 = 56;
const R8: u32 = 72;
const DX: u32 = 96;
const SI: u32 = 104;
const DI: u32 = 112;
const ORIG_AX: u32 = 120;
const CS: u32 = 136;
const SP: u32 = 152;

/// `__USER32_CS`: the program runs in 32-bit mode, with other numbers and layouts.
const USER32_CS: u16 = 0x23;

/// `arch/x86/entry/syscalls/syscall_64.tbl`
mod nr {
    pub(super) const READ: u64 = 0;
    pub(super) const WRITE: u64 = 1;
    pub(super) const POLL: u64 = 7;
    pub(super) const READV: u64 = 19;
    pub(super) const WRITEV: u64 = 20;
    pub(super) const SELECT: u64 = 23;
    pub(super) const SENDFILE: u64 = 40;
    pub(super) const SENDTO: u64 = 44;
    pub(super) const RECVFROM: u64 = 45;
    pub(super) const SENDMSG: u64 = 46;
    pub(super) const RECVMSG: u64 = 47;
    pub(super) const SHUTDOWN: u64 = 48;
    pub(super) const FUTEX: u64 = 202;
    pub(super) const IO_GETEVENTS: u64 = 208;
    pub(super) const EPOLL_WAIT: u64 = 232;
    pub(super) const PSELECT6: u64 = 270;
    pub(super) const PPOLL: u64 = 271;
    pub(super) const SPLICE: u64 = 275;
    pub(super) const EPOLL_PWAIT: u64 = 281;
    pub(super) const RECVMMSG: u64 = 299;
    pub(super) const SENDMMSG: u64 = 307;
    pub(super) const PREADV2: u64 = 327;
    pub(super) const PWRITEV2: u64 = 328;
    pub(super) const IO_PGETEVENTS: u64 = 333;
    pub(super) const IO_URING_ENTER: u64 = 426;
    pub(super) const EPOLL_PWAIT2: u64 = 441;
}

// include/uapi/linux/futex.h
const FUTEX_WAKE: u32 = 1;
const FUTEX_WAKE_OP: u32 = 5;
const FUTEX_WAIT_BITSET: u32 = 9;
const FUTEX_WAKE_BITSET: u32 = 10;
/// Without `FUTEX_PRIVATE_FLAG` and `FUTEX_CLOCK_REALTIME`.
const FUTEX_CMD_MASK: u32 = 0x7f;

/// `struct iovec`
pub(crate) const IOVEC_BYTES: u64 = 16;
/// Elements of a scatter-gather array that are read at once: a head and a body, or the pieces of a head.
pub(crate) const ELEMENTS: u64 = 4;
/// `struct user_msghdr`
const MSGHDR_IOV: u64 = 16;
/// `struct mmsghdr`: a `user_msghdr` and a length.
const MMSGHDR_BYTES: u64 = 64;
/// `UIO_MAXIOV`: messages in one call.
const MAX_MESSAGES: u32 = 1024;

/// The user registers of a task's current system call.
#[derive(Clone, Copy)]
pub(crate) struct Regs(*const c_void);

/// Where an operation's bytes are in the program's memory.
pub(crate) mod place {
    /// Not known for this system call.
    pub(crate) const UNKNOWN: u32 = 0;
    /// In no user memory (sendfile, splice).
    pub(crate) const NOWHERE: u32 = 1;
    /// One buffer.
    pub(crate) const BUFFER: u32 = 2;
    /// An array of `struct iovec`.
    pub(crate) const VECTOR: u32 = 3;
}

/// What a thread that sleeps in a call that waits for descriptors waits for.
pub(crate) enum Awaited {
    Nothing,
    /// So many `struct pollfd`, at this address.
    Polled {
        address: u64,
        count: u64,
    },
    /// Whatever was registered, or is in a set.
    Several,
}

/// See [`place`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct UserBuffer {
    pub(crate) place: u32,
    /// The call's own message flags.
    pub(crate) flags: u32,
    /// Address of the buffer or of the array.
    pub(crate) address: u64,
    /// Elements of the array.
    pub(crate) count: u64,
}

impl Regs {
    /// Of a task that is not the current one: those with which it entered the kernel last.
    #[inline(always)]
    pub(crate) fn of(task: Task) -> Self {
        // SAFETY: a task, which the verifier tracks.
        Self(unsafe { helpers::bpf_task_pt_regs(task.0.cast_mut().cast()) } as *const c_void)
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> T {
        // SAFETY: a register frame and a field of it.
        unsafe { field(self.0, offset) }
    }

    #[inline(always)]
    pub(crate) fn r14(self) -> u64 {
        self.read(R14)
    }

    #[inline(always)]
    pub(crate) fn stack_pointer(self) -> u64 {
        self.read(SP)
    }

    #[inline(always)]
    pub(crate) fn syscall(self) -> u64 {
        self.read(ORIG_AX)
    }

    #[inline(always)]
    pub(crate) fn is_compat(self) -> bool {
        self.read::<u16>(CS) == USER32_CS
    }

    /// Whether the current call is `shutdown`, which ends a direction but keeps the socket.
    #[inline(always)]
    pub(crate) fn in_shutdown(self) -> bool {
        self.syscall() == nr::SHUTDOWN
    }

    /// The futex at which the task's current call waits for a wake-up that means something. Waits without a bit set
    /// (`FUTEX_WAIT`) are those of plain mutexes.
    #[inline(always)]
    pub(crate) fn awaited_futex(self) -> Option<u64> {
        self.futex(&[FUTEX_WAIT_BITSET])
    }

    /// The futex whose waiters the task's current call wakes.
    #[inline(always)]
    pub(crate) fn woken_futex(self) -> Option<u64> {
        self.futex(&[FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP])
    }

    #[inline(always)]
    fn futex(self, operations: &[u32]) -> Option<u64> {
        if self.syscall() != nr::FUTEX || self.is_compat() {
            return None;
        }
        let operation = self.read::<u32>(SI) & FUTEX_CMD_MASK;
        operations.contains(&operation).then(|| self.read(DI))
    }

    /// The descriptors that the task's current call waits for.
    #[inline(always)]
    pub(crate) fn awaited(self) -> Awaited {
        if self.is_compat() {
            return Awaited::Several;
        }
        match self.syscall() {
            nr::POLL | nr::PPOLL => Awaited::Polled { address: self.read(DI), count: self.read(SI) },
            nr::SELECT
            | nr::PSELECT6
            | nr::EPOLL_WAIT
            | nr::EPOLL_PWAIT
            | nr::EPOLL_PWAIT2
            | nr::IO_GETEVENTS
            | nr::IO_PGETEVENTS
            | nr::IO_URING_ENTER => Awaited::Several,
            _ => Awaited::Nothing,
        }
    }

    /// The descriptor of a call that has one as its first argument.
    #[inline(always)]
    pub(crate) fn descriptor(self) -> u32 {
        self.read(DI)
    }

    /// Finds the buffer of the current call, whose operation the thread's state holds, and its first elements.
    #[inline(never)]
    pub(crate) fn find_buffer(self, thread: &mut TaskState) {
        self.find_place(thread);
        let op = &mut thread.op;
        op.elements = [[0; 2]; ELEMENTS as usize];
        if op.buffer.place == place::VECTOR {
            let elements = if op.buffer.count < ELEMENTS { op.buffer.count } else { ELEMENTS };
            let len = at_most::<{ ELEMENTS * IOVEC_BYTES }>(elements * IOVEC_BYTES);
            // SAFETY: the destination has room for `ELEMENTS`. What cannot be read stays empty.
            unsafe {
                helpers::bpf_probe_read_user(
                    (&raw mut op.elements).cast(),
                    len as u32,
                    op.buffer.address as *const c_void,
                );
            }
        }
    }

    #[inline(always)]
    fn find_place(self, thread: &mut TaskState) {
        let moved = thread.op.ret;
        let buffer = &mut thread.op.buffer;
        *buffer = UserBuffer { place: place::UNKNOWN, flags: 0, address: self.read(SI), count: 0 };
        if self.is_compat() {
            if moved > 0 {
                count(KernelLoss::CompatTask);
            }
            return;
        }
        match self.syscall() {
            nr::READ | nr::WRITE => buffer.place = place::BUFFER,
            nr::SENDTO | nr::RECVFROM => {
                buffer.place = place::BUFFER;
                buffer.flags = self.read::<u64>(R10) as u32;
            }
            nr::READV | nr::WRITEV | nr::PREADV2 | nr::PWRITEV2 => {
                buffer.place = place::VECTOR;
                buffer.count = self.read(DX);
            }
            nr::SENDMSG | nr::RECVMSG => {
                buffer.flags = self.read::<u64>(DX) as u32;
                vector_of_message(buffer, self.read(SI));
            }
            nr::SENDMMSG => {
                buffer.flags = self.read::<u64>(R10) as u32;
                let index = message_index(thread, self.read(SI), self.read(DX));
                vector_of_message(&mut thread.op.buffer, self.read::<u64>(SI) + index * MMSGHDR_BYTES);
                if moved > 0 && vector_bytes(&thread.op.buffer) > moved as u64 {
                    // A message sent in part is the call's last.
                    thread.mmsg_index = 0;
                }
            }
            // A receive that gives up after a time does so without an event, and the next call would seem to go on
            // with this one.
            nr::RECVMMSG if self.read::<u64>(R8) == 0 => {
                buffer.flags = self.read::<u64>(R10) as u32;
                let index = message_index(thread, self.read(SI), self.read(DX));
                vector_of_message(&mut thread.op.buffer, self.read::<u64>(SI) + index * MMSGHDR_BYTES);
            }
            nr::SENDFILE | nr::SPLICE | nr::IO_URING_ENTER => buffer.place = place::NOWHERE,
            _ => {
                if moved > 0 {
                    count(KernelLoss::UnknownSyscall);
                }
            }
        }
    }
}

/// The scatter-gather array of a `struct user_msghdr`.
#[inline(always)]
fn vector_of_message(buffer: &mut UserBuffer, message: u64) {
    if let Some([array, elements]) = read_user::<[u64; 2]>(message + MSGHDR_IOV) {
        buffer.place = place::VECTOR;
        buffer.address = array;
        buffer.count = elements;
    } else {
        count(KernelLoss::PayloadFault);
    }
}

/// Which message of the array this operation is. Each message of a call is one operation; the call ends with its
/// last message, with an error, or with a message sent in part.
#[inline(always)]
fn message_index(thread: &mut TaskState, array: u64, messages: u64) -> u64 {
    let messages = messages as u32;
    if thread.mmsg_array != array || thread.mmsg_index >= messages || thread.mmsg_index >= MAX_MESSAGES {
        thread.mmsg_array = array;
        thread.mmsg_index = 0;
    }
    let index = thread.mmsg_index;
    thread.mmsg_index = if thread.op.ret < 0 || index + 1 >= messages { 0 } else { index + 1 };
    u64::from(index)
}

/// An operation of the current call could not be done: a call of several messages ends with it, and the next one begins
/// with its first, in the same array mostly.
#[inline(never)]
pub(crate) fn end_messages() {
    if !matches!(Regs::of(Task::current()).syscall(), nr::SENDMMSG | nr::RECVMMSG) {
        return;
    }
    if let Some(actor) = filter::current()
        && let Some(thread) = maps::task_state(actor.task)
    {
        thread.mmsg_index = 0;
    }
}

/// Bytes of the first elements of an array; enough to tell a message sent in part.
#[inline(always)]
fn vector_bytes(buffer: &UserBuffer) -> u64 {
    let mut bytes = 0_u64;
    for i in 0..8 {
        if i >= buffer.count {
            break;
        }
        let Some([_, len]) = read_user::<[u64; 2]>(buffer.address + i * IOVEC_BYTES) else {
            break;
        };
        bytes = bytes.saturating_add(len);
    }
    bytes
}

/// Copies a small value of plain integers out of the program's memory. `None`: not readable at this moment.
#[inline(always)]
pub(crate) fn read_user<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination is exactly this large; the helper checks the source, and fills the destination or
    // says that it could not.
    unsafe {
        if helpers::bpf_probe_read_user(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        ) == 0
        {
            Some(value.assume_init())
        } else {
            None
        }
    }
}
