//! One block a trace, for people: printed once the trace is complete.
//!
//! That a trace is complete cannot be seen, only that nothing more seems to come: its root is here and it has been
//! quiet for a while, or no root came for long. A span that comes later is printed as a continuation, which says so.
//!
//! | trace | printed | as |
//! |---|---|---|
//! | has its root | [`QUIET`] after its last span | a block |
//! | has no root yet | [`ORPHANED`] after its last span | a block whose top names its absent parent |
//! | one of too many | at once, the one that has waited longest | a block marked as early |
//! | printed before | [`QUIET`] after its last span | a block marked as continued |
//! | any, at the end | at once | a block |
//!
//! Traces of one span, and traces whose root's parent is undecided, come without a heading of their own: those that
//! are ready together stand together, by reason.
//!
//! Time is given from outside: how long the run has lasted, or, in a replay, the latest end of a span, so that the
//! same recording gives the same text. Drawing is in [`render`], the order of the lines in [`layout`].

mod layout;
mod paint;
mod render;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tracer_core::span::{Span, TraceId};

pub(super) use self::paint::Style;
use self::render::Renderer;
use super::config::Pace;
use super::text::Block;
use crate::clock::WallClock;

/// A person waits for it; spans of one trace come in bursts that are far shorter, but for those whose parent is
/// undecided.
const QUIET: Duration = Duration::from_secs(1);
/// The time within which, by default, every parent is decided.
const ORPHANED: Duration = Duration::from_secs(10);
/// In a recording's own time, spans come out as late as they are decided.
const QUIET_IN_REPLAY: Duration = Duration::from_secs(15);
/// Spans of all traces that wait, about 5 MB.
const MAX_SPANS: usize = 4096;
/// Spans of one trace: more than anybody reads in one block.
const MAX_TRACE_SPANS: usize = 1024;
/// Printed traces whose late spans are known to be late.
const MAX_PRINTED: usize = 4096;

/// Traces that wait to be printed.
pub(super) struct Tree {
    pace: Pace,
    renderer: Renderer,
    waiting: HashMap<TraceId, Waiting>,
    /// Who is next. The number keeps equal times apart.
    due: BTreeMap<(Duration, u64), TraceId>,
    spans: usize,
    /// The trace's number in `due`, and in the order of printing.
    next: u64,
    printed: HashSet<TraceId>,
    printed_order: VecDeque<TraceId>,
    /// In a replay: the latest end of a span.
    latest: Duration,
}

struct Waiting {
    spans: Vec<Arc<Span>>,
    rooted: bool,
    due: (Duration, u64),
}

/// A trace to print.
struct Ready {
    trace_id: TraceId,
    spans: Vec<Arc<Span>>,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// Printed before it was quiet: there were too many.
    Early,
    /// Of a trace that was printed before.
    Continued,
}

impl Tree {
    pub(super) fn new(style: Style, clock: WallClock, pace: Pace) -> Self {
        Self {
            pace,
            renderer: Renderer::new(style, clock),
            waiting: HashMap::new(),
            due: BTreeMap::new(),
            spans: 0,
            next: 0,
            printed: HashSet::new(),
            printed_order: VecDeque::new(),
            latest: Duration::ZERO,
        }
    }

    /// Takes a span; prints what had to make room for it, or, in a replay, became due.
    pub(super) fn span(&mut self, span: &Arc<Span>, elapsed: Duration, out: &mut Block) {
        self.latest = self.latest.max(Duration::from_nanos(span.end.as_nanos()));
        let now = self.now(elapsed);
        let number = self.next;
        self.next += 1;
        let waiting = self.waiting.entry(span.trace_id).or_insert_with(|| Waiting {
            spans: Vec::new(),
            rooted: self.printed.contains(&span.trace_id),
            due: (now, number),
        });
        self.due.remove(&waiting.due);
        waiting.rooted |= span.parent.is_none_or(|parent| parent.remote);
        waiting.spans.push(Arc::clone(span));
        let wait = match (self.pace, waiting.rooted) {
            (Pace::Live, true) => QUIET,
            (Pace::Live, false) => ORPHANED,
            (Pace::Replay, _) => QUIET_IN_REPLAY,
        };
        let full = waiting.spans.len() >= MAX_TRACE_SPANS;
        waiting.due = (now + wait, number);
        self.due.insert(waiting.due, span.trace_id);
        self.spans += 1;

        let early = if full {
            Some(span.trace_id)
        } else {
            self.due.values().next().copied().filter(|_| self.spans > MAX_SPANS)
        };
        if let Some(ready) = early.and_then(|trace_id| self.take(trace_id, Part::Early)) {
            self.renderer.traces(vec![ready], out);
        }
        if self.pace == Pace::Replay {
            self.print_due(elapsed, out);
        }
    }

    /// When [`Self::print_due`] is to be called next, as time elapsed since the start. `None`: nothing waits for time.
    pub(super) fn due(&self) -> Option<Duration> {
        match self.pace {
            Pace::Live => self.due.keys().next().map(|(due, _)| *due),
            Pace::Replay => None,
        }
    }

    pub(super) fn print_due(&mut self, elapsed: Duration, out: &mut Block) {
        let now = self.now(elapsed);
        let due: Vec<TraceId> =
            self.due.iter().take_while(|((due, _), _)| *due <= now).map(|(_, trace_id)| *trace_id).collect();
        self.print(due, out);
    }

    /// Prints everything: nothing more will come.
    pub(super) fn finish(&mut self, out: &mut Block) {
        let all = self.due.values().copied().collect();
        self.print(all, out);
    }

    fn print(&mut self, traces: Vec<TraceId>, out: &mut Block) {
        let mut ready: Vec<Ready> =
            traces.into_iter().filter_map(|trace_id| self.take(trace_id, Part::Whole)).collect();
        ready.sort_by_key(|trace| (trace.spans.iter().map(|span| span.start).min(), trace.trace_id));
        self.renderer.traces(ready, out);
    }

    fn take(&mut self, trace_id: TraceId, part: Part) -> Option<Ready> {
        let waiting = self.waiting.remove(&trace_id)?;
        self.due.remove(&waiting.due);
        self.spans -= waiting.spans.len();
        let part = if self.printed.insert(trace_id) {
            self.printed_order.push_back(trace_id);
            part
        } else {
            Part::Continued
        };
        if self.printed_order.len() > MAX_PRINTED
            && let Some(oldest) = self.printed_order.pop_front()
        {
            self.printed.remove(&oldest);
        }
        Some(Ready { trace_id, spans: waiting.spans, part })
    }

    fn now(&self, elapsed: Duration) -> Duration {
        match self.pace {
            Pace::Live => elapsed,
            Pace::Replay => self.latest,
        }
    }
}

#[cfg(test)]
mod tests {
    use tracer_core::span::Evidence;

    use super::super::testing::{EPOCH, span};
    use super::*;

    fn tree(pace: Pace) -> Tree {
        Tree::new(Style::plain(80), WallClock::from_offset_nanos(EPOCH), pace)
    }

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn feed(tree: &mut Tree, span: Span, at: f64) -> u64 {
        let mut out = Block::default();
        tree.span(&Arc::new(span), secs(at), &mut out);
        out.spans
    }

    fn printed(tree: &mut Tree, at: f64) -> (u64, String) {
        let mut out = Block::default();
        tree.print_due(secs(at), &mut out);
        (out.spans, String::from_utf8(out.bytes).unwrap())
    }

    #[test]
    fn a_trace_is_printed_when_it_has_been_quiet() {
        let mut tree = tree(Pace::Live);
        feed(&mut tree, span(1, 2).parent(1, Evidence::Thread).build(), 0.0);
        assert_eq!(tree.due(), Some(ORPHANED), "no root yet");
        feed(&mut tree, span(1, 1).build(), 5.0);
        assert_eq!(tree.due(), Some(secs(6.0)));
        assert_eq!(printed(&mut tree, 5.9).0, 0);
        assert_eq!(printed(&mut tree, 6.0).0, 2);
        assert_eq!(tree.due(), None);
    }

    #[test]
    fn a_late_span_is_a_continuation() {
        let mut tree = tree(Pace::Live);
        feed(&mut tree, span(1, 1).build(), 0.0);
        printed(&mut tree, 1.0);
        feed(&mut tree, span(1, 2).parent(1, Evidence::Thread).build(), 3.0);
        let (spans, text) = printed(&mut tree, 4.0);
        assert_eq!(spans, 1);
        assert!(text.contains("continued") && text.contains("^01010101"), "{text}");
    }

    #[test]
    fn orphans_do_not_wait_forever() {
        let mut tree = tree(Pace::Live);
        feed(&mut tree, span(1, 2).parent(1, Evidence::Thread).build(), 0.0);
        assert_eq!(printed(&mut tree, 9.9).0, 0);
        assert_eq!(printed(&mut tree, 10.0).0, 1);
    }

    #[test]
    fn memory_is_bounded() {
        let mut tree = tree(Pace::Live);
        let mut early = 0;
        for n in 0..3 * MAX_SPANS {
            let mut span = span(1, 1).build();
            span.trace_id = TraceId::new((n as u128 + 1).to_be_bytes()).unwrap();
            early += feed(&mut tree, span, 0.0);
        }
        assert_eq!(early as usize, 2 * MAX_SPANS);
        assert!(tree.spans == MAX_SPANS && tree.waiting.len() == MAX_SPANS && tree.due.len() == MAX_SPANS);
        assert_eq!(tree.printed.len(), MAX_PRINTED);
        assert_eq!(tree.printed_order.len(), MAX_PRINTED);

        let long =
            (0..MAX_TRACE_SPANS).map(|n| feed(&mut tree, span(9, n as u8 | 1).build(), 1.0)).sum::<u64>();
        assert!(long >= MAX_TRACE_SPANS as u64);
    }

    #[test]
    fn in_a_replay_only_the_spans_times_count() {
        let mut tree = tree(Pace::Replay);
        feed(&mut tree, span(1, 1).build(), 100.0);
        assert_eq!((tree.due(), printed(&mut tree, 1000.0).0), (None, 0));
        assert_eq!(feed(&mut tree, span(2, 1).at_us(0, 15_001_000).build(), 100.0), 1);
        let mut out = Block::default();
        tree.finish(&mut out);
        assert_eq!(out.spans, 1);
    }
}
