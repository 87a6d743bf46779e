//! Calls of an event loop, whose runtime tells which task acts and which task waits for it.

use std::time::Duration;

use tracer_abi::error::KernelLoss;
use tracer_core::event::Event;
use tracer_core::span::{Confidence, Span};
use tracer_core::{Engine, EngineConfig};

use crate::host::{End, Host, T, Wiring, key, lines, path, run, task};

pub(crate) const NOBODY: Option<T> = None;

pub(crate) type Conn = (End, End);

/// A service in one thread, between clients and services that are not traced.
pub(crate) struct Loop {
    pub(crate) host: Host,
    pub(crate) main: T,
    /// The number of the youngest task.
    youngest: u64,
}

impl Loop {
    /// Events are lost; or the runtime is not asked for a while, which is the same.
    pub(crate) fn loses(&mut self, interrupted: bool) {
        let (time, process) = (self.host.clock, key(self.main.process));
        self.host.events.push(if interrupted {
            Event::AskingInterrupted { time, process }
        } else {
            Event::LossCounted { time, loss: KernelLoss::DataRingFull, count: 1 }
        });
    }

    /// One that has shown nothing yet, but that its tasks are known.
    pub(crate) fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        let mut shop = Self { host, main, youngest: 2000 };
        let conn = shop.client();
        shop.arrives(conn, "/first");
        shop.answers(conn, 900);
        shop
    }

    /// One whose requests have had tasks of their own often enough.
    pub(crate) fn proven() -> Self {
        let mut shop = Self::new();
        for n in 1000..1040 {
            let conn = shop.client();
            shop.arrives(conn, "/w");
            shop.answers(conn, n);
        }
        shop
    }

    /// One whose requests have waited for tasks of a kind that nobody had made before they came: [`Self::child`].
    pub(crate) fn with_children() -> Self {
        let mut shop = Self::proven();
        for n in 100..116 {
            let conn = shop.client();
            shop.arrives(conn, "/w");
            let child = shop.child();
            shop.calls("/w", &[child, n]);
            shop.answers(conn, n);
        }
        shop
    }

    /// Makes a task, always of the same kind.
    pub(crate) fn child(&mut self) -> u64 {
        self.youngest += 1;
        self.youngest
    }

    /// A task makes another one, which is told.
    pub(crate) fn child_of(&mut self, maker: u64) -> u64 {
        let child = self.child();
        self.host.makes(self.main, task(maker), task(child));
        child
    }

    pub(crate) fn client(&mut self) -> Conn {
        let conn = self.host.connect(None, Some(self.main));
        self.host.nonblocking(conn.1);
        conn
    }

    pub(crate) fn arrives(&mut self, conn: Conn, path: &str) {
        self.host.request(NOBODY, conn.0, path);
        self.host.counts(None, self.youngest);
        self.host.read(self.main, conn.1);
    }

    /// It arrives, and this task had waited for it.
    pub(crate) fn arrives_for(&mut self, conn: Conn, path: &str, task: u64) {
        self.host.request(NOBODY, conn.0, path);
        self.host.counts(Some(task), self.youngest);
        self.host.read(self.main, conn.1);
    }

    pub(crate) fn answers(&mut self, conn: Conn, task: u64) {
        self.host.works(&[task]);
        self.host.answers(NOBODY, conn, self.main);
    }

    /// The first task calls; the others wait, one for another.
    pub(crate) fn begins_call(&mut self, path: &str, tasks: &[u64]) -> Conn {
        let conn = self.host.connect(Some(self.main), None);
        self.host.nonblocking(conn.0);
        self.host.works(tasks);
        self.host.asks(self.main, conn, NOBODY, path);
        conn
    }

    pub(crate) fn ends_call(&mut self, conn: Conn) {
        self.host.answers(self.main, conn, NOBODY);
    }

    pub(crate) fn calls(&mut self, path: &str, tasks: &[u64]) {
        let conn = self.begins_call(path, tasks);
        self.ends_call(conn);
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.host.spans()
    }

    /// What is said of calls, and of nothing else; those of [`Self::with_children`] are left out.
    #[track_caller]
    pub(crate) fn expect(&self, wanted: &[&str]) {
        let said = lines(&self.spans()).into_iter();
        let calls: Vec<String> = said
            .filter(|line| line.starts_with("shop client") && !line.starts_with("shop client /w "))
            .collect();
        let wanted: Vec<String> = wanted.iter().map(|line| format!("shop client {line}")).collect();
        assert_eq!(calls, wanted);
    }
}

pub(crate) fn confidence(spans: &[Span], of: &str) -> Option<Confidence> {
    spans.iter().find(|span| path(span) == of)?.parent.map(|parent| parent.confidence)
}

#[test]
fn a_call_belongs_to_the_request_that_its_task_answers() {
    let mut shop = Loop::proven();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a");
    shop.arrives(two, "/b");
    let a1 = shop.begins_call("/a1", &[11]);
    let b1 = shop.begins_call("/b1", &[12]);
    shop.ends_call(b1);
    shop.ends_call(a1);
    shop.calls("/b2", &[12]);
    shop.answers(two, 12);
    shop.answers(one, 11);
    shop.expect(&[
        "/a1 < shop server /a (runtime-task)",
        "/b1 < shop server /b (runtime-task)",
        "/b2 < shop server /b (runtime-task)",
    ]);
    assert_eq!(confidence(&shop.spans(), "/a1"), Some(Confidence::Certain));
}

/// Whether a call in the middle of an answer was for it shows at that answer's end, whatever other requests are open.
#[test]
fn a_call_waits_for_the_end_of_its_own_request_only() {
    let mut shop = Loop::proven();
    let (long, conn) = (shop.client(), shop.client());
    shop.arrives(long, "/long");
    shop.arrives(conn, "/a");
    shop.host.works(&[11]);
    shop.host.write(shop.main, conn.1, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
    shop.calls("/a1", &[11]);
    shop.host.sleep(Duration::from_secs(5));
    shop.host.write(shop.main, conn.1, b"b");
    let mut engine = Engine::new(EngineConfig::default(), [1; 32]);
    for event in &shop.host.events {
        engine.handle_event(event.clone());
    }
    engine.handle_timeout(shop.host.clock.plus(Duration::from_secs(1)));
    let spans: Vec<Span> = std::iter::from_fn(|| engine.poll_span()).collect();
    assert_eq!(confidence(&spans, "/a1"), Some(Confidence::Certain));
}

#[test]
fn what_nobody_waits_for_is_nobodys() {
    let mut shop = Loop::proven();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.calls("/poll", &[7]);
    shop.calls("/forgotten", &[2001]);
    shop.answers(conn, 11);
    shop.expect(&["/poll - task-unrelated", "/forgotten - task-unrelated"]);
}

/// Of a program that only calls, nothing could be the cause.
#[test]
fn a_client_has_no_reason() {
    let mut host = Host::new();
    let main = host.process("client");
    let conn = host.connect(Some(main), None);
    host.works(&[1]);
    host.asks(main, conn, NOBODY, "/a");
    host.answers(main, conn, NOBODY);
    assert_eq!(host.lines(), ["client client /a"]);
}

/// The task answers, and calls for what it has answered; the next request is on the connection already.
#[test]
fn a_call_after_the_answer_is_not_the_next_requests() {
    for seen_to_wait in [false, true] {
        let mut shop = Loop::proven();
        let conn = shop.client();
        shop.arrives(conn, "/a");
        shop.answers(conn, 11);
        let late = shop.begins_call("/late", &[11]);
        // Nobody has seen it wait: it waits for the call.
        shop.arrives(conn, "/b");
        shop.ends_call(late);
        shop.calls("/later", &[11]);
        shop.answers(conn, 11);
        if seen_to_wait {
            shop.arrives_for(conn, "/c", 11);
            shop.calls("/c1", &[11]);
            shop.answers(conn, 11);
        }
        let wanted =
            ["/late - task-unrelated", "/later - task-not-fresh", "/c1 < shop server /c (runtime-task)"];
        shop.expect(&wanted[..if seen_to_wait { 3 } else { 2 }]);
    }
}

#[test]
fn on_a_kept_connection_a_task_is_fresh_when_it_waited_for_the_request() {
    let mut shop = Loop::new();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.answers(conn, 11);
    for n in 0..3 {
        shop.arrives_for(conn, &format!("/b{n}"), 11);
        shop.calls(&format!("/b{n}.1"), &[11]);
        shop.answers(conn, 11);
    }
    shop.expect(&[
        "/b0.1 < shop server /b0 (runtime-task)",
        "/b1.1 < shop server /b1 (runtime-task)",
        "/b2.1 < shop server /b2 (runtime-task)",
    ]);
    assert_eq!(confidence(&shop.spans(), "/b0.1"), Some(Confidence::Certain));
}

/// The client goes away before it is answered.
#[test]
fn a_task_that_waited_for_a_request_need_not_answer_it() {
    let mut shop = Loop::with_children();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.answers(conn, 11);
    shop.arrives_for(conn, "/b", 11);
    shop.calls("/b1", &[11]);
    let child = shop.child_of(11);
    shop.calls("/b2", &[child, 11]);
    shop.host.end_of_stream(shop.main, conn.1);
    shop.host.close(shop.main, conn.1);
    shop.expect(&["/b1 < shop server /b (runtime-task)", "/b2 < shop server /b (runtime-task)"]);
}

/// The task that waited is not the one that answers: what it had to do before is not known.
#[test]
fn that_another_task_waited_says_nothing() {
    let mut shop = Loop::proven();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.answers(conn, 11);
    shop.arrives_for(conn, "/b", 12);
    shop.calls("/b1", &[11]);
    shop.answers(conn, 11);
    shop.expect(&["/b1 - task-not-fresh"]);
}

#[test]
fn an_address_that_is_used_again_is_another_task() {
    let mut shop = Loop::proven();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.calls("/poll", &[7]);
    shop.answers(conn, 8);
    for event in &mut shop.host.events {
        if let Event::TaskIdentified(identified) = event {
            for known in &mut identified.tasks {
                known.address = if [7, 8].contains(&known.number) { task(7).address } else { known.address };
            }
        }
    }
    shop.expect(&["/poll - task-unrelated"]);
}

/// A program may give two tasks the same name.
#[test]
fn a_number_that_is_used_twice_is_two_tasks() {
    let mut shop = Loop::proven();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.calls("/poll", &[7]);
    shop.answers(conn, 8);
    for event in &mut shop.host.events {
        if let Event::TaskIdentified(identified) = event {
            for known in &mut identified.tasks {
                known.number = if known.number == 8 { 7 } else { known.number };
            }
        }
    }
    shop.expect(&["/poll - task-unrelated"]);
}

/// One task takes turns with all connections.
#[test]
fn a_task_that_serves_many_at_once_serves_none_for_sure() {
    for shop in [Loop::new(), Loop::proven()] {
        let mut shop = shop;
        let (one, two, three) = (shop.client(), shop.client(), shop.client());
        shop.arrives(one, "/a");
        shop.arrives(two, "/b");
        shop.calls("/b1", &[11]);
        shop.answers(two, 11);
        shop.arrives(three, "/c");
        shop.calls("/a1", &[11]);
        shop.answers(one, 11);
        shop.calls("/c1", &[11]);
        shop.answers(three, 11);
        let spans = shop.spans();
        for call in ["/a1", "/c1"] {
            assert_eq!(confidence(&spans, call), None, "{call}");
        }
        // The first is right; believed only by a process that has never shown such a thing.
        assert_ne!(lines(&spans).iter().find(|line| line.contains("/b1 ")), None);
    }
}

#[test]
fn a_call_may_be_made_while_the_answer_flows_but_not_after() {
    let mut shop = Loop::proven();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.host.works(&[11]);
    shop.host.write(shop.main, conn.1, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");
    shop.calls("/during", &[11]);
    shop.host.write(shop.main, conn.1, b"0\r\n\r\n");
    shop.calls("/after", &[11]);
    shop.host.read(NOBODY, conn.0);
    shop.expect(&["/during < shop server /a (runtime-task)", "/after - task-unrelated"]);
}

#[test]
fn while_little_is_known_a_call_waits_for_all_requests() {
    let mut shop = Loop::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a");
    shop.arrives(two, "/b");
    shop.calls("/a1", &[11]);
    shop.answers(one, 11);
    // The other one is never answered.
    shop.host.sleep(Duration::from_secs(20));
    shop.expect(&["/a1 - process-unproven"]);

    let mut shop = Loop::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a");
    shop.arrives(two, "/b");
    shop.calls("/a1", &[11]);
    shop.answers(one, 11);
    shop.answers(two, 12);
    shop.expect(&["/a1 < shop server /a (runtime-task)"]);
}

/// The same task answers a request of another connection that was open at the call: which one the call was for is open.
#[test]
fn two_requests_that_one_task_answers_name_nobody() {
    let mut shop = Loop::new();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a");
    shop.arrives(two, "/b");
    shop.calls("/a1", &[11]);
    shop.answers(one, 11);
    shop.answers(two, 11);
    shop.expect(&["/a1 - several-open-requests"]);
}

#[test]
fn what_was_before_the_tracer_is_not_known() {
    let mut shop = Loop::proven();
    let old = Wiring { preexisting: true, ..Wiring::default() };
    let conn = shop.host.connect_as(None, Some(shop.main), old);
    shop.host.nonblocking(conn.1);
    shop.arrives(conn, "/a");
    shop.calls("/a1", &[11]);
    shop.answers(conn, 11);
    shop.arrives_for(conn, "/b", 11);
    shop.calls("/b1", &[11]);
    shop.answers(conn, 11);
    shop.expect(&["/a1 - task-not-fresh", "/b1 < shop server /b (runtime-task)"]);
}

#[test]
fn a_loss_may_have_hidden_an_earlier_answer() {
    let wanted = [(false, "/a1 - events-lost"), (true, "/a1 < shop server /a (runtime-task)")];
    for ((seen_to_wait, wanted), interrupted) in
        wanted.into_iter().flat_map(|want| [(want, false), (want, true)])
    {
        let mut shop = Loop::proven();
        let conn = shop.client();
        shop.arrives(conn, "/first");
        shop.answers(conn, 10);
        shop.loses(interrupted);
        if seen_to_wait {
            shop.arrives_for(conn, "/a", 11);
        } else {
            shop.arrives(conn, "/a");
        }
        shop.calls("/a1", &[11]);
        shop.answers(conn, 11);
        shop.expect(&[wanted]);
    }
}

/// What is known to be missing of one process is not missing of another.
#[test]
fn a_loss_on_a_connection_of_another_process_hides_nothing() {
    for (elsewhere, wanted) in [(true, "/a1 < shop server /a (runtime-task)"), (false, "/a1 - events-lost")] {
        let mut shop = Loop::proven();
        let other = if elsewhere { shop.host.process("other") } else { shop.main };
        let damaged = shop.host.connect(None, Some(other));
        shop.host.asks(NOBODY, damaged, other, "/damaged");
        let before = shop.host.events.len();
        shop.host.write(other, damaged.1, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        shop.host.events.truncate(before);
        shop.host.write(other, damaged.1, b"b");
        shop.host.close(other, damaged.1);
        let conn = shop.client();
        shop.arrives(conn, "/a");
        shop.calls("/a1", &[11]);
        shop.answers(conn, 11);
        shop.expect(&[wanted]);
    }
}

/// As they come in when the processor is taken away from a thread between an event's stamp and its report, for so long:
/// what the thread does next comes after it.
fn stalled(events: &[Event], at: usize, by: Duration) -> Vec<Event> {
    let (stalled, until) = (tid(&events[at]), events[at].time().plus(by));
    let mut came: Vec<_> = events
        .iter()
        .enumerate()
        .map(|(index, event)| {
            let waits = index >= at && tid(event) == stalled;
            (if waits { event.time().max(until) } else { event.time() }, event.clone())
        })
        .collect();
    came.sort_by_key(|(time, _)| *time);
    came.into_iter().map(|(_, event)| event).collect()
}

/// Zero for what no operation has to do with.
fn tid(event: &Event) -> u32 {
    if let Event::DataMoved(moved) = event {
        moved.thread.tid.0
    } else if let Event::TaskIdentified(identified) = event {
        identified.thread.tid.0
    } else {
        0
    }
}

/// Something goes on elsewhere all the time.
fn with_others(mut shop: Loop) -> Loop {
    let other = shop.host.process("other");
    let (begin, end) = (shop.host.events[0].time(), shop.host.clock);
    let conn = shop.host.connect(None, Some(other));
    let before = shop.host.events.len();
    shop.host.asks(NOBODY, conn, other, "/other");
    let mut moved = shop.host.events.split_off(before);
    let Some(Event::DataMoved(moved)) = moved.pop() else { panic!("{moved:?}") };
    let step = Duration::from_millis(1);
    let mut time = begin;
    let mut seq = moved.thread.seq;
    while time < end.plus(Duration::from_millis(200)) {
        let mut event = moved.clone();
        (event.time, event.thread.seq) = (time, seq);
        event.offset += u64::from(seq - moved.thread.seq) * u64::from(event.payload.len() as u32);
        shop.host.events.push(Event::DataMoved(event));
        (time, seq) = (time.plus(step), seq + 1);
    }
    shop.host.clock = time;
    shop.host.events.sort_by_key(Event::time);
    shop
}

/// Two requests at once, again and again, of which the tasks call.
fn busy() -> Loop {
    let mut shop = Loop::proven();
    for n in 0..30 {
        let (one, two) = (shop.client(), shop.client());
        shop.arrives(one, "/a");
        shop.arrives(two, "/b");
        let a1 = shop.begins_call("/a1", &[3000 + n]);
        shop.host.sleep(Duration::from_millis(5));
        shop.calls("/b1", &[4000 + n]);
        shop.ends_call(a1);
        shop.answers(two, 4000 + n);
        shop.host.sleep(Duration::from_millis(3));
        shop.answers(one, 3000 + n);
        // A task of the first kind goes on behind its answer, while the next request of its connection is there.
        shop.arrives(one, "/c");
        shop.calls("/a2", &[3000 + n]);
        shop.answers(one, 3000 + n);
    }
    with_others(shop)
}

/// How many calls have a parent; none has a wrong one.
#[track_caller]
fn right(spans: &[Span]) -> usize {
    let calls: Vec<_> = lines(spans)
        .into_iter()
        .filter(|line| line.starts_with("shop client /") && line.contains('<'))
        .collect();
    for call in &calls {
        let is = |call_path: &str, request: &str| {
            call.starts_with(&format!("shop client {call_path} < shop server {request} "))
        };
        assert!(is("/a1", "/a") || is("/b1", "/b"), "{call}");
    }
    calls.len()
}

#[test]
fn an_event_that_comes_late_leaves_the_calls_of_other_tasks_their_parents() {
    let shop = busy();
    let whole = right(&shop.spans());
    assert_eq!(whole, 60);
    let events = &shop.host.events;
    let mut late_events = 0;
    for by in [80, 120, 400].map(Duration::from_millis) {
        for middle in (events.len() / 4..events.len() * 3 / 4).step_by(97) {
            let find = |own: bool| {
                let is = |event: &&Event| tid(event) != 0 && (tid(event) == shop.main.tid) == own;
                middle + events[middle..].iter().position(|event| is(&event)).expect("an event")
            };
            let mut late = |at: usize| {
                let came = stalled(events, at, by);
                assert_ne!(&came, events);
                let mut engine = Engine::new(EngineConfig::default(), [1; 32]);
                came.iter().for_each(|event| engine.handle_event(event.clone()));
                late_events += engine.stats().events_late;
                right(&run(&came, EngineConfig::default(), shop.host.clock))
            };
            assert_eq!((late(find(false)), late(find(true))), (whole, whole), "{by:?} at {middle}");
        }
    }
    assert!(late_events > 100, "{late_events}");
}

/// What a thread of the loop's pool does for a task comes from another thread than the loop's.
#[test]
fn a_thread_of_a_pool_calls_for_the_task_that_waits_for_it() {
    let mut shop = Loop::proven();
    let pool = shop.host.thread(shop.main, 7);
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a");
    shop.arrives(two, "/b");
    let call = shop.host.connect(Some(pool), None);
    shop.host.works(&[12]);
    shop.host.asks(pool, call, NOBODY, "/b1");
    shop.host.answers(pool, call, NOBODY);
    shop.answers(two, 12);
    shop.answers(one, 11);
    shop.expect(&["/b1 < shop server /b (runtime-task)"]);
}

/// It called before the request came for which its task waits by now, and was read late.
#[test]
fn a_request_that_came_behind_a_call_of_a_pool_is_not_its_cause() {
    let mut shop = Loop::proven();
    let pool = shop.host.thread(shop.main, 7);
    let conn = shop.client();
    shop.arrives_for(conn, "/a", 11);
    let call = shop.host.connect(Some(pool), None);
    let before = shop.host.events.len();
    shop.host.works(&[11]);
    shop.host.asks(pool, call, NOBODY, "/a1");
    let made = shop.host.events.split_off(before);
    shop.answers(conn, 11);
    shop.arrives_for(conn, "/b", 11);
    shop.host.sleep(Duration::from_millis(100));
    let other = shop.client();
    shop.arrives(other, "/c");
    shop.host.events.extend(made);
    shop.host.answers(pool, call, NOBODY);
    shop.answers(conn, 11);
    shop.expect(&["/a1 - task-unrelated"]);
}

/// It hides nothing of what the tracer has been there for.
#[test]
fn the_answer_to_a_call_from_before_the_tracer_is_no_loss() {
    let mut shop = Loop::proven();
    let old = Wiring { preexisting: true, ..Wiring::default() };
    let call = shop.host.connect_as(Some(shop.main), None, old);
    shop.host.nonblocking(call.0);
    shop.host.answers(shop.main, call, NOBODY);
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.calls("/a1", &[11]);
    shop.answers(conn, 11);
    shop.expect(&["/a1 < shop server /a (runtime-task)"]);
}

/// An answer to a request from before it is one that the task has given.
#[test]
fn an_answer_to_a_request_from_before_the_tracer_is_one() {
    let mut shop = Loop::proven();
    let old = Wiring { preexisting: true, ..Wiring::default() };
    let request = shop.host.connect_as(None, Some(shop.main), old);
    shop.host.nonblocking(request.1);
    shop.answers(request, 11);
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.calls("/a1", &[11]);
    shop.answers(conn, 11);
    shop.expect(&["/a1 - events-lost"]);
}

/// Without what the runtime tells, the loop's calls are undecided as before.
#[test]
fn nothing_is_told() {
    let mut shop = Loop::proven();
    shop.host.events.retain(|event| !matches!(event, Event::TaskIdentified(_)));
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.calls("/a1", &[]);
    shop.host.answers(NOBODY, conn, shop.main);
    shop.expect(&["/a1 - event-loop"]);
}

/// The record of who worked comes before that of the work, whatever the order in which they are read.
#[test]
fn the_order_in_which_records_are_read_does_not_matter() {
    let mut shop = Loop::proven();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.calls("/a1", &[11]);
    shop.answers(conn, 11);
    let mut swapped = shop.host.events.clone();
    for at in 1..swapped.len() {
        if matches!(swapped[at - 1], Event::TaskIdentified(_)) {
            swapped.swap(at - 1, at);
        }
    }
    assert_ne!(swapped, shop.host.events);
    let spans = run(&swapped, EngineConfig::default(), shop.host.clock);
    assert_eq!(lines(&spans), lines(&shop.spans()));
}

/// What was lost is known only later; the task seems to work on the first request still.
#[test]
fn the_end_of_a_request_and_the_beginning_of_the_next_may_be_lost() {
    let mut shop = Loop::new();
    let conn = shop.client();
    shop.arrives_for(conn, "/a", 11);
    let before = shop.host.events.len();
    shop.answers(conn, 11);
    shop.arrives_for(conn, "/b", 11);
    shop.host.events.truncate(before);
    shop.calls("/b1", &[11]);
    shop.answers(conn, 11);
    shop.expect(&["/b1 - events-lost"]);
}
