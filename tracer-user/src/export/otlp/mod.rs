//! The task that sends spans to an OpenTelemetry Protocol receiver (<https://opentelemetry.io/docs/specs/otlp/>).
//!
//! Used of the OpenTelemetry project: the protocol's messages (`opentelemetry-proto`), for answers, and in the tests to
//! compare requests with, which are encoded without them ([`encode`]). Not its `SpanExporter`: one of them speaks for one
//! resource, so that the spans of many services would need a connection each, and it logs what a receiver rejects where
//! it must be counted. The same bytes go by tonic (gRPC) or hyper. This folder is the only one that names OpenTelemetry's
//! types; what it does not do is decide what a span says.
//!
//! One request is under way at a time. What becomes of a batch:
//!
//! | the receiver | the batch | then |
//! |---|---|---|
//! | accepts it, perhaps with a warning | delivered | next batch |
//! | accepts it in part | delivered, the rest counted as rejected | next batch |
//! | asks to come back (codes of [`grpc`] and [`http`]) | sent again after a growing, jittered delay, or the one asked for, until [`BatchLimits::export_timeout`] | then counted as failed |
//! | cannot be reached, does not answer in time | the same | |
//! | refuses it | counted as failed | next batch |
//!
//! A failing receiver is reported once, and again when it takes spans again; the rest is counted.

mod encode;
mod grpc;
mod http;
#[cfg(test)]
mod reference;
mod request;
#[cfg(test)]
pub(super) mod tests;
mod tls;
mod wire;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use self::request::Request;
pub(super) use self::request::{Draft, Encoder};
use super::config::BatchLimits;
use super::counters::Counters;
use super::queue::Queue;
use crate::cli::Protocol;
use crate::config::otel::Otlp;

/// Names the tracer to receivers.
const USER_AGENT: &str = concat!("tracer/", env!("CARGO_PKG_VERSION"));
/// The longest wait that a receiver may ask for: an absurd one would silence the tracer for good.
const MAX_THROTTLE: Duration = Duration::from_secs(300);
/// Attempts on a receiver that cannot be reached, once nothing more will come: who waits for the exit should not wait
/// for a receiver that is not there.
const LAST_ATTEMPTS: u32 = 3;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// `message` is empty unless the receiver has something to say.
    Accepted { rejected: i64, message: String },
    /// The receiver may take the same request later; no sooner than `after`, if given.
    Busy { after: Option<Duration>, reason: String },
    /// No answer came.
    Unreachable(String),
    /// The same request would be refused again.
    Refused(String),
}

/// Waits between attempts: doubling, jittered down to their half so that many tracers do not come back together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

impl Backoff {
    /// As OpenTelemetry's exporters have it by default.
    pub(super) const DEFAULT: Self = Self { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

    /// Before attempt `attempt`; the first attempt, which waits for nothing, has number 0.
    fn delay(self, attempt: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        let delay = doubled.min(self.longest);
        // A hasher's random key is all the randomness that jitter needs.
        let random = RandomState::new().build_hasher().finish() as u32;
        delay / 2 + (delay / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// A receiver.
pub(super) struct Sender {
    transport: Transport,
    name: String,
    timeout: Duration,
    backoff: Backoff,
    /// Since when it fails, and what has been lost since.
    failing: Option<(Instant, u64)>,
    rejection_reported: bool,
}

enum Transport {
    Grpc(Box<grpc::Grpc>),
    Http(Box<http::Http>),
}

impl Sender {
    /// Connects when there is something to send.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub(super) fn new(config: &Otlp, backoff: Backoff) -> anyhow::Result<Self> {
        let transport = match config.protocol {
            Protocol::Grpc => grpc::Grpc::new(config).map(|grpc| Transport::Grpc(Box::new(grpc))),
            Protocol::HttpProtobuf => http::Http::new(config).map(|http| Transport::Http(Box::new(http))),
        };
        let name = config.endpoint.to_string();
        Ok(Self {
            transport: transport.with_context(|| format!("prepare to send spans to {name}"))?,
            name,
            timeout: config.timeout,
            backoff,
            failing: None,
            rejection_reported: false,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// One attempt.
    async fn send(&self, request: &Request, timeout: Duration) -> Outcome {
        let answer = async {
            match &self.transport {
                Transport::Grpc(grpc) => grpc.send(request, timeout).await,
                Transport::Http(http) => http.send(request).await,
            }
        };
        tokio::time::timeout(timeout, answer)
            .await
            .unwrap_or_else(|_| Outcome::Unreachable(format!("no answer within {timeout:?}")))
    }

    fn accepted(&mut self, sent: u64, rejected: i64, message: &str, counters: &Counters) {
        let rejected = u64::try_from(rejected).unwrap_or(0).min(sent);
        counters.delivered.fetch_add(sent - rejected, Ordering::Relaxed);
        counters.rejected.fetch_add(rejected, Ordering::Relaxed);
        if let Some((since, lost)) = self.failing.take() {
            let seconds = since.elapsed().as_secs();
            tracing::info!("{} takes spans again after {seconds} s; {lost} spans were lost", self.name);
        }
        if rejected > 0 {
            counters.note_error(message.to_owned());
        }
        if (rejected > 0 || !message.is_empty()) && !std::mem::replace(&mut self.rejection_reported, true) {
            tracing::warn!("{} rejected {rejected} of {sent} spans, says: {message}", self.name);
        }
    }

    fn lost(&mut self, spans: u64, reason: &str, counters: &Counters) {
        counters.failed.fetch_add(spans, Ordering::Relaxed);
        counters.note_error(reason.to_owned());
        self.fails(reason);
        if let Some((_, lost)) = &mut self.failing {
            *lost += spans;
        }
    }

    fn fails(&mut self, reason: &str) {
        if self.failing.is_none() {
            self.failing = Some((Instant::now(), 0));
            tracing::warn!("{} does not take spans: {reason}; further losses are counted", self.name);
        }
    }
}

/// Runs until the queue is closed and everything of it sent or given up.
pub(super) async fn run(
    queue: Arc<Queue<Draft>>,
    mut sender: Sender,
    counters: Arc<Counters>,
    limits: BatchLimits,
) {
    while let Some(draft) = queue.batch().await {
        deliver(&queue, &mut sender, &counters, limits, &draft.finish()).await;
    }
}

async fn deliver(
    queue: &Queue<Draft>,
    sender: &mut Sender,
    counters: &Counters,
    limits: BatchLimits,
    request: &Request,
) {
    let deadline = Instant::now() + limits.export_timeout;
    for attempt in 1.. {
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome = sender.send(request, sender.timeout.min(left)).await;
        let (after, reason) = match outcome {
            Outcome::Accepted { rejected, message } => {
                return sender.accepted(request.spans, rejected, &message, counters);
            }
            Outcome::Refused(reason) => return sender.lost(request.spans, &reason, counters),
            Outcome::Busy { after, reason } => (after.map(|after| after.min(MAX_THROTTLE)), reason),
            Outcome::Unreachable(reason) if queue.is_closed() && attempt >= LAST_ATTEMPTS => {
                sender.lost(request.spans, &reason, counters);
                counters.failed.fetch_add(queue.abandon(), Ordering::Relaxed);
                return;
            }
            Outcome::Unreachable(reason) => (None, reason),
        };
        sender.fails(&reason);
        let delay = after.unwrap_or_else(|| sender.backoff.delay(attempt));
        let in_time = Instant::now() + delay < deadline;
        if !in_time {
            sender.lost(request.spans, &reason, counters);
        }
        match after {
            // Also the next batch must not come sooner.
            Some(after) => tokio::time::sleep(after).await,
            None if in_time => {
                // At the end there is no time to lose.
                let closing = queue.is_closed();
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = queue.closed(), if !closing => {}
                }
            }
            None => {}
        }
        if !in_time {
            return;
        }
        counters.retries.fetch_add(1, Ordering::Relaxed);
    }
}

/// An error with what caused it, without what layers repeat.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
