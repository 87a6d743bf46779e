//! What is known of hand-offs in the processes that are followed: who woke whom, what their futexes are, and how far
//! completion wakes can be trusted there.
//!
//! | address of a futex | is | because |
//! |---|---|---|
//! | two threads waited for it at once, one of them had a request | a lock | nobody waits for another's work there |
//! | two threads waited for it at once, none ever had a request | a queue | pool threads wait for work there |
//! | anything else | private | one thread waits there for something |
//!
//! Threads that wait at one queue are one *group*: they run the same tasks, and what one of them shows goes for all.
//! A group is *closed* for good when it shows that it wakes requests that its call was not made for. It is *trusted* when
//! [`PROOFS`] of its calls named the only request that they could have been made for; or when of many calls, nearly all
//! named the request whose thread had woken the caller. It decides nothing: `rules::handoff` does.

use std::collections::{BTreeMap, VecDeque};

use tracer_abi::task::{ProcessKey, Tid};
use tracer_abi::time::KernelInstant;

use super::exchange::{Handed, Key, Submit};
use super::hash::NumberMap;
use super::table::Exchanges;
use super::works::Works;

/// Processes followed: what the kernel half's table holds.
const MAX_PROCESSES: usize = 1024;

/// Threads of a process: beyond it, later ones hand on nothing.
const MAX_THREADS: usize = 16_384;

/// Groups of threads of a process, those of ended threads included. Beyond it, groups begin anew.
const MAX_GROUPS: usize = 65_536;

/// Addresses of a process. A condition of Python's has one for each waiter, but memory is used again. Beyond it, those
/// that are private are forgotten.
const MAX_FUTEXES: usize = 32_768;

/// Requests that are remembered when they have ended: the end of a call may show later than that of its request.
const MAX_ENDED: usize = 1024;

/// Calls that named the only request that was open during all of the call, after which a group is trusted.
const PROOFS: u32 = 3;

/// Calls whose caller was woken by a thread with a request and that named a request, after which a group is trusted; and
/// in how many of a hundred the two may differ: a thread of a pool that is busy takes what another was woken for. Where
/// threads wait for a place in a queue or for a semaphore, they differ in most.
const AGREEMENTS: u32 = 8;
const MAX_DIFFERENT_PERCENT: u32 = 10;

/// Wake-ups at an address where threads without a request wait, before they are taken for a pool: a lock is waited for by
/// one with a request before that.
const QUEUE_WAKES: u32 = 16;

/// Calls of a process that named a request, before any is believed; and how many name none for each that does, at most. Who
/// waits for calls is told of most of them, of several at once at least of the last. Where most tell nobody, those that
/// seem to tell of other work that their threads did next.
const TOLD: u32 = 4;
const MAX_SILENT: u32 = 3;

/// Calls that are counted for that: what was long ago says little of now, as what addresses are is learned.
const RECENT: u32 = 64;

/// Calls that named several requests, at least, before a process is suspended; and how many of all may.
const MIN_AMBIGUOUS: u64 = 2;
const MAX_AMBIGUOUS_PERCENT: u64 = 2;

#[derive(Debug, Default)]
pub(super) struct HandOffs {
    processes: BTreeMap<ProcessKey, Followed>,
}

impl HandOffs {
    pub(super) fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    pub(super) fn find(&self, process: ProcessKey) -> Option<&Followed> {
        self.processes.get(&process)
    }

    pub(super) fn find_mut(&mut self, process: ProcessKey) -> Option<&mut Followed> {
        self.processes.get_mut(&process)
    }

    /// `open`: requests that are open already. `None` when too many are followed.
    pub(super) fn note(
        &mut self,
        process: ProcessKey,
        now: KernelInstant,
        open: u32,
    ) -> Option<&mut Followed> {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&process) {
            return None;
        }
        Some(self.processes.entry(process).or_insert_with(|| Followed::new(now, open)))
    }

    pub(super) fn forget(&mut self, process: ProcessKey) {
        self.processes.remove(&process);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(ProcessKey) -> bool) {
        self.processes.retain(|process, _| keep(*process));
    }

    /// Wake-ups were lost, and it is not known whose.
    pub(super) fn lose(&mut self, at: KernelInstant) {
        self.processes.values_mut().for_each(|followed| followed.lose(at));
    }
}

#[derive(Debug)]
pub(super) struct Followed {
    /// The first wake-up: what was before was not seen.
    pub(super) since: KernelInstant,
    threads: NumberMap<Tid, Waker>,
    futexes: NumberMap<u64, Futex>,
    groups: Groups,
    /// Requests that began since then and have not ended, in the order in which they were understood, and when the first
    /// byte came.
    open: VecDeque<(Key, KernelInstant)>,
    /// Open ones that began before.
    unseen: u32,
    /// Those that ended last: when the first byte came and when they ended.
    ended: VecDeque<(KernelInstant, KernelInstant)>,
    /// When a request ended last without a whole answer: its thread may work for it still.
    abandoned: Option<KernelInstant>,
    /// Calls whose wake-ups name a request.
    named: Named,
    /// Calls that named a request, and those that could have and did not.
    told: u32,
    silent: u32,
    lost: Option<KernelInstant>,
    /// Calls looked at, and those of which a request was found.
    pub(super) judged: u32,
    pub(super) found: u32,
    /// Calls that named a request and whose group is not trusted yet.
    pub(super) awaiting: Vec<Key>,
    /// CPython's pools.
    pub(super) works: Works,
}

/// A thread, as one that wakes and is woken.
#[derive(Debug, Default)]
pub(super) struct Waker {
    /// Number of its last wake-up.
    number: u32,
    group: Option<u32>,
    /// It has used a socket.
    pub(super) operated: bool,
    /// What it did last on a socket was to read what it had asked for.
    pub(super) read_answer: bool,
    /// Who woke it last since it used a socket last.
    pub(super) submit: Option<Submit>,
    /// The same before it used a socket last.
    pub(super) last_submit: Option<Submit>,
    pub(super) window: Option<Window>,
}

/// A thread is about to tell that a call is done: from the end of the response on, or from being told itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) call: Key,
    /// 1: the thread that made the call. Else how it was told.
    pub(super) hop: usize,
    pub(super) path: [u64; MAX_HOPS],
    /// It was woken itself meanwhile, and may do something else.
    pub(super) late: bool,
    /// The thread serves a request itself: whom it wakes shows that others waited for the same.
    pub(super) shared: bool,
}

/// Threads from the one that made a call to the one that serves the request.
pub(super) const MAX_HOPS: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Futex {
    last: Option<(KernelInstant, Tid)>,
    shared: bool,
    /// A thread with an open request waited here.
    owned: bool,
    wakes: u32,
    group: Option<u32>,
}

/// See the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Lock,
    Queue,
    Private,
}

impl Followed {
    fn new(since: KernelInstant, unseen: u32) -> Self {
        Self {
            since,
            threads: NumberMap::default(),
            futexes: NumberMap::default(),
            groups: Groups::default(),
            open: VecDeque::new(),
            unseen,
            ended: VecDeque::new(),
            abandoned: None,
            named: Named::default(),
            told: 0,
            silent: 0,
            lost: None,
            judged: 0,
            found: 0,
            awaiting: Vec::new(),
            works: Works::default(),
        }
    }

    /// A thread woke another one: false when others before it are missing.
    pub(super) fn follow(&mut self, by: Tid, number: u32) -> bool {
        let Some(waker) = self.thread(by) else { return false };
        let next = match (waker.number, number) {
            (_, 0) => false,
            // Its first that is seen, or another thread with this id.
            (0, _) | (_, 1) => true,
            (last, number) => number == last.wrapping_add(1),
        };
        waker.number = number;
        next
    }

    pub(super) fn thread(&mut self, tid: Tid) -> Option<&mut Waker> {
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&tid) {
            return None;
        }
        Some(self.threads.entry(tid).or_default())
    }

    pub(super) fn exited(&mut self, tid: Tid) {
        self.threads.remove(&tid);
    }

    /// Something is missing: what was proven is to be proven again.
    pub(super) fn lose(&mut self, at: KernelInstant) {
        self.lost = self.lost.max(Some(at));
        self.groups.distrust();
        self.works.lose();
        for waker in self.threads.values_mut() {
            (waker.window, waker.submit, waker.last_submit) = (None, None, None);
        }
    }

    /// Whether anything may be missing since then.
    pub(super) fn is_whole_since(&self, then: KernelInstant) -> bool {
        self.since < then && self.lost.is_none_or(|lost| lost < then)
    }

    /// A thread is woken at an address for which it slept since then. What the address is now.
    pub(super) fn woken_at(
        &mut self,
        address: u64,
        woken: Tid,
        owns: bool,
        asleep_since: Option<KernelInstant>,
        now: KernelInstant,
    ) -> Class {
        if self.futexes.len() >= MAX_FUTEXES && !self.futexes.contains_key(&address) {
            #[expect(clippy::disallowed_methods, reason = "which stay does not depend on the order")]
            self.futexes.retain(|_, futex| futex.shared);
            if self.futexes.len() >= MAX_FUTEXES {
                self.futexes.clear();
                self.lose(now);
            }
        }
        let futex = self.futexes.entry(address).or_default();
        if let (Some(since), Some((at, other))) = (asleep_since, futex.last) {
            futex.shared |= since < at && woken != other;
        }
        futex.owned |= owns;
        futex.last = Some((now, woken));
        futex.wakes = futex.wakes.saturating_add(1);
        let (class, pooled) = (futex.class(), futex.wakes >= QUEUE_WAKES);
        let queue = if class == Class::Lock { futex.group.take() } else { futex.group };
        if class == Class::Lock && queue.is_some() {
            self.regroup();
        }
        if class == Class::Queue && pooled {
            if self.groups.0.len() >= MAX_GROUPS {
                self.regroup();
            }
            let of_thread = self.threads.get(&woken).and_then(|waker| waker.group);
            let group = self.groups.join(of_thread, queue);
            if let Some(futex) = self.futexes.get_mut(&address) {
                futex.group = Some(group);
            }
            if let Some(waker) = self.thread(woken) {
                waker.group = Some(group);
            }
        }
        class
    }

    /// What was taken for a queue is none, or there are too many groups: no thread belongs to another's for certain, and
    /// what they have proven is to be proven again.
    fn regroup(&mut self) {
        for futex in self.futexes.values_mut() {
            futex.group = None;
        }
        let groups = std::mem::take(&mut self.groups);
        for waker in self.threads.values_mut() {
            let closed =
                waker.group.take().and_then(|group| groups.find(group)).is_some_and(|group| group.closed);
            if closed {
                let group = self.groups.add();
                self.groups.of(group).closed = true;
                waker.group = Some(group);
            }
        }
    }

    pub(super) fn class(&self, address: u64) -> Class {
        self.futexes.get(&address).map_or(Class::Private, Futex::class)
    }

    fn group(&mut self, tid: Tid) -> Option<u32> {
        if self.groups.0.len() >= MAX_GROUPS {
            self.regroup();
        }
        if let Some(group) = self.threads.get(&tid)?.group {
            return Some(group);
        }
        let group = self.groups.add();
        self.thread(tid)?.group = Some(group);
        Some(group)
    }

    /// The thread's group has shown that it wakes requests that its call was not made for.
    pub(super) fn close(&mut self, tid: Tid) {
        if let Some(group) = self.group(tid) {
            self.groups.of(group).closed = true;
        }
    }

    /// What a call of the thread says about its group, and the process. True when more is believed from now on.
    pub(super) fn speak(&mut self, tid: Tid, word: Word) -> bool {
        let was_heard = self.is_heard();
        match word.tells {
            Some(true) => self.told += 1,
            Some(false) => self.silent += 1,
            None => {}
        }
        if self.told + self.silent >= RECENT {
            (self.told, self.silent) = (self.told / 2, self.silent / 2);
        }
        let is_heard = self.is_heard() && !was_heard;
        let Some(group) = self.group(tid) else { return is_heard };
        let group = self.groups.of(group);
        let before = group.is_trusted();
        group.proofs = group.proofs.saturating_add(u32::from(word.proves));
        match word.agrees {
            Some(true) => group.agreed = group.agreed.saturating_add(1),
            Some(false) => group.different = group.different.saturating_add(1),
            None => {}
        }
        is_heard || group.is_trusted() && !before
    }

    /// Whether calls are waited for, as a rule.
    pub(super) const fn is_heard(&self) -> bool {
        self.told >= TOLD && self.silent as u64 <= self.told as u64 * MAX_SILENT as u64
    }

    pub(super) fn is_closed(&self, tid: Tid) -> bool {
        self.standing(tid).is_some_and(|group| group.closed)
    }

    pub(super) fn is_trusted(&self, tid: Tid) -> bool {
        self.standing(tid).is_some_and(Group::is_trusted)
    }

    fn standing(&self, tid: Tid) -> Option<&Group> {
        self.groups.find(self.threads.get(&tid)?.group?)
    }

    pub(super) fn request_began(&mut self, key: Key, first: KernelInstant) {
        self.open.push_back((key, first));
    }

    pub(super) fn request_ended(&mut self, key: Key, at: KernelInstant, whole: bool) {
        match self.open.iter().position(|(open, _)| *open == key) {
            Some(place) => {
                let first = self.open.remove(place).map_or(at, |(_, first)| first);
                if self.ended.len() >= MAX_ENDED {
                    self.ended.pop_front();
                }
                self.ended.push_back((first, at));
            }
            None => self.unseen = self.unseen.saturating_sub(1),
        }
        if !whole {
            self.abandoned = self.abandoned.max(Some(at));
        }
    }

    /// Whether every request that was open when this call was made has ended.
    pub(super) fn is_over(&self, call: Key) -> bool {
        self.unseen == 0 && self.open.front().is_none_or(|(oldest, _)| *oldest > call)
    }

    /// How many requests were open all the time from `sent` to `end`; one more than one is as good as many. `None` when
    /// that is not known.
    pub(super) fn causes(&self, sent: KernelInstant, end: KernelInstant) -> Option<usize> {
        let forgotten = self.ended.len() >= MAX_ENDED && self.ended.front().is_some_and(|(_, at)| *at > end);
        let known =
            self.unseen == 0 && self.since < sent && !forgotten && self.abandoned.is_none_or(|at| at < sent);
        let open = self.open.iter().filter(|(_, first)| *first < sent);
        let ended = self.ended.iter().filter(|(first, at)| *first < sent && *at >= end);
        known.then(|| open.take(2).count() + ended.take(2).count())
    }

    /// The wake-ups of a call name these requests.
    pub(super) fn count(&mut self, requests: &[Key]) {
        self.named.calls += u64::from(!requests.is_empty());
        self.named.ambiguous += u64::from(requests.len() > 1);
    }

    /// Too many calls name several requests: none is believed.
    pub(super) fn is_suspended(&self) -> bool {
        let Named { calls, ambiguous } = self.named;
        ambiguous >= MIN_AMBIGUOUS && ambiguous * 100 > calls * MAX_AMBIGUOUS_PERCENT
    }

    /// The requests that a call's wake-ups name, as far as is known now of the addresses: a lock tells nothing, and nothing
    /// goes on through a queue.
    pub(super) fn requests(&self, exchanges: &Exchanges, handed: &Handed) -> Vec<Key> {
        let mut requests = Vec::new();
        for candidate in &handed.candidates {
            let mut path = candidate.path.iter().take(candidate.hops).filter(|address| **address != 0);
            let last = candidate.path.get(candidate.hops.saturating_sub(1)).copied();
            let passes = path.all(|address| match self.class(*address) {
                Class::Lock => false,
                Class::Queue => Some(*address) == last,
                Class::Private => true,
            });
            // Where a response ends may show later than its thread went on to something else.
            let end = exchanges.get(&candidate.request).and_then(|request| request.end?.last);
            let answered = end.is_some_and(|last| last.time < candidate.woken);
            if passes && !answered && !requests.contains(&candidate.request) {
                requests.push(candidate.request);
            }
        }
        requests
    }
}

/// Calls counted.
#[derive(Clone, Copy, Debug, Default)]
struct Named {
    calls: u64,
    ambiguous: u64,
}

impl Futex {
    const fn class(&self) -> Class {
        match (self.shared, self.owned) {
            (true, true) => Class::Lock,
            (true, false) => Class::Queue,
            (false, _) => Class::Private,
        }
    }
}

/// Groups of threads that become one when it shows that they are.
#[derive(Debug, Default)]
struct Groups(Vec<Group>);

#[derive(Clone, Copy, Debug)]
struct Group {
    /// Itself, or the one that it has become a part of.
    part_of: u32,
    closed: bool,
    proofs: u32,
    agreed: u32,
    different: u32,
}

/// What one call says about its thread's group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// It named the only request that it could have been made for.
    pub(super) proves: bool,
    /// It named the request whose thread had woken the caller; `None` when there was none.
    pub(super) agrees: Option<bool>,
    /// It named a request; `None` where it could not have, or that is not known.
    pub(super) tells: Option<bool>,
}

impl Group {
    const fn is_trusted(&self) -> bool {
        let agrees = self.agreed >= AGREEMENTS
            && self.different as u64 * 100 <= self.agreed as u64 * MAX_DIFFERENT_PERCENT as u64;
        !self.closed && (self.proofs >= PROOFS || agrees)
    }
}

impl Groups {
    /// At most one per thread and queue; those of threads that ended stay.
    fn add(&mut self) -> u32 {
        // The bound on them is far below 2^32.
        let group = self.0.len() as u32;
        self.0.push(Group { part_of: group, closed: false, proofs: 0, agreed: 0, different: 0 });
        group
    }

    fn root(&self, mut group: u32) -> u32 {
        while let Some(found) = self.0.get(group as usize)
            && found.part_of != group
        {
            group = found.part_of;
        }
        group
    }

    fn find(&self, group: u32) -> Option<&Group> {
        self.0.get(self.root(group) as usize)
    }

    fn of(&mut self, group: u32) -> &mut Group {
        let root = self.root(group) as usize;
        &mut self.0[root]
    }

    /// The group of both.
    fn join(&mut self, one: Option<u32>, other: Option<u32>) -> u32 {
        let (one, other) = match (one, other) {
            (Some(one), Some(other)) => (self.root(one), self.root(other)),
            (Some(group), None) | (None, Some(group)) => return self.root(group),
            (None, None) => return self.add(),
        };
        if one != other {
            let Group { part_of: _, closed, proofs, agreed, different } = *self.of(one);
            self.of(one).part_of = other;
            let group = self.of(other);
            group.closed |= closed;
            group.proofs = group.proofs.saturating_add(proofs);
            group.agreed = group.agreed.saturating_add(agreed);
            group.different = group.different.saturating_add(different);
        }
        other
    }

    fn distrust(&mut self) {
        for group in &mut self.0 {
            (group.proofs, group.agreed) = (0, 0);
        }
    }
}
