//! Spans straight to OTLP's binary form: field numbers of `opentelemetry/proto/{trace,resource,common}/v1/*.proto`.
//!
//! No message types in between: at 100,000 spans a second their allocations cost more than the bytes. Tests compare
//! every byte with what the protocol's own types make of the same span. Fields are written in the order of their
//! numbers, defaults are left out.

use tracer_core::span::{Attribute, Link, Parts, Resource, Span, SpanKind, Status, Value};

use super::super::facts::resource_attributes;
use super::super::{SCHEMA_URL, SCOPE_NAME, SCOPE_VERSION, span_flags};
use super::wire::{
    delimited, delimited_head, delimited_key, delimited_len, fixed32, fixed64, string, uint, varint_len,
};
use crate::clock::WallClock;

/// `Span.attributes`, `Span.Link.attributes` and `Resource.attributes`.
const SPAN_ATTRIBUTES: u8 = 9;
const LINK_ATTRIBUTES: u8 = 4;
const RESOURCE_ATTRIBUTES: u8 = 1;
/// `SpanKind`
const KIND_SERVER: u64 = 2;
const KIND_CLIENT: u64 = 3;
/// `Status.StatusCode`
const STATUS_ERROR: u64 = 2;

/// The content of a `Span`, appended.
pub(super) fn span(span: &Span, clock: WallClock, out: &mut Vec<u8>) {
    delimited(1, &span.trace_id.to_bytes(), out);
    delimited(2, &span.span_id.to_bytes(), out);
    if let Some(trace_state) = &span.trace_state {
        string(3, trace_state, out);
    }
    if let Some(parent) = &span.parent {
        delimited(4, &parent.span_id.to_bytes(), out);
    }
    string(5, &span.name, out);
    let kind = match span.kind {
        SpanKind::Server => KIND_SERVER,
        SpanKind::Client => KIND_CLIENT,
    };
    uint(6, kind, out);
    fixed64(7, clock.unix_nanos(span.start), out);
    fixed64(8, clock.unix_nanos(span.end), out);
    let Parts { before, common, after } = span.attributes.parts();
    span_attributes(before, out);
    if let Some(common) = common {
        out.extend_from_slice(common.encoded(span_attributes));
    }
    span_attributes(after, out);
    for link in &span.links {
        self::link(link, out);
    }
    match &span.status {
        Status::Unset => {}
        Status::Error { description } => {
            let message = description.as_deref().unwrap_or_default();
            let message_len = if message.is_empty() { 0 } else { delimited_len(message.len()) };
            delimited_head(delimited_key(15), message_len + 2, out);
            string(2, message, out);
            uint(3, STATUS_ERROR, out);
        }
    }
    fixed32(16, span_flags(span), out);
}

fn span_attributes(list: &[Attribute], out: &mut Vec<u8>) {
    for (key, value) in list {
        key_value(SPAN_ATTRIBUTES, key, value, out);
    }
}

/// `Span.links`
fn link(link: &Link, out: &mut Vec<u8>) {
    // Links are rare: another buffer is simpler than lengths beforehand.
    let mut content = Vec::new();
    delimited(1, &link.trace_id.to_bytes(), &mut content);
    delimited(2, &link.span_id.to_bytes(), &mut content);
    for (key, value) in &link.attributes {
        key_value(LINK_ATTRIBUTES, key, value, &mut content);
    }
    delimited(13, &content, out);
}

/// `ResourceSpans.resource`, key and length included.
pub(super) fn resource(resource: &Resource, host: &[(String, Value)]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in resource_attributes(resource, host) {
        key_value(RESOURCE_ATTRIBUTES, key, value, &mut content);
    }
    let mut out = Vec::with_capacity(delimited_len(content.len()));
    delimited(1, &content, &mut out);
    out
}

/// `ScopeSpans.scope`, key and length included.
pub(super) fn scope() -> Vec<u8> {
    let mut content = Vec::new();
    string(1, SCOPE_NAME, &mut content);
    string(2, SCOPE_VERSION, &mut content);
    let mut out = Vec::new();
    delimited(1, &content, &mut out);
    out
}

/// `ScopeSpans.schema_url`, and `ResourceSpans.schema_url` as well: both have the same number.
pub(super) fn schema_url(out: &mut Vec<u8>) {
    string(3, SCHEMA_URL, out);
}

/// A `KeyValue` as field `field`.
#[inline]
fn key_value(field: u8, key: &str, value: &Value, out: &mut Vec<u8>) {
    let value_len = any_value_len(value);
    let key_len = if key.is_empty() { 0 } else { delimited_len(key.len()) };
    let len = key_len + delimited_len(value_len);
    // As most are: every length takes one byte, and heads that follow each other are written together.
    if let (0..0x80, 1.., Value::Str(_) | Value::Int(_)) = (len, key_len, value) {
        out.extend_from_slice(&[delimited_key(field), len as u8, delimited_key(1), key.len() as u8]);
        out.extend_from_slice(key.as_bytes());
        let head = [delimited_key(2), value_len as u8];
        match value {
            Value::Str(text) => {
                let text = text.as_bytes();
                out.extend_from_slice(&[head[0], head[1], delimited_key(1), text.len() as u8]);
                out.extend_from_slice(text);
            }
            Value::Int(number) => {
                out.extend_from_slice(&head);
                uint(3, number.cast_unsigned(), out);
            }
            Value::Bool(_) | Value::StrArray(_) => {}
        }
        return;
    }
    delimited_head(delimited_key(field), len, out);
    string(1, key, out);
    delimited_head(delimited_key(2), value_len, out);
    any_value(value, out);
}

/// The length of an `AnyValue`. One of its fields is always there, even if it is empty.
#[inline]
fn any_value_len(value: &Value) -> usize {
    match value {
        Value::Str(text) => delimited_len(text.len()),
        Value::Int(number) => 1 + varint_len(number.cast_unsigned()),
        Value::Bool(_) => 2,
        Value::StrArray(items) => delimited_len(array_len(items)),
    }
}

#[inline]
fn any_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Str(text) => delimited(1, text.as_bytes(), out),
        Value::Int(number) => uint(3, number.cast_unsigned(), out),
        Value::Bool(truth) => uint(2, u64::from(*truth), out),
        Value::StrArray(items) => {
            delimited_head(delimited_key(5), array_len(items), out);
            for item in items {
                delimited_head(delimited_key(1), delimited_len(item.len()), out);
                delimited(1, item.as_bytes(), out);
            }
        }
    }
}

/// The length of an `ArrayValue`.
fn array_len(items: &[String]) -> usize {
    items.iter().map(|item| delimited_len(delimited_len(item.len()))).sum()
}
