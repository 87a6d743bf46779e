//! The task of a text output: spans to blocks of bytes, as fast as the output takes them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracer_core::span::{Span, Value};

use super::config::Pace;
use super::counters::Counters;
use super::queue::{Queue, Whole};
use super::tree::{Style, Tree};
use super::{line, otlp_json};
use crate::cli::Format;
use crate::clock::WallClock;
use crate::output::{self, BLOCK_LEN, Output};

/// Bytes for the output and how many spans they show.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) spans: u64,
}

/// A format that writes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextFormat {
    Tree,
    Line,
    OtlpJson,
}

impl TextFormat {
    pub(super) fn of(format: Format) -> Option<Self> {
        match format {
            Format::Tree => Some(Self::Tree),
            Format::Line => Some(Self::Line),
            Format::OtlpJson => Some(Self::OtlpJson),
            Format::None => None,
        }
    }
}

/// Spans to text.
pub(super) enum TextWriter {
    Tree(Box<Tree>),
    Line(WallClock),
    OtlpJson(WallClock, Arc<[(String, Value)]>),
}

impl TextWriter {
    pub(super) fn new(
        format: TextFormat,
        output: &Output,
        clock: WallClock,
        host: Arc<[(String, Value)]>,
        pace: Pace,
    ) -> Self {
        match format {
            TextFormat::Tree => Self::Tree(Box::new(Tree::new(Style::of(output), clock, pace))),
            TextFormat::Line => Self::Line(clock),
            TextFormat::OtlpJson => Self::OtlpJson(clock, host),
        }
    }

    fn span(&mut self, span: &Arc<Span>, elapsed: Duration, out: &mut Block) {
        match self {
            Self::Tree(tree) => return tree.span(span, elapsed, out),
            Self::Line(clock) => line::write(span, *clock, &mut out.bytes),
            Self::OtlpJson(clock, host) => {
                // Strings and numbers into memory: nothing in it can fail.
                if otlp_json::write(span, host, *clock, &mut out.bytes).is_err() {
                    return;
                }
            }
        }
        out.spans += 1;
    }

    /// When [`Self::print_due`] is to be called, as time elapsed.
    fn due(&self) -> Option<Duration> {
        match self {
            Self::Tree(tree) => tree.due(),
            Self::Line(_) | Self::OtlpJson(..) => None,
        }
    }

    fn print_due(&mut self, elapsed: Duration, out: &mut Block) {
        match self {
            Self::Tree(tree) => tree.print_due(elapsed, out),
            Self::Line(_) | Self::OtlpJson(..) => {}
        }
    }

    fn finish(&mut self, out: &mut Block) {
        match self {
            Self::Tree(tree) => tree.finish(out),
            Self::Line(_) | Self::OtlpJson(..) => {}
        }
    }
}

/// Runs until the queue is closed and everything of it written, or the output ends.
pub(super) async fn run(
    queue: Arc<Queue<Whole>>,
    output: Output,
    mut writer: TextWriter,
    counters: Arc<Counters>,
) {
    if write_spans(&queue, &output, &mut writer, &counters).await.is_ok() {
        return;
    }
    queue.abandon();
    if let Some(error) = output.error() {
        counters.note_error(error.to_string());
        tracing::warn!("{}: {error}: no more spans are written there", output.name());
    }
}

async fn write_spans(
    queue: &Queue<Whole>,
    output: &Output,
    writer: &mut TextWriter,
    counters: &Counters,
) -> Result<(), output::Ended> {
    let start = Instant::now();
    let mut block = Block::default();
    loop {
        let batch = match writer.due() {
            None => queue.batch().await,
            Some(due) => match timeout_at(start + due, queue.batch()).await {
                Ok(batch) => batch,
                Err(_) => {
                    writer.print_due(start.elapsed(), &mut block);
                    write(output, &mut block, counters).await?;
                    continue;
                }
            },
        };
        let Some(batch) = batch else {
            writer.finish(&mut block);
            write(output, &mut block, counters).await?;
            return output.flush().await;
        };
        for span in &batch.spans {
            writer.span(span, start.elapsed(), &mut block);
            if block.bytes.len() >= BLOCK_LEN {
                write(output, &mut block, counters).await?;
            }
        }
        write(output, &mut block, counters).await?;
    }
}

async fn write(output: &Output, block: &mut Block, counters: &Counters) -> Result<(), output::Ended> {
    let Block { bytes, spans } = std::mem::take(block);
    if bytes.is_empty() {
        return Ok(());
    }
    output.write(bytes, Some((Arc::clone(&counters.delivered), spans))).await
}
