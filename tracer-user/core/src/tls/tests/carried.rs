//! Sessions whose records the program moves itself: which socket carries them, and where on it their plaintext is.

use super::*;

const CLIENT: Random = [9; 32];
const SERVER: Random = [8; 32];
const HEADER: u32 = 5;

/// A process that serves or calls on some connections, each with a session. Every connection is a session's and a socket's
/// number.
struct Program {
    tls: Tls,
    links: BTreeMap<u64, Link>,
}

/// As the program moves it: what the library wrote waits to be sent.
struct Link {
    is_server: bool,
    /// Where each direction of the socket is.
    seq: [u32; 2],
    /// How much of the records the session has read and written.
    reached: [u32; 2],
    plain: [u64; 2],
}

fn hello(kind: u8, random: Random, rest: &[u8]) -> Vec<u8> {
    let len = (4 + 2 + 32 + rest.len()) as u8;
    let mut hello = vec![22, 3, 1, 0, len, kind, 0, 0, len - 4, 3, 3];
    hello.extend(random);
    hello.extend(rest);
    hello
}

fn client_hello(random: Random) -> Vec<u8> {
    hello(1, random, &[0, 0, 2, 0x13, 1, 1, 0, 0, 0])
}

fn server_hello(random: Random) -> Vec<u8> {
    hello(2, random, &[0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4])
}

/// A number's own randomness.
fn random(of: Random, number: u64) -> Random {
    of.map(|byte| byte ^ number as u8)
}

impl Program {
    fn new() -> Self {
        Self { tls: Tls::new(100), links: BTreeMap::new() }
    }

    /// A connection of this number, on which nothing has moved yet.
    fn link(&mut self, number: u64, is_server: bool, seq: [u32; 2]) {
        let link = Link { is_server, seq, reached: [0; 2], plain: [0; 2] };
        self.links.insert(number, link);
    }

    /// The hellos move, and the session says that they are its own.
    fn greets(&mut self, number: u64, client: Random, server: Random) {
        let is_server = self.links[&number].is_server;
        let (there, back) = if is_server {
            (Direction::Ingress, Direction::Egress)
        } else {
            (Direction::Egress, Direction::Ingress)
        };
        self.says(number, there, &client_hello(client));
        self.says(number, back, &server_hello(server));
    }

    fn says(&mut self, number: u64, direction: Direction, hello: &[u8]) {
        self.produced(number, direction, hello.len() as u32);
        self.socket(number, None, direction, &[], hello, false);
    }

    fn secured(&mut self, number: u64, client: Random, server: Random) {
        let is_server = self.links[&number].is_server;
        self.tls.session_secured(&SessionSecured {
            time: KernelInstant::from_nanos(1),
            process: PROCESS,
            session: number,
            client_random: client,
            server_random: server,
            is_server,
        });
    }

    fn opened(&mut self, number: u64, is_server: bool) {
        self.link(number, is_server, [1000 * number as u32, 9000 * number as u32]);
        let (client, server) = (random(CLIENT, number), random(SERVER, number));
        self.greets(number, client, server);
        self.secured(number, client, server);
    }

    /// The library writes, or reads, so many bytes of records.
    fn produced(&mut self, number: u64, direction: Direction, len: u32) {
        let link = self.links.get_mut(&number).unwrap();
        link.reached[usize::from(direction.code())] += len;
    }

    /// Whole records of these lengths on the socket. Returns where the first one begins.
    fn socket(
        &mut self,
        number: u64,
        in_call: Option<u64>,
        direction: Direction,
        lens: &[u16],
        hello: &[u8],
        lost: bool,
    ) -> u32 {
        let link = self.links.get_mut(&number).unwrap();
        let way = usize::from(direction.code());
        let (starts, len) = whole_records(lens);
        let op_len = len + hello.len() as u32;
        let begin = link.seq[way];
        link.seq[way] = begin.wrapping_add(op_len);
        if !lost {
            self.tls.ciphertext(&CiphertextMoved {
                time: KernelInstant::from_nanos(1),
                process: PROCESS,
                cookie: SocketCookie(number),
                session: in_call,
                direction,
                tcp_seq_end: link.seq[way],
                op_len,
                starts,
                more: false,
                lost: false,
                hello: Bytes::copy_from_slice(hello),
            });
        }
        begin
    }

    /// The library hands over, or is handed, plaintext: its connection, and where each piece begins.
    fn plain(
        &mut self,
        number: u64,
        direction: Direction,
        len: u32,
        filled: bool,
    ) -> (u64, Vec<Option<u32>>) {
        let link = self.links.get_mut(&number).unwrap();
        let way = usize::from(direction.code());
        let mut data = data(direction, link.plain[way], len);
        data.payload = Bytes::from(vec![b'x'; len as usize]);
        link.plain[way] += u64::from(len);
        let reached = Some(link.reached[way]);
        let (mut cookie, mut seqs) = (0, Vec::new());
        self.tls.plaintext(
            PlaintextMoved {
                session: number,
                filled,
                at: 0,
                total: len,
                reached,
                record_end: None,
                moved_to: None,
                seal: None,
                data,
            },
            |piece| {
                let IoOutcome::Moved(len) = piece.outcome else { panic!("{piece:?}") };
                seqs.push((piece.tcp_seq_end != 0).then(|| piece.tcp_seq_end.wrapping_sub(len)));
                cookie = piece.cookie.0;
            },
        );
        (cookie, seqs)
    }

    /// A call that writes; what it wrote is sent later.
    fn writes(&mut self, number: u64, len: u32) -> (u64, Vec<Option<u32>>) {
        let records = len.div_ceil(1 << 14);
        self.produced(number, Direction::Egress, len + records * (HEADER + u32::from(MORE)));
        self.plain(number, Direction::Egress, len, false)
    }

    /// A record comes, and is read.
    fn reads(&mut self, number: u64, len: u16) -> (u64, Vec<Option<u32>>, u32) {
        let begin = self.socket(number, None, Direction::Ingress, &[len + MORE], &[], false);
        self.produced(number, Direction::Ingress, HEADER + u32::from(len + MORE));
        let (cookie, seqs) = self.plain(number, Direction::Ingress, u32::from(len), false);
        (cookie, seqs, begin)
    }

    fn sends(&mut self, number: u64, lens: &[u16]) -> u32 {
        self.socket(number, None, Direction::Egress, lens, &[], false)
    }
}

fn apart(found: &(u64, Vec<Option<u32>>)) -> bool {
    found.0 >= FIRST_APART && found.1.iter().all(Option::is_none)
}

#[test]
fn hellos_tell_the_socket_and_counts_the_place() {
    let mut program = Program::new();
    program.opened(1, true);
    let (cookie, seqs, begin) = program.reads(1, 100);
    assert_eq!((cookie, seqs), (1, vec![Some(begin)]));
    // It is written before it is sent, and more than one record holds.
    let (cookie, seqs) = program.writes(1, 2 * 16384 + 7);
    let begin = program.sends(1, &[16384 + MORE, 16384 + MORE, 7 + MORE]);
    let each = 16384 + u32::from(MORE) + HEADER;
    assert_eq!((cookie, seqs), (1, vec![Some(begin), Some(begin + each), Some(begin + 2 * each)]));
    assert_eq!(program.tls.facts(SocketCookie(1)).and_then(|facts| facts.version), Some("1.3"));
    assert_eq!(program.tls.stats(), TlsStats::default());
}

/// Lengths tell nothing here.
#[test]
fn sessions_alike_are_told_apart() {
    let mut program = Program::new();
    for number in 1..=8 {
        program.opened(number, number % 2 == 0);
    }
    for _ in 0..20 {
        let written: Vec<_> = (1..=8).map(|number| (number, program.writes(number, 50))).collect();
        // In another order than they were written.
        for (number, (cookie, seqs)) in written.into_iter().rev() {
            let begin = program.sends(number, &[50 + MORE]);
            assert_eq!((cookie, seqs), (number, vec![Some(begin)]));
        }
        for number in [5, 2, 8, 1] {
            let (cookie, seqs, begin) = program.reads(number, 50);
            assert_eq!((cookie, seqs), (number, vec![Some(begin)]));
        }
    }
    assert_eq!(program.tls.stats(), TlsStats::default());
}

/// In TLS 1.3 a ticket looks as data do.
#[test]
fn tickets_shift_nothing() {
    let mut program = Program::new();
    program.opened(1, true);
    program.opened(2, false);
    // The server's own, of which no plaintext is told, wait to be sent with the first answer.
    program.produced(1, Direction::Egress, 2 * (HEADER + 67));
    let (_, seqs) = program.writes(1, 50);
    let begin = program.sends(1, &[67, 67, 67]);
    assert_eq!(seqs, [Some(begin + 2 * (HEADER + 67))]);
    // The client's come before the data, in one operation, and one of them is read with those.
    let begin = program.socket(2, None, Direction::Ingress, &[67, 50 + MORE, 67, 50 + MORE], &[], false);
    for at in [1, 3] {
        program.produced(2, Direction::Ingress, 2 * (HEADER + 67));
        let (_, seqs) = program.plain(2, Direction::Ingress, 50, false);
        assert_eq!(seqs, [Some(begin + at * (HEADER + 67))]);
    }
    assert_eq!(program.tls.stats(), TlsStats::default());
}

#[test]
fn a_record_that_is_read_in_parts_is_one() {
    let mut program = Program::new();
    program.opened(1, true);
    let begin = program.socket(1, None, Direction::Ingress, &[100 + MORE, 30 + MORE], &[], false);
    program.produced(1, Direction::Ingress, HEADER + 100 + u32::from(MORE));
    assert_eq!(program.plain(1, Direction::Ingress, 70, true).1, [Some(begin)]);
    assert_eq!(program.plain(1, Direction::Ingress, 30, true).1, [Some(begin + 70)]);
    program.produced(1, Direction::Ingress, HEADER + 30 + u32::from(MORE));
    assert_eq!(
        program.plain(1, Direction::Ingress, 30, false).1,
        [Some(begin + HEADER + 100 + u32::from(MORE))]
    );
}

#[test]
fn lost_records_shift_nothing() {
    let mut program = Program::new();
    program.opened(1, true);
    // The socket's operation is not told.
    program.socket(1, None, Direction::Ingress, &[50 + MORE], &[], true);
    program.produced(1, Direction::Ingress, HEADER + 50 + u32::from(MORE));
    assert_eq!(program.plain(1, Direction::Ingress, 50, false), (1, vec![None]));
    let (cookie, seqs, begin) = program.reads(1, 50);
    assert_eq!((cookie, seqs), (1, vec![Some(begin)]));
    // What is written is known by itself.
    for lost in [true, false, true, false] {
        let (_, seqs) = program.writes(1, 50);
        let begin = program.socket(1, None, Direction::Egress, &[50 + MORE], &[], lost);
        assert_eq!(seqs, [Some(begin)]);
    }
}

/// With new keys records may be longer than the hellos say, which are read no further.
#[test]
fn records_of_another_length_are_not_placed() {
    let mut program = Program::new();
    program.opened(1, true);
    let eight_more = |program: &mut Program| {
        program.produced(1, Direction::Egress, HEADER + 58 + u32::from(MORE));
        let seqs = program.plain(1, Direction::Egress, 50, false).1;
        (seqs, program.sends(1, &[58 + MORE]))
    };
    // The first one is eight bytes off: no record begins there, so nobody is met.
    let (seqs, begin) = eight_more(&mut program);
    assert_eq!(seqs, [Some(begin + 8)]);
    for _ in 0..3 {
        assert_eq!(eight_more(&mut program).0, [None]);
    }
    let begin = program.socket(1, None, Direction::Ingress, &[58 + MORE], &[], false);
    program.produced(1, Direction::Ingress, HEADER + 58 + u32::from(MORE));
    assert_eq!(program.plain(1, Direction::Ingress, 50, false), (1, vec![None]), "{begin}");
}

/// A process that passes TLS on to a server of its own has the same hello on three sockets.
#[test]
fn a_hello_that_came_twice_is_nobodys() {
    let mut program = Program::new();
    program.link(1, true, [100, 200]);
    program.link(2, false, [300, 400]);
    program.link(3, true, [400, 300]);
    for number in [1, 2, 3] {
        program.says(
            number,
            if number == 2 { Direction::Egress } else { Direction::Ingress },
            &client_hello(CLIENT),
        );
    }
    for number in [3, 2, 1] {
        program.says(
            number,
            if number == 2 { Direction::Ingress } else { Direction::Egress },
            &server_hello(SERVER),
        );
    }
    program.secured(3, CLIENT, SERVER);
    assert!(apart(&program.plain(3, Direction::Ingress, 50, false)));
    // Also when it is not seen that it came a second time: it went out on another connection.
    let mut program = Program::new();
    program.link(1, true, [100, 200]);
    program.link(2, false, [300, 400]);
    program.link(3, true, [400, 300]);
    program.says(1, Direction::Ingress, &client_hello(CLIENT));
    program.says(2, Direction::Egress, &client_hello(CLIENT));
    program.says(1, Direction::Egress, &server_hello(SERVER));
    program.secured(3, CLIENT, SERVER);
    assert!(apart(&program.plain(3, Direction::Ingress, 50, false)));
}

#[test]
fn a_process_that_calls_itself_has_both_ends() {
    let mut program = Program::new();
    program.link(1, false, [100, 200]);
    program.link(2, true, [200, 100]);
    program.greets(1, CLIENT, SERVER);
    program.greets(2, CLIENT, SERVER);
    program.secured(2, CLIENT, SERVER);
    program.secured(1, CLIENT, SERVER);
    let (cookie, sent) = program.writes(1, 50);
    assert_eq!(cookie, 1);
    program.sends(1, &[50 + MORE]);
    let (cookie, received, _) = program.reads(2, 50);
    assert_eq!((cookie, &received), (2, &sent));
}

/// Whoever sends the same hello again gets another answer.
#[test]
fn half_of_the_hellos_is_not_enough() {
    let mut program = Program::new();
    program.link(1, true, [100, 200]);
    program.greets(1, CLIENT, SERVER);
    program.secured(1, CLIENT, [7; 32]);
    assert!(apart(&program.plain(1, Direction::Ingress, 50, false)));
    // The answer was not seen.
    program.link(2, true, [300, 400]);
    program.says(2, Direction::Ingress, &client_hello([1; 32]));
    program.secured(2, [1; 32], SERVER);
    assert!(apart(&program.plain(2, Direction::Ingress, 50, false)));
}

/// A callback in the middle of a session's call may use any socket.
#[test]
fn what_moves_in_a_call_is_not_believed_against_the_hellos() {
    let mut program = Program::new();
    program.opened(1, true);
    program.link(2, true, [5000, 6000]);
    program.greets(2, [1; 32], [2; 32]);
    program.socket(1, Some(2), Direction::Egress, &[50 + MORE], &[], false);
    program.secured(2, [1; 32], [2; 32]);
    let (cookie, seqs, begin) = program.reads(2, 50);
    assert_eq!((cookie, seqs), (2, vec![Some(begin)]));
    // One whose own hellos were not seen is not on a socket with others.
    program.link(3, true, [7000, 8000]);
    program.socket(1, Some(3), Direction::Egress, &[50 + MORE], &[], false);
    program.secured(3, [3; 32], [4; 32]);
    assert!(apart(&program.plain(3, Direction::Egress, 50, false)));
}

/// RFC 8446 section 4.1.4: the server asks for another hello first.
#[test]
fn the_hello_that_counts_is_the_last_one() {
    let mut program = Program::new();
    program.link(1, false, [100, 200]);
    program.says(1, Direction::Egress, &client_hello(CLIENT));
    let again = server_hello(*b"\xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65\xb8\x91\xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2\xc8\xa8\x33\x9c");
    program.says(1, Direction::Ingress, &[&again[..], &[20, 3, 3, 0, 1, 1]].concat());
    program.says(1, Direction::Egress, &client_hello(CLIENT));
    program.says(1, Direction::Ingress, &server_hello(SERVER));
    program.secured(1, CLIENT, SERVER);
    let (cookie, seqs) = program.writes(1, 50);
    let begin = program.sends(1, &[50 + MORE]);
    assert_eq!((cookie, seqs), (1, vec![Some(begin)]));
}

/// Hellos with keys of new kinds (X25519MLKEM768) are longer than what is kept of them.
#[test]
fn of_long_hellos_the_beginnings_are_enough() {
    // Before its other extensions comes a key.
    let long = |mut hello: Vec<u8>, extensions: usize| {
        let (record, message) = (hello.len() - 5 + 1456 + 4, hello.len() - 9 + 1456 + 4);
        hello[3..5].copy_from_slice(&(record as u16).to_be_bytes());
        hello[7..9].copy_from_slice(&(message as u16).to_be_bytes());
        let at = hello.len() - extensions - 2;
        hello[at..at + 2].copy_from_slice(&((extensions + 4 + 1456) as u16).to_be_bytes());
        hello.splice(at + 2..at + 2, [&[0, 51][..], &1456_u16.to_be_bytes(), &[7; 1456]].concat());
        hello.truncate(tracer_abi::limits::HELLO_BYTES as usize);
        hello
    };
    let mut program = Program::new();
    program.link(1, false, [100, 200]);
    program.says(1, Direction::Egress, &long(client_hello(CLIENT), 0));
    program.says(1, Direction::Ingress, &long(server_hello(SERVER), 6));
    program.secured(1, CLIENT, SERVER);
    assert_eq!(program.writes(1, 50).0, 1);
    assert_eq!(program.tls.facts(SocketCookie(1)).unwrap().version, Some("1.3"));
}

#[test]
fn a_closed_connection_is_forgotten() {
    let mut program = Program::new();
    for number in 1..=50 {
        program.opened(number, true);
        program.tls.conn_closed(SocketCookie(number));
        program.tls.session_ended(PROCESS, number);
    }
    program.opened(60, true);
    assert_eq!((program.tls.sockets.len(), program.tls.sessions.len()), (1, 1));
    assert_eq!(program.tls.carriers.len(), 1);
}
