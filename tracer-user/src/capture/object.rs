//! Loads the object into the kernel and attaches what a rung needs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray, ProgramArray};
use aya::programs::fexit::FExitLinkId;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, FExit, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, VerifierLogLevel};
use tracer_abi::config::Config;
use tracer_abi::error::KernelLoss;

use super::btf::TypeInfo;
use super::ladder::{Hook, LIFE_CYCLE, Probe, Rung, TailCall};
use super::parts::{Parts, UserPrograms};
use super::verdicts::{Kind, Verdicts};
use super::{offsets, unix_sockets, uprobe_multi};

/// The kernel half as `cargo xtask build` made it.
#[cfg(kernel_half)]
static OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("TRACER_EBPF_OBJECT")));
#[cfg(not(kernel_half))]
static OBJECT: Option<&[u8]> = None;

/// Debugging messages are off: `aya_log_ebpf::Level` counts from 1.
const LOG_OFF: u8 = 0;
const LOG_ALL: u8 = 5;

/// Programs and maps in the kernel. Dropping it removes them.
pub(super) struct Loaded {
    ebpf: Ebpf,
    stats: PerCpuArray<MapData, u64>,
    /// Why hand-offs cannot be followed.
    no_handoffs: Option<anyhow::Error>,
    log: Option<aya_log::EbpfLogger<KernelLog>>,
    /// There are programs that know whose work an operation is, and some that know what woken threads wait for.
    knows_identity: bool,
    knows_waits: bool,
    /// Why some of either are absent; `None`: none is.
    identity_refused: Option<String>,
    /// The same of those that see TLS.
    tls_refused: Option<String>,
    /// The tables through which programs are reached by tail calls, by name. They go when these do.
    _tables: BTreeMap<&'static str, ProgramArray<MapData>>,
    /// Those of user programs, where one link may hold many probes.
    probes: Option<Arc<uprobe_multi::Programs>>,
}

/// A program that can be detached again.
pub(super) struct Attached {
    program: &'static str,
    link: Attachment,
}

enum Attachment {
    TracePoint(BtfTracePointLinkId),
    FunctionExit(FExitLinkId),
}

/// Hands messages of the kernel half to `tracing`.
struct KernelLog;

impl log::Log for KernelLog {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(target: "kernel", "{}", record.args());
    }

    fn flush(&self) {}
}

/// Size of the kernel half in this binary; `None` when it was built without.
pub(crate) fn kernel_half_bytes() -> Option<usize> {
    OBJECT.map(<[u8]>::len)
}

/// Loads and attaches the programs of a rung and those that every rung needs, and no others.
pub(super) fn load(rung: Rung, types: &TypeInfo, config: Config, log: bool) -> anyhow::Result<Loaded> {
    let Some(object) = OBJECT else {
        bail!(
            "this binary was built without its kernel half; build it with `cargo xtask build` and run \
             target/release/tracer"
        );
    };
    // Life cycle first: a connection's opening is known before its data.
    let probes = || LIFE_CYCLE.iter().chain(rung.probes());
    let wanted: Vec<&Probe> = probes().filter(|probe| probe.is_present(types) || !probe.optional).collect();
    if let Some(absent) = wanted.iter().find(|probe| !probe.is_present(types)) {
        bail!("this kernel has no {}", absent.hook);
    }
    let offsets = offsets::resolve(types).context("find the kernel's structure offsets")?;
    let (config_words, offset_words) = (config.to_words(), offsets.to_words());
    let log_level = if log { LOG_ALL } else { LOG_OFF };

    let btf = Btf::from_sys_fs().context("parse the kernel's type information")?;
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        // The verifier's log is only worth its time when a program is refused; aya asks for it then. Without a level the
        // kernel would refuse the asking, and say nothing of the program.
        .verifier_log_level(VerifierLogLevel::DEBUG)
        // Task storage: no wrapper exists, and user space needs none.
        .allow_unsupported_maps()
        .map_max_entries("TRACER_DATA", config.data_ring_bytes)
        .override_global("CONFIG", &config_words, true)
        .override_global("OFFSETS", &offset_words, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .load(object)
        .context("load the kernel half's maps")?;
    let user = UserPrograms::load(object, &ebpf);
    let walks: &[_] = if types.has_function(&format!("bpf_iter_{}", unix_sockets::WALK)) {
        &[unix_sockets::MARK, unix_sockets::LIST]
    } else {
        &[]
    };
    let all = wanted.iter().map(|probe| probe.wanted()).chain(Parts::wanted(rung, types, &user));
    let all = all.chain(walks.iter().map(|name| (*name, Kind::Walk(unix_sockets::WALK))));
    let mut verdicts = Verdicts::load(&mut ebpf, all, &btf);
    for program in wanted.iter().map(|probe| probe.program).chain(walks.iter().copied()) {
        verdicts.take(program)?;
    }
    let Parts { identity, waits, identity_refused, records, tls_refused, no_handoffs } =
        Parts::of(&mut verdicts, rung, types, &user);
    // For good: to take a program out again takes the kernel many milliseconds. What they do costs next to nothing where
    // there is nothing for them to do.
    let tables = enter(&mut ebpf, identity.iter().chain(&records).chain(&waits))?;
    let stats =
        PerCpuArray::try_from(take_map(&mut ebpf, "TRACER_STATS")?).context("open map TRACER_STATS")?;
    let log = log.then(|| aya_log::EbpfLogger::init_with_logger(&mut ebpf, KernelLog)).transpose();
    let mut loaded = Loaded {
        ebpf,
        stats,
        no_handoffs,
        knows_identity: !identity.is_empty(),
        knows_waits: !waits.is_empty(),
        identity_refused,
        tls_refused,
        _tables: tables,
        probes: user.linked,
        log: log.context("open the kernel half's log")?,
    };
    // All are accepted. What exists before the first hook is attached is older than the tracer.
    unix_sockets::mark_existing(&mut loaded);
    for probe in &wanted {
        attach_program(&mut loaded.ebpf, probe)?;
    }
    Ok(loaded)
}

/// Has programs run when others go on with them.
fn enter<'c>(
    ebpf: &mut Ebpf,
    calls: impl Iterator<Item = &'c TailCall>,
) -> anyhow::Result<BTreeMap<&'static str, ProgramArray<MapData>>> {
    let mut tables = BTreeMap::new();
    for TailCall { probe, table: name, slot } in calls {
        let table: &mut ProgramArray<MapData> = match tables.entry(*name) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let map = take_map(ebpf, name)?.try_into().with_context(|| format!("open map {name}"))?;
                new.insert(map)
            }
        };
        let program = ebpf.program(probe.program).with_context(|| format!("no program {}", probe.program))?;
        table.set(*slot, program.fd()?, 0).with_context(|| format!("enter {}", probe.program))?;
    }
    Ok(tables)
}

impl Loaded {
    pub(super) fn take_map(&mut self, name: &str) -> anyhow::Result<Map> {
        take_map(&mut self.ebpf, name)
    }

    /// Whether the kernel half can say whose work an operation was.
    pub(super) const fn knows_identity(&self) -> bool {
        self.knows_identity
    }

    /// Whether it can say what woken threads wait for.
    pub(super) const fn knows_waits(&self) -> bool {
        self.knows_waits
    }

    /// Why it cannot, for some or all runtimes.
    pub(super) fn identity_refused(&self) -> Option<&str> {
        self.identity_refused.as_deref()
    }

    pub(super) fn probes(&self) -> Option<Arc<uprobe_multi::Programs>> {
        self.probes.clone()
    }

    /// Why the kernel half cannot see TLS, if it cannot.
    pub(super) fn tls_refused(&self) -> Option<&str> {
        self.tls_refused.as_deref()
    }

    /// Has the kernel half capture processes that come to listen on these ports.
    pub(super) fn await_ports(&mut self, ports: &[u16]) -> anyhow::Result<()> {
        let mut words: Array<_, u64> =
            self.take_map("TRACER_PORTS")?.try_into().context("open map TRACER_PORTS")?;
        for &port in ports {
            let (word, bit) = (u32::from(port) / 64, 1 << (port % 64));
            let old = words.get(&word, 0).context("read map TRACER_PORTS")?;
            words.set(word, old | bit, 0).context("write map TRACER_PORTS")?;
        }
        Ok(())
    }

    /// A loss counter's sum over all CPUs.
    pub(super) fn loss_total(&self, loss: KernelLoss) -> u64 {
        self.stats.get(&loss.code(), 0).map_or(0, |values| values.iter().sum())
    }

    /// A program by its type.
    pub(super) fn program<'a, P>(&'a mut self, name: &str) -> anyhow::Result<&'a mut P>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        program(&mut self.ebpf, name)
    }

    /// Whether a program is loaded.
    pub(super) fn has_program(&self, name: &str) -> bool {
        self.ebpf.program(name).is_some_and(|program| program.fd().is_ok())
    }

    /// Attaches the programs that follow hand-offs: all or none.
    pub(super) fn attach_handoffs(&mut self, probes: &[Probe]) -> anyhow::Result<Vec<Attached>> {
        if let Some(reason) = &self.no_handoffs {
            bail!("{reason:#}");
        }
        self.attach(probes)
    }

    /// Attaches programs that are loaded, passing over those that are not: all others or none.
    pub(super) fn attach(&mut self, probes: &[Probe]) -> anyhow::Result<Vec<Attached>> {
        let mut attached = Vec::new();
        for probe in probes {
            if !self.has_program(probe.program) {
                continue;
            }
            let link = match probe.hook {
                Hook::TracePoint(_) => program::<BtfTracePoint>(&mut self.ebpf, probe.program)?
                    .attach()
                    .map(Attachment::TracePoint),
                Hook::FunctionExit(_) => {
                    program::<FExit>(&mut self.ebpf, probe.program)?.attach().map(Attachment::FunctionExit)
                }
            };
            match link {
                Ok(link) => attached.push(Attached { program: probe.program, link }),
                Err(error) => {
                    self.detach(attached);
                    return Err(error).with_context(|| format!("attach {} to {}", probe.program, probe.hook));
                }
            }
        }
        Ok(attached)
    }

    pub(super) fn detach(&mut self, attached: Vec<Attached>) {
        for Attached { program: name, link } in attached {
            // Loaded and attached before: both are there.
            let detached = match link {
                Attachment::TracePoint(link) => program::<BtfTracePoint>(&mut self.ebpf, name)
                    .and_then(|program| program.detach(link).context("detach")),
                Attachment::FunctionExit(link) => program::<FExit>(&mut self.ebpf, name)
                    .and_then(|program| program.detach(link).context("detach")),
            };
            if let Err(error) = detached {
                tracing::warn!("{name}: {error:#}");
            }
        }
    }

    pub(super) fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    ebpf.take_map(name).with_context(|| format!("the kernel half has no map {name}"))
}

fn attach_program(ebpf: &mut Ebpf, probe: &Probe) -> anyhow::Result<()> {
    match probe.hook {
        Hook::TracePoint(_) => program::<BtfTracePoint>(ebpf, probe.program)?.attach().map(drop),
        Hook::FunctionExit(_) => program::<FExit>(ebpf, probe.program)?.attach().map(drop),
    }
    .with_context(|| format!("attach {} to {}", probe.program, probe.hook))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("the kernel half has no program {name}"))?;
    Ok(program.try_into()?)
}
