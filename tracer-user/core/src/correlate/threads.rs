//! What each thread was seen to do: its open requests, what it received last, and where its events have gaps.

use tracer_abi::conn::SocketCookie;
use tracer_abi::task::{ProcessKey, Tid};

use super::exchange::Key;
use super::hash::NumberMap;
use super::readers::Reading;
use crate::event::{Thread as ThreadEvent, Waited};

/// Open requests noted per thread. A thread per request holds one, a loop any number: beyond this it is one.
const MAX_OPEN: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Thread {
    last_seq: u32,
    /// Events before this number were lost, or not seen. Exchanges that began before cannot rest on this thread.
    pub(super) whole_since: u32,
    /// Events were lost, and no request has begun since.
    pub(super) after_loss: bool,
    /// Requests whose first byte it read and that have not ended, in that order.
    pub(super) open: Vec<Key>,
    /// The connection of the request that it began last.
    serves: Option<SocketCookie>,
    /// It returned to a connection after it had served another: a loop does so, a thread of a pool as well.
    pub(super) returns: bool,
    /// It made a call outside of any request while the process was serving.
    pub(super) called_outside: bool,
    pub(super) run: Run,
    /// nginx: the call whose response it received last, also when it has waited since.
    pub(super) window: Option<Key>,
    /// What it slept for before its last operation.
    pub(super) waited: Waited,
    /// The call whose response it has not begun to read.
    pub(super) calling: Option<Key>,
    pub(super) reading: Reading,
}

/// What a thread received last since it last waited (`nvcsw` unchanged).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    nvcsw: u64,
    pub(super) last: Received,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Received {
    #[default]
    Nothing,
    /// Bytes, or the end, of the response to this call.
    Response(Key),
    /// Bytes of a request; which, once its head is understood.
    Request(Option<Key>),
    /// Bytes that are part of no exchange.
    Other,
    /// Events were lost: it could be anything.
    Unknown,
}

/// How an event continues its thread's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Continuity {
    Next,
    /// A further record of the same operation.
    Same,
    /// Others were lost before it.
    Gap,
    /// The number began anew: another thread with this id. Its predecessor's open requests are returned.
    Fresh,
    /// It came too late to be put in its place.
    Late,
    /// Not numbered: nothing can be said of this thread.
    Unnumbered,
}

type ThreadKey = (ProcessKey, Tid);

/// Threads that are found without the table: those that act now act again soon.
const RECENT: usize = 16;

#[derive(Debug)]
pub(super) struct Threads {
    table: NumberMap<ThreadKey, u32>,
    /// Where the table leads to; free ones are used again.
    slots: Vec<Thread>,
    free: Vec<u32>,
    /// By the last bits of the thread id: who was found there last.
    recent: [Option<(ThreadKey, u32)>; RECENT],
    max: usize,
}

impl Threads {
    pub(super) fn new(max: usize) -> Self {
        Self { table: NumberMap::default(), slots: Vec::new(), free: Vec::new(), recent: [None; RECENT], max }
    }

    pub(super) fn find(&self, process: ProcessKey, tid: Tid) -> Option<&Thread> {
        self.slots.get(self.slot((process, tid))? as usize)
    }

    pub(super) fn find_mut(&mut self, thread: ThreadEvent) -> Option<&mut Thread> {
        let slot = self.slot((thread.process, thread.tid))?;
        self.slots.get_mut(slot as usize)
    }

    /// The thread of an event; `None` when the table is full, or it is of none.
    pub(super) fn note(&mut self, thread: ThreadEvent) -> Option<&mut Thread> {
        if thread.is_nobodys() {
            return None;
        }
        let key = (thread.process, thread.tid);
        let slot = match self.slot(key) {
            Some(slot) => slot,
            None if self.table.len() >= self.max => return None,
            None => {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.slots.push(Thread::default());
                    // The bound on threads is far below 2^32.
                    self.slots.len() as u32 - 1
                });
                self.table.insert(key, slot);
                slot
            }
        };
        self.recent[place(key.1)] = Some((key, slot));
        self.slots.get_mut(slot as usize)
    }

    pub(super) fn exited(&mut self, process: ProcessKey, tid: Tid) -> Option<Thread> {
        let key = (process, tid);
        let slot = self.table.remove(&key)?;
        let recent = &mut self.recent[place(tid)];
        if recent.is_some_and(|(other, _)| other == key) {
            *recent = None;
        }
        self.free.push(slot);
        self.slots.get_mut(slot as usize).map(std::mem::take)
    }

    fn slot(&self, key: ThreadKey) -> Option<u32> {
        match self.recent[place(key.1)] {
            Some((recent, slot)) if recent == key => Some(slot),
            Some(_) | None => self.table.get(&key).copied(),
        }
    }
}

const fn place(tid: Tid) -> usize {
    tid.0 as usize % RECENT
}

impl Thread {
    /// Takes note of an event's number and run.
    pub(super) fn follow(&mut self, seq: u32, nvcsw: u64) -> Continuity {
        if seq == 0 {
            self.lose(u32::MAX);
            return Continuity::Unnumbered;
        }
        if seq == self.last_seq {
            return Continuity::Same;
        }
        let continuity = if seq == 1 {
            let fresh = self.last_seq != 0;
            *self = Self { open: std::mem::take(&mut self.open), ..Self::default() };
            if fresh { Continuity::Fresh } else { Continuity::Next }
        } else if seq < self.last_seq {
            return Continuity::Late;
        } else if seq == self.last_seq + 1 {
            Continuity::Next
        } else {
            Continuity::Gap
        };
        self.last_seq = seq;
        if nvcsw != self.run.nvcsw {
            self.run = Run { nvcsw, ..Run::default() };
        }
        if continuity == Continuity::Gap {
            self.lose(seq);
        }
        continuity
    }

    fn lose(&mut self, whole_since: u32) {
        self.whole_since = whole_since;
        self.after_loss = true;
        self.run.last = Received::Unknown;
    }

    /// It reads a request's first byte. Returns what else is open here, and the request that no longer fits in.
    /// `again`: it was this thread that read the connection's request before, too.
    pub(super) fn request_began(
        &mut self,
        key: Key,
        conn: SocketCookie,
        again: bool,
    ) -> (Vec<Key>, Option<Key>) {
        self.returns |= again && self.serves.is_some_and(|serves| serves != conn);
        self.serves = Some(conn);
        self.after_loss = false;
        let rivals = self.open.clone();
        let pushed_out = (self.open.len() >= MAX_OPEN).then(|| self.open.remove(0));
        self.open.push(key);
        (rivals, pushed_out)
    }

    pub(super) const fn has_served(&self) -> bool {
        self.serves.is_some()
    }

    pub(super) fn request_ended(&mut self, key: Key) {
        self.open.retain(|open| *open != key);
    }
}
