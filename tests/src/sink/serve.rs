//! Connections and requests.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hyper::{Method, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::reply::{Body, Died, Reply};
use super::{Request, Shared};

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const HTTP_PATH: &str = "/v1/traces";
/// What receivers take by default (gRPC's limit).
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Runs until it is dropped.
pub(super) async fn serve(listener: std::net::TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return violation(&shared, format!("listen: {error}")),
    };
    // Connections end with the set, which ends with this future.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = shared.change(|state| {
            state.connections += 1;
            state.connections - 1
        });
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            match tls {
                None => connection(stream, number, shared).await,
                Some(tls) => {
                    // A client that does not trust the sink ends here.
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream, number, shared).await;
                    }
                }
            }
        });
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    number: usize,
    shared: Arc<Shared>,
) {
    let (die, mut died) = mpsc::channel::<()>(1);
    let service = hyper::service::service_fn(move |request| {
        let (shared, die) = (Arc::clone(&shared), die.clone());
        async move { request_came(request, number, &shared, die).await }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // How a client ends a connection is its own affair.
        _ = connection => {}
        _ = died.recv() => {}
    }
}

async fn request_came(
    request: hyper::Request<Incoming>,
    connection: usize,
    shared: &Shared,
    die: mpsc::Sender<()>,
) -> Result<Response<Body>, Died> {
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let grpc = content_type.starts_with("application/grpc");
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            violation(shared, format!("a request broke off: {error}"));
            return Err(Died);
        }
    };
    let compressed = head.headers.contains_key("grpc-encoding");
    let message = check_head(&head, grpc).and_then(|()| decode(&head, &body, grpc));
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let message = match message {
        Ok(message) => Some(message),
        Err(error) => {
            violation(shared, format!("{error:#}"));
            None
        }
    };
    let groups = message.iter().flat_map(|message| &message.resource_spans);
    let spans = groups.clone().flat_map(|group| &group.scope_spans).map(|scope| scope.spans.len()).sum();
    let request = Request {
        at: Instant::now(),
        grpc,
        connection,
        path: head.uri.path().to_owned(),
        headers,
        body_len: body.len(),
        spans,
        resources: groups.count(),
    };
    let reply = shared.change(|state| {
        state.requests.push(request);
        state.script.pop_front().unwrap_or(Reply::Accept)
    });
    let accepted = reply.accepts();
    let answer = reply.answer(grpc, compressed, die).await;
    if let Some(message) = message.filter(|_| accepted) {
        accept(message, shared);
    }
    answer
}

fn accept(message: ExportTraceServiceRequest, shared: &Shared) {
    shared.change(|state| {
        let wrong = state.validator.check(&message);
        state.violations.extend(wrong);
        state.validator.accept(&message);
        for group in message.resource_spans {
            let resource = group.resource.unwrap_or_default();
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                state.spans.push((resource.clone(), span));
            }
        }
    });
}

/// The rules of the two transports.
fn check_head(head: &hyper::http::request::Parts, grpc: bool) -> anyhow::Result<()> {
    ensure!(head.method == Method::POST, "method {}", head.method);
    let value = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    ensure!(value("user-agent").is_some_and(|agent| agent.starts_with("tracer/")), "no user agent of ours");
    if grpc {
        ensure!(head.uri.path() == GRPC_PATH, "path {}", head.uri.path());
        ensure!(head.version == Version::HTTP_2, "version {:?}", head.version);
        ensure!(value("te") == Some("trailers"), "no `te: trailers`");
    } else {
        ensure!(head.uri.path() == HTTP_PATH, "path {}", head.uri.path());
        ensure!(value("content-type") == Some("application/x-protobuf"), "type {:?}", value("content-type"));
        ensure!(value("content-length").is_some(), "no content length");
    }
    Ok(())
}

fn decode(
    head: &hyper::http::request::Parts,
    body: &[u8],
    grpc: bool,
) -> anyhow::Result<ExportTraceServiceRequest> {
    let encoding = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let plain = if grpc {
        let (&compressed, rest) = body.split_first().context("an empty gRPC message")?;
        let (length, message) = rest.split_first_chunk().context("a cut gRPC message")?;
        ensure!(u32::from_be_bytes(*length) as usize == message.len(), "not exactly one gRPC message");
        match (compressed, encoding("grpc-encoding")) {
            (0, _) => message.to_vec(),
            (1, Some("gzip")) => gunzip(message)?,
            (flag, encoding) => bail!("compression flag {flag} with encoding {encoding:?}"),
        }
    } else {
        match encoding(CONTENT_ENCODING.as_str()) {
            None => body.to_vec(),
            Some("gzip") => gunzip(body)?,
            Some(other) => bail!("content encoding {other}"),
        }
    };
    ensure!(plain.len() <= MAX_BYTES, "a message of {} bytes", plain.len());
    ExportTraceServiceRequest::decode(Bytes::from(plain)).context("decode the message")
}

fn gunzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .take(2 * MAX_BYTES as u64)
        .read_to_end(&mut plain)
        .context("unzip")?;
    Ok(plain)
}

fn violation(shared: &Shared, what: String) {
    shared.change(|state| state.violations.push(what));
}
