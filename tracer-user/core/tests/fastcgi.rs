//! One connection that speaks FastCGI: as operations cut it, as programs share it, and with records lost.

mod records;
mod support;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use records::{begin, end, record, request, response};
use support::{Record, Wire, feed, render, run};
use tracer_abi::conn::{Direction, Role};
use tracer_core::connection::{Connection, ConnectionLimits};
use tracer_core::event::IoOutcome;
use tracer_core::exchange::{BodyLen, ExchangeUpdate, Outcome, Protocol};

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;

fn told(wire: &Wire) -> Vec<String> {
    run(&wire.records).0.iter().map(render).collect()
}

#[test]
fn a_request_and_its_answer() {
    let mut wire = Wire::opened(Role::Server, false);
    let (ask, answer) = (request(1, "/a", &[], b"abc", 9), response(1, 201, b"hello", 900));
    wire.moves(IN, &ask);
    wire.moves(OUT, &answer);
    let (all, body_at) = (ask.len() as u64, ask.len() as u64 - 8 - 11);
    assert_eq!(
        told(&wire),
        [
            format!("0 > POST /a @0..{} t1..1", body_at - 1),
            format!("0 >| @{} t1 len 3", all - 1),
            "0 < 201 @0 t2".to_owned(),
            format!("0 complete @{} t2 len 5", answer.len() - 1),
        ]
    );
    let (updates, connection) = run(&wire.records);
    assert_eq!(connection.held_bytes(), 0);
    assert!(matches!(&updates[0], ExchangeUpdate::RequestBegan { request, role: Role::Server, .. }
        if request.protocol == Protocol::FastCgi));
}

/// PHP's own reader: a header, then its content, then the next.
#[test]
fn a_reader_of_single_records() {
    let mut wire = Wire::opened(Role::Server, false);
    let ask = request(1, "/a", &[], &[], 9);
    for part in
        [&ask[..8], &ask[8..16], &ask[16..24], &ask[24..ask.len() - 16], &ask[ask.len() - 16..ask.len() - 8]]
    {
        wire.moves(IN, part);
    }
    wire.moves(OUT, &response(1, 200, b"x", 900));
    wire.moves(IN, &ask[ask.len() - 8..]);
    let lines = told(&wire);
    assert!(lines.last().unwrap().contains("complete"), "{lines:?}");
    assert_eq!(lines.len(), 3, "the body's end came after the answer's: {lines:?}");
}

#[test]
fn a_connection_is_used_again() {
    let mut wire = Wire::opened(Role::Client, false);
    for (n, path) in ["/a", "/b", "/c"].into_iter().enumerate() {
        wire.moves(OUT, &request(1, path, &[], &[], 9));
        wire.moves(IN, &response(1, 200 + n as u16, b"x", 900));
    }
    let lines = told(&wire);
    let heads: Vec<&str> = lines.iter().filter(|line| line.contains('<')).map(|line| &line[..7]).collect();
    assert_eq!(heads, ["0 < 200", "1 < 201", "2 < 202"]);
}

#[test]
fn requests_at_the_same_time() {
    let mut wire = Wire::opened(Role::Server, false);
    let (a, b) = (request(1, "/a", &[], b"aaaa", 2), request(2, "/b", &[], &[], 2));
    wire.moves(IN, &[&a[..16], &b, &a[16..]].concat());
    wire.moves(OUT, &response(2, 202, b"bb", 7));
    wire.moves(IN, &record(9, 0, b"\x0e\x00FCGI_MAX_CONNS", 0));
    wire.moves(OUT, &record(10, 0, b"\x0e\x01FCGI_MAX_CONNS1", 0));
    wire.moves(OUT, &response(1, 201, b"a", 7));
    let lines = told(&wire);
    let kinds: Vec<&str> = lines.iter().map(|line| line.split('@').next().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "0 > POST /b ",
            "0 >| ",
            "1 > POST /a ",
            "1 >| ",
            "0 < 202 ",
            "0 complete ",
            "1 < 201 ",
            "1 complete "
        ]
    );
    assert!(lines[5].ends_with("len 2") && lines[7].ends_with("len 1"), "{lines:?}");
}

#[test]
fn refusals_and_cuts() {
    let refuse = record(3, 1, &[0, 0, 0, 0, 2, 0, 0, 0], 0);
    let whole = response(1, 200, b"hello", 900);
    for (answer, want) in [
        (&refuse[..], "0 no response"),
        (&record(7, 1, b"oh", 0), "0 no response"),
        (&whole[..60], "0 cut"),
        (&[], "0 no response"),
    ] {
        let mut wire = Wire::opened(Role::Client, false);
        wire.moves(OUT, &request(1, "/a", &[], &[], 9));
        wire.moves(OUT, &record(2, 1, &[], 0));
        wire.moves(IN, answer);
        wire.ends();
        wire.closes(true);
        let lines = told(&wire);
        assert!(lines.last().unwrap().starts_with(want), "{answer:?}: {lines:?}");
    }
}

/// An answer of which only the first kilobytes and the end of every operation are captured.
#[test]
fn a_long_answer_is_followed_to_its_end() {
    for (piece, op) in [(65_000, 65_008), (65_000, 4096), (8000, 32_768), (600, 100_000)] {
        let mut wire = Wire::opened(Role::Client, false);
        for (path, status) in [("/a", 201), ("/b", 202)] {
            wire.moves(OUT, &request(1, path, &[], &[], 9));
            for part in response(1, status, &vec![b'x'; 300_000], piece).chunks(op) {
                wire.moves(IN, part);
            }
        }
        let lines = told(&wire);
        let ends: Vec<&String> = lines.iter().filter(|line| line.contains("complete")).collect();
        assert_eq!(ends.len(), 2, "{piece} {op}: {lines:?}");
        assert!(ends.iter().all(|line| line.ends_with("len 300000") || line.ends_with("len ?")), "{ends:?}");
        assert!(lines.iter().any(|line| line.starts_with("1 < 202")), "{lines:?}");
        assert!(run(&wire.records).1.stats().places_lost == 0);
    }
}

#[test]
fn a_long_upload_does_not_hide_the_next_request() {
    let mut wire = Wire::opened(Role::Server, false);
    for path in ["/a", "/b"] {
        for part in request(1, path, &[], &vec![b'y'; 200_000], 30_000).chunks(16_384) {
            wire.moves(IN, part);
        }
        wire.moves(OUT, &response(1, 200, b"x", 900));
    }
    let lines = told(&wire);
    assert!(lines.iter().any(|line| line.starts_with("1 > POST /b")), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains("complete")).count(), 2, "{lines:?}");
}

/// A connection that is older than the tracer: the request under way is not seen, the next one is.
#[test]
fn joined_in_the_middle() {
    let mut wire = Wire::opened(Role::Unknown, true);
    wire.moves(OUT, &response(1, 200, b"hello", 900)[20..]);
    for path in ["/a", "/b"] {
        wire.moves(IN, &request(1, path, &[], &[], 9));
        wire.moves(OUT, &response(1, 200, b"x", 900));
    }
    let lines = told(&wire);
    assert_eq!(lines.iter().filter(|line| line.contains("complete")).count(), 2, "{lines:?}");
}

#[test]
fn what_is_no_fastcgi_is_left_alone() {
    for first in [&[1, 0, 0, 1, 14][..], &[1, 1, 0, 1, 0, 8, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]] {
        let mut wire = Wire::opened(Role::Server, false);
        wire.moves(IN, first);
        wire.moves(IN, &[7; 64]);
        assert!(told(&wire).is_empty());
        assert!(run(&wire.records).1.unrecognised().is_some());
    }
    // A record that is none, after one that was: what is open is lost.
    let mut wire = Wire::opened(Role::Server, false);
    wire.moves(IN, &request(1, "/a", &[], &[], 9));
    wire.moves(OUT, &[9; 40]);
    wire.moves(OUT, &response(1, 200, b"x", 9));
    let lines = told(&wire);
    assert!(
        lines.last().unwrap().contains("0 lost") && lines.last().unwrap().contains("malformed"),
        "{lines:?}"
    );
}

/// A number that is used again before its last use was seen to end is read when that has been seen.
#[test]
fn stamps_that_are_out_of_order() {
    let mut wire = Wire::opened(Role::Server, false);
    wire.moves(IN, &request(1, "/a", &[], &[], 9));
    wire.moves(OUT, &response(1, 201, b"x", 9));
    wire.moves(IN, &request(1, "/b", &[], &[], 9));
    wire.moves(OUT, &response(1, 202, b"x", 9));
    // The second request is told before the first answer.
    wire.records.swap(2, 3);
    let lines = told(&wire);
    let order: Vec<&str> = lines.iter().map(|line| &line[..3]).collect();
    assert_eq!(order, ["0 >", "0 >", "0 <", "0 c", "1 >", "1 >", "1 <", "1 c"], "{lines:?}");
}

/// A conversation of exchanges one after the other, each with its number in the path and in the status.
fn conversation(lens: &[(usize, usize)], piece: usize) -> Vec<(Direction, Vec<u8>)> {
    let turns = lens.iter().enumerate().flat_map(|(n, (up, down))| {
        let ask = request(1, &format!("/{n}"), &[("HTTP_COOKIE", &"c".repeat(200))], &vec![b'y'; *up], piece);
        [(IN, ask), (OUT, response(1, 200 + n as u16, &vec![b'x'; *down], piece))]
    });
    turns.collect()
}

/// What is said of each exchange; panics where an answer is another's, or a length is wrong.
fn judge(updates: &[ExchangeUpdate], lens: &[(usize, usize)]) -> BTreeMap<usize, Outcome> {
    let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
    let mut ends = BTreeMap::new();
    for update in updates {
        let index = update.id().index;
        let number = match update {
            ExchangeUpdate::RequestBegan { request, .. } => {
                let number = request.target.as_deref().expect("a target")[1..].parse().expect("a number");
                numbers.insert(index, number);
                number
            }
            ExchangeUpdate::RequestEnded { .. }
            | ExchangeUpdate::ResponseBegan { .. }
            | ExchangeUpdate::Ended { .. } => numbers[&index],
        };
        match update {
            ExchangeUpdate::RequestBegan { .. } => {}
            ExchangeUpdate::RequestEnded { body_len, .. } => {
                assert!(
                    matches!(body_len, BodyLen::Exact(n) if *n == lens[number].0 as u64)
                        || *body_len == BodyLen::Unknown
                );
            }
            ExchangeUpdate::ResponseBegan { response, .. } => {
                assert_eq!(usize::from(response.status.expect("a status")), 200 + number, "another's answer");
            }
            ExchangeUpdate::Ended { outcome, response_body_len, .. } => {
                if let Some(BodyLen::Exact(n)) = response_body_len {
                    assert_eq!(*n, lens[number].1 as u64, "{number}");
                }
                assert!(ends.insert(number, *outcome).is_none());
            }
        }
    }
    ends
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn however_it_is_cut(
        lens in vec((0_usize..2000, 0_usize..6000), 1..6),
        piece in 1_usize..3000,
        cuts in vec(1_usize..900, 1..8),
        budget in prop::sample::select(vec![64_u32 * 1024, 8 * 1024]),
    ) {
        let mut wire = Wire::opened(Role::Server, false);
        wire.budget = budget;
        let mut cuts = cuts.iter().cycle();
        for (direction, bytes) in conversation(&lens, piece) {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (op, behind) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                wire.moves(direction, op);
                rest = behind;
            }
        }
        let (updates, connection) = run(&wire.records);
        let ends = judge(&updates, &lens);
        prop_assert_eq!(ends.len(), lens.len());
        prop_assert!(ends.values().all(|outcome| *outcome == Outcome::Complete));
        prop_assert_eq!(connection.held_bytes(), 0);
    }

    /// Nothing is invented, no request has another's answer, and in the end everything is seen again.
    #[test]
    fn whatever_is_lost(
        lens in vec((0_usize..300, 0_usize..3000), 6..12),
        piece in 20_usize..1500,
        op in 16_usize..2000,
        lost in vec(0_usize..1000, 1..4),
        joined: bool,
    ) {
        let mut wire = Wire::opened(Role::Server, joined);
        let turns = conversation(&lens, piece);
        let mut calm = 0;
        for (n, (direction, bytes)) in turns.iter().enumerate() {
            for part in bytes.chunks(op) {
                wire.moves(*direction, part);
            }
            if n + 6 == turns.len() {
                calm = wire.records.len();
            }
        }
        let mut records = wire.records.clone();
        for at in lost {
            records.remove(1 + at % (calm - 1).min(records.len() - 1).max(1));
            calm -= 1;
            if calm < 3 { break; }
        }
        let mut connection = Connection::new(&ConnectionLimits::default().into());
        let mut out = Vec::new();
        for record in &records {
            feed(&mut connection, record, &mut out);
            prop_assert!(connection.held_bytes() <= 512 * 1024);
        }
        let ends = judge(&out, &lens);
        prop_assert_eq!(ends.get(&(lens.len() - 1)), Some(&Outcome::Complete), "the last is seen again");
    }

    /// Any bytes behind a beginning.
    #[test]
    fn whatever_comes(soup in vec((any::<bool>(), vec(any::<u8>(), 0..60)), 0..30), id in 1_u16..4) {
        let mut wire = Wire::opened(Role::Server, false);
        wire.moves(IN, &begin(id));
        for (out, bytes) in soup {
            // Half of it as records.
            let bytes = match bytes.split_first() {
                Some((kind, rest)) if kind & 1 == 0 => record(1 + kind % 11, u16::from(kind >> 6), rest, kind >> 5),
                _ => bytes,
            };
            wire.moves(if out { OUT } else { IN }, &bytes);
        }
        wire.moves(OUT, &end(id));
        let (updates, connection) = run(&wire.records);
        let begun = updates.iter().filter(|update| matches!(update, ExchangeUpdate::RequestBegan { .. })).count();
        let ended = updates.iter().filter(|update| matches!(update, ExchangeUpdate::Ended { .. })).count();
        prop_assert_eq!((begun, connection.held_bytes()), (ended, 0));
    }
}

#[test]
fn a_loss_ends_what_is_open_and_the_next_request_counts() {
    let mut wire = Wire::opened(Role::Server, false);
    for path in ["/0", "/1", "/2", "/3"] {
        wire.moves(IN, &request(1, path, &[], &[], 9));
        wire.moves(OUT, &response(1, 200 + path[1..].parse::<u16>().unwrap(), b"x", 900));
    }
    let mut records = wire.records.clone();
    assert!(matches!(&records[4], Record::Data(event) if matches!(event.outcome, IoOutcome::Moved(_))));
    records.remove(4);
    let (updates, mut connection) = run(&records);
    let ends = judge(&updates, &[(0, 1); 4]);
    assert_eq!(ends[&0], Outcome::Complete);
    assert_eq!(ends[&1], Outcome::Lost);
    assert_eq!(ends[&3], Outcome::Complete);
    assert_eq!(connection.stats().resyncs, 1);
}
