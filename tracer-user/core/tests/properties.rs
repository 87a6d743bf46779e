//! Properties of one connection, over generated conversations of which every byte's meaning is known.
//!
//! - However the bytes are cut into operations, each message starts and ends where it does.
//! - Whatever records are dropped: nothing panics, nothing is invented, no request gets another's response, and
//!   after a while without loss everything is seen again.
//! - What is kept is bounded.

#![expect(clippy::unwrap_used, reason = "tests may state what cannot fail")]

mod support;

use proptest::collection::vec;
use proptest::prelude::*;
use support::{Record, Wire, feed, run};
use tracer_abi::conn::{Direction, Role};
use tracer_core::connection::{Connection, ConnectionLimits};
use tracer_core::exchange::{BodyLen, ExchangeUpdate, Outcome};

#[derive(Clone)]
struct Exchange {
    method: &'static str,
    request_body: Body,
    interim: u8,
    status: u16,
    response_body: Body,
}

#[derive(Clone)]
enum Body {
    None,
    Length(Vec<u8>),
    Chunked(Vec<Vec<u8>>, bool),
}

/// Where the messages of an exchange are in their streams: first byte and last.
#[derive(Clone, Debug)]
struct Truth {
    request: (u64, u64),
    head_last: u64,
    response: (u64, u64),
    request_len: u64,
    response_len: u64,
}

/// Short enough to be read.
impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes)
                .replace(&"x".repeat(10), "X")
                .replace(&"y".repeat(100), "Y")
                .replace("XXXXXXXXXX", "XX")
        };
        match self {
            Self::None => f.write_str("None"),
            Self::Length(bytes) => write!(f, "Length({:?})", short(bytes)),
            Self::Chunked(chunks, trailers) => {
                let chunks: Vec<_> = chunks.iter().map(|chunk| short(chunk)).collect();
                write!(f, "Chunked({chunks:?}, {trailers})")
            }
        }
    }
}

impl Body {
    /// Header fields and bytes.
    fn render(&self) -> (String, Vec<u8>) {
        match self {
            Self::None => (String::new(), Vec::new()),
            Self::Length(bytes) => (format!("Content-Length: {}\r\n", bytes.len()), bytes.clone()),
            Self::Chunked(chunks, trailers) => {
                let mut bytes = Vec::new();
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    bytes.extend(format!("{:x};e=1\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(if *trailers { &b"0\r\nDigest: x\r\n\r\n"[..] } else { b"0\r\n\r\n" });
                ("Transfer-Encoding: chunked\r\n".to_owned(), bytes)
            }
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Length(bytes) => bytes.len() as u64,
            Self::Chunked(chunks, _) => chunks.iter().map(|chunk| chunk.len() as u64).sum(),
        }
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { method, request_body, interim, status, response_body } = self;
        write!(f, "{method} {request_body:?} -> {interim}+{status} {response_body:?}")
    }
}

impl Exchange {
    fn request(&self, id: usize) -> (Vec<u8>, usize) {
        let (fields, body) = self.request_body.render();
        let mut bytes = format!("{} /id-{id} HTTP/1.1\r\nHost: h\r\n{fields}\r\n", self.method).into_bytes();
        let head = bytes.len();
        bytes.extend(body);
        (bytes, head)
    }

    /// Interim responses, and the final one.
    fn response(&self, id: usize) -> (Vec<u8>, Vec<u8>) {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(self.interim.into());
        let (fields, body) = match &self.response_body {
            // A final response without framing would last until the close.
            Body::None if !self.is_bodiless() => Body::Length(Vec::new()).render(),
            body @ (Body::None | Body::Length(_) | Body::Chunked(..)) => body.render(),
        };
        let mut bytes = format!("HTTP/1.1 {} R\r\nX-Id: {id}\r\n{fields}\r\n", self.status).into_bytes();
        if !self.is_bodiless() {
            bytes.extend(body);
        }
        (interim.into_bytes(), bytes)
    }

    fn is_bodiless(&self) -> bool {
        self.method == "HEAD" || self.status == 204 || self.status == 304
    }
}

/// Bytes that may look like HTTP.
fn content(max: usize) -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        4 => Just("x".repeat(37)),
        1 => Just("y".repeat(700)),
        1 => Just("\r\n0\r\n\r\n".to_owned()),
        1 => Just("0\r\n\r\n".to_owned()),
        1 => Just("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()),
        1 => Just("GET /fake HTTP/1.1\r\n\r\n".to_owned()),
        1 => Just("\r\n".to_owned()),
    ];
    vec(pieces, 0..max).prop_map(|pieces| pieces.concat().into_bytes())
}

/// Bytes that do not.
fn plain(max: usize) -> impl Strategy<Value = Vec<u8>> {
    (0..max).prop_map(|len| vec![b'x'; len])
}

fn body<S: Strategy<Value = Vec<u8>> + 'static>(content: fn(usize) -> S) -> impl Strategy<Value = Body> {
    prop_oneof![
        2 => Just(Body::None),
        2 => content(20).prop_map(Body::Length),
        1 => content(900).prop_map(Body::Length),
        2 => (vec(content(20), 0..4), any::<bool>()).prop_map(|(chunks, trailers)| Body::Chunked(chunks, trailers)),
        1 => (vec(content(400), 0..20), any::<bool>()).prop_map(|(chunks, t)| Body::Chunked(chunks, t)),
    ]
}

fn exchange<S: Strategy<Value = Vec<u8>> + 'static>(
    content: fn(usize) -> S,
) -> impl Strategy<Value = Exchange> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("HEAD"), Just("PROPFIND")];
    let status = prop_oneof![3 => Just(200_u16), 1 => Just(204_u16), 1 => Just(304_u16), 1 => Just(500_u16)];
    (method, body(content), 0_u8..2, status, body(content)).prop_map(
        |(method, request_body, interim, status, response_body)| {
            let request_body = if matches!(method, "GET" | "HEAD") { Body::None } else { request_body };
            Exchange { method, request_body, interim, status, response_body }
        },
    )
}

/// Cuts bytes into operations of the given lengths, the last length taking all that is left.
fn cut<'b>(bytes: &'b [u8], lens: &[usize]) -> Vec<&'b [u8]> {
    let (mut ops, mut rest) = (Vec::new(), bytes);
    for &len in lens {
        let (op, more) = rest.split_at(len.clamp(1, rest.len().max(1)).min(rest.len()));
        ops.push(op);
        rest = more;
    }
    ops.push(rest);
    ops
}

/// Plays bursts of requests, each burst's responses coming when all of it was sent. Records, truth, and for each
/// exchange the index of the record behind its last.
fn play(role: Role, bursts: &[Vec<Exchange>], cuts: &[Vec<usize>]) -> (Vec<Record>, Vec<Truth>, Vec<usize>) {
    let (requests, responses) = match role {
        Role::Client => (Direction::Egress, Direction::Ingress),
        Role::Server | Role::Unknown => (Direction::Ingress, Direction::Egress),
    };
    let mut wire = Wire::opened(role, false);
    let (mut truths, mut ends) = (Vec::new(), Vec::new());
    let mut cuts = cuts.iter().cycle();
    let mut id = 0;
    for burst in bursts {
        let (mut out, mut back) = (Vec::new(), Vec::new());
        let (request_base, response_base) = (wire.offset(requests), wire.offset(responses));
        for exchange in burst {
            let (request, head) = exchange.request(id);
            let (interim, response) = exchange.response(id);
            let request_start = request_base + out.len() as u64;
            let response_start = response_base + (back.len() + interim.len()) as u64;
            truths.push(Truth {
                request: (request_start, request_start + request.len() as u64 - 1),
                head_last: request_start + head as u64 - 1,
                response: (response_start, response_start + response.len() as u64 - 1),
                request_len: exchange.request_body.len(),
                response_len: if exchange.is_bodiless() { 0 } else { exchange.response_body.len() },
            });
            out.extend(request);
            back.extend(interim);
            back.extend(response);
            id += 1;
        }
        let empty = Vec::new();
        for op in cut(&out, cuts.next().unwrap_or(&empty)) {
            wire.moves(requests, op);
        }
        for op in cut(&back, cuts.next().unwrap_or(&empty)) {
            wire.moves(responses, op);
        }
        ends.extend(burst.iter().map(|_| wire.records.len()));
    }
    wire.closes(true);
    (wire.records, truths, ends)
}

/// What is true of all that may be reported, whatever was lost. Returns the ids that ended as complete. `pipelined`:
/// where a message's end was elided along with the start of the next, its end may be reported too late, and a head that
/// was elided in part ends early.
fn sound(updates: &[ExchangeUpdate], truths: &[Truth], pipelined: bool) -> Vec<usize> {
    let mut ids = std::collections::BTreeMap::new();
    let (mut ended, mut complete) = (std::collections::BTreeSet::new(), Vec::new());
    for update in updates {
        let index = update.id().index;
        assert!(!ended.contains(&index), "{index} goes on after its end");
        match update {
            ExchangeUpdate::RequestBegan { request, first, head_last, .. } => {
                let id: usize =
                    request.target.as_deref().unwrap().strip_prefix("/id-").unwrap().parse().unwrap();
                let truth = &truths[id];
                assert_eq!(first.offset, truth.request.0);
                if pipelined {
                    assert!(head_last.offset <= truth.head_last);
                } else {
                    assert_eq!(head_last.offset, truth.head_last);
                }
                assert_eq!(ids.insert(index, id), None);
                assert!(ids.values().filter(|&&other| other == id).count() == 1, "{id} twice");
            }
            ExchangeUpdate::RequestEnded { last, body_len, .. } => {
                let truth = &truths[ids[&index]];
                match body_len {
                    BodyLen::Exact(len) => {
                        assert_eq!((last.offset, *len), (truth.request.1, truth.request_len));
                    }
                    BodyLen::Unknown if pipelined => assert!(last.offset >= truth.request.1),
                    BodyLen::Unknown => assert_eq!(last.offset, truth.request.1),
                }
            }
            ExchangeUpdate::ResponseBegan { first, .. } => {
                assert_eq!(first.offset, truths[ids[&index]].response.0, "another's response");
            }
            ExchangeUpdate::Ended { last, time, outcome, response_body_len, .. } => {
                let id = ids[&index];
                ended.insert(index);
                if *outcome == Outcome::Complete {
                    let (last, truth) = (last.unwrap(), &truths[id]);
                    assert_eq!(last.time, *time);
                    match response_body_len.unwrap() {
                        BodyLen::Exact(len) => {
                            assert_eq!((last.offset, len), (truth.response.1, truth.response_len))
                        }
                        BodyLen::Unknown if pipelined => assert!(last.offset >= truth.response.1),
                        BodyLen::Unknown => assert_eq!(last.offset, truth.response.1),
                    }
                    complete.push(id);
                }
            }
        }
    }
    assert_eq!(ended.len(), ids.len(), "every exchange ends");
    complete
}

/// Known and not solved: of a body that is left out in part, an operation may end like a body's end and the next one begin
/// like a status line that is cut off, whose rest may be left out. Taking that for the body's would pair a response that
/// came before its request was seen with another.
fn is_ambiguous(records: &[Record], truths: &[Truth]) -> bool {
    const FAKE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let data = || {
        records.iter().filter_map(|record| if let Record::Data(event) = record { Some(event) } else { None })
    };
    data().zip(data().skip(1)).any(|(before, next)| {
        let start = next.offset + u64::from(next.chunk_offset);
        // Empty lines before it are passed over.
        let line = next.payload.trim_ascii_start();
        before.direction == next.direction
            && before.payload.ends_with(b"0\r\n\r\n")
            && line.len() < FAKE.len()
            && FAKE.starts_with(line)
            && truths.iter().all(|truth| truth.response.0 != start)
    })
}

fn cuts() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let len = prop_oneof![3 => 1_usize..40, 1 => 1_usize..3000, 1 => 3000_usize..40_000];
    vec(vec(len, 0..12), 1..12)
}

fn roles() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}

fn cases(count: u32) -> ProptestConfig {
    let times = std::env::var("TRACER_PROPERTY_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    ProptestConfig { cases: count * times, failure_persistence: None, ..ProptestConfig::default() }
}

// Large bodies: these take longest.
proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn any_cut_of_the_same_bytes_gives_the_same_messages(
        role in roles(),
        exchanges in vec(exchange(content), 1..6),
        cuts in cuts(),
    ) {
        let bursts: Vec<_> = exchanges.into_iter().map(|exchange| vec![exchange]).collect();
        let (records, truths, _) = play(role, &bursts, &cuts);
        prop_assume!(!is_ambiguous(&records, &truths));
        let (updates, mut connection) = run(&records);
        let complete = sound(&updates, &truths, false);
        prop_assert_eq!(complete, (0..truths.len()).collect::<Vec<_>>());
        let requests_ended =
            updates.iter().filter(|update| matches!(update, ExchangeUpdate::RequestEnded { .. })).count();
        prop_assert_eq!(requests_ended, truths.len());
        prop_assert_eq!(connection.stats(), Default::default());
    }

    #[test]
    fn any_cut_of_pipelined_messages_gives_the_same_messages(
        role in roles(),
        bursts in vec(vec(exchange(content), 1..5), 1..4),
        cuts in cuts(),
    ) {
        let (records, truths, _) = play(role, &bursts, &cuts);
        let (updates, _) = run(&records);
        let complete = sound(&updates, &truths, true);
        // The budget of a turn may elide what is needed; what is not elided is seen.
        let last = truths.last().unwrap();
        if last.request.1.max(last.response.1) < 8000 {
            prop_assert_eq!(complete, (0..truths.len()).collect::<Vec<_>>());
        }
    }

}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_dropped_record_invents_nothing(
        role in roles(),
        bursts in prop_oneof![
            2 => vec(vec(exchange(plain), 1..2), 1..12),
            1 => vec(vec(exchange(plain), 1..5), 1..8),
        ],
        cuts in cuts(),
        drops in vec(any::<prop::sample::Index>(), 1..8),
    ) {
        let (mut records, truths, _) = play(role, &bursts, &cuts);
        for drop in drops {
            if records.len() > 1 {
                records.remove(drop.index(records.len()));
            }
        }
        let (updates, _) = run(&records);
        sound(&updates, &truths, bursts.iter().any(|burst| burst.len() > 1));
    }

    /// A client's threads may be stamped after the response that they caused.
    #[test]
    fn a_request_seen_after_its_response_is_paired_with_it(
        exchanges in vec(exchange(plain), 1..12),
        cuts in cuts(),
        late in vec(any::<bool>(), 1..20),
    ) {
        let bursts: Vec<_> = exchanges.into_iter().map(|exchange| vec![exchange]).collect();
        let (mut records, truths, _) = play(Role::Client, &bursts, &cuts);
        // Operations of one record.
        let is = |record: &Record, direction| {
            matches!(record, Record::Data(event)
                if event.direction == direction && event.last && event.chunk_offset == 0)
        };
        let turns: Vec<_> = (1..records.len() - 1)
            .filter(|&at| is(&records[at], Direction::Egress) && is(&records[at + 1], Direction::Ingress))
            .collect();
        for (&at, _) in turns.iter().zip(late.iter().cycle()).filter(|(_, late)| **late) {
            records.swap(at, at + 1);
        }
        let (updates, _) = run(&records);
        let complete = sound(&updates, &truths, false);
        prop_assert_eq!(complete, (0..truths.len()).collect::<Vec<_>>());
    }

    /// A client that keeps several requests in flight, and shows it, before records are lost.
    #[test]
    fn a_loss_in_a_pipeline_pairs_nothing_wrong(
        role in roles(),
        exchanges in vec(exchange(plain), 12..16),
        depth in 2_usize..4,
        drops in vec(any::<prop::sample::Index>(), 1..6),
    ) {
        let (requests, responses) = match role {
            Role::Client => (Direction::Egress, Direction::Ingress),
            Role::Server | Role::Unknown => (Direction::Ingress, Direction::Egress),
        };
        let mut wire = Wire::opened(role, false);
        let (mut truths, mut shown) = (Vec::new(), 0);
        for (id, exchange) in exchanges.iter().enumerate() {
            let (bytes, head) = exchange.request(id);
            let first = wire.offset(requests);
            wire.moves(requests, &bytes);
            let request = (first, wire.offset(requests) - 1);
            let request_len = exchange.request_body.len();
            truths.push(Truth { request, head_last: first + head as u64 - 1, response: (0, 0), request_len, response_len: 0 });
            let Some(answered) = (id + 1).checked_sub(depth) else { continue };
            let (interim, bytes) = exchanges[answered].response(answered);
            wire.moves(responses, &interim);
            let first = wire.offset(responses);
            wire.moves(responses, &bytes);
            truths[answered].response = (first, wire.offset(responses) - 1);
            truths[answered].response_len =
                if exchanges[answered].is_bodiless() { 0 } else { exchanges[answered].response_body.len() };
            if answered == 2 {
                shown = wire.records.len();
            }
        }
        wire.closes(true);
        let mut records = wire.records;
        for drop in drops {
            records.remove(shown + drop.index(records.len() - shown));
            if records.len() == shown {
                break;
            }
        }
        let (updates, _) = run(&records);
        sound(&updates, &truths, true);
    }

    /// A client that asks again while it is answered, and shows it before records are lost. What is long is left out in part.
    #[test]
    fn requests_sent_into_a_response_pair_nothing_wrong(
        role in roles(),
        exchanges in vec(exchange(plain), 5..12),
        cuts in vec(vec(prop_oneof![1_usize..40, 200_usize..9000], 1..6), 1..6),
        early in vec(any::<prop::sample::Index>(), 1..6),
        drops in vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let (requests, responses) = match role {
            Role::Client => (Direction::Egress, Direction::Ingress),
            Role::Server | Role::Unknown => (Direction::Ingress, Direction::Egress),
        };
        let mut wire = Wire::opened(role, false);
        let (mut truths, mut shown) = (Vec::<Truth>::new(), 0);
        let ask = |wire: &mut Wire, truths: &mut Vec<Truth>| {
            let Some(exchange) = exchanges.get(truths.len()) else { return };
            let (bytes, head) = exchange.request(truths.len());
            let first = wire.offset(requests);
            wire.moves(requests, &bytes);
            truths.push(Truth {
                request: (first, wire.offset(requests) - 1),
                head_last: first + head as u64 - 1,
                response: (0, 0),
                request_len: exchange.request_body.len(),
                response_len: if exchange.is_bodiless() { 0 } else { exchange.response_body.len() },
            });
        };
        ask(&mut wire, &mut truths);
        for (id, exchange) in exchanges.iter().enumerate() {
            let (interim, response) = exchange.response(id);
            let first = wire.offset(responses) + interim.len() as u64;
            truths[id].response = (first, first + response.len() as u64 - 1);
            let bytes = [interim, response].concat();
            let ops = cut(&bytes, &cuts[id % cuts.len()]);
            let early = if id < 3 { 0 } else { early[id % early.len()].index(ops.len() + 1) };
            for (at, op) in ops.iter().enumerate() {
                if at == early {
                    ask(&mut wire, &mut truths);
                }
                wire.moves(responses, op);
            }
            if early == ops.len() {
                ask(&mut wire, &mut truths);
            }
            if id == 2 {
                shown = wire.records.len();
            }
        }
        wire.closes(true);
        let mut records = wire.records;
        for drop in drops {
            if records.len() > shown {
                records.remove(shown + drop.index(records.len() - shown));
            }
        }
        let (updates, _) = run(&records);
        sound(&updates, &truths, true);
    }

    #[test]
    fn a_loss_is_over_after_a_while(
        role in roles(),
        exchanges in vec(exchange(plain), 12..16),
        cuts in cuts(),
        drops in vec(any::<prop::sample::Index>(), 1..6),
    ) {
        let bursts: Vec<_> = exchanges.into_iter().map(|exchange| vec![exchange]).collect();
        let (mut records, truths, ends) = play(role, &bursts, &cuts);
        // Only among the records of the first five exchanges, and not the announcement.
        let early = ends[4];
        let mut dropped: Vec<_> = drops.iter().map(|drop| 1 + drop.index(early - 1)).collect();
        dropped.sort_unstable();
        dropped.dedup();
        for &drop in dropped.iter().rev() {
            records.remove(drop);
        }
        let (updates, _) = run(&records);
        let complete = sound(&updates, &truths, false);
        let last: Vec<_> = (8..truths.len()).collect();
        prop_assert!(complete.ends_with(&last), "{:?} without {:?}", complete, dropped);
        // What was over before the first loss is not touched by it.
        let before = ends.iter().take_while(|&&end| end <= dropped[0]).count();
        // The last of them may end by what is dropped: its end is confirmed by what follows.
        let untouched: Vec<_> = (0..before.saturating_sub(1)).collect();
        prop_assert!(complete.starts_with(&untouched), "{:?}", complete);
    }

    #[test]
    fn what_is_kept_is_bounded(
        role in roles(),
        ops in vec((any::<bool>(), 0_usize..5, 1_usize..9000), 1..300),
    ) {
        let limits = ConnectionLimits::default();
        let mut wire = Wire::opened(role, false);
        for (ingress, what, len) in ops {
            let direction = if ingress { Direction::Ingress } else { Direction::Egress };
            let head = ["GET / HTTP/1.1\r\nX: ", "HTTP/1.1 200 OK\r\nX: ", "POST / HTTP/1.1\r\nUpgrade: x\r\n\r\n", "", "\r\n\r\n"][what];
            let bytes = [head.as_bytes(), &vec![b'x'; len]].concat();
            wire.moves(direction, &bytes);
        }
        let mut connection = Connection::new(&limits.into());
        let mut out = Vec::new();
        // An operation may exceed the bound by its own payload.
        let bound = 2 * (limits.stream.held_bytes + limits.head_bytes) + 64 * 1024;
        for record in &wire.records {
            feed(&mut connection, record, &mut out);
            prop_assert!(connection.held_bytes() <= bound);
        }
    }
}

/// A chunked body of which most is left out, and in which the end of one and a whole response lie where operations end and
/// begin: the next request shows that it went on.
#[test]
fn a_body_that_looks_like_its_end_and_another_response_goes_on() {
    let body = |chunks: &[&str]| {
        Body::Chunked(chunks.iter().map(|chunk| chunk.as_bytes().to_vec()).collect(), false)
    };
    let filler = "x".repeat(20_000);
    let fake = "\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let inside = format!("{filler}{fake}and so on");
    let plain = Exchange {
        method: "GET",
        request_body: Body::None,
        interim: 0,
        status: 200,
        response_body: Body::None,
    };
    let long = Exchange { response_body: body(&[&filler, &inside]), ..plain.clone() };
    let bytes = long.response(0).1;
    let at = bytes.windows(fake.len()).position(|window| window == fake.as_bytes()).unwrap();
    for rest in [vec![], vec![3], vec![30, 1], vec![9, 20]] {
        let mut back = vec![9_000, at + 7 - 9_000];
        back.extend(rest);
        let cuts = [vec![], back, vec![], vec![]];
        let (records, truths, _) = play(Role::Server, &[vec![long.clone()], vec![plain.clone()]], &cuts);
        let (updates, _) = run(&records);
        assert_eq!(sound(&updates, &truths, false), [0, 1], "{cuts:?}");
    }
}

/// A client that has pipelined; the end of a body is lost; the response behind it comes in pieces, of which the first tells
/// nothing.
#[test]
fn behind_a_lost_end_a_response_in_pieces_is_no_body() {
    let body = |len| Body::Chunked(vec![vec![b'x'; len]; 16], false);
    let get = |response_body| Exchange {
        method: "GET",
        request_body: Body::None,
        interim: 0,
        status: 200,
        response_body,
    };
    let short = || get(Body::Chunked(vec![], false));
    let bursts = [vec![get(body(280)), short(), get(body(400))], vec![short()], vec![short()], vec![short()]];
    for first in 1..13 {
        let cuts = [vec![], vec![4097], vec![], vec![first]];
        let (mut records, truths, _) = play(Role::Server, &bursts, &cuts);
        let is_end = |record: &Record| {
            let Record::Data(event) = record else { return false };
            let end = event.offset + u64::from(event.chunk_offset) + event.payload.len() as u64;
            event.direction == Direction::Egress && end == truths[2].response.1 + 1
        };
        let end = records.iter().position(is_end).unwrap();
        records.remove(end);
        let (updates, _) = run(&records);
        sound(&updates, &truths, true);
    }
}
