//! HTTP/1 on one socket: every case as a table of operations and the exchanges that come of them.

mod support;

use support::{Record, Wire, render, run};
use tracer_abi::conn::{Direction, Role};
use tracer_abi::error::PayloadState;
use tracer_core::connection::{Connection, ConnectionLimits};
use tracer_core::exchange::ExchangeUpdate;

/// One step on a server's socket; [`check`] plays the same on a client's.
#[derive(Clone)]
enum Step {
    /// The request direction moves these bytes.
    Req(Vec<u8>),
    /// The response direction does.
    Resp(Vec<u8>),
    /// As many bytes without payload.
    RespUnseen(u32, PayloadState),
    /// The next operation's records are lost.
    Lost(Box<Step>),
    Close,
}
use Step::{Close, Lost, RespUnseen};

fn req(bytes: &str) -> Step {
    Step::Req(bytes.as_bytes().to_vec())
}

fn resp(bytes: &str) -> Step {
    Step::Resp(bytes.as_bytes().to_vec())
}

fn lost(step: Step) -> Step {
    Lost(Box::new(step))
}

fn play(role: Role, preexisting: bool, steps: &[Step]) -> Vec<Record> {
    let (requests, responses) = match role {
        Role::Client => (Direction::Egress, Direction::Ingress),
        Role::Server | Role::Unknown => (Direction::Ingress, Direction::Egress),
    };
    let mut wire = Wire::opened(role, preexisting);
    for step in steps {
        apply(&mut wire, step, requests, responses);
    }
    wire.records
}

fn apply(wire: &mut Wire, step: &Step, requests: Direction, responses: Direction) {
    match step {
        Step::Req(bytes) => wire.moves(requests, bytes),
        Step::Resp(bytes) => wire.moves(responses, bytes),
        RespUnseen(len, state) => wire.moves_unseen(responses, *len, *state),
        Lost(inner) => {
            let kept = wire.records.len();
            apply(wire, inner, requests, responses);
            wire.records.truncate(kept);
        }
        Close => wire.closes(true),
    }
}

fn transcript(records: &[Record]) -> Vec<String> {
    run(records).0.iter().map(render).collect()
}

/// The same steps on both ends of a connection give `want`.
fn check(steps: &[Step], want: &[&str]) {
    for role in [Role::Server, Role::Client] {
        assert_eq!(transcript(&play(role, false, steps)), want, "{role:?}");
    }
}

/// On a connection that is older than the tracer.
fn check_joined(steps: &[Step], want: &[&str]) {
    for role in [Role::Server, Role::Client] {
        assert_eq!(transcript(&play(role, true, steps)), want, "{role:?}");
    }
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn one_exchange() {
    check(
        &[req(GET), resp(OK), Close],
        &["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 < 200 @0 t2", "0 complete @42 t2 len 5"],
    );
}

#[test]
fn keep_alive() {
    check(
        &[req(GET), resp(OK), req(GET), resp(OK)],
        &[
            "0 > GET /a @0..27 t1..1",
            "0 >| @27 t1 len 0",
            "0 < 200 @0 t2",
            "0 complete @42 t2 len 5",
            "1 > GET /a @28..55 t3..3",
            "1 >| @55 t3 len 0",
            "1 < 200 @43 t4",
            "1 complete @85 t4 len 5",
        ],
    );
}

#[test]
fn split_anywhere() {
    let steps: Vec<Step> =
        GET.chars().map(|c| req(&c.to_string())).chain(OK.chars().map(|c| resp(&c.to_string()))).collect();
    check(
        &steps,
        &["0 > GET /a @0..27 t1..28", "0 >| @27 t28 len 0", "0 < 200 @0 t29", "0 complete @42 t71 len 5"],
    );
}

#[test]
fn pipelining() {
    let three = GET.repeat(3);
    check(
        &[req(&three), resp(&OK.repeat(2)), resp(OK)],
        &[
            "0 > GET /a @0..27 t1..1",
            "0 >| @27 t1 len 0",
            "1 > GET /a @28..55 t1..1",
            "1 >| @55 t1 len 0",
            "2 > GET /a @56..83 t1..1",
            "2 >| @83 t1 len 0",
            "0 < 200 @0 t2",
            "0 complete @42 t2 len 5",
            "1 < 200 @43 t2",
            "1 complete @85 t2 len 5",
            "2 < 200 @86 t3",
            "2 complete @128 t3 len 5",
        ],
    );
}

#[test]
fn interim_responses() {
    check(
        &[
            req("POST /a HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"),
            resp("HTTP/1.1 100 Continue\r\n\r\n"),
            req("abc"),
            resp("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
            resp("HTTP/1.1 204 No Content\r\n\r\n"),
        ],
        &["0 > POST /a @0..60 t1..1", "0 >| @63 t3 len 3", "0 < 204 @89 t5", "0 complete @115 t5 len 0"],
    );
}

#[test]
fn a_body_that_was_not_wanted_is_not_sent() {
    check(
        &[
            req("POST /a HTTP/1.1\r\nContent-Length: 300\r\nExpect: 100-continue\r\n\r\n"),
            resp("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"),
            req("POST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
            resp("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ],
        &[
            "0 > POST /a @0..62 t1..1",
            "0 < 417 @0 t2",
            "0 complete @37 t2 len 0",
            "1 > POST /b @63..101 t3..3",
            "1 >| @104 t3 len 3",
            "1 < 200 @38 t4",
            "1 complete @75 t4 len 0",
        ],
    );
}

#[test]
fn bodies_end_where_they_end() {
    for (request, response, body) in [
        (
            "GET /a HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n",
            5,
        ),
        ("HEAD /a HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 0),
        ("GET /a HTTP/1.1\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 0),
        ("GET /a HTTP/1.1\r\n\r\n", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", 0),
        ("GET /a HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello", 5),
    ] {
        let both = format!("{response}HTTP/1.1 299 Next\r\nContent-Length: 0\r\n\r\n");
        let got = transcript(&play(Role::Server, false, &[req(&request.repeat(2)), resp(&both)]));
        assert!(
            got.contains(&format!("0 complete @{} t2 len {body}", response.len() - 1)),
            "{response:?}: {got:#?}"
        );
        assert!(got.contains(&format!("1 < 299 @{} t2", response.len())), "{response:?}: {got:#?}");
    }
}

#[test]
fn until_close() {
    check(
        &[req("GET /a HTTP/1.0\r\n\r\n"), resp("HTTP/1.0 200 OK\r\n\r\nhel"), resp("lo"), Close],
        &["0 > GET /a @0..18 t1..1", "0 >| @18 t1 len 0", "0 < 200 @0 t2", "0 complete @23 t3 len 5"],
    );
}

#[test]
fn early_response() {
    check(
        &[
            req("POST /a HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc"),
            resp("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"),
            req("def"),
            req("GET /b HTTP/1.1\r\n\r\n"),
            resp("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ],
        &[
            "0 > POST /a @0..38 t1..1",
            "0 < 413 @0 t2",
            "0 complete @46 t2 len 2",
            "1 > GET /b @45..63 t4..4",
            "1 >| @63 t4 len 0",
            "1 < 200 @47 t5",
            "1 complete @84 t5 len 0",
        ],
    );
}

#[test]
fn upgrade_and_tunnel() {
    check(
        &[
            req("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
            resp("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\u{1}frame"),
            req("GET /not HTTP/1.1\r\n\r\n"),
            Close,
        ],
        &["0 > GET /ws @0..60 t1..1", "0 >| @60 t1 len 0", "0 < 101 @0 t2", "0 upgraded @55 t2 len 0"],
    );
    check(
        &[
            req("CONNECT h:443 HTTP/1.1\r\n\r\n"),
            resp("HTTP/1.1 200 OK\r\n\r\n"),
            req("GET /not HTTP/1.1\r\n\r\n"),
        ],
        &["0 > CONNECT h:443 @0..25 t1..1", "0 >| @25 t1 len 0", "0 < 200 @0 t2", "0 upgraded @18 t2 len 0"],
    );
    // Refused: it stays HTTP, and what came early is a request.
    check(
        &[
            req("CONNECT h:443 HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
            resp("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"),
            resp("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ],
        &[
            "0 > CONNECT h:443 @0..25 t1..1",
            "0 >| @25 t1 len 0",
            "0 < 403 @0 t2",
            "0 complete @37 t2 len 0",
            "1 > GET /b @26..44 t1..1",
            "1 >| @44 t1 len 0",
            "1 < 200 @38 t3",
            "1 complete @75 t3 len 0",
        ],
    );
}

#[test]
fn what_was_never_received_is_not_invented() {
    check(&[req(GET), Close], &["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 no response @27 t2"]);
    check(
        &[req(GET), resp("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"), Close],
        &["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 < 200 @0 t2", "0 cut @40 t3"],
    );
    check(
        &[req(GET), resp("HTTP/1.1 200"), Close],
        &["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 cut @11 t3"],
    );
    check(
        &[req(GET), resp("HTTP/1.1 100 Continue\r\n\r\n"), Close],
        &["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 no response @27 t3"],
    );
    check(&[req(GET)], &["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 open @27 t2 still_open"]);
}

#[test]
fn a_socket_closed_under_its_program_is_read_to_the_end() {
    let play = |then: &dyn Fn(&mut Wire)| {
        let mut wire = Wire::opened(Role::Client, false);
        wire.moves(Direction::Egress, GET.as_bytes());
        wire.closes(false);
        then(&mut wire);
        transcript(&wire.records)
    };
    let request = ["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0"];
    let response = play(&|wire| wire.moves(Direction::Ingress, OK.as_bytes()));
    assert_eq!(response, [&request[..], &["0 < 200 @0 t3", "0 complete @42 t3 len 5"]].concat());
    let end = play(&Wire::ends);
    assert_eq!(end, [&request[..], &["0 no response @27 t3"]].concat());
    let nothing = play(&|_| ());
    assert_eq!(nothing, [&request[..], &["0 no response @27 t2"]].concat());
}

/// The network closes a socket while its program sends, which is told of when it has been done.
#[test]
fn what_a_server_sends_meanwhile_is_told_of_after_the_reset() {
    let play = |before: &str, then: &dyn Fn(&mut Wire)| {
        let mut wire = Wire::opened(Role::Server, false);
        wire.moves(Direction::Ingress, GET.as_bytes());
        if !before.is_empty() {
            wire.moves(Direction::Egress, before.as_bytes());
        }
        wire.closes(false);
        then(&mut wire);
        transcript(&wire.records)
    };
    let request = ["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0"];
    let (head, body) = OK.split_at(OK.len() - 5);
    let whole = play(head, &|wire| wire.moves(Direction::Egress, body.as_bytes()));
    assert_eq!(whole, [&request[..], &["0 < 200 @0 t2", "0 complete @42 t4 len 5"]].concat());
    let whole = play("", &|wire| wire.moves(Direction::Egress, OK.as_bytes()));
    assert_eq!(whole, [&request[..], &["0 < 200 @0 t3", "0 complete @42 t3 len 5"]].concat());
    // It learns of it, one way or the other.
    for then in [&Wire::ends as &dyn Fn(&mut Wire), &|wire: &mut Wire| wire.fails(Direction::Egress, 32)] {
        assert_eq!(play("", then), [&request[..], &["0 no response @27 t3"]].concat());
        assert_eq!(play(head, then), [&request[..], &["0 < 200 @0 t2", "0 cut @37 t4"]].concat());
    }
    assert_eq!(play("", &|_| ()), [&request[..], &["0 no response @27 t2"]].concat());
}

/// Its program has ended both directions, or another one has that holds the socket: whoever is there when the last packet
/// comes, nothing more does.
#[test]
fn a_server_s_socket_that_is_closed_for_good_ends_its_exchange() {
    for by_packet in [false, true] {
        let mut wire = Wire::opened(Role::Server, false);
        wire.moves(Direction::Ingress, GET.as_bytes());
        wire.moves(Direction::Egress, b"HTTP/1.0 200 OK\r\n\r\nhello");
        wire.closes(false);
        let Some(Record::Closed(closed)) = wire.records.last_mut() else { panic!("no close") };
        closed.by_packet = by_packet;
        let mut connection = Connection::new(&ConnectionLimits::default().into());
        let mut out = Vec::new();
        for record in &wire.records {
            support::feed(&mut connection, record, &mut out);
        }
        let ended = matches!(out.last(), Some(ExchangeUpdate::Ended { .. }));
        assert_eq!(ended, !by_packet, "{out:?}");
    }
}

/// It was reset before its program looked: what had come is read yet, and nobody closes it any more.
#[test]
fn a_socket_that_was_over_before_its_program_used_it_is_read_to_the_end() {
    let play = |then: &dyn Fn(&mut Wire)| {
        let mut wire = Wire::opened(Role::Server, false).over();
        let (first, rest) = GET.split_at(10);
        wire.moves(Direction::Ingress, first.as_bytes());
        wire.moves(Direction::Ingress, rest.as_bytes());
        then(&mut wire);
        transcript(&wire.records)
    };
    let request = ["0 > GET /a @0..27 t1..2", "0 >| @27 t2 len 0"];
    for then in [&Wire::ends as &dyn Fn(&mut Wire), &|wire: &mut Wire| wire.fails(Direction::Egress, 32)] {
        assert_eq!(play(then), [&request[..], &["0 no response @27 t3"]].concat());
    }
    let nothing = play(&|_| ());
    assert_eq!(nothing, [&request[..], &["0 no response @27 t2"]].concat());
}

/// The end of a stream says how long it was: what is missing before it was lost, not never sent.
#[test]
fn an_end_behind_lost_bytes_is_a_loss() {
    let play = |response: &[&str], then: &dyn Fn(&mut Wire)| {
        let mut wire = Wire::opened(Role::Client, false);
        wire.moves(Direction::Egress, GET.as_bytes());
        for part in response {
            wire.moves(Direction::Ingress, part.as_bytes());
        }
        let kept = wire.records.len();
        wire.moves(Direction::Ingress, b"lost");
        wire.records.truncate(kept);
        then(&mut wire);
        wire.closes(true);
        transcript(&wire.records)
    };
    let request = ["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0"];
    for then in [&Wire::ends as &dyn Fn(&mut Wire), &|wire: &mut Wire| wire.fails(Direction::Ingress, 104)] {
        assert_eq!(play(&[], then), [&request[..], &["0 lost @27 t3 events_lost"]].concat());
        assert_eq!(
            play(&["HTTP/1.0 200 OK\r\n\r\nhel"], then),
            [&request[..], &["0 < 200 @0 t2", "0 lost @21 t2 events_lost"]].concat()
        );
    }
}

#[test]
fn a_reset_cuts_what_lasts_until_the_close() {
    let mut wire = Wire::opened(Role::Client, false);
    wire.moves(Direction::Egress, GET.as_bytes());
    wire.moves(Direction::Ingress, b"HTTP/1.0 200 OK\r\n\r\nhel");
    wire.fails(Direction::Ingress, 11);
    wire.fails(Direction::Ingress, 104);
    wire.closes(true);
    assert_eq!(
        transcript(&wire.records),
        ["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 < 200 @0 t2", "0 cut @21 t4"]
    );
}

#[test]
fn a_request_that_is_refused_before_its_head_is_whole() {
    let response = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    check(
        &[req("GET /slow HTTP/1.1\r\nHost: h\r\nX-"), resp(response), Close],
        &["0 > GET /slow @0..30 t1..1", "0 < 408 @0 t2", "0 complete @50 t2 len 0"],
    );
    // No target, no request; and what may have been lost may be the rest.
    check(&[req("GET /slo"), resp(response), Close], &[]);
    check(
        &[req("GET /slow HTTP/1.1\r\nHost: h\r\nX-"), lost(req("Y: 1\r\n\r\n")), resp(response), Close],
        &[],
    );
    check(&[req("GET /slow HTTP/1.1\r\nHost: h\r\nX-"), Close], &[]);
}

#[test]
fn a_server_s_half_closed_client_is_answered() {
    let mut wire = Wire::opened(Role::Server, false);
    wire.moves(Direction::Ingress, GET.as_bytes());
    wire.ends();
    wire.moves(Direction::Egress, OK.as_bytes());
    assert_eq!(
        transcript(&wire.records),
        ["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 < 200 @0 t3", "0 complete @42 t3 len 5"]
    );
}

/// Feeds records, then lets time pass up to `until`.
fn with_time(records: &[Record], until: u64) -> Vec<String> {
    let mut connection = Connection::new(&ConnectionLimits::default().into());
    let mut out = Vec::new();
    for record in records {
        support::feed(&mut connection, record, &mut out);
    }
    while let Some(due) = connection.poll_timeout().filter(|due| due.as_nanos() <= until) {
        connection.handle_timeout(due, &mut out);
        assert_ne!(connection.poll_timeout(), Some(due));
    }
    out.iter().map(render).collect()
}

#[test]
fn silence_behind_what_looks_like_the_end_is_the_end() {
    let many = format!("3e8\r\n{}\r\n", "x".repeat(1000)).repeat(100);
    let many = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{many}0\r\n\r\n");
    let records = play(Role::Server, false, &[req(GET), resp(&many)]);
    let began = ["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 < 200 @0 t2"];
    let end = ["0 complete @100751 t2 len ?"];
    assert_eq!(with_time(&records, 1_999_999_999), began);
    assert_eq!(with_time(&records, 2_000_000_002), [&began[..], &end[..]].concat());
}

#[test]
fn a_lost_byte_is_not_waited_for_for_ever() {
    let steps =
        [req(GET), resp("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nh"), lost(resp("el")), resp("lo")];
    let records = play(Role::Server, false, &steps);
    let began = ["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 < 200 @0 t2"];
    assert_eq!(with_time(&records, 100_000_000), began);
    let end = ["0 complete @42 t4 len 5 events_lost"];
    assert_eq!(with_time(&records, 300_000_000), [&began[..], &end[..]].concat());
}

#[test]
fn a_large_head_that_was_elided_in_part() {
    let cookie = "c".repeat(20_000);
    let big = format!("GET /big HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n\r\n");
    check(
        &[req(&big), resp(OK), req(GET), resp(OK)],
        &[
            "0 > GET /big @0..8191 t1..1",
            "0 < 200 @0 t2",
            "0 >| @20039 t1 len ?",
            "0 complete @42 t2 len 5 limit_reached",
            "1 > GET /a @20040..20067 t3..3",
            "1 >| @20067 t3 len 0",
            "1 < 200 @43 t4",
            "1 complete @85 t4 len 5",
        ],
    );
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: {cookie}\r\n\r\nok");
    check(
        &[req(GET), resp(&big), req(GET), resp(OK)],
        &[
            "0 > GET /a @0..27 t1..1",
            "0 >| @27 t1 len 0",
            "0 < 200 @0 t2",
            "0 complete @20053 t2 len ? limit_reached",
            "1 > GET /a @28..55 t3..3",
            "1 >| @55 t3 len 0",
            "1 < 200 @20054 t4",
            "1 complete @20096 t4 len 5",
        ],
    );
}

#[test]
fn heads_of_64_kib() {
    let mut wire = Wire::opened(Role::Server, false);
    wire.budget = 64 * 1024;
    let fill = 64 * 1024 - "GET /a HTTP/1.1\r\nCookie: \r\n\r\n".len();
    let head = format!("GET /a HTTP/1.1\r\nCookie: {}\r\n\r\n", "c".repeat(fill));
    for piece in head.as_bytes().chunks(1000) {
        wire.moves(Direction::Ingress, piece);
    }
    wire.moves(Direction::Egress, OK.as_bytes());
    assert_eq!(
        transcript(&wire.records),
        [
            "0 > GET /a @0..65535 t1..66",
            "0 >| @65535 t66 len 0",
            "0 < 200 @0 t67",
            "0 complete @42 t67 len 5"
        ]
    );
}

#[test]
fn an_answer_to_a_lost_request_is_not_the_drifting_response_s() {
    let many = format!("3e8\r\n{}\r\n", "x".repeat(1000)).repeat(20);
    let many = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{many}0\r\n\r\n");
    let mut steps = exchanges(5);
    steps.extend([req(GET), resp(&many), lost(req(GET)), resp(OK), req(GET), resp(OK), req(GET), resp(OK)]);
    check_ends(
        &steps,
        &["0 complete", "1 complete", "2 complete", "3 complete", "4 complete", "5 lost", "6 complete"],
    );
    // Seen before its request, the answer is still that request's.
    let mut steps = exchanges(5);
    steps.extend([req(GET), resp(&many), req(GET), resp(OK), req(GET), resp(OK)]);
    let mut records = play(Role::Client, false, &steps);
    let last = records.len() - 1;
    records.swap(last - 3, last - 2);
    assert_eq!(
        ends(&records)[5..],
        ["5 complete".to_owned(), "6 complete".to_owned(), "7 complete".to_owned()]
    );
}

#[test]
fn a_response_may_be_seen_first() {
    let mut records = play(Role::Client, false, &[req(GET), resp(OK), Close]);
    records.swap(1, 2);
    assert_eq!(
        transcript(&records),
        ["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 < 200 @0 t2", "0 complete @42 t2 len 5"]
    );
}

#[test]
fn elided_bodies() {
    let big = "x".repeat(100_000);
    // Of known length: certain, and the next response follows at once.
    let known = format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{big}");
    check(
        &[req(GET), resp(&known), Close],
        &[
            "0 > GET /a @0..27 t1..1",
            "0 >| @27 t1 len 0",
            "0 < 200 @0 t2",
            "0 complete @100042 t2 len 100000",
        ],
    );
    // One chunk of known size: certain.
    let one = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n{big}\r\n0\r\n\r\n");
    check(
        &[req(GET), resp(&one), req(GET)],
        &[
            "0 > GET /a @0..27 t1..1",
            "0 >| @27 t1 len 0",
            "0 < 200 @0 t2",
            "0 complete @100060 t2 len 100000",
            "1 > GET /a @28..55 t3..3",
            "1 >| @55 t3 len 0",
            "1 open @55 t4 still_open",
        ],
    );
    // Many chunks: the end is recognised, and confirmed by the next request; its time is its own.
    let many: String = (0..100).map(|_| format!("3e8\r\n{}\r\n", &big[..1000])).collect();
    let many = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{many}0\r\n\r\n");
    check(
        &[req(GET), resp(&many), req(GET)],
        &[
            "0 > GET /a @0..27 t1..1",
            "0 >| @27 t1 len 0",
            "0 < 200 @0 t2",
            "0 complete @100751 t2 len ?",
            "1 > GET /a @28..55 t3..3",
            "1 >| @55 t3 len 0",
            "1 open @55 t4 still_open",
        ],
    );
}

#[test]
fn a_look_alike_is_no_end() {
    let chunks = |n: usize, data: &str| format!("{:x}\r\n{data}\r\n", data.len()).repeat(n);
    let body = "x".repeat(1000);
    let look_alike = format!("{}\r\n0\r\n\r\n", "y".repeat(993));
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    // The first operation ends inside chunk data that looks like the end.
    let mut first = format!("{head}{}", chunks(20, &body));
    first += &format!("7d0\r\n{look_alike}");
    let end = first.len() + 1000 + 2 + 5;
    let rest = format!("{body}\r\n");
    check(
        &[req(GET), resp(&first), resp(&rest), resp("0\r\n\r\n"), Close],
        &[
            "0 > GET /a @0..27 t1..1",
            "0 >| @27 t1 len 0",
            "0 < 200 @0 t2",
            &format!("0 complete @{} t4 len ?", end - 1),
        ],
    );
}

#[test]
fn unseen_bodies() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    check(
        &[req(GET), resp(head), RespUnseen(1000, PayloadState::NoUserBuffer), Close],
        &["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 < 200 @0 t2", "0 complete @1040 t3 len 1000"],
    );
    check(
        &[req(GET), resp(head), RespUnseen(1000, PayloadState::Unreadable), Close],
        &[
            "0 > GET /a @0..27 t1..1",
            "0 >| @27 t1 len 0",
            "0 < 200 @0 t2",
            "0 complete @1040 t3 len 1000 payload_unreadable",
        ],
    );
}

#[test]
fn losses_in_a_body_of_known_length() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n";
    check(
        &[req(GET), resp(head), lost(resp("12345")), resp("6789012"), req(GET), resp(OK)],
        &[
            "0 > GET /a @0..27 t1..1",
            "0 >| @27 t1 len 0",
            "0 < 200 @0 t2",
            // The request behind it ends the wait for the missing bytes.
            "0 complete @50 t4 len 12 events_lost",
            "1 > GET /a @28..55 t5..5",
            "1 >| @55 t5 len 0",
            "1 < 200 @51 t6",
            "1 complete @93 t6 len 5",
        ],
    );
}

fn exchanges(n: usize) -> Vec<Step> {
    (0..n).flat_map(|_| [req(GET), resp(OK)]).collect()
}

/// What became of each exchange.
fn ends(records: &[Record]) -> Vec<String> {
    let lines = transcript(records);
    let ends = |line: &&String| !line.contains('>') && !line.contains('<');
    lines.iter().filter(ends).map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

fn check_ends(steps: &[Step], want: &[&str]) {
    for role in [Role::Server, Role::Client] {
        assert_eq!(ends(&play(role, false, steps)), want, "{role:?}");
    }
}

#[test]
fn a_lost_response() {
    let mut steps = exchanges(5);
    steps.extend([req(GET), lost(resp(OK))]);
    steps.extend(exchanges(2));
    check_ends(
        &steps,
        &[
            "0 complete",
            "1 complete",
            "2 complete",
            "3 complete",
            "4 complete",
            "5 lost",
            "6 lost",
            "7 complete",
        ],
    );
}

#[test]
fn a_lost_request() {
    let mut steps = exchanges(5);
    steps.extend([lost(req(GET)), resp(OK)]);
    steps.extend(exchanges(2));
    check_ends(&steps, &["0 complete", "1 complete", "2 complete", "3 complete", "4 complete", "5 complete"]);
}

#[test]
fn a_lost_start() {
    let mut steps = vec![lost(req(GET)), resp(OK)];
    steps.extend(exchanges(3));
    check_ends(&steps, &["0 complete", "1 complete"]);
}

#[test]
fn a_pipelining_client_is_not_paired_again() {
    let mut steps =
        vec![req(&GET.repeat(3)), resp(&OK.repeat(3)), req(&GET.repeat(2)), lost(resp(OK)), resp(OK)];
    steps.extend(exchanges(9));
    check_ends(&steps, &["0 complete", "1 complete", "2 complete", "3 lost", "4 lost"]);
}

#[test]
fn joined_in_the_middle() {
    check_joined(
        &[req(GET), resp(OK)],
        &["0 > GET /a @0..27 t1..1", "0 >| @27 t1 len 0", "0 < 200 @0 t2", "0 complete @42 t2 len 5"],
    );
    check_joined(
        &[resp(OK), req(GET), resp(OK)],
        &["0 > GET /a @0..27 t2..2", "0 >| @27 t2 len 0", "0 < 200 @43 t3", "0 complete @85 t3 len 5"],
    );
    check_joined(
        &[req("rest of a body"), resp(OK), req(GET), resp(OK)],
        &["0 > GET /a @14..41 t3..3", "0 >| @41 t3 len 0", "0 < 200 @43 t4", "0 complete @85 t4 len 5"],
    );
}

#[test]
fn not_http() {
    for first in [
        "\u{16}\u{3}\u{1}\u{2}\u{0}",
        "*1\r\n$4\r\nPING\r\n",
        "EHLO me\r\n",
        "GET /\r\n",
        "{}",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let records = play(Role::Server, false, &[req(first), resp("x"), req(GET), resp(OK)]);
        let (out, connection) = run(&records);
        assert_eq!(out, [], "{first:?}");
        assert!(connection.unrecognised().is_some(), "{first:?}");
    }
}

#[test]
fn sequence_numbers_wrap() {
    use tracer_core::exchange::ExchangeUpdate;
    let records = play(Role::Server, false, &[req(GET), resp(OK)]);
    let (out, _) = run(&records);
    let mut seqs = Vec::new();
    for update in &out {
        match update {
            ExchangeUpdate::RequestBegan { first, head_last, .. } => {
                seqs.extend([first.tcp_seq, head_last.tcp_seq])
            }
            ExchangeUpdate::ResponseBegan { first, .. } => seqs.push(first.tcp_seq),
            ExchangeUpdate::Ended { last, .. } => seqs.push(last.unwrap().tcp_seq),
            ExchangeUpdate::RequestEnded { .. } => {}
        }
    }
    let wrapped = support::EGRESS_SEQ.wrapping_add(42);
    let want = [support::INGRESS_SEQ, support::INGRESS_SEQ + 27, support::EGRESS_SEQ, wrapped];
    assert_eq!(seqs, want.map(Some));
}
