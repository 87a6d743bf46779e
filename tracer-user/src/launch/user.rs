//! As whom the command runs.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Uid, getgrouplist, setgroups, setresgid, setresuid};

/// Everything that becoming a user needs, looked up beforehand: between fork and exec nothing may be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    name: Option<String>,
    home: Option<std::path::PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no user {0}")]
pub(crate) struct UnknownUser(String);

impl User {
    /// # Errors
    /// [`UnknownUser`]; a number is taken as a user id.
    pub(crate) fn named(name: &str) -> Result<Self, UnknownUser> {
        let unknown = || UnknownUser(name.to_owned());
        let by_name = nix::unistd::User::from_name(name).ok().flatten();
        let by_id = || nix::unistd::User::from_uid(Uid::from_raw(name.parse().ok()?)).ok().flatten();
        by_name.or_else(by_id).map(Self::known).ok_or_else(unknown)
    }

    /// The user who called sudo. One without an entry among the users has only the group given.
    pub(crate) fn numbered(uid: u32, gid: u32) -> Self {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        match nix::unistd::User::from_uid(uid) {
            Ok(Some(user)) => Self { gid, ..Self::known(user) },
            Ok(None) | Err(_) => Self { uid, gid, groups: vec![gid], name: None, home: None },
        }
    }

    fn known(user: nix::unistd::User) -> Self {
        let groups =
            CString::new(user.name.as_str()).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
        Self {
            uid: user.uid,
            gid: user.gid,
            groups: groups.unwrap_or_else(|| vec![user.gid]),
            name: Some(user.name),
            home: Some(user.dir),
        }
    }

    pub(crate) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.uid.to_string())
    }

    /// The tracer is this user already, so nothing needs to change.
    pub(crate) fn is_own(&self) -> bool {
        self.uid == Uid::effective() && self.uid == Uid::current()
    }

    /// What login programs set for a user.
    pub(super) fn environment(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        let name = self.name.as_ref().map(std::ffi::OsString::from);
        let home = self.home.as_ref().map(|home| home.as_os_str().to_owned());
        [("USER", name.clone()), ("LOGNAME", name), ("HOME", home)]
            .into_iter()
            .filter_map(|(key, value)| value.map(|value| (key, value)))
            .collect()
    }

    /// For good: real, effective and saved ids. Async-signal-safe.
    pub(super) fn become_now(&self) -> io::Result<()> {
        setgroups(&self.groups)?;
        setresgid(self.gid, self.gid, self.gid)?;
        setresuid(self.uid, self.uid, self.uid)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let root = User::named("root").unwrap();
        assert_eq!((root.uid, root.gid), (Uid::from_raw(0), Gid::from_raw(0)));
        assert_eq!(User::named("0").unwrap(), root);
        assert_eq!(User::named("no such user"), Err(UnknownUser("no such user".to_owned())));
        let nobody = User::numbered(4_000_000, 4_000_001);
        assert_eq!(
            (nobody.name(), nobody.groups.as_slice()),
            ("4000000".into(), &[Gid::from_raw(4_000_001)][..])
        );
        assert!(nobody.environment().is_empty());
        assert!(root.environment().contains(&("HOME", "/root".into())));
    }
}
