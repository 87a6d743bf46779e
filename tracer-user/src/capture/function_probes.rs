//! Attaches probes to functions of processes' runtimes, those of one library of a sort to a process, and takes them off again.
//!
//! | probe | function of CPython's | sees | where it cannot be attached |
//! |---|---|---|---|
//! | [`FunctionProbe::Submits`] | `_queue.SimpleQueue.put` | who submits work items to pools | that is seen only where it wakes a thread of the pool |
//! | [`FunctionProbe::Makes`] | `_asyncio.Task.__init__` | which task makes which | it is not known |
//! | [`FunctionProbe::Hands`] | `_queue.SimpleQueue.put` | which task of a loop submits which work item | it is not known |
//! | [`FunctionProbe::Writes`] | `write` and `writelines` of `uvloop.loop.UVStream` | which task writes what its loop sends later | it is not known |

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;

use anyhow::Context as _;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope};
use tracer_abi::task::Tgid;

use super::object::Loaded;
use super::tls::{Link, Reaper};
use super::uprobe_multi::Place;
use crate::runtime::Code;

#[derive(Clone, Copy, Debug)]
pub(crate) enum FunctionProbe {
    Submits,
    Makes,
    Hands,
    Writes,
}

impl FunctionProbe {
    pub(super) const ALL: [Self; 4] = [Self::Submits, Self::Makes, Self::Hands, Self::Writes];

    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Submits => "tracer_py_submit",
            Self::Makes => "tracer_py_make",
            Self::Hands => "tracer_py_hand",
            Self::Writes => "tracer_py_write",
        }
    }
}

pub(super) struct FunctionProbes {
    probe: FunctionProbe,
    links: HashMap<u32, Vec<Link>>,
    reaper: Reaper,
}

impl FunctionProbes {
    pub(super) fn new(probe: FunctionProbe) -> Self {
        Self { probe, links: HashMap::new(), reaper: Reaper::new() }
    }

    /// Idempotent. Takes the kernel some milliseconds.
    ///
    /// # Errors
    /// When this kernel cannot.
    pub(super) fn attach(&mut self, loaded: &mut Loaded, process: Tgid, code: &Code) -> anyhow::Result<()> {
        if let Entry::Vacant(place) = self.links.entry(process.0) {
            place.insert(attach(loaded, self.probe.program(), process, code)?);
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, tgid: u32) {
        self.reaper.end(self.links.remove(&tgid).into_iter().flatten());
    }
}

impl Drop for FunctionProbes {
    /// What the kernel would do at the end of the tracer, one probe after the other.
    fn drop(&mut self) {
        self.reaper.end(self.links.drain().flat_map(|(_, links)| links));
        self.reaper.finish();
    }
}

fn attach(loaded: &mut Loaded, name: &str, process: Tgid, code: &Code) -> anyhow::Result<Vec<Link>> {
    if let Some(programs) = loaded.probes()
        && programs.has(name)
    {
        let places: Vec<_> = code.offsets.iter().map(|offset| Place { offset: *offset, cookie: 0 }).collect();
        let link = programs.attach(name, &code.handle(), &places, process, false);
        return Ok(vec![Link::Many(link.context("attach a probe")?)]);
    }
    let process = NonZeroU32::new(process.0).context("no process")?;
    let program = loaded.program::<UProbe>(name)?;
    let attach = |offset: &u64| {
        let location = UProbeAttachLocation::AbsoluteOffset(*offset);
        let point = UProbeAttachPoint { location, cookie: None };
        let link = program.attach(point, code.handle(), UProbeScope::OneProcess(process))?;
        Ok(Link::One(program.take_link(link).context("keep the probe")?))
    };
    code.offsets.iter().map(attach).collect()
}
