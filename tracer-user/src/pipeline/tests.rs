//! What a replay does with more spans of one moment than an exporter's queue holds.

use std::io::Cursor;
use std::mem::offset_of;

use tracer_abi::conn::Direction;
use tracer_abi::event::{DataRecord, EventKind, Header, flags};
use tracer_abi::sniff::Class;
use tracer_core::event::HostFacts;
use tracer_core::recording::{Preamble, Writer};

use super::*;
use crate::cli::Format;
use crate::clock::WallClock;

use crate::config::otel::BatchLimits;
use crate::export::config::{ExportConfig, Pace};

/// A request that goes out, the first thing on its connection.
fn request(number: u32) -> Vec<u8> {
    let payload = b"GET / HTTP/1.1\r\n\r\n";
    let len = payload.len() as u32;
    let mut record = vec![0; size_of::<DataRecord>()];
    let mut put = |at: usize, field: &[u8]| record[at..at + field.len()].copy_from_slice(field);
    put(offset_of!(Header, kind), &EventKind::DataMoved.code().to_le_bytes());
    put(offset_of!(Header, flags), &flags::LAST.to_le_bytes());
    put(offset_of!(Header, len_bytes), &(size_of::<DataRecord>() as u32 + len).to_le_bytes());
    put(offset_of!(Header, time), &u64::from(number).to_le_bytes());
    put(offset_of!(Header, tgid), &1_u32.to_le_bytes());
    put(offset_of!(Header, tid), &1_u32.to_le_bytes());
    put(offset_of!(Header, thread_seq), &number.to_le_bytes());
    put(offset_of!(DataRecord, cookie), &u64::from(number).to_le_bytes());
    put(offset_of!(DataRecord, result), &len.to_le_bytes());
    put(offset_of!(DataRecord, head_len), &len.to_le_bytes());
    put(offset_of!(DataRecord, payload_len), &len.to_le_bytes());
    put(offset_of!(DataRecord, direction), &[Direction::Egress.code()]);
    put(offset_of!(DataRecord, class), &[Class::Http1.code()]);
    [&record, payload.as_slice()].concat()
}

/// On one thread: an exporter gets its turn only when the replay waits for it.
#[tokio::test]
async fn a_replay_waits_for_its_exporters_however_many_spans_leave_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("spans");
    let export = ExportConfig {
        format: Format::OtlpJson,
        output: Some(output.clone()),
        otlp: None,
        host_attributes: Vec::new(),
        pace: Pace::Replay,
    };
    let export = crate::export::start(export, WallClock::from_offset_nanos(0)).unwrap();
    let wanted = Wanted { include_unsampled: false, accuracy: false };
    let spans = Spans::new(EngineConfig::default(), [1; 32], export, wanted);

    // All of them are open at the end, and leave then.
    let count = BatchLimits::default().max_queue as u32 + 1000;
    let preamble = Preamble::new("test", 0, HostFacts::default(), [1; 32]);
    let mut writer = Writer::new(Vec::new(), &preamble).unwrap();
    for number in 1..=count {
        writer.kernel_record(&request(number)).unwrap();
    }
    let reader = Reader::new(Cursor::new(writer.into_inner())).unwrap();
    let summary = replay(spans, reader).await.unwrap();

    let written = std::fs::read_to_string(output).unwrap().matches("\"spanId\"").count();
    assert_eq!(written, count as usize, "{:?}", summary.lines());
}
