//! Takes in wake-ups, and what operations mean between them: which requests' threads a call's thread tells that it is
//! done. When all is known, concludes what `rules::handoff` says.
//!
//! A call's *window* begins with the last bytes of its response and ends with the next socket operation of the thread
//! that read them. Whom the thread wakes inside is told that the call is done, or somebody is who tells others: a
//! thread that owns no request has a window of its own until it is woken again.

use std::time::Duration;

use tracer_abi::conn::Direction;
use tracer_abi::error::KernelLoss;
use tracer_abi::event::Awaited;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::Correlator;
use super::conn::ConnFacts;
use super::deadlines::Look;
use super::exchange::{End, Handed, HandedTo, Key, Question, Submit, Undecided};
use super::handoffs::{Class, MAX_HOPS, Window};
use super::processes::Following;
use super::rules::handoff;
use super::works;
use crate::engine::{HandOffPolicy, Wish};
use crate::event::{Cause, DataMoved, IoOutcome, Thread, ThreadWoken};
use crate::exchange::{Mark, Outcome};

/// Requests noted per call: beyond it, one is as good as another.
const MAX_CANDIDATES: usize = 8;

/// Calls by threads without a request, while others have some, after which a process's hand-offs are followed, if they are a
/// quarter of all or more. Few, because they stay undecided, and because a pool shows what it is while it has little to
/// do; where nothing comes of it, following ends.
const WANTED_AFTER: u32 = 2;
const WANTED_PERCENT: u32 = 25;

/// Calls that wait for their group to be trusted: as many as a busy pool makes in the time that they may wait.
const MAX_AWAITING: usize = 16_384;

/// Calls looked at in vain, nearly all, after which a process is followed no more.
const USELESS_AFTER: u32 = 1024;
const USELESS_PERCENT: u32 = 3;

impl Correlator {
    pub(crate) fn thread_woken(&mut self, event: &ThreadWoken) {
        if self.note_wake(event.by, event.time) {
            self.note_results(event);
            self.hand_off(event);
        }
    }

    /// A thread of a followed process has told something, in the order of its wake-ups. False: too many are followed.
    pub(super) fn note_wake(&mut self, by: Thread, time: KernelInstant) -> bool {
        let tables = &mut self.tables;
        let open = tables.processes.find(by.process).map_or(0, |known| known.open_requests);
        let Some(followed) = tables.handoffs.note(by.process, time, open) else { return false };
        if !followed.follow(by.tid, by.seq) {
            self.stats.wakes_missing += 1;
            followed.lose(time);
        }
        true
    }

    /// What a wake-up says by itself.
    fn hand_off(&mut self, event: &ThreadWoken) {
        let process = event.by.process;
        let tables = &mut self.tables;
        let Some(followed) = tables.handoffs.find_mut(process) else { return };
        let threads = &tables.threads;
        let owned = |tid| threads.find(process, tid).map_or(&[][..], |thread| thread.open.as_slice());
        let owns = owned(event.woken);
        let (address, asleep_since, awaited) = match event.cause {
            Cause::Futex { address, asleep_since, awaited } => (address, asleep_since, awaited),
            Cause::Born => (0, None, Awaited::Unknown),
        };
        let class = match event.cause {
            Cause::Futex { .. } => {
                followed.woken_at(address, event.woken, !owns.is_empty(), asleep_since, event.time)
            }
            Cause::Born => {
                followed.exited(event.woken);
                Class::Private
            }
        };
        if class == Class::Lock {
            return;
        }
        // Who serves nothing hands on what it was handed itself.
        let submit = match owned(event.by.tid).last() {
            Some(request) => Some(*request),
            None => followed.thread(event.by.tid).and_then(|by| by.submit?.request),
        };
        let Some(woken) = followed.thread(event.woken) else { return };
        woken.submit = Some(Submit { request: submit, address });
        match &mut woken.window {
            Some(window) if window.hop == 1 => window.late = true,
            window => *window = None,
        }
        let (operated, read_answer) = (woken.operated, woken.read_answer);
        let Some(window) = followed.thread(event.by.tid).and_then(|by| by.window) else { return };
        let Some(call) = tables.exchanges.get(&window.call) else { return };
        let (sent, maker) = (call.first.time, call.thread().tid);
        let Some((_, received)) = &call.response else { return };
        let mut path = window.path;
        if let Some(place) = path.get_mut(window.hop - 1) {
            *place = address;
        }
        let next = Window { hop: window.hop + 1, path, late: false, shared: false, ..window };
        // Who has a request and waits for a queue waits for a place in it, as a rule; who has none, for work.
        let told = !matches!(awaited, Awaited::Other | Awaited::Queue)
            && (window.hop > 1 || !works::is_for_another(call, event));
        let may_go_on = awaited != Awaited::Other
            && next.hop <= MAX_HOPS
            && !window.late
            && !window.shared
            && !read_answer;
        if event.cause == Cause::Born {
            if may_go_on
                && !operated
                && let Some(woken) = followed.thread(event.woken)
            {
                woken.window = Some(next);
            }
            return;
        }
        let latest = if window.late { sent } else { received.time };
        let to = match owns.last() {
            None => {
                let in_time =
                    asleep_since.is_some_and(|since| since < latest && (window.hop < 2 || since < sent));
                if in_time
                    && may_go_on
                    && class != Class::Queue
                    && let Some(woken) = followed.thread(event.woken)
                {
                    woken.window = Some(next);
                }
                return;
            }
            // It holds the latest alone, or several, which its end will show.
            Some(request) => *request,
        };
        let Some(request) = tables.exchanges.get(&to) else { return };
        let came_before = request.head_last.time < sent;
        let Some(since) = asleep_since else {
            if let Some(handed) = self.handed(window.call) {
                handed.unsure |= came_before && told;
            }
            return;
        };
        if since >= latest {
            return;
        }
        // Where one thread is woken first and wakes the others that waited for the same.
        if next.hop <= MAX_HOPS
            && let Some(woken) = followed.thread(event.woken)
        {
            woken.window = Some(Window { shared: true, ..next });
        }
        if came_before {
            if told {
                let (woken, hops) = (event.time, window.hop);
                let candidate = HandedTo { request: to, asleep_since: since, woken, path, hops };
                self.hand_to(window.call, candidate);
            }
        } else if window.hop == 1 || window.shared {
            followed.close(maker);
            if let Some(handed) = self.handed(window.call) {
                handed.elsewhere = true;
            }
        }
    }

    fn hand_to(&mut self, call: Key, candidate: HandedTo) {
        let exchanges = &mut self.tables.exchanges;
        let Some(exchange) = exchanges.get_mut(&call) else { return };
        let open = exchange.question == Question::Open;
        let Some(handed) = exchange.called_mut().and_then(|called| called.handed.as_deref_mut()) else {
            return;
        };
        if !open || handed.counted {
            return;
        }
        if handed.candidates.len() >= MAX_CANDIDATES {
            handed.unsure = true;
            return;
        }
        handed.candidates.push(candidate);
        if let Some(request) = exchanges.get_mut(&candidate.request) {
            request.pins += 1;
        }
    }

    /// An operation of a thread, in the order of its thread.
    pub(super) fn note_handoffs(&mut self, event: &DataMoved, conn: &ConnFacts) {
        self.want_on_sight(event.thread.process);
        if self.tables.handoffs.is_empty() || !matches!(event.outcome, IoOutcome::Moved(_)) {
            return;
        }
        let tid = event.thread.tid;
        let followed = self.tables.handoffs.find_mut(event.thread.process);
        let Some(thread) = followed.and_then(|followed| followed.thread(tid)) else { return };
        let ingress = event.direction == Direction::Ingress;
        thread.window = None;
        thread.last_submit = thread.submit.take();
        thread.operated = true;
        thread.read_answer = ingress && conn.calls != Some(false);
        if !ingress || conn.calls != Some(true) {
            return;
        }
        let Some(key) = conn.open.front().map(|(_, key)| *key) else { return };
        let Some(exchange) = self.tables.exchanges.get_mut(&key) else { return };
        let own = exchange.thread().tid == tid;
        let Some(handed) = exchange.called_mut().and_then(|called| called.handed.as_deref_mut()) else {
            return;
        };
        handed.moved |= !own;
        let before = std::mem::take(&mut handed.candidates);
        if own {
            thread.window =
                Some(Window { call: key, hop: 1, path: [0; MAX_HOPS], late: false, shared: false });
        }
        for candidate in before {
            self.unpin(candidate.request);
        }
    }

    /// A call begins, maybe of a thread without a request.
    pub(super) fn call_may_be_handed(&mut self, key: Key, first: Mark) {
        self.weigh_following(key);
        let Some(followed) = self.tables.handoffs.find_mut(first.thread.process) else { return };
        let Some(thread) = followed.thread(first.thread.tid) else { return };
        let submit = thread.last_submit;
        let exchange = self.tables.exchanges.get_mut(&key);
        if let Some(called) = exchange.and_then(|exchange| exchange.called_mut())
            && called.served.is_none()
        {
            called.handed = Some(Box::new(Handed { submit, ..Handed::default() }));
        }
    }

    /// A call has ended: is there anything that it could have been made for?
    pub(super) fn handed_call_ended(&mut self, key: Key, end: &End) {
        let Some(exchange) = self.tables.exchanges.get(&key) else { return };
        if exchange.question != Question::Open
            || exchange.called().is_none_or(|called| called.handed.is_none())
        {
            return;
        }
        let (thread, sent) = (exchange.thread(), exchange.first.time);
        let attached = self.tables.processes.find(thread.process).and_then(|known| known.preexisting_since);
        let age = attached.map_or(Duration::MAX, |since| sent.since(since));
        if let Some(followed) = self.tables.handoffs.find_mut(thread.process)
            && end.last.is_some()
        {
            let causes = followed.causes(sent, end.last.map_or(end.time, |last| last.time));
            if causes == Some(0) && age >= handoff::UNSEEN {
                followed.close(thread.tid);
            }
            if let Some(handed) = self.handed(key) {
                handed.one_cause = causes == Some(1) && age >= handoff::UNSEEN;
                handed.elsewhere |= causes == Some(0);
            }
        }
        self.plan(Look::HandOff, end.time.plus(handoff::LATE), key);
    }

    pub(super) fn handed_request_began(&mut self, key: Key, first: Mark) {
        if let Some(followed) = self.tables.handoffs.find_mut(first.thread.process) {
            followed.request_began(key, first.time);
        }
    }

    /// A request is answered, or will not be: calls that were handed back to it may have waited for that.
    pub(super) fn handed_request_ended(&mut self, key: Key, process: ProcessKey, end: &End) {
        let Some(followed) = self.tables.handoffs.find_mut(process) else { return };
        let whole = matches!(end.outcome, Outcome::Complete | Outcome::Upgraded);
        followed.request_ended(key, end.time, whole);
        let exchange = self.tables.exchanges.get_mut(&key);
        let Some(served) = exchange.and_then(|exchange| exchange.served_mut()) else { return };
        for call in std::mem::take(&mut served.handed_back) {
            self.plan(Look::HandOff, end.time.plus(handoff::LATE), call);
        }
    }

    /// What is known of a call's hand-off by now: concluded when it is enough, or when no more is to come.
    pub(super) fn look_at_handoff(&mut self, key: Key, last: bool) {
        let tables = &mut self.tables;
        let Some(call) = tables.exchanges.get(&key).filter(|call| call.question == Question::Open) else {
            return;
        };
        let (Some(end), process) = (call.end, call.process()) else { return };
        let Some(handed) = call.called().and_then(|called| called.handed.as_deref()) else { return };
        if handed.concluded.is_some() || (!last && self.now < end.time.plus(handoff::LATE)) {
            return;
        }
        let Some(followed) = tables.handoffs.find_mut(process) else { return };
        let requests = followed.requests(&tables.exchanges, handed);
        let (first_look, spoke) = (!handed.counted, handed.spoke);
        if first_look {
            followed.count(&requests);
        }
        let mut due = end.time.plus(handoff::SETTLE);
        for request in &requests {
            let Some(request) = tables.exchanges.get_mut(request) else { continue };
            match (request.end, request.served_mut()) {
                (Some(end), _) => due = due.max(end.time.plus(handoff::LATE)),
                (None, Some(served)) => {
                    if first_look {
                        served.handed_back.push(key);
                    }
                    due = KernelInstant::MAX;
                }
                (None, None) => {}
            }
        }
        let enough = self.now >= due || (last && due < KernelInstant::MAX);
        if let Some(handed) = self.handed(key) {
            handed.counted = true;
            handed.spoke |= enough;
        }
        if !enough {
            if due < KernelInstant::MAX {
                self.plan(Look::HandOff, due, key);
            }
            return;
        }
        let mut trusted = Vec::new();
        if !spoke
            && let Some(word) = handoff::word(&self.tables, key)
            && let Some(call) = self.tables.exchanges.get(&key)
            && let Some(followed) = self.tables.handoffs.find_mut(process)
            && followed.speak(call.thread().tid, word)
        {
            trusted = std::mem::take(&mut followed.awaiting);
        }
        self.conclude(key, process, last);
        for key in trusted {
            self.look_at_handoff(key, false);
            self.decide(key, false);
        }
    }

    fn handed(&mut self, key: Key) -> Option<&mut Handed> {
        self.tables.exchanges.get_mut(&key)?.called_mut()?.handed.as_deref_mut()
    }

    fn conclude(&mut self, key: Key, process: ProcessKey, last: bool) {
        let Some(conclusion) = handoff::conclude(&self.tables, key) else { return };
        let Some(followed) = self.tables.handoffs.find_mut(process) else { return };
        if conclusion == Err(Undecided::HandOffUnproven) && !last && followed.awaiting.len() < MAX_AWAITING {
            followed.awaiting.push(key);
            return;
        }
        followed.judged += 1;
        followed.found += u32::from(conclusion.is_ok());
        let useless = followed.judged >= USELESS_AFTER
            && u64::from(followed.found) * 100 < u64::from(followed.judged) * u64::from(USELESS_PERCENT);
        if followed.judged >= USELESS_AFTER {
            (followed.judged, followed.found) = (0, 0);
        }
        if let Some(handed) = self.handed(key) {
            handed.concluded = Some(conclusion);
        }
        let useless =
            useless && self.tables.processes.find(process).is_none_or(|known| !known.waits.is_proven());
        if useless || self.tables.processes.find(process).is_none_or(|known| known.not_exclusive) {
            self.follow_no_more(process);
        }
    }

    /// Nothing will come of it.
    fn follow_no_more(&mut self, process: ProcessKey) {
        if let Some(known) = self.tables.processes.note(process)
            && known.following != Following::Refused
        {
            known.following = Following::Refused;
            // Its wake-ups end somewhere soon.
            if let Some(followed) = self.tables.handoffs.find_mut(process) {
                followed.lose(self.now);
            }
            self.wishes.push_back(Wish::LeaveHandOffs(process));
        }
    }

    fn want_on_sight(&mut self, process: ProcessKey) {
        if self.bounds.handoffs != HandOffPolicy::On {
            return;
        }
        if let Some(known) = self.tables.processes.note(process)
            && known.following == Following::Unasked
        {
            known.following = Following::Asked;
            self.wishes.push_back(Wish::FollowHandOffs(process));
        }
    }

    /// A call begins: when too many are made by threads that serve nothing, the process is followed.
    fn weigh_following(&mut self, key: Key) {
        if self.bounds.handoffs != HandOffPolicy::Auto {
            return;
        }
        let Some(call) = self.tables.exchanges.get(&key) else { return };
        let (of, called) = (call.process(), call.called());
        let aside = called.is_some_and(|called| called.served.is_none() && called.carrier.is_none());
        let Some(process) = self.tables.processes.find_mut(of) else { return };
        let asked = match process.following {
            Following::Unasked => false,
            Following::Asked => !process.waits.alone,
            Following::Refused => true,
        };
        // Goroutines belong to no thread.
        if asked || process.not_exclusive || process.is_nginx() || process.goroutines.is_some() {
            return;
        }
        process.calls_begun += 1;
        process.calls_aside += u32::from(aside && process.open_requests > 0);
        if process.calls_aside >= WANTED_AFTER
            && u64::from(process.calls_aside) * 100
                >= u64::from(process.calls_begun) * u64::from(WANTED_PERCENT)
        {
            (process.following, process.waits.alone) = (Following::Asked, false);
            self.wishes.push_back(Wish::FollowHandOffs(of));
        }
        // What was long ago says little of now.
        if process.calls_begun >= 1024 {
            process.calls_begun /= 2;
            process.calls_aside /= 2;
        }
    }

    /// Wake-ups were lost.
    pub(crate) fn wakes_lost(&mut self, at: KernelInstant) {
        self.tables.handoffs.lose(at);
    }

    /// What is asked of whoever hands in the events.
    pub(crate) fn poll_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }
}

/// Whether a loss is one of wake-ups only.
pub(crate) const fn is_of_wakes(loss: KernelLoss) -> bool {
    matches!(loss, KernelLoss::WakeRingFull | KernelLoss::WakeStorageFull | KernelLoss::WakesOverBudget)
}
