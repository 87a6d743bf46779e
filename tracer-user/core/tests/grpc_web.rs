//! grpc-web on one socket, over either version of HTTP: how calls end is read from their bodies, and is absent where that
//! was not seen.

mod frames;
mod support;

use frames::{PREFACE, fields, frame, settings};
use support::{Record, Wire, run};
use tracer_abi::conn::{Direction, Role};
use tracer_abi::sniff::Class;
use tracer_core::exchange::{ExchangeUpdate, StreamEnd, Trailer};

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;

/// Status, messages of the request and of the response.
type End = (Option<u32>, Option<u64>, Option<u64>);

/// How each exchange ended; `None`: as no call.
fn ends(records: &[Record]) -> Vec<Option<End>> {
    let (updates, _) = run(records);
    let ended = updates.into_iter().filter_map(|update| match update {
        ExchangeUpdate::Ended { trailer, .. } => Some(trailer),
        ExchangeUpdate::RequestBegan { .. }
        | ExchangeUpdate::RequestEnded { .. }
        | ExchangeUpdate::ResponseBegan { .. } => None,
    });
    ended
        .map(|trailer| match trailer {
            Some(Trailer::Stream(StreamEnd { grpc_status, request_messages, response_messages, .. })) => {
                Some((grpc_status, request_messages, response_messages))
            }
            Some(Trailer::FastCgi { .. }) | None => None,
        })
        .collect()
}

fn message(flags: u8, content: &[u8]) -> Vec<u8> {
    [&[flags][..], &(content.len() as u32).to_be_bytes(), content].concat()
}

fn request(content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /test.Echo/Unary HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

const WEB: &str = "application/grpc-web+proto";
const ANSWER: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/grpc-web+proto\r\ntransfer-encoding: chunked\r\n\r\n";

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// However the response is cut.
fn check(content_type: &str, ask: &[u8], response: &[u8], want: Option<End>) {
    for piece in [1, 2, 5, 7, 64, response.len()] {
        let mut wire = Wire::opened(Role::Server, false);
        for _ in 0..2 {
            wire.moves(IN, &request(content_type, ask));
            response.chunks(piece).for_each(|piece| wire.moves(OUT, piece));
        }
        assert_eq!(ends(&wire.records), [want; 2], "in pieces of {piece}");
    }
}

#[test]
fn in_http_1() {
    let ask = message(0, b"asked");
    let trailers = message(0x80, b"grpc-status:5\r\ngrpc-message:no\r\n");
    let body = [message(0, b"one"), message(0, b"two"), trailers.clone()];
    let chunked = [ANSWER.as_bytes(), &body.map(|part| chunk(&part)).concat(), b"0\r\n\r\n"].concat();
    check(WEB, &ask, &chunked, Some((Some(5), Some(1), Some(2))));
    let long = [message(0, b"one"), trailers.clone()].concat();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web\r\nContent-Length: {}\r\n\r\n",
        long.len()
    );
    check(WEB, &ask, &[head.as_bytes(), &long].concat(), Some((Some(5), Some(1), Some(1))));
    // In Base64, padded where the server flushed.
    let text = ANSWER.replace("web+proto", "web-text+proto");
    let body = [&b"AAAAAAJhYg=="[..], b"gAAAAA9ncnBjLXN0YXR1czo1DQo="].map(chunk).concat();
    let text = [text.as_bytes(), &body, b"0\r\n\r\n"].concat();
    check("application/grpc-web-text", b"AAAAAAA=", &text, Some((Some(5), Some(1), Some(1))));
    // Without a body; by something that is no gRPC; asked by none.
    let only = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web\r\ngrpc-status: 12\r\nContent-Length: 0\r\n\r\n";
    check(WEB, &ask, only.as_bytes(), Some((Some(12), Some(1), Some(0))));
    let other = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno";
    check(WEB, &ask, other, Some((None, Some(1), None)));
    check("application/json", b"{}", other, None);
    // In a form that is none over HTTP/1.
    check("application/grpc", &ask, other, None);
}

/// The kernel half leaves out the middle of long bodies.
#[test]
fn behind_what_is_left_out() {
    let trailers = message(0x80, b"grpc-status:0\r\n");
    let play = |messages: &[Vec<u8>]| {
        let mut wire = Wire::opened(Role::Client, false);
        wire.budget = 1000;
        wire.moves(OUT, &request(WEB, &message(0, b"asked")));
        let body = [messages.concat(), trailers.clone()].concat();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        wire.moves(IN, &[head.as_bytes(), &body].concat());
        ends(&wire.records)
    };
    // In one message the place is known.
    assert_eq!(play(&[message(0, &[1; 50_000])]), [Some((Some(0), Some(1), Some(1)))]);
    // Where messages begin in what is left out, it is not.
    assert_eq!(play(&vec![message(0, &[1; 100]); 500]), [Some((None, Some(1), None))]);
}

#[test]
fn in_http_2() {
    let play = |data: &[Vec<u8>], content_type: &str| {
        let mut wire = Wire::opened(Role::Client, false);
        let ask = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/test.Echo/Unary"),
            ("content-type", content_type),
        ];
        wire.moves(OUT, &[PREFACE, &settings(), &frame(1, 4, 1, &fields(&ask))].concat());
        wire.moves(OUT, &frame(0, 1, 1, &message(0, b"asked")));
        wire.moves(IN, &[settings(), frame(1, 4, 1, &fields(&[(":status", "103")]))].concat());
        let head = fields(&[(":status", "200"), ("content-type", content_type)]);
        wire.moves(IN, &frame(1, 4, 1, &head));
        for (number, data) in data.iter().enumerate() {
            wire.moves(IN, &frame(0, 0, 1, &data[..3]));
            wire.moves(IN, &frame(0, u8::from(number + 1 == 2), 1, &data[3..]));
        }
        for record in &mut wire.records {
            if let Record::Data(event) = record {
                event.class = Class::Http2;
            }
        }
        ends(&wire.records)
    };
    let body = [message(0, b"one"), message(0x80, b"grpc-status:14\r\n")];
    assert_eq!(play(&body, "application/grpc-web"), [Some((Some(14), Some(1), Some(1)))]);
    let text = [b"AAAAAAJhYg==".to_vec(), b"gAAAAA9ncnBjLXN0YXR1czo1DQo=".to_vec()];
    let mut end = play(&text, "application/grpc-web-text");
    // What was asked is no Base64.
    assert_eq!(end.pop(), Some(Some((Some(5), None, Some(1)))));
    // A flag of gRPC's own messages has no meaning.
    assert_eq!(play(&body, "application/grpc"), [Some((None, Some(1), Some(2)))]);
}
