//! Made-up memory: a loop's thread with its frames, tasks and what is between them, and then changes to it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tracer_abi::python::{Memory, PythonLayout, PythonProcess, TaskId, values};

use super::{sent, waited};

/// Words at addresses that are multiples of eight. The rest cannot be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    words: BTreeMap<u64, u64>,
    next: u64,
}

impl Memory for Image {
    fn word(&self, address: u64) -> u64 {
        if !address.is_multiple_of(8) {
            return 0;
        }
        self.words.get(&address).copied().unwrap_or(0)
    }

    fn half(&self, address: u64) -> u32 {
        (self.word(address & !7) >> (8 * (address & 4))) as u32
    }

    fn byte(&self, address: u64) -> u8 {
        (self.word(address & !7) >> (8 * (address & 7))) as u8
    }
}

const THREAD: u64 = 0x1000;
const FUNCTION: u64 = 0x2000;
const BUILTIN: u64 = 0x2100;
const METHOD: u64 = 0x2200;
const COROUTINE: u64 = 0x2300;
const INT: u64 = 0x2400;
const TASK: u64 = 0x2500;
const TASKS_GLOBALS: u64 = 0x2700;
const GROUPS_GLOBALS: u64 = 0x2800;
const LOOP: u64 = 0x2900;
const GATHER: u64 = 0x9000;
const CLOSURE: u64 = 0x9100;
const CELL: u64 = 0x9200;
pub(super) const FRAME: u64 = 0x9600;

/// As 3.12 has it.
fn known() -> PythonProcess {
    PythonProcess {
        function_type: FUNCTION,
        builtin_type: BUILTIN,
        method_type: METHOD,
        coroutine_type: COROUTINE,
        int_type: INT,
        task_type: TASK,
        tasks_globals: TASKS_GLOBALS,
        groups_globals: GROUPS_GLOBALS,
        layout: PythonLayout {
            thread_slot: 0x318,
            thread_frame: 56,
            is_indirect: 1,
            indirect_frame: 0,
            frame_previous: 8,
            frame_owner: 70,
            frame_stack_top: 64,
            frame_locals: 72,
            frame_code: 0,
            coroutine_frame: 72,
            task_awaits: 128,
            task_coroutine: 136,
            task_name: 144,
            task_logs: 164,
            task_logs_bit: 1,
            text: 40,
            values: values::MARKED,
            thread_task: 0,
            awaited_below: 0,
            tuple_items: 24,
            group_parent: 4,
            reader_waiter: 4,
            reader_transport: 6,
            future_callbacks: 5,
        },
        ..PythonProcess::default()
    }
}

impl Image {
    /// Room for an object of this type, and the words before it.
    pub(super) fn object(&mut self, kind: u64) -> u64 {
        self.next += 0x400;
        let address = 0x10_0000 + self.next;
        self.words.extend((0..64).map(|n| (address - 64 + 8 * n, 0)));
        self.words.insert(address + 8, kind);
        address
    }

    pub(super) fn put(&mut self, address: u64, word: u64) {
        self.words.insert(address, word);
    }

    fn task(&mut self, number: u64) -> TaskId {
        let (address, name, coroutine) = (self.object(TASK), self.object(INT), self.object(COROUTINE));
        self.put(name + 16, 8);
        self.put(name + 24, number);
        self.put(address + 16, LOOP);
        self.put(address + 136, coroutine);
        self.put(address + 144, name);
        // No `gather` has made it.
        self.put(address + 160, 1 << 32);
        TaskId { address, number }
    }

    fn wakes(&mut self, task: TaskId, awaited: u64) -> u64 {
        let wakeup = self.object(BUILTIN);
        self.put(wakeup + 24, task.address);
        self.put(task.address + 128, awaited);
        wakeup
    }

    /// One task waits for another.
    fn awaits(&mut self, waiter: TaskId, task: TaskId) {
        let wakeup = self.wakes(waiter, task.address);
        self.put(task.address + 24, wakeup);
    }

    /// One waits for another through a `gather`.
    fn gathers(&mut self, waiter: TaskId, task: TaskId) {
        let outer = self.object(GATHER);
        self.put(outer + 16, LOOP);
        let wakeup = self.wakes(waiter, outer);
        self.put(outer + 24, wakeup);
        let (function, closure, cell, other) =
            (self.object(FUNCTION), self.object(CLOSURE), self.object(CELL), self.object(CELL));
        self.put(function + 16, TASKS_GLOBALS);
        self.put(function + 72, closure);
        self.put(closure + 16, 2);
        self.put(closure + 24, other);
        self.put(closure + 32, cell);
        self.put(cell + 16, outer);
        self.put(task.address + 24, function);
    }

    /// A task runs: its coroutine's frame and another one, below them `Handle._run` and the loop.
    fn runs(&mut self, task: TaskId) {
        let (state, handle, step) = (self.object(0x9300), self.object(0x9400), self.object(0x9500));
        let coroutine = self.word(task.address + 136);
        let (inner, run, bottom) = (self.object(COROUTINE) + 72, self.object(FRAME), self.object(FRAME));
        let holder = self.object(0x9700);
        for (frame, previous, owner) in
            [(inner, coroutine + 72, 1), (coroutine + 72, run, 1), (run, bottom, 0), (bottom, 0, 0)]
        {
            self.put(frame + 8, previous);
            self.put(frame + 64, 3 | owner << 48);
        }
        self.put(run + 72, handle);
        self.put(handle + 24, step);
        self.put(step + 16, task.address);
        self.put(THREAD + 0x318, state);
        self.put(state + 56, holder);
        self.put(holder, inner);
    }

    /// The task waits in a stream's read, and the thread receives for that stream.
    fn waits_for_bytes(&mut self, task: TaskId) {
        let (reader, attributes, transport, future) =
            (self.object(0x9800), self.object(0x9900), self.object(0x9a00), self.object(0x9b00));
        let coroutine = self.word(task.address + 136);
        let inner = self.object(COROUTINE);
        self.put(coroutine + 72 + 64, 2);
        self.put(coroutine + 72 + 72 + 8, inner);
        self.put(inner + 72 + 64, 3);
        self.put(inner + 72 + 72, reader);
        self.put(inner + 72 + 72 + 16, future);
        self.put(task.address + 128, future);
        self.put(reader - 24, attributes - 1);
        self.put(attributes + 8 * 4, future);
        self.put(attributes + 8 * 6, transport);
        let (state, holder, receiving) = (self.object(0x9300), self.object(0x9700), self.object(FRAME));
        self.put(THREAD + 0x318, state);
        self.put(state + 56, holder);
        self.put(holder, receiving);
        self.put(receiving + 72, transport);
    }

    /// The dictionary of the tasks that run, with this one alone, behind one that has run.
    fn current(&mut self, task: TaskId) -> u64 {
        let (dict, keys) = (self.object(0x9c00), self.object(0));
        self.put(dict + 16, 1);
        self.put(dict + 32, keys);
        self.put(keys + 8, 3 << 8);
        self.put(keys + 24, 2);
        self.put(keys + 40 + 24 + 16, task.address);
        dict
    }

    /// Another loop's thread, which is as good as the first one in everything.
    fn busy() -> (Self, Vec<TaskId>) {
        let mut image = Self::default();
        let [a, b, c, other, waiter] = [11, 12, 13, 21, 22].map(|number| image.task(number));
        image.runs(other);
        image.gathers(waiter, other);
        image.gathers(b, a);
        image.awaits(c, b);
        image.runs(a);
        (image, vec![a, b, c])
    }

    /// The same, in whose process it is known which tasks run.
    fn busy_and_known() -> (Self, Vec<TaskId>, PythonProcess) {
        let (mut image, tasks) = Self::busy();
        let current_tasks = image.current(tasks[0]);
        (image, tasks, PythonProcess { current_tasks, ..known() })
    }
}

#[test]
fn the_image_is_one_of_a_loop() {
    let (image, tasks) = Image::busy();
    assert_eq!(sent(&image, &known(), THREAD).0, tasks);
    let (mut image, tasks, process) = Image::busy_and_known();
    assert_eq!(sent(&image, &process, THREAD).0, tasks);
    // Whose turn is over runs no more, whatever its frames say.
    image.put(process.current_tasks + 16, 0);
    assert_eq!(sent(&image, &process, THREAD).0, []);
    let mut image = Image::default();
    let task = image.task(7);
    image.waits_for_bytes(task);
    assert!(waited(&image, &known(), THREAD, task));
}

/// Who waits for themselves, and a frame below itself.
#[test]
fn circles_end() {
    let (mut image, tasks) = Image::busy();
    image.awaits(tasks[0], tasks[2]);
    let found = sent(&image, &known(), THREAD).0;
    assert_eq!(found[..3], tasks[..]);
    for frame in image.words.clone().keys() {
        let mut image = image.clone();
        image.put(frame + 8, *frame);
        let _ = sent(&image, &known(), THREAD);
    }
    let mut image = Image::default();
    let task = image.task(7);
    image.waits_for_bytes(task);
    let coroutine = image.word(task.address + 136);
    image.put(coroutine + 72 + 72 + 8, coroutine);
    assert!(!waited(&image, &known(), THREAD, task));
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A word becomes another one of the image, or its address.
    Taken(usize, usize),
    Address(usize, usize),
    Any(usize, u64),
    Unreadable(usize),
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), any::<usize>()).prop_map(|(to, from)| Change::Taken(to, from)),
        (any::<usize>(), any::<usize>()).prop_map(|(to, from)| Change::Address(to, from)),
        (any::<usize>(), any::<u64>()).prop_map(|(to, word)| Change::Any(to, word)),
        any::<usize>().prop_map(Change::Unreadable),
    ]
}

impl Image {
    pub(super) fn change(&mut self, change: &Change, only: impl Fn(u64) -> bool) {
        let all: Vec<u64> = self.words.keys().copied().collect();
        let used: Vec<u64> = all.iter().copied().filter(|at| self.words[at] != 0 && only(*at)).collect();
        let pick = |from: &[u64], n: usize| from[n % from.len()];
        match *change {
            Change::Taken(to, from) => {
                let word = self.words[&pick(&all, from)];
                self.words.insert(pick(&used, to), word);
            }
            Change::Address(to, from) => {
                self.words.insert(pick(&used, to), pick(&all, from));
            }
            Change::Any(to, word) => {
                self.words.insert(pick(&used, to), word);
            }
            Change::Unreadable(to) => {
                self.words.remove(&pick(&used, to));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the memory holds, every walk ends, within its bounds.
    #[test]
    fn walks_end(changes in prop::collection::vec(change(), 1..40), seed: u64) {
        let (mut image, tasks, process) = Image::busy_and_known();
        image.waits_for_bytes(tasks[0]);
        for change in &changes {
            image.change(change, |_| true);
        }
        let _ = sent(&image, &process, THREAD);
        let _ = sent(&image, &known(), THREAD);
        let _ = sent(&image, &known(), seed);
        for task in tasks {
            let _ = waited(&image, &known(), THREAD, task);
        }
    }

    /// One word that is not what it was never makes it another task's work: it is the task's own, or nobody's. Of those
    /// that wait, only what leads from a task, or a `gather`, to the `gather` that it is one of is taken at its word: nothing
    /// that is read leads back.
    #[test]
    fn one_wrong_word_names_nobody_else(change in change(), is_known: bool) {
        let (mut image, tasks, process) = Image::busy_and_known();
        let process = if is_known { process } else { known() };
        let clean = image.clone();
        // Which frame a thread is in is what it says, and which coroutine has called it; and a name is what the program gives.
        let state = clean.word(THREAD + 0x318);
        let holder = clean.word(state + 56);
        let coroutine = clean.word(tasks[0].address + 136);
        let mut said = vec![THREAD + 0x318, state + 56, holder, clean.word(holder) + 8, coroutine + 72 + 8];
        for (at, word) in &clean.words {
            match *word {
                TASK => said.extend([at + 16, at + 136]),
                INT => said.extend([*at, at + 8, at + 16]),
                GATHER => said.push(at + 16),
                FUNCTION => said.push(at + 64),
                CLOSURE => said.extend([at + 16, at + 24]),
                CELL => said.push(at + 8),
                _ => {}
            }
        }
        image.change(&change, |at| !said.contains(&at));
        let (found, _) = sent(&image, &process, THREAD);
        let found: Vec<u64> = found.iter().map(|task| task.address).collect();
        let wanted: Vec<u64> = tasks.iter().map(|task| task.address).collect();
        prop_assert!(wanted.starts_with(&found), "{found:x?} of {wanted:x?}");
    }

    /// One wrong word never makes a task wait that does not.
    #[test]
    fn one_wrong_word_makes_nobody_wait(change in change()) {
        let mut image = Image::default();
        let [task, other] = [7, 8].map(|number| image.task(number));
        image.waits_for_bytes(other);
        image.waits_for_bytes(task);
        // The stream of the other one is another transport's.
        prop_assert!(!waited(&image, &known(), THREAD, other));
        let state = image.word(THREAD + 0x318);
        let said = [THREAD + 0x318, state + 56, image.word(state + 56), image.word(image.word(state + 56)) + 72];
        let transports: Vec<u64> =
            image.words.iter().filter(|(_, word)| **word == said[3]).map(|(at, _)| *at).collect();
        let reading = image.word(image.word(image.word(state + 56)) + 72);
        image.change(&change, |at| !said.contains(&at) && !transports.contains(&at));
        // The one word that says which transport a stream reads from is taken at its word.
        let claims = image.words.values().filter(|word| **word == reading).count();
        prop_assert!(claims > 2 || !waited(&image, &known(), THREAD, other));
    }
}
