//! Sockets: identity, addresses, and the two pairs of words that are never mixed: direction and role.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::codes;

/// `bpf_get_socket_cookie`: unique on this host until reboot, in every network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SocketCookie(pub u64);

codes! {
    /// Which way bytes move, as the process that owns the socket sees it.
    "direction" Direction: u8 {
        /// Received by the process.
        Ingress = 0,
        /// Sent by the process.
        Egress = 1,
    }
}

impl Direction {
    pub const fn flipped(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

codes! {
    /// Who opened the connection. A hint for protocols: a request's direction is the stronger fact.
    "role" Role: u8 {
        Unknown = 0,
        /// This end called `connect`.
        Client = 1,
        /// This end was accepted from a listener.
        Server = 2,
    }
}

codes! {
    "family" Family: u16 {
        Unix = 1,
        Inet = 2,
        Inet6 = 10,
    }
}

const fn u64_at(bytes: &[u8; 16], at: usize) -> u64 {
    let mut value = 0;
    let mut i = 0;
    while i < 8 {
        value = value << 8 | bytes[at + i] as u64;
        i += 1;
    }
    value
}

/// An IP address and port as the kernel holds them: IPv4 is v4-mapped, the port is in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Endpoint {
    addr: [u8; 16],
    port_be: [u8; 2],
    reserved: [u8; 2],
}

impl Endpoint {
    /// From the bytes of a socket structure. `port_be` is in network order.
    pub const fn from_kernel_v4(addr: [u8; 4], port_be: [u8; 2]) -> Self {
        let [a, b, c, d] = addr;
        Self { addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d], port_be, reserved: [0; 2] }
    }

    /// From the bytes of a socket structure. `port_be` is in network order.
    pub const fn from_kernel_v6(addr: [u8; 16], port_be: [u8; 2]) -> Self {
        Self { addr, port_be, reserved: [0; 2] }
    }

    /// 127.0.0.0/8 or ::1, without the standard library's address types: the kernel half asks.
    pub const fn is_loopback(&self) -> bool {
        let (high, low) = (u64_at(&self.addr, 0), u64_at(&self.addr, 8));
        high == 0 && (low >> 24 == 0x00ff_ff7f || low == 1)
    }

    pub fn new(addr: SocketAddr) -> Self {
        let port_be = addr.port().to_be_bytes();
        match addr.ip() {
            IpAddr::V4(ip) => Self::from_kernel_v4(ip.octets(), port_be),
            IpAddr::V6(ip) => Self::from_kernel_v6(ip.octets(), port_be),
        }
    }

    pub const fn port(self) -> u16 {
        u16::from_be_bytes(self.port_be)
    }

    /// The address as a number: equal for equal addresses, for hashing.
    pub const fn address_bits(self) -> u128 {
        u128::from_ne_bytes(self.addr)
    }

    /// The address; a v4-mapped one comes back as IPv4.
    pub fn ip(self) -> IpAddr {
        let ip = Ipv6Addr::from(self.addr);
        match ip.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(ip),
        }
    }

    pub fn socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.port())
    }

    /// No address and no port: the kernel had none to give.
    pub fn is_unspecified(self) -> bool {
        self.port() == 0 && (self.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || self.addr == [0; 16])
    }
}
