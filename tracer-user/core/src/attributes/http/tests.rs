use bytes::Bytes;
use tracer_abi::conn::{Endpoint, SocketCookie};
use tracer_abi::time::KernelInstant;

use super::*;
use crate::event::{ConnOpened, Origin};

fn endpoint(text: &str) -> Endpoint {
    Endpoint::new(text.parse().unwrap())
}

fn request(method: &str, target: &str) -> RequestHead {
    RequestHead {
        version: "1.1",
        method: Some(method.into()),
        target: Some(target.into()),
        host: Some("shop:8080".into()),
        ..RequestHead::default()
    }
}

fn response(status: u16) -> &'static ResponseHead {
    Box::leak(Box::new(ResponseHead { version: "1.1", status: Some(status), ..ResponseHead::default() }))
}

fn socket(family: Family, local: Endpoint, remote: Endpoint, unix_path: &'static [u8]) -> &'static Socket {
    let opened = ConnOpened {
        origin: Origin { time: KernelInstant::ZERO, thread: None, cpu: 0 },
        cookie: SocketCookie(1),
        peer_cookie: None,
        family,
        role: Role::Unknown,
        local,
        remote,
        netns: 0,
        egress_seq: 0,
        ingress_seq: 0,
        preexisting: false,
        over: false,
        unix_path: Bytes::from_static(unix_path),
    };
    Box::leak(Box::new(Socket::of(&opened)))
}

fn tcp() -> &'static Socket {
    socket(Family::Inet, endpoint("10.0.0.1:8080"), endpoint("10.0.0.2:50000"), b"")
}

fn facts<'a>(role: Role, request: &'a RequestHead, response: Option<&'a ResponseHead>) -> Described<'a> {
    Described {
        role,
        request,
        request_body: Some(BodyLen::Exact(0)),
        response,
        response_body: Some(BodyLen::Exact(7)),
        trailer: None,
        outcome: if response.is_some() { Outcome::Complete } else { Outcome::NoResponse },
        incomplete: None,
        time_to_first_byte: None,
        time_to_first_data: None,
        start_late: false,
        socket: Some(tcp()),
        redact_query: true,
        kept_alive: false,
    }
}

/// `key=value` lines of the wanted keys, in order of the attributes.
fn lines(facts: &Described<'_>, prefixes: &[&str]) -> Vec<String> {
    let (_, _, attributes) = describe(facts);
    let mut keys: Vec<_> = attributes.iter().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), attributes.iter().count(), "a key twice in {attributes:?}");
    attributes
        .iter()
        .filter(|(key, _)| prefixes.iter().any(|prefix| key.starts_with(prefix)))
        .map(|(key, value)| match value {
            Value::Str(text) => format!("{key}={text}"),
            Value::Int(number) => format!("{key}={number}"),
            Value::Bool(_) | Value::StrArray(_) => format!("{key}={value:?}"),
        })
        .collect()
}

#[test]
fn a_server_span_has_the_parts_of_its_url() {
    let request = request("GET", "/cart?user=7&token");
    assert_eq!(
        lines(
            &facts(Role::Server, &request, Some(response(200))),
            &["url.", "server.", "client.", "network."]
        ),
        [
            "url.path=/cart",
            "url.query=user=REDACTED&REDACTED",
            "url.scheme=http",
            "server.address=shop",
            "server.port=8080",
            "client.address=10.0.0.2",
            "network.peer.address=10.0.0.2",
            "network.peer.port=50000",
            "network.local.address=10.0.0.1",
            "network.local.port=8080",
            "network.transport=tcp",
            "network.protocol.version=1.1",
        ]
    );
}

#[test]
fn a_client_span_has_the_whole_url() {
    for (host, target, url, address, port) in [
        (Some("shop"), "/a?b=c", "http://shop/a?b=REDACTED", "shop", 50000),
        (Some("shop:81"), "/", "http://shop:81/", "shop", 81),
        (Some("u:p@shop"), "/", "http://shop/", "shop", 50000),
        (Some("[::1]:81"), "/", "http://[::1]:81/", "::1", 81),
        (None, "/a", "http://10.0.0.2:50000/a", "10.0.0.2", 50000),
        (Some("proxy"), "http://u:p@far/x", "http://far/x", "far", 80),
        (Some("proxy"), "https://far/x", "https://far/x", "far", 443),
    ] {
        let mut request = request("GET", target);
        request.host = host.map(SmolStr::new);
        assert_eq!(
            lines(&facts(Role::Client, &request, Some(response(200))), &["url.", "server."]),
            [format!("url.full={url}"), format!("server.address={address}"), format!("server.port={port}")],
            "{host:?} {target}"
        );
    }
}

/// Whatever the exchanges before it on the connection were like.
#[test]
fn what_a_connection_s_exchanges_have_in_common_is_said_of_each() {
    let requests = |changed: fn(&mut RequestHead)| {
        let mut request = request("GET", "/a?b=c");
        request.user_agent = Some("agent".into());
        changed(&mut request);
        request
    };
    let requests = [
        requests(|_| ()),
        requests(|request| request.target = Some("http://far/".into())),
        requests(|request| request.target = Some("/".into())),
        requests(|request| request.host = None),
        requests(|request| request.host = Some("other".into())),
        requests(|request| request.version = "1.0"),
        requests(|request| request.user_agent = None),
        requests(|request| request.user_agent = Some("long".repeat(1000).into())),
    ];
    for role in [Role::Client, Role::Server] {
        for first in &requests {
            let socket = tcp();
            for request in [&requests[0], first].into_iter().chain(&requests) {
                let alone = facts(role, request, Some(response(200)));
                let kept_alive = Described { kept_alive: true, socket: Some(socket), ..alone };
                assert_eq!(describe(&kept_alive), describe(&alone), "{role:?} {first:?} {request:?}");
            }
            let alike =
                Described { kept_alive: true, socket: Some(socket), ..facts(role, &requests[0], None) };
            let (_, _, attributes) = describe(&alike);
            assert!(attributes.parts().common.is_some() && attributes.parts().before.len() < 5);
        }
    }
}

#[test]
fn query_values_are_kept_when_asked_for() {
    let request = request("GET", "/a?b=c");
    let mut facts = facts(Role::Server, &request, None);
    facts.redact_query = false;
    assert_eq!(lines(&facts, &["url.query"]), ["url.query=b=c"]);
}

#[test]
fn special_targets_have_no_invented_path() {
    let asterisk = request("OPTIONS", "*");
    assert_eq!(lines(&facts(Role::Server, &asterisk, None), &["url.path"]), ["url.path=*"]);
    let connect = request("CONNECT", "db:5432");
    let lines = lines(&facts(Role::Client, &connect, None), &["url.", "server."]);
    assert_eq!(lines, ["server.address=db", "server.port=5432"]);
}

#[test]
fn unknown_methods_are_other() {
    for (method, name, attributes) in [
        ("GET", "GET", vec!["http.request.method=GET"]),
        ("PURGE", "HTTP", vec!["http.request.method=_OTHER", "http.request.method_original=PURGE"]),
        ("get", "HTTP", vec!["http.request.method=_OTHER", "http.request.method_original=get"]),
    ] {
        let request = request(method, "/");
        let facts = facts(Role::Server, &request, Some(response(200)));
        assert_eq!(describe(&facts).0, name);
        assert_eq!(lines(&facts, &["http.request.method"]), attributes);
    }
}

#[test]
fn errors_depend_on_the_side() {
    let error = Status::Error { description: None };
    for (role, status, outcome, want) in [
        (Role::Server, Some(200), Outcome::Complete, None),
        (Role::Server, Some(404), Outcome::Complete, None),
        (Role::Server, Some(500), Outcome::Complete, Some("500")),
        (Role::Client, Some(399), Outcome::Complete, None),
        (Role::Client, Some(404), Outcome::Complete, Some("404")),
        (Role::Client, Some(101), Outcome::Upgraded, None),
        (Role::Client, None, Outcome::NoResponse, Some("connection_closed")),
        (Role::Server, None, Outcome::NoResponse, Some("connection_closed")),
        (Role::Client, Some(200), Outcome::ResponseCut, Some("response_truncated")),
        (Role::Server, Some(503), Outcome::ResponseCut, Some("503")),
        (Role::Client, None, Outcome::StillOpen, None),
        (Role::Client, Some(200), Outcome::Lost, None),
    ] {
        let request = request("GET", "/");
        let response = status.map(response);
        let mut facts = facts(role, &request, response);
        facts.outcome = outcome;
        let (_, status, _) = describe(&facts);
        let want_status = if want.is_some() { error.clone() } else { Status::Unset };
        assert_eq!(status, want_status, "{role:?} {outcome:?}");
        let want: Vec<String> = want.iter().map(|want| format!("error.type={want}")).collect();
        assert_eq!(lines(&facts, &["error.type"]), want);
    }
}

#[test]
fn nothing_is_invented() {
    let request = request("GET", "/");
    let mut unseen = facts(Role::Client, &request, None);
    unseen.outcome = Outcome::StillOpen;
    unseen.request_body = Some(BodyLen::Unknown);
    unseen.incomplete = Some(Incomplete::StillOpen);
    unseen.socket = None;
    assert_eq!(
        lines(&unseen, &["http.", "network.", "error", "tracer."]),
        ["http.request.method=GET", "network.protocol.version=1.1", "tracer.incomplete=still_open"]
    );
    let mut cut = facts(Role::Client, &request, Some(response(200)));
    cut.outcome = Outcome::ResponseCut;
    assert_eq!(lines(&cut, &["http.response"]), ["http.response.status_code=200"]);
}

#[test]
fn unix_sockets_have_names_instead_of_addresses() {
    let mut request = request("GET", "/");
    request.host = None;
    for (path, name) in [(b"/run/app".as_slice(), "/run/app"), (b"\0app", "@app")] {
        let mut facts = facts(Role::Server, &request, Some(response(200)));
        facts.socket = Some(socket(Family::Unix, Endpoint::default(), Endpoint::default(), path));
        assert_eq!(
            lines(&facts, &["server.", "client.", "network.l", "network.pe", "network.t"]),
            [
                format!("server.address={name}"),
                "network.transport=unix".to_owned(),
                format!("network.local.address={name}")
            ]
        );
    }
}

#[test]
fn hostile_text_is_escaped() {
    let mut request = request("GET", "/\u{1b}]0;x\u{7}");
    request.host = Some("a\r\nb".into());
    request.user_agent = Some("\u{202e}".into());
    let (_, _, attributes) = describe(&facts(Role::Server, &request, None));
    let text = format!("{attributes:?}");
    assert!(
        text.contains(r"/\\x1b]0;x\\x07") && text.contains(r"a\\x0d\\x0ab") && text.contains(r"\\u{202e}")
    );
}
