//! Is an executable nginx itself? One correlation rule rests on how nginx answers, so a program that only looks like it
//! must not pass.

use std::io::{self, Read};

use rustix::fs::fstat;

/// Every nginx carries this for `nginx -v`. OpenResty and other forks put their own name behind the colon: scripts
/// inside them make calls that do not follow nginx's own order.
const VERSION: &[u8] = b"nginx version: nginx/";

/// nginx is 1–2 MB, with everything linked in 20 MB.
const MAX_EXECUTABLE_BYTES: u64 = 64 * 1024 * 1024;

/// Executables whose answer is kept.
const MAX_KNOWN: usize = 256;

/// Answers by file, so that every executable is read once.
#[derive(Debug, Default)]
pub(crate) struct NginxDetector {
    known: Vec<(FileId, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, i64),
}

impl NginxDetector {
    /// `name` is the executable's file name, `open` opens it. An executable of another name is not looked into; one
    /// that cannot be read is not nginx.
    pub(crate) fn is_nginx(&mut self, name: &str, open: impl FnOnce() -> io::Result<std::fs::File>) -> bool {
        if !name.starts_with("nginx") {
            return false;
        }
        let Ok(file) = open() else { return false };
        let Ok(stat) = fstat(&file) else { return false };
        let id = FileId {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
        };
        if let Some((_, answer)) = self.known.iter().find(|(known, _)| *known == id) {
            return *answer;
        }
        let answer = contains(file.take(MAX_EXECUTABLE_BYTES), VERSION).unwrap_or(false);
        if self.known.len() == MAX_KNOWN {
            self.known.remove(0);
        }
        self.known.push((id, answer));
        answer
    }
}

fn contains(mut input: impl Read, needle: &[u8]) -> io::Result<bool> {
    let mut buffer = vec![0; 64 * 1024];
    let mut kept = 0;
    loop {
        let len = match input.read(&mut buffer[kept..]) {
            Ok(0) => return Ok(false),
            Ok(len) => kept + len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer[..len].windows(needle.len()).any(|window| window == needle) {
            return Ok(true);
        }
        // A match may lie across two reads.
        kept = len.min(needle.len() - 1);
        buffer.copy_within(len - kept..len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a few bytes at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(self.0.len()).min(5);
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    #[test]
    fn the_version_is_found_wherever_it_lies() {
        for offset in 0..40 {
            let mut bytes = vec![b'n'; offset];
            bytes.extend_from_slice(b"nginx version: nginx/1.22.1\0");
            assert!(contains(Slow(&bytes), VERSION).unwrap(), "{offset}");
        }
        assert!(!contains(Slow(b"nginx version: openresty/1.21"), VERSION).unwrap());
        assert!(!contains(io::empty(), VERSION).unwrap());
    }

    #[test]
    fn both_name_and_contents_must_agree() {
        let mut detector = NginxDetector::default();
        let own = || std::fs::File::open("/proc/self/exe");
        // This very test holds the string, too.
        assert!(detector.is_nginx("nginx", own));
        assert!(detector.is_nginx("nginx", own));
        assert_eq!(detector.known.len(), 1);
        assert!(!detector.is_nginx("curl", own));
        assert!(!detector.is_nginx("nginx", || std::fs::File::open("/bin/sh")));
        assert!(!detector.is_nginx("nginx", || Err(io::ErrorKind::NotFound.into())));
    }
}
