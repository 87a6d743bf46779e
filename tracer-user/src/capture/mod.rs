//! The live source of events: loads the kernel half, proves that it works, hands out its records.
//!
//! This folder is the only one that names aya. It interprets records no further than it must to keep its own tables:
//! decoding is the core's work.
//!
//! [`Capture::start`] climbs the [`ladder`]: a rung is taken when its programs load, attach, and bring back the bytes
//! of a connection that the tracer makes to itself.

mod account;
mod asked;
mod btf;
mod deference;
mod examiner;
mod fill;
mod function_probes;
mod handoffs;
mod identity;
mod ladder;
mod object;
mod offsets;
mod parts;
mod processes;
mod record;
mod rests;
mod ring;
mod rung_a;
mod rung_b;
mod self_test;
mod tls;
mod unix_sockets;
mod uprobe_multi;
mod verdicts;
mod waits;

use std::collections::VecDeque;

use anyhow::{Context as _, bail, ensure};
use tracer_abi::config::Config;
use tracer_abi::error::KernelLoss;
use tracer_abi::limits::{DEFAULT_DATA_RING_BYTES, DEFAULT_HEAD_BUDGET_BYTES, MAX_HEAD_BUDGET_BYTES};
use tracer_abi::task::{ProcessKey, Tgid};
use tracer_abi::time::KernelInstant;

pub(crate) use self::btf::KERNEL_BTF;
pub(crate) use self::identity::IdentityCost;
pub(crate) use self::ladder::Rung;
pub(crate) use self::object::kernel_half_bytes;
pub(crate) use self::tls::TlsProcess;

pub(crate) use self::account::{Budget, DEFAULT_BUDGET_PERCENT};
use self::btf::TypeInfo;
pub(crate) use self::function_probes::FunctionProbe;
use self::function_probes::FunctionProbes;
use self::handoffs::HandOffs;
use self::identity::Identities;
use self::object::Loaded;
use self::processes::Processes;
use self::ring::Rings;
use self::tls::Watch;
use self::unix_sockets::UnixSockets;
use crate::runtime::Code;

/// Inode number of the initial pid namespace (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// What to capture. Fixed for the life of a [`Capture`].
#[derive(Clone, Debug)]
pub(crate) struct CaptureConfig {
    /// Every process but the tracer.
    pub(crate) trace_all: bool,
    /// Report the exec of every process, and capture it until [`Capture::trace_process`] or
    /// [`Capture::untrace_process`] decides.
    pub(crate) watch_exec: bool,
    /// Report every process that comes to listen on one of these TCP ports, and capture it until
    /// [`Capture::trace_process`] or [`Capture::untrace_process`] decides.
    pub(crate) watch_ports: Vec<u16>,
    /// Payload bytes captured each time a connection changes direction.
    pub(crate) head_budget_bytes: u32,
    /// Size of the ring that carries payload; a power of two of at least 64 KiB.
    pub(crate) data_ring_bytes: u32,
    /// Debugging messages of the kernel half, through `tracing`.
    pub(crate) kernel_log: bool,
    /// This rung or none.
    pub(crate) rung: Option<Rung>,
    /// Ask the runtimes of processes whose work they do.
    pub(crate) ask_runtimes: bool,
    /// What that may take of a process's CPU time.
    pub(crate) identity_budget: Budget,
    /// Follow hand-offs in processes that have pools of a known kind before it is asked for.
    pub(crate) follow_pools: bool,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            trace_all: false,
            watch_exec: false,
            watch_ports: Vec::new(),
            head_budget_bytes: DEFAULT_HEAD_BUDGET_BYTES,
            data_ring_bytes: DEFAULT_DATA_RING_BYTES,
            kernel_log: false,
            rung: None,
            ask_runtimes: true,
            identity_budget: Budget::default(),
            follow_pools: false,
        }
    }
}

/// A running capture. Dropping it, or the end of the tracer however it comes, takes everything out of the kernel.
pub(crate) struct Capture {
    rung: Rung,
    // Declared before the maps and programs that they use.
    rings: Rings,
    processes: Processes,
    unix_sockets: UnixSockets,
    identities: Identities,
    handoffs: HandOffs,
    tls: Watch,
    loaded: Loaded,
    /// Closed Unix sockets, to be handed out once the rings are empty.
    closed: Vec<Vec<u8>>,
    /// Records of others that came in while the self-test ran.
    early: VecDeque<Vec<u8>>,
    /// Loss counters as last handed out.
    losses: Vec<u64>,
}

impl Capture {
    /// Climbs the ladder, or takes the one rung that is wanted.
    ///
    /// # Errors
    ///
    /// When no rung works; the message says why for each. When the kernel half is not built in, or the tracer is not
    /// in the initial pid namespace, whose numbers the kernel half reports.
    pub(crate) fn start(config: &CaptureConfig) -> anyhow::Result<Self> {
        let mut reasons = Vec::new();
        let rungs = config.rung.as_ref().map_or(Rung::ALL, std::slice::from_ref);
        for &rung in rungs {
            match Self::start_rung(rung, config) {
                Ok(capture) => {
                    if let Some(reason) = capture.identity_refused() {
                        tracing::warn!("runtimes cannot be asked whose work a call is: {reason}");
                    }
                    if let Some(reason) = capture.tls_refused() {
                        tracing::warn!("TLS cannot be read: {reason}");
                    }
                    return Ok(capture);
                }
                Err(error) => reasons.push(format!("rung {rung}: {error:#}")),
            }
        }
        let none = if config.rung.is_some() {
            "the wanted way to capture does not work"
        } else {
            "no way to capture works"
        };
        bail!("{none} on this kernel\n  {}", reasons.join("\n  "))
    }

    /// Loads, attaches and self-tests one rung.
    ///
    /// # Errors
    ///
    /// As [`Capture::start`], for this rung.
    pub(crate) fn start_rung(rung: Rung, config: &CaptureConfig) -> anyhow::Result<Self> {
        ensure_initial_pid_namespace()?;
        let types = TypeInfo::of_running_kernel().context("find the kernel's type information")?;
        ensure!(
            config.data_ring_bytes.is_power_of_two() && config.data_ring_bytes >= 64 << 10,
            "data ring of {} bytes: not a power of two of at least 64 KiB",
            config.data_ring_bytes
        );
        ensure!(
            config.head_budget_bytes <= MAX_HEAD_BUDGET_BYTES,
            "head budget of {} bytes: more than {MAX_HEAD_BUDGET_BYTES}",
            config.head_budget_bytes
        );
        let kernel_config = Config {
            tracer_tgid: std::process::id(),
            trace_all: config.trace_all.into(),
            watch_exec: config.watch_exec.into(),
            watch_listen: (!config.watch_ports.is_empty()).into(),
            head_budget_bytes: config.head_budget_bytes,
            data_ring_bytes: config.data_ring_bytes,
        };
        let mut loaded = object::load(rung, &types, kernel_config, config.kernel_log)?;
        let mut rings = Rings::new(&mut loaded, config.data_ring_bytes)?;
        let mut processes = Processes::new(&mut loaded)?;
        loaded.await_ports(&config.watch_ports)?;
        let early = self_test::run(&mut rings, &mut processes).context("self-test")?;
        let mut capture = Self {
            rung,
            rings,
            processes,
            unix_sockets: UnixSockets::new(&mut loaded)?,
            identities: Identities::new(&mut loaded, config.ask_runtimes, config.identity_budget)?,
            handoffs: HandOffs::new(&mut loaded, config.follow_pools, config.identity_budget)?,
            tls: Watch::new(&mut loaded)?,
            loaded,
            closed: Vec::new(),
            early,
            losses: vec![0; KernelLoss::ALL.len()],
        };
        // What the self-test may have lost is nobody's loss.
        capture.losses();
        Ok(capture)
    }

    /// The rung that is active.
    pub(crate) const fn rung(&self) -> Rung {
        self.rung
    }

    /// Traces processes that run, and their descendants from their first byte, before anything is read. Idempotent. A
    /// start time may be exact, or rounded down to the tick as `/proc/PID/stat` gives it.
    ///
    /// # Errors
    ///
    /// When the table of traced processes is full.
    pub(crate) fn trace_running(&mut self, running: &[ProcessKey]) -> anyhow::Result<()> {
        // Before the first of them is traced: nothing gathers in the rings meanwhile.
        for &process in running {
            self.identities.examine(&mut self.loaded, process);
        }
        for process in self.identities.take_pythons() {
            self.handoffs.examine(&mut self.loaded, process);
        }
        for &process in running {
            self.tls.traced(&mut self.loaded, process);
        }
        self.tls.settle(&mut self.loaded);
        let mut new = false;
        for &process in running {
            new |= self.processes.trace(process)?;
        }
        if new {
            // They have run unseen so far.
            unix_sockets::mark_existing(&mut self.loaded);
        }
        Ok(())
    }

    /// Traces a process that waits to execute its program, and its descendants: until then it is the tracer's own image,
    /// which says nothing of it.
    ///
    /// # Errors
    ///
    /// As [`Self::trace_running`].
    pub(crate) fn trace_gated(&mut self, process: ProcessKey) -> anyhow::Result<()> {
        self.processes.trace(process)?;
        self.tls.traced(&mut self.loaded, process);
        self.tls.settle(&mut self.loaded);
        Ok(())
    }

    /// Traces a process from now on, as [`Self::trace_running`] does.
    ///
    /// # Errors
    ///
    /// When the table of traced processes is full.
    pub(crate) fn trace_process(&mut self, process: ProcessKey) -> anyhow::Result<()> {
        if self.processes.trace(process)? {
            // It has run unseen so far.
            unix_sockets::mark_existing(&mut self.loaded);
            self.identities.traced(process);
        }
        self.tls.traced(&mut self.loaded, process);
        Ok(())
    }

    /// Stops tracing a process. Its descendants are separate processes and go on.
    pub(crate) fn untrace_process(&mut self, process: ProcessKey) {
        self.processes.untrace(process);
        self.tls.leave(&mut self.loaded, process);
    }

    /// Reports which of the process's threads wakes which. Idempotent.
    ///
    /// # Errors
    ///
    /// When this kernel cannot, or too many processes are followed.
    pub(crate) fn follow_handoffs(&mut self, process: ProcessKey) -> anyhow::Result<()> {
        self.handoffs.follow(&mut self.loaded, process)
    }

    /// Attaches what follows hand-offs, and detaches it again.
    ///
    /// # Errors
    ///
    /// When this kernel cannot.
    pub(crate) fn test_handoffs(&mut self) -> anyhow::Result<()> {
        let attached = self.loaded.attach(handoffs::PROBES)?;
        self.loaded.detach(attached);
        Ok(())
    }

    /// Attaches a probe of a function of a process's runtime, and detaches it again.
    ///
    /// # Errors
    ///
    /// When this kernel cannot.
    pub(crate) fn test_function_probe(
        &mut self,
        probe: FunctionProbe,
        process: Tgid,
        function: &Code,
    ) -> anyhow::Result<()> {
        FunctionProbes::new(probe).attach(&mut self.loaded, process, function)
    }

    pub(crate) fn leave_handoffs(&mut self, process: ProcessKey) {
        self.handoffs.leave(&mut self.loaded, process);
    }

    /// Processes that are followed no more because of what it cost, and whether anybody had asked for it. To be called a few
    /// times a second.
    pub(crate) fn handoffs_over_budget(&mut self) -> Vec<(ProcessKey, bool)> {
        self.handoffs.over_budget(&mut self.loaded)
    }

    /// Waits until there may be records to [`drain`](Self::drain). May return when there are none.
    ///
    /// # Errors
    ///
    /// When the rings cannot be polled, or outside a tokio runtime.
    pub(crate) async fn readable(&mut self) -> std::io::Result<()> {
        if !self.early.is_empty() {
            return Ok(());
        }
        tokio::select! {
            readable = self.rings.readable(self.unix_sockets.next_look()) => readable,
            () = self.identities.readable() => Ok(()),
            () = self.handoffs.readable() => Ok(()),
            () = self.tls.found() => Ok(()),
        }
    }

    /// Hands out raw records, at most a few thousand per call. A connection's ConnOpened comes before its first
    /// DataMoved; apart from that, records of different CPUs may be slightly out of order.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        let (processes, unix_sockets, identities) =
            (&mut self.processes, &mut self.unix_sockets, &mut self.identities);
        let (handoffs, tls) = (&mut self.handoffs, &mut self.tls);
        self.closed.append(&mut unix_sockets.closed(&mut self.loaded));
        let mut observe = |record: &[u8]| {
            processes.observe(record);
            unix_sockets.observe(record);
            identities.observe(record);
            handoffs.observe(record);
            tls.observe(record);
            each(record);
        };
        while let Some(record) = self.early.pop_front() {
            observe(&record);
        }
        self.rings.drain(&mut observe);
        if !self.rings.has_more() {
            self.closed.drain(..).for_each(|record| each(&record));
        }
        self.identities.advance(&mut self.loaded);
        for process in self.identities.take_pythons() {
            self.handoffs.consider(process);
        }
        for (tgid, asked) in self.handoffs.advance(&mut self.loaded) {
            self.identities.mark(tgid, asked);
        }
        self.tls.advance(&mut self.loaded);
        self.loaded.flush_log();
    }

    /// What it cost so far to ask runtimes whose work an operation was.
    pub(crate) fn identity_cost(&self) -> IdentityCost {
        let cost = self.identities.cost();
        IdentityCost { rests: cost.rests + self.handoffs.rests(), ..cost }
    }

    /// Whose runtimes are not asked any more, or again, and when: to be called between [`Self::drain`] and the next.
    pub(crate) fn asking_interrupted(&mut self) -> Vec<(ProcessKey, KernelInstant)> {
        let mut interrupted = self.identities.take_interrupted();
        interrupted.append(&mut self.handoffs.take_interrupted());
        interrupted
    }

    /// Why the kernel half cannot see TLS, if it cannot.
    pub(crate) fn tls_refused(&self) -> Option<&str> {
        self.loaded.tls_refused()
    }

    /// What is watched in the processes that have a TLS library, or had one.
    pub(crate) fn tls_processes(&self) -> Vec<TlsProcess> {
        self.tls.processes()
    }

    /// Why the kernel half cannot ask them, if it cannot.
    pub(crate) fn identity_refused(&self) -> Option<&str> {
        self.loaded.identity_refused()
    }

    /// What was lost since the last call, by reason; only counters that grew.
    pub(crate) fn losses(&mut self) -> Vec<(KernelLoss, u64)> {
        let mut grown = Vec::new();
        for (&loss, known) in KernelLoss::ALL.iter().zip(&mut self.losses) {
            let total = self.loaded.loss_total(loss);
            if total > *known {
                grown.push((loss, total - *known));
                *known = total;
            }
        }
        grown
    }
}

/// Process numbers in the kernel half are those of the initial namespace; in another one, the tracer could not even
/// recognise itself.
pub(crate) fn ensure_initial_pid_namespace() -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let namespace =
        std::fs::metadata("/proc/self/ns/pid").context("read /proc/self/ns/pid; is /proc mounted?")?;
    ensure!(
        namespace.ino() == INITIAL_PID_NAMESPACE,
        "the tracer runs in a pid namespace of its own: start it on the host, or in a container that shares the \
         host's pid namespace (docker run --pid=host)"
    );
    Ok(())
}
