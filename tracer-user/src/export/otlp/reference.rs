//! Spans as the protocol's own types: what the encoder's bytes are compared with.

use std::collections::HashMap;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as ProtoValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use opentelemetry_proto::tonic::trace::v1::span::{Link as ProtoLink, SpanKind as ProtoKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as ProtoSpan, Status as ProtoStatus,
};
use tracer_core::span::{Link, Resource, Span, SpanKind, Status, Value};

use super::super::facts::resource_attributes;
use super::super::{SCHEMA_URL, SCOPE_NAME, SCOPE_VERSION, span_flags};
use crate::clock::WallClock;

pub(super) struct Reference {
    pub(super) clock: WallClock,
    /// Added to every resource.
    pub(super) host: Arc<[(String, Value)]>,
}

impl Reference {
    pub(super) fn request(&self, batch: &[Arc<Span>]) -> ExportTraceServiceRequest {
        let mut groups: Vec<ResourceSpans> = Vec::new();
        // Processes share their resource, so its address tells them apart while the batch lives.
        let mut index: HashMap<*const Resource, usize> = HashMap::new();
        for span in batch {
            let group = *index.entry(Arc::as_ptr(&span.resource)).or_insert_with(|| {
                groups.push(self.resource_spans(&span.resource));
                groups.len() - 1
            });
            groups[group].scope_spans[0].spans.push(self.span(span));
        }
        ExportTraceServiceRequest { resource_spans: groups }
    }

    fn resource_spans(&self, resource: &Resource) -> ResourceSpans {
        let scope = InstrumentationScope {
            name: SCOPE_NAME.to_owned(),
            version: SCOPE_VERSION.to_owned(),
            ..InstrumentationScope::default()
        };
        let attributes = attributes(resource_attributes(resource, &self.host));
        ResourceSpans {
            resource: Some(ProtoResource { attributes, ..ProtoResource::default() }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: Vec::new(),
                schema_url: SCHEMA_URL.to_owned(),
            }],
            schema_url: SCHEMA_URL.to_owned(),
        }
    }

    fn span(&self, span: &Span) -> ProtoSpan {
        ProtoSpan {
            trace_id: span.trace_id.to_bytes().to_vec(),
            span_id: span.span_id.to_bytes().to_vec(),
            trace_state: span.trace_state.clone().unwrap_or_default(),
            parent_span_id: span.parent.map_or_else(Vec::new, |parent| parent.span_id.to_bytes().to_vec()),
            flags: span_flags(span),
            name: span.name.clone().into_owned(),
            kind: match span.kind {
                SpanKind::Server => ProtoKind::Server,
                SpanKind::Client => ProtoKind::Client,
            }
            .into(),
            start_time_unix_nano: self.clock.unix_nanos(span.start),
            end_time_unix_nano: self.clock.unix_nanos(span.end),
            attributes: attributes(span.attributes.iter().map(|(key, value)| (*key, value))),
            links: span.links.iter().map(link).collect(),
            status: match &span.status {
                Status::Unset => None,
                Status::Error { description } => Some(ProtoStatus {
                    message: description.clone().unwrap_or_default(),
                    code: StatusCode::Error.into(),
                }),
            },
            ..ProtoSpan::default()
        }
    }
}

fn link(link: &Link) -> ProtoLink {
    ProtoLink {
        trace_id: link.trace_id.to_bytes().to_vec(),
        span_id: link.span_id.to_bytes().to_vec(),
        attributes: attributes(link.attributes.iter().map(|(key, value)| (*key, value))),
        ..ProtoLink::default()
    }
}

fn attributes<'a>(list: impl Iterator<Item = (&'a str, &'a Value)>) -> Vec<KeyValue> {
    list.map(|(key, value)| KeyValue {
        key: key.to_owned(),
        value: Some(any_value(value)),
        ..KeyValue::default()
    })
    .collect()
}

fn any_value(value: &Value) -> AnyValue {
    let value = match value {
        Value::Str(text) => ProtoValue::StringValue(text.to_string()),
        Value::Int(number) => ProtoValue::IntValue(*number),
        Value::Bool(truth) => ProtoValue::BoolValue(*truth),
        Value::StrArray(items) => {
            let item = |text: &String| AnyValue { value: Some(ProtoValue::StringValue(text.clone())) };
            ProtoValue::ArrayValue(ArrayValue { values: items.iter().map(item).collect() })
        }
    };
    AnyValue { value: Some(value) }
}

#[cfg(test)]
mod tests {
    use tracer_core::span::Evidence;

    use super::super::super::testing::{EPOCH, span, span_id, trace_id};
    use super::*;

    fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
        let host = Arc::new([("host.name".to_owned(), Value::from("box"))]);
        let reference = Reference { clock: WallClock::from_offset_nanos(EPOCH), host };
        reference.request(&spans.into_iter().map(Arc::new).collect::<Vec<_>>())
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
        let request = request(vec![span]);
        let group = &request.resource_spans[0];
        assert_eq!(
            (group.schema_url.as_str(), group.scope_spans[0].schema_url.as_str()),
            (SCHEMA_URL, SCHEMA_URL)
        );
        let keys: Vec<_> =
            group.resource.iter().flat_map(|resource| &resource.attributes).map(|kv| &kv.key).collect();
        assert_eq!(keys, ["service.name", "host.name"]);
        let text = |text: &str| AnyValue { value: Some(ProtoValue::StringValue(text.to_owned())) };
        let kv = |key: &str, value| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        };
        assert_eq!(
            group.scope_spans[0].spans,
            [ProtoSpan {
                trace_id: vec![1; 16],
                span_id: vec![2; 8],
                trace_state: "a=b".to_owned(),
                parent_span_id: vec![3; 8],
                flags: 0x301,
                name: "GET".to_owned(),
                kind: 2,
                start_time_unix_nano: EPOCH + 1_000,
                end_time_unix_nano: EPOCH + 2_000,
                attributes: vec![
                    kv("list", ProtoValue::ArrayValue(ArrayValue { values: vec![text("x")] })),
                    kv("yes", ProtoValue::BoolValue(true)),
                ],
                links: vec![ProtoLink {
                    trace_id: vec![8; 16],
                    span_id: vec![9; 8],
                    attributes: vec![kv("n", ProtoValue::IntValue(7))],
                    ..ProtoLink::default()
                }],
                status: Some(ProtoStatus { message: "why".to_owned(), code: 2 }),
                ..ProtoSpan::default()
            }]
        );
    }

    #[test]
    fn spans_are_grouped_by_resource() {
        let shop = span(1, 1).build();
        let mut other = span(1, 2).parent(1, Evidence::TcpSequence).build();
        other.resource = Arc::clone(&shop.resource);
        let stock = span(1, 3).service("stock", 2).client("http://x/").build();
        let request = request(vec![shop, stock, other]);
        let sizes: Vec<_> =
            request.resource_spans.iter().map(|group| group.scope_spans[0].spans.len()).collect();
        assert_eq!(sizes, [2, 1]);
        assert_eq!(request.resource_spans[1].scope_spans[0].spans[0].kind, 3);
    }
}
