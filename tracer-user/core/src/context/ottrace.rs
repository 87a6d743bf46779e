//! The headers of OpenTracing's basic tracers: `ot-tracer-traceid`, `ot-tracer-spanid`, `ot-tracer-sampled`
//! (<https://opentelemetry.io/docs/specs/otel/context/api-propagators/>, "OT Trace").
//!
//! Ids are hexadecimal. There is no specification: some clients send the digits of a number, without leading zeros,
//! and trace ids of 64 or 128 bits; the decision is a word or a digit.

use super::Extracted;
use super::claim::{Claim, Format, Sampling};
use super::digits::{span_id, trace_id};
use super::fields::{Fields, Header, Refused};

pub(super) fn extract(fields: &Fields<'_>) -> Extracted {
    let (trace, span) = (fields.one(Header::OtTraceId)?, fields.one(Header::OtSpanId)?);
    let sampling = match fields.one(Header::OtSampled)? {
        None => Sampling::Unknown,
        Some(b"true" | b"1") => Sampling::Yes,
        Some(b"false" | b"0") => Sampling::No,
        Some(_) => return Err(Refused),
    };
    let (trace, span) = match (trace, span) {
        (Some(trace), Some(span)) => (trace, span),
        // Without ids the decision is about nothing: the format does not send it alone.
        (None, None) => return Ok(None),
        (Some(_), None) | (None, Some(_)) => return Err(Refused),
    };
    Ok(Some(Claim {
        format: Format::OtTrace,
        trace_id: Some(trace_id(trace).ok_or(Refused)?),
        span_id: Some(span_id(span).ok_or(Refused)?),
        sampling,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::said;

    fn check(trace: &str, span: &str, sampled: Option<&str>, want: &str) {
        let mut headers = vec![("ot-tracer-traceid", trace), ("Ot-Tracer-SpanId", span)];
        headers.extend(sampled.map(|sampled| ("ot-tracer-sampled", sampled)));
        assert_eq!(said(&headers), want, "{headers:?}");
    }

    #[test]
    fn ids_and_decisions() {
        let (short, long) = ("64fe8b2a57d3eff7", "80f198ee56343ba864fe8b2a57d3eff7");
        let span = "e457b5a2e4d86bd1";
        for (sampled, decision) in
            [(None, "?"), (Some("true"), "1"), (Some("1"), "1"), (Some("false"), "0"), (Some("0"), "0")]
        {
            check(short, span, sampled, &format!("0000000000000000{short}-{span}-{decision}"));
            check(long, span, sampled, &format!("{long}-{span}-{decision}"));
        }
        check("4fe8b2a57d3eff7", "1", None, "000000000000000004fe8b2a57d3eff7-0000000000000001-?");
    }

    #[test]
    fn what_is_not_of_the_format() {
        for (trace, span, sampled) in [
            ("", "1", None),
            ("0", "1", None),
            ("1", "0", None),
            ("1", "", None),
            ("1", "x", None),
            ("g", "1", None),
            ("1", "10000000000000000", None),
            ("100000000000000000000000000000000", "1", None),
            ("1", "1", Some("yes")),
            ("1", "1", Some("")),
        ] {
            check(trace, span, sampled, "refused");
        }
        assert_eq!(said(&[("ot-tracer-traceid", "1")]), "refused");
        assert_eq!(said(&[("ot-tracer-spanid", "1")]), "refused");
        assert_eq!(said(&[("ot-tracer-sampled", "false")]), "");
    }
}
