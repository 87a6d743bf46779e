//! What no sender that keeps to the rules would send, but some do: floods of frames, headers that no frame has, and blocks
//! that break off. What was said before is known; of what comes behind it nothing is made up.

use super::frames::{
    answer, answer_all, ask, ask_all, data, data_end, error, fields, flag, frame, go_away, indexed, kind,
    literal, padded, request, reset, settings, status, table_size, trailers,
};
use super::{begun, followed, leak, post, unanswered};
use crate::Case;
use tracer_tests::raw::Put;

pub(crate) fn cases() -> Vec<Case> {
    [floods(), no_frames(), no_blocks(), cuts()].concat()
}

fn floods() -> Vec<Case> {
    let path = |number: u32| format!("/{number:04}");
    // Opened and given up at once, faster than a server can count them (CVE-2023-44487).
    let resets: Vec<u8> = (0..200)
        .flat_map(|n| [ask_all(2 * n + 1, &path(n)), reset(2 * n + 1, error::CANCEL)].concat())
        .collect();
    let rapid = (0..200).fold(begun("h2-rapid-resets").request(resets), |case, n| {
        case.want(unanswered(&path(n)).fails_with("cancel"))
    });
    // The server is made to do it (CVE-2025-8671).
    let asked: Vec<u8> = (0..200).flat_map(|n| ask_all(2 * n + 1, &path(n))).collect();
    let refused: Vec<u8> = (0..200).flat_map(|n| reset(2 * n + 1, error::REFUSED_STREAM)).collect();
    let made = begun("h2-rapid-resets-by-the-server").request(asked).response(refused);
    let made = (0..200).fold(made, |case, n| case.want(unanswered(&path(n)).fails_with("refused_stream")));
    let empty: Vec<u8> = (0..2000).flat_map(|_| data(1, b"")).collect();
    let control: Vec<u8> = (0..300)
        .flat_map(|n: u32| {
            let window = frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
            [settings(&[(1, n * 16), (5, 16_384)]), frame(kind::PING, 0, 0, &[n as u8; 8]), window].concat()
        })
        .collect();
    vec![
        followed(rapid, 401),
        followed(made, 401),
        followed(
            begun("h2-flood-of-empty-data")
                .request([ask(1, "/a"), empty.clone(), data_end(1, b"a")].concat())
                .response([answer(1, "200"), empty, data_end(1, b"bc")].concat())
                .want(post("/a", 200).sent(1).received(2)),
            3,
        ),
        followed(
            begun("h2-flood-of-control")
                .request([ask(1, "/a"), control.clone(), data_end(1, b"a")].concat())
                .response([control.clone(), answer(1, "200"), control, data_end(1, b"bc")].concat())
                .want(post("/a", 200).sent(1).received(2)),
            3,
        ),
    ]
}

/// An exchange, and what the server then gives the connection up for.
fn given_up(name: &'static str, sent: &[u8], code: u32) -> Case {
    begun(name)
        .request(ask_all(1, "/a"))
        .response(answer_all(1, "200"))
        .request(sent)
        .response(go_away(1, code, b"broken"))
        .want(post("/a", 200))
}

fn no_frames() -> Vec<Case> {
    let too_long = frame(kind::DATA, 0, 1, &[1; 16_385]);
    [
        ("h2-frame-too-long", too_long, 6),
        ("h2-data-of-no-stream", data(0, b"abc"), 1),
        ("h2-headers-of-no-stream", frame(kind::HEADERS, flag::END_HEADERS, 0, &request("/b")), 1),
        ("h2-reset-of-no-stream", reset(0, error::CANCEL), 1),
        ("h2-reset-too-short", frame(kind::RST_STREAM, 0, 1, &[0; 3]), 6),
        ("h2-settings-of-a-stream", frame(kind::SETTINGS, 0, 1, &[]), 1),
        ("h2-settings-in-part", frame(kind::SETTINGS, 0, 0, &[0; 5]), 6),
        ("h2-settings-that-agree-and-say-more", frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), 6),
        ("h2-ping-too-short", frame(kind::PING, 0, 0, &[0; 7]), 6),
        ("h2-window-too-short", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), 6),
        ("h2-goaway-too-short", frame(kind::GOAWAY, 0, 0, &[0; 7]), 6),
        ("h2-priority-too-short", frame(kind::PRIORITY, 0, 1, &[0; 4]), 6),
        ("h2-headers-without-their-weight", frame(kind::HEADERS, flag::PRIORITY, 3, &[0; 4]), 6),
        ("h2-text-in-place-of-a-frame", b"GET / HTTP/1.1\r\nHost: case.test\r\n\r\n".to_vec(), 6),
    ]
    .into_iter()
    .map(|(name, sent, code)| given_up(name, &sent, code))
    .collect()
}

/// What stands before the place where a block breaks is known, and that it breaks is said.
fn no_blocks() -> Vec<Case> {
    [
        ("h2-index-zero", indexed(0)),
        ("h2-index-without-bound", [vec![0xff], vec![0xff; 12], vec![0x7f]].concat()),
        ("h2-index-in-part", vec![0xff, 0x80]),
        ("h2-text-longer-than-its-block", vec![0, 1, b'x', 100, b'y']),
        ("h2-name-longer-than-its-block", vec![0, 0x7f, 0xff, 0xff, 0xff, 0x7f]),
        // Of Huffman's code: its end mark, and an end that is not one.
        ("h2-huffman-with-an-end-mark", vec![0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
        ("h2-huffman-with-zeroes-behind-it", vec![0, 1, b'x', 0x81, 0x00]),
        ("h2-table-size-in-a-block", [table_size(0), literal(0, "x", "y")].concat()),
    ]
    .into_iter()
    .map(|(name, broken)| {
        let block = [request("/b"), broken].concat();
        let sent = frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 3, &block);
        given_up(name, &sent, 9).want(unanswered("/b").fails_with("goaway").incomplete("malformed"))
    })
    .collect()
}

/// Every form of a frame, cut at every byte of it.
fn cuts() -> Vec<Case> {
    let continued = |stream: u32, block: &[u8]| {
        let (first, rest) = block.split_at(block.len() / 2);
        let weighed = [&[0, 0, 0, 0, 16][..], first].concat();
        [
            padded(kind::HEADERS, flag::PRIORITY, stream, &weighed, 3),
            frame(kind::CONTINUATION, 0, stream, &[]),
            frame(kind::CONTINUATION, flag::END_HEADERS, stream, rest),
        ]
        .concat()
    };
    let long = literal(0x40, "x-kept", "value");
    let asked = [
        continued(1, &[request("/a"), long.clone()].concat()),
        padded(kind::DATA, 0, 1, b"abc", 5),
        frame(0xfa, 0, 1, &[9; 3]),
        ask(3, "/b"),
        trailers(1),
        reset(3, error::CANCEL),
    ]
    .concat();
    let promise = [&[0, 0, 0, 2][..], &request("/pushed")].concat();
    let answered = [
        settings(&[(1, 0), (1, 4096)]),
        answer(1, "103"),
        frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &promise),
        continued(1, &[status("200"), long].concat()),
        padded(kind::DATA, 0, 1, b"hello", 4),
        go_away(0x7fff_ffff, error::NO_ERROR, b"soon"),
        frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            1,
            &[&fields(&[("y", "z")])[..], &indexed(62)].concat(),
        ),
    ]
    .concat();
    let played = |name: &'static str, [ask, answer]: [Put; 2]| {
        let case = begun(name).request_as(&asked, ask).response_as(&answered, answer);
        let case = case.want(post("/a", 200).sent(3).received(5));
        followed(case.want(unanswered("/b").sent_at_most(0).fails_with("cancel")), 5)
    };
    let mut cases = vec![played("h2-forms-by-byte", [Put::Bytes, Put::Bytes])];
    for cut in 1..asked.len() {
        cases.push(played(leak(format!("h2-forms-asked-cut-at-{cut}")), [Put::Pieces(vec![cut]), Put::Once]));
    }
    for cut in 1..answered.len() {
        cases.push(played(
            leak(format!("h2-forms-answered-cut-at-{cut}")),
            [Put::Once, Put::Pieces(vec![cut])],
        ));
    }
    cases
}
