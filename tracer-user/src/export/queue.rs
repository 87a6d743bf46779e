//! The bounded queue between the task that makes spans and one destination.
//!
//! `push` never waits: it refuses what does not fit, and counts it. It gathers spans into batches, so that the two sides
//! meet once a batch and not once a span: there is one consumer, which is woken when the first span of a batch has
//! come, and when the batch is full. It takes a batch when it is full, when its oldest span has waited for the delay, or
//! at the end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracer_core::span::{Attribute, Link, Span, Value};

use super::config::BatchLimits;

/// Memory that the spans of a queue may hold, in bytes: hostile requests can make single spans large.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Memory of the spans of one batch. Receivers refuse gRPC messages above 4 MiB by default.
const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;

/// Spans that leave together, in the form that their destination wants.
pub(super) trait Batch: Default {
    /// A span, in the form in which it comes.
    type Item<'a>;

    /// Memory that [`Self::add`] would take, in bytes.
    fn weight(&self, span: &Self::Item<'_>) -> usize;
    fn add(&mut self, span: Self::Item<'_>);
    fn spans(&self) -> usize;
    /// Memory that it has taken, in bytes.
    fn bytes(&self) -> usize;
    /// An empty one that will hardly have to grow to become like this one.
    fn next(&self) -> Self;
}

#[derive(Debug)]
pub(super) struct Queue<B> {
    state: Mutex<State<B>>,
    /// There is something for the consumer to look at.
    arrived: Notify,
    /// The consumer took something.
    taken: Notify,
    closing: Notify,
    limits: BatchLimits,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State<B> {
    full: VecDeque<B>,
    /// Takes the next span.
    open: B,
    /// When the first span of the open batch came.
    since: Option<Instant>,
    spans: usize,
    bytes: usize,
    closed: bool,
}

impl<B: Batch> Queue<B> {
    pub(super) fn new(limits: BatchLimits) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            taken: Notify::new(),
            closing: Notify::new(),
            limits,
            refused: AtomicU64::new(0),
        }
    }

    /// Never waits; a span that does not fit is dropped and counted as refused.
    pub(super) fn push(&self, span: B::Item<'_>) {
        let mut state = self.lock();
        let weight = state.open.weight(&span);
        if state.closed || state.spans >= self.limits.max_queue || state.bytes + weight > MAX_BYTES {
            drop(state);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut wake = false;
        if state.open.spans() > 0 && state.open.bytes() + weight > MAX_BATCH_BYTES {
            state.seal();
            wake = true;
        }
        if state.since.is_none() {
            state.since = Some(Instant::now());
            wake = true;
        }
        // Not the weight from above: that was for the batch that was open then.
        let before = state.open.bytes();
        state.open.add(span);
        state.bytes += state.open.bytes() - before;
        state.spans += 1;
        if state.open.spans() >= self.limits.max_batch || state.open.bytes() >= MAX_BATCH_BYTES {
            state.seal();
            wake = true;
        }
        drop(state);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// The next batch; `None` when nothing more will come. Cancel safe.
    pub(super) async fn batch(&self) -> Option<B> {
        loop {
            let wait_until = {
                let mut state = self.lock();
                let due = state.since.map(|since| since + self.limits.schedule_delay);
                if state.full.is_empty() && (state.closed || due.is_some_and(|due| due <= Instant::now())) {
                    state.seal();
                }
                if let Some(batch) = state.full.pop_front() {
                    state.spans -= batch.spans();
                    state.bytes -= batch.bytes();
                    self.taken.notify_waiters();
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
                due
            };
            match wait_until {
                Some(due) => drop(tokio::time::timeout_at(due, self.arrived.notified()).await),
                None => self.arrived.notified().await,
            }
        }
    }

    /// Waits until at least half of the queue is free. For producers that can wait, such as a replay.
    pub(super) async fn room(&self) {
        loop {
            let taken = self.taken.notified();
            {
                let state = self.lock();
                if state.closed || (state.spans * 2 <= self.limits.max_queue && state.bytes * 2 <= MAX_BYTES)
                {
                    return;
                }
            }
            taken.await;
        }
    }

    /// Nothing more will be pushed; the consumer gets what is there.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
        self.taken.notify_waiters();
        self.closing.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for [`Self::close`].
    pub(super) async fn closed(&self) {
        loop {
            let closing = self.closing.notified();
            if self.is_closed() {
                return;
            }
            closing.await;
        }
    }

    /// Closes it and takes everything, however much: for a destination that gives up.
    pub(super) fn abandon(&self) -> u64 {
        let left = {
            let mut state = self.lock();
            let left = state.spans;
            *state = State { closed: true, ..State::default() };
            left as u64
        };
        self.close();
        left
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        // The state is consistent between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Batch> State<B> {
    /// Closes the open batch, unless it is empty.
    fn seal(&mut self) {
        if self.open.spans() > 0 {
            let next = self.open.next();
            let batch = std::mem::replace(&mut self.open, next);
            self.full.push_back(batch);
        }
        self.since = None;
    }
}

impl BatchLimits {
    /// Every span at once, whatever is there: for outputs that people watch.
    pub(super) fn immediate(self) -> Self {
        Self { schedule_delay: Duration::ZERO, ..self }
    }
}

/// Spans as they are, for outputs that are written by one process.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) spans: Vec<Arc<Span>>,
    bytes: usize,
}

impl Batch for Whole {
    type Item<'a> = Arc<Span>;

    fn weight(&self, span: &Arc<Span>) -> usize {
        weight(span)
    }

    fn add(&mut self, span: Arc<Span>) {
        self.bytes += weight(&span);
        self.spans.push(span);
    }

    fn spans(&self) -> usize {
        self.spans.len()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn next(&self) -> Self {
        Self::default()
    }
}

/// Estimate of the memory a span holds alone, in bytes.
fn weight(span: &Span) -> usize {
    let attribute = |(key, value): &Attribute| key.len() + 48 + value_weight(value);
    let link = |link: &Link| size_of::<Link>() + link.attributes.iter().map(attribute).sum::<usize>();
    size_of::<Span>()
        + span.name.len()
        + span.trace_state.as_ref().map_or(0, String::len)
        + span.attributes.iter().map(attribute).sum::<usize>()
        + span.links.iter().map(link).sum::<usize>()
}

fn value_weight(value: &Value) -> usize {
    match value {
        Value::Str(text) => text.len(),
        Value::Int(_) | Value::Bool(_) => 0,
        Value::StrArray(items) => items.iter().map(|item| item.len() + 24).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::span;
    use super::*;

    const LIMITS: BatchLimits = BatchLimits {
        max_queue: 10,
        max_batch: 4,
        schedule_delay: Duration::from_secs(60),
        export_timeout: Duration::ZERO,
    };

    fn queue(limits: BatchLimits, spans: u8) -> Queue<Whole> {
        let queue = Queue::new(limits);
        (1..=spans).for_each(|n| queue.push(Arc::new(span(1, n).build())));
        queue
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_leaves_at_once_and_a_partial_one_after_the_delay() {
        let queue = queue(LIMITS, 5);
        let start = Instant::now();
        assert_eq!(queue.batch().await.unwrap().spans(), 4);
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(queue.batch().await.unwrap().spans(), 1);
        assert!(start.elapsed() >= Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_consumer_is_woken_by_the_first_span_of_a_batch_and_by_its_last() {
        let queue = queue(LIMITS, 0);
        let push = |n| queue.push(Arc::new(span(1, n).build()));
        let start = Instant::now();
        let four = async {
            for n in 1..=4 {
                // Now the consumer waits, without and then with an end.
                tokio::time::sleep(Duration::from_secs(5)).await;
                push(n);
            }
        };
        let (batch, ()) = tokio::join!(queue.batch(), four);
        assert_eq!((batch.unwrap().spans(), start.elapsed().as_secs()), (4, 20));
        let one = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            push(5);
        };
        let (batch, ()) = tokio::join!(queue.batch(), one);
        assert_eq!((batch.unwrap().spans(), start.elapsed().as_secs()), (1, 85));
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted() {
        let queue = queue(LIMITS, 13);
        assert_eq!(queue.refused(), 3);
        queue.close();
        queue.push(Arc::new(span(1, 1).build()));
        assert_eq!(queue.refused(), 4);
        let mut sizes = Vec::new();
        while let Some(batch) = queue.batch().await {
            sizes.push(batch.spans());
        }
        assert_eq!(sizes, [4, 4, 2]);
    }

    #[tokio::test]
    async fn memory_is_bounded_too() {
        let queue = Queue::<Whole>::new(BatchLimits { max_queue: 100_000, max_batch: 100_000, ..LIMITS });
        let mut large = span(1, 1).build();
        large.name = "x".repeat(1024 * 1024).into();
        let large = Arc::new(large);
        (0..20).for_each(|_| queue.push(Arc::clone(&large)));
        assert_eq!(queue.refused(), 5);
        assert_eq!(queue.batch().await.unwrap().spans(), 1, "batches are bounded in bytes");
    }

    #[tokio::test]
    async fn a_producer_can_wait_for_room() {
        let queue = queue(LIMITS, 10);
        tokio::time::timeout(Duration::from_millis(20), queue.room()).await.unwrap_err();
        queue.batch().await;
        tokio::time::timeout(Duration::from_millis(20), queue.room()).await.unwrap_err();
        let (_, batch) = tokio::join!(queue.room(), queue.batch());
        assert_eq!(batch.unwrap().spans(), 4);
    }
}
