//! Who wakes whom, by a program of which it is known.

use std::collections::BTreeMap;

use tracer_abi::event::Awaited;
use tracer_abi::task::Tid;
use tracer_core::event::{Cause, Event, ThreadWoken};
use tracer_tests::temp::TempDir;

use crate::recorded::run_python_with;

#[test]
fn wake_ups_are_reported_as_they_were_and_no_others() {
    let dir = TempDir::new().unwrap();
    let done = dir.join("done");
    let seen = run_python_with("futexes.py", &[done.to_str().unwrap()], &["--handoff", "on"], &dir);
    let mut wakes: Vec<ThreadWoken> = Vec::new();
    for event in &seen.events {
        if let Event::ThreadWoken(woken) = event {
            wakes.push(woken.clone());
        }
    }
    let text = std::fs::read_to_string(done).unwrap();
    let mut lines = text
        .lines()
        .map(|line| line.split(' ').map(|number| number.parse::<u64>().unwrap()).collect::<Vec<u64>>());
    let tid = |number: u64| Tid(number as u32);
    let born = lines.next().unwrap();
    let births: Vec<_> = wakes
        .iter()
        .filter(|woken| woken.cause == Cause::Born)
        .map(|born| (born.woken, born.by.tid))
        .collect();
    assert_eq!(births, [(tid(born[0]), tid(born[1]))]);

    let done: Vec<Vec<u64>> = lines.collect();
    assert_eq!(done.len(), 7);
    let ours = |address| done.iter().any(|line| line[0] == address);
    let reported: Vec<_> = wakes
        .iter()
        .filter_map(|woken| match woken.cause {
            Cause::Futex { address, asleep_since, .. } if ours(address) => {
                Some((woken, address, asleep_since))
            }
            Cause::Futex { .. } | Cause::Born => None,
        })
        .collect();
    let brief = |by, woken, address| (by, woken, address);
    assert_eq!(
        reported
            .iter()
            .map(|(woken, address, _)| brief(woken.by.tid, woken.woken, *address))
            .collect::<Vec<_>>(),
        done.iter().map(|line| brief(tid(line[1]), tid(line[2]), line[0])).collect::<Vec<_>>()
    );
    for (n, ((woken, _, since), line)) in reported.iter().zip(&done).enumerate() {
        assert!(woken.time.as_nanos() >= line[4], "{woken:?} {line:?}");
        match since {
            Some(since) => {
                let since = since.as_nanos();
                assert!((line[3]..line[4]).contains(&since), "asleep since {since}: {line:?}");
            }
            // Its sleeps are known from its first wake-up on, whatever that is.
            None => assert_eq!(n, 0, "{woken:?} {line:?}"),
        }
    }
    // Of each thread, numbered without holes.
    let mut numbers: BTreeMap<Tid, u32> = BTreeMap::new();
    for woken in &wakes {
        let last = numbers.insert(woken.by.tid, woken.by.seq);
        assert_eq!(woken.by.seq, last.unwrap_or(0) + 1, "{woken:?}");
    }
}

/// Nothing is told of a process that is not followed.
#[test]
fn nobody_is_followed_without_need() {
    for handoff in ["auto", "off"] {
        let dir = TempDir::new().unwrap();
        let done = dir.join("done");
        let seen = run_python_with("futexes.py", &[done.to_str().unwrap()], &["--handoff", handoff], &dir);
        assert!(!seen.events.iter().any(|event| matches!(event, Event::ThreadWoken(_))), "{handoff}");
    }
}

/// What a pool does before its calls show that it should be followed is not known later.
#[test]
fn a_program_with_pools_is_followed_before_it_calls() {
    for (handoff, told) in [("auto", 8), ("off", 0)] {
        let dir = TempDir::new().unwrap();
        let seen = run_python_with("pools.py", &[], &["--handoff", handoff], &dir);
        let results = seen.events.iter().filter(|event| {
            let Event::ThreadWoken(woken) = event else { return false };
            matches!(woken.cause, Cause::Futex { awaited: Awaited::Result, asleep_since: Some(_), .. })
        });
        let results = results.count();
        assert!(results >= told && (told > 0 || results == 0), "{handoff}: {results}");
        // Every submit, whether or not it wakes a thread, and before anybody can be told of its result.
        let submits = seen.events.iter().filter(|event| matches!(event, Event::WorkSubmitted(_))).count();
        assert_eq!(submits, if told > 0 { 10 } else { 0 }, "{handoff}");
    }
}
