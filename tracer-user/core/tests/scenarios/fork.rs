//! Programs that a server starts for a request, and what they call.

use std::time::Duration;

use tracer_abi::error::KernelLoss;
use tracer_core::EngineConfig;
use tracer_core::event::Event;

use crate::host::{End, Host, T, lines, run};

const NOBODY: Option<T> = None;

/// A server with two connections from an untraced client.
struct Site {
    host: Host,
    server: T,
    fronts: [(End, End); 2],
}

impl Site {
    fn new() -> Self {
        let mut host = Host::new();
        let server = host.process("site");
        let fronts = [host.connect(NOBODY, Some(server)), host.connect(NOBODY, Some(server))];
        Self { host, server, fronts }
    }

    fn calls(&mut self, script: T, path: &str) {
        let back = self.host.connect(Some(script), None);
        self.host.asks(script, back, NOBODY, path);
        self.host.answers(script, back, NOBODY);
        self.host.close(script, back.0);
    }

    /// The call's line.
    fn of(&self, path: &str) -> String {
        let wanted = format!("site client {path}");
        self.host.lines().into_iter().find(|line| line.starts_with(&wanted)).expect("a call")
    }
}

#[test]
fn what_a_script_calls_is_for_its_request() {
    let mut site = Site::new();
    let (server, front) = (site.server, site.fronts[0]);
    for path in ["/a", "/b"] {
        site.host.asks(NOBODY, front, server, path);
        let script = site.host.forks(server);
        // A script that starts another program, which calls.
        let curl = site.host.forks(script);
        site.calls(curl, &format!("{path}1"));
        site.host.exits(curl);
        site.host.exits(script);
        site.host.answers(NOBODY, front, server);
    }
    assert_eq!(
        site.host.lines(),
        [
            "site server /a",
            "site client /a1 < site server /a (process-fork)",
            "site server /b",
            "site client /b1 < site server /b (process-fork)",
        ]
    );
}

/// It writes to the connection itself, and ends a little later.
#[test]
fn a_script_that_answers_itself() {
    let mut site = Site::new();
    let (server, front) = (site.server, site.fronts[0]);
    for n in 0..3 {
        site.host.asks(NOBODY, front, server, &format!("/a{n}"));
        let script = site.host.forks(server);
        site.calls(script, &format!("/b{n}"));
        site.host.inherits(script, front.1);
        site.host.answers(NOBODY, front, script);
        site.host.exits(script);
        site.host.inherits(server, front.1);
    }
    assert_eq!(site.of("/b0"), "site client /b0 < site server /a0 (process-fork)");
    assert_eq!(site.of("/b2"), "site client /b2 < site server /a2 (process-fork)");
}

#[test]
fn a_process_that_lives_on_works_for_anybody() {
    let mut site = Site::new();
    let (server, front) = (site.server, site.fronts[0]);
    site.host.asks(NOBODY, front, server, "/a");
    let pool = site.host.forks(server);
    site.calls(pool, "/a1");
    site.host.answers(NOBODY, front, server);
    site.host.sleep(Duration::from_secs(1));
    site.calls(pool, "/a2");
    site.host.exits(pool);
    assert_eq!(site.of("/a1"), "site client /a1 - child-outlives");
    assert_eq!(site.of("/a2"), "site client /a2 - no-open-request");
}

#[test]
fn a_script_that_goes_on_after_the_answer() {
    let mut site = Site::new();
    let (server, front) = (site.server, site.fronts[0]);
    site.host.asks(NOBODY, front, server, "/a");
    let script = site.host.forks(server);
    site.host.answers(NOBODY, front, server);
    site.calls(script, "/a1");
    site.host.exits(script);
    assert_eq!(site.of("/a1"), "site client /a1 - no-open-request");
}

#[test]
fn a_fork_outside_of_requests_is_nobodys() {
    let mut site = Site::new();
    let (server, front) = (site.server, site.fronts[0]);
    let early = site.host.forks(server);
    site.host.asks(NOBODY, front, server, "/a");
    site.calls(early, "/early");
    site.host.exits(early);
    site.host.answers(NOBODY, front, server);
    assert_eq!(site.of("/early"), "site client /early");
    // And of a thread that serves, it shows that its forks need not be for what it serves.
    let outside = site.host.forks(server);
    site.calls(outside, "/outside");
    site.host.exits(outside);
    site.host.asks(NOBODY, front, server, "/b");
    let script = site.host.forks(server);
    site.calls(script, "/b1");
    site.host.exits(script);
    site.host.answers(NOBODY, front, server);
    assert_eq!(site.of("/outside"), "site client /outside");
    assert_eq!(site.of("/b1"), "site client /b1 - not-thread-per-request");
}

#[test]
fn a_thread_that_holds_two_forks_for_neither() {
    let mut site = Site::new();
    let server = site.server;
    let [one, two] = site.fronts;
    site.host.asks(NOBODY, one, server, "/a");
    site.host.asks(NOBODY, two, server, "/b");
    let script = site.host.forks(server);
    site.calls(script, "/call");
    site.host.exits(script);
    site.host.answers(NOBODY, two, server);
    site.host.answers(NOBODY, one, server);
    assert_eq!(site.of("/call"), "site client /call");
}

/// Read before the fork by the thread that forks, but answered by another: what that one forks for is not known.
#[test]
fn a_request_that_is_handed_on_is_not_what_its_reader_forks_for() {
    let mut site = Site::new();
    let (server, front) = (site.server, site.fronts[0]);
    let worker = site.host.thread(server, 1);
    site.host.asks(NOBODY, front, server, "/a");
    let child = site.host.forks(server);
    site.calls(child, "/call");
    site.host.exits(child);
    site.host.answers(NOBODY, front, worker);
    assert_eq!(site.of("/call"), "site client /call - request-moved-threads");
}

#[test]
fn an_event_loop_forks_for_anybody() {
    let mut site = Site::new();
    let (server, front) = (site.server, site.fronts[0]);
    site.host.nonblocking(front.1);
    site.host.asks(NOBODY, front, server, "/a");
    let child = site.host.forks(server);
    site.calls(child, "/call");
    site.host.exits(child);
    site.host.answers(NOBODY, front, server);
    assert_eq!(site.of("/call"), "site client /call - event-loop");
}

#[test]
fn a_forked_process_that_serves_has_requests_of_its_own() {
    let mut site = Site::new();
    let (server, front) = (site.server, site.fronts[0]);
    site.host.asks(NOBODY, front, server, "/a");
    let child = site.host.forks(server);
    let other = site.host.connect(NOBODY, Some(child));
    site.host.asks(NOBODY, other, child, "/own");
    site.calls(child, "/call");
    site.host.answers(NOBODY, other, child);
    site.host.exits(child);
    site.host.answers(NOBODY, front, server);
    assert_eq!(site.of("/call"), "site client /call < site server /own (thread)");
}

/// While others are open, a server is believed when it has forked for requests often enough.
#[test]
fn threads_that_fork_are_believed_in_time() {
    let mut site = Site::new();
    let [one, two] = site.fronts;
    let (a, b) = (site.host.thread(site.server, 1), site.host.thread(site.server, 2));
    // One that has nothing to do could show that threads help each other.
    let (spare, front) = (site.host.thread(site.server, 3), site.host.connect(NOBODY, Some(site.server)));
    site.host.asks(NOBODY, front, spare, "/spare");
    site.host.answers(NOBODY, front, spare);
    for n in 0..40 {
        site.host.asks(NOBODY, one, a, &format!("/a{n}"));
        site.host.asks(NOBODY, two, b, &format!("/b{n}"));
        let scripts = [site.host.forks(a), site.host.forks(b)];
        for (script, name) in scripts.into_iter().zip(["a", "b"]) {
            site.calls(script, &format!("/{name}{n}.1"));
            site.host.exits(script);
        }
        site.host.answers(NOBODY, one, a);
        site.host.answers(NOBODY, two, b);
    }
    let all = site.host.lines();
    let right = all.iter().filter(|line| line.ends_with("(process-fork)")).count();
    assert_eq!(right, 80, "{all:?}");
    // Too few, and the run ends.
    let mut few = Site::new();
    let [one, two] = few.fronts;
    let (a, b) = (few.host.thread(few.server, 1), few.host.thread(few.server, 2));
    few.host.asks(NOBODY, one, a, "/a");
    few.host.asks(NOBODY, two, b, "/b");
    let script = few.host.forks(a);
    few.calls(script, "/a1");
    few.host.exits(script);
    few.host.answers(NOBODY, one, a);
    few.host.answers(NOBODY, two, b);
    assert_eq!(few.of("/a1"), "site client /a1 - process-unproven");
}

/// Whatever is lost: the parent is the right one or none.
#[test]
fn no_loss_makes_a_wrong_parent() {
    let mut site = Site::new();
    let (server, front) = (site.server, site.fronts[0]);
    for path in ["/a", "/b"] {
        site.host.asks(NOBODY, front, server, path);
        let script = site.host.forks(server);
        site.calls(script, &format!("{path}1"));
        site.host.exits(script);
        site.host.answers(NOBODY, front, server);
    }
    for lost in 0..site.host.events.len() {
        let mut events = site.host.events.clone();
        let time = events[lost].time().plus(Duration::from_millis(1));
        events.remove(lost);
        events.insert(lost, Event::LossCounted { time, loss: KernelLoss::ControlRingFull, count: 1 });
        let spans = run(&events, EngineConfig::default(), site.host.clock);
        for line in lines(&spans).iter().filter(|line| line.contains(" client ") && line.contains(" < ")) {
            let right = line.contains(" client /a1 < ") && line.contains(" server /a (")
                || line.contains(" client /b1 < ") && line.contains(" server /b (");
            assert!(right, "without event {lost}: {line}");
        }
    }
}
