use super::*;

/// A record under construction: fields are put where the ABI has them.
struct Record(Vec<u8>);

impl Record {
    fn new(kind: EventKind, fixed: usize, payload: &[u8]) -> Self {
        let mut bytes = vec![0; fixed];
        bytes.extend_from_slice(payload);
        let len = bytes.len() as u32;
        Self(bytes)
            .put(offset_of!(Header, kind), &kind.code().to_le_bytes())
            .put(offset_of!(Header, len_bytes), &len.to_le_bytes())
            .put(offset_of!(Header, time), &77_u64.to_le_bytes())
            .put(offset_of!(Header, tgid), &10_u32.to_le_bytes())
            .put(offset_of!(Header, tid), &11_u32.to_le_bytes())
            .put(offset_of!(Header, thread_seq), &3_u32.to_le_bytes())
            .put(offset_of!(Header, process_start_boottime), &9_u64.to_le_bytes())
    }

    fn put(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }
}

fn data(payload: &[u8]) -> Record {
    let len = payload.len() as u32;
    Record::new(EventKind::DataMoved, size_of::<DataRecord>(), payload)
        .put(offset_of!(DataRecord, cookie), &5_u64.to_le_bytes())
        .put(offset_of!(DataRecord, offset), &100_u64.to_le_bytes())
        .put(offset_of!(DataRecord, result), &len.to_le_bytes())
        .put(offset_of!(DataRecord, head_len), &len.to_le_bytes())
        .put(offset_of!(DataRecord, payload_len), &len.to_le_bytes())
        .put(offset_of!(DataRecord, direction), &[Direction::Egress.code()])
        .put(offset_of!(Header, flags), &flags::LAST.to_le_bytes())
}

#[test]
fn data_record_becomes_an_event() {
    let Ok(Event::DataMoved(event)) = decode(&data(b"GET /").0) else { panic!("not data") };
    assert_eq!(event.time, KernelInstant::from_nanos(77));
    assert_eq!((event.thread.process.tgid, event.thread.tid, event.thread.seq), (Tgid(10), Tid(11), 3));
    assert_eq!((event.cookie, event.offset), (SocketCookie(5), 100));
    assert_eq!((event.outcome, event.direction), (IoOutcome::Moved(5), Direction::Egress));
    assert_eq!(event.payload.as_ref(), b"GET /");
    assert_eq!(event.blocking, Some(true));
    assert!(event.last && !event.muted);
}

#[test]
fn many_records_in_shared_blocks_are_what_each_is_alone() {
    let mut decoder = Decoder::default();
    let mut held = Vec::new();
    for round in 0..3_usize {
        for len in [0, 1, 700, 40_000, 3 * BLOCK_BYTES, 5] {
            let payload: Vec<u8> = (0..len).map(|at| (at * 7 + round) as u8).collect();
            let record = data(&payload).put(offset_of!(DataRecord, result), &(len as u32).to_le_bytes());
            let event = decoder.decode(&record.0);
            assert_eq!(event, decode(&record.0));
            held.push((record, event));
        }
        assert!(decoder.decode(&[0; 3]).is_err());
        if round == 1 {
            held.clear();
        }
    }
    for (record, event) in held {
        assert_eq!(event, decode(&record.0));
    }
}

#[test]
fn blocking_has_three_answers() {
    for (bits, want) in [
        (0, Some(true)),
        (io_flags::NONBLOCKING, Some(false)),
        (io_flags::BLOCKING_UNKNOWN, None),
        (io_flags::BLOCKING_UNKNOWN | io_flags::NONBLOCKING, None),
    ] {
        let record = data(b"x").put(offset_of!(DataRecord, io_flags), &[bits]);
        let Ok(Event::DataMoved(event)) = decode(&record.0) else { panic!("not data") };
        assert_eq!(event.blocking, want);
    }
}

#[test]
fn what_was_waited_for_has_a_bit_each() {
    let none = Waited::default();
    for (bit, want) in [
        (0, none),
        (io_flags::WAITS_KNOWN, Waited { known: true, ..none }),
        (io_flags::WAITED_ALONE, Waited { alone: true, ..none }),
        (io_flags::WAITED_ASIDE, Waited { aside: true, ..none }),
        (io_flags::WAITED_SEVERAL, Waited { several: true, ..none }),
    ] {
        let record = data(b"x").put(offset_of!(DataRecord, io_flags), &[bit]);
        let Ok(Event::DataMoved(event)) = decode(&record.0) else { panic!("not data") };
        assert_eq!(event.waited, want);
    }
}

#[test]
fn end_of_stream_and_errors_are_outcomes() {
    for (result, want) in [(0_i32, IoOutcome::EndOfStream), (-11, IoOutcome::Failed(11))] {
        let record = data(b"").put(offset_of!(DataRecord, result), &result.to_le_bytes());
        let Ok(Event::DataMoved(event)) = decode(&record.0) else { panic!("not data") };
        assert_eq!(event.outcome, want);
    }
}

#[test]
fn lengths_that_lie_are_refused() {
    let cases = [
        (offset_of!(DataRecord, payload_len), 6_u32),
        (offset_of!(DataRecord, head_len), 6),
        (offset_of!(DataRecord, tail_len), u32::MAX),
        (offset_of!(DataRecord, chunk_offset), u32::MAX),
        (offset_of!(Header, len_bytes), 4096),
        (offset_of!(Header, len_bytes), 3),
    ];
    for (offset, value) in cases {
        let record = data(b"GET /").put(offset, &value.to_le_bytes());
        assert!(matches!(decode(&record.0), Err(DecodeError::BadLength { .. })), "{offset} = {value}");
    }
}

#[test]
fn unknown_codes_are_refused() {
    for (offset, value) in [
        (offset_of!(Header, kind), 999_u16.to_le_bytes().as_slice()),
        (offset_of!(DataRecord, direction), &[9]),
        (offset_of!(DataRecord, class), &[99]),
        (offset_of!(DataRecord, payload_state), &[99]),
        (offset_of!(DataRecord, source), &[99]),
    ] {
        let record = data(b"GET /").put(offset, value);
        assert!(matches!(decode(&record.0), Err(DecodeError::UnknownCode(_))), "{offset}");
    }
}

#[test]
fn connection_record_becomes_an_event() {
    let mut endpoint = [0; 20];
    endpoint[10..16].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
    endpoint[16..18].copy_from_slice(&8080_u16.to_be_bytes());
    let record = Record::new(EventKind::ConnOpened, size_of::<ConnRecord>(), b"")
        .put(offset_of!(ConnRecord, family), &Family::Inet.code().to_le_bytes())
        .put(offset_of!(ConnRecord, role), &[Role::Server.code()])
        .put(offset_of!(ConnRecord, local), &endpoint)
        .put(offset_of!(ConnRecord, unix_path), b"/run/app")
        .put(offset_of!(ConnRecord, unix_path_len), &[8])
        .put(offset_of!(Header, flags), &(flags::PREEXISTING | flags::OVER).to_le_bytes());
    let Ok(Event::ConnOpened(event)) = decode(&record.0) else { panic!("not a connection") };
    assert_eq!(event.local.socket_addr(), "127.0.0.1:8080".parse().unwrap());
    assert_eq!((event.role, event.family, event.peer_cookie), (Role::Server, Family::Inet, None));
    assert_eq!(event.unix_path.as_ref(), b"/run/app");
    assert!(event.preexisting && event.over);

    let record = record.put(offset_of!(ConnRecord, unix_path_len), &[113]);
    assert_eq!(decode(&record.0), Err(DecodeError::BadLength { field: "unix_path_len" }));
}

#[test]
fn softirq_records_have_no_thread() {
    let record = Record::new(EventKind::ConnClosed, size_of::<ConnClosedRecord>(), b"")
        .put(offset_of!(Header, tid), &0_u32.to_le_bytes());
    let Ok(Event::ConnClosed(event)) = decode(&record.0) else { panic!("not a close") };
    assert_eq!((event.origin.thread, event.by_packet), (None, false));
    let record = record.put(offset_of!(Header, flags), &flags::BY_PACKET.to_le_bytes());
    let Ok(Event::ConnClosed(event)) = decode(&record.0) else { panic!("not a close") };
    assert!(event.by_packet);
}

#[test]
fn exec_record_carries_its_strings() {
    let record = Record::new(EventKind::ProcessExeced, size_of::<ExecRecord>(), b"/bin/shsh\0-c\0")
        .put(offset_of!(ExecRecord, comm), b"sh\0garbage")
        .put(offset_of!(ExecRecord, filename_len), &7_u32.to_le_bytes())
        .put(offset_of!(ExecRecord, argv_len), &6_u32.to_le_bytes());
    let Ok(Event::ProcessExeced(event)) = decode(&record.0) else { panic!("not an exec") };
    assert_eq!(event.comm.as_ref(), b"sh");
    assert_eq!(event.filename.as_ref(), b"/bin/sh");
    assert_eq!(event.argv.as_ref(), b"sh\0-c\0");

    let record = record.put(offset_of!(ExecRecord, argv_len), &7_u32.to_le_bytes());
    assert_eq!(decode(&record.0), Err(DecodeError::BadLength { field: "argv_len" }));
}

#[test]
fn wake_up_record_with_results_becomes_an_event() {
    let at = |index: usize| offset_of!(WokenForRecord, futures) + 8 * index;
    let record = Record::new(EventKind::ThreadWokenFor, size_of::<WokenForRecord>(), b"")
        .put(offset_of!(WokenRecord, woken), &12_u32.to_le_bytes())
        .put(at(0), &7_u64.to_le_bytes())
        .put(at(7), &8_u64.to_le_bytes());
    let results = |record: &Record| match decode(&record.0) {
        Ok(Event::ThreadWoken(event)) => (event.woken, event.results.map(|results| *results)),
        other => panic!("{other:?}"),
    };
    let futures = [7, 0, 0, 0, 0, 0, 0, 8];
    assert_eq!(results(&record), (Tid(12), Some(Results { within: None, futures })));
    let record = record.put(offset_of!(WokenForRecord, within), &9_u64.to_le_bytes());
    assert_eq!(results(&record), (Tid(12), Some(Results { within: Some(9), futures })));
    let short = Record::new(EventKind::ThreadWokenFor, size_of::<WokenRecord>(), b"");
    assert!(matches!(decode(&short.0), Err(DecodeError::TooShort { .. })));
}

#[test]
fn submitted_record_becomes_an_event() {
    let record = Record::new(EventKind::WorkSubmitted, size_of::<SubmittedRecord>(), b"")
        .put(offset_of!(SubmittedRecord, work.address), &7_u64.to_le_bytes())
        .put(offset_of!(SubmittedRecord, work.number), &8_u64.to_le_bytes());
    let submitted = |record: &Record| match decode(&record.0) {
        Ok(Event::WorkSubmitted(event)) => (event.work, event.within),
        other => panic!("{other:?}"),
    };
    let work = TaskId { address: 7, number: 8 };
    assert_eq!(submitted(&record), (work, None));
    let record = record.put(offset_of!(SubmittedRecord, within), &9_u64.to_le_bytes());
    assert_eq!(submitted(&record), (work, Some(9)));
    let short = Record::new(EventKind::WorkSubmitted, size_of::<Header>(), b"");
    assert!(matches!(decode(&short.0), Err(DecodeError::TooShort { .. })));
}

#[test]
fn wake_up_record_becomes_an_event() {
    let record = Record::new(EventKind::ThreadWoken, size_of::<WokenRecord>(), b"")
        .put(offset_of!(WokenRecord, futex), &0x7f00_u64.to_le_bytes())
        .put(offset_of!(WokenRecord, woken), &12_u32.to_le_bytes());
    let woken = |record: &Record| match decode(&record.0) {
        Ok(Event::ThreadWoken(event)) => event,
        other => panic!("{other:?}"),
    };
    let event = woken(&record);
    assert_eq!((event.by.tid, event.by.seq, event.woken), (Tid(11), 3, Tid(12)));
    let awaited = Awaited::Unknown;
    assert_eq!(event.cause, Cause::Futex { address: 0x7f00, asleep_since: None, awaited });

    let record = record.put(offset_of!(WokenRecord, asleep_since), &70_u64.to_le_bytes());
    let since = Some(KernelInstant::from_nanos(70));
    let awaited = Awaited::Result;
    let record = record.put(offset_of!(WokenRecord, awaited), &awaited.code().to_le_bytes());
    assert_eq!(woken(&record).cause, Cause::Futex { address: 0x7f00, asleep_since: since, awaited });
    let record = record.put(offset_of!(WokenRecord, awaited), &9_u16.to_le_bytes());
    assert!(matches!(decode(&record.0), Err(DecodeError::UnknownCode(_))));
    let record = record.put(offset_of!(WokenRecord, awaited), &0_u16.to_le_bytes());
    let record = record.put(offset_of!(WokenRecord, cause), &WakeCause::Born.code().to_le_bytes());
    assert_eq!(woken(&record).cause, Cause::Born);
    let record = record.put(offset_of!(WokenRecord, cause), &9_u16.to_le_bytes());
    assert!(matches!(decode(&record.0), Err(DecodeError::UnknownCode(_))));
}

#[test]
fn every_truncation_is_an_error() {
    let identity = Record::new(EventKind::TaskIdentified, size_of::<IdentityRecord>(), b"")
        .put(offset_of!(IdentityRecord, len), &[1, 0])
        .put(offset_of!(IdentityRecord, runtime), &[1]);
    let fork = Record::new(EventKind::ProcessForked, size_of::<ForkRecord>(), b"");
    let woken = Record::new(EventKind::ThreadWoken, size_of::<WokenRecord>(), b"");
    for record in [data(b"GET /"), fork, identity, woken] {
        assert!(decode(&record.0).is_ok());
        for len in 0..record.0.len() {
            assert!(decode(&record.0[..len]).is_err(), "{len} bytes");
        }
    }
}
