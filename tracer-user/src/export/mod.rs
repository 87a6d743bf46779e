//! From spans to the outside: bounded queues, one task per destination, text outputs and OTLP.
//!
//! [`ExportHandle::push`] never blocks. A destination that is slow, stalled or dead loses its own spans, counted, and
//! holds up neither the capture nor another destination. Nothing here decides what a span says.

#[cfg(test)]
mod backend_tests;
pub(crate) mod config;
mod counters;
mod escape;
mod facts;
mod human;
mod line;
mod otlp;
mod otlp_json;
mod queue;
#[cfg(test)]
mod testing;
mod text;
mod tree;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracer_core::attributes::SCHEMA_URL;
use tracer_core::span::Span;

use self::config::{BatchLimits, ExportConfig};
use self::counters::Counters;
pub(crate) use self::counters::{DestinationStats, ExportStats};
use self::otlp::{Backoff, Draft, Encoder};
use self::queue::{Batch, Queue, Whole};
use self::text::{TextFormat, TextWriter};
use crate::clock::WallClock;
use crate::output::Output;

/// The instrumentation scope of every span.
const SCOPE_NAME: &str = "tracer";
const SCOPE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Takes spans, hands them to every destination.
#[derive(Debug)]
pub(crate) struct ExportHandle {
    text: Option<Destination<Whole>>,
    otlp: Option<(Encoder, Destination<Draft>)>,
    pushed: u64,
}

#[derive(Debug)]
struct Destination<B> {
    name: String,
    queue: Arc<Queue<B>>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

/// Opens every destination and starts its task. Must be called inside a tokio runtime with timers and I/O.
///
/// # Errors
///
/// When a file cannot be created or a certificate cannot be read. An OTLP endpoint that does not answer is no error:
/// it may come later.
pub(crate) fn start(config: ExportConfig, clock: WallClock) -> anyhow::Result<ExportHandle> {
    start_with(config, clock, Backoff::DEFAULT)
}

fn start_with(config: ExportConfig, clock: WallClock, backoff: Backoff) -> anyhow::Result<ExportHandle> {
    let host: Arc<[_]> = config.host_attributes.into();
    let text = match TextFormat::of(config.format) {
        None => None,
        Some(format) => {
            let output = match &config.output {
                None => Output::stderr().context("open standard error"),
                Some(path) => Output::create(path).with_context(|| format!("create {}", path.display())),
            }?;
            let writer = TextWriter::new(format, &output, clock, Arc::clone(&host), config.pace);
            let name = output.name().to_owned();
            Some(Destination::start(name, BatchLimits::default().immediate(), |queue, counters| {
                tokio::spawn(text::run(queue, output, writer, counters))
            }))
        }
    };
    let otlp = match config.otlp {
        None => None,
        Some(otlp) => {
            let sender = otlp::Sender::new(&otlp, backoff)?;
            let name = sender.name().to_owned();
            let destination = Destination::start(name, otlp.batch, |queue, counters| {
                tokio::spawn(otlp::run(queue, sender, counters, otlp.batch))
            });
            Some((Encoder::new(clock, host), destination))
        }
    };
    Ok(ExportHandle { text, otlp, pushed: 0 })
}

impl ExportHandle {
    /// Never blocks: a destination whose queue is full loses the span, counted.
    pub(crate) fn push(&mut self, span: Span) {
        self.pushed += 1;
        if let Some((encoder, destination)) = &mut self.otlp {
            destination.queue.push(encoder.encode(&span));
        }
        if let Some(destination) = &self.text {
            destination.queue.push(Arc::new(span));
        }
    }

    /// Waits until at least half of every queue is free: for a replay, which can wait and should lose nothing.
    pub(crate) async fn room(&self) {
        if let Some(destination) = &self.text {
            destination.queue.room().await;
        }
        if let Some((_, destination)) = &self.otlp {
            destination.queue.room().await;
        }
    }

    pub(crate) fn stats(&self) -> ExportStats {
        let text = self.text.as_ref().map(|destination| destination.stats(self.pushed));
        let otlp = self.otlp.as_ref().map(|(_, destination)| destination.stats(self.pushed));
        ExportStats { pushed: self.pushed, destinations: text.into_iter().chain(otlp).collect() }
    }

    /// Lets every destination finish what it has, all together for at most `deadline`. What is then unsent is lost.
    pub(crate) async fn shutdown(mut self, deadline: Duration) -> ExportStats {
        let deadline = Instant::now() + deadline;
        let text = async {
            if let Some(destination) = &mut self.text {
                destination.finish(deadline).await;
            }
        };
        let otlp = async {
            if let Some((_, destination)) = &mut self.otlp {
                destination.finish(deadline).await;
            }
        };
        tokio::join!(text, otlp);
        self.stats()
    }
}

impl<B: Batch> Destination<B> {
    fn start(
        name: String,
        limits: BatchLimits,
        spawn: impl FnOnce(Arc<Queue<B>>, Arc<Counters>) -> JoinHandle<()>,
    ) -> Self {
        let queue = Arc::new(Queue::new(limits));
        let counters = Arc::new(Counters::default());
        let task = spawn(Arc::clone(&queue), Arc::clone(&counters));
        Self { name, queue, counters, task }
    }

    async fn finish(&mut self, deadline: Instant) {
        self.queue.close();
        if tokio::time::timeout_at(deadline, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }

    fn stats(&self, pushed: u64) -> DestinationStats {
        self.counters.stats(&self.name, pushed, self.queue.refused())
    }
}

/// OTLP span flags: the W3C flags of the span's trace, and what is known about its parent
/// (`SpanFlags` in `opentelemetry/proto/trace/v1/trace.proto`).
fn span_flags(span: &Span) -> u32 {
    const SAMPLED: u32 = 0x1;
    const HAS_IS_REMOTE: u32 = 0x100;
    const IS_REMOTE: u32 = 0x200;
    let sampled = if span.sampled { SAMPLED } else { 0 };
    let remote = if span.parent.is_some_and(|parent| parent.remote) { IS_REMOTE } else { 0 };
    sampled | HAS_IS_REMOTE | remote
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::config::Pace;
    use super::testing::span;
    use super::*;
    use crate::cli::Format;

    fn to_file(format: Format, path: &std::path::Path) -> ExportConfig {
        ExportConfig {
            format,
            output: Some(path.to_owned()),
            otlp: None,
            host_attributes: Vec::new(),
            pace: Pace::Live,
        }
    }

    #[tokio::test]
    async fn every_span_reaches_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = to_file(Format::Line, file.path());
        let mut export = start(config, WallClock::from_offset_nanos(0)).unwrap();
        for n in 1..=250 {
            export.push(span(n, n).build());
        }
        let stats = export.shutdown(Duration::from_secs(5)).await;
        assert_eq!((stats.pushed, stats.destinations[0].delivered, stats.lost()), (250, 250, 0));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap().lines().count(), 250);
    }

    #[tokio::test]
    async fn a_stalled_output_blocks_nobody_and_its_losses_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        // Both ways, so that opening waits for nobody; and never read.
        let mut reader = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
        let mut export = start(to_file(Format::OtlpJson, &fifo), WallClock::from_offset_nanos(0)).unwrap();
        let total = 30_000;
        for n in 0..total {
            export.push(span(1, (n % 250) as u8 + 1).build());
            if n % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let began = std::time::Instant::now();
        let stats = export.shutdown(Duration::from_millis(200)).await;
        assert!(began.elapsed() < Duration::from_secs(2));
        let text = &stats.destinations[0];
        assert!(text.refused > 0 && text.unsent > 0, "{text:?}");
        assert_eq!(text.delivered + text.refused + text.unsent, total);
        // The thread is still blocked: let it go.
        let mut some = vec![0; 1 << 20];
        assert!(reader.read(&mut some).unwrap() > 0);
    }

    #[tokio::test]
    async fn an_output_whose_reader_has_gone_ends_quietly() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let reader = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
        let mut export = start(to_file(Format::Line, &fifo), WallClock::from_offset_nanos(0)).unwrap();
        drop(reader);
        for _ in 0..100 {
            export.push(span(1, 1).build());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let stats = export.shutdown(Duration::from_secs(5)).await;
        let text = &stats.destinations[0];
        assert_eq!((text.delivered, text.lost()), (0, 100), "{text:?}");
        assert_eq!(text.error, None);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_created_is_an_error() {
        let config = to_file(Format::Line, std::path::Path::new("/nowhere/spans"));
        let error = start(config, WallClock::from_offset_nanos(0)).unwrap_err();
        assert_eq!(format!("{error:#}"), "create /nowhere/spans: No such file or directory (os error 2)");
    }
}
