//! OTLP over gRPC: one HTTP/2 connection, opened when needed and again when it broke.
//!
//! Worth another attempt are the codes that the protocol's specification names: CANCELLED, DEADLINE_EXCEEDED, ABORTED,
//! OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS, and RESOURCE_EXHAUSTED if it comes with a `RetryInfo`
//! (<https://opentelemetry.io/docs/specs/otlp/#failures>).

use std::error::Error as _;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::request::Request as Message;
use super::{Outcome, USER_AGENT, tls, with_causes};
use crate::config::otel::{Compression, Otlp};

/// `TraceService.Export` of opentelemetry/proto/collector/trace/v1/trace_service.proto.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

pub(super) struct Grpc {
    client: tonic::client::Grpc<Channel>,
    headers: MetadataMap,
}

impl Grpc {
    pub(super) fn new(config: &Otlp) -> anyhow::Result<Self> {
        let mut endpoint = Endpoint::from(config.endpoint.clone())
            .user_agent(USER_AGENT)?
            .connect_timeout(config.timeout)
            // Finds out about a receiver that vanished without a word; a request's own timeout does not break the
            // connection.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        if config.endpoint.scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(tls::for_grpc(config.certificate.as_deref())?)?;
        }
        let client = tonic::client::Grpc::new(endpoint.connect_lazy());
        let client = match config.compression {
            Compression::None => client,
            // Servers in Go answer as they were asked.
            Compression::Gzip => {
                client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip)
            }
        };
        let headers = MetadataMap::from_headers(config.headers.iter().cloned().collect());
        Ok(Self { client, headers })
    }

    pub(super) async fn send(&self, message: &Message, timeout: Duration) -> Outcome {
        let mut request = Request::new(message.clone());
        *request.metadata_mut() = self.headers.clone();
        request.set_timeout(timeout);
        // Clones share the connection.
        let mut client = self.client.clone();
        if let Err(error) = client.ready().await {
            return Outcome::Unreachable(with_causes(&error));
        }
        match client.unary(request, PathAndQuery::from_static(EXPORT), Ready).await {
            Ok(response) => match response.into_inner().partial_success {
                Some(partial) => {
                    Outcome::Accepted { rejected: partial.rejected_spans, message: partial.error_message }
                }
                None => Outcome::Accepted { rejected: 0, message: String::new() },
            },
            Err(status) => classify(&status),
        }
    }
}

/// Requests are bytes already; answers are messages.
#[derive(Clone, Copy, Debug)]
struct Ready;

impl Codec for Ready {
    type Encode = Message;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Ready {
    type Item = Message;
    type Error = Status;

    fn encode(&mut self, message: Message, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let chunks = message.chunks();
        into.reserve(chunks.len());
        chunks.for_each(|chunk| into.put(chunk));
        Ok(())
    }
}

impl Decoder for Ready {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<ExportTraceServiceResponse>, Status> {
        let answer = ExportTraceServiceResponse::decode(from.copy_to_bytes(from.remaining()));
        answer.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

fn classify(status: &Status) -> Outcome {
    // A status that the receiver sent has no source: one that has was made from an error of the connection.
    if let Some(error) = status.source() {
        return Outcome::Unreachable(with_causes(error));
    }
    let reason = match status.message() {
        "" => status.code().to_string(),
        message => format!("{:?}: {message}", status.code()),
    };
    let retry = status.get_details_retry_info();
    let after = retry.as_ref().and_then(|info| info.retry_delay).filter(|delay| !delay.is_zero());
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Outcome::Busy { after, reason },
        Code::ResourceExhausted if retry.is_some() => Outcome::Busy { after, reason },
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => Outcome::Refused(reason),
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn exactly_the_specified_codes_are_worth_another_attempt() {
        let retryable = [1, 4, 10, 11, 14, 15];
        for code in 1..=16 {
            let outcome = classify(&Status::new(Code::from_i32(code), "why"));
            assert_eq!(
                matches!(outcome, Outcome::Busy { after: None, .. }),
                retryable.contains(&code),
                "{outcome:?}"
            );
            assert_eq!(matches!(outcome, Outcome::Refused(_)), !retryable.contains(&code), "{outcome:?}");
        }
    }

    #[test]
    fn a_retry_info_is_obeyed() {
        let status =
            |code, delay| Status::with_error_details(code, "why", ErrorDetails::with_retry_info(delay));
        let two = Some(Duration::from_secs(2));
        let busy = |reason: &str, after| Outcome::Busy { after, reason: reason.to_owned() };
        for (status, outcome) in [
            (status(Code::Unavailable, two), busy("Unavailable: why", two)),
            (status(Code::ResourceExhausted, two), busy("ResourceExhausted: why", two)),
            (status(Code::ResourceExhausted, None), busy("ResourceExhausted: why", None)),
            (status(Code::Internal, two), Outcome::Refused("Internal: why".to_owned())),
        ] {
            assert_eq!(classify(&status), outcome);
        }
    }
}
