//! Makes a recording and reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use tracer_abi::conn::SocketCookie;
use tracer_abi::task::Tgid;
use tracer_core::event::{ConnOpened, DataMoved, Event};
use tracer_core::recording::{Frame, Reader};
use tracer_tests::service::workload;
use tracer_tests::temp::TempDir;
use tracer_tests::tracer;

/// The interpreter itself: wrappers of it would be traced, too.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// What the kernel half reported, nothing of it lost.
pub(crate) struct Recorded {
    pub(crate) opened: BTreeMap<SocketCookie, ConnOpened>,
    pub(crate) data: Vec<DataMoved>,
    /// All, in the order in which they were read.
    pub(crate) events: Vec<Event>,
}

/// Runs a script of the workloads under the tracer.
pub(crate) fn run_python(script: &str, args: &[&str], dir: &TempDir) -> Recorded {
    run_python_with(script, args, &[], dir)
}

/// The same, with options of the tracer.
pub(crate) fn run_python_with(script: &str, args: &[&str], options: &[&str], dir: &TempDir) -> Recorded {
    let recording = dir.join("recording");
    let script = workload(script);
    let mut command = vec![PYTHON, script.to_str().unwrap()];
    command.extend(args);
    let mut all = vec!["--record", recording.to_str().unwrap()];
    all.extend(options);
    let report = tracer::run(&all, command).unwrap();
    assert!(report.exit.success(), "{}", report.log);
    read(&recording)
}

pub(crate) fn read(recording: &Path) -> Recorded {
    let mut seen = Recorded { opened: BTreeMap::new(), data: Vec::new(), events: Vec::new() };
    let mut used = BTreeSet::new();
    for frame in Reader::new(BufReader::new(File::open(recording).unwrap())).unwrap() {
        let event = match frame.unwrap() {
            Frame::Event(event) => event,
            Frame::Tick(_) => continue,
            Frame::Gap(frames) => panic!("{frames} frames are missing"),
        };
        match &event {
            Event::ConnOpened(opened) => {
                assert!(!used.contains(&opened.cookie), "opened after its data");
                assert!(seen.opened.insert(opened.cookie, opened.clone()).is_none(), "opened twice");
            }
            Event::DataMoved(data) => {
                used.insert(data.cookie);
                seen.data.push(data.clone());
            }
            Event::LossCounted { loss, count, .. } => panic!("lost {count}: {loss:?}"),
            Event::PlaintextMoved(_)
            | Event::CiphertextMoved(_)
            | Event::SessionEnded(_)
            | Event::SessionSecured(_)
            | Event::RecordSealed(_)
            | Event::ConnClosed(_)
            | Event::ListenStarted(_)
            | Event::ProcessForked(_)
            | Event::ProcessExeced(_)
            | Event::TaskExited(_)
            | Event::TaskIdentified(_)
            | Event::ThreadWoken(_)
            | Event::WorkSubmitted(_)
            | Event::AskingInterrupted { .. }
            | Event::ProcessDescribed(_) => {}
        }
        seen.events.push(event);
    }
    seen
}

/// The process that an event is of; `None` for what happened in the kernel's own context, or is of no process.
pub(crate) fn process_of(event: &Event) -> Option<Tgid> {
    let origin = match event {
        Event::DataMoved(data) => return Some(data.thread.process.tgid),
        Event::ProcessDescribed(described) => return Some(described.process.tgid),
        Event::TaskIdentified(identified) => return Some(identified.thread.process.tgid),
        Event::PlaintextMoved(moved) => return Some(moved.data.thread.process.tgid),
        Event::CiphertextMoved(moved) => return Some(moved.process.tgid),
        Event::SessionSecured(secured) => return Some(secured.process.tgid),
        Event::RecordSealed(sealed) => return Some(sealed.process.tgid),
        Event::AskingInterrupted { .. } | Event::LossCounted { .. } => return None,
        Event::SessionEnded(event) => &event.origin,
        Event::ConnOpened(event) => &event.origin,
        Event::ConnClosed(event) => &event.origin,
        Event::ListenStarted(event) => &event.origin,
        Event::ProcessForked(event) => &event.origin,
        Event::ProcessExeced(event) => &event.origin,
        Event::TaskExited(event) => &event.origin,
        Event::ThreadWoken(event) => return Some(event.by.process.tgid),
        Event::WorkSubmitted(event) => return Some(event.by.process.tgid),
    };
    origin.thread.map(|thread| thread.process.tgid)
}
