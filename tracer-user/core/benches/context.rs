//! What looking for trace context costs a request: `cargo bench -p tracer-core --bench context`.
//!
//! Most requests carry none, and each of their fields is looked at: that has to cost next to nothing.

use std::hint::black_box;

use tracer_core::context::{Fields, Propagators, RequestIdKey};

const ROUNDS: usize = 2_000_000;

const PLAIN: [(&str, &str); 10] = [
    ("Host", "shop.example"),
    ("Connection", "keep-alive"),
    ("User-Agent", "Mozilla/5.0"),
    ("Accept", "text/html"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Accept-Language", "en"),
    ("Cookie", "a=b"),
    ("X-Forwarded-For", "10.0.0.1"),
    ("X-Forwarded-Proto", "https"),
    ("Content-Type", "application/json"),
];

const W3C: (&str, &str) = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
const STATE: (&str, &str) = ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
const B3: (&str, &str) = ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1");
const REQUEST_ID: (&str, &str) = ("X-Request-Id", "f058ebd6-02f7-4d3f-942e-904344e8cde5");

fn main() {
    report("10 fields that do not matter", &[]);
    report("10 fields, and traceparent", &[W3C]);
    report("10 fields, and a request id", &[REQUEST_ID]);
    report("10 fields, and traceparent, tracestate, b3 and a request id", &[W3C, STATE, B3, REQUEST_ID]);
}

fn report(what: &str, more: &[(&str, &str)]) {
    let headers: Vec<_> = PLAIN.iter().chain(more).copied().collect();
    let (propagators, key) = (Propagators::default(), RequestIdKey::new([1; 32]));
    let begin = cpu_nanos();
    for _ in 0..ROUNDS {
        let mut fields = Fields::default();
        for (name, value) in black_box(&headers) {
            fields.take(name.as_bytes(), value.as_bytes());
        }
        black_box(fields.read().and_then(|carried| carried.choose(&propagators, &key)));
    }
    println!("{what}: {:.1} ns a request", (cpu_nanos() - begin) as f64 / ROUNDS as f64);
}

fn cpu_nanos() -> usize {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as usize * 1_000_000_000 + time.tv_nsec as usize
}
