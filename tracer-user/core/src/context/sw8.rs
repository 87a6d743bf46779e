//! SkyWalking's `sw8`
//! (<https://skywalking.apache.org/docs/main/next/en/api/x-process-propagation-headers-v3/>).
//!
//! `{sample}-{trace id}-{segment id}-{span id}-{service}-{instance}-{endpoint}-{peer}`, all texts in base64.
//!
//! Its ids do not map: a trace id is any text, and a span is named by a segment's text and a number within it. So it
//! never names a parent, and no link either, which would need ids of 16 and 8 bytes. A trace id of 32 hexadecimal
//! digits is taken as one; the texts become attributes, so that a trace can be looked up where it is known by them.
//! What the caller says of itself (service, instance, endpoint, peer) is not looked at.

use super::base64;
use super::claim::{Claim, Format, Sampling};
use super::digits::{decimal, trace_id};
use super::fields::{Fields, Header, Refused};

/// "The length of header value must be less than 2k."
const MAX_BYTES: usize = 2048;

/// Agents make ids of about 60 characters.
const MAX_ID_BYTES: usize = 128;

/// A span of SkyWalking's: printable ASCII without spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkyWalkingSpan {
    pub trace_id: String,
    pub segment_id: String,
    /// Within the segment.
    pub span_id: u32,
}

pub(super) fn extract(fields: &Fields<'_>) -> Result<Option<(Claim, SkyWalkingSpan)>, Refused> {
    let Some(value) = fields.one(Header::Sw8)? else { return Ok(None) };
    parse(value).ok_or(Refused).map(Some)
}

fn parse(value: &[u8]) -> Option<(Claim, SkyWalkingSpan)> {
    if value.len() >= MAX_BYTES {
        return None;
    }
    let mut parts = value.split(|&byte| byte == b'-');
    let sampling = match parts.next()? {
        b"0" => Sampling::No,
        b"1" => Sampling::Yes,
        _ => return None,
    };
    let span = SkyWalkingSpan {
        trace_id: text(parts.next()?)?,
        segment_id: text(parts.next()?)?,
        span_id: u32::try_from(decimal(parts.next()?)?).ok()?,
    };
    if parts.count() != 4 {
        return None;
    }
    let id = if span.trace_id.len() == 32 { trace_id(span.trace_id.as_bytes()) } else { None };
    Some((Claim { format: Format::Sw8, trace_id: id, span_id: None, sampling }, span))
}

fn text(encoded: &[u8]) -> Option<String> {
    let bytes = base64::decode(encoded, MAX_ID_BYTES)?;
    let is_id = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
    String::from_utf8(bytes).ok().filter(|_| is_id)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{carried, said};
    use super::*;

    /// `a4ec6fc8ccab4bb4b682064698cc97e6.74.16218381104550009`, and the same with an 8 at its end.
    const TRACE: &str = "YTRlYzZmYzhjY2FiNGJiNGI2ODIwNjQ2OThjYzk3ZTYuNzQuMTYyMTgzODExMDQ1NTAwMDk=";
    const SEGMENT: &str = "YTRlYzZmYzhjY2FiNGJiNGI2ODIwNjQ2OThjYzk3ZTYuNzQuMTYyMTgzODExMDQ1NTAwMDg=";
    /// Service, instance, endpoint and peer.
    const REST: &str = "c2hvcA==-c2hvcEAxMC4wLjAuMQ==-L2NhcnQ=-MTAuMC4wLjI6ODA=";

    fn check(value: &str, want: &str) {
        assert_eq!(said(&[("sw8", value)]), want, "{value:?}");
    }

    #[test]
    fn ids_are_texts() {
        let value = format!("1-{TRACE}-{SEGMENT}-2-{REST}");
        check(&value, "1");
        check(&format!("0-{TRACE}-{SEGMENT}-2-{REST}"), "0");
        check(&format!("1-{TRACE}-{SEGMENT}-2----"), "1");
        let want = SkyWalkingSpan {
            trace_id: "a4ec6fc8ccab4bb4b682064698cc97e6.74.16218381104550009".to_owned(),
            segment_id: "a4ec6fc8ccab4bb4b682064698cc97e6.74.16218381104550008".to_owned(),
            span_id: 2,
        };
        assert_eq!(carried(&[("sw8", &value)]).sky_walking, Some(want));
    }

    #[test]
    fn a_trace_id_that_looks_like_one_is_one() {
        // 4bf92f3577b34da6a3ce929d0e0e4736
        let hex = "NGJmOTJmMzU3N2IzNGRhNmEzY2U5MjlkMGUwZTQ3MzY=";
        check(&format!("1-{hex}-{SEGMENT}-0-{REST}"), "4bf92f3577b34da6a3ce929d0e0e4736--1");
        let zeros = "MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=";
        check(&format!("1-{zeros}-{SEGMENT}-0-{REST}"), "1");
    }

    #[test]
    fn what_is_not_of_the_format() {
        for malformed in [
            "",
            "1",
            &format!("2-{TRACE}-{SEGMENT}-2-{REST}"),
            &format!("-{TRACE}-{SEGMENT}-2-{REST}"),
            &format!("1--{SEGMENT}-2-{REST}"),
            &format!("1-{TRACE}--2-{REST}"),
            &format!("1-{TRACE}-{SEGMENT}--{REST}"),
            &format!("1-{TRACE}-{SEGMENT}-x-{REST}"),
            &format!("1-{TRACE}-{SEGMENT}-4294967296-{REST}"),
            &format!("1-{TRACE}-{SEGMENT}-2"),
            &format!("1-{TRACE}-{SEGMENT}-2-{REST}-"),
            &format!("1-*{TRACE}-{SEGMENT}-2-{REST}"),
            // A line end.
            &format!("1-Cg==-{SEGMENT}-2-{REST}"),
            &format!("1-{}-{SEGMENT}-2-{REST}", "YWFh".repeat(43)),
            &format!("1-{TRACE}-{SEGMENT}-2-{REST}{}", "A".repeat(MAX_BYTES)),
        ] {
            check(malformed, "refused");
        }
    }
}
