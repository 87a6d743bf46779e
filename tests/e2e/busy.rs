//! A machine that has more to do than it can: the tracer reads all the same.

use tracer_tests::http::drive;
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::scale;
use tracer_tests::tracer::Tracer;

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
