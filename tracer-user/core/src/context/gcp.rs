//! Google Cloud's `X-Cloud-Trace-Context` (<https://cloud.google.com/trace/docs/trace-context>).
//!
//! `{trace id}[/{span id}][;o={options}]`: the trace id of 32 hexadecimal digits, the span id a decimal number, the
//! lowest bit of the options says sampled. Google's own front ends write an empty span id or empty options, too.

use super::Extracted;
use super::claim::{Claim, Format, Sampling};
use super::digits::{decimal, trace_id};
use super::fields::{Fields, Header, Refused};
use crate::span::SpanId;

pub(super) fn extract(fields: &Fields<'_>) -> Extracted {
    let Some(value) = fields.one(Header::CloudTraceContext)? else { return Ok(None) };
    parse(value).ok_or(Refused).map(Some)
}

fn parse(value: &[u8]) -> Option<Claim> {
    let (ids, sampling) = match value.iter().position(|&byte| byte == b';') {
        None => (value, Sampling::Unknown),
        Some(at) => match value[at..].strip_prefix(b";o=")? {
            b"" => (&value[..at], Sampling::Unknown),
            options => {
                let options = decimal(options).filter(|options| *options <= u64::from(u8::MAX))?;
                (&value[..at], Sampling::from_flag(options & 1 != 0))
            }
        },
    };
    let (trace, span) = match ids.iter().position(|&byte| byte == b'/') {
        None => (ids, &b""[..]),
        Some(at) => (&ids[..at], &ids[at + 1..]),
    };
    let trace_id = trace_id((trace.len() == 32).then_some(trace)?)?;
    // 0 is the span id of a caller that has no span.
    let span = if span.is_empty() { 0 } else { decimal(span)? };
    Some(Claim {
        format: Format::Gcp,
        trace_id: Some(trace_id),
        span_id: SpanId::new(span.to_be_bytes()),
        sampling,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::said;

    const TRACE: &str = "105445aa7843bc8bf206b12000100000";

    fn check(value: &str, want: &str) {
        assert_eq!(said(&[("X-Cloud-Trace-Context", value)]), want, "{value:?}");
    }

    #[test]
    fn with_and_without_span_and_options() {
        check(&format!("{TRACE}/67667974448284343;o=1"), &format!("{TRACE}-00f067aa0ba902b7-1"));
        check(&format!("{TRACE}/1;o=0"), &format!("{TRACE}-0000000000000001-0"));
        check(&format!("{TRACE}/1;o=2"), &format!("{TRACE}-0000000000000001-0"));
        check(&format!("{TRACE}/1;o=3"), &format!("{TRACE}-0000000000000001-1"));
        check(&format!("{TRACE}/18446744073709551615"), &format!("{TRACE}-ffffffffffffffff-?"));
        check(&format!("{TRACE}/1;o="), &format!("{TRACE}-0000000000000001-?"));
        check(&format!("{TRACE}/0;o=1"), &format!("{TRACE}--1"));
        check(&format!("{TRACE}/;o=1"), &format!("{TRACE}--1"));
        check(&format!("{TRACE}/"), &format!("{TRACE}--?"));
        check(&format!("{TRACE};o=0"), &format!("{TRACE}--0"));
        check(TRACE, &format!("{TRACE}--?"));
        check(&TRACE.to_uppercase(), &format!("{TRACE}--?"));
    }

    #[test]
    fn what_is_not_of_the_format() {
        for malformed in [
            "",
            "/1;o=1",
            &format!("{}/1;o=1", &TRACE[1..]),
            &format!("{TRACE}0/1;o=1"),
            &format!("{}/1;o=1", "0".repeat(32)),
            &format!("{TRACE}/00f067aa0ba902b7;o=1"),
            &format!("{TRACE}/18446744073709551616"),
            &format!("{TRACE}/-1"),
            &format!("{TRACE}/1;o=x"),
            &format!("{TRACE}/1;o=256"),
            &format!("{TRACE}/1;p=1"),
            &format!("{TRACE}/1;"),
            &format!("{TRACE}/1;o=1;o=0"),
            &format!("{TRACE}/1/2;o=1"),
        ] {
            check(malformed, "refused");
        }
    }
}
