//! B3, Zipkin's format, in one header (`b3`) and in several (`X-B3-…`)
//! (<https://github.com/openzipkin/b3-propagation>).
//!
//! Both can carry a sampling decision alone, for a trace that the callee is to begin. The parent of the caller's span
//! is checked and not used: it is no parent of what is seen here. Digits may be of either case: the specification
//! writes lower-case ones, and servers in use read both.

use super::Extracted;
use super::claim::{Claim, Format, Sampling};
use super::digits::{decimal, hex, span_id, trace_id};
use super::fields::{Fields, Header, Refused};
use crate::span::{SpanId, TraceId};

/// `{trace id}-{span id}[-{sampling}[-{parent span id}]]`, or `{sampling}`.
pub(super) fn extract_single(fields: &Fields<'_>) -> Extracted {
    let Some(value) = fields.one(Header::B3)? else { return Ok(None) };
    parse_single(value).ok_or(Refused).map(Some)
}

fn parse_single(value: &[u8]) -> Option<Claim> {
    let mut parts = value.split(|&byte| byte == b'-');
    let first = parts.next()?;
    let Some(span) = parts.next() else {
        return Some(Claim { format: Format::B3, trace_id: None, span_id: None, sampling: decision(first)? });
    };
    let (trace_id, span_id) = (trace(first)?, self::span(span)?);
    let sampling = parts.next().map_or(Some(Sampling::Unknown), decision)?;
    if let Some(parent) = parts.next() {
        hex(parent, 16..=16)?;
    }
    parts.next().is_none().then_some(Claim {
        format: Format::B3,
        trace_id: Some(trace_id),
        span_id: Some(span_id),
        sampling,
    })
}

fn decision(text: &[u8]) -> Option<Sampling> {
    match text {
        b"0" => Some(Sampling::No),
        b"1" => Some(Sampling::Yes),
        b"d" => Some(Sampling::Debug),
        _ => None,
    }
}

pub(super) fn extract_multi(fields: &Fields<'_>) -> Extracted {
    let (trace, span) = (fields.one(Header::B3TraceId)?, fields.one(Header::B3SpanId)?);
    let (sampled, flags) = (fields.one(Header::B3Sampled)?, fields.one(Header::B3Flags)?);
    if let Some(parent) = fields.one(Header::B3ParentSpanId)? {
        hex(parent, 16..=16).ok_or(Refused)?;
    }
    let sampled = match sampled {
        None => Sampling::Unknown,
        // Words are what implementations sent before there was a specification.
        Some(b"1" | b"true") => Sampling::Yes,
        Some(b"0" | b"false") => Sampling::No,
        Some(_) => return Err(Refused),
    };
    // A number whose lowest bit says debug; it implies that the trace is sampled.
    let debug = flags.map_or(Ok(false), |flags| decimal(flags).map(|flags| flags & 1 != 0).ok_or(Refused))?;
    let sampling = if debug { Sampling::Debug } else { sampled };
    let ids = match (trace, span) {
        (Some(trace), Some(span)) => {
            Some((self::trace(trace).ok_or(Refused)?, self::span(span).ok_or(Refused)?))
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(Refused),
    };
    let claim = Claim {
        format: Format::B3Multi,
        trace_id: ids.map(|(trace, _)| trace),
        span_id: ids.map(|(_, span)| span),
        sampling,
    };
    Ok((ids.is_some() || sampling.is_known()).then_some(claim))
}

/// 64 or 128 bits.
fn trace(digits: &[u8]) -> Option<TraceId> {
    let is_id = matches!(digits.len(), 16 | 32);
    trace_id(is_id.then_some(digits)?)
}

fn span(digits: &[u8]) -> Option<SpanId> {
    span_id((digits.len() == 16).then_some(digits)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::said;

    const LONG: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SHORT: &str = "64fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    fn check_single(value: &str, want: &str) {
        assert_eq!(said(&[("b3", value)]), want, "{value:?}");
    }

    #[test]
    fn single() {
        let span = format!("{LONG}-{SPAN}");
        check_single(&span, &format!("{span}-?"));
        check_single(&format!("{span}-1"), &format!("{span}-1"));
        check_single(&format!("{span}-0"), &format!("{span}-0"));
        check_single(&format!(" {span}-d\t"), &format!("{span}-d"));
        check_single(&format!("{span}-1-05e3ac9a4f6e3b90"), &format!("{span}-1"));
        check_single(&format!("{SHORT}-{SPAN}-1"), &format!("0000000000000000{SHORT}-{SPAN}-1"));
        check_single(&format!("{}-1", span.to_uppercase()), &format!("{span}-1"));
        for decision in ["0", "1", "d"] {
            check_single(decision, decision);
        }
        for malformed in [
            "",
            "-",
            "D",
            "2",
            "true",
            LONG,
            &format!("{LONG}-"),
            &format!("{LONG}{SPAN}"),
            &format!("{span}-"),
            &format!("{span}-2"),
            &format!("{span}-d-"),
            &format!("{span}-05e3ac9a4f6e3b90"),
            &format!("{span}-1-05e3ac9a4f6e3b9"),
            &format!("{span}-1-05e3ac9a4f6e3b90-"),
            &format!("{}-{SPAN}-1", &LONG[1..]),
            &format!("0{LONG}-{SPAN}-1"),
            &format!("{LONG}-{}-1", &SPAN[1..]),
            &format!("{}-{SPAN}-1", "0".repeat(32)),
            &format!("{LONG}-0000000000000000-1"),
            &format!("{LONG}-{SPAN} -1"),
            &format!("x{}-{SPAN}-1", &LONG[1..]),
        ] {
            check_single(malformed, "refused");
        }
    }

    #[test]
    fn several_headers() {
        let ids = [("X-B3-TraceId", LONG), ("X-B3-SpanId", SPAN)];
        let with = |more: &[(&'static str, &'static str)]| said(&[&ids, more].concat());
        assert_eq!(with(&[]), format!("{LONG}-{SPAN}-?"));
        for (more, decision) in [
            (&[("x-b3-sampled", "1")][..], "1"),
            (&[("x-b3-sampled", "true")], "1"),
            (&[("x-b3-sampled", "0")], "0"),
            (&[("x-b3-sampled", "false")], "0"),
            (&[("x-b3-flags", "1")], "d"),
            (&[("x-b3-flags", "0")], "?"),
            (&[("x-b3-flags", "6")], "?"),
            (&[("x-b3-flags", "1"), ("x-b3-sampled", "0")], "d"),
            (&[("x-b3-flags", "0"), ("x-b3-sampled", "0")], "0"),
            (&[("X-B3-PARENTSPANID", "05e3ac9a4f6e3b90"), ("x-b3-sampled", "1")], "1"),
        ] {
            assert_eq!(with(more), format!("{LONG}-{SPAN}-{decision}"), "{more:?}");
        }
        for more in [
            &[("x-b3-sampled", "yes")][..],
            &[("x-b3-sampled", "")],
            &[("x-b3-flags", "x")],
            &[("x-b3-parentspanid", "0")],
            &[("x-b3-traceid", LONG)],
        ] {
            assert_eq!(with(more), "refused", "{more:?}");
        }
        assert_eq!(said(&[("x-b3-sampled", "0")]), "0");
        assert_eq!(said(&[("x-b3-flags", "1")]), "d");
        assert_eq!(said(&[("x-b3-flags", "0")]), "");
        assert_eq!(said(&[("x-b3-parentspanid", SPAN)]), "");
        assert_eq!(said(&[ids[0]]), "refused");
        assert_eq!(said(&[ids[1]]), "refused");
        assert_eq!(said(&[("x-b3-traceid", "0000000000000000"), ids[1]]), "refused");
        let short = [("x-b3-traceid", SHORT), ids[1]];
        assert_eq!(said(&short), format!("0000000000000000{SHORT}-{SPAN}-?"));
    }
}
