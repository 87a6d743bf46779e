//! A recording made by hand: curl asks a shop, once per exchange, over a connection each.

use std::collections::BTreeMap;

use tracer_abi::conn::{Direction, Endpoint, Family, Role, SocketCookie};
use tracer_abi::event::{ConnClosedRecord, ConnRecord, DataRecord, EventKind, Header, flags};
use tracer_abi::sniff::Class;
use tracer_abi::task::{ProcessKey, Tgid, Tid};
use tracer_abi::time::KernelInstant;
use tracer_core::event::{Event, HostFacts, ProcessDescribed, ProcessFacts};
use tracer_core::recording::{Preamble, Writer};

const CURL: ProcessKey = ProcessKey { tgid: Tgid(100), start_boottime: 1_000 };
const SHOP: ProcessKey = ProcessKey { tgid: Tgid(200), start_boottime: 2_000 };

/// One end of a connection.
#[derive(Clone, Copy)]
struct End {
    process: ProcessKey,
    cookie: u64,
    role: Role,
    local: Endpoint,
    remote: Endpoint,
}

struct Recording {
    writer: Writer<Vec<u8>>,
    now: u64,
    /// Operations so far of the one thread that each process has.
    operations: BTreeMap<ProcessKey, u32>,
}

/// `exchanges` requests with these extra header lines.
pub(crate) fn recording(exchanges: u32, headers: &str) -> Vec<u8> {
    // 2026-01-01 00:00:00 UTC.
    let host =
        HostFacts { name: Some("testhost".into()), arch: Some("amd64".into()), ..HostFacts::default() };
    let preamble = Preamble::new("test", 1_767_225_600_000_000_000, host, [7; 32]);
    let writer = Writer::new(Vec::new(), &preamble).unwrap();
    let mut recording = Recording { writer, now: 1_000_000_000, operations: BTreeMap::new() };
    recording.described(CURL, "curl");
    recording.described(SHOP, "shop");
    for number in 0..exchanges {
        recording.exchange(number, headers);
    }
    recording.now += 20_000_000_000;
    recording.writer.tick(KernelInstant::from_nanos(recording.now)).unwrap();
    recording.writer.into_inner()
}

impl Recording {
    fn described(&mut self, process: ProcessKey, name: &str) {
        let facts = ProcessFacts { service_name: name.to_owned(), ..ProcessFacts::default() };
        let time = KernelInstant::from_nanos(self.now);
        self.writer
            .event(&Event::ProcessDescribed(ProcessDescribed { time, process, facts }.into()))
            .unwrap();
    }

    fn exchange(&mut self, number: u32, headers: &str) {
        let [a, b]: [Endpoint; 2] =
            [(10_000 + number % 50_000) as u16, 80].map(|port| Endpoint::new(([127, 0, 0, 1], port).into()));
        let cookie = 1 + 2 * u64::from(number);
        let client = End { process: CURL, cookie, role: Role::Client, local: a, remote: b };
        let server = End { process: SHOP, cookie: cookie + 1, role: Role::Server, local: b, remote: a };
        let (request_seq, response_seq) = (1_000_000 * number, 7 + 1_000_000 * number);
        self.opened(client, request_seq, response_seq);
        self.opened(server, response_seq, request_seq);
        let request = format!("GET /item/{number} HTTP/1.1\r\nHost: shop\r\n{headers}\r\n");
        let response = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        self.moved(client, Direction::Egress, request_seq, request.as_bytes());
        self.moved(server, Direction::Ingress, request_seq, request.as_bytes());
        self.moved(server, Direction::Egress, response_seq, response.as_bytes());
        self.moved(client, Direction::Ingress, response_seq, response.as_bytes());
        self.closed(client, request.len(), response.len());
        self.closed(server, response.len(), request.len());
    }

    fn header(&mut self, kind: EventKind, end: End, len: usize) -> Header {
        self.now += 1_000_000;
        Header {
            kind: kind.code(),
            flags: 0,
            len_bytes: len as u32,
            time: KernelInstant::from_nanos(self.now),
            process_start_boottime: end.process.start_boottime,
            tgid: end.process.tgid,
            tid: Tid(end.process.tgid.0),
            thread_seq: 0,
            cpu: 0,
        }
    }

    fn opened(&mut self, end: End, egress_seq: u32, ingress_seq: u32) {
        let record = ConnRecord {
            header: self.header(EventKind::ConnOpened, end, size_of::<ConnRecord>()),
            cookie: SocketCookie(end.cookie),
            local: end.local,
            remote: end.remote,
            netns: 1,
            egress_seq,
            ingress_seq,
            family: Family::Inet.code(),
            role: end.role.code(),
            ..ConnRecord::default()
        };
        self.writer.kernel_record(bytes(&record)).unwrap();
    }

    fn moved(&mut self, end: End, direction: Direction, seq: u32, payload: &[u8]) {
        let len = payload.len() as u32;
        let mut header = self.header(EventKind::DataMoved, end, size_of::<DataRecord>() + payload.len());
        header.flags = flags::LAST;
        let operations = self.operations.entry(end.process).or_default();
        *operations += 1;
        header.thread_seq = *operations;
        let record = DataRecord {
            header,
            cookie: SocketCookie(end.cookie),
            result: len as i32,
            tcp_seq_end: seq + len,
            head_len: len,
            payload_len: len,
            direction: direction.code(),
            class: Class::Http1.code(),
            ..DataRecord::default()
        };
        self.writer.kernel_record(&[bytes(&record), payload].concat()).unwrap();
    }

    fn closed(&mut self, end: End, egress: usize, ingress: usize) {
        let record = ConnClosedRecord {
            header: self.header(EventKind::ConnClosed, end, size_of::<ConnClosedRecord>()),
            cookie: SocketCookie(end.cookie),
            egress_bytes: egress as u64,
            ingress_bytes: ingress as u64,
        };
        self.writer.kernel_record(bytes(&record)).unwrap();
    }
}

/// A record as the kernel half lays it out.
fn bytes<T: Copy>(record: &T) -> &[u8] {
    // SAFETY: records are integers without padding, as the ABI's layout asserts prove; the slice covers exactly one.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast(), size_of::<T>()) }
}
