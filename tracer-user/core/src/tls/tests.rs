use bytes::Bytes;
use proptest::prelude::*;
use tracer_abi::error::PayloadState;
use tracer_abi::event::RecordStart;
use tracer_abi::sniff::Class;
use tracer_abi::task::{Tgid, Tid};
use tracer_abi::time::KernelInstant;

use super::*;
use crate::event::{Thread, Waited};

mod carried;
mod sealed;

const PROCESS: ProcessKey = ProcessKey { tgid: Tgid(7), start_boottime: 1 };
const SOCKET: SocketCookie = SocketCookie(3);
const SESSION: u64 = 0x5000;
/// `TLS_AES_128_GCM_SHA256`: so many bytes more than plaintext.
const MORE: u16 = 17;

/// A connection as the kernel half tells of it.
struct Wire {
    tls: Tls,
    socket: SocketCookie,
    seq: [u32; 2],
    plain: [u64; 2],
}

/// Records of these lengths behind each other, and how many bytes they are.
fn whole_records(lens: &[u16]) -> (Vec<RecordStart>, u32) {
    let mut at = 0;
    let start = |&len: &u16| {
        let start = RecordStart { at, len, kind: 23, version: 3 };
        at += 5 + i32::from(len);
        start
    };
    let starts = lens.iter().map(start).collect();
    (starts, at as u32)
}

impl Wire {
    fn new() -> Self {
        let mut wire = Self { tls: Tls::new(100), socket: SOCKET, seq: [1000, 9000], plain: [0; 2] };
        // Of a server: what the client says, and what it answers itself.
        let mut hello = vec![22, 3, 1, 0, 0, 1, 0, 0, 0, 3, 3];
        hello.extend([9; 32]);
        hello.extend([0, 0, 2, 0x13, 1, 1, 0, 0, 16, 0, 0, 0, 12, 0, 10, 0, 0, 7]);
        hello.extend(*b"example");
        wire.moved(Direction::Ingress, Some(SESSION), &[], &hello);
        let mut answer = vec![22, 3, 3, 0, 0, 2, 0, 0, 0, 3, 3];
        answer.extend([8; 32]);
        answer.extend([0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4]);
        wire.moved(Direction::Egress, Some(SESSION), &[], &answer);
        assert_eq!(
            wire.tls.facts(SOCKET),
            Some(&TlsFacts {
                version: Some("1.3"),
                cipher: Some("TLS_AES_128_GCM_SHA256"),
                server_name: Some("example".into())
            })
        );
        wire
    }

    /// An operation of whole records of these lengths.
    fn moved(&mut self, direction: Direction, session: Option<u64>, lens: &[u16], hello: &[u8]) {
        let way = usize::from(direction.code());
        let (starts, len) = whole_records(lens);
        let op_len = len + hello.len() as u32;
        self.seq[way] = self.seq[way].wrapping_add(op_len);
        self.tls.ciphertext(&CiphertextMoved {
            time: KernelInstant::from_nanos(1),
            process: PROCESS,
            cookie: self.socket,
            session,
            direction,
            tcp_seq_end: self.seq[way],
            op_len,
            starts,
            more: false,
            lost: false,
            hello: Bytes::copy_from_slice(hello),
        });
    }

    /// Plaintext of so many bytes: where it goes, and the sequence number of each piece's first byte.
    fn plain(&mut self, direction: Direction, len: u32, filled: bool) -> (SocketCookie, Vec<Option<u32>>) {
        self.plain_up_to(direction, len, filled, None)
    }

    fn data(&mut self, direction: Direction, len: u32) -> DataMoved {
        let way = usize::from(direction.code());
        let data = data(direction, self.plain[way], len);
        self.plain[way] += u64::from(len);
        data
    }

    /// The same, of a library that says where the last record ends.
    fn plain_up_to(
        &mut self,
        direction: Direction,
        len: u32,
        filled: bool,
        record_end: Option<u32>,
    ) -> (SocketCookie, Vec<Option<u32>>) {
        // Others say where they have come to on the socket.
        let moved_to = Some(self.seq[usize::from(direction.code())]).filter(|_| record_end.is_none());
        self.plain_moved_to(direction, len, filled, record_end, moved_to)
    }

    /// The same, of a call that came so far on the socket, or to none.
    fn plain_moved_to(
        &mut self,
        direction: Direction,
        len: u32,
        filled: bool,
        record_end: Option<u32>,
        moved_to: Option<u32>,
    ) -> (SocketCookie, Vec<Option<u32>>) {
        let data = self.data(direction, len);
        let (mut cookie, mut seqs, mut total) = (SocketCookie(0), Vec::new(), 0);
        let event = PlaintextMoved {
            session: SESSION,
            filled,
            at: 0,
            total: len,
            reached: None,
            record_end,
            moved_to,
            seal: None,
            data,
        };
        self.tls.plaintext(event, |piece| {
            let IoOutcome::Moved(len) = piece.outcome else { panic!("{piece:?}") };
            assert_eq!((piece.payload.len() as u32, piece.head_len, piece.chunk_offset), (len, len, 0));
            seqs.push((piece.tcp_seq_end != 0).then(|| piece.tcp_seq_end.wrapping_sub(len)));
            cookie = piece.cookie;
            total += len;
        });
        assert_eq!(total, len);
        (cookie, seqs)
    }
}

/// An operation of plaintext in one record.
fn data(direction: Direction, offset: u64, len: u32) -> DataMoved {
    DataMoved {
        time: KernelInstant::from_nanos(1),
        thread: Thread { process: PROCESS, tid: Tid(7), seq: 0 },
        cpu: 0,
        cookie: SocketCookie(0),
        direction,
        offset,
        outcome: IoOutcome::Moved(len),
        tcp_seq_end: 0,
        head_len: len,
        tail_len: 0,
        chunk_offset: 0,
        payload: Bytes::from(vec![b'x'; len as usize]),
        payload_state: PayloadState::Copied,
        last: true,
        frame: false,
        muted: false,
        class: Class::Http1,
        blocking: None,
        in_tls_call: false,
        waited: Waited::default(),
        nvcsw: 0,
        user_r14: 0,
        syscall: 0,
    }
}

#[test]
fn what_is_sent_is_in_the_last_records() {
    let mut wire = Wire::new();
    // The server's tickets, in the handshake; then a call that writes.
    wire.moved(Direction::Egress, Some(SESSION), &[250, 250], &[]);
    let start = wire.seq[1];
    wire.moved(Direction::Egress, Some(SESSION), &[100 + MORE], &[]);
    assert_eq!(wire.plain(Direction::Egress, 100, false), (SOCKET, vec![Some(start)]));
    // Three records, of two operations.
    let start = wire.seq[1];
    wire.moved(Direction::Egress, Some(SESSION), &[16384 + MORE, 16384 + MORE], &[]);
    wire.moved(Direction::Egress, Some(SESSION), &[7 + MORE], &[]);
    let record = 16384 + u32::from(MORE) + 5;
    let seqs = vec![Some(start), Some(start + record), Some(start + 2 * record)];
    assert_eq!(wire.plain(Direction::Egress, 2 * 16384 + 7, false), (SOCKET, seqs));
    assert_eq!(wire.tls.stats(), TlsStats::default());
}

#[test]
fn what_is_received_is_in_the_record_that_fits() {
    let mut wire = Wire::new();
    // Read ahead: the end of the handshake, and two requests.
    let start = wire.seq[0];
    wire.moved(Direction::Ingress, Some(SESSION), &[53, 100 + MORE, 80 + MORE], &[]);
    let first = start + 58;
    assert_eq!(wire.plain(Direction::Ingress, 100, false), (SOCKET, vec![Some(first)]));
    // In two parts.
    let second = first + 5 + 100 + u32::from(MORE);
    assert_eq!(wire.plain(Direction::Ingress, 30, true), (SOCKET, vec![Some(second)]));
    assert_eq!(wire.plain(Direction::Ingress, 50, false), (SOCKET, vec![Some(second + 30)]));
    assert_eq!(wire.tls.stats(), TlsStats::default());
}

#[test]
fn where_two_records_could_be_meant_none_is() {
    let mut wire = Wire::new();
    wire.moved(Direction::Ingress, Some(SESSION), &[53, 36 + MORE], &[]);
    assert_eq!(wire.plain(Direction::Ingress, 36, false), (SOCKET, vec![None]));
    assert_eq!(wire.tls.stats(), TlsStats { unbound: 0, unplaced: 1 });
    // The library reads on: what it had is gone, and what it reads is known again.
    let start = wire.seq[0];
    wire.moved(Direction::Ingress, Some(SESSION), &[36 + MORE], &[]);
    assert_eq!(wire.plain(Direction::Ingress, 36, false), (SOCKET, vec![Some(start)]));
}

/// One call of HTTP/2 is several operations: its frames, without what is left out.
#[test]
fn a_call_that_comes_in_parts_is_placed_as_one() {
    let mut wire = Wire::new();
    let start = wire.seq[1];
    wire.moved(Direction::Egress, Some(SESSION), &[100 + MORE, 50 + MORE], &[]);
    let second = start + 5 + 100 + u32::from(MORE);
    let whole = data(Direction::Egress, wire.plain[1], 150);
    wire.plain[1] += 150;
    let mut found = Vec::new();
    for (at, len) in [(0, 40), (40, 80), (120, 30)] {
        let data = DataMoved {
            offset: whole.offset + u64::from(at),
            outcome: IoOutcome::Moved(len),
            head_len: len,
            payload: whole.payload.slice(at as usize..(at + len) as usize),
            ..whole.clone()
        };
        let event = PlaintextMoved {
            session: SESSION,
            filled: false,
            at,
            total: 150,
            reached: None,
            record_end: None,
            moved_to: Some(wire.seq[1]),
            seal: None,
            data,
        };
        wire.tls.plaintext(event, |piece| {
            let IoOutcome::Moved(len) = piece.outcome else { panic!("{piece:?}") };
            assert_eq!(piece.payload.len() as u32, len);
            found.push((piece.offset, len, piece.tcp_seq_end.wrapping_sub(len)));
        });
    }
    assert_eq!(found, [(0, 40, start), (40, 60, start + 40), (100, 20, second), (120, 30, second + 20)]);
    assert_eq!(wire.tls.stats(), TlsStats::default());
    let end = wire.seq[1];
    wire.moved(Direction::Egress, Some(SESSION), &[9 + MORE], &[]);
    assert_eq!(wire.plain(Direction::Egress, 9, false), (SOCKET, vec![Some(end)]));
}

#[test]
fn a_library_that_says_where_records_end_is_believed_where_one_does() {
    let mut wire = Wire::new();
    // Read at once: the end of the handshake, and two requests that are as long as it.
    let start = wire.seq[0];
    wire.moved(Direction::Ingress, Some(SESSION), &[53, 53, 53], &[]);
    let at = |n: u32| Some(start + 58 * n);
    // What the handshake took is not seen, and does not matter: the record that ends there is of data.
    assert_eq!(wire.plain_up_to(Direction::Ingress, 36, false, at(2)), (SOCKET, vec![at(1)]));
    assert_eq!(wire.plain_up_to(Direction::Ingress, 36, false, at(3)), (SOCKET, vec![at(2)]));
    // One that fills its buffer, such as the preface of HTTP/2, may be in a longer one.
    let start = wire.seq[0];
    wire.moved(Direction::Ingress, Some(SESSION), &[53, 24 + MORE], &[]);
    let end = Some(wire.seq[0]);
    assert_eq!(wire.plain_up_to(Direction::Ingress, 24, true, end), (SOCKET, vec![Some(start + 58)]));
    // The last may be an alert, which was looked at behind data: two could be meant, and none is.
    wire.moved(Direction::Ingress, Some(SESSION), &[53, 7 + MORE], &[]);
    let end = Some(wire.seq[0]);
    assert_eq!(wire.plain_up_to(Direction::Ingress, 7, true, end), (SOCKET, vec![None]));
    // In two parts, behind which others were read already.
    let start = wire.seq[0];
    let end = Some(start + 5 + 90 + u32::from(MORE));
    wire.moved(Direction::Ingress, Some(SESSION), &[90 + MORE, 90 + MORE], &[]);
    assert_eq!(wire.plain_up_to(Direction::Ingress, 30, true, end), (SOCKET, vec![Some(start)]));
    assert_eq!(wire.plain_up_to(Direction::Ingress, 60, true, end), (SOCKET, vec![Some(start + 30)]));
    assert_eq!(wire.plain_up_to(Direction::Ingress, 90, false, Some(wire.seq[0])), (SOCKET, vec![end]));
    // Where no record ends, and where it is not known.
    wire.moved(Direction::Ingress, Some(SESSION), &[70 + MORE], &[]);
    let seq = Some(wire.seq[0] + 1);
    assert_eq!(wire.plain_up_to(Direction::Ingress, 70, false, seq), (SOCKET, vec![None]));
    assert_eq!(wire.plain_up_to(Direction::Ingress, 70, false, Some(0)), (SOCKET, vec![None]));
    assert_eq!(wire.tls.stats(), TlsStats { unbound: 0, unplaced: 3 });
}

#[test]
fn what_another_goroutine_has_sent_since_is_not_of_a_call() {
    let mut wire = Wire::new();
    let start = wire.seq[1];
    wire.moved(Direction::Egress, Some(SESSION), &[100 + MORE], &[]);
    let end = wire.seq[1];
    wire.moved(Direction::Egress, Some(SESSION), &[100 + MORE], &[]);
    assert_eq!(wire.plain_up_to(Direction::Egress, 100, false, Some(end)), (SOCKET, vec![Some(start)]));
    let seq = Some(wire.seq[1]);
    assert_eq!(wire.plain_up_to(Direction::Egress, 100, false, seq), (SOCKET, vec![Some(end)]));
    // It is not said twice.
    assert_eq!(wire.plain_up_to(Direction::Egress, 100, false, seq), (SOCKET, vec![None]));
}

#[test]
fn a_session_is_on_no_socket_that_does_not_agree() {
    let mut wire = Wire::new();
    wire.moved(Direction::Egress, Some(SESSION), &[100 + MORE], &[]);
    let (cookie, seqs) = wire.plain(Direction::Egress, 99, false);
    assert!(cookie.0 >= FIRST_APART && seqs == [None], "{cookie:?}");
    // It stays so, whatever agrees later.
    wire.moved(Direction::Egress, Some(SESSION), &[50 + MORE], &[]);
    assert_eq!(wire.plain(Direction::Egress, 50, false), (cookie, vec![None]));
    assert_eq!(wire.tls.stats().unbound, 1);
    assert_eq!(wire.tls.session_ended(PROCESS, SESSION), Some(cookie));
}

#[test]
fn nothing_is_known_of_a_session_that_no_socket_was_seen_with() {
    let mut wire = Wire::new();
    wire.tls.session_ended(PROCESS, SESSION);
    wire.moved(Direction::Egress, None, &[100 + MORE], &[]);
    let (cookie, seqs) = wire.plain(Direction::Egress, 100, false);
    assert!(cookie.0 >= FIRST_APART && seqs == [None], "{cookie:?}");
}

#[test]
fn an_address_that_is_used_again_is_another_session() {
    let mut wire = Wire::new();
    wire.moved(Direction::Egress, Some(SESSION), &[100 + MORE], &[]);
    assert_eq!(wire.plain(Direction::Egress, 100, false).0, SOCKET);
    // Its end was not told, and no socket of the new one was seen.
    wire.plain = [0; 2];
    wire.moved(Direction::Egress, None, &[100 + MORE], &[]);
    let (cookie, _) = wire.plain(Direction::Egress, 100, false);
    assert!(cookie.0 >= FIRST_APART, "{cookie:?}");
}

#[test]
fn a_session_that_the_kernel_half_has_forgotten_goes_on_in_its_records() {
    let mut wire = Wire::new();
    let mut writes = |offset, len: u16, is_where_it_says: bool, class| {
        wire.moved(Direction::Egress, Some(SESSION), &[len + MORE], &[]);
        let event = PlaintextMoved {
            session: SESSION,
            filled: false,
            at: 0,
            total: len.into(),
            reached: None,
            record_end: Some(wire.seq[1].wrapping_add(u32::from(!is_where_it_says))),
            moved_to: None,
            seal: None,
            data: DataMoved { class, ..data(Direction::Egress, offset, len.into()) },
        };
        let mut found = None;
        wire.tls.plaintext(event, |piece| found = Some((piece.cookie, piece.offset)));
        found.unwrap()
    };
    assert_eq!(writes(0, 100, true, Class::Http1), (SOCKET, 0));
    assert_eq!(writes(100, 50, true, Class::Http1), (SOCKET, 100));
    // It was closed beside a call, and beside another one.
    assert_eq!(writes(0, 30, true, Class::Http1), (SOCKET, 150));
    assert_eq!(writes(30, 30, true, Class::Http1), (SOCKET, 180));
    assert_eq!(writes(0, 10, true, Class::Http1), (SOCKET, 210));
    // Of HTTP/2, what was counted does not tell how far it had come.
    assert_eq!(writes(10, 10, true, Class::Http2), (SOCKET, 220));
    for is_where_it_says in [true, false] {
        let (cookie, offset) = writes(0, 10, is_where_it_says, Class::Unknown);
        assert!(cookie.0 >= FIRST_APART && offset == 0, "{cookie:?}");
    }
}

#[test]
fn a_session_that_goes_on_on_another_socket_begins_there() {
    let mut wire = Wire::new();
    wire.moved(Direction::Egress, Some(SESSION), &[100 + MORE], &[]);
    assert_eq!(wire.plain(Direction::Egress, 100, false).0, SOCKET);
    wire.tls.conn_closed(SOCKET);
    wire.socket = SocketCookie(4);
    wire.moved(Direction::Egress, Some(SESSION), &[40 + MORE], &[]);
    let mut offsets = Vec::new();
    let (cookie, _) = wire.plain(Direction::Egress, 40, false);
    wire.tls.sessions.values().for_each(|session| offsets.push(session.base));
    assert_eq!((cookie, offsets), (SocketCookie(4), vec![[0, 100]]));
    // Two that are open at once.
    wire.socket = SocketCookie(5);
    wire.moved(Direction::Egress, Some(SESSION), &[40 + MORE], &[]);
    assert!(wire.plain(Direction::Egress, 40, false).0.0 >= FIRST_APART);
}

#[test]
fn tables_are_bounded() {
    let mut wire = Wire { tls: Tls::new(10), ..Wire::new() };
    for n in 0..100 {
        wire.socket = SocketCookie(n);
        wire.moved(Direction::Egress, Some(SESSION + n), &[40 + MORE], &[]);
    }
    assert_eq!((wire.tls.sockets.len(), wire.tls.sessions.len()), (10, 10));
}

#[test]
fn a_suite_says_how_long_its_records_are() {
    let check = |version, suite, len, want: (u32, u32)| {
        let plain = Protection::of(version, suite).plain(len).map(|plain| (plain.min, plain.max));
        assert_eq!(plain, (want.1 > 0).then_some(want), "{version:x} {suite:x}");
    };
    check(0x0304, 0x1301, 117, (100, 100));
    check(0x0303, 0xc02f, 124, (100, 100));
    check(0x0303, 0xcca8, 116, (100, 100));
    // A block of vector, 20 bytes of MAC, padding to blocks: 100 + 20 + 8 = 128.
    check(0x0303, 0xc013, 144, (92, 107));
    check(0x0304, 0x1301, 17, (0, 0));
    check(0x0304, 0xffff, 117, (37, 108));
}

proptest! {
    /// Whatever the kernel half tells, nothing panics, every byte of plaintext comes out once, and memory is bounded.
    #[test]
    fn nonsense_is_survived(
        steps in prop::collection::vec(
            (any::<bool>(), any::<bool>(), 0_u64..3, 0_u64..3, prop::collection::vec(any::<u16>(), 0..4), 1_u32..40_000,
             any::<bool>(), prop::collection::vec(any::<u8>(), 0..60)),
            0..60,
        ),
    ) {
        let mut wire = Wire::new();
        for (plain, egress, socket, session, lens, len, filled, hello) in steps {
            let direction = if egress { Direction::Egress } else { Direction::Ingress };
            wire.socket = SocketCookie(socket);
            match (plain, session) {
                (true, session) => {
                    let end = wire.seq[usize::from(direction.code())];
                    let record_end = (session > 0).then_some(if session == 1 { end } else { len });
                    wire.plain_up_to(direction, len, filled, record_end);
                }
                (false, 2) => {
                    wire.tls.session_ended(PROCESS, SESSION);
                }
                (false, _) if lens.is_empty() && hello.is_empty() => wire.tls.conn_closed(wire.socket),
                (false, session) => wire.moved(direction, (session == 1).then_some(SESSION), &lens, &hello),
            }
        }
    }

    /// A hello may be anything.
    #[test]
    fn any_hello_is_survived(kind in 20_u8..24, message in 0_u8..4, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut wire = Wire::new();
        wire.socket = SocketCookie(8);
        let mut hello = vec![kind, 3, 3, 0, 200, message, 0, 0, 196];
        hello.extend(bytes);
        wire.moved(Direction::Ingress, None, &[], &hello);
    }
}

/// Calls of the same length, one after the other, as of a service that is asked for the same.
#[test]
fn a_call_whose_records_were_not_told_of_is_in_no_others() {
    for direction in [Direction::Egress, Direction::Ingress] {
        let way = usize::from(direction.code());
        let mut wire = Wire::new();
        wire.moved(direction, Some(SESSION), &[53], &[]);
        // Its plaintext comes late, and so do the next call's records.
        wire.plain[way] += 36;
        wire.seq[way] += 58;
        assert_eq!(wire.plain(direction, 36, false), (SOCKET, vec![None]), "{direction:?}");
        // They come in the end, and say nothing of those behind them.
        wire.moved(direction, Some(SESSION), &[53], &[]);
        let start = wire.seq[way];
        wire.seq[way] -= 116;
        wire.moved(direction, Some(SESSION), &[53], &[]);
        wire.seq[way] = start;
        assert_eq!(wire.plain(direction, 36, false), (SOCKET, vec![None]), "{direction:?}");
        // From the next call on all is well.
        wire.moved(direction, Some(SESSION), &[53], &[]);
        assert_eq!(wire.plain(direction, 36, false), (SOCKET, vec![Some(start)]), "{direction:?}");
    }
}

#[test]
fn what_was_read_ahead_is_placed_as_long_as_all_before_it_was_told_of() {
    let mut wire = Wire::new();
    // TLS 1.2, whose records say that they are of data: TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256.
    let socket = wire.tls.sockets.get_mut(&SOCKET).unwrap();
    socket.protection = Protection::of(0x0303, 0xc02f);
    let start = wire.seq[0];
    wire.moved(Direction::Ingress, Some(SESSION), &[60, 60, 60], &[]);
    assert_eq!(wire.plain(Direction::Ingress, 36, false), (SOCKET, vec![Some(start)]));
    // Of the second one nothing is told.
    wire.plain[0] += 36;
    assert_eq!(wire.plain(Direction::Ingress, 36, false), (SOCKET, vec![None]));
}

#[test]
fn what_a_call_sent_before_is_not_where_its_last_record_was_not_told_of() {
    let mut wire = Wire::new();
    wire.moved(Direction::Egress, Some(SESSION), &[100 + MORE], &[]);
    // The plaintext of that is lost, and of the next call the first of two records.
    wire.plain[1] += 100;
    wire.seq[1] += 5 + 100 + u32::from(MORE);
    wire.moved(Direction::Egress, Some(SESSION), &[50 + MORE], &[]);
    assert_eq!(wire.plain(Direction::Egress, 150, false), (SOCKET, vec![None]));
}

/// Two calls were told of behind the records of both.
#[test]
fn a_call_is_in_no_records_behind_those_that_it_came_to() {
    let mut wire = Wire::new();
    let moves = |wire: &mut Wire| {
        wire.moved(Direction::Ingress, Some(SESSION), &[53], &[]);
        wire.seq[0]
    };
    let first = moves(&mut wire);
    assert_eq!(wire.plain(Direction::Ingress, 36, false), (SOCKET, vec![Some(first - 58)]));
    let ends = [moves(&mut wire), moves(&mut wire)];
    let mut plain = |end| wire.plain_moved_to(Direction::Ingress, 36, false, None, Some(end));
    // It could be nowhere else than in the record that the library has read over since.
    assert_eq!(plain(ends[0]), (SOCKET, vec![None]));
    assert_eq!(plain(ends[1]), (SOCKET, vec![Some(ends[1] - 58)]));
}

#[test]
fn what_came_to_no_socket_was_not_sent() {
    let mut wire = Wire::new();
    wire.moved(Direction::Egress, Some(SESSION), &[53], &[]);
    let placed = wire.plain_moved_to(Direction::Egress, 36, false, None, None);
    assert_eq!(placed, (SOCKET, vec![None]));
}

#[test]
fn records_that_come_late_are_not_those_of_what_was_read_ahead() {
    let mut wire = Wire::new();
    let late = wire.seq[0] + 58;
    wire.seq[0] = late;
    wire.plain[0] += 36;
    wire.moved(Direction::Ingress, Some(SESSION), &[23 + MORE, 53], &[]);
    assert_eq!(wire.plain(Direction::Ingress, 23, false), (SOCKET, vec![Some(late)]));
    let end = std::mem::replace(&mut wire.seq[0], late - 58);
    wire.moved(Direction::Ingress, Some(SESSION), &[53], &[]);
    wire.seq[0] = end;
    let placed = wire.plain_moved_to(Direction::Ingress, 36, false, None, None);
    assert_eq!(placed, (SOCKET, vec![None]));
}
