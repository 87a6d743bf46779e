//! `tracer replay`: a recording through the same pipeline, without root and without a kernel half.

use std::fs::File;
use std::io::BufReader;

use anyhow::Context as _;
use tracer_core::recording::Reader;

use super::live::{Runtimes, engine_config, say, wanted};
use crate::clock::WallClock;
use crate::config::Replay;
use crate::export::config::{ExportConfig, Pace};
use crate::export::{self};
use crate::pipeline::{self, Spans};

/// # Errors
/// When the file is no recording, is damaged, or an output cannot be opened.
pub(crate) fn replay(config: &Replay) -> anyhow::Result<u8> {
    let Replay { file, spans } = config;
    let open = || -> anyhow::Result<_> { Ok(Reader::new(BufReader::new(File::open(file)?))?) };
    let reader = open().with_context(|| format!("open the recording {}", file.display()))?;
    let preamble = reader.preamble().clone();
    let clock = WallClock::from_offset_nanos(preamble.wall_clock_offset_nanos);
    let runtimes = Runtimes::new()?;
    let summary = runtimes.run(async {
        let export = {
            let _inside = runtimes.others().enter();
            export::start(ExportConfig::new(spans, Pace::Replay), clock)?
        };
        // With the seed of the run itself, a replay sends the same spans again and not copies of them.
        let seed = spans.seed.unwrap_or(preamble.seed);
        let outlet = Spans::new(engine_config(spans, preamble.host), seed, export, wanted(spans));
        pipeline::replay(outlet, reader).await
    });
    runtimes.end();
    say(&summary?);
    Ok(0)
}
