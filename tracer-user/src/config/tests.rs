//! Tables: flags and variables in, configuration, warnings or a refusal out.

use clap::Parser;

use super::otel::{BatchLimits, Compression};
use super::*;
use crate::cli::Protocol;

type Vars<'a> = &'a [(&'a str, &'a str)];

fn config(line: &[&str], vars: Vars<'_>) -> Result<(Config, Vec<Warning>), UsageError> {
    let cli = Cli::try_parse_from([&["tracer"], line].concat()).unwrap();
    Config::new(cli, |name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
}

/// The span options of a replay with these variables, and the variables warned about.
fn replay(flags: &[&str], vars: Vars<'_>) -> (Spans, Vec<String>) {
    let (config, warnings) = config(&[&["replay", "f"], flags].concat(), vars).unwrap();
    let Command::Replay(replay) = config.command else { panic!("not replay") };
    (replay.spans, warnings.into_iter().map(|warning| warning.variable).collect())
}

fn otlp(flags: &[&str], vars: Vars<'_>) -> Otlp {
    replay(flags, vars).0.otlp.unwrap()
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (line, want) in [
        (&["attach"][..], "nothing to trace"),
        (&["attach", "--all", "--pid", "3"], "--all already"),
        (&["attach", "--exe", "[a"], "--exe [a"),
        (&["attach", "--pid", "3", "--duration", "0"], "--duration"),
        (&["attach", "--pid", "3", "--head-budget", "65KiB"], "--head-budget"),
        (&["attach", "--pid", "3", "--head-budget", "0"], "--head-budget"),
        (&["replay", "f", "--decide-timeout", "2h"], "--decide-timeout"),
        (&["replay", "f", "--otlp-endpoint", "localhost:4318"], "http://"),
        (&["replay", "f", "--otlp-endpoint", "ftp://h"], "http://"),
        (&["replay", "f", "--otlp-endpoint", "http://"], "not a URL"),
        (&["replay", "f", "--otlp-endpoint", "http://h:x"], "not a URL"),
        (&["replay", "f", "--otlp-endpoint", "http://h:99999"], "not a URL"),
        (&["replay", "f", "--otlp-endpoint", "http://u:p@h"], "OTEL_EXPORTER_OTLP_HEADERS"),
        (&["replay", "f", "--otlp-protocol", "grpc"], "needs an endpoint"),
        (&["replay", "f", "--format", "none", "-o", "x"], "--output"),
        (&["replay", "f", "--propagators", "b3,zipkin"], "--propagators: `zipkin` is not known"),
        (&["replay", "f", "--propagators", "none,b3"], "--propagators: `none`"),
        (&["replay", "f", "--propagators", ""], "--propagators: the list is empty"),
        (&["replay", "f", "--baggage-keys", "a b"], "--baggage-keys: `a b`"),
        (
            &["replay", "f", "--propagators", "b3", "--baggage-keys", "a"],
            "--baggage-keys: baggage is not read",
        ),
        (&["run", "--", ""], "command is empty"),
    ] {
        let error = config(line, &[]).unwrap_err().to_string();
        assert!(error.contains(want), "{line:?}: {error}");
    }
    assert_eq!(config(&["run", "ls"], &[("SUDO_UID", "x"), ("SUDO_GID", "1")]), Err(UsageError::SudoIds));
}

#[test]
fn run_is_for_the_invoking_user() {
    for (flags, vars, want) in [
        (&[][..], &[][..], RunAs::Same),
        (&[], &[("SUDO_UID", "1000"), ("SUDO_GID", "100")], RunAs::Invoker { uid: 1000, gid: 100 }),
        (&["--user", "eve"], &[("SUDO_UID", "1000"), ("SUDO_GID", "100")], RunAs::Named("eve".to_owned())),
    ] {
        let line = [&["run"], flags, &["--", "ls"]].concat();
        let Command::Run(run) = config(&line, vars).unwrap().0.command else { panic!("not run") };
        assert_eq!(run.user, want);
    }
}

#[test]
fn the_format_depends_on_the_endpoint() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318");
    for (flags, vars, want) in [
        (&[][..], &[][..], Format::Tree),
        (&["--otlp-endpoint", "http://h"], &[], Format::None),
        (&[], &[endpoint], Format::None),
        (&["--format", "line"], &[endpoint], Format::Line),
        (&["-o", "x"], &[endpoint], Format::Tree),
    ] {
        assert_eq!(replay(flags, vars).0.format, want, "{flags:?} {vars:?}");
    }
}

#[test]
fn the_endpoint_is_the_flags_then_the_signals_then_the_general_one() {
    let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:1/base/");
    let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:2/path");
    let bad = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "traces");
    for (flags, vars, want) in [
        (&[][..], &[general][..], "http://general:1/base/v1/traces"),
        (&[], &[general, traces], "https://traces:2/path"),
        (&[], &[general, bad], "http://general:1/base/v1/traces"),
        (&["--otlp-endpoint", "http://flag:3"], &[general, traces], "http://flag:3/v1/traces"),
        (&["--otlp-endpoint", "http://flag:3/v1/traces"], &[], "http://flag:3/v1/traces"),
        (&["--otlp-endpoint", "http://[::1]:3/"], &[], "http://[::1]:3/v1/traces"),
        (&["--otlp-endpoint", "http://flag:3", "--otlp-protocol", "grpc"], &[], "http://flag:3/"),
    ] {
        assert_eq!(otlp(flags, vars).endpoint.to_string(), want, "{flags:?} {vars:?}");
    }
    assert_eq!(replay(&[], &[general, bad]).1, ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]);
    assert_eq!(replay(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), replay(&[], &[]));
}

#[test]
fn the_protocol_is_stated_or_the_ports() {
    let flag = |port| ["--otlp-endpoint", port];
    assert_eq!(otlp(&flag("http://h:4317"), &[]).protocol, Protocol::Grpc);
    assert_eq!(otlp(&flag("http://h:4318"), &[]).protocol, Protocol::HttpProtobuf);
    let vars = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
    assert_eq!(otlp(&flag("http://h:4317"), &vars).protocol, Protocol::HttpProtobuf);
    let vars =
        [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")];
    assert_eq!(otlp(&flag("http://h:1"), &vars).protocol, Protocol::HttpProtobuf);
    let line = [&flag("http://h:1")[..], &["--otlp-protocol", "grpc"]].concat();
    assert_eq!(otlp(&line, &vars).protocol, Protocol::Grpc);
}

#[test]
fn variables_set_the_rest() {
    let vars = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://h"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20eDp5,x-tenant=a"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "200"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.name=x,service.version=1"),
        ("OTEL_SERVICE_NAME", "tracer"),
    ];
    let (spans, warnings) = replay(&[], &vars);
    assert_eq!(warnings, [""; 0]);
    assert_eq!(spans.resource_attributes, [("deployment.environment.name".to_owned(), "prod".to_owned())]);
    let otlp = spans.otlp.unwrap();
    let headers: Vec<_> = otlp.headers.iter().map(|(k, v)| (k.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(headers, [("authorization", "Basic eDp5"), ("x-tenant", "a")]);
    assert_eq!(otlp.timeout, Duration::from_millis(1500));
    assert_eq!(otlp.compression, Compression::Gzip);
    assert_eq!(otlp.certificate, Some("/ca.pem".into()));
    let want = BatchLimits {
        schedule_delay: Duration::from_millis(100),
        export_timeout: Duration::from_millis(200),
        max_queue: 64,
        max_batch: 64,
    };
    assert_eq!(otlp.batch, want);
}

#[test]
fn propagators_are_the_flags_then_the_variables() {
    let list = |list: &str| Propagators::parse(list).unwrap();
    let variable = |list| [("OTEL_PROPAGATORS", list)];
    let chosen = |flags: &[&str], vars: Vars<'_>| {
        let (spans, warnings) = replay(flags, vars);
        (spans.propagators, warnings.len())
    };
    assert_eq!(chosen(&[], &[]), (Propagators::default(), 0));
    assert_eq!(chosen(&[], &variable("b3,tracecontext")), (list("b3,tracecontext"), 0));
    assert_eq!(chosen(&["--propagators", "none"], &variable("b3")), (list("none"), 0));
    assert_eq!(chosen(&[], &variable("b3,zipkin,x")), (list("b3"), 2));
    assert_eq!(chosen(&[], &variable("zipkin")), (Propagators::default(), 1));
    assert_eq!(chosen(&[], &variable("none,b3")), (list("b3"), 1));
    let keys = list("baggage").with_baggage_keys("a,b").unwrap();
    assert_eq!(chosen(&["--baggage-keys", "a,b"], &variable("baggage")), (keys, 0));
    assert_eq!(replay(&[], &variable("x")).1, ["OTEL_PROPAGATORS"]);
}

#[test]
fn what_is_claimed_and_kept_is_chosen_by_flags() {
    let chosen = |flags: &[&str]| {
        let spans = replay(flags, &[]).0;
        (spans.min_confidence, spans.sdk_spans, spans.accuracy, spans.rules)
    };
    assert_eq!(chosen(&[]), (Confidence::Likely, SdkSpans::Keep, false, true));
    assert_eq!(
        chosen(&["--min-confidence", "certain", "--sdk-spans", "suppress", "--accuracy", "--rules", "off"]),
        (Confidence::Certain, SdkSpans::Suppress, true, false)
    );
    assert_eq!(chosen(&["--min-confidence", "possible"]).0, Confidence::Possible);
}

#[test]
fn a_bad_variable_is_named_and_ignored() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h");
    let default = otlp(&[], &[endpoint]);
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "no-equals"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "bad name=x"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b%0ac"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zip"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "99999999999999999999"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "17000"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c"),
    ] {
        let (spans, warnings) = replay(&[], &[endpoint, (name, value)]);
        assert_eq!(warnings, [name], "{name}={value}");
        assert_eq!(spans.otlp, Some(default.clone()), "{name}={value}");
    }
}

#[test]
fn warnings_quote_no_secret() {
    let (_, warnings) =
        config(&["replay", "f"], &[("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2\n")]).unwrap();
    assert!(!format!("{warnings:?}").contains("hunter2"));
}
