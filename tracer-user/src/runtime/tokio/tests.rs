//! The walks through tokio's memory: over that of this very program, whose tasks look at themselves, and over made-up
//! memory, in which anything may be anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracer_abi::python::Memory;
use tracer_abi::task::Tgid;
use tracer_abi::tokio::{
    Channel, Climb, Header, Learning, MAX_BOX_WORDS, MAX_CLIMBS, MAX_FUTURE_WORDS, MAX_NEAR_WORDS,
    MAX_STACK_WORDS, Search, current, in_slot, next_id, walk_end,
};

use super::*;

/// A call as the kernel half tells it: tasks by their ids, and how the walk ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    ids: Vec<u64>,
    end: u64,
}

fn learn(memory: &impl Memory, process: &TokioProcess, stack: u64, thread: u64) -> Option<[u64; 16]> {
    let mut learning = Learning::begin(process, stack, thread);
    for _ in 0..MAX_NEAR_WORDS {
        if !learning.step(memory, process) {
            break;
        }
    }
    let mut bits = [0; 16];
    for index in 0..MAX_LOCAL_WORDS {
        if !learning.compare(memory, index, &mut bits) {
            break;
        }
    }
    bits[14] = learning.id();
    (learning.id() != 0).then_some(bits)
}

fn header(memory: &impl Memory, process: &mut TokioProcess, stack: u64, thread: u64) -> Option<Header> {
    let id = current(memory, process, thread);
    if let Some(header) = in_slot(memory, process, thread, id) {
        return Some(header);
    }
    let mut search = Search::begin(stack, thread, id);
    for _ in 0..MAX_STACK_WORDS {
        if !search.step(memory, process) {
            break;
        }
    }
    Some(search.found(process, thread)).filter(|header| header.id != 0)
}

fn wait(memory: &impl Memory, process: &mut TokioProcess, header: &Header) -> Told {
    let mut channel = Channel::begin(header);
    for _ in 0..MAX_BOX_WORDS {
        if !channel.unbox(memory, process) {
            break;
        }
    }
    if channel.is_sought(memory, process) {
        for _ in 0..MAX_FUTURE_WORDS {
            if !channel.step(memory, process) {
                break;
            }
        }
        channel.remember(process);
    }
    let mut climb = if channel.is_absent() {
        Climb::from_task(header)
    } else {
        Climb::from_waker(channel.receiver(memory, process))
    };
    let mut told = [0; 16];
    for _ in 0..MAX_CLIMBS {
        if !climb.step(memory, process, &mut told) {
            break;
        }
    }
    let len = usize::try_from(climb.len).unwrap();
    let ids = told.iter().skip(1).step_by(2).take(len).copied().collect();
    Told { ids, end: if len == 0 { walk_end::NOBODY_YET } else { climb.end } }
}

fn thread_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: the first word that the thread pointer leads to is the thread pointer (the x86-64 psABI for thread-local
    // storage); nothing is written.
    unsafe { std::arch::asm!("mov {}, qword ptr fs:0", out(reg) pointer, options(readonly, nostack)) };
    pointer
}

/// This process, and what is known of it.
struct Own {
    memory: ProcessMemory,
    known: Mutex<TokioProcess>,
    lessons: Mutex<Lessons>,
}

impl Own {
    fn new() -> Self {
        let pid = Tgid(std::process::id());
        let dir = ProcDir::open(pid).unwrap();
        let process = ProcessKey { tgid: pid, start_boottime: dir.stat().unwrap().start.0 * 10_000_000 };
        let memory = ProcessMemory::new(dir.file("mem").unwrap());
        let finding = examine(process, &Modules::of(&dir).unwrap(), &memory);
        let Finding::Tokio(_, known) = finding else { panic!("{finding:?}") };
        Self { memory, known: Mutex::new(*known), lessons: Mutex::new(Lessons::new(process)) }
    }

    /// As the kernel half looks at a task that does something.
    #[inline(never)]
    fn look(&self) -> Option<Told> {
        let here = 0_u64;
        let (stack, thread) = ((&raw const here).addr() as u64, thread_pointer());
        let mut known = self.known.lock().unwrap();
        if known.local_id == 0 {
            let words = learn(&self.memory, &known, stack, thread)?;
            if let Some(Lesson::Local(offset)) = self.lessons.lock().unwrap().compare(&words) {
                known.local_id = offset;
            }
            return None;
        }
        let header = header(&self.memory, &mut known, stack, thread)?;
        self.lessons.lock().unwrap().note(header.id);
        Some(wait(&self.memory, &mut known, &header))
    }
}

fn own_id() -> u64 {
    tokio::task::id().to_string().parse().unwrap()
}

/// A connection's task: it takes a request, notices when the caller goes, and answers.
async fn connection(own: Arc<Own>, mut answer: oneshot::Sender<Told>) {
    let mut told = Told::default();
    // Until the caller is seen to wait.
    for _ in 0..100 {
        std::future::poll_fn(|context| {
            let _ = answer.poll_closed(context);
            std::task::Poll::Ready(())
        })
        .await;
        told = own.look().unwrap_or_default();
        if !told.ids.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    answer.send(told).unwrap();
}

async fn call(own: &Arc<Own>) -> Told {
    let (answer, waits) = oneshot::channel();
    // In a box, as clients have it.
    let work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> =
        Box::pin(connection(Arc::clone(own), answer));
    tokio::spawn(work);
    waits.await.unwrap()
}

async fn check(own: Arc<Own>) {
    for _ in 0..200 {
        let own = Arc::clone(&own);
        tokio::spawn(async move { own.look() }).await.unwrap();
    }
    assert_ne!(own.known.lock().unwrap().local_id, 0, "not learned");
    let task = tokio::spawn(async move {
        let id = own_id();
        let told = |ids: &[u64]| Told { ids: ids.to_vec(), end: walk_end::TOP };
        // Itself, one that it waits for, and several.
        let top = |looked: Told| Told { end: walk_end::TOP, ids: looked.ids.into_iter().take(1).collect() };
        assert_eq!(top(own.look().unwrap()), told(&[id]));
        for _ in 0..3 {
            assert_eq!(top(call(&own).await), told(&[id]));
        }
        let (one, two) = tokio::join!(call(&own), call(&own));
        assert_eq!([top(one), top(two)], [told(&[id]), told(&[id])]);
        let mut unordered: FuturesUnordered<_> = (0..3).map(|_| call(&own)).collect();
        while let Some(found) = unordered.next().await {
            assert_eq!(top(found), told(&[id]));
        }
        // Children whose handles are awaited, and that call.
        let child = {
            let own = Arc::clone(&own);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                (own_id(), own.look().unwrap(), call(&own).await)
            })
        };
        let (child_id, itself, called) = child.await.unwrap();
        for found in [itself, called] {
            assert_eq!(found.ids.get(..2), Some(&[child_id, id][..]), "{found:?}");
        }
        let mut set = JoinSet::new();
        for _ in 0..3 {
            let own = Arc::clone(&own);
            set.spawn(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                (own_id(), call(&own).await)
            });
        }
        while let Some(done) = set.join_next().await {
            let (child_id, found) = done.unwrap();
            assert_eq!(found.ids.get(..2), Some(&[child_id, id][..]), "{found:?}");
        }
        // Nobody awaits this one.
        let (answer, waits) = oneshot::channel();
        let detached = Arc::clone(&own);
        drop(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let _ = answer.send((own_id(), detached.look().unwrap()));
        }));
        let (child_id, found) = waits.await.unwrap();
        assert_eq!(found, told(&[child_id]));
        Arc::clone(&own)
    });
    let own = task.await.unwrap();
    assert!(own.known.lock().unwrap().searches < 50, "the header is found anew all the time");
}

#[test]
fn this_programs_tasks_say_who_waits_for_a_call() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(check(Arc::new(Own::new())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(check(Arc::new(Own::new())));
}

#[test]
fn the_next_number_is_found_among_the_programs_variables() {
    let own = Arc::new(Own::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(async {
        for _ in 0..MAX_ROUNDS {
            let id = tokio::spawn(async { own_id() }).await.unwrap();
            for _ in 0..MIN_GROWTH {
                tokio::spawn(async {}).await.unwrap();
            }
            let mut lessons = own.lessons.lock().unwrap();
            lessons.note(id);
            if let Some(lesson) = lessons.look() {
                return lesson;
            }
        }
        panic!("nothing was learned");
    });
    let Lesson::Next(address) = found else { panic!("{found:?}") };
    own.known.lock().unwrap().next_id = address;
    let next = next_id(&own.memory, &own.known.lock().unwrap());
    let id = runtime.block_on(async { tokio::spawn(async { own_id() }).await.unwrap() });
    // Other tests start tasks meanwhile.
    assert!((next..next + 10_000).contains(&id), "{id} after {next}");
}

#[test]
fn versions_are_told_by_paths() {
    let found = |text: &str| version_in(text.as_bytes());
    assert_eq!(found("/x/index-1/tokio-1.28.2/src/runtime/mod.rs"), Some("1.28.2".to_owned()));
    assert_eq!(found("/a//tokio-1.5/tokio-1.54.1/src"), Some("1.5".to_owned()));
    for text in ["", "/tokio-1.", "/tokio-1.28.2", "/tokio-util-0.7.1/src", "/tokio-1.x/src", "/tokio-0.2.3/"]
    {
        assert_eq!(found(text), None, "{text}");
    }
}

/// A low number is found in several places, but not for every task.
#[test]
fn each_task_has_one_vote() {
    let mut lessons = Lessons::new(ProcessKey::default());
    let mut compare = |id: u64, words: &[u64]| {
        let mut told = [0; 16];
        words.iter().for_each(|word| told[(word / 64) as usize] |= 1 << (word % 64));
        told[14] = id;
        lessons.compare(&told)
    };
    for _ in 0..100 {
        assert_eq!(compare(2, &[5, 70]), None);
    }
    // Left over.
    (100..200).for_each(|id| assert_eq!(compare(id, &[]), None));
    for id in 30..34 {
        assert_eq!(compare(id, &[70]), None);
    }
    assert_eq!(compare(34, &[70, 5]), Some(Lesson::Local(8 * 71)));
    assert_eq!(compare(35, &[70]), None);
}

#[test]
fn two_places_that_are_as_often_right_are_not_told_apart() {
    let mut lessons = Lessons::new(ProcessKey::default());
    for id in 1..=u64::from(MAX_STACKS) {
        let mut told = [0; 16];
        (told[0], told[14]) = (0b11000, id);
        let wanted = (id == u64::from(MAX_STACKS)).then_some(Lesson::NoLocal);
        assert_eq!(lessons.compare(&told), wanted, "{id}");
    }
}

/// Words at addresses. The rest cannot be read.
#[derive(Clone, Debug, Default)]
struct Image(BTreeMap<u64, u64>);

impl Memory for Image {
    fn word(&self, address: u64) -> u64 {
        if address.is_multiple_of(8) { self.0.get(&address).copied().unwrap_or(0) } else { 0 }
    }

    fn half(&self, address: u64) -> u32 {
        (self.word(address & !7) >> (8 * (address & 4))) as u32
    }

    fn byte(&self, address: u64) -> u8 {
        (self.word(address & !7) >> (8 * (address & 7))) as u8
    }
}

const CONSTANTS: u64 = 0x60_0000;
const CODE: u64 = 0x40_0000;
const THREAD: u64 = 0x7f00_0001_0000;
const STACK: u64 = THREAD - 0x800;
const WAKERS: u64 = CONSTANTS + 0x800;

fn known() -> TokioProcess {
    TokioProcess {
        constants: CONSTANTS,
        constants_end: CONSTANTS + 0x1000,
        code: CODE,
        code_end: CODE + 0x1000,
        local_id: 0x118,
        local_words: 64,
        ..TokioProcess::default()
    }
}

/// A connection's task 30 polls, its future in place; task 20, which is in a `JoinSet` of task 11, waits for its answer.
fn image() -> Image {
    let mut image = Image::default();
    let mut put = |address: u64, words: &[(u64, u64)]| {
        image.0.extend(words.iter().map(|(offset, word)| (address + offset, *word)));
    };
    for table in [CONSTANTS, CONSTANTS + 0x100, CONSTANTS + 0x200] {
        let functions: Vec<(u64, u64)> = (0..7).map(|at| (8 * at, CODE + 16 * at)).collect();
        put(table, &functions);
        put(table, &[(56, 0x140), (64, 32), (72, 40)]);
    }
    put(WAKERS, &[(0, CODE + 8), (8, CODE + 16), (16, CODE + 24), (24, CODE + 32)]);
    let (polls, waits, reads) = (0x55_0000_1000, 0x55_0000_2000, 0x55_0000_3000);
    let (channel, entry, lists) = (0x55_0000_4000, 0x55_0000_5000, 0x55_0000_6000);
    put(THREAD - 0x118, &[(0, 30)]);
    put(STACK + 0x700, &[(0, polls)]);
    put(polls, &[(0, 0xcc), (16, CONSTANTS), (40, 30), (48 + 64, channel)]);
    put(channel, &[(0, 2), (8, 1), (16, WAKERS), (24, polls), (32, WAKERS), (40, waits), (48, 9)]);
    put(waits, &[(0, 0xdd | 0x18), (16, CONSTANTS + 0x100), (40, 20)]);
    put(waits, &[(0, 0x98), (0x140 + 16, WAKERS + 0x100), (0x140 + 24, entry)]);
    put(WAKERS + 0x100, &[(0, CODE + 8), (8, CODE + 16), (16, CODE + 24), (24, CODE + 32)]);
    put(entry, &[(0, lists)]);
    put(lists, &[(0, 2), (8, 1), (56, WAKERS), (64, reads)]);
    put(reads, &[(0, 0x88), (16, CONSTANTS + 0x200), (40, 11)]);
    image
}

fn walk(image: &Image, known: &mut TokioProcess) -> Option<Told> {
    let header = header(image, known, STACK, THREAD)?;
    Some(wait(image, known, &header))
}

#[test]
fn what_is_made_up_is_found() {
    let (image, mut known) = (image(), known());
    let wanted = Told { ids: vec![20, 11], end: walk_end::TOP };
    assert_eq!(walk(&image, &mut known), Some(wanted.clone()));
    // And where it was before.
    assert_eq!((known.slots[0], known.waker_table, known.searches), (0x100, WAKERS, 1));
    assert_eq!(walk(&image, &mut known), Some(wanted));
    assert_eq!(known.searches, 1);
}

#[test]
fn what_the_sender_does_not_wait_on_is_no_channel() {
    // Sent, closed, not waited for, of another task, with a clone.
    for (offset, word) in [(48, 11), (48, 13), (48, 8), (24, 0x55_0000_2000), (0, 3), (8, 2)] {
        let (mut image, mut known) = (image(), known());
        image.0.insert(0x55_0000_4000 + offset, word);
        let told = walk(&image, &mut known).unwrap();
        assert!(!told.ids.contains(&20) && !told.ids.contains(&11), "{offset}: {told:?}");
    }
}

proptest! {
    /// Whatever changes on the way, it ends, and with tasks that there are.
    #[test]
    fn changed_memory_names_nobody_else(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), any::<bool>()), 1..6),
        twice: bool,
    ) {
        let (mut image, mut known) = (image(), known());
        if twice {
            // What was learned before is of no use, or of use.
            walk(&image, &mut known);
        }
        let ids = [30, 20, 11];
        let places: Vec<u64> = image.0.keys().copied().collect();
        let mut made = Vec::new();
        for (at, word, of_image) in changes {
            // Some of the words lead from one object into the midst of another.
            let value = if of_image { places[word as usize % places.len()] } else { word };
            image.0.insert(places[at.index(places.len())], value);
            made.push(value);
        }
        if let Some(told) = walk(&image, &mut known) {
            prop_assert!(told.ids.len() <= CHAIN_TASKS);
            for id in told.ids {
                let is_word = image.0.values().any(|word| *word == id);
                prop_assert!(ids.contains(&id) || made.contains(&id) || is_word, "{id}");
            }
        }
        prop_assert!(learn(&image, &known, STACK, THREAD).is_none_or(|words| words[14] != 0));
    }
}
