//! Properties of all formats together: any bytes are survived within bounds, and what is valid comes out as it went in.

use proptest::prelude::*;

use super::fields::Header;
use super::testing::carried;
use super::*;
use crate::span::{SpanId, TraceId};

/// Values near to valid ones, so that random changes get far into the parsers.
const SEEDS: &[(&str, &str)] = &[
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("tracestate", "foo=1,t@s=a b ,,x=~"),
    ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-d-05e3ac9a4f6e3b90"),
    ("x-b3-traceid", "64fe8b2a57d3eff7"),
    ("x-b3-spanid", "e457b5a2e4d86bd1"),
    ("x-b3-sampled", "true"),
    ("x-b3-flags", "1"),
    ("uber-trace-id", "deadbeef%3A1f:0:3"),
    ("x-datadog-trace-id", "11803532876627986230"),
    ("x-datadog-parent-id", "67667974448284343"),
    ("x-datadog-sampling-priority", "-1"),
    ("x-datadog-tags", "_dd.p.dm=-4,_dd.p.tid=4bf92f3577b34da6"),
    ("elastic-apm-traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("ot-tracer-traceid", "64fe8b2a57d3eff7"),
    ("ot-tracer-spanid", "e457b5a2e4d86bd1"),
    ("ot-tracer-sampled", "false"),
    ("x-cloud-trace-context", "105445aa7843bc8bf206b12000100000/1;o=1"),
    (
        "x-amzn-trace-id",
        "Self=1-2;Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=?",
    ),
    ("grpc-trace-bin", "AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE="),
    ("sw8", "1-YWFh-YmJi-3-c2hvcA==-c2hvcA==-L2E=-YToxCg=="),
    ("baggage", "tenant=a%20b;p=1,user_id=7"),
    ("x-request-id", "f058ebd6-02f7-4d3f-942e-904344e8cde5"),
];

fn value() -> impl Strategy<Value = Vec<u8>> {
    let changed = (
        0..SEEDS.len(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        any::<bool>(),
    );
    let changed = changed.prop_map(|(seed, changes, cut)| {
        let mut value = SEEDS[seed].1.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(value.len());
            value[at] = byte;
            if cut {
                value.truncate(at.max(1));
            }
        }
        value
    });
    prop_oneof![
        3 => changed,
        1 => prop::collection::vec(any::<u8>(), 0..80),
        1 => prop::collection::vec(prop::sample::select(b"0123456789abcdefABCDEF-:;=/,% ".to_vec()), 0..80),
    ]
}

fn fields() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let own = (0..SEEDS.len()).prop_map(|seed| (seed, SEEDS[seed].1.as_bytes().to_vec()));
    prop::collection::vec(prop_oneof![own, (0..SEEDS.len(), value())], 0..30)
}

fn read<'v>(list: impl Iterator<Item = (&'v str, &'v [u8])>) -> Option<RequestContext> {
    let propagators = Propagators::default().with_baggage_keys("tenant,user_id").unwrap();
    let mut fields = Fields::default();
    for (name, value) in list {
        assert!(fields.take(name.as_bytes(), value));
    }
    fields.read()?.choose(&propagators, &RequestIdKey::new([7; 32]))
}

#[test]
fn every_seed_is_of_a_header_and_every_header_but_few_has_one() {
    let seeded = Header::ALL.iter().filter(|header| SEEDS.iter().any(|(name, _)| *name == header.name()));
    assert_eq!(seeded.count(), SEEDS.len());
    assert_eq!(Header::ALL.len() - SEEDS.len(), 6, "x-b3-parentspanid and the other names of request ids");
}

proptest! {
    #[test]
    fn any_fields_are_survived_within_bounds(list in fields()) {
        let list = || list.iter().map(|(name, value)| (SEEDS[*name].0, value.as_slice()));
        let Some(context) = read(list()) else { return Ok(()) };
        prop_assert!(context.claims().len() + context.refused().len() <= Format::ALL.len());
        prop_assert!(context.request_ids().len() <= 8);
        prop_assert!(context.text_bytes() <= 32 * 514 + 2 * 128 + 3 * 8192);
        for claim in context.claims() {
            prop_assert!(claim.trace_id.is_some() || claim.sampling != Sampling::Unknown);
            prop_assert!(claim.trace_id.is_some() || claim.span_id.is_none());
            prop_assert!(!context.refused().contains(&claim.format));
        }
        match context.remote() {
            Some(remote) => prop_assert!(context.claims().iter().any(|claim| claim.format == remote.format)),
            None => prop_assert!(context.claims().iter().all(|claim| claim.trace_id.is_none())),
        }
        let again = read(list());
        prop_assert_eq!(again, Some(context));
    }

    /// Of a single-valued header, two are never believed, whatever they say.
    #[test]
    fn two_of_a_kind_are_refused(list in prop::collection::vec((0..SEEDS.len(), value()), 1..4)) {
        let one = || list.iter().map(|(name, value)| (SEEDS[*name].0, value.as_slice()));
        let Some(context) = read(one().chain(one())) else { return Ok(()) };
        prop_assert_eq!(context.claims(), &[][..]);
    }

    #[test]
    fn valid_ids_come_out_as_they_went_in(trace in 1_u128.., span in 1_u64.., sampled: bool) {
        let trace_id = TraceId::new(trace.to_be_bytes()).unwrap();
        let span_id = SpanId::new(span.to_be_bytes()).unwrap();
        let flag = u8::from(sampled);
        let (high, low) = ((trace >> 64) as u64, trace as u64);
        let binary = [&[0, 0][..], &trace.to_be_bytes(), &[1], &span.to_be_bytes(), &[2, flag]].concat();
        let (time, random) = (trace >> 96, trace & ((1 << 96) - 1));
        let written: &[(Format, &[(&str, String)])] = &[
            (Format::TraceContext, &[("traceparent", format!("00-{trace_id}-{span_id}-{flag:02x}"))]),
            (Format::Elastic, &[("elastic-apm-traceparent", format!("00-{trace_id}-{span_id}-{flag:02x}"))]),
            (Format::B3, &[("b3", format!("{trace_id}-{span_id}-{flag}"))]),
            (Format::B3Multi, &[
                ("x-b3-traceid", trace_id.to_string()),
                ("x-b3-spanid", span_id.to_string()),
                ("x-b3-sampled", flag.to_string()),
            ]),
            (Format::Jaeger, &[("uber-trace-id", format!("{trace:x}:{span:x}:0:{flag}"))]),
            (Format::OtTrace, &[
                ("ot-tracer-traceid", format!("{trace:x}")),
                ("ot-tracer-spanid", format!("{span:x}")),
                ("ot-tracer-sampled", sampled.to_string()),
            ]),
            (Format::Gcp, &[("x-cloud-trace-context", format!("{trace_id}/{span};o={flag}"))]),
            (Format::XRay, &[(
                "x-amzn-trace-id",
                format!("Root=1-{time:08x}-{random:024x};Parent={span_id};Sampled={flag}"),
            )]),
            (Format::Datadog, &[
                ("x-datadog-trace-id", low.max(1).to_string()),
                ("x-datadog-parent-id", span.to_string()),
                ("x-datadog-sampling-priority", flag.to_string()),
                ("x-datadog-tags", format!("_dd.p.tid={high:016x}")),
            ]),
            (Format::OpenCensus, &[("grpc-trace-bin", encoded(&binary))]),
        ];
        for (format, headers) in written {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let want = Claim {
                format: *format,
                trace_id: Some(trace_id),
                span_id: Some(span_id),
                sampling: if sampled { Sampling::Yes } else { Sampling::No },
            };
            prop_assert_eq!(carried(&headers).claims, vec![want], "{:?}", headers);
        }
        prop_assert_eq!(grpc::parse(&binary).map(|claim| claim.trace_id), Some(Some(trace_id)));
    }
}

/// Base64 without padding.
fn encoded(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().chain(&[0, 0]).take(3).fold(0, |bits, byte| bits << 8 | u32::from(*byte));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(group >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}
