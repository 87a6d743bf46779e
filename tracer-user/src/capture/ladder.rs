//! The ways to watch socket operations, best first. Each rung is one file that names its programs; the next rung is
//! one file more.

use tracer_abi::config::identity_slot;

use super::btf::TypeInfo;
use super::{rung_a, rung_b};

/// A way to watch socket operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "verbatim")]
pub(crate) enum Rung {
    /// Socket length trace points (Linux 6.3 and later)
    A,
    /// Returns of the socket send and receive functions
    B,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// A trace point with typed arguments.
    TracePoint(&'static str),
    /// The return of a kernel function.
    FunctionExit(&'static str),
}

/// A program of the kernel half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// Its name in the object, which is what bpftool shows.
    pub(super) program: &'static str,
    pub(super) hook: Hook,
    /// Kernels without the hook do without the program.
    pub(super) optional: bool,
}

/// A program that is attached to nothing: one that is goes on with it, by a tail call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TailCall {
    /// That program's own hook, too.
    pub(super) probe: Probe,
    pub(super) table: &'static str,
    pub(super) slot: u32,
}

/// Programs that every rung needs: life cycle of processes and TCP connections.
pub(super) const LIFE_CYCLE: &[Probe] = &[
    Probe::trace_point("tracer_state", "inet_sock_set_state"),
    Probe::trace_point("tracer_fork", "sched_process_fork"),
    Probe::trace_point("tracer_exec", "sched_process_exec"),
    Probe::trace_point("tracer_exit", "sched_process_exit"),
];

impl Rung {
    /// In the order in which they are tried.
    pub(crate) const ALL: &'static [Self] = &[Self::A, Self::B];

    pub(super) const fn probes(self) -> &'static [Probe] {
        match self {
            Self::A => rung_a::PROBES,
            Self::B => rung_b::PROBES,
        }
    }

    /// Programs that say whose work an operation was, by runtime, and the place in the table of the rung's program that goes
    /// on with each. They are no part of what a rung needs: where those of a runtime are refused, its identity is missing
    /// and nothing else.
    pub(super) const fn identity(self) -> [&'static [TailCall]; identity_slot::COUNT as usize] {
        match self {
            Self::A => [
                rung_a::PYTHON,
                rung_a::GO,
                rung_a::TOKIO,
                rung_a::GREENLET,
                rung_a::JAVA,
                rung_a::PYTHON_WORK,
                rung_a::JAVA_WORK,
                rung_a::NGINX,
            ],
            Self::B => [
                rung_b::PYTHON,
                rung_b::GO,
                rung_b::TOKIO,
                rung_b::GREENLET,
                rung_b::JAVA,
                rung_b::PYTHON_WORK,
                rung_b::JAVA_WORK,
                rung_b::NGINX,
            ],
        }
    }

    /// Programs that see the records of TLS.
    pub(super) const fn tls(self) -> &'static [TailCall] {
        match self {
            Self::A => rung_a::TLS,
            Self::B => rung_b::TLS,
        }
    }

    /// One letter, as in messages and in machine-readable output.
    pub(crate) const fn letter(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    pub(crate) const fn description(self) -> &'static str {
        match self {
            Self::A => rung_a::DESCRIPTION,
            Self::B => rung_b::DESCRIPTION,
        }
    }
}

impl std::fmt::Display for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.letter(), self.description())
    }
}

impl Probe {
    pub(super) const fn trace_point(program: &'static str, name: &'static str) -> Self {
        Self { program, hook: Hook::TracePoint(name), optional: false }
    }

    pub(super) const fn function_exit(program: &'static str, name: &'static str) -> Self {
        Self { program, hook: Hook::FunctionExit(name), optional: false }
    }

    pub(super) const fn where_present(self) -> Self {
        Self { optional: true, ..self }
    }

    /// As one that the program of `table` goes on with.
    pub(super) const fn after(self, table: &'static str, slot: u32) -> TailCall {
        TailCall { probe: self, table, slot }
    }

    /// Whether this kernel has the hook at all.
    pub(super) fn is_present(&self, types: &TypeInfo) -> bool {
        match self.hook {
            Hook::TracePoint(name) => types.has_trace_point(name),
            Hook::FunctionExit(name) => types.has_function(name),
        }
    }
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TracePoint(name) => write!(f, "trace point {name}"),
            Self::FunctionExit(name) => write!(f, "return of {name}"),
        }
    }
}
