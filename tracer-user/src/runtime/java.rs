//! HotSpot, the Java machine of OpenJDK and its builds.
//!
//! It says itself where it has what ([`structs`]), and where a class's objects have their fields ([`classes`]). A version
//! is known when the tests have run it; to add one is to add it to [`VERSIONS`]. What it says must fit together in the
//! running process:
//!
//! | found | must be |
//! |---|---|
//! | the list of its threads | of threads whose `OSThread` has a pointer of a thread of glibc's |
//! | the machine's thread-local block | where each of these threads finds itself, and the only such place |
//! | `Thread` | the class that a thread's object is of, whose `eetop` leads back to the thread |
//! | references | lead from such an object's `name` to a `String` |

#[cfg(test)]
mod tests;
#[cfg(test)]
mod work_tests;

mod classes;
mod structs;

use std::collections::BTreeSet;

use tracer_abi::java::{JavaProcess, JavaThreads};
use tracer_abi::java_waits::{JavaWaits, java_flags};
use tracer_abi::task::ProcessKey;

use self::classes::Classes;
use self::structs::Structs;
use super::memory::Bytes;
use super::module::{Modules, Symbols};
use super::{Finding, Runtime, Waits};

/// Major versions, in which the tests have seen what is relied upon.
const VERSIONS: &[u32] = &[17, 25];

/// The first major version whose threads have the number of the virtual thread that they carry.
const FIRST_NUMBERED: u32 = 24;

/// Collectors that move objects only while all threads wait.
const COLLECTORS: [&str; 3] = ["UseSerialGC", "UseParallelGC", "UseG1GC"];

/// What a thread of a pool runs, and what any thread runs.
const WORKER: &str = "java/util/concurrent/ThreadPoolExecutor$Worker";
const RUNNABLE: &str = "Ljava/lang/Runnable;";

/// Options of the machine's that are looked through: 25 has 1289.
const MAX_OPTIONS: u64 = 1 << 13;

/// Threads that are looked at, and that must agree.
const MAX_THREADS: u64 = 64;
const MIN_THREADS: usize = 2;

/// Libraries with thread-local variables, and bytes of a block, where the machine may have its current thread.
const MAX_MODULES: u64 = 64;
const MAX_LOCAL: u64 = 512;

/// Threads end while they are looked at, and objects move.
const ATTEMPTS: usize = 5;

/// Of glibc's thread control block: the block itself, its vector; and before that how long it is.
const OWN_ADDRESS: u64 = 16;
const VECTOR: u64 = 8;
const VECTOR_LEN: u64 = 16;
const ENTRY_BYTES: u64 = 16;

/// The least stack that a thread has.
const MIN_STACK: u64 = 16 << 10;

const OTHER_LAYOUT: Failure = Failure::Unfit("it describes its threads in another way");

/// Which virtual threads run, and where its threads are. Before that version, threads do not say which ones they carry.
pub(super) fn examine<M: Bytes>(process: ProcessKey, modules: &Modules, memory: &M) -> Finding {
    let Some(machine) = Machine::of(modules, memory) else { return Finding::Nothing };
    let (name, found) = match machine {
        Ok(machine) => (machine.name(), machine.version().and_then(|()| machine.process(process))),
        Err(failure) => (Runtime("Java".to_owned()), Err(failure)),
    };
    match found {
        Ok(known) => Finding::Java(name, Box::new(known)),
        Err(Failure::NotYet(what)) => Finding::NotYet(name, what),
        Err(failure @ (Failure::Unfit(_) | Failure::Version | Failure::Collector)) => {
            Finding::Unknown(name, failure.to_string())
        }
    }
}

/// What a process's threads wait for.
pub(super) fn examine_waits<M: Bytes>(process: ProcessKey, modules: &Modules, memory: &M) -> Waits {
    let Some(machine) = Machine::of(modules, memory) else { return Waits::Nothing };
    let (name, found) = match machine {
        Ok(machine) => (machine.name(), machine.version().and_then(|()| machine.waits(process))),
        Err(failure) => (Runtime("Java".to_owned()), Err(failure)),
    };
    match found {
        Ok(waits) => Waits::Java(name, Box::new(waits)),
        Err(Failure::NotYet(what)) => Waits::NotYet(name, what),
        Err(failure @ (Failure::Unfit(_) | Failure::Version | Failure::Collector)) => {
            Waits::Unknown(name, failure.to_string())
        }
    }
}

/// Why threads are not known.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    NotYet(&'static str),
    Unfit(&'static str),
    Version,
    Collector,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotYet(what) => f.write_str(what),
            Self::Unfit(what) => write!(f, "{what}: a build whose layout is another one"),
            Self::Version => {
                let known: Vec<String> = VERSIONS.iter().map(u32::to_string).collect();
                write!(f, "it needs its place in the table of versions, which has {}", known.join(", "))
            }
            Self::Collector => f.write_str(
                "its collector moves objects while threads run; known are G1, Parallel and Serial",
            ),
        }
    }
}

/// A machine in a process: what it says of itself.
struct Machine<'m, M> {
    memory: &'m M,
    structs: Structs,
}

impl<'m, M: Bytes> Machine<'m, M> {
    /// `None`: there is none.
    fn of(modules: &Modules, memory: &'m M) -> Option<Result<Self, Failure>> {
        let base = modules.find(|path| path.ends_with("/libjvm.so"))?;
        let structs =
            Symbols::of(memory, base).and_then(|symbols| Structs::of(|name| symbols.word(name), memory));
        Some(match structs {
            Some(structs) if structs.is_empty() => Err(Failure::NotYet("the machine is being loaded")),
            Some(structs) => Ok(Self { memory, structs }),
            None => Err(Failure::Unfit("it is not HotSpot")),
        })
    }

    /// Its version's numbers; zeroes before it has started.
    fn numbers(&self) -> [u32; 3] {
        ["_vm_major_version", "_vm_minor_version", "_vm_security_version"].map(|name| {
            let variable = self.structs.variable("Abstract_VM_Version", &[name]);
            variable.map_or(0, |at| self.memory.half(at))
        })
    }

    fn name(&self) -> Runtime {
        let [major, minor, security] = self.numbers();
        Runtime(if major == 0 { "Java".to_owned() } else { format!("Java {major}.{minor}.{security}") })
    }

    fn version(&self) -> Result<(), Failure> {
        match self.numbers()[0] {
            0 => Err(Failure::NotYet("the machine is starting")),
            major if VERSIONS.contains(&major) => Ok(()),
            _ => Err(Failure::Version),
        }
    }

    fn field(&self, structure: &str, names: &[&str]) -> Result<u32, Failure> {
        self.structs.field(structure, names).ok_or(OTHER_LAYOUT)
    }

    fn variable(&self, structure: &str, names: &[&str]) -> Result<u64, Failure> {
        self.structs.variable(structure, names).ok_or(OTHER_LAYOUT)
    }

    fn word(&self, base: u64, offset: u32) -> u64 {
        self.memory.word(base.wrapping_add(u64::from(offset)))
    }

    /// Whether options are on; `None`: there is no such option.
    fn options<const N: usize>(&self, names: [&str; N]) -> Result<[Option<bool>; N], Failure> {
        let [address, name] = ["_addr", "_name"].map(|name| self.structs.field("JVMFlag", &[name]));
        let (Some(address), Some(name), Some(size)) = (address, name, self.structs.size("JVMFlag")) else {
            return Err(OTHER_LAYOUT);
        };
        let first = self.memory.word(self.variable("JVMFlag", &["flags"])?);
        let count = self.memory.word(self.variable("JVMFlag", &["numFlags"])?).min(MAX_OPTIONS);
        let mut found = [None; N];
        for option in (0..count).map(|n| first.wrapping_add(n * u64::from(size))) {
            let named = structs::text(self.memory, self.word(option, name));
            let place = named.and_then(|named| names.iter().position(|name| *name == named));
            if let Some(place) = place {
                found[place] = Some(self.memory.byte(self.word(option, address)) != 0);
            }
        }
        Ok(found)
    }

    /// Threads of the machine's, each with its thread pointer.
    fn threads(&self, os_thread: u32, pthread: u32) -> Result<Vec<(u64, u64)>, Failure> {
        let list = self.memory.word(self.variable("ThreadsSMRSupport", &["_java_thread_list"])?);
        let (len, threads) =
            (self.field("ThreadsList", &["_length"])?, self.field("ThreadsList", &["_threads"])?);
        let count = self.memory.half(list.wrapping_add(u64::from(len)));
        let first = self.word(list, threads);
        if list == 0 || count == 0 {
            return Err(Failure::NotYet("the machine is starting"));
        }
        let threads = (0..u64::from(count).min(MAX_THREADS)).map(|n| {
            let thread = self.memory.word(first.wrapping_add(8 * n));
            (thread, self.word(self.word(thread, os_thread), pthread))
        });
        let is_own =
            |pointer: u64| pointer != 0 && self.memory.word(pointer.wrapping_add(OWN_ADDRESS)) == pointer;
        Ok(threads.filter(|(thread, pointer)| *thread != 0 && is_own(*pointer)).collect())
    }

    /// Where, from a thread's pointer, its own structure is found.
    fn java_threads(&self) -> Result<(JavaThreads, Vec<(u64, u64)>), Failure> {
        // A field of `JavaThread` before it was one of all threads.
        let os_thread =
            self.field("JavaThread", &["_osthread"]).or_else(|_| self.field("Thread", &["_osthread"]))?;
        let pthread = self.field("OSThread", &["_pthread_id"])?;
        let mut failure = Failure::NotYet("it has too few threads to tell");
        for _ in 0..ATTEMPTS {
            let threads = self.threads(os_thread, pthread)?;
            if threads.len() < MIN_THREADS {
                continue;
            }
            match self.places(&threads).as_slice() {
                [(module, local)] => {
                    let known =
                        JavaThreads { module: *module, local: *local, os_thread, pthread, reserved: 0 };
                    return Ok((known, threads));
                }
                _ => failure = Failure::Unfit("its threads are not where they should be"),
            }
        }
        Err(failure)
    }

    /// Places of thread-local blocks where every thread has itself.
    fn places(&self, threads: &[(u64, u64)]) -> Vec<(u64, u32)> {
        let Some(((first, pointer), others)) = threads.split_first() else { return Vec::new() };
        let vector = |pointer: &u64| self.memory.word(pointer.wrapping_add(VECTOR));
        let modules = self.memory.word(vector(pointer).wrapping_sub(VECTOR_LEN)).min(MAX_MODULES);
        let mut places = Vec::new();
        for module in 1..=modules {
            let block = self.memory.word(vector(pointer).wrapping_add(ENTRY_BYTES * module));
            if block == 0 || block == u64::MAX {
                continue;
            }
            let here = (0..MAX_LOCAL)
                .step_by(8)
                .filter(|local| self.memory.word(block.wrapping_add(*local)) == *first);
            places.extend(here.map(|local| (module, local as u32)));
        }
        places.retain(|(module, local)| {
            others.iter().all(|(thread, pointer)| {
                let block = self.memory.word(vector(pointer).wrapping_add(ENTRY_BYTES * module));
                self.word(block, *local) == *thread
            })
        });
        places
    }

    fn process(&self, process: ProcessKey) -> Result<JavaProcess, Failure> {
        let (threads, listed) = self.java_threads()?;
        let asked = JavaProcess { start_boottime: process.start_boottime, threads, ..JavaProcess::default() };
        if self.numbers()[0] < FIRST_NUMBERED {
            return Ok(asked);
        }
        let known = JavaProcess {
            owner: self.field("JavaThread", &["_monitor_owner_id"])?,
            continuation: self.field("JavaThread", &["_cont_entry"])?,
            stack_base: self.field("JavaThread", &["_stack_base"])?,
            stack_bytes: self.field("JavaThread", &["_stack_size"])?,
            ..asked
        };
        if (0..ATTEMPTS).any(|_| self.have_stacks_and_numbers(&known, &listed)) {
            Ok(known)
        } else {
            Err(Failure::Unfit("its threads have no stacks or no numbers"))
        }
    }

    /// Whether each thread has a stack, and a number that no other one has.
    fn have_stacks_and_numbers(&self, known: &JavaProcess, threads: &[(u64, u64)]) -> bool {
        let mut numbers = BTreeSet::new();
        threads.iter().all(|(thread, _)| {
            let [base, bytes, number] =
                [known.stack_base, known.stack_bytes, known.owner].map(|field| self.word(*thread, field));
            bytes >= MIN_STACK && base > bytes && base >> 47 == 0 && number != 0 && numbers.insert(number)
        })
    }

    fn waits(&self, process: ProcessKey) -> Result<JavaWaits, Failure> {
        let collectors = self.options(COLLECTORS)?;
        if !collectors.contains(&Some(true)) {
            return Err(Failure::Collector);
        }
        let [narrow_references, narrow_classes, compact] =
            self.options(["UseCompressedOops", "UseCompressedClassPointers", "UseCompactObjectHeaders"])?;
        if compact == Some(true) {
            return Err(Failure::Unfit("its objects have compact headers"));
        }
        if self.structs.kind("JavaThread", "_threadObj") != Some("OopHandle") {
            return Err(OTHER_LAYOUT);
        }
        let classes = Classes::of(&self.structs, self.memory)?;
        let (threads, listed) = self.java_threads()?;
        let half = |structure, names: &[&str]| Ok(self.memory.half(self.variable(structure, names)?));
        let word = |structure, names: &[&str]| Ok(self.memory.word(self.variable(structure, names)?));
        let mut flags = 0;
        for (is_on, flag) in
            [(narrow_references, java_flags::NARROW_REFERENCES), (narrow_classes, java_flags::NARROW_CLASSES)]
        {
            flags |= if is_on == Some(true) { flag } else { 0 };
        }
        let mut known = JavaWaits {
            start_boottime: process.start_boottime,
            threads,
            reference_base: word("CompressedOops", &["_narrow_oop._base", "_base"])?,
            class_base: word("CompressedKlassPointers", &["_narrow_klass._base", "_base"])?,
            reference_shift: half("CompressedOops", &["_narrow_oop._shift", "_shift"])?,
            class_shift: half("CompressedKlassPointers", &["_narrow_klass._shift", "_shift"])?,
            flags,
            thread_bytes: self.structs.size("JavaThread").ok_or(OTHER_LAYOUT)?,
            thread_object: self.field("JavaThread", &["_threadObj"])?,
            thread_back: 0,
            thread_blocker: 0,
            object_class: self.field("oopDesc", &["_metadata._compressed_klass", "_metadata._klass"])?,
            class_name: classes.name,
            class_ancestors: classes.ancestors,
            name_len: classes.name_len,
            name_text: classes.name_text,
            ..JavaWaits::default()
        };
        if let Err(failure) = self.find_heap(&mut known, &listed) {
            tracing::debug!("process {}: tasks of Java's pools are not known: {failure}", process.tgid);
        }
        for _ in 0..ATTEMPTS {
            let Some(class) = self.thread_class(&classes, &known, &listed) else { continue };
            let Some(name) = find_thread_fields(&classes, &mut known, class) else { continue };
            if self.is_confirmed(&classes, &known, &listed, name) {
                find_workers(&classes, self.memory, &mut known, class, &listed);
                return Ok(known);
            }
        }
        Err(Failure::Unfit("its threads' objects are not of the kind that they should be of"))
    }

    /// What is to be known of the heap to know of tasks of pools. Each thread allocates in it, or nowhere yet.
    fn find_heap(&self, known: &mut JavaWaits, threads: &[(u64, u64)]) -> Result<(), Failure> {
        let heap = self.memory.word(self.variable("Universe", &["_collectedHeap"])?);
        let reserved = u64::from(self.field("CollectedHeap", &["_reserved"])?);
        let [start, words] =
            [self.field("MemRegion", &["_start"])?, self.field("MemRegion", &["_word_size"])?]
                .map(|field| self.word(heap.wrapping_add(reserved), field));
        let buffer = self.field("Thread", &["_tlab"])?;
        let [first, top] = [
            self.field("ThreadLocalAllocBuffer", &["_start"])?,
            self.field("ThreadLocalAllocBuffer", &["_top"])?,
        ]
        .map(|field| buffer.saturating_add(field));
        let end = start.saturating_add(words.saturating_mul(8));
        let fits = |(thread, _): &(u64, u64)| {
            let [first, top] = [first, top].map(|field| self.word(*thread, field));
            first == 0 || (start..end).contains(&first) && (first..=end).contains(&top)
        };
        if heap == 0 || start == 0 || end >> 47 != 0 || !threads.iter().all(fits) {
            return Err(Failure::Unfit("its threads do not allocate where they should"));
        }
        let collections = self.field("CollectedHeap", &["_total_collections"])?;
        // Its name until 21, and since.
        let moves = self.field("CollectedHeap", &["_is_gc_active", "_is_stw_gc_active"])?;
        *known = JavaWaits {
            heap,
            heap_start: start,
            heap_end: end,
            heap_collections: collections,
            heap_moves: moves,
            buffer_start: first,
            buffer_top: top,
            ..*known
        };
        Ok(())
    }

    /// `java.lang.Thread`, as the threads' objects have it.
    fn thread_class(
        &self,
        classes: &Classes<'_, M>,
        known: &JavaWaits,
        threads: &[(u64, u64)],
    ) -> Option<u64> {
        threads.iter().find_map(|(thread, _)| {
            let object = self.memory.word(self.word(*thread, known.thread_object));
            let ancestor = known.ancestor(self.memory, known.class_of(self.memory, object));
            (classes.name(ancestor)? == "java/lang/Thread").then_some(ancestor)
        })
    }

    /// Whether threads and their objects confirm each other, and what those refer to makes sense.
    fn is_confirmed(
        &self,
        classes: &Classes<'_, M>,
        known: &JavaWaits,
        threads: &[(u64, u64)],
        name: u32,
    ) -> bool {
        // Threads of the machine's own may have none.
        let with_object = threads
            .iter()
            .filter(|(thread, _)| self.memory.word(self.word(*thread, known.thread_object)) != 0);
        let (mut right, mut wrong) = (0, 0);
        for (thread, _) in with_object {
            let object = known.object_of(self.memory, *thread);
            let text = known.reference(self.memory, object.wrapping_add(u64::from(name)));
            let blocker = known.reference(self.memory, object.wrapping_add(u64::from(known.thread_blocker)));
            let class = |object: u64| classes.name(known.class_of(self.memory, object));
            let is_right = object != 0
                && class(text).is_some_and(|class| class == "java/lang/String")
                && (blocker == 0 || class(blocker).is_some());
            if is_right {
                right += 1;
            } else {
                wrong += 1;
            }
        }
        // One may end, or go on, meanwhile.
        right >= MIN_THREADS && wrong * 10 <= right
    }
}

/// What is to be known of threads of pools, if there is one: what counts their tasks.
fn find_workers<M: Bytes>(
    classes: &Classes<'_, M>,
    memory: &M,
    known: &mut JavaWaits,
    class: u64,
    threads: &[(u64, u64)],
) {
    let refers = |known: &JavaWaits, object: u64, field: u32| match object {
        0 => 0,
        object => known.reference(memory, object.wrapping_add(u64::from(field))),
    };
    let runs = classes.field(class, "target", RUNNABLE);
    let holder = classes.field(class, "holder", "Ljava/lang/Thread$FieldHolder;");
    for (thread, _) in threads {
        let object = known.object_of(memory, *thread);
        let (held_in, field) = match (runs, holder) {
            (Some(runs), _) => (object, Some(runs)),
            (None, Some(holder)) => {
                known.thread_holder = holder;
                let held_in = refers(known, object, holder);
                (held_in, classes.field(known.class_of(memory, held_in), "task", RUNNABLE))
            }
            (None, None) => return,
        };
        let Some(field) = field else { continue };
        let worker = refers(known, held_in, field);
        let class = known.class_of(memory, worker);
        if worker == 0 || classes.name(class).is_none_or(|name| name != WORKER) {
            continue;
        }
        if let Some(back) = classes.field(class, "thread", "Ljava/lang/Thread;")
            && let Some(tasks) = classes.field(class, "completedTasks", "J")
            && refers(known, worker, back) == object
        {
            *known = JavaWaits {
                worker: class,
                holder_runs: field,
                worker_thread: back,
                worker_tasks: tasks,
                ..*known
            };
            return;
        }
    }
}

/// Where objects of the class `Thread` have what is asked for; and where their names.
fn find_thread_fields<M: Bytes>(classes: &Classes<'_, M>, known: &mut JavaWaits, class: u64) -> Option<u32> {
    known.thread_back = classes.field(class, "eetop", "J")?;
    known.thread_blocker = classes.field(class, "parkBlocker", "Ljava/lang/Object;")?;
    classes.field(class, "name", "Ljava/lang/String;")
}
