//! Names of user ids, from `/etc/passwd` only: other name services may ask the network, and the capture cannot wait.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

/// A larger file is cut; ids beyond it are shown as numbers.
const MAX_PASSWD_BYTES: u64 = 4 * 1024 * 1024;

/// As read once.
#[derive(Debug, Default)]
pub(crate) struct Users(BTreeMap<u32, String>);

impl Users {
    pub(crate) fn read() -> Self {
        std::fs::File::open("/etc/passwd").map(Self::parse).unwrap_or_default()
    }

    fn parse(passwd: impl Read) -> Self {
        let mut users = BTreeMap::new();
        for line in BufReader::new(passwd.take(MAX_PASSWD_BYTES)).split(b'\n').map_while(Result::ok) {
            // name:password:uid:…
            let mut fields = line.split(|&byte| byte == b':').map(std::str::from_utf8);
            let (Some(Ok(name)), Some(Ok(uid))) = (fields.next(), fields.nth(1)) else { continue };
            if let Ok(uid) = uid.parse() {
                users.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        Self(users)
    }

    /// The number itself where there is no name.
    pub(crate) fn name(&self, uid: u32) -> String {
        self.0.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_id() {
        let users =
            Users::parse(&b"root:x:0:0::/root:/bin/sh\n\nbad\nx:y:z\neve:x:1000:100::/:\nalso:x:0:0:\n"[..]);
        assert_eq!(
            (users.name(0), users.name(1000), users.name(7)),
            ("root".into(), "eve".into(), "7".into())
        );
    }
}
