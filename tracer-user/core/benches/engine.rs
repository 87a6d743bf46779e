//! What the engine costs per exchange: `cargo bench -p tracer-core`.
//!
//! Events are made beforehand; the time is processor time of handling and draining, events' clones included, so that a
//! busy machine changes it little.

#[path = "../tests/host/mod.rs"]
mod host;

use host::{Host, T};
use tracer_core::event::Event;
use tracer_core::{Engine, EngineConfig};

const REQUESTS: usize = 200_000;
const NOBODY: Option<T> = None;

fn main() {
    report("server alone, keep-alive", 1, |host, n| {
        let shop = T { process: 100, tid: 100 };
        if n == 0 {
            host.process("shop");
            for _ in 0..64 {
                host.connect(None, Some(shop));
            }
        }
        let conn = (host::End(2 * (n % 64)), host::End(2 * (n % 64) + 1));
        host.nonblocking(conn.1);
        host.asks(NOBODY, conn, shop, "/index.html?x=1");
        host.answers(NOBODY, conn, shop);
    });
    report("client, proxy and service in a chain", 4, |host, n| {
        let (curl, shop, cart) =
            (T { process: 100, tid: 100 }, T { process: 200, tid: 200 }, T { process: 300, tid: 300 });
        if n == 0 {
            host.process("curl");
            host.process("shop");
            host.process("cart");
            for _ in 0..32 {
                host.connect(Some(curl), Some(shop));
                host.connect(Some(shop), Some(cart));
            }
        }
        let front = (host::End(4 * (n % 32)), host::End(4 * (n % 32) + 1));
        let back = (host::End(4 * (n % 32) + 2), host::End(4 * (n % 32) + 3));
        let worker = T { tid: 201 + (n % 32) as u32, ..shop };
        host.asks(curl, front, worker, "/a");
        host.asks(worker, back, cart, "/b");
        host.answers(worker, back, cart);
        host.answers(curl, front, worker);
    });
}

fn report(what: &str, exchanges: usize, mut request: impl FnMut(&mut Host, usize)) {
    let mut host = Host::new();
    for n in 0..REQUESTS / exchanges {
        request(&mut host, n);
    }
    let events: Vec<Event> = host.events;
    let mut engine = Engine::new(EngineConfig::default(), [0; 32]);
    let mut spans = 0;
    let begin = cpu_nanos();
    for event in &events {
        engine.handle_event(event.clone());
        while engine.poll_span().is_some() {
            spans += 1;
        }
    }
    engine.finish(host.clock);
    while engine.poll_span().is_some() {
        spans += 1;
    }
    let nanos = cpu_nanos() - begin;
    println!(
        "{what}: {spans} spans of {} events, {} ns an exchange, {} ns an event",
        events.len(),
        nanos / spans.max(1),
        nanos / events.len()
    );
}

fn cpu_nanos() -> usize {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as usize * 1_000_000_000 + time.tv_nsec as usize
}
