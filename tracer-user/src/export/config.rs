//! Where spans go: what the exporters take of the run's configuration.

use std::path::PathBuf;

use tracer_core::span::Value;

use crate::cli::Format;
pub(super) use crate::config::otel::BatchLimits;
use crate::config::otel::Otlp;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExportConfig {
    pub(crate) format: Format,
    /// `None`: standard error.
    pub(crate) output: Option<PathBuf>,
    pub(crate) otlp: Option<Otlp>,
    /// Added to the resource of every process that does not have the key itself. Never `service.*`.
    pub(crate) host_attributes: Vec<(String, Value)>,
    pub(crate) pace: Pace,
}

/// How the pushing side's time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Spans come when they happen: a trace is complete when it has been quiet for a while.
    Live,
    /// Spans come as fast as a recording is read: only their own times say which trace is quiet, so that the same
    /// recording gives the same output.
    Replay,
}

impl ExportConfig {
    pub(crate) fn new(spans: &crate::config::Spans, pace: Pace) -> Self {
        let attributes = spans.resource_attributes.iter();
        Self {
            format: spans.format,
            output: spans.output.clone(),
            otlp: spans.otlp.clone(),
            host_attributes: attributes
                .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
                .collect(),
            pace,
        }
    }
}
