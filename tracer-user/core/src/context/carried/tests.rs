//! Tables: headers of several formats in, what is believed and what is told as a conflict out.

use super::super::testing::carried;
use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SHORT: &str = "0000000000000000a3ce929d0e0e4736";
/// The low half of `TRACE`.
const LOW_DECIMAL: &str = "11803532876627986230";
const SPAN: &str = "00f067aa0ba902b7";
const SPAN_DECIMAL: &str = "67667974448284343";
const OTHER: &str = "80f198ee56343ba864fe8b2a57d3eff7";

const W3C: (&str, &str) = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");

fn choose(propagators: &str, headers: &[(&str, &str)]) -> RequestContext {
    let propagators = match propagators {
        "" => Propagators::default(),
        list => Propagators::parse(list).unwrap(),
    };
    carried(headers).choose(&propagators, &RequestIdKey::new([1; 32])).unwrap_or_default()
}

/// `format=trace-span-decision`, then the conflicts in the same form behind a `!` each.
fn check(propagators: &str, headers: &[(&str, &str)], want: &str) {
    let context = choose(propagators, headers);
    let claim = |claim: &Claim| format!("{}={claim}", claim.format.as_str());
    let decided = match context.remote() {
        Some(RemoteContext { format, trace_id, span_id, trace_state: _ }) => claim(&Claim {
            format: *format,
            trace_id: Some(*trace_id),
            span_id: *span_id,
            sampling: context.sampling(),
        }),
        None => format!("{:?}", context.sampling()),
    };
    let conflicts: String = context.conflicts().map(|found| format!(" !{}", claim(found))).collect();
    assert_eq!(decided + &conflicts, want, "{propagators:?} {headers:?}");
}

#[test]
fn the_first_configured_format_decides() {
    let b3 = format!("{OTHER}-e457b5a2e4d86bd1-0");
    let both = [("b3", b3.as_str()), W3C];
    let (w3c, b3) = (format!("tracecontext={TRACE}-{SPAN}-1"), format!("b3={b3}"));
    check("", &both, &format!("{w3c} !{b3}"));
    check("tracecontext,b3", &both, &format!("{w3c} !{b3}"));
    check("b3,tracecontext", &both, &format!("{b3} !{w3c}"));
    check("b3", &both, &b3);
    check("tracecontext", &both, &w3c);
    check("jaeger", &both, "Unknown");
    check("none", &both, "Unknown");
}

#[test]
fn a_format_that_is_not_valid_leaves_the_next_one_to_decide() {
    let b3 = format!("{TRACE}-{SPAN}-1");
    let context = choose("", &[("traceparent", "00-x"), ("b3", &b3)]);
    assert_eq!(context.remote().unwrap().format, Format::B3);
    assert_eq!(context.refused(), [Format::TraceContext]);
    let twice = choose("", &[W3C, W3C, ("b3", &b3), ("tracestate", "a=1")]);
    assert_eq!(twice.remote().unwrap().format, Format::B3);
    assert_eq!(twice.remote().unwrap().trace_state, None);
    assert_eq!(choose("b3", &[("traceparent", "00-x"), ("b3", &b3)]).refused(), []);
}

#[test]
fn ids_that_are_the_same_do_not_conflict() {
    let single = format!("{TRACE}-{SPAN}-1");
    let short = format!("{}-{SPAN}-1", &SHORT[16..]);
    let jaeger = format!("{}:{}:0:1", &SHORT[16..], SPAN.trim_start_matches('0'));
    let gcp = format!("{TRACE}/{SPAN_DECIMAL};o=1");
    let root = format!("Root=1-{}-{};Parent={SPAN};Sampled=1", &TRACE[..8], &TRACE[8..]);
    let elastic = W3C.1;
    let all = [
        ("b3", single.as_str()),
        ("x-b3-traceid", &SHORT[16..]),
        ("x-b3-spanid", SPAN),
        ("uber-trace-id", &jaeger),
        ("x-cloud-trace-context", &gcp),
        ("x-amzn-trace-id", &root),
        ("elastic-apm-traceparent", elastic),
        ("ot-tracer-traceid", &SHORT[16..]),
        ("ot-tracer-spanid", SPAN),
        ("x-datadog-trace-id", LOW_DECIMAL),
        ("x-datadog-parent-id", SPAN_DECIMAL),
        ("x-datadog-sampling-priority", "2"),
        W3C,
    ];
    check("", &all, &format!("tracecontext={TRACE}-{SPAN}-1"));
    check("jaeger,b3", &all, &format!("jaeger={TRACE}-{SPAN}-1"));
    check("", &[("b3", &short), ("uber-trace-id", &jaeger)], &format!("b3={SHORT}-{SPAN}-1"));
    // Debug is a yes.
    check("", &[W3C, ("b3", &format!("{TRACE}-{SPAN}-d"))], &format!("tracecontext={TRACE}-{SPAN}-1"));
}

/// The longer id of the same trace is the one that others know.
#[test]
fn a_short_id_is_completed_by_a_format_that_agrees() {
    let datadog = [("x-datadog-trace-id", LOW_DECIMAL), ("x-datadog-parent-id", SPAN_DECIMAL)];
    let headers = [datadog[0], datadog[1], W3C];
    check("datadog,tracecontext", &headers, &format!("datadog={TRACE}-{SPAN}-1"));
    check("datadog", &headers, &format!("datadog={SHORT}-{SPAN}-?"));
    let tid = [datadog[0], datadog[1], W3C, ("x-datadog-tags", "_dd.p.tid=1111111111111111")];
    check(
        "datadog,tracecontext",
        &tid,
        &format!("datadog=1111111111111111{}-{SPAN}-? !tracecontext={TRACE}-{SPAN}-1", &SHORT[16..]),
    );
    // Of two that it could be, the first one: they conflict with each other, so one of them is told.
    let other = format!("1111111111111111{}-{SPAN}-1", &SHORT[16..]);
    check(
        "datadog,tracecontext,b3",
        &[datadog[0], datadog[1], W3C, ("b3", &other)],
        &format!("datadog={TRACE}-{SPAN}-1 !b3={other}"),
    );
}

#[test]
fn another_span_or_decision_in_the_same_trace_is_a_conflict() {
    let w3c = format!("tracecontext={TRACE}-{SPAN}-1");
    let span = format!("{TRACE}-e457b5a2e4d86bd1-1");
    check("", &[W3C, ("b3", &span)], &format!("{w3c} !b3={span}"));
    let denied = format!("{TRACE}-{SPAN}-0");
    check("", &[W3C, ("b3", &denied)], &format!("{w3c} !b3={denied}"));
    check("", &[W3C, ("b3", "0")], &format!("{w3c} !b3=0"));
    check("", &[W3C, ("b3", "1")], &w3c);
}

#[test]
fn the_decision_is_of_who_knows_one() {
    let open = format!("{TRACE}-{SPAN}");
    let gcp = |options: &str| format!("{TRACE}/{SPAN_DECIMAL};o={options}");
    check("", &[("b3", &open)], &format!("b3={open}-?"));
    check("", &[("b3", &open), ("x-cloud-trace-context", &gcp("0"))], &format!("b3={open}-0"));
    check("", &[("b3", &open), ("x-cloud-trace-context", &gcp("1"))], &format!("b3={open}-1"));
    check("", &[("b3", &open), ("x-datadog-sampling-priority", "0")], &format!("b3={open}-0"));
    // Another trace's decision is none for this one.
    let stranger = format!("{OTHER}/1;o=0");
    check(
        "",
        &[("b3", &open), ("x-cloud-trace-context", &stranger)],
        &format!("b3={open}-? !gcp={OTHER}-0000000000000001-0"),
    );
    // Without a trace, of a higher precedence than the format that names one.
    let datadog = [("x-datadog-trace-id", LOW_DECIMAL), ("x-datadog-sampling-priority", "1"), ("b3", "0")];
    check("", &datadog, &format!("datadog={SHORT}--0 !datadog={SHORT}--1"));
    check("datadog,b3", &datadog, &format!("datadog={SHORT}--1 !b3=0"));
    check("", &[("b3", "0")], "No");
    check("", &[("b3", "d")], "Debug");
    check("", &[("b3", "1"), ("x-datadog-sampling-priority", "0")], "Yes !datadog=0");
}

#[test]
fn a_trace_without_a_span_is_a_trace() {
    let root = format!("Root=1-{}-{};Sampled=0", &TRACE[..8], &TRACE[8..]);
    check("", &[("x-amzn-trace-id", &root)], &format!("xray={TRACE}--0"));
    // It does not contradict who knows the span.
    check(
        "xray,tracecontext",
        &[("x-amzn-trace-id", &root.replace("=0", "=1")), W3C],
        &format!("xray={TRACE}--1"),
    );
}

#[test]
fn the_state_belongs_to_the_trace_of_traceparent() {
    let state = ("tracestate", "a=1");
    let same = format!("{TRACE}-{SPAN}-1");
    let other = format!("{OTHER}-{SPAN}-1");
    let found =
        |list: &str, b3: &str| choose(list, &[W3C, state, ("b3", b3)]).remote().unwrap().trace_state.clone();
    assert_eq!(found("tracecontext", &same).as_deref(), Some("a=1"));
    assert_eq!(found("b3,tracecontext", &same).as_deref(), Some("a=1"));
    assert_eq!(found("b3,tracecontext", &other), None);
    assert_eq!(found("b3", &same), None);
}

#[test]
fn more_fields_than_anybody_sends_are_believed_in_nothing() {
    let mut headers = vec![W3C];
    headers.extend([("baggage", "a=1"); 64]);
    let context = choose("", &headers);
    assert_eq!((context.remote(), context.claims()), (None, &[][..]));
    assert_eq!(context.refused(), [Format::TraceContext]);
}

#[test]
fn spans_are_named_once_and_traces_are_shared_in_any_format() {
    let b3 = format!("{TRACE}-{SPAN}-1");
    let gcp = format!("{OTHER}/1");
    let one = choose("", &[W3C, ("b3", &b3), ("x-cloud-trace-context", &gcp)]);
    let ids: Vec<String> = one.span_ids().map(|id| id.to_string()).collect();
    assert_eq!(ids, [SPAN, "0000000000000001"]);
    let low = choose("", &[("x-datadog-trace-id", LOW_DECIMAL)]);
    let other = choose("", &[("b3", &format!("{OTHER}-{SPAN}-1"))]);
    assert!(one.shares_trace(&low) && low.shares_trace(&one));
    assert!(one.shares_trace(&other));
    assert!(!low.shares_trace(&other));
    assert!(!choose("", &[("b3", "0")]).shares_trace(&one));
}
