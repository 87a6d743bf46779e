//! Fragments: exchanges joined by decided edges, sharing a trace id.
//!
//! At the top of a fragment is an exchange whose own question is open. While it is, the trace id is open too, unless
//! a span already left with it. When the question is settled with a parent, the fragment becomes part of the
//! parent's; when it is settled without, the fragment is whole and its spans may leave.
//!
//! | top's question | trace id | merges into an upper fragment |
//! |---|---|---|
//! | open | none | yes, takes the upper's id |
//! | open | fixed: a span left at its deadline, or a header gave it | only if the upper's is open (it takes this one) or equal |
//! | settled | fixed at the first span | never |
//!
//! Calls below it may *claim* a trace for it that their program has started ([`super::starts`]): it is taken when the
//! trace is fixed and nothing else has given one, if all claims agree. While calls may still do so, it is held.

use std::collections::BTreeSet;

use tracer_abi::time::KernelInstant;

use crate::span::TraceId;

use super::exchange::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentId(u32);

/// What all spans of a trace share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(super) id: TraceId,
    pub(super) sampled: bool,
    pub(super) state: Option<String>,
}

/// What calls below say that the trace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    /// `None`: they disagree.
    trace: Option<TraceId>,
    /// When the first of them was sent, and whether it started the trace.
    since: KernelInstant,
    started: bool,
}

/// In order of their keys. Mostly there are none, which costs nothing.
pub(super) type Waiting = Option<BTreeSet<Key>>;

#[derive(Debug, Default)]
struct Fragment {
    upper: Option<FragmentId>,
    trace: Option<Trace>,
    /// The exchange whose question is open.
    top: Option<Key>,
    /// The top has no parent in another fragment, for good.
    whole: bool,
    /// Calls of which it is not known yet whether they claim a trace.
    holds: u32,
    claim: Option<Claim>,
    /// Ended exchanges with settled questions that wait for the trace id.
    waiting: Waiting,
    /// Exchanges that name it, and fragments below it.
    users: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Fragments {
    slots: Vec<Fragment>,
    free: Vec<FragmentId>,
}

impl Fragment {
    /// Who leaves, if nothing is awaited any more.
    fn take_waiting(&mut self) -> Waiting {
        if self.whole && self.holds == 0 { self.waiting.take() } else { None }
    }

    fn claim(&mut self, claim: Claim) {
        self.claim = Some(match self.claim {
            None => claim,
            Some(known) => {
                let first = if claim.since < known.since { claim } else { known };
                Claim { trace: known.trace.filter(|_| known.trace == claim.trace), ..first }
            }
        });
    }
}

impl Fragments {
    /// A fragment for one new exchange.
    pub(super) fn begin(&mut self, key: Key) -> FragmentId {
        let fresh = Fragment { users: 1, top: Some(key), ..Fragment::default() };
        match self.free.pop() {
            Some(id) => {
                *self.slot_mut(id) = fresh;
                id
            }
            None => {
                self.slots.push(fresh);
                FragmentId(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
            }
        }
    }

    /// The exchange that named it has left.
    pub(super) fn release(&mut self, id: FragmentId) {
        let mut next = Some(id);
        while let Some(id) = next {
            let fragment = self.slot_mut(id);
            fragment.users = fragment.users.saturating_sub(1);
            if fragment.users > 0 {
                return;
            }
            next = fragment.upper.take();
            fragment.trace = None;
            self.free.push(id);
        }
    }

    /// The fragment that this one has become part of.
    pub(super) fn top(&self, id: FragmentId) -> FragmentId {
        let mut id = id;
        while let Some(upper) = self.slot(id).upper {
            id = upper;
        }
        id
    }

    /// The exchange at the top, while its question is open.
    pub(super) fn open_top(&self, id: FragmentId) -> Option<Key> {
        self.slot(self.top(id)).top
    }

    #[cfg(test)]
    pub(super) fn trace(&self, id: FragmentId) -> Option<&Trace> {
        self.slot(self.top(id)).trace.as_ref()
    }

    /// Gives the trace unless there is one; returns what holds.
    pub(super) fn fix_trace(&mut self, id: FragmentId, trace: impl FnOnce() -> Trace) -> Trace {
        let top = self.top(id);
        self.slot_mut(top).trace.get_or_insert_with(trace).clone()
    }

    pub(super) fn has_trace(&self, id: FragmentId) -> bool {
        self.slot(self.top(id)).trace.is_some()
    }

    /// The trace as it is, as it is claimed, or as it is made now; for good.
    pub(super) fn trace_for(&mut self, id: FragmentId, fresh: impl FnOnce() -> TraceId) -> Trace {
        let top = self.top(id);
        let fragment = self.slot_mut(top);
        let claimed = fragment.claim.filter(|claim| claim.started).and_then(|claim| claim.trace);
        let begun = || Trace { id: claimed.unwrap_or_else(fresh), sampled: true, state: None };
        fragment.trace.get_or_insert_with(begun).clone()
    }

    /// Nothing is awaited any more of what could give it a trace or a parent.
    pub(super) fn is_whole(&self, id: FragmentId) -> bool {
        let fragment = self.slot(self.top(id));
        fragment.whole && fragment.holds == 0
    }

    /// The top has no parent: everything in it may leave, unless it is held. Returns who leaves.
    pub(super) fn close(&mut self, id: FragmentId) -> Waiting {
        let top = self.top(id);
        let fragment = self.slot_mut(top);
        fragment.whole = true;
        fragment.top = None;
        fragment.take_waiting()
    }

    /// A call may turn out to give it its trace.
    pub(super) fn hold(&mut self, id: FragmentId) {
        // The call names it as its exchanges do.
        self.slot_mut(id).users += 1;
        let top = self.top(id);
        self.slot_mut(top).holds += 1;
    }

    /// The call did, or will not. Returns who leaves.
    pub(super) fn let_go(&mut self, id: FragmentId) -> Waiting {
        let top = self.top(id);
        let fragment = self.slot_mut(top);
        fragment.holds = fragment.holds.saturating_sub(1);
        let leaving = fragment.take_waiting();
        self.release(id);
        leaving
    }

    /// A call says what the trace is, which it `started` or not.
    pub(super) fn claim(&mut self, id: FragmentId, trace: TraceId, started: bool, since: KernelInstant) {
        let top = self.top(id);
        self.slot_mut(top).claim(Claim { trace: Some(trace), since, started });
    }

    pub(super) fn wait(&mut self, id: FragmentId, key: Key) {
        let top = self.top(id);
        self.slot_mut(top).waiting.get_or_insert_default().insert(key);
    }

    /// It leaves on its own.
    pub(super) fn unwait(&mut self, id: FragmentId, key: Key) {
        let top = self.top(id);
        if let Some(waiting) = &mut self.slot_mut(top).waiting {
            waiting.remove(&key);
        }
    }

    /// Whether [`Fragments::merge`] would succeed.
    pub(super) fn can_merge(&self, lower: FragmentId, upper: FragmentId) -> bool {
        let (lower, upper) = (self.top(lower), self.top(upper));
        if lower == upper || self.slot(lower).whole {
            return false;
        }
        match (&self.slot(lower).trace, &self.slot(upper).trace) {
            (Some(lower), Some(upper)) => lower.id == upper.id && lower.sampled == upper.sampled,
            (None, _) | (_, None) => true,
        }
    }

    /// Puts `lower` below `upper`. Returns who may leave now. Call only what [`Fragments::can_merge`].
    pub(super) fn merge(&mut self, lower: FragmentId, upper: FragmentId) -> Waiting {
        let (lower, upper) = (self.top(lower), self.top(upper));
        let fragment = self.slot_mut(lower);
        let trace = fragment.trace.take();
        let (claim, holds) = (fragment.claim.take(), std::mem::take(&mut fragment.holds));
        let waiting = fragment.waiting.take();
        fragment.upper = Some(upper);
        let above = self.slot_mut(upper);
        above.users += 1;
        above.holds += holds;
        if above.trace.is_none() {
            above.trace = trace;
        }
        if let Some(claim) = claim {
            above.claim(claim);
        }
        if let Some(mut waiting) = waiting {
            above.waiting.get_or_insert_default().append(&mut waiting);
        }
        above.take_waiting()
    }

    fn slot(&self, id: FragmentId) -> &Fragment {
        &self.slots[id.0 as usize]
    }

    fn slot_mut(&mut self, id: FragmentId) -> &mut Fragment {
        &mut self.slots[id.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        Key { number, slot: 0 }
    }

    fn trace(byte: u8) -> Trace {
        Trace { id: TraceId::new([byte; 16]).unwrap(), sampled: true, state: None }
    }

    #[test]
    fn the_upper_trace_holds_for_both() {
        let mut fragments = Fragments::default();
        let (lower, upper) = (fragments.begin(key(0)), fragments.begin(key(0)));
        fragments.fix_trace(upper, || trace(1));
        fragments.wait(lower, key(7));
        assert!(fragments.can_merge(lower, upper));
        assert_eq!(fragments.merge(lower, upper), None);
        assert_eq!(fragments.trace(lower), Some(&trace(1)));
        assert_eq!(fragments.close(lower), Some(BTreeSet::from([key(7)])));
        assert!(fragments.is_whole(upper));
    }

    #[test]
    fn an_id_that_already_left_is_taken_over_by_an_open_upper_only() {
        let mut fragments = Fragments::default();
        let (lower, open, fixed) =
            (fragments.begin(key(0)), fragments.begin(key(0)), fragments.begin(key(0)));
        fragments.fix_trace(lower, || trace(1));
        fragments.fix_trace(fixed, || trace(2));
        assert!(!fragments.can_merge(lower, fixed));
        assert!(fragments.can_merge(lower, open));
        fragments.merge(lower, open);
        assert_eq!(fragments.trace(open), Some(&trace(1)));
    }

    fn at(nanos: u64) -> KernelInstant {
        KernelInstant::from_nanos(nanos)
    }

    #[test]
    fn what_all_calls_claim_is_taken_and_awaited() {
        let mut fragments = Fragments::default();
        let (lower, upper) = (fragments.begin(key(0)), fragments.begin(key(0)));
        fragments.hold(lower);
        fragments.hold(lower);
        fragments.merge(lower, upper);
        fragments.wait(upper, key(7));
        assert_eq!(fragments.close(upper), None, "it is held from below");
        // Known in another order than sent: only the first of them started it.
        fragments.claim(lower, trace(1).id, false, at(5));
        assert_eq!(fragments.let_go(lower), None);
        fragments.claim(lower, trace(1).id, true, at(3));
        assert_eq!(fragments.let_go(lower), Some(BTreeSet::from([key(7)])));
        assert_eq!(fragments.trace_for(upper, || trace(9).id), trace(1));
    }

    #[test]
    fn claims_that_disagree_or_started_nothing_are_not_taken() {
        for (first, second, started) in [(1, 2, true), (1, 1, false)] {
            let mut fragments = Fragments::default();
            let (lower, upper) = (fragments.begin(key(0)), fragments.begin(key(0)));
            fragments.claim(lower, trace(first).id, started, at(1));
            fragments.claim(upper, trace(second).id, true, at(2));
            fragments.merge(lower, upper);
            assert_eq!(fragments.trace_for(lower, || trace(9).id), trace(9));
        }
        // A third does not decide between two.
        let mut fragments = Fragments::default();
        let id = fragments.begin(key(0));
        for byte in [1, 2, 1] {
            fragments.claim(id, trace(byte).id, true, at(u64::from(byte)));
        }
        assert_eq!(fragments.trace_for(id, || trace(9).id), trace(9));
    }

    #[test]
    fn a_trace_that_is_known_is_kept_whatever_is_claimed() {
        let mut fragments = Fragments::default();
        let id = fragments.begin(key(0));
        fragments.fix_trace(id, || trace(2));
        fragments.claim(id, trace(1).id, true, at(1));
        assert_eq!(fragments.trace_for(id, || trace(9).id), trace(2));
    }

    #[test]
    fn no_circle_is_made() {
        let mut fragments = Fragments::default();
        let (a, b) = (fragments.begin(key(0)), fragments.begin(key(0)));
        fragments.merge(a, b);
        assert!(!fragments.can_merge(b, a));
        assert!(!fragments.can_merge(a, a));
    }

    #[test]
    fn slots_are_used_again_when_nobody_names_them() {
        let mut fragments = Fragments::default();
        for _ in 0..100 {
            let (a, b) = (fragments.begin(key(0)), fragments.begin(key(0)));
            fragments.merge(a, b);
            fragments.release(b);
            fragments.release(a);
        }
        assert_eq!(fragments.slots.len(), 2);
        let fresh = fragments.begin(key(0));
        assert_eq!((fragments.trace(fresh), fragments.is_whole(fresh)), (None, false));
    }
}
