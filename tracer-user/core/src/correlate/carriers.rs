//! Which open request brought a header's value into its process, and whether it alone did.
//!
//! A value that one request brought, and nobody else ever, is that request's: a call that carries it continues the
//! request. A value is shared when a second request brings it, when a call took it out before, or when it cannot be
//! ruled out that either happened.

use std::collections::HashMap;

use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::candidates;
use super::exchange::Key;
use super::seen::Seen;
use crate::context::RequestContext;
use crate::span::{SpanId, TraceId};

/// Values noted for one request: formats are several, headers of one format are one. Those beyond are shared.
const MAX_PER_REQUEST: usize = 8;

/// Values noted at all, for a bound on memory (about 80 bytes each): far more than requests are open. Those beyond
/// are nobody's.
const MAX_VALUES: usize = 262_144;

/// Different bytes in a trace id that was made by chance: a small number has fewer.
const UNIQUE_BYTES: usize = 4;

/// What a header says that may identify a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    /// A trace, by the half of its id that all formats carry.
    Trace(u64),
    /// A span of a trace.
    Span(u64, SpanId),
    /// A request id, by its hash. Its header may change on the way.
    RequestId(u128),
}

/// Whose a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// One request brought it, and nobody before.
    Fresh,
    /// Another request brought it too, or a call had it before.
    Shared,
    /// It was not met before, as far as is remembered, which is not far enough.
    Unsure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Carrier {
    /// The first that brought it, of those that are held.
    pub(super) request: Key,
    pub(super) standing: Standing,
    /// Nobody had it before that request did.
    first: bool,
}

#[derive(Debug)]
pub(super) struct Carriers {
    seen: Seen,
    held: HashMap<(ProcessKey, Value), Carrier>,
    /// Who brought a held value beside the first, for [`Carriers::all`].
    beside: HashMap<(ProcessKey, Value), Vec<Key>>,
}

/// Others noted for one value, one more than are ever told.
const MAX_BESIDE: usize = candidates::MAX;

/// What of a request's headers may identify it.
pub(super) fn values(context: &RequestContext) -> Vec<Value> {
    let mut values = Vec::new();
    let mut add = |value| {
        if !values.contains(&value) {
            values.push(value);
        }
    };
    for claim in context.claims() {
        let Some(trace) = claim.trace_id.and_then(unique_half) else { continue };
        if let Some(span_id) = claim.span_id {
            add(Value::Span(trace, span_id));
        }
        add(Value::Trace(trace));
    }
    for id in context.request_ids().iter().filter(|id| id.unique) {
        add(Value::RequestId(id.hash));
    }
    values
}

fn unique_half(id: TraceId) -> Option<u64> {
    let [.., a, b, c, d, e, f, g, h] = id.to_bytes();
    let low = [a, b, c, d, e, f, g, h];
    let different = low.iter().enumerate().filter(|(n, byte)| !low[..*n].contains(byte)).count();
    (different >= UNIQUE_BYTES).then(|| u64::from_be_bytes(low))
}

impl Carriers {
    /// `max_seen`: values that are remembered to be met again.
    pub(super) fn new(secret: [u8; 32], max_seen: usize) -> Self {
        Self { seen: Seen::new(secret, max_seen), held: HashMap::new(), beside: HashMap::new() }
    }

    /// A request of the process carries these values.
    pub(super) fn brought_in(
        &mut self,
        process: ProcessKey,
        values: &[Value],
        request: Key,
        at: KernelInstant,
    ) {
        for (n, value) in values.iter().enumerate() {
            let known = self.seen.insert(&(process, value), at);
            let standing = match (known, self.seen.reaches_back(at)) {
                (true, _) => Standing::Shared,
                (false, true) => Standing::Fresh,
                (false, false) => Standing::Unsure,
            };
            if let Some(carrier) = self.held.get_mut(&(process, *value)) {
                carrier.standing = Standing::Shared;
                let beside = self.beside.entry((process, *value)).or_default();
                if beside.len() < MAX_BESIDE {
                    beside.push(request);
                }
            } else if n < MAX_PER_REQUEST && self.held.len() < MAX_VALUES {
                let first = standing == Standing::Fresh;
                self.held.insert((process, *value), Carrier { request, standing, first });
            }
        }
    }

    /// A call of the process carries these values.
    pub(super) fn sent_out(&mut self, process: ProcessKey, values: &[Value], at: KernelInstant) {
        for value in values {
            self.seen.insert(&(process, value), at);
        }
    }

    /// Who brought a value, while that request is held.
    pub(super) fn find(&self, process: ProcessKey, value: Value) -> Option<Carrier> {
        self.held.get(&(process, value)).copied()
    }

    /// All that ever brought a value, while the first of them is held; if they are many, enough of them to be too many.
    pub(super) fn all(&self, process: ProcessKey, value: Value) -> impl Iterator<Item = Key> {
        let first = self.find(process, value).filter(|carrier| carrier.first);
        let beside = first.and_then(|_| self.beside.get(&(process, value)));
        first.map(|carrier| carrier.request).into_iter().chain(beside.into_iter().flatten().copied())
    }

    /// The request is held no longer.
    pub(super) fn forget(&mut self, process: ProcessKey, values: &[Value], request: Key) {
        for value in values {
            if self.held.get(&(process, *value)).is_some_and(|carrier| carrier.request == request) {
                self.held.remove(&(process, *value));
                self.beside.remove(&(process, *value));
            } else if let Some(beside) = self.beside.get_mut(&(process, *value)) {
                beside.retain(|other| *other != request);
                if beside.is_empty() {
                    self.beside.remove(&(process, *value));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_abi::task::Tgid;

    const HERE: ProcessKey = ProcessKey { tgid: Tgid(1), start_boottime: 1 };
    const THERE: ProcessKey = ProcessKey { tgid: Tgid(2), start_boottime: 1 };
    const VALUE: Value = Value::RequestId(7);

    fn at(seconds: u64) -> KernelInstant {
        KernelInstant::from_nanos(seconds * 1_000_000_000)
    }

    fn key(number: u64) -> Key {
        Key { number, slot: 0 }
    }

    fn standing(carriers: &Carriers) -> Option<(u64, Standing)> {
        carriers.find(HERE, VALUE).map(|carrier| (carrier.request.number, carrier.standing))
    }

    #[test]
    fn a_value_is_the_requests_that_alone_brought_it() {
        let mut carriers = Carriers::new([1; 32], 100);
        carriers.brought_in(HERE, &[VALUE], key(1), at(1));
        assert_eq!(standing(&carriers), Some((1, Standing::Fresh)));
        // Another process may have it, too.
        carriers.brought_in(THERE, &[VALUE], key(2), at(1));
        carriers.sent_out(HERE, &[VALUE], at(1));
        assert_eq!(standing(&carriers), Some((1, Standing::Fresh)));
        carriers.brought_in(HERE, &[VALUE], key(3), at(1));
        assert_eq!(standing(&carriers), Some((1, Standing::Shared)));
        carriers.forget(HERE, &[VALUE], key(3));
        assert_eq!(standing(&carriers), Some((1, Standing::Shared)));
        carriers.forget(HERE, &[VALUE], key(1));
        assert_eq!(standing(&carriers), None);
    }

    #[test]
    fn a_value_comes_back_as_shared() {
        let mut carriers = Carriers::new([1; 32], 100);
        carriers.brought_in(HERE, &[VALUE], key(1), at(1));
        carriers.forget(HERE, &[VALUE], key(1));
        carriers.brought_in(HERE, &[VALUE], key(2), at(2));
        assert_eq!(standing(&carriers), Some((2, Standing::Shared)));
    }

    #[test]
    fn a_value_that_left_before_it_came_is_shared() {
        let mut carriers = Carriers::new([1; 32], 100);
        carriers.sent_out(HERE, &[VALUE], at(1));
        carriers.brought_in(HERE, &[VALUE], key(1), at(2));
        assert_eq!(standing(&carriers), Some((1, Standing::Shared)));
    }

    /// Whatever is forgotten: a value that comes twice within a minute is never taken for fresh the second time.
    #[test]
    fn what_was_forgotten_is_never_fresh() {
        for between in 0_u64..2000 {
            let mut carriers = Carriers::new([1; 32], 100);
            carriers.brought_in(HERE, &[VALUE], key(1), at(1));
            carriers.forget(HERE, &[VALUE], key(1));
            for n in 0..between {
                carriers.brought_in(HERE, &[Value::Trace(n)], key(2), at(2));
            }
            carriers.brought_in(HERE, &[VALUE], key(3), at(30));
            assert_ne!(standing(&carriers), Some((3, Standing::Fresh)), "after {between} others");
        }
    }

    #[test]
    fn values_beyond_a_requests_bound_still_make_others_shared() {
        let many: Vec<Value> = (0..20).map(Value::Trace).collect();
        let mut carriers = Carriers::new([1; 32], 100);
        carriers.brought_in(HERE, &many, key(1), at(1));
        assert_eq!(carriers.held.len(), MAX_PER_REQUEST);
        assert_eq!(carriers.find(HERE, Value::Trace(19)), None);
        carriers.brought_in(HERE, &[Value::Trace(19)], key(2), at(1));
        let shared = Carrier { request: key(2), standing: Standing::Shared, first: false };
        assert_eq!(carriers.find(HERE, Value::Trace(19)), Some(shared));
        carriers.forget(HERE, &many, key(1));
        assert_eq!(carriers.held.len(), 1);
    }
}
