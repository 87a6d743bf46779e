//! AWS X-Ray's `X-Amzn-Trace-Id`
//! (<https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader>).
//!
//! `Root=1-{8 digits}-{24 digits};Parent={16 digits};Sampled={0|1|?}`, in any order and with other fields between. A
//! load balancer that begins a trace names no parent. `Sampled=?` leaves the decision to the callee.

use super::Extracted;
use super::claim::{Claim, Format, Sampling};
use super::digits::{hex, span_id};
use super::fields::{Fields, Header, Refused, trim};
use crate::span::TraceId;

pub(super) fn extract(fields: &Fields<'_>) -> Extracted {
    let Some(value) = fields.one(Header::AmznTraceId)? else { return Ok(None) };
    parse(value).ok_or(Refused).map(Some)
}

fn parse(value: &[u8]) -> Option<Claim> {
    let (mut root, mut parent, mut sampled) = (None, None, None);
    for field in value.split(|&byte| byte == b';').map(trim).filter(|field| !field.is_empty()) {
        let equals = field.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&field[..equals], &field[equals + 1..]);
        let known = match key {
            b"Root" => &mut root,
            b"Parent" => &mut parent,
            b"Sampled" => &mut sampled,
            _ => continue,
        };
        if known.replace(value).is_some() {
            return None;
        }
    }
    let sampling = match sampled {
        None | Some(b"?") => Sampling::Unknown,
        Some(b"0") => Sampling::No,
        Some(b"1") => Sampling::Yes,
        Some(_) => return None,
    };
    let (trace_id, span_id) = match (root, parent) {
        (Some(root), None) => (Some(trace(root)?), None),
        (Some(root), Some(parent)) if parent.len() == 16 => (Some(trace(root)?), Some(span_id(parent)?)),
        (None, None) if sampling.is_known() => (None, None),
        (_, Some(_)) | (None, None) => return None,
    };
    Some(Claim { format: Format::XRay, trace_id, span_id, sampling })
}

/// Version 1, seconds of its beginning, and 96 random bits: together the 128 bits of an id.
fn trace(root: &[u8]) -> Option<TraceId> {
    let (time, random) = root.strip_prefix(b"1-")?.split_at_checked(8)?;
    let (time, random) = (hex(time, 8..=8)?, hex(random.strip_prefix(b"-")?, 24..=24)?);
    TraceId::new((time << 96 | random).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::testing::said;

    const ROOT: &str = "Root=1-5759e988-bd862e3fe1be46a994272793";
    const TRACE: &str = "5759e988bd862e3fe1be46a994272793";
    const SPAN: &str = "53995c3f42cd8ad8";

    fn check(value: &str, want: &str) {
        assert_eq!(said(&[("X-Amzn-Trace-Id", value)]), want, "{value:?}");
    }

    #[test]
    fn fields_in_any_order_with_others_between() {
        check(&format!("{ROOT};Parent={SPAN};Sampled=1"), &format!("{TRACE}-{SPAN}-1"));
        check(&format!("Sampled=0;{ROOT};Parent={SPAN}"), &format!("{TRACE}-{SPAN}-0"));
        check(&format!("{ROOT};Parent={SPAN};Sampled=?"), &format!("{TRACE}-{SPAN}-?"));
        check(&format!("{ROOT}; Parent={SPAN} ;"), &format!("{TRACE}-{SPAN}-?"));
        check(&format!("Self=1-67891234-abcdef012345678912345678;{ROOT}"), &format!("{TRACE}--?"));
        check(
            &format!("{ROOT};Parent={SPAN};Sampled=0;Lineage=12326a9d:0;CalledFrom=app"),
            &format!("{TRACE}-{SPAN}-0"),
        );
        check(ROOT, &format!("{TRACE}--?"));
        check(&format!("{ROOT};Sampled=1"), &format!("{TRACE}--1"));
        check("Sampled=0", "0");
    }

    #[test]
    fn what_is_not_of_the_format() {
        for malformed in [
            "",
            ";",
            "Root=;",
            "Root",
            "Self=1-67891234-abcdef012345678912345678",
            "Sampled=?",
            &format!("Parent={SPAN}"),
            &format!("{ROOT};Parent="),
            &format!("{ROOT};Parent=0000000000000000"),
            &format!("{ROOT};Parent={}", &SPAN[1..]),
            &format!("{ROOT};Sampled=2"),
            &format!("{ROOT};Sampled="),
            &format!("{ROOT};{ROOT}"),
            &format!("{ROOT};x"),
            &ROOT.replace("=1-", "=2-"),
            &ROOT[..ROOT.len() - 1],
            &format!("{ROOT}0"),
            &format!("Root={TRACE}"),
            "Root=1-00000000-000000000000000000000000",
            "Root=1-5759e98-8bd862e3fe1be46a994272793",
        ] {
            check(malformed, "refused");
        }
    }
}
