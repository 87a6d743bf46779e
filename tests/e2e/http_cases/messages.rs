//! Heads: how they are cut, what they may look like, and how they follow each other.

use tracer_tests::raw::{Put, Take};

use crate::{Case, Want};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: case.test\r\n\r\n")
}

fn ok(path: &str) -> Want {
    Want::get(path).received(2)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = boundaries();
    cases.extend(pipelines());
    cases.extend(methods_and_targets());
    cases.extend(header_forms());
    cases.extend(interim());
    cases.extend(contexts());
    cases
}

fn boundaries() -> Vec<Case> {
    let split_head = get("/split");
    let mut cases = vec![
        Case::new("plain").request(get("/plain")).response(OK).want(ok("/plain")),
        Case::new("writes-by-byte")
            .request_as(get("/b"), Put::Bytes)
            .response_as(OK, Put::Bytes)
            .want(ok("/b")),
        Case::new("reads-by-byte").takes(Take::Bytes).request(get("/r")).response(OK).want(ok("/r")),
        Case::new("all-by-byte-twice")
            .takes(Take::Bytes)
            .request_as(get("/one"), Put::Bytes)
            .response_as(OK, Put::Bytes)
            .request_as(get("/two"), Put::Bytes)
            .response_as(OK, Put::Bytes)
            .want(ok("/one"))
            .want(ok("/two")),
        // In the method, in the target, in the version, between CR and LF, in a name, in the last CR LF CR LF.
        Case::new("head-in-seven-pieces")
            .request_as(&split_head, Put::Pieces(vec![2, 4, 9, 7, 3, split_head.len() - 28]))
            .response_as(OK, Put::Pieces(vec![5, 6, 5, 10, 12]))
            .want(ok("/split")),
    ];
    // Every cut of a whole exchange's response, a few of the request's.
    for cut in [1, 8, 12, 15, 16, 17, 30, 33, 34, 35] {
        cases.push(
            Case::new(Box::leak(format!("cut-at-{cut}").into_boxed_str()))
                .request_as(get("/c"), Put::Pieces(vec![cut]))
                .response_as(OK, Put::Pieces(vec![cut]))
                .request(get("/d"))
                .response(OK)
                .want(ok("/c"))
                .want(ok("/d")),
        );
    }
    cases
}

fn pipelines() -> Vec<Case> {
    let three = get("/1") + &get("/2") + &get("/3");
    let answers = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\
                   HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                   HTTP/1.1 204 No Content\r\n\r\n";
    let wants = |case: Case| {
        case.want(ok("/1")).want(Want::new("GET", "/2", 404).received(3)).want(Want::new("GET", "/3", 204))
    };
    let post = "POST /p HTTP/1.1\r\nHost: case.test\r\nContent-Length: 4\r\n\r\nbody";
    let mut kept_alive = Case::new("hundred-on-one-connection");
    for number in 0..100 {
        let path: &'static str = Box::leak(format!("/{number}").into_boxed_str());
        kept_alive = kept_alive.request(get(path)).response(OK).want(ok(path));
    }
    vec![
        wants(Case::new("three-in-one-write").request(&three).response(answers)),
        wants(
            Case::new("three-cut-across")
                .request_as(&three, Put::Pieces(vec![50, 1, 30]))
                .response_as(answers, Put::Pieces(vec![30, 40, 45])),
        ),
        wants(Case::new("three-by-byte").request_as(&three, Put::Bytes).response_as(answers, Put::Bytes)),
        Case::new("bodies-pipelined")
            .request(post.repeat(2) + &get("/q"))
            .response(OK.repeat(3))
            .want(Want::new("POST", "/p", 200).sent(4).received(2))
            .want(Want::new("POST", "/p", 200).sent(4).received(2))
            .want(ok("/q")),
        // RFC 9112 section 2.2: empty lines before a request line are ignored.
        Case::new("empty-line-before-request")
            .request(post)
            .response(OK)
            .request(format!("\r\n{}", get("/q")))
            .response(OK)
            .want(Want::new("POST", "/p", 200).sent(4).received(2))
            .want(ok("/q")),
        kept_alive,
    ]
}

fn methods_and_targets() -> Vec<Case> {
    let odd = |name: &'static str, method: &'static str| {
        Case::new(name)
            .request(format!("{method} /m HTTP/1.1\r\nHost: case.test\r\n\r\n"))
            .response(OK)
            .want(Want::new("_OTHER", "/m", 200).original(method).received(2))
    };
    let plain = |name: &'static str, method: &'static str| {
        Case::new(name)
            .request(format!("{method} /m HTTP/1.1\r\nHost: case.test\r\nContent-Length: 1\r\n\r\nx"))
            .response(OK)
            .want(Want::new(method, "/m", 200).sent(1).received(2))
    };
    let long = format!("/{}", "long/".repeat(800));
    vec![
        plain("put", "PUT"),
        plain("delete", "DELETE"),
        plain("patch", "PATCH"),
        odd("propfind", "PROPFIND"),
        odd("purge", "PURGE"),
        odd("m-search", "M-SEARCH"),
        odd("version-control", "VERSION-CONTROL"),
        odd("method-of-one-letter", "Z"),
        Case::new("absolute-form")
            .request("GET http://u:p@host.test:81/abs/x HTTP/1.1\r\nHost: host.test:81\r\n\r\n")
            .response(OK)
            .want(ok("/abs/x"))
            .check(|seen| {
                let all = seen.client_spans.iter().chain(seen.server_spans);
                let leaky: Vec<_> = all
                    .flat_map(|span| &span.attributes)
                    .filter(|(_, v)| v.to_string().contains("u:p"))
                    .collect();
                if leaky.is_empty() { Ok(()) } else { Err(format!("user information leaks: {leaky:?}")) }
            }),
        Case::new("options-of-the-server")
            .request("OPTIONS * HTTP/1.1\r\nHost: case.test\r\n\r\n")
            .response("HTTP/1.1 204 No Content\r\nAllow: GET\r\n\r\n")
            .want(Want::new("OPTIONS", "*", 204)),
        Case::new("long-target").request(get(&long)).response(OK).want(ok(&long)),
        Case::new("query-values-are-hidden")
            .request(get("/q?user=alice&token=hunter2&flag"))
            .response(OK)
            .want(ok("/q"))
            .check(|seen| {
                let all = seen.client_spans.iter().chain(seen.server_spans);
                let text: String =
                    all.flat_map(|span| span.attributes.values()).map(ToString::to_string).collect();
                match (text.contains("hunter2") || text.contains("alice"), text.contains("token=")) {
                    (false, true) => Ok(()),
                    (leaks, names) => Err(format!("values leak: {leaks}, names kept: {names}")),
                }
            }),
        Case::new("bytes-beyond-ascii")
            .request(b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: case.test\r\nX-Name: \xff\xfe\r\n\r\n")
            .response(OK)
            .want(ok("/café")),
    ]
}

fn header_forms() -> Vec<Case> {
    let many: String = (0..200).map(|n| format!("X-{n}: v\r\n")).collect();
    let cookies = format!("Cookie: {}\r\n", "c".repeat(7000));
    vec![
        Case::new("case-and-space")
            .request("POST /ows HTTP/1.1\r\nhOST:case.test\r\ncOnTeNt-LeNgTh: \t 3 \t\r\n\r\nabc")
            .response("HTTP/1.1 200 \r\nTRANSFER-encoding:\t cHuNkEd \r\n\r\n1\r\nz\r\n0\r\n\r\n")
            .request(get("/next"))
            .response(OK)
            .want(Want::new("POST", "/ows", 200).sent(3).received(1))
            .want(ok("/next")),
        // RFC 9112 section 5.2.
        Case::new("folded-header")
            .request("GET /fold HTTP/1.1\r\nHost: case.test\r\nX-Folded: one\r\n two\r\n\tthree\r\n\r\n")
            .response("HTTP/1.1 200 OK\r\nX-Folded: one\r\n two\r\nContent-Length: 2\r\n\r\nok")
            .want(ok("/fold")),
        Case::new("no-reason-phrase")
            .request(get("/reason"))
            .response("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok")
            .want(ok("/reason")),
        Case::new("two-hundred-headers")
            .request(format!("GET /many HTTP/1.1\r\nHost: case.test\r\n{many}\r\n"))
            .response(format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok"))
            .request(get("/next"))
            .response(OK)
            .want(ok("/many"))
            .want(ok("/next")),
        Case::new("cookies-of-7000-bytes")
            .request(format!("GET /cookies HTTP/1.1\r\nHost: case.test\r\n{cookies}Content-Length: 1\r\n\r\nx"))
            .response(OK)
            .want(ok("/cookies").sent(1)),
        Case::new("equal-content-lengths")
            .request("POST /cl HTTP/1.1\r\nHost: case.test\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc")
            .response(OK)
            .want(Want::new("POST", "/cl", 200).sent(3).received(2)),
        // RFC 9112 section 6.3: chunked overrides a length.
        Case::new("chunked-overrides-length")
            .request(get("/te"))
            .response("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            .request(get("/next"))
            .response(OK)
            .want(ok("/te"))
            .want(ok("/next")),
        Case::new("http-1.0")
            .request("GET /old HTTP/1.0\r\n\r\n")
            .response("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .want(ok("/old").version("1.0")),
        Case::new("http-1.0-kept-alive")
            .request("GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .response("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")
            .request("GET /old HTTP/1.0\r\n\r\n")
            .response("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .want(ok("/old").version("1.0"))
            .want(ok("/old").version("1.0")),
    ]
}

/// Header blocks close to 64 KiB, with what frames the message at their end.
pub(crate) fn long_heads() -> Vec<Case> {
    let cookies = format!("Cookie: {}\r\n", "c".repeat(8000)).repeat(7);
    let request = format!("POST /long HTTP/1.1\r\nHost: case.test\r\n{cookies}Content-Length: 3\r\n\r\nabc");
    let response =
        format!("HTTP/1.1 200 OK\r\n{cookies}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    let whole = |name: &'static str, how: Put| {
        Case::new(name)
            .request_as(&request, how.clone())
            .response_as(&response, how)
            .request(get("/next"))
            .response(OK)
            .want(Want::new("POST", "/long", 200).sent(3).received(2))
            .want(ok("/next"))
    };
    vec![
        whole("56k-in-one-write", Put::Once),
        whole("56k-in-pieces", Put::Pieces(vec![20_000, 20_000, 16_000])),
        whole("56k-in-vectors", Put::Writev(2000)),
    ]
}

fn interim() -> Vec<Case> {
    let upgrade = "GET /ws HTTP/1.1\r\nHost: case.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    vec![
        Case::new("continue")
            .request("POST /up HTTP/1.1\r\nHost: case.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            .response("HTTP/1.1 100 Continue\r\n\r\n")
            .request("hello")
            .response("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            .request(get("/next"))
            .response(OK)
            .want(Want::new("POST", "/up", 201).sent(5))
            .want(ok("/next")),
        Case::new("expectation-refused")
            .request("POST /up HTTP/1.1\r\nHost: case.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            .response("HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .want(Want::new("POST", "/up", 417).sent_at_most(5)),
        Case::new("processing-and-early-hints")
            .request(get("/slow"))
            .response("HTTP/1.1 102 Processing\r\n\r\n")
            .response_as(
                "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                Put::Pieces(vec![20, 23, 3]),
            )
            .want(ok("/slow")),
        Case::new("websocket")
            .request(upgrade)
            .response(switching)
            .request(b"\x81\x05hello")
            .response(b"\x81\x05hello")
            // Opaque bytes that look like HTTP are still opaque.
            .request(get("/not-http"))
            .response(OK)
            .want(Want::new("GET", "/ws", 101)),
        Case::new("websocket-frame-in-the-same-write")
            .request(upgrade)
            .response(format!("{switching}\u{1}{OK}"))
            .request(get("/not-http"))
            .want(Want::new("GET", "/ws", 101)),
        Case::new("connect-tunnel")
            .request("CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\n")
            .response("HTTP/1.1 200 Connection established\r\n\r\n")
            .request(get("/not-http"))
            .response(OK)
            .want(Want::new("CONNECT", "", 200).no_path()),
        Case::new("connect-refused")
            .request("CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\n")
            .response("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno")
            .request(get("/next"))
            .response(OK)
            .want(Want::new("CONNECT", "", 407).no_path().received(2))
            .want(ok("/next")),
    ]
}

fn contexts() -> Vec<Case> {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let with = |name: &'static str, headers: &str| {
        Case::new(name).request(format!("GET /t HTTP/1.1\r\nHost: case.test\r\n{headers}\r\n")).response(OK)
    };
    // A span id of its own per case: one that came in before would name an ancestor.
    let valid = |name, header: &str, span: &'static str| {
        with(name, &header.replace("SPAN", span)).want(ok("/t").context(TRACE, span))
    };
    // Malformed means absent: a root in a trace of its own.
    let malformed = |name, header: &str| {
        with(name, &header.replace("SPAN", "b7ad6b7169203331")).want(ok("/t")).check(|seen| {
            let trace = &seen.client_spans[0].trace_id;
            if trace.as_str() == TRACE { Err("a malformed header was believed".to_owned()) } else { Ok(()) }
        })
    };
    let good = format!("00-{TRACE}-SPAN-01");
    let parent = |fields: &str| format!("traceparent: {fields}\r\n");
    let zeros = "0".repeat(32);
    vec![
        valid("traceparent", &parent(&good), "0000000000000001"),
        valid("traceparent-odd-name", &format!("TraceParent:{good}\r\n"), "0000000000000002"),
        valid(
            "traceparent-of-a-later-version",
            &parent(&format!("cc-{TRACE}-SPAN-01-what-the-future-brings")),
            "0000000000000003",
        ),
        valid(
            "tracestate",
            &format!("{}tracestate: vendor=x,other=y\r\n", parent(&good)),
            "0000000000000004",
        )
        .check(|seen| match seen.server_spans[0].trace_state.as_str() {
            "vendor=x,other=y" => Ok(()),
            other => Err(format!("tracestate became {other:?}")),
        }),
        // Not sampled: counted, not exported.
        with("not-sampled", &parent(&format!("00-{TRACE}-0000000000000005-00"))),
        malformed("traceparent-upper-case", &parent(&good.to_uppercase())),
        malformed("traceparent-short", &parent(&format!("00-{TRACE}-SPAN-0"))),
        malformed("traceparent-long-in-version-0", &parent(&format!("{good}-x"))),
        malformed("traceparent-version-ff", &parent(&format!("ff-{TRACE}-SPAN-01"))),
        malformed("traceparent-zero-trace", &parent(&format!("00-{zeros}-SPAN-01"))),
        malformed("traceparent-zero-span", &parent(&format!("00-{TRACE}-0000000000000000-01"))),
        malformed("traceparent-not-hex", &parent(&format!("00-{}g-SPAN-01", &TRACE[..31]))),
        malformed("traceparent-twice", &(parent(&good) + &parent(&good))),
        malformed("traceparent-empty", &parent("")),
    ]
}
