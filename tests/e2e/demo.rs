//! The demonstration's one trace: curl → nginx → Python → Node, whole and with the right parents.

use tracer_tests::demo;
use tracer_tests::spans::{Kind, Span};
use tracer_tests::tracer::Tracer;

#[test]
fn one_request_is_one_trace() {
    let mut demo = demo::start().expect("start the programs");
    let tracer = Tracer::attach(&demo.pids().expect("pids")).expect("attach");
    let answer = demo.ask().expect("ask");
    assert!(answer.contains("cups"), "{answer}");
    let report = tracer.finish().expect("tracer");
    let spans = &report.spans;

    let find = |kind: Kind, pid: u32, path: &str| -> &Span {
        let mut found = spans.iter().filter(|s| {
            let of_program = s.pid() == pid || demo_child(pid, s.pid());
            s.kind == kind && of_program && s.path() == Some(path)
        });
        match (found.next(), found.next()) {
            (Some(span), None) => span,
            (first, _) => panic!(
                "{first:?} is not the only {kind:?} span of {path} in {pid}: {spans:#?}\n{}",
                report.log
            ),
        }
    };
    let [(_, curl), (_, nginx), (_, shop), (_, stock)] = demo.programs();
    let asked = find(Kind::Client, curl, "/cart/42");
    let proxied = find(Kind::Server, nginx, "/cart/42");
    let upstream = find(Kind::Client, nginx, "/cart/42");
    let served = find(Kind::Server, shop, "/cart/42");
    let mut edges = vec![
        (proxied, asked, "tcp-sequence"),
        (upstream, proxied, "runtime-task"),
        (served, upstream, "tcp-sequence"),
    ];
    for item in ["/stock/tea", "/stock/cups"] {
        let call = find(Kind::Client, shop, item);
        edges.push((call, served, "thread"));
        edges.push((find(Kind::Server, stock, item), call, "tcp-sequence"));
    }
    assert_eq!(asked.parent, None);
    for (child, parent, evidence) in &edges {
        assert_eq!(
            child.parent.as_deref(),
            Some(parent.span_id.as_str()),
            "parent of {child:#?}\n{}",
            report.log
        );
        assert_eq!(child.trace_id, asked.trace_id);
        assert_eq!(child.evidence(), Some(*evidence), "{child:#?}");
        assert!(child.start >= parent.start, "starts before its parent: {child:#?}\n{parent:#?}");
    }
    for span in spans {
        assert_eq!(span.int("http.response.status_code"), Some(200), "{span:#?}");
    }
    assert_eq!(spans.len(), edges.len() + 1, "more than the chain: {spans:#?}");
    let services: Vec<&str> = [asked, proxied, served, edges[4].0].map(Span::service).to_vec();
    assert_eq!(services, ["curl", "nginx", "shop", "stock"]);
}

/// Is `child` a child process of `parent` (an nginx worker of its master)?
fn demo_child(parent: u32, child: u32) -> bool {
    tracer_tests::nginx::children(parent).is_ok_and(|children| children.contains(&child))
}
