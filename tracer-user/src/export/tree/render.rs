//! Traces as text.
//!
//! ```text
//! trace 0af7651916cd43dd8448eb211c80319c  03:12:09.000  4 spans  12.3ms
//!    curl → GET /cart/42                          200 12.3ms ━━━━━━━━━━━━━━━━━━
//! =  └ nginx ← GET /cart/42                       200 12.0ms ╺━━━━━━━━━━━━━━━━━
//! w~   └ nginx → GET /cart/42                     200 11.8ms ╺━━━━━━━━━━━━━━━━╸
//! =      └ shop ← GET /cart/42                    200 11.1ms  ━━━━━━━━━━━━━━━━
//! ```
//!
//! First two columns: how the parent is known, and `~` when that is not certain. Then who, `←` for a request that came
//! in and `→` for one that went out, and what. A call that leads to no span of the block names where it went. Behind
//! it, what is worth a look: `!` why a span is not whole or what failed, `^` the parent that is not in this block, `?^`
//! a span that may be the parent and its trace, `#` the trace where no heading names it. At the right the status, the duration, and when it was in the block's time.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tracer_abi::time::KernelInstant;
use tracer_core::attributes::keys;
use tracer_core::span::{Confidence, Evidence, Span, SpanKind, Status, TraceId, Value};

use super::super::facts::SpanFacts as _;
use super::super::human;
use super::super::text::Block;
use super::layout::{self, Line};
use super::paint::{Ink, Painter, Style, cut, width};
use super::{Part, Ready};
use crate::clock::WallClock;

/// Columns before the tree: the mark, whether it is likely, a space.
const MARGIN: usize = 3;
/// Status and duration with a space before each and one behind.
const NUMBERS: usize = 4 + 7 + 1;
/// Of a service's name.
const MAX_SERVICE: usize = 20;
/// What is left for method and target, however deep the tree is.
const MIN_WHAT: usize = 14;
/// Of it, what is left beside long notes.
const MIN_METHOD: usize = 5;

/// Spans of a trace that may stand together with others: larger ones deserve a heading of their own.
const MAX_GROUPED: usize = 6;

pub(super) struct Renderer {
    style: Style,
    clock: WallClock,
    legend_shown: bool,
}

impl Renderer {
    pub(super) fn new(style: Style, clock: WallClock) -> Self {
        Self { style, clock, legend_shown: false }
    }

    /// Appends the traces, in the given order but for those that stand together.
    pub(super) fn traces(&mut self, traces: Vec<Ready>, out: &mut Block) {
        if traces.is_empty() {
            return;
        }
        if !self.legend_shown {
            self.legend_shown = true;
            self.legend(out);
        }
        let mut groups: Vec<(Group, Vec<Ready>)> = Vec::new();
        for trace in traces {
            out.spans += trace.spans.len() as u64;
            match Group::of(&trace) {
                None => self.block(&trace, out),
                Some(group) => match groups.iter_mut().find(|(other, _)| *other == group) {
                    Some((_, members)) => members.push(trace),
                    None => groups.push((group, vec![trace])),
                },
            }
        }
        for (group, members) in groups {
            self.group(&group, &members, out);
        }
    }

    fn legend(&self, out: &mut Block) {
        let mut line = Painter::new(self.style);
        line.put(
            "parent by: = tcp  u unix  t thread  r runtime  w window  f fork  h header  i ids",
            Ink::Dim,
        );
        end(line, out);
        let mut line = Painter::new(self.style);
        line.put("           o hand-off  ? undecided  ~ likely  ^ not in this block  ← in  → out", Ink::Dim);
        end(line, out);
    }

    fn block(&self, trace: &Ready, out: &mut Block) {
        let scale = Scale::of(&trace.spans);
        let mut line = Painter::new(self.style);
        line.put("trace ", Ink::Dim).put(&trace.trace_id.to_string(), Ink::Bold);
        line.put(&format!("  {}", human::UtcTime(self.clock.unix_nanos(scale.start))), Ink::Dim);
        let plural = if trace.spans.len() == 1 { "" } else { "s" };
        let count = format!(
            "  {}{} span{plural}",
            if trace.part == Part::Continued { "+" } else { "" },
            trace.spans.len()
        );
        line.put(&count, Ink::Plain).put(&format!("  {}", human::Duration(scale.len())), Ink::Bold);
        self.part(trace.part, &mut line);
        let undecided = trace.spans.iter().find(|span| span.parent.is_none()).and_then(|root| root.undecided);
        out.bytes.push(b'\n');
        end(line, out);
        if let Some(reason) = undecided {
            let mut line = Painter::new(self.style);
            line.put("parent undecided: ", Ink::Dim).put(&reason.replace('_', " "), Ink::Warn);
            end(line, out);
        }
        self.rows(trace, scale, false, out);
    }

    fn group(&self, group: &Group, members: &[Ready], out: &mut Block) {
        let mut line = Painter::new(self.style);
        match group {
            Group::Single => {
                line.put("single spans", Ink::Bold);
            }
            Group::Undecided { service, reason } => {
                line.put("parent undecided: ", Ink::Bold).put(&reason.replace('_', " "), Ink::Plain);
                line.put(&format!("  ({service})"), service_ink(service));
            }
        }
        let start = members.iter().flat_map(|trace| &trace.spans).map(|span| span.start).min();
        if let Some(start) = start {
            line.put(&format!("  {}", human::UtcTime(self.clock.unix_nanos(start))), Ink::Dim);
        }
        if members.len() > 1 {
            line.put(&format!("  {} traces", members.len()), Ink::Plain);
        }
        out.bytes.push(b'\n');
        end(line, out);
        for trace in members {
            self.rows(trace, Scale::of(&trace.spans), true, out);
        }
    }

    fn part(&self, part: Part, line: &mut Painter) {
        match part {
            Part::Whole => {}
            Part::Early => {
                line.put("  so far", Ink::Warn);
            }
            Part::Continued => {
                line.put("  continued", Ink::Warn);
            }
        }
    }

    fn rows(&self, trace: &Ready, scale: Scale, name_trace: bool, out: &mut Block) {
        for (n, row) in layout::lines(&trace.spans).iter().enumerate() {
            let heading = (name_trace && n == 0).then_some(trace);
            self.row(&trace.spans[row.index], row, scale, heading, out);
        }
    }

    fn row(&self, span: &Span, row: &Line, scale: Scale, heading: Option<&Ready>, out: &mut Block) {
        let mut line = Painter::new(self.style);
        let (mark, likely, ink) = mark(span);
        line.put(mark, ink).put(if likely { "~" } else { "" }, Ink::Warn).to(MARGIN);

        let bar_columns = self.style.width / 4 - 2;
        let numbers_at = self.style.width - bar_columns - NUMBERS;
        let service = cut(span.resource.service_name(), MAX_SERVICE);
        let notes = notes(span, row, heading);
        // Everything but the branches and the target; the notes are cut last.
        let fixed = MARGIN + width(&service) + 3;
        let room = numbers_at.saturating_sub(fixed + MIN_WHAT);
        let branches = shorten(&row.branches, room);
        let room = room.saturating_sub(width(&branches));
        let notes_width =
            notes.iter().map(|(text, _)| width(text) + 1).sum::<usize>().min(room + MIN_WHAT - MIN_METHOD);

        let kind = match span.kind {
            SpanKind::Server => " ← ",
            SpanKind::Client => " → ",
        };
        line.put(&branches, Ink::Dim).put(&service, service_ink(&service)).put(kind, Ink::Dim);
        let room = numbers_at.saturating_sub(line.columns() + notes_width);
        line.put(&cut(&what(span, row), room), Ink::Plain);
        for (text, ink) in notes {
            let room = numbers_at.saturating_sub(line.columns() + 1);
            if room > 1 {
                line.put(" ", Ink::Plain).put(&cut(&text, room), ink);
            }
        }

        let (status, ink) = status(span);
        line.to(numbers_at + 4 - width(&status)).put(&status, ink);
        let duration = human::Duration(span.end.since(span.start)).to_string();
        line.to(numbers_at + 4 + 7 - width(&duration)).put(&duration, Ink::Bold);
        line.to(numbers_at + NUMBERS);
        let ink = if is_bad(span) { Ink::Bad } else { service_ink(&service) };
        line.put(scale.bar(span, bar_columns).trim_end(), ink);
        end(line, out);
    }
}

/// Traces that stand together under one heading.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Group {
    Single,
    Undecided { service: String, reason: &'static str },
}

impl Group {
    fn of(trace: &Ready) -> Option<Self> {
        if trace.part != Part::Whole || trace.spans.len() > MAX_GROUPED {
            return None;
        }
        let root = trace.spans.iter().find(|span| span.parent.is_none());
        match root.map(|root| (root, root.undecided)) {
            Some((root, Some(reason))) => {
                Some(Self::Undecided { service: root.resource.service_name().to_owned(), reason })
            }
            Some((_, None)) if trace.spans.len() == 1 => Some(Self::Single),
            Some((_, None)) | None => None,
        }
    }
}

/// The time that a block's bars show.
#[derive(Clone, Copy, Debug)]
struct Scale {
    start: KernelInstant,
    end: KernelInstant,
}

impl Scale {
    fn of(spans: &[Arc<Span>]) -> Self {
        let start = spans.iter().map(|span| span.start).min().unwrap_or(KernelInstant::ZERO);
        let end = spans.iter().map(|span| span.end).max().unwrap_or(start);
        Self { start, end }
    }

    fn len(self) -> Duration {
        self.end.since(self.start)
    }

    /// A line from start to end in steps of half a column, at least one step long.
    fn bar(self, span: &Span, columns: usize) -> String {
        let steps = columns as u128 * 2;
        let step = |at: KernelInstant, round_up: u128| {
            let total = self.len().as_nanos().max(1);
            (at.since(self.start).as_nanos() * steps + round_up * (total - 1)) / total
        };
        let from = step(span.start, 0).min(steps.saturating_sub(1));
        let to = step(span.end, 1).clamp(from + 1, steps);
        let bar = (0..columns as u128).map(|column| {
            let filled = |half: u128| (from..to).contains(&(column * 2 + half));
            match (filled(0), filled(1)) {
                (true, true) => '━',
                (true, false) => '╸',
                (false, true) => '╺',
                (false, false) => ' ',
            }
        });
        bar.collect()
    }
}

/// How the parent is known.
fn mark(span: &Span) -> (&'static str, bool, Ink) {
    match (span.parent, span.undecided) {
        (Some(parent), _) => {
            let mark = match parent.evidence {
                Evidence::Header => "h",
                Evidence::TcpSequence => "=",
                Evidence::UnixPeer => "u",
                Evidence::Thread => "t",
                Evidence::RuntimeTask => "r",
                Evidence::ResponseWindow => "w",
                Evidence::ProcessFork => "f",
                Evidence::HeaderContinuity => "i",
                Evidence::ThreadHandOff => "o",
            };
            (mark, parent.confidence != Confidence::Certain, Ink::Good)
        }
        (None, Some(_)) => ("?", false, Ink::Warn),
        (None, None) => ("", false, Ink::Plain),
    }
}

/// Method and target. A call whose other end is not in the block is told apart by where it went.
fn what(span: &Span, row: &Line) -> String {
    let to = match span.kind {
        SpanKind::Client if !row.has_child => span.authority().unwrap_or(""),
        SpanKind::Client | SpanKind::Server => "",
    };
    format!("{} {to}{}", span.method(), span.target())
}

fn notes(span: &Span, row: &Line, heading: Option<&Ready>) -> Vec<(String, Ink)> {
    let mut notes = Vec::new();
    let code = span.status_code().map(|code| code.to_string());
    // The status says it already.
    if let Some(error) = span.error_type().filter(|error| Some(*error) != code.as_deref()) {
        notes.push((format!("!{error}"), Ink::Bad));
    }
    if let Some(reason) = span.incomplete() {
        notes.push((format!("!{reason}"), Ink::Warn));
    }
    if span.attributes.iter().any(|(key, value)| *key == keys::START_LATE && *value == Value::Bool(true)) {
        notes.push(("began earlier".to_owned(), Ink::Dim));
    }
    if !span.sampled {
        notes.push(("unsampled".to_owned(), Ink::Dim));
    }
    if let Some(parent) = span.parent.filter(|_| row.parent_absent) {
        notes.push((format!("^{}", &parent.span_id.to_string()[..8]), Ink::Dim));
    }
    for link in &span.links {
        let trace = short(link.trace_id);
        notes.push((format!("?^{}{trace}", &link.span_id.to_string()[..8]), Ink::Dim));
    }
    if let Some(trace) = heading {
        notes.push((short(trace.trace_id), Ink::Dim));
    }
    notes
}

fn short(trace_id: TraceId) -> String {
    format!("#{}", &trace_id.to_string()[..8])
}

fn status(span: &Span) -> (String, Ink) {
    match span.status_code() {
        Some(code) if is_bad(span) || code >= 500 => (code.to_string(), Ink::Bad),
        Some(code) if code >= 400 => (code.to_string(), Ink::Warn),
        Some(code) => (code.to_string(), Ink::Good),
        None => ("–".to_owned(), if is_bad(span) { Ink::Bad } else { Ink::Dim }),
    }
}

fn is_bad(span: &Span) -> bool {
    matches!(span.status, Status::Error { .. })
}

fn service_ink(service: &str) -> Ink {
    let mut hasher = DefaultHasher::new();
    service.hash(&mut hasher);
    Ink::Service((hasher.finish() % 8) as u8)
}

/// The branches next to the span where not all fit.
fn shorten(branches: &str, room: usize) -> String {
    let columns = branches.chars().count();
    if columns <= room {
        return branches.to_owned();
    }
    let kept = room.saturating_sub(2);
    let kept: String = branches.chars().skip(columns - kept).collect();
    format!("⋯ {kept}")
}

fn end(line: Painter, out: &mut Block) {
    out.bytes.extend_from_slice(line.finish().as_bytes());
    out.bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{Builder, EPOCH, span};
    use super::*;

    fn ready(spans: Vec<Builder>, part: Part) -> Ready {
        let spans: Vec<_> = spans.into_iter().map(|span| Arc::new(span.build())).collect();
        Ready { trace_id: spans[0].trace_id, spans, part }
    }

    fn render(style: Style, traces: Vec<Ready>) -> String {
        let mut renderer = Renderer::new(style, WallClock::from_offset_nanos(EPOCH));
        renderer.legend_shown = true;
        let mut out = Block::default();
        renderer.traces(traces, &mut out);
        String::from_utf8(out.bytes).unwrap()
    }

    #[track_caller]
    fn check(traces: Vec<Ready>, expected: &[&str]) {
        let text = render(Style::plain(80), traces);
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "\n{text}");
        assert!(text.lines().all(|line| width(line) <= 80), "{text}");
    }

    fn cart() -> Vec<Builder> {
        use Evidence::{TcpSequence, Thread};
        vec![
            span(7, 1).client("http://localhost:8080/cart/42").service("curl", 10).at_us(0, 12_300),
            span(7, 2).path("GET", "/cart/42").service("nginx", 11).parent(1, TcpSequence).at_us(400, 12_200),
            span(7, 3)
                .client("http://shop:8000/cart/42")
                .service("nginx", 11)
                .parent(2, Thread)
                .at_us(500, 12_100),
            span(7, 4).path("GET", "/cart/42").service("shop", 12).parent(3, TcpSequence).at_us(900, 11_900),
            span(7, 5)
                .client("http://stock:9000/stock?item=42")
                .service("shop", 12)
                .parent(4, Thread)
                .at_us(1_000, 5_000)
                .status(404),
            span(7, 6)
                .client("http://10.0.0.7/price")
                .service("shop", 12)
                .parent(4, Thread)
                .at_us(6_000, 11_800),
        ]
    }

    #[test]
    fn a_trace_is_a_tree() {
        check(
            vec![ready(cart(), Part::Whole)],
            &[
                "",
                "trace 07070707070707070707070707070707  03:12:09.000  6 spans  12.3ms",
                "   curl → GET /cart/42                             200 12.3ms ━━━━━━━━━━━━━━━━━━",
                "=  └ nginx ← GET /cart/42                          200 11.8ms ╺━━━━━━━━━━━━━━━━━",
                "t    └ nginx → GET /cart/42                        200 11.6ms ╺━━━━━━━━━━━━━━━━━",
                "=      └ shop ← GET /cart/42                       200 11.0ms  ━━━━━━━━━━━━━━━━╸",
                "t        ├ shop → GET stock:9000/stock?item=42     404 4.00ms  ━━━━━━╸",
                "t        └ shop → GET 10.0.0.7/price               200 5.80ms         ╺━━━━━━━━╸",
            ],
        );
    }

    #[test]
    fn what_is_wrong_with_a_span_is_said_beside_it() {
        let long = "/a/very/long/path/that/does/not/fit/into/the/line/and/is/cut?so=its&end=is&not=shown";
        let mut likely = span(1, 3).client("http://db:1/").parent(2, Evidence::ResponseWindow).build();
        likely.parent.as_mut().unwrap().confidence = Confidence::Likely;
        likely.sampled = false;
        let mut whole = ready(
            vec![
                span(1, 2).remote_parent(9).path("GET", long).status(503).error("503"),
                span(1, 4)
                    .client("http://db:8080/q\x1b[2J")
                    .parent(2, Evidence::UnixPeer)
                    .no_response()
                    .error("connection_reset")
                    .attribute("tracer.incomplete", "events_lost")
                    .at_us(500, 1_000),
            ],
            Part::Early,
        );
        whole.spans.push(Arc::new(likely));
        check(
            vec![whole],
            &[
                "",
                "trace 01010101010101010101010101010101  03:12:09.000  3 spans  1.00ms  so far",
                "h  shop ← GET /a/very/long/path/that/do… ^09090909 503 1.00ms ━━━━━━━━━━━━━━━━━━",
                "w~ ├ shop → GET db:1/ unsampled                    200 1.00ms ━━━━━━━━━━━━━━━━━━",
                "u  └ shop → GET db… !connection_reset !events_lost   –  500µs          ━━━━━━━━━",
            ],
        );
        check(
            vec![ready(vec![span(1, 5).parent(2, Evidence::Thread)], Part::Continued)],
            &[
                "",
                "trace 01010101010101010101010101010101  03:12:09.000  +1 span  1.00ms  continued",
                "t  shop ← GET / ^02020202                          200 1.00ms ━━━━━━━━━━━━━━━━━━",
            ],
        );
    }

    #[test]
    fn undecided_and_single_ones_stand_together() {
        let call = |trace: u8, path: &str| {
            let stock = span(trace, 2).path("GET", path).service("stock", 2).parent(1, Evidence::TcpSequence);
            let url = format!("http://stock:80{path}");
            let root = span(trace, 1).client(&url).service("node app", 1).undecided("several_open_requests");
            let root = root.may_be_below(0xa1, 1, Evidence::Thread);
            ready(vec![root, stock.at_us(250, 750)], Part::Whole)
        };
        check(
            vec![
                ready(vec![span(0xa1, 1)], Part::Whole),
                call(0xb1, "/a"),
                ready(vec![span(0xa2, 1).at_us(5_000_000, 5_000_001)], Part::Whole),
                call(0xb2, "/b"),
            ],
            &[
                "",
                "single spans  03:12:09.000  2 traces",
                "   shop ← GET / #a1a1a1a1                          200 1.00ms ━━━━━━━━━━━━━━━━━━",
                "   shop ← GET / #a2a2a2a2                          200 1.00µs ━━━━━━━━━━━━━━━━━━",
                "",
                "parent undecided: several open requests  (node app)  03:12:09.000  2 traces",
                "?  node app → GET /a ?^01010101#a1a1a1a1 #b1b1b1b1 200 1.00ms ━━━━━━━━━━━━━━━━━━",
                "=  └ stock ← GET /a                                200  500µs     ╺━━━━━━━━╸",
                "?  node app → GET /b ?^01010101#a1a1a1a1 #b2b2b2b2 200 1.00ms ━━━━━━━━━━━━━━━━━━",
                "=  └ stock ← GET /b                                200  500µs     ╺━━━━━━━━╸",
            ],
        );
    }

    #[test]
    fn a_large_undecided_trace_has_a_heading_of_its_own() {
        let mut trace = ready(cart(), Part::Whole);
        let late =
            span(7, 8).parent(4, Evidence::Thread).path("GET", "/late").at_us(0, 12_300).service("shop", 12);
        let mut late = late.attribute(keys::START_LATE, Value::Bool(true)).build();
        late.attributes.push(("url.query", Value::from("id=REDACTED")));
        trace.spans.push(Arc::new(late));
        Arc::make_mut(&mut trace.spans[0]).undecided = Some("event_loop");
        let text = render(Style::plain(80), vec![trace]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2], "parent undecided: event loop");
        assert_eq!(
            lines[3],
            "?  curl → GET /cart/42                             200 12.3ms ━━━━━━━━━━━━━━━━━━"
        );
        assert_eq!(
            lines[7],
            "t        ├ shop ← GET /late?id=REDA… began earlier 200 12.3ms ━━━━━━━━━━━━━━━━━━"
        );
    }

    #[test]
    fn deep_trees_and_wide_names_stay_inside_the_line() {
        let deep = (1..=40).map(|n| {
            let span = span(1, n).path("PROPFIND", "/注文/42").service("注文サービス-注文サービス", 1);
            if n == 1 { span } else { span.parent(n - 1, Evidence::Thread) }
        });
        let traces = vec![ready(deep.collect(), Part::Whole)];
        for columns in [72, 80, 160] {
            let text = render(Style::plain(columns), vec![ready(cart(), Part::Whole)]);
            assert!(text.lines().all(|line| width(line) <= columns), "{text}");
        }
        let text = render(Style::plain(80), traces);
        assert!(text.lines().all(|line| width(line) <= 80), "{text}");
        assert!(
            text.lines().last().is_some_and(|line| line.contains("⋯") && line.contains("PROPFIND")),
            "{text}"
        );
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let plain = render(Style::plain(80), vec![ready(cart(), Part::Whole)]);
        let coloured = render(Style::coloured(80), vec![ready(cart(), Part::Whole)]);
        let mut stripped = String::new();
        let mut rest = coloured.as_str();
        while let Some(at) = rest.find('\x1b') {
            stripped.push_str(&rest[..at]);
            rest = &rest[at + rest[at..].find('m').unwrap() + 1..];
        }
        stripped.push_str(rest);
        assert_eq!(stripped, plain);
        assert_ne!(coloured, plain);
    }

    #[test]
    fn the_legend_comes_once_and_fits() {
        let mut renderer = Renderer::new(Style::plain(80), WallClock::from_offset_nanos(0));
        let mut out = Block::default();
        renderer.traces(vec![ready(vec![span(1, 1)], Part::Whole)], &mut out);
        renderer.traces(vec![ready(vec![span(2, 1)], Part::Whole)], &mut out);
        let text = String::from_utf8(out.bytes).unwrap();
        assert_eq!(text.matches("? undecided").count(), 1);
        assert!(text.lines().all(|line| width(line) <= 80), "{text}");
    }
}
