//! Calls that a thread makes for a request that another one serves.

use std::time::Duration;

use tracer_abi::error::KernelLoss;
use tracer_abi::event::Awaited;
use tracer_core::event::Event;
use tracer_core::span::{Confidence, Evidence, Span};
use tracer_core::{Engine, EngineConfig, HandOffPolicy, Wish};

use crate::host::{End, Host, T, key, lines, path, run};

/// Threads of a service with a pool: two serve, two call.
struct Shop {
    host: Host,
    serve: [T; 2],
    call: [T; 2],
    /// Client connections of the service, and those to what it calls.
    fronts: [(End, End); 2],
    backs: [(End, End); 2],
}

/// Where the pool's threads wait for work, and where a serving thread waits for a result.
const QUEUE: u64 = 0x10;
const RESULT: [u64; 2] = [0x100, 0x200];

impl Shop {
    fn new() -> Self {
        let mut shop = Self::cold();
        for n in 0..4 {
            shop.elsewhere(n);
        }
        shop
    }

    /// Nothing is known of it yet.
    fn cold() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let serve = [host.thread(main, 1), host.thread(main, 2)];
        let call = [host.thread(main, 11), host.thread(main, 12)];
        let fronts = [host.connect(None, Some(main)), host.connect(None, Some(main))];
        let backs = [host.connect(Some(main), None), host.connect(Some(main), None)];
        let mut shop = Self { host, serve, call, fronts, backs };
        // The first wake-up of all tells nothing but that hand-offs are followed.
        shop.host.falls_asleep(serve[1]);
        shop.host.wakes(serve[0], serve[1], 1);
        shop
    }

    /// A call of another pool, of which its request is told: calls are waited for here.
    fn elsewhere(&mut self, n: u32) {
        let host = &mut self.host;
        let [serve, call] = [host.thread(self.serve[0], 80 + n), host.thread(self.serve[0], 90 + n)];
        let (front, back) = (host.connect(None, Some(serve)), host.connect(Some(serve), None));
        host.request(None, front.0, "/elsewhere");
        host.read(serve, front.1);
        host.falls_asleep(call);
        host.wakes(serve, call, 0x5000 + u64::from(n));
        host.falls_asleep(serve);
        host.request(call, back.0, "/elsewhere.0");
        host.read(None, back.1);
        host.response(None, back.1);
        host.read(call, back.0);
        host.wakes(call, serve, 0x6000 + u64::from(n));
        host.response(serve, front.1);
        host.read(None, front.0);
    }

    fn request(&mut self, n: usize, path: &str) {
        self.host.request(None, self.fronts[n].0, path);
        self.host.read(self.serve[n], self.fronts[n].1);
    }

    fn response(&mut self, n: usize) {
        self.host.response(self.serve[n], self.fronts[n].1);
        self.host.read(None, self.fronts[n].0);
    }

    /// The thread that serves request `n` wakes a worker and waits.
    fn hands_over(&mut self, n: usize, worker: usize) {
        self.host.falls_asleep(self.call[worker]);
        self.host.wakes(self.serve[n], self.call[worker], QUEUE);
        self.host.falls_asleep(self.serve[n]);
    }

    fn calls(&mut self, worker: usize, path: &str) {
        self.host.request(self.call[worker], self.backs[worker].0, path);
        self.host.read(None, self.backs[worker].1);
        self.host.response(None, self.backs[worker].1);
        self.host.read(self.call[worker], self.backs[worker].0);
    }

    fn tells(&mut self, worker: usize, n: usize) {
        self.host.wakes(self.call[worker], self.serve[n], RESULT[n]);
    }

    /// A request, a call, an answer, and nothing else.
    fn alone(&mut self, path: &str) {
        self.request(0, path);
        self.hands_over(0, 0);
        self.calls(0, &format!("{path}.0"));
        self.tells(0, 0);
        self.response(0);
    }

    fn spans(&mut self) -> Vec<Span> {
        self.host.sleep(Duration::from_secs(2));
        let config = EngineConfig { min_confidence: Confidence::Possible, ..EngineConfig::default() };
        run(&self.host.events, config, self.host.clock)
    }

    /// The same, where no more is claimed than is likely.
    fn likely_spans(&mut self) -> Vec<Span> {
        self.host.sleep(Duration::from_secs(2));
        run(&self.host.events, EngineConfig::default(), self.host.clock)
    }

    /// What is said of the call with this path: its evidence, or why it has no parent.
    fn verdict(&mut self, of: &str) -> String {
        let spans = self.spans();
        let span = spans.iter().find(|span| path(span) == of).expect("a span");
        match (span.parent, span.undecided) {
            (Some(parent), None) => {
                let above = spans.iter().find(|above| above.span_id == parent.span_id).expect("its parent");
                assert_eq!(parent.evidence, Evidence::ThreadHandOff);
                format!("below {}", path(above))
            }
            (None, Some(reason)) => reason.to_owned(),
            other => panic!("{other:?}\n{}", lines(&spans).join("\n")),
        }
    }
}

#[test]
fn submit_and_completion_together_name_the_request() {
    let mut shop = Shop::new();
    shop.alone("/1");
    assert_eq!(shop.verdict("/1.0"), "below /1");
}

/// Where nobody waits for calls, their threads go on to other work, of which somebody is told.
#[test]
fn calls_are_believed_where_most_of_them_tell_somebody() {
    // The call itself counts, too.
    for (told, silent, want) in
        [(2, 0, "hand-off-unproven"), (3, 0, "below /9"), (3, 12, "below /9"), (3, 13, "hand-off-unproven")]
    {
        let mut shop = Shop::cold();
        for n in 0..told {
            shop.elsewhere(n);
        }
        for n in 0..silent {
            shop.request(0, &format!("/silent{n}"));
            shop.hands_over(0, 0);
            shop.calls(0, "/silent.0");
            shop.response(0);
        }
        shop.alone("/9");
        assert_eq!(shop.verdict("/9.0"), want, "{told} told, {silent} silent");
    }
}

/// A worker that was busy was woken by nobody: its group has to be trusted.
#[test]
fn a_completion_alone_is_believed_when_it_was_right_three_times() {
    for (before, want) in [(2, "hand-off-unproven"), (3, "below /9")] {
        let mut shop = Shop::new();
        for n in 0..before {
            shop.alone(&format!("/{n}"));
        }
        shop.request(1, "/8");
        shop.request(0, "/9");
        shop.host.falls_asleep(shop.serve[0]);
        shop.calls(0, "/9.0");
        shop.tells(0, 0);
        shop.response(0);
        shop.response(1);
        assert_eq!(shop.verdict("/9.0"), want);
    }
}

#[test]
fn a_thread_that_came_to_wait_after_the_call_was_sent_waits_for_something_else() {
    let mut shop = Shop::new();
    for n in 0..3 {
        shop.alone(&format!("/{n}"));
    }
    shop.request(0, "/9");
    let (worker, back) = (shop.call[0], shop.backs[0]);
    shop.host.request(worker, back.0, "/9.0");
    shop.host.falls_asleep(shop.serve[0]);
    shop.host.read(None, back.1);
    shop.host.response(None, back.1);
    shop.host.read(worker, back.0);
    shop.tells(0, 0);
    shop.response(0);
    assert_eq!(shop.verdict("/9.0"), "no-hand-off");
}

#[test]
fn a_wake_of_a_request_that_came_later_closes_the_group_for_good() {
    let mut shop = Shop::new();
    for n in 0..4 {
        shop.alone(&format!("/{n}"));
    }
    // /6 comes while /5.0 is under way, and is woken at its end.
    shop.request(0, "/5");
    shop.hands_over(0, 0);
    let (worker, back) = (shop.call[0], shop.backs[0]);
    shop.host.request(worker, back.0, "/5.0");
    shop.request(1, "/6");
    shop.host.falls_asleep(shop.serve[1]);
    shop.host.read(None, back.1);
    shop.host.response(None, back.1);
    shop.host.read(worker, back.0);
    shop.tells(0, 1);
    shop.tells(0, 0);
    shop.response(0);
    shop.response(1);
    shop.alone("/7");
    assert_eq!(shop.verdict("/5.0"), "hand-offs-elsewhere");
    assert_eq!(shop.verdict("/7.0"), "hand-offs-elsewhere");
}

#[test]
fn several_that_are_told_are_undecided_and_linked() {
    let mut shop = Shop::new();
    shop.request(0, "/1");
    shop.request(1, "/2");
    shop.host.falls_asleep(shop.serve[1]);
    shop.hands_over(0, 0);
    shop.calls(0, "/1.0");
    shop.tells(0, 1);
    shop.tells(0, 0);
    shop.response(0);
    shop.response(1);
    assert_eq!(shop.verdict("/1.0"), "several-hand-offs");
    let spans = shop.spans();
    let call = spans.iter().find(|span| path(span) == "/1.0").expect("a span");
    assert_eq!(call.links.len(), 2);
}

/// Two threads that wait at one address, one of them with a request: whoever is let go on there was not told anything.
#[test]
fn a_lock_tells_nothing() {
    let mut shop = Shop::new();
    shop.request(0, "/1");
    shop.host.falls_asleep(shop.serve[0]);
    shop.host.falls_asleep(shop.call[1]);
    shop.calls(0, "/1.0");
    shop.host.wakes(shop.call[0], shop.serve[0], 0x77);
    shop.host.wakes(shop.call[0], shop.call[1], 0x77);
    shop.response(0);
    assert_eq!(shop.verdict("/1.0"), "no-hand-off");
}

#[test]
fn a_result_may_pass_through_a_thread_that_serves_nothing() {
    let mut shop = Shop::new();
    let [outer, inner] = shop.call;
    for n in 0..4 {
        shop.request(0, &format!("/{n}"));
        shop.hands_over(0, 0);
        shop.host.falls_asleep(inner);
        shop.host.wakes(outer, inner, 0x20);
        shop.host.falls_asleep(outer);
        shop.calls(1, &format!("/{n}.0"));
        shop.host.wakes(inner, outer, 0x300);
        shop.tells(0, 0);
        shop.response(0);
    }
    assert_eq!(shop.verdict("/3.0"), "below /3");
}

#[test]
fn a_thread_that_is_created_for_a_call_is_handed_it() {
    let mut shop = Shop::new();
    shop.request(0, "/1");
    shop.host.creates(shop.serve[0], shop.call[0]);
    shop.host.falls_asleep(shop.serve[0]);
    shop.calls(0, "/1.0");
    shop.tells(0, 0);
    shop.response(0);
    assert_eq!(shop.verdict("/1.0"), "below /1");
}

/// A number that is missing, or a count that comes a little later.
#[test]
fn a_wake_up_that_was_lost_makes_the_call_undecided() {
    let mut shop = Shop::new();
    for n in 0..4 {
        shop.alone(&format!("/{n}"));
    }
    shop.request(0, "/9");
    shop.host.falls_asleep(shop.serve[0]);
    shop.calls(0, "/9.0");
    shop.tells(0, 0);
    shop.response(0);
    assert_eq!(shop.verdict("/9.0"), "below /9");
    let whole = shop.host.events.clone();
    // One of the worker's that came before: it shows at its next, which is this call's.
    let told =
        |event: &Event| matches!(event, Event::ThreadWoken(woken) if woken.by.tid.0 == shop.call[0].tid);
    let lost = whole.iter().enumerate().filter(|(_, event)| told(event)).map(|(n, _)| n).nth_back(1);
    shop.host.events.remove(lost.expect("an earlier one"));
    assert_eq!(shop.verdict("/9.0"), "events-lost");
    let time = whole.last().map(|event| event.time().plus(Duration::from_millis(250))).expect("events");
    shop.host.events = whole;
    shop.host.events.push(Event::LossCounted { time, loss: KernelLoss::WakeRingFull, count: 1 });
    assert_eq!(shop.verdict("/9.0"), "events-lost");
}

/// What the engine asks for, of a service whose calls are made by others than serve: after some of them, and once.
#[test]
fn a_process_is_followed_when_it_needs_it() {
    for (policy, want) in [(HandOffPolicy::Auto, 1), (HandOffPolicy::On, 1), (HandOffPolicy::Off, 0)] {
        let mut shop = Shop::new();
        for n in 0..40 {
            shop.alone(&format!("/{n}"));
        }
        let process = shop.serve[0].process;
        shop.host.events.retain(|event| !matches!(event, Event::ThreadWoken(_)));
        let mut engine = Engine::new(EngineConfig { handoffs: policy, ..EngineConfig::default() }, [1; 32]);
        for event in &shop.host.events {
            engine.handle_event(event.clone());
        }
        engine.finish(shop.host.clock);
        let wishes: Vec<Wish> = std::iter::from_fn(|| engine.poll_wish()).collect();
        assert_eq!(wishes, vec![Wish::FollowHandOffs(key(process)); want], "{policy:?}");
    }
}

/// A thread for each request needs none of it.
#[test]
fn a_process_whose_threads_call_themselves_is_not_followed() {
    let mut shop = Shop::cold();
    for n in 0..200 {
        shop.request(0, &format!("/{n}"));
        let (thread, back) = (shop.serve[0], shop.backs[0]);
        shop.host.request(thread, back.0, "/b");
        shop.host.read(None, back.1);
        shop.host.response(None, back.1);
        shop.host.read(thread, back.0);
        shop.response(0);
    }
    let mut engine = Engine::new(EngineConfig::default(), [1; 32]);
    for event in &shop.host.events {
        engine.handle_event(event.clone());
    }
    engine.finish(shop.host.clock);
    assert_eq!(engine.poll_wish(), None);
}

/// What a thread waits for may speak against it, and never for it.
#[test]
fn who_waits_for_anything_but_a_result_is_told_nothing() {
    for (awaited, want) in [
        (Awaited::Result, "below /1"),
        (Awaited::Unknown, "below /1"),
        (Awaited::Other, "no-hand-off"),
        (Awaited::Queue, "no-hand-off"),
    ] {
        let mut shop = Shop::new();
        shop.request(0, "/1");
        shop.hands_over(0, 0);
        shop.calls(0, "/1.0");
        shop.host.wakes_for(shop.call[0], shop.serve[0], RESULT[0], awaited);
        shop.response(0);
        assert_eq!(shop.verdict("/1.0"), want, "{awaited:?}");
    }
}

/// A thread of a pool that waited for work goes on to somebody else's; one with a request that waits for a place in a queue
/// is told nothing of its own calls.
#[test]
fn a_queue_is_no_result_and_no_end() {
    let mut shop = Shop::new();
    let [maker, other] = shop.call;
    shop.request(0, "/1");
    shop.hands_over(0, 0);
    shop.host.falls_asleep(other);
    shop.calls(0, "/1.0");
    shop.host.wakes_for(maker, other, 0x300, Awaited::Queue);
    shop.host.wakes_for(other, shop.serve[0], RESULT[0], Awaited::Result);
    shop.response(0);
    let spans = shop.spans();
    let call = spans.iter().find(|span| path(span) == "/1.0").and_then(|span| span.parent);
    assert_eq!(call.map(|parent| parent.confidence), Some(Confidence::Possible));
}

/// One that waits for something else does not make it unclear which of two it is.
#[test]
fn others_that_are_woken_beside_a_result_count_for_nothing() {
    let mut shop = Shop::new();
    shop.request(0, "/1");
    shop.request(1, "/2");
    shop.host.falls_asleep(shop.serve[1]);
    shop.hands_over(0, 0);
    shop.calls(0, "/1.0");
    shop.host.wakes_for(shop.call[0], shop.serve[1], RESULT[1], Awaited::Other);
    shop.host.wakes_for(shop.call[0], shop.serve[0], RESULT[0], Awaited::Result);
    shop.response(0);
    shop.response(1);
    assert_eq!(shop.verdict("/1.0"), "below /1");
}

/// A program may hand results on: who waits for one need not have asked for it.
#[test]
fn who_is_told_is_linked_to_unless_more_is_asked_for() {
    let mut shop = Shop::new();
    shop.alone("/x");
    assert_eq!(shop.verdict("/x.0"), "below /x");
    let spans = shop.likely_spans();
    let find = |of: &str| spans.iter().find(|span| path(span) == of).expect("a span");
    let (request, call) = (find("/x"), find("/x.0"));
    assert_eq!((call.parent, call.undecided), (None, Some("below-confidence")));
    assert_eq!(call.links.iter().map(|link| link.span_id).collect::<Vec<_>>(), [request.span_id]);
}
