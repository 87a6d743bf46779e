//! The kernel half's tables of processes that are asked, one for each thing that is known of them.

use anyhow::Context as _;
use aya::Pod;
use aya::maps::{HashMap as BpfHashMap, MapData, MapError};
use tracer_abi::golang::GoProcess;
use tracer_abi::greenlet::GreenletProcess;
use tracer_abi::java::JavaProcess;
use tracer_abi::java_waits::JavaWaits;
use tracer_abi::nginx::NginxProcess;
use tracer_abi::python::PythonProcess;
use tracer_abi::python_waits::PythonWaits;
use tracer_abi::tokio::TokioProcess;

use super::account::Spent;
use super::object::Loaded;

/// What is known of a process.
///
/// # Safety
///
/// It must be `repr(C)` integers without padding.
pub(super) unsafe trait Known: Copy + 'static {
    fn spent(&self) -> Spent;
    fn set_spent(&mut self, spent: Spent);
}

macro_rules! known {
    ($($known:ty),+) => {
        $(
            // SAFETY: `layout.rs` of the ABI proves it.
            unsafe impl Known for $known {
                fn spent(&self) -> Spent {
                    Spent { looks: self.looks, nanos: self.spent_nanos }
                }

                fn set_spent(&mut self, spent: Spent) {
                    (self.looks, self.spent_nanos) = (spent.looks, spent.nanos);
                }
            }
        )+
    };
}

known!(
    PythonProcess,
    GoProcess,
    GreenletProcess,
    JavaProcess,
    TokioProcess,
    NginxProcess,
    PythonWaits,
    JavaWaits
);

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Entry<K>(K);

// SAFETY: as `Known` says.
unsafe impl<K: Known> Pod for Entry<K> {}

/// Thread group id → what is known of the process.
pub(super) struct Asked<K>(BpfHashMap<MapData, u32, Entry<K>>);

impl<K: Known> Asked<K> {
    pub(super) fn open(loaded: &mut Loaded, map: &str) -> anyhow::Result<Self> {
        let table = loaded.take_map(map)?.try_into().with_context(|| format!("open map {map}"))?;
        Ok(Self(table))
    }

    /// Enters a process, or what is known of it by now. What it has cost stays.
    pub(super) fn enter(&mut self, tgid: u32, mut known: K) -> Result<(), MapError> {
        if let Some(spent) = self.spent(tgid) {
            known.set_spent(spent);
        }
        self.0.insert(tgid, Entry(known), 0)
    }

    /// What the kernel half writes meanwhile into the entry is lost.
    pub(super) fn change(&mut self, tgid: u32, change: impl FnOnce(&mut K)) -> Result<(), MapError> {
        let Entry(mut known) = self.0.get(&tgid, 0)?;
        change(&mut known);
        self.0.insert(tgid, Entry(known), 0)
    }

    pub(super) fn spent(&self, tgid: u32) -> Option<Spent> {
        self.0.get(&tgid, 0).ok().map(|Entry(known)| known.spent())
    }

    pub(super) fn remove(&mut self, tgid: u32) {
        // Absent: there is nothing to remove.
        let _ = self.0.remove(&tgid);
    }
}
