//! Spans as a receiver sees them: the OTLP JSON file read back into plain values.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value as Json;

/// One span of the output file, with what its resource says.
#[derive(Clone, Debug)]
pub struct Span {
    pub trace_id: String,
    pub span_id: String,
    pub parent: Option<String>,
    pub name: String,
    pub kind: Kind,
    /// Unix time in nanoseconds.
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, Json>,
    pub resource: BTreeMap<String, Json>,
    pub trace_state: String,
    pub flags: u64,
    /// OTLP status code: 0 unset, 1 ok, 2 error.
    pub status: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Server,
    Client,
    Other(u64),
}

impl Span {
    pub fn str(&self, key: &str) -> Option<&str> {
        self.attributes.get(key)?.as_str()
    }

    pub fn int(&self, key: &str) -> Option<i64> {
        self.attributes.get(key)?.as_i64()
    }

    pub fn service(&self) -> &str {
        self.resource.get("service.name").and_then(Json::as_str).unwrap_or("")
    }

    /// The traced process, from its resource; 0 when absent.
    pub fn pid(&self) -> u32 {
        self.resource
            .get("process.pid")
            .and_then(Json::as_i64)
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or(0)
    }

    /// The path of the request target, wherever this kind of span says it; of gRPC without what it begins with.
    pub fn path(&self) -> Option<&str> {
        if let Some(path) = self.str("url.path").or_else(|| self.str("rpc.method")) {
            return Some(path);
        }
        let full = self.str("url.full")?;
        let after_scheme = full.split_once("://").map_or(full, |(_, rest)| rest);
        let path = &after_scheme[after_scheme.find('/')?..];
        Some(path.split(['?', '#']).next().unwrap_or(path))
    }

    pub fn evidence(&self) -> Option<&str> {
        self.str("tracer.parent.evidence")
    }
}

/// Reads an OTLP JSON file: one `TracesData` object a line. Strict about the encoding's own rules.
pub fn read_file(path: &Path) -> anyhow::Result<Vec<Span>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text)
}

pub fn parse(text: &str) -> anyhow::Result<Vec<Span>> {
    let mut spans = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let data: Json =
            serde_json::from_str(line).with_context(|| format!("line {} is not JSON", number + 1))?;
        for resource_spans in list(&data, "resourceSpans")? {
            let resource = attributes(resource_spans.get("resource").unwrap_or(&Json::Null))?;
            for scope_spans in list(resource_spans, "scopeSpans")? {
                for span in list(scope_spans, "spans")? {
                    spans.push(
                        span_of(span, &resource)
                            .with_context(|| format!("line {}, span {span}", number + 1))?,
                    );
                }
            }
        }
    }
    Ok(spans)
}

fn span_of(span: &Json, resource: &BTreeMap<String, Json>) -> anyhow::Result<Span> {
    let parent = match span.get("parentSpanId").and_then(Json::as_str) {
        None | Some("") => None,
        Some(id) => Some(hex_id(id, 16)?),
    };
    Ok(Span {
        trace_id: hex_id(text(span, "traceId")?, 32)?,
        span_id: hex_id(text(span, "spanId")?, 16)?,
        parent,
        name: text(span, "name")?.to_owned(),
        kind: match span.get("kind").and_then(Json::as_u64) {
            Some(2) => Kind::Server,
            Some(3) => Kind::Client,
            Some(other) => Kind::Other(other),
            None => bail!("kind is not a number"),
        },
        start: nanos(span, "startTimeUnixNano")?,
        end: nanos(span, "endTimeUnixNano")?,
        attributes: attributes(span)?,
        resource: resource.clone(),
        trace_state: span.get("traceState").and_then(Json::as_str).unwrap_or("").to_owned(),
        flags: span.get("flags").and_then(Json::as_u64).unwrap_or(0),
        status: span.pointer("/status/code").and_then(Json::as_u64).unwrap_or(0),
    })
}

/// `attributes` of a span or a resource. An array value becomes a JSON array, a 64-bit integer a number.
fn attributes(owner: &Json) -> anyhow::Result<BTreeMap<String, Json>> {
    let mut found = BTreeMap::new();
    for attribute in list(owner, "attributes")? {
        let key = text(attribute, "key")?.to_owned();
        let value = attribute.get("value").with_context(|| format!("{key} has no value"))?;
        let value = any_value(value).with_context(|| key.clone())?;
        if found.insert(key.clone(), value).is_some() {
            bail!("attribute {key} twice");
        }
    }
    Ok(found)
}

fn any_value(value: &Json) -> anyhow::Result<Json> {
    let Some((kind, inner)) = value.as_object().and_then(|object| object.iter().next()) else {
        return Ok(Json::Null);
    };
    Ok(match kind.as_str() {
        "intValue" => {
            let digits = inner.as_str().context("a 64-bit integer is a string in OTLP JSON")?;
            Json::from(digits.parse::<i64>()?)
        }
        "arrayValue" => {
            Json::Array(list(inner, "values")?.iter().map(any_value).collect::<anyhow::Result<_>>()?)
        }
        "stringValue" | "boolValue" | "doubleValue" => inner.clone(),
        other => bail!("unexpected value kind {other}"),
    })
}

fn list<'a>(owner: &'a Json, key: &str) -> anyhow::Result<&'a [Json]> {
    match owner.get(key) {
        None => Ok(&[]),
        Some(Json::Array(items)) => Ok(items),
        Some(other) => bail!("{key} is not an array: {other}"),
    }
}

fn text<'a>(owner: &'a Json, key: &str) -> anyhow::Result<&'a str> {
    owner.get(key).and_then(Json::as_str).with_context(|| format!("{key} is not a string"))
}

fn nanos(span: &Json, key: &str) -> anyhow::Result<u64> {
    Ok(text(span, key)?.parse()?)
}

fn hex_id(id: &str, len: usize) -> anyhow::Result<String> {
    let lower_hex = id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if id.len() != len || !lower_hex || id.bytes().all(|b| b == b'0') {
        bail!("{id:?} is not a valid id of {len} hex digits");
    }
    Ok(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}},{"key":"process.pid","value":{"intValue":"42"}}]},"scopeSpans":[{"scope":{"name":"tracer"},"spans":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","parentSpanId":"","name":"GET","kind":3,"startTimeUnixNano":"1","endTimeUnixNano":"2","attributes":[{"key":"url.full","value":{"stringValue":"http://h:80/work/7?x=1"}}],"status":{}}]}]}]}"#;

    #[test]
    fn a_span_is_read_back() {
        let spans = parse(LINE).unwrap();
        let [span] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!((span.service(), span.pid(), span.kind), ("shop", 42, Kind::Client));
        assert_eq!((span.parent.as_deref(), span.path(), span.status), (None, Some("/work/7"), 0));
    }

    #[test]
    fn encoding_errors_are_refused() {
        for (good, bad) in [
            ("\"b7ad6b7169203331\"", "\"B7AD6B7169203331\""),
            ("\"b7ad6b7169203331\"", "\"0000000000000000\""),
            ("\"intValue\":\"42\"", "\"intValue\":42"),
            ("\"startTimeUnixNano\":\"1\"", "\"startTimeUnixNano\":1"),
        ] {
            assert!(LINE.contains(good));
            assert!(parse(&LINE.replace(good, bad)).is_err(), "{bad} was accepted");
        }
    }
}
