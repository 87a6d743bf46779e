//! The OpenTelemetry Protocol JSON file format: one `TracesData` object a line
//! (<https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/>).
//!
//! Ids are hexadecimal, 64-bit integers are strings, enumerations are numbers, keys are camelCase
//! (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>). Every line holds one span with its resource:
//! the same spans give the same bytes however they were batched, a file that was cut loses one span, and grep works.

use serde::Serialize;
use tracer_core::span::{Link, Span, SpanKind, Status, Value};

use super::facts::resource_attributes;
use super::{SCHEMA_URL, SCOPE_NAME, SCOPE_VERSION, escape, span_flags};
use crate::clock::WallClock;

/// Appends the span's line.
pub(super) fn write(
    span: &Span,
    host: &[(String, Value)],
    clock: WallClock,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let resource = Resource { attributes: attributes(resource_attributes(&span.resource, host)) };
    let scope_spans = ScopeSpans { scope: SCOPE, spans: [json_span(span, clock)], schema_url: SCHEMA_URL };
    let line = TracesData {
        resource_spans: [ResourceSpans { resource, scope_spans: [scope_spans], schema_url: SCHEMA_URL }],
    };
    let line = serde_json::to_string(&line)?;
    // As nearly every line: no character needs a look of its own.
    if line.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        out.extend_from_slice(line.as_bytes());
    } else {
        escaped(&line, out);
    }
    out.push(b'\n');
    Ok(())
}

/// Appends the line, with what is not plain as its code. JSON's own syntax is plain: what is not stands inside a string.
fn escaped(line: &str, out: &mut Vec<u8>) {
    for c in line.chars() {
        if escape::is_plain(c) {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
}

fn json_span(span: &Span, clock: WallClock) -> JsonSpan<'_> {
    JsonSpan {
        trace_id: span.trace_id.to_string(),
        span_id: span.span_id.to_string(),
        trace_state: span.trace_state.as_deref(),
        parent_span_id: span.parent.map(|parent| parent.span_id.to_string()),
        flags: span_flags(span),
        name: &span.name,
        kind: match span.kind {
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        },
        start_time_unix_nano: clock.unix_nanos(span.start).to_string(),
        end_time_unix_nano: clock.unix_nanos(span.end).to_string(),
        attributes: attributes(span.attributes.iter().map(|(key, value)| (*key, value))),
        links: span.links.iter().map(json_link).collect(),
        status: match &span.status {
            Status::Unset => None,
            Status::Error { description } => Some(JsonStatus { code: 2, message: description.as_deref() }),
        },
    }
}

fn json_link(link: &Link) -> JsonLink<'_> {
    JsonLink {
        trace_id: link.trace_id.to_string(),
        span_id: link.span_id.to_string(),
        attributes: attributes(link.attributes.iter().map(|(key, value)| (*key, value))),
    }
}

fn attributes<'a>(list: impl Iterator<Item = (&'a str, &'a Value)>) -> Vec<KeyValue<'a>> {
    list.map(|(key, value)| KeyValue { key, value: any_value(value) }).collect()
}

fn any_value(value: &Value) -> AnyValue<'_> {
    match value {
        Value::Str(text) => AnyValue::Str(text),
        Value::Int(number) => AnyValue::Int(number.to_string()),
        Value::Bool(truth) => AnyValue::Bool(*truth),
        Value::StrArray(items) => {
            AnyValue::Array { values: items.iter().map(|item| AnyValue::Str(item)).collect() }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TracesData<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
    schema_url: &'static str,
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: Vec<KeyValue<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: [JsonSpan<'a>; 1],
    schema_url: &'static str,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

const SCOPE: Scope = Scope { name: SCOPE_NAME, version: SCOPE_VERSION };

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonSpan<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    flags: u32,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<KeyValue<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<JsonLink<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<JsonStatus<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonLink<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<KeyValue<'a>>,
}

#[derive(Serialize)]
struct JsonStatus<'a> {
    code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

#[derive(Serialize)]
struct KeyValue<'a> {
    key: &'a str,
    value: AnyValue<'a>,
}

#[derive(Serialize)]
enum AnyValue<'a> {
    #[serde(rename = "stringValue")]
    Str(&'a str),
    #[serde(rename = "intValue")]
    Int(String),
    #[serde(rename = "boolValue")]
    Bool(bool),
    #[serde(rename = "arrayValue")]
    Array { values: Vec<AnyValue<'a>> },
}

#[cfg(test)]
mod tests {
    use tracer_core::span::Evidence;

    use super::super::testing::{EPOCH, span, span_id, trace_id};
    use super::*;

    fn line(span: &Span) -> String {
        let mut out = Vec::new();
        let host = [("host.name".to_owned(), Value::from("box"))];
        write(span, &host, WallClock::from_offset_nanos(EPOCH), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_span_is_one_line_in_the_protocols_own_json() {
        let mut span = span(0xab, 2)
            .parent(1, Evidence::TcpSequence)
            .at_us(0, 1500)
            .error("500")
            .attribute("tracer.incomplete", "events_lost")
            .build();
        span.trace_state = Some("a=b".to_owned());
        span.links = vec![Link {
            trace_id: trace_id(3),
            span_id: span_id(4),
            attributes: vec![
                ("list", Value::StrArray(vec!["x".into(), "y".into()])),
                ("yes", Value::Bool(true)),
            ],
        }];
        let schema = SCHEMA_URL;
        let version = SCOPE_VERSION;
        assert_eq!(
            line(&span),
            [
                r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}},"#,
                r#"{"key":"host.name","value":{"stringValue":"box"}}]},"scopeSpans":[{"scope":{"name":"tracer","#,
                &format!(r#""version":"{version}"}},"spans":[{{"traceId":"abababababababababababababababab","#),
                r#""spanId":"0202020202020202","traceState":"a=b","parentSpanId":"0101010101010101","flags":257,"#,
                r#""name":"GET","kind":2,"startTimeUnixNano":"1772334729000000000","#,
                r#""endTimeUnixNano":"1772334729001500000","attributes":["#,
                r#"{"key":"http.request.method","value":{"stringValue":"GET"}},"#,
                r#"{"key":"url.path","value":{"stringValue":"/"}},"#,
                r#"{"key":"http.response.status_code","value":{"intValue":"200"}},"#,
                r#"{"key":"error.type","value":{"stringValue":"500"}},"#,
                r#"{"key":"tracer.incomplete","value":{"stringValue":"events_lost"}}],"#,
                r#""links":[{"traceId":"03030303030303030303030303030303","spanId":"0404040404040404","#,
                r#""attributes":[{"key":"list","value":{"arrayValue":{"values":[{"stringValue":"x"},"#,
                r#"{"stringValue":"y"}]}}},{"key":"yes","value":{"boolValue":true}}]}],"#,
                &format!(r#""status":{{"code":2}}}}],"schemaUrl":"{schema}"}}],"schemaUrl":"{schema}"}}]}}"#),
                "\n",
            ]
            .concat()
        );
    }

    #[test]
    fn hostile_text_is_escaped_and_survives() {
        let path = "/\u{1b}[2J\u{9b}\u{7f}\n\u{202e}\u{e0001}\"\\ü";
        let line = line(&span(1, 1).path("GET", path).build());
        assert!(line.trim_end().chars().all(escape::is_plain), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let read = &value["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"][1]["value"];
        assert_eq!(read["stringValue"], path);
    }
}
