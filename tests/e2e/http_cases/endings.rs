//! Exchanges that end badly or not at all, and traffic that is not HTTP.

use tracer_tests::raw::{Put, Step};

use crate::{Case, Want};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: case.test\r\n\r\n")
}

fn ok(path: &str) -> Want {
    Want::get(path).received(2)
}

fn unanswered(path: &str) -> Want {
    Want::get(path).no_status().fails().received_unknown()
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("no-response").request(get("/n")).client(Step::ReadToEnd).want(unanswered("/n")),
        Case::new("no-response-but-reset")
            .request(get("/n"))
            .client(Step::Sleep { ms: 50 })
            .server(Step::Reset)
            .want(unanswered("/n")),
        Case::reset_unread("reset-before-it-was-read", get("/n").as_bytes()).want(unanswered("/n")),
        Case::new("second-gets-no-response")
            .request(get("/1"))
            .response(OK)
            .request(get("/2"))
            .client(Step::ReadToEnd)
            .want(ok("/1"))
            .want(unanswered("/2")),
        Case::new("client-gives-up")
            .request(get("/g"))
            .client(Step::Sleep { ms: 50 })
            .server(Step::ReadToEnd)
            .want(unanswered("/g")),
        Case::new("only-100-then-close")
            .request(
                "POST /c HTTP/1.1\r\nHost: case.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
            )
            .response("HTTP/1.1 100 Continue\r\n\r\n")
            .request("abc")
            .client(Step::ReadToEnd)
            .want(Want::new("POST", "/c", 0).no_status().fails().sent(3).received_unknown()),
        Case::new("response-cut")
            .request(get("/cut"))
            .response("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
            .client(Step::ReadToEnd)
            .want(Want::get("/cut").fails().received_at_most(9)),
        Case::new("chunked-response-cut")
            .request(get("/cut"))
            .response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .client(Step::ReadToEnd)
            .want(Want::get("/cut").fails().received_at_most(5)),
        Case::new("response-reset")
            .request(get("/cut"))
            .response("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
            .server(Step::Sleep { ms: 50 })
            .server(Step::Reset)
            .client(Step::Sleep { ms: 100 })
            .want(Want::get("/cut").fails().received_at_most(9)),
        // A head without an end is no response.
        Case::new("head-cut")
            .request(get("/cut"))
            .response("HTTP/1.1 200 OK\r\nContent-Le")
            .client(Step::ReadToEnd)
            .want(Want::get("/cut").no_status().fails().received_unknown()),
        Case::new("half-closed-client")
            .request(get("/half"))
            .client(Step::ShutdownWrite)
            .server(Step::ReadToEnd)
            .response(OK)
            .want(ok("/half")),
        // The server answers and closes with most of the body unread.
        Case::new("body-refused")
            .client(Step::Write {
                bytes: format!(
                    "POST /big HTTP/1.1\r\nHost: case.test\r\nContent-Length: 100000\r\n\r\n{}",
                    "b".repeat(1000)
                )
                .into_bytes(),
                how: Put::Once,
            })
            .server(Step::Read { len: 63, how: tracer_tests::raw::Take::Read })
            .response("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            // Closing with unread bytes resets: the client reads first.
            .server(Step::Sleep { ms: 50 })
            .want(Want::new("POST", "/big", 413).sent_at_most(1000)),
        Case::new("refused-in-the-head")
            .request("GET /slow HTTP/1.1\r\nHost: case.test\r\nX-")
            .response("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .client(Step::ReadToEnd)
            .want(Want::new("GET", "/slow", 408)),
        Case::new("status-500")
            .request(get("/e"))
            .response("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
            .want(Want::new("GET", "/e", 500)),
        Case::new("status-404")
            .request(get("/e"))
            .response("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            .want(Want::new("GET", "/e", 404)),
        Case::new("status-302")
            .request(get("/e"))
            .response("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")
            .want(Want::new("GET", "/e", 302)),
        Case::new("status-799")
            .request(get("/e"))
            .response("HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n")
            .want(Want::new("GET", "/e", 799)),
    ];
    cases.extend(foreign());
    cases
}

/// Not HTTP: not one span.
fn foreign() -> Vec<Case> {
    let tls_hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[7; 500]].concat();
    vec![
        Case::new("tls").request(&tls_hello).response(&tls_hello).request([1; 900]).response([2; 900]),
        Case::new("http-2")
            .request(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            .response(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00"),
        Case::new("binary-by-byte").request_as([0x80; 300], Put::Bytes).response_as([0xfe; 300], Put::Bytes),
        Case::new("text-protocol").request("EHLO mail.test\r\n").response("250-mail.test\r\n250 OK\r\n"),
        Case::new("redis").request("*1\r\n$4\r\nPING\r\n").response("+PONG\r\n"),
        Case::new("almost-http").request("GETAWAY\r\n\r\nGET\r\n\r\n").response("HTTP\r\n"),
        Case::new("nothing-at-all"),
    ]
}
