use super::params::tests::encode;
use super::*;
use crate::exchange::ResponseHead;
use crate::protocol::Parsed;

/// A record with its content and padding.
fn record(kind: u8, id: u16, content: &[u8], padding: u8) -> Vec<u8> {
    let [id_high, id_low] = id.to_be_bytes();
    let [len_high, len_low] = (content.len() as u16).to_be_bytes();
    let mut out = vec![1, kind, id_high, id_low, len_high, len_low, padding, 0];
    out.extend_from_slice(content);
    out.resize(out.len() + usize::from(padding), 0xee);
    out
}

fn begin(id: u16) -> Vec<u8> {
    record(1, id, &[0, 1, 1, 0, 0, 0, 0, 0], 0)
}

fn end(id: u16, app: u32, protocol: u8) -> Vec<u8> {
    let mut content = app.to_be_bytes().to_vec();
    content.extend_from_slice(&[protocol, 0, 0, 0]);
    record(3, id, &content, 0)
}

fn request(id: u16, path: &str, body: &[&[u8]]) -> Vec<u8> {
    let pairs = encode(&[("REQUEST_METHOD", "POST"), ("REQUEST_URI", path), ("HTTP_HOST", "h")]);
    let (one, two) = pairs.split_at(pairs.len() / 2);
    let mut out = [begin(id), record(4, id, one, 3), record(4, id, two, 0), record(4, id, &[], 0)].concat();
    for piece in body {
        out.extend(record(5, id, piece, 1));
    }
    out.extend(record(5, id, &[], 0));
    out
}

/// Each part as text, read in pieces.
fn parts(mut parser: FastCgi, bytes: &[u8], piece: usize) -> Vec<String> {
    let mut told = Vec::new();
    for chunk in bytes.chunks(piece) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let step = parser.bytes(rest, Edge::default());
            assert!(step.consumed > 0);
            rest = &rest[step.consumed as usize..];
            match step.parsed {
                Parsed::Part(StreamPart::Request { stream, head, torn, malformed }) => {
                    let [method, target] = [head.method, head.target].map(Option::unwrap_or_default);
                    told.push(format!("{stream} {method} {target} {torn} {malformed}"));
                }
                Parsed::Part(part) => told.push(format!("{part:?}")),
                Parsed::NeedMore => {}
                Parsed::Torn | Parsed::Invalid(_) => {
                    told.push("invalid".to_owned());
                    return told;
                }
            }
        }
    }
    assert_eq!(parser.held_bytes(), 0);
    told
}

#[test]
fn requests_in_pieces_of_any_length() {
    let bytes = [
        request(1, "/a", &[b"abc", b"de"]),
        record(9, 0, b"\x0f\x00FCGI_MPXS_CONNS", 0),
        request(1, "/b", &[]),
    ];
    let bytes = bytes.concat();
    let want = [
        "Opened { stream: 1 }",
        "1 POST /a false false",
        "RequestEnd { stream: 1, body_len: Exact(5) }",
        "Opened { stream: 1 }",
        "1 POST /b false false",
        "RequestEnd { stream: 1, body_len: Exact(0) }",
    ];
    for piece in 1..=bytes.len() {
        assert_eq!(parts(FastCgi::requests(4096), &bytes, piece), want, "pieces of {piece}");
    }
}

#[test]
fn several_requests_at_a_time_and_one_that_is_given_up() {
    let (a, b) = (request(7, "/a", &[b"abc"]), request(300, "/b", &[]));
    let bytes = [&a[..16], &b, &record(2, 300, &[], 0), &a[16..]].concat();
    assert_eq!(
        parts(FastCgi::requests(4096), &bytes, 5),
        [
            "Opened { stream: 7 }",
            "Opened { stream: 300 }",
            "300 POST /b false false",
            "RequestEnd { stream: 300, body_len: Exact(0) }",
            "7 POST /a false false",
            "RequestEnd { stream: 7, body_len: Exact(3) }",
        ]
    );
}

#[test]
fn responses_in_pieces_of_any_length() {
    let bytes = [
        record(7, 1, b"PHP message: oh", 1),
        record(6, 1, b"Status: 404 Not", 1),
        record(6, 1, b" Found\r\nX: y\r\n\r\nbo", 0),
        record(6, 2, b"\r\nother", 0),
        record(6, 1, b"dy", 6),
        record(6, 1, &[], 0),
        end(1, 3, 0),
        end(2, 0, 2),
        record(10, 0, b"\x0f\x01FCGI_MPXS_CONNS0", 0),
    ]
    .concat();
    let ended = |stream, len, app_status, protocol_status| {
        let trailer = Some(Trailer::FastCgi { app_status, protocol_status });
        format!("{:?}", StreamPart::End { stream, body_len: BodyLen::Exact(len), trailer })
    };
    let head = |status| {
        let head = ResponseHead { version: "1", status: Some(status), ..ResponseHead::default() };
        format!("head: {head:?} }}")
    };
    let want = [
        "Answered { stream: 1 }".to_owned(),
        format!("Response {{ stream: 1, {}", head(404)),
        "Answered { stream: 2 }".to_owned(),
        format!("Response {{ stream: 2, {}", head(200)),
        ended(1, 4, 3, 0),
        ended(2, 5, 0, 2),
    ];
    for piece in 1..=bytes.len() {
        assert_eq!(parts(FastCgi::responses(4096), &bytes, piece), want, "pieces of {piece}");
    }
}

#[test]
fn a_head_beyond_the_bound_is_torn() {
    let bytes = request(1, &"/".repeat(600), &[]);
    let told = parts(FastCgi::requests(400), &bytes, 64);
    assert_eq!(told[1], "1   true false".replace("   ", " POST  "));
    // The bound holds for all streams together.
    let mut parser = FastCgi::requests(400);
    for id in 1..=200 {
        let mut rest = &[begin(id), record(4, id, &[0x41; 300], 0)].concat()[..];
        while !rest.is_empty() {
            rest = &rest[parser.bytes(rest, Edge::default()).consumed as usize..];
        }
    }
    assert!(parser.held_bytes() <= 400);
}

#[test]
fn what_is_no_record_is_refused() {
    for bytes in [
        &[2, 1, 0, 1, 0, 8, 0, 0][..],
        &[1, 12, 0, 1, 0, 8, 0, 0],
        &[1, 6, 0, 1, 0, 8, 0, 0],
        &[1, 1, 0, 0, 0, 8, 0, 0],
        &[1, 1, 0, 1, 0, 9, 0, 0],
    ] {
        assert_eq!(parts(FastCgi::requests(400), bytes, 8), ["invalid"], "{bytes:?}");
    }
    let many: Vec<u8> = (1..=300).flat_map(begin).collect();
    assert_eq!(parts(FastCgi::requests(400), &many, 1 << 16).last().map(String::as_str), Some("invalid"));
}

const WHOLE_OP: Edge = Edge { starts_op: true, ends_op: true };

#[test]
fn content_that_is_missing_moves_nothing() {
    let mut parser = FastCgi::responses(4096);
    let bytes = record(6, 1, &[b"Status: 201\r\n\r\n".as_slice(), &[0x78; 100]].concat(), 4);
    let known = bytes.len() - 54;
    let mut at = 0;
    while at < known {
        at += parser.bytes(&bytes[at..known], WHOLE_OP).consumed as usize;
    }
    // The rest, its padding, and a header.
    let step = parser.hole(54 + 8, WHOLE_OP);
    assert_eq!(step, Step { consumed: 50, parsed: Parsed::NeedMore });
    assert_eq!(parser.hole(4 + 8, WHOLE_OP).consumed, 4);
    assert_eq!(parser.hole(8, WHOLE_OP), Step { consumed: 0, parsed: Parsed::Torn });
    parser.drift();
    assert_eq!(parser.hole(8, WHOLE_OP).consumed, 8);
    // Not at the end of an operation; another stream's; then the request's own.
    let ends = end(1, 0, 0);
    let inside = Edge { ends_op: false, ..WHOLE_OP };
    assert_eq!(parser.bytes(&ends, inside).parsed, Parsed::NeedMore);
    assert_eq!(parser.bytes(&end(2, 0, 0), WHOLE_OP).parsed, Parsed::NeedMore);
    let (one, two) = ends.split_at(5);
    assert_eq!(parser.bytes(one, WHOLE_OP).parsed, Parsed::NeedMore);
    let trailer = Some(Trailer::FastCgi { app_status: 0, protocol_status: 0 });
    let part = StreamPart::End { stream: 1, body_len: BodyLen::Unknown, trailer };
    assert_eq!(parser.bytes(two, WHOLE_OP).parsed, Parsed::Part(part));
    assert!(parser.is_between() && parser.held_bytes() == 0);
}

#[test]
fn openings() {
    assert_eq!(opening(&begin(1)), Opening::Requests);
    assert_eq!(opening(&begin(1)[..8]), Opening::Requests);
    assert_eq!(opening(&begin(1)[..7]), Opening::Undecided);
    assert_eq!(opening(&record(9, 0, b"", 0)), Opening::Requests);
    assert_eq!(opening(&record(6, 1, b"x", 0)), Opening::Responses);
    assert_eq!(opening(&record(1, 1, &[0, 9, 0, 0, 0, 0, 0, 0], 0)), Opening::Other);
    assert_eq!(opening(b"GET / HTTP/1.1"), Opening::Other);
    assert_eq!(opening(b""), Opening::Other);
}
