//! What HotSpot's threads wait for, and which virtual threads run: of real machines whose threads wait in every way, and
//! over made-up memory, in which anything may be anything.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use tracer_abi::event::Awaited;
use tracer_abi::java::virtual_thread;
use tracer_abi::python::{Memory, TaskId};
use tracer_abi::task::Tgid;

use super::super::memory::{ProcessMemory, memory_by_bytes};
use super::super::{examine as examine_process, examine_waits as examine_process_waits};
use super::*;
use crate::process::procfs::ProcDir;

/// Threads that wait for ever, each in its own way; their names begin with what is to be known of that.
const WAITS: &str = r#"
import java.util.List;
import java.util.concurrent.*;
import java.util.concurrent.locks.*;

public class Waits {
    static int threads;

    static void wait(Awaited awaited, Callable<?> way) {
        var thread = new Thread(() -> {
            try { way.call(); } catch (Exception e) { e.printStackTrace(); System.exit(1); }
        });
        thread.setName(awaited + " " + threads++);
        thread.start();
    }

    enum Awaited { Unknown, Result, Other, Queue }

    /** Of a class of the program's own, below one that is known. */
    static class Own extends FutureTask<Integer> {
        Own() { super(() -> 1); }
    }

    /** Has the name, and is another's. */
    static class FutureTask2 {}

    public static void main(String[] args) throws Exception {
        var future = new CompletableFuture<Integer>();
        var latch = new CountDownLatch(1);
        var lock = new ReentrantLock();
        lock.lock();
        var both = new ReentrantReadWriteLock();
        both.writeLock().lock();
        var full = new ArrayBlockingQueue<Integer>(1);
        full.add(1);
        var monitor = new Object();
        var task = new FutureTask<Integer>(() -> 1);
        wait(Awaited.Result, task::get);
        wait(Awaited.Result, () -> task.get(1000, TimeUnit.SECONDS));
        wait(Awaited.Result, () -> new Own().get());
        wait(Awaited.Result, future::join);
        wait(Awaited.Result, future::get);
        wait(Awaited.Result, () -> future.thenApply(number -> number + 1).get(1000, TimeUnit.SECONDS));
        wait(Awaited.Result, () -> CompletableFuture.allOf(future, new CompletableFuture<Integer>()).join());
        wait(Awaited.Result, () -> Executors.newFixedThreadPool(1).invokeAll(List.of(() -> { latch.await(); return 1; })));
        wait(Awaited.Result, () -> new ForkJoinPool(1).submit(() -> { latch.await(); return 1; }).join());
        wait(Awaited.Result, () -> Executors.newScheduledThreadPool(1).schedule(() -> 1, 1000, TimeUnit.SECONDS).get());
        wait(Awaited.Other, () -> { new Semaphore(0).acquire(); return 0; });
        wait(Awaited.Other, () -> { lock.lock(); return 0; });
        wait(Awaited.Other, () -> { both.readLock().lock(); return 0; });
        wait(Awaited.Queue, () -> { full.put(1); return 0; });
        wait(Awaited.Queue, () -> new LinkedBlockingQueue<Integer>().take());
        wait(Awaited.Queue, () -> new SynchronousQueue<Integer>().take());
        wait(Awaited.Unknown, () -> { latch.await(); return 0; });
        wait(Awaited.Unknown, () -> { synchronized (monitor) { monitor.wait(); } return 0; });
        wait(Awaited.Unknown, () -> { Thread.sleep(1000000); return 0; });
        wait(Awaited.Unknown, () -> { LockSupport.park(new FutureTask2()); return 0; });
        wait(Awaited.Unknown, () -> { LockSupport.park(); return 0; });
        // What it parked for last is not what it waits for now.
        wait(Awaited.Unknown, () -> {
            LockSupport.unpark(Thread.currentThread());
            LockSupport.park(task);
            synchronized (monitor) { monitor.wait(); }
            return 0;
        });
        System.out.println(threads);
    }
}
"#;

/// A virtual thread that runs for ever, and its number; and one that sleeps.
const RUNS: &str = r"
public class Runs {
    public static void main(String[] args) throws Exception {
        Thread.ofVirtual().start(() -> {
            try { Thread.sleep(1000000); } catch (InterruptedException e) {}
        });
        Thread.ofVirtual().start(() -> {
            System.out.println(Thread.currentThread().threadId());
            while (true) Thread.onSpinWait();
        });
        Thread.sleep(1000000);
    }
}
";

/// Ends with the test.
pub(super) struct Standing(pub(super) Child);

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of each version that is known: one that is here.
pub(super) fn machines() -> Vec<(u32, PathBuf)> {
    let mut found = BTreeMap::new();
    for home in std::fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten() {
        let release = std::fs::read_to_string(home.path().join("release")).unwrap_or_default();
        let version = release.lines().find_map(|line| line.strip_prefix("JAVA_VERSION=\""));
        let major = version.and_then(|version| version.split(['.', '"']).next()?.parse().ok());
        if let Some(major) = major.filter(|major| VERSIONS.contains(major)) {
            found.insert(major, home.path().join("bin/java"));
        }
    }
    found.into_iter().collect()
}

/// Starts a program, and waits for the number that it says.
pub(super) fn stand(java: &Path, options: &[&str], name: &str, source: &str) -> (Standing, u64) {
    // Each machine compiles its own.
    let dir = std::env::temp_dir().join(format!(
        "tracer-{name}-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join(format!("{name}.java"));
    std::fs::write(&file, source).unwrap();
    let mut command = Command::new(java);
    command.args(options).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let _ = std::fs::remove_dir_all(&dir);
    (Standing(child), line.trim().parse().unwrap())
}

pub(super) fn process_of(standing: &Standing) -> (ProcessKey, ProcessMemory) {
    let tgid = Tgid(standing.0.id());
    let dir = ProcDir::open(tgid).unwrap();
    let start_boottime = dir.stat().unwrap().start.0 * 10_000_000;
    (ProcessKey { tgid, start_boottime }, ProcessMemory::new(dir.file("mem").unwrap()))
}

/// Its threads: the kernel's number and the thread pointer.
pub(super) fn pointers(process: ProcessKey, memory: &ProcessMemory) -> BTreeMap<u32, u64> {
    let modules = Modules::of(&ProcDir::open(process.tgid).unwrap()).unwrap();
    let machine = Machine::of(&modules, memory).unwrap().unwrap();
    let os_thread =
        machine.field("JavaThread", &["_osthread"]).or_else(|_| machine.field("Thread", &["_osthread"]));
    let (os_thread, pthread) = (os_thread.unwrap(), machine.field("OSThread", &["_pthread_id"]).unwrap());
    let number = machine.field("OSThread", &["_thread_id"]).unwrap();
    let threads = machine.threads(os_thread, pthread).unwrap().into_iter();
    let numbered = threads.map(|(thread, pointer)| {
        let os_thread = machine.word(thread, os_thread);
        (memory.half(os_thread + u64::from(number)), pointer)
    });
    numbered.collect()
}

/// The futex at which a thread sleeps, as the kernel says: `202 0xADDRESS …`.
pub(super) fn futex(process: ProcessKey, tid: u32) -> Option<u64> {
    let call = std::fs::read_to_string(format!("/proc/{}/task/{tid}/syscall", process.tgid)).ok()?;
    let mut words = call.split_ascii_whitespace();
    let address = (words.next() == Some("202")).then(|| words.next())??.strip_prefix("0x")?;
    u64::from_str_radix(address, 16).ok()
}

#[test]
fn real_threads_say_what_they_wait_for() {
    for (major, java) in machines() {
        for options in [&[][..], &["-XX:+UseSerialGC", "-XX:-UseCompressedOops"], &["-XX:+UseParallelGC"]] {
            let (standing, wanted) = stand(&java, options, "Waits", WAITS);
            let (process, memory) = process_of(&standing);
            let found = examine_process_waits(process);
            let Waits::Java(name, known) = found else { panic!("{major} {options:?}: {found:?}") };
            assert!(name.0.starts_with(&format!("Java {major}.")), "{name}");
            let mut seen = 0;
            for (tid, pointer) in pointers(process, &memory) {
                let comm =
                    std::fs::read_to_string(format!("/proc/{}/task/{tid}/comm", process.tgid)).unwrap();
                let Some((want, number)) =
                    comm.trim().split_once(' ').filter(|(_, number)| number.parse::<u32>().is_ok())
                else {
                    continue;
                };
                let mut found = None;
                let right = (0..200).any(|_| {
                    std::thread::sleep(Duration::from_millis(10));
                    let Some(futex) = futex(process, tid) else { return false };
                    let awaited = known.wait(&memory, pointer, futex).awaited;
                    format!("{:?}", found.insert(awaited)) == want
                });
                assert!(right, "{major} {options:?} thread {number}: {found:?}, not {want}");
                // Not where it parks.
                assert_eq!(known.wait(&memory, pointer, pointer).awaited, Awaited::Unknown);
                assert_eq!(known.wait(&memory, pointer + 8, pointer).awaited, Awaited::Unknown);
                seen += 1;
            }
            assert_eq!(seen, wanted, "{major} {options:?}");
        }
    }
}

#[test]
fn what_moves_objects_meanwhile_is_not_read() {
    for (major, java) in machines() {
        let (standing, _) = stand(&java, &["-XX:+UseZGC"], "Waits", WAITS);
        let (process, _) = process_of(&standing);
        let found = examine_process_waits(process);
        assert!(
            matches!(&found, Waits::Unknown(_, needed) if needed.contains("collector")),
            "{major}: {found:?}"
        );
        let compact = ["-XX:+UnlockExperimentalVMOptions", "-XX:+UseCompactObjectHeaders"];
        if major >= FIRST_NUMBERED {
            let (standing, _) = stand(&java, &compact, "Waits", WAITS);
            let found = examine_process_waits(process_of(&standing).0);
            assert!(matches!(&found, Waits::Unknown(_, needed) if needed.contains("compact")), "{found:?}");
        }
    }
}

#[test]
fn a_real_machine_says_which_virtual_thread_runs() {
    for (major, java) in machines() {
        if major < FIRST_NUMBERED {
            continue;
        }
        for options in [&[][..], &["-XX:+UseZGC"]] {
            let (standing, number) = stand(&java, options, "Runs", RUNS);
            let (process, memory) = process_of(&standing);
            let found = examine_process(process);
            let Finding::Java(_, known) = found else { panic!("{found:?}") };
            let pointers = pointers(process, &memory);
            let running: Vec<TaskId> =
                pointers.values().filter_map(|pointer| virtual_thread(&memory, &known, *pointer)).collect();
            assert_eq!(running, [TaskId { address: number, number }], "{options:?}");
            assert!(pointers.len() > 5);
        }
    }
}

/// Bytes at addresses, by words. The rest cannot be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Image(pub(super) BTreeMap<u64, u64>);

impl Image {
    pub(super) fn put(&mut self, address: u64, word: u64) {
        assert!(address.is_multiple_of(8));
        self.0.insert(address, word);
    }

    pub(super) fn put_half(&mut self, address: u64, half: u32) {
        let word = self.0.entry(address & !7).or_default();
        let shift = 8 * (address & 4);
        *word = *word & !(u64::from(u32::MAX) << shift) | u64::from(half) << shift;
    }

    fn put_bytes(&mut self, address: u64, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            let word = self.0.entry(at & !7).or_default();
            let shift = 8 * (at & 7);
            *word = *word & !(0xff << shift) | u64::from(*byte) << shift;
        }
    }
}

impl Bytes for Image {
    fn fill(&self, address: u64, buffer: &mut [u8]) -> bool {
        (0_u64..).zip(buffer.iter_mut()).all(|(offset, byte)| {
            let at = address.wrapping_add(offset);
            let word = self.0.get(&(at & !7));
            *byte = word.map_or(0, |word| (word >> (8 * (at & 7))) as u8);
            word.is_some()
        })
    }
}

memory_by_bytes!(Image);

pub(super) const POINTER: u64 = 0x7f00_0000_0000;
const VECTOR_AT: u64 = 0x55_0000_1000;
const BLOCK: u64 = 0x55_0000_2000;
pub(super) const THREAD: u64 = 0x7f00_0010_0000;
const OS_THREAD: u64 = 0x7f00_0011_0000;
const FUTEX: u64 = THREAD + 0x518;
const OBJECT_PLACE: u64 = 0x7f00_0012_0000;
pub(super) const HEAP: u64 = 0x8000_0000;
pub(super) const OBJECT: u64 = HEAP + 0x1000;
pub(super) const BLOCKER: u64 = HEAP + 0x2000;
pub(super) const CLASSES: u64 = 0x7f00_0100_0000;
pub(super) const CLASS: u64 = CLASSES + 0x1000;
pub(super) const ANCESTOR: u64 = CLASSES + 0x2000;
const NAME: u64 = 0x7f00_0200_0000;
const ANCESTOR_NAME: u64 = 0x7f00_0201_0000;

/// As 17 has it.
pub(super) fn known() -> JavaWaits {
    JavaWaits {
        threads: JavaThreads { module: 2, local: 32, os_thread: 560, pthread: 24, reserved: 0 },
        reference_base: 0,
        reference_shift: 3,
        class_base: CLASSES,
        class_shift: 0,
        flags: java_flags::NARROW_REFERENCES | java_flags::NARROW_CLASSES,
        thread_bytes: 1384,
        thread_object: 648,
        thread_back: 40,
        thread_blocker: 76,
        object_class: 8,
        class_name: 24,
        class_ancestors: 48,
        name_len: 4,
        name_text: 6,
        ..JavaWaits::default()
    }
}

/// A thread that has parked for an object of a class, by its name and that of its ancestor next to `Object`.
pub(super) fn parked(class: &str, ancestor: &str) -> Image {
    let mut image = Image::default();
    image.put(POINTER + 8, VECTOR_AT);
    image.put(VECTOR_AT + 32, BLOCK);
    image.put(BLOCK + 32, THREAD);
    image.put(THREAD + 560, OS_THREAD);
    image.put(OS_THREAD + 24, POINTER);
    image.put(THREAD + 648, OBJECT_PLACE);
    image.put(OBJECT_PLACE, OBJECT);
    image.put(OBJECT + 40, THREAD);
    image.put_half(OBJECT + 76, (BLOCKER >> 3) as u32);
    image.put_half(BLOCKER + 8, (CLASS - CLASSES) as u32);
    image.put(CLASS + 24, NAME);
    image.put(CLASS + 48 + 8, ANCESTOR);
    image.put(ANCESTOR + 24, ANCESTOR_NAME);
    for (at, text) in [(NAME, class), (ANCESTOR_NAME, ancestor)] {
        image.put_bytes(at + 4, &(text.len() as u16).to_le_bytes());
        image.put_bytes(at + 6, text.as_bytes());
        // What is behind it in the machine's memory.
        image.put_bytes(at + 6 + text.len() as u64, b"something else, behind");
    }
    image
}

const SYNCHRONIZER: &str = "java/util/concurrent/locks/AbstractOwnableSynchronizer";

const WAYS: [(&str, &str, Awaited); 14] = [
    ("java/util/concurrent/FutureTask", "java/util/concurrent/FutureTask", Awaited::Result),
    ("Own", "java/util/concurrent/FutureTask", Awaited::Result),
    (
        "java/util/concurrent/CompletableFuture$Signaller",
        "java/util/concurrent/ForkJoinTask",
        Awaited::Result,
    ),
    (
        "java/util/concurrent/ForkJoinTask$AdaptedRunnable",
        "java/util/concurrent/ForkJoinTask",
        Awaited::Result,
    ),
    ("java/util/concurrent/Semaphore$NonfairSync", SYNCHRONIZER, Awaited::Other),
    ("java/util/concurrent/CountDownLatch$Sync", SYNCHRONIZER, Awaited::Unknown),
    ("java/util/concurrent/CountDownLatch$Sync2", SYNCHRONIZER, Awaited::Other),
    (
        "java/util/concurrent/locks/AbstractQueuedSynchronizer$ConditionObject",
        "java/util/concurrent/locks/AbstractQueuedSynchronizer$ConditionObject",
        Awaited::Queue,
    ),
    ("java/util/concurrent/SynchronousQueue$TransferStack", "java/util/AbstractCollection", Awaited::Queue),
    ("java/util/concurrent/FutureTask", "java/util/concurrent/FutureTasks", Awaited::Unknown),
    ("java/util/concurrent/FutureTask", "java/util/concurrent/FutureTas", Awaited::Unknown),
    ("java/util/concurrent/FutureTask", "java/util/concurrent/FutureTasl", Awaited::Unknown),
    ("java/util/concurrent/FutureTask", "jave/util/concurrent/FutureTask", Awaited::Unknown),
    ("java/util/concurrent/FutureTask", "", Awaited::Unknown),
];

#[test]
fn classes_say_what_is_waited_for() {
    for (class, ancestor, want) in WAYS {
        let image = parked(class, ancestor);
        assert_eq!(known().wait(&image, POINTER, FUTEX).awaited, want, "{class} below {ancestor}");
        for elsewhere in [THREAD - 8, THREAD + 1384, 0, u64::MAX] {
            assert_eq!(known().wait(&image, POINTER, elsewhere).awaited, Awaited::Unknown);
        }
        let mut parks_not = image.clone();
        parks_not.put_half(OBJECT + 76, 0);
        assert_eq!(known().wait(&parks_not, POINTER, FUTEX).awaited, Awaited::Unknown);
    }
}

/// A thread that carries a virtual one.
fn carries(continuation: u64) -> (Image, JavaProcess) {
    let mut image = parked("x", "x");
    image.put(THREAD + 1312, 77);
    image.put(THREAD + 1560, continuation);
    image.put(THREAD + 1048, 0x7f10_0000_0000);
    image.put(THREAD + 1056, 0x10_0000);
    let process = JavaProcess {
        threads: known().threads,
        owner: 1312,
        continuation: 1560,
        stack_base: 1048,
        stack_bytes: 1056,
        ..JavaProcess::default()
    };
    (image, process)
}

#[test]
fn a_virtual_thread_has_its_frame_on_the_stack_of_who_carries_it() {
    for (continuation, is_found) in [
        (0x7f10_0000_0000 - 0x800, true),
        (0x7f10_0000_0000 - 0x10_0000, true),
        (0, false),
        (0x7f10_0000_0000, false),
        (0x7f10_0000_0000 - 0x10_0008, false),
        (u64::MAX, false),
    ] {
        let (image, process) = carries(continuation);
        let want = is_found.then_some(TaskId { address: 77, number: 77 });
        assert_eq!(virtual_thread(&image, &process, POINTER), want, "{continuation:x}");
        assert_eq!(virtual_thread(&image, &process, POINTER + 8), None);
    }
}

/// What a changed word may become: anything, or the value of another one.
pub(super) fn change() -> impl Strategy<Value = (prop::sample::Index, u64, bool)> {
    (any::<prop::sample::Index>(), any::<u64>(), any::<bool>())
}

pub(super) fn apply(
    image: &mut Image,
    (at, word, of_image): &(prop::sample::Index, u64, bool),
    fixed: &[u64],
) {
    let places: Vec<u64> = image.0.keys().copied().filter(|place| !fixed.contains(place)).collect();
    let all: Vec<u64> = image.0.keys().copied().collect();
    let value = if *of_image { all[*word as usize % all.len()] } else { *word };
    image.0.insert(places[at.index(places.len())], value);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// One wrong word makes no wait a result's, unless it is one that says for what object of what class the thread has
    /// parked.
    #[test]
    fn one_wrong_word_makes_no_result(
        way in prop::sample::select(&WAYS[..]),
        changed in change(),
        more in prop::collection::vec(change(), 0..30),
    ) {
        let (class, ancestor, want) = way;
        let mut image = parked(class, ancestor);
        let says = [(OBJECT + 76) & !7, BLOCKER + 8, CLASS + 56, ANCESTOR + 24];
        let texts = (0..16).map(|n| ANCESTOR_NAME + 8 * n);
        let fixed: Vec<u64> = says.into_iter().chain(texts).collect();
        apply(&mut image, &changed, &fixed);
        let after = known().wait(&image, POINTER, FUTEX).awaited;
        prop_assert!(after != Awaited::Result || want == Awaited::Result, "{want:?} to {after:?}");
        for change in &more {
            apply(&mut image, change, &[]);
            let _ = known().wait(&image, POINTER, FUTEX).awaited;
        }
    }

    /// Whatever changes on the way: the thread is one that has the pointer, and its continuation is on its stack.
    #[test]
    fn changed_memory_carries_nobody(changes in prop::collection::vec(change(), 1..6)) {
        let (mut image, process) = carries(0x7f10_0000_0000 - 0x800);
        for change in &changes {
            apply(&mut image, change, &[]);
        }
        if let Some(found) = virtual_thread(&image, &process, POINTER) {
            let thread = process.threads.find(&image, POINTER);
            prop_assert_eq!(image.word(image.word(thread + 560) + 24), POINTER);
            let depth = image.word(thread + 1048).wrapping_sub(image.word(thread + 1560));
            prop_assert!(depth > 0 && depth <= image.word(thread + 1056));
            prop_assert_eq!(found.number, image.word(thread + 1312));
        }
    }
}

const EXPORTED: [(&str, u64); 12] = [
    ("gHotSpotVMStructs", TABLE),
    ("gHotSpotVMStructEntryTypeNameOffset", 0),
    ("gHotSpotVMStructEntryFieldNameOffset", 8),
    ("gHotSpotVMStructEntryTypeStringOffset", 16),
    ("gHotSpotVMStructEntryIsStaticOffset", 24),
    ("gHotSpotVMStructEntryOffsetOffset", 32),
    ("gHotSpotVMStructEntryAddressOffset", 40),
    ("gHotSpotVMStructEntryArrayStride", 48),
    ("gHotSpotVMTypes", TABLE + 0x1_0000),
    ("gHotSpotVMTypeEntryTypeNameOffset", 0),
    ("gHotSpotVMTypeEntrySizeOffset", 32),
    ("gHotSpotVMTypeEntryArrayStride", 40),
];

const TABLE: u64 = 0x7f00_0300_0000;
const TEXTS: u64 = 0x7f00_0400_0000;

fn exported(name: &str) -> Option<u64> {
    EXPORTED.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// Tables of some fields, a variable and a structure.
fn tables() -> Image {
    let mut image = Image::default();
    let mut texts = BTreeMap::new();
    let mut text = |image: &mut Image, text: &'static str| {
        let next = TEXTS + 256 * texts.len() as u64;
        *texts.entry(text).or_insert_with(|| {
            image.put_bytes(next, &[0; 128]);
            image.put_bytes(next, text.as_bytes());
            next
        })
    };
    let fields = [
        ("JavaThread", "_threadObj", "OopHandle", 0, 648, 0),
        ("JavaThread", "_osthread", "OSThread*", 0, 560, 0),
        ("ThreadsSMRSupport", "_java_thread_list", "ThreadsList*", 1, 0, 0x7f00_0000_1000),
    ];
    for (n, (structure, name, kind, is_variable, offset, address)) in (0..).zip(fields) {
        let at = TABLE + 48 * n;
        for (field, value) in [(0, structure), (8, name), (16, kind)] {
            let value = text(&mut image, value);
            image.put(at + field, value);
        }
        image.put(at + 24, is_variable);
        image.put(at + 32, offset);
        image.put(at + 40, address);
    }
    image.put(TABLE + 48 * 3, 0);
    let name = text(&mut image, "JavaThread");
    image.put(TABLE + 0x1_0000, name);
    image.put(TABLE + 0x1_0000 + 32, 1384);
    image.put(TABLE + 0x1_0000 + 40, 0);
    image
}

#[test]
fn a_machine_says_where_it_has_what() {
    let structs = Structs::of(exported, &tables()).unwrap();
    assert_eq!(structs.field("JavaThread", &["_none", "_osthread"]), Some(560));
    assert_eq!(structs.kind("JavaThread", "_threadObj"), Some("OopHandle"));
    assert_eq!(structs.variable("ThreadsSMRSupport", &["_java_thread_list"]), Some(0x7f00_0000_1000));
    assert_eq!(structs.size("JavaThread"), Some(1384));
    // A field is no variable, and the other way round.
    assert_eq!(structs.variable("JavaThread", &["_osthread"]), None);
    assert_eq!(structs.field("ThreadsSMRSupport", &["_java_thread_list"]), None);
    assert_eq!(structs.size("OSThread"), None);
    assert!(Structs::of(|name| exported(name).filter(|_| !name.contains("IsStatic")), &tables()).is_none());
    assert!(Structs::of(exported, &Image::default()).unwrap().is_empty());
}

/// Everything can be read, and is made up from the address.
#[derive(Debug)]
struct Rubbish(u64);

impl Bytes for Rubbish {
    fn fill(&self, address: u64, buffer: &mut [u8]) -> bool {
        for (offset, byte) in (0_u64..).zip(buffer.iter_mut()) {
            let at = address.wrapping_add(offset);
            *byte = ((at ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
        true
    }
}

memory_by_bytes!(Rubbish);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Tables in which anything may be anything are read to an end.
    #[test]
    fn changed_tables_are_read_to_an_end(
        changes in prop::collection::vec(change(), 1..20),
        exports in prop::collection::vec((0..EXPORTED.len(), any::<u64>()), 0..3),
    ) {
        let mut image = tables();
        for change in &changes {
            apply(&mut image, change, &[]);
        }
        let changed = |name: &str| {
            let place = EXPORTED.iter().position(|(known, _)| *known == name)?;
            let other = exports.iter().find(|(export, _)| *export == place);
            Some(other.map_or(EXPORTED[place].1, |(_, value)| *value))
        };
        if let Some(structs) = Structs::of(changed, &image) {
            let _ = (structs.field("JavaThread", &["_osthread"]), structs.size("JavaThread"));
        }
    }

    /// A machine whose memory is rubbish has no threads that confirm each other.
    #[test]
    fn rubbish_is_no_machine(seed: u64) {
        let structs = Structs::of(exported, &Rubbish(seed)).unwrap();
        prop_assert_eq!(structs.field("JavaThread", &["_osthread"]), None);
        let machine = Machine { memory: &Rubbish(seed), structs: Structs::of(exported, &tables()).unwrap() };
        let process = ProcessKey { tgid: Tgid(1), start_boottime: 0 };
        prop_assert!(machine.waits(process).is_err() && machine.process(process).is_err());
    }
}
