//! Why the kernel half lost or skipped something: counted there per CPU, rendered by user space.

use crate::codes;

codes! {
    /// Index into the kernel half's `STATS` map.
    "loss" KernelLoss: u32 {
        /// The data ring had no room for a record of an operation.
        DataRingFull = 0,
        /// The control ring had no room for a life-cycle record.
        ControlRingFull = 1,
        /// A page of the traced program's buffer was not readable at that moment.
        PayloadFault = 2,
        /// The system call form is not one whose buffers are known.
        UnknownSyscall = 3,
        /// A 32-bit program: buffers are not read.
        CompatTask = 4,
        /// Socket storage could not be allocated: the operation is not attributed to a stream.
        SockStorageFull = 5,
        /// Thread storage could not be allocated: the operation has no thread event number.
        TaskStorageFull = 6,
        /// The table of traced processes was full: a child is not traced.
        ProcessTableFull = 7,
        /// More scatter-gather elements than are walked.
        TooManyIovecs = 8,
        /// The ring of wake-ups had no room: a hand-off between threads is not seen.
        WakeRingFull = 9,
        /// Thread storage could not be allocated: a wake-up has no number, and is not reported.
        WakeStorageFull = 10,
        /// The wake-ups of a process were more than is spent on them: they are not followed any more. Counted by user
        /// space.
        WakesOverBudget = 11,
        /// The table of TLS sessions was full: plaintext of a session is not seen.
        SessionTableFull = 12,
    }
}

impl KernelLoss {
    /// The name under which user space exports the counter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DataRingFull => "data_ring_full",
            Self::ControlRingFull => "control_ring_full",
            Self::PayloadFault => "payload_fault",
            Self::UnknownSyscall => "unknown_syscall",
            Self::CompatTask => "compat_task",
            Self::SockStorageFull => "sock_storage_full",
            Self::TaskStorageFull => "task_storage_full",
            Self::ProcessTableFull => "process_table_full",
            Self::TooManyIovecs => "too_many_iovecs",
            Self::WakeRingFull => "wake_ring_full",
            Self::WakeStorageFull => "wake_storage_full",
            Self::WakesOverBudget => "wakes_over_budget",
            Self::SessionTableFull => "session_table_full",
        }
    }
}

codes! {
    /// Why an operation's planned payload bytes are not (all) in its records.
    "payload state" PayloadState: u8 {
        /// The planned head and tail were copied.
        Copied = 0,
        /// The bytes never passed through user memory (sendfile, splice): elided by nature.
        NoUserBuffer = 1,
        /// The buffer could not be read; see the matching [`KernelLoss`].
        Unreadable = 2,
    }
}
