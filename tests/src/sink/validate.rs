//! Everything that a receiver may expect of spans, and a few things that only this tracer promises.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

/// Of every schema that the OpenTelemetry project publishes.
const SCHEMA_PREFIX: &str = "https://opentelemetry.io/schemas/";
/// The flags that the protocol defines: the W3C ones, and whether the parent is remote.
const KNOWN_FLAGS: u32 = 0xff | HAS_IS_REMOTE | IS_REMOTE;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
/// How far a clock may be off.
const SKEW: Duration = Duration::from_secs(60);

/// Remembers what it has seen, to find what came twice.
#[derive(Debug, Default)]
pub(super) struct Validator {
    seen: HashSet<(Vec<u8>, Vec<u8>)>,
}

impl Validator {
    /// What is wrong, one line each.
    pub(super) fn check(&self, request: &ExportTraceServiceRequest) -> Vec<String> {
        let mut wrong = Vec::new();
        if request.resource_spans.is_empty() {
            wrong.push("a request without spans".to_owned());
        }
        let mut seen = HashSet::new();
        for group in &request.resource_spans {
            resource(group, &mut wrong);
            for scope_spans in &group.scope_spans {
                scope(scope_spans, &mut wrong);
                for span in &scope_spans.spans {
                    let name = format!("span {} {:?}", hex(&span.span_id), span.name);
                    self::span(span, &mut |what| wrong.push(format!("{name}: {what}")));
                    let id = (span.trace_id.clone(), span.span_id.clone());
                    if self.seen.contains(&id) || !seen.insert(id) {
                        wrong.push(format!("{name}: came twice"));
                    }
                }
            }
        }
        wrong
    }

    /// The request was accepted: none of its spans may come again.
    pub(super) fn accept(&mut self, request: &ExportTraceServiceRequest) {
        let scopes = request.resource_spans.iter().flat_map(|group| &group.scope_spans);
        let spans = scopes.flat_map(|scope| &scope.spans);
        self.seen.extend(spans.map(|span| (span.trace_id.clone(), span.span_id.clone())));
    }
}

fn resource(group: &ResourceSpans, wrong: &mut Vec<String>) {
    let mut wrong = |what: &str| wrong.push(format!("resource: {what}"));
    if !group.schema_url.starts_with(SCHEMA_PREFIX) {
        wrong("no schema URL");
    }
    if group.scope_spans.is_empty() {
        wrong("no scope");
    }
    let Some(resource) = &group.resource else { return wrong("absent") };
    attributes(&resource.attributes, &mut wrong);
    match string(&resource.attributes, "service.name") {
        Some(name) if !name.is_empty() => {}
        Some(_) | None => wrong("no service.name"),
    }
}

fn scope(scope_spans: &ScopeSpans, wrong: &mut Vec<String>) {
    let mut wrong = |what: &str| wrong.push(format!("scope: {what}"));
    if !scope_spans.schema_url.starts_with(SCHEMA_PREFIX) {
        wrong("no schema URL");
    }
    if scope_spans.spans.is_empty() {
        wrong("no spans");
    }
    match &scope_spans.scope {
        Some(scope) if scope.name.is_empty() || scope.version.is_empty() => wrong("no name or version"),
        Some(scope) => attributes(&scope.attributes, &mut wrong),
        None => wrong("absent"),
    }
}

fn span(span: &Span, wrong: &mut dyn FnMut(&str)) {
    if !is_id(&span.trace_id, 16) {
        wrong("trace id is not 16 bytes with one that is not zero");
    }
    if !is_id(&span.span_id, 8) {
        wrong("span id is not 8 bytes with one that is not zero");
    }
    if !span.parent_span_id.is_empty() && !is_id(&span.parent_span_id, 8) {
        wrong("parent id is not 8 bytes with one that is not zero");
    }
    if span.parent_span_id == span.span_id {
        wrong("it is its own parent");
    }
    if span.name.is_empty() {
        wrong("no name");
    }
    if !matches!(span.kind(), SpanKind::Server | SpanKind::Client) || span.kind != span.kind() as i32 {
        wrong("kind is neither server nor client");
    }
    times(span, wrong);
    flags(span, wrong);
    attributes(&span.attributes, wrong);
    if span.links.len() > 3 {
        wrong("more than three links");
    }
    for (n, link) in span.links.iter().enumerate() {
        if !is_id(&link.trace_id, 16) || !is_id(&link.span_id, 8) {
            wrong("a link without valid ids");
            continue;
        }
        if link.span_id == span.span_id {
            wrong("a link to itself");
        }
        if span.links[..n].iter().any(|other| other.span_id == link.span_id) {
            wrong("two links to one span");
        }
        if !span.parent_span_id.is_empty() {
            wrong("a link to what may be the parent, beside a parent");
        }
        let says = |key| link.attributes.iter().any(|attribute| attribute.key == key);
        if !says("tracer.candidate.evidence") || !says("tracer.candidate.undecided") {
            wrong("a link that does not say why");
        }
        attributes(&link.attributes, wrong);
    }
    for event in &span.events {
        if event.name.is_empty()
            || !(span.start_time_unix_nano..=span.end_time_unix_nano).contains(&event.time_unix_nano)
        {
            wrong("an event without a name or outside the span");
        }
    }
    if let Some(status) = &span.status {
        if StatusCode::try_from(status.code).is_err() {
            wrong("unknown status code");
        }
        if status.code() == StatusCode::Ok {
            wrong("status OK, which is for applications to set");
        }
        if status.code() != StatusCode::Error && !status.message.is_empty() {
            wrong("a status message without an error");
        }
    }
    // W3C Trace Context Level 2, section 3.3.1: printable ASCII, at most 32 members.
    let members = span.trace_state.split(',').count();
    if !span.trace_state.bytes().all(|byte| matches!(byte, b' '..=b'~')) || members > 32 {
        wrong("trace state is not valid");
    }
}

fn times(span: &Span, wrong: &mut dyn FnMut(&str)) {
    let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
    if end < start {
        wrong("it ends before it starts");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + SKEW;
    if start == 0 || Duration::from_nanos(end) > now {
        wrong("its times are not set or in the future");
    }
}

fn flags(span: &Span, wrong: &mut dyn FnMut(&str)) {
    if span.flags & !KNOWN_FLAGS != 0 {
        wrong("unknown flags");
    }
    if span.flags & HAS_IS_REMOTE == 0 {
        wrong("it does not say whether its parent is remote");
    }
    if span.flags & IS_REMOTE != 0 && span.parent_span_id.is_empty() {
        wrong("a remote parent, but no parent");
    }
}

fn attributes(list: &[KeyValue], wrong: &mut dyn FnMut(&str)) {
    let mut keys = HashSet::new();
    for attribute in list {
        if attribute.key.is_empty() || !keys.insert(&attribute.key) {
            wrong(&format!("attribute {:?} has no key or is there twice", attribute.key));
        }
        match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            None => wrong(&format!("attribute {:?} has no value", attribute.key)),
            Some(Value::ArrayValue(array)) if array.values.iter().any(|item| item.value.is_none()) => {
                wrong(&format!("attribute {:?} has an element without value", attribute.key));
            }
            Some(_) => {}
        }
    }
}

fn string<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    let value = attribute.value.as_ref()?.value.as_ref()?;
    if let Value::StringValue(text) = value { Some(text) } else { None }
}

fn is_id(bytes: &[u8], len: usize) -> bool {
    bytes.len() == len && bytes.iter().any(|&byte| byte != 0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::Status;
    use opentelemetry_proto::tonic::trace::v1::span::Link;

    use super::*;

    fn text(key: &str, value: &str) -> KeyValue {
        let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
        KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
    }

    fn good() -> ExportTraceServiceRequest {
        let span = Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            parent_span_id: vec![3; 8],
            flags: 0x101,
            name: "GET".to_owned(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: 10,
            end_time_unix_nano: 20,
            attributes: vec![text("a", "b")],
            ..Span::default()
        };
        let scope = InstrumentationScope { name: "x".into(), version: "1".into(), ..Default::default() };
        let schema_url = format!("{SCHEMA_PREFIX}1.0.0");
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: vec![text("service.name", "shop")],
                    ..Default::default()
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans: vec![span],
                    schema_url: schema_url.clone(),
                }],
                schema_url,
            }],
        }
    }

    /// Links to these spans.
    fn links(ids: &[u8]) -> Vec<Link> {
        let why = vec![text("tracer.candidate.evidence", "a"), text("tracer.candidate.undecided", "b")];
        let link = |id: &u8| Link {
            trace_id: vec![9; 16],
            span_id: vec![*id; 8],
            attributes: why.clone(),
            ..Link::default()
        };
        ids.iter().map(link).collect()
    }

    fn check(change: impl FnOnce(&mut ExportTraceServiceRequest)) -> Vec<String> {
        let mut request = good();
        change(&mut request);
        Validator::default().check(&request)
    }

    /// The span without a parent, and with these links.
    fn undecided(span: &mut Span, links: Vec<Link>) {
        span.parent_span_id.clear();
        span.links = links;
    }

    #[test]
    fn a_good_request_passes_and_every_fault_is_found() {
        assert_eq!(check(|_| {}), Vec::<String>::new());
        let linked = check(|request| {
            undecided(&mut request.resource_spans[0].scope_spans[0].spans[0], links(&[5, 6, 7]));
        });
        assert_eq!(linked, Vec::<String>::new());
        type Change = fn(&mut Span);
        let faults: &[Change] = &[
            |span| span.trace_id = vec![0; 16],
            |span| span.trace_id = vec![1; 8],
            |span| span.span_id = vec![],
            |span| span.parent_span_id = vec![0; 8],
            |span| span.parent_span_id = span.span_id.clone(),
            |span| span.name.clear(),
            |span| span.kind = 0,
            |span| span.kind = 1,
            |span| span.end_time_unix_nano = 9,
            |span| span.start_time_unix_nano = 0,
            |span| span.end_time_unix_nano = u64::MAX,
            |span| span.flags = 0x1,
            |span| span.flags = 0x501,
            |span| (span.flags, span.parent_span_id) = (0x301, vec![]),
            |span| span.attributes.push(text("a", "again")),
            |span| span.attributes.push(text("", "b")),
            |span| span.attributes.push(KeyValue { key: "c".into(), ..KeyValue::default() }),
            |span| span.links.push(Default::default()),
            |span| undecided(span, links(&[2])),
            |span| undecided(span, links(&[5, 5])),
            |span| undecided(span, links(&[5, 6, 7, 8])),
            |span| span.links = links(&[5]),
            |span| {
                undecided(span, links(&[5]));
                span.links[0].attributes.pop();
            },
            |span| span.status = Some(Status { code: 9, ..Status::default() }),
            |span| span.status = Some(Status { code: 1, ..Status::default() }),
            |span| span.status = Some(Status { code: 0, message: "why".into() }),
            |span| span.trace_state = "a=\u{e9}".to_owned(),
        ];
        for (n, fault) in faults.iter().enumerate() {
            let wrong = check(|request| fault(&mut request.resource_spans[0].scope_spans[0].spans[0]));
            assert_eq!(wrong.len(), 1, "fault {n}: {wrong:?}");
        }
        let faults: &[fn(&mut ResourceSpans)] = &[
            |group| group.resource = None,
            |group| group.resource = Some(Resource::default()),
            |group| group.schema_url.clear(),
            |group| group.scope_spans.clear(),
            |group| group.scope_spans[0].scope = None,
            |group| group.scope_spans[0].schema_url.clear(),
            |group| group.scope_spans[0].spans.clear(),
            |group| group.scope_spans.extend(group.scope_spans.clone()),
        ];
        for (n, fault) in faults.iter().enumerate() {
            let wrong = check(|request| fault(&mut request.resource_spans[0]));
            assert_eq!(wrong.len(), 1, "group fault {n}: {wrong:?}");
        }
        assert_eq!(check(|request| request.resource_spans.clear()).len(), 1);
        let mut validator = Validator::default();
        validator.accept(&good());
        assert_eq!(validator.check(&good()).len(), 1);
    }
}
