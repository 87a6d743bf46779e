//! Tokio's memory: which task is polled on a thread, and which task waits for the call that it sends.
//!
//! A task that writes and reads its own connection is its own caller. Clients that keep connections (hyper's, and what is
//! built on it) give each one a task of its own, which answers through a oneshot channel:
//!
//! ```text
//! thread-local id ─→ header on the stack ─→ future ─→ oneshot ─→ waker of the receiver ─→ header of the task that waits
//! ```
//!
//! The channel is known by its sender's waker, which is that of the very task that is polled. A waker leads to a header,
//! or to an entry of a `FuturesUnordered` or `JoinSet`, which knows the waker of the task that has it. A task whose
//! handle is awaited has the waker of who awaits it, and so on up.
//!
//! As in [`crate::python`], whatever is read may be anything, and what is not confirmed is not known. A header is
//! one whose table of functions is in what the linker makes read-only, leads into the program's code seven times, and
//! has offsets that make sense. It knows no version and no symbol: where the id is that is thread-local is found out by
//! comparing ([`Learning`]).

use crate::python::{CHAIN_TASKS, Memory};

/// Words of the stack among which the task's header is looked for: its outermost frames are 2,000 from the innermost in
/// programs that are not optimized.
pub const MAX_STACK_WORDS: u32 = 4096;

/// Words up from the stack pointer among which any header is: 460 in optimized programs, 930 in others were seen.
pub const MAX_NEAR_WORDS: u32 = 1024;

/// Words of a future that are looked through, and of what may be a channel.
pub const MAX_FUTURE_WORDS: u32 = 2048;

/// Words among which a future in a box has the box.
pub const MAX_BOX_WORDS: u32 = 8;

/// Wakers and tasks from a call to the task that nobody waits for.
pub const MAX_CLIMBS: u32 = 2 * CHAIN_TASKS as u32 + 4;

/// Words of thread-local memory among which the id is looked for, and how many fit into one of a record's.
pub const MAX_LOCAL_WORDS: u64 = 64 * LOCAL_WORDS as u64;
pub const LOCAL_WORDS: usize = 14;

/// Stacks that are looked through for a header, in all the life of a process: where it is found once it is again, since a
/// thread's outermost frames are always the same.
pub const MAX_SEARCHES: u64 = 512;

/// Futures of one type that are looked through in vain, before its tasks are taken to have no channel.
const MAX_MISSES: u64 = 16;

/// Places below the thread pointer where headers are found, kinds of headers, kinds of futures.
pub const SLOTS: usize = 4;
const KINDS: usize = 16;

// Of a header, and of the table of functions that it leads to.
const HEADER_TABLE: u64 = 16;
const TABLE_FUNCTIONS: u64 = 7;
const TABLE_TRAILER: u64 = 56;
const TABLE_SCHEDULER: u64 = 64;
const TABLE_ID: u64 = 72;
const MAX_ID_AT: u64 = 512;
const MAX_TRAILER_AT: u64 = 1 << 17;

// A task's state.
const COMPLETE: u64 = 1 << 1;
const JOIN_INTEREST: u64 = 1 << 3;
const JOIN_WAKER: u64 = 1 << 4;
/// From the trailer: behind the links of the list of all tasks.
const TRAILER_WAKER: u64 = 16;

// Of a oneshot channel, from where its sender's waker is: behind the counts of its `Arc`, or further behind what is sent,
// which the compiler puts first if its size is a multiple of 16.
const ONESHOT_RECEIVER: u64 = 16;
const ONESHOT_STATE: u64 = 32;
const ONESHOT_FIRST: u64 = 16;
const ONESHOT_LAST: u64 = 1024;
const RECEIVER_WAITS: u64 = 1;
const VALUE_SENT: u64 = 2;
const CLOSED: u64 = 4;
const SENDER_WAITS: u64 = 8;

/// A task is a number that is given out once, from 1 on.
const MAX_ID: u64 = 1 << 40;

/// How a walk to the task that waits ended: [`crate::event::IdentityRecord::end`]. A task is told by the table of functions
/// of its kind, which stands for the place that starts such tasks, and its id.
pub mod walk_end {
    /// The last task is one that nobody waits for.
    pub const TOP: u64 = 0;
    /// Who waits for the last task is not known.
    pub const UNKNOWN: u64 = 1;
    /// The task has a channel for the response, and who waits there is not known: the task that is told is none.
    pub const NOBODY_YET: u64 = 2;
    /// A server reads: the task, and the next number of a task, or zero.
    pub const READS: u64 = 3;
    /// Where the id is kept is not known yet. Bits of the words below the thread pointer that are ids of headers on the stack,
    /// the nearest first; then one of these ids.
    pub const LEARNS: u64 = 4;
}

/// A process whose tasks are known, the value of the kernel half's table of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TokioProcess {
    /// As in [`crate::python::PythonProcess`].
    pub start_boottime: u64,
    /// What is read-only once the program is loaded, and its code.
    pub constants: u64,
    pub constants_end: u64,
    pub code: u64,
    pub code_end: u64,
    /// Bytes below the thread pointer: the current task's id. Zero: not known yet.
    pub local_id: u64,
    /// Words below the thread pointer that can be it.
    pub local_words: u64,
    /// The next number for a task; zero where it is not known.
    pub next_id: u64,
    // Written by the kernel half, each a word of its own, since several threads may.
    /// The table of functions of wakers that are tasks.
    pub waker_table: u64,
    /// Bytes below the thread pointer: a header.
    pub slots: [u64; SLOTS],
    /// A table of functions, and what it says: [`TokioProcess::shape`].
    pub shapes: [u64; KINDS],
    /// A kind of future, and where it has its channel: [`TokioProcess::hint`].
    pub hints: [u64; KINDS],
    pub searches: u64,
    /// What the kernel half spent on this process, and how often it looked.
    pub spent_nanos: u64,
    pub looks: u64,
}

impl TokioProcess {
    #[inline(always)]
    const fn is_constant(&self, address: u64) -> bool {
        address >= self.constants && address < self.constants_end && address & 7 == 0
    }

    #[inline(always)]
    const fn is_code(&self, address: u64) -> bool {
        address.wrapping_sub(self.code) < self.code_end - self.code
    }

    /// The number of a constant, which is never zero.
    #[inline(always)]
    const fn number(&self, constant: u64) -> u64 {
        (((constant - self.constants) >> 3) + 1) & 0xffff_ffff
    }

    /// A table's number, then the trailer's and the id's place in words; zero: it is none of a header's.
    #[inline(always)]
    fn shape<M: Memory>(&self, memory: &M, table: u64) -> u64 {
        if !self.is_constant(table) {
            return 0;
        }
        let number = self.number(table);
        let known = self.shapes[number as usize % KINDS];
        if known >> 32 == number {
            return known;
        }
        let word = |offset: u64| memory.word(table.wrapping_add(offset));
        // Without a branch for each: a verifier walks them all.
        let mut fits = true;
        let mut at = 0;
        while at < TABLE_FUNCTIONS {
            fits &= self.is_code(word(8 * at));
            at += 1;
        }
        let (trailer, scheduler, id) = (word(TABLE_TRAILER), word(TABLE_SCHEDULER), word(TABLE_ID));
        fits &= (trailer | scheduler | id) & 7 == 0;
        fits &= (scheduler >= 32) & (id >= scheduler) & (id <= MAX_ID_AT);
        fits &= (trailer > id) & (trailer <= MAX_TRAILER_AT);
        if fits { number << 32 | trailer >> 3 << 16 | id >> 3 } else { 0 }
    }

    /// What is known of a kind of future: the place of its channel in words, from 1 on; how often it was looked through in vain;
    /// and where the channel has its sender, in units of 16 bytes. Of 16, 8 and 8 bits.
    #[inline(always)]
    const fn hint(&self, kind: u64) -> u64 {
        let known = self.hints[self.number(kind) as usize % KINDS];
        if known >> 32 == self.number(kind) { known & 0xffff_ffff } else { 0 }
    }

    #[inline(always)]
    fn remember(&mut self, kind: u64, hint: u64) {
        let number = self.number(kind);
        self.hints[number as usize % KINDS] = number << 32 | hint;
    }
}

/// Whether a word can be the address of an object of the program's.
#[inline(always)]
const fn is_address(word: u64) -> bool {
    word >> 47 == 0 && word & 7 == 0 && word >= 0x1_0000
}

/// The same, and not one of its constants.
#[inline(always)]
const fn is_object(process: &TokioProcess, word: u64) -> bool {
    is_address(word) && !process.is_constant(word)
}

/// Whether the counts of an `Arc` are those of a channel with its two ends.
#[inline(always)]
fn is_shared<M: Memory>(memory: &M, address: u64) -> bool {
    let (strong, weak) = (memory.word(address), memory.word(address.wrapping_add(8)));
    (strong == 1 || strong == 2) && weak == 1
}

/// A task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    pub address: u64,
    pub id: u64,
    /// Its table of functions: each type of future has its own.
    pub table: u64,
    shape: u64,
}

impl Header {
    /// The task at an address, if there is one.
    #[inline(always)]
    pub fn at<M: Memory>(memory: &M, process: &TokioProcess, address: u64) -> Option<Self> {
        if !is_object(process, address) {
            return None;
        }
        let table = memory.word(address.wrapping_add(HEADER_TABLE));
        let shape = process.shape(memory, table);
        if shape == 0 {
            return None;
        }
        let id = memory.word(address.wrapping_add((shape & 0xffff) << 3));
        (id != 0 && id < MAX_ID).then_some(Self { address, id, table, shape })
    }

    const fn future(&self) -> u64 {
        self.address.wrapping_add(((self.shape & 0xffff) << 3) + 8)
    }

    const fn trailer(&self) -> u64 {
        self.address.wrapping_add((self.shape >> 16 & 0xffff) << 3)
    }

    /// Takes down what its table says.
    #[inline(always)]
    pub fn remember(&self, process: &mut TokioProcess) {
        process.shapes[(self.shape >> 32) as usize % KINDS] = self.shape;
    }
}

/// The id of the task that is polled on a thread; zero: none is.
#[inline(always)]
pub fn current<M: Memory>(memory: &M, process: &TokioProcess, thread_pointer: u64) -> u64 {
    memory.word(thread_pointer.wrapping_sub(process.local_id))
}

/// The task's header, where one was found before.
#[inline(always)]
pub fn in_slot<M: Memory>(
    memory: &M,
    process: &TokioProcess,
    thread_pointer: u64,
    id: u64,
) -> Option<Header> {
    let mut index = 0;
    while index < SLOTS {
        let slot = process.slots[index];
        if slot == 0 {
            break;
        }
        let address = memory.word(thread_pointer.wrapping_sub(slot));
        if let Some(header) = Header::at(memory, process, address)
            && header.id == id
        {
            return Some(header);
        }
        index += 1;
    }
    None
}

/// Looks for a task's header on the stack, where it is whatever the task does: near its outer end.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Search {
    at: u64,
    /// Inwards from the end, or outwards where that is not known.
    inwards: u64,
    stack_pointer: u64,
    id: u64,
    /// Where it was found outermost.
    found_at: u64,
    header: Header,
}

impl Search {
    #[inline(always)]
    pub fn begin(stack_pointer: u64, thread_pointer: u64, id: u64) -> Self {
        // A thread's stack ends below what it has for itself; the first thread's is elsewhere.
        let far = stack_pointer.wrapping_add(8 * u64::from(MAX_STACK_WORDS));
        let inwards = stack_pointer < thread_pointer && thread_pointer < far;
        let at = if inwards { thread_pointer } else { stack_pointer };
        Self {
            at: at & !7,
            inwards: inwards as u64,
            stack_pointer,
            id,
            found_at: 0,
            header: Header::default(),
        }
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_STACK_WORDS`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &TokioProcess) -> bool {
        if let Some(header) = Header::at(memory, process, memory.word(self.at))
            && header.id == self.id
        {
            self.found_at = self.at;
            self.header = header;
            if self.inwards != 0 {
                return false;
            }
        }
        let step = if self.inwards != 0 { 8_u64.wrapping_neg() } else { 8 };
        self.at = self.at.wrapping_add(step);
        self.at >= self.stack_pointer
    }

    /// The header, whose id is zero if there is none; where it was found is taken down.
    #[inline(always)]
    pub fn found(&self, process: &mut TokioProcess, thread_pointer: u64) -> Header {
        process.searches += 1;
        if self.found_at == 0 {
            return Header::default();
        }
        let slot = thread_pointer.wrapping_sub(self.found_at);
        // The last place is for whatever else there is.
        let mut index = 0;
        while index < SLOTS - 1 && process.slots[index] != 0 && process.slots[index] != slot {
            index += 1;
        }
        process.slots[index] = slot;
        self.header.remember(process);
        self.header
    }
}

/// Finds out where the current task's id is: whose headers are on the stack, and where their ids are below the thread pointer.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Learning {
    at: u64,
    ids: [u64; 4],
    len: u64,
    thread_pointer: u64,
    words: u64,
}

impl Learning {
    #[inline(always)]
    pub fn begin(process: &TokioProcess, stack_pointer: u64, thread_pointer: u64) -> Self {
        let words = if process.local_words < MAX_LOCAL_WORDS { process.local_words } else { MAX_LOCAL_WORDS };
        Self { at: stack_pointer & !7, ids: [0; 4], len: 0, thread_pointer, words }
    }

    /// Takes a step up the stack. To be called [`MAX_NEAR_WORDS`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &TokioProcess) -> bool {
        if let Some(Header { id, .. }) = Header::at(memory, process, memory.word(self.at))
            && !self.has(id)
        {
            self.ids[self.len as usize & 3] = id;
            self.len += 1;
        }
        self.at = self.at.wrapping_add(8);
        self.len < 4
    }

    #[inline(always)]
    const fn has(&self, id: u64) -> bool {
        self.ids[0] == id || self.ids[1] == id || self.ids[2] == id || self.ids[3] == id
    }

    /// The first id that was found; zero: none was.
    pub const fn id(&self) -> u64 {
        self.ids[0]
    }

    /// Compares a word below the thread pointer, counted from 0. True if another one is to be compared.
    #[inline(always)]
    pub fn compare<M: Memory>(&self, memory: &M, index: u64, bits: &mut [u64; 2 * CHAIN_TASKS]) -> bool {
        if index >= self.words {
            return false;
        }
        let word = memory.word(self.thread_pointer.wrapping_sub(8 * (index + 1)));
        if word != 0 && self.has(word) {
            bits[(index >> 6) as usize & 15] |= 1 << (index & 63);
        }
        true
    }
}

/// Looks for the channel through which a connection's task answers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Channel {
    header: Header,
    /// The future, or what of it is in a box.
    start: u64,
    words: u64,
    /// The kind of future.
    kind: u64,
    index: u64,
    /// What may be a channel, and which of its words may be its sender.
    candidate: u64,
    sender: u64,
    found: u64,
    found_at: u64,
    found_sender: u64,
    /// There are several.
    several: u64,
}

impl Channel {
    #[inline(always)]
    pub fn begin(header: &Header) -> Self {
        let start = header.future();
        let words = header.trailer().wrapping_sub(start) >> 3;
        Self { header: *header, start, words, kind: header.table, ..Self::default() }
    }

    /// A future of a few words may be a box: the next of [`MAX_BOX_WORDS`] is looked at. True if another one is to be.
    #[inline(always)]
    pub fn unbox<M: Memory>(&mut self, memory: &M, process: &TokioProcess) -> bool {
        if self.words > MAX_BOX_WORDS as u64 || self.index + 1 >= self.words {
            self.index = 0;
            return false;
        }
        let at = self.start.wrapping_add(8 * self.index);
        let (data, table) = (memory.word(at), memory.word(at.wrapping_add(8)));
        self.index += 1;
        if !is_object(process, data) || !process.is_constant(table) {
            return true;
        }
        // Of any trait: what drops it, size, alignment, its first function.
        let word = |offset: u64| memory.word(table.wrapping_add(offset));
        let (drops, size, align) = (word(0), word(8), word(16));
        if drops != 0 && !process.is_code(drops)
            || !(64..=MAX_TRAILER_AT).contains(&size)
            || !(8..=128).contains(&align)
            || align & (align - 1) != 0
            || !process.is_code(word(24))
        {
            return true;
        }
        self.start = data;
        self.words = size >> 3;
        self.kind = table;
        self.index = 0;
        false
    }

    /// Whether it is to be looked for, after it was looked for where it was before.
    #[inline(always)]
    pub fn is_sought<M: Memory>(&mut self, memory: &M, process: &TokioProcess) -> bool {
        self.index = 0;
        let hint = process.hint(self.kind);
        let (place, sender) = (hint & 0xffff, (hint >> 24) << 4);
        if place == 0 {
            return hint >> 16 & 0xff < MAX_MISSES;
        }
        let channel = memory.word(self.start.wrapping_add(8 * (place - 1)));
        if place <= self.words
            && is_object(process, channel)
            && is_shared(memory, channel)
            && self.is_sender(memory, process, channel.wrapping_add(sender))
        {
            self.found = channel;
            self.found_at = place;
            self.found_sender = sender;
            return false;
        }
        true
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_FUTURE_WORDS`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &TokioProcess) -> bool {
        if self.candidate != 0 {
            if self.is_sender(memory, process, self.candidate.wrapping_add(self.sender)) {
                if self.found != 0 {
                    self.several = 1;
                    return false;
                }
                self.found = self.candidate;
                self.found_at = self.index;
                self.found_sender = self.sender;
                self.candidate = 0;
                return true;
            }
            self.sender += 16;
            if self.sender > ONESHOT_LAST {
                self.candidate = 0;
            }
            return true;
        }
        if self.index >= self.words {
            return false;
        }
        let channel = memory.word(self.start.wrapping_add(8 * self.index));
        self.index += 1;
        if is_object(process, channel) && channel != self.found && is_shared(memory, channel) {
            self.candidate = channel;
            self.sender = ONESHOT_FIRST;
        }
        true
    }

    /// A channel on which nothing was sent yet, and whose sender is woken as the task that is polled.
    #[inline(always)]
    fn is_sender<M: Memory>(&self, memory: &M, process: &TokioProcess, sender: u64) -> bool {
        let waker = Waker::at(memory, process, sender);
        if waker.data != self.header.address || waker.table == 0 {
            return false;
        }
        let state = memory.word(sender.wrapping_add(ONESHOT_STATE));
        state & (SENDER_WAITS | VALUE_SENT) == SENDER_WAITS && state < 16
    }

    /// Takes down where it was, or that it was not there.
    #[inline(always)]
    pub fn remember(&self, process: &mut TokioProcess) {
        let hint = process.hint(self.kind);
        if self.found_at != 0 && self.several == 0 {
            process.remember(self.kind, self.found_at & 0xffff | (self.found_sender >> 4 & 0xff) << 24);
        } else if hint & 0xffff == 0 && hint >> 16 & 0xff < MAX_MISSES {
            process.remember(self.kind, hint + (1 << 16));
        }
    }

    /// The task has none: it makes its calls itself, as far as can be seen.
    pub const fn is_absent(&self) -> bool {
        self.found == 0
    }

    /// The waker of who waits for the response.
    #[inline(always)]
    pub fn receiver<M: Memory>(&self, memory: &M, process: &TokioProcess) -> Waker {
        if self.found == 0 || self.several != 0 {
            return Waker::default();
        }
        let sender = self.found.wrapping_add(self.found_sender);
        let waits = || {
            let state = memory.word(sender.wrapping_add(ONESHOT_STATE));
            state & (RECEIVER_WAITS | VALUE_SENT | CLOSED) == RECEIVER_WAITS
        };
        if !waits() {
            return Waker::default();
        }
        let waker = Waker::at(memory, process, sender.wrapping_add(ONESHOT_RECEIVER));
        if waits() { waker } else { Waker::default() }
    }
}

/// What wakes a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Waker {
    /// Its table of functions; zero: there is none.
    table: u64,
    data: u64,
}

impl Waker {
    /// Two words in an order that the compiler has chosen.
    #[inline(always)]
    fn at<M: Memory>(memory: &M, process: &TokioProcess, address: u64) -> Self {
        let (one, two) = (memory.word(address), memory.word(address.wrapping_add(8)));
        if process.is_constant(one) {
            Self { table: one, data: two }
        } else if process.is_constant(two) {
            Self { table: two, data: one }
        } else {
            Self::default()
        }
    }

    /// The task that it wakes, if it wakes one directly.
    #[inline(always)]
    fn task<M: Memory>(&self, memory: &M, process: &TokioProcess) -> Option<Header> {
        if self.table == 0 || process.waker_table != 0 && process.waker_table != self.table {
            return None;
        }
        let header = Header::at(memory, process, self.data)?;
        let mut at = 0;
        while process.waker_table == 0 && at < 4 {
            if !process.is_code(memory.word(self.table.wrapping_add(8 * at))) {
                return None;
            }
            at += 1;
        }
        Some(header)
    }
}

/// From `Arc`s that entries of collections begin with: where those have the waker of who polls them.
const UNORDERED_WAKER: u64 = 24;
const SET_WAKER: u64 = 56;

/// The way from one task to the one that waits for it, and so on.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Climb {
    /// To be noted next; its address is zero: what the waker wakes is.
    task: Header,
    waker: Waker,
    pub len: u64,
    /// [`walk_end`]
    pub end: u64,
    unwrapped: u64,
}

impl Climb {
    /// From the task itself.
    #[inline(always)]
    pub const fn from_task(task: &Header) -> Self {
        Self { task: *task, ..Self::from_waker(Waker { table: 0, data: 0 }) }
    }

    /// From a waker of it.
    #[inline(always)]
    pub const fn from_waker(waker: Waker) -> Self {
        let task = Header { address: 0, id: 0, table: 0, shape: 0 };
        Self { task, waker, len: 0, end: walk_end::UNKNOWN, unwrapped: 0 }
    }

    /// Takes a step; true if another one is to be taken. To be called [`MAX_CLIMBS`] times at most.
    #[inline(always)]
    pub fn step<M: Memory>(
        &mut self,
        memory: &M,
        process: &mut TokioProcess,
        tasks: &mut [u64; 2 * CHAIN_TASKS],
    ) -> bool {
        if self.task.address != 0 {
            return self.pass(memory, process, tasks);
        }
        if self.waker.table == 0 {
            return false;
        }
        if let Some(task) = self.waker.task(memory, process) {
            process.waker_table = self.waker.table;
            self.unwrapped = 0;
            self.task = task;
            return true;
        }
        if self.unwrapped != 0 {
            return false;
        }
        // Entries of collections hold on to these by an `Arc`, their first word.
        self.unwrapped = 1;
        if !is_object(process, self.waker.data) {
            return false;
        }
        let shared = memory.word(self.waker.data);
        if !is_object(process, shared) {
            return false;
        }
        let (strong, weak) = (memory.word(shared), memory.word(shared.wrapping_add(8)));
        if strong == 0 || strong > 1 << 16 || weak == 0 || weak > 1 << 16 {
            return false;
        }
        let unordered = Waker::at(memory, process, shared.wrapping_add(UNORDERED_WAKER));
        let set = Waker::at(memory, process, shared.wrapping_add(SET_WAKER));
        if unordered.task(memory, process).is_some() {
            self.waker = unordered;
        } else if set.task(memory, process).is_some() {
            self.waker = set;
        } else {
            return false;
        }
        true
    }

    /// Notes a task, and goes on to who waits for it. True if somebody does.
    #[inline(always)]
    fn pass<M: Memory>(
        &mut self,
        memory: &M,
        process: &TokioProcess,
        tasks: &mut [u64; 2 * CHAIN_TASKS],
    ) -> bool {
        let task = self.task;
        self.task.address = 0;
        if self.len >= CHAIN_TASKS as u64 {
            return false;
        }
        let at = 2 * (self.len as usize & (CHAIN_TASKS - 1));
        tasks[at] = task.table;
        tasks[at + 1] = task.id;
        self.len += 1;
        self.waker = Waker::default();
        let state = || memory.word(task.address) & (COMPLETE | JOIN_INTEREST | JOIN_WAKER);
        if state() != JOIN_INTEREST | JOIN_WAKER {
            self.end = walk_end::TOP;
            return false;
        }
        let waker = Waker::at(memory, process, task.trailer().wrapping_add(TRAILER_WAKER));
        if state() == JOIN_INTEREST | JOIN_WAKER {
            self.waker = waker;
        }
        true
    }
}

/// The next number of a task; zero where it is not known.
#[inline(always)]
pub fn next_id<M: Memory>(memory: &M, process: &TokioProcess) -> u64 {
    if process.next_id == 0 { 0 } else { memory.word(process.next_id) }
}
