//! Servers in which a thread reads requests for others, as Puma's reactor does for its pool.

use crate::host::{End, Host, T};

const NOBODY: Option<T> = None;

/// A server with a reader, a pool, and two connections from untraced clients.
struct Shop {
    host: Host,
    main: T,
    reader: T,
    fronts: [(End, End); 2],
    back: (End, End),
}

impl Shop {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let fronts = [host.connect(None, Some(main)), host.connect(None, Some(main))];
        let back = host.connect(Some(main), None);
        let reader = host.thread(main, 9);
        Self { host, main, reader, fronts, back }
    }

    fn worker(&self, number: u32) -> T {
        self.host.thread(self.main, number)
    }

    fn arrives(&mut self, front: usize, thread: T, path: &str) {
        self.host.asks(NOBODY, self.fronts[front], thread, path);
    }

    fn answers(&mut self, front: usize, thread: T) {
        self.host.answers(NOBODY, self.fronts[front], thread);
    }

    fn calls(&mut self, thread: T, path: &str) {
        self.host.asks(thread, self.back, NOBODY, path);
        self.host.waits(thread);
        self.host.answers(thread, self.back, NOBODY);
    }

    /// A request that is read and answered by one thread, with the call that it takes.
    fn serves(&mut self, thread: T, path: &str) {
        self.arrives(0, thread, path);
        self.calls(thread, &format!("{path}.0"));
        self.answers(0, thread);
    }

    /// A request that the reader hands over.
    fn hands_over(&mut self, to: T, path: &str) {
        self.arrives(0, self.reader, path);
        self.calls(to, &format!("{path}.0"));
        self.answers(0, to);
    }

    /// What is said of the call with this path.
    #[track_caller]
    fn verdict(&self, of: &str) -> String {
        let wanted = format!("shop client {of} ");
        let all = self.host.lines();
        let line = all.iter().find_map(|line| line.strip_prefix(&wanted)).expect("a span");
        line.to_owned()
    }

    #[track_caller]
    fn expect_gate(&mut self, open: bool) {
        let last = self.worker(7);
        self.serves(last, "/last");
        let wanted = if open { "< shop server /last (thread)" } else { "- not-thread-per-request" };
        assert_eq!(self.verdict("/last.0"), wanted);
    }
}

#[test]
fn a_reader_takes_nothing_from_threads_that_read_themselves() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    for number in 0..20 {
        shop.hands_over(worker, &format!("/handed{number}"));
        shop.serves(worker, &format!("/own{number}"));
    }
    assert_eq!(shop.verdict("/own0.0"), "< shop server /own0 (thread)");
    assert_eq!(shop.verdict("/own19.0"), "< shop server /own19 (thread)");
    assert!(shop.verdict("/handed3.0").starts_with("- "));
    shop.expect_gate(true);
}

#[test]
fn a_reader_holds_many_requests_at_once() {
    let mut shop = Shop::new();
    let (one, two) = (shop.worker(1), shop.worker(2));
    shop.arrives(0, shop.reader, "/a");
    shop.arrives(1, shop.reader, "/b");
    shop.calls(two, "/b1");
    shop.answers(1, two);
    shop.calls(one, "/a1");
    shop.answers(0, one);
    assert!(shop.verdict("/a1").starts_with("- "));
    assert!(shop.verdict("/b1").starts_with("- "));
    shop.expect_gate(true);
}

#[test]
fn who_reads_for_others_and_answers_is_no_reader() {
    let mut shop = Shop::new();
    shop.hands_over(shop.worker(1), "/a");
    shop.arrives(0, shop.reader, "/b");
    shop.answers(0, shop.reader);
    shop.expect_gate(false);
}

#[test]
fn who_reads_for_others_and_calls_is_no_reader() {
    let mut shop = Shop::new();
    shop.hands_over(shop.worker(1), "/a");
    shop.arrives(0, shop.reader, "/b");
    shop.calls(shop.reader, "/b1");
    shop.answers(0, shop.worker(1));
    shop.expect_gate(false);
}

/// What a thread has done before it reads for others counts as well.
#[test]
fn who_has_answered_reads_for_nobody() {
    let mut shop = Shop::new();
    shop.arrives(0, shop.reader, "/a");
    shop.answers(0, shop.reader);
    shop.hands_over(shop.worker(1), "/b");
    shop.expect_gate(false);
}

/// Work that is done when a request that was handed over has been answered.
#[test]
fn calls_after_the_answer_close_the_gate() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.serves(worker, "/own");
    shop.hands_over(worker, "/a");
    shop.calls(worker, "/after");
    assert!(shop.verdict("/after").starts_with("- "));
    shop.expect_gate(false);
}

/// The same while another request waits for a thread of the pool. It is seen when that thread reads one itself, or ends.
#[test]
fn calls_beside_what_is_handed_over_close_the_gate_as_soon_as_it_is_known() {
    for ends in [false, true] {
        let mut shop = Shop::new();
        let (one, two) = (shop.worker(1), shop.worker(2));
        shop.serves(one, "/own");
        shop.arrives(1, shop.reader, "/b");
        shop.calls(one, "/after");
        if ends {
            shop.host.leaves(one);
        } else {
            shop.serves(one, "/own2");
        }
        shop.answers(1, two);
        assert!(shop.verdict("/after").starts_with("- "));
        shop.expect_gate(false);
    }
}

/// It may have been the answer's: nothing is claimed, and nothing shown.
#[test]
fn calls_before_an_answer_that_was_handed_over_are_nobodys() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.serves(worker, "/own");
    shop.arrives(1, shop.reader, "/b");
    shop.calls(worker, "/after");
    shop.answers(1, worker);
    assert!(shop.verdict("/after").starts_with("- "));
    shop.expect_gate(true);
}

/// The client of what was handed over has gone away. The thread learns of it when it answers.
#[test]
fn an_answer_that_fails_says_whose_the_calls_were() {
    for fails in [true, false] {
        let mut shop = Shop::new();
        let (worker, front) = (shop.worker(1), shop.fronts[1]);
        shop.serves(worker, "/own");
        shop.arrives(1, shop.reader, "/b");
        shop.calls(worker, "/b1");
        shop.host.is_reset(front.1);
        if fails {
            shop.host.broken_pipe(worker, front.1);
        }
        shop.serves(worker, "/own2");
        assert!(shop.verdict("/b1").starts_with("- "));
        shop.expect_gate(fails);
    }
}

/// A thread that has a request in its hands and takes another meanwhile: what it calls may be for either.
#[test]
fn who_answers_what_was_handed_over_amid_a_request_owns_nothing() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    for number in 0..20 {
        shop.hands_over(worker, &format!("/handed{number}"));
        shop.serves(worker, &format!("/own{number}"));
    }
    shop.arrives(0, worker, "/own");
    shop.arrives(1, shop.reader, "/b");
    shop.calls(worker, "/b1");
    shop.answers(1, worker);
    shop.answers(0, worker);
    assert_eq!(shop.verdict("/b1"), "- not-thread-per-request");
    shop.expect_gate(false);
}

/// A body that was not there at once: the thread that has begun to read gives the request away.
#[test]
fn a_reader_reads_on() {
    let mut shop = Shop::new();
    let (one, two) = (shop.worker(1), shop.worker(2));
    for number in 0..12 {
        let path = format!("/{number}");
        let front = shop.fronts[1];
        shop.host.write(NOBODY, front.0, format!("POST {path} HTTP/1.1\r\n").as_bytes());
        shop.host.read(one, front.1);
        shop.host.write(NOBODY, front.0, b"Content-Length: 4\r\n\r\n");
        shop.host.read(one, front.1);
        shop.host.write(NOBODY, front.0, b"body");
        shop.host.read(shop.reader, front.1);
        if number == 11 {
            // The first thread serves another, meanwhile.
            shop.serves(one, "/own");
        }
        shop.calls(two, &format!("{path}.0"));
        shop.answers(1, two);
    }
    assert_eq!(shop.verdict("/own.0"), "- process-unproven");
    assert!(shop.verdict("/11.0").starts_with("- "));
    shop.expect_gate(true);
}

/// A reader reads on, and the thread that had begun is the next that is free.
#[test]
fn who_has_begun_to_read_may_be_handed_it() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    for number in 0..12 {
        shop.hands_over(worker, &format!("/handed{number}"));
    }
    let front = shop.fronts[1];
    shop.host.write(NOBODY, front.0, b"POST /begun HTTP/1.1\r\nContent-Length: 4\r\n\r\n");
    shop.host.read(worker, front.1);
    shop.host.write(NOBODY, front.0, b"body");
    shop.host.read(shop.reader, front.1);
    shop.calls(worker, "/begun.0");
    shop.answers(1, worker);
    assert!(shop.verdict("/begun.0").starts_with("- "));
    shop.expect_gate(true);
}

/// What it calls before the reader has read anything is not for that request.
#[test]
fn who_has_begun_to_read_and_calls_before_it_is_handed_it_closes_the_gate() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    for number in 0..12 {
        shop.hands_over(worker, &format!("/handed{number}"));
    }
    let front = shop.fronts[1];
    shop.arrives(0, shop.reader, "/other");
    shop.host.write(NOBODY, front.0, b"POST /begun HTTP/1.1\r\n");
    shop.host.read(worker, front.1);
    shop.host.write(NOBODY, front.0, b"Content-Length: 4\r\n");
    shop.host.read(shop.reader, front.1);
    shop.calls(worker, "/after");
    shop.host.write(NOBODY, front.0, b"\r\nbody");
    shop.host.read(shop.reader, front.1);
    shop.answers(1, worker);
    shop.answers(0, shop.worker(2));
    assert!(shop.verdict("/after").starts_with("- "));
    shop.expect_gate(false);
}

/// A thread that has begun to read a request gives it to the reader, which shows when that reads on; and takes another one
/// before it does.
#[test]
fn who_has_begun_to_read_answers_what_was_handed_over() {
    /// What becomes of the request that a worker has begun to read.
    #[derive(Clone, Copy, PartialEq)]
    enum Then {
        PassedOn,
        ReadOn,
        Answered,
        GivenUp,
    }
    for then in [Then::PassedOn, Then::ReadOn, Then::Answered, Then::GivenUp] {
        let mut shop = Shop::new();
        let (worker, front) = (shop.worker(1), shop.fronts[1]);
        for number in 0..12 {
            shop.hands_over(worker, &format!("/handed{number}"));
        }
        shop.host.write(NOBODY, front.0, b"POST /begun HTTP/1.1\r\nContent-Length: 4\r\n\r\n");
        shop.host.read(worker, front.1);
        shop.hands_over(worker, "/b");
        if then != Then::GivenUp {
            shop.host.write(NOBODY, front.0, b"body");
        }
        match then {
            Then::PassedOn => {
                shop.host.read(shop.reader, front.1);
                shop.calls(worker, "/begun.0");
                shop.answers(1, worker);
                assert!(shop.verdict("/begun.0").starts_with("- "));
            }
            Then::ReadOn => {
                shop.host.read(worker, front.1);
                shop.answers(1, worker);
            }
            Then::Answered => shop.answers(1, worker),
            Then::GivenUp => shop.host.close(worker, front.1),
        }
        assert!(shop.verdict("/b.0").starts_with("- "));
        shop.expect_gate(matches!(then, Then::PassedOn | Then::GivenUp));
    }
}
