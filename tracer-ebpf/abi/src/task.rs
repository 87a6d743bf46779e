//! Who did it: one type per kernel number, which ends the confusion of "pid" and "tid".

/// A thread group id: what user space calls a process id. Numbers are those of the initial pid namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Tgid(pub u32);

/// A thread id (the kernel's `task_struct::pid`), in the initial pid namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Tid(pub u32);

/// A process for its whole life: the number alone is reused, the number and the start time are not.
///
/// Records carry its two fields apart, so that none has padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    pub tgid: Tgid,
    /// `group_leader->start_boottime`, in nanoseconds of `CLOCK_BOOTTIME`.
    pub start_boottime: u64,
}

impl core::fmt::Display for Tgid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl core::fmt::Display for Tid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}
