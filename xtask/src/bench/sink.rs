//! A collector that only counts: OTLP over HTTP/1.1, protobuf bodies, spans counted and dropped.
//!
//! It shares the machine with what is measured, so it does the least that a collector can do. Whether what arrives is
//! well-formed is the tests' question, not this one's.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Context as _;

/// A batch of spans is tens of kilobytes; anything beyond this is not one.
const MAX_BODY_BYTES: usize = 64 << 20;

/// A listening sink. It lives as long as the process.
#[derive(Debug)]
pub(crate) struct Sink {
    addr: SocketAddr,
    spans: Arc<AtomicU64>,
}

impl Sink {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the sink")?;
        let addr = listener.local_addr().context("address of the sink")?;
        let spans = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&spans);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                thread::spawn(move || serve(stream, &counter));
            }
        });
        Ok(Self { addr, spans })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Spans received since the last call.
    pub(crate) fn take(&self) -> u64 {
        self.spans.swap(0, Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, spans: &AtomicU64) {
    if let Err(error) = requests(stream, spans) {
        eprintln!("sink: {error}");
    }
}

fn requests(stream: TcpStream, spans: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answers = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut body = Vec::new();
    let mut line = String::new();
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim_end().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        if length > MAX_BODY_BYTES {
            return Err(io::Error::other(format!("a body of {length} bytes")));
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        let counted = count_spans(&body).ok_or_else(|| io::Error::other("not an OTLP export request"))?;
        spans.fetch_add(counted, Ordering::Relaxed);
        // An empty message is a whole success (OTLP specification, full success).
        answers.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n",
        )?;
    }
}

/// Spans in an `ExportTraceServiceRequest`: field 2 in field 2 in field 1
/// (opentelemetry-proto, collector/trace/v1 and trace/v1).
fn count_spans(request: &[u8]) -> Option<u64> {
    let mut count = 0;
    each_field(request, 1, &mut |resource_spans| {
        each_field(resource_spans, 2, &mut |scope_spans| {
            each_field(scope_spans, 2, &mut |_| {
                count += 1;
                Some(())
            })
        })
    })?;
    Some(count)
}

/// Calls `visit` with the content of every length-delimited field `wanted` of a protobuf message.
fn each_field(mut message: &[u8], wanted: u64, visit: &mut dyn FnMut(&[u8]) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let length = match key & 7 {
            0 => {
                varint(&mut message)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let content = message.get(..length)?;
        message = message.get(length..)?;
        if key >> 3 == wanted && key & 7 == 2 {
            visit(content)?;
        }
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::span::Link;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
    use prost::Message as _;

    use super::*;

    /// What a tracer sends: two processes, two scopes each, two spans each, with all kinds of fields around them.
    fn request() -> Vec<u8> {
        let text = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
        let attribute = |key: &str| KeyValue {
            key: key.to_owned(),
            // Long enough for a length of two bytes.
            value: text(&"v".repeat(200)),
            ..KeyValue::default()
        };
        let span = Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            flags: 0x101,
            name: "GET".to_owned(),
            kind: 2,
            start_time_unix_nano: 1_772_334_729_000_000_000,
            end_time_unix_nano: 1_772_334_729_000_001_000,
            attributes: vec![attribute("url.path"), attribute("url.query")],
            links: vec![Link { trace_id: vec![3; 16], span_id: vec![4; 8], ..Link::default() }],
            status: Some(Status { message: "why".to_owned(), code: 2 }),
            ..Span::default()
        };
        let scope_spans = ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "tracer".to_owned(),
                ..InstrumentationScope::default()
            }),
            spans: vec![span; 2],
            schema_url: "https://opentelemetry.io/schemas/1.42.0".to_owned(),
        };
        let resource_spans = ResourceSpans {
            resource: Some(Resource { attributes: vec![attribute("service.name")], ..Resource::default() }),
            scope_spans: vec![scope_spans; 2],
            schema_url: "https://opentelemetry.io/schemas/1.42.0".to_owned(),
        };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans; 2] }.encode_to_vec()
    }

    #[test]
    fn spans_are_counted_at_their_depth() {
        assert_eq!(count_spans(&request()), Some(8));
        assert_eq!(count_spans(b""), Some(0));
    }

    #[test]
    fn cut_messages_are_refused() {
        let whole = request();
        let half = whole.len() / 2;
        for len in (1..whole.len()).filter(|len| *len != half) {
            assert_eq!(count_spans(&whole[..len]), None, "{len} of {} bytes", whole.len());
        }
    }

    #[test]
    fn a_request_is_answered_and_counted() {
        let sink = Sink::start().unwrap();
        let mut client = TcpStream::connect(sink.addr).unwrap();
        let body = request();
        for _ in 0..2 {
            write!(client, "POST /v1/traces HTTP/1.1\r\ncontent-LENGTH: {}\r\n\r\n", body.len()).unwrap();
            client.write_all(&body).unwrap();
            let mut answer = [0; 15];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().is_empty()));
        }
        assert_eq!(sink.take(), 16);
        assert_eq!(sink.take(), 0);
    }
}
