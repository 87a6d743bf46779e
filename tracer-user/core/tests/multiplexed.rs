//! One connection that speaks HTTP/2: what real programs sent each other becomes exchanges, however operations cut it,
//! whichever side is seen first, and with records lost; and what single frames mean.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use support::{Record, Wire, render, run};
use tracer_abi::conn::{Direction, Role};
use tracer_abi::sniff::Class;
use tracer_core::exchange::{BodyLen, ExchangeUpdate, Outcome, Protocol};

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;

const RECORDED: [(&[u8], &[u8]); 3] = [
    (include_bytes!("http2/go.client"), include_bytes!("http2/go.server")),
    (include_bytes!("http2/node.client"), include_bytes!("http2/node.server")),
    (include_bytes!("http2/nginx.client"), include_bytes!("http2/nginx.server")),
];

const REQUESTS: usize = 60;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The kernel half's class of the connection's operations.
fn classed(mut wire: Wire) -> Vec<Record> {
    for record in &mut wire.records {
        if let Record::Data(event) = record {
            event.class = Class::Http2;
        }
    }
    wire.records
}

/// One line for an update, without places and times.
fn told(wire: Wire) -> Vec<String> {
    let line = |update: &ExchangeUpdate| {
        let line = render(update);
        let (what, rest) = line.split_once(" @").or_else(|| line.split_once(" t")).expect("a place");
        let rest: Vec<&str> = rest.split(' ').collect();
        let len = rest.iter().skip_while(|word| **word != "len").nth(1);
        let why = rest.last().filter(|word| word.contains('_'));
        [Some(what), len.copied(), why.copied()].into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    run(&classed(wire)).0.iter().map(line).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A literal field without indexing.
fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    list.iter().flat_map(|(name, value)| field(name, value)).collect()
}

fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

/// END_HEADERS, and END_STREAM if it is the whole request.
fn ask(stream: u32, path: &str, ends: bool) -> Vec<u8> {
    let list = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "h")];
    frame(1, 4 | u8::from(ends), stream, &fields(&list))
}

fn answer(stream: u32, status: &str, ends: bool) -> Vec<u8> {
    frame(1, 4 | u8::from(ends), stream, &fields(&[(":status", status)]))
}

fn begun(role: Role) -> Wire {
    let mut wire = Wire::opened(role, false);
    let (ask, answer) = if role == Role::Server { (IN, OUT) } else { (OUT, IN) };
    wire.moves(ask, &[PREFACE, &settings()].concat());
    wire.moves(answer, &settings());
    wire
}

#[test]
fn streams_are_told_apart() {
    let mut wire = begun(Role::Server);
    wire.moves(IN, &[ask(1, "/a", true), ask(3, "/b", false)].concat());
    wire.moves(IN, &frame(0, 1, 3, b"abc"));
    wire.moves(OUT, &[answer(3, "201", false), answer(1, "202", true)].concat());
    wire.moves(OUT, &frame(0, 1, 3, b"hello"));
    assert_eq!(
        told(wire),
        [
            "0 > POST /a",
            "0 >| 0",
            "1 > POST /b",
            "1 >| 3",
            "1 < 201",
            "0 < 202",
            "0 complete 0",
            "1 complete 5"
        ]
    );
}

#[test]
fn a_stream_that_is_given_up() {
    let check = |frames: &[(Direction, Vec<u8>)], want: &[&str]| {
        let mut wire = begun(Role::Client);
        wire.moves(OUT, &ask(1, "/a", true));
        for (direction, bytes) in frames {
            wire.moves(*direction, bytes);
        }
        wire.ends();
        wire.closes(true);
        assert_eq!(&told(wire)[2..], want);
    };
    let reset = |code: u8| frame(3, 0, 1, &[0, 0, 0, code]);
    // An answer that needs no more of the request is no failure.
    check(&[(IN, [answer(1, "200", true), reset(0)].concat())], &["0 < 200", "0 complete 0"]);
    check(&[(IN, answer(1, "200", false)), (OUT, reset(8))], &["0 < 200", "0 reset 8"]);
    check(&[(IN, reset(7))], &["0 reset 7"]);
    check(&[(IN, reset(0))], &["0 reset 0"]);
    // The server worked on nothing beyond stream 0; on stream 1 it did.
    check(&[(IN, frame(7, 0, 0, &[0; 8]))], &["0 dropped"]);
    check(&[(IN, frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]))], &["0 no response"]);
    check(&[(IN, [answer(1, "200", false), frame(7, 0, 0, &[0; 8])].concat())], &["0 < 200", "0 cut"]);
    // The client's own says nothing about its streams.
    check(&[(OUT, frame(7, 0, 0, &[0; 8])), (IN, answer(1, "204", true))], &["0 < 204", "0 complete 0"]);
    check(&[(IN, answer(1, "103", false)), (IN, answer(1, "200", true))], &["0 < 200", "0 complete 0"]);
}

#[test]
fn a_request_after_going_away_is_dropped() {
    let mut wire = begun(Role::Server);
    wire.moves(OUT, &frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    wire.moves(IN, &[ask(1, "/a", true), ask(3, "/b", true)].concat());
    wire.moves(OUT, &answer(1, "200", true));
    let lines = told(wire);
    assert!(
        lines.contains(&"1 dropped".to_owned()) && lines.contains(&"0 complete 0".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn an_upgrade_is_answered_on_stream_one() {
    let mut wire = Wire::opened(Role::Client, false);
    wire.moves(OUT, b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n");
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    wire.moves(IN, &[&switch[..], &settings()].concat());
    wire.moves(OUT, &[PREFACE, &settings()].concat());
    wire.moves(IN, &[answer(1, "200", false), frame(0, 1, 1, b"hello")].concat());
    wire.moves(OUT, &ask(3, "/b", true));
    wire.moves(IN, &answer(3, "404", true));
    let lines = told(wire);
    assert_eq!(
        lines,
        [
            "0 > GET /a",
            "0 >| 0",
            "0 < 200",
            "0 complete 5",
            "1 > POST /b",
            "1 >| 0",
            "1 < 404",
            "1 complete 0"
        ]
    );
    // Another protocol is another's.
    let mut wire = Wire::opened(Role::Client, false);
    wire.moves(OUT, b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    wire.moves(IN, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x05hello");
    assert_eq!(told(wire), ["0 > GET /a", "0 >| 0", "0 < 101", "0 upgraded 0"]);
}

/// Client's and server's operations in any order that keeps each side's own, and cut anywhere.
fn recorded() -> impl Strategy<Value = (usize, Vec<(bool, usize)>, bool)> {
    (0..RECORDED.len(), proptest::collection::vec((any::<bool>(), 1_usize..700), 1..60), any::<bool>())
}

/// All of it, in this order; what is left when that ends follows in one piece.
fn wire_of(which: usize, order: &[(bool, usize)], client: bool) -> Wire {
    let mut wire = Wire::opened(if client { Role::Client } else { Role::Server }, false);
    wire.budget = u32::MAX;
    let (mut ask, mut answer) = RECORDED[which];
    let (asks, answers) = if client { (OUT, IN) } else { (IN, OUT) };
    let rest = [(true, usize::MAX), (false, usize::MAX)];
    for &(by_client, len) in order.iter().chain(&rest) {
        let (direction, bytes) = if by_client { (asks, &mut ask) } else { (answers, &mut answer) };
        let (piece, rest) = bytes.split_at(len.min(bytes.len()));
        *bytes = rest;
        wire.moves(direction, piece);
    }
    wire
}

#[derive(Debug, Default, PartialEq)]
struct Seen {
    target: String,
    status: Option<u16>,
    complete: bool,
    lens: [Option<BodyLen>; 2],
}

fn seen(updates: &[ExchangeUpdate]) -> BTreeMap<u64, Seen> {
    let mut all: BTreeMap<u64, Seen> = BTreeMap::new();
    for update in updates {
        let one = all.entry(update.id().index).or_default();
        match update {
            ExchangeUpdate::RequestBegan { request, .. } => {
                assert_eq!(request.protocol, Protocol::Http2);
                one.target = request.target.as_deref().unwrap_or_default().to_owned();
            }
            ExchangeUpdate::RequestEnded { body_len, .. } => one.lens[0] = Some(*body_len),
            ExchangeUpdate::ResponseBegan { response, .. } => one.status = response.status,
            ExchangeUpdate::Ended { outcome, response_body_len, .. } => {
                one.complete = *outcome == Outcome::Complete;
                one.lens[1] = *response_body_len;
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn every_exchange_is_found_however_operations_lie((which, order, client) in recorded()) {
        let wire = wire_of(which, &order, client);
        let (updates, mut connection) = run(&classed(wire));
        let all = seen(&updates);
        prop_assert_eq!(all.len(), REQUESTS);
        // Whatever the order, the one that the recording was made in finds the same.
        let whole = seen(&run(&classed(wire_of(which, &[(true, usize::MAX)], client))).0);
        for (index, one) in &all {
            prop_assert!(one.complete && one.status.is_some(), "{index}: {one:?}");
            let other = &whole[index];
            prop_assert_eq!((&one.target, one.status, one.lens[1]), (&other.target, other.status, other.lens[1]));
        }
        prop_assert_eq!(connection.stats(), Default::default());
        prop_assert_eq!(connection.held_bytes(), 0);
    }

    /// With records lost, what is said is still true, and each exchange ends once.
    #[test]
    fn nothing_is_invented_where_records_are_lost(
        (which, order, client) in recorded(),
        lost in proptest::collection::vec(any::<prop::sample::Index>(), 1..5),
    ) {
        let whole = seen(&run(&classed(wire_of(which, &[(true, usize::MAX)], client))).0);
        let mut records = classed(wire_of(which, &order, client));
        for index in lost {
            let index = index.index(records.len());
            if matches!(records[index], Record::Data(_)) {
                records.remove(index);
            }
        }
        let (updates, _) = run(&records);
        let ends = updates.iter().filter(|update| matches!(update, ExchangeUpdate::Ended { .. })).count();
        let all = seen(&updates);
        prop_assert_eq!(ends, all.len());
        for one in all.values().filter(|one| !one.target.is_empty()) {
            // Paths of these recordings are few; a status belongs to its path and length.
            let same = |other: &&Seen| other.target == one.target
                && (one.status.is_none() || one.status == other.status);
            prop_assert!(whole.values().any(|other| same(&other)), "{one:?}");
        }
    }
}
