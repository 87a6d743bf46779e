//! Spans for the tests of this folder.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_semantic_conventions::attribute::{
    HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, SERVICE_NAME, URL_FULL, URL_PATH,
};
use tracer_abi::task::{ProcessKey, Tgid};
use tracer_abi::time::KernelInstant;
use tracer_core::attributes::keys;
use tracer_core::span::{
    Attribute, Attributes, Confidence, Evidence, Link, Parent, Resource, Span, SpanId, SpanKind, Status,
    TraceId, Value,
};

/// Unix time of kernel instant zero: 2026-03-01 03:12:09 UTC.
pub(super) const EPOCH: u64 = 1_772_334_729_000_000_000;

/// The attributes apart, while they are worked on.
pub(super) struct Builder(Span, Vec<Attribute>);

pub(super) fn trace_id(n: u8) -> TraceId {
    TraceId::new([n; 16]).unwrap()
}

pub(super) fn span_id(n: u8) -> SpanId {
    SpanId::new([n; 8]).unwrap()
}

/// Span `id` of trace `trace`: a server's `GET /`, 1 ms long, of process 100 of service `shop`, with status 200.
pub(super) fn span(trace: u8, id: u8) -> Builder {
    let span = Span {
        trace_id: trace_id(trace),
        span_id: span_id(id),
        parent: None,
        undecided: None,
        trace_state: None,
        sampled: true,
        kind: SpanKind::Server,
        name: "GET".into(),
        start: KernelInstant::ZERO,
        end: KernelInstant::from_nanos(1_000_000),
        attributes: Attributes::default(),
        links: Vec::new(),
        status: Status::Unset,
        process: ProcessKey { tgid: Tgid(100), start_boottime: 1 },
        resource: Arc::new(Resource { attributes: vec![(SERVICE_NAME.to_owned(), Value::from("shop"))] }),
    };
    let attributes = vec![
        (HTTP_REQUEST_METHOD, Value::from("GET")),
        (URL_PATH, Value::from("/")),
        (HTTP_RESPONSE_STATUS_CODE, Value::Int(200)),
    ];
    Builder(span, attributes)
}

impl Builder {
    pub(super) fn client(mut self, url: &str) -> Self {
        self.0.kind = SpanKind::Client;
        self.1[1] = (URL_FULL, Value::from(url));
        self
    }

    pub(super) fn path(mut self, method: &'static str, path: &str) -> Self {
        self.1[0].1 = Value::from(method);
        self.1[1].1 = Value::from(path);
        self.0.name = method.into();
        self
    }

    pub(super) fn parent(mut self, id: u8, evidence: Evidence) -> Self {
        let confidence = Confidence::Certain;
        self.0.parent = Some(Parent { span_id: span_id(id), evidence, confidence, remote: false });
        self
    }

    pub(super) fn remote_parent(mut self, id: u8) -> Self {
        let (evidence, confidence) = (Evidence::Header, Confidence::Certain);
        self.0.parent = Some(Parent { span_id: span_id(id), evidence, confidence, remote: true });
        self
    }

    pub(super) fn at_us(mut self, start: u64, end: u64) -> Self {
        self.0.start = KernelInstant::ZERO.plus(Duration::from_micros(start));
        self.0.end = KernelInstant::ZERO.plus(Duration::from_micros(end));
        self
    }

    pub(super) fn service(mut self, name: &str, pid: u32) -> Self {
        self.0.process.tgid = Tgid(pid);
        self.0.resource =
            Arc::new(Resource { attributes: vec![(SERVICE_NAME.to_owned(), Value::from(name))] });
        self
    }

    pub(super) fn status(mut self, code: i64) -> Self {
        self.1[2].1 = Value::Int(code);
        self
    }

    pub(super) fn error(mut self, error_type: &str) -> Self {
        self.1.push((opentelemetry_semantic_conventions::attribute::ERROR_TYPE, error_type.into()));
        self.0.status = Status::Error { description: None };
        self
    }

    pub(super) fn no_response(mut self) -> Self {
        self.1.truncate(2);
        self
    }

    pub(super) fn undecided(mut self, reason: &'static str) -> Self {
        self.0.undecided = Some(reason);
        self
    }

    /// A link to a span of another trace.
    pub(super) fn may_be_below(mut self, trace: u8, id: u8, evidence: Evidence) -> Self {
        self.0.links.push(Link {
            trace_id: trace_id(trace),
            span_id: span_id(id),
            attributes: vec![
                (keys::CANDIDATE_EVIDENCE, evidence.as_str().into()),
                (keys::CANDIDATE_UNDECIDED, "several-open-requests".into()),
            ],
        });
        self
    }

    pub(super) fn attribute(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.1.push((key, value.into()));
        self
    }

    pub(super) fn build(self) -> Span {
        Span { attributes: self.1.into(), ..self.0 }
    }
}
