//! One connection that speaks HTTP/2: what real programs sent each other becomes exchanges, however operations cut it,
//! whichever side is seen first, and with records lost; and what single frames mean.

mod frames;
mod support;

use std::collections::BTreeMap;

use frames::{PREFACE, answer, ask, fields, frame, settings};
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

/// What a hostile peer sends: any frames, on few streams, with header blocks that are some of the time valid.
fn hostile_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        Just(fields(&[(":method", "GET"), (":path", "/x"), (":scheme", "http")])),
        Just(fields(&[(":status", "200")])),
        Just(fields(&[(":status", "103")])),
        Just(vec![0, 0, 0, 0]),
    ];
    (0_u8..11, any::<u8>(), 0_u32..9, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags & 0x2d, stream, &payload))
}

/// Every exchange that was begun ends, once, and says nothing afterwards.
fn check_lives(updates: &[ExchangeUpdate]) -> Result<(), TestCaseError> {
    let mut open = std::collections::BTreeSet::new();
    let mut begun = std::collections::BTreeSet::new();
    for update in updates {
        let index = update.id().index;
        match update {
            ExchangeUpdate::RequestBegan { .. } => {
                prop_assert!(begun.insert(index) && open.insert(index), "{} twice", index);
            }
            ExchangeUpdate::Ended { .. } => prop_assert!(open.remove(&index), "{} ended", index),
            ExchangeUpdate::RequestEnded { .. } | ExchangeUpdate::ResponseBegan { .. } => {
                prop_assert!(open.contains(&index), "{} is not open", index);
            }
        }
    }
    prop_assert!(open.is_empty(), "{:?} did not end", open);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn hostile_peers_do_no_harm(
        frames in proptest::collection::vec((any::<bool>(), hostile_frame()), 0..60),
        cut in 1_usize..200,
        lost in proptest::collection::vec(any::<prop::sample::Index>(), 0..3),
        preexisting in any::<bool>(),
    ) {
        let mut wire = Wire::opened(Role::Server, preexisting);
        wire.moves(IN, &[PREFACE, &settings()].concat());
        wire.moves(OUT, &settings());
        for (by_client, bytes) in &frames {
            for piece in bytes.chunks(cut) {
                wire.moves(if *by_client { IN } else { OUT }, piece);
            }
        }
        wire.closes(true);
        let mut records = classed(wire);
        for index in lost {
            let index = index.index(records.len());
            if matches!(records[index], Record::Data(_)) {
                records.remove(index);
            }
        }
        let (updates, connection) = run(&records);
        check_lives(&updates)?;
        prop_assert_eq!(connection.held_bytes(), 0);
    }
}

/// A header block in as many frames as there are bytes, and one that unpacks to more than is kept.
#[test]
fn floods_and_bombs_are_bounded() {
    let mut wire = begun(Role::Server);
    let block = fields(&[(":method", "GET"), (":path", "/flood"), (":scheme", "http")]);
    wire.moves(IN, &frame(1, 1, 1, &block));
    for _ in 0..100_000 {
        wire.moves(IN, &frame(9, 0, 1, b""));
    }
    wire.moves(IN, &frame(9, 4, 1, b""));
    wire.moves(OUT, &answer(1, "431", true));
    let lines = told(wire);
    assert_eq!(lines, ["0 > GET /flood", "0 >| 0", "0 < 431", "0 complete 0 limit_reached"]);

    // One entry of the table, named ten thousand times over.
    let mut wire = begun(Role::Server);
    let long = "v".repeat(120);
    let mut block = fields(&[(":method", "GET"), (":path", "/bomb"), (":scheme", "http")]);
    block.extend([0x40, 1, b'x', 120]);
    block.extend(long.as_bytes());
    block.extend([0x80 | 62; 10_000]);
    wire.moves(IN, &frame(1, 5, 1, &block));
    wire.moves(OUT, &answer(1, "431", true));
    let (updates, connection) = run(&classed(wire));
    assert!(matches!(&updates[0], ExchangeUpdate::RequestBegan { request, .. }
        if request.target.as_deref() == Some("/bomb")));
    assert_eq!(connection.held_bytes(), 0);
}

/// Split behind every byte, with an operation of the other side in between.
#[test]
fn an_operation_may_end_anywhere() {
    let asked = [PREFACE, &settings(), &ask(1, "/a", false), &frame(0, 1, 1, b"abc")].concat();
    let answered =
        [settings(), answer(1, "103", false), answer(1, "200", false), frame(0, 1, 1, b"x")].concat();
    for at in 1..asked.len() {
        for other in [1, answered.len() / 2, answered.len() - 1] {
            for client in [Role::Client, Role::Server] {
                let mut wire = Wire::opened(client, false);
                let (asks, answers) = if client == Role::Server { (IN, OUT) } else { (OUT, IN) };
                wire.moves(asks, &asked[..at]);
                wire.moves(answers, &answered[..other]);
                wire.moves(asks, &asked[at..]);
                wire.moves(answers, &answered[other..]);
                let mut lines = told(wire);
                lines.sort();
                assert_eq!(lines, ["0 < 200", "0 > POST /a", "0 >| 3", "0 complete 1"], "{at} {other}");
            }
        }
    }
}

/// A reset by either side in each state of a stream (RFC 9113 section 5.1) ends the exchange once.
#[test]
fn resets_in_each_state() {
    let steps: [(Direction, Vec<u8>); 5] = [
        (OUT, ask(1, "/a", false)),
        (OUT, frame(0, 1, 1, b"abc")),
        (IN, answer(1, "103", false)),
        (IN, answer(1, "200", false)),
        (IN, frame(0, 1, 1, b"hello")),
    ];
    for behind in 1..=steps.len() {
        for by in [OUT, IN] {
            for code in [0_u8, 2, 5, 7, 8, 255] {
                let mut wire = begun(Role::Client);
                for (direction, bytes) in &steps[..behind] {
                    wire.moves(*direction, bytes);
                }
                wire.moves(by, &frame(3, 0, 1, &[0, 0, 0, code]));
                for (direction, bytes) in &steps[behind..] {
                    wire.moves(*direction, bytes);
                }
                let lines = told(wire);
                let ends: Vec<&String> = lines
                    .iter()
                    .filter(|line| line.starts_with("0 complete") || line.starts_with("0 reset"))
                    .collect();
                let want =
                    if behind == steps.len() { "0 complete 5".to_owned() } else { format!("0 reset {code}") };
                assert_eq!(ends, [&want], "{behind} {by:?}: {lines:?}");
            }
        }
    }
}
