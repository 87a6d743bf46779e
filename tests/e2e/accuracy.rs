//! Real programs of all sorts under load, briefly: not one parent may be wrong. How many are right is measured by
//! `cargo xtask accuracy`, with loads from 1 to 64 and many more edges; here it is only noticed when parents are gone that
//! nothing but their way to be found can take away.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Once;

use tracer_tests::accuracy::workloads::{Class, all};
use tracer_tests::accuracy::{Cell, Effort, measure, measure_with};
use tracer_tests::service::NotFetched;
use tracer_tests::{scale, tracer};

/// Requests at a time: as many as the smaller pools have threads, and more than the smallest queues hold.
const LOAD: usize = 16;

/// Edges per program.
const EDGES: usize = 200;

const RUNTIMES: [&str; 9] = ["nginx", "python", "java", "node", "go", "rust", "ruby", "php", "shell"];

/// Measures all programs of a runtime, those that deceive apart.
fn programs(runtime: &str, deceivers: bool) {
    let binary = tracer::binary().expect("tracer");
    let effort = Effort { min_edges: scale::count(EDGES), seeds: 1 };
    let mut failures = Vec::new();
    for workload in all() {
        if workload.runtime != runtime || (workload.class == Class::Adversarial) != deceivers {
            continue;
        }
        let mut notes = Vec::new();
        let cell = measure(&binary, &workload, LOAD, effort, false, |note| notes.push(note.to_owned()));
        let cell = match cell {
            Err(error) if error.downcast_ref::<NotFetched>().is_some() => {
                let _ = writeln!(std::io::stderr(), "skipped: {}: {error:#}", workload.name());
                continue;
            }
            cell => cell.unwrap_or_else(|error| panic!("{}: {error:#}", workload.name())),
        };
        print_row(&cell);
        if cell.wrong() > 0 {
            failures.push(format!("wrong: {cell}\n{}", notes.join("\n")));
        }
        if rests_on_nothing_else(workload.class) && 2 * cell.in_process.recall_percent() < cell.goal {
            failures.push(format!("less than half of the goal: {cell}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Whether parents are found in programs of this class whatever else the machine does.
fn rests_on_nothing_else(class: Class) -> bool {
    matches!(class, Class::ThreadPerRequest | Class::ProcessPerRequest | Class::Proxy | Class::SubmitAndWait)
}

/// Prints to standard error itself, which the test harness does not hold back: the table is of interest when all is
/// well, too.
fn print_row(cell: &Cell) {
    static HEADER: Once = Once::new();
    HEADER.call_once(|| {
        let _ = writeln!(std::io::stderr(), "{}", Cell::header());
    });
    let _ = writeln!(std::io::stderr(), "{cell}");
}

#[test]
fn nginx_is_never_wrong() {
    programs("nginx", false);
}

#[test]
fn python_is_never_wrong() {
    programs("python", false);
}

#[test]
fn python_that_deceives_is_never_wrong() {
    programs("python", true);
}

#[test]
fn java_is_never_wrong() {
    programs("java", false);
}

#[test]
fn java_that_deceives_is_never_wrong() {
    programs("java", true);
}

#[test]
fn node_is_never_wrong() {
    programs("node", false);
}

#[test]
fn go_is_never_wrong() {
    programs("go", false);
}

#[test]
fn go_that_deceives_is_never_wrong() {
    programs("go", true);
}

#[test]
fn rust_is_never_wrong() {
    programs("rust", false);
}

#[test]
fn rust_that_deceives_is_never_wrong() {
    programs("rust", true);
}

#[test]
fn ruby_is_never_wrong() {
    programs("ruby", false);
}

#[test]
fn ruby_that_deceives_is_never_wrong() {
    programs("ruby", true);
}

#[test]
fn php_is_never_wrong() {
    programs("php", false);
}

#[test]
fn shell_scripts_are_never_wrong() {
    programs("shell", false);
}

#[test]
fn no_runtime_is_left_out() {
    let known: BTreeSet<&str> = RUNTIMES.into();
    assert_eq!(all().iter().map(|workload| workload.runtime).collect::<BTreeSet<_>>(), known);
    let deceivers = all().into_iter().filter(|workload| workload.class == Class::Adversarial);
    assert!(
        deceivers
            .map(|workload| workload.runtime)
            .all(|runtime| ["go", "python", "java", "ruby", "rust"].contains(&runtime))
    );
}

/// Asking costs these some percent of their time, which is more than they are allowed here: they are asked, left alone, and
/// asked again.
#[test]
fn who_is_asked_for_a_part_of_the_time_only_is_never_wrong() {
    let binary = tracer::binary().expect("tracer");
    for (name, percent, edges, told) in [
        ("asyncio", "1", 16_000, "its tasks are known"),
        ("pool", "0.5", 16_000, "what its threads wait for is known"),
    ] {
        let workload = all().into_iter().find(|of| of.runtime == "python" && of.model == name).expect(name);
        let effort = Effort { min_edges: scale::count(edges), seeds: 1 };
        let options = ["--identity-budget", percent, "-v"];
        let measured = measure_with(&binary, &options, &workload, LOAD, effort, false, |_| {});
        let (cell, log) = measured.expect("measured");
        print_row(&cell);
        assert_eq!(cell.wrong(), 0, "{cell}");
        let (before, _) = log.split_once(&format!(" that it ran, more than {percent} %")).expect(&log);
        let pid =
            before.rsplit("process ").next().and_then(|begin| begin.split(':').next()).expect("a process");
        let known =
            log.lines().filter(|line| line.contains(&format!("process {pid}: ")) && line.ends_with(told));
        assert!(known.count() > 1, "{log}");
    }
}
