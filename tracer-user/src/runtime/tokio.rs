//! Tokio.
//!
//! Its version is in the paths of its source files, which panics tell and which programs have, stripped or not. No
//! symbols are needed, and no layout differs between versions: headers are recognized by what they must be. Two things
//! are found out while the program works, from what the kernel half tells ([`Lessons`]):
//!
//! | found | by |
//! |---|---|
//! | where a thread has the id of the task that it polls | comparing words below the thread pointer with the ids of headers on the stack: one is right nearly always, and no other |
//! | where the next id is | a variable of the program that is always a little more than the highest id that was seen, and grows with it |
//!
//! Without the first, tasks are not known at all; without the other, not which of them are younger than a request.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use tracer_abi::python::CHAIN_TASKS;
use tracer_abi::task::ProcessKey;
use tracer_abi::tokio::{LOCAL_WORDS, MAX_LOCAL_WORDS, TokioProcess};

use super::memory::{Bytes, ProcessMemory};
use super::module::{Modules, Program, writable};
use super::{Finding, Runtime};
use crate::process::procfs::ProcDir;

/// Minor versions of tokio 1 in which headers and channels are known to be what the walk takes them for.
const VERSIONS: RangeInclusive<u32> = 28..=54;

/// What a path of tokio's sources has before its version.
const NAME: &[u8] = b"/tokio-1.";
const LONGEST_NUMBER: usize = 9;

/// What programs have of constants, as far as it is looked through.
const MAX_CONSTANTS: u64 = 16 << 20;
const PIECE: usize = 1 << 20;

pub(super) fn examine<M: Bytes>(process: ProcessKey, modules: &Modules, memory: &M) -> Finding {
    let Some(program) = modules.executable().and_then(|base| Program::of(memory, base)) else {
        return Finding::Nothing;
    };
    let Some(version) = program.read_only.iter().find_map(|(start, len)| find_version(memory, *start, *len))
    else {
        return Finding::Nothing;
    };
    let name = Runtime(format!("tokio {version}"));
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
    if minor.is_none_or(|minor| !VERSIONS.contains(&minor)) {
        let needed =
            format!("known are versions 1.{} to 1.{}: it must be tried", VERSIONS.start(), VERSIONS.end());
        return Finding::Unknown(name, needed);
    }
    let (Some(constants), Some(code), Some(local)) = (program.relocated, program.code, program.local) else {
        let needed = "its executable has no thread-local variables or no read-only ones".to_owned();
        return Finding::Unknown(name, needed);
    };
    let local_words = (local.div_ceil(8)).min(MAX_LOCAL_WORDS);
    Finding::Tokio(
        name,
        Box::new(TokioProcess {
            start_boottime: process.start_boottime,
            constants: constants.0,
            constants_end: constants.0 + constants.1,
            code: code.0,
            code_end: code.0 + code.1,
            local_words,
            ..TokioProcess::default()
        }),
    )
}

/// `1.54.1`, and what a fork adds.
fn find_version<M: Bytes>(memory: &M, start: u64, len: u64) -> Option<String> {
    let len = usize::try_from(len.min(MAX_CONSTANTS)).ok()?;
    let mut piece = vec![0; PIECE.min(len)];
    // What is cut by the end of a piece is whole in the next one.
    let overlap = NAME.len() + LONGEST_NUMBER;
    let mut at = 0;
    while at < len {
        let wanted = PIECE.min(len - at);
        let part = piece.get_mut(..wanted)?;
        if !memory.fill(start.wrapping_add(at as u64), part) {
            return None;
        }
        if let Some(version) = version_in(part) {
            return Some(version);
        }
        if wanted <= overlap {
            break;
        }
        at += wanted - overlap;
    }
    None
}

fn version_in(text: &[u8]) -> Option<String> {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'/') {
        rest = rest.get(at..)?;
        if let Some(numbers) = rest.strip_prefix(NAME) {
            let len = numbers.iter().take(LONGEST_NUMBER).take_while(|byte| is_of_number(**byte)).count();
            // Behind the numbers comes the folder's content.
            if numbers.get(len) == Some(&b'/') {
                return Some(format!("1.{}", String::from_utf8_lossy(numbers.get(..len)?)));
            }
        }
        rest = rest.get(1..)?;
    }
    None
}

const fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'.'
}

/// Tasks on whose stacks the place of the current id must be found, and after how many stacks it will not be.
const MIN_TASKS: u32 = 6;
const MAX_STACKS: u32 = 4096;

/// How often the variables are read until one is taken for the next id, and how far that may be from the ids seen.
const MIN_ROUNDS: u32 = 4;
const MAX_ROUNDS: u32 = 64;
const MAX_AHEAD: u64 = 4096;

/// How far the ids seen must have come between two readings.
const MIN_GROWTH: u64 = 3;

/// A program's variables, as far as they are looked through: those of programs in Rust are few.
const MAX_VARIABLES: u64 = 2 << 20;

/// What is being learned of a process.
#[derive(Debug)]
pub(crate) struct Lessons {
    process: ProcessKey,
    /// By word below the thread pointer: for how many tasks it was the id of a header on the stack.
    votes: Vec<u32>,
    stacks: u32,
    tasks: BTreeSet<u64>,
    has_local_id: bool,
    /// The highest id that was seen.
    newest: u64,
    /// It at the last reading.
    read_at: u64,
    /// Variables that may be the next id, and what they were.
    candidates: Option<Vec<(u64, u64)>>,
    rounds: u32,
}

/// What was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lesson {
    /// Where a thread has the current id: bytes below the thread pointer.
    Local(u64),
    /// Where the next id is.
    Next(u64),
    /// Not to be found out.
    NoLocal,
    NoNext,
}

impl Lessons {
    pub(crate) fn new(process: ProcessKey) -> Self {
        Self {
            process,
            votes: vec![0; 64 * LOCAL_WORDS],
            stacks: 0,
            tasks: BTreeSet::new(),
            has_local_id: false,
            newest: 0,
            read_at: 0,
            candidates: None,
            rounds: 0,
        }
    }

    /// A stack with headers, as [`tracer_abi::tokio::walk_end::LEARNS`] says.
    pub(crate) fn compare(&mut self, words: &[u64; 2 * CHAIN_TASKS]) -> Option<Lesson> {
        if self.has_local_id {
            // Told before it was known.
            return None;
        }
        self.stacks += 1;
        let unknown = (self.stacks >= MAX_STACKS).then_some(Lesson::NoLocal);
        // Where no word is an id, no task was polled: what the stack has is left over. Each task has one vote: a low number of
        // one that lives long may be found elsewhere, too.
        let (bits, id) = words.split_at(LOCAL_WORDS);
        if bits.iter().all(|word| *word == 0) || !self.tasks.insert(*id.first()?) {
            return unknown;
        }
        for (vote, index) in self.votes.iter_mut().zip(0..) {
            let word: u64 = words[index / 64];
            *vote += u32::from(word >> (index % 64) & 1 != 0);
        }
        let tasks = self.tasks.len() as u32;
        let (at, most) = (0_u64..).zip(&self.votes).max_by_key(|(_, votes)| **votes)?;
        let others = self.votes.iter().zip(0_u64..).filter(|(_, other)| *other != at);
        let second = others.map(|(votes, _)| *votes).max().unwrap_or(0);
        if *most >= MIN_TASKS && most * 4 >= tasks * 3 && second * 2 <= *most {
            self.has_local_id = true;
            return Some(Lesson::Local(8 * (at + 1)));
        }
        unknown
    }

    /// A task was seen.
    pub(crate) fn note(&mut self, id: u64) {
        self.newest = self.newest.max(id);
    }

    /// Looks at the program's variables, if that may tell more than it did.
    pub(crate) fn look(&mut self) -> Option<Lesson> {
        if self.newest < self.read_at + MIN_GROWTH {
            return None;
        }
        self.read_at = self.newest;
        let dir = ProcDir::open_exactly(self.process).ok()?;
        let (modules, file) = (Modules::of(&dir).ok()?, dir.file("mem").ok()?);
        self.sift(&ProcessMemory::new(file), modules.executable()?)
    }

    fn sift<M: Bytes>(&mut self, memory: &M, base: u64) -> Option<Lesson> {
        let place = writable(memory, base)?;
        self.rounds += 1;
        let near = self.newest + 1..=self.newest + MAX_AHEAD;
        let left: Vec<(u64, u64)> = match self.candidates.take() {
            None => {
                let mut bytes = vec![0; usize::try_from(place.len.min(MAX_VARIABLES)).ok()?];
                if !memory.fill(place.start, &mut bytes) {
                    return None;
                }
                let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
                (0..).zip(words).map(|(index, word)| (place.start + 8 * index, word)).collect()
            }
            Some(known) => {
                let now = known.into_iter().map(|(at, before)| (at, before, memory.word(at)));
                now.filter(|(_, before, now)| now > before).map(|(at, _, now)| (at, now)).collect()
            }
        };
        let left: Vec<(u64, u64)> = left.into_iter().filter(|(_, word)| near.contains(word)).collect();
        let lesson = match *left.as_slice() {
            [] => Some(Lesson::NoNext),
            [(at, _)] if self.rounds >= MIN_ROUNDS => Some(Lesson::Next(at)),
            _ => (self.rounds >= MAX_ROUNDS).then_some(Lesson::NoNext),
        };
        self.candidates = Some(left);
        lesson
    }
}
