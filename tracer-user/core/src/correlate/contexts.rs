//! Span ids that came in with requests: who saw an id first tells a caller's own id from one that passes through.
//!
//! A caller makes an id and sends it; the first request of this host that carries it may be the caller's own. When a
//! request carries an id that another request brought in before, the id names an ancestor.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::exchange::Key;
use crate::span::SpanId;

/// How long an id is remembered after it came in: longer than requests usually take, so that work that continues
/// after the answer is recognised, too.
const MEMORY: Duration = Duration::from_secs(60);

/// Ids remembered at most, for a bound on memory (about 100 bytes each).
const MAX_IDS: usize = 16_384;

/// Requests noted per id: one id comes in more often than this only with fixed test headers.
const MAX_REQUESTS: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Contexts {
    ids: HashMap<SpanId, Vec<Incoming>>,
    order: VecDeque<(KernelInstant, SpanId)>,
    /// When an id last came in that was forgotten before its time.
    forgotten: Option<KernelInstant>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    pub(super) request: Key,
    pub(super) process: ProcessKey,
    pub(super) at: KernelInstant,
    pub(super) ended: Option<KernelInstant>,
}

impl Incoming {
    pub(super) fn is_open_at(&self, at: KernelInstant) -> bool {
        self.ended.is_none_or(|ended| ended >= at)
    }
}

impl Contexts {
    pub(super) fn came_in(&mut self, id: SpanId, request: Key, process: ProcessKey, at: KernelInstant) {
        while let Some((then, old)) = self.order.front().copied() {
            if at.since(then) < MEMORY && self.order.len() < MAX_IDS {
                break;
            }
            if at.since(then) < MEMORY {
                self.forgotten = self.forgotten.max(Some(then));
            }
            self.order.pop_front();
            self.ids.remove(&old);
        }
        let requests = self.ids.entry(id).or_default();
        if requests.is_empty() {
            self.order.push_back((at, id));
        }
        if requests.len() < MAX_REQUESTS {
            requests.push(Incoming { request, process, at, ended: None });
        }
    }

    pub(super) fn ended(&mut self, id: SpanId, request: Key, at: KernelInstant) {
        let noted =
            self.ids.get_mut(&id).and_then(|requests| requests.iter_mut().find(|i| i.request == request));
        if let Some(noted) = noted {
            noted.ended = Some(at);
        }
    }

    /// Every id that came in within the memory's time before `at` is known.
    pub(super) fn is_whole(&self, at: KernelInstant) -> bool {
        self.forgotten.is_none_or(|forgotten| at.since(forgotten) >= MEMORY)
    }

    /// Another exchange has the id, too, at whatever time.
    pub(super) fn is_shared(&self, id: SpanId) -> bool {
        self.ids.get(&id).is_some_and(|requests| requests.len() > 1)
    }

    /// Requests that brought the id in before `at`.
    pub(super) fn before(&self, id: SpanId, at: KernelInstant) -> impl Iterator<Item = &Incoming> {
        self.ids.get(&id).into_iter().flatten().filter(move |incoming| incoming.at < at)
    }
}
