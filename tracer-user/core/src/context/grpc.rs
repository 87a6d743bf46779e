//! OpenCensus's binary format in gRPC's `grpc-trace-bin`
//! (<https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md>).
//!
//! ```text
//! version = 0 | field 0, 16 bytes: trace id | field 1, 8 bytes: span id | field 2, 1 byte: options
//! ```
//!
//! Fields come in this order; behind one that is not known nothing can be read, so that the rest is left. On the wire
//! a header whose name ends in `-bin` is base64, padded or not (gRPC over HTTP/2, "Custom-Metadata").

use super::claim::{Claim, Format, Sampling};
use super::fields::{Fields, Header, Refused};
use super::{Extracted, base64};
use crate::span::{SpanId, TraceId};

/// What version 0 has is 29 bytes; more is left for fields to come.
const MAX_BYTES: usize = 256;

pub(super) fn extract(fields: &Fields<'_>) -> Extracted {
    let Some(value) = fields.one(Header::GrpcTraceBin)? else { return Ok(None) };
    let bytes = base64::decode(value, MAX_BYTES).ok_or(Refused)?;
    parse(&bytes).ok_or(Refused).map(Some)
}

/// Reads the bytes of the header, without base64.
pub(super) fn parse(bytes: &[u8]) -> Option<Claim> {
    let rest = bytes.strip_prefix(&[0])?;
    let (trace, rest) = rest.strip_prefix(&[0])?.split_first_chunk::<16>()?;
    let trace_id = TraceId::new(*trace)?;
    let mut claim = Claim {
        format: Format::OpenCensus,
        trace_id: Some(trace_id),
        span_id: None,
        sampling: Sampling::Unknown,
    };
    let rest = match rest.strip_prefix(&[1]) {
        Some(field) => {
            let (span, rest) = field.split_first_chunk::<8>()?;
            claim.span_id = Some(SpanId::new(*span)?);
            rest
        }
        None => rest,
    };
    if let Some(field) = rest.strip_prefix(&[2]) {
        claim.sampling = Sampling::from_flag(field.first()? & 1 != 0);
    }
    Some(claim)
}

#[cfg(test)]
mod tests {
    use super::super::testing::said;
    use super::*;

    const TRACE: [u8; 16] = *b"\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36";
    const SPAN: [u8; 8] = *b"\x00\xf0\x67\xaa\x0b\xa9\x02\xb7";
    const TEXT: &str = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";

    fn check(bytes: &[&[u8]], want: Option<&str>) {
        let bytes = bytes.concat();
        assert_eq!(parse(&bytes).map(|claim| claim.to_string()).as_deref(), want, "{bytes:?}");
    }

    #[test]
    fn fields_as_far_as_they_are_known() {
        let all: &[&[u8]] = &[&[0, 0], &TRACE, &[1], &SPAN, &[2, 1]];
        check(all, Some(&format!("{TEXT}-1")));
        check(&[&[0, 0], &TRACE, &[1], &SPAN, &[2, 0]], Some(&format!("{TEXT}-0")));
        check(&[&[0, 0], &TRACE, &[1], &SPAN], Some(&format!("{TEXT}-?")));
        check(&[&[0, 0], &TRACE, &[1], &SPAN, &[2, 1, 7, 7]], Some(&format!("{TEXT}-1")));
        check(&[&[0, 0], &TRACE, &[1], &SPAN, &[7, 2, 0]], Some(&format!("{TEXT}-?")));
        check(&[&[0, 0], &TRACE, &[2, 0]], Some("4bf92f3577b34da6a3ce929d0e0e4736--0"));
        check(&[&[0, 0], &TRACE], Some("4bf92f3577b34da6a3ce929d0e0e4736--?"));
        let whole = all.concat();
        for len in 0..whole.len() {
            // A field is there in whole or not at all.
            let fits = matches!(len, 18 | 27);
            assert_eq!(parse(&whole[..len]).is_some(), fits, "{len} bytes");
        }
        check(&[&[1, 0], &TRACE, &[1], &SPAN], None);
        check(&[&[0, 1], &SPAN, &[0], &TRACE], None);
        check(&[&[0, 0], &[0; 16], &[1], &SPAN], None);
        check(&[&[0, 0], &TRACE, &[1], &[0; 8]], None);
    }

    #[test]
    fn base64_with_padding_and_without() {
        let value = "AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE";
        for value in [value.to_owned(), format!("{value}=")] {
            assert_eq!(said(&[("grpc-trace-bin", &value)]), format!("{TEXT}-1"), "{value}");
        }
        for malformed in
            ["", "AA", "AABL", "AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE==", &value.replace('+', "-")]
        {
            assert_eq!(said(&[("grpc-trace-bin", malformed)]), "refused", "{malformed}");
        }
        assert_eq!(said(&[("grpc-trace-bin", &format!("AAA{}", "A".repeat(1000)))]), "refused");
        assert_eq!(said(&[("grpc-trace-bin", &format!("{value},{value}"))]), "refused");
    }
}
