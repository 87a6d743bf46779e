//! Records that are known by their bytes.

use super::*;
use crate::event::{RecordSealed, SealedPlace};

/// What is behind a record's header is so many bytes more than its plaintext.
const ADDED: u32 = 17;

/// Sessions of either direction of the connection of a number.
fn halves(number: u64) -> [u64; 2] {
    [0x1000 + number, 0x2000 + number]
}

/// One or more connections of a process, as the kernel half tells of them.
struct Library {
    tls: Tls,
    time: u64,
    plain: BTreeMap<u64, u64>,
    births: BTreeMap<u64, u32>,
    moved: Vec<(SocketCookie, u64, Option<u32>)>,
}

impl Library {
    fn new() -> Self {
        Self {
            tls: Tls::new(100),
            time: 1,
            plain: BTreeMap::new(),
            births: BTreeMap::new(),
            moved: Vec::new(),
        }
    }

    fn sealed(&mut self, place: SealedPlace, direction: Direction, seal: u64, len: u32) {
        self.time += 1;
        let event = RecordSealed {
            time: KernelInstant::from_nanos(self.time),
            process: PROCESS,
            place,
            direction,
            seal,
            len: (len + ADDED) as u16,
        };
        let moved = &mut self.moved;
        self.tls.record_sealed(&event, |data| note(moved, &data));
    }

    /// A record on a socket, which is known to carry TLS.
    fn on_socket(&mut self, number: u64, direction: Direction, seal: u64, len: u32, seq: u32) {
        let cookie = SocketCookie(number);
        self.sealed(SealedPlace::Socket { cookie, seq }, direction, seal, len);
        let (starts, op_len) = whole_records(&[(len + ADDED) as u16]);
        self.tls.ciphertext(&CiphertextMoved {
            time: KernelInstant::from_nanos(self.time),
            process: PROCESS,
            cookie,
            session: None,
            direction,
            tcp_seq_end: seq.wrapping_add(op_len),
            op_len,
            starts,
            more: false,
            lost: false,
            hello: Bytes::new(),
        });
    }

    /// The library encrypts or decrypts one.
    fn plain(&mut self, session: u64, direction: Direction, seal: u64, len: u32) {
        let birth = self.births.get(&session).copied().unwrap_or_default();
        self.sealed(SealedPlace::Library { session, birth }, direction, seal, len);
        self.unannounced(session, direction, seal, len);
    }

    /// Plaintext whose record was not told of.
    fn unannounced(&mut self, session: u64, direction: Direction, seal: u64, len: u32) {
        self.time += 1;
        let offset = self.plain.entry(session).or_default();
        let time = KernelInstant::from_nanos(self.time);
        let event = PlaintextMoved {
            session,
            filled: false,
            at: 0,
            total: len,
            reached: None,
            record_end: None,
            moved_to: None,
            seal: Some(seal as u32),
            data: DataMoved { time, ..data(direction, *offset, len) },
        };
        *offset += u64::from(len);
        let moved = &mut self.moved;
        self.tls.plaintext(event, |data| note(moved, &data));
    }

    /// Others are at the address.
    fn begins_anew(&mut self, session: u64) {
        self.plain.remove(&session);
        *self.births.entry(session).or_default() += 1;
    }

    fn receives(&mut self, number: u64, seal: u64, len: u32, seq: u32) {
        self.on_socket(number, Direction::Ingress, seal, len, seq);
        self.plain(halves(number)[0], Direction::Ingress, seal, len);
    }

    fn sends(&mut self, number: u64, seal: u64, len: u32, seq: u32) {
        self.plain(halves(number)[1], Direction::Egress, seal, len);
        self.on_socket(number, Direction::Egress, seal, len, seq);
    }

    /// What came out since, as connection, position and sequence number of the first byte.
    fn out(&mut self) -> Vec<(u64, u64, Option<u32>)> {
        self.moved.drain(..).map(|(cookie, offset, seq)| (cookie.0, offset, seq)).collect()
    }

    fn counts(&self) -> (u64, u64) {
        (self.tls.stats().unbound, self.tls.stats().unplaced)
    }
}

fn note(moved: &mut Vec<(SocketCookie, u64, Option<u32>)>, data: &DataMoved) {
    let IoOutcome::Moved(len) = data.outcome else { panic!("{data:?}") };
    let seq = (data.tcp_seq_end != 0).then(|| data.tcp_seq_end.wrapping_sub(len));
    moved.push((data.cookie, data.offset, seq));
}

#[test]
fn a_record_is_where_its_bytes_are() {
    let mut library = Library::new();
    for number in 1..=4 {
        library.on_socket(number, Direction::Ingress, 100 + number, 50, 1000 * number as u32);
    }
    // In another order, and all as long as each other.
    for number in [3, 1, 4, 2] {
        library.plain(halves(number)[0], Direction::Ingress, 100 + number, 50);
        library.sends(number, 200 + number, 70, 5000 * number as u32);
        let seqs = [1000 * number as u32, 5000 * number as u32].map(Some);
        assert_eq!(library.out(), [(number, 0, seqs[0]), (number, 0, seqs[1])]);
        assert_eq!(library.tls.unheard(SocketCookie(number)), [0; 2]);
    }
    library.receives(2, 7, 30, 9000);
    assert_eq!(library.out(), [(2, 50, Some(9000))]);
    assert_eq!(library.counts(), (0, 0));
}

/// What is sent goes when it is sent, behind what was sent before.
#[test]
fn what_is_sent_waits_for_its_record() {
    let mut library = Library::new();
    library.plain(1, Direction::Egress, 11, 100);
    library.plain(1, Direction::Egress, 12, 200);
    library.plain(2, Direction::Egress, 21, 100);
    assert_eq!(library.out(), []);
    // Of the first one nothing is seen.
    library.on_socket(5, Direction::Egress, 12, 200, 700);
    assert_eq!(library.out(), [(5, 0, None), (5, 100, Some(700))]);
    library.on_socket(6, Direction::Egress, 21, 100, 800);
    library.plain(1, Direction::Egress, 13, 10);
    library.plain(1, Direction::Egress, 14, 10);
    library.on_socket(5, Direction::Egress, 14, 10, 950);
    assert_eq!(library.out(), [(6, 0, Some(800)), (5, 300, None), (5, 310, Some(950))]);
    assert_eq!(library.counts(), (0, 2));
}

#[test]
fn what_is_not_seen_to_be_sent_goes_after_a_while() {
    let mut library = Library::new();
    library.sends(1, 11, 100, 700);
    library.plain(halves(1)[1], Direction::Egress, 12, 100);
    library.plain(99, Direction::Egress, 13, 100);
    assert_eq!(library.out(), [(1, 0, Some(700))]);
    let mut moved = Vec::new();
    library
        .tls
        .advance(KernelInstant::from_nanos(library.time + 900_000_000), |data| note(&mut moved, &data));
    assert_eq!(moved, []);
    library.tls.advance(KernelInstant::from_nanos(library.time + 1_100_000_000), |data| {
        note(&mut moved, &data);
    });
    assert_eq!(moved, [(SocketCookie(1), 100, None)]);
    assert_eq!(library.counts(), (0, 2));
}

/// The same bytes of another length, of the other direction, or of another process are another record.
#[test]
fn what_does_not_agree_has_no_addresses() {
    let mut library = Library::new();
    library.on_socket(1, Direction::Ingress, 11, 51, 1000);
    library.plain(1, Direction::Ingress, 11, 50);
    library.on_socket(1, Direction::Egress, 12, 50, 1000);
    library.plain(1, Direction::Ingress, 12, 50);
    library.plain(2, Direction::Egress, 13, 50);
    library.on_socket(1, Direction::Egress, 13, 49, 2000);
    library.on_socket(1, Direction::Ingress, 13, 50, 2000);
    library.plain(3, Direction::Ingress, 14, 50);
    library.on_socket(1, Direction::Ingress, 14, 50, 3000);
    assert_eq!(library.out(), []);
    assert_eq!(library.counts(), (0, 3));
}

/// A process that passes TLS on to a server of its own has its records on three sockets.
#[test]
fn a_record_that_came_twice_is_nobodys() {
    let mut library = Library::new();
    library.on_socket(1, Direction::Ingress, 11, 50, 1000);
    library.on_socket(2, Direction::Egress, 11, 50, 8000);
    library.on_socket(3, Direction::Ingress, 11, 50, 8000);
    library.plain(3, Direction::Ingress, 11, 50);
    assert_eq!(library.out(), []);
    // Its answer, of which the first sending is not told.
    library.plain(4, Direction::Egress, 12, 50);
    library.on_socket(2, Direction::Ingress, 12, 50, 9000);
    library.on_socket(1, Direction::Egress, 12, 50, 2000);
    assert_eq!(library.out(), []);
    // One that is known is on its connection still.
    library.receives(5, 13, 50, 100);
    library.on_socket(5, Direction::Ingress, 14, 50, 200);
    library.on_socket(6, Direction::Ingress, 14, 50, 300);
    library.plain(halves(5)[0], Direction::Ingress, 14, 50);
    assert_eq!(library.out(), [(5, 0, Some(100)), (5, 50, None)]);
}

#[test]
fn a_process_that_calls_itself_has_each_record_twice() {
    let mut library = Library::new();
    library.plain(1, Direction::Egress, 11, 50);
    // Who receives may be told of first.
    library.on_socket(2, Direction::Ingress, 11, 50, 1000);
    library.on_socket(1, Direction::Egress, 11, 50, 1000);
    library.plain(2, Direction::Ingress, 11, 50);
    assert_eq!(library.out(), [(1, 0, Some(1000)), (2, 0, Some(1000))]);
    assert_eq!(library.counts(), (0, 0));
}

#[test]
fn a_session_on_two_sockets_is_on_none() {
    let mut library = Library::new();
    library.receives(1, 11, 50, 1000);
    library.on_socket(2, Direction::Ingress, 12, 50, 3000);
    library.plain(halves(1)[0], Direction::Ingress, 12, 50);
    library.receives(1, 13, 50, 1072);
    assert_eq!(library.out(), [(1, 0, Some(1000))]);
    assert_eq!(library.counts(), (1, 2));
}

/// Nothing is told of an end: what is at an address may be another connection's, or the next keys of the same one.
#[test]
fn an_address_may_be_another_ones() {
    let mut library = Library::new();
    library.receives(1, 11, 50, 1000);
    library.begins_anew(halves(1)[0]);
    library.on_socket(2, Direction::Ingress, 12, 50, 7000);
    library.plain(halves(1)[0], Direction::Ingress, 12, 50);
    // Its own connection goes on with other keys.
    library.on_socket(1, Direction::Ingress, 13, 60, 1072);
    library.plain(77, Direction::Ingress, 13, 60);
    assert_eq!(library.out(), [(1, 0, Some(1000)), (2, 0, Some(7000)), (1, 50, Some(1072))]);
    assert_eq!(library.counts(), (0, 0));
}

/// What is at its address now has nothing to do with it.
#[test]
fn what_waits_is_not_another_session_s() {
    let mut library = Library::new();
    let [_, sends] = halves(1);
    library.sends(1, 11, 50, 1000);
    library.plain(sends, Direction::Egress, 12, 50);
    library.begins_anew(sends);
    // All of its first record, and the second one alone.
    library.plain(sends, Direction::Egress, 13, 60);
    library.plain(sends, Direction::Egress, 14, 60);
    library.on_socket(2, Direction::Egress, 14, 60, 7000);
    let expected = [(1, 0, Some(1000)), (1, 50, None), (2, 0, None), (2, 60, Some(7000))];
    assert_eq!(library.out(), expected);
    assert_eq!(library.counts(), (0, 2));
}

#[test]
fn plaintext_of_no_record_that_was_told_of_is_nobodys() {
    let mut library = Library::new();
    library.receives(1, 11, 50, 1000);
    library.unannounced(halves(1)[0], Direction::Ingress, 12, 60);
    library.unannounced(88, Direction::Ingress, 13, 60);
    library.sends(1, 14, 50, 2000);
    library.unannounced(halves(1)[1], Direction::Egress, 15, 60);
    library.receives(1, 16, 50, 3000);
    let expected = [(1, 0, Some(1000)), (1, 0, Some(2000)), (1, 110, Some(3000))];
    assert_eq!(library.out(), expected);
    assert_eq!(library.counts(), (0, 3));
}

/// Chunks of one record, and the parts that frames of HTTP/2 make of it.
#[test]
fn a_record_may_be_told_of_in_parts() {
    let mut library = Library::new();
    let part = |at: u32, len: u32, direction: Direction| PlaintextMoved {
        session: 1,
        filled: false,
        at,
        total: 50,
        reached: None,
        record_end: None,
        moved_to: None,
        seal: Some(11),
        data: DataMoved { class: Class::Http2, ..data(direction, u64::from(at), len) },
    };
    for direction in [Direction::Ingress, Direction::Egress] {
        library.plain.clear();
        let sends = direction == Direction::Egress;
        if !sends {
            library.on_socket(1, direction, 11, 50, 1000);
        }
        library.sealed(SealedPlace::Library { session: 1, birth: 0 }, direction, 11, 50);
        for (at, len) in [(0, 9), (9, 31), (40, 10)] {
            let moved = &mut library.moved;
            library.tls.plaintext(part(at, len, direction), |data| note(moved, &data));
        }
        if sends {
            assert_eq!(library.out(), []);
            library.on_socket(1, direction, 11, 50, 1000);
        }
        assert_eq!(library.out(), [(1, 0, Some(1000)), (1, 9, Some(1009)), (1, 40, Some(1040))]);
        library.tls = Tls::new(100);
    }
}

#[test]
fn what_a_process_had_goes_with_it() {
    let mut library = Library::new();
    library.receives(1, 11, 50, 1000);
    library.plain(2, Direction::Egress, 12, 50);
    assert_eq!(library.tls.process_ended(PROCESS), []);
    library.on_socket(3, Direction::Egress, 12, 50, 1000);
    assert_eq!(library.out(), [(1, 0, Some(1000))]);
    assert_eq!((library.counts(), library.tls.sealed.held()), ((0, 1), 0));
}
