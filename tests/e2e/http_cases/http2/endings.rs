//! How streams end: reset in each state, refused, dropped, cut; each told apart from the others.

use tracer_tests::raw::Step;

use super::frames::{
    PREFACE, answer, answer_all, ask, ask_all, data, data_end, error, go_away, reset, settings,
};
use super::{begun, followed, post, unanswered};
use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    [resets(), departures(), cuts()].concat()
}

fn resets() -> Vec<Case> {
    let asked = |name| begun(name).request(ask_all(1, "/a"));
    let refused = [
        ("no_error", error::NO_ERROR),
        ("protocol_error", 1),
        ("internal_error", error::INTERNAL_ERROR),
        ("flow_control_error", 3),
        ("settings_timeout", 4),
        ("stream_closed", 5),
        ("frame_size_error", 6),
        ("refused_stream", error::REFUSED_STREAM),
        ("cancel", error::CANCEL),
        ("compression_error", 9),
        ("connect_error", 10),
        ("enhance_your_calm", 11),
        ("inadequate_security", 12),
        ("http_1_1_required", error::HTTP_1_1_REQUIRED),
        ("unknown_error_code", 0x99),
    ];
    let mut cases: Vec<Case> = refused
        .into_iter()
        .map(|(word, code)| {
            let case = asked(super::leak(format!("h2-refused-{word}"))).response(reset(1, code));
            followed(case.want(unanswered("/a").fails_with(word)), 3)
        })
        .collect();
    cases.extend([
        // Idle: a stream that was never opened.
        followed(begun("h2-reset-idle").request(reset(5, error::CANCEL)), 7),
        // Open: the request goes on.
        followed(
            begun("h2-reset-open")
                .request([ask(1, "/a"), data(1, b"abc")].concat())
                .request(reset(1, error::CANCEL))
                .want(unanswered("/a").sent_at_most(3).fails_with("cancel")),
            3,
        ),
        followed(
            begun("h2-reset-open-by-the-server")
                .request([ask(1, "/a"), data(1, b"abc")].concat())
                .response(reset(1, error::REFUSED_STREAM))
                .want(unanswered("/a").sent_at_most(3).fails_with("refused_stream")),
            3,
        ),
        // The same operation.
        followed(
            begun("h2-reset-at-once")
                .request([ask(1, "/a"), reset(1, error::CANCEL)].concat())
                .want(unanswered("/a").sent_at_most(0).fails_with("cancel")),
            3,
        ),
        // Half closed: all was asked.
        followed(
            asked("h2-reset-asked")
                .request(reset(1, error::CANCEL))
                .want(unanswered("/a").fails_with("cancel")),
            3,
        ),
        followed(
            asked("h2-reset-in-the-answer")
                .response([answer(1, "200"), data(1, b"half")].concat())
                .request(reset(1, error::CANCEL))
                .want(post("/a", 200).received_at_most(4).fails_with("cancel")),
            3,
        ),
        followed(
            asked("h2-reset-in-the-answer-by-the-server")
                .response([answer(1, "200"), data(1, b"half"), reset(1, error::INTERNAL_ERROR)].concat())
                .want(post("/a", 200).received_at_most(4).fails_with("internal_error")),
            3,
        ),
        // Half closed from the other side: all was answered, so that nothing failed (section 8.1).
        followed(
            begun("h2-reset-answered")
                .request([ask(1, "/a"), data(1, b"abc")].concat())
                .response([answer(1, "200"), data_end(1, b"enough"), reset(1, error::NO_ERROR)].concat())
                .want(post("/a", 200).sent_at_most(3).received(6)),
            3,
        ),
        followed(
            begun("h2-reset-answered-by-the-client")
                .request([ask(1, "/a"), data(1, b"abc")].concat())
                .response(answer_all(1, "200"))
                .request(reset(1, error::CANCEL))
                .want(post("/a", 200).sent_at_most(3)),
            3,
        ),
        // Closed.
        followed(
            asked("h2-reset-closed")
                .response(answer_all(1, "200"))
                .request(reset(1, error::CANCEL))
                .response(reset(1, error::INTERNAL_ERROR))
                .want(post("/a", 200)),
            3,
        ),
        // What was on its way when the stream was given up belongs to nothing.
        followed(
            asked("h2-answer-behind-a-reset")
                .request(reset(1, error::CANCEL))
                .response([answer(1, "200"), data_end(1, b"late")].concat())
                .want(unanswered("/a").fails_with("cancel")),
            3,
        ),
        followed(
            asked("h2-closed-stream-asked-again")
                .response(answer_all(1, "200"))
                .request([data(1, b"more"), ask_all(1, "/again")].concat())
                .want(post("/a", 200)),
            3,
        ),
        // Of three one each: given up, refused, answered.
        followed(
            begun("h2-reset-among-others")
                .request([ask_all(1, "/a"), ask_all(3, "/b"), ask_all(5, "/c")].concat())
                .response(reset(3, error::REFUSED_STREAM))
                .request(reset(1, error::CANCEL))
                .response(answer_all(5, "200"))
                .want(unanswered("/a").fails_with("cancel"))
                .want(unanswered("/b").fails_with("refused_stream"))
                .want(post("/c", 200)),
            7,
        ),
    ]);
    cases
}

fn departures() -> Vec<Case> {
    let two = |name| begun(name).request([ask_all(1, "/a"), ask_all(3, "/b")].concat());
    vec![
        // One is worked on, the other will never be.
        two("h2-goaway")
            .response(go_away(1, error::NO_ERROR, b"bye"))
            .response([answer(1, "200"), data_end(1, b"last")].concat())
            .want(post("/a", 200).received(4))
            .want(unanswered("/b").fails_with("goaway")),
        two("h2-goaway-of-all-that-comes")
            .response(go_away(0x7fff_ffff, error::NO_ERROR, b""))
            .response(answer_all(3, "200"))
            .response(go_away(3, error::NO_ERROR, b""))
            .response(answer_all(1, "200"))
            .want(post("/a", 200))
            .want(post("/b", 200)),
        two("h2-goaway-that-takes-back")
            .response(go_away(3, error::NO_ERROR, b""))
            .response(go_away(0, error::INTERNAL_ERROR, &[b'x'; 300]))
            .want(unanswered("/a").fails_with("goaway"))
            .want(unanswered("/b").fails_with("goaway")),
        // An answer that has begun is not dropped.
        two("h2-goaway-in-an-answer")
            .response([answer(3, "200"), data(3, b"half")].concat())
            .response(go_away(1, error::NO_ERROR, b""))
            .response([data_end(3, b"half"), answer_all(1, "204")].concat())
            .want(post("/a", 204))
            .want(post("/b", 200).received(8)),
        // What is asked behind it.
        begun("h2-goaway-before-the-request")
            .response(go_away(0, error::NO_ERROR, b""))
            .request(ask_all(1, "/a"))
            .client(Step::ReadToEnd)
            .want(unanswered("/a").fails_with("goaway")),
        // The client's own says nothing of what it asked.
        two("h2-goaway-of-the-client")
            .request(go_away(0, error::NO_ERROR, b""))
            .response([answer_all(3, "200"), answer_all(1, "200")].concat())
            .want(post("/a", 200))
            .want(post("/b", 200)),
    ]
}

fn cuts() -> Vec<Case> {
    vec![
        begun("h2-closed-before-the-answer")
            .request(ask_all(1, "/a"))
            .client(Step::ReadToEnd)
            .want(unanswered("/a").fails_with("connection_closed")),
        begun("h2-closed-behind-an-interim-answer")
            .request(ask_all(1, "/a"))
            .response(answer(1, "103"))
            .client(Step::ReadToEnd)
            .want(unanswered("/a").fails_with("connection_closed")),
        begun("h2-closed-in-the-answer")
            .request([ask_all(1, "/a"), ask_all(3, "/b")].concat())
            .response([answer(1, "200"), data(1, b"half"), answer_all(3, "200")].concat())
            .client(Step::ReadToEnd)
            .want(post("/a", 200).received_at_most(4).fails_with("response_truncated"))
            .want(post("/b", 200)),
        begun("h2-closed-in-a-frame")
            .request(ask_all(1, "/a"))
            .response([answer(1, "200"), data_end(1, &[1; 100])[..50].to_vec()].concat())
            .client(Step::ReadToEnd)
            .want(post("/a", 200).received_at_most(41).fails_with("response_truncated")),
        begun("h2-reset-by-tcp")
            .request([ask(1, "/a"), data(1, b"abc")].concat())
            .client(Step::Sleep { ms: 50 })
            .server(Step::Reset)
            .want(unanswered("/a").sent_at_most(3).fails_with("connection_closed")),
        // Before the server has even looked: what had come is read from a socket that is over.
        Case::reset_unread("h2-reset-by-tcp-unread", &[PREFACE, &settings(&[]), &ask_all(1, "/a")].concat())
            .want(unanswered("/a").fails_with("connection_closed")),
        begun("h2-given-up-by-the-client")
            .request(ask_all(1, "/a"))
            .client(Step::Sleep { ms: 50 })
            .server(Step::ReadToEnd)
            .want(unanswered("/a").fails_with("connection_closed")),
    ]
}
