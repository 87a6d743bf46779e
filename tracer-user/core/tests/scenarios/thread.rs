//! Calls and the threads that make them.

use std::time::Duration;

use tracer_core::event::Event;

use crate::host::{End, Host, T};

const NOBODY: Option<T> = None;

/// A server with one connection from an untraced client, and one to an untraced downstream.
struct Shop {
    host: Host,
    main: T,
    front: (End, End),
    back: (End, End),
}

impl Shop {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let front = host.connect(None, Some(main));
        let back = host.connect(Some(main), None);
        Self { host, main, front, back }
    }

    fn worker(&self, number: u32) -> T {
        self.host.thread(self.main, number)
    }

    fn arrives(&mut self, thread: T, path: &str) {
        self.host.asks(NOBODY, self.front, thread, path);
    }

    fn answers(&mut self, thread: T) {
        self.host.answers(NOBODY, self.front, thread);
    }

    fn calls(&mut self, thread: T, path: &str) {
        self.host.asks(thread, self.back, NOBODY, path);
        self.host.waits(thread);
        self.host.answers(thread, self.back, NOBODY);
    }

    #[track_caller]
    fn expect(&self, lines: &[&str]) {
        assert_eq!(self.host.lines(), lines);
    }
}

#[test]
fn a_call_belongs_to_the_request_of_its_thread() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.arrives(worker, "/a");
    shop.calls(worker, "/a1");
    shop.calls(worker, "/a2");
    shop.answers(worker);
    shop.expect(&[
        "shop server /a",
        "shop client /a1 < shop server /a (thread)",
        "shop client /a2 < shop server /a (thread)",
    ]);
}

impl Shop {
    /// A long chunked response, whose end lies in what is not captured: it shows only when the connection goes on.
    fn answers_at_length(&mut self, thread: T, parts: std::ops::Range<usize>) {
        const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        const CHUNKS: usize = 4;
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        for part in parts {
            let before = self.host.events.len();
            match part {
                0 => self.host.write(thread, self.front.1, HEAD),
                1..=CHUNKS => self.host.write(thread, self.front.1, chunk.as_bytes()),
                _ => self.host.write(thread, self.front.1, b"0\r\n\r\n"),
            }
            for event in &mut self.host.events[before..] {
                if let Event::DataMoved(moved) = event
                    && moved.payload.len() == chunk.len()
                {
                    moved.payload = moved.payload.slice(chunk.len() - 256..);
                    (moved.head_len, moved.tail_len) = (0, 256);
                    moved.chunk_offset = (chunk.len() - 256) as u32;
                }
            }
        }
        self.host.read(NOBODY, self.front.0);
    }
}

#[test]
fn who_takes_the_connection_afterwards_does_not_matter() {
    let mut shop = Shop::new();
    let (one, two) = (shop.worker(1), shop.worker(2));
    shop.arrives(one, "/a");
    shop.calls(one, "/a1");
    shop.answers_at_length(one, 0..6);
    shop.arrives(two, "/b");
    shop.answers(two);
    shop.expect(&["shop server /a", "shop client /a1 < shop server /a (thread)", "shop server /b"]);
}

/// The thread goes on to another connection while the end of its response does not show yet.
#[test]
fn a_response_without_a_visible_end_is_not_a_second_open_request() {
    let mut shop = Shop::new();
    let (one, two) = (shop.worker(1), shop.worker(2));
    let other = shop.host.connect(None, Some(shop.main));
    shop.arrives(one, "/a");
    shop.calls(one, "/a1");
    shop.answers_at_length(one, 0..6);
    shop.host.asks(NOBODY, other, one, "/b");
    shop.calls(one, "/b1");
    shop.host.answers(NOBODY, other, one);
    shop.arrives(two, "/c");
    shop.calls(two, "/c1");
    shop.answers(two);
    shop.expect(&[
        "shop server /a",
        "shop client /a1 < shop server /a (thread)",
        "shop server /b",
        // As far as was known then, two requests were open in the process, which has proven little yet.
        "shop client /b1 - process-unproven",
        "shop server /c",
        "shop client /c1 < shop server /c (thread)",
    ]);
}

/// The end shows, and the first request is forgotten, while the next one is open.
#[test]
fn a_response_whose_end_shows_during_the_next_request_is_no_second_one() {
    let mut shop = Shop::new();
    let (one, two) = (shop.worker(1), shop.worker(2));
    let other = shop.host.connect(None, Some(shop.main));
    shop.arrives(one, "/a");
    shop.answers_at_length(one, 0..6);
    shop.host.asks(NOBODY, other, one, "/b");
    shop.arrives(two, "/c");
    shop.answers(two);
    shop.host.sleep(Duration::from_secs(1));
    shop.calls(one, "/b1");
    shop.host.answers(NOBODY, other, one);
    shop.expect(&[
        "shop server /a",
        "shop server /b",
        "shop server /c",
        "shop client /b1 < shop server /b (thread)",
    ]);
}

/// The same, but the thread comes back to the first response: then it did hold two requests.
#[test]
fn a_response_that_goes_on_is_a_second_open_request() {
    let mut shop = Shop::new();
    let (one, two) = (shop.worker(1), shop.worker(2));
    let other = shop.host.connect(None, Some(shop.main));
    shop.arrives(one, "/a");
    shop.answers_at_length(one, 0..5);
    shop.host.asks(NOBODY, other, one, "/b");
    shop.calls(one, "/b1");
    shop.host.answers(NOBODY, other, one);
    shop.answers_at_length(one, 5..6);
    shop.arrives(two, "/c");
    shop.answers(two);
    shop.expect(&[
        "shop server /a",
        "shop server /b",
        "shop client /b1 - not-thread-per-request",
        "shop server /c",
    ]);
}

#[test]
fn calls_between_requests_have_no_parent() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.calls(worker, "/warm-up");
    shop.arrives(worker, "/a");
    shop.answers(worker);
    shop.calls(worker, "/after");
    shop.expect(&["shop client /warm-up", "shop server /a", "shop client /after - not-thread-per-request"]);
}

#[test]
fn a_background_thread_has_no_parent() {
    let mut shop = Shop::new();
    let (worker, timer) = (shop.worker(1), shop.worker(2));
    shop.arrives(worker, "/a");
    shop.calls(timer, "/bg");
    shop.answers(worker);
    shop.expect(&["shop server /a", "shop client /bg - no-open-request"]);
}

/// The event loop at concurrency one: in every thing but the sort of its reads it is a thread per request.
#[test]
fn a_loop_that_serves_one_request_at_a_time_is_recognised() {
    let mut shop = Shop::new();
    let main = shop.main;
    shop.host.nonblocking(shop.front.1);
    shop.host.nonblocking(shop.back.0);
    shop.arrives(main, "/a");
    shop.calls(main, "/timer");
    shop.answers(main);
    shop.expect(&["shop server /a", "shop client /timer - event-loop"]);
}

#[test]
fn reads_of_unknown_sort_are_not_trusted() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.arrives(worker, "/a");
    shop.calls(worker, "/a1");
    shop.answers(worker);
    for event in &mut shop.host.events {
        if let Event::DataMoved(moved) = event {
            moved.blocking = None;
        }
    }
    shop.expect(&["shop server /a", "shop client /a1 - event-loop"]);
}

/// `select` over sockets whose reads would wait: told by its return to a connection after another.
#[test]
fn a_loop_over_waiting_sockets_is_recognised_by_its_returns() {
    let mut shop = Shop::new();
    let main = shop.main;
    let other = shop.host.connect(None, Some(main));
    shop.arrives(main, "/a");
    shop.answers(main);
    shop.host.asks(NOBODY, other, main, "/b");
    shop.host.answers(NOBODY, other, main);
    shop.arrives(main, "/c");
    shop.calls(main, "/timer");
    shop.answers(main);
    shop.expect(&["shop server /a", "shop server /b", "shop server /c", "shop client /timer - event-loop"]);
}

/// A pool returns to connections, too, but any of its threads does.
#[test]
fn a_pool_that_shares_connections_is_not_a_loop() {
    let mut shop = Shop::new();
    let (one, two) = (shop.worker(1), shop.worker(2));
    let other = shop.host.connect(None, Some(shop.main));
    for round in 0..2 {
        shop.arrives(one, &format!("/a{round}"));
        shop.answers(one);
        shop.host.asks(NOBODY, other, one, &format!("/b{round}"));
        shop.host.answers(NOBODY, other, one);
        shop.arrives(two, &format!("/c{round}"));
        shop.answers(two);
    }
    shop.arrives(one, "/d");
    shop.calls(one, "/d1");
    shop.answers(one);
    let lines = shop.host.lines();
    assert_eq!(
        lines.last().map(String::as_str),
        Some("shop client /d1 < shop server /d (thread)"),
        "{lines:?}"
    );
}

#[test]
fn a_thread_with_two_open_requests_closes_the_gate_for_good() {
    let mut shop = Shop::new();
    let main = shop.main;
    let other = shop.host.connect(None, Some(main));
    shop.arrives(main, "/a");
    shop.host.asks(NOBODY, other, main, "/b");
    shop.calls(main, "/x");
    shop.answers(main);
    shop.host.answers(NOBODY, other, main);
    // Another thread, which does everything right: the process is what it is.
    let worker = shop.worker(1);
    let third = shop.host.connect(None, Some(main));
    shop.host.asks(NOBODY, third, worker, "/c");
    shop.calls(worker, "/c1");
    shop.host.answers(NOBODY, third, worker);
    shop.expect(&[
        "shop server /a",
        "shop server /b",
        "shop client /x - not-thread-per-request",
        "shop server /c",
        "shop client /c1 - not-thread-per-request",
    ]);
}

#[test]
fn an_answer_by_another_thread_closes_the_gate() {
    let mut shop = Shop::new();
    let (reader, worker) = (shop.worker(1), shop.worker(2));
    shop.arrives(reader, "/a");
    shop.calls(reader, "/a1");
    shop.answers(worker);
    shop.arrives(worker, "/b");
    shop.calls(worker, "/b1");
    shop.answers(worker);
    shop.expect(&[
        "shop server /a",
        "shop client /a1 - not-thread-per-request",
        "shop server /b",
        "shop client /b1 - not-thread-per-request",
    ]);
}

#[test]
fn pipelined_requests_are_ambiguous_but_close_no_gate() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.host.request(NOBODY, shop.front.0, "/a");
    shop.host.request(NOBODY, shop.front.0, "/b");
    shop.host.read(worker, shop.front.1);
    shop.calls(worker, "/x");
    shop.host.response(worker, shop.front.1);
    shop.calls(worker, "/y");
    shop.host.response(worker, shop.front.1);
    shop.host.read(NOBODY, shop.front.0);
    shop.arrives(worker, "/c");
    shop.calls(worker, "/c1");
    shop.answers(worker);
    shop.expect(&[
        "shop server /a",
        "shop server /b",
        "shop client /x - several-open-requests",
        "shop client /y - several-open-requests",
        "shop server /c",
        "shop client /c1 < shop server /c (thread)",
    ]);
}

/// A single-threaded server answers until it closes; the close is reported after it went on.
#[test]
fn a_late_close_is_no_second_open_request() {
    let mut shop = Shop::new();
    let main = shop.main;
    shop.host.write(NOBODY, shop.front.0, b"GET /a HTTP/1.0\r\n\r\n");
    shop.host.read(main, shop.front.1);
    shop.calls(main, "/a1");
    shop.host.write(main, shop.front.1, b"HTTP/1.0 200 OK\r\n\r\nuntil the close");
    let other = shop.host.connect(None, Some(main));
    shop.host.asks(NOBODY, other, main, "/b");
    shop.host.close(main, shop.front.1);
    shop.calls(main, "/b1");
    shop.host.answers(NOBODY, other, main);
    let lines = shop.host.lines();
    assert_eq!(lines[1], "shop client /a1 < shop server /a (thread)", "{lines:?}");
    assert_eq!(lines[3], "shop client /b1 < shop server /b (thread)", "{lines:?}");
}

#[test]
fn work_after_the_answer_has_no_parent() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.arrives(worker, "/a");
    shop.answers(worker);
    shop.calls(worker, "/log");
    shop.arrives(worker, "/b");
    shop.answers(worker);
    shop.expect(&["shop server /a", "shop client /log - not-thread-per-request", "shop server /b"]);
}

/// The response is flowing when the call is made.
#[test]
fn a_call_inside_the_response_belongs_to_it() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.arrives(worker, "/a");
    shop.host.write(
        worker,
        shop.front.1,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
    );
    shop.calls(worker, "/a1");
    shop.host.write(worker, shop.front.1, b"0\r\n\r\n");
    shop.expect(&["shop server /a", "shop client /a1 < shop server /a (thread)"]);
}

#[test]
fn a_request_that_is_never_answered_proves_nothing() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.arrives(worker, "/a");
    shop.calls(worker, "/x");
    shop.host.close(worker, shop.front.1);
    let lines = shop.host.lines();
    assert_eq!(lines[1], "shop client /x - request-unanswered", "{lines:?}");
}

const BEGINNING: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx";

#[test]
fn a_response_that_its_client_cuts_shows_whose_call_it_was() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.arrives(worker, "/a");
    shop.calls(worker, "/x");
    shop.host.write(worker, shop.front.1, BEGINNING);
    shop.host.close(worker, shop.front.1);
    shop.expect(&["shop server /a", "shop client /x < shop server /a (thread)"]);
}

#[test]
fn a_cut_response_proves_nothing_unless_its_thread_sent_some_of_it_after_the_call() {
    // Before the call.
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.arrives(worker, "/a");
    shop.host.write(worker, shop.front.1, BEGINNING);
    shop.calls(worker, "/x");
    shop.host.close(worker, shop.front.1);
    shop.expect(&["shop server /a", "shop client /x - request-unanswered"]);
    // Another thread.
    let mut shop = Shop::new();
    let (worker, other) = (shop.worker(1), shop.worker(2));
    shop.arrives(worker, "/a");
    shop.calls(worker, "/x");
    shop.host.write(other, shop.front.1, BEGINNING);
    shop.host.close(worker, shop.front.1);
    shop.expect(&["shop server /a", "shop client /x - request-moved-threads"]);
}

/// A lost response and a lost request must not add up to a wrong parent.
#[test]
fn no_loss_on_the_thread_makes_a_wrong_parent() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    let other = shop.host.connect(None, Some(shop.main));
    shop.arrives(worker, "/a");
    shop.answers(worker);
    shop.host.asks(NOBODY, other, worker, "/b");
    shop.calls(worker, "/b1");
    shop.host.answers(NOBODY, other, worker);
    shop.arrives(worker, "/c");
    shop.calls(worker, "/c1");
    shop.answers(worker);
    let events = shop.host.events.clone();
    let by_worker: Vec<usize> = (0..events.len())
        .filter(|n| matches!(&events[*n], Event::DataMoved(moved) if moved.thread.tid.0 == worker.tid))
        .collect();
    for first in &by_worker {
        for second in &by_worker {
            shop.host.events = events.clone();
            let mut n = 0;
            shop.host.events.retain(|_| {
                n += 1;
                n - 1 != *first && n - 1 != *second
            });
            let lines = shop.host.lines();
            for line in &lines {
                let wrong = line.starts_with("shop client /b1 < shop server /a")
                    || line.starts_with("shop client /b1 < shop server /c")
                    || line.starts_with("shop client /c1 < shop server /a")
                    || line.starts_with("shop client /c1 < shop server /b");
                assert!(!wrong, "without {first} and {second}: {lines:?}");
            }
        }
    }
}

/// After a gap the thread is trusted again from its next request on.
#[test]
fn a_thread_recovers_from_a_loss() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.arrives(worker, "/a");
    shop.calls(worker, "/a1");
    shop.answers(worker);
    shop.arrives(worker, "/b");
    shop.calls(worker, "/b1");
    shop.answers(worker);
    // The response to /a1 is lost.
    let lost =
        shop.host.events.iter().enumerate().filter(
            |(_, event)| matches!(event, Event::DataMoved(moved) if moved.thread.tid.0 == worker.tid),
        );
    let (lost, _) = lost.clone().nth(2).unwrap();
    shop.host.events.remove(lost);
    let lines = shop.host.lines();
    assert!(lines[1].starts_with("shop client /a1 - events-lost"), "{lines:?}");
    // Which response is whose on the connection is the loss's other victim.
    assert!(lines[3].starts_with("shop client /b1 < shop server /b (thread)"), "{lines:?}");
}

#[test]
fn a_new_thread_with_an_old_number_inherits_nothing() {
    let mut shop = Shop::new();
    let worker = shop.worker(1);
    shop.arrives(worker, "/a");
    let before = shop.host.events.len();
    shop.calls(worker, "/x");
    for event in &mut shop.host.events[before..] {
        if let Event::DataMoved(moved) = event {
            moved.thread.seq -= 1;
        }
    }
    shop.answers(worker);
    let lines = shop.host.lines();
    assert!(!lines.iter().any(|line| line.contains("(thread)")), "{lines:?}");
}

/// The trace id of the top holds for the whole chain of processes.
#[test]
fn a_chain_of_services_is_one_trace() {
    let mut host = Host::new();
    let (curl, shop, cart) = (host.process("curl"), host.process("shop"), host.process("cart"));
    let front = host.connect(Some(curl), Some(shop));
    let back = host.connect(Some(shop), Some(cart));
    host.asks(curl, front, shop, "/a");
    host.asks(shop, back, cart, "/b");
    host.sleep(Duration::from_millis(5));
    host.answers(shop, back, cart);
    host.answers(curl, front, shop);
    assert_eq!(
        host.lines(),
        [
            "curl client /a",
            "shop server /a < curl client /a (tcp-sequence)",
            "shop client /b < shop server /a (thread)",
            "cart server /b < shop client /b (tcp-sequence)",
        ]
    );
    let spans = host.spans();
    assert!(spans.iter().all(|span| span.trace_id == spans[0].trace_id));
}
