//! A Web server that hands requests to an application over FastCGI.

use tracer_core::span::{Span, Value};

use crate::host::{End, Host, T, Wiring, lines, name, text};
use crate::records::{request, response};

const NOBODY: Option<T> = None;
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// `nginx` serves a client and asks `app`, which calls `stock`.
struct Site {
    host: Host,
    nginx: T,
    app: T,
    stock: T,
    front: (End, End),
    fcgi: (End, End),
    back: (End, End),
}

impl Site {
    fn new(unix: bool) -> Self {
        let mut host = Host::new();
        let (nginx, app, stock) = (host.nginx("nginx"), host.process("app"), host.process("stock"));
        let front = host.connect(NOBODY, Some(nginx));
        host.nonblocking(front.1);
        let fcgi = host.connect_as(Some(nginx), Some(app), Wiring { unix, ..Wiring::default() });
        let back = host.connect(Some(app), Some(stock));
        Self { host, nginx, app, stock, front, fcgi, back }
    }

    fn serve(&mut self, path: &str, more: &[(&str, &str)], answer: &[u8]) {
        let Self { nginx, app, stock, .. } = *self;
        self.host.asks(NOBODY, self.front, nginx, path);
        self.host.write(nginx, self.fcgi.0, &request(1, path, more, b"", 9));
        self.host.read(app, self.fcgi.1);
        self.host.asks(app, self.back, stock, &format!("{}/tea", path.split('?').next().unwrap_or(path)));
        self.host.answers(app, self.back, stock);
        self.host.write(app, self.fcgi.1, answer);
        self.host.waits(nginx);
        self.host.read(nginx, self.fcgi.0);
        self.host.answers(NOBODY, self.front, nginx);
    }
}

fn of<'s>(spans: &'s [Span], wanted: &str) -> &'s Span {
    spans.iter().find(|span| name(span) == wanted).unwrap_or_else(|| panic!("{wanted}: {:?}", lines(spans)))
}

#[test]
fn a_request_through_an_application_is_one_trace() {
    for (unix, evidence) in [(false, "tcp-sequence"), (true, "unix-peer")] {
        let mut site = Site::new(unix);
        for path in ["/a", "/b"] {
            site.serve(path, &[], &response(1, 200, b"xx", 900));
        }
        let want = ["/a", "/b"].map(|path| {
            [
                format!("nginx server {path}"),
                format!("nginx client {path} < nginx server {path} (response-window)"),
                format!("app server {path} < nginx client {path} ({evidence})"),
                format!("app client {path}/tea < app server {path} (thread)"),
                format!("stock server {path}/tea < app client {path}/tea (tcp-sequence)"),
            ]
        });
        assert_eq!(site.host.lines(), want.concat());
    }
}

/// The answer says that it is over, and nginx answers when the connection is.
#[test]
fn an_answer_that_is_handed_on_at_the_end_of_the_connection() {
    let mut host = Host::new();
    let (nginx, app) = (host.nginx("nginx"), host.process("app"));
    let front = host.connect(NOBODY, Some(nginx));
    host.nonblocking(front.1);
    let fcgi = host.connect(Some(nginx), Some(app));
    host.asks(NOBODY, front, nginx, "/a");
    host.write(nginx, fcgi.0, &request(1, "/a", &[], b"", 9));
    host.read(app, fcgi.1);
    host.write(app, fcgi.1, &response(1, 200, b"xx", 900));
    host.close(app, fcgi.1);
    host.waits(nginx);
    host.read(nginx, fcgi.0);
    host.waits(nginx);
    host.end_of_stream(nginx, fcgi.0);
    host.answers(NOBODY, front, nginx);
    host.close(nginx, fcgi.0);
    assert_eq!(host.lines()[1], "nginx client /a < nginx server /a (response-window)");
}

#[test]
fn what_its_spans_say() {
    let mut site = Site::new(false);
    let more = [("HTTPS", "on"), ("HTTP_USER_AGENT", "agent"), ("HTTP_COOKIE", "secret")];
    site.serve("/a?b=c", &more, &response(1, 404, b"nothing", 900));
    let spans = site.host.spans();
    let (server, client) = (of(&spans, "app server /a"), of(&spans, "nginx client /a?b=REDACTED"));
    for (key, value) in [
        ("network.protocol.name", "fastcgi"),
        ("network.protocol.version", "1"),
        ("url.scheme", "https"),
        ("url.query", "b=REDACTED"),
        ("user_agent.original", "agent"),
        ("http.request.method", "POST"),
    ] {
        assert_eq!(text(server, key), Some(value), "{server:?}");
    }
    assert_eq!(text(client, "url.full"), Some("https://h/a?b=REDACTED"));
    let int = |span: &Span, wanted: &str| {
        let found = span.attributes.iter().find(|(key, _)| *key == wanted);
        found.map(|(_, value)| value.clone())
    };
    for span in [server, client] {
        assert_eq!(int(span, "http.response.status_code"), Some(Value::Int(404)));
        assert_eq!(int(span, "http.response.body.size"), Some(Value::Int(7)));
        assert_eq!(int(span, "tracer.fastcgi.app_status"), Some(Value::Int(0)));
        assert!(!format!("{span:?}").contains("secret"));
    }
    assert_eq!(text(client, "error.type"), Some("404"));
    assert_eq!(text(server, "error.type"), None);
}

/// A trace that the client began goes through the server's parameters.
#[test]
fn headers_are_read_from_parameters() {
    let mut host = Host::new();
    let app = host.process("app");
    let fcgi = host.connect(NOBODY, Some(app));
    host.write(NOBODY, fcgi.0, &request(1, "/a", &[("HTTP_TRACEPARENT", TRACEPARENT)], b"", 9));
    host.read(app, fcgi.1);
    host.write(app, fcgi.1, &response(1, 200, b"", 900));
    assert_eq!(host.lines(), ["app server /a < 00f067aa0ba902b7 (header)"]);
}

#[test]
fn a_refusal_is_an_error() {
    let mut host = Host::new();
    let app = host.process("app");
    let fcgi = host.connect(NOBODY, Some(app));
    host.write(NOBODY, fcgi.0, &request(1, "/a", &[], b"", 9));
    host.read(app, fcgi.1);
    host.write(app, fcgi.1, &crate::records::record(3, 1, &[0, 0, 0, 9, 2, 0, 0, 0], 0));
    let spans = host.spans();
    assert_eq!(text(&spans[0], "error.type"), Some("fastcgi_overloaded"));
    assert_eq!(text(&spans[0], "tracer.fastcgi.protocol_status"), Some("overloaded"));
}

/// Several requests of one connection at a time: nobody's call is anybody's, and nothing is mixed up.
#[test]
fn requests_at_the_same_time_are_told_apart() {
    let mut host = Host::new();
    let (app, stock) = (host.process("app"), host.process("stock"));
    let fcgi = host.connect(NOBODY, Some(app));
    let back = host.connect(Some(app), Some(stock));
    host.write(NOBODY, fcgi.0, &request(1, "/a", &[], b"", 9));
    host.read(app, fcgi.1);
    host.write(NOBODY, fcgi.0, &request(2, "/b", &[], b"", 9));
    host.read(app, fcgi.1);
    host.asks(app, back, stock, "/call");
    host.answers(app, back, stock);
    host.write(app, fcgi.1, &response(2, 200, b"", 900));
    host.write(app, fcgi.1, &response(1, 500, b"", 900));
    let spans = host.spans();
    assert!(of(&spans, "app client /call").parent.is_none(), "{:?}", lines(&spans));
    assert_eq!(text(of(&spans, "app server /a"), "error.type"), Some("500"));
    assert_eq!(text(of(&spans, "app server /b"), "error.type"), None);
}
