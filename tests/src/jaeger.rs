//! A Jaeger backend of the test's own: receives OTLP on free ports of loopback, keeps traces in memory, and answers
//! with them.
//!
//! The program is built by `cargo xtask setup jaeger`; nothing of it is installed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value as Json;

use crate::http::Client;
use crate::program::{Program, free_port, wait_listening};
use crate::spans::{self, Span};
use crate::temp::TempDir;

/// It opens its ports within a second or two; a busy machine may take longer.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A running backend; ends with its value.
#[derive(Debug)]
pub struct Jaeger {
    program: Program,
    query: SocketAddr,
    grpc: SocketAddr,
    http: SocketAddr,
    _dir: TempDir,
}

/// The program: `TRACER_JAEGER`, which `cargo xtask test` sets.
///
/// # Errors
/// When it is not set.
pub fn binary() -> anyhow::Result<PathBuf> {
    std::env::var_os("TRACER_JAEGER").map(PathBuf::from).context(
        "no Jaeger: set TRACER_JAEGER to what `cargo xtask setup jaeger` built, or run `cargo xtask test`",
    )
}

impl Jaeger {
    /// Returns once it takes spans and answers queries.
    ///
    /// # Errors
    /// When there is no program, or it does not come up.
    pub fn start() -> anyhow::Result<Self> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let [query, query_grpc, grpc, http] =
            [free_port()?, free_port()?, free_port()?, free_port()?].map(local);
        let dir = TempDir::new()?;
        let config = dir.write(
            "jaeger.yaml",
            &format!(
                "extensions:
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 100000}}}}}}}}
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: '{query}'}}
    grpc: {{endpoint: '{query_grpc}'}}
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: '{grpc}'}}, http: {{endpoint: '{http}'}}}}}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
service:
  extensions: [jaeger_storage, jaeger_query]
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}}}
"
            ),
        )?;
        let mut command = Command::new(binary()?);
        command.arg("--config").arg(config);
        let program = Program::spawn("jaeger", command)?;
        for addr in [query, grpc, http] {
            wait_listening(addr, START_PATIENCE)
                .with_context(|| format!("jaeger did not come up:\n{}", program.stderr()))?;
        }
        Ok(Self { program, query, grpc, http, _dir: dir })
    }

    /// Base URL for OTLP over gRPC.
    pub fn grpc_endpoint(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Base URL for OTLP over HTTP.
    pub fn http_endpoint(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// The spans of a trace as the query API has them; empty when it knows none.
    ///
    /// # Errors
    /// When the answer makes no sense.
    pub fn trace(&self, trace_id: &str) -> anyhow::Result<Vec<Span>> {
        let answer = Client::new(self.query).get(&format!("/api/v3/traces/{trace_id}"))?;
        match answer.status {
            404 => return Ok(Vec::new()),
            200 => {}
            status => bail!("jaeger answers {status}: {}", String::from_utf8_lossy(&answer.body)),
        }
        let mut json: Json = serde_json::from_slice(&answer.body).context("jaeger's answer is not JSON")?;
        // The API speaks OTLP's JSON, inside a `result`.
        spans::parse(&json["result"].take().to_string())
    }

    /// As [`Self::trace`], once `count` spans are there.
    ///
    /// # Errors
    /// When they do not come in time.
    pub fn wait_for_trace(
        &self,
        trace_id: &str,
        count: usize,
        patience: Duration,
    ) -> anyhow::Result<Vec<Span>> {
        let deadline = Instant::now() + patience;
        loop {
            let spans = self.trace(trace_id)?;
            if spans.len() >= count {
                return Ok(spans);
            }
            if Instant::now() > deadline {
                bail!("jaeger has {} of {count} spans of trace {trace_id}", spans.len());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
