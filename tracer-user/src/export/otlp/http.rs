//! OTLP over HTTP/1.1 with protobuf bodies, on a kept-alive connection.
//!
//! Worth another attempt are the status codes that the protocol's specification names, 429, 502, 503 and 504, no sooner
//! than their `Retry-After` says (<https://opentelemetry.io/docs/specs/otlp/#failures-1>). Redirects are not followed:
//! headers may hold credentials.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt as _, Limited};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;

use super::request::{Chunks, Request as Message};
use super::{Outcome, USER_AGENT, tls, with_causes};
use crate::config::otel::{Compression, Otlp};

/// Of a response's body: a message for people, or a count.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Chunks>,
    endpoint: Uri,
    headers: HeaderMap,
    compression: Compression,
}

impl Http {
    pub(super) fn new(config: &Otlp) -> anyhow::Result<Self> {
        let tls = match config.endpoint.scheme_str() {
            Some("https") => tls::for_http(config.certificate.as_deref())?,
            _ => tls::unused()?,
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let mut headers: HeaderMap = config.headers.iter().cloned().collect();
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if config.compression == Compression::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoint: config.endpoint.clone(),
            headers,
            compression: config.compression,
        })
    }

    pub(super) async fn send(&self, message: &Message) -> Outcome {
        let body = match self.body(message) {
            Ok(body) => body,
            Err(error) => return Outcome::Refused(format!("compress: {error}")),
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        *request.headers_mut() = self.headers.clone();
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) => return Outcome::Unreachable(with_causes(&error)),
        };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await.map(|body| body.to_bytes());
        match body {
            Ok(body) => classify(head.status, &head.headers, &body, SystemTime::now()),
            // The status stands, even where its explanation is cut or too long.
            Err(error) if error.downcast_ref::<hyper::Error>().is_none() || !head.status.is_success() => {
                classify(head.status, &head.headers, &[], SystemTime::now())
            }
            Err(error) => Outcome::Unreachable(format!("the answer broke off: {error}")),
        }
    }

    fn body(&self, message: &Message) -> std::io::Result<Chunks> {
        match self.compression {
            Compression::None => Ok(message.chunks()),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                for chunk in message.chunks() {
                    encoder.write_all(&chunk)?;
                }
                Ok(Chunks::from(Bytes::from(encoder.finish()?)))
            }
        }
    }
}

fn classify(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Outcome {
    if status.is_success() {
        // An answer that is no OTLP message is a success all the same: the status says so.
        let partial = ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success);
        let partial = partial.unwrap_or_default();
        return Outcome::Accepted { rejected: partial.rejected_spans, message: partial.error_message };
    }
    // The body of a refusal is a `google.rpc.Status`.
    let explanation = tonic_types::Status::decode(body).map(|status| status.message).unwrap_or_default();
    let reason = match explanation.as_str() {
        "" => format!("HTTP {status}"),
        explanation => format!("HTTP {status}: {explanation}"),
    };
    match status.as_u16() {
        429 | 502 | 503 | 504 => Outcome::Busy { after: retry_after(headers, now), reason },
        300..400 => Outcome::Refused(format!("{reason}; redirects are not followed")),
        _ => Outcome::Refused(reason),
    }
}

/// Seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    fn check(status: u16, headers: &[(header::HeaderName, &str)], body: &[u8]) -> Outcome {
        let value = |text: &&str| HeaderValue::from_str(text).unwrap();
        let headers = headers.iter().map(|(name, text)| (name.clone(), value(text))).collect();
        // 2026-03-01 03:12:09 UTC
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_334_729);
        classify(StatusCode::from_u16(status).unwrap(), &headers, body, now)
    }

    #[test]
    fn exactly_the_specified_codes_are_worth_another_attempt() {
        for status in 300..600 {
            let outcome = check(status, &[], b"");
            let retryable = [429, 502, 503, 504].contains(&status);
            assert_eq!(
                matches!(outcome, Outcome::Busy { after: None, .. }),
                retryable,
                "{status}: {outcome:?}"
            );
            assert_eq!(matches!(outcome, Outcome::Refused(_)), !retryable, "{status}: {outcome:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        for (value, after) in [
            ("3", Some(3)),
            (" 120 ", Some(120)),
            ("Sun, 01 Mar 2026 03:12:19 GMT", Some(10)),
            ("Sun, 01 Mar 2020 03:12:19 GMT", None),
            ("-1", None),
            ("soon", None),
        ] {
            let Outcome::Busy { after: read, .. } = check(503, &[(header::RETRY_AFTER, value)], b"") else {
                panic!("{value}")
            };
            assert_eq!(read, after.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn what_the_receiver_says_is_read() {
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".to_owned() };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let accepted = |rejected, message: &str| Outcome::Accepted { rejected, message: message.to_owned() };
        assert_eq!(check(200, &[], &body), accepted(3, "too old"));
        assert_eq!(check(200, &[], b""), accepted(0, ""));
        assert_eq!(check(200, &[], b"<html>"), accepted(0, ""));
        let body = tonic_types::Status { code: 3, message: "no such tenant".to_owned(), details: vec![] };
        assert_eq!(
            check(400, &[], &body.encode_to_vec()),
            Outcome::Refused("HTTP 400 Bad Request: no such tenant".to_owned())
        );
    }
}
