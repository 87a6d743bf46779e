//! What `run` and `attach` share: from the configuration to a live pipeline, and from its end to the exit summary.

use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::runtime::{Builder, Handle, Runtime};
use tracer_abi::error::KernelLoss;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;
use tracer_core::event::HostFacts;
use tracer_core::recording::Preamble;
use tracer_core::{EngineConfig, HandOffPolicy};

use crate::capture::{Capture, CaptureConfig, IdentityCost, TlsProcess};
use crate::clock::WallClock;
use crate::config;
use crate::export::config::{ExportConfig, Pace};
use crate::export::{self};
use crate::pipeline::{Source, Spans, Wanted};
use crate::priority::go_ahead;
use crate::process::host::host_facts;
use crate::recorder::Recorder;
use crate::summary::Summary;

/// What the events of a live run go to.
pub(super) struct Outputs {
    pub(super) spans: Spans,
    pub(super) recorder: Option<Recorder>,
}

/// Opens every output, so that one that cannot be opened is known before anything is traced. They run on `others`.
///
/// # Errors
/// When an output cannot be opened, or the system has no randomness.
pub(super) fn open_outputs(
    spans: &config::Spans,
    capture: &config::Capture,
    others: &Handle,
) -> anyhow::Result<Outputs> {
    // From here on its memory holds what others sent in secret: no core dumps of it, and no debugger.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("forbid core dumps")?;
    let _inside = others.enter();
    let clock = WallClock::synchronised();
    let host = host_facts();
    let seed = match spans.seed {
        Some(seed) => seed,
        None => random_seed()?,
    };
    let recorder = match &capture.record {
        Some(record) => {
            let preamble = Preamble::new(env!("CARGO_PKG_VERSION"), clock.offset_nanos(), host.clone(), seed);
            let recorder = Recorder::create(record, &preamble)?;
            tracing::info!(
                "recording to {}: it will contain payload, the bytes that the traced programs send and receive",
                record.path.display()
            );
            Some(recorder)
        }
        None => None,
    };
    let export = export::start(ExportConfig::new(spans, Pace::Live), clock)?;
    let config = EngineConfig { handoffs: capture.handoffs, ..engine_config(spans, host) };
    let spans = Spans::new(config, seed, export, wanted(spans));
    Ok(Outputs { spans, recorder })
}

pub(super) fn engine_config(spans: &config::Spans, host: HostFacts) -> EngineConfig {
    EngineConfig {
        decide_timeout: spans.decide_timeout,
        propagators: spans.propagators.clone(),
        rules: spans.rules,
        min_confidence: spans.min_confidence,
        sdk_spans: spans.sdk_spans,
        host,
        ..EngineConfig::default()
    }
}

pub(super) fn wanted(spans: &config::Spans) -> Wanted {
    Wanted { include_unsampled: spans.include_unsampled, accuracy: spans.accuracy }
}

pub(super) fn capture_config(
    capture: &config::Capture,
    spans: &config::Spans,
    verbosity: u8,
) -> CaptureConfig {
    CaptureConfig {
        head_budget_bytes: capture.head_budget_bytes,
        kernel_log: verbosity > 1,
        rung: capture.rung,
        // Whoever wants all is asked for at the first sight of each.
        follow_pools: spans.rules && capture.handoffs == HandOffPolicy::Auto,
        ask_runtimes: spans.rules,
        identity_budget: capture.identity_budget,
        ..CaptureConfig::default()
    }
}

/// The caller's thread owns the engine and waits for the kernel itself; one other serves the outputs and the signals,
/// so that a busy engine does not starve them.
#[derive(Debug)]
pub(super) struct Runtimes {
    engine: Runtime,
    others: Runtime,
}

impl Runtimes {
    /// # Errors
    /// When the threads or descriptors for it cannot be had.
    pub(super) fn new() -> anyhow::Result<Self> {
        let engine = Builder::new_current_thread().enable_all().build();
        let others =
            Builder::new_multi_thread().worker_threads(1).on_thread_start(go_ahead).enable_all().build();
        Ok(Self {
            engine: engine.context("start the runtime")?,
            others: others.context("start the runtime of the outputs")?,
        })
    }

    /// Runs the engine on this thread.
    pub(super) fn run<F: Future>(&self, engine: F) -> F::Output {
        self.engine.block_on(engine)
    }

    /// Where the rest is to run.
    pub(super) fn others(&self) -> &Handle {
        self.others.handle()
    }

    /// Ends without waiting for an output that may be stalled.
    pub(super) fn end(self) {
        self.others.shutdown_timeout(Duration::from_millis(100));
    }
}

pub(super) fn say(summary: &Summary) {
    for line in summary.lines() {
        tracing::info!("{line}");
    }
}

fn random_seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    let filled = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .context("get random bytes")?;
    anyhow::ensure!(filled == seed.len(), "got {filled} random bytes only");
    Ok(seed)
}

impl Source for Capture {
    fn trace(&mut self, process: ProcessKey) -> anyhow::Result<()> {
        self.trace_process(process)
    }

    fn leave(&mut self, process: ProcessKey) {
        self.untrace_process(process);
    }

    async fn readable(&mut self) -> std::io::Result<()> {
        self.readable().await
    }

    fn drain(&mut self, each: impl FnMut(&[u8])) {
        self.drain(each);
    }

    fn losses(&mut self) -> Vec<(KernelLoss, u64)> {
        self.losses()
    }

    fn tls_processes(&self) -> Vec<TlsProcess> {
        self.tls_processes()
    }

    fn identity_cost(&self) -> IdentityCost {
        self.identity_cost()
    }

    fn asking_interrupted(&mut self) -> Vec<(ProcessKey, KernelInstant)> {
        self.asking_interrupted()
    }

    fn follow_handoffs(&mut self, process: ProcessKey) -> anyhow::Result<()> {
        self.follow_handoffs(process)
    }

    fn leave_handoffs(&mut self, process: ProcessKey) {
        self.leave_handoffs(process);
    }

    fn handoffs_over_budget(&mut self) -> Vec<(ProcessKey, bool)> {
        self.handoffs_over_budget()
    }
}
