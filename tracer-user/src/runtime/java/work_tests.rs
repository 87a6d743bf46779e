//! Tasks of pools: of real machines whose threads run some, and over made-up memory.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tracer_abi::java_waits::Kind;
use tracer_abi::java_work::{Begins, JavaThread, MAX_WORDS};
use tracer_abi::python::{Memory, TaskId};

use super::super::examine_waits;
use super::tests::{
    ANCESTOR, BLOCKER, CLASS, CLASSES, HEAP, Image, OBJECT, POINTER, THREAD, apply, change, futex, known,
    machines, parked, pointers, process_of, stand,
};
use super::*;

/// Once it is told to, two threads have a pool do something, and wait for it; a third waits for what the first has had done.
const WORKS: &str = r#"
import java.util.concurrent.*;

public class Works {
    static volatile Future<?> shared;

    static ExecutorService pool(String name) {
        return Executors.newFixedThreadPool(1, task -> new Thread(task, name));
    }

    static void thread(String name, Callable<?> work) {
        new Thread(() -> {
            try { work.call(); } catch (Exception e) { e.printStackTrace(); System.exit(1); }
        }, name).start();
    }

    static void forever() {
        try { new CountDownLatch(1).await(); } catch (InterruptedException e) {}
    }

    public static void main(String[] args) throws Exception {
        var go = new CountDownLatch(1);
        ExecutorService tasks = pool("runs task"), completions = pool("runs completion");
        // Their stacks have been used before.
        for (var pool : new ExecutorService[] { tasks, completions })
            for (int n = 0; n < 100; n++) CompletableFuture.supplyAsync(() -> pool, pool).join();
        thread("has a task", () -> {
            go.await();
            shared = tasks.submit(Works::forever);
            return shared.get();
        });
        thread("has a compl", () -> {
            go.await();
            return CompletableFuture.runAsync(Works::forever, completions).join();
        });
        thread("has nothing", () -> {
            while (shared == null) Thread.sleep(1);
            return shared.get();
        });
        System.out.println(3);
        System.in.read();
        go.countDown();
        forever();
    }
}
"#;

/// Looks for the task of a thread.
fn look<M: Memory>(thread: &mut JavaThread, memory: &M, known: &JavaWaits, pointer: u64) -> TaskId {
    if thread.look(memory, known, pointer) {
        let _ = (0..MAX_WORDS).find(|_| !thread.step(memory, known));
    }
    thread.task(memory, known)
}

#[test]
fn real_pools_show_their_tasks_and_whose_they_are() {
    for (major, java) in machines() {
        for options in [&[][..], &["-XX:+UseSerialGC", "-XX:-UseCompressedOops"], &["-XX:+UseParallelGC"]] {
            let (mut standing, _) = stand(&java, options, "Works", WORKS);
            let (process, memory) = process_of(&standing);
            let deadline = Instant::now() + Duration::from_secs(20);
            // The machine tells what it is once its threads are there.
            let mut known = loop {
                let found = examine_waits(process);
                if let Waits::Java(_, known) = found {
                    break known;
                }
                assert!(Instant::now() < deadline, "{major} {options:?}: {found:?}");
            };
            assert!(known.knows_tasks(), "{major} {options:?}");
            let named = || {
                let named = pointers(process, &memory).into_iter().filter_map(|(tid, pointer)| {
                    let comm = std::fs::read_to_string(format!("/proc/{}/task/{tid}/comm", process.tgid));
                    Some((comm.ok()?.trim().to_owned(), (tid, pointer)))
                });
                named.collect::<BTreeMap<_, _>>()
            };
            // A thread has its name once it runs, and is at the latch once it sleeps.
            let asked = ["has a task", "has a compl", "has nothing"];
            let threads = loop {
                let threads = named();
                let sleeps = |who| threads.get(who).is_some_and(|&(tid, _)| futex(process, tid).is_some());
                if asked.iter().all(|&who| sleeps(who)) {
                    break threads;
                }
                assert!(Instant::now() < deadline, "{major} {options:?}: {threads:?}");
                std::thread::sleep(Duration::from_millis(10));
            };
            let mut remembered: BTreeMap<&str, JavaThread> = BTreeMap::new();
            for who in asked {
                let thread = remembered.entry(who).or_default();
                thread.begins(&memory, &known, threads[who].1, Begins::Request);
            }
            standing.0.stdin.take().unwrap().write_all(b"\n").unwrap();
            let waits = |known: &JavaWaits, who: &str| {
                let (tid, pointer) = threads[who];
                let deadline = Instant::now() + Duration::from_secs(20);
                loop {
                    let wait = futex(process, tid).map(|futex| known.wait(&memory, pointer, futex));
                    if let Some(wait) = wait.filter(|wait| wait.kind != Kind::Other) {
                        return wait;
                    }
                    assert!(Instant::now() < deadline, "{major} {options:?} {who}: {wait:?}");
                    std::thread::sleep(Duration::from_millis(10));
                }
            };
            let task = waits(&known, "has a task");
            assert_eq!(task.kind, Kind::FutureTask);
            known.future_task = task.class;
            // Whoever waits may do so before the pool's thread has begun.
            let runs = |known: &JavaWaits, who: &str| {
                let deadline = Instant::now() + Duration::from_secs(20);
                loop {
                    let found = look(&mut JavaThread::default(), &memory, known, threads[who].1);
                    if found.address != 0 || Instant::now() > deadline {
                        return found;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            };
            let run = runs(&known, "runs task");
            assert_eq!(run.address, task.blocker, "{major} {options:?}");
            assert_eq!(waits(&known, "has nothing").blocker, task.blocker);

            let completion = waits(&known, "has a compl");
            assert_eq!(completion.kind, Kind::Completion);
            known.fork_join_task = completion.class;
            let completes = runs(&known, "runs completion");
            assert_ne!(completes.address, 0, "{major} {options:?}");

            // Each has run a hundred tasks before, which none of the other threads has.
            let tasks_run = |known: &JavaWaits, who: &str| {
                known.tasks_run(&memory, known.threads.find(&memory, threads[who].1))
            };
            for (who, tasks) in [
                ("runs task", 100),
                ("runs completion", 100),
                ("has a task", u64::MAX),
                ("has nothing", u64::MAX),
            ] {
                assert_eq!(tasks_run(&known, who), tasks, "{major} {options:?}: {who}");
            }

            for (who, task, has_made) in [
                ("has a task", run, true),
                ("has a task", completes, false),
                ("has a compl", completes, true),
                ("has a compl", run, false),
                ("has nothing", run, false),
            ] {
                let pointer = threads[who].1;
                let found = remembered[who].has_made(&memory, &known, pointer, task.address);
                assert_eq!(found, has_made, "{major} {options:?}: {who}");
                // What it made before does not count.
                let mut later = JavaThread::default();
                assert!(!later.has_made(&memory, &known, pointer, task.address));
                later.begins(&memory, &known, pointer, Begins::Request);
                assert!(!later.has_made(&memory, &known, pointer, task.address));
            }
        }
    }
}

const HEAP_STATE: u64 = 0x7f00_0500_0000;
const BUFFER: u64 = HEAP + 0x1_0000;

/// A thread of a pool that runs a task, which lies where it allocates itself, and what is known of its process.
fn runs_a_task() -> (Image, JavaWaits) {
    let mut image = parked("java/lang/Thread", "java/lang/Thread");
    let known = JavaWaits {
        heap: HEAP_STATE,
        heap_start: HEAP,
        heap_end: HEAP + 0x10_0000,
        heap_collections: 80,
        heap_moves: 64,
        buffer_start: 448,
        buffer_top: 456,
        future_task: ANCESTOR,
        ..known()
    };
    image.put(HEAP_STATE + 64, 0);
    image.put(HEAP_STATE + 80, 5);
    image.put(THREAD + 448, BUFFER);
    image.put(THREAD + 456, BUFFER + 0x200);
    // Below `Thread` there is nothing.
    image.put_half(OBJECT + 8, (CLASS - CLASSES) as u32);
    image.put(CLASS + 48 + 16, 0);
    // The stack: addresses of all sorts, an object that is none, and the task.
    for (word, value) in [(1, 17), (3, HEAP + 4), (5, HEAP + 0x10_0000), (8, CLASS), (13, BUFFER + 0x100)] {
        image.put(POINTER - 8 * word, value);
    }
    for word in 1..=64 {
        image.0.entry(POINTER - 8 * word).or_insert(0);
    }
    image.put_half(BUFFER + 0x100 + 8, (CLASS - CLASSES) as u32);
    (image, known)
}

#[test]
fn a_task_is_the_first_on_the_stack() {
    let (mut image, known) = runs_a_task();
    let task = TaskId { address: BUFFER + 0x100, number: 5 << 48 | (BUFFER + 0x100) };
    let mut thread = JavaThread::default();
    assert_eq!(look(&mut thread, &image, &known, POINTER), task);
    // Where it was.
    assert!(!thread.look(&image, &known, POINTER));
    assert_eq!(thread.task(&image, &known), task);
    // Elsewhere by now.
    image.put(POINTER - 8 * 13, 0);
    image.put(POINTER - 8 * 20, task.address);
    assert_eq!(look(&mut thread, &image, &known, POINTER), task);
    // Nowhere, for some time, and then again.
    image.put(POINTER - 8 * 20, 0);
    assert_eq!(look(&mut thread, &image, &known, POINTER).number, 0);
    image.put(POINTER - 8 * 20, task.address);
    assert_eq!(look(&mut thread, &image, &known, POINTER).number, 0);
    assert_eq!(look(&mut thread, &image, &known, POINTER), task);
}

#[test]
fn no_task_is_known_while_objects_move() {
    let (mut image, known) = runs_a_task();
    let mut thread = JavaThread::default();
    let mut begun = JavaThread::default();
    begun.begins(&image, &known, POINTER, Begins::Request);
    assert!(thread.look(&image, &known, POINTER));
    while thread.step(&image, &known) {}
    // A collection has begun, or is over.
    image.put(HEAP_STATE + 80, 6);
    assert_eq!(thread.task(&image, &known).number, 0);
    image.put(HEAP_STATE + 64, 1);
    assert_eq!(look(&mut JavaThread::default(), &image, &known, POINTER).number, 0);
    assert!(!begun.has_made(&image, &known, POINTER, BUFFER + 0x300));
}

#[test]
fn what_a_thread_has_made_lies_behind_where_it_began() {
    let (mut image, known) = runs_a_task();
    let mut thread = JavaThread::default();
    let made =
        |image: &Image, thread: &JavaThread, object: u64| thread.has_made(image, &known, POINTER, object);
    assert!(!made(&image, &thread, BUFFER + 0x100));
    thread.begins(&image, &known, POINTER, Begins::Request);
    image.put(THREAD + 456, BUFFER + 0x400);
    for (object, is_made) in [(0x100, false), (0x1f8, false), (0x200, true), (0x3f8, true), (0x400, false)] {
        assert_eq!(made(&image, &thread, BUFFER + object), is_made, "{object:x}");
    }
    // Another part of the heap, all of it since.
    image.put(THREAD + 448, BUFFER + 0x1000);
    image.put(THREAD + 456, BUFFER + 0x1100);
    for (object, is_made) in [(0x200, false), (0xff8, false), (0x1000, true), (0x1100, false)] {
        assert_eq!(made(&image, &thread, BUFFER + object), is_made, "{object:x}");
    }
    // The same part of it, after a collection.
    image.put(HEAP_STATE + 80, 6);
    image.put(THREAD + 448, BUFFER);
    image.put(THREAD + 456, BUFFER + 0x180);
    for (object, is_made) in [(0x100, true), (0x200, false)] {
        assert_eq!(made(&image, &thread, BUFFER + object), is_made, "{object:x}");
    }
    // None yet.
    image.put(THREAD + 448, 0);
    image.put(THREAD + 456, 0);
    assert!(!made(&image, &thread, 0));
}

const WORKER: u64 = CLASSES + 0x4000;
const HOLDER: u64 = HEAP + 0x2_0000;
const RUNS: u64 = HEAP + 0x2_1000;

/// The same thread as one of a pool that has run so many tasks.
fn of_a_pool(tasks: u64) -> (Image, JavaWaits) {
    let (mut image, known) = runs_a_task();
    let known = JavaWaits {
        worker: WORKER,
        thread_holder: 96,
        holder_runs: 24,
        worker_thread: 32,
        worker_tasks: 40,
        ..known
    };
    refers(&mut image, &known, OBJECT + 96, HOLDER);
    refers(&mut image, &known, HOLDER + 24, RUNS);
    image.put_half(RUNS + 8, (WORKER - CLASSES) as u32);
    refers(&mut image, &known, RUNS + 32, OBJECT);
    image.put(RUNS + 40, tasks);
    (image, known)
}

fn refers(image: &mut Image, known: &JavaWaits, field: u64, object: u64) {
    image.put_half(field, (object.wrapping_sub(known.reference_base) >> known.reference_shift) as u32);
}

/// What it has made for a task is made for that one alone.
#[test]
fn a_thread_of_a_pool_has_made_nothing_for_the_task_behind() {
    for (begins, counted, has_made) in [
        (Begins::Request, 7, true),
        (Begins::Request, 8, false),
        (Begins::Task, 7, true),
        (Begins::Task, 8, false),
        (Begins::NextTask, 7, false),
        (Begins::NextTask, 8, true),
        (Begins::NextTask, 9, false),
    ] {
        let (mut image, known) = of_a_pool(7);
        let mut thread = JavaThread::default();
        thread.begins(&image, &known, POINTER, begins);
        image.put(RUNS + 40, counted);
        image.put(THREAD + 456, BUFFER + 0x400);
        let found = thread.has_made(&image, &known, POINTER, BUFFER + 0x300);
        assert_eq!(found, has_made, "{begins:?} {counted}");
    }
}

#[test]
fn a_thread_whose_tasks_nobody_counts_begins_with_requests_only() {
    let (pool, known) = of_a_pool(7);
    let (no_pool, _) = runs_a_task();
    let mut of_another = pool.clone();
    refers(&mut of_another, &known, RUNS + 32, HOLDER);
    let unknown = JavaWaits { worker: 0, ..known };
    for (mut image, known) in [(pool, unknown), (no_pool, known), (of_another, known)] {
        for (begins, has_made) in [(Begins::Request, true), (Begins::Task, false), (Begins::NextTask, false)]
        {
            let mut thread = JavaThread::default();
            thread.begins(&image, &known, POINTER, begins);
            image.put(THREAD + 456, BUFFER + 0x400);
            assert_eq!(thread.has_made(&image, &known, POINTER, BUFFER + 0x300), has_made, "{begins:?}");
            image.put(THREAD + 456, BUFFER + 0x200);
        }
    }
}

/// It runs tasks of anybody's inside of others.
#[test]
fn threads_of_fork_join_pools_are_not_looked_at() {
    let (mut image, known) = runs_a_task();
    let name = 0x7f00_0600_0000;
    let text = b"java/util/concurrent/ForkJoinWorkerThread";
    image.put(CLASS + 48 + 16, CLASSES + 0x3000);
    image.put(CLASSES + 0x3000 + 24, name);
    let mut bytes = vec![0; 4];
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text);
    bytes.resize(64, 0);
    for (word, bytes) in (0..).zip(bytes.chunks_exact(8)) {
        image.put(name + 8 * word, u64::from_le_bytes(bytes.try_into().unwrap()));
    }
    assert_eq!(look(&mut JavaThread::default(), &image, &known, POINTER).number, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever changes: what is found is in the heap, of the class, and no collection has been since.
    #[test]
    fn changed_memory_shows_tasks_or_nothing(changes in prop::collection::vec(change(), 1..20)) {
        let (mut image, known) = runs_a_task();
        let mut thread = JavaThread::default();
        for change in &changes {
            apply(&mut image, change, &[]);
            thread.begins(&image, &known, BLOCKER, Begins::Request);
            let found = look(&mut thread, &image, &known, POINTER);
            if found.address != 0 {
                prop_assert!((HEAP..HEAP + 0x10_0000).contains(&found.address));
                prop_assert_eq!(known.ancestor(&image, known.class_of(&image, found.address)), ANCESTOR);
                prop_assert_eq!(found.number >> 48, u64::from(image.half(HEAP_STATE + 80) as u16));
            }
        }
    }
}
