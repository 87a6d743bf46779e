//! What the text outputs read off a span: the same facts, found in one place.

use std::borrow::Cow;

use opentelemetry_semantic_conventions::attribute as semconv;
use tracer_core::attributes::keys;
use tracer_core::span::{Link, Resource, Span, Value};

pub(super) trait SpanFacts {
    fn text(&self, key: &str) -> Option<&str>;
    fn int(&self, key: &str) -> Option<i64>;
    fn method(&self) -> &str;
    /// Path and query, without scheme and authority.
    fn target(&self) -> Cow<'_, str>;
    /// Where a call went: `host:port` of its URL.
    fn authority(&self) -> Option<&str>;
    fn status_code(&self) -> Option<i64>;
    fn error_type(&self) -> Option<&str>;
    fn incomplete(&self) -> Option<&str>;
}

impl SpanFacts for Span {
    fn text(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find_map(|(name, value)| match value {
            Value::Str(text) if *name == key => Some(text.as_str()),
            Value::Str(_) | Value::Int(_) | Value::Bool(_) | Value::StrArray(_) => None,
        })
    }

    fn int(&self, key: &str) -> Option<i64> {
        self.attributes.iter().find_map(|(name, value)| match value {
            Value::Int(number) if *name == key => Some(*number),
            Value::Str(_) | Value::Int(_) | Value::Bool(_) | Value::StrArray(_) => None,
        })
    }

    fn method(&self) -> &str {
        let original = self.text(semconv::HTTP_REQUEST_METHOD_ORIGINAL);
        original.or_else(|| self.text(semconv::HTTP_REQUEST_METHOD)).unwrap_or(&self.name)
    }

    fn target(&self) -> Cow<'_, str> {
        if let Some(path) = self.text(semconv::URL_PATH) {
            return match self.text(semconv::URL_QUERY) {
                Some(query) => format!("{path}?{query}").into(),
                None => path.into(),
            };
        }
        let Some(url) = self.text(semconv::URL_FULL) else { return "".into() };
        let after_scheme = url.find("://").map_or(url, |at| &url[at + 3..]);
        after_scheme.find(['/', '?']).map_or("/", |at| &after_scheme[at..]).into()
    }

    fn authority(&self) -> Option<&str> {
        let (_, after_scheme) = self.text(semconv::URL_FULL)?.split_once("://")?;
        after_scheme.split(['/', '?']).next()
    }

    fn status_code(&self) -> Option<i64> {
        self.int(semconv::HTTP_RESPONSE_STATUS_CODE)
    }

    fn error_type(&self) -> Option<&str> {
        self.text(semconv::ERROR_TYPE)
    }

    fn incomplete(&self) -> Option<&str> {
        self.text(keys::INCOMPLETE)
    }
}

pub(super) trait LinkFacts {
    /// Why the linked span may be the cause.
    fn evidence(&self) -> &str;
}

impl LinkFacts for Link {
    fn evidence(&self) -> &str {
        let evidence = self.attributes.iter().find(|(key, _)| *key == keys::CANDIDATE_EVIDENCE);
        match evidence {
            Some((_, Value::Str(text))) => text,
            Some((_, Value::Int(_) | Value::Bool(_) | Value::StrArray(_))) | None => "-",
        }
    }
}

/// The resource's attributes, then those of the host that it does not have itself.
pub(super) fn resource_attributes<'a>(
    resource: &'a Resource,
    host: &'a [(String, Value)],
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let own = resource.attributes.iter();
    let added = host.iter().filter(|(key, _)| !resource.attributes.iter().any(|(own, _)| own == key));
    own.chain(added).map(|(key, value)| (key.as_str(), value))
}
