//! The parts of the kernel half that a trace can do without: of each, the programs that the kernel takes, or why it takes
//! none. Where a part is missing, what it tells is not known, and nothing else is missing.

use std::sync::Arc;

use aya::Ebpf;

use super::btf::TypeInfo;
use super::function_probes::FunctionProbe;
use super::ladder::{Probe, Rung, TailCall};
use super::verdicts::{Kind, Verdicts};
use super::{handoffs, tls, uprobe_multi};

pub(super) struct Parts {
    /// Those that say whose work an operation is, of each runtime all or none; and what woken threads wait for.
    pub(super) identity: Vec<TailCall>,
    pub(super) waits: Vec<TailCall>,
    /// Why some of these are absent; `None`: none is.
    pub(super) identity_refused: Option<String>,
    /// Those that see the records of TLS: all or none.
    pub(super) records: Vec<TailCall>,
    /// Why nothing of TLS is seen.
    pub(super) tls_refused: Option<String>,
    /// Why hand-offs cannot be followed.
    pub(super) no_handoffs: Option<anyhow::Error>,
}

/// Those at user programs.
pub(super) struct UserPrograms {
    /// Where one link may hold many probes.
    pub(super) linked: Option<Arc<uprobe_multi::Programs>>,
    /// Why there may be no probe at all.
    refused: Option<String>,
}

impl UserPrograms {
    /// Loads those of the object whose maps `ebpf` holds, all of them still.
    pub(super) fn load(object: &[u8], ebpf: &Ebpf) -> Self {
        let refused = tls::ensure_not_preempted().err().map(|error| format!("{error:#}"));
        let linked = if refused.is_none() {
            uprobe_multi::Programs::load(object, ebpf, &tls::PROGRAMS, &Self::optional().collect::<Vec<_>>())
                .inspect_err(|error| tracing::debug!("each probe has a link of its own: {error:#}"))
                .ok()
        } else {
            None
        };
        Self { linked: linked.map(Arc::new), refused }
    }

    fn optional() -> impl Iterator<Item = &'static str> {
        tls::OPTIONAL.into_iter().chain(FunctionProbe::ALL.map(FunctionProbe::program))
    }

    /// Those that are to be loaded alone.
    fn others(&self) -> impl Iterator<Item = &'static str> {
        let all = tls::PROGRAMS.into_iter().chain(Self::optional());
        all.filter(|name| self.refused.is_none() && !self.has(name))
    }

    /// # Errors
    /// Why one is not there.
    fn take(&self, program: &str, verdicts: &mut Verdicts) -> anyhow::Result<()> {
        if let Some(refused) = &self.refused {
            anyhow::bail!("{refused}");
        }
        if self.has(program) { Ok(()) } else { verdicts.take(program) }
    }

    fn has(&self, program: &str) -> bool {
        self.linked.as_ref().is_some_and(|linked| linked.has(program))
    }
}

impl Parts {
    pub(super) fn wanted(
        rung: Rung,
        types: &TypeInfo,
        user: &UserPrograms,
    ) -> impl Iterator<Item = (&'static str, Kind)> {
        let calls = rung.identity().into_iter().flatten().chain(rung.tls()).chain(handoffs::WAITS);
        let hooked = handoffs::PROBES.iter().chain(calls.map(|call| &call.probe));
        let hooked = hooked.filter(|probe| is_due(probe, types)).map(Probe::wanted);
        hooked.chain(user.others().map(|name| (name, Kind::UserProbe)))
    }

    /// Of all that were wanted.
    pub(super) fn of(verdicts: &mut Verdicts, rung: Rung, types: &TypeInfo, user: &UserPrograms) -> Self {
        let mut refusals = Vec::new();
        let mut identity = Vec::new();
        for runtime in rung.identity() {
            match taken(runtime, types, verdicts) {
                Ok(programs) => identity.extend(programs),
                Err(error) => refusals.push(error),
            }
        }
        let functions = FunctionProbe::ALL.map(FunctionProbe::program);
        refusals.extend(functions.into_iter().filter_map(|name| user.take(name, verdicts).err()));
        let mut waits = Vec::new();
        for runtime in handoffs::WAITS.chunks(1) {
            match taken(runtime, types, verdicts) {
                Ok(programs) => waits.extend(programs),
                Err(error) => refusals.push(error),
            }
        }
        let refusals: Vec<String> = refusals.into_iter().map(|error| format!("{error:#}")).collect();
        let (records, tls_refused) = match records(rung, types, verdicts, user) {
            Ok(records) => (records, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        for name in tls::OPTIONAL {
            if let Err(error) = user.take(name, verdicts) {
                tracing::debug!("{error:#}");
            }
        }
        let no_handoffs = handoffs::PROBES.iter().find_map(|probe| {
            if !probe.is_present(types) {
                return Some(anyhow::anyhow!("this kernel has no {}", probe.hook));
            }
            verdicts.take(probe.program).err()
        });
        let identity_refused = (!refusals.is_empty()).then(|| refusals.join("; "));
        Self { identity, waits, identity_refused, records, tls_refused, no_handoffs }
    }
}

fn records(
    rung: Rung,
    types: &TypeInfo,
    verdicts: &mut Verdicts,
    user: &UserPrograms,
) -> anyhow::Result<Vec<TailCall>> {
    for name in tls::PROGRAMS {
        user.take(name, verdicts)?;
    }
    taken(rung.tls(), types, verdicts)
}

/// All that this kernel has hooks for, or why not.
fn taken(calls: &[TailCall], types: &TypeInfo, verdicts: &mut Verdicts) -> anyhow::Result<Vec<TailCall>> {
    let due = calls.iter().filter(|call| is_due(&call.probe, types));
    due.map(|call| verdicts.take(call.probe.program).map(|()| *call)).collect()
}

fn is_due(probe: &Probe, types: &TypeInfo) -> bool {
    probe.is_present(types) || !probe.optional
}
