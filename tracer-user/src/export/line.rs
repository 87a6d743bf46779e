//! One line a span, for grep, awk and sort.
//!
//! ```text
//! 2026-03-01T03:12:09.000000Z     1.500ms 200 server shop             GET /cart/42 trace=… span=… parent=… via=…
//! ```
//!
//! Six columns split at spaces: start (UTC, microseconds), duration, status code (`-`: none), kind, service, method.
//! Then the target, then `key=value` words, those that apply, in this order: `trace span parent via pid to error
//! incomplete undecided links`. `via` is the parent's evidence and confidence, `to` where a call went, `links` the
//! spans that may have caused an undecided one, each with its evidence. Nothing in a line
//! contains a space or a character that is not plainly visible: [`Word`] escapes it.

use tracer_core::span::{Span, SpanKind};

use super::escape::Word;
use super::facts::{LinkFacts as _, SpanFacts as _};
use super::human::{Duration, Utc};
use crate::clock::WallClock;

/// Appends the span's line.
pub(super) fn write(span: &Span, clock: WallClock, out: &mut Vec<u8>) {
    let text = line(span, clock);
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

fn line(span: &Span, clock: WallClock) -> String {
    use std::fmt::Write as _;
    let mut line = String::new();
    let kind = match span.kind {
        SpanKind::Server => "server",
        SpanKind::Client => "client",
    };
    let status = span.status_code().map_or("-".to_owned(), |code| code.to_string());
    let service = Word(span.resource.service_name()).to_string();
    // Writing to a String does not fail.
    let _ = write!(
        line,
        "{} {:>9} {status:>3} {kind} {service:<16} {} {} trace={} span={}",
        Utc(clock.unix_nanos(span.start)),
        Duration(span.end.since(span.start)).to_string(),
        Word(span.method()),
        Word(&span.target()),
        span.trace_id,
        span.span_id,
    );
    if let Some(parent) = span.parent {
        let (evidence, confidence) = (parent.evidence.as_str(), parent.confidence.as_str());
        let _ = write!(line, " parent={} via={evidence}:{confidence}", parent.span_id);
    }
    let _ = write!(line, " pid={}", span.process.tgid);
    for (key, value) in [
        ("to", span.authority()),
        ("error", span.error_type()),
        ("incomplete", span.incomplete()),
        ("undecided", span.undecided),
    ] {
        if let Some(value) = value {
            let _ = write!(line, " {key}={}", Word(value));
        }
    }
    for (n, link) in span.links.iter().enumerate() {
        let before = if n == 0 { " links=" } else { "," };
        let _ = write!(line, "{before}{}:{}", link.span_id, Word(link.evidence()));
    }
    line
}

#[cfg(test)]
mod tests {
    use tracer_core::span::Evidence;

    use super::super::testing::{EPOCH, span};
    use super::*;

    #[test]
    fn lines() {
        let clock = WallClock::from_offset_nanos(EPOCH);
        for (span, expected) in [
            (
                span(1, 2).parent(1, Evidence::TcpSequence).path("GET", "/cart/42").at_us(250, 1750),
                "2026-03-01T03:12:09.000250Z    1.50ms 200 server shop             GET /cart/42 \
                 trace=01010101010101010101010101010101 span=0202020202020202 parent=0101010101010101 \
                 via=tcp-sequence:certain pid=100",
            ),
            (
                span(1, 3)
                    .client("http://db:8080/a b?q=\n")
                    .no_response()
                    .error("connection_reset")
                    .service("my shop", 7)
                    .undecided("several open requests")
                    .may_be_below(1, 4, Evidence::Thread)
                    .may_be_below(2, 5, Evidence::HeaderContinuity)
                    .attribute("tracer.incomplete", "events_lost"),
                "2026-03-01T03:12:09.000000Z    1.00ms   - client my\\x20shop       GET /a\\x20b?q=\\n \
                 trace=01010101010101010101010101010101 span=0303030303030303 pid=7 to=db:8080 \
                 error=connection_reset incomplete=events_lost undecided=several\\x20open\\x20requests \
                 links=0404040404040404:thread,0505050505050505:header-continuity",
            ),
        ] {
            let mut out = Vec::new();
            write(&span.build(), clock, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"));
        }
    }
}
