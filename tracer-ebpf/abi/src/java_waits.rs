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

    /// What a thread waits for that sleeps at this futex: [`Awaited`]. `thread_pointer` is its `fs` base.
    #[inline(always)]
    pub fn awaited<M: Memory>(&self, memory: &M, thread_pointer: u64, futex: u64) -> Awaited {
        let thread = self.threads.find(memory, thread_pointer);
        if thread == 0 || futex.wrapping_sub(thread) >= u64::from(self.thread_bytes) {
            return Awaited::Unknown;
        }
        let object = self.object_of(memory, thread);
        if object == 0 {
            return Awaited::Unknown;
        }
        let blocker = self.reference(memory, object.wrapping_add(u64::from(self.thread_blocker)));
        if blocker == 0 {
            return Awaited::Unknown;
        }
        let class = self.class_of(memory, blocker);
        let ancestor = self.ancestor(memory, class);
        if class == 0 || ancestor == 0 {
            return Awaited::Unknown;
        }
        let name = self.name(memory, ancestor);
        if FUTURE_TASK.is(memory, name) || SIGNALLER.is(memory, name) || FORK_JOIN_TASK.is(memory, name) {
            return Awaited::Result;
        }
        if CONDITION.is(memory, name) || LONG_CONDITION.is(memory, name) {
            return Awaited::Queue;
        }
        let own = self.name(memory, class);
        if SYNCHRONIZER.is(memory, name) && !LATCH.is(memory, own) {
            return Awaited::Other;
        }
        if SYNCHRONOUS_QUEUE.begins(memory, own) { Awaited::Queue } else { Awaited::Unknown }
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
