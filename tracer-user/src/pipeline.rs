//! The one task that owns the engine: events in, spans out, for live and replayed runs alike.
//!
//! A turn takes a bounded number of records from the source and hands every one on: decode, recording, the table of
//! processes, engine, exporters. Nothing in a turn waits for an output: exporters and the recorder take or refuse.
//!
//! | live run | until |
//! |---|---|
//! | running | told to stop; told to stop when idle and no traced process is left; the source fails |
//! | last turns | the source has no record from before the stop, or [`LAST_TURNS`] have passed |
//! | finished | everything open has left as incomplete, exporters are flushed |

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc::Receiver;
use tracer_abi::error::KernelLoss;
use tracer_abi::sniff::Class;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;
use tracer_core::decode::Decoder;
use tracer_core::event::{Event, IoOutcome};
use tracer_core::recording::{Frame, Reader};
use tracer_core::span::Span;
use tracer_core::{Engine, EngineConfig, Wish};

use crate::accuracy;
use crate::capture::{IdentityCost, TlsProcess};
use crate::clock;
use crate::export::ExportHandle;
use crate::process::procfs::StartTick;
use crate::process::table::{Outcome, Processes, Verdict};
use crate::recorder::Recorder;
use crate::summary::{Counts, Summary, UnrecognisedTraffic};

/// How often losses are looked at, gathered frames written, and the engine told the time.
const HOUSEKEEPING: Duration = Duration::from_millis(250);

/// How long at least from telling the engine the time to the next time, so that a busy source is read in large pieces:
/// events themselves move the engine's time, and what waits for the clock can wait so long.
const TICK: Duration = Duration::from_millis(50);

/// At the end, for what the source still holds. Traced programs may go on, so it may never be empty.
const LAST_TURNS: Duration = Duration::from_secs(2);

/// Turns before a tick to take what happened before it.
const CATCH_UP_TURNS: usize = 8;

/// At the end, for the exporters and for the disk.
const FLUSH: Duration = Duration::from_secs(5);

/// A warning about the same loss is repeated at most this often.
const LOSS_WARNING: Duration = Duration::from_secs(10);

/// Spans of a replay between two looks at the exporters' queues; their bound is in the thousands.
const REPLAY_TURN: usize = 256;

/// Processes that the summary names as followed.
const MAX_FOLLOWED_SHOWN: usize = 8;

/// Processes whose names are kept for the summary.
const MAX_NAMES: usize = 4096;

/// Where live events come from.
pub(crate) trait Source {
    /// Traces a process. Idempotent.
    fn trace(&mut self, process: ProcessKey) -> anyhow::Result<()>;
    fn leave(&mut self, process: ProcessKey);
    /// Waits until there may be records. Cancel safe.
    async fn readable(&mut self) -> io::Result<()>;
    /// Hands out records, a bounded number.
    fn drain(&mut self, each: impl FnMut(&[u8]));
    /// What was lost since the last call.
    fn losses(&mut self) -> Vec<(KernelLoss, u64)>;
    /// The TLS libraries of traced processes, those that ended included.
    fn tls_processes(&self) -> Vec<TlsProcess> {
        Vec::new()
    }
    /// What it took so far to ask runtimes whose work operations were.
    fn identity_cost(&self) -> IdentityCost {
        IdentityCost::default()
    }
    /// Whose runtimes are not asked any more, or again, and when, since the last records were handed out.
    fn asking_interrupted(&mut self) -> Vec<(ProcessKey, KernelInstant)> {
        Vec::new()
    }
    /// Reports which of the process's threads wakes which. Idempotent.
    fn follow_handoffs(&mut self, process: ProcessKey) -> anyhow::Result<()>;
    fn leave_handoffs(&mut self, process: ProcessKey);
    /// Processes that are followed no more because of what it cost, since the last call, and whether that had been asked
    /// for.
    fn handoffs_over_budget(&mut self) -> Vec<(ProcessKey, bool)>;
}

/// What a run is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Take what there is, then end.
    Stop,
    /// End once every traced process has ended.
    StopWhenIdle,
}

/// What is asked for beyond spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) include_unsampled: bool,
    /// At the end, a table of how right the ways to find parents were.
    pub(crate) accuracy: bool,
}

/// From events to exporters: what live and replayed runs share.
#[derive(Debug)]
pub(crate) struct Spans {
    engine: Engine,
    export: ExportHandle,
    wanted: Wanted,
    counts: Counts,
    services: BTreeSet<ProcessKey>,
    /// Whose span came last: it is in there.
    last_service: Option<ProcessKey>,
    names: BTreeMap<ProcessKey, String>,
    kernel_losses: BTreeMap<KernelLoss, u64>,
    handoffs: HandOffs,
    /// Replay: spans handed on since the last look at the exporters' queues.
    since_room: usize,
}

impl Spans {
    pub(crate) fn new(config: EngineConfig, seed: [u8; 32], export: ExportHandle, wanted: Wanted) -> Self {
        Self {
            engine: Engine::new(config, seed),
            export,
            wanted,
            counts: Counts::default(),
            services: BTreeSet::new(),
            last_service: None,
            names: BTreeMap::new(),
            kernel_losses: BTreeMap::new(),
            handoffs: HandOffs::default(),
            since_room: 0,
        }
    }

    fn handle_event(&mut self, event: Event) {
        self.count(&event);
        self.engine.handle_event(event);
        self.drain();
    }

    fn handle_timeout(&mut self, now: KernelInstant) {
        self.engine.handle_timeout(now);
        self.drain();
    }

    fn finish(&mut self, now: KernelInstant) {
        self.engine.finish(now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(span) = self.engine.poll_span() {
            self.hand_on(span);
        }
    }

    /// At the pace of the exporters: of one moment may be more than their queues hold.
    async fn drain_in_turns(&mut self) {
        // Of a recording nothing can be asked: what was granted is in it.
        while self.engine.poll_wish().is_some() {}
        while let Some(span) = self.engine.poll_span() {
            self.hand_on(span);
            self.since_room += 1;
            if self.since_room >= REPLAY_TURN {
                self.since_room = 0;
                self.export.room().await;
            }
        }
    }

    fn hand_on(&mut self, span: Span) {
        if !span.sampled && !self.wanted.include_unsampled {
            self.counts.unsampled += 1;
            return;
        }
        self.counts.spans += 1;
        if self.last_service != Some(span.process) && self.services.len() < MAX_NAMES {
            self.services.insert(span.process);
            self.last_service = Some(span.process);
        }
        if let Some(reason) = span.undecided {
            *self.counts.undecided.entry(reason).or_default() += 1;
        }
        self.export.push(span);
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::ConnOpened(_) => self.counts.connections += 1,
            Event::DataMoved(data) if data.last && matches!(data.outcome, IoOutcome::Moved(_)) => {
                self.counts.operations += 1;
            }
            Event::PlaintextMoved(moved) if moved.data.last => self.counts.operations += 1,
            Event::ProcessDescribed(described) => {
                if self.names.len() < MAX_NAMES {
                    self.names.insert(described.process, described.facts.service_name.clone());
                }
            }
            Event::LossCounted { loss, count, .. } => *self.kernel_losses.entry(*loss).or_default() += count,
            Event::DataMoved(_)
            | Event::PlaintextMoved(_)
            | Event::CiphertextMoved(_)
            | Event::SessionEnded(_)
            | Event::SessionSecured(_)
            | Event::RecordSealed(_)
            | Event::ConnClosed(_)
            | Event::ListenStarted(_)
            | Event::ProcessForked(_)
            | Event::ProcessExeced(_)
            | Event::TaskExited(_)
            | Event::TaskIdentified(_)
            | Event::ThreadWoken(_)
            | Event::WorkSubmitted(_)
            | Event::AskingInterrupted { .. } => {}
        }
    }

    /// What the engine has asked of the source meanwhile.
    fn grant_wishes(&mut self, source: &mut impl Source) {
        while let Some(wish) = self.engine.poll_wish() {
            match wish {
                Wish::FollowHandOffs(process) => {
                    let name = self.name(process);
                    match source.follow_handoffs(process) {
                        Ok(()) => {
                            tracing::info!(
                                "following how the threads of {name} wait and wake each other: what they read and \
                                 send does not tell whose its calls are (--handoff off forbids it)"
                            );
                            if self.handoffs.followed.len() < MAX_NAMES {
                                self.handoffs.followed.insert(process, name);
                            }
                        }
                        Err(error) => {
                            tracing::warn!("hand-offs of {name} cannot be followed: {error:#}");
                            self.handoffs.failed += 1;
                        }
                    }
                }
                Wish::LeaveHandOffs(process) => {
                    source.leave_handoffs(process);
                    if self.handoffs.followed.contains_key(&process) {
                        let name = self.name(process);
                        tracing::info!("following hand-offs of {name} no more: nothing comes of it");
                        self.handoffs.useless.insert(process);
                    }
                }
            }
        }
    }

    fn handoffs_over_budget(&mut self, process: ProcessKey) {
        let name = self.name(process);
        tracing::warn!("following hand-offs of {name} no more: its threads wake each other too often");
        self.handoffs.over_budget.insert(process);
    }

    fn name(&self, process: ProcessKey) -> String {
        match self.names.get(&process) {
            Some(name) => format!("{name} ({})", process.tgid),
            None => format!("process {}", process.tgid),
        }
    }

    /// Waits for the exporters, then sums up.
    async fn shutdown(self, tls: &[TlsProcess]) -> Summary {
        let Self {
            engine,
            export,
            wanted,
            mut counts,
            services,
            names,
            kernel_losses,
            last_service: _,
            handoffs,
            since_room: _,
        } = self;
        counts.services = services.len() as u64;
        counts.processes = names.len() as u64;
        let unrecognised = engine
            .unrecognised()
            .map(|traffic| UnrecognisedTraffic {
                pid: traffic.process.tgid.0,
                name: names.get(&traffic.process).map_or("a process", String::as_str).to_owned(),
                class: traffic.class,
                why: (traffic.class == Class::Tls).then(|| unheard(traffic.process, tls)),
                connections: traffic.connections,
                bytes: traffic.bytes,
            })
            .collect();
        counts.suppressed = engine.stats().spans_suppressed;
        let accuracy = if wanted.accuracy { accuracy::lines(engine.accuracy(), &names) } else { Vec::new() };
        let core_losses = engine.stats().entries().filter(|(name, _)| is_loss(name)).collect();
        let export = export.shutdown(FLUSH).await;
        Summary {
            identity: IdentityCost::default(),
            counts,
            kernel_losses,
            core_losses,
            unrecognised,
            accuracy,
            export,
            handoffs: handoffs.lines(),
            recording: None,
            recording_gap: 0,
        }
    }
}

/// Why a process's TLS was not read.
fn unheard(process: ProcessKey, tls: &[TlsProcess]) -> String {
    const NONE: &str = "no TLS library that could be watched was found in it, or not in time";
    let same = |known: &&TlsProcess| StartTick::of(known.process) == StartTick::of(process);
    let known = tls.iter().filter(|known| known.process.tgid == process.tgid).find(same);
    let Some(known) = known else { return NONE.to_owned() };
    let mut reasons: Vec<String> =
        known.refused.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    if !known.libraries.is_empty() {
        let watched = "begun before its library was watched, or not tied to what passed through that";
        reasons.insert(0, watched.to_owned());
    }
    if reasons.is_empty() {
        reasons.push(NONE.to_owned());
    }
    reasons.join("; ")
}

/// Where hand-offs were followed. As many as the source follows at once are few; over time there may be more.
#[derive(Debug, Default)]
struct HandOffs {
    followed: BTreeMap<ProcessKey, String>,
    useless: BTreeSet<ProcessKey>,
    over_budget: BTreeSet<ProcessKey>,
    failed: u64,
}

impl HandOffs {
    /// For the summary.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.followed.is_empty() {
            let shown: Vec<String> = self
                .followed
                .iter()
                .take(MAX_FOLLOWED_SHOWN)
                .map(|(process, name)| match () {
                    () if self.over_budget.contains(process) => format!("{name}, given up for its cost"),
                    () if self.useless.contains(process) => format!("{name}, given up in vain"),
                    () => name.clone(),
                })
                .collect();
            let more = self.followed.len() - shown.len();
            let more = if more > 0 { format!("; {more} more") } else { String::new() };
            lines.push(format!("followed hand-offs between threads of {}{more}", shown.join("; ")));
        }
        if self.failed > 0 {
            lines.push(format!(
                "hand-offs between threads of {} more could not be followed; `tracer doctor` says why",
                self.failed
            ));
        }
        lines
    }
}

/// Whether a counter of the core counts something that is missing in the spans. The kernel half's losses are listed
/// by reason instead; what was not believed of a header, the span says.
fn is_loss(counter: &str) -> bool {
    !counter.starts_with("spans")
        && !counter.starts_with("context_")
        && !matches!(counter, "kernel_losses" | "resyncs" | "contradictions" | "rules_contradicted")
}

/// A live run.
#[derive(Debug)]
pub(crate) struct Live<S> {
    pub(crate) source: S,
    pub(crate) decoder: Decoder,
    pub(crate) processes: Processes,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) spans: Spans,
}

impl<S: Source> Live<S> {
    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// When the source fails. What was seen until then is lost with it.
    pub(crate) async fn run(mut self, mut control: Receiver<Control>) -> anyhow::Result<Summary> {
        let mut warnings = LossWarnings::default();
        let mut stop_when_idle = false;
        let mut ticked = Instant::now();
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let earliest = TICK.saturating_sub(ticked.elapsed());
            let due = self.spans.engine.poll_timeout().map(|due| until(due).max(earliest));
            tokio::select! {
                told = control.recv() => match told {
                    Some(Control::Stop) | None => break,
                    Some(Control::StopWhenIdle) => stop_when_idle = true,
                },
                readable = self.source.readable() => {
                    readable.context("wait for kernel events")?;
                    self.turn();
                }
                () = sleep(due) => {
                    self.tick();
                    ticked = Instant::now();
                }
                _ = housekeeping.tick() => {
                    self.tick();
                    self.poll_losses(&mut warnings);
                    self.processes.forget_before(clock::now());
                    if let Some(recorder) = &mut self.recorder {
                        recorder.hand_over();
                    }
                    if stop_when_idle && self.is_idle() {
                        break;
                    }
                }
            }
        }
        let (stopped, deadline) = (clock::now(), Instant::now() + LAST_TURNS);
        while self.turn().is_some_and(|newest| newest < stopped) && Instant::now() < deadline {}
        self.poll_losses(&mut warnings);
        let now = clock::now();
        self.spans.handle_timeout(now);
        self.spans.finish(now);
        let recording = self.recorder.map(|mut recorder| {
            recorder.tick(now);
            recorder.finish(FLUSH)
        });
        let identity = self.source.identity_cost();
        let tls = self.source.tls_processes();
        Ok(Summary { recording, identity, ..self.spans.shutdown(&tls).await })
    }

    /// Takes some records. Returns the time of the newest; `None` when there were none.
    fn turn(&mut self) -> Option<KernelInstant> {
        let Self { source, decoder, processes, recorder, spans } = self;
        let mut newest = None;
        let mut verdicts = Vec::new();
        source.drain(|record| {
            let event = match decoder.decode(record) {
                Ok(event) => event,
                Err(error) => {
                    tracing::debug!("malformed record: {error}");
                    spans.engine.count_malformed();
                    return;
                }
            };
            newest = newest.max(Some(event.time()));
            let Outcome { drop, before, after, verdict } = processes.observe(&event);
            verdicts.extend(verdict);
            if drop {
                return;
            }
            if let Some(described) = before {
                fact(recorder, spans, Event::ProcessDescribed(described.into()));
            }
            if let Some(recorder) = recorder {
                if matches!(event, Event::PlaintextMoved(_)) {
                    recorder.plaintext_record(record);
                } else {
                    recorder.kernel_record(record);
                }
            }
            spans.handle_event(event);
            if let Some(described) = after {
                fact(recorder, spans, Event::ProcessDescribed(described.into()));
            }
        });
        for (process, time) in source.asking_interrupted() {
            fact(recorder, spans, Event::AskingInterrupted { time, process });
        }
        for verdict in verdicts {
            match verdict {
                // The kernel half forgot it by itself.
                Verdict::Trace(process) if processes.has_ended(process) => {}
                Verdict::Trace(process) => match source.trace(process) {
                    Ok(()) => tracing::debug!("tracing process {}", process.tgid),
                    Err(error) => tracing::warn!("process {} is not traced: {error:#}", process.tgid),
                },
                Verdict::Leave(process) => source.leave(process),
            }
        }
        spans.grant_wishes(source);
        newest
    }

    /// Tells the engine the time, after everything that happened before it.
    fn tick(&mut self) {
        let now = clock::now();
        let caught_up = (0..CATCH_UP_TURNS).any(|_| self.turn().is_none_or(|newest| newest >= now));
        if !caught_up {
            // Events themselves move the engine's time; the clock must not overtake those that wait.
            return;
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.tick(now);
        }
        self.spans.handle_timeout(now);
    }

    fn poll_losses(&mut self, warnings: &mut LossWarnings) {
        let time = clock::now();
        for (process, wanted) in self.source.handoffs_over_budget() {
            if wanted {
                self.spans.handoffs_over_budget(process);
            }
            // What nobody has asked for is not lost, but what is known of it ends here.
            let (loss, count) = (KernelLoss::WakesOverBudget, wanted.into());
            fact(&mut self.recorder, &mut self.spans, Event::LossCounted { time, loss, count });
        }
        for (loss, count) in self.source.losses() {
            warnings.note(loss, count);
            fact(&mut self.recorder, &mut self.spans, Event::LossCounted { time, loss, count });
        }
    }

    fn is_idle(&mut self) -> bool {
        // The end of a process is an event, which may have been lost.
        self.processes.find_ended(clock::now());
        self.processes.alive() == 0
    }
}

/// Something that user space has learned.
fn fact(recorder: &mut Option<Recorder>, spans: &mut Spans, event: Event) {
    if let Some(recorder) = recorder {
        recorder.event(&event);
    }
    spans.handle_event(event);
}

fn until(instant: KernelInstant) -> Duration {
    instant.since(clock::now())
}

async fn sleep(due: Option<Duration>) {
    match due {
        Some(due) => tokio::time::sleep(due).await,
        None => std::future::pending().await,
    }
}

/// Says when data begins to be lost, not every time it is.
#[derive(Debug, Default)]
struct LossWarnings(BTreeMap<KernelLoss, Instant>);

impl LossWarnings {
    fn note(&mut self, loss: KernelLoss, count: u64) {
        let now = Instant::now();
        let quiet = self.0.get(&loss).is_none_or(|last| now.duration_since(*last) > LOSS_WARNING);
        if quiet {
            tracing::warn!("losing data: {} ({count}); the spans that it touches say so", loss.name());
            self.0.insert(loss, now);
        }
    }
}

/// Runs a recording through.
///
/// # Errors
/// When it cannot be read any further because of the file or its form. A recording that was cut is none.
pub(crate) async fn replay<R: io::Read>(mut spans: Spans, mut reader: Reader<R>) -> anyhow::Result<Summary> {
    let (mut now, mut gap) = (KernelInstant::ZERO, 0);
    let mut failure = None;
    for frame in &mut reader {
        match frame {
            Ok(Frame::Event(event)) => {
                now = now.max(event.time());
                spans.count(&event);
                spans.engine.handle_event(event);
            }
            Ok(Frame::Tick(tick)) => {
                now = now.max(tick);
                spans.engine.handle_timeout(tick);
            }
            Ok(Frame::Gap(frames)) => {
                gap += frames;
                spans.engine.note_loss();
            }
            Err(error) if error.is_fatal() => failure = Some(error),
            Err(error) => {
                tracing::debug!("passed over: {error}");
                spans.engine.count_malformed();
            }
        }
        // A recording is read faster than it was made, and can wait.
        spans.drain_in_turns().await;
    }
    if reader.truncated() {
        tracing::warn!("the recording was cut off: it ends inside an event");
    }
    spans.engine.finish(now);
    spans.drain_in_turns().await;
    let summary = Summary { recording_gap: gap, ..spans.shutdown(&[]).await };
    match failure {
        // What came before it is good, and has been written.
        Some(error) => {
            for line in summary.lines() {
                tracing::info!("{line}");
            }
            Err(error).context("the recording is damaged: the rest of it was not read")
        }
        None => Ok(summary),
    }
}

#[cfg(test)]
mod tests;
