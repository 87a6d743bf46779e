//! The task of a text output: spans to blocks of bytes, as fast as the output takes them.

use std::sync::Arc;

use tracer_core::span::{Span, Value};

use super::config::Pace;
use super::counters::Counters;
use super::queue::Queue;
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

pub(super) struct TextWriter {
    format: TextFormat,
    clock: WallClock,
    host: Arc<[(String, Value)]>,
}

impl TextWriter {
    pub(super) fn new(
        format: TextFormat,
        _output: &Output,
        clock: WallClock,
        host: Arc<[(String, Value)]>,
        _pace: Pace,
    ) -> Self {
        Self { format, clock, host }
    }

    fn span(&mut self, span: &Span, out: &mut Block) {
        match self.format {
            TextFormat::Line | TextFormat::Tree => line::write(span, self.clock, &mut out.bytes),
            TextFormat::OtlpJson => {
                // Strings and numbers into memory: nothing in it can fail.
                if otlp_json::write(span, &self.host, self.clock, &mut out.bytes).is_err() {
                    return;
                }
            }
        }
        out.spans += 1;
    }
}

/// Runs until the queue is closed and everything of it written, or the output ends.
pub(super) async fn run(queue: Arc<Queue>, output: Output, mut writer: TextWriter, counters: Arc<Counters>) {
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
    queue: &Queue,
    output: &Output,
    writer: &mut TextWriter,
    counters: &Counters,
) -> Result<(), output::Ended> {
    let mut block = Block::default();
    loop {
        let batch = queue.batch().await;
        let last = batch.is_empty();
        for span in &batch {
            writer.span(span, &mut block);
            if block.bytes.len() >= BLOCK_LEN {
                write(output, &mut block, counters).await?;
            }
        }
        write(output, &mut block, counters).await?;
        if last {
            return output.flush().await;
        }
    }
}

async fn write(output: &Output, block: &mut Block, counters: &Counters) -> Result<(), output::Ended> {
    let Block { bytes, spans } = std::mem::take(block);
    if bytes.is_empty() {
        return Ok(());
    }
    output.write(bytes, Some((Arc::clone(&counters.delivered), spans))).await
}
