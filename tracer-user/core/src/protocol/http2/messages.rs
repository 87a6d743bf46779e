//! How many messages a gRPC body has: each begins with a byte of flags and four of its length.

use std::cmp::Ordering;

const PREFIX_BYTES: u8 = 5;

/// Messages of one direction of one call so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Messages {
    count: u64,
    /// Bytes of the message in progress that are still to come.
    left: u64,
    /// Its prefix, the last byte lowest, as far as it was seen.
    prefix: u64,
    have: u8,
    /// A prefix was missed: where messages begin is not known any more.
    lost: bool,
}

impl Messages {
    pub(super) fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            if self.left > 0 {
                let len = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                bytes = &bytes[len..];
                self.left -= len as u64;
                continue;
            }
            self.prefix = self.prefix << 8 | u64::from(bytes[0]);
            bytes = &bytes[1..];
            self.have += 1;
            if self.have == PREFIX_BYTES {
                self.count += 1;
                self.left = self.prefix & u64::from(u32::MAX);
                (self.prefix, self.have) = (0, 0);
            }
        }
    }

    pub(super) fn hole(&mut self, len: u64) {
        match len.cmp(&self.left) {
            Ordering::Less | Ordering::Equal => self.left -= len,
            Ordering::Greater => self.lost = true,
        }
    }

    /// `None` where a prefix was missed, or the last message is not whole.
    pub(super) fn count(self) -> Option<u64> {
        (!self.lost && self.left == 0 && self.have == 0).then_some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let body = [&[0, 0, 0, 0, 3][..], b"abc", &[1, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256]].concat();
        for piece in 1..body.len() {
            let mut messages = Messages::default();
            for piece in body.chunks(piece) {
                messages.bytes(piece);
            }
            assert_eq!(messages.count(), Some(3), "in pieces of {piece}");
        }
    }

    #[test]
    fn only_a_missed_prefix_is_a_loss() {
        let mut messages = Messages::default();
        messages.bytes(&[0, 0, 0, 1, 0, 7]);
        assert_eq!(messages.count(), None);
        messages.hole(255);
        assert_eq!(messages.count(), Some(1));
        messages.bytes(&[0, 0, 0, 0]);
        messages.hole(2);
        assert_eq!(messages.count(), None);
    }
}
