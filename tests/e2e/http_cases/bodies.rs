//! Bodies: framing, size, and how long they take.

use std::time::Duration;

use tracer_tests::raw::{FillWith, Put, Step, Take};
use tracer_tests::scale;
use tracer_tests::spans::Kind;

use crate::case::Seen;
use crate::{Case, Want};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const MIB: u64 = 1024 * 1024;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: case.test\r\n\r\n")
}

fn ok(path: &str) -> Want {
    Want::get(path).received(2)
}

/// The next exchange proves that the end was found.
fn followed(case: Case) -> Case {
    case.request(get("/next")).response(OK).want(ok("/next"))
}

fn sized_head(len: u64) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n")
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = framing();
    cases.extend(volume());
    cases.extend(streams());
    cases
}

fn framing() -> Vec<Case> {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                   5;name=value;q=\"a;b\"\r\nhello\r\n00A\r\n0123456789\r\n0;last\r\nX-Sum: 15\r\nX-More: 1\r\n\r\n";
    let head_only = |name: &'static str, answer: &str| {
        followed(
            Case::new(name)
                .request("HEAD /h HTTP/1.1\r\nHost: case.test\r\n\r\n")
                .response(answer)
                .want(Want::new("HEAD", "/h", 200)),
        )
    };
    let mut cases = vec![
        followed(Case::new("chunks").request(get("/c")).response(chunked).want(Want::get("/c").received(15))),
        followed(
            Case::new("chunks-by-byte")
                .takes(Take::Bytes)
                .request(get("/c"))
                .response_as(chunked, Put::Bytes)
                .want(Want::get("/c").received(15)),
        ),
        followed(
            Case::new("chunked-request")
                .request(
                    "POST /c HTTP/1.1\r\nHost: case.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3\r\nabc\r\n1\r\nd\r\n0\r\nX-T: 1\r\n\r\n",
                )
                .response(OK)
                .want(Want::new("POST", "/c", 200).sent(4).received(2)),
        ),
        followed(
            Case::new("gzip-then-chunked")
                .request(get("/g"))
                .response("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nzz\r\n0\r\n\r\n")
                .want(Want::get("/g").received(2)),
        ),
        head_only("head-with-length", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        head_only("head-with-chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        followed(
            Case::new("no-content")
                .request(get("/n"))
                .response("HTTP/1.1 204 No Content\r\n\r\n")
                .want(Want::new("GET", "/n", 204)),
        ),
        followed(
            Case::new("not-modified-with-length")
                .request(get("/n"))
                .response("HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n")
                .want(Want::new("GET", "/n", 304)),
        ),
        followed(Case::new("length-zero").request(get("/z")).response(sized_head(0)).want(Want::get("/z"))),
        Case::new("until-close")
            .request(get("/u"))
            .response("HTTP/1.1 200 OK\r\n\r\nno length given")
            .client(Step::ReadToEnd)
            .want(Want::get("/u").received(15)),
        Case::new("until-close-1.0")
            .request("GET /u HTTP/1.0\r\n\r\n")
            .response_as("HTTP/1.0 200 OK\r\nServer: x\r\n\r\nno length given", Put::Bytes)
            .client(Step::ReadToEnd)
            .want(Want::get("/u").received(15).version("1.0")),
        // The body looks like messages.
        followed(
            Case::new("body-that-looks-like-http")
                .request(format!(
                    "POST /b HTTP/1.1\r\nHost: case.test\r\nContent-Length: 39\r\n\r\n{:39}",
                    get("/x")
                ))
                .response(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{OK}", OK.len()))
                .want(Want::new("POST", "/b", 200).sent(39).received(OK.len() as u64)),
        ),
    ];
    for cut in 36..50 {
        cases.push(followed(
            Case::new(Box::leak(format!("chunk-cut-at-{cut}").into_boxed_str()))
                .request(get("/c"))
                .response_as(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n",
                    Put::Pieces(vec![cut + 11, 1]),
                )
                .want(Want::get("/c").received(3)),
        ));
    }
    cases
}

fn volume() -> Vec<Case> {
    let download = |name, len, how| {
        followed(
            Case::new(name)
                .request(get("/down"))
                .response(sized_head(len))
                .response_fill(len, how)
                .want(Want::get("/down").received(len)),
        )
    };
    let upload = |name, len, how| {
        followed(
            Case::new(name)
                .request(format!("PUT /up HTTP/1.1\r\nHost: case.test\r\nContent-Length: {len}\r\n\r\n"))
                .request_fill(len, how)
                .response(OK)
                .want(Want::new("PUT", "/up", 200).sent(len).received(2)),
        )
    };
    vec![
        download("download-100k", 100_000, FillWith::Write),
        download("download-50m", 50 * MIB, FillWith::Write),
        download("sendfile-1m", MIB + 7, FillWith::Sendfile),
        download("splice-1m", MIB + 7, FillWith::Splice),
        upload("upload-20m", 20 * MIB + 3, FillWith::Write),
        upload("upload-sendfile", 3 * MIB, FillWith::Sendfile),
        // One chunk whose end is far behind what is kept of the payload.
        followed(
            Case::new("one-huge-chunk")
                .request(get("/chunk"))
                .response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n500000\r\n")
                .response_fill(5 * MIB, FillWith::Write)
                .response("\r\n0\r\n\r\n")
                .want(Want::get("/chunk").received(5 * MIB)),
        ),
        // Many chunks: framing lies in what is not kept, so the size cannot be known, but the end is seen.
        followed(many_chunks()),
    ]
}

fn many_chunks() -> Case {
    let mut case = Case::new("many-chunks")
        .request(get("/chunks"))
        .response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("2000\r\n{}\r\n", "c".repeat(0x2000));
    for _ in 0..40 {
        case = case.response(&chunk);
    }
    case.response("0\r\n\r\n").want(Want::get("/chunks").received_unknown())
}

fn streams() -> Vec<Case> {
    let mut events = Case::new("server-sent-events")
        .request(get("/sse"))
        .response("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut endless = Case::new("events-until-close")
        .request(get("/sse"))
        .response("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
    for _ in 0..10 {
        events = events.server(Step::Sleep { ms: 100 }).response("9\r\ndata: 1\n\n\r\n");
        endless = endless.server(Step::Sleep { ms: 100 }).response("data: 1\n\n");
    }
    vec![
        events
            .response("0\r\n\r\n")
            // The connection stays open: the end is the last byte, not the close.
            .client(Step::Sleep { ms: 300 })
            .want(Want::get("/sse").received(90))
            .check(|seen| lasts(seen, 1000, 1)),
        endless
            .client(Step::ReadToEnd)
            .want(Want::get("/sse").received(90))
            .check(|seen| lasts(seen, 1000, 1)),
        Case::new("slow-body")
            .request(get("/slow"))
            .response(sized_head(6))
            .server(Step::Sleep { ms: 400 })
            .response("abc")
            .server(Step::Sleep { ms: 400 })
            .response("def")
            .client(Step::Sleep { ms: 300 })
            .want(Want::get("/slow").received(6))
            .check(|seen| lasts(seen, 800, 1)),
        // The request's first byte is its start, even when the rest takes its time.
        Case::new("slow-request")
            .request("POST /slow HTTP/1.1\r\nHost: case.test\r\nContent-Le")
            .client(Step::Sleep { ms: 300 })
            .request("ngth: 4\r\n\r\nab")
            .client(Step::Sleep { ms: 300 })
            .request("cd")
            .response(OK)
            .want(Want::new("POST", "/slow", 200).sent(4).received(2))
            .check(|seen| lasts(seen, 600, 0)),
        // The response comes, whole, while the request still goes out: the exchange ends with the response, when the
        // size of the request's body is not known yet.
        followed(
            Case::new("early-response")
                .request("POST /early HTTP/1.1\r\nHost: case.test\r\nContent-Length: 6\r\n\r\nab")
                .response(OK)
                .client(Step::Sleep { ms: 200 })
                .request("cdef")
                .want(Want::new("POST", "/early", 200).sent_at_most(6).received(2)),
        ),
    ]
}

/// In milliseconds.
fn slack(ordinary: u64) -> u64 {
    scale::time(Duration::from_millis(ordinary)).as_millis() as u64
}

/// Both ends' spans begin no later than their first byte and last no longer than `ms`, and no longer than the step after
/// which, counted from the end, nothing of the exchange happened any more. What the client waits lasts so long at least; the
/// server may be late to read what it is asked.
fn lasts(seen: &Seen<'_>, ms: u64, idle_steps: usize) -> Result<(), String> {
    let last_byte = seen.client.marks[seen.client.marks.len() - 1 - idle_steps];
    let ends = [(seen.client, seen.client_spans), (seen.server, seen.server_spans)];
    for (played, span) in ends.iter().flat_map(|(played, spans)| spans.iter().map(move |span| (played, span)))
    {
        let lasted = (span.end - span.start) / 1_000_000;
        let short = span.kind == Kind::Client && lasted + slack(2) < ms;
        if short || lasted > ms + slack(250) {
            return Err(format!("lasts {lasted} ms instead of {ms}"));
        }
        let late = span.start.saturating_sub(played.marks[0]) / 1_000_000;
        if late > 0 {
            return Err(format!("begins {late} ms after its first byte"));
        }
        let after = span.end.saturating_sub(last_byte) / 1_000_000;
        if after > slack(20) {
            return Err(format!("ends {after} ms after its last byte"));
        }
    }
    Ok(())
}
