//! Versions and cipher suites: their names, and how much longer a record is than its plaintext.

/// Registry: <https://www.iana.org/assignments/tls-parameters>. The suites that libraries offer by default.
const SUITES: [(u16, &str, Sealed); 33] = [
    (0x1301, "TLS_AES_128_GCM_SHA256", Sealed::Tag(16)),
    (0x1302, "TLS_AES_256_GCM_SHA384", Sealed::Tag(16)),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256", Sealed::Tag(16)),
    (0x1304, "TLS_AES_128_CCM_SHA256", Sealed::Tag(16)),
    (0x1305, "TLS_AES_128_CCM_8_SHA256", Sealed::Tag(8)),
    // RFC 5288 section 3: eight bytes of nonce, and the tag.
    (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Sealed::Tag(24)),
    (0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Sealed::Tag(24)),
    (0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Sealed::Tag(24)),
    (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Sealed::Tag(24)),
    (0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256", Sealed::Tag(24)),
    (0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384", Sealed::Tag(24)),
    (0x009e, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", Sealed::Tag(24)),
    (0x009f, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384", Sealed::Tag(24)),
    // RFC 7905 section 2: no nonce.
    (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Sealed::Tag(16)),
    (0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Sealed::Tag(16)),
    (0xccaa, "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Sealed::Tag(16)),
    (0xc0ac, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM", Sealed::Tag(24)),
    (0xc0ad, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM", Sealed::Tag(24)),
    (0xc0ae, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", Sealed::Tag(16)),
    (0xc0af, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8", Sealed::Tag(16)),
    (0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", Sealed::Blocks { mac: 20 }),
    (0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", Sealed::Blocks { mac: 20 }),
    (0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", Sealed::Blocks { mac: 20 }),
    (0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", Sealed::Blocks { mac: 20 }),
    (0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA", Sealed::Blocks { mac: 20 }),
    (0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA", Sealed::Blocks { mac: 20 }),
    (0xc023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", Sealed::Blocks { mac: 32 }),
    (0xc024, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384", Sealed::Blocks { mac: 48 }),
    (0xc027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", Sealed::Blocks { mac: 32 }),
    (0xc028, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384", Sealed::Blocks { mac: 48 }),
    (0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256", Sealed::Blocks { mac: 32 }),
    (0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256", Sealed::Blocks { mac: 32 }),
    (0x0033, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA", Sealed::Blocks { mac: 20 }),
];

const TLS_1_1: u16 = 0x0302;
const TLS_1_2: u16 = 0x0303;
const TLS_1_3: u16 = 0x0304;

/// AES in CBC mode: a block of initialisation vector, and padding to blocks (RFC 5246 section 6.2.3.2).
const BLOCK: u32 = 16;

/// What a suite adds to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sealed {
    /// So many bytes.
    Tag(u32),
    Blocks {
        mac: u32,
    },
}

/// How the plaintext of a connection is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protection {
    /// The server's hello was not seen, or names what is not known here.
    #[default]
    Unknown,
    /// So many bytes more. `typed`: records of handshakes and alerts look like those of data (RFC 8446 section 5.2).
    Exact {
        more: u32,
        typed: bool,
    },
    Blocks {
        mac: u32,
    },
}

/// The plaintext of a record: at least and at most so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Protection {
    pub(super) fn of(version: u16, suite: u16) -> Self {
        let sealed = SUITES.into_iter().find(|(known, _, _)| *known == suite).map(|(_, _, sealed)| sealed);
        match (version, sealed) {
            // The type of what is inside takes a byte.
            (TLS_1_3, Some(Sealed::Tag(tag))) => Self::Exact { more: tag + 1, typed: true },
            (TLS_1_2, Some(Sealed::Tag(tag))) => Self::Exact { more: tag, typed: false },
            (TLS_1_1 | TLS_1_2, Some(Sealed::Blocks { mac })) => Self::Blocks { mac },
            _ => Self::Unknown,
        }
    }

    /// Of a record with `len` bytes behind its header. `None`: it has none.
    pub(super) fn plain(self, len: u16) -> Option<Plain> {
        let len = u32::from(len);
        let plain = match self {
            Self::Exact { more, typed: _ } => {
                let exact = len.saturating_sub(more);
                Plain { min: exact, max: exact }
            }
            Self::Blocks { mac } => {
                let padded = len.saturating_sub(BLOCK + mac);
                Plain { min: padded.saturating_sub(BLOCK), max: padded.saturating_sub(1) }
            }
            // The least is a tag of eight and a type, the most a vector, a MAC and padding.
            Self::Unknown => Plain { min: len.saturating_sub(2 * BLOCK + 48), max: len.saturating_sub(9) },
        };
        (plain.max > 0).then_some(plain)
    }

    /// Records of data are known by their type.
    pub(super) const fn tells_data(self) -> bool {
        match self {
            Self::Exact { typed, .. } => !typed,
            Self::Blocks { .. } => true,
            Self::Unknown => false,
        }
    }
}

/// As attributes name it.
pub(super) const fn version_name(version: u16) -> Option<&'static str> {
    match version {
        0x0301 => Some("1.0"),
        TLS_1_1 => Some("1.1"),
        TLS_1_2 => Some("1.2"),
        TLS_1_3 => Some("1.3"),
        _ => None,
    }
}

pub(super) fn suite_name(suite: u16) -> Option<&'static str> {
    SUITES.into_iter().find(|(known, _, _)| *known == suite).map(|(_, name, _)| name)
}
