//! Modelled programs whose truth is known, under random interleaving, loss, delay and reordering: no parent is ever
//! wrong, and where nothing is lost the edges that can be certain are there.
//!
//! Every request path is an id. A front service that serves `/7` calls `/7.0`, `/7.1`, … of a back service; a proxy
//! calls `/7.p`. A background timer calls `/bg…`. So the truth is in the paths, which no rule looks at.

mod host;

#[path = "truth/pools.rs"]
mod pools;
#[path = "truth/programs.rs"]
mod programs;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tracer_abi::error::KernelLoss;
use tracer_abi::time::KernelInstant;
use tracer_core::EngineConfig;
use tracer_core::event::Event;
use tracer_core::span::{Confidence, Evidence, Span, SpanKind};

use host::{lines, path, run};
use pools::{Model, PoolLoad, Pools};
use programs::{Front, Headers, Load, World};

/// How the edges of a run came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Score {
    right: usize,
    /// Of them: by the ids that the call carries.
    by_headers: usize,
    certain: usize,
    undecided: usize,
    /// Calls below the span that made them, which the program itself reports.
    below_own: usize,
    /// Requests that are of the trace that the program has started for them.
    in_started: usize,
    joined: usize,
    unjoined: usize,
}

/// Panics at a wrong parent.
fn judge(spans: &[Span], headers: Headers, what: &str) -> Score {
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (span.span_id, span)).collect();
    let mut score = Score::default();
    for span in spans {
        let own = path(span);
        if span.kind == SpanKind::Server && !own.contains('.') && !own.starts_with("/bg") {
            score.in_started += usize::from(is_in_started(span, headers, spans, what));
        }
        for link in &span.links {
            let target = by_id.get(&link.span_id).unwrap_or_else(|| panic!("{what}: a link to nowhere"));
            assert_eq!(target.trace_id, link.trace_id, "{what}: {own}");
            assert!(span.kind == SpanKind::Client || target.process != span.process, "{what}: {own}");
            assert!(span.undecided.is_some() && span.links.len() <= 3, "{what}: {own}");
        }
        if let Some(parent) = span.parent.filter(|parent| parent.remote) {
            // What came in with a request made only that request, and no call. Of a request that its header says
            // more than is known, where all of its caller was lost: an ancestor.
            let made_it = headers.traces_itself() || span.kind == SpanKind::Server;
            let named = headers.maker(own).filter(|_| made_it);
            assert_eq!(Some(parent.span_id.to_string()), named, "{what}: {own} below a span elsewhere");
            score.below_own += usize::from(span.kind == SpanKind::Client);
            continue;
        }
        let parent = span.parent.map(|parent| {
            by_id.get(&parent.span_id).unwrap_or_else(|| panic!("{what}: a parent that never left"))
        });
        match (span.kind, parent) {
            (SpanKind::Client, Some(parent)) => {
                let cause = own.rsplit_once('.').map(|(cause, _)| cause);
                let forked = span.parent.is_some_and(|parent| parent.evidence == Evidence::ProcessFork);
                let right = cause == Some(path(parent))
                    && parent.kind == SpanKind::Server
                    && (parent.process == span.process || forked);
                assert!(right, "{what}: {own} has the wrong parent\n{}", lines(spans).join("\n"));
                score.right += 1;
                let evidence = span.parent.map(|parent| parent.evidence);
                score.by_headers += usize::from(evidence == Some(Evidence::HeaderContinuity));
                let confidence = span.parent.map(|parent| parent.confidence);
                score.certain += usize::from(confidence == Some(Confidence::Certain));
            }
            (SpanKind::Client, None) => score.undecided += usize::from(own.contains('.')),
            (SpanKind::Server, Some(parent)) => {
                let right = own == path(parent) && parent.kind == SpanKind::Client;
                assert!(right, "{what}: {own} is joined to {}", path(parent));
                score.joined += 1;
            }
            (SpanKind::Server, None) => {
                score.unjoined += usize::from(own.contains('.') || own.starts_with("/bg"))
            }
        }
        if let Some(parent) = parent {
            assert_eq!(parent.trace_id, span.trace_id, "{what}: one trace");
        }
    }
    score
}

/// A request is of the trace that its program started for it, of a single call's, or of its own; never of another's.
fn is_in_started(request: &Span, headers: Headers, spans: &[Span], what: &str) -> bool {
    if !matches!(headers, Headers::SdkStarts | Headers::SdkStartsApart) {
        return false;
    }
    let own = path(request);
    let number = own[1..].parse().expect("a number");
    let started = headers.started(number) == Some(request.trace_id.to_string());
    let mut others = spans.iter().filter(|other| {
        other.trace_id == request.trace_id
            && other.kind == SpanKind::Client
            && other.process == request.process
    });
    let right =
        others.all(|call| call.trace_id == request.trace_id && path(call).starts_with(&format!("{own}.")));
    assert!(right, "{what}: {own} is of another's trace\n{}", lines(spans).join("\n"));
    started
}

/// What happens to events between the kernel and the engine.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// Lost events per thousand.
    lost: u32,
    /// Longest delay of an event's arrival, in nanoseconds. The window is 50 ms.
    delay: u64,
}

/// How often the kernel half's counters of losses are read.
const POLL: u64 = 250_000_000;

/// Events as they arrive. What is lost is counted, and the count is read a little later.
fn troubled(events: &[Event], trouble: Trouble, seed: u64) -> Vec<Event> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut arrivals: Vec<(u64, Event)> = Vec::new();
    for event in events {
        // What user space adds is not lost; all that the kernel reports may be.
        if !matches!(event, Event::ProcessDescribed(_)) && rng.next_u32() % 1000 < trouble.lost {
            let read = (event.time().as_nanos() / POLL + 1) * POLL;
            let time = KernelInstant::from_nanos(read);
            arrivals.push((read, Event::LossCounted { time, loss: KernelLoss::DataRingFull, count: 1 }));
            continue;
        }
        let delay = if trouble.delay == 0 { 0 } else { rng.next_u64() % trouble.delay };
        arrivals.push((event.time().as_nanos() + delay, event.clone()));
    }
    arrivals.sort_by_key(|(at, _)| *at);
    arrivals.into_iter().map(|(_, event)| event).collect()
}

fn check(front: Front, load: Load, trouble: Trouble, seed: u64) -> Score {
    let what = format!("{front:?} {load:?} {trouble:?} seed {seed}");
    let world = World::run(front, load, seed);
    let events = troubled(&world.host.events, trouble, seed ^ 1);
    let end = world.host.clock.plus(Duration::from_secs(1));
    judge(&run(&events, EngineConfig::default(), end), load.headers, &what)
}

fn check_pool(load: PoolLoad, trouble: Trouble, seed: u64) -> Score {
    let what = format!("{load:?} {trouble:?} seed {seed}");
    let pools = Pools::run(load, seed);
    let events = troubled(&pools.host.events, trouble, seed ^ 1);
    let end = pools.host.clock.plus(Duration::from_secs(1));
    // What is no more than possible is not wrong in these programs either.
    let config = EngineConfig { min_confidence: Confidence::Possible, ..EngineConfig::default() };
    judge(&run(&events, config, end), Headers::None, &what)
}

const CALM: Trouble = Trouble { lost: 0, delay: 0 };

const PLAIN: Load = Load { requests: 0, concurrency: 1, timer: false, headers: Headers::None, slow: false };

/// `TRACER_TRUTH_TIMES`: more than 1 for a long search.
fn times() -> u32 {
    std::env::var("TRACER_TRUTH_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: count * times(), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn no_parent_is_wrong(
        front in prop::sample::select(Front::ALL.to_vec()),
        concurrency in 1_usize..12,
        lost in prop::sample::select(vec![0_u32, 2, 20, 200]),
        delay in prop::sample::select(vec![0_u64, 1_000_000, 45_000_000, 500_000_000]),
        seed: u64,
    ) {
        let load = Load { requests: 60, concurrency, timer: true, headers: Headers::None, slow: false };
        check(front, load, Trouble { lost, delay }, seed);
    }

    /// Whatever headers are handed on, and whether what is lost is known soon or at the end.
    #[test]
    fn no_parent_by_headers_is_wrong(
        front in prop::sample::select(Front::ALL.to_vec()),
        headers in prop::sample::select(Headers::ALL.to_vec()),
        concurrency in 1_usize..12,
        lost in prop::sample::select(vec![0_u32, 0, 2, 20, 200]),
        delay in prop::sample::select(vec![0_u64, 1_000_000, 45_000_000, 350_000_000]),
        slow: bool,
        seed: u64,
    ) {
        let load = Load { requests: 60, concurrency, timer: true, headers, slow };
        check(front, load, Trouble { lost, delay }, seed);
    }
}

proptest! {
    #![proptest_config(cases(120))]

    /// Whatever threads wait for, and whatever becomes of the events.
    #[test]
    fn no_parent_by_hand_off_is_wrong(
        model in prop::sample::select(Model::ALL.to_vec()),
        connections in 1_usize..16,
        workers in 1_usize..8,
        lost in prop::sample::select(vec![0_u32, 0, 2, 20, 200]),
        delay in prop::sample::select(vec![0_u64, 1_000_000, 45_000_000, 350_000_000]),
        timer: bool,
        (is_told, submits) in prop::sample::select(vec![(false, false), (true, false), (true, true)]),
        seed: u64,
    ) {
        let load = PoolLoad { model, requests: 200, connections, workers, timer, is_told, submits };
        check_pool(load, Trouble { lost, delay }, seed);
    }
}

#[test]
fn pools_are_resolved() {
    for (model, percent) in [(Model::Pool, 90), (Model::Parked, 85), (Model::Nested, 85), (Model::FanOut, 40)]
    {
        for (connections, workers) in [(1, 4), (8, 4), (12, 6)] {
            for (is_told, submits) in [(false, false), (true, false), (true, true)] {
                let load =
                    PoolLoad { model, requests: 400, connections, workers, timer: true, is_told, submits };
                let score = check_pool(load, CALM, 7);
                let of = score.right + score.undecided;
                assert!(score.right * 100 >= of * percent, "{load:?} {score:?}");
                assert_eq!(score.certain, 0, "{load:?} {score:?}");
            }
        }
    }
}

/// Waits for anything else name nobody, however honest they look.
#[test]
fn other_waits_name_nobody() {
    for model in [Model::BoundedQueue, Model::Semaphore, Model::Latch, Model::Cascade, Model::Forget] {
        for submits in [false, true] {
            let (requests, connections, workers) = (400, 8, 4);
            let load =
                PoolLoad { model, requests, connections, workers, timer: true, is_told: true, submits };
            assert_eq!(check_pool(load, CALM, 7).right, 0, "{load:?}");
        }
    }
}

/// Where no other rule can know, headers do, from the fifth value on.
#[test]
fn what_is_handed_on_resolves_every_program() {
    // What a process is given when it is forked has not come in with a request of its own.
    let forks = |front| matches!(front, Front::Cgi | Front::ProcessPool);
    for front in Front::ALL.into_iter().filter(|front| !forks(*front)) {
        for headers in [Headers::Ids, Headers::PassThrough] {
            for (concurrency, slow) in [(1, true), (8, true), (8, false)] {
                let load = Load { requests: 200, concurrency, timer: true, headers, slow };
                let score = check(front, load, CALM, 7);
                assert!(score.undecided <= 20 && score.right > 100, "{front:?} {load:?} {score:?}");
                assert!(score.by_headers > 100, "{front:?} {load:?} {score:?}");
            }
        }
    }
}

#[test]
fn what_others_share_resolves_nothing() {
    for front in [Front::Loop, Front::HandOff] {
        for headers in [Headers::ConstantId, Headers::Sessions] {
            let load = Load { requests: 200, concurrency: 8, timer: true, headers, slow: true };
            let score = check(front, load, CALM, 7);
            assert!(score.right < 15, "{front:?} {load:?} {score:?}");
        }
    }
}

/// A program that traces itself: every call hangs below the program's own span.
#[test]
fn calls_of_a_program_that_traces_itself_hang_below_its_spans() {
    for front in Front::ALL {
        for headers in [Headers::Sdk, Headers::SdkFanIn, Headers::SdkStarts, Headers::SdkStartsApart] {
            let load = Load { requests: 100, concurrency: 8, timer: true, headers, slow: true };
            let score = check(front, load, CALM, 7);
            assert_eq!((score.right, score.undecided), (0, 0), "{front:?} {load:?} {score:?}");
            assert!(score.below_own > 50, "{front:?} {load:?} {score:?}");
        }
    }
}

/// Requests are of the traces that are started for them, where it is certain whose calls carry these.
#[test]
fn requests_are_of_the_traces_that_their_program_starts() {
    for front in Front::ALL {
        for slow in [true, false] {
            let load = Load { requests: 300, concurrency: 8, timer: true, headers: Headers::SdkStarts, slow };
            let score = check(front, load, CALM, 7);
            match front {
                Front::ThreadPerConnection | Front::Pool | Front::Nginx => {
                    assert!(score.in_started > 150, "{front:?} {load:?} {score:?}");
                }
                Front::Loop | Front::FollowedLoop | Front::LoopOfConnections | Front::HandOff => {
                    assert_eq!(score.in_started, 0, "{front:?} {load:?}");
                }
                Front::Alone | Front::ForkJoin | Front::Cgi | Front::ProcessPool => {}
            }
        }
    }
}

#[test]
fn threads_are_resolved() {
    for front in [Front::ThreadPerConnection, Front::Pool, Front::Alone] {
        for concurrency in [1, 8] {
            let load = Load { requests: 300, concurrency, timer: true, ..PLAIN };
            let score = check(front, load, CALM, 7);
            assert_eq!((score.undecided, score.unjoined), (0, 0), "{front:?} {concurrency}: {score:?}");
            assert!(score.right > 100 && score.joined > score.right, "{front:?} {concurrency}: {score:?}");
        }
    }
}

#[test]
fn processes_that_are_forked_for_a_request_are_resolved() {
    for concurrency in [1, 8] {
        let load = Load { requests: 300, concurrency, timer: true, ..PLAIN };
        let score = check(Front::Cgi, load, CALM, 7);
        assert_eq!((score.undecided, score.unjoined), (0, 0), "{concurrency}: {score:?}");
        assert!(score.right > 100, "{concurrency}: {score:?}");
        let score = check(Front::ProcessPool, load, CALM, 7);
        assert_eq!(score.right, 0, "{concurrency}: {score:?}");
    }
}

#[test]
fn nginx_is_resolved() {
    for concurrency in [1, 8, 32] {
        let load = Load { requests: 600, concurrency, timer: false, ..PLAIN };
        let score = check(Front::Nginx, load, CALM, 7);
        assert_eq!(score.unjoined, 0, "{concurrency}: {score:?}");
        assert!(score.right * 100 >= (score.right + score.undecided) * 95, "{concurrency}: {score:?}");
    }
}

#[test]
fn what_cannot_be_certain_is_undecided() {
    for front in [Front::Loop, Front::FollowedLoop, Front::LoopOfConnections, Front::HandOff] {
        for concurrency in [1, 8] {
            let load = Load { requests: 200, concurrency, timer: true, ..PLAIN };
            let score = check(front, load, CALM, 7);
            assert_eq!((score.right, score.unjoined), (0, 0), "{front:?} {concurrency}: {score:?}");
        }
    }
}

/// A pool that steals work, long enough to be believed if it never showed itself.
#[test]
fn a_stealing_pool_shows_itself() {
    for seed in 0..10 {
        for concurrency in [2, 4, 8] {
            check(Front::ForkJoin, Load { requests: 250, concurrency, timer: true, ..PLAIN }, CALM, seed);
        }
    }
}

/// The same where all of its threads hold requests nearly always, so that none is left to show what it is.
#[test]
fn a_stealing_pool_is_not_believed_because_all_its_threads_are_busy() {
    for (concurrency, seed) in [(11, 15_900_915_400_771_444_613), (8, 1_925_358_103_909_163_735)] {
        check(Front::ForkJoin, Load { requests: 60, concurrency, timer: true, ..PLAIN }, CALM, seed);
    }
    let mut beyond = ChaCha8Rng::seed_from_u64(0);
    for _ in 0..200 * times() {
        let (concurrency, seed) = (6 + (beyond.next_u32() % 20) as usize, beyond.next_u64());
        check(Front::ForkJoin, Load { requests: 120, concurrency, timer: true, ..PLAIN }, CALM, seed);
    }
}
