//! What a process and its sockets tell of TLS, in any order and of any content.

use bytes::Bytes;
use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::event::RecordStart;
use tracer_abi::limits::HELLO_BYTES;
use tracer_abi::time::KernelInstant;

use super::{PROCESS, Script};
use crate::event::{
    CiphertextMoved, DataMoved, IoOutcome, PlaintextMoved, RecordSealed, SealedPlace, SessionSecured,
};
use crate::tls::Tls;

/// Connections and sessions at a time.
const MAX: usize = 3;

/// Longest operation of plaintext: a few records.
const MAX_PLAIN: u32 = 1 << 16;

/// Records of sockets, and plaintext of sessions, as a script: each command is a byte, the bytes it needs follow.
pub fn tls(data: &[u8]) {
    let mut script = Script { data, clock: 0, offsets: [0; 2] };
    let mut tls = Tls::new(MAX);
    let mut seqs = [[1000_u32, 9000]; 4];
    let mut plain = [[0_u64; 2]; 4];
    while let Some(command) = script.byte() {
        let direction = if command & 8 == 0 { Direction::Ingress } else { Direction::Egress };
        let side = usize::from(direction.code());
        let number = usize::from(command >> 4 & 3);
        let (cookie, session) = (SocketCookie(number as u64 + 1), number as u64 + 0x1000);
        match command & 7 {
            0 | 1 => {
                let mut event = script.ciphertext(direction, command, cookie);
                let seq = &mut seqs[number][side];
                *seq = seq.wrapping_add(event.op_len);
                event.tcp_seq_end = *seq;
                tls.ciphertext(&event);
                assert!(tls.facts(cookie).is_some(), "a socket that was just used is known");
            }
            2 | 3 => {
                let offset = &mut plain[number][side];
                let event = script.plaintext(direction, session, *offset, seqs[number][side]);
                *offset += u64::from(event.total);
                if event.seal.is_some() {
                    // It may wait, or be nobody's.
                    tls.plaintext(event, |data| assert!(moved(data.outcome) > 0));
                } else {
                    placed(&mut tls, event);
                }
            }
            4 => tls.session_secured(&SessionSecured {
                time: KernelInstant::from_nanos(script.clock),
                process: PROCESS,
                session,
                client_random: [script.byte().unwrap_or(0); 32],
                server_random: [script.byte().unwrap_or(0); 32],
                is_server: command & 8 != 0,
            }),
            5 if command & 8 != 0 => {
                let event = script.sealed(cookie, session);
                tls.record_sealed(&event, |data| assert!(moved(data.outcome) > 0));
                tls.advance(event.time, |data| assert!(moved(data.outcome) > 0));
            }
            5 => drop(tls.session_ended(PROCESS, session)),
            6 => tls.conn_closed(cookie),
            _ => drop(tls.process_ended(PROCESS)),
        }
        assert!(tls.held() <= 2 * MAX, "what is kept is bounded");
    }
}

/// One direction's beginning. The first byte chooses which, the second how it is cut: what hellos say does not depend on that.
pub fn hello(data: &[u8]) {
    let [side, cut, bytes @ ..] = data else { return };
    // What the kernel half copies of it.
    let bytes = &bytes[..bytes.len().min(HELLO_BYTES as usize)];
    let direction = if side & 1 == 0 { Direction::Ingress } else { Direction::Egress };
    let facts = |piece: usize| {
        let (mut tls, mut seq) = (Tls::new(MAX), 1000_u32);
        for (time, piece) in bytes.chunks(piece).enumerate() {
            seq = seq.wrapping_add(piece.len() as u32);
            tls.ciphertext(&CiphertextMoved {
                time: KernelInstant::from_nanos(time as u64),
                process: PROCESS,
                cookie: SocketCookie(1),
                session: None,
                direction,
                tcp_seq_end: seq,
                op_len: piece.len() as u32,
                starts: Vec::new(),
                more: false,
                lost: false,
                hello: Bytes::copy_from_slice(piece),
            });
        }
        tls.facts(SocketCookie(1)).cloned()
    };
    assert_eq!(facts(bytes.len().max(1)), facts(usize::from(*cut).max(1)));
}

/// All of it comes out, in order, and its bytes are what they were.
fn placed(tls: &mut Tls, event: PlaintextMoved) {
    let (payload, len) = (event.data.payload.clone(), event.data.outcome);
    let mut out: Vec<DataMoved> = Vec::new();
    tls.plaintext(event, |data| out.push(data));
    let all: u64 = out.iter().map(|data| moved(data.outcome)).sum();
    assert_eq!(all, moved(len), "no byte is lost or made");
    let bytes: Vec<u8> = out.iter().flat_map(|data| data.payload.iter().copied()).collect();
    assert_eq!(bytes, payload);
    for (data, next) in out.iter().zip(out.iter().skip(1)) {
        assert_eq!(data.offset + moved(data.outcome), next.offset);
        assert_eq!(data.cookie, next.cookie);
    }
}

fn moved(outcome: IoOutcome) -> u64 {
    if let IoOutcome::Moved(len) = outcome { u64::from(len) } else { 0 }
}

impl Script<'_> {
    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte().unwrap_or(0), self.byte().unwrap_or(0)])
    }

    /// Its sequence number is to be filled in. One byte of flags, the bytes of a hello behind their number, a number of
    /// records, each with place, length and kind.
    fn ciphertext(&mut self, direction: Direction, command: u8, cookie: SocketCookie) -> CiphertextMoved {
        self.clock += 1;
        let flags = self.byte().unwrap_or(0);
        let len = usize::from(self.byte().unwrap_or(0)).min(self.data.len());
        let (hello, rest) = self.data.split_at(len);
        let hello = Bytes::copy_from_slice(hello);
        self.data = rest;
        let starts: Vec<RecordStart> = (0..self.byte().unwrap_or(0) & 15)
            .map(|_| RecordStart {
                at: i32::from(self.word() as i16),
                len: self.word(),
                kind: self.byte().unwrap_or(0),
                version: 3,
            })
            .collect();
        let reach = starts.iter().map(|start| start.at.max(0) as u32 + 5 + u32::from(start.len)).max();
        CiphertextMoved {
            time: KernelInstant::from_nanos(self.clock),
            process: PROCESS,
            cookie,
            session: (flags & 1 != 0).then_some(u64::from(command >> 6) + 0x1000),
            direction,
            tcp_seq_end: 0,
            op_len: reach.unwrap_or(0).max(len as u32).max(1),
            starts,
            more: flags & 2 != 0,
            lost: flags & 4 != 0,
            hello,
        }
    }

    /// One byte of flags, the seal's only byte, and its length.
    fn sealed(&mut self, cookie: SocketCookie, session: u64) -> RecordSealed {
        self.clock += 1;
        let flags = self.byte().unwrap_or(0);
        let seal = u64::from(self.byte().unwrap_or(0));
        let seq = u32::from(self.word());
        let socket = SealedPlace::Socket { cookie, seq };
        RecordSealed {
            time: KernelInstant::from_nanos(self.clock),
            process: PROCESS,
            place: if flags & 1 != 0 { SealedPlace::Library { session, birth: seq } } else { socket },
            direction: if flags & 2 != 0 { Direction::Egress } else { Direction::Ingress },
            seal,
            len: u16::from(flags >> 4),
        }
    }

    /// One byte of flags, its length, and how much of that is captured.
    fn plaintext(&mut self, direction: Direction, session: u64, offset: u64, seq: u32) -> PlaintextMoved {
        let flags = self.byte().unwrap_or(0);
        let len = (u32::from(self.word()) << (flags >> 6)).clamp(1, MAX_PLAIN);
        let head = usize::from(self.byte().unwrap_or(0)).min(self.data.len()).min(len as usize);
        let (payload, rest) = self.data.split_at(head);
        let payload = Bytes::copy_from_slice(payload);
        self.data = rest;
        let data = self.event(direction, IoOutcome::Moved(len));
        let data = DataMoved { offset, head_len: head as u32, payload, cookie: SocketCookie(0), ..data };
        PlaintextMoved {
            session,
            filled: flags & 1 != 0,
            at: 0,
            total: len,
            reached: (flags & 2 != 0).then(|| u32::from(self.word())),
            record_end: (flags & 4 != 0).then_some(seq),
            moved_to: (flags & 8 != 0).then_some(seq),
            seal: (flags & 16 != 0).then(|| u32::from(self.byte().unwrap_or(0))),
            data,
        }
    }
}
