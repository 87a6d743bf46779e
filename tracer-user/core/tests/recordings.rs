//! Recordings of real programs: every parent that they come to is true, and stays so or is not claimed, whatever becomes
//! of their events on the way.
//!
//! What each must come to byte by byte, the command line's tests know.

#[path = "recordings/oracle.rs"]
mod oracle;

mod host;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tracer_abi::error::KernelLoss;
use tracer_abi::task::Tid;
use tracer_abi::time::KernelInstant;
use tracer_core::event::Event;
use tracer_core::recording::{Frame, Reader, Writer};
use tracer_core::span::{Confidence, Evidence, Span};
use tracer_core::{Engine, EngineConfig};

use oracle::Oracle;

/// The recordings, and the evidence that each stands for: at least so many calls have their parent by it.
const RECORDINGS: [(&str, Option<(Evidence, usize)>); 17] = [
    ("chain", Some((Evidence::Thread, 2))),
    ("go-http1", Some((Evidence::RuntimeTask, 3))),
    ("go-http2", Some((Evidence::RuntimeTask, 7))),
    // No more than possible: see `what_is_possible_is_shown_where_it_is_asked_for`.
    ("java-pool", None),
    ("java-threads", Some((Evidence::Thread, 8))),
    ("java-virtual", Some((Evidence::RuntimeTask, 5))),
    ("nginx-keepalive", Some((Evidence::ResponseWindow, 5))),
    ("nginx-tls", Some((Evidence::ResponseWindow, 10))),
    // Nothing tells whose its calls are.
    ("node-loop", None),
    ("php-fpm", Some((Evidence::Thread, 4))),
    ("python-gevent", Some((Evidence::RuntimeTask, 6))),
    ("python-gthread", Some((Evidence::RuntimeTask, 3))),
    ("python-loop", Some((Evidence::RuntimeTask, 6))),
    ("python-pool", Some((Evidence::RuntimeTask, 2))),
    ("python-threads", Some((Evidence::Thread, 5))),
    ("rust-axum", Some((Evidence::RuntimeTask, 2))),
    ("shell-cgi", Some((Evidence::ProcessFork, 3))),
];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/replay").join(name).with_extension("rec")
}

#[expect(clippy::disallowed_methods, reason = "a test reads files")]
fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).expect("a recording")
}

/// The frames of a recording, as far as it goes.
fn frames(bytes: &[u8]) -> Vec<Frame> {
    let reader = Reader::new(bytes).expect("a preamble");
    reader.map(|frame| frame.expect("a frame")).collect()
}

/// As `tracer replay` does.
fn replay(frames: impl IntoIterator<Item = Frame>, min_confidence: Confidence) -> Vec<Span> {
    let config = EngineConfig { min_confidence, ..EngineConfig::default() };
    let mut engine = Engine::new(config, [1; 32]);
    let (mut spans, mut now) = (Vec::new(), KernelInstant::ZERO);
    for frame in frames {
        match frame {
            Frame::Event(event) => {
                now = now.max(event.time());
                engine.handle_event(event);
            }
            Frame::Tick(tick) => {
                now = now.max(tick);
                engine.handle_timeout(tick);
            }
            Frame::Gap(_) => engine.note_loss(),
        }
        spans.extend(std::iter::from_fn(|| engine.poll_span()));
    }
    engine.finish(now);
    spans.extend(std::iter::from_fn(|| engine.poll_span()));
    spans
}

/// A recording and its truth.
struct Recorded {
    name: &'static str,
    frames: Vec<Frame>,
    oracle: Oracle,
}

impl Recorded {
    fn new(name: &'static str) -> Self {
        let frames = frames(&bytes(name));
        let events = frames.iter().filter_map(|frame| match frame {
            Frame::Event(event) => Some(event),
            Frame::Tick(_) | Frame::Gap(_) => None,
        });
        let oracle = Oracle::new(events, &replay(frames.iter().cloned(), Confidence::Likely));
        Self { name, frames, oracle }
    }

    fn all() -> impl Iterator<Item = Self> {
        RECORDINGS.iter().map(|(name, _)| Self::new(name))
    }

    /// Panics at a wrong parent.
    fn check(&self, frames: impl IntoIterator<Item = Frame>, what: &str) -> oracle::Verdict {
        self.oracle.judge(&replay(frames, Confidence::Likely), &format!("{}, {what}", self.name))
    }
}

#[test]
fn every_recording_is_known() {
    let folder = file("x");
    let found = std::fs::read_dir(folder.parent().expect("a folder")).expect("the folder");
    let mut found: Vec<String> = found
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".rec")?.to_owned()))
        .collect();
    found.sort();
    assert_eq!(found, RECORDINGS.map(|(name, _)| name));
}

#[test]
fn recordings_show_what_they_stand_for() {
    for (name, stands_for) in RECORDINGS {
        let recorded = Recorded::new(name);
        let verdict = recorded.check(recorded.frames.iter().cloned(), "as it was");
        assert!(verdict.joined > 0, "{name}: {verdict:?}");
        let right = |evidence| verdict.right.get(&evidence).copied().unwrap_or(0);
        match stands_for {
            Some((evidence, least)) => assert!(right(evidence) >= least, "{name}: {verdict:?}"),
            None => assert_eq!(verdict.right.len(), 0, "{name}: {verdict:?}"),
        }
    }
}

#[test]
fn what_is_possible_is_shown_where_it_is_asked_for() {
    let recorded = Recorded::new("java-pool");
    let spans = replay(recorded.frames.iter().cloned(), Confidence::Possible);
    let verdict = recorded.oracle.judge(&spans, "java-pool, possible");
    assert!(verdict.right.get(&Evidence::ThreadHandOff).is_some_and(|right| *right >= 8), "{verdict:?}");
}

/// How often the kernel half's counters of losses are read.
const POLL: u64 = 250_000_000;

/// What happens to events between the kernel and the engine.
#[derive(Clone, Debug)]
struct Trouble {
    /// Places of frames that are lost.
    lost: Range<usize>,
    /// Lost events per thousand.
    sometimes_lost: u32,
    /// Longest delay of an event's arrival, in nanoseconds. The window is 50 ms.
    delay: u64,
    seed: u64,
}

const CALM: Trouble = Trouble { lost: 0..0, sometimes_lost: 0, delay: 0, seed: 0 };

/// Frames as they arrive then. What is lost is counted, and the count is read a little later. What user space adds is
/// not lost.
fn troubled(frames: &[Frame], trouble: &Trouble) -> Vec<Frame> {
    let mut rng = ChaCha8Rng::seed_from_u64(trouble.seed);
    let mut arrivals: Vec<(u64, Frame)> = Vec::new();
    let (mut now, mut last) = (0, BTreeMap::new());
    for (place, frame) in frames.iter().enumerate() {
        let Frame::Event(event) = frame else {
            if let Frame::Tick(tick) = frame {
                now = now.max(tick.as_nanos());
            }
            arrivals.push((now, frame.clone()));
            continue;
        };
        now = now.max(event.time().as_nanos());
        let sometimes = rng.next_u32() % 1000 < trouble.sometimes_lost;
        let delay = rng.next_u64() % trouble.delay.max(1);
        let Some(lane) = lane(event) else {
            arrivals.push((now, frame.clone()));
            continue;
        };
        if sometimes || trouble.lost.contains(&place) {
            let read = (event.time().as_nanos() / POLL + 1) * POLL;
            let loss = if lane.ring == WAKES { KernelLoss::WakeRingFull } else { KernelLoss::DataRingFull };
            let time = KernelInstant::from_nanos(read);
            arrivals.push((read, Frame::Event(Event::LossCounted { time, loss, count: 1 })));
        } else {
            let last = last.entry(lane).or_insert(0);
            *last = (now + delay).max(*last);
            arrivals.push((*last, frame.clone()));
        }
    }
    arrivals.sort_by_key(|(at, _)| *at);
    arrivals.into_iter().map(|(_, frame)| frame).collect()
}

/// What comes in order, however late: of one thread, what it reports by one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    ring: u8,
    thread: Option<Tid>,
}

const DATA: u8 = 0;
const CONTROL: u8 = 1;
const WAKES: u8 = 2;

/// `None` for what user space adds.
fn lane(event: &Event) -> Option<Lane> {
    let (ring, thread) = match event {
        Event::DataMoved(event) => (DATA, Some(event.thread)),
        Event::PlaintextMoved(event) => (DATA, Some(event.data.thread)),
        Event::TaskIdentified(event) => (DATA, Some(event.thread)),
        Event::CiphertextMoved(_) | Event::RecordSealed(_) | Event::SessionSecured(_) => (DATA, None),
        Event::SessionEnded(event) => (CONTROL, event.origin.thread),
        Event::ConnOpened(event) => (CONTROL, event.origin.thread),
        Event::ConnClosed(event) => (CONTROL, event.origin.thread),
        Event::ListenStarted(event) => (CONTROL, event.origin.thread),
        Event::ProcessForked(event) => (CONTROL, event.origin.thread),
        Event::ProcessExeced(event) => (CONTROL, event.origin.thread),
        Event::TaskExited(event) => (CONTROL, event.origin.thread),
        Event::ThreadWoken(_) | Event::WorkSubmitted(_) => (WAKES, None),
        Event::ProcessDescribed(_) | Event::AskingInterrupted { .. } | Event::LossCounted { .. } => {
            return None;
        }
    };
    Some(Lane { ring, thread: thread.map(|thread| thread.tid) })
}

/// `TRACER_TRUTH_TIMES`: more than 1 for a long search.
fn times() -> u64 {
    std::env::var("TRACER_TRUTH_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Checks each recording `count` times, with trouble that depends on its length and on a number.
fn check_all(count: u64, trouble: impl Fn(usize, &mut ChaCha8Rng) -> Trouble) {
    for recorded in Recorded::all() {
        for number in 0..count * times() {
            let mut rng = ChaCha8Rng::seed_from_u64(number);
            let trouble = trouble(recorded.frames.len(), &mut rng);
            recorded.check(troubled(&recorded.frames, &trouble), &format!("{trouble:?}"));
        }
    }
}

fn below(bound: usize, rng: &mut ChaCha8Rng) -> usize {
    (rng.next_u64() % bound.max(1) as u64) as usize
}

#[test]
fn no_parent_is_wrong_where_one_event_is_lost() {
    check_all(4, |len, rng| {
        let at = below(len, rng);
        Trouble { lost: at..at + 1, ..CALM }
    });
}

#[test]
fn no_parent_is_wrong_where_events_in_a_row_are_lost() {
    check_all(3, |len, rng| {
        let at = below(len, rng);
        Trouble { lost: at..at + 2 + below(len / 3, rng), ..CALM }
    });
}

#[test]
fn no_parent_is_wrong_where_events_are_lost_and_late() {
    const DELAYS: [u64; 5] = [0, 1_000_000, 45_000_000, 350_000_000, 2_000_000_000];
    const LOST: [u32; 4] = [0, 2, 20, 200];
    check_all(6, |_, rng| Trouble {
        sometimes_lost: LOST[below(LOST.len(), rng)],
        delay: DELAYS[below(DELAYS.len(), rng)],
        seed: rng.next_u64(),
        ..CALM
    });
}

/// A recording that was cut at any byte is what came before; its spans are as true.
#[test]
fn no_parent_is_wrong_where_a_recording_is_cut() {
    for recorded in Recorded::all() {
        let bytes = bytes(recorded.name);
        let preamble = Reader::new(bytes.as_slice()).expect("a preamble").preamble().clone();
        let preamble = Writer::new(Vec::new(), &preamble).expect("a preamble").into_inner().len();
        for number in 0..3 * times() {
            let mut rng = ChaCha8Rng::seed_from_u64(number);
            let len = preamble + below(bytes.len() - preamble, &mut rng);
            let left = frames(&bytes[..len]);
            assert_eq!(left, recorded.frames[..left.len()], "{} cut at {len}", recorded.name);
            recorded.check(left, &format!("cut at {len}"));
        }
    }
}
