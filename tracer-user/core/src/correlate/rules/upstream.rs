//! nginx: a call's parent is the request for which nginx uses the call's connection.
//!
//! A worker's own memory says so at the moment of the call ([`tracer_abi::nginx`]), whatever has made it call just then: a
//! request that came, a timer (`limit_req`), another one's answer (`auth_request`). A call is bound to a request only when
//!
//! 1. it was open on the client's connection that nginx named, by the thread and in the very operation that sent the call's
//!    first byte: as the stream that nginx named, or as the only request there;
//! 2. its head had been read, and, where it is no stream, its first byte was not read before the answer to the one before it
//!    had ended: nginx may still be about that one, for a `mirror`;
//! 3. its answer had not ended, and nothing is missing of it: see [`named::is_whole`].
//!
//! Where nginx has told nothing, windows may: [`super::response_window`].

use super::{Moment, Tables, Verdict, named};
use crate::correlate::exchange::Exchange;
use crate::span::{Confidence, Evidence};

pub(in crate::correlate) fn judge(tables: &Tables, call: &Exchange, moment: Moment) -> Verdict {
    if !call.called().is_some_and(|called| called.is_upstream) {
        return Verdict::Abstain(None);
    }
    match named::request(tables, call, false, moment) {
        Ok((key, _)) => Verdict::Parent(key, Evidence::RuntimeTask, Confidence::Certain),
        Err(verdict) => verdict,
    }
}
