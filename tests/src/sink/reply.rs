//! What the sink does with a request.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What the sink does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Takes the spans.
    Accept,
    /// Takes the spans, later.
    Slow(Duration),
    /// Takes the request, and says that it rejected this many of its spans.
    Partial { rejected: i64, message: String },
    /// HTTP: 429 with `Retry-After`, in whole seconds. gRPC: RESOURCE_EXHAUSTED with a `RetryInfo`.
    Throttle(Duration),
    /// Refuses.
    Fail { http: u16, grpc: Code, message: String },
    /// Never answers.
    Hang,
    /// Closes the connection without an answer.
    Die,
    /// Closes the connection inside the answer.
    DieMidway,
}

/// How a connection goes on.
pub(super) type Body = UnsyncBoxBody<Bytes, Died>;

/// Makes the server close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Died;

impl std::fmt::Display for Died {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the sink dies on demand")
    }
}

impl std::error::Error for Died {}

impl Reply {
    pub(super) fn accepts(&self) -> bool {
        matches!(self, Self::Accept | Self::Slow(_) | Self::Partial { .. })
    }

    /// Answers, perhaps after a while, perhaps never. A compressed gRPC request gets a compressed answer, as grpc-go's
    /// servers give it, whatever the request said about answers.
    ///
    /// Whoever holds the other end of `die` closes the connection when something comes out of it.
    pub(super) async fn answer(
        self,
        grpc: bool,
        compressed: bool,
        die: mpsc::Sender<()>,
    ) -> Result<Response<Body>, Died> {
        let success = |partial: Option<ExportTracePartialSuccess>| {
            let message = ExportTraceServiceResponse { partial_success: partial }.encode_to_vec();
            Ok(if grpc {
                grpc_success(&message, compressed)?
            } else {
                http_response(StatusCode::OK, message)
            })
        };
        match self {
            Self::Accept => success(None),
            Self::Slow(time) => {
                tokio::time::sleep(time).await;
                success(None)
            }
            Self::Partial { rejected, message } => {
                success(Some(ExportTracePartialSuccess { rejected_spans: rejected, error_message: message }))
            }
            Self::Throttle(after) if grpc => {
                let details = ErrorDetails::with_retry_info(Some(after));
                grpc_failure(&Status::with_error_details(Code::ResourceExhausted, "too fast", details))
            }
            Self::Throttle(after) => {
                let mut response = http_response(StatusCode::TOO_MANY_REQUESTS, Vec::new());
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
                Ok(response)
            }
            Self::Fail { grpc: code, message, .. } if grpc => grpc_failure(&Status::new(code, message)),
            Self::Fail { http, grpc: code, message } => {
                let status = StatusCode::from_u16(http).map_err(|_| Died)?;
                let body = tonic_types::Status { code: code as i32, message, details: Vec::new() };
                Ok(http_response(status, body.encode_to_vec()))
            }
            Self::Hang => std::future::pending().await,
            Self::Die => {
                // HTTP/2 would only reset the stream.
                let _ = die.try_send(());
                std::future::pending().await
            }
            Self::DieMidway => {
                let head = if grpc { "application/grpc" } else { "application/x-protobuf" };
                let mut response = Response::new(OneThenDie { sent: None, die }.boxed_unsync());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(head));
                if !grpc {
                    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(100));
                }
                Ok(response)
            }
        }
    }
}

fn http_response(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    response
}

/// One message, then the status as trailers.
fn grpc_success(message: &[u8], compressed: bool) -> Result<Response<Body>, Died> {
    let mut framed = vec![u8::from(compressed), 0, 0, 0, 0];
    if compressed {
        let mut encoder = GzEncoder::new(&mut framed, flate2::Compression::fast());
        encoder.write_all(message).and_then(|()| encoder.try_finish()).map_err(|_| Died)?;
    } else {
        framed.extend_from_slice(message);
    }
    let len = (framed.len() - 5) as u32;
    framed[1..5].copy_from_slice(&len.to_be_bytes());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from(framed)).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if compressed {
        response.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// Nothing but the status.
fn grpc_failure(status: &Status) -> Result<Response<Body>, Died> {
    let mut response = Response::new(full(Vec::new()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    status.add_header(response.headers_mut()).map_err(|_| Died)?;
    Ok(response)
}

fn full(body: Vec<u8>) -> Body {
    Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync()
}

/// A few bytes; then, after they had time to leave, the end of the connection.
struct OneThenDie {
    sent: Option<Pin<Box<Sleep>>>,
    die: mpsc::Sender<()>,
}

impl hyper::body::Body for OneThenDie {
    type Data = Bytes;
    type Error = Died;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Died>>> {
        let Some(sent) = &mut self.sent else {
            self.sent = Some(Box::pin(tokio::time::sleep(Duration::from_millis(20))));
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0, 0, 0])))));
        };
        std::task::ready!(sent.as_mut().poll(cx));
        let _ = self.die.try_send(());
        Poll::Pending
    }
}
