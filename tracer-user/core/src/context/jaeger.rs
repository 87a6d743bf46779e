//! Jaeger's `uber-trace-id` (<https://www.jaegertracing.io/sdk-migration/>, "Propagation Format").
//!
//! `{trace id}:{span id}:{parent span id}:{flags}`, all hexadecimal. Leading zeros may be missing: short ids are
//! padded on the left. Clients may send the colons URL-encoded. The third part is not used any more and only checked.

use super::Extracted;
use super::claim::{Claim, Format, Sampling};
use super::digits::{hex, span_id, trace_id};
use super::fields::{Fields, Header, Refused};

const SAMPLED: u128 = 1;
/// Not to be thrown away by any sampler.
const DEBUG: u128 = 2;

pub(super) fn extract(fields: &Fields<'_>) -> Extracted {
    let Some(value) = fields.one(Header::UberTraceId)? else { return Ok(None) };
    parse(value).ok_or(Refused).map(Some)
}

fn parse(value: &[u8]) -> Option<Claim> {
    let (trace, rest) = split_colon(value)?;
    let (span, rest) = split_colon(rest)?;
    let (parent, flags) = split_colon(rest)?;
    hex(parent, 1..=16)?;
    let flags = hex(flags, 1..=2)?;
    let sampling = match flags {
        flags if flags & DEBUG != 0 => Sampling::Debug,
        flags => Sampling::from_flag(flags & SAMPLED != 0),
    };
    Some(Claim {
        format: Format::Jaeger,
        trace_id: Some(trace_id(trace)?),
        span_id: Some(span_id(span)?),
        sampling,
    })
}

/// At the first colon, as itself or URL-encoded.
fn split_colon(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = value.iter().position(|byte| matches!(byte, b':' | b'%'))?;
    let (before, rest) = value.split_at(at);
    let after = match rest {
        [b':', after @ ..] | [b'%', b'3', b'A' | b'a', after @ ..] => after,
        _ => return None,
    };
    Some((before, after))
}

#[cfg(test)]
mod tests {
    use super::super::testing::said;

    const TRACE: &str = "000000000000000000000000deadbeef";

    fn check(value: &str, want: &str) {
        assert_eq!(said(&[("Uber-Trace-Id", value)]), want, "{value:?}");
    }

    #[test]
    fn ids_of_any_length_and_flags() {
        check("deadbeef:1f:0:1", &format!("{TRACE}-000000000000001f-1"));
        check("DEADBEEF:1F:0:1", &format!("{TRACE}-000000000000001f-1"));
        check(&format!("{TRACE}:00f067aa0ba902b7:0:0"), &format!("{TRACE}-00f067aa0ba902b7-0"));
        check("deadbeef:1f:0:2", &format!("{TRACE}-000000000000001f-d"));
        check("deadbeef:1f:0:03", &format!("{TRACE}-000000000000001f-d"));
        check("deadbeef:1f:0:0d", &format!("{TRACE}-000000000000001f-1"));
        check("deadbeef:1f:abc:01", &format!("{TRACE}-000000000000001f-1"));
        check("deadbeef%3A1f%3a0:1", &format!("{TRACE}-000000000000001f-1"));
        check("14bf92f3577b34da6:1:0:1", "00000000000000014bf92f3577b34da6-0000000000000001-1");
    }

    #[test]
    fn what_is_not_of_the_format() {
        for malformed in [
            "",
            "deadbeef",
            "deadbeef:1f",
            "deadbeef:1f:0",
            "deadbeef:1f:0:",
            "deadbeef:1f::1",
            "deadbeef::0:1",
            ":1f:0:1",
            "0:1f:0:1",
            "deadbeef:0:0:1",
            "deadbeef:1f:0:1:",
            "deadbeef:1f:0:100",
            "deadbeef:1f:0:x",
            "deadbeef: 1f:0:1",
            "deadbeef:-1f:0:1",
            "0xdeadbeef:1f:0:1",
            "deadbeef%3B1f:0:1",
            "deadbeef%3",
            "deadbeef:11f067aa0ba902b71:0:1",
            "1000000000000000000000000deadbeef:1f:0:1",
        ] {
            check(malformed, "refused");
        }
        assert_eq!(said(&[("uber-trace-id", "a:1:0:1"), ("uber-trace-id", "a:1:0:1")]), "refused");
    }
}
