//! Elastic APM's `elastic-apm-traceparent`: W3C's `traceparent` under the name that agents used before it was a
//! standard, and which they still send beside it. Its ids map as they are.

use super::claim::Format;
use super::fields::{Fields, Header, Refused};
use super::{Extracted, w3c};

pub(super) fn extract(fields: &Fields<'_>) -> Extracted {
    let Some(value) = fields.one(Header::ElasticTraceparent)? else { return Ok(None) };
    w3c::parse_traceparent(value, Format::Elastic).ok_or(Refused).map(Some)
}

#[cfg(test)]
mod tests {
    use super::super::testing::said;

    #[test]
    fn as_w3c_reads_it() {
        let check = |value: &str, want: &str| {
            assert_eq!(said(&[("Elastic-Apm-Traceparent", value)]), want, "{value:?}");
        };
        let ids = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
        check(&format!("00-{ids}-01"), &format!("{ids}-1"));
        check(&format!("00-{ids}-00"), &format!("{ids}-0"));
        check(&format!("ff-{ids}-01"), "refused");
        check(&format!("00-{}-01", ids.to_uppercase()), "refused");
        check("", "refused");
    }
}
