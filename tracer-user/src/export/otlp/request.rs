//! Spans to requests: each span is encoded when it comes, behind the earlier ones of its process.
//!
//! A request consists of one `ResourceSpans` a process, in order of appearance. Its head holds lengths, so it is written
//! when the request is complete; room for it is left in front of the spans, so that nothing is moved.
//!
//! ```text
//! | room │ ResourceSpans: length, resource; ScopeSpans: length, scope │ Span │ Span │ … │ schema URLs |
//! ```

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tracer_core::span::{Resource, Span, Value};

use super::super::queue::Batch;
use super::encode;
use super::wire::{delimited_head, delimited_key, delimited_len};
use crate::clock::WallClock;

/// Processes whose encoded resource is kept, with about 1 kB each. Beyond it they are encoded again.
const MAX_ORIGINS: usize = 1024;

/// `ExportTraceServiceRequest.resource_spans`
const RESOURCE_SPANS: u8 = delimited_key(1);
/// `ResourceSpans.scope_spans`
const SCOPE_SPANS: u8 = delimited_key(2);
/// `ScopeSpans.spans`
const SPANS: u8 = delimited_key(2);
/// A key of one byte and the length of anything that fits into memory.
const MAX_DELIMITED_HEAD: usize = 11;

/// Encodes spans, one at a time.
#[derive(Debug)]
pub(in super::super) struct Encoder {
    clock: WallClock,
    /// Added to every resource.
    host: Arc<[(String, Value)]>,
    /// The content of the last span.
    content: Vec<u8>,
    /// By the resource's address: the spans of a process share it, and an origin keeps it where it is.
    origins: HashMap<usize, Arc<Origin>>,
    last: Option<Arc<Origin>>,
}

/// What the spans of a process have in common.
#[derive(Debug)]
struct Origin {
    resource: Arc<Resource>,
    encoded_resource: Vec<u8>,
    encoded_scope: Vec<u8>,
}

/// A span, encoded, and whose it is.
#[derive(Debug)]
pub(in super::super) struct Encoded<'a> {
    origin: &'a Arc<Origin>,
    content: &'a [u8],
}

/// A request that still grows.
#[derive(Debug, Default)]
pub(in super::super) struct Draft {
    groups: Vec<Group>,
    /// By the resource's address: which group is its. The first group is found without.
    index: HashMap<usize, usize>,
    spans: usize,
    bytes: usize,
    /// Bytes of the first group in the draft before: room that is made at once. Where many processes are traced, none of
    /// them has many.
    usual: usize,
}

/// A `ResourceSpans`.
#[derive(Debug)]
struct Group {
    origin: Arc<Origin>,
    /// Room for the head, then spans.
    buffer: Vec<u8>,
}

/// A request that is ready to be sent, any number of times.
#[derive(Clone, Debug)]
pub(super) struct Request {
    chunks: Arc<[Bytes]>,
    pub(super) spans: u64,
}

/// The message of a request, in pieces: an iterator, and the body of an HTTP request.
#[derive(Debug)]
pub(super) struct Chunks {
    chunks: Arc<[Bytes]>,
    next: usize,
}

impl Encoder {
    pub(in super::super) fn new(clock: WallClock, host: Arc<[(String, Value)]>) -> Self {
        Self { clock, host, content: Vec::new(), origins: HashMap::new(), last: None }
    }

    pub(in super::super) fn encode(&mut self, span: &Span) -> Encoded<'_> {
        self.content.clear();
        encode::span(span, self.clock, &mut self.content);
        let last = self.last.take().filter(|last| Arc::ptr_eq(&last.resource, &span.resource));
        let origin = match last {
            Some(last) => last,
            None => self.origin(&span.resource),
        };
        Encoded { origin: self.last.insert(origin), content: &self.content }
    }

    fn origin(&mut self, resource: &Arc<Resource>) -> Arc<Origin> {
        let address = Arc::as_ptr(resource).addr();
        if let Some(origin) = self.origins.get(&address) {
            return Arc::clone(origin);
        }
        if self.origins.len() >= MAX_ORIGINS {
            // Most of them have ended.
            self.origins.clear();
        }
        let origin = Arc::new(Origin {
            encoded_resource: encode::resource(resource, &self.host),
            encoded_scope: encode::scope(),
            resource: Arc::clone(resource),
        });
        self.origins.insert(address, Arc::clone(&origin));
        origin
    }
}

impl Origin {
    /// Of the head, at most.
    fn room(&self) -> usize {
        2 * MAX_DELIMITED_HEAD + self.encoded_resource.len() + self.encoded_scope.len()
    }
}

impl Draft {
    fn group_of(&self, origin: &Arc<Origin>) -> Option<usize> {
        match self.groups.first() {
            Some(first) if Arc::ptr_eq(&first.origin.resource, &origin.resource) => Some(0),
            Some(_) => self.index.get(&Arc::as_ptr(&origin.resource).addr()).copied(),
            None => None,
        }
    }

    pub(super) fn finish(self) -> Request {
        let chunks = self.groups.into_iter().map(Group::finish).collect();
        Request { chunks, spans: self.spans as u64 }
    }
}

impl Batch for Draft {
    type Item<'a> = Encoded<'a>;

    fn weight(&self, span: &Encoded<'_>) -> usize {
        let room = if self.group_of(span.origin).is_some() { 0 } else { span.origin.room() };
        room + delimited_len(span.content.len())
    }

    fn add(&mut self, span: Encoded<'_>) {
        self.bytes += self.weight(&span);
        self.spans += 1;
        let group = self.group_of(span.origin).unwrap_or_else(|| {
            let origin = Arc::clone(span.origin);
            let new = self.groups.len();
            if new > 0 {
                self.index.insert(Arc::as_ptr(&origin.resource).addr(), new);
            }
            let usual = if new == 0 { self.usual } else { 0 };
            let mut buffer = Vec::with_capacity(usual.max(origin.room()));
            buffer.resize(origin.room(), 0);
            self.groups.push(Group { buffer, origin });
            new
        });
        let buffer = &mut self.groups[group].buffer;
        delimited_head(SPANS, span.content.len(), buffer);
        buffer.extend_from_slice(span.content);
    }

    fn spans(&self) -> usize {
        self.spans
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn next(&self) -> Self {
        // A little more: spans of the same kind differ in a few digits.
        let usual = self.groups.first().map_or(0, |first| first.buffer.len() + first.buffer.len() / 16);
        Self { usual, ..Self::default() }
    }
}

impl Group {
    fn finish(self) -> Bytes {
        let Self { origin, mut buffer } = self;
        let room = origin.room();
        let before = buffer.len();
        encode::schema_url(&mut buffer);
        let schema_url_len = buffer.len() - before;
        let scope_spans_len = origin.encoded_scope.len() + buffer.len() - room;
        encode::schema_url(&mut buffer);
        let resource_spans_len =
            origin.encoded_resource.len() + delimited_len(scope_spans_len) + schema_url_len;

        let mut head = Vec::with_capacity(room);
        delimited_head(RESOURCE_SPANS, resource_spans_len, &mut head);
        head.extend_from_slice(&origin.encoded_resource);
        delimited_head(SCOPE_SPANS, scope_spans_len, &mut head);
        head.extend_from_slice(&origin.encoded_scope);
        let start = room - head.len();
        buffer[start..room].copy_from_slice(&head);
        Bytes::from(buffer).slice(start..)
    }
}

impl Request {
    pub(super) fn chunks(&self) -> Chunks {
        Chunks { chunks: Arc::clone(&self.chunks), next: 0 }
    }
}

impl From<Bytes> for Chunks {
    fn from(chunk: Bytes) -> Self {
        Self { chunks: Arc::new([chunk]), next: 0 }
    }
}

impl Chunks {
    /// Bytes that are still to come.
    pub(super) fn len(&self) -> usize {
        self.chunks[self.next..].iter().map(Bytes::len).sum()
    }
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.get(self.next)?;
        self.next += 1;
        Some(chunk.clone())
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.next == self.chunks.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::Span as ProtoSpan;
    use proptest::prelude::*;
    use prost::Message as _;
    use tracer_core::span::{Confidence, Evidence, Link, Parent, SpanKind, Status};

    use super::super::super::testing::{EPOCH, span, span_id, trace_id};
    use super::super::reference::Reference;
    use super::*;

    fn host() -> Arc<[(String, Value)]> {
        Arc::new([("host.name".to_owned(), Value::from("box"))])
    }

    fn request(encoder: &mut Encoder, spans: &[Arc<Span>]) -> Vec<u8> {
        let mut draft = Draft::default();
        for span in spans {
            draft.add(encoder.encode(span));
        }
        let (bytes, spans) = (draft.bytes(), draft.spans());
        let request = draft.finish();
        assert_eq!(request.spans, spans as u64);
        let message = request.chunks().collect::<Vec<_>>().concat();
        assert_eq!(message.len(), request.chunks().len());
        // What it is said to weigh covers what it weighs, schema URLs aside.
        assert!(message.len() <= bytes + 100 * request.chunks().count(), "{} {bytes}", message.len());
        message
    }

    #[track_caller]
    fn check(spans: Vec<Span>) {
        let clock = WallClock::from_offset_nanos(EPOCH);
        let spans: Vec<_> = spans.into_iter().map(Arc::new).collect();
        let expected = Reference { clock, host: host() }.request(&spans);
        let mut encoder = Encoder::new(clock, host());
        for _ in 0..2 {
            let message = request(&mut encoder, &spans);
            assert_eq!(ExportTraceServiceRequest::decode(&message[..]).unwrap(), expected);
            assert_eq!(message, expected.encode_to_vec());
        }
    }

    #[test]
    fn every_fact_of_a_span_is_in_its_message() {
        let mut span = span(1, 2).remote_parent(3).at_us(1, 2).error("500").build();
        span.trace_state = Some("a=b".to_owned());
        span.status = Status::Error { description: Some("why".to_owned()) };
        span.attributes =
            vec![("list", Value::StrArray(vec!["x".into()])), ("yes", Value::Bool(true))].into();
        span.links =
            vec![Link { trace_id: trace_id(8), span_id: span_id(9), attributes: vec![("n", Value::Int(7))] }];
        check(vec![span]);
    }

    #[test]
    fn spans_are_grouped_by_resource() {
        let shop = span(1, 1).build();
        let mut other = span(1, 2).parent(1, Evidence::TcpSequence).build();
        other.resource = Arc::clone(&shop.resource);
        let stock = span(1, 3).service("stock", 2).client("http://x/").build();
        let mut last = span(1, 4).build();
        last.resource = Arc::clone(&stock.resource);
        check(vec![shop, stock, other, last]);
    }

    #[test]
    fn lengths_of_every_size_are_right() {
        for len in [0, 1, 100, 120, 127, 128, 129, 16_000, 16_383, 16_384, 3_000_000] {
            let mut span = span(1, 1).attribute("x", "y".repeat(len)).build();
            span.name = "n".repeat(len).into();
            check(vec![span.clone(), span]);
        }
    }

    #[test]
    fn more_processes_than_are_kept_are_encoded_all_the_same() {
        let spans: Vec<_> = (0..MAX_ORIGINS as u32 + 3)
            .map(|n| span(1, 1).service(&format!("service {n}"), n).build())
            .collect();
        check(spans);
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            ".{0,300}".prop_map(Value::from),
            any::<i64>().prop_map(Value::Int),
            (0_i64..1000).prop_map(Value::Int),
            any::<bool>().prop_map(Value::Bool),
            proptest::collection::vec(".{0,80}", 0..4).prop_map(Value::StrArray),
        ]
    }

    fn attributes() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
        let key = proptest::sample::select(vec!["", "k", "http.request.method", "x.y.z"]);
        proptest::collection::vec((key, value()), 0..6)
    }

    prop_compose! {
        fn any_span()(
            ids in (1_u8.., 1_u8..),
            parent in proptest::option::of((1_u8.., any::<bool>())),
            trace_state in proptest::option::of(".{0,200}"),
            sampled in any::<bool>(),
            server in any::<bool>(),
            name in ".{0,140}",
            times in (any::<u32>(), any::<u32>()),
            attributes in attributes(),
            links in proptest::collection::vec((1_u8.., 1_u8.., attributes()), 0..3),
            status in proptest::option::of(proptest::option::of(".{0,140}")),
        ) -> Span {
            let mut span = span(ids.0, ids.1).at_us(times.0.into(), times.1.into()).build();
            span.parent = parent.map(|(id, remote)| Parent {
                span_id: span_id(id),
                evidence: Evidence::Header,
                confidence: Confidence::Certain,
                remote,
            });
            span.trace_state = trace_state;
            span.sampled = sampled;
            span.kind = if server { SpanKind::Server } else { SpanKind::Client };
            span.name = name.into();
            span.attributes = attributes.into();
            span.links = links
                .into_iter()
                .map(|(trace, id, attributes)| {
                    Link { trace_id: trace_id(trace), span_id: span_id(id), attributes }
                })
                .collect();
            span.status = match status {
                None => Status::Unset,
                Some(description) => Status::Error { description },
            };
            span
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn every_byte_is_what_the_protocol_s_own_types_write(
            spans in proptest::collection::vec((any_span(), 0..3_usize), 0..8),
            resources in proptest::collection::vec(proptest::collection::vec((".{0,20}", value()), 0..5), 3),
        ) {
            let resources: Vec<_> =
                resources.into_iter().map(|attributes| Arc::new(Resource { attributes })).collect();
            check(spans.into_iter().map(|(mut span, of)| {
                span.resource = Arc::clone(&resources[of]);
                span
            }).collect());
        }
    }

    #[test]
    fn absent_times_are_left_out() {
        let clock = WallClock::from_offset_nanos(0);
        let message = request(&mut Encoder::new(clock, host()), &[Arc::new(span(1, 1).build())]);
        let read = ExportTraceServiceRequest::decode(&message[..]).unwrap();
        let spans: Vec<&ProtoSpan> =
            read.resource_spans.iter().flat_map(|group| &group.scope_spans[0].spans).collect();
        assert_eq!((spans[0].start_time_unix_nano, spans[0].end_time_unix_nano), (0, 1_000_000));
        assert_eq!(message, read.encode_to_vec());
    }
}
