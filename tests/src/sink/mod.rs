//! A strict OpenTelemetry Protocol receiver inside the test: gRPC and HTTP on one port, with or without TLS, which
//! checks everything it is sent and misbehaves on demand.
//!
//! It follows a script: one [`Reply`] per request, then [`Reply::Accept`] for ever. It runs on a thread of its own and
//! ends when it is dropped. Spans of requests that it did not accept are not kept.

mod reply;
mod serve;
mod tls;
mod validate;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::oneshot;

pub use self::reply::Reply;
use self::validate::Validator;

/// A running receiver.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    tls: Option<tls::Identity>,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How to start a [`Sink`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// On loopback; default: any that is free.
    pub port: u16,
    pub tls: bool,
}

/// One request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub at: Instant,
    pub grpc: bool,
    /// Number of the connection it came on, from 0.
    pub connection: usize,
    pub path: String,
    /// Names are lower-case.
    pub headers: Vec<(String, String)>,
    /// As transferred.
    pub body_len: usize,
    /// What it held, accepted or not; 0 if it could not be decoded.
    pub spans: usize,
    pub resources: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Reply>,
    requests: Vec<Request>,
    spans: Vec<(Resource, Span)>,
    violations: Vec<String>,
    validator: Validator,
    connections: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.notify_all();
        result
    }
}

impl Sink {
    /// Listens when it returns.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
            .with_context(|| format!("listen on port {}", options.port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tls = options.tls.then(tls::Identity::new).transpose()?;
        let acceptor = tls.as_ref().map(tls::Identity::acceptor).transpose()?;
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("sink".to_owned()).spawn(move || {
            runtime.block_on(async {
                let serve = serve::serve(listener, acceptor, serving);
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
            // Requests that hang on purpose must not keep the thread.
            runtime.shutdown_background();
        })?;
        Ok(Self { address, tls, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Base URL: `http://127.0.0.1:PORT` or, with TLS, `https://localhost:PORT`.
    pub fn endpoint(&self) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// PEM file with the certificate authority to trust, with TLS.
    pub fn certificate(&self) -> Option<&Path> {
        self.tls.as_ref().map(tls::Identity::authority)
    }

    /// What the next requests are answered with, one each.
    pub fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.change(|state| state.script.extend(replies));
    }

    /// Accepted spans with their resources, in the order of arrival.
    pub fn spans(&self) -> Vec<(Resource, Span)> {
        self.shared.state().spans.clone()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// Connections that were opened so far.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// What was wrong with what came, one line each.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state().violations.clone()
    }

    /// Waits until `count` spans were accepted.
    ///
    /// # Errors
    /// When they did not come in time, or something that came was wrong.
    pub fn wait_for_spans(&self, count: usize, timeout: Duration) -> anyhow::Result<Vec<(Resource, Span)>> {
        self.wait(timeout, |state| state.spans.len() >= count)
            .with_context(|| format!("wait for {count} spans"))?;
        let violations = self.violations();
        if !violations.is_empty() {
            bail!("the sink was sent:\n{}", violations.join("\n"));
        }
        Ok(self.spans())
    }

    /// Waits until `count` requests came, however they were answered.
    ///
    /// # Errors
    /// When they did not come in time.
    pub fn wait_for_requests(&self, count: usize, timeout: Duration) -> anyhow::Result<Vec<Request>> {
        self.wait(timeout, |state| state.requests.len() >= count)
            .with_context(|| format!("wait for {count} requests"))?;
        Ok(self.requests())
    }

    fn wait(&self, timeout: Duration, done: impl Fn(&State) -> bool) -> anyhow::Result<()> {
        let state = self.shared.state();
        let (state, result) = self
            .shared
            .changed
            .wait_timeout_while(state, timeout, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner);
        if result.timed_out() {
            bail!(
                "after {timeout:?}: {} spans in {} requests, violations: {:?}",
                state.spans.len(),
                state.requests.len(),
                state.violations
            );
        }
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
