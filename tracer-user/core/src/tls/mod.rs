//! Plaintext of TLS sessions, tied to the sockets that carry it: exactly, or not at all.
//!
//! A TLS library's plaintext names its session, and a socket operation names the session in whose call its thread was.
//! That is one evidence: a session is on the socket that was read or written inside of its own call, once the lengths of
//! the TLS records there agree with its plaintext. The other one is its hellos: those that the library holds and those that
//! were on a socket are the same (see [`carriers`]), also where the program moves the records itself, as event loops do.
//! What comes out are operations of that socket, as if it carried the plaintext, each placed by the sequence number of the
//! record that carries it: the record's first byte, and how far into its plaintext, which both ends of a connection compute
//! alike.
//!
//! A third one is a record's own bytes, of libraries that are seen to encrypt and decrypt them one by one (see [`sealed`]).
//!
//! | a session is | its plaintext goes to | when |
//! |---|---|---|
//! | on a socket | | a TLS socket moved bytes inside of its call |
//! | proved | that socket's connection | its first plaintext there agrees with the records |
//! | known | that socket's connection | one socket of its process, and no other, carried its hellos |
//! | apart | a connection of its own, without addresses, until it is freed | none of these, or they contradict each other |
//!
//! It decides nothing about exchanges, and it holds no plaintext, but what waits to be sent.

mod carriers;
mod cipher;
mod hello;
mod records;
mod sealed;

use std::collections::BTreeMap;

use smol_str::SmolStr;
use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::sniff::Class;
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use self::carriers::{Carrier, Carriers};
use self::cipher::Protection;
use self::hello::{Found, Hello, Random};
use self::records::{Part, Piece, Place, Records};
use self::sealed::{Placed, Positions, Sealed};
use crate::event::{
    CiphertextMoved, DataMoved, IoOutcome, PlaintextMoved, RecordSealed, SealedPlace, SessionSecured,
    TaskIdentified,
};

/// Connections of unknown sockets have numbers that the kernel does not come to.
const FIRST_APART: u64 = 1 << 63;

/// What the hellos of a connection say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFacts {
    /// As attributes name it: `1.2`, `1.3`.
    pub(crate) version: Option<&'static str>,
    /// Its name in IANA's registry.
    pub(crate) cipher: Option<&'static str>,
    /// The name that the client asked for.
    pub(crate) server_name: Option<SmolStr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsStats {
    /// Sessions whose socket is not known.
    pub(crate) unbound: u64,
    /// Operations of plaintext that could not be placed among the records of their socket.
    pub(crate) unplaced: u64,
}

type SessionKey = (ProcessKey, u64);

#[derive(Debug)]
pub(crate) struct Tls {
    max: usize,
    sessions: BTreeMap<SessionKey, Session>,
    sockets: BTreeMap<SocketCookie, Socket>,
    carriers: Carriers,
    sealed: Sealed,
    /// Whose work the plaintext is that comes next.
    identified: BTreeMap<SessionKey, TaskIdentified>,
    next_apart: u64,
    stats: TlsStats,
}

#[derive(Debug)]
struct Session {
    seat: Seat,
    /// Positions of its plaintext, by direction: where the connection that it is on begins (modulo 2^64: it may have begun
    /// before positions did), and how far it came.
    base: [u64; 2],
    end: [u64; 2],
    /// Position of its last call, and where that was. Further records of it say nothing new.
    last: [Option<(u64, Vec<Piece>)>; 2],
    /// It carries HTTP/2.
    in_frames: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    On(SocketCookie),
    Proved(SocketCookie),
    Known(SocketCookie),
    Apart(SocketCookie),
}

#[derive(Debug, Default)]
struct Socket {
    /// Who was on it last.
    session: Option<SessionKey>,
    hello: [Hello; 2],
    /// What is random in the hellos, and the process that the client's was seen in.
    client: Option<(ProcessKey, Random)>,
    server: Option<Random>,
    facts: TlsFacts,
    protection: Protection,
    records: [Records; 2],
    /// A session that was on it is not known to be any more: what it moves is told of elsewhere.
    strayed: bool,
    /// Where plaintext has come to, by direction, of sessions that are known by their records.
    plain: [u64; 2],
}

impl Tls {
    /// `max`: connections and sessions that are followed at once. Beyond it the oldest are forgotten, and what they carry
    /// from then on has no addresses.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            sessions: BTreeMap::new(),
            sockets: BTreeMap::new(),
            carriers: Carriers::default(),
            sealed: Sealed::default(),
            identified: BTreeMap::new(),
            next_apart: FIRST_APART,
            stats: TlsStats::default(),
        }
    }

    /// A socket operation: which records moved, and in whose call.
    pub(crate) fn ciphertext(&mut self, event: &CiphertextMoved) {
        make_room(&mut self.sockets, &event.cookie, self.max);
        let socket = self.sockets.entry(event.cookie).or_default();
        if let Some(hello) = socket.note(event) {
            let seq = socket.hello[usize::from(event.direction.code())].begins().unwrap_or_default();
            let is_client = event.direction == Direction::Egress;
            let carrier = Carrier { cookie: event.cookie, is_client, seq };
            self.carriers.met(event.process, hello, carrier, self.max);
        }
        let Some(session) = event.session.map(|session| (event.process, session)) else { return };
        if socket.session.replace(session) == Some(session) {
            return;
        }
        make_room(&mut self.sessions, &session, self.max);
        let known = self.sessions.entry(session).or_insert_with(|| Session::new(Seat::On(event.cookie)));
        match known.seat {
            // What went before was told without a socket, and cannot be taken back.
            Seat::Apart(_) => {}
            // What a call of it moved elsewhere was not its own.
            Seat::Known(_) => {}
            Seat::On(old) | Seat::Proved(old) if old == event.cookie => {}
            // Two sockets at once: which of them carries what is not known.
            Seat::On(old) | Seat::Proved(old) if self.sockets.contains_key(&old) => {
                known.seat = Seat::Apart(SocketCookie(self.next_apart));
                self.next_apart += 1;
                self.stats.unbound += 1;
                self.sockets.entry(old).and_modify(|socket| socket.strayed = true);
            }
            Seat::On(_) | Seat::Proved(_) => {
                let end = known.end;
                *known = Session { base: end, end, ..Session::new(Seat::On(event.cookie)) };
            }
        }
    }

    /// A record of TLS was met, on a socket or in a library. Hands out the plaintext that waited for that.
    pub(crate) fn record_sealed(&mut self, event: &RecordSealed, mut each: impl FnMut(DataMoved)) {
        match event.place {
            SealedPlace::Library { session, birth } => {
                let Self { sealed, sockets, stats, max, .. } = self;
                let placed = sealed.in_library((session, birth), event, *max, sockets, stats);
                self.hand_out(placed, &mut each);
            }
            SealedPlace::Socket { cookie, seq } => {
                let Self { sealed, sockets, stats, .. } = self;
                let placed = sealed.on_socket((cookie, seq), event, sockets, stats);
                self.hand_out(placed, &mut each);
            }
        }
    }

    /// Time has passed. Hands out what has waited for its record for too long.
    pub(crate) fn advance(&mut self, now: KernelInstant, mut each: impl FnMut(DataMoved)) {
        let Self { sealed, sockets, stats, .. } = self;
        let placed = sealed.overdue(now, sockets, stats);
        self.hand_out(placed, &mut each);
    }

    pub(crate) fn next_timeout(&self) -> Option<KernelInstant> {
        self.sealed.next_timeout()
    }

    fn hand_out(&mut self, placed: Vec<Placed>, each: &mut impl FnMut(DataMoved)) {
        for Placed { cookie, base, piece, record_end, sent_at, plaintext } in placed {
            let PlaintextMoved { at, total, data, .. } = plaintext;
            let IoOutcome::Moved(len) = data.outcome else { continue };
            let offset = data.offset.wrapping_sub(base);
            if let Some(socket) = self.sockets.get_mut(&cookie) {
                let direction = usize::from(data.direction.code());
                let end = offset.saturating_sub(at.into()).saturating_add(total.into());
                socket.plain[direction] = socket.plain[direction].max(end);
                socket.records[direction].told_of(record_end);
            }
            let time = sent_at.unwrap_or(data.time).max(data.time);
            let here: Vec<Piece> = piece.inside(at, len).into_iter().collect();
            cut(DataMoved { cookie, offset, time, ..data }, &here, each);
        }
    }

    /// The hellos of a session: whose socket carried them.
    pub(crate) fn session_secured(&mut self, event: &SessionSecured) {
        let key = (event.process, event.session);
        let hello = event.client_random;
        let found = self.carriers.find(event.process, hello, !event.is_server).filter(|cookie| {
            self.sockets.get(cookie).is_some_and(|socket| socket.server == Some(event.server_random))
        });
        let known = self.sessions.get(&key).filter(|known| known.end == [0; 2]);
        let seat = match (found, known.map(|known| known.seat)) {
            (Some(cookie), _) => Some(Seat::Known(cookie)),
            (None, Some(seat @ Seat::On(cookie))) => {
                let client = self.sockets.get(&cookie).and_then(|socket| socket.client);
                let agrees = client.is_none_or(|(_, random)| random == hello);
                Some(if agrees { seat } else { self.apart() })
            }
            (None, _) => None,
        };
        // Whatever else was at the address is over.
        self.sessions.remove(&key);
        if let Some(seat) = seat {
            make_room(&mut self.sessions, &key, self.max);
            self.sessions.insert(key, Session::new(seat));
        }
    }

    /// Whose work a session's next operation is.
    pub(crate) fn identified(&mut self, event: TaskIdentified) {
        let key = (event.thread.process, event.cookie.0);
        make_room(&mut self.identified, &key, self.max);
        self.identified.insert(key, event);
    }

    /// Whose work this one is, if that is known; said once.
    pub(crate) fn take_identified(&mut self, event: &PlaintextMoved) -> Option<TaskIdentified> {
        let PlaintextMoved { session, data, .. } = event;
        let identified = self.identified.remove(&(data.thread.process, *session))?;
        (identified.time == data.time && identified.direction == data.direction).then_some(identified)
    }

    /// Plaintext: hands out the operations that it is on its connection.
    pub(crate) fn plaintext(&mut self, event: PlaintextMoved, mut each: impl FnMut(DataMoved)) {
        if event.seal.is_some() {
            let Self { sealed, sockets, stats, .. } = self;
            let placed = sealed.plaintext(event, sockets, stats);
            return self.hand_out(placed, &mut each);
        }
        let PlaintextMoved { session, filled, at, total, reached, record_end, moved_to, seal: _, data } =
            event;
        let IoOutcome::Moved(len) = data.outcome else { return };
        // Of the call, of which this may be a part.
        let first = data.offset.saturating_sub(at.into());
        let key = (data.thread.process, session);
        let direction = usize::from(data.direction.code());
        let end = first.saturating_add(total.into());
        if let Some(known) = self.sessions.get_mut(&key).filter(|known| known.is_over(direction, first)) {
            // One goroutine may close a connection while another one is about to return from a call on it: the kernel half
            // has forgotten the session by then, and counts anew.
            let socket = self.sockets.get(&known.seat.connection());
            let is_there = |end: u32| socket.is_some_and(|socket| socket.records[direction].end_waits(end));
            // Of HTTP/2 not all calls are told of: what was counted says nothing of the place.
            if !known.in_frames && record_end.is_some_and(is_there) {
                known.goes_on(direction, first);
            } else {
                self.sessions.remove(&key);
            }
        }
        if !self.sessions.contains_key(&key) {
            let seat = self.apart();
            make_room(&mut self.sessions, &key, self.max);
            self.sessions.insert(key, Session::new(seat));
        }
        let Some(known) = self.sessions.get_mut(&key) else { return };
        known.in_frames |= data.class == Class::Http2;
        let follows = first == std::mem::replace(&mut known.end[direction], end);
        let part = Part { len: total, filled, record_end, moved_to, follows };
        let known_place = known.last[direction].take().filter(|(offset, _)| *offset == first);
        let pieces = match (known_place, known.seat) {
            (Some((_, pieces)), _) => pieces,
            (None, Seat::Apart(_)) => vec![Piece::unplaced(total)],
            (None, Seat::On(cookie) | Seat::Proved(cookie) | Seat::Known(cookie)) => {
                let place = self.sockets.get_mut(&cookie).map_or(Place::Disagrees, |socket| {
                    let (records, by) = (&mut socket.records[direction], socket.protection);
                    if socket.session == Some(key) || !matches!(known.seat, Seat::Known(_)) {
                        return records.place(data.direction, part, by);
                    }
                    let begins = socket.hello[direction].begins();
                    match begins.zip(reached).map(|(seq, far)| seq.wrapping_add(far)) {
                        Some(end) => records.place_before(end, data.direction, part, by),
                        None => Place::Ambiguous,
                    }
                });
                match (place, known.seat) {
                    (Place::Pieces(pieces), _) => {
                        known.seat.prove();
                        pieces
                    }
                    (Place::Ambiguous | Place::Disagrees, Seat::Proved(_) | Seat::Known(_))
                    | (Place::Ambiguous, _) => {
                        known.seat.prove();
                        self.stats.unplaced += 1;
                        vec![Piece::unplaced(total)]
                    }
                    (Place::Disagrees, seat @ (Seat::On(_) | Seat::Apart(_))) => {
                        self.sockets.entry(seat.connection()).and_modify(|socket| socket.strayed = true);
                        known.seat = Seat::Apart(SocketCookie(self.next_apart));
                        self.next_apart += 1;
                        self.stats.unbound += 1;
                        vec![Piece::unplaced(total)]
                    }
                }
            }
        };
        let cookie = known.seat.connection();
        let offset = data.offset.wrapping_sub(known.base[direction]);
        let last = data.last && at.saturating_add(len) == total;
        let here: Vec<Piece> = pieces.iter().filter_map(|piece| piece.inside(at, len)).collect();
        known.last[direction] = (!last).then_some((first, pieces));
        cut(DataMoved { cookie, offset, ..data }, &here, &mut each);
    }

    /// Of the connection, once a session is on it.
    pub(crate) fn facts(&self, cookie: SocketCookie) -> Option<&TlsFacts> {
        self.sockets.get(&cookie).map(|socket| &socket.facts)
    }

    /// Bytes of plaintext that moved on a connection by direction, at least, behind the last of which was told. More may be
    /// told of, or never.
    pub(crate) fn unheard(&self, cookie: SocketCookie) -> [u64; 2] {
        let Some(socket) = self.sockets.get(&cookie) else { return [0; 2] };
        socket.records.each_ref().map(|records| records.unheard().max(u64::from(socket.strayed)))
    }

    /// A session was freed. Returns the connection that ends with it: that of one apart.
    pub(crate) fn session_ended(&mut self, process: ProcessKey, session: u64) -> Option<SocketCookie> {
        match self.sessions.remove(&(process, session))?.seat {
            Seat::On(cookie) | Seat::Proved(cookie) | Seat::Known(cookie) => {
                if let Some(socket) = self.sockets.get_mut(&cookie) {
                    socket.session = None;
                }
                None
            }
            Seat::Apart(cookie) => Some(cookie),
        }
    }

    /// All of its sessions are freed.
    pub(crate) fn process_ended(&mut self, process: ProcessKey) -> Vec<SocketCookie> {
        self.sealed.process_ended(process, &mut self.stats);
        let of_process: Vec<SessionKey> =
            self.sessions.range((process, 0)..=(process, u64::MAX)).map(|(key, _)| *key).collect();
        of_process.into_iter().filter_map(|(process, session)| self.session_ended(process, session)).collect()
    }

    /// The program may still be handed what was received before.
    pub(crate) fn conn_closed(&mut self, cookie: SocketCookie) {
        if let Some((process, hello)) = self.sockets.remove(&cookie).and_then(|socket| socket.client) {
            self.carriers.over(process, hello, |cookie| self.sockets.contains_key(&cookie));
        }
    }

    /// Sessions and sockets that are followed.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn held(&self) -> usize {
        self.sessions.len().max(self.sealed.held()) + self.sockets.len()
    }

    pub(crate) const fn stats(&self) -> TlsStats {
        self.stats
    }

    fn apart(&mut self) -> Seat {
        let cookie = SocketCookie(self.next_apart);
        self.next_apart += 1;
        self.stats.unbound += 1;
        Seat::Apart(cookie)
    }
}

impl Positions for BTreeMap<SocketCookie, Socket> {
    fn position(&self, cookie: SocketCookie, direction: Direction) -> u64 {
        self.get(&cookie).map_or(0, |socket| socket.plain[usize::from(direction.code())])
    }
}

impl Seat {
    fn prove(&mut self) {
        if let Self::On(cookie) = *self {
            *self = Self::Proved(cookie);
        }
    }

    const fn connection(self) -> SocketCookie {
        let (Self::On(cookie) | Self::Proved(cookie) | Self::Known(cookie) | Self::Apart(cookie)) = self;
        cookie
    }
}

impl Session {
    fn new(seat: Seat) -> Self {
        Self { seat, base: [0; 2], end: [0; 2], last: [None, None], in_frames: false }
    }

    /// Positions begin again: the address is another session's, whose beginning was not told; or this one was forgotten.
    fn is_over(&self, direction: usize, offset: u64) -> bool {
        let again = self.last[direction].as_ref().is_some_and(|(last, _)| *last == offset);
        offset < self.end[direction] && !again
    }

    /// It is the same session that goes on at this position.
    fn goes_on(&mut self, direction: usize, offset: u64) {
        let moved = self.end[direction].wrapping_sub(self.base[direction]);
        self.base[direction] = offset.wrapping_sub(moved);
        self.end[direction] = offset;
        self.last[direction] = None;
    }
}

impl Socket {
    /// Returns what is random in the client's hello, when that was found.
    fn note(&mut self, event: &CiphertextMoved) -> Option<Random> {
        let direction = usize::from(event.direction.code());
        let mut hello = None;
        match self.hello[direction].read(event) {
            Some(Found::Client { random, server_name }) => {
                self.client = Some((event.process, random));
                hello = Some(random);
                self.facts.server_name = server_name;
            }
            Some(Found::Server { random, version, suite }) => {
                self.server = Some(random);
                self.facts.version = cipher::version_name(version);
                self.facts.cipher = cipher::suite_name(suite);
                self.protection = Protection::of(version, suite);
            }
            None => {}
        }
        // A library reads on when it has handed out all that it has read.
        let drains = event.direction == Direction::Ingress && event.session.is_some();
        self.records[direction].note(event, drains);
        hello
    }
}

/// Forgets the first entries of a table that is full.
fn make_room<K: Ord, V>(table: &mut BTreeMap<K, V>, key: &K, max: usize) {
    if !table.contains_key(key) {
        while table.len() >= max {
            table.pop_first();
        }
    }
}

/// An operation → one for each TLS record that carries it. A record of the operation without any of its bytes goes with the
/// piece that it ends in.
fn cut(data: DataMoved, pieces: &[Piece], each: &mut impl FnMut(DataMoved)) {
    let IoOutcome::Moved(total) = data.outcome else { return };
    if let [piece] = pieces {
        return each(DataMoved { tcp_seq_end: piece.seq_end(), ..data });
    }
    let (head_end, tail_start) = (data.head_len, total.saturating_sub(data.tail_len));
    let (from, to) = (data.chunk_offset, data.chunk_offset.saturating_add(data.payload.len() as u32));
    for piece in pieces {
        let (start, end) = (piece.at, piece.at.saturating_add(piece.len));
        let (first, behind) = (from.max(start), to.min(end));
        let carries = first < behind;
        if !carries && !data.last {
            continue;
        }
        let payload = if carries {
            data.payload.slice((first - from) as usize..(behind - from) as usize)
        } else {
            bytes::Bytes::new()
        };
        each(DataMoved {
            offset: data.offset.saturating_add(u64::from(start)),
            outcome: IoOutcome::Moved(piece.len),
            tcp_seq_end: piece.seq_end(),
            head_len: head_end.clamp(start, end) - start,
            tail_len: end - tail_start.clamp(start, end).max(head_end.clamp(start, end)),
            chunk_offset: if carries { first - start } else { 0 },
            payload,
            ..data.clone()
        });
    }
}

#[cfg(test)]
mod tests;
