//! HotSpot's memory: what a thread that sleeps in `LockSupport.park` waits for.
//!
//! A thread that parks says why, for tools to show: `Thread.parkBlocker` is the object that it waits for.
//!
//! ```text
//! thread pointer ─→ JavaThread ─→ Thread ─→ parkBlocker ─→ class ─→ name
//! ```
//!
//! | the blocker is | the thread waits for |
//! |---|---|
//! | a `FutureTask`, `ForkJoinTask` or of a class below, what waits for a `CompletableFuture` | a result |
//! | a condition, a `SynchronousQueue` | what a queue has, or a place in one |
//! | an `AbstractQueuedSynchronizer`: a lock, a semaphore; but no `CountDownLatch` | its turn |
//! | anything else, or nothing | not known: each may be any of these |
//!
//! It sleeps in a variable of its own, inside of its `JavaThread`: one that is woken elsewhere waits for something of the
//! machine's, whatever it had parked for. Whoever wakes it is in the machine's code itself, where a collector that moves
//! objects waits for it; collectors that wait for nobody are not known here. `Thread` and `JavaThread` confirm each other
//! all the same, and a class is known by its whole name: no program may have classes of its own in `java.*`.

use crate::event::Awaited;
use crate::java::JavaThreads;
use crate::python::Memory;

/// From the list of a class's ancestors: the one below `Object`, which is itself for many.
const FIRST_ANCESTOR: u64 = 8;

/// From the same list, of the class of a thread: the one below `Thread`, if it is not `Thread` itself.
const BELOW_THREAD: u64 = 16;

/// [`JavaWaits::flags`]
pub mod java_flags {
    /// References are half words on the heap.
    pub const NARROW_REFERENCES: u32 = 1;
    /// What an object says of its class is a half word.
    pub const NARROW_CLASSES: u32 = 1 << 1;
}

/// A process whose threads' waits are known, the value of the kernel half's table of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct JavaWaits {
    /// As in [`crate::python::PythonProcess`].
    pub start_boottime: u64,
    pub threads: JavaThreads,
    /// The heap: what says of it how often its objects have moved, from where on it is, and where it ends. Zeroes: not known,
    /// and with it no task of a pool ([`crate::java_work`]).
    pub heap: u64,
    pub heap_start: u64,
    pub heap_end: u64,
    /// The class of what threads of a `ThreadPoolExecutor` run, `ThreadPoolExecutor$Worker`. Zero: not met yet.
    pub worker: u64,
    /// The classes `FutureTask` and `ForkJoinTask`, once they were met. Written by the kernel half.
    pub future_task: u64,
    pub fork_join_task: u64,
    /// What the kernel half spent on this process, and how often it looked.
    pub spent_nanos: u64,
    pub looks: u64,
    /// What half words are relative to, once shifted.
    pub reference_base: u64,
    pub class_base: u64,
    pub reference_shift: u32,
    pub class_shift: u32,
    /// [`java_flags`]
    pub flags: u32,
    /// How large a `JavaThread` is; and from one: the place that refers to its `Thread`.
    pub thread_bytes: u32,
    pub thread_object: u32,
    /// From a `Thread`: its `JavaThread`, and what it has parked for.
    pub thread_back: u32,
    pub thread_blocker: u32,
    /// From an object: its class.
    pub object_class: u32,
    /// From a class: its name, and its ancestors from `Object` on.
    pub class_name: u32,
    pub class_ancestors: u32,
    /// From a name: its length, and its text.
    pub name_len: u32,
    pub name_text: u32,
    /// From [`Self::heap`]: the number of collections, and a byte that is not zero while one moves objects.
    pub heap_collections: u32,
    pub heap_moves: u32,
    /// From a `JavaThread`: the beginning of the part of the heap in which it allocates, and how far it has come.
    pub buffer_start: u32,
    pub buffer_top: u32,
    /// From a `Thread`: what refers to what it runs (until 18 that is the `Thread` itself, which zero says); and from that:
    /// what it runs.
    pub thread_holder: u32,
    pub holder_runs: u32,
    /// From a [`Self::worker`]: its `Thread`, and how many tasks it has run.
    pub worker_thread: u32,
    pub worker_tasks: u32,
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub awaited: Awaited,
    /// What it has parked for. Zero: not known.
    pub blocker: u64,
    /// Of a result: the blocker's class next to `Object`.
    pub class: u64,
    pub kind: Kind,
}

/// Whose result it is that a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The blocker's.
    FutureTask,
    ForkJoinTask,
    /// A `CompletableFuture`'s, of which the blocker, of a class below `ForkJoinTask`, says nothing.
    Completion,
    /// Nobody's.
    Other,
}

impl Wait {
    const UNKNOWN: Self = Self::other(Awaited::Unknown);

    const fn other(awaited: Awaited) -> Self {
        Self { awaited, blocker: 0, class: 0, kind: Kind::Other }
    }
}

impl JavaWaits {
    /// The object that a field refers to.
    #[inline(always)]
    pub fn reference<M: Memory>(&self, memory: &M, field: u64) -> u64 {
        if self.flags & java_flags::NARROW_REFERENCES == 0 {
            return memory.word(field);
        }
        let narrow = u64::from(memory.half(field));
        if narrow == 0 { 0 } else { self.reference_base.wrapping_add(narrow << (self.reference_shift & 63)) }
    }

    #[inline(always)]
    pub fn class_of<M: Memory>(&self, memory: &M, object: u64) -> u64 {
        let field = object.wrapping_add(u64::from(self.object_class));
        if self.flags & java_flags::NARROW_CLASSES == 0 {
            return memory.word(field);
        }
        let narrow = u64::from(memory.half(field));
        if narrow == 0 { 0 } else { self.class_base.wrapping_add(narrow << (self.class_shift & 63)) }
    }

    /// The class itself or its ancestor that is next to `Object`. Zero: there is none.
    #[inline(always)]
    pub fn ancestor<M: Memory>(&self, memory: &M, class: u64) -> u64 {
        memory.word(class.wrapping_add(u64::from(self.class_ancestors)).wrapping_add(FIRST_ANCESTOR))
    }

    /// The `Thread` of a `JavaThread`, if they confirm each other. Else zero.
    #[inline(always)]
    pub fn object_of<M: Memory>(&self, memory: &M, thread: u64) -> u64 {
        let place = memory.word(thread.wrapping_add(u64::from(self.thread_object)));
        let object = memory.word(place);
        let back = memory.word(object.wrapping_add(u64::from(self.thread_back)));
        if place != 0 && object != 0 && back == thread { object } else { 0 }
    }

    /// What a thread waits for that sleeps at this futex. `thread_pointer` is its `fs` base.
    #[inline(always)]
    pub fn wait<M: Memory>(&self, memory: &M, thread_pointer: u64, futex: u64) -> Wait {
        let thread = self.threads.find(memory, thread_pointer);
        if thread == 0 || futex.wrapping_sub(thread) >= u64::from(self.thread_bytes) {
            return Wait::UNKNOWN;
        }
        let object = self.object_of(memory, thread);
        if object == 0 {
            return Wait::UNKNOWN;
        }
        let blocker = self.reference(memory, object.wrapping_add(u64::from(self.thread_blocker)));
        if blocker == 0 {
            return Wait::UNKNOWN;
        }
        let class = self.class_of(memory, blocker);
        let ancestor = self.ancestor(memory, class);
        if class == 0 || ancestor == 0 {
            return Wait::UNKNOWN;
        }
        let name = self.name(memory, ancestor);
        let result = |kind| Wait { awaited: Awaited::Result, blocker, class: ancestor, kind };
        if FUTURE_TASK.is(memory, name) {
            return result(Kind::FutureTask);
        }
        let own = self.name(memory, class);
        if FORK_JOIN_TASK.is(memory, name) {
            return result(if SIGNALLER.is(memory, own) { Kind::Completion } else { Kind::ForkJoinTask });
        }
        if CONDITION.is(memory, name) || LONG_CONDITION.is(memory, name) {
            return Wait::other(Awaited::Queue);
        }
        if SYNCHRONIZER.is(memory, name) && !LATCH.is(memory, own) {
            return Wait::other(Awaited::Other);
        }
        if SYNCHRONOUS_QUEUE.begins(memory, own) { Wait::other(Awaited::Queue) } else { Wait::UNKNOWN }
    }

    /// Whether a thread runs tasks of anybody's inside of others: one of a `ForkJoinPool`, or none of Java's that is known.
    #[inline(always)]
    pub(crate) fn shares_stack<M: Memory>(&self, memory: &M, thread_pointer: u64) -> bool {
        let object = self.object_of(memory, self.threads.find(memory, thread_pointer));
        let class = self.class_of(memory, object);
        if object == 0 || class == 0 {
            return true;
        }
        let below = class.wrapping_add(u64::from(self.class_ancestors)).wrapping_add(BELOW_THREAD);
        let below = memory.word(below);
        below != 0 && FORK_JOIN_WORKER.is(memory, self.name(memory, below))
    }

    /// Where a class's name is, and how long.
    #[inline(always)]
    fn name<M: Memory>(&self, memory: &M, class: u64) -> Text {
        let name = memory.word(class.wrapping_add(u64::from(self.class_name)));
        if name == 0 {
            return Text { at: 0, len: 0 };
        }
        let len = memory.half(name.wrapping_add(u64::from(self.name_len))) as u16;
        Text { at: name.wrapping_add(u64::from(self.name_text)), len }
    }
}

/// A text in a program's memory.
#[derive(Clone, Copy)]
struct Text {
    at: u64,
    len: u16,
}

/// A name that is known, as words.
struct Name<const WORDS: usize> {
    len: u16,
    words: [u64; WORDS],
}

const PREFIX: &str = "java/util/concurrent/";

static FUTURE_TASK: Name<4> = Name::new("FutureTask");
static FORK_JOIN_TASK: Name<5> = Name::new("ForkJoinTask");
static SIGNALLER: Name<6> = Name::new("CompletableFuture$Signaller");
static CONDITION: Name<9> = Name::new("locks/AbstractQueuedSynchronizer$ConditionObject");
static LONG_CONDITION: Name<10> = Name::new("locks/AbstractQueuedLongSynchronizer$ConditionObject");
static SYNCHRONOUS_QUEUE: Name<5> = Name::new("SynchronousQueue");
static SYNCHRONIZER: Name<7> = Name::new("locks/AbstractOwnableSynchronizer");
static LATCH: Name<5> = Name::new("CountDownLatch$Sync");
static FORK_JOIN_WORKER: Name<6> = Name::new("ForkJoinWorkerThread");

impl<const WORDS: usize> Name<WORDS> {
    /// Of a class in `java.util.concurrent`.
    const fn new(class: &str) -> Self {
        let (prefix, class) = (PREFIX.as_bytes(), class.as_bytes());
        let len = prefix.len() + class.len();
        assert!(WORDS == len.div_ceil(8));
        let mut words = [0; WORDS];
        let mut at = 0;
        while at < len {
            let byte = if at < prefix.len() { prefix[at] } else { class[at - prefix.len()] };
            words[at / 8] |= (byte as u64) << (8 * (at % 8));
            at += 1;
        }
        Self { len: len as u16, words }
    }

    #[inline(always)]
    fn is<M: Memory>(&self, memory: &M, text: Text) -> bool {
        text.len == self.len && self.begins(memory, text)
    }

    #[inline(always)]
    fn begins<M: Memory>(&self, memory: &M, text: Text) -> bool {
        if text.len < self.len {
            return false;
        }
        let mut differ = 0;
        for (index, word) in self.words.iter().enumerate() {
            let left = usize::from(self.len) - 8 * index;
            let mask = if left < 8 { (1 << (8 * left)) - 1 } else { u64::MAX };
            differ |= memory.word(text.at.wrapping_add(8 * index as u64)) & mask ^ word;
        }
        differ == 0
    }
}
