//! Attaches probes to functions of processes' runtimes, one of a sort to a process, and takes them off again.
//!
//! | probe | function of CPython's | sees | where it cannot be attached |
//! |---|---|---|---|
//! | [`FunctionProbe::Submits`] | `_queue.SimpleQueue.put` | who submits work items to pools | that is seen only where it wakes a thread of the pool |
//! | [`FunctionProbe::Makes`] | `_asyncio.Task.__init__` | which task makes which | it is not known |

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
}

impl FunctionProbe {
    pub(super) const ALL: [Self; 2] = [Self::Submits, Self::Makes];

    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Submits => "tracer_py_submit",
            Self::Makes => "tracer_py_make",
        }
    }
}

pub(super) struct FunctionProbes {
    probe: FunctionProbe,
    links: HashMap<u32, Link>,
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
        self.reaper.end(self.links.remove(&tgid));
    }
}

impl Drop for FunctionProbes {
    /// What the kernel would do at the end of the tracer, one probe after the other.
    fn drop(&mut self) {
        self.reaper.end(self.links.drain().map(|(_, link)| link));
        self.reaper.finish();
    }
}

fn attach(loaded: &mut Loaded, name: &str, process: Tgid, code: &Code) -> anyhow::Result<Link> {
    if let Some(programs) = loaded.probes()
        && programs.has(name)
    {
        let place = Place { offset: code.offset, cookie: 0 };
        let link = programs.attach(name, &code.handle(), &[place], process, false);
        return link.map(Link::Many).context("attach a probe");
    }
    let scope = UProbeScope::OneProcess(NonZeroU32::new(process.0).context("no process")?);
    let location = UProbeAttachLocation::AbsoluteOffset(code.offset);
    let program = loaded.program::<UProbe>(name)?;
    let link = program.attach(UProbeAttachPoint { location, cookie: None }, code.handle(), scope)?;
    Ok(Link::One(program.take_link(link).context("keep the probe")?))
}
