//! What real programs sent each other, as bytes of a connection: every request is found with its response, and nothing
//! else when the connection is joined in its middle.
//!
//! `http2/` holds one connection each, of 60 requests, ten at a time: Go's `net/http` (1.26) with itself, and Node.js
//! (20) with itself and with nginx (1.22). Request bodies have up to 100 bytes. Go's server answers 302 where a body's
//! length leaves 1 when divided by 3, and ends every response with a trailer; nginx answers 404 to `/r2`, and resets
//! streams without an error when it has answered before the request's body came.

use std::collections::BTreeMap;

use tracer_core::exchange::BodyLen;
use tracer_core::protocol::http2::head::{Head, Kind};
use tracer_core::protocol::http2::{Counts, Http2, Http2Limits, Part, Side};
use tracer_core::protocol::{Parsed, Parser};
use tracer_core::stream::Edge;

const REQUESTS: usize = 60;

/// Longer than any frame in these recordings, so that a search for the place comes to an end in them.
const LIMITS: Http2Limits = Http2Limits { list_bytes: 16 * 1024, streams: 100, payload_bytes: 300 };

struct Recorded {
    name: &'static str,
    client: &'static [u8],
    server: &'static [u8],
    status: fn(&Head, u64) -> u16,
}

const RECORDED: [Recorded; 3] = [
    Recorded {
        name: "go",
        client: include_bytes!("http2/go.client"),
        server: include_bytes!("http2/go.server"),
        status: |_, len| if len % 3 == 1 { 302 } else { 200 },
    },
    Recorded {
        name: "node",
        client: include_bytes!("http2/node.client"),
        server: include_bytes!("http2/node.server"),
        status: |_, _| 200,
    },
    Recorded {
        name: "nginx",
        client: include_bytes!("http2/nginx.client"),
        server: include_bytes!("http2/nginx.server"),
        status: |request, _| if request.path.as_deref() == Some("/r2") { 404 } else { 200 },
    },
];

/// Each part, and the position behind its last byte.
fn parts(parser: &mut Http2, bytes: &[u8], piece: usize) -> Vec<(usize, Part)> {
    let (mut parts, mut at) = (Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        let mut rest = piece;
        while !rest.is_empty() {
            let step = parser.bytes(rest, Edge::default());
            at += step.consumed as usize;
            rest = &rest[step.consumed as usize..];
            match step.parsed {
                Parsed::NeedMore => {}
                Parsed::Part(part) => parts.push((at, part)),
                Parsed::Torn | Parsed::Invalid(_) => panic!("not a frame before {at}"),
            }
        }
    }
    parts
}

/// One message, as far as its direction tells.
#[derive(Debug, Default)]
struct Message {
    head: Option<Box<Head>>,
    trailers: usize,
    body_len: Option<BodyLen>,
}

fn messages(parts: Vec<(usize, Part)>) -> BTreeMap<u32, Message> {
    let mut messages: BTreeMap<u32, Message> = BTreeMap::new();
    for (_, part) in parts {
        match part {
            Part::Head { stream, head, ended } => {
                let message = messages.entry(stream).or_default();
                assert!(head.is_whole());
                message.body_len = ended;
                match head.kind() {
                    Kind::Request | Kind::Response => assert!(message.head.replace(head).is_none()),
                    Kind::Trailers => message.trailers += 1,
                    Kind::Interim | Kind::Unclear => panic!("{head:?}"),
                }
            }
            Part::End { stream, body_len } => messages.entry(stream).or_default().body_len = Some(body_len),
            // A server that has answered needs no more of the request (RFC 9113 section 8.1).
            Part::Reset { stream, error: Some(0) } => assert!(messages[&stream].body_len.is_some()),
            Part::Body { .. } | Part::GoAway { .. } | Part::Settings(_) => {}
            Part::Promise { .. } | Part::Reset { .. } => panic!("{part:?}"),
        }
    }
    messages
}

fn exact(message: &Message) -> u64 {
    let Some(BodyLen::Exact(len)) = message.body_len else { panic!("{message:?}") };
    len
}

#[test]
fn every_request_and_response_is_found() {
    for Recorded { name, client, server, status } in RECORDED {
        for piece in [usize::MAX, 1, 9, 100] {
            let mut parsers =
                [Side::Client, Side::Server].map(|side| Http2::new(side, &Http2Limits::default()));
            let requests = messages(parts(&mut parsers[0], client, piece));
            let responses = messages(parts(&mut parsers[1], server, piece));
            assert_eq!(parsers.map(|mut parser| parser.take_counts()), [Counts::default(); 2], "{name}");
            assert_eq!((requests.len(), responses.len()), (REQUESTS, REQUESTS), "{name}");
            for (stream, message) in &requests {
                let request = message.head.as_deref().unwrap();
                let len = exact(message);
                assert_eq!(request.method.as_deref(), Some("POST"));
                assert!(request.path.as_deref().unwrap().starts_with("/r"));
                assert!(request.content_length.is_none_or(|declared| declared == len));
                assert!(request.context.is_some());
                let response = &responses[stream];
                let head = response.head.as_deref().unwrap();
                assert_eq!(head.status, Some(status(request, len)), "{name} {stream}");
                assert!(
                    head.content_length.is_none_or(|declared| declared == exact(response)),
                    "{name} {stream}"
                );
                assert_eq!(response.trailers, usize::from(name == "go"));
            }
        }
    }
}

/// What is known must be what was sent; returns whether a request's or response's name is.
fn check(found: &Part, sent: &Part) -> bool {
    match (found, sent) {
        (Part::Head { stream, head, ended }, Part::Head { stream: of, head: all, ended: all_ended }) => {
            assert_eq!((stream, ended.is_some()), (of, all_ended.is_some()));
            assert!(*ended == Some(BodyLen::Unknown) || ended == all_ended);
            assert!(head.method.is_none() || head.method == all.method);
            assert!(head.path.is_none() || head.path == all.path);
            assert!(head.status.is_none() || head.status == all.status);
            assert!(head.context.is_none() || head.context == all.context);
            assert!(head.kind() == all.kind() || head.kind() == Kind::Unclear);
            head.path.is_some() || head.status.is_some()
        }
        (Part::End { stream, body_len }, Part::End { stream: of, body_len: all }) => {
            assert_eq!(stream, of);
            assert!(*body_len == BodyLen::Unknown || body_len == all);
            false
        }
        (found, sent) => {
            assert_eq!(found, sent);
            false
        }
    }
}

#[test]
fn nothing_is_invented_when_a_connection_is_joined_in_its_middle() {
    for Recorded { name, client, server, .. } in RECORDED {
        for (side, bytes) in [(Side::Client, client), (Side::Server, server)] {
            let sent: BTreeMap<_, _> =
                parts(&mut Http2::new(side, &LIMITS), bytes, usize::MAX).into_iter().collect();
            let mut named = 0;
            for from in (1..bytes.len()).step_by(11) {
                let found = parts(&mut Http2::joined(side, &LIMITS), &bytes[from..], 50);
                for (at, part) in found {
                    named += usize::from(check(&part, &sent[&(at + from)]));
                }
            }
            assert!(named > 100, "{name} {side:?}: only {named}");
        }
    }
}
