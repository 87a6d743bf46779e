//! Go.
//!
//! Where a version has its fields, a row of [`VERSIONS`] says. No symbols are needed: what is looked for is recognized
//! among the program's variables by what it must be.
//!
//! | found | must be |
//! |---|---|
//! | `runtime.allgs` | a list whose first goroutine has number 1 and no parent, and one of the next a number that is given out early and the first as its parent, both with a stack |
//! | `runtime.allp` | a list of processors, each with its place as its number, and at most [`CACHE_NUMBERS`] numbers in its cache |
//! | `runtime.sched` | begins with about the last number of the caches, and has the limit of threads at its place |
//!
//! Without the first goroutines are not known at all; without the others, not which of them are younger than a request.

#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use tracer_abi::golang::{CACHE_NUMBERS, GoProcess};
use tracer_abi::task::ProcessKey;
use tracer_elf::go_version::{VERSIONS, Version, build_info, minor_of, unknown_version};

use super::memory::Bytes;
use super::module::{Modules, Writable, writable};
use super::{Finding, Runtime};

/// `runtime.sched.maxmcount`, unless the program changes it.
const MAX_THREADS: u32 = 10_000;

/// A program's variables, as far as they are looked through. The runtime's own are in the first few 100 KiB of those that
/// have pointers; what programs have before them, tables mostly, is seldom more than a few MiB.
const MAX_VARIABLES: usize = 8 << 20;
const PIECE: usize = 1 << 20;

/// Goroutines and processors of one program, as far as they can be.
const MAX_GOROUTINES: u64 = 1 << 28;
const MAX_PROCESSORS: u64 = 4096;

/// Those among which one is that the first has started.
const FIRST_GOROUTINES: u64 = 8;

/// Its number, at most: the last one that any processor takes first.
const FIRST_NUMBERS: u64 = CACHE_NUMBERS * MAX_PROCESSORS;

/// How far what was read of numbers a moment ago is from what is read now.
const MAX_AHEAD: u64 = 100_000;

/// A program gives out numbers while they are read.
const ATTEMPTS: usize = 5;

pub(super) fn examine<M: Bytes>(process: ProcessKey, modules: &Modules, memory: &M) -> Finding {
    let Some(place) = modules.executable().and_then(|base| writable(memory, base)) else {
        return Finding::Nothing;
    };
    let Some(text) = version_text(memory, place) else { return Finding::Nothing };
    let name = Runtime(text.replacen("go", "Go ", 1));
    let minor = minor_of(&text);
    let Some(version) = VERSIONS.iter().find(|version| Some(version.minor) == minor) else {
        return Finding::Unknown(name, unknown_version());
    };
    let variables = Variables::read(memory, place);
    let go = Go { memory, version };
    if !variables.slices().any(|slice| go.are_goroutines(&slice)) {
        return Finding::NotYet(name, "its goroutines are not there yet, or not where its version has them");
    }
    let (processors, scheduler) = (0..ATTEMPTS).find_map(|_| go.find_numbers(&variables)).unwrap_or_default();
    Finding::Go(
        name,
        Box::new(GoProcess {
            start_boottime: process.start_boottime,
            processors,
            scheduler,
            spent_nanos: 0,
            looks: 0,
            layout: version.layout,
        }),
    )
}

/// `go1.26.1`, and what a vendor adds.
fn version_text<M: Bytes>(memory: &M, place: Writable) -> Option<String> {
    let mut found = vec![0; usize::try_from(place.file_len).ok()?.min(MAX_VARIABLES)];
    if !memory.fill(place.start, &mut found) {
        return None;
    }
    build_info(&found).map(|(version, _)| version)
}

/// The program's variables as they were at some moment.
struct Variables {
    start: u64,
    words: Vec<u64>,
}

/// A list among them.
struct Slice {
    at: u64,
    first: u64,
    len: u64,
}

impl Variables {
    fn read<M: Bytes>(memory: &M, Writable { start, len, .. }: Writable) -> Self {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(MAX_VARIABLES)];
        let mut at = start;
        for piece in bytes.chunks_mut(PIECE) {
            // What cannot be read stays zero.
            let _ = memory.fill(at, piece);
            at = at.wrapping_add(piece.len() as u64);
        }
        let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        Self { start, words }
    }

    fn slices(&self) -> impl Iterator<Item = Slice> {
        (0_u64..).zip(self.words.windows(3)).filter_map(|(index, words)| {
            let &[first, len, room] = words else { return None };
            let plausible = first >= 0x1000 && first % 8 == 0 && first >> 47 == 0 && len > 0 && len <= room;
            (plausible && room <= MAX_GOROUTINES).then(|| Slice {
                at: self.start.wrapping_add(8 * index),
                first,
                len,
            })
        })
    }
}

struct Go<'p, M> {
    memory: &'p M,
    version: &'p Version,
}

impl<M: Bytes> Go<'_, M> {
    fn word(&self, address: u64, offset: u32) -> u64 {
        self.memory.word(address.wrapping_add(offset.into()))
    }

    fn are_goroutines(&self, slice: &Slice) -> bool {
        let layout = &self.version.layout;
        let has = |place: u64, numbers: RangeInclusive<u64>, parent: u64| {
            let goroutine = self.memory.word(slice.first.wrapping_add(8 * place));
            goroutine >= 0x1000
                && numbers.contains(&self.word(goroutine, layout.number))
                && self.word(goroutine, layout.parent) == parent
                && (1..self.word(goroutine, 8)).contains(&self.word(goroutine, 0))
        };
        // The first one starts the others. It has the second number for them only if it still runs on the processor that it
        // began on; each has numbers of its own. With C in the program, the goroutine of a thread of C's is between them.
        has(0, 1..=1, 0) && (1..slice.len.min(FIRST_GOROUTINES)).any(|place| has(place, 2..=FIRST_NUMBERS, 1))
    }

    /// `runtime.allp` and `runtime.sched`.
    fn find_numbers(&self, variables: &Variables) -> Option<(u64, u64)> {
        let mut lists =
            variables.slices().filter_map(|slice| Some((slice.at, slice.first, self.caches_end(&slice)?)));
        // The linker puts small variables first. A thread's copy of the list is in something large.
        let (processors, first, end) = lists.next()?;
        if lists.any(|(_, other, _)| other != first) {
            return None;
        }
        let last = end.checked_sub(1).filter(|last| *last > 0)?;
        // Variables do not move, but their values have gone on. Threads of C's take numbers one by one.
        let near = |number: u64| number != 0 && number.abs_diff(last) <= MAX_AHEAD;
        let limits = variables.words.iter().skip(self.version.max_threads);
        let scheduler = only((0_u64..).zip(variables.words.iter().zip(limits)).filter_map(
            |(index, (number, limit))| {
                let at = variables.start.wrapping_add(8 * index);
                let is = *limit as u32 == MAX_THREADS && near(*number);
                (is && (last..=last + MAX_AHEAD).contains(&self.memory.word(at))).then_some(at)
            },
        ))?;
        Some((processors, scheduler))
    }

    /// The end of the numbers that processors have taken, if that is what a list holds.
    fn caches_end(&self, slice: &Slice) -> Option<u64> {
        let layout = &self.version.layout;
        if slice.len > MAX_PROCESSORS {
            return None;
        }
        let mut last = 0;
        for index in 0..slice.len {
            let processor = self.memory.word(slice.first.wrapping_add(8 * index));
            if processor < 0x1000 || u64::from(self.memory.half(processor)) != index {
                return None;
            }
            let (next, end) = (self.word(processor, layout.cache), self.word(processor, layout.cache_end));
            let taken = next > 0 && next <= end && end - next <= CACHE_NUMBERS;
            if !(taken || end == 0 && next == 0) {
                return None;
            }
            last = last.max(end);
        }
        (last > 0).then_some(last)
    }
}

/// The one thing that there is; `None` where there are several.
fn only<T>(mut things: impl Iterator<Item = T>) -> Option<T> {
    let thing = things.next()?;
    things.next().is_none().then_some(thing)
}
