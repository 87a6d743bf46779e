//! Header blocks: in pieces, with tables, too large, too many pieces, and not valid.

use super::frames::{
    PREFACE, answer_all, ask_all, fields, flag, frame, indexed, kind, literal, request, settings, table_size,
};
use super::{begun, followed, post};
use crate::Case;

/// A block in frames of so many bytes.
fn chain(stream: u32, block: &[u8], piece: usize) -> Vec<u8> {
    let mut frames = Vec::new();
    let count = block.chunks(piece).count();
    for (number, piece) in block.chunks(piece).enumerate() {
        let kind = if number == 0 { kind::HEADERS } else { kind::CONTINUATION };
        // END_STREAM belongs to the first, END_HEADERS to the last.
        let flags = if number == 0 { flag::END_STREAM } else { 0 }
            | if number + 1 == count { flag::END_HEADERS } else { 0 };
        frames.extend(frame(kind, flags, stream, piece));
    }
    frames
}

fn whole(stream: u32, block: &[u8]) -> Vec<u8> {
    chain(stream, block, usize::MAX)
}

pub(crate) fn cases() -> Vec<Case> {
    let head = request("/a");
    let status = fields(&[(":status", "200"), ("x-long", &"v".repeat(40))]);
    let mut cases = Vec::new();
    for (name, piece) in [("h2-continued-by-byte", 1), ("h2-continued-by-7", 7)] {
        let case = begun(name).request(chain(1, &head, piece)).response(chain(1, &status, piece));
        cases.push(followed(case.want(post("/a", 200)), 3));
    }
    cases.push(followed(
        begun("h2-tables")
            .request(whole(
                1,
                &[
                    indexed(3),
                    indexed(6),
                    literal(0x40, ":authority", "case.test"),
                    literal(0x40, ":path", "/a"),
                    literal(0x10, "authorization", "secret"),
                ]
                .concat(),
            ))
            .response(whole(1, &[literal(0x40, ":status", "299"), literal(0x40, "x", "y")].concat()))
            // The path came last, the host before it.
            .request(whole(3, &[indexed(3), indexed(6), indexed(63), indexed(62)].concat()))
            .response(whole(3, &[indexed(63), indexed(62)].concat()))
            .want(post("/a", 299))
            .want(post("/a", 299)),
        5,
    ));
    cases.push(followed(
        Case::new("h2-table-taken-away")
            .request([PREFACE, &settings(&[(1, 0)])].concat())
            .response(settings(&[(1, 0)]))
            .request(whole(
                1,
                &[table_size(0), literal(0x40, ":method", "POST"), literal(0, ":path", "/a")].concat(),
            ))
            .response(whole(1, &[table_size(0), indexed(8)].concat()))
            .want(post("/a", 200)),
        3,
    ));
    cases.extend(floods());
    cases.extend(broken());
    cases
}

fn floods() -> Vec<Case> {
    let head = request("/a");
    // A field of 4000 bytes, in one byte as often as one likes.
    let bomb = [&head[..], &literal(0x40, "x-bomb", &"b".repeat(3900)), &[0xbe; 3000]].concat();
    let empty: Vec<u8> = (0..500).flat_map(|_| frame(kind::CONTINUATION, 0, 1, &[])).collect();
    let flood = [
        frame(kind::HEADERS, flag::END_STREAM, 1, &head),
        empty.clone(),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, &fields(&[("x", "y")])),
    ]
    .concat();
    let bombed = |name| begun(name).request(whole(1, &bomb)).response(answer_all(1, "431"));
    vec![
        followed(bombed("h2-bomb").want(post("/a", 431).incomplete("limit_reached")), 3),
        // What the table holds is what it held.
        bombed("h2-bomb-and-the-table-behind-it")
            .request(whole(3, &[literal(0x40, ":path", "/b"), request("/c"), indexed(63)].concat()))
            .response(answer_all(3, "204"))
            .request(whole(5, &[&fields(&[(":method", "POST")])[..], &indexed(62)].concat()))
            .response(answer_all(5, "204"))
            .want(post("/a", 431).incomplete("limit_reached"))
            .want(post("/b", 204))
            .want(post("/b", 204)),
        followed(
            begun("h2-flood-of-continuations")
                .request(flood)
                .response(answer_all(1, "431"))
                .want(post("/a", 431).incomplete("limit_reached")),
            3,
        ),
        // It never becomes a request.
        begun("h2-flood-without-an-end")
            .request([frame(kind::HEADERS, 0, 1, &head), empty].concat())
            .response(super::frames::go_away(0, 11, b"")),
    ]
}

/// The receiver gives the connection up (RFC 9113 section 5.4.1): what it said before is known, what was sent is not.
fn broken() -> Vec<Case> {
    let refuse = |case: Case| case.response(super::frames::go_away(1, 9, b"broken"));
    let first =
        |name| begun(name).request(ask_all(1, "/a")).response(answer_all(1, "200")).want(post("/a", 200));
    vec![
        // An entry that no table has.
        refuse(first("h2-index-of-nothing").request(whole(3, &[&request("/b")[..], &indexed(99)].concat())))
            .want(super::unanswered("/b").fails_with("goaway").incomplete("malformed")),
        // Another stream's frame in the middle of a block.
        refuse(
            first("h2-block-with-another-frame-inside")
                .request([frame(kind::HEADERS, 0, 3, &request("/b")), super::frames::data(1, b"a")].concat()),
        ),
        // A continuation of nothing.
        refuse(first("h2-continuation-of-nothing").request(frame(kind::CONTINUATION, 4, 3, &request("/b")))),
        // More padding than there is room.
        refuse(first("h2-padded-beyond-its-end").request(frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::PADDED,
            3,
            &[&[250][..], &request("/b")].concat(),
        ))),
    ]
}
