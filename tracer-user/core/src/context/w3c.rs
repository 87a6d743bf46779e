//! W3C Trace Context: `traceparent` and `tracestate` (<https://www.w3.org/TR/trace-context/>, sections 3.2 and 3.3).
//!
//! `tracestate` is an addition to a valid `traceparent`: when it is malformed it is dropped alone, and it is never
//! looked at without a valid `traceparent`. Vendor entries are carried, not interpreted.

use super::Extracted;
use super::claim::{Claim, Format, Sampling};
use super::digits::lower_hex;
use super::fields::{Fields, Header, Refused, trim};
use crate::span::{SpanId, TraceId};

/// `00-<32>-<16>-<2>`.
const TRACEPARENT_LEN: usize = 55;
/// Section 3.3.1.1: "There can be a maximum of 32 list-members in a list."
const MAX_MEMBERS: usize = 32;
/// Section 3.3.1.3: a key has up to 256 characters, as has a value.
const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 256;
/// Section 3.3.1.3: `tenant-id@system-id`.
const MAX_TENANT: usize = 241;
const MAX_SYSTEM: usize = 14;

pub(super) fn extract(fields: &Fields<'_>) -> Extracted {
    let Some(value) = fields.one(Header::Traceparent)? else { return Ok(None) };
    parse_traceparent(value, Format::TraceContext).ok_or(Refused).map(Some)
}

pub(super) fn parse_traceparent(value: &[u8], format: Format) -> Option<Claim> {
    let (known, rest) = value.split_at_checked(TRACEPARENT_LEN)?;
    let [version] = lower_hex(known.get(0..2)?)?;
    match version {
        // Section 3.2.2.1: "Version ff is forbidden."
        0xff => return None,
        0 if !rest.is_empty() => return None,
        // Section 3.2.4: a higher version is parsed as far as it is known; what follows starts with a dash.
        _ if !rest.is_empty() && !rest.starts_with(b"-") => return None,
        _ => {}
    }
    if [2, 35, 52].iter().any(|&at| known.get(at) != Some(&b'-')) {
        return None;
    }
    let trace_id = TraceId::new(lower_hex(known.get(3..35)?)?)?;
    let span_id = SpanId::new(lower_hex(known.get(36..52)?)?)?;
    let [flags] = lower_hex(known.get(53..55)?)?;
    Some(Claim {
        format,
        trace_id: Some(trace_id),
        span_id: Some(span_id),
        sampling: Sampling::from_flag(flags & 1 != 0),
    })
}

/// The valid list members in order, joined by commas. `None` when there is none, it is empty, or any part of it is
/// malformed.
pub(super) fn trace_state(fields: &Fields<'_>) -> Option<String> {
    let values = fields.all(Header::Tracestate);
    let mut state = String::new();
    let mut keys: Vec<&[u8]> = Vec::new();
    // Section 3.3.1: several header fields are one list (RFC 9110 section 5.3), in order.
    for member in values.flat_map(|value| value.split(|&byte| byte == b',')).map(trim) {
        // Section 3.3.1.2: empty members are allowed.
        if member.is_empty() {
            continue;
        }
        let key = member_key(member)?;
        if keys.len() == MAX_MEMBERS {
            return None;
        }
        // Section 3.3.1.4: who changes an entry puts it in front, so the first one of a key is the latest.
        if keys.contains(&key) {
            continue;
        }
        keys.push(key);
        if !state.is_empty() {
            state.push(',');
        }
        state.push_str(str::from_utf8(member).ok()?);
    }
    (!state.is_empty()).then_some(state)
}

/// The key of a valid list member.
fn member_key(member: &[u8]) -> Option<&[u8]> {
    let equals = member.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    (is_key(key) && is_value(value)).then_some(key)
}

/// The union of both published grammars: the second edition lets a simple key begin with a digit.
fn is_key(key: &[u8]) -> bool {
    let plain = |part: &[u8]| {
        part.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'))
    };
    let starts = |part: &[u8]| matches!(part.first(), Some(b'a'..=b'z' | b'0'..=b'9'));
    match key.iter().position(|&byte| byte == b'@') {
        None => key.len() <= MAX_KEY && starts(key) && plain(key),
        Some(at) => {
            let (tenant, system) = (&key[..at], &key[at + 1..]);
            tenant.len() <= MAX_TENANT
                && starts(tenant)
                && plain(tenant)
                && system.len() <= MAX_SYSTEM
                && matches!(system.first(), Some(b'a'..=b'z'))
                && plain(system)
        }
    }
}

/// Printable ASCII but comma and equals sign. Its last character is no space, as the caller has trimmed it.
fn is_value(value: &[u8]) -> bool {
    (1..=MAX_VALUE).contains(&value.len())
        && value.iter().all(|&byte| matches!(byte, 0x20..=0x7e) && byte != b',' && byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::super::Carried;
    use super::super::testing::{carried, said};
    use super::*;

    const ID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn run(headers: &[(&str, &str)]) -> Option<(Claim, Option<String>)> {
        let Carried { claims, trace_state, .. } = carried(headers);
        claims.first().map(|claim| (*claim, trace_state))
    }

    fn check_parent(value: &str, want: Option<bool>) {
        let got = run(&[("traceparent", value)]);
        assert_eq!(got.as_ref().map(|(claim, _)| claim.sampling.is_recorded()), want, "{value:?}");
        if let Some((claim, trace_state)) = got {
            assert_eq!(claim.trace_id.unwrap().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(claim.span_id.unwrap().to_string(), "00f067aa0ba902b7");
            assert_eq!(trace_state, None);
        }
    }

    #[test]
    fn traceparent_grammar() {
        check_parent(ID, Some(true));
        check_parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some(false));
        check_parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", Some(true));
        check_parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe", Some(false));
        check_parent(&format!(" \t{ID}\t  "), Some(true));
        check_parent(&format!("\r\n {ID}"), Some(true));
        for malformed in [
            "",
            "-",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067aa0ba902b7-01",
            "0A-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0X",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e47366-0f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00- 4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "\u{e9}0-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            check_parent(malformed, None);
        }
    }

    #[test]
    fn future_versions_are_read_as_far_as_known() {
        check_parent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(true));
        check_parent(
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings",
            Some(true),
        );
        check_parent("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-", Some(false));
        check_parent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.extra", None);
        check_parent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", None);
    }

    #[test]
    fn names_are_case_insensitive_and_duplicates_are_absent() {
        let want = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1";
        assert_eq!(said(&[("Accept", "x"), ("TraceParent", ID)]), want);
        assert!(run(&[("TRACEPARENT", ID)]).is_some());
        assert_eq!(run(&[("trace-parent", ID)]), None);
        assert_eq!(said(&[("traceparent", ID), ("Traceparent", ID)]), "refused");
        assert_eq!(said(&[("traceparent", ID), ("traceparent", "")]), "refused");
        // Joined by a proxy.
        assert_eq!(said(&[("traceparent", &format!("{ID},{ID}"))]), "refused");
        assert_eq!(said(&[("traceparent", "")]), "refused");
        assert_eq!(run(&[("tracestate", "a=1")]), None);
        assert_eq!(run(&[]), None);
    }

    fn check_state(values: &[&str], want: Option<&str>) {
        let mut headers = vec![("traceparent", ID)];
        headers.extend(values.iter().map(|value| ("tracestate", *value)));
        let (_, trace_state) = run(&headers).expect("the traceparent is valid whatever the tracestate");
        assert_eq!(trace_state.as_deref(), want, "{values:?}");
    }

    #[test]
    fn tracestate_grammar() {
        check_state(&[], None);
        check_state(&[""], None);
        check_state(&["foo=1"], Some("foo=1"));
        check_state(&["foo=1,bar=2"], Some("foo=1,bar=2"));
        check_state(&["foo=1 \t , \tbar=2"], Some("foo=1,bar=2"));
        check_state(&["foo=1", "bar=2"], Some("foo=1,bar=2"));
        check_state(&["foo=1,", ",bar=2", ""], Some("foo=1,bar=2"));
        check_state(&["foo=a b"], Some("foo=a b"));
        check_state(&["foo=1,bar=2,foo=3", "bar=4,baz=5"], Some("foo=1,bar=2,baz=5"));
        check_state(&["0f=1"], Some("0f=1"));
        check_state(&["fw529a3039@dt=FfAaBb,*=1"], None);
        check_state(&["fw529a3039@dt=FfAaBb"], Some("fw529a3039@dt=FfAaBb"));
        check_state(&["a_b-c*d/e=1"], Some("a_b-c*d/e=1"));
        for malformed in [
            "foo",
            "=1",
            "foo=",
            "foo=a=b",
            "FOO=1",
            "foo.bar=1",
            "foo @=1",
            "foo@=1",
            "@foo=1",
            "foo@@bar=1",
            "a@b@c=1",
            "foo@1bar=1",
            "foo =1",
            "foo=\u{e9}",
            "foo=a\tb",
            "_a=1",
        ] {
            check_state(&[malformed], None);
            check_state(&["ok=1", malformed], None);
        }
    }

    #[test]
    fn tracestate_limits() {
        let members = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        check_state(&[&members(32)], Some(&members(32)));
        check_state(&[&members(33)], None);
        let longest = format!("{}={}", "k".repeat(256), "v".repeat(256));
        check_state(&[&longest], Some(&longest));
        check_state(&[&format!("{}=v", "k".repeat(257))], None);
        check_state(&[&format!("k={}", "v".repeat(257))], None);
        let tenant = format!("{}@{}=v", "t".repeat(241), "s".repeat(14));
        check_state(&[&tenant], Some(&tenant));
        check_state(&[&format!("{}@{}=v", "t".repeat(242), "s".repeat(14))], None);
        check_state(&[&format!("{}@{}=v", "t".repeat(241), "s".repeat(15))], None);
    }
}
