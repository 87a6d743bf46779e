//! Events that make no sense: nothing panics, every exchange is one span at most, and the run ends empty.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tracer_abi::conn::{Direction, Endpoint, Family, Role, SocketCookie};
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::sniff::Class;
use tracer_abi::task::{ProcessKey, Tgid, Tid};
use tracer_abi::time::KernelInstant;
use tracer_core::event::{
    ConnClosed, ConnOpened, DataMoved, Event, IoOutcome, Origin, ProcessDescribed, ProcessExeced,
    ProcessFacts, ProcessForked, TaskExited, Thread,
};
use tracer_core::{Engine, EngineConfig, Limits};

const PAYLOADS: [&[u8]; 8] = [
    b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /b HTTP/1.1\r\nHost: h\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
    b"POST /c HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /d HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"\x16\x03\x01 not this",
];

fn thread() -> impl Strategy<Value = Thread> {
    (0_u32..3, 0_u32..3, 0_u32..12).prop_map(|(tgid, tid, seq)| Thread {
        process: ProcessKey { tgid: Tgid(tgid), start_boottime: u64::from(tgid) },
        tid: Tid(tid),
        seq,
    })
}

fn time() -> impl Strategy<Value = KernelInstant> {
    prop_oneof![9 => 0_u64..2_000_000_000, 1 => any::<u64>()].prop_map(KernelInstant::from_nanos)
}

fn origin() -> impl Strategy<Value = Origin> {
    (time(), prop::option::of(thread())).prop_map(|(time, thread)| Origin { time, thread, cpu: 0 })
}

fn cookie() -> impl Strategy<Value = SocketCookie> {
    (0_u64..5).prop_map(SocketCookie)
}

fn data() -> impl Strategy<Value = Event> {
    let small = prop_oneof![9 => 0_u64..100, 1 => any::<u64>()];
    let place = (cookie(), any::<bool>(), small, 0..PAYLOADS.len(), any::<u32>());
    let how = (prop::option::of(any::<bool>()), 0_u64..3, 0_u8..8, any::<bool>());
    (time(), thread(), place, how).prop_map(|(time, thread, place, how)| {
        let (cookie, egress, offset, payload, tcp_seq_end) = place;
        let (blocking, nvcsw, outcome, last) = how;
        let payload = PAYLOADS[payload];
        let (outcome, payload) = match outcome {
            0 => (IoOutcome::EndOfStream, Bytes::new()),
            1 => (IoOutcome::Failed(11), Bytes::new()),
            _ => (IoOutcome::Moved(payload.len() as u32), Bytes::from_static(payload)),
        };
        Event::DataMoved(DataMoved {
            time,
            thread,
            cpu: 0,
            cookie,
            direction: if egress { Direction::Egress } else { Direction::Ingress },
            offset,
            outcome,
            tcp_seq_end,
            head_len: payload.len() as u32,
            tail_len: 0,
            chunk_offset: 0,
            payload,
            payload_state: PayloadState::Copied,
            last,
            muted: false,
            frame: false,
            class: Class::Undecided,
            blocking,
            waited: tracer_core::event::Waited::default(),
            in_tls_call: false,
            nvcsw,
            user_r14: 0,
            syscall: 0,
        })
    })
}

fn opened() -> impl Strategy<Value = Event> {
    let kind = (0..Role::ALL.len(), 0..Family::ALL.len(), any::<bool>(), prop::option::of(cookie()));
    (origin(), cookie(), kind, 0_u16..3, 0_u16..3).prop_map(|(origin, cookie, kind, local, remote)| {
        let (role, family, preexisting, peer_cookie) = kind;
        let endpoint = |port| Endpoint::from_kernel_v4([127, 0, 0, 1], u16::to_be_bytes(port));
        Event::ConnOpened(ConnOpened {
            origin,
            cookie,
            peer_cookie,
            family: Family::ALL[family],
            role: Role::ALL[role],
            local: endpoint(local),
            remote: endpoint(remote),
            netns: 1,
            egress_seq: 0,
            ingress_seq: 0,
            preexisting,
            over: false,
            unix_path: Bytes::new(),
        })
    })
}

fn other() -> impl Strategy<Value = Event> {
    let process = || thread().prop_map(|thread| thread.process);
    prop_oneof![
        (origin(), cookie(), any::<bool>()).prop_map(|(origin, cookie, by_packet)| Event::ConnClosed(
            ConnClosed { origin, cookie, by_packet, egress_bytes: 7, ingress_bytes: u64::MAX }
        )),
        (origin(), process()).prop_map(|(origin, child)| Event::ProcessForked(ProcessForked {
            origin,
            child,
            child_tid: Tid(child.tgid.0)
        })),
        origin().prop_map(|origin| Event::ProcessExeced(ProcessExeced {
            origin,
            comm: Bytes::new(),
            parent: Tgid(1),
            filename: Bytes::new(),
            argv: Bytes::new(),
            traced: true
        })),
        (origin(), any::<bool>()).prop_map(|(origin, process_gone)| Event::TaskExited(TaskExited {
            origin,
            process_gone,
            exit_code: 0
        })),
        (time(), process(), any::<bool>()).prop_map(|(time, process, is_nginx)| Event::ProcessDescribed(
            ProcessDescribed { time, process, facts: ProcessFacts { is_nginx, ..ProcessFacts::default() } }
                .into()
        )),
        time().prop_map(|time| {
            let process = ProcessKey { tgid: Tgid(7), start_boottime: 7 };
            Event::AskingInterrupted { time, process }
        }),
        time().prop_map(|time| Event::LossCounted { time, loss: KernelLoss::DataRingFull, count: 1 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_events_are_survived(
        events in prop::collection::vec(prop_oneof![8 => data(), 2 => opened(), 1 => other()], 0..120),
        small: bool,
        ticks in prop::collection::vec(0_u64..60_000_000_000, 0..5),
    ) {
        let limits = if small {
            Limits {
                max_reordered: 3,
                max_connections: 2,
                max_exchanges: 3,
                max_text_bytes: 100,
                max_threads: 2,
                max_processes: 1,
                max_header_values: 2,
            }
        } else {
            Limits::default()
        };
        let config = EngineConfig { limits, decide_timeout: Duration::from_millis(200), ..EngineConfig::default() };
        let mut engine = Engine::new(config, [0; 32]);
        let mut spans = Vec::new();
        let mut ticks = ticks.into_iter();
        for (n, event) in events.into_iter().enumerate() {
            engine.handle_event(event);
            if n % 20 == 0 && let Some(tick) = ticks.next() {
                engine.handle_timeout(KernelInstant::from_nanos(tick));
            }
            spans.extend(std::iter::from_fn(|| engine.poll_span()));
            let _ = engine.poll_timeout();
        }
        engine.finish(KernelInstant::from_nanos(60_000_000_000));
        spans.extend(std::iter::from_fn(|| engine.poll_span()));
        let ids: BTreeSet<_> = spans.iter().map(|span| span.span_id).collect();
        prop_assert_eq!(ids.len(), spans.len());
        for span in &spans {
            prop_assert!(span.start <= span.end);
            prop_assert!(span.parent.is_none_or(|parent| parent.span_id != span.span_id));
            prop_assert!(span.parent.is_none() || span.undecided.is_none());
        }
        prop_assert_eq!(engine.stats().spans, spans.len() as u64);
    }
}
