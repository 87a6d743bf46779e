//! What is right, in every form: cuts, padding, frames that say nothing of exchanges, streams side by side.

use tracer_tests::raw::{Put, Step, Take};

use super::frames::{
    PREFACE, answer, answer_all, ask, ask_all, data, data_end, fields, flag, frame, kind, padded, request,
    settings, status, trailers,
};
use super::{begun, followed, leak, post};
use crate::case::Over;
use crate::{Case, Want};

pub(crate) fn cases() -> Vec<Case> {
    [cuts(), frames(), streams()].concat()
}

fn cuts() -> Vec<Case> {
    let asked = [PREFACE, &settings(&[(3, 100)]), &ask(1, "/a"), &data_end(1, b"abc")].concat();
    let answered = [
        settings(&[]),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
        answer(1, "103"),
        answer(1, "200"),
        data(1, b"he"),
        data_end(1, b"llo"),
    ]
    .concat();
    let want = || post("/a", 200).sent(3).received(5);
    let mut cases = Vec::new();
    for cut in 1..asked.len() {
        let name = leak(format!("h2-request-cut-at-{cut}"));
        let case = Case::new(name).request_as(&asked, Put::Pieces(vec![cut])).response(&answered);
        cases.push(followed(case.want(want()), 3));
    }
    for cut in 1..answered.len() {
        let name = leak(format!("h2-response-cut-at-{cut}"));
        let case = Case::new(name).request(&asked).response_as(&answered, Put::Pieces(vec![cut]));
        cases.push(followed(case.want(want()), 3));
    }
    for (name, over, put, take) in [
        ("h2-by-byte", Over::Tcp4, Put::Bytes, Take::Bytes),
        ("h2-by-byte-in-ipv6", Over::Tcp6, Put::Bytes, Take::Read),
        ("h2-writev-of-3", Over::Tcp4, Put::Writev(3), Take::Readv(3)),
        ("h2-writev-of-5", Over::Tcp4, Put::Writev(5), Take::Readv(7)),
        ("h2-sendmsg", Over::Tcp4, Put::Sendmsg(11), Take::Recvmsg(13)),
        ("h2-sendmmsg", Over::Tcp4, Put::Sendmmsg(17), Take::Recvmmsg(19)),
        ("h2-peeked", Over::Tcp4, Put::Send, Take::Peek),
        ("h2-nonblocking", Over::Tcp4, Put::Once, Take::Nonblocking),
    ] {
        let case = Case::new(name).over(over).takes(take).request_as(&asked, put.clone());
        cases.push(followed(case.response_as(&answered, put).want(want()), 3));
    }
    cases
}

fn frames() -> Vec<Case> {
    let ping = frame(kind::PING, 0, 0, &[7; 8]);
    let window = |stream| frame(kind::WINDOW_UPDATE, 0, stream, &[0, 0, 1, 0]);
    let priority = |stream| frame(kind::PRIORITY, 0, stream, &[0, 0, 0, 0, 16]);
    let ends = flag::END_HEADERS | flag::END_STREAM;
    let weighed = [&[0, 0, 0, 0, 16][..], &request("/a")].concat();
    vec![
        followed(
            begun("h2-padded")
                .request(padded(kind::HEADERS, flag::END_HEADERS, 1, &request("/a"), 200))
                .request([padded(kind::DATA, 0, 1, b"abc", 255), padded(kind::DATA, 0, 1, b"", 9)].concat())
                .request(padded(kind::DATA, flag::END_STREAM, 1, b"d", 0))
                .response(padded(kind::HEADERS, flag::END_HEADERS, 1, &status("200"), 1))
                .response(padded(kind::DATA, flag::END_STREAM, 1, &[7; 1000], 100))
                .want(post("/a", 200).sent(4).received(1000)),
            3,
        ),
        followed(
            begun("h2-padded-and-weighed")
                .request(padded(kind::HEADERS, ends | flag::PRIORITY, 1, &weighed, 3))
                .response(answer_all(1, "200"))
                .want(post("/a", 200)),
            3,
        ),
        followed(
            begun("h2-priority-of-streams-in-any-state")
                .request([priority(1), priority(9), ask(1, "/a"), priority(1), data_end(1, b"a")].concat())
                .response([answer_all(1, "200"), priority(1)].concat())
                .request(priority(1))
                .want(post("/a", 200).sent(1)),
            3,
        ),
        followed(
            begun("h2-frames-of-no-exchange")
                .request([ping.clone(), window(0), ask(1, "/a"), window(1), ping.clone()].concat())
                .request([data(1, b"a"), settings(&[(4, 9)]), data_end(1, b"")].concat())
                .response([ping, answer(1, "200"), window(0), data_end(1, b"b"), settings(&[])].concat())
                .want(post("/a", 200).sent(1).received(1)),
            3,
        ),
        followed(
            begun("h2-frames-of-unknown-types")
                .request(
                    [frame(0x10, 0, 0, b"\0\0\0\x01u=1"), ask(1, "/a"), frame(0xfa, 0xff, 1, &[9; 700])]
                        .concat(),
                )
                .request(data_end(1, b"a"))
                .response(
                    [frame(0xa, 0, 0, &[1; 40]), answer(1, "200"), frame(0xfe, 1, 1, &[1; 5000])].concat(),
                )
                .response(data_end(1, b"b"))
                .want(post("/a", 200).sent(1).received(1)),
            3,
        ),
        followed(
            begun("h2-interim-answers")
                .request(ask(1, "/a"))
                .response([answer(1, "100"), answer(1, "103")].concat())
                .request(data_end(1, b"abc"))
                .response([answer(1, "103"), answer_all(1, "201")].concat())
                .want(post("/a", 201).sent(3)),
            3,
        ),
        followed(
            begun("h2-trailers")
                .request([ask(1, "/a"), data(1, b"abc"), trailers(1)].concat())
                .response([answer(1, "200"), data(1, b"defg"), trailers(1)].concat())
                .want(post("/a", 200).sent(3).received(4)),
            3,
        ),
        followed(
            begun("h2-a-stream-that-is-a-tunnel")
                .request(frame(
                    kind::HEADERS,
                    flag::END_HEADERS,
                    1,
                    &fields(&[
                        (":method", "CONNECT"),
                        (":protocol", "websocket"),
                        (":scheme", "http"),
                        (":authority", "case.test"),
                        (":path", "/a"),
                    ]),
                ))
                .response(answer(1, "200"))
                .request(data(1, b"ping"))
                .response(data(1, b"pong"))
                .request(data_end(1, b""))
                .response(data_end(1, b""))
                .want(Want::new("CONNECT", "/a", 200).version("2").sent(4).received(4)),
            3,
        ),
        followed(
            begun("h2-a-promise")
                .request(ask_all(1, "/a"))
                .response(frame(
                    kind::PUSH_PROMISE,
                    flag::END_HEADERS,
                    1,
                    &[&[0, 0, 0, 2][..], &request("/pushed")].concat(),
                ))
                .response(
                    [answer(1, "200"), answer(2, "200"), data_end(2, b"pushed"), data_end(1, b"a")].concat(),
                )
                .want(post("/a", 200).received(1)),
            3,
        ),
        // Of long frames the kernel half captures the start: what is exact is their length.
        followed(
            begun("h2-long-frames")
                .request([ask(1, "/a"), data(1, &[1; 16_384])].concat())
                .request_as(
                    [data(1, &[2; 16_384]), data_end(1, &[3; 300])].concat(),
                    Put::Pieces(vec![5, 7, 9000]),
                )
                .response([answer(1, "200"), data(1, &[4; 16_384])].concat())
                .response_as(
                    [data(1, &[5; 9000]), data_end(1, &[6; 257])].concat(),
                    Put::Pieces(vec![8, 3, 8998]),
                )
                .want(post("/a", 200).sent(2 * 16_384 + 300).received(16_384 + 9000 + 257)),
            3,
        ),
    ]
}

fn streams() -> Vec<Case> {
    let interleaved = begun("h2-interleaved")
        .request([ask(1, "/a"), ask(3, "/b"), ask_all(5, "/c")].concat())
        .request([data(3, b"33"), data(1, b"1"), data(3, b"33"), data_end(1, b"1")].concat())
        .response([answer(5, "200"), answer(3, "404"), data(5, b"5")].concat())
        .request(data_end(3, b"3"))
        .response(
            [data(3, b"3"), answer(1, "500"), data(5, b"55"), data_end(1, b""), data_end(3, b"33")].concat(),
        )
        .response(data_end(5, b"555"))
        .want(post("/a", 500).sent(2))
        .want(post("/b", 404).sent(5).received(3))
        .want(post("/c", 200).received(6));
    let path = |number: u32| format!("/{number:04}");
    let mut many = begun("h2-300-at-a-time");
    many = many.request((0..300).flat_map(|n| ask_all(2 * n + 1, &path(n))).collect::<Vec<u8>>());
    many = many.response((0..300).rev().flat_map(|n| answer_all(2 * n + 1, "204")).collect::<Vec<u8>>());
    many = (0..300).fold(many, |case, n| case.want(post(&path(n), 204)));
    let early = begun("h2-answered-before-all-was-asked")
        .request(ask(1, "/a"))
        .response([answer(1, "413"), data_end(1, b"no")].concat())
        .client(Step::Sleep { ms: 20 })
        .request(data_end(1, b"abc"))
        .want(post("/a", 413).sent_at_most(3).received(2));
    vec![followed(interleaved, 7), followed(many, 601), followed(early, 3)]
}
