//! Datadog's `x-datadog-…` headers
//! (<https://docs.datadoghq.com/tracing/trace_collection/trace_context_propagation/>).
//!
//! Ids are decimal numbers of 64 bits. The high half of a longer trace id is in the tag `_dd.p.tid` of
//! `x-datadog-tags`; where that tag is not valid the low half stands alone, as with clients that have no other. A
//! parent of 0 is none: the trace was begun outside of any span.

use super::Extracted;
use super::claim::{Claim, Format, Sampling};
use super::digits::{decimal, hex};
use super::fields::{Fields, Header, Refused, trim};
use crate::span::{SpanId, TraceId};

pub(super) fn extract(fields: &Fields<'_>) -> Extracted {
    let trace = fields.one(Header::DatadogTraceId)?;
    let parent = fields.one(Header::DatadogParentId)?;
    let sampling = match fields.one(Header::DatadogSamplingPriority)? {
        Some(priority) => sampling(priority).ok_or(Refused)?,
        None => Sampling::Unknown,
    };
    let (trace_id, span_id) = match (trace, parent) {
        (None, None) if sampling.is_known() => (None, None),
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(Refused),
        (Some(trace), parent) => {
            let low = decimal(trace).filter(|low| *low != 0).ok_or(Refused)?;
            let high = fields.one(Header::DatadogTags)?.and_then(high).unwrap_or(0);
            let trace_id = TraceId::new((u128::from(high) << 64 | u128::from(low)).to_be_bytes());
            let span = parent.map_or(Ok(0), |parent| decimal(parent).ok_or(Refused))?;
            (trace_id, SpanId::new(span.to_be_bytes()))
        }
    };
    Ok(Some(Claim { format: Format::Datadog, trace_id, span_id, sampling }))
}

/// -1 and 0: rejected, by the user or by a sampler. 1 and 2: kept.
fn sampling(priority: &[u8]) -> Option<Sampling> {
    let (negative, digits) = match priority {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let number = decimal(digits)?;
    Some(Sampling::from_flag(!negative && number > 0))
}

/// `key=value` pairs, separated by commas.
fn high(tags: &[u8]) -> Option<u64> {
    let mut tags = tags.split(|&byte| byte == b',').map(trim);
    let digits = tags.find_map(|tag| tag.strip_prefix(b"_dd.p.tid="))?;
    u64::try_from(hex(digits, 16..=16)?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::said;

    const TRACE: (&str, &str) = ("x-datadog-trace-id", "11803532876627986230");
    const PARENT: (&str, &str) = ("x-datadog-parent-id", "67667974448284343");
    const LOW: &str = "a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn with(more: &[(&str, &str)]) -> String {
        said(&[&[TRACE, PARENT], more].concat())
    }

    #[test]
    fn decimal_ids_and_the_high_half() {
        let short = format!("0000000000000000{LOW}-{SPAN}");
        assert_eq!(with(&[]), format!("{short}-?"));
        for (priority, decision) in [("-1", "0"), ("0", "0"), ("1", "1"), ("2", "1")] {
            let got = with(&[("X-Datadog-Sampling-Priority", priority)]);
            assert_eq!(got, format!("{short}-{decision}"), "{priority}");
        }
        let long = format!("4bf92f3577b34da6{LOW}-{SPAN}-?");
        for tags in [
            "_dd.p.tid=4bf92f3577b34da6",
            "_dd.p.dm=-4,_dd.p.tid=4bf92f3577b34da6,_dd.p.usr.id=eA==",
            "_dd.p.dm=-4, _dd.p.tid=4bf92f3577b34da6",
        ] {
            assert_eq!(with(&[("x-datadog-tags", tags)]), long, "{tags}");
        }
        for tags in [
            "",
            "x",
            "_dd.p.tid=",
            "_dd.p.tid=4bf92f3577b34da",
            "_dd.p.tid=0000000000000000",
            "a_dd.p.tid=4bf92f3577b34da6",
        ] {
            assert_eq!(with(&[("x-datadog-tags", tags)]), format!("{short}-?"), "{tags}");
        }
    }

    #[test]
    fn traces_without_a_parent_and_decisions_without_a_trace() {
        let trace = format!("0000000000000000{LOW}");
        assert_eq!(said(&[TRACE]), format!("{trace}--?"));
        assert_eq!(said(&[TRACE, ("x-datadog-parent-id", "0")]), format!("{trace}--?"));
        assert_eq!(said(&[("x-datadog-sampling-priority", "0")]), "0");
        assert_eq!(said(&[("x-datadog-tags", "_dd.p.tid=4bf92f3577b34da6")]), "");
    }

    #[test]
    fn what_is_not_of_the_format() {
        for id in ["", "0", "-1", "+1", "1.0", "0x10", "a3ce929d0e0e4736", "18446744073709551616", " 1 2"] {
            assert_eq!(said(&[("x-datadog-trace-id", id), PARENT]), "refused", "{id:?}");
        }
        for id in ["", "-1", "x", "18446744073709551616"] {
            assert_eq!(said(&[TRACE, ("x-datadog-parent-id", id)]), "refused", "{id:?}");
        }
        assert_eq!(said(&[PARENT]), "refused");
        assert_eq!(with(&[TRACE]), "refused");
        for priority in ["", "-", "x", "1.5", "--1"] {
            assert_eq!(with(&[("x-datadog-sampling-priority", priority)]), "refused", "{priority:?}");
        }
        assert_eq!(
            said(&[("x-datadog-trace-id", "18446744073709551615")]),
            format!("0000000000000000{}--?", "f".repeat(16))
        );
    }
}
