//! Loads the object into the kernel and attaches what a rung needs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray, ProgramArray};
use aya::programs::fexit::FExitLinkId;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, FExit, Iter, Program, ProgramError, UProbe};
use aya::{Btf, Ebpf, EbpfLoader, VerifierLogLevel};
use tracer_abi::config::Config;
use tracer_abi::error::KernelLoss;

use super::btf::TypeInfo;
use super::function_probes::FunctionProbe;
use super::ladder::{Hook, LIFE_CYCLE, Probe, Rung, TailCall};
use super::{handoffs, offsets, tls, unix_sockets, uprobe_multi};

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
    for probe in &wanted {
        load_program(&mut ebpf, probe, &btf)?;
    }
    // While all maps are there.
    let optional: Vec<_> =
        tls::OPTIONAL.into_iter().chain(FunctionProbe::ALL.map(FunctionProbe::program)).collect();
    let probes = uprobe_multi::Programs::load(object, &ebpf, &tls::PROGRAMS, &optional);
    let (identity, identity_refused) = load_identity(&mut ebpf, rung, types, &btf);
    if types.has_function(&format!("bpf_iter_{}", unix_sockets::WALK)) {
        for name in [unix_sockets::MARK, unix_sockets::LIST] {
            program::<Iter>(&mut ebpf, name)?
                .load(unix_sockets::WALK, &btf)
                .map_err(refusal)
                .with_context(|| format!("load {name}"))?;
        }
    }
    // Their absence costs TLS, and nothing else.
    let (records, probes, tls_refused) = match load_tls(&mut ebpf, rung, types, &btf, probes) {
        Ok((records, probes)) => (records, probes, None),
        Err(error) => (Vec::new(), None, Some(format!("{error:#}"))),
    };
    let probes = probes.map(Arc::new);
    let functions_refused = load_function_probes(&mut ebpf, probes.as_deref());
    // Their absence costs parents, and nothing else.
    let no_handoffs = handoffs::PROBES.iter().find_map(|probe| {
        if !probe.is_present(types) {
            return Some(anyhow::anyhow!("this kernel has no {}", probe.hook));
        }
        load_program(&mut ebpf, probe, &btf).err()
    });
    let (waits, waits_refused) = load_waits(&mut ebpf, types, &btf);
    let refused = [identity_refused, waits_refused].into_iter().flatten().chain(functions_refused);
    let identity_refused = refused.reduce(|a, b| format!("{a}; {b}"));
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
        probes,
        log: log.context("open the kernel half's log")?,
    };
    // All are accepted. What exists before the first hook is attached is older than the tracer.
    unix_sockets::mark_existing(&mut loaded);
    for probe in &wanted {
        attach_program(&mut loaded.ebpf, probe)?;
    }
    Ok(loaded)
}

/// Loads the programs that say whose work an operation was, of each runtime all or none; and why not.
fn load_identity(
    ebpf: &mut Ebpf,
    rung: Rung,
    types: &TypeInfo,
    btf: &Btf,
) -> (Vec<TailCall>, Option<String>) {
    let mut loaded = Vec::new();
    let mut refusals = Vec::new();
    for programs in rung.identity() {
        let present = programs.iter().filter(|identity| {
            let probe = &identity.probe;
            probe.is_present(types) || !probe.optional
        });
        let before = loaded.len();
        for identity in present {
            if let Err(error) = load_program(ebpf, &identity.probe, btf) {
                loaded.truncate(before);
                refusals.push(format!("{error:#}"));
                break;
            }
            loaded.push(*identity);
        }
    }
    (loaded, (!refusals.is_empty()).then(|| refusals.join("; ")))
}

/// Loads the programs that know what woken threads wait for; and why not all.
fn load_waits(ebpf: &mut Ebpf, types: &TypeInfo, btf: &Btf) -> (Vec<TailCall>, Option<String>) {
    let (mut loaded, mut refusals) = (Vec::new(), Vec::new());
    for call in handoffs::WAITS.iter().filter(|call| call.probe.is_present(types)) {
        match load_program(ebpf, &call.probe, btf) {
            Ok(()) => loaded.push(*call),
            Err(error) => refusals.push(format!("{error:#}")),
        }
    }
    (loaded, (!refusals.is_empty()).then(|| refusals.join("; ")))
}

/// Loads the programs that see TLS: all of them, or why not. `probes`: those of user programs, if they are loaded already.
fn load_tls(
    ebpf: &mut Ebpf,
    rung: Rung,
    types: &TypeInfo,
    btf: &Btf,
    probes: anyhow::Result<uprobe_multi::Programs>,
) -> anyhow::Result<(Vec<TailCall>, Option<uprobe_multi::Programs>)> {
    tls::ensure_not_preempted()?;
    let present = |call: &&TailCall| call.probe.is_present(types) || !call.probe.optional;
    let records: Vec<TailCall> = rung.tls().iter().filter(present).copied().collect();
    for call in &records {
        load_program(ebpf, &call.probe, btf)?;
    }
    match probes {
        Ok(probes) => return Ok((records, Some(probes))),
        Err(error) => tracing::debug!("each probe has a link of its own: {error:#}"),
    }
    for name in tls::PROGRAMS {
        let loaded = program::<UProbe>(ebpf, name)?.load();
        loaded.map_err(refusal).with_context(|| format!("load {name}"))?;
    }
    for name in tls::OPTIONAL {
        if let Err(error) = program::<UProbe>(ebpf, name)?.load() {
            tracing::debug!("load {name}: {:#}", refusal(error));
        }
    }
    Ok((records, None))
}

/// Loads the programs that are probes of functions of CPython's, unless they are loaded already. Returns why not, of each
/// that could not be.
fn load_function_probes(ebpf: &mut Ebpf, probes: Option<&uprobe_multi::Programs>) -> Vec<String> {
    let load = |name| {
        let loaded = tls::ensure_not_preempted().and_then(|()| {
            if probes.is_some_and(|probes| probes.has(name)) {
                return Ok(());
            }
            program::<UProbe>(ebpf, name)?.load().map_err(refusal)
        });
        loaded.with_context(|| format!("load {name}")).err().map(|error| format!("{error:#}"))
    };
    FunctionProbe::ALL.map(FunctionProbe::program).into_iter().filter_map(load).collect()
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

fn load_program(ebpf: &mut Ebpf, probe: &Probe, btf: &Btf) -> anyhow::Result<()> {
    match probe.hook {
        Hook::TracePoint(name) => program::<BtfTracePoint>(ebpf, probe.program)?.load(name, btf),
        Hook::FunctionExit(name) => program::<FExit>(ebpf, probe.program)?.load(name, btf),
    }
    .map_err(refusal)
    .with_context(|| format!("load {} at {}", probe.program, probe.hook))
}

/// How many of the verifier's last lines say why it refused a program.
const VERIFIER_LINES: usize = 4;

/// The kernel's reason for refusing a program, with the end of the verifier's log if it got that far.
fn refusal(error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return error.into();
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = lines.get(lines.len().saturating_sub(VERIFIER_LINES)..).unwrap_or_default();
    let error = anyhow::Error::from(io_error);
    if end.is_empty() { error } else { error.context(format!("the verifier says: {}", end.join(" | "))) }
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
