//! Threads whose sockets do not wait, and what they sleep for.

use std::time::Duration;

use tracer_core::event::Waited;
use tracer_core::span::{Confidence, Span};
use tracer_core::{Engine, EngineConfig, Wish};

use crate::host::{ALONE, ASIDE, End, Host, SEVERAL, T, key, lines, path, run};

const NOBODY: Option<T> = None;

/// A service whose threads read without waiting, and call so.
struct Shop {
    host: Host,
    main: T,
    front: (End, End),
    back: (End, End),
    other: (End, End),
}

impl Shop {
    fn new() -> Self {
        let mut shop = Self::waits_for_answers();
        for end in [shop.back.0, shop.other.0] {
            shop.host.nonblocking(end);
        }
        shop
    }

    /// One whose calls wait.
    fn waits_for_answers() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let front = host.connect(None, Some(main));
        let back = host.connect(Some(main), None);
        let other = host.connect(Some(main), None);
        host.nonblocking(front.1);
        host.followed = true;
        Self { host, main, front, back, other }
    }

    fn arrives(&mut self, thread: T, path: &str) {
        self.host.naps(thread, ALONE);
        self.host.asks(NOBODY, self.front, thread, path);
    }

    fn calls(&mut self, thread: T, path: &str, waited: Waited) {
        self.host.asks(thread, self.back, NOBODY, path);
        self.host.naps(thread, waited);
        self.host.answers(thread, self.back, NOBODY);
    }

    fn answers(&mut self, thread: T) {
        self.host.answers(NOBODY, self.front, thread);
    }

    fn serves(&mut self, path: &str, waited: Waited) {
        self.serves_on(1, path, waited);
    }

    fn serves_on(&mut self, thread: u32, path: &str, waited: Waited) {
        let thread = self.host.thread(self.main, thread);
        self.arrives(thread, path);
        self.calls(thread, &format!("{path}.0"), waited);
        self.answers(thread);
    }

    /// Requests that show that threads wait for one socket alone.
    fn proves(&mut self) {
        for number in 0..8 {
            self.serves(&format!("/{number}"), ALONE);
        }
    }

    fn spans(&mut self) -> Vec<Span> {
        self.host.sleep(Duration::from_secs(2));
        run(&self.host.events, EngineConfig::default(), self.host.clock)
    }

    /// What is said of the call with this path.
    #[track_caller]
    fn verdict(&mut self, of: &str) -> String {
        let spans = self.spans();
        let wanted = format!("shop client {of} ");
        let all = lines(&spans);
        let line = all.iter().find_map(|line| line.strip_prefix(&wanted)).expect("a span");
        line.to_owned()
    }
}

#[test]
fn threads_that_wait_for_one_socket_alone_own_their_requests() {
    let mut shop = Shop::new();
    shop.proves();
    assert_eq!(shop.verdict("/0.0"), "< shop server /0 (thread)");
    assert_eq!(shop.verdict("/7.0"), "< shop server /7 (thread)");
}

/// Servers of Java hand sockets that are ready to the threads of a pool, which call as if there were no others.
#[test]
fn threads_that_wait_in_a_call_own_their_requests() {
    let mut shop = Shop::waits_for_answers();
    for number in 0..7 {
        shop.serves_on(1 + number % 2, &format!("/{number}"), Waited::default());
    }
    assert_eq!(shop.verdict("/6.0"), "- event-loop");
    shop.serves("/7", Waited::default());
    assert_eq!(shop.verdict("/0.0"), "< shop server /0 (thread)");
    assert_eq!(shop.verdict("/7.0"), "< shop server /7 (thread)");
}

/// It may be a loop's, or a pool of one, and work on something else while its request waits for a timer.
#[test]
fn one_thread_that_waits_in_calls_proves_nothing() {
    let mut shop = Shop::waits_for_answers();
    for number in 0..20 {
        shop.serves(&format!("/{number}"), Waited::default());
    }
    assert_eq!(shop.verdict("/19.0"), "- event-loop");
}

/// Loops may be several, too.
#[test]
fn a_call_that_waits_excuses_no_loop() {
    let mut shop = Shop::waits_for_answers();
    for number in 0..9 {
        let waited = if number == 8 { SEVERAL } else { Waited::default() };
        shop.serves_on(1 + number % 2, &format!("/{number}"), waited);
    }
    assert_eq!(shop.verdict("/8.0"), "- event-loop");
}

#[test]
fn a_few_requests_prove_nothing() {
    let mut shop = Shop::new();
    for number in 0..7 {
        shop.serves(&format!("/{number}"), ALONE);
    }
    assert_eq!(shop.verdict("/6.0"), "- event-loop");
}

#[test]
fn one_wait_for_several_is_the_end_of_it() {
    for place in [0, 4, 8] {
        let mut shop = Shop::new();
        for number in 0..9 {
            shop.serves(&format!("/{number}"), if number == place { SEVERAL } else { ALONE });
        }
        assert_eq!(shop.verdict("/0.0"), "- event-loop", "{place}");
        assert_eq!(shop.verdict("/8.0"), "- event-loop", "{place}");
    }
}

/// Between requests a thread may wait for what it likes.
#[test]
fn waits_for_several_before_a_request_say_nothing() {
    let mut shop = Shop::new();
    shop.proves();
    let thread = shop.host.thread(shop.main, 1);
    shop.host.naps(thread, SEVERAL);
    shop.serves("/8", ALONE);
    assert_eq!(shop.verdict("/8.0"), "< shop server /8 (thread)");
}

#[test]
fn a_wait_for_something_else_excludes_one_request() {
    let mut shop = Shop::new();
    shop.proves();
    shop.serves("/8", ASIDE);
    shop.serves("/9", ALONE);
    assert_eq!(shop.verdict("/8.0"), "- event-loop");
    assert_eq!(shop.verdict("/9.0"), "< shop server /9 (thread)");
}

/// A timer of a loop that never sleeps: its call lies between two steps of a request.
#[test]
fn a_call_that_is_not_waited_for_is_not_the_requests() {
    let mut shop = Shop::new();
    shop.proves();
    let thread = shop.host.thread(shop.main, 1);
    shop.arrives(thread, "/8");
    shop.host.asks(thread, shop.back, NOBODY, "/8.0");
    shop.host.asks(thread, shop.other, NOBODY, "/bg");
    shop.host.answers(thread, shop.back, NOBODY);
    shop.host.answers(thread, shop.other, NOBODY);
    shop.answers(thread);
    assert_eq!(shop.verdict("/bg"), "- event-loop");
    assert_eq!(shop.verdict("/8.0"), "- event-loop");
}

/// What happened before the kernel half began to tell is believed, but less.
#[test]
fn requests_before_waits_are_known_are_likely() {
    let mut shop = Shop::new();
    shop.host.followed = false;
    shop.serves("/early", Waited::default());
    shop.host.followed = true;
    shop.proves();
    let spans = shop.spans();
    let confidence = |of: &str| {
        let span = spans.iter().find(|span| path(span) == of).expect("a span");
        span.parent.map(|parent| parent.confidence)
    };
    assert_eq!(confidence("/early.0"), Some(Confidence::Likely));
    assert_eq!(confidence("/3.0"), Some(Confidence::Certain));
}

/// What is wished for, in order.
fn wishes(shop: &Shop) -> Vec<Wish> {
    let mut engine = Engine::new(EngineConfig::default(), [1; 32]);
    shop.host.events.iter().for_each(|event| engine.handle_event(event.clone()));
    engine.handle_timeout(shop.host.clock.plus(Duration::from_secs(5)));
    std::iter::from_fn(|| engine.poll_wish()).collect()
}

#[test]
fn it_is_asked_for_at_the_first_call() {
    let mut shop = Shop::new();
    shop.host.followed = false;
    shop.serves("/0", Waited::default());
    assert_eq!(wishes(&shop), [Wish::FollowHandOffs(key(shop.main.process))]);
}

#[test]
fn it_ends_at_the_first_wait_for_several() {
    let mut shop = Shop::new();
    shop.serves("/0", ALONE);
    shop.serves("/1", SEVERAL);
    shop.serves("/2", ALONE);
    let process = key(shop.main.process);
    assert_eq!(wishes(&shop), [Wish::FollowHandOffs(process), Wish::LeaveHandOffs(process)]);
}

#[test]
fn it_ends_where_nothing_is_proven() {
    let mut shop = Shop::new();
    for number in 0..400 {
        shop.serves(&format!("/{number}"), Waited::default());
        shop.host.sleep(Duration::from_millis(50));
    }
    let process = key(shop.main.process);
    assert_eq!(wishes(&shop), [Wish::FollowHandOffs(process), Wish::LeaveHandOffs(process)]);
}

#[test]
fn sockets_that_wait_need_none_of_it() {
    let mut shop = Shop::new();
    let thread = shop.host.thread(shop.main, 1);
    let front = shop.host.connect(None, Some(shop.main));
    shop.host.asks(NOBODY, front, thread, "/a");
    shop.calls(thread, "/a.0", SEVERAL);
    shop.host.answers(NOBODY, front, thread);
    assert_eq!(wishes(&shop), []);
    assert_eq!(shop.verdict("/a.0"), "< shop server /a (thread)");
}
