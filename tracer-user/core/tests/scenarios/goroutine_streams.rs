//! HTTP/2 of a Go program, whose goroutines read and write for each other: its runtime tells which one takes up a stream.

use std::time::Duration;

use tracer_abi::conn::Direction;
use tracer_abi::python::TaskId;
use tracer_core::event::Event;
use tracer_core::span::Confidence;

use crate::frames::{PREFACE, answer, ask, frame, settings};
use crate::host::{End, Host, T, lines, path, task};

const NOBODY: Option<T> = None;

/// Where a goroutine is started.
const SITE: u64 = 0x48_0000;

const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// A service whose goroutines run on two threads: one connection in, one to another service, both of HTTP/2.
struct Shop {
    host: Host,
    main: T,
    other: T,
    front: (End, End),
    back: (End, End),
    /// The last number that a goroutine has.
    last: u64,
}

impl Shop {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let other = host.thread(main, 1);
        let (front, back) = (host.connect(None, Some(main)), host.connect(Some(main), None));
        host.nonblocking(front.1);
        host.nonblocking(back.0);
        host.write(NOBODY, front.0, &[PREFACE, &settings()].concat());
        host.read(main, front.1);
        host.write(other, front.1, &settings());
        host.write(main, back.0, &[PREFACE, &settings()].concat());
        host.write(NOBODY, back.1, &settings());
        host.read(other, back.0);
        Self { host, main, other, front, back, last: 100 }
    }

    fn arrives(&mut self, stream: u32, path: &str) {
        self.host.write(NOBODY, self.front.0, &ask(stream, path, true));
        self.host.read(self.main, self.front.1);
    }

    fn serves(&mut self, stream: u32, goroutine: u64) {
        let mut tasks = vec![TaskId::default(); 8];
        tasks[0] = task(goroutine);
        tasks[1] = TaskId { address: self.last, number: 0 };
        self.host.takes(self.other, self.front.1, stream, Direction::Ingress, tasks);
    }

    fn takes(&mut self, stream: u32, path: &str, goroutine: u64) {
        self.arrives(stream, path);
        self.serves(stream, goroutine);
    }

    fn answers(&mut self, stream: u32) {
        self.host.write(self.main, self.front.1, &answer(stream, "200", true));
        self.host.read(NOBODY, self.front.0);
    }

    /// A call of HTTP/1, for which a goroutine waits that another one has started.
    fn calls(&mut self, path: &str, goroutine: u64, parent: u64) {
        let conn = self.host.connect(Some(self.other), None);
        self.host.nonblocking(conn.0);
        let told = [task(50), task(goroutine), TaskId { address: SITE, number: parent }];
        self.host.goes(told.to_vec());
        self.host.asks(self.other, conn, NOBODY, path);
        self.host.response(NOBODY, conn.1);
        self.host.goes(told.to_vec());
        self.host.read(self.other, conn.0);
    }

    /// A goroutine sends a stream's request for the one that has started it.
    fn sends(&mut self, stream: u32, path: &str, caller: TaskId, parent: u64) {
        self.sends_untold(stream, path, |shop| shop.tells(stream, caller, parent));
    }

    fn tells(&mut self, stream: u32, caller: TaskId, parent: u64) {
        let started_at = if parent == 0 { 0 } else { SITE };
        let tasks = vec![task(60), caller, TaskId { address: started_at, number: parent }];
        self.host.takes(self.main, self.back.0, stream, Direction::Egress, tasks);
    }

    fn sends_untold(&mut self, stream: u32, path: &str, before: impl FnOnce(&mut Self)) {
        before(self);
        self.host.write(self.main, self.back.0, &ask(stream, path, true));
    }

    fn is_answered(&mut self, stream: u32) {
        self.host.write(NOBODY, self.back.1, &answer(stream, "200", true));
        self.host.read(self.other, self.back.0);
    }

    #[track_caller]
    fn expect(&self, wanted: &[&str]) {
        let calls: Vec<String> =
            lines(&self.host.spans()).into_iter().filter(|line| line.starts_with("shop client")).collect();
        let wanted: Vec<String> = wanted.iter().map(|line| format!("shop client {line}")).collect();
        assert_eq!(calls, wanted);
    }

    fn confidence(&self, of: &str) -> Option<Confidence> {
        self.host.spans().iter().find(|span| path(span) == of)?.parent.map(|parent| parent.confidence)
    }
}

fn by_number(number: u64) -> TaskId {
    TaskId { address: 0, number }
}

#[test]
fn a_call_belongs_to_the_stream_whose_goroutine_waits() {
    let mut shop = Shop::new();
    shop.takes(1, "/a", 11);
    shop.takes(3, "/b", 12);
    shop.calls("/b1", 12, 5);
    shop.calls("/a1", 11, 5);
    shop.calls("/bg", 7, 5);
    shop.answers(3);
    shop.answers(1);
    shop.expect(&[
        "/b1 < shop server /b (runtime-task)",
        "/a1 < shop server /a (runtime-task)",
        "/bg - task-unrelated",
    ]);
    assert_eq!(shop.confidence("/a1"), Some(Confidence::Certain));
}

#[test]
fn a_call_by_http2_belongs_to_the_request_whose_goroutine_started_it() {
    let mut shop = Shop::new();
    shop.takes(1, "/a", 11);
    shop.takes(3, "/b", 12);
    shop.sends(1, "/b1", by_number(12), 0);
    shop.sends(3, "/a1", task(11), 5);
    shop.sends(5, "/bg", by_number(7), 0);
    [5, 3, 1].into_iter().for_each(|stream| shop.is_answered(stream));
    shop.answers(1);
    shop.answers(3);
    shop.expect(&[
        "/b1 < shop server /b (runtime-task)",
        "/a1 < shop server /a (runtime-task)",
        "/bg - task-unrelated",
    ]);
    assert_eq!(shop.confidence("/b1"), Some(Confidence::Certain));
}

#[test]
fn a_goroutine_that_a_stream_s_has_started_calls_for_it() {
    let mut shop = Shop::new();
    shop.takes(1, "/a", 11);
    shop.takes(3, "/b", 12);
    shop.calls("/a1", 101, 11);
    shop.sends(1, "/b1", task(102), 12);
    shop.is_answered(1);
    shop.answers(3);
    shop.answers(1);
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&["/a1 < shop server /a (runtime-task)", "/b1 < shop server /b (runtime-task)"]);
    assert_eq!(shop.confidence("/b1"), Some(Confidence::Likely));
}

/// Who sends for all may do so before the caller has told of its stream, and may even be answered.
#[test]
fn a_call_may_be_told_of_when_it_has_been_sent() {
    let mut shop = Shop::new();
    shop.takes(1, "/a", 11);
    shop.takes(3, "/b", 12);
    shop.sends(1, "/a1", task(11), 5);
    shop.sends_untold(3, "/b1", |_| {});
    shop.tells(3, task(12), 5);
    shop.sends_untold(5, "/a2", |_| {});
    [1, 3, 5].into_iter().for_each(|stream| shop.is_answered(stream));
    shop.tells(5, task(11), 5);
    shop.sends_untold(7, "/untold", |_| {});
    shop.is_answered(7);
    [1, 3].into_iter().for_each(|stream| shop.answers(stream));
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&[
        "/a1 < shop server /a (runtime-task)",
        "/b1 < shop server /b (runtime-task)",
        "/a2 < shop server /a (runtime-task)",
        "/untold - task-unrelated",
    ]);
    assert_eq!(shop.confidence("/a2"), Some(Confidence::Certain));
}

/// It may also do so when the caller is about something else.
#[test]
fn a_call_that_is_sent_late_is_not_of_what_its_goroutine_does_then() {
    let mut shop = Shop::new();
    shop.takes(1, "/a", 11);
    shop.tells(1, task(11), 5);
    shop.tells(3, task(101), 11);
    shop.answers(1);
    shop.takes(3, "/b", 11);
    shop.sends_untold(1, "/a1", |_| {});
    shop.sends_untold(3, "/a2", |_| {});
    [1, 3].into_iter().for_each(|stream| shop.is_answered(stream));
    shop.answers(3);
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&["/a1 - task-unrelated", "/a2 - task-unrelated"]);
}

/// The goroutine that reads a connection starts those that serve its streams, and is known to have read them.
#[test]
fn who_reads_for_all_streams_serves_none() {
    let mut shop = Shop::new();
    let reader = 5;
    for (stream, goroutine, path) in [(1, 101, "/a"), (3, 301, "/b")] {
        let mut tasks = vec![TaskId::default(); 8];
        tasks[0] = task(reader);
        tasks[1] = TaskId { address: shop.last, number: 0 };
        shop.host.write(NOBODY, shop.front.0, &ask(stream, path, true));
        shop.host.goes(tasks);
        shop.host.read(shop.main, shop.front.1);
        shop.last = goroutine;
        shop.serves(stream, goroutine);
        shop.calls(&format!("{path}1"), goroutine, reader);
        shop.calls(&format!("{path}2"), goroutine + 100, goroutine);
        shop.answers(stream);
    }
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&[
        "/a1 < shop server /a (runtime-task)",
        "/a2 < shop server /a (runtime-task)",
        "/b1 < shop server /b (runtime-task)",
        "/b2 < shop server /b (runtime-task)",
    ]);
}

/// Another goroutine has that address now.
#[test]
fn an_address_alone_names_nobody() {
    let mut shop = Shop::new();
    shop.takes(1, "/a", 11);
    shop.sends(1, "/x", TaskId { address: task(11).address, number: 13 }, 0);
    shop.is_answered(1);
    shop.answers(1);
    shop.expect(&["/x - task-unrelated"]);
}

/// The goroutine goes on, and may take up another stream: what it does then is that one's.
#[test]
fn a_goroutine_serves_one_stream_after_the_other() {
    let mut shop = Shop::new();
    shop.takes(1, "/a", 11);
    shop.calls("/a1", 11, 5);
    shop.takes(3, "/b", 11);
    shop.calls("/b1", 11, 5);
    shop.answers(1);
    shop.answers(3);
    shop.calls("/after", 11, 5);
    shop.expect(&[
        "/a1 < shop server /a (runtime-task)",
        "/b1 < shop server /b (runtime-task)",
        "/after - task-unrelated",
    ]);
}

/// Who serves a stream need not know that its client has gone, and goes on. So do those that it has started, which says
/// nothing about their place.
#[test]
fn a_stream_that_is_given_up_is_worked_on() {
    let mut shop = Shop::new();
    shop.takes(1, "/gone", 11);
    shop.host.write(NOBODY, shop.front.0, &frame(3, 0, 1, &CANCEL));
    shop.host.read(shop.main, shop.front.1);
    shop.host.sleep(Duration::from_millis(20));
    shop.calls("/gone1", 101, 11);
    shop.calls("/gone2", 11, 5);
    shop.last = 101;
    shop.takes(3, "/a", 12);
    shop.calls("/a1", 102, 12);
    shop.answers(3);
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&[
        "/gone1 - cause-ended-first",
        "/gone2 < shop server /gone (runtime-task)",
        "/a1 < shop server /a (runtime-task)",
    ]);
}

/// A worker that a stream's goroutine started stays for those that come later.
#[test]
fn a_place_whose_goroutines_stay_is_not_believed() {
    let mut shop = Shop::new();
    shop.takes(1, "/a", 11);
    shop.calls("/a1", 101, 11);
    shop.last = 101;
    shop.takes(3, "/b", 12);
    shop.answers(1);
    shop.calls("/b1", 101, 11);
    shop.answers(3);
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&["/a1 - child-outlives", "/b1 - task-unrelated"]);
}

/// What is told of a session of TLS waits until its socket is known, and that of the request may have been known before.
#[test]
fn a_call_that_is_told_of_when_its_request_has_ended_closes_no_place() {
    let mut shop = Shop::new();
    shop.takes(1, "/a", 11);
    shop.sends_untold(1, "/a1", |_| ());
    shop.answers(1);
    shop.tells(1, task(101), 11);
    shop.is_answered(1);
    shop.last = 101;
    shop.takes(3, "/b", 12);
    shop.calls("/b1", 102, 12);
    shop.answers(3);
    shop.host.sleep(Duration::from_millis(200));
    shop.expect(&["/a1 - event-loop", "/b1 < shop server /b (runtime-task)"]);
}

/// Told of before its request was read, of another stream, or twice: of whatever does not fit, nothing is believed.
#[test]
fn what_does_not_fit_is_not_believed() {
    let mut shop = Shop::new();
    shop.serves(1, 11);
    shop.arrives(1, "/a");
    shop.calls("/a1", 11, 5);
    shop.takes(3, "/b", 12);
    shop.serves(3, 13);
    shop.calls("/b1", 13, 5);
    shop.sends(7, "/other", by_number(12), 0);
    shop.sends_untold(9, "/untold", |_| {});
    for event in &mut shop.host.events {
        if let Event::TaskIdentified(told) = event
            && told.stream == Some(7)
        {
            told.stream = Some(8);
        }
    }
    [7, 9].into_iter().for_each(|stream| shop.is_answered(stream));
    [1, 3].into_iter().for_each(|stream| shop.answers(stream));
    shop.expect(&[
        "/a1 - task-unrelated",
        "/b1 - task-unrelated",
        "/other - task-unrelated",
        "/untold - task-unrelated",
    ]);
}

/// Whatever is not told makes an edge undecided, never another one.
#[test]
fn what_is_not_told_is_not_claimed() {
    let mut shop = Shop::new();
    shop.takes(1, "/a", 11);
    shop.takes(3, "/b", 12);
    shop.calls("/a1", 11, 5);
    shop.sends(1, "/b1", by_number(12), 0);
    shop.sends(3, "/a2", task(101), 11);
    [3, 1].into_iter().for_each(|stream| shop.is_answered(stream));
    [1, 3].into_iter().for_each(|stream| shop.answers(stream));
    shop.host.sleep(Duration::from_millis(200));
    let of_goroutines = |at: &usize| matches!(shop.host.events[*at], Event::TaskIdentified(_));
    let told: Vec<usize> = (0..shop.host.events.len()).filter(of_goroutines).collect();
    let mut fewer = 0;
    for at in told {
        let mut less = Shop::new();
        less.host.events = shop.host.events.clone();
        less.host.events.remove(at);
        let found = lines(&less.host.spans());
        let right = ["/a1 < shop server /a", "/a2 < shop server /a", "/b1 < shop server /b"];
        let claimed: Vec<&String> = found.iter().filter(|line| line.contains('<')).collect();
        assert!(claimed.iter().all(|line| right.iter().any(|right| line.contains(right))), "{claimed:?}");
        fewer += usize::from(claimed.len() < right.len());
    }
    assert_eq!(fewer, 5);
}
