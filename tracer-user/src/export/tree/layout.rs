//! The order and indentation of a trace's lines.

use std::collections::HashMap;
use std::sync::Arc;

use tracer_core::span::{Span, SpanId};

/// One line of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Which of the spans.
    pub(super) index: usize,
    /// Branches, two columns per level below the top.
    pub(super) branches: String,
    /// It has a parent, but not in this block.
    pub(super) parent_absent: bool,
    pub(super) has_child: bool,
}

/// Children below their parents, brothers by start. Total: every span is on exactly one line, whatever the parents
/// say, cycles and equal ids included.
pub(super) fn lines(spans: &[Arc<Span>]) -> Vec<Line> {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|&index| (spans[index].start, spans[index].span_id));
    let mut by_id: HashMap<SpanId, usize> = HashMap::new();
    for &index in &order {
        by_id.entry(spans[index].span_id).or_insert(index);
    }
    let parent_of = |index: usize| {
        let parent = spans[index].parent?;
        by_id.get(&parent.span_id).copied().filter(|&parent| parent != index)
    };
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); spans.len()];
    let mut tops = Vec::new();
    for &index in &order {
        match parent_of(index) {
            Some(parent) => children[parent].push(index),
            None => tops.push(index),
        }
    }

    let mut lines = Vec::with_capacity(spans.len());
    let mut placed = vec![false; spans.len()];
    // What no top leads to is a cycle: its earliest span stands for the top.
    for top in tops.into_iter().chain(order) {
        // An own stack: a chain of spans may be as long as somebody likes.
        let mut stack = vec![(top, String::new(), String::new())];
        while let Some((index, branches, below)) = stack.pop() {
            if std::mem::replace(&mut placed[index], true) {
                continue;
            }
            let parent_absent = branches.is_empty() && spans[index].parent.is_some();
            let has_child = !children[index].is_empty();
            lines.push(Line { index, branches, parent_absent, has_child });
            for (n, &child) in children[index].iter().enumerate().rev() {
                let last = n + 1 == children[index].len();
                let branch = if last { "└ " } else { "├ " };
                let trunk = if last { "  " } else { "│ " };
                stack.push((child, format!("{below}{branch}"), format!("{below}{trunk}")));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use tracer_core::span::Evidence;

    use super::super::super::testing::{Builder, span};
    use super::*;

    fn shown(spans: Vec<Builder>) -> Vec<String> {
        let spans: Vec<_> = spans.into_iter().map(|span| Arc::new(span.build())).collect();
        let lines = lines(&spans);
        let shown = lines.iter().map(|line| {
            let id = spans[line.index].span_id.to_bytes()[0];
            format!("{}{id}{}", line.branches, if line.parent_absent { "^" } else { "" })
        });
        shown.collect()
    }

    #[test]
    fn children_follow_their_parents_in_order_of_start() {
        let child = |id: u8, parent: u8, at: u64| span(1, id).parent(parent, Evidence::Thread).at_us(at, 100);
        assert_eq!(
            shown(vec![child(5, 2, 30), child(3, 1, 20), child(2, 1, 10), span(1, 1), child(4, 2, 40)]),
            ["1", "├ 2", "│ ├ 5", "│ └ 4", "└ 3"]
        );
    }

    #[test]
    fn every_span_is_shown_once_whatever_its_parent_says() {
        let child = |id: u8, parent: u8| span(1, id).parent(parent, Evidence::Header);
        assert_eq!(shown(vec![child(2, 9)]), ["2^"]);
        assert_eq!(shown(vec![child(1, 2), child(2, 1)]), ["1^", "└ 2"]);
        assert_eq!(shown(vec![child(3, 3)]), ["3^"]);
        assert_eq!(shown(vec![span(1, 1), span(1, 1), child(2, 1)]), ["1", "└ 2", "1"]);
    }

    #[test]
    fn long_chains_do_not_exhaust_the_stack_or_memory() {
        let chain = (0..=254).map(|n| {
            let span = span(1, n + 1);
            if n == 0 { span } else { span.parent(n, Evidence::Thread) }
        });
        let lines = shown(chain.collect());
        assert_eq!(lines.len(), 255);
        assert!(lines[254].ends_with("└ 255"));
    }
}
