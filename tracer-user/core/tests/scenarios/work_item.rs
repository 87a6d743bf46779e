//! Calls that a thread of CPython's pools makes inside of a work item, whose result another one waits for.

use std::time::Duration;

use tracer_abi::event::Awaited;
use tracer_abi::python_work::MAX_FUTURES;
use tracer_core::EngineConfig;
use tracer_core::event::{Event, Results};
use tracer_core::span::{Evidence, Span};

use crate::host::{End, Host, T, key, lines, path, run};

/// Futures of items.
const ONE: u64 = 0x7000;
const OTHER: u64 = 0x7100;
const OUTER: u64 = 0x7200;

/// A service that is known from the first: two of its threads serve, two are a pool's.
struct Pool {
    host: Host,
    serve: [T; 2],
    call: [T; 2],
    fronts: [(End, End); 2],
    backs: [(End, End); 2],
}

impl Pool {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("pool");
        let serve = [host.thread(main, 1), host.thread(main, 2)];
        let call = [host.thread(main, 11), host.thread(main, 12)];
        let fronts = [host.connect(None, Some(main)), host.connect(None, Some(main))];
        let backs = [host.connect(Some(main), None), host.connect(Some(main), None)];
        let mut pool = Self { host, serve, call, fronts, backs };
        // The first wake-up of all tells nothing but that hand-offs are followed.
        pool.host.falls_asleep(serve[1]);
        pool.host.wakes(serve[0], serve[1], 1);
        pool
    }

    /// One that has shown often what is waited for.
    fn proven() -> Self {
        let mut pool = Self::new();
        (0..10).for_each(|n| pool.whole(&format!("/{n}")));
        pool
    }

    fn request(&mut self, n: usize, path: &str) {
        self.host.request(None, self.fronts[n].0, path);
        self.host.read(self.serve[n], self.fronts[n].1);
    }

    fn response(&mut self, n: usize) {
        self.host.response(self.serve[n], self.fronts[n].1);
        self.host.read(None, self.fronts[n].0);
    }

    /// An item is submitted, which is seen: a thread of the pool is woken.
    fn submits(&mut self, by: T, within: Option<u64>, worker: usize, future: u64) {
        self.host.falls_asleep(self.call[worker]);
        let told = results(within, &[future]);
        self.host.wakes_with(by, self.call[worker], 0x10, Awaited::Other, told);
    }

    fn sends(&mut self, worker: usize, future: u64, path: &str) {
        self.host.in_work(future);
        self.host.request(self.call[worker], self.backs[worker].0, path);
        self.host.read(None, self.backs[worker].1);
    }

    fn receives(&mut self, worker: usize, future: u64) {
        self.host.response(None, self.backs[worker].1);
        self.host.in_work(future);
        self.host.read(self.call[worker], self.backs[worker].0);
    }

    fn calls(&mut self, worker: usize, future: u64, path: &str) {
        self.sends(worker, future, path);
        self.receives(worker, future);
    }

    fn tells(&mut self, worker: usize, thread: T, within: Option<u64>, futures: &[u64]) {
        let address = 0x100 + u64::from(thread.tid);
        let told = results(within, futures);
        self.host.wakes_with(self.call[worker], thread, address, Awaited::Result, told);
    }

    /// The first thread gets a request, submits, and waits for the result.
    fn waits(&mut self, worker: usize, future: u64, path: &str) {
        let thread = self.serve[0];
        self.request(0, path);
        self.submits(thread, None, worker, future);
        self.host.falls_asleep(thread);
    }

    /// The whole of it.
    fn whole(&mut self, path: &str) {
        let thread = self.serve[0];
        self.waits(0, ONE, path);
        self.calls(0, ONE, &format!("{path}.0"));
        self.tells(0, thread, None, &[ONE]);
        self.response(0);
    }

    fn spans(&mut self) -> Vec<Span> {
        self.host.sleep(Duration::from_secs(2));
        run(&self.host.events, EngineConfig::default(), self.host.clock)
    }

    /// What is said of the call with this path: how sure its parent is, or why it has none.
    fn verdict(&mut self, of: &str) -> String {
        let spans = self.spans();
        let span = spans.iter().find(|span| path(span) == of).expect("a span");
        match (span.parent, span.undecided) {
            (Some(parent), None) => {
                let above = spans.iter().find(|above| above.span_id == parent.span_id).expect("its parent");
                assert_eq!(parent.evidence, Evidence::RuntimeTask);
                format!("{} {}", parent.confidence.as_str(), path(above))
            }
            (None, Some(reason)) => reason.to_owned(),
            other => panic!("{other:?}\n{}", lines(&spans).join("\n")),
        }
    }
}

fn results(within: Option<u64>, told: &[u64]) -> Results {
    let mut futures = [0; MAX_FUTURES];
    futures.iter_mut().zip(told).for_each(|(future, told)| *future = *told);
    Results { within, futures }
}

#[test]
fn the_request_that_submits_an_item_and_waits_for_it_is_the_parent_of_its_calls() {
    let mut pool = Pool::new();
    pool.whole("/1");
    assert_eq!(pool.verdict("/1.0"), "likely /1");
}

#[test]
fn who_goes_to_wait_when_the_call_is_over_is_not_named() {
    for (after, want) in [(0, "likely /1"), (1, "likely /1"), (2, "no-hand-off")] {
        let mut pool = Pool::new();
        let thread = pool.serve[0];
        pool.request(0, "/1");
        pool.submits(thread, None, 0, ONE);
        let mut moment = 0;
        let mut may_wait = |pool: &mut Pool| {
            if moment == after {
                pool.host.falls_asleep(thread);
            }
            moment += 1;
        };
        may_wait(&mut pool);
        pool.sends(0, ONE, "/1.0");
        may_wait(&mut pool);
        pool.receives(0, ONE);
        may_wait(&mut pool);
        pool.tells(0, thread, None, &[ONE]);
        pool.response(0);
        assert_eq!(pool.verdict("/1.0"), want, "{after}");
    }
}

/// Several calls, of which none but the last is followed by a wake-up.
#[test]
fn all_calls_of_an_item_are_for_who_waits() {
    let mut pool = Pool::new();
    let thread = pool.serve[0];
    pool.waits(0, ONE, "/1");
    pool.calls(0, ONE, "/1.0");
    pool.calls(0, ONE, "/1.1");
    pool.tells(0, thread, None, &[ONE]);
    pool.response(0);
    assert_eq!(pool.verdict("/1.0"), "likely /1");
    assert_eq!(pool.verdict("/1.1"), "likely /1");
}

#[test]
fn results_that_are_waited_for_together_are_each_for_who_waits() {
    let mut pool = Pool::new();
    let thread = pool.serve[0];
    pool.request(0, "/1");
    pool.submits(thread, None, 0, ONE);
    pool.submits(thread, None, 1, OTHER);
    pool.host.falls_asleep(thread);
    pool.calls(0, ONE, "/1.0");
    pool.calls(1, OTHER, "/1.1");
    pool.tells(1, thread, None, &[OTHER, ONE]);
    pool.response(0);
    assert_eq!(pool.verdict("/1.0"), "likely /1");
    assert_eq!(pool.verdict("/1.1"), "likely /1");
}

#[test]
fn an_item_that_waits_for_another_hands_its_calls_on() {
    let mut pool = Pool::new();
    let (thread, outer) = (pool.serve[0], pool.call[1]);
    pool.waits(1, OUTER, "/1");
    pool.submits(outer, Some(OUTER), 0, ONE);
    pool.host.falls_asleep(outer);
    pool.calls(0, ONE, "/1.0");
    pool.tells(0, outer, Some(OUTER), &[ONE]);
    pool.tells(1, thread, None, &[OUTER]);
    pool.response(0);
    assert_eq!(pool.verdict("/1.0"), "likely /1");
}

/// The thread of a pool calls for nobody, and then does what a request waits for.
#[test]
fn a_call_inside_of_another_item_is_for_nobody() {
    let mut pool = Pool::proven();
    let thread = pool.serve[0];
    pool.waits(0, ONE, "/x");
    pool.calls(0, OTHER, "/x.0");
    pool.tells(0, thread, None, &[ONE]);
    pool.response(0);
    assert_eq!(pool.verdict("/x.0"), "no-hand-off");
}

/// The same, where the future of what is waited for has the address that the other one had.
#[test]
fn a_future_at_an_address_that_was_used_before_is_another_one() {
    let mut pool = Pool::proven();
    let thread = pool.serve[0];
    pool.request(0, "/x");
    pool.submits(thread, None, 0, ONE);
    pool.calls(0, ONE, "/x.0");
    pool.submits(thread, None, 0, ONE);
    pool.host.falls_asleep(thread);
    pool.tells(0, thread, None, &[ONE]);
    pool.response(0);
    assert_eq!(pool.verdict("/x.0"), "no-hand-off");
}

/// A request whose thread waits for what another's has submitted, alone or with that one.
#[test]
fn futures_that_are_shared_or_handed_on_name_nobody() {
    for (both, want) in [(false, "hand-offs-elsewhere"), (true, "several-hand-offs")] {
        let mut pool = Pool::proven();
        let [one, other] = pool.serve;
        pool.request(0, "/x");
        pool.request(1, "/y");
        pool.submits(one, None, 0, ONE);
        pool.host.falls_asleep(other);
        if both {
            pool.host.falls_asleep(one);
        }
        pool.calls(0, ONE, "/x.0");
        pool.tells(0, other, None, &[ONE]);
        if both {
            pool.tells(0, one, None, &[ONE]);
        }
        pool.response(0);
        pool.response(1);
        assert_eq!(pool.verdict("/x.0"), want);
    }
}

/// A result that was there before anybody went to wait for it, and a future of another request's at the same address, which
/// another thread works for: who submitted the former is not who submitted the latter.
#[test]
fn an_item_that_another_thread_runs_is_not_the_one_that_was_submitted() {
    for (runs, want, later) in
        [(1, "below-confidence", "likely /z"), (0, "hand-offs-elsewhere", "hand-offs-elsewhere")]
    {
        let mut pool = Pool::new();
        (0..32).for_each(|n| pool.whole(&format!("/{n}")));
        let [one, other] = pool.serve;
        pool.request(0, "/x");
        pool.request(1, "/y");
        pool.submits(one, None, 0, ONE);
        pool.calls(0, ONE, "/x.0");
        pool.host.falls_asleep(other);
        pool.calls(runs, ONE, "/y.0");
        pool.tells(runs, other, None, &[ONE]);
        pool.response(1);
        pool.response(0);
        pool.whole("/z");
        assert_eq!(pool.verdict("/y.0"), want);
        assert_eq!(pool.verdict("/z.0"), later);
    }
}

/// The same, where the item was one in which a whole connection is served: nobody's that is known, and it waits for another.
#[test]
fn an_item_in_which_requests_are_served_is_over_when_another_thread_runs_one_at_its_address() {
    let mut pool = Pool::new();
    (0..32).for_each(|n| pool.whole(&format!("/{n}")));
    let [one, other] = pool.serve;
    let nobody = pool.host.thread(one, 3);
    pool.submits(nobody, None, 0, OUTER);
    pool.request(0, "/x");
    pool.submits(one, Some(OUTER), 0, ONE);
    pool.host.falls_asleep(one);
    pool.calls(0, ONE, "/x.0");
    pool.tells(0, one, Some(OUTER), &[ONE]);
    pool.response(0);
    pool.request(1, "/y");
    pool.host.falls_asleep(other);
    pool.calls(1, OUTER, "/y.0");
    pool.tells(1, other, None, &[OUTER]);
    pool.response(1);
    pool.whole("/z");
    assert_eq!(pool.verdict("/y.0"), "below-confidence");
    assert_eq!(pool.verdict("/z.0"), "likely /z");
}

/// The thread that was woken for the item has been woken for another since: the first one is over, whatever became of it.
#[test]
fn an_item_is_over_when_its_thread_is_woken_for_another() {
    let mut pool = Pool::new();
    let [one, other] = pool.serve;
    pool.request(0, "/x");
    pool.request(1, "/y");
    pool.submits(one, None, 0, ONE);
    pool.submits(other, None, 0, OTHER);
    // What the other has submitted unseen, and handed on.
    pool.host.falls_asleep(one);
    pool.calls(0, ONE, "/y.0");
    pool.tells(0, one, None, &[ONE]);
    pool.response(1);
    pool.response(0);
    assert_eq!(pool.verdict("/y.0"), "below-confidence");
}

/// A thread of a pool that is busy takes an item without being woken for it. That others have always waited for their own is
/// no proof.
#[test]
fn where_it_is_not_seen_who_submits_nobody_is_claimed() {
    for before in [0, 100] {
        let mut pool = Pool::new();
        (0..before).for_each(|n| pool.whole(&format!("/{n}")));
        let thread = pool.serve[0];
        pool.request(0, "/x");
        pool.host.falls_asleep(thread);
        pool.calls(0, OTHER, "/x.0");
        pool.tells(0, thread, None, &[OTHER]);
        pool.response(0);
        assert_eq!(pool.verdict("/x.0"), "below-confidence", "{before}");
    }
}

/// Who waits has submitted, and others have waited for what they had not.
#[test]
fn where_results_are_handed_on_nobody_is_named() {
    for (before, want) in [(99, "likely /x"), (98, "hand-offs-elsewhere")] {
        let mut pool = Pool::new();
        (0..before).for_each(|n| pool.whole(&format!("/{n}")));
        let [thread, other] = pool.serve;
        pool.request(0, "/y");
        pool.request(1, "/z");
        pool.submits(thread, None, 0, ONE);
        pool.host.falls_asleep(other);
        pool.tells(0, other, None, &[ONE]);
        pool.response(1);
        pool.response(0);
        pool.whole("/x");
        assert_eq!(pool.verdict("/x.0"), want, "{before}");
    }
}

#[test]
fn a_response_that_another_item_reads_is_nobodys() {
    let mut pool = Pool::proven();
    let thread = pool.serve[0];
    pool.waits(0, ONE, "/x");
    pool.sends(0, ONE, "/x.0");
    pool.receives(0, OTHER);
    pool.tells(0, thread, None, &[ONE]);
    pool.response(0);
    assert_eq!(pool.verdict("/x.0"), "hand-offs-elsewhere");
}

#[test]
fn a_request_that_is_answered_before_its_call_is_done_is_not_its_parent() {
    let mut pool = Pool::new();
    let thread = pool.serve[0];
    pool.request(0, "/x");
    pool.submits(thread, None, 0, ONE);
    pool.sends(0, ONE, "/x.0");
    pool.response(0);
    pool.request(0, "/y");
    pool.host.falls_asleep(thread);
    pool.receives(0, ONE);
    pool.tells(0, thread, None, &[ONE]);
    pool.response(0);
    assert_eq!(pool.verdict("/x.0"), "hand-offs-elsewhere");
}

/// Its thread goes on to work of its own: that the request was over shows only when its connection is closed.
#[test]
fn a_request_whose_end_shows_later_is_not_the_parent_of_what_came_after_it() {
    let mut pool = Pool::new();
    let ([thread, _], (other_end, front)) = (pool.serve, pool.fronts[0]);
    pool.request(0, "/x");
    pool.host.write(thread, front, b"HTTP/1.0 200 OK\r\n\r\nhello");
    pool.host.read(None, other_end);
    pool.submits(thread, None, 0, ONE);
    pool.host.falls_asleep(thread);
    pool.calls(0, ONE, "/x.0");
    pool.tells(0, thread, None, &[ONE]);
    pool.host.close(thread, front);
    assert_eq!(pool.verdict("/x.0"), "cause-ended-first");
}

/// Where a response ends shows only when its connection is closed, which is after the request has been answered.
#[test]
fn a_response_whose_end_shows_later_was_over_with_its_last_bytes() {
    let mut pool = Pool::new();
    let ([thread, _], [worker, _], (back, other_end)) = (pool.serve, pool.call, pool.backs[0]);
    pool.request(0, "/x");
    pool.submits(thread, None, 0, ONE);
    pool.sends(0, ONE, "/x.0");
    pool.host.falls_asleep(thread);
    pool.host.write(None, other_end, b"HTTP/1.1 200 OK\r\n\r\nhello");
    pool.host.in_work(ONE);
    pool.host.read(worker, back);
    pool.tells(0, thread, None, &[ONE]);
    pool.response(0);
    pool.host.sleep(Duration::from_millis(300));
    pool.host.close(worker, back);
    assert_eq!(pool.verdict("/x.0"), "likely /x");
}

/// All threads of the pool are busy, so that nobody is woken.
#[test]
fn who_is_seen_to_submit_needs_to_wake_nobody() {
    for (seen, want) in [(true, "likely /x"), (false, "below-confidence")] {
        let mut pool = Pool::new();
        let thread = pool.serve[0];
        pool.request(0, "/x");
        if seen {
            pool.host.submits(thread, None, ONE);
        }
        pool.host.falls_asleep(thread);
        pool.calls(0, ONE, "/x.0");
        pool.tells(0, thread, None, &[ONE]);
        pool.response(0);
        assert_eq!(pool.verdict("/x.0"), want);
    }
}

/// One is woken, and another one takes it.
#[test]
fn who_is_woken_for_an_item_that_was_seen_to_be_submitted_need_not_run_it() {
    let mut pool = Pool::new();
    let thread = pool.serve[0];
    pool.request(0, "/x");
    pool.host.submits(thread, None, ONE);
    pool.submits(thread, None, 1, ONE);
    pool.host.falls_asleep(thread);
    pool.calls(0, ONE, "/x.0");
    pool.tells(0, thread, None, &[ONE]);
    pool.response(0);
    assert_eq!(pool.verdict("/x.0"), "likely /x");
}

/// What was submitted while nobody was asked is not known: the item at the address may be another one.
#[test]
fn an_item_is_forgotten_when_the_runtime_is_not_asked_for_a_while() {
    for (interrupted, want) in
        [("never", "likely /x"), ("before", "below-confidence"), ("after", "events-lost")]
    {
        let mut pool = Pool::new();
        let (thread, process) = (pool.serve[0], key(pool.serve[0].process));
        let interrupt = |pool: &mut Pool| {
            let time = pool.host.tick();
            pool.host.events.push(Event::AskingInterrupted { time, process });
        };
        pool.request(0, "/x");
        pool.host.submits(thread, None, ONE);
        pool.host.falls_asleep(thread);
        if interrupted == "before" {
            interrupt(&mut pool);
        }
        pool.calls(0, ONE, "/x.0");
        if interrupted == "after" {
            interrupt(&mut pool);
        }
        pool.tells(0, thread, None, &[ONE]);
        pool.response(0);
        assert_eq!(pool.verdict("/x.0"), want, "{interrupted}");
    }
}

/// No other item has been at the address since: who waits for it waits for this one, whenever it goes to.
#[test]
fn where_submits_are_seen_who_goes_to_wait_when_the_call_is_over_is_named() {
    for (again, want) in [(None, "likely /x"), (Some(0), "no-hand-off"), (Some(1), "no-hand-off")] {
        let mut pool = Pool::proven();
        let thread = pool.serve[0];
        pool.request(0, "/x");
        pool.request(1, "/y");
        pool.host.submits(thread, None, ONE);
        pool.calls(0, ONE, "/x.0");
        if let Some(again) = again {
            pool.host.submits(pool.serve[again], None, ONE);
        }
        pool.host.falls_asleep(thread);
        pool.tells(0, thread, None, &[ONE]);
        pool.response(0);
        pool.response(1);
        assert_eq!(pool.verdict("/x.0"), want, "{again:?}");
    }
}

/// The request is over before its item's future is another one's that no pool has made.
#[test]
fn who_waits_for_anything_at_the_address_later_has_not_submitted() {
    let mut pool = Pool::new();
    let [one, other] = pool.serve;
    pool.request(0, "/x");
    pool.host.submits(one, None, ONE);
    pool.calls(0, ONE, "/x.0");
    pool.response(0);
    pool.request(1, "/y");
    pool.host.falls_asleep(other);
    pool.tells(1, other, None, &[ONE]);
    pool.response(1);
    // That is no result that was handed on.
    pool.whole("/z");
    assert_eq!(pool.verdict("/x.0"), "no-hand-off");
    assert_eq!(pool.verdict("/z.0"), "likely /z");
}

#[test]
fn results_of_items_that_were_seen_to_be_submitted_are_not_for_whoever_waits() {
    let mut pool = Pool::new();
    (0..200).for_each(|n| pool.whole(&format!("/{n}")));
    let [one, other] = pool.serve;
    pool.request(0, "/x");
    pool.request(1, "/y");
    pool.host.submits(one, None, ONE);
    pool.host.falls_asleep(other);
    pool.calls(0, ONE, "/x.0");
    pool.tells(0, other, None, &[ONE]);
    pool.response(1);
    pool.response(0);
    assert_eq!(pool.verdict("/x.0"), "hand-offs-elsewhere");
}

/// The thread of the first has done other work before the second is over.
#[test]
fn an_item_that_was_seen_to_be_submitted_is_not_forgotten_when_it_is_over() {
    let mut pool = Pool::new();
    let [thread, other] = pool.serve;
    pool.request(0, "/x");
    pool.request(1, "/y");
    pool.host.submits(thread, None, ONE);
    pool.host.submits(thread, None, OTHER);
    pool.host.submits(other, None, OUTER);
    pool.host.falls_asleep(thread);
    pool.host.falls_asleep(other);
    pool.calls(0, ONE, "/x.0");
    pool.calls(0, OUTER, "/y.0");
    pool.tells(0, other, None, &[OUTER]);
    pool.calls(1, OTHER, "/x.1");
    pool.tells(1, thread, None, &[OTHER, ONE]);
    pool.response(0);
    pool.response(1);
    for (call, want) in [("/x.0", "likely /x"), ("/x.1", "likely /x"), ("/y.0", "likely /y")] {
        assert_eq!(pool.verdict(call), want);
    }
}

/// An item of the same future that is not the one that was submitted: the program has made it itself.
#[test]
fn an_item_that_was_not_submitted_is_another_one() {
    const SAME_FUTURE: u64 = ONE;
    let mut pool = Pool::new();
    let thread = pool.serve[0];
    pool.request(0, "/x");
    pool.host.submits(thread, None, SAME_FUTURE);
    if let Some(Event::WorkSubmitted(submitted)) = pool.host.events.last_mut() {
        submitted.work.address += 1;
    }
    pool.host.falls_asleep(thread);
    pool.calls(0, SAME_FUTURE, "/x.0");
    pool.tells(0, thread, None, &[SAME_FUTURE]);
    pool.response(0);
    assert_eq!(pool.verdict("/x.0"), "below-confidence");
}

/// Pools that wait for pools; and an outer item at an address that another one had, which waits for what that one has
/// submitted.
#[test]
fn an_item_is_submitted_inside_of_an_outer_one_and_of_no_other_at_its_address() {
    for (again, want) in [(false, "likely /x"), (true, "hand-offs-elsewhere")] {
        let mut pool = Pool::new();
        let ([one, other], [inner, outer]) = (pool.serve, pool.call);
        let waits = if again { other } else { one };
        pool.request(0, "/x");
        pool.request(1, "/y");
        pool.host.submits(one, None, OUTER);
        pool.host.submits(outer, Some(OUTER), ONE);
        if again {
            pool.host.submits(waits, None, OUTER);
        }
        pool.host.falls_asleep(waits);
        pool.host.falls_asleep(outer);
        pool.calls(0, ONE, "/x.0");
        pool.tells(0, outer, Some(OUTER), &[ONE]);
        pool.tells(1, waits, None, &[OUTER]);
        pool.response(0);
        pool.response(1);
        assert_eq!(pool.verdict("/x.0"), want, "{inner:?}");
    }
}
