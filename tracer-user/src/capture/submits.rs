//! Attaches the probe that sees who submits work items to pools of CPython, one to a process, and takes it off again.
//!
//! Where it cannot be attached, a submit is seen only where it wakes a thread of the pool.

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

pub(super) const PROGRAM: &str = "tracer_py_submit";

pub(super) struct Submits {
    links: HashMap<u32, Link>,
    reaper: Reaper,
}

impl Submits {
    pub(super) fn new() -> Self {
        Self { links: HashMap::new(), reaper: Reaper::new() }
    }

    /// Idempotent. Takes the kernel some milliseconds.
    ///
    /// # Errors
    /// When this kernel cannot.
    pub(super) fn attach(&mut self, loaded: &mut Loaded, process: Tgid, code: &Code) -> anyhow::Result<()> {
        if let Entry::Vacant(place) = self.links.entry(process.0) {
            place.insert(attach(loaded, process, code)?);
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, tgid: u32) {
        self.reaper.end(self.links.remove(&tgid));
    }
}

impl Drop for Submits {
    /// What the kernel would do at the end of the tracer, one probe after the other.
    fn drop(&mut self) {
        self.reaper.end(self.links.drain().map(|(_, link)| link));
        self.reaper.finish();
    }
}

fn attach(loaded: &mut Loaded, process: Tgid, code: &Code) -> anyhow::Result<Link> {
    if let Some(programs) = loaded.probes()
        && programs.has(PROGRAM)
    {
        let place = Place { offset: code.offset, cookie: 0 };
        let link = programs.attach(PROGRAM, &code.handle(), &[place], process, false);
        return link.map(Link::Many).context("attach a probe");
    }
    let scope = UProbeScope::OneProcess(NonZeroU32::new(process.0).context("no process")?);
    let location = UProbeAttachLocation::AbsoluteOffset(code.offset);
    let program = loaded.program::<UProbe>(PROGRAM)?;
    let link = program.attach(UProbeAttachPoint { location, cookie: None }, code.handle(), scope)?;
    Ok(Link::One(program.take_link(link).context("keep the probe")?))
}
