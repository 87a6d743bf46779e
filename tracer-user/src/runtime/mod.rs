//! What runtime a process runs, and where that keeps what the kernel half is to read.
//!
//! Everything is read from the process's own memory, which may hold anything: every read and every loop is bounded, and
//! what is found is compared with what it must be before it is used. A process about which something does not fit is
//! left alone, and why is told.

mod code;
mod cpython;
pub(crate) mod golang;
mod greenlet;
mod java;
mod memory;
mod module;
mod nginx;
#[cfg(test)]
mod tests;
pub(crate) mod tokio;

use std::fmt;

use tracer_abi::golang::GoProcess;
use tracer_abi::greenlet::GreenletProcess;
use tracer_abi::java::JavaProcess;
use tracer_abi::java_waits::JavaWaits;
use tracer_abi::nginx::NginxProcess;
use tracer_abi::python::PythonProcess;
use tracer_abi::python_waits::PythonWaits;
use tracer_abi::task::ProcessKey;
use tracer_abi::tokio::TokioProcess;

pub(crate) use self::code::Code;
pub(crate) use self::nginx::forked_by_nginx;
use crate::process::procfs::ProcDir;
use memory::ProcessMemory;
use module::Modules;

/// What was found in a process.
#[derive(Debug)]
pub(crate) enum Finding {
    /// No runtime whose tasks could be known.
    Nothing,
    /// A runtime that may come to have tasks: to be looked at again.
    NotYet(Runtime, &'static str),
    /// A runtime whose tasks are not known, and what that would take.
    Unknown(Runtime, String),
    Python(Runtime, Box<PythonProcess>, PythonLoop),
    Go(Runtime, Box<GoProcess>),
    Tokio(Runtime, Box<TokioProcess>),
    Greenlet(Runtime, Box<GreenletProcess>),
    Java(Runtime, Box<JavaProcess>),
    Nginx(Runtime, Box<NginxProcess>),
}

/// What else is known of an event loop of CPython's.
#[derive(Debug)]
pub(crate) struct PythonLoop {
    /// Where a probe sees which task makes which, or why there is no such place.
    pub(crate) makes: Result<Code, &'static str>,
    /// Where uvloop is loaded, which sends when its tasks have had their turn: where a probe sees which of them writes, or why
    /// there is no such place.
    pub(crate) writes: Option<Result<Code, &'static str>>,
    /// Where pools are loaded: where a probe sees which task submits what to them, or why there is no such place.
    pub(crate) hands: Option<Result<Code, &'static str>>,
}

impl PythonLoop {
    /// What makes known whose calls are where it is not seen which task writes.
    pub(crate) const INSTEAD_OF_UVLOOP: &str = "uvloop sends when its tasks have had their turn; what tasks do on asyncio's own loop is known (uvicorn: --loop asyncio)";
}

/// What is known of how a process's threads wait for each other.
#[derive(Debug)]
pub(crate) enum Waits {
    /// No runtime that could tell.
    Nothing,
    /// A runtime that may come to tell: to be looked at again.
    NotYet(Runtime, &'static str),
    /// A runtime that does not tell, and what that would take.
    Unknown(Runtime, String),
    /// And where a probe sees who submits to its pools, or why there is no such place.
    Python(Runtime, Box<PythonWaits>, Result<Code, &'static str>),
    Java(Runtime, Box<JavaWaits>),
}

/// A runtime, as a person calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runtime(pub(crate) String);

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Looks at how a process's threads wait. Takes as long as [`examine`].
pub(crate) fn examine_waits(process: ProcessKey) -> Waits {
    let Ok(dir) = ProcDir::open_exactly(process) else { return Waits::Nothing };
    let (Ok(modules), Ok(file)) = (Modules::of(&dir), dir.file("mem")) else { return Waits::Nothing };
    let memory = ProcessMemory::new(file);
    match java::examine_waits(process, &modules, &memory) {
        Waits::Nothing => cpython::examine_waits(process, &dir, &modules, &memory),
        found @ (Waits::NotYet(..) | Waits::Unknown(..) | Waits::Python(..) | Waits::Java(..)) => found,
    }
}

/// Looks at a process. Takes some milliseconds.
pub(crate) fn examine(process: ProcessKey) -> Finding {
    let Ok(dir) = ProcDir::open_exactly(process) else { return Finding::Nothing };
    let (Ok(modules), Ok(file)) = (Modules::of(&dir), dir.file("mem")) else { return Finding::Nothing };
    let memory = ProcessMemory::new(file);
    let mut runtimes =
        [nginx::examine, golang::examine, java::examine, greenlet::examine, cpython::examine, tokio::examine]
            .into_iter();
    let found = runtimes.find_map(|examine| match examine(process, &modules, &memory) {
        Finding::Nothing => None,
        finding @ (Finding::NotYet(..)
        | Finding::Unknown(..)
        | Finding::Python(..)
        | Finding::Go(..)
        | Finding::Tokio(..)
        | Finding::Greenlet(..)
        | Finding::Java(..)
        | Finding::Nginx(..)) => Some(finding),
    });
    found.unwrap_or(Finding::Nothing)
}
