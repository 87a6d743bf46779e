//! Every case of HTTP/2's frames: how they are cut, what streams go through, and what no sender that keeps to the rules
//! would send.

mod blocks;
mod endings;
mod forms;
mod frames;
mod rude;

use crate::{Case, Want};
use frames::{PREFACE, settings};

pub(crate) fn cases() -> Vec<Case> {
    [forms::cases(), blocks::cases(), endings::cases(), rude::cases()].concat()
}

/// A connection on which both sides have begun.
fn begun(name: &'static str) -> Case {
    Case::new(name).request([PREFACE, &settings(&[])].concat()).response(settings(&[]))
}

/// Answered with a status alone.
fn post(path: &str, status: u16) -> Want {
    Want::new("POST", path, status).version("2")
}

/// Never answered.
fn unanswered(path: &str) -> Want {
    post(path, 0).no_status().received_unknown()
}

/// Another exchange shows that the place in both directions, and both tables, are still known.
fn followed(case: Case, stream: u32) -> Case {
    case.request(frames::ask_all(stream, "/z"))
        .response(frames::answer_all(stream, "204"))
        .want(post("/z", 204))
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}
