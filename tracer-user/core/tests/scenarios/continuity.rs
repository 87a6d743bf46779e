//! Calls that carry what a request brought. The program reads on one thread and calls on others, so that no rule but
//! the headers can know.

use std::time::Duration;

use tracer_abi::error::KernelLoss;
use tracer_abi::sniff::Class;
use tracer_core::event::Event;
use tracer_core::span::Span;
use tracer_core::{Accuracy, Engine, EngineConfig, Limits};

use crate::host::{End, Host, T, Wiring, lines, path, run};

const NOBODY: Option<T> = None;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A service behind clients that are not traced, calling services that are not.
struct Shop {
    host: Host,
    main: T,
}

/// A request, or a call: its connection.
type Conn = (End, End);

impl Shop {
    fn new() -> Self {
        let mut host = Host::new();
        let main = host.process("shop");
        Self { host, main }
    }

    /// One that has shown that it hands on what it is given.
    fn proven() -> Self {
        let mut shop = Self::new();
        for n in 0..4 {
            let id = request_id(&format!("warm-up-{n}-0123456789"));
            let front = shop.asked(&format!("/w{n}"), &id);
            shop.calls_once(&format!("/w{n}.0"), &id);
            shop.answers(front);
        }
        shop.host.sleep(Duration::from_secs(20));
        shop
    }

    fn reader(&self) -> T {
        self.host.thread(self.main, 1)
    }

    fn worker(&self) -> T {
        self.host.thread(self.main, 2)
    }

    fn asked(&mut self, path: &str, headers: &str) -> Conn {
        let front = self.host.connect(NOBODY, Some(self.main));
        self.host.nonblocking(front.1);
        self.host.request_with(NOBODY, front.0, path, headers);
        self.host.read(self.reader(), front.1);
        front
    }

    fn answers(&mut self, front: Conn) {
        self.host.answers(NOBODY, front, self.worker());
    }

    fn calls(&mut self, path: &str, headers: &str) -> Conn {
        let back = self.host.connect(Some(self.main), NOBODY);
        self.host.request_with(self.worker(), back.0, path, headers);
        self.host.read(NOBODY, back.1);
        back
    }

    fn answered(&mut self, back: Conn) {
        self.host.answers(self.worker(), back, NOBODY);
    }

    fn calls_once(&mut self, path: &str, headers: &str) {
        let back = self.calls(path, headers);
        self.answered(back);
    }

    fn spans(&self) -> Vec<Span> {
        self.host.spans()
    }

    /// What is said of the call.
    fn says(&self, call: &str) -> String {
        said(&self.spans(), call)
    }
}

/// `/a (header-continuity)`, a reason, or nothing.
fn said(spans: &[Span], call: &str) -> String {
    let line = lines(spans).into_iter().find(|line| line.starts_with(&format!("shop client {call}")));
    let line = line.unwrap_or_else(|| panic!("no call {call}: {:?}", lines(spans)));
    let tail = line.strip_prefix(&format!("shop client {call}")).unwrap_or_default().trim();
    tail.trim_start_matches("< shop server ").trim_start_matches("- ").to_owned()
}

fn request_id(id: &str) -> String {
    format!("X-Request-Id: {id}\r\n")
}

fn traceparent(trace: &str, span: &str) -> String {
    format!("traceparent: 00-{trace}-{span}-01\r\n")
}

const ID: &str = "7f9c24e8-3b12-4fef-91e0-3c5d2a1b6f07";
const OTHER_ID: &str = "0c1d2e3f-1111-4222-8333-abcdefabcdef";
const OTHER_TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const SPAN: &str = "00f067aa0ba902b7";
const OTHER_SPAN: &str = "e457b5a2e4d86bd1";

#[test]
fn a_call_that_carries_what_one_request_brought_is_its_child() {
    let b3 = format!("b3: {TRACE}-{SPAN}-1\r\n");
    for (brought, carried) in [
        (request_id(ID), request_id(ID)),
        // The header's name may change on the way.
        (request_id(ID), format!("x-correlation-id: {ID}\r\n")),
        (traceparent(TRACE, SPAN), traceparent(TRACE, SPAN)),
        (traceparent(TRACE, SPAN), b3),
        // A trace that names no span.
        (
            format!("X-Amzn-Trace-Id: Root=1-{}-{}\r\n", &TRACE[..8], &TRACE[8..]),
            format!("X-Amzn-Trace-Id: Root=1-{}-{}\r\n", &TRACE[..8], &TRACE[8..]),
        ),
    ] {
        let mut shop = Shop::proven();
        let front = shop.asked("/a", &brought);
        let other = shop.asked("/other", &request_id(OTHER_ID));
        let back = shop.calls("/a.0", &carried);
        shop.answered(back);
        shop.answers(other);
        shop.answers(front);
        assert_eq!(shop.says("/a.0"), "/a (header-continuity)", "{brought}{carried}");
        let spans = shop.spans();
        let traces = |path_of: &str| spans.iter().find(|span| path(span) == path_of).unwrap().trace_id;
        assert_eq!(traces("/a"), traces("/a.0"));
    }
}

#[test]
fn the_first_values_of_a_process_prove_nothing() {
    let mut shop = Shop::new();
    for n in 0..5 {
        let id = request_id(&format!("0123456789abcdef-{n}"));
        let front = shop.asked(&format!("/{n}"), &id);
        shop.calls_once(&format!("/{n}.0"), &id);
        shop.calls_once(&format!("/{n}.1"), &id);
        shop.answers(front);
        shop.host.sleep(Duration::from_secs(1));
    }
    for n in 0..3 {
        assert!(!shop.says(&format!("/{n}.1")).contains("continuity"), "{n}");
    }
    assert_eq!(shop.says("/4.0"), "/4 (header-continuity)");
}

/// A constant that a timer carries, too.
#[test]
fn a_constant_is_nobodys() {
    let mut shop = Shop::new();
    for n in 0..8 {
        let front = shop.asked(&format!("/{n}"), &request_id(ID));
        shop.calls_once(&format!("/bg{n}"), &request_id(ID));
        shop.answers(front);
    }
    let spans = shop.spans();
    assert!(spans.iter().all(|span| span.parent.is_none()), "{:?}", lines(&spans));
}

#[test]
fn ids_that_two_programs_may_make_count_for_nothing() {
    for id in ["17", "req-0000000000017", "00000000-0000-0000-0000-000000000001"] {
        let mut shop = Shop::proven();
        let front = shop.asked("/a", &request_id(id));
        shop.calls_once("/bg", &request_id(id));
        shop.answers(front);
        assert!(!shop.says("/bg").contains("continuity"), "{id}");
    }
    let mut shop = Shop::proven();
    let small = traceparent("00000000000000000000000000000011", SPAN);
    let front = shop.asked("/a", &small);
    shop.calls_once("/bg", &small);
    shop.answers(front);
    assert!(!shop.says("/bg").contains("continuity"));
}

#[derive(Clone, Copy, Debug)]
enum Second {
    Before,
    During,
    AfterTheCall,
    Finished,
}

/// Parallel calls of one trace, retries, a session's id: two requests share the value.
#[test]
fn a_value_of_two_requests_is_nobodys() {
    for second in [Second::Before, Second::During, Second::AfterTheCall, Second::Finished] {
        for value in [request_id(ID), traceparent(TRACE, SPAN)] {
            let mut shop = Shop::proven();
            let mut others = Vec::new();
            match second {
                Second::Before => others.push(shop.asked("/other", &value)),
                Second::Finished => {
                    let front = shop.asked("/other", &value);
                    shop.answers(front);
                }
                Second::During | Second::AfterTheCall => {}
            }
            let front = shop.asked("/a", &value);
            if matches!(second, Second::During) {
                others.push(shop.asked("/other", &value));
            }
            let back = shop.calls("/a.0", &value);
            if matches!(second, Second::AfterTheCall) {
                others.push(shop.asked("/other", &value));
            }
            shop.answered(back);
            shop.answers(front);
            for other in others {
                shop.answers(other);
            }
            let said = shop.says("/a.0");
            assert!(!said.contains("continuity"), "{second:?} {value}: {said}");
        }
    }
}

/// Parallel requests of one trace from two spans: the span tells them apart, the trace does not.
#[test]
fn the_span_that_came_in_tells_requests_of_one_trace_apart() {
    let mut shop = Shop::proven();
    let front = shop.asked("/a", &traceparent(TRACE, SPAN));
    let other = shop.asked("/b", &traceparent(TRACE, OTHER_SPAN));
    shop.calls_once("/a.0", &traceparent(TRACE, SPAN));
    shop.calls_once("/b.0", &traceparent(TRACE, OTHER_SPAN));
    let root = format!("X-Amzn-Trace-Id: Root=1-{}-{}\r\n", &TRACE[..8], &TRACE[8..]);
    shop.calls_once("/x.0", &root);
    shop.answers(front);
    shop.answers(other);
    assert_eq!(shop.says("/a.0"), "/a (header-continuity)");
    assert_eq!(shop.says("/b.0"), "/b (header-continuity)");
    assert!(!shop.says("/x.0").contains("continuity"));
}

#[test]
fn values_that_name_two_requests_contradict_each_other() {
    let mut shop = Shop::proven();
    let front = shop.asked("/a", &request_id(ID));
    let other = shop.asked("/b", &request_id(OTHER_ID));
    shop.calls_once("/x", &(request_id(ID) + &request_id(OTHER_ID)));
    shop.answers(front);
    shop.answers(other);
    assert!(!shop.says("/x").contains("continuity"));
    // And a request id of one beside the trace of another.
    let mut shop = Shop::proven();
    let front = shop.asked("/a", &(request_id(ID) + &traceparent(TRACE, SPAN)));
    let other = shop.asked("/b", &traceparent(OTHER_TRACE, OTHER_SPAN));
    shop.calls_once("/x", &(request_id(ID) + &traceparent(OTHER_TRACE, OTHER_SPAN)));
    shop.answers(front);
    shop.answers(other);
    assert!(!shop.says("/x").contains("continuity"));
}

#[test]
fn work_after_the_answer_has_no_parent() {
    let mut shop = Shop::proven();
    let front = shop.asked("/a", &request_id(ID));
    shop.answers(front);
    shop.calls_once("/late", &request_id(ID));
    assert!(!shop.says("/late").contains("continuity"));
}

#[test]
fn a_request_that_came_after_the_call_is_not_its_cause() {
    let mut shop = Shop::proven();
    let back = shop.calls("/x", &request_id(ID));
    let front = shop.asked("/a", &request_id(ID));
    shop.calls_once("/y", &request_id(ID));
    shop.answered(back);
    shop.answers(front);
    for call in ["/x", "/y"] {
        assert!(!shop.says(call).contains("continuity"), "{call}");
    }
}

/// The request is still held, because an earlier call of it is not over.
#[test]
fn work_after_the_answer_has_no_parent_while_the_request_is_remembered() {
    let mut shop = Shop::proven();
    let front = shop.asked("/a", &request_id(ID));
    shop.host.sleep(Duration::from_secs(1));
    let back = shop.calls("/a.0", &request_id(ID));
    shop.answers(front);
    shop.calls_once("/late", &request_id(ID));
    shop.answered(back);
    assert_eq!(shop.says("/a.0"), "/a (header-continuity)");
    assert!(!shop.says("/late").contains("continuity"), "{}", shop.says("/late"));
}

#[test]
fn a_request_that_came_while_the_call_was_being_sent_is_not_its_cause() {
    let mut shop = Shop::proven();
    let back = shop.host.connect(Some(shop.main), NOBODY);
    shop.host.write(shop.worker(), back.0, b"GET /x HTTP/1.1\r\nHost: h\r\n");
    shop.host.sleep(Duration::from_secs(1));
    let front = shop.asked("/a", &request_id(ID));
    shop.host.write(shop.worker(), back.0, format!("{}\r\n", request_id(ID)).as_bytes());
    shop.host.read(NOBODY, back.1);
    shop.answered(back);
    shop.answers(front);
    assert!(!shop.says("/x").contains("continuity"), "{}", shop.says("/x"));
}

/// A request id of one trace on a call of another proves nothing, also not about rules.
#[test]
fn a_call_of_another_trace_proves_nothing() {
    let mut shop = Shop::proven();
    let front = shop.asked("/a", &(request_id(ID) + &traceparent(TRACE, SPAN)));
    let root = format!("X-Amzn-Trace-Id: Root=1-{}-{}\r\n", &OTHER_TRACE[..8], &OTHER_TRACE[8..]);
    shop.calls_once("/x", &(request_id(ID) + &root));
    shop.answers(front);
    assert!(!shop.says("/x").contains("continuity"));
    let (_, rows, ..) = accuracy(&shop.host);
    assert!(rows.iter().all(|row| row.proven == 4), "only the warm-up: {rows:?}");
}

/// The kernel stamps operations at their end: a call's own effect may seem to come before it.
#[test]
fn a_calls_own_effect_is_not_its_cause() {
    let mut shop = Shop::proven();
    let front = shop.asked("/effect", &request_id(ID));
    let back = shop.calls("/x", &request_id(ID));
    shop.answers(front);
    shop.answered(back);
    assert!(!shop.says("/x").contains("continuity"), "{}", shop.says("/x"));
}

#[test]
fn what_is_lost_may_hide_another_cause() {
    for seconds_before in [0, 5, 50, 70] {
        let mut shop = Shop::proven();
        shop.host.sleep(Duration::from_secs(100));
        let lost = Event::LossCounted { time: shop.host.clock, loss: KernelLoss::DataRingFull, count: 1 };
        shop.host.events.push(lost);
        shop.host.sleep(Duration::from_secs(seconds_before));
        let front = shop.asked("/a", &request_id(ID));
        shop.calls_once("/a.0", &request_id(ID));
        shop.answers(front);
        let claimed = shop.says("/a.0").contains("continuity");
        assert_eq!(claimed, seconds_before == 70, "{seconds_before}");
    }
}

/// The counters of losses are read a little later.
#[test]
fn a_loss_that_is_told_after_the_call_counts() {
    for late in [0, 100, 250, 350] {
        let mut shop = Shop::proven();
        let front = shop.asked("/a", &request_id(ID));
        shop.calls_once("/a.0", &request_id(ID));
        shop.answers(front);
        shop.host.sleep(Duration::from_millis(late));
        let lost = Event::LossCounted { time: shop.host.clock, loss: KernelLoss::DataRingFull, count: 1 };
        shop.host.events.push(lost);
        shop.host.sleep(Duration::from_secs(2));
        let front = shop.asked("/b", "");
        shop.answers(front);
        let said = shop.says("/a.0");
        assert!(!said.contains("continuity"), "{late}: {said}");
    }
}

#[test]
fn requests_that_are_not_read_may_be_the_cause() {
    for class in [Class::Tls, Class::Http2, Class::Unknown] {
        let mut shop = Shop::proven();
        let other = shop.host.connect(NOBODY, Some(shop.main));
        shop.host.write(NOBODY, other.0, b"\x16\x03\x01\x00\x05hello");
        shop.host.read(shop.reader(), other.1);
        if let Some(Event::DataMoved(data)) = shop.host.events.last_mut() {
            data.class = class;
        }
        let front = shop.asked("/a", &request_id(ID));
        shop.calls_once("/a.0", &request_id(ID));
        shop.answers(front);
        let said = shop.says("/a.0");
        assert!(!said.contains("continuity"), "{class:?}: {said}");
    }
    // A database answers in a protocol that is not read, too.
    let mut shop = Shop::proven();
    let front = shop.asked("/a", &request_id(ID));
    let base = shop.host.connect(Some(shop.main), NOBODY);
    shop.host.write(shop.worker(), base.0, b"\x03select 1");
    shop.host.write(NOBODY, base.1, b"\x01result");
    shop.host.read(shop.worker(), base.0);
    if let Some(Event::DataMoved(data)) = shop.host.events.last_mut() {
        data.class = Class::Unknown;
    }
    shop.calls_once("/a.0", &request_id(ID));
    shop.answers(front);
    assert_eq!(shop.says("/a.0"), "/a (header-continuity)");
}

#[test]
fn requests_older_than_the_tracer_may_be_the_cause() {
    for (sleep, claimed) in [(5, false), (11, true)] {
        let mut shop = Shop::new();
        let wiring = Wiring { preexisting: true, ..Wiring::default() };
        shop.host.connect_as(NOBODY, Some(shop.main), wiring);
        for n in 0..4 {
            let id = request_id(&format!("warm-up-{n}-0123456789"));
            let front = shop.asked("/w", &id);
            shop.calls_once("/w.0", &id);
            shop.answers(front);
        }
        shop.host.sleep(Duration::from_secs(sleep));
        let front = shop.asked("/a", &request_id(ID));
        shop.calls_once("/a.0", &request_id(ID));
        shop.answers(front);
        assert_eq!(shop.says("/a.0").contains("continuity"), claimed, "{sleep}");
    }
}

/// However little is remembered: a value that comes twice in a minute is not taken for one that comes once.
#[test]
fn forgetting_makes_undecided() {
    for between in [0_usize, 1, 5, 50, 120] {
        let mut shop = Shop::proven();
        let first = shop.asked("/first", &request_id(ID));
        shop.answers(first);
        for n in 0..between {
            let front = shop.asked(&format!("/o{n}"), &request_id(&format!("{n}-fedcba9876543210")));
            shop.answers(front);
        }
        let front = shop.asked("/a", &request_id(ID));
        shop.calls_once("/bg", &request_id(ID));
        shop.answers(front);
        for max_header_values in [1, 2, 10, 100, 1000] {
            let limits = Limits { max_header_values, ..Limits::default() };
            let config = EngineConfig { limits, ..EngineConfig::default() };
            let spans = run(&shop.host.events, config, shop.host.clock);
            let said = said(&spans, "/bg");
            assert!(!said.contains("continuity"), "{between} {max_header_values}: {said}");
        }
    }
}

/// What is pushed out by a bound before its evidence is complete is undecided.
#[test]
fn a_full_table_makes_undecided() {
    let mut shop = Shop::proven();
    let front = shop.asked("/a", &request_id(ID));
    shop.calls_once("/a.0", &request_id(ID));
    shop.answers(front);
    let mut fronts = Vec::new();
    for n in 0..10 {
        fronts.push(shop.asked(&format!("/o{n}"), ""));
    }
    for max_exchanges in 2..12 {
        let limits = Limits { max_exchanges, ..Limits::default() };
        let config = EngineConfig { limits, ..EngineConfig::default() };
        let spans = run(&shop.host.events, config, shop.host.clock);
        let said = said(&spans, "/a.0");
        assert!(max_exchanges > 10 || !said.contains("continuity"), "{max_exchanges}: {said}");
    }
}

fn accuracy(host: &Host) -> (Vec<Span>, Vec<Accuracy>, u64, u64) {
    let mut engine = Engine::new(EngineConfig::default(), [1; 32]);
    let mut spans = Vec::new();
    for event in &host.events {
        engine.handle_event(event.clone());
        spans.extend(std::iter::from_fn(|| engine.poll_span()));
    }
    engine.finish(host.clock.plus(Duration::from_secs(1)));
    spans.extend(std::iter::from_fn(|| engine.poll_span()));
    let stats = engine.stats();
    (spans, engine.accuracy().cloned().collect(), stats.contradictions, stats.rules_contradicted)
}

/// A thread per request: the thread rule is asked blindly and agrees.
#[test]
fn a_right_rule_agrees_with_the_headers() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let (front, back) = (host.connect(NOBODY, Some(shop)), host.connect(Some(shop), NOBODY));
    for n in 0..10 {
        let id = request_id(&format!("{n}-0123456789abcdef"));
        host.request_with(NOBODY, front.0, &format!("/{n}"), &id);
        host.read(shop, front.1);
        host.request_with(shop, back.0, &format!("/{n}.0"), &id);
        host.read(NOBODY, back.1);
        host.answers(shop, back, NOBODY);
        host.answers(NOBODY, front, shop);
        host.sleep(Duration::from_secs(1));
    }
    let (spans, rows, contradictions, contradicted) = accuracy(&host);
    assert_eq!((contradictions, contradicted), (0, 0));
    assert!(lines(&spans).contains(&"shop client /9.0 < shop server /9 (header-continuity)".to_owned()));
    let thread = rows.iter().find(|row| row.rule == "thread").unwrap();
    // The first three come before the process has proven that it hands on.
    assert_eq!((thread.proven, thread.agreed, thread.contradicted), (7, 7, 0));
    let window = rows.iter().find(|row| row.rule == "response-window").unwrap();
    assert_eq!((window.proven, window.abstained.get("-")), (7, Some(&7)));
}

/// Threads that seem to serve one request each, and call for others'.
#[test]
fn a_wrong_rule_is_contradicted_once_and_believed_no_more() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let threads = [host.thread(shop, 1), host.thread(shop, 2)];
    let fronts = [host.connect(NOBODY, Some(shop)), host.connect(NOBODY, Some(shop))];
    let backs = [host.connect(Some(shop), NOBODY), host.connect(Some(shop), NOBODY)];
    // One that has nothing to do could show that threads help each other.
    let (spare, front) = (host.thread(shop, 3), host.connect(NOBODY, Some(shop)));
    host.asks(NOBODY, front, spare, "/spare");
    host.answers(NOBODY, front, spare);
    for round in 0..80 {
        let ids = [0, 1].map(|n| request_id(&format!("{round}-{n}-0123456789abcdef")));
        // In the end each thread makes the call of the other's request.
        let swapped = usize::from(round >= 75);
        for n in 0..2 {
            host.request_with(NOBODY, fronts[n].0, &format!("/{round}-{n}"), &ids[n]);
            host.read(threads[n], fronts[n].1);
        }
        for n in 0..2 {
            let own = n ^ swapped;
            host.request_with(threads[n], backs[n].0, &format!("/{round}-{own}.0"), &ids[own]);
            host.read(NOBODY, backs[n].1);
            host.answers(threads[n], backs[n], NOBODY);
        }
        for n in 0..2 {
            host.answers(NOBODY, fronts[n], threads[n]);
        }
        host.sleep(Duration::from_secs(1));
    }
    // Without a header, the rule would now be asked.
    host.request(NOBODY, fronts[0].0, "/last");
    host.read(threads[0], fronts[0].1);
    host.asks(threads[0], backs[0], NOBODY, "/last.0");
    host.answers(threads[0], backs[0], NOBODY);
    host.answers(NOBODY, fronts[0], threads[0]);

    let (spans, rows, contradictions, contradicted) = accuracy(&host);
    let lines = lines(&spans);
    let thread = rows.iter().find(|row| row.rule == "thread").unwrap();
    assert_eq!((thread.contradicted, contradicted), (10, 10), "{thread:?}");
    assert!(thread.agreed > 60, "{thread:?}");
    assert_eq!(contradictions, 1, "the first shows it; then the rule is asked no more");
    assert!(lines.contains(&"shop client /79-0.0 < shop server /79-0 (header-continuity)".to_owned()));
    assert!(lines.contains(&"shop client /last.0 - rule-contradicted".to_owned()), "{lines:?}");
}
