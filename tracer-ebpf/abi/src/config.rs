//! What the loader writes and the programs read. Frozen before the first program runs.

/// Feature switches and knobs, one `.rodata` global in the kernel half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// The tracer's own thread group: never traced.
    pub tracer_tgid: u32,
    /// Trace every process but the tracer (1) or only those in the process table (0).
    pub trace_all: u32,
    /// Report the exec of every process (1), so that user space can match executables that start later.
    pub watch_exec: u32,
    /// Report every new listener (1), so that user space can match ports that open later.
    pub watch_listen: u32,
    /// Payload bytes per turn of a direction; at most [`crate::limits::MAX_HEAD_BUDGET_BYTES`].
    pub head_budget_bytes: u32,
    pub reserved: u32,
}
