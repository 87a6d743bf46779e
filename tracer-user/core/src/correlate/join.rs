//! Which exchanges on this host could be the two ends of the same bytes.
//!
//! Three tables. *Exact*: mirrored addresses (or a Unix connection's name) and the position of the request's first byte.
//! *By sequence number only*: for ends that address translation keeps from mirroring each other. *Ends*: which
//! connections are open on this host, to know whether a peer is traced at all. Nothing is decided here; see
//! `rules::same_bytes`.
//!
//! Many hosts only serve. While no traced process has called for [`QUIET`], requests have no other end to be found, and
//! are not noted; the next call has all that are held noted first ([`JoinTable::is_quiet`]).

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tracer_abi::conn::{Endpoint, Family, Role, SocketCookie};
use tracer_abi::time::KernelInstant;

use super::conn::Conn;
use super::exchange::{Exchange, Key};
use super::hash::{HashKey, KeyedMap};
use crate::event::ConnOpened;
use crate::exchange::Mark;

/// How long a closed connection is remembered: a busy server reads requests of clients that have given up.
pub(super) const MEMORY: Duration = Duration::from_secs(60);

/// Closed connections remembered at most, for a bound on memory (about 64 bytes each).
const MAX_CLOSED: usize = 32_768;

/// How long nothing calls before requests are no longer noted. Noting all that are held costs as much as some thousand
/// requests that are noted for nothing.
const QUIET: Duration = Duration::from_secs(10);

/// One end of a connection, as an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    /// Local and remote address.
    Tcp(Endpoint, Endpoint),
    /// The connection's name, and whether it is this end's cookie.
    Unix(SocketCookie, bool),
}

/// Ports and addresses in few words; the derived hash writes them byte by byte.
impl Hash for Socket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Tcp(local, remote) => {
                state.write_u32(u32::from(local.port()) << 16 | u32::from(remote.port()));
                for end in [local, remote] {
                    state.write_u128(end.address_bits());
                }
            }
            Self::Unix(name, is_own) => state.write_u64(name.0.rotate_left(u32::from(*is_own))),
        }
    }
}

impl Socket {
    const fn peer(self) -> Self {
        match self {
            Self::Unix(name, is_own) => Self::Unix(name, !is_own),
            Self::Tcp(local, remote) => Self::Tcp(remote, local),
        }
    }
}

/// What both ends of Unix connections call them: one end's cookie.
///
/// An end is told of with the other one's cookie only if that end was told of before, or at the same time. So the first of
/// both to come gives the name, and the other one finds it.
#[derive(Debug)]
struct Names {
    /// By the cookie of either end.
    of: KeyedMap<SocketCookie, SocketCookie>,
    /// The end that a connection does not have its name of, once it is known.
    others: KeyedMap<SocketCookie, SocketCookie>,
}

impl Names {
    fn of(&mut self, conn: &ConnOpened) -> SocketCookie {
        let peers = || conn.peer_cookie.and_then(|peer| self.of.get(&peer));
        let name = self.of.get(&conn.cookie).or_else(peers).copied().unwrap_or(conn.cookie);
        for cookie in [Some(conn.cookie), conn.peer_cookie].into_iter().flatten() {
            self.of.entry(cookie).or_insert(name);
            if cookie != name {
                self.others.insert(name, cookie);
            }
        }
        name
    }

    fn forget(&mut self, name: SocketCookie) {
        self.of.remove(&name);
        if let Some(other) = self.others.remove(&name) {
            self.of.remove(&other);
        }
    }
}

/// Where a request began, told so that both ends tell the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Tcp {
        client: Endpoint,
        server: Endpoint,
        /// Loopback addresses are the same in every network namespace and reach into none other.
        netns: Option<u32>,
        seq: u32,
    },
    Unix {
        name: SocketCookie,
        /// The name is the client's cookie.
        is_clients: bool,
        offset: u64,
    },
}

/// The position and the ports tell places apart well enough.
impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(match self {
            Self::Tcp { client, server, netns: _, seq } => {
                u64::from(*seq) << 32 | u64::from(client.port()) << 16 | u64::from(server.port())
            }
            Self::Unix { name, is_clients: _, offset } => offset.rotate_left(32) ^ name.0,
        });
    }
}

/// Who claims to be at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupant {
    Nobody,
    One(Key),
    /// Two live exchanges at one place contradict each other.
    Several,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    client: Slot,
    server: Slot,
}

/// Where the two ends of an exchange are noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat(u32);

/// How an exchange is found by its other end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seats {
    exact: Option<(Place, Seat)>,
    by_seq: Option<(u32, Seat)>,
}

impl Seats {
    const fn is_nowhere(&self) -> bool {
        self.exact.is_none() && self.by_seq.is_none()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: Option<Key>,
    /// How many claimed it beside `key`, while it was there.
    others: u32,
}

impl Slot {
    fn put(&mut self, key: Key) {
        match self.key {
            None => self.key = Some(key),
            Some(_) => self.others += 1,
        }
    }

    fn take(&mut self, key: Key) {
        if self.key == Some(key) {
            self.key = None;
        } else {
            self.others = self.others.saturating_sub(1);
        }
    }

    fn occupant(self) -> Occupant {
        match (self.key, self.others) {
            (None, 0) => Occupant::Nobody,
            (Some(key), 0) => Occupant::One(key),
            (_, _) => Occupant::Several,
        }
    }

    fn is_free(self) -> bool {
        self.key.is_none() && self.others == 0
    }
}

impl Ends {
    fn slot(&mut self, role: Role) -> &mut Slot {
        match role {
            Role::Client => &mut self.client,
            Role::Server | Role::Unknown => &mut self.server,
        }
    }

    fn is_free(self) -> bool {
        self.client.is_free() && self.server.is_free()
    }
}

#[derive(Debug)]
pub(super) struct JoinTable {
    exact: KeyedMap<Place, Seat>,
    by_seq: KeyedMap<u32, Seat>,
    /// What both tables lead to; free ones are used again.
    ends: Vec<Ends>,
    free: Vec<Seat>,
    /// Calls that are held, and when the last one began.
    calls: usize,
    last_call: KernelInstant,
    quiet: bool,
    /// Sockets of traced processes: open, or closed not long ago.
    sockets: KeyedMap<Socket, u32>,
    names: Names,
    /// How often a socket came or went: what was found stays true until then.
    changes: u64,
    closed: VecDeque<(KernelInstant, Socket)>,
}

/// Whether a connection's other end is traced, and after how many changes that was found: twice the number, and one
/// for yes. Nothing is found at first.
#[derive(Debug)]
pub(super) struct PeerTraced(AtomicU64);

impl Default for PeerTraced {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

/// What a connection's requests have shown of its other end.
#[derive(Debug, Default)]
pub(super) struct OtherEnd(AtomicU8);

impl OtherEnd {
    /// Nobody was there, each time that it was waited for.
    const NOBODY: u8 = 1;
    /// Somebody was, at least once.
    const SEEN: u8 = 2;
}

impl JoinTable {
    pub(super) fn new(key: HashKey) -> Self {
        Self {
            exact: KeyedMap::with_hasher(key),
            by_seq: KeyedMap::with_hasher(key),
            ends: Vec::new(),
            free: Vec::new(),
            calls: 0,
            last_call: KernelInstant::ZERO,
            quiet: true,
            sockets: KeyedMap::with_hasher(key),
            names: Names { of: KeyedMap::with_hasher(key), others: KeyedMap::with_hasher(key) },
            changes: 0,
            closed: VecDeque::new(),
        }
    }

    pub(super) fn conn_opened(&mut self, conn: &ConnOpened) -> Socket {
        let socket = match conn.family {
            Family::Unix => {
                let name = self.names.of(conn);
                Socket::Unix(name, name == conn.cookie)
            }
            Family::Inet | Family::Inet6 => Socket::Tcp(conn.local, conn.remote),
        };
        *self.sockets.entry(socket).or_default() += 1;
        self.changes += 1;
        socket
    }

    pub(super) fn conn_closed(&mut self, socket: Socket, at: KernelInstant) {
        if self.closed.len() >= MAX_CLOSED {
            self.forget_closed();
        }
        self.closed.push_back((at, socket));
    }

    /// Forgets what closed long ago. Returns when the first of the others closed.
    pub(super) fn forget(&mut self, now: KernelInstant) -> Option<KernelInstant> {
        while self.closed.front().is_some_and(|(at, _)| now.since(*at) > MEMORY) {
            self.forget_closed();
        }
        self.closed.front().map(|(at, _)| *at)
    }

    fn forget_closed(&mut self) {
        let Some((_, socket)) = self.closed.pop_front() else { return };
        let left = self.sockets.get_mut(&socket).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            self.sockets.remove(&socket);
            self.changes += 1;
            if let Socket::Unix(name, _) = socket
                && !self.sockets.contains_key(&socket.peer())
            {
                self.names.forget(name);
            }
        }
    }

    /// Requests are not noted. Before a call begins, all that are held are to be, with [`JoinTable::end_quiet`].
    pub(super) const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// From the oldest to the newest.
    pub(super) fn end_quiet<'e>(&mut self, held: impl Iterator<Item = (Key, &'e mut Exchange)>) {
        self.quiet = false;
        for (key, exchange) in held.filter(|(_, exchange)| exchange.seats.is_nowhere()) {
            exchange.seats = self.seat(key, exchange.conn.as_deref(), exchange.role(), &exchange.first);
        }
    }

    /// Its request begins at `first`; `conn` is how its connection was opened.
    pub(super) fn exchange_began(
        &mut self,
        key: Key,
        conn: Option<&Conn>,
        role: Role,
        first: &Mark,
    ) -> Seats {
        if role == Role::Client {
            self.calls += 1;
            self.last_call = self.last_call.max(first.time);
        } else if self.calls == 0 {
            self.quiet |= first.time.since(self.last_call) >= QUIET;
        }
        if self.quiet { Seats::default() } else { self.seat(key, conn, role, first) }
    }

    fn seat(&mut self, key: Key, conn: Option<&Conn>, role: Role, first: &Mark) -> Seats {
        let Self { exact, by_seq, ends, free, .. } = self;
        let mut fresh = || {
            free.pop().unwrap_or_else(|| {
                ends.push(Ends::default());
                // No more than two for an exchange that is held.
                Seat(ends.len() as u32 - 1)
            })
        };
        let place = conn.and_then(|conn| place(conn, role == Role::Client, first));
        let seats = Seats {
            exact: place.map(|place| (place, *exact.entry(place).or_insert_with(&mut fresh))),
            by_seq: first.tcp_seq.map(|seq| (seq, *by_seq.entry(seq).or_insert_with(&mut fresh))),
        };
        let taken = [seats.exact.map(|(_, seat)| seat), seats.by_seq.map(|(_, seat)| seat)];
        for seat in taken.into_iter().flatten() {
            ends[seat.0 as usize].slot(role).put(key);
        }
        seats
    }

    /// The exchange leaves: nobody can be joined to it any more.
    pub(super) fn exchange_left(&mut self, key: Key, exchange: &Exchange) {
        self.calls -= usize::from(exchange.role() == Role::Client);
        if let Some((place, seat)) = exchange.seats.exact
            && self.vacate(seat, exchange.role(), key)
        {
            self.exact.remove(&place);
        }
        if let Some((seq, seat)) = exchange.seats.by_seq
            && self.vacate(seat, exchange.role(), key)
        {
            self.by_seq.remove(&seq);
        }
    }

    /// True when nobody is left there.
    fn vacate(&mut self, seat: Seat, role: Role, key: Key) -> bool {
        let ends = &mut self.ends[seat.0 as usize];
        ends.slot(role).take(key);
        let is_free = ends.is_free();
        if is_free {
            self.free.push(seat);
        }
        is_free
    }

    /// Who is at the other end, by place. `Several` also when this exchange is not alone at its own end.
    pub(super) fn other_end(&self, exchange: &Exchange) -> Occupant {
        exchange.seats.exact.map_or(Occupant::Nobody, |(_, seat)| self.meet(seat, exchange))
    }

    /// Who is at the other end, by the sequence number of the first byte alone.
    pub(super) fn other_end_by_seq(&self, exchange: &Exchange) -> Occupant {
        exchange.seats.by_seq.map_or(Occupant::Nobody, |(_, seat)| self.meet(seat, exchange))
    }

    /// By place, else by sequence number.
    pub(super) fn nearest_end(&self, exchange: &Exchange) -> Occupant {
        match self.other_end(exchange) {
            Occupant::Nobody => self.other_end_by_seq(exchange),
            known @ (Occupant::One(_) | Occupant::Several) => known,
        }
    }

    /// The connection's other end is a socket of a traced process.
    pub(super) fn peer_is_traced(&self, exchange: &Exchange) -> bool {
        let Some(conn) = exchange.conn.as_deref() else { return false };
        let known = conn.peer_traced.0.load(Ordering::Relaxed);
        if known >> 1 == self.changes {
            return known & 1 == 1;
        }
        let traced = self.sockets.contains_key(&conn.at.peer());
        conn.peer_traced.0.store(self.changes << 1 | u64::from(traced), Ordering::Relaxed);
        traced
    }

    /// The other end of a request was waited for: what that tells of the connection's next ones.
    pub(super) fn note_other_end(&self, request: &Exchange) {
        let Some(conn) = request.conn.as_deref() else { return };
        let seen = self.nearest_end(request) != Occupant::Nobody || self.peer_is_traced(request);
        if seen {
            conn.other_end.0.store(OtherEnd::SEEN, Ordering::Relaxed);
        } else if conn.other_end.0.load(Ordering::Relaxed) != OtherEnd::SEEN {
            conn.other_end.0.store(OtherEnd::NOBODY, Ordering::Relaxed);
        }
    }

    /// Nobody is to be expected at the request's other end: nobody was at the other end of the connection when it was last
    /// waited for, and nobody is known to hold it now. A process that has been traced since then shows by opening it
    /// here, or by the call itself.
    pub(super) fn is_alone(&self, request: &Exchange) -> bool {
        let conn = request.conn.as_deref();
        conn.is_some_and(|conn| conn.other_end.0.load(Ordering::Relaxed) == OtherEnd::NOBODY)
            && !self.peer_is_traced(request)
    }

    fn meet(&self, seat: Seat, exchange: &Exchange) -> Occupant {
        let Ends { client, server } = &self.ends[seat.0 as usize];
        let (own, other) = match exchange.role() {
            Role::Client => (client, server),
            Role::Server | Role::Unknown => (server, client),
        };
        match (own.occupant(), other.occupant()) {
            (_, Occupant::Nobody) => Occupant::Nobody,
            (Occupant::Several, _) => Occupant::Several,
            (Occupant::Nobody | Occupant::One(_), other) => other,
        }
    }
}

/// `None` when stream positions of the two ends do not count from the same byte.
fn place(conn: &Conn, is_client: bool, first: &Mark) -> Option<Place> {
    match conn.at {
        Socket::Unix(name, is_own) => {
            let offset = first.offset;
            (!conn.opened.preexisting).then_some(Place::Unix {
                name,
                is_clients: is_own == is_client,
                offset,
            })
        }
        Socket::Tcp(local, remote) => {
            let (client, server) = if is_client { (local, remote) } else { (remote, local) };
            let loopback = client.is_loopback() || server.is_loopback();
            let netns = loopback.then_some(conn.opened.netns);
            Some(Place::Tcp { client, server, netns, seq: first.tcp_seq? })
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::Origin;

    #[test]
    fn names_of_unix_connections_are_forgotten_with_both_ends() {
        let mut table = JoinTable::new(HashKey::new([1; 32]));
        let mut open = |cookie, peer: Option<u64>| {
            table.conn_opened(&ConnOpened {
                origin: Origin { time: KernelInstant::ZERO, thread: None, cpu: 0 },
                cookie: SocketCookie(cookie),
                peer_cookie: peer.map(SocketCookie),
                family: Family::Unix,
                role: Role::Unknown,
                local: Endpoint::default(),
                remote: Endpoint::default(),
                netns: 1,
                egress_seq: 0,
                ingress_seq: 0,
                preexisting: false,
                over: false,
                unix_path: Bytes::new(),
            })
        };
        let ends = [open(1, None), open(2, Some(1)), open(4, Some(3)), open(3, None), open(5, Some(6))];
        assert_eq!((ends[0].peer(), ends[2].peer()), (ends[1], ends[3]));
        let late = KernelInstant::ZERO.plus(MEMORY).plus(MEMORY);
        for (number, end) in ends.into_iter().enumerate() {
            assert!(!table.names.of.is_empty(), "{number}");
            table.conn_closed(end, KernelInstant::ZERO);
            table.forget(late);
        }
        assert!(table.names.of.is_empty() && table.names.others.is_empty() && table.sockets.is_empty());
    }
}
