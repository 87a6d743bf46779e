//! Request ids: what programs and proxies call a request by, in logs. They name no trace and no parent.
//!
//! A call that carries the id which exactly one open request brought continues that request, so the ids are evidence.
//! They are kept as a hash: what they say is nobody's business, and a hash is small. It is keyed, because a client
//! that could make two ids with one hash could make a stranger's call look like its own.

use std::hash::{DefaultHasher, Hasher as _};

use super::fields::{Fields, Header};

/// Ids are UUIDs mostly, or a few of them in a row; what is longer identifies something else.
const MAX_BYTES: usize = 256;

/// More say nothing that the first ones do not.
const MAX_IDS: usize = 8;

/// Names in use: proxies' and frameworks' defaults, .NET's, AWS's.
const HEADERS: [Header; 6] = [
    Header::XRequestId,
    Header::RequestId,
    Header::XCorrelationId,
    Header::CorrelationId,
    Header::XAmznRequestId,
    Header::XTraceId,
];

/// Shorter ids, and ids of fewer different characters, are counters and names: two programs may make the same.
const UNIQUE_BYTES: usize = 16;
const UNIQUE_CHARACTERS: usize = 8;

/// The value of a request id header. Equal only if header and value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// Name of the header, in lower case.
    pub header: &'static str,
    /// Of the value, without the white space around it.
    pub hash: u128,
    /// Long and varied enough that nobody else makes the same by chance.
    pub unique: bool,
}

/// What a hash depends on besides the value: different in each run.
#[derive(Clone, Debug)]
pub struct RequestIdKey([u8; 32]);

impl RequestIdKey {
    pub const fn new(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    fn hash(&self, value: &[u8]) -> u128 {
        let half = |number: u8| {
            // SipHash of fixed keys: the secret in front of the value makes its state a secret.
            let mut hasher = DefaultHasher::new();
            hasher.write(&self.0);
            hasher.write_u8(number);
            hasher.write(value);
            u128::from(hasher.finish())
        };
        half(0) << 64 | half(1)
    }
}

/// An id as sent, until it is known how to hash it.
pub(super) type Raw = (Header, Box<[u8]>);

pub(super) fn extract(fields: &Fields<'_>) -> Vec<Raw> {
    let mut ids = Vec::new();
    for header in HEADERS {
        for value in fields.all(header) {
            if (1..=MAX_BYTES).contains(&value.len()) && ids.len() < MAX_IDS {
                ids.push((header, value.into()));
            }
        }
    }
    ids
}

pub(super) fn hash(raw: Vec<Raw>, key: &RequestIdKey) -> Vec<RequestId> {
    raw.into_iter()
        .map(|(header, value)| RequestId {
            header: header.name(),
            hash: key.hash(&value),
            unique: is_unique(&value),
        })
        .collect()
}

fn is_unique(value: &[u8]) -> bool {
    let different = value.iter().enumerate().filter(|(n, byte)| !value[..*n].contains(byte)).count();
    value.len() >= UNIQUE_BYTES && different >= UNIQUE_CHARACTERS
}

#[cfg(test)]
mod tests {
    use super::super::testing::carried;
    use super::*;

    fn ids(seed: u8, headers: &[(&str, &str)]) -> Vec<RequestId> {
        hash(carried(headers).request_ids, &RequestIdKey::new([seed; 32]))
    }

    #[test]
    fn equal_if_header_and_value_are() {
        let id = ids(1, &[("X-Request-ID", " 7f2d ")]);
        assert_eq!(id.len(), 1);
        assert_eq!(id[0].header, "x-request-id");
        assert_eq!(id, ids(1, &[("x-request-id", "7f2d")]));
        assert_ne!(id, ids(1, &[("x-request-id", "7F2d")]));
        assert_ne!(id, ids(1, &[("request-id", "7f2d")]));
        assert_ne!(id[0].hash, ids(2, &[("x-request-id", "7f2d")])[0].hash);
        assert_ne!(id[0].hash >> 64, id[0].hash & u128::from(u64::MAX));
    }

    #[test]
    fn every_name_counts() {
        for header in HEADERS {
            assert_eq!(ids(1, &[(header.name(), "a")])[0].header, header.name());
        }
        assert_eq!(ids(1, &[("x-request-id", "a"), ("x-request-id", "b"), ("request-id", "a")]).len(), 3);
        assert_eq!(ids(1, &[("x-requestid", "a"), ("x-request-id", ""), ("host", "a")]), []);
    }

    #[test]
    fn counters_and_names_are_not_unique() {
        for (id, unique) in [
            ("7f9c24e8-3b12-4fef-91e0-3c5d2a1b6f07", true),
            ("01HF3Z9V6K8QJ2M4N7R5T1W0XY", true),
            ("17", false),
            ("req-0000000000017", false),
            ("00000000-0000-0000-0000-000000000017", false),
            ("a1b2c3d4e5f6a7b", false),
        ] {
            assert_eq!(ids(1, &[("x-request-id", id)])[0].unique, unique, "{id}");
        }
    }

    #[test]
    fn bounds() {
        assert_eq!(ids(1, &[("x-request-id", &"a".repeat(MAX_BYTES))]).len(), 1);
        assert_eq!(ids(1, &[("x-request-id", &"a".repeat(MAX_BYTES + 1))]), []);
        assert_eq!(ids(1, &[("x-request-id", "a"); 20]).len(), MAX_IDS);
    }
}
