//! One direction of HTTP/2. The first byte chooses what it is, the second how it is cut.

use crate::protocol::http2::{Http2, Http2Limits, Part, Side};
use crate::protocol::{Parsed, Parser};
use crate::stream::Edge;

/// Small, so that a search for the place comes to an end.
const LIMITS: Http2Limits = Http2Limits { list_bytes: 1024, streams: 8, payload_bytes: 128 };

pub fn http2(data: &[u8]) {
    let [kind, cut, bytes @ ..] = data else { return };
    let parser = || {
        let side = if kind & 1 == 0 { Side::Client } else { Side::Server };
        if kind & 2 == 0 { Http2::new(side, &LIMITS) } else { Http2::joined(side, &LIMITS) }
    };
    let piece = usize::from(*cut).max(1);
    let whole = parts(parser(), bytes, bytes.len().max(1), false);
    assert_eq!(whole, parts(parser(), bytes, piece, false), "pieces of {piece}");
    parts(parser(), bytes, piece, true);
}

/// Each part, and where it ends. `holes`: every second piece is missing.
fn parts(mut parser: Http2, bytes: &[u8], piece: usize, holes: bool) -> Vec<(usize, Part)> {
    let (mut parts, mut at) = (Vec::new(), 0);
    for (n, piece) in bytes.chunks(piece).enumerate() {
        let mut rest = piece;
        while !rest.is_empty() {
            let step = if holes && n % 2 == 1 {
                parser.hole(rest.len() as u64, Edge::default())
            } else {
                parser.bytes(rest, Edge::default())
            };
            at += step.consumed as usize;
            rest = &rest[step.consumed as usize..];
            match step.parsed {
                Parsed::NeedMore => assert!(step.consumed > 0),
                Parsed::Part(part) => {
                    if let Part::Settings(settings) = &part {
                        parser.peer_settings(settings);
                    }
                    parts.push((at, part));
                }
                Parsed::Torn => {
                    assert!(holes && step.consumed == 0);
                    parser.drift();
                }
                // There is no HTTP/2 without the preface.
                Parsed::Invalid(_) if !parser.is_adrift() => return parts,
                Parsed::Invalid(_) => assert!(step.consumed > 0),
            }
            assert!(parser.held_bytes() <= 64 * 1024 * 3 + 4 * LIMITS.list_bytes as usize);
        }
    }
    parts
}
