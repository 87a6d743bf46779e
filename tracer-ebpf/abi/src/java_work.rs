//! HotSpot's memory: the task of a pool that a thread runs, and whether a thread has made it.
//!
//! A thread of a `ThreadPoolExecutor` has the task that it runs in the frame of `runWorker`, which is among the outermost
//! of its stack and needs it still. Frames of compiled code say to the machine alone what they hold; so the words of the
//! stack are looked through from its beginning on, and the first that leads to a task is taken:
//!
//! | word | is a task if |
//! |---|---|
//! | an address in the heap | the class there is `FutureTask` or `ForkJoinTask` (as those of `CompletableFuture` are), or one below |
//!
//! It may be one that the thread has run before. What follows must hold of a task that is over as well: nobody can begin to
//! wait for that one any more, so that nobody is ever woken for it. A thread of a `ForkJoinPool` runs tasks inside of others,
//! of anybody's, and is not looked at.
//!
//! Objects move, but not while the machine says that none do and has not begun another collection since: an address and the
//! number of collections name an object, and no other one ever has both.
//!
//! Who has made an object is known while it lies where that thread allocates: each thread has a piece of the heap to itself
//! (its `ThreadLocalAllocBuffer`), which it fills from its start on. So an object that lies in there beyond where the thread
//! was when its request came ([`JavaThread::begins`]) was made for that request. A thread of a pool may have run other tasks
//! since it was seen to begin with something, of which nobody need have been told; so it has made the object for the task that
//! it runs only if that is the one which it began with: its worker counts them.

use crate::java_waits::JavaWaits;
use crate::python::{Memory, TaskId};

/// Words of a stack that are looked through: thread-local variables, half a dozen frames of the machine's, and those of
/// Java's down to the task. At most so many steps of [`JavaThread::step`].
pub const MAX_WORDS: u32 = 1024;

/// So many are read at once.
const WORDS: usize = 8;

/// After a stack without a task so many looks are left out, twice as many each time that there is none again.
const MAX_PAUSE: u32 = 256;

/// In place of a number of collections: objects are being moved, or it is not known whether they are.
const MOVING: u64 = u64::MAX;

/// In place of a number of tasks: the thread is of no pool that counts them.
const UNCOUNTED: u64 = u64::MAX;

/// Above addresses, which have 47 bits.
const COLLECTIONS_SHIFT: u32 = 48;

/// What is remembered of a thread.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct JavaThread {
    /// Where on its stack its task was found last. Zero: nowhere.
    slot: u64,
    /// Where it allocated when it began with what it does now, in which buffer, and the collections until then.
    mark: u64,
    mark_buffer: u64,
    mark_collections: u64,
    /// How many tasks it has run before that, or [`UNCOUNTED`].
    mark_tasks: u64,
    /// Not zero: the mark is one.
    marked: u32,
    reserved: u32,
    /// Looks that are left out yet, and next time.
    skip: u32,
    pause: u32,
    /// A look that is under way: the next word, and those that were read with it.
    at: u64,
    left: u64,
    collections: u64,
    words: [u64; WORDS],
    /// What it has found.
    task: u64,
}

/// With what a thread begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// A request, which is its own until it has answered it.
    Request,
    /// A task, or another part of the one that it runs.
    Task,
    /// The task behind the one that it runs, which is over.
    NextTask,
}

impl JavaThread {
    /// Begins to look for the task of a thread. True: [`Self::step`] is to be called until it says otherwise, [`MAX_WORDS`]
    /// times at most; then, or else, [`Self::task`].
    #[inline(always)]
    pub fn look<M: Memory>(&mut self, memory: &M, process: &JavaWaits, thread_pointer: u64) -> bool {
        self.task = 0;
        self.left = 0;
        self.collections = process.collections(memory);
        if self.collections == MOVING {
            return false;
        }
        if self.slot != 0 {
            let object = memory.word(self.slot);
            if process.is_task(memory, object) {
                self.task = object;
                return false;
            }
        } else if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.slot = 0;
        if process.shares_stack(memory, thread_pointer) {
            self.finds_nothing();
            return false;
        }
        self.at = thread_pointer;
        true
    }

    /// Looks at one more word; true if another one is to be looked at.
    #[inline(always)]
    pub fn step<M: Memory>(&mut self, memory: &M, process: &JavaWaits) -> bool {
        if self.left == 0 {
            let first = self.at.wrapping_sub(8 * WORDS as u64);
            memory.words(first, &mut self.words);
            self.left = WORDS as u64;
        }
        self.left -= 1;
        self.at = self.at.wrapping_sub(8);
        let word = self.words[self.left as usize & (WORDS - 1)];
        if process.is_task(memory, word) {
            (self.slot, self.task) = (self.at, word);
            return false;
        }
        true
    }

    /// The task that was found, with what names it as its number; zeroes if there is none.
    #[inline(always)]
    pub fn task<M: Memory>(&mut self, memory: &M, process: &JavaWaits) -> TaskId {
        let none = TaskId { address: 0, number: 0 };
        if self.slot == 0 {
            if self.at != 0 {
                self.finds_nothing();
            }
            return none;
        }
        self.at = 0;
        self.pause = 0;
        if self.task == 0 || process.collections(memory) != self.collections {
            return none;
        }
        TaskId { address: self.task, number: number(self.task, self.collections) }
    }

    #[inline(always)]
    fn finds_nothing(&mut self) {
        self.at = 0;
        self.pause = if self.pause == 0 { 1 } else { 2 * self.pause };
        if self.pause > MAX_PAUSE {
            self.pause = MAX_PAUSE;
        }
        self.skip = self.pause;
    }

    /// The thread, of which this is remembered, begins with something else: what it has made lies behind.
    #[inline(always)]
    pub fn begins<M: Memory>(&mut self, memory: &M, process: &JavaWaits, thread_pointer: u64, what: Begins) {
        self.marked = 0;
        let collections = process.collections(memory);
        let thread = process.threads.find(memory, thread_pointer);
        if collections == MOVING || thread == 0 {
            return;
        }
        let tasks = process.tasks_run(memory, thread);
        if tasks == UNCOUNTED && what != Begins::Request {
            return;
        }
        self.mark_tasks = if what == Begins::NextTask { tasks.wrapping_add(1) } else { tasks };
        let (buffer, top) = process.buffer(memory, thread);
        self.mark = top;
        self.mark_buffer = buffer;
        self.mark_collections = collections;
        self.marked = u32::from(process.collections(memory) == collections);
    }

    /// Whether the thread, of which this is remembered, has made the object since it began with what it does.
    #[inline(always)]
    pub fn has_made<M: Memory>(
        &self,
        memory: &M,
        process: &JavaWaits,
        thread_pointer: u64,
        object: u64,
    ) -> bool {
        let collections = process.collections(memory);
        let thread = process.threads.find(memory, thread_pointer);
        if collections == MOVING || self.marked == 0 || thread == 0 {
            return false;
        }
        if process.tasks_run(memory, thread) != self.mark_tasks {
            return false;
        }
        let (buffer, top) = process.buffer(memory, thread);
        let same = buffer == self.mark_buffer && collections == self.mark_collections;
        // Another buffer was begun later.
        let from = if same { self.mark } else { buffer };
        buffer != 0 && object >= from && object < top && process.collections(memory) == collections
    }
}

/// What names an object.
#[inline(always)]
const fn number(object: u64, collections: u64) -> u64 {
    object | collections << COLLECTIONS_SHIFT
}

impl JavaWaits {
    /// Whether tasks can be known.
    pub const fn knows_tasks(&self) -> bool {
        self.heap != 0
    }

    /// Whether threads of pools are known to be such.
    pub const fn knows_workers(&self) -> bool {
        self.worker != 0
    }

    /// Collections so far, or [`MOVING`]. No `Option`: two of them are compared as if both had a value, which the verifier
    /// takes for a use of what was never written.
    #[inline(always)]
    fn collections<M: Memory>(&self, memory: &M) -> u64 {
        if self.heap == 0 {
            return MOVING;
        }
        let collections = memory.half(self.heap.wrapping_add(u64::from(self.heap_collections)));
        let moves = memory.byte(self.heap.wrapping_add(u64::from(self.heap_moves)));
        if moves == 0 { u64::from(collections) } else { MOVING }
    }

    /// Whether a word leads to a task.
    #[inline(always)]
    fn is_task<M: Memory>(&self, memory: &M, word: u64) -> bool {
        if word < self.heap_start || word >= self.heap_end || word & 7 != 0 {
            return false;
        }
        let class = self.class_of(memory, word);
        let ancestor = if class == 0 { 0 } else { self.ancestor(memory, class) };
        ancestor != 0 && (ancestor == self.future_task || ancestor == self.fork_join_task)
    }

    /// How many tasks a thread of a pool has run, or [`UNCOUNTED`].
    #[inline(always)]
    pub fn tasks_run<M: Memory>(&self, memory: &M, thread: u64) -> u64 {
        let object = self.object_of(memory, thread);
        if self.worker == 0 || object == 0 {
            return UNCOUNTED;
        }
        let refers = |object: u64, field: u32| self.reference(memory, object.wrapping_add(u64::from(field)));
        let holder = if self.thread_holder == 0 { object } else { refers(object, self.thread_holder) };
        let runs = if holder == 0 { 0 } else { refers(holder, self.holder_runs) };
        if runs == 0
            || self.class_of(memory, runs) != self.worker
            || refers(runs, self.worker_thread) != object
        {
            return UNCOUNTED;
        }
        memory.word(runs.wrapping_add(u64::from(self.worker_tasks)))
    }

    /// Where a thread allocates: the beginning of its buffer, and how far it has come.
    #[inline(always)]
    fn buffer<M: Memory>(&self, memory: &M, thread: u64) -> (u64, u64) {
        let word = |offset: u32| memory.word(thread.wrapping_add(u64::from(offset)));
        (word(self.buffer_start), word(self.buffer_top))
    }
}
