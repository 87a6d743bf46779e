use std::mem::offset_of;

use tracer_abi::error::KernelLoss;
use tracer_abi::event::{ConnClosedRecord, EventKind, Header};
use tracer_abi::task::{ProcessKey, Tgid};
use tracer_abi::time::KernelInstant;

use super::*;
use crate::event::{ProcessDescribed, ProcessFacts};

fn preamble() -> Preamble {
    let host = HostFacts { name: Some("box".into()), ..HostFacts::default() };
    Preamble::new("0.1.0", 42, host, [7; 32])
}

fn closed() -> Vec<u8> {
    let mut record = vec![0; size_of::<ConnClosedRecord>()];
    let len = record.len() as u32;
    record[offset_of!(Header, kind)..][..2].copy_from_slice(&EventKind::ConnClosed.code().to_le_bytes());
    record[offset_of!(Header, len_bytes)..][..4].copy_from_slice(&len.to_le_bytes());
    record
}

fn facts() -> Vec<Event> {
    let time = KernelInstant::from_nanos(5);
    vec![
        Event::ProcessDescribed(Box::new(ProcessDescribed {
            time,
            process: ProcessKey { tgid: Tgid(4), start_boottime: u64::MAX },
            facts: ProcessFacts {
                service_name: "shop \u{1b}[2J".into(),
                resource_attributes: vec![("a".into(), "b".into())],
                is_nginx: true,
                ..ProcessFacts::default()
            },
        })),
        Event::AskingInterrupted { time, process: ProcessKey { tgid: Tgid(4), start_boottime: u64::MAX } },
        Event::LossCounted { time, loss: KernelLoss::DataRingFull, count: 3 },
    ]
}

fn recording() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &preamble()).unwrap();
    writer.kernel_record(&closed()).unwrap();
    for event in facts() {
        writer.event(&event).unwrap();
    }
    writer.tick(KernelInstant::from_nanos(9)).unwrap();
    writer.gap(12).unwrap();
    let written = writer.bytes_written();
    let bytes = writer.into_inner();
    assert_eq!(written, bytes.len() as u64);
    bytes
}

fn frames(bytes: &[u8]) -> (Vec<Frame>, bool) {
    let mut reader = Reader::new(bytes).unwrap();
    let frames = reader.by_ref().map(Result::unwrap).collect();
    (frames, reader.truncated())
}

#[test]
fn what_is_written_is_read() {
    let bytes = recording();
    assert_eq!(Reader::new(bytes.as_slice()).unwrap().preamble(), &preamble());
    let (frames, truncated) = frames(&bytes);
    assert!(!truncated);
    let Frame::Event(Event::ConnClosed(_)) = &frames[0] else { panic!("{frames:?}") };
    let want: Vec<Frame> = facts().into_iter().map(Frame::Event).collect();
    assert_eq!(frames[1..4], want);
    assert_eq!(frames[4..], [Frame::Tick(KernelInstant::from_nanos(9)), Frame::Gap(12)]);
}

#[test]
fn a_kernel_event_is_not_written_as_a_fact() {
    let mut writer = Writer::new(Vec::new(), &preamble()).unwrap();
    let event = crate::decode::decode(&closed()).unwrap();
    assert_eq!(writer.event(&event).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_recording_cut_at_any_byte_reads_up_to_there() {
    let bytes = recording();
    let whole = frames(&bytes).0;
    let mut seen = 0;
    for len in 0..bytes.len() {
        match Reader::new(&bytes[..len]) {
            Err(error) => {
                assert!(
                    matches!(error, RecordingError::NotARecording | RecordingError::NoPreamble),
                    "{error}"
                );
                assert_eq!(seen, 0, "once readable, always readable");
            }
            Ok(mut reader) => {
                let frames: Vec<Frame> = reader.by_ref().map(Result::unwrap).collect();
                assert!(whole.starts_with(&frames));
                assert!(frames.len() >= seen && frames.len() < whole.len());
                seen = frames.len();
            }
        }
    }
    assert_eq!(seen, whole.len() - 1);
    assert!(frames(&bytes[..bytes.len() - 1]).1, "the last frame is cut");
}

#[test]
fn other_versions_are_refused_clearly() {
    let mut bytes = recording();
    bytes[8] = 99;
    let error = Reader::new(bytes.as_slice()).unwrap_err();
    assert_eq!(error.to_string(), "recording format version 99 is not supported, only 1");

    let mut other = preamble();
    other.abi_version = 99;
    let bytes = Writer::new(Vec::new(), &other).unwrap().into_inner();
    let error = Reader::new(bytes.as_slice()).unwrap_err();
    assert!(error.to_string().starts_with("recorded with kernel boundary version 99"), "{error}");

    assert!(matches!(Reader::new(b"\x7fELF....".as_slice()), Err(RecordingError::NotARecording)));
}

#[test]
fn a_damaged_frame_costs_itself_only() {
    let mut writer = Writer::new(Vec::new(), &preamble()).unwrap();
    writer.kernel_record(&closed()[..20]).unwrap();
    writer.frame(KIND_FACT, b"{\"loss_counted\":{\"time\":1,\"loss\":999,\"count\":1}}").unwrap();
    writer.tick(KernelInstant::ZERO).unwrap();
    let bytes = writer.into_inner();
    let frames: Vec<_> = Reader::new(bytes.as_slice()).unwrap().collect();
    assert!(matches!(frames[0], Err(RecordingError::Record { .. })));
    assert!(matches!(frames[1], Err(RecordingError::Fact { .. })));
    assert!(matches!(frames[2], Ok(Frame::Tick(_))));
}

#[test]
fn claims_of_size_are_not_believed() {
    let start = Writer::new(Vec::new(), &preamble()).unwrap().into_inner();
    for (frame, what) in [
        ([KIND_KERNEL_RECORD, 0xff, 0xff, 0xff, 0xff], "frame"),
        ([KIND_TICK, 9, 0, 0, 0], "tick"),
        ([KIND_GAP, 7, 0, 0, 0], "gap"),
        ([77, 0, 0, 0, 0], "kind"),
    ] {
        let mut bytes = start.clone();
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(&[0; 9]);
        let mut reader = Reader::new(bytes.as_slice()).unwrap();
        assert!(reader.next().unwrap().unwrap_err().is_fatal(), "{what}");
        assert!(reader.next().is_none());
    }
    let mut bytes = recording();
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Reader::new(bytes.as_slice()), Err(RecordingError::TooLarge { .. })));
}
