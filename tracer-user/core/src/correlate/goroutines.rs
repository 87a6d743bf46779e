//! What Go tells about the goroutines of a process: which of them reads which request, and which waits for which call.
//!
//! It notes; what follows is for the rule ([`super::rules::goroutine`]) to judge.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tracer_abi::conn::Direction;
use tracer_abi::event::Runtime;
use tracer_abi::golang::{FIRST_CACHE, MAX_CACHES, Waiter};
use tracer_abi::python::TaskId;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::Correlator;
use super::conn::ConnFacts;
use super::deadlines::Look;
use super::exchange::{Answering, Key};
use crate::event::TaskIdentified;
use crate::exchange::Mark;

/// Goroutines remembered to have read requests: those of the youngest connections.
const MAX_READERS: usize = 16_384;

/// Places of a program's code that start goroutines that call.
const MAX_SITES: usize = 1024;

/// Calls of a request that are looked at when it ends.
const MAX_CALLS: usize = 256;

/// Proofs that wait for their time.
const MAX_PROOFS: usize = 4096;

/// After the end of a request: a goroutine that it started and that still lives would have shown by then that it works
/// for others, too. Pools give an idle worker its next job within microseconds when there is much to do.
pub(super) const OUTLIVE: Duration = Duration::from_millis(100);

/// A process whose goroutines are known.
#[derive(Debug, Default)]
pub(super) struct Goroutines {
    /// Requests that are open, by the number of the goroutine that read them.
    reads: BTreeMap<u64, Vec<Key>>,
    readers: BTreeSet<u64>,
    /// When the requests of streams ended, which goroutines of these numbers had read and nothing else.
    streams_ended: BTreeMap<u64, KernelInstant>,
    /// Places that start goroutines.
    sites: BTreeMap<u64, Site>,
    /// Calls that did not outlive their request, and when that is known.
    proofs: VecDeque<(KernelInstant, u64)>,
}

/// A place of the program's code that starts goroutines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Site {
    /// Calls of such goroutines whose request did not end before them, and after which they did nothing for others.
    pub(super) proofs: u32,
    /// Such a goroutine works on when the request in which it was started has ended.
    pub(super) is_closed: bool,
}

impl Goroutines {
    pub(super) fn site(&self, started_at: u64) -> Site {
        self.sites.get(&started_at).copied().unwrap_or_default()
    }

    fn site_mut(&mut self, started_at: u64) -> Option<&mut Site> {
        if self.sites.len() >= MAX_SITES && !self.sites.contains_key(&started_at) {
            return None;
        }
        Some(self.sites.entry(started_at).or_default())
    }

    fn reads_no_more(&mut self, number: u64, request: Key) {
        if let Some(requests) = self.reads.get_mut(&number) {
            requests.retain(|known| *known != request);
            if requests.is_empty() {
                self.reads.remove(&number);
            }
        }
    }

    fn close(&mut self, started_at: u64) {
        if let Some(site) = self.site_mut(started_at) {
            site.is_closed = true;
        }
    }

    fn count_proofs(&mut self, now: KernelInstant) {
        while let Some((_, started_at)) = self.proofs.pop_front_if(|(due, _)| *due <= now) {
            if let Some(site) = self.site_mut(started_at) {
                site.proofs = site.proofs.saturating_add(1);
            }
        }
    }
}

/// Who read a request.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(super) goroutine: TaskId,
    /// Numbers that no goroutine had when the request had been read; `None` where that is not known.
    unborn: Option<Unborn>,
    /// The goroutine may have had something to do for the request before.
    pub(super) is_early: bool,
    /// It is one of the connection's streams that it took up, and did not read itself.
    pub(super) is_of_stream: bool,
    /// Calls that may have been made for it.
    calls: Vec<Key>,
}

#[derive(Clone, Copy, Debug)]
struct Unborn {
    last: u64,
    caches: [u64; MAX_CACHES],
}

impl Unborn {
    /// From the words of [`tracer_abi::event::IdentityRecord::tasks`].
    fn of(tasks: &[TaskId]) -> Option<Self> {
        let word = |index: usize| {
            let task = tasks.get(index / 2)?;
            Some(if index.is_multiple_of(2) { task.address } else { task.number })
        };
        let mut caches = [0; MAX_CACHES];
        for (index, cache) in caches.iter_mut().enumerate() {
            *cache = word(FIRST_CACHE + index)?;
        }
        Some(Self { last: word(FIRST_CACHE - 1)?, caches })
    }

    fn contains(&self, number: u64) -> bool {
        number > self.last
            || self.caches.iter().any(|cache| {
                let (first, len) = (cache >> 8, cache & 0xff);
                number >= first && number - first < len
            })
    }
}

/// Whose a call is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// The goroutine that waits for it, or that sent it where it is not on a connection of `net/http`'s client; `None`
    /// while that is not known.
    pub(super) goroutine: Option<TaskId>,
    /// Where the one that waits was started.
    pub(super) started_at: u64,
    /// The request was read by the goroutine that started the one that waits.
    pub(super) is_child: bool,
    /// Another one waited at its end than at its beginning.
    pub(super) changed: bool,
    /// It is one of the connection's streams, which others send.
    pub(super) is_of_stream: bool,
}

impl Caller {
    const fn of(started_at: u64, is_of_stream: bool) -> Self {
        Self { goroutine: None, started_at, is_child: false, changed: false, is_of_stream }
    }

    /// Of a stream, whose it is may be told yet.
    pub(super) const fn is_awaited(&self) -> bool {
        self.is_of_stream && self.goroutine.is_none()
    }
}

impl Correlator {
    /// A request came in, with its whole head.
    pub(super) fn goroutine_reads(&mut self, key: Key, last: &Mark, conn: &ConnFacts) {
        let Some(identified) = conn.goes(Direction::Ingress) else { return };
        let Some(request) = self.tables.exchanges.get_mut(&key) else { return };
        let (first, process) = (request.first.time, request.process());
        let Some(&goroutine) = identified.tasks.first() else { return };
        // Of streams others read all, and may themselves start who serves them.
        if request.stream.is_some() {
            return;
        }
        // Bytes before may have been read ahead by another one, bytes behind by the same.
        if identified.time < first || identified.time > last.time {
            return;
        }
        if identified.runtime == Runtime::Go && last.user_r14 != goroutine.address {
            return;
        }
        let is_early = conn.is_early(key, first);
        let unborn = Unborn::of(&identified.tasks);
        self.note_reader(
            key,
            process,
            Reader { goroutine, unborn, is_early, is_of_stream: false, calls: Vec::new() },
        );
    }

    /// A goroutine was started for a stream that had come in.
    pub(super) fn goroutine_serves(&mut self, key: Key, identified: &TaskIdentified) {
        let Some(request) = self.tables.exchanges.get(&key) else { return };
        let (read, process) = (request.head_last.time, request.process());
        let (Some(&goroutine), Some(served)) = (identified.tasks.first(), request.served()) else { return };
        if identified.time < read || identified.thread.process != process || served.reader.is_some() {
            return;
        }
        let unborn = Unborn::of(&identified.tasks);
        // What it did before is over: it takes one after the other.
        if let Some(known) = self.tables.processes.note(process) {
            known.goroutines.get_or_insert_default().reads.remove(&goroutine.number);
        }
        self.note_reader(
            key,
            process,
            Reader { goroutine, unborn, is_early: false, is_of_stream: true, calls: Vec::new() },
        );
    }

    fn note_reader(&mut self, key: Key, process: ProcessKey, reader: Reader) {
        let number = reader.goroutine.number;
        let request = self.tables.exchanges.get_mut(&key);
        let Some(served) = request.and_then(|request| request.served_mut()) else { return };
        served.reader = Some(Box::new(reader));
        let Some(known) = self.tables.processes.note(process) else { return };
        let goroutines = known.goroutines.get_or_insert_default();
        goroutines.reads.entry(number).or_default().push(key);
        goroutines.readers.insert(number);
        if goroutines.readers.len() > MAX_READERS {
            goroutines.readers.pop_first();
        }
    }

    /// A call was made, or its response begins.
    pub(super) fn goroutine_calls(&mut self, key: Key, direction: Direction, at: &Mark, conn: &ConnFacts) {
        let Some(identified) = conn.goes(direction) else { return };
        let Some(call) = self.tables.exchanges.get_mut(&key) else { return };
        // Streams are sent by others.
        if call.stream.is_some() || identified.time < call.first.time || identified.time > at.time {
            return;
        }
        let (sent, process) = (call.first.time, call.process());
        let (goroutine, parent, started_at) = match *identified.tasks.as_slice() {
            [sender] if direction == Direction::Egress => (sender, 0, 0),
            [_, waiter, TaskId { address, number }] => (waiter, number, address),
            _ => return,
        };
        let waiter = Waiter { task: goroutine, parent, started_at };
        self.goroutine_waits(key, waiter, false, (sent, process, at.time));
    }

    /// A stream's request is about to be sent, or has just been, by a goroutine that sends for all.
    pub(super) fn goroutine_sends(&mut self, key: Key, identified: &TaskIdentified) {
        let Some(call) = self.tables.exchanges.get(&key) else { return };
        let (sent, process) = (call.first.time, call.process());
        let &[_, task, TaskId { address: started_at, number: parent }] = identified.tasks.as_slice() else {
            return;
        };
        if identified.thread.process != process {
            return;
        }
        // Whatever is sent later may be so when the goroutine is about something else.
        let (called, now) = (identified.time.min(sent), identified.time.max(sent));
        self.goroutine_waits(key, Waiter { task, parent, started_at }, true, (called, process, now));
    }

    /// Whose a stream's request is, that was sent just now, will be told.
    pub(super) fn goroutine_will_tell(&mut self, key: Key) {
        let call = self.tables.exchanges.get_mut(&key);
        if let Some(called) = call.and_then(|call| call.called_mut()) {
            called.caller.get_or_insert_with(|| Box::new(Caller::of(0, true)));
        }
    }

    /// A goroutine waits for a call of its process that it made at some time, as is known now.
    fn goroutine_waits(
        &mut self,
        key: Key,
        Waiter { task: goroutine, parent, started_at }: Waiter,
        is_of_stream: bool,
        (made, process, now): (KernelInstant, ProcessKey, KernelInstant),
    ) {
        let call = self.tables.exchanges.get_mut(&key);
        let Some(called) = call.and_then(|call| call.called_mut()) else { return };
        let caller = called.caller.get_or_insert_with(|| Box::new(Caller::of(started_at, is_of_stream)));
        if goroutine == TaskId::default() {
            return;
        }
        if let Some(known) = caller.goroutine {
            caller.changed |= known != goroutine;
            return;
        }
        caller.goroutine = Some(goroutine);
        caller.started_at = started_at;
        let Some(known) = self.tables.processes.note(process) else { return };
        let goroutines = known.goroutines.get_or_insert_default();
        goroutines.count_proofs(now);
        let exchanges = &self.tables.exchanges;
        let read_by =
            |number: u64| exchanges.read_before(goroutines.reads.get(&number).into_iter().flatten(), made);
        let reader = |request: &Key| exchanges.get(request)?.served()?.reader.as_deref();
        let own = read_by(goroutine.number);
        let (requests, is_child) = if own.is_empty() && parent != 0 && started_at != 0 {
            let born = |request: &Key| {
                let unborn = reader(request).and_then(|reader| reader.unborn);
                unborn.is_some_and(|unborn| unborn.contains(goroutine.number))
            };
            let requests = read_by(parent);
            if requests.is_empty() && goroutines.streams_ended.get(&parent).is_some_and(|end| *end >= made) {
                // Made in time, and told too late: sessions of TLS wait for their sockets to be known, each for its own.
                return;
            }
            if requests.iter().any(|request| reader(request).is_some_and(|reader| reader.unborn.is_none())) {
                // Who is younger is not known, and so not that anybody lives on.
                return;
            }
            if goroutines.readers.contains(&parent) && !requests.iter().any(born) {
                // It lives on after the request in which it was started.
                goroutines.close(started_at);
                return;
            }
            (requests, true)
        } else {
            let known = own.into_iter().filter(|request| {
                reader(request).is_some_and(|reader| {
                    reader.goroutine.number == goroutine.number
                        && (goroutine.address == 0 || reader.goroutine == goroutine)
                })
            });
            (known.collect(), false)
        };
        if let Some(caller) = self.caller_mut(key) {
            caller.is_child = is_child;
        }
        for request in requests {
            let served = self.tables.exchanges.get_mut(&request).and_then(|request| request.served_mut());
            if let Some(reader) = served.and_then(|served| served.reader.as_deref_mut())
                && reader.calls.len() < MAX_CALLS
            {
                reader.calls.push(key);
                self.name_request(key, request);
            }
        }
    }

    /// A request that was given up will not be asked for any more.
    pub(super) fn goroutine_is_forgotten(&mut self, key: Key) {
        let Some(request) = self.tables.exchanges.get(&key) else { return };
        let Some(reader) = request.served().and_then(|served| served.reader.as_deref()) else { return };
        let known = self.tables.processes.find_mut(request.process());
        if let Some(goroutines) = known.and_then(|process| process.goroutines.as_deref_mut()) {
            goroutines.reads_no_more(reader.goroutine.number, key);
        }
    }

    fn caller_mut(&mut self, call: Key) -> Option<&mut Caller> {
        self.tables.exchanges.get_mut(&call)?.called_mut()?.caller.as_deref_mut()
    }

    /// A request has ended: calls may have waited for that.
    pub(super) fn goroutine_serves_no_more(&mut self, key: Key, process: ProcessKey) {
        let Some(request) = self.tables.exchanges.get_mut(&key) else { return };
        let end = request.end.map_or(self.now, |end| end.time);
        let (is_given_up, is_stream) = (request.is_given_up(), request.stream.is_some());
        let Some(reader) = request.served_mut().and_then(|served| served.reader.as_deref_mut()) else {
            return;
        };
        let (number, calls) = (reader.goroutine.number, std::mem::take(&mut reader.calls));
        let Some(goroutines) =
            self.tables.processes.find_mut(process).and_then(|process| process.goroutines.as_deref_mut())
        else {
            return;
        };
        if !is_given_up {
            goroutines.reads_no_more(number, key);
            if is_stream {
                goroutines.streams_ended.insert(number, end);
                if goroutines.streams_ended.len() > MAX_READERS {
                    goroutines.streams_ended.pop_first();
                }
            }
        }
        let exchanges = &self.tables.exchanges;
        let due = end.plus(OUTLIVE);
        let children: Vec<(Key, u64, bool)> = calls
            .iter()
            .filter_map(|call| {
                let exchange = exchanges.get(call)?;
                let called = exchange.called()?;
                let caller = called.caller.as_deref().filter(|caller| caller.is_child)?;
                let within = called.answered == Answering::One(key) && exchange.end.is_some();
                Some((*call, caller.started_at, within))
            })
            .collect();
        for (_, started_at, within) in &children {
            if *within && goroutines.proofs.len() < MAX_PROOFS {
                goroutines.proofs.push_back((due, *started_at));
            }
        }
        for (call, ..) in children {
            self.plan(Look::Outlived, due, call);
        }
    }
}

impl ConnFacts {
    /// The same, of runtimes whose tasks have stacks of their own, and do one thing after the other: greenlets and virtual
    /// threads are what goroutines are, but for the numbers of greenlets, which are addresses and are given out again.
    fn goes(&self, direction: Direction) -> Option<&TaskIdentified> {
        let runtimes = [Runtime::Go, Runtime::Greenlet, Runtime::Java];
        runtimes.into_iter().find_map(|runtime| self.identified(runtime, direction))
    }

    /// Whose work the operation was that began the last turn, as this runtime told.
    pub(super) fn identified(&self, runtime: Runtime, direction: Direction) -> Option<&TaskIdentified> {
        let identified = self.identified[usize::from(direction.code())].as_deref()?;
        (identified.runtime == runtime).then_some(identified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_nobody_had_are_those_behind_the_last_and_those_in_caches() {
        let mut words = [0; 16];
        words[2] = 64;
        words[3] = 20 << 8 | 13;
        words[5] = 49 << 8 | 16;
        let tasks: Vec<TaskId> =
            words.chunks(2).map(|pair| TaskId { address: pair[0], number: pair[1] }).collect();
        let unborn = Unborn::of(&tasks).unwrap();
        let contained: Vec<u64> = (0..70).filter(|number| unborn.contains(*number)).collect();
        let wanted: Vec<u64> = (20..33).chain(49..70).collect();
        assert_eq!(contained, wanted);
        assert!(Unborn::of(&tasks[..3]).is_none());
    }

    #[test]
    fn a_place_is_believed_after_its_time_and_closed_for_good() {
        let at = KernelInstant::from_nanos;
        let mut goroutines = Goroutines::default();
        goroutines.proofs.extend([(at(10), 7), (at(20), 7)]);
        goroutines.count_proofs(at(10));
        assert_eq!(goroutines.site(7).proofs, 1);
        goroutines.close(7);
        goroutines.count_proofs(at(100));
        assert!(goroutines.site(7).is_closed);
        assert!(!goroutines.site(8).is_closed);
        (0..5000).for_each(|place| goroutines.close(place));
        assert!(goroutines.sites.len() <= MAX_SITES);
    }
}
