//! A machine that has more to do than it can: the tracer reads all the same.

use std::time::{Duration, Instant};

use tracer_tests::http::drive;
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::tracer::Tracer;
use tracer_tests::{scale, wrk};

/// Of whom one thread reads, and those that want the CPU besides.
const WRITERS: usize = 32;
const CLIENTS: usize = 64;

#[test]
fn many_writers_are_read_where_all_want_a_cpu() {
    let nginx = Nginx::start(&Config::answer(WRITERS)).expect("start nginx");
    let tracer = Tracer::attach(&nginx.pids().expect("pids")).expect("attach");
    let count = scale::count(100_000);
    drive(nginx.addr, CLIENTS, count, |client, number| {
        let response = client.get(&format!("/{number}"))?;
        anyhow::ensure!(response.status == 200, "status {}", response.status);
        Ok(())
    })
    .expect("load");
    // A file is written more slowly than spans come here; that is counted apart.
    let log = tracer.finish().expect("tracer").log;
    assert!(!log.contains("tracer: lost:"), "{log}");
    assert!(log.contains(&format!("tracer: {count} spans of ")), "{log}");
}

/// sched_setscheduler(2).
const SCHED_OTHER: u32 = 0;
const SCHED_IDLE: u32 = 5;

#[test]
fn the_reader_defers_to_others_while_there_is_much_to_read_and_no_longer() {
    let nginx = Nginx::start(&Config::answer(1)).expect("start nginx");
    let mut tracer = Tracer::attach(&nginx.pids().expect("pids")).expect("attach");
    let reader = tracer.program().pid();
    assert_eq!(policy(reader), SCHED_OTHER);
    let addr = nginx.addr;
    let load = std::thread::spawn(move || wrk::measure(addr, 32, 3));
    let mut deferred = false;
    while !load.is_finished() {
        deferred |= policy(reader) == SCHED_IDLE;
        std::thread::sleep(Duration::from_millis(2));
    }
    let measured = load.join().expect("wrk").expect("wrk");
    assert!(deferred, "{measured:?}");
    let patience = Instant::now() + Duration::from_secs(5);
    while policy(reader) == SCHED_IDLE && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(policy(reader), SCHED_OTHER);
    let log = tracer.finish().expect("tracer").log;
    assert!(!log.contains("tracer: lost:"), "{log}");
}

/// Of the thread that reads, which is the first one: field 41 of proc_pid_stat(5).
fn policy(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (_, fields) = stat.rsplit_once(')').expect("fields behind the name");
    fields.split_ascii_whitespace().nth(38).expect("field 41").parse().expect("policy")
}
